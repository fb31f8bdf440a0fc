"""
The decision: cached, wait, or fetch.

 1. A token is found under its `TokenKey` or not at all, and is presented until `hard_at`, never
    after.
 2. From `soft_at` on it is refreshed ahead: the caller is served at once, and one refresh runs in
    a thread of its own. A thread, because it outlives the event loop that started it, and works
    the same for blocking callers, asyncio and trio.
 3. Without a token to present, callers join the flight of the key: one asks, the others wait.
 4. The leader looks again before it asks, for somebody may have landed since it looked.
 5. A token is checked before it is stored, and stored before its waiters are woken.
 6. A refusal is remembered for a while, and so is a failed refresh ahead. Neither ever takes the
    place of a live token.
 7. A token that was rejected (401) is renewed only while it is still the one in the store, and at
    most once per key in `_FORCED_INTERVAL`.
 8. No lock is held across any of this; what guards the dictionaries is held for one access.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cachetools import LRUCache, TTLCache

from resource_tokens._io import IO, BlockingIO, SendError, run_to_end
from resource_tokens._locks import SafeLock
from resource_tokens._single_flight import Flight, SingleFlight
from resource_tokens.egress import Bindings
from resource_tokens.events import EventName, Events, TokenEvent
from resource_tokens.exceptions import (
    AudienceMismatchError,
    OAuthError,
    ResourceTokensError,
    TokenRequestError,
)
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest
from resource_tokens.oauth.metadata import AuthorizationServer, metadata_requests, token_endpoint_in
from resource_tokens.oauth.token_endpoint import Remark, TokenRequest, issued_token
from resource_tokens.stores import TokenStore
from resource_tokens.tokens import AccessToken, CachedToken, Freshness, TokenKey

__all__ = ["Acquirer", "Surroundings", "in_daemon_thread"]


def in_daemon_thread(work: Callable[[], None]) -> None:
    """
    Run `work` in a thread that keeps no process alive.

    Raises:
        RuntimeError: If this platform or moment has no threads.
    """
    threading.Thread(target=work, name="resource_tokens refresh", daemon=True).start()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What a decision takes from outside, so that a test can decide it.

    Attributes:
        clock: Seconds that never jump; for everything that lasts.
        wall_clock: Seconds since the epoch; only for the `expires_at` shown to users.
        draw: A uniform random number from 0 to 1.
        spawn: Runs a refresh ahead somewhere else.
    """

    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    draw: Callable[[], float]
    spawn: Callable[[Callable[[], None]], None] = in_daemon_thread


@dataclass(slots=True)
class _CoolDown:
    until: float
    failures: int
    error: TokenRequestError | AudienceMismatchError
    refused: bool


