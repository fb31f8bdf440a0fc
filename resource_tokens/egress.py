"""
May this hop carry this token?

One rule for every hop of a request, first or redirected, as it goes on the wire:

1. The destination of a hop belongs to one resource or to none. It belongs to none if the target,
   the `Host` header, the TLS server name or a proxy could bring it to somebody else.
2. A token of ours, whoever put it there, goes to the resource it was asked for and to no other,
   and not in a request that is made on behalf of somebody else.
3. A redirect that has left the resource does not come back to it: from there on somebody else
   chooses where to go, and the token of the request stays away.
4. The caller's own request is stopped if it breaks rule 2. A redirect, which the server chose, goes
   on without the header in question.
5. No token goes in a URL, wherever it leads: clients, proxies and servers write URLs to logs.
6. The token of the request itself is put back where httpx dropped it, if the hop belongs to its
   resource. The token of another resource is put on a redirect only if that resource says so.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, NoReturn

from resource_tokens._destinations import decoded, destination
from resource_tokens._httpx import http
from resource_tokens._locks import SafeLock
from resource_tokens.exceptions import AudienceMismatchError, EgressBlockedError
from resource_tokens.oauth.token_endpoint import Identity, TokenRequest
from resource_tokens.resources import Resource, ResourceMap
from resource_tokens.tokens import AccessToken, TokenKey

__all__ = ["Bindings", "Header", "Hop", "Ruling", "Shown", "rule", "url_of"]

Header = tuple[bytes, bytes]


class Hop(NamedTuple):
    """
    One request as it goes on the wire.

    Attributes:
        port: The port, or `None` for the scheme's own.
        target: The request target: path and query, or a whole URL where a proxy is spoken to.
        method: The method.
        certificate: The thumbprint of the client certificate that the connection shows.
        first: Whether this is the request that the caller made, not a redirect.
        server_name: The TLS server name, where it was set by hand.
        by_hand: Whether the target was set by hand, in the place of that of the URL.
        again: Whether it was looked at before, by the guard around a transport.
    """

    scheme: str
    host: bytes
    port: int | None
    target: bytes
    headers: Sequence[Header]
    first: bool
    server_name: str | None = None
    method: bytes = b"GET"
    certificate: bytes | None = None
    by_hand: bool = False
    again: bool = False

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
        # Headers, query and path can hold tokens.
        return f"Hop({destination(self.scheme, self.host, self.port, b'')!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A hop is not pickled: its headers hold tokens.")


class Shown:
    """
    The token that a request was given, and what it is for.

    Attributes:
        header: The very header in which it is shown.
        proof_key: The key that each hop has to prove along with it, if it is bound to one.
        certificate: Likewise the thumbprint of the certificate that each connection has to show.
        mark: Its fingerprint among the `Bindings`.
    """

    __slots__ = ("certificate", "header", "identity", "mark", "proof_key", "resource", "token")

    def __init__(self, token: AccessToken, request: TokenRequest, mark: bytes = b"") -> None:
        self.token = token
        self.mark = mark
        self.resource = request.resource
        self.identity = request.identity
        self.proof_key = request.proof_key
        self.certificate = request.certificate
        self.header: Header = (b"Authorization", token.authorization.encode("ascii"))

    @property
    def constrained(self) -> bool:
        """
        Whether it is of no use alone.
        """
        return self.proof_key is not None or self.certificate is not None

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

    def __reduce__(self) -> NoReturn:
        raise TypeError("A ruling is not pickled: its headers hold tokens.")


class Bindings:
    """
    What each live token was asked for, by a keyed fingerprint of the token.

    Args:
        maxsize: How many tokens to remember. The oldest one goes first, which is most likely to
            have expired. One that is still in use is remembered again.
    """

    def __init__(self, maxsize: int = 2048) -> None:
        self._maxsize = maxsize
        self._salt = secrets.token_bytes(32)
        self._lock = SafeLock()
        # Written under _lock. Read without it, as reading a dictionary is atomic.
        self._bound: dict[bytes, Identity] = {}
        # By how they end, the lengths of those that end so: where in a text a token may be.
        self._ends: dict[int, tuple[int, ...]] = {}
        # Only a few, as each holds its token a second time.
        self._shown: dict[TokenKey, Shown] = {}
        # The length of the shortest token so far: nothing shorter needs to be looked at.
        self.shortest = sys.maxsize

    def bind(self, token: AccessToken, request: TokenRequest) -> bytes:
        """
        Remember what a token is for.

        Returns:
            Its fingerprint.

        Raises:
            AudienceMismatchError: If the same token was already issued for something else: the
                server then makes no difference between the two, whatever it was asked for.
        """
        # No variable here holds the token: reporters of errors show those of a frame.
        mark = self._fingerprint(token.reveal().encode("ascii"))
        with self._lock:
            known = self._bound.setdefault(mark, request.identity)
            end = hash(token.reveal().encode("ascii")[-_END:])
            lengths = self._ends.get(end, ())
            if len(token.reveal()) not in lengths:
                self._ends[end] = (*lengths, len(token.reveal()))
            self.shortest = min(self.shortest, len(token.reveal()))
            while len(self._bound) > self._maxsize:
                del self._bound[next(iter(self._bound))]
            while len(self._ends) > 2 * self._maxsize:
                del self._ends[next(iter(self._ends))]
        if known != request.identity:
            if known.on_behalf_of(None) == request.identity.on_behalf_of(None):
                raise AudienceMismatchError(
                    f"{request.server.name!r} returned the same token for {token.resource!r} on "
                    "behalf of two subjects, so one of them would act as the other. The second "
                    "one was dropped. If both are one user's, say so: "
                    "SubjectToken(..., issuer=..., subject=...).",
                    token.resource,
                    (token.resource,),
                )
            raise AudienceMismatchError(
                f"{request.server.name!r} returned the same token for {known.resource!r} and for "
                f"{token.resource!r}, so it ignores `resource` or another parameter. The second "
                "one was dropped. The server may want the target in another way: see "
                "AuthorizationServer(dialect=...).",
                token.resource,
                (known.resource, token.resource),
            )
        return mark

    def shown(self, token: AccessToken, request: TokenRequest) -> Shown:
        """
        A token as it is shown or handed out. If it was not asked for here, since others write to
        the store too, or if it was forgotten since, it is bound first.

        Raises:
            AudienceMismatchError: As `bind`.
        """
        known = self._shown.get(request.key)
        if known is None or known.token is not token or known.mark not in self._bound:
            known = Shown(token, request, self.bind(token, request))
            with self._lock:
                self._shown[request.key] = known
                while len(self._shown) > min(self._maxsize, _AT_HAND):
                    del self._shown[next(iter(self._shown))]
        return known

    def tokens_in(self, text: bytes) -> list[Identity]:
        """
        What the live tokens in a text are for. The cost does not grow with their number.
        """
        return list(dict.fromkeys(identity for _, identity in self._find(text)))

    def masked(self, text: str) -> str:
        """
        A text without the live tokens in it.
        """
        if len(text) < self.shortest:
            return text
        for word, identity in self._find(text.encode("utf-8", "backslashreplace")):
            text = text.replace(word.decode("ascii"), f"<token for {identity.resource}>")
        return text

    def _find(self, text: bytes) -> Iterator[tuple[bytes, Identity]]:
        yield from self._plain_in(text)
        for word in _ENCODED.findall(text) if b"%" in text else ():
            for _, identity in self._plain_in(decoded(word) or b"") if b"%" in word else ():
                yield word, identity

    def _plain_in(self, text: bytes) -> Iterator[tuple[bytes, Identity]]:
        """
        The tokens in a text, whatever stands before them. What follows one is no letter or digit.
        """
        for boundary in _BOUNDARY.finditer(text):
            end = boundary.start()
            for length in self._ends.get(hash(text[max(end - _END, 0) : end]), ()):
                word = text[max(end - length, 0) : end]
                identity = self._bound.get(self._fingerprint(word))
                if identity is not None:
                    yield word, identity

    def _fingerprint(self, token: bytes) -> bytes:
        return hashlib.blake2b(token, key=self._salt, digest_size=16).digest()


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
    resource, why, wrong = _read(hop, shown, resources, bindings, identity, strayed=strayed)
    if wrong and hop.first:
        index, found = next(iter(wrong.items()))
        why = why or _mapped_to(resource)
        where = f"its header {bindings.masked(_text(hop.headers[index][0]))!r}"
        same = resource is not None and found.resource == resource.identifier
        what = "a token of another subject" if same else "a token"
        raise _blocked(hop, f"{why} But {where} carries {what} for", found, bindings, "elsewhere")
    if len(hop.target) >= bindings.shortest:
        in_url = _misplaced(decoded(hop.target) or hop.target, shown, None, bindings, strayed)
        if in_url is not None:
            bare = hop._replace(target=b"/")
            raise _blocked(bare, _IN_URL, in_url, bindings, "in_url")
    if not wrong:
        return Ruling(hop.headers, resource, why, False)
    kept = [header for index, header in enumerate(hop.headers) if index not in wrong]
    return Ruling(kept, resource, why, True)


def url_of(hop: Hop, resources: ResourceMap) -> str:
    """
    The URL of a hop without its query, as the server reads it that the hop is for, and not a proxy
    before it: where a sidecar is asked, that is the scheme of the destination and the `Host`.
    """
    path = _text(hop.target.partition(b"?")[0])
    if not path.startswith("/"):
        return path
    if resources.has_sidecars:
        named = next((value for name, value in hop.headers if name in _HOST), b"")
        behind = resources.behind_sidecar(hop.scheme, hop.host, hop.port, named)
        if behind is not None:
            return f"{behind[0]}://{_text(named)}{path}"
    return destination(hop.scheme, hop.host, hop.port, hop.target)


def _read(
    hop: Hop,
    shown: Shown | None,
    resources: ResourceMap,
    bindings: Bindings,
    identity: Callable[[Resource], Identity],
    *,
    strayed: bool,
) -> tuple[Resource | None, str, dict[int, Identity]]:
    """
    The resource a hop belongs to; why that is not the one of the token shown, or ""; and which
    headers carry a token that is not for there, with what it is for.

    This raises nothing: the variables of a frame that does are shown to many, and here are tokens.
    """
    shortest = bindings.shortest
    plain = b"" if shown is None else shown.header[1]
    hosts: list[bytes] = []
    odd = False
    for name, value in hop.headers:
        if name in _HOST:
            hosts.append(value)
        # Most are too short for any token, and one is ours, as we have put it there.
        if (len(value) >= shortest or len(name) >= shortest) and value != plain:
            odd = True
    resource, trouble = _belongs_to(hop, hosts, resources)
    if shown is not None and shown.resource is resource:
        here: Identity | None = shown.identity
    else:
        here = None if resource is None else identity(resource)
        if here is not None:
            # Whoever the request is for is who may be spoken of in it.
            here = here.on_behalf_of(None if shown is None else shown.identity)
    home = shown is not None and shown.identity == here
    wrong: dict[int, Identity] = {}
    if odd or strayed or not home:
        wrong = _misplaced_headers(hop.headers, shown, here, bindings, strayed)
    # A wrong host or an odd path can be a token too.
    why = "" if home else bindings.masked(trouble) or _mapped_to(resource)
    return resource, why, wrong


def _mapped_to(resource: Resource | None) -> str:
    return "" if resource is None else f"that destination is mapped to {resource.identifier!r}."


def _misplaced_headers(
    headers: Sequence[Header],
    shown: Shown | None,
    here: Identity | None,
    bindings: Bindings,
    strayed: bool,
) -> dict[int, Identity]:
    # The token of the request itself may have left the memory of `bindings` by now.
    shortest = bindings.shortest if shown is None else min(bindings.shortest, shown.length)
    wrong: dict[int, Identity] = {}
    for index, (name, value) in enumerate(headers):
        if len(value) >= shortest or len(name) >= shortest:
            found = _misplaced(b"%b %b" % (name, value), shown, here, bindings, strayed)
            if found is not None:
                wrong[index] = found
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
    own = b"" if shown is None else shown.token.reveal().encode("ascii")
    if shown is not None and own in text:
        if strayed or shown.identity != here:
            return shown.identity
        text = text.replace(own, b"")
    for found in bindings.tokens_in(text):
        # A request that was given no token is for nobody in particular.
        if (found.on_behalf_of(None) if shown is None else found) != here:
            return found
    return None


def _blocked(
    hop: Hop, why: str, found: Identity, bindings: Bindings, reason: str
) -> EgressBlockedError:
    where = bindings.masked(hop.destination)
    return EgressBlockedError(
        f"The request to {where} was stopped before it was sent: {why} {found.resource!r}.",
        where,
        found.resource,
        reason,
    )


def _belongs_to(
    hop: Hop, hosts: Sequence[bytes], resources: ResourceMap
) -> tuple[Resource | None, str]:
    """
    The resource a hop belongs to; or `None`, and why it belongs to none.
    """
    scheme, host, port, target = hop.scheme, hop.host, hop.port, hop.target
    if _NOT_IN_TARGETS.search(target):
        return None, "its target contains white space or bytes that no URL has."
    proxied = not target.startswith(b"/")
    if proxied and hop.by_hand:
        # It goes to whoever is connected to, and only a proxy would take it on to its URL.
        return None, "its target was set by hand, to something else than a path."
    if proxied:
        try:
            url = http.URL(target.decode("ascii"))
        except http.InvalidURL:
            return None, "its target is neither a path nor a URL."
        scheme, host, port, target = url.scheme, url.raw_host, url.port, url.raw_path
    named = hosts[0] if hosts else b""
    try:
        resource = resources.resource_at(scheme, host, port, target, named)
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
    expected = (named,) if resource.connect_to is not None else _authorities(scheme, host, port)
    for value in hosts:
        if value not in expected and value.lower() not in expected:
            return None, f"its Host header names {_text(value)!r}, not the host of its URL."
    if hop.server_name is not None and hop.server_name.lower() != _text(host.lower()):
        return None, f"its TLS server name is {hop.server_name!r}, not the host of its URL."
    return resource, ""


@lru_cache(maxsize=1024)
def _authorities(scheme: str, host: bytes, port: int | None) -> tuple[bytes, ...]:
    """
    What a `Host` header may say of an origin.
    """
    name = b"[%b]" % host if b":" in host else host
    if port is not None:
        return (b"%b:%d" % (name, port),)
    return (name, name + _DEFAULT_PORTS[scheme])


def _text(value: bytes) -> str:
    return value.decode("ascii", "backslashreplace")


_AT_HAND = 256
_IN_URL = (
    "URLs are written to logs, so tokens go in headers (RFC 9700 4.3.2). But its URL carries a "
    "token for"
)
_NOT_IN_TARGETS = re.compile(rb"[^\x21-\x7e]")
_DEFAULT_PORTS = {"http": b":80", "https": b":443"}
# "host" in every mixture of cases: quicker than to change the case of each name.
_HOST = frozenset(map(bytes, itertools.product(*zip(b"host", b"HOST", strict=True))))
# Enough to tell one token from another: most of them end in a signature, or are random.
_END = 8
_BOUNDARY = re.compile(rb"(?![0-9A-Za-z])")
_ENCODED = re.compile(rb"[0-9A-Za-z._~%+-]+")
