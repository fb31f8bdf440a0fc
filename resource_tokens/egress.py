"""
May this hop carry this token?

One rule for every hop of a request, first or redirected, as it goes on the wire:

1. The destination of a hop belongs to one resource or to none. It belongs to none if the target,
   the `Host` header, the TLS server name or a proxy could bring it to somebody else.
2. A token of ours, whoever put it there, goes to the resource it was asked for and to no other.
3. The caller's own request is stopped if it breaks rule 2. A redirect, which the server chose, goes
   on without the header in question; if the token is in its query, it is stopped too.
4. The token of the request itself is put back where httpx dropped it, if the hop belongs to its
   resource. The token of another resource is put on a redirect only if that resource says so.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from cachetools import LRUCache

from resource_tokens._httpx import http
from resource_tokens.exceptions import AudienceMismatchError, EgressBlockedError
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource, ResourceMap, destination
from resource_tokens.tokens import AccessToken

__all__ = ["Bindings", "Header", "Hop", "Identity", "Ruling", "Shown", "rule"]

Header = tuple[bytes, bytes]
Identity = tuple[str, str]
"""
The name of an authorization server, and the identifier of one of its resources.
"""


class Hop(NamedTuple):
    """
    One request as it goes on the wire.

    Attributes:
        port: The port, or `None` for the scheme's own.
        target: The request target: path and query, or a whole URL where a proxy is spoken to.
        first: Whether this is the request that the caller made, not a redirect.
        server_name: The TLS server name, where it was set by hand.
    """

    scheme: str
    host: bytes
    port: int | None
    target: bytes
    headers: Sequence[Header]
    first: bool
    server_name: str | None = None

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

    def __repr__(self) -> str:
        # Headers and query hold tokens.
        return f"Hop({self.destination!r})"


class Shown(NamedTuple):
    """
    The token that a request was given, and the resource it is for.
    """

    token: AccessToken
    identity: Identity


class Ruling(NamedTuple):
    """
    What a hop may carry.

    Attributes:
        headers: The headers that may go.
        resource: The resource the hop belongs to, if it does.
        why: Why the hop does not belong to the resource of the token shown; "" if it does.
        stripped: Whether a header was taken out.
    """

    headers: Sequence[Header]
    resource: Resource | None
    why: str
    stripped: bool

    def __repr__(self) -> str:
        return f"Ruling({self.resource!r}, {self.why!r})"


class Bindings:
    """
    Which resource each live token was asked for, by a keyed fingerprint of the token.

    Args:
        server: The authorization server of resources that do not name their own.
        maxsize: How many tokens to remember. The least recently used one goes first.
    """

    def __init__(self, server: AuthorizationServer, maxsize: int = 2048) -> None:
        self._server = server
        self._salt = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._bound: LRUCache[bytes, Identity] = LRUCache(maxsize)  # guarded by _lock
        # The length of the shortest token so far. Most headers are shorter than any token, and
        # need no look-up.
        self._shortest = 1 << 30

    def identity(self, resource: Resource) -> Identity:
        """
        What the tokens of a resource are bound to.
        """
        server = self._server if resource.server is None else resource.server
        return (server.name, resource.identifier)

    def bind(self, token: AccessToken, request: TokenRequest) -> None:
        """
        Remember what a token is for.

        Raises:
            AudienceMismatchError: If the same token was already issued for another resource: the
                server then makes no difference between them, whatever it was asked for.
        """
        text = token.reveal().encode("ascii")
        asked = (request.server.name, token.resource)
        with self._lock:
            known = self._bound.setdefault(self._fingerprint(text), asked)
            self._shortest = min(self._shortest, len(text))
        if known != asked:
            raise AudienceMismatchError(
                f"{request.server.name!r} returned the same token for {known[1]!r} and for "
                f"{token.resource!r}, so it ignores `resource`. The second one was dropped. The "
                "server may want the target in another way, such as an `audience` parameter by "
                "Resource(..., extra={'audience': ...}), or a scope.",
                token.resource,
                (known[1], token.resource),
            )

    def tokens_in(self, text: bytes) -> list[Identity]:
        """
        What the live tokens in a text are bound to. The cost does not grow with their number.
        """
        if len(text) < self._shortest:
            return []
        words = [word for word in _WORD.findall(text) if len(word) >= self._shortest]
        # `access_token=...` is one word, and so is a token that ends in "=".
        words += [rest for word in words if (rest := word.partition(b"=")[2])]
        marks = [self._fingerprint(word) for word in words]
        with self._lock:
            return [self._bound[mark] for mark in marks if mark in self._bound]

    def _fingerprint(self, token: bytes) -> bytes:
        return hashlib.blake2b(token, key=self._salt, digest_size=16).digest()


def rule(hop: Hop, shown: Shown | None, resources: ResourceMap, bindings: Bindings) -> Ruling:
    """
    What a hop may carry, by the rules above.

    Raises:
        EgressBlockedError: If it must not be sent at all.
    """
    resource, trouble = _belongs_to(hop, resources)
    here = None if resource is None else bindings.identity(resource)
    own = b"" if shown is None else shown.token.reveal().encode("ascii")
    if resource is not None:
        trouble = f"that destination is mapped to {resource.identifier!r}."
    kept: list[Header] = []
    for name, value in hop.headers:
        # The token of the request itself may have left the memory of `bindings` by now.
        found = (
            [shown.identity] if shown is not None and own in value else bindings.tokens_in(value)
        )
        wrong = next((identity for identity in found if identity != here), None)
        if wrong is None:
            kept.append((name, value))
            continue
        if hop.first:
            raise _blocked(hop, f"its header {_text(name)!r}", wrong, trouble)
    for identity in bindings.tokens_in(unquote_to_bytes(hop.target.partition(b"?")[2])):
        if identity != here:
            raise _blocked(hop, "its query", identity, trouble)
    mine = shown is not None and shown.identity == here
    return Ruling(kept, resource, "" if mine else trouble, len(kept) < len(hop.headers))


def _blocked(hop: Hop, where: str, wrong: Identity, why: str) -> EgressBlockedError:
    return EgressBlockedError(
        f"The request to {hop.destination} was stopped before it was sent: {why} But {where} "
        f"carries a token for {wrong[1]!r}.",
        hop.destination,
        wrong[1],
    )


def _belongs_to(hop: Hop, resources: ResourceMap) -> tuple[Resource | None, str]:
    """
    The resource a hop belongs to; or `None`, and why it belongs to none.
    """
    scheme, host, port, target = hop.scheme, hop.host, hop.port, hop.target
    proxied = not target.startswith(b"/")
    if proxied:
        try:
            url = http.URL(target.decode("ascii"))
        except (http.InvalidURL, UnicodeDecodeError):
            return None, "its target is neither a path nor a URL."
        scheme, host, port, target = url.scheme, url.raw_host, url.port, url.raw_path
    named = [value for name, value in hop.headers if name.lower() == b"host"]
    try:
        resource = resources.resource_at(scheme, host, port, target, named[0] if named else b"")
    except EgressBlockedError as error:
        return None, str(error)
    if resource is None:
        return None, "no resource is mapped to that destination."
    if proxied and not resource.allow_http_proxy:
        return None, (
            "a proxy asked in plain http reads the token. Use https, or set "
            "Resource(..., allow_http_proxy=True)."
        )
    # Of a resource behind a sidecar the header has been compared: it was found by it.
    expected = named[:1] if resource.connect_to is not None else _authority(scheme, host, port)
    for value in named:
        if value.lower() not in expected:
            return None, f"its Host header names {_text(value)!r}, not the host of its URL."
    if hop.server_name is not None and hop.server_name.lower() != _text(host):
        return None, f"its TLS server name is {hop.server_name!r}, not the host of its URL."
    return resource, ""


def _authority(scheme: str, host: bytes, port: int | None) -> list[bytes]:
    name = b"[" + host + b"]" if b":" in host else host
    if port is not None:
        return [b"%b:%d" % (name, port)]
    return [name, name + (b":443" if scheme == "https" else b":80")]


def _text(value: bytes) -> str:
    return value.decode("ascii", "backslashreplace")


_WORD = re.compile(rb"[^\s,;\"'?&]+")
