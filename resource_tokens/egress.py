"""
May this hop carry this token?

One rule for every hop of a request, first or redirected, on the wire: a token goes to the
destinations of the resource it was asked for, and nowhere else. A destination that the first
request names wrongly is refused; one that a redirect chose goes on without the token.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from resource_tokens.exceptions import AudienceMismatchError, EgressBlockedError
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource, ResourceMap, destination
from resource_tokens.tokens import AccessToken

__all__ = ["Bindings", "Hop", "objection"]


@dataclass(frozen=True, slots=True)
class Hop:
    """
    One request as it goes on the wire.

    Attributes:
        port: The port, or `None` for the scheme's own.
        target: The request target: path and query, or more where a proxy is spoken to.
        first: Whether this is the request that the caller made, not a redirect.
    """

    method: bytes
    scheme: str
    host: bytes
    port: int | None
    target: bytes
    headers: Sequence[tuple[bytes, bytes]]
    first: bool

    @property
    def destination(self) -> str:
        """
        Where it goes, for messages: no query.
        """
        if self.target.startswith(b"/"):
            return destination(self.scheme, self.host, self.port, self.target)
        proxy = destination(self.scheme, self.host, self.port, b"")
        target = self.target.partition(b"?")[0].decode("ascii", "backslashreplace")
        return f"{target} by way of {proxy}"


def objection(hop: Hop, resource: Resource, resources: ResourceMap) -> str | None:
    """
    Why a redirected hop must not carry a token for `resource`; `None` if it may.

    Raises:
        EgressBlockedError: If it is the caller's own request, which is stopped instead.
    """
    why = _objection(hop, resource, resources)
    if why is None or not hop.first:
        return why
    raise EgressBlockedError(
        f"The request to {hop.destination} was stopped before it was sent: {why} It carries the "
        f"token for {resource.identifier!r}.",
        hop.destination,
        resource.identifier,
    )


def _objection(hop: Hop, resource: Resource, resources: ResourceMap) -> str | None:
    if not hop.target.startswith(b"/"):
        return "its target is no path: a proxy asked in plain http would read the token."
    try:
        found = resources.resource_at(hop.scheme, hop.host, hop.port, hop.target)
    except EgressBlockedError as error:
        return str(error)
    if found is None:
        return "no resource is mapped to that destination."
    if (found.identifier, found.server) != (resource.identifier, resource.server):
        return f"that destination is mapped to {found.identifier!r}."
    authority = _authority(hop)
    for name, value in hop.headers:
        if name.lower() == b"host" and value.lower() not in authority:
            shown = value.decode("ascii", "backslashreplace")
            return f"its Host header names {shown!r}, not the host of its URL."
    return None


def _authority(hop: Hop) -> tuple[bytes, ...]:
    host = b"[" + hop.host + b"]" if b":" in hop.host else hop.host
    if hop.port is not None:
        return (b"%b:%d" % (host, hop.port),)
    return (host, host + (b":443" if hop.scheme == "https" else b":80"))


class Bindings:
    """
    Which resource each live token was asked for, by a keyed fingerprint of the token.

    Args:
        maxsize: How many tokens to remember. The least recently used one goes first.
    """

    def __init__(self, maxsize: int = 1024) -> None:
        self._salt = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._bound: LRUCache[bytes, tuple[str, str]] = LRUCache(maxsize)  # guarded by _lock

    def bind(self, token: AccessToken, request: TokenRequest) -> None:
        """
        Remember what a token is for.

        Raises:
            AudienceMismatchError: If the same token was already issued for another resource: the
                server then makes no difference between them, whatever it was asked for.
        """
        mark = hashlib.blake2b(token.reveal().encode(), key=self._salt, digest_size=16).digest()
        asked = (request.server.name, token.resource)
        with self._lock:
            known = self._bound.setdefault(mark, asked)
        if known != asked:
            raise AudienceMismatchError(
                f"{request.server.name!r} returned the same token for {known[1]!r} and for "
                f"{token.resource!r}, so it ignores `resource`. The second one was dropped. The "
                "server may want the target in another way, such as an `audience` parameter by "
                "Resource(..., extra={'audience': ...}), or a scope.",
                token.resource,
                (known[1], token.resource),
            )
