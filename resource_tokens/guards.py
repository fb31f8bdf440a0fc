"""
Looking at each hop of a request, right before it goes on the wire.

httpcore calls the request extension `trace` before it sends the headers of a hop, with the target
and the headers as they will be sent; what it raises stops the hop before a byte is sent, and
extensions stay with a request over redirects. So a `HopGuard` travels along with each request.
Transports that are not httpcore's do not call `trace`: for those there are `EgressGuard` and
`AsyncEgressGuard`. Where neither was there, a token that went astray is noticed afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from types import new_class
from typing import TYPE_CHECKING, Any, Self

from resource_tokens._destinations import destination, display_url
from resource_tokens._httpx import LIBRARIES, http
from resource_tokens.cache import TokenCache
from resource_tokens.egress import Header, Hop, Ruling, Shown, rule
from resource_tokens.events import EventName, TokenEvent
from resource_tokens.exceptions import EgressBlockedError
from resource_tokens.ledger import Decision
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource
from resource_tokens.tokens import AccessToken

if TYPE_CHECKING:
    import httpx
    import httpx2

    from resource_tokens.auth import ResourceTokenAuth

    class _Transport(httpx.BaseTransport, httpx2.BaseTransport):  # type: ignore[misc]
        """Both libraries' base, for `with`; what they disagree on is overridden below."""

    class _AsyncTransport(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):  # type: ignore[misc]
        """The same for async clients."""
else:
    _Transport = new_class("_Transport", tuple(lib.BaseTransport for lib in LIBRARIES))
    _AsyncTransport = new_class(
        "_AsyncTransport", tuple(lib.AsyncBaseTransport for lib in LIBRARIES)
    )

__all__ = ["AsyncEgressGuard", "AsyncHopGuard", "EgressGuard", "HopGuard"]


