"""
Looking at each hop of a request, right before it goes on the wire.

httpcore calls the request extension `trace` before it sends the headers of a hop, with the target
and the headers as they will be sent; what it raises stops the hop before a byte is sent, and
extensions stay with a request over redirects. So a `HopGuard` travels along with each request.
What proves a key (RFC 9449) is made there, for the hop that is about to be sent, and is never among
the headers that httpx takes along to where a redirect leads.
Transports that are not httpcore's do not call `trace`: for those there are `EgressGuard` and
`AsyncEgressGuard`. Where neither was there, a token that went astray is noticed afterwards.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from types import new_class
from typing import TYPE_CHECKING, Any, Self

from resource_tokens._destinations import destination, display_url
from resource_tokens._httpx import LIBRARIES, http
from resource_tokens._proofs import PROOF_REFUSED, Terms
from resource_tokens.cache import TokenCache
from resource_tokens.egress import Header, Hop, Ruling, Shown, rule, url_of
from resource_tokens.events import EventName, TokenEvent
from resource_tokens.exceptions import EgressBlockedError
from resource_tokens.ledger import Decision
from resource_tokens.oauth.challenges import challenges_in
from resource_tokens.oauth.messages import origin_of
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource
from resource_tokens.tokens import AccessToken, CachedToken

if TYPE_CHECKING:
    import httpx
    import httpx2

    from resource_tokens.auth import ResourceTokenAuth
    from resource_tokens.oauth.dpop import ProofKey

    class Transport(httpx.BaseTransport, httpx2.BaseTransport):  # type: ignore[misc]
        """Both libraries' base, for `with`; what they disagree on is overridden below."""

    class AsyncTransport(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):  # type: ignore[misc]
        """The same for async clients."""
else:
    Transport = new_class("Transport", tuple(lib.BaseTransport for lib in LIBRARIES))
    AsyncTransport = new_class("AsyncTransport", tuple(lib.AsyncBaseTransport for lib in LIBRARIES))

__all__ = ["AsyncEgressGuard", "AsyncHopGuard", "EgressGuard", "HopGuard"]

# The extensions of a request: its guard, the thumbprint of the certificate that its connection
# shows, and whether an `EgressGuard` has looked at this hop.
EXTENSION = "resource_tokens"
CERTIFICATE = "resource_tokens.certificate"
LOOKED_AT = "resource_tokens.looked_at"


