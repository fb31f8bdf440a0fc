"""
What a factory is given, and what it may make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from resource_tokens.auth import ResourceTokenAuth
from resource_tokens.oauth.client_auth import ClientSecretBasic
from resource_tokens.oauth.metadata import AuthorizationServer

__all__ = ["Setting", "UnsupportedError", "resource_tokens_factory"]


class UnsupportedError(Exception):
    """
    What a factory raises if its plugin is not made for a setting, such as for trio. The tests of
    that setting are then reported as skipped, and not as passed.
    """


@dataclass(frozen=True, slots=True)
class Setting:
    """
    Where a plugin finds itself.

    A factory takes it, and returns a client of `library` with its auth set up: `Client` if
    `colour` is `"sync"`, `AsyncClient` otherwise. Where a plugin holds one token for each client,
    the factory returns a mapping instead, with a client for each destination.

    Attributes:
        library: httpx or httpx2, the module.
        colour: In what the client will be used. For the last two the factory is called in the
            event loop.
        resources: The resource to ask a token for, by the destination it is served under. Nothing
            else is to see a token.
        issuer: The authorization server; its metadata is where RFC 8414 says.
        token_endpoint: Its token endpoint, for the client credentials grant with `resource`.
        client_id: The client, which authenticates by HTTP Basic or in the form.
        client_secret: Its secret.
        options: Arguments for each client: without proxies, and with a TLS context that loads no
            certificates, as everything here is plain http on 127.0.0.1.
    """

    library: ModuleType
    colour: Literal["sync", "asyncio", "trio"]
    resources: Mapping[str, str]
    issuer: str
    token_endpoint: str
    client_id: str
    client_secret: str = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)

    def client(self, **options: Any) -> Any:
        """
        A client of the library and colour asked for.
        """
        kind = self.library.Client if self.colour == "sync" else self.library.AsyncClient
        return kind(**self.options, **options)


def resource_tokens_factory(setting: Setting) -> Any:
    """
    This library, as its tutorial has it.
    """
    auth = ResourceTokenAuth(
        AuthorizationServer(issuer=setting.issuer, verify=setting.options["verify"]),
        ClientSecretBasic(setting.client_id, setting.client_secret),
        resources=setting.resources,
    )
    return setting.client(auth=auth)
