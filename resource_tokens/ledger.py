"""
The use ledger: which token went where.

One record for each time that a token is shown, withheld, blocked or handed over, with a keyed
fingerprint in the place of the token.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn

from resource_tokens._httpx import http
from resource_tokens.events import Observer
from resource_tokens.exceptions import ConfigurationError, EgressBlockedError
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource, ResourceMap
from resource_tokens.tokens import AccessToken

__all__ = ["Decision", "TokenUse", "UseLedger", "Uses"]

Decision = Literal["shown", "withheld", "blocked", "handed_over"]


@dataclass(frozen=True, slots=True)
class TokenUse:
    """
    What was decided about one token at one hop. It holds no token, no secret and no query string.

    Attributes:
        at: When, by this machine's wall clock.
        decision: `"shown"`: the token is in the headers that go now. `"withheld"`: the hop goes
            without it. `"blocked"`: the hop does not go. `"handed_over"`: the program took the
            token out of the library, and decides itself where it goes.
        destination: Where the hop goes; "" for a token that was handed over.
        rule: The configured destination that covers it; "" if none does.
        resource: The resource that the token is for.
        issuer: The authorization server that it was asked of.
        client_id: The client that asked for it.
        scopes: The scopes that were granted, in order of the alphabet.
        token: The fingerprint, by `UseLedger.fingerprint`; "" where no token was at hand.
        detail: Why, in words; "" for what is ordinary.
    """

    at: datetime
    decision: Decision
    destination: str
    rule: str
    resource: str
    issuer: str
    client_id: str
    scopes: tuple[str, ...]
    token: str
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """
        The record as JSON has it: strings, and a list of scopes.
        """
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"at": self.at.isoformat(), "scopes": list(self.scopes)}


class UseLedger:
    """
    Where the records go, and the key of their fingerprints.

    Args:
        write: Called with each `TokenUse`, in whichever thread or event loop the request is sent
            from, right before its headers go. It must be quick. If it raises, that is logged, and
            nothing else changes.
        key: The key of the fingerprints, at least 16 bytes. With the same key in all programs a
            token can be followed over all their ledgers. By default it is random, and the
            fingerprints of this object are its own.

    Raises:
        ConfigurationError: If the key is too short.
    """

    __slots__ = ("_key", "_write")

    def __init__(self, write: Callable[[TokenUse], object], *, key: bytes | None = None) -> None:
        if key is not None and (not isinstance(key, bytes) or len(key) < _KEY_LENGTH):
            raise ConfigurationError(
                f"The key of a UseLedger is at least {_KEY_LENGTH} random bytes, such as "
                "secrets.token_bytes(32), kept like a password."
            )
        self._write = write
        self._key = secrets.token_bytes(32) if key is None else key

    def fingerprint(self, token: str) -> str:
        """
        The fingerprint of a token, to look for in the records: HMAC-SHA256, its first 16 bytes in
        hexadecimal.
        """
        return hmac.digest(self._key, token.encode(), "sha256")[:16].hex()

    def write(self, use: TokenUse) -> None:
        """
        Hand on a record.
        """
        try:
            self._write(use)
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises
            # Without the traceback: its frames are the user's own.
            _logger.error(  # noqa: TRY400
                "the use ledger raised %s for %s", type(error).__name__, use.resource
            )

    def __repr__(self) -> str:
        return "UseLedger()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A use ledger is not pickled: its key would be stored and sent anywhere.")


class Uses:
    """
    What a `TokenCache` tells its ledger and its observer of the uses of its tokens.
    """

    __slots__ = ("_ledger", "_observer", "_resources", "_rules", "_wall_clock")

    def __init__(
        self,
        ledger: UseLedger | None,
        observer: Observer | None,
        resources: ResourceMap,
        wall_clock: Callable[[], float],
    ) -> None:
        if not (ledger is None or isinstance(ledger, UseLedger)):
            raise ConfigurationError(
                f"ledger={ledger!r} is no UseLedger. Give UseLedger(write), with a function that "
                "takes a TokenUse."
            )
        self._ledger = ledger
        self._observer = observer
        self._resources = resources
        self._wall_clock = wall_clock
        self._rules: dict[Resource, list[tuple[str, ResourceMap]]] = {}
        for rule, resource in resources:
            # A map for each rule: whether it covers a destination is for a map to say.
            self._rules.setdefault(resource, []).append((rule, ResourceMap({rule: resource})))

    def note(
        self,
        decision: Decision,
        request: TokenRequest | None,
        token: AccessToken | None,
        destination: str = "",
        detail: str = "",
    ) -> None:
        """
        Make a record.

        Args:
            decision: What was decided.
            request: What the token was asked for by.
            token: The token, if there is one at hand.
            destination: Where the hop goes.
            detail: Why.
        """
        resource, issuer, client_id = "", "", ""
        if request is not None:
            resource, issuer = request.resource.identifier, request.server.name
            client_id = request.client_auth.client_id
        if self._observer is not None:
            self._observer.use(decision, resource, issuer)
        if self._ledger is not None:
            use = TokenUse(
                at=datetime.fromtimestamp(self._wall_clock(), UTC),
                decision=decision,
                destination=destination,
                rule=self._rule(destination, request),
                resource=resource,
                issuer=issuer,
                client_id=client_id,
                scopes=() if token is None else tuple(sorted(token.scopes)),
                token="" if token is None else self._ledger.fingerprint(token.reveal()),
                detail=detail,
            )
            self._ledger.write(use)

    def _rule(self, destination: str, request: TokenRequest | None) -> str:
        resource = _resource_for(self._resources, destination)
        if resource is None and request is not None and request.resource.connect_to is not None:
            # The hop goes to its sidecar, which no rule names.
            resource = request.resource
        rules = self._rules.get(resource, []) if resource is not None else []
        if len(rules) > 1:
            rules = [(rule, only) for rule, only in rules if _resource_for(only, destination)]
        return max((rule for rule, _ in rules), key=len, default="")


def _resource_for(resources: ResourceMap, destination: str) -> Resource | None:
    try:
        return resources.resource_for(destination)
    except (http.InvalidURL, EgressBlockedError):
        return None


_KEY_LENGTH = 16
_logger = logging.getLogger("resource_tokens")