class HopGuard:
    """
    The `trace` extension of one request, and what `EgressGuard` asks.

    A `trace` that the user has set is called first, so that this is the last look.
    """

    __slots__ = (
        "_active",
        "_answered",
        "_cache",
        "_given",
        "_instead",
        "_noted",
        "_proofs",
        "_seen",
        "_shown",
        "_turn",
        "_url",
        "_users",
        "_withheld",
        "asked",
        "cached",
        "first",
        "proof_refused",
        "strayed",
        "tried",
    )

    def __init__(self, cache: TokenCache, asked: TokenRequest | None) -> None:
        self._cache = cache
        self.asked = asked
        self._users: Any = None
        # Held while the flow lasts. It is passed on to the next flow of the same request.
        self._turn = Lock()
        self._turn.acquire()
        self._shown: Shown | None = None
        # The token shown, which may be another one than at the start: see `_outlived_by`.
        self.cached: CachedToken | None = None
        # The headers of the tokens that had to be replaced on the way, since httpx goes on copying
        # them, and last the one of now.
        self._given: list[Header] = []
        # The token that the last hop was given instead.
        self._instead: Shown | None = None
        self._seen: list[Hop] = []
        self._noted: list[Any] = []
        self._url: Any = None
        self._withheld: tuple[TokenEvent, ...] = ()
        # By URL: whom a hop was proved to, and by which of its terms.
        self._proofs: dict[str, tuple[Hashable, Terms]] | None = None
        # How many answers have been looked at for what they want of proofs.
        self._answered = 0
        # Why the last answer wants another proof, if that is worth a try.
        self.proof_refused = ""
        # The remedies that were tried already: each is tried once.
        self.tried: tuple[str, ...] = ()
        # Whether a redirect has left the resource. What comes after that was chosen by somebody
        # else, even if it leads back.
        self.strayed = False
        self._active = True
        self.first = True

    @classmethod
    def on(cls, request: Any, cache: TokenCache, asked: TokenRequest | None) -> tuple[Any, Self]:
        """
        Send a guard along with a request: this one, or a copy of it while it is being sent already,
        since two flows cannot share headers and extensions.
        """
        guard = cls(cache, asked)
        earlier = request.extensions.setdefault(EXTENSION, guard)
        if earlier is not guard:
            request = earlier._leave_to(guard, request)
        extensions = request.extensions
        guard._users = extensions.get("trace")
        extensions["trace"] = guard.__call__
        return request, guard

    def _leave_to(self, guard: HopGuard, request: Any) -> Any:
        """
        Make way for the guard of another flow.
        """
        if self._turn.acquire(blocking=False):
            guard._turn = self._turn
        else:
            request = copied(request)
        if any(header in self._given for header in _authorizations(request)):
            del request.headers["Authorization"]
        if request.extensions.get("trace") == self.__call__:
            request.extensions["trace"] = self._users
        request.extensions[EXTENSION] = guard
        return request

    def show(self, request: Any, asked: TokenRequest, cached: CachedToken) -> None:
        """
        Give a request the token of its resource, and send it to the sidecar if it has one.
        """
        token = cached.token
        self.cached = cached
        self._shown = self._cache.bindings.shown(token, asked)
        self._given = [self._shown.header]
        self._withheld = ()
        self._proofs = None
        self.proof_refused = ""
        self.strayed = False
        self.first = True
        request.headers["Authorization"] = token.authorization
        if asked.proof_key is not None and _all_in(request.headers, b"dpop"):
            del request.headers["DPoP"]
        if asked.resource.connect_to is not None:
            _divert(request, asked.resource)
        self._url = request.url

    def certified(self, hop: Hop) -> TokenRequest | None:
        """
        The request for the token of a hop, if that has to go on a connection with a certificate.
        """
        if self._shown is None or self._shown.certificate is None:
            return None
        return self._asked_if_home(hop)

    def knows(self, cache: TokenCache) -> bool:
        """
        Whether this guard looks for the tokens of a cache.
        """
        # Those of a view are those of its cache.
        return self._cache.bindings is cache.bindings

    def retire(self) -> None:
        """
        Give no token to the request any more: its flow has ended. What it carries by then is
        still looked at.
        """
        self._active = False
        self._turn.release()

    def __call__(self, name: str, info: dict[str, Any]) -> Any:
        """
        What httpcore calls at each step of a request.
        """
        if self._users is not None:
            self._users(name, info)
        if name in _BEFORE_HEADERS:
            wire = info["request"]
            if wire.method == b"CONNECT" and self._is_bare(wire):
                return
            wire.headers = self.look(_hop_on_wire(wire, self.first))
            if name == _HTTP1 and self._users is None:
                wire.extensions = _untraced(wire.extensions)

    def look(self, hop: Hop) -> Sequence[Header]:
        """
        The headers that a hop may go with.

        Raises:
            EgressBlockedError: If it may not go.
        """
        asked = self._outlived_by(hop)
        if asked is not None:
            self._take(asked, self._cache._cached(asked) or self._cache._acquire(asked))
        headers, other = self._settle(hop if len(self._given) < 2 else self._renewed(hop))
        if other is None:
            return headers
        cached = self._cache._cached(other) or self._cache._acquire(other)
        return self._reauthorized(hop, headers, other, cached)

    def witness(self, response: Any) -> None:
        """
        Tell the caller what was withheld, and look back at the hops that nobody looked at.

        Raises:
            EgressBlockedError: If the token was sent to where it does not belong.
        """
        if self._withheld:
            response.extensions["token_withheld"] = self._withheld
        if self._cache.uses is not None and not self._seen:
            self._note_unseen(response)
        if self._proofs is not None:
            self._heed(response, self._proofs)
        if self._shown is None or (self._seen and not response.history):
            return
        self._look_back(response, self._shown)
        if self._shown.constrained and not self._seen and response.status_code == 401:
            bound_to = "the proof of its key" if self._shown.proof_key else "its certificate"
            how = f"without {bound_to}"
            raise self._nobody_looked(response.request, self._shown, how)

    def _look_back(self, response: Any, shown: Shown) -> None:
        request = response.request
        moved = request.url is not self._url or "target" in request.extensions
        # A hook that sets a `trace` of its own takes the guard off the wire.
        moved = moved or request.extensions.get("trace") != self.__call__
        if not (moved or response.history):
            return
        places = {_place(hop) for hop in self._seen}
        for answer in (*response.history, response):
            request = answer.request
            if not _carries(request, self._given):
                continue
            hop = hop_of(request, first=False)
            if _place(hop) not in places and self._rule(hop).why:
                raise self._nobody_looked(request, shown, "by a redirect or a hook", "Revoke it. ")

    def _nobody_looked(
        self, request: Any, shown: Shown, how: str, advice: str = ""
    ) -> EgressBlockedError:
        where, resource = display_url(request.url), shown.token.resource
        return self._blocked(
            f"The token for {resource!r} was sent to {where}, {how}, through a transport whose "
            f"hops nobody could look at. {advice}Wrap the transport: EgressGuard(transport) or "
            "AsyncEgressGuard(transport).",
            where,
            resource,
            "noticed_afterwards",
        )

    def _blocked(self, text: str, where: str, resource: str, reason: str) -> EgressBlockedError:
        """
        The error to raise for a hop, which is reported.
        """
        self._report("egress_blocked", where, text, reason)
        return EgressBlockedError(text, where, resource, reason)

    def uncertified(self, hop: Hop, resource: str, why: str) -> EgressBlockedError:
        """
        The error to raise for a hop without its certificate, which is reported and recorded.
        """
        where = hop.destination
        text = f"The request to {where} was stopped before it was sent: {why}"
        self._note("blocked", hop, detail=text)
        return self._blocked(text, where, resource, "no_certificate")

    def _note_unseen(self, response: Any) -> None:
        # A retry after a 401 has the answer before it in its history.
        for answer in (*response.history, response):
            if all(answer is not noted for noted in self._noted):
                self._noted.append(answer)
                hop = hop_of(answer.request, first=False)
                self._note("shown", hop, headers=hop.headers, detail=_UNSEEN)

    def _outlived_by(self, hop: Hop) -> TokenRequest | None:
        """
        The request for another token, if the one for this hop has come to its hard margin since it
        was taken: while a connection was waited for, or the answer that redirects here.
        """
        if self.cached is None or self._cache._is_good(self.cached):
            return None
        return self._asked_if_home(self._renewed(hop))

    def _asked_if_home(self, hop: Hop) -> TokenRequest | None:
        """
        The request for the token shown, if a hop may carry it.
        """
        if self.strayed or not self._active:
            return None
        try:
            return None if self._rule(hop).why else self.asked
        except EgressBlockedError:
            # It is stopped, and reported, before its headers go.
            return None

    def _take(self, asked: TokenRequest, cached: CachedToken) -> None:
        self.cached = cached
        self._shown = self._cache.bindings.shown(cached.token, asked)
        self._given.append(self._shown.header)

    def _renewed(self, hop: Hop) -> Hop:
        """
        The hop with the token of now in the place of one that was replaced.
        """
        now, given = self._given[-1], {value for _, value in self._given}
        headers = [now if value in given else (name, value) for name, value in hop.headers]
        return hop._replace(headers=headers)

    def _settle(self, hop: Hop) -> tuple[Sequence[Header], TokenRequest | None]:
        """
        The headers that may go, and the token to ask for and add, if any.
        """
        self.first = False
        if hop.again and not (self._seen and _place(hop) == _place(self._seen[-1])):
            # What is in between has sent it somewhere else.
            hop = hop._replace(again=False)
        if not hop.again:
            self._instead = None
        self._seen.append(hop)
        try:
            ruling = self._rule(hop)
        except EgressBlockedError as error:
            self._report("egress_blocked", error.destination, str(error), error.reason)
            self._note("blocked", hop, detail=str(error))
            raise
        shown = self._shown
        if shown is not None and not (ruling.why or self.strayed):
            # While no variable of a frame has the headers: reporters of errors show those.
            self._check_certificate(hop, shown)
        if hop.first or (shown is None and not ruling.stripped):
            headers = self._constrained(hop, ruling.headers, home=not ruling.why)
            self._note("shown", hop, headers=headers)
            return headers, None
        bare = all(name.lower() != b"authorization" for name, _ in ruling.headers)
        if shown is not None and not (ruling.why or self.strayed):
            # httpx drops the header across origins, but this hop is of the same resource.
            added = [shown.header] if bare and self._active else []
            headers = self._constrained(hop, [*ruling.headers, *added], home=True)
            self._note("shown", hop, headers=headers)
            return headers, None
        if hop.again and self.strayed:
            # All is said. What was put there instead can be on behalf of somebody else than the
            # request is, and stays if the hop still belongs to its resource.
            instead = self._instead
            if instead is None or instead.resource != ruling.resource:
                return ruling.headers, None
            return [h for h in hop.headers if h in ruling.headers or h == instead.header], None
        self.strayed = True
        reason = "elsewhere" if ruling.why else "strayed"
        event = self._report("token_withheld", hop.destination, ruling.why or _BACK, reason)
        self._note("withheld", hop, detail=event.detail)
        self._withheld = (*self._withheld, event)
        headers = self._constrained(hop, ruling.headers, home=False)
        reauthorized = ruling.resource is not None and ruling.resource.redirects == "reauthorize"
        if ruling.resource is not None and reauthorized and bare and self._active:
            return headers, self._cache._request_for(ruling.resource)
        return headers, None

    def _reauthorized(
        self, hop: Hop, headers: Sequence[Header], other: TokenRequest, cached: CachedToken
    ) -> Sequence[Header]:
        shown = self._cache.bindings.shown(cached.token, other)
        asked, why = cached.asked or other, "its resource takes redirects"
        self._note("shown", hop, shown.token, asked, detail=why)
        self._instead = shown
        headers = [*headers, shown.header]
        if shown.proof_key is None:
            return headers
        return [*_unproved(headers), self._proof(hop, shown.proof_key, shown.resource, shown.token)]

    def _constrained(self, hop: Hop, headers: Sequence[Header], *, home: bool) -> Sequence[Header]:
        """
        The headers, with a proof of the key that the token is bound to, if it is bound to one. It
        is made for this hop, and no other proof goes along.
        """
        shown = self._shown
        if shown is None or shown.proof_key is None:
            return headers
        headers = _unproved(headers)
        if home and self._active:
            headers.append(self._proof(hop, shown.proof_key, shown.resource, shown.token))
        elif self._proofs is not None:
            self._proofs.pop(url_of(hop, self._cache.resources), None)
        return headers

    def _proof(self, hop: Hop, key: ProofKey, resource: Resource, token: AccessToken) -> Header:
        prover, url = self._cache.prover, url_of(hop, self._cache.resources)
        server = (resource.identifier, origin_of(url))
        terms = prover.terms(server)
        self._proofs = self._proofs or {}
        self._proofs[url] = server, terms
        proof = prover.proof(key, hop.method.decode("ascii"), url, terms, token)
        return _DPOP, proof.encode("ascii")

    def _heed(self, response: Any, proofs: dict[str, tuple[Hashable, Terms]]) -> None:
        """
        Learn from those answers that are new, and were to a proof of ours.
        """
        answers = (*response.history, response)
        for answer in answers[self._answered :]:
            error, nonce = _proof_error(answer), _all_in(answer.headers, b"dpop-nonce")
            if not (error or nonce):
                continue
            where = url_of(hop_of(answer.request, first=False), self._cache.resources)
            server, terms = proofs.get(where, _NOBODY)
            if server is not None:
                date = _all_in(answer.headers, b"date")
                self.proof_refused = self._cache.prover.heed(server, terms, nonce, error, date)
        self._answered = len(answers)

    def _check_certificate(self, hop: Hop, shown: Shown) -> None:
        """
        See that the connection shows the certificate that the token is bound to, if it is to one.

        Raises:
            EgressBlockedError: If it shows another one, or none.
        """
        if hop.certificate != shown.certificate:
            raise self.uncertified(
                hop,
                shown.token.resource,
                "its token is bound to a client certificate, which this connection does not show. "
                "Give the client transport=CertificateTransport(httpx.HTTPTransport), or its async "
                "twin.",
            )

    def _is_bare(self, wire: Any) -> bool:
        """
        Whether no header holds a token of ours. Those of the CONNECT for a tunnel are httpcore's
        own.
        """
        own = b"\0" if self._shown is None else self._shown.token.reveal().encode("ascii")
        values = [value for _, value in wire.headers]
        return not any(own in v or self._cache.bindings.tokens_in(v) for v in values)

    def _rule(self, hop: Hop) -> Ruling:
        cache = self._cache
        return rule(
            hop,
            self._shown,
            cache.resources,
            cache.bindings,
            cache._identity,
            strayed=self.strayed,
        )

    @property
    def _asked_with(self) -> TokenRequest | None:
        """
        What the token shown was asked for with: of another server than was configured, if the
        resource has named that one meanwhile.
        """
        return (self.cached and self.cached.asked) or self.asked

    def _report(self, name: EventName, destination: str, detail: str, reason: str) -> TokenEvent:
        asked = self._asked_with
        resource = "" if asked is None else asked.resource.identifier
        issuer = "" if asked is None else asked.server.name
        event = TokenEvent(name, resource, issuer, destination, detail, reason)
        self._cache.events.emit(event)
        return event

    def _note(
        self,
        decision: Decision,
        hop: Hop,
        token: AccessToken | None = None,
        request: TokenRequest | None = None,
        *,
        headers: Sequence[Header] | None = None,
        detail: str = "",
    ) -> None:
        """
        Tell the ledger what was decided about a token, by default the one shown. With `headers`,
        only if they carry it. Of a hop that is looked at again it is told already.
        """
        uses = self._cache.uses
        if uses is None or (hop.again and decision != "blocked"):
            return
        if token is None and self._shown is not None:
            token = self._shown.token
        if headers is not None:
            value = b"\0" if token is None else token.reveal().encode("ascii")
            if not any(value in header for _, header in headers):
                return
        where = self._cache.bindings.masked(hop.destination)
        uses.note(decision, request or self._asked_with, token, where, detail)