class Acquirer:
    """
    Gets tokens, by the rules above. One per `TokenCache`.
    """

    def __init__(
        self,
        store: TokenStore,
        bindings: Bindings,
        events: Events,
        surroundings: Surroundings,
        audiences: AbstractSet[str],
    ) -> None:
        self._store = store
        self._bindings = bindings
        self._events = events
        self._in = surroundings
        self._audiences = audiences
        self._flights = SingleFlight()
        self._background = BlockingIO()
        self._closed = False
        self._lock = SafeLock()
        clock = surroundings.clock
        # All guarded by _lock.
        self._endpoints: TTLCache[AuthorizationServer, str] = TTLCache(
            64, _METADATA_AGE, timer=clock
        )
        self._cool_downs: LRUCache[TokenKey, _CoolDown] = LRUCache(1024)
        self._forced: TTLCache[TokenKey, bool] = TTLCache(1024, _FORCED_INTERVAL, timer=clock)

    def cached(self, request: TokenRequest) -> CachedToken | None:
        """
        The token to present now, if there is one. Never waits (rules 1 and 2).
        """
        cached = self._store.load(request.key)
        if cached is None:
            return None
        now = self._in.clock()
        if now < cached.freshness.soft_at:
            return cached
        if now < cached.freshness.hard_at:
            self._refresh_ahead(request, now)
            return cached
        return None

    async def acquire(self, request: TokenRequest, io: IO) -> CachedToken:
        """
        The token to present, from the store, from another caller's flight, or from the server.

        Raises:
            TokenRequestError: If the server gave none.
            AudienceMismatchError: If it gave one for something else.
        """
        cached = self.cached(request)
        if cached is not None:
            return cached

        async def look_and_fetch() -> CachedToken:
            found = self.cached(request)
            if found is not None:
                return found
            self._raise_if_refused(request)
            return await self._fetch(request, io, "token_issued")

        while True:
            fetched: CachedToken | None = await self._flights.once(
                request.key, io, look_and_fetch, _limit(request)
            )
            # A renewal that came to nothing flies under the same key.
            if fetched is not None:
                return fetched

    async def renew(
        self, request: TokenRequest, rejected: AccessToken, io: IO
    ) -> CachedToken | None:
        """
        Another token than the one that its resource rejected; `None` if there is none to be had
        (rule 7). The refusal that stood in the way is an event.
        """

        async def look_and_fetch() -> CachedToken | None:
            current = self._store.load(request.key)
            usable = current is not None and self._in.clock() < current.freshness.hard_at
            if current is not None and usable and not current.token.same_as(rejected):
                return current
            with self._lock:
                if request.key in self._forced:
                    return None
                self._forced[request.key] = True
            return await self._fetch(request, io, "token_refreshed")

        try:
            renewed: CachedToken | None = await self._flights.once(
                request.key, io, look_and_fetch, _limit(request)
            )
        except (TokenRequestError, AudienceMismatchError):
            return None
        return None if renewed is None or renewed.token.same_as(rejected) else renewed

    def forget_refusals(self, resource: str | None) -> None:
        """
        Ask again at once for a resource, or for all, although the server has just refused.
        """
        with self._lock:
            for key, cool_down in list(self._cool_downs.items()):
                if resource is None or cool_down.error.resource == resource:
                    del self._cool_downs[key]

    def close(self) -> None:
        """
        Start no more refreshes ahead.
        """
        self._closed = True

    def _refresh_ahead(self, request: TokenRequest, now: float) -> None:
        with self._lock:
            cool_down = self._cool_downs.get(request.key)
        if self._closed or (cool_down is not None and now < cool_down.until):
            return
        flight = Flight()

        def refresh() -> None:
            flight.thread = threading.get_ident()
            try:
                run_to_end(self._lead_refresh(request, flight))
            except ResourceTokensError:
                # An event has said so; the token at hand is good until its hard margin.
                return

        try:
            if self._flights.join(request.key, flight) is flight:
                self._in.spawn(refresh)
        except BaseException as error:
            self._flights.abandon(request.key, flight)
            # No thread to be had, as at the end of a process: the next caller after `hard_at`
            # fetches for itself.
            if not isinstance(error, Exception):
                raise

    async def _lead_refresh(self, request: TokenRequest, flight: Flight) -> None:
        async def look_and_fetch() -> CachedToken:
            current = self._store.load(request.key)
            if current is not None and self._in.clock() < current.freshness.soft_at:
                return current
            return await self._fetch(request, self._background, "token_refreshed")

        await self._flights.lead(request.key, flight, look_and_fetch)

    async def _fetch(self, request: TokenRequest, io: IO, name: EventName) -> CachedToken:
        try:
            cached, remarks = await self._ask(request, io)
        except (TokenRequestError, AudienceMismatchError) as error:
            self._cool_down(request, error)
            mismatch = isinstance(error, AudienceMismatchError)
            self._report(
                request, "audience_mismatch" if mismatch else "token_request_failed", str(error)
            )
            raise
        try:
            self._store.save(request.key, cached)
        except Exception as error:  # noqa: BLE001 - whatever a user's store raises
            # The token is as good as ever; only the next caller has to ask again.
            self._report(request, "store_failed", type(error).__name__)
        with self._lock:
            self._cool_downs.pop(request.key, None)
        self._report(request, name)
        for remark, words in remarks:
            self._report(request, remark, words)
        return cached

    async def _ask(self, request: TokenRequest, io: IO) -> tuple[CachedToken, tuple[Remark, ...]]:
        endpoint = await self._token_endpoint(request, io)
        # RFC 6749 5.1: the lifetime counts "from the time the response was generated". When that
        # was is not known, but it was not before the request was sent.
        requested_at, wall = self._in.clock(), self._in.wall_clock()
        message = request.message(endpoint, wall)
        answer = await self._send(message, request, io)
        others = self._audiences - {request.resource.expected_audience}
        issued = issued_token(answer, request, others, wall, message.secrets)
        self._bindings.bind(issued.token, request)
        freshness = Freshness.of(issued.lifetime, requested_at, self._in.draw)
        if self._in.clock() >= freshness.hard_at:
            raise TokenRequestError(
                f"The token of {request.server.name!r} for {request.resource.identifier!r} had "
                f"expired when it arrived: it lives {issued.lifetime.total_seconds():g} s. Let "
                "the server issue tokens that live longer.",
                request.resource.identifier,
                200,
            )
        return CachedToken(issued.token, freshness), issued.remarks

    async def _token_endpoint(self, request: TokenRequest, io: IO) -> str:
        server = request.server
        if server.token_endpoint is not None:
            return server.token_endpoint

        async def look_and_discover() -> str:
            with self._lock:
                known = self._endpoints.get(server)
            return known if known is not None else await self._discover(request, io)

        # By the server and not by its issuer: what one learned through a proxy of its own, or
        # without checking certificates, is nothing to another.
        endpoint: str = await self._flights.once(server, io, look_and_discover, _limit(request))
        return endpoint

    async def _discover(self, request: TokenRequest, io: IO) -> str:
        issuer, resource = request.server.name, request.resource.identifier
        status = None
        for message in metadata_requests(issuer):
            answer = await self._send(message, request, io)
            endpoint = token_endpoint_in(answer, issuer, resource)
            if endpoint is not None:
                with self._lock:
                    self._endpoints[request.server] = endpoint
                self._report(request, "metadata_discovered", endpoint)
                return endpoint
            status = answer.status
        raise TokenRequestError(
            f"No token for {resource!r}: the issuer {issuer!r} publishes no metadata at the "
            "addresses of RFC 8414 and OpenID Connect Discovery. Check the issuer, or configure "
            "AuthorizationServer(token_endpoint=...).",
            resource,
            status,
        )

    async def _send(self, message: HTTPRequest, request: TokenRequest, io: IO) -> HTTPAnswer:
        failure = ""
        try:
            return await io.send(message, request.server)
        except SendError as error:
            failure = str(error)
        resource = request.resource.identifier
        raise TokenRequestError(
            f"No token for {resource!r}: {message.method} {message.url} failed: {failure}. Check "
            "that the authorization server can be reached from here.",
            resource,
        )

    def _cool_down(
        self, request: TokenRequest, error: TokenRequestError | AudienceMismatchError
    ) -> None:
        refused = isinstance(error, AudienceMismatchError) or (
            isinstance(error, OAuthError) and error.error in _REFUSALS
        )
        with self._lock:
            before = self._cool_downs.get(request.key)
            failures = before.failures + 1 if before is not None else 1
            doubled = 2.0 ** min(failures - 1, 10)
            if refused:
                delay = min((1 + 4 * self._in.draw()) * doubled, 60.0)
            else:
                delay = min(doubled, 30.0) * self._in.draw()
            until = self._in.clock() + delay
            # A copy, as the error itself holds on to the frames of the request that failed.
            kept = type(error)(*error.args)
            self._cool_downs[request.key] = _CoolDown(until, failures, kept, refused)

    def _raise_if_refused(self, request: TokenRequest) -> None:
        with self._lock:
            cool_down = self._cool_downs.get(request.key)
        if cool_down is not None and cool_down.refused and self._in.clock() < cool_down.until:
            raise type(cool_down.error)(*cool_down.error.args)

    def _report(self, request: TokenRequest, name: EventName, detail: str = "") -> None:
        resource, issuer = request.resource.identifier, request.server.name
        self._events.emit(TokenEvent(name, resource, issuer, detail=detail))


def _limit(request: TokenRequest) -> float:
    """
    How long a flight can take: two addresses of metadata, and the token request.
    """
    return 3 * request.server.timeout.total_seconds() + 1


_METADATA_AGE = 3600.0
_FORCED_INTERVAL = 10.0

# RFC 6749 5.2 and RFC 8707 2: what a second request would not change.
_REFUSALS = frozenset(
    {
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
