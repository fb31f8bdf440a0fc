"""
The decision: present the token at hand, wait for somebody else's, or ask for one.

 1. A token whose hard margin has not begun is presented at once; nobody waits for anything.
 2. In its soft window it is presented at once as well, and one refresh ahead runs in a thread of
    its own: it outlives the event loop that started it, and works the same for blocking callers,
    asyncio and trio.
 3. Without a token to present, callers join the flight of the key: one asks, the others wait.
 4. The leader looks again before it asks, for somebody may have landed since it looked.
 5. A token is checked before it is stored, and stored before its waiters are woken.
 6. A refusal is remembered for a while, and so is a failed refresh ahead. Neither ever takes the
    place of a live token.
 7. A token that was rejected (401) is renewed only while it is still the one in the store, and at
    most once per key in `_FORCED_INTERVAL`.
 8. While callers wait, a request that failed on the way is sent again within the server's
    `timeout`. A refresh ahead has the time until the next one.
 9. When a server asks to be left alone (`Retry-After`), it is: by all requests of that client.
10. At most `AT_A_TIME` token requests go to one server at a time; those that callers wait for
    go first. For a grant that is exclusive it is one, which is not cancelled along with its
    caller and not made again blindly: what its answer would have brought is lost otherwise.
11. What was asked for before `forget` is not stored after it, and nobody who comes later waits
    for it.
12. No lock is held across any of this; what guards the dictionaries is held for one access.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from cachetools import LRUCache, TTLCache

from resource_tokens._io import IO, BlockingIO, SendError, run_to_end
from resource_tokens._locks import SafeLock
from resource_tokens._single_flight import Flight, SingleFlight, outcome
from resource_tokens._turns import Turn, Turns
from resource_tokens.egress import Bindings
from resource_tokens.events import EventName, Events, TokenEvent
from resource_tokens.exceptions import (
    AudienceMismatchError,
    OAuthError,
    ResourceTokensError,
    TokenRequestError,
)
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest, retry_after
from resource_tokens.oauth.metadata import AuthorizationServer, metadata_requests, token_endpoint_in
from resource_tokens.oauth.token_endpoint import Remark, TokenRequest, issued_token, settle
from resource_tokens.stores import TokenStore
from resource_tokens.tokens import AccessToken, CachedToken, Freshness, TokenKey

__all__ = ["AT_A_TIME", "Acquirer", "Surroundings", "in_daemon_thread"]


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
        self._turns = Turns(clock)
        # All guarded by _lock.
        self._endpoints: TTLCache[AuthorizationServer, str] = TTLCache(
            64, _METADATA_AGE, timer=clock
        )
        self._cool_downs: LRUCache[TokenKey, _CoolDown] = LRUCache(1024)
        self._forced: TTLCache[TokenKey, bool] = TTLCache(1024, _FORCED_INTERVAL, timer=clock)
        # Until when a server wants to be left alone by a client.
        self._pauses: LRUCache[Hashable, float] = LRUCache(256)
        # Keys with a refresh ahead in the queue or under way: in which process, and until when at
        # most.
        self._ahead: LRUCache[TokenKey, tuple[int, float]] = LRUCache(1024)
        # How often `forget` was called, for all resources and for each.
        self._forgotten: LRUCache[str | None, int] = LRUCache(1024)

    def cached(self, request: TokenRequest, min_ttl: float = 0.0) -> CachedToken | None:
        """
        The token to present now, if there is one that lives for `min_ttl` seconds more. Never
        waits (rules 1 and 2).
        """
        cached = self._store.load(request.key)
        if cached is None:
            return None
        now = self._now(cached)
        if now + min_ttl >= cached.freshness.hard_at:
            return None
        if now >= cached.freshness.soft_at:
            self._refresh_ahead(request)
        return cached

    async def acquire(self, request: TokenRequest, io: IO, min_ttl: float = 0.0) -> CachedToken:
        """
        The token to present, from the store, from another caller's flight, or from the server.

        Raises:
            TokenRequestError: If the server gave none, or none that lives for `min_ttl` seconds.
            AudienceMismatchError: If it gave one for something else.
        """

        async def look_and_fetch() -> CachedToken:
            found = self.cached(request, min_ttl)
            if found is not None:
                return found
            self._raise_if_refused(request)
            return await self._fetch(request, io, "token_issued")

        while True:
            cached = self.cached(request, min_ttl)
            if cached is not None:
                return cached
            current = self._store.load(request.key)
            if current is not None and current.freshness.longest <= min_ttl:
                raise _too_short(request, current, min_ttl)
            flight = self._flight_key(request)
            fetched: CachedToken | None = await self._flights.once(
                flight, io, look_and_fetch, _flight_limit(request)
            )
            # A renewal that came to nothing flies under the same key, and so may a token that
            # does not live for as long as this caller wants.
            if fetched is not None and fetched.freshness.longest <= min_ttl:
                raise _too_short(request, fetched, min_ttl)
            if fetched is not None and self._lives_for(fetched, min_ttl):
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
            if (
                current is not None
                and self._lives_for(current)
                and not current.token.same_as(rejected)
            ):
                return current
            with self._lock:
                if request.key in self._forced:
                    return None
                self._forced[request.key] = True
            return await self._fetch(request, io, "token_refreshed")

        try:
            renewed: CachedToken | None = await self._flights.once(
                self._flight_key(request), io, look_and_fetch, _flight_limit(request)
            )
        except (TokenRequestError, AudienceMismatchError):
            return None
        return None if renewed is None or renewed.token.same_as(rejected) else renewed

    def forget(self, resource: str | None) -> int:
        """
        Drop the tokens of a resource, or of all, and what servers have refused (rule 11).

        Returns:
            How many tokens were dropped.
        """
        with self._lock:
            self._forgotten[resource] = self._forgotten.get(resource, 0) + 1
            for key, cool_down in list(self._cool_downs.items()):
                if resource is None or cool_down.error.resource == resource:
                    del self._cool_downs[key]
        return self._store.forget(
            lambda cached: resource is None or cached.token.resource == resource
        )

    def close(self) -> None:
        """
        Start no more refreshes ahead.
        """
        self._closed = True

    def _now(self, cached: CachedToken) -> float:
        return cached.freshness.now(self._in.clock(), self._in.wall_clock())

    def _lives_for(self, cached: CachedToken, seconds: float = 0.0) -> bool:
        return self._now(cached) + seconds < cached.freshness.hard_at

    def _flight_key(self, request: TokenRequest) -> Hashable:
        # Whoever comes after `forget` finds no flight from before it.
        return request.key, *self._times_forgotten(request)

    def _times_forgotten(self, request: TokenRequest) -> tuple[int, int]:
        with self._lock:
            forgotten = self._forgotten
            return forgotten.get(None, 0), forgotten.get(request.resource.identifier, 0)

    def _refresh_ahead(self, request: TokenRequest) -> None:
        key, now = request.key, self._in.clock()
        with self._lock:
            pid, until = self._ahead.get(key, (0, 0.0))
            # A forked child does not have the threads of its parent.
            under_way = pid == os.getpid() and now < until
            cool_down = self._cool_downs.get(key)
            cooling = cool_down is not None and now < cool_down.until
            if self._closed or under_way or cooling or now < self._paused_until(request):
                return
            self._ahead[key] = (os.getpid(), now + _flight_limit(request))
        turn = self._turn(request, hurried=False)

        def refresh() -> None:
            # An event says if it failed; the token at hand is good until its hard margin.
            with turn, suppress(ResourceTokensError):
                try:
                    run_to_end(self._fetch_ahead(request))
                finally:
                    self._not_ahead(key)

        def start(_: object) -> None:
            try:
                self._in.spawn(refresh)
            except BaseException as error:
                turn.give_back()
                self._not_ahead(key)
                # No thread to be had, as at the end of a process: the next caller after `hard_at`
                # fetches for itself.
                if not isinstance(error, Exception):
                    raise

        turn.future.add_done_callback(start)

    def _not_ahead(self, key: TokenKey) -> None:
        with self._lock:
            self._ahead.pop(key, None)

    async def _fetch_ahead(self, request: TokenRequest) -> None:
        flight, mine = self._flight_key(request), Flight()

        async def look_and_fetch() -> CachedToken:
            current = self._store.load(request.key)
            if current is not None and self._now(current) < current.freshness.soft_at:
                return current
            return await self._fetch(request, self._background, "token_refreshed", ahead=True)

        try:
            # Whoever is at it already gets a token for all.
            if self._flights.join(flight, mine) is mine:
                await self._flights.lead(flight, mine, look_and_fetch)
        except BaseException:
            self._flights.abandon(flight, mine)
            raise

    async def _fetch(
        self, request: TokenRequest, io: IO, name: EventName, *, ahead: bool = False
    ) -> CachedToken:
        if request.grant.exclusive and not io.blocking:
            return await self._fetch_apart(request, io, name)
        before = self._times_forgotten(request)
        try:
            if ahead:
                cached, remarks = await self._ask(request, io, patient=False)
            else:
                cached, remarks = await self._ask_in_turn(request, io)
        except (TokenRequestError, AudienceMismatchError) as error:
            self._cool_down(request, error)
            mismatch = isinstance(error, AudienceMismatchError)
            self._report(
                request, "audience_mismatch" if mismatch else "token_request_failed", str(error)
            )
            raise
        try:
            if before == self._times_forgotten(request):
                self._store.save(request.key, cached)
            # Again, for `forget` may have come in between.
            if before != self._times_forgotten(request):
                self._store.forget(lambda other: other.token.same_as(cached.token))
        except Exception as error:  # noqa: BLE001 - whatever a user's store raises
            # The token is as good as ever; only the next caller has to ask again.
            self._report(request, "store_failed", type(error).__name__)
        with self._lock:
            self._cool_downs.pop(request.key, None)
        self._report(request, name)
        for remark, words in remarks:
            self._report(request, remark, words)
        return cached

    async def _fetch_apart(self, request: TokenRequest, io: IO, name: EventName) -> CachedToken:
        done: Future[CachedToken] = Future()

        def fetch() -> None:
            try:
                done.set_result(run_to_end(self._fetch(request, self._background, name)))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                done.set_exception(error)

        self._in.spawn(fetch)
        await io.wait(done, _flight_limit(request))
        if not done.done():
            raise _no_turn(request)
        return outcome(done)

    async def _ask_in_turn(
        self, request: TokenRequest, io: IO
    ) -> tuple[CachedToken, tuple[Remark, ...]]:
        with self._turn(request) as turn:
            # What holds the turns cannot end while its own thread waits in here.
            if not (io.blocking and self._turns.held_by_this_thread(turn.key)):
                await io.wait(turn.future, turn.lasts)
                if not turn.future.done():
                    raise _no_turn(request)
            return await self._ask(request, io)

    def _turn(self, request: TokenRequest, *, hurried: bool = True) -> Turn:
        key: Hashable = request.server
        limit = AT_A_TIME
        if request.grant.exclusive:
            key, limit = (request.server, request.grant.fingerprint()), 1
        return self._turns.ask(key, limit, _turn_limit(request), hurried=hurried)

    async def _ask(
        self, request: TokenRequest, io: IO, *, patient: bool = True
    ) -> tuple[CachedToken, tuple[Remark, ...]]:
        endpoint = await self._token_endpoint(request, io, patient)
        # RFC 6749 5.1: the lifetime counts "from the time the response was generated". When that
        # was is not known, but it was not before the request was sent.
        grant = request.grant

        def message_at(wall: float) -> HTTPRequest:
            grant.begin(request.resource.identifier)
            return request.message(endpoint, wall)

        exchange = await self._send(message_at, request, io, patient)
        message, answer, wall = exchange.message, exchange.answer, exchange.sent_wall
        others = self._audiences - {request.resource.expected_audience}
        rotated = settle(answer, request, message.secrets)
        try:
            issued = issued_token(answer, request, others, wall, message.secrets)
        except ResourceTokensError as error:
            grant.fail(error, message.secrets)
            raise
        if rotated:
            self._report(request, "refresh_token_rotated")
        self._bindings.bind(issued.token, request)
        freshness = Freshness.of(issued.lifetime, exchange.sent_at, wall, self._in.draw)
        if self._in.clock() >= freshness.hard_at:
            raise TokenRequestError(
                f"The token of {request.server.name!r} for {request.resource.identifier!r} had "
                f"expired when it arrived: it lives {issued.lifetime.total_seconds():g} s. Let "
                "the server issue tokens that live longer.",
                request.resource.identifier,
                200,
            )
        return CachedToken(issued.token, freshness), issued.remarks

    async def _token_endpoint(self, request: TokenRequest, io: IO, patient: bool) -> str:
        server = request.server
        if server.token_endpoint is not None:
            return server.token_endpoint

        async def look_and_discover() -> str:
            with self._lock:
                known = self._endpoints.get(server)
            return known if known is not None else await self._discover(request, io, patient)

        # By the server and not by its issuer: what one learned through a proxy of its own, or
        # without checking certificates, is nothing to another.
        endpoint: str = await self._flights.once(
            server, io, look_and_discover, _turn_limit(request)
        )
        return endpoint

    async def _discover(self, request: TokenRequest, io: IO, patient: bool) -> str:
        issuer, resource = request.server.name, request.resource.identifier
        status = None
        for message in metadata_requests(issuer):
            # The same each time: it proves nothing.
            exchange = await self._send(partial(_as_it_is, message), request, io, patient)
            answer = exchange.answer
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

    async def _send(
        self,
        message_at: Callable[[float], HTTPRequest],
        request: TokenRequest,
        io: IO,
        patient: bool,
    ) -> _Exchange:
        """
        Send a message that is made anew for each try, and get an answer that is worth reading
        (rules 8 and 9).
        """
        ends_at = self._in.clock() + request.server.timeout.total_seconds()
        for tries_left in reversed(range(_TRIES if patient else 1)):
            await self._leave_alone(request, io, ends_at if patient else 0.0)
            now, wall = self._in.clock(), self._in.wall_clock()
            message, answer = message_at(wall), None
            failure, passing, may_have_arrived = "interrupted", False, True
            try:
                answer = await io.send(message, request.server, max(ends_at - now, _LEAST))
            except SendError as error:
                failure, passing, may_have_arrived = str(error), error.passing, error.sent
            except BaseException:
                request.grant.fail(_failed(request, message, failure), message.secrets)
                raise
            else:
                failure, passing = f"status {answer.status}", answer.status in _PASSING
                self._heed(answer, request, wall)
            # An answer that was lost may have used up what cannot be used twice.
            blind = may_have_arrived and request.grant.exclusive
            backoff = _FIRST_BACKOFF * 2 ** (_TRIES - tries_left) * self._in.draw()
            next_at = max(self._in.clock() + backoff, self._paused_until(request))
            if not (passing and tries_left) or blind or next_at >= ends_at:
                break
            self._report(request, "token_request_retried", failure)
            await io.sleep(backoff)
        if answer is not None:
            return _Exchange(message, answer, now, wall)
        failed = _failed(request, message, failure)
        if may_have_arrived:
            request.grant.fail(failed, message.secrets)
        raise failed

    def _heed(self, answer: HTTPAnswer, request: TokenRequest, wall: float) -> None:
        """
        Leave a server alone for as long as it asks for, with all requests of this client.
        """
        wanted = retry_after(answer, wall) if answer.status in _BUSY else None
        if wanted is not None:
            # Spread out, or all who waited would come back in the same moment.
            pause = min(wanted, _LONGEST_PAUSE) * (1 + _SPREAD * self._in.draw())
            with self._lock:
                self._pauses[_client(request)] = self._in.clock() + pause

    def _paused_until(self, request: TokenRequest) -> float:
        with self._lock:
            return self._pauses.get(_client(request), 0.0)

    async def _leave_alone(self, request: TokenRequest, io: IO, ends_at: float) -> None:
        until, now = self._paused_until(request), self._in.clock()
        if until <= now:
            return
        if until >= ends_at:
            raise TokenRequestError(
                f"No token for {request.resource.identifier!r}: {request.server.name!r} is busy "
                f"and has asked the client {request.client_auth.client_id!r} to stay away for "
                f"another {until - now:.0f} s (Retry-After). Try again then.",
                request.resource.identifier,
                429,
            )
        await io.sleep(until - now)

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


@dataclass(frozen=True, slots=True)
class _Exchange:
    message: HTTPRequest
    answer: HTTPAnswer
    sent_at: float
    sent_wall: float


def _as_it_is(message: HTTPRequest, _: float) -> HTTPRequest:
    return message


def _client(request: TokenRequest) -> Hashable:
    return request.server, request.client_auth.client_id


def _turn_limit(request: TokenRequest) -> float:
    """
    How long one turn can take: three addresses of metadata, and the token request.
    """
    return 4 * request.server.timeout.total_seconds() + 1


def _flight_limit(request: TokenRequest) -> float:
    """
    How long a flight can take: until its turn comes, and the turn.
    """
    return 2 * _turn_limit(request)


def _failed(request: TokenRequest, message: HTTPRequest, why: str) -> TokenRequestError:
    resource = request.resource.identifier
    return TokenRequestError(
        f"No token for {resource!r}: {message.method} {message.url} failed: {why}. Check that the "
        "authorization server can be reached from here.",
        resource,
    )


def _no_turn(request: TokenRequest) -> TokenRequestError:
    return TokenRequestError(
        f"No token for {request.resource.identifier!r}: other requests to "
        f"{request.server.name!r} were under way all the time. The server is slow, or too many "
        "tokens are asked for at once.",
        request.resource.identifier,
    )


def _too_short(request: TokenRequest, cached: CachedToken, min_ttl: float) -> TokenRequestError:
    return TokenRequestError(
        f"{request.server.name!r} issues tokens for {request.resource.identifier!r} that can be "
        f"used for {cached.freshness.longest:g} s, and min_ttl asks for {min_ttl:g} s. Ask for "
        "less, or let the server issue tokens that live longer.",
        request.resource.identifier,
        200,
    )


AT_A_TIME = 4
_TRIES = 3
_FIRST_BACKOFF = 0.125
# What is left of the time for the last try, if it has run out.
_LEAST = 0.001
_LONGEST_PAUSE = 3600.0
_SPREAD = 0.1
_METADATA_AGE = 3600.0
_FORCED_INTERVAL = 10.0

# RFC 9110 15: what another try may find gone.
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_BUSY = frozenset({429, 503})

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