class AsyncHopGuard(HopGuard):
    """
    The same for async clients.
    """

    __slots__ = ()

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        """
        What httpcore calls at each step of a request.
        """
        if self._users is not None:
            await self._users(name, info)
        if name in _BEFORE_HEADERS:
            wire = info["request"]
            if wire.method == b"CONNECT" and self._is_bare(wire):
                return
            wire.headers = await self.alook(_hop_on_wire(wire, self.first))
            if name == _HTTP1 and self._users is None:
                wire.extensions = _untraced(wire.extensions)

    async def alook(self, hop: Hop) -> Sequence[Header]:
        """
        The same as `look`, without blocking the event loop.
        """
        asked = self._outlived_by(hop)
        if asked is not None:
            self._take(asked, self._cache._cached(asked) or await self._cache._aacquire(asked))
        headers, other = self._settle(hop if len(self._given) < 2 else self._renewed(hop))
        if other is None:
            return headers
        cached = self._cache._cached(other) or await self._cache._aacquire(other)
        return self._reauthorized(hop, headers, other, cached)


class EgressGuard(Transport):
    """
    The check of every hop around a transport that is not httpx's own: WSGI, a mock, a cache.

    Plain `httpx.Client(auth=auth)` does not need it. Give it as `transport=`, or in `mounts=`;
    around a transport that is checked already it changes nothing.

    Args:
        transport: The transport to wrap. It is closed along with this one.
        auth: Checks requests too that are sent with another `auth=` or none: no token of this
            one's cache goes astray in them.
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx2.BaseTransport,
        auth: ResourceTokenAuth | None = None,
    ) -> None:
        self._transport: Any = transport
        self._auth = auth

    def handle_request(self, request: Any) -> Any:
        """
        Check a request, and hand it on.

        Raises:
            EgressBlockedError: If it would carry a token to where it does not belong.
        """
        guard = request.extensions.get(EXTENSION)
        if guard is not None:
            request = _dressed(request, guard.look(hop_of(request, first=guard.first)))
        _look_for_tokens_of(self._auth, guard, request)
        with _looked_at(request):
            return self._transport.handle_request(request)

    def close(self) -> None:
        """
        Close the wrapped transport.
        """
        self._transport.close()


class AsyncEgressGuard(AsyncTransport):
    """
    The same as `EgressGuard` for async clients: ASGI, a mock, a cache.

    Args:
        transport: The transport to wrap. It is closed along with this one.
        auth: Checks requests too that are sent with another `auth=` or none.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | httpx2.AsyncBaseTransport,
        auth: ResourceTokenAuth | None = None,
    ) -> None:
        self._transport: Any = transport
        self._auth = auth

    async def handle_async_request(self, request: Any) -> Any:
        """
        Check a request, and hand it on.

        Raises:
            EgressBlockedError: If it would carry a token to where it does not belong.
        """
        guard = request.extensions.get(EXTENSION)
        if guard is not None:
            request = _dressed(request, await guard.alook(hop_of(request, first=guard.first)))
        _look_for_tokens_of(self._auth, guard, request)
        with _looked_at(request):
            return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """
        Close the wrapped transport.
        """
        await self._transport.aclose()