class HopGuard:
    """
    The `trace` extension of one request, and what `EgressGuard` asks.

    A `trace` that the user has set is called first, so that this is the last look.
    """

    __slots__ = (
        "_active",
        "_cache",
        "_noted",
        "_seen",
        "_shown",
        "_turn",
        "_url",
        "_users",
        "_withheld",
        "asked",
        "first",
        "strayed",
    )

    def __init__(self, cache: TokenCache, asked: TokenRequest | None) -> None:
        self._cache = cache
        self.asked = asked
        self._users: Any = None
        # Held while the flow lasts. It is passed on to the next flow of the same request.
        self._turn = Lock()
        self._turn.acquire()
        self._shown: Shown | None = None
        self._seen: list[Hop] = []
        self._noted: list[Any] = []
        self._url: Any = None
        self._withheld: tuple[TokenEvent, ...] = ()
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
        earlier = request.extensions.setdefault(_EXTENSION, guard)
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
            request = _copy(request)
        shown = self._shown
        if shown and request.headers.get("Authorization") == shown.token.authorization:
            del request.headers["Authorization"]
        if request.extensions.get("trace") == self.__call__:
            request.extensions["trace"] = self._users
        request.extensions[_EXTENSION] = guard
        return request

    def show(self, request: Any, asked: TokenRequest, token: AccessToken) -> None:
        """
        Give a request the token of its resource, and send it to the sidecar if it has one.
        """
        self._shown = self._cache.bindings.shown(token, asked)
        self._withheld = ()
        self.strayed = False
        self.first = True
        request.headers["Authorization"] = token.authorization
        if asked.resource.connect_to is not None:
            _divert(request, asked.resource)
        self._url = request.url

    def knows(self, cache: TokenCache) -> bool:
        """
        Whether this guard looks for the tokens of a cache.
        """
        return self._cache is cache

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
        headers, other = self._settle(hop)
        if other is None:
            return headers
        token = (self._cache._cached(other) or self._cache._acquire(other)).token
        self._note("shown", hop, token, other, detail="its resource takes redirects")
        return [*headers, _authorization(token)]

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
        if self._shown is None or (self._seen and not response.history):
            return
        request = response.request
        moved = request.url is not self._url or "target" in request.extensions
        # A hook that sets a `trace` of its own takes the guard off the wire.
        moved = moved or request.extensions.get("trace") != self.__call__
        if not (moved or response.history):
            return
        places = {_place(hop) for hop in self._seen}
        for answer in (*response.history, response):
            request, token = answer.request, self._shown.token
            if not _carries(request, token):
                continue
            hop = hop_of(request, first=False)
            if _place(hop) not in places and self._rule(hop).why:
                where = display_url(request.url)
                error = EgressBlockedError(
                    f"The token for {token.resource!r} was sent to {where}, by a redirect or a "
                    "hook, through a transport whose hops nobody could look at. Revoke the token, "
                    "and wrap the transport: EgressGuard(transport) or "
                    "AsyncEgressGuard(transport).",
                    where,
                    token.resource,
                    "noticed_afterwards",
                )
                self._report("egress_blocked", where, str(error), error.reason)
                raise error

    def _note_unseen(self, response: Any) -> None:
        # A retry after a 401 has the answer before it in its history.
        for answer in (*response.history, response):
            if all(answer is not noted for noted in self._noted):
                self._noted.append(answer)
                hop = hop_of(answer.request, first=False)
                self._note("shown", hop, headers=hop.headers, detail=_UNSEEN)

    def _settle(self, hop: Hop) -> tuple[Sequence[Header], TokenRequest | None]:
        """
        The headers that may go, and the token to ask for and add, if any.
        """
        self.first = False
        self._seen.append(hop)
        try:
            ruling = self._rule(hop)
        except EgressBlockedError as error:
            self._report("egress_blocked", error.destination, str(error), error.reason)
            self._note("blocked", hop, detail=str(error))
            raise
        shown = self._shown
        if hop.first or (shown is None and not ruling.stripped):
            self._note("shown", hop, headers=ruling.headers)
            return ruling.headers, None
        bare = all(name.lower() != b"authorization" for name, _ in ruling.headers)
        if shown is not None and not (ruling.why or self.strayed):
            # httpx drops the header across origins, but this hop is of the same resource.
            added = [shown.header] if bare and self._active else []
            headers = [*ruling.headers, *added]
            self._note("shown", hop, headers=headers)
            return headers, None
        self.strayed = True
        reason = "elsewhere" if ruling.why else "strayed"
        event = self._report("token_withheld", hop.destination, ruling.why or _BACK, reason)
        self._note("withheld", hop, detail=event.detail)
        self._withheld = (*self._withheld, event)
        reauthorized = ruling.resource is not None and ruling.resource.redirects == "reauthorize"
        if ruling.resource is not None and reauthorized and bare and self._active:
            return ruling.headers, self._cache._request_for(ruling.resource)
        return ruling.headers, None

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

    def _report(self, name: EventName, destination: str, detail: str, reason: str) -> TokenEvent:
        resource = "" if self.asked is None else self.asked.resource.identifier
        issuer = "" if self.asked is None else self.asked.server.name
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
        only if they carry it.
        """
        uses = self._cache.uses
        if uses is None:
            return
        if token is None and self._shown is not None:
            token = self._shown.token
        if headers is not None:
            value = b"\0" if token is None else token.reveal().encode("ascii")
            if not any(value in header for _, header in headers):
                return
        where = self._cache.bindings.masked(hop.destination)
        uses.note(decision, request or self.asked, token, where, detail)


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
        headers, other = self._settle(hop)
        if other is None:
            return headers
        token = (self._cache._cached(other) or await self._cache._aacquire(other)).token
        self._note("shown", hop, token, other, detail="its resource takes redirects")
        return [*headers, _authorization(token)]


class EgressGuard(_Transport):
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
        guard = request.extensions.get(_EXTENSION)
        if guard is not None:
            _dress(request, guard.look(hop_of(request, first=guard.first)))
        _look_for_tokens_of(self._auth, guard, request)
        return self._transport.handle_request(request)

    def close(self) -> None:
        """
        Close the wrapped transport.
        """
        self._transport.close()


class AsyncEgressGuard(_AsyncTransport):
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
        guard = request.extensions.get(_EXTENSION)
        if guard is not None:
            _dress(request, await guard.alook(hop_of(request, first=guard.first)))
        _look_for_tokens_of(self._auth, guard, request)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """
        Close the wrapped transport.
        """
        await self._transport.aclose()


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


def _copy(request: Any) -> Any:
    made = object.__new__(type(request))
    made.__dict__.update(request.__dict__)
    made.headers = type(request.headers)(request.headers)
    made.extensions = dict(request.extensions)
    return made


def _carries(request: Any, token: AccessToken) -> bool:
    return any(token.reveal() in value for value in request.headers.values())


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


def _dress(request: Any, headers: Sequence[Header]) -> None:
    if headers != request.headers.raw:
        request.headers = type(request.headers)(list(headers))


def _authorization(token: AccessToken) -> Header:
    return (b"Authorization", token.authorization.encode("ascii"))


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
_EXTENSION = "resource_tokens"
# The last time that a request is spoken of over HTTP/1.1 before its headers go. Over HTTP/2 the
# same object can be sent once more, on another connection.
_HTTP1 = "http11.send_request_headers.started"
_BEFORE_HEADERS = frozenset({_HTTP1, "http2.send_request_headers.started"})
