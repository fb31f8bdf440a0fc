"""
May this hop carry this token?

One rule for every hop of a request, first or redirected, as it goes on the wire:

1. The destination of a hop belongs to one resource or to none. It belongs to none if the target,
   the `Host` header, the TLS server name or a proxy could bring it to somebody else.
2. A token of ours, whoever put it there, goes to the resource it was asked for and to no other.
3. A redirect that has left the resource does not come back to it: from there on somebody else
   chooses where to go, and the token of the request stays away.
4. The caller's own request is stopped if it breaks rule 2. A redirect, which the server chose, goes
   on without the header in question; if the token is in its URL, it is stopped too.
5. The token of the request itself is put back where httpx dropped it, if the hop belongs to its
   resource. The token of another resource is put on a redirect only if that resource says so.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from resource_tokens._destinations import decoded, destination
from resource_tokens._httpx import http
from resource_tokens._locks import SafeLock
from resource_tokens.exceptions import AudienceMismatchError, EgressBlockedError
from resource_tokens.oauth.token_endpoint import Identity, TokenRequest
from resource_tokens.resources import Resource, ResourceMap
from resource_tokens.tokens import AccessToken

__all__ = ["Bindings", "Header", "Hop", "Ruling", "Shown", "rule"]

Header = tuple[bytes, bytes]


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

    @property
    def length(self) -> int:
        """
        The length of the token.
        """
        return len(self.token.reveal())


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
    What each live token was asked for, by a keyed fingerprint of the token.

    Args:
        maxsize: How many tokens to remember. The oldest one goes first, as it expires first.
    """

    def __init__(self, maxsize: int = 2048) -> None:
        self._maxsize = maxsize
        self._salt = secrets.token_bytes(32)
        self._lock = SafeLock()
        # Written under _lock. Read without it, as reading a dictionary is atomic.
        self._bound: dict[bytes, Identity] = {}
        # The length of the shortest token so far: nothing shorter needs to be looked at.
        self.shortest = sys.maxsize

    def bind(self, token: AccessToken, request: TokenRequest) -> None:
        """
        Remember what a token is for.

        Raises:
            AudienceMismatchError: If the same token was already issued for something else: the
                server then makes no difference between the two, whatever it was asked for.
        """
        # No variable here holds the token: reporters of errors show those of a frame.
        mark = self._fingerprint(token.reveal().encode("ascii"))
        with self._lock:
            known = self._bound.setdefault(mark, request.identity)
            self.shortest = min(self.shortest, len(token.reveal()))
            while len(self._bound) > self._maxsize:
                del self._bound[next(iter(self._bound))]
        if known != request.identity:
            raise AudienceMismatchError(
                f"{request.server.name!r} returned the same token for {known.resource!r} and for "
                f"{token.resource!r}, so it ignores `resource` or another parameter. The second "
                "one was dropped. The server may want the target in another way: see "
                "AuthorizationServer(dialect=...).",
                token.resource,
                (known.resource, token.resource),
            )

    def tokens_in(self, text: bytes) -> list[Identity]:
        """
        What the live tokens in a text are for. The cost does not grow with their number.
        """
        words = {word for pattern in _WORDS for word in pattern.findall(text)}
        # `access_token=...` is one word to the widest pattern, and so is a token that ends in "=".
        words |= {rest for word in words for rest in _after_signs(word)}
        marks = [self._fingerprint(word) for word in words if len(word) >= self.shortest]
        return [self._bound[mark] for mark in marks if mark in self._bound]

    def _fingerprint(self, token: bytes) -> bytes:
        return hashlib.blake2b(token, key=self._salt, digest_size=16).digest()


def _after_signs(word: bytes) -> Iterator[bytes]:
    for sign in _SIGN.finditer(word):
        yield word[sign.end() :]