@contextmanager
def _looked_at(request: Any) -> Iterator[None]:
    """
    Tell a guard further in that this hop has been looked at.

    Not for longer: httpx takes the extensions along to where a redirect leads.
    """
    request.extensions[LOOKED_AT] = True
    try:
        yield
    finally:
        request.extensions.pop(LOOKED_AT, None)


def hop_of(request: Any, *, first: bool) -> Hop:
    """
    A request of httpx, as its transport would send it.
    """
    url, extensions = request.url, request.extensions
    return Hop(
        url.scheme,
        url.raw_host,
        url.port,
        extensions.get("target", url.raw_path),
        request.headers.raw,
        first,
        extensions.get("sni_hostname"),
        request.method.encode("ascii"),
        extensions.get(CERTIFICATE),
        "target" in extensions,
        LOOKED_AT in extensions,
    )


def _hop_on_wire(wire: Any, first: bool) -> Hop:
    """
    A request of httpcore, as it is about to be sent.
    """
    url = wire.url
    return Hop(
        url.scheme.decode("ascii"),
        url.host,
        url.port,
        url.target,
        wire.headers,
        first,
        wire.extensions.get("sni_hostname"),
        wire.method,
        wire.extensions.get(CERTIFICATE),
        "target" in wire.extensions,
        LOOKED_AT in wire.extensions,
    )


