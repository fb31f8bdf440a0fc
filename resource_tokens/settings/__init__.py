"""
Settings: what the constructors take, read from a TOML file or from the environment.

Most code wants `ResourceTokenAuth.from_toml(path)` or `ResourceTokenAuth.from_env()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from resource_tokens.auth import ResourceTokenAuth
from resource_tokens.events import Observer, TokenEvent
from resource_tokens.ledger import UseLedger
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.exchange import Exchange
from resource_tokens.oauth.grants import Grant
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.resources import Resource, ResourceMap
from resource_tokens.stores import MemoryTokenStore, TokenStore

__all__ = ["AuditRequest", "Entry", "SecretPath", "Settings"]


class AuditRequest(NamedTuple):
    """
    The harmless request by which an audit asks an API whether it lets somebody in.

    Attributes:
        url: Where to ask.
        method: `"GET"` or `"HEAD"`.
        wrong_scopes: Scopes of this API that must not do for it.
    """

    url: str
    method: Literal["GET", "HEAD"] = "GET"
    wrong_scopes: frozenset[str] = frozenset()


class SecretPath(NamedTuple):
    """
    A file that holds a secret, and the key of the settings that names it.
    """

    key: tuple[str | int, ...]
    path: Path


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A destination and its resource.

    Attributes:
        resource: The resource, with its own server and client authentication where these are not
            those of the settings.
        server: The authorization server that is asked.
        server_name: What the settings call it.
        client_auth: How the client authenticates there.
        client_name: What the settings call the client.
        canary: A resource of the same server whose tokens are good at no API.
        audit: The request to make in an audit.
    """

    destination: str
    resource: Resource
    server: AuthorizationServer
    server_name: str
    client_auth: ClientAuth
    client_name: str
    canary: str | None = None
    audit: AuditRequest | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Settings that can be used: every value has been taken by its constructor.

    Attributes:
        origin: Where they come from, for messages.
        server: The authorization server of the auth object.
        client_auth: How the client authenticates there.
        entries: The destinations and their resources.
        secret_files: The files that hold secrets.
        lines: The line that a key is on, where there are lines.
    """

    origin: str
    server: AuthorizationServer
    client_auth: ClientAuth
    entries: tuple[Entry, ...]
    unmapped: Literal["raise", "anonymous"] = "raise"
    discover: tuple[str, ...] = ()
    grant: Grant | None = None
    exchange: Exchange | None = None
    proof_key: ProofKey | None = None
    store: TokenStore | MemoryTokenStore | None = None
    secret_files: tuple[SecretPath, ...] = ()
    lines: Callable[[tuple[str | int, ...]], int | None] = field(
        default=dict[tuple[str | int, ...], int]().get, repr=False, compare=False
    )

    @property
    def resources(self) -> Mapping[str, Resource]:
        """
        The resources by their destination.
        """
        return {entry.destination: entry.resource for entry in self.entries}

    def auth(
        self,
        on_event: Callable[[TokenEvent], object] | None = None,
        *,
        ledger: UseLedger | None = None,
        telemetry: Observer | None = None,
    ) -> ResourceTokenAuth:
        """
        The auth object that these settings describe, with what no settings can describe.

        Raises:
            ConfigurationError: If they do not go together.
        """
        return ResourceTokenAuth(
            self.server,
            self.client_auth,
            ResourceMap(self.resources, discover=self.discover),
            unmapped=self.unmapped,
            grant=self.grant,
            exchange=self.exchange,
            proof_key=self.proof_key,
            store=self.store,
            on_event=on_event,
            ledger=ledger,
            telemetry=telemetry,
        )