def rule(
    hop: Hop,
    shown: Shown | None,
    resources: ResourceMap,
    bindings: Bindings,
    identity: Callable[[Resource], Identity],
    *,
    strayed: bool = False,
) -> Ruling:
    """
    What a hop may carry, by the rules above.

    Args:
        hop: The hop.
        shown: The token that the request was given, if it may still be shown.
        resources: The mapping.
        bindings: The live tokens.
        identity: What the tokens of a resource are for.
        strayed: Whether a hop before this one has left the resource: then the token shown has
            no place any more.

    Raises:
        EgressBlockedError: If it must not be sent at all.
    """
    resource, trouble = _belongs_to(hop, resources)
    here = None if resource is None else identity(resource)
    wrong = _misplaced_headers(hop, shown, here, bindings, strayed)
    if wrong and hop.first:
        index, identity_of_it = next(iter(wrong.items()))
        where = f"its header {_text(hop.headers[index][0])!r}"
        raise _blocked(hop, where, identity_of_it, _why(resource, trouble))
    if len(hop.target) >= bindings.shortest:
        in_url = _misplaced(decoded(hop.target) or hop.target, shown, here, bindings, strayed)
        if in_url is not None:
            raise _blocked(hop, _URL, in_url, _why(resource, trouble))
    mine = shown is not None and shown.identity == here
    headers = hop.headers
    if wrong:
        headers = [header for index, header in enumerate(hop.headers) if index not in wrong]
    return Ruling(headers, resource, "" if mine else _why(resource, trouble), bool(wrong))


def _why(resource: Resource | None, trouble: str) -> str:
    return (
        trouble if resource is None else f"that destination is mapped to {resource.identifier!r}."
    )


def _misplaced_headers(
    hop: Hop,
    shown: Shown | None,
    here: Identity | None,
    bindings: Bindings,
    strayed: bool,
) -> dict[int, Identity]:
    """
    Which headers carry a token that is not for here, and what it is for.
    """
    # Most headers are shorter than any token.
    shortest = bindings.shortest if shown is None else min(bindings.shortest, shown.length)
    wrong: dict[int, Identity] = {}
    for index, (_, value) in enumerate(hop.headers):
        if len(value) >= shortest:
            identity = _misplaced(value, shown, here, bindings, strayed)
            if identity is not None:
                wrong[index] = identity
    return wrong


def _misplaced(
    text: bytes,
    shown: Shown | None,
    here: Identity | None,
    bindings: Bindings,
    strayed: bool,
) -> Identity | None:
    """
    What a token in a text is for, if that is not here.
    """
    # The token of the request itself may have left the memory of `bindings` by now.
    own = b"" if shown is None else shown.token.reveal().encode("ascii")
    if shown is not None and own in text:
        if strayed or shown.identity != here:
            return shown.identity
        text = text.replace(own, b"")
        if len(text) < bindings.shortest:
            return None
    return next((found for found in bindings.tokens_in(text) if found != here), None)


def _blocked(hop: Hop, where: str, wrong: Identity, why: str) -> EgressBlockedError:
    # A path with a token in it is not shown.
    shown = hop.destination if where != _URL else hop._replace(target=b"/").destination
    return EgressBlockedError(
        f"The request to {shown} was stopped before it was sent: {why} But {where} carries a "
        f"token for {wrong.resource!r}.",
        shown,
        wrong.resource,
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
        except (http.InvalidURL, UnicodeError):
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
    expected = _authority(scheme, host, port)
    if resource.connect_to is not None:
        expected = [named[0].lower()]
    for value in named:
        if value.lower() not in expected:
            return None, f"its Host header names {_text(value)!r}, not the host of its URL."
    if hop.server_name is not None and hop.server_name.lower() != _text(host.lower()):
        return None, f"its TLS server name is {hop.server_name!r}, not the host of its URL."
    return resource, ""


def _authority(scheme: str, host: bytes, port: int | None) -> list[bytes]:
    name = (b"[" + host + b"]" if b":" in host else host).lower()
    if port is not None:
        return [b"%b:%d" % (name, port)]
    return [name, name + (b":443" if scheme == "https" else b":80")]


def _text(value: bytes) -> str:
    return value.decode("ascii", "backslashreplace")


_URL = "its URL"
_WORDS = (
    re.compile(rb"[^\s,;\"'?&]+"),
    re.compile(rb"[A-Za-z0-9._~+/-]+=*"),
    re.compile(rb"[A-Za-z0-9._~+-]+=*"),
)
_SIGN = re.compile(rb"[=:]")