def _untraced(extensions: dict[str, Any]) -> dict[str, Any]:
    """
    The extensions of a hop that has been looked at: each further step of it that httpcore told us
    would cost as much as the look.

    Those of httpx's own request stay as they are, and with them those of its redirects.
    """
    untraced = extensions.copy()
    del untraced["trace"]
    return untraced


def copied(request: Any) -> Any:
    """
    A copy of a request of httpx, with headers and extensions of its own.
    """
    made = object.__new__(type(request))
    made.__dict__.update(request.__dict__)
    made.headers = type(request.headers)(request.headers)
    made.extensions = dict(request.extensions)
    return made


def _authorizations(request: Any) -> list[Header]:
    return [
        (b"Authorization", v) for name, v in request.headers.raw if name.lower() == b"authorization"
    ]


def _carries(request: Any, given: Sequence[Header]) -> bool:
    tokens = [value.partition(b" ")[2] for _, value in given]
    return any(token in value for _, value in request.headers.raw for token in tokens)


def _look_for_tokens_of(
    auth: ResourceTokenAuth | None, guard: HopGuard | None, request: Any
) -> None:
    # The guard that came along looks for the tokens of its own cache only.
    if auth is not None and not (guard and guard.knows(auth.cache)):
        HopGuard(auth.cache, None).look(hop_of(request, first=True))


def _divert(request: Any, resource: Resource) -> None:
    sidecar = http.URL(str(resource.connect_to))
    # The second time, after a 401, it goes there already.
    if request.url.netloc != sidecar.netloc:
        request.headers["Host"] = resource.host_header or request.url.netloc.decode("ascii")
        request.url = request.url.copy_with(
            scheme=sidecar.scheme, host=sidecar.host, port=sidecar.port
        )


def _dressed(request: Any, headers: Sequence[Header]) -> Any:
    if headers == request.headers.raw:
        return request
    if any(name == _DPOP for name, _ in headers):
        # httpx takes the headers of its own request along to where a redirect leads.
        request = copied(request)
    request.headers = type(request.headers)(list(headers))
    return request


def _unproved(headers: Sequence[Header]) -> list[Header]:
    return [header for header in headers if header[0].lower() != b"dpop"]


def _all_in(headers: Any, name: bytes) -> str:
    """
    The values of a header, joined as RFC 9110 5.3 has it; quicker than httpx's own way.
    """
    return ", ".join(v.decode("latin-1") for each, v in headers.raw if each.lower() == name)


def _proof_error(answer: Any) -> str:
    # RFC 9449 9: "a 401 response with a WWW-Authenticate header field and DPoP error value
    # "use_dpop_nonce"".
    if answer.status_code != 401:
        return ""
    challenges = challenges_in(answer.headers.get_list("WWW-Authenticate"))
    errors = (c.error for c in challenges if c.scheme == "dpop" and c.error in PROOF_REFUSED)
    return next(errors, "")


def _place(hop: Hop) -> bytes:
    """
    Where a hop goes, the same for a proxy that is asked for it and without one.
    """
    if not hop.target.startswith(b"/"):
        return hop.target
    where = destination(hop.scheme, hop.host, hop.port, b"").encode("ascii", "backslashreplace")
    return where + hop.target


_UNSEEN = "noticed afterwards: no guard was on the wire"
_BACK = "it is the token's own resource again, but a redirect from elsewhere has led there."
_DPOP = b"DPoP"
_NOBODY: tuple[Hashable, Terms] = (None, Terms())
# The last time that a request is spoken of over HTTP/1.1 before its headers go. Over HTTP/2 the
# same object can be sent once more, on another connection.
_HTTP1 = "http11.send_request_headers.started"
_BEFORE_HEADERS = frozenset({_HTTP1, "http2.send_request_headers.started"})
