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
 8. What was asked for before `forget` is not stored after it, and nobody who comes later waits
    for it.
 9. A request for a grant that is exclusive is not cancelled along with its caller: what its answer
    would have brought is lost otherwise.
10. What a grant presents of another server's is asked for first, by these rules and under a key of
    its own; and once more, if one that was at hand is refused.
11. No lock is held across any of this; what guards the dictionaries is held for one access.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace

from cachetools import LRUCache, TTLCache

from resource_tokens._ask import Answered, Asker, Surroundings, event_of, no_turn, turn_limit
from resource_tokens._io import IO, BlockingIO, run_to_end
from resource_tokens._locks import SafeLock
from resource_tokens._sharing import Scope, Sharing, Visit
from resource_tokens._single_flight import Flight, SingleFlight, outcome
from resource_tokens.egress import Bindings
from resource_tokens.events import EventName, Events
from resource_tokens.exceptions import (
    AudienceMismatchError,
    OAuthError,
    ResourceTokensError,
    TokenRequestError,
)
from resource_tokens.oauth.revocation import Revocation, in_no_name
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.stores import MemoryTokenStore, TokenStore
from resource_tokens.tokens import AccessToken, CachedToken, Secret, TokenKey

__all__ = ["Acquirer"]


@dataclass(slots=True)
class _CoolDown:
    until: float
    failures: int
    error: TokenRequestError | AudienceMismatchError
    subject: bytes
    refused: bool


class Acquirer:
    """
    Gets tokens, by the rules above. One per `TokenCache`.
    """

    def __init__(
        self,
        memory: MemoryTokenStore,
        bindings: Bindings,
        events: Events,
        surroundings: Surroundings,
        audiences: AbstractSet[str],
        *,
        store: TokenStore | None = None,
    ) -> None:
        self._memory = memory
        self._bindings = bindings
        self._events = events
        self._in = surroundings
        self._asker = Asker(bindings, events, surroundings, audiences)
        self._sharing: Sharing | None = None
        if store is not None:
            self._sharing = Sharing(store, memory, events, surroundings, self._drop_all)
        self._flights = SingleFlight()
        self._background = BlockingIO()
        self._closed = False
        self._lock = SafeLock()
        clock = surroundings.clock
        # As many as there can be tokens: what is forgotten here is done again.
        bound = max(1024, memory.maxsize)
        # All guarded by _lock.
        self._cool_downs: LRUCache[TokenKey, _CoolDown] = LRUCache(bound)
        self._forced: TTLCache[TokenKey, bool] = TTLCache(bound, _FORCED_INTERVAL, timer=clock)
        # Keys with a refresh ahead in the queue or under way: in which process, and until when at
        # most.
        self._ahead: LRUCache[TokenKey, tuple[int, float]] = LRUCache(bound)
        # How often `forget` was called, for all resources and for each; of subjects, there may have
        # to be as many as were forgotten while one request was under way.
        self._forgotten: LRUCache[Scope, int] = LRUCache(8192)

    def cached(self, request: TokenRequest, min_ttl: float = 0.0) -> CachedToken | None:
        """
        The token to present now, if there is one that lives for `min_ttl` seconds more. Never
        waits (rules 1 and 2).
        """
        cached = self._memory.load(request.key)
        if cached is None:
            return None
        now = self._now(cached)
        if now + min_ttl >= cached.freshness.hard_at:
            return None
        sharing = self._sharing
        if (
            sharing is not None
            and now >= sharing.quiet_until
            and not self._is_current(request, sharing)
        ):
            return None
        if now >= cached.freshness.soft_at:
            if self._events.observer is not None:
                late = now - cached.freshness.soft_at
                name, issuer = request.resource.identifier, request.server.name
                self._events.observer.stale(name, issuer, late)
            self._refresh_ahead(request)
        return cached

    async def acquire(self, request: TokenRequest, io: IO, min_ttl: float = 0.0) -> CachedToken:
        """
        The token to present, from the store, from another caller's flight, or from the server.

        Raises:
            TokenRequestError: If the server gave none, or none that lives for `min_ttl` seconds.
            AudienceMismatchError: If it gave one for something else.
        """
        asked = 0

        async def look_and_fetch() -> CachedToken | None:
            found = self.cached(request, min_ttl)
            if found is not None:
                return found
            self._raise_if_refused(request)
            nonlocal asked
            asked += 1
            return await self._fetch(
                request, io, "token_issued", lambda other: self.lives_for(other, min_ttl)
            )

        while True:
            await self._look_if_overdue(request, io)
            cached = self.cached(request, min_ttl)
            if cached is not None:
                return cached
            current = self._memory.load(request.key)
            if current is not None and current.freshness.longest <= min_ttl:
                raise _too_short(request, current, min_ttl)
            flight = self._flight_key(request)
            with self._events.waiting(request.resource.identifier, request.server.name):
                fetched: CachedToken | None = await self._flights.once(
                    flight, io, look_and_fetch, _flight_limit(request)
                )
            # A renewal that came to nothing flies under the same key, and so may a token that
            # does not live for as long as this caller wants.
            if fetched is not None and fetched.freshness.longest <= min_ttl:
                raise _too_short(request, fetched, min_ttl)
            if fetched is not None and self.lives_for(fetched, min_ttl):
                return fetched
            if fetched is not None and asked == _ENOUGH:
                raise _too_slow(request, min_ttl)

    async def renew(
        self, request: TokenRequest, rejected: AccessToken, io: IO
    ) -> CachedToken | None:
        """
        Another token than the one that its resource rejected; `None` if there is none to be had
        (rule 7). The refusal that stood in the way is an event.
        """

        async def look_and_fetch() -> CachedToken | None:
            current = self._memory.load(request.key)
            if (
                current is not None
                and self.lives_for(current)
                and not current.token.same_as(rejected)
            ):
                return current
            with self._lock:
                if request.key in self._forced:
                    return None
                self._forced[request.key] = True
            return await self._fetch(
                request,
                io,
                "token_refreshed",
                lambda other: self.lives_for(other) and not other.token.same_as(rejected),
            )

        try:
            renewed: CachedToken | None = await self._flights.once(
                self._flight_key(request), io, look_and_fetch, _flight_limit(request)
            )
        except (TokenRequestError, AudienceMismatchError):
            return None
        if renewed is None or renewed.token.same_as(rejected) or not self.lives_for(renewed):
            return None
        return renewed

    async def forget(self, resource: str | None, io: IO, subject: bytes = b"") -> int:
        """
        Drop the tokens of a resource, or of all, on behalf of a subject, or of whomever, and what
        servers have refused (rule 8); here, and wherever the store is shared.

        Returns:
            How many tokens were dropped here.

        Raises:
            ResourceTokensError: If the others could not be told.
        """
        dropped = self._drop(resource, subject or None)
        if self._sharing is not None:
            await self._sharing.forget(resource, subject, io)
            if subject:
                # The store had them until it was told, and they may have come back from there.
                dropped += self._drop(resource, subject)
        return dropped

    async def revocations(self, requests: Iterable[TokenRequest], io: IO) -> list[Revocation]:
        """
        What there is to revoke: every token that is kept here, and those that others have left for
        these requests.
        """
        tokens = dict[TokenKey, tuple[TokenRequest, AccessToken]]()
        for cached in self._memory.tokens():
            if cached.asked is not None:
                tokens[cached.asked.key] = cached.asked, cached.token
        for request in requests:
            if self._sharing is not None and request.key not in tokens:
                left = await self._sharing.left(request, io)
                if left is not None:
                    tokens[request.key] = in_no_name(request), left.token
        return [
            Revocation(asked, Secret(token.reveal()), "access_token")
            for asked, token in tokens.values()
        ]

    async def revoke(self, revocation: Revocation, io: IO) -> None:
        """
        Revoke a token that nobody uses any more.

        Raises:
            TokenRequestError: If it may be good all the same.
        """
        try:
            await self._asker.revoke(revocation, io)
        except TokenRequestError as error:
            self._report(revocation.request, "revocation_failed", str(error))
            raise
        self._report(revocation.request, "token_revoked", revocation.kind)

    def _drop(self, resource: str | None, subject: bytes | None = None) -> int:
        return self._drop_all([(resource, subject)])

    def _drop_all(self, scopes: Iterable[Scope]) -> int:
        dropped = set(scopes)
        with self._lock:
            for scope in dropped:
                self._forgotten[scope] = self._forgotten.get(scope, 0) + 1
            for key, cool_down in list(self._cool_downs.items()):
                if not dropped.isdisjoint(_scopes(cool_down.error.resource, cool_down.subject)):
                    del self._cool_downs[key]
        return self._memory.forget(
            lambda cached: not dropped.isdisjoint(_scopes(cached.token.resource, cached.subject))
        )

    def close(self) -> None:
        """
        Start no more refreshes ahead.
        """
        self._closed = True

    def _now(self, cached: CachedToken) -> float:
        return cached.freshness.now(self._in.clock(), self._in.wall_clock())

    def lives_for(self, cached: CachedToken, seconds: float = 0.0) -> bool:
        """
        Whether a token can be presented for so many seconds more.
        """
        return self._now(cached) + seconds < cached.freshness.hard_at

    def _is_fresh(self, cached: CachedToken) -> bool:
        return self._now(cached) < cached.freshness.soft_at

    def _is_pressing(self, request: TokenRequest) -> bool:
        """
        Whether a refresh ahead cannot wait for the store any longer.
        """
        current = self._memory.load(request.key)
        if current is None:
            return True
        return self._now(current) >= (current.freshness.soft_at + current.freshness.hard_at) / 2

    def _flight_key(self, request: TokenRequest) -> Hashable:
        # Whoever comes after `forget` finds no flight from before it.
        return request.key, *self._times_forgotten(request)

    def _times_forgotten(self, request: TokenRequest) -> tuple[int, ...]:
        scopes = _scopes(request.resource.identifier, request.grant.subject)
        with self._lock:
            return tuple(self._forgotten.get(scope, 0) for scope in scopes)

    def _refresh_ahead(self, request: TokenRequest) -> None:
        key, now = request.key, self._in.clock()
        with self._lock:
            pid, until = self._ahead.get(key, (0, 0.0))
            # A forked child does not have the threads of its parent.
            under_way = pid == os.getpid() and now < until
            if self._closed or under_way or self._cools_down(request):
                return
            self._ahead[key] = (os.getpid(), now + _flight_limit(request))
        turn = self._asker.turn(request, hurried=False)

        def refresh() -> None:
            again_at = 0.0
            # An event says if it failed; the token at hand is good until its hard margin.
            with turn, suppress(ResourceTokensError):
                try:
                    if run_to_end(self._fetch_ahead(request)) is None:
                        # Another process is at it.
                        again_at = self._in.clock() + _LOOK_AGAIN * (0.5 + self._in.draw())
                finally:
                    self._not_ahead(key, again_at)

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

    def _not_ahead(self, key: TokenKey, again_at: float = 0.0) -> None:
        with self._lock:
            self._ahead[key] = (os.getpid(), again_at)

    async def _fetch_ahead(self, request: TokenRequest) -> CachedToken | None:
        flight, mine = self._flight_key(request), Flight()

        async def look_and_fetch() -> CachedToken | None:
            current = self._memory.load(request.key)
            # Again, as this had to wait for its turn.
            if current is None or self._is_fresh(current) or self._cools_down(request):
                return current
            return await self._fetch(
                request, self._background, "token_refreshed", self._is_fresh, ahead=True
            )

        try:
            # Whoever is at it already gets a token for all.
            if self._flights.join(flight, mine) is mine:
                fetched: CachedToken | None = await self._flights.lead(flight, mine, look_and_fetch)
                return fetched
            return self._memory.load(request.key)
        except BaseException:
            self._flights.abandon(flight, mine)
            raise

    async def _fetch(
        self,
        request: TokenRequest,
        io: IO,
        name: EventName,
        usable: Callable[[CachedToken], bool],
        *,
        ahead: bool = False,
    ) -> CachedToken | None:
        """
        A token from elsewhere: one that another process has left, if it is usable, or one that is
        asked for. `None` if another process asks, and nobody waits.
        """
        if request.grant.exclusive and not io.blocking:
            return await self._fetch_apart(request, io, name, usable)
        visit = None if self._sharing is None else self._sharing.visit(request, io, usable)

        def at_hand() -> CachedToken | None:
            current = self._memory.load(request.key)
            return current if current is not None and usable(current) else None

        while True:
            before = self._times_forgotten(request)
            try:
                answered = await self._answered(request, io, visit, at_hand, ahead=ahead)
            except (TokenRequestError, AudienceMismatchError) as error:
                self._cool_down(request, error)
                mismatch = isinstance(error, AudienceMismatchError)
                self._report(
                    request, "audience_mismatch" if mismatch else "token_request_failed", str(error)
                )
                raise
            if isinstance(answered, CachedToken):
                return answered
            if answered is not None:
                return self._keep(request, answered, name, before)
            if ahead or visit is None:
                return None
            await visit.pause()

    async def _answered(
        self,
        request: TokenRequest,
        io: IO,
        visit: Visit | None,
        at_hand: Callable[[], CachedToken | None],
        *,
        ahead: bool,
    ) -> CachedToken | Answered | None:
        """
        What was found or asked for, or has come to hand while this one waited for its turn; `None`
        while another process asks.
        """
        found = None if visit is None else await visit.found()
        if found is not None:
            return self._loaded(request, found)
        if visit is not None and visit.has_to_wait:
            return None
        first = request.grant.first
        if first is None:
            return await self._ask_in_turn(request, io, visit, at_hand, ahead=ahead)
        kept = self.cached(first)
        assertion = (kept or await self.acquire(first, io)).token
        try:
            presenting = _presenting(request, assertion)
            return await self._ask_in_turn(presenting, io, visit, at_hand, ahead=ahead)
        except OAuthError as error:
            if kept is None or error.error != "invalid_grant":
                raise
            # It may have been good for one time only.
            newer = await self.renew(first, assertion, io)
            if newer is None:
                raise
        presenting = _presenting(request, newer.token)
        return await self._ask_in_turn(presenting, io, visit, at_hand, ahead=ahead)

    async def _ask_in_turn(
        self,
        request: TokenRequest,
        io: IO,
        visit: Visit | None,
        at_hand: Callable[[], CachedToken | None],
        *,
        ahead: bool,
    ) -> CachedToken | Answered | None:
        if ahead:
            return await self._ask(request, io, visit, patient=False)
        with self._asker.turn(request) as turn:
            await self._asker.until_it_comes(turn, request, io)
            # Again: a flight from before `forget` may have landed meanwhile (rule 4).
            return at_hand() or await self._ask(request, io, visit, patient=True)

    async def _ask(
        self, request: TokenRequest, io: IO, visit: Visit | None, *, patient: bool
    ) -> Answered | None:
        if visit is None:
            return await self._asker.ask(request, io, patient=patient)
        async with visit:
            if not await visit.may_ask(without=patient or self._is_pressing(request)):
                return None
            # Again: whoever had the lease may have saved a token since the last look.
            found = await visit.found()
            if found is not None:
                return self._loaded(request, found)
            answered = await self._asker.ask(request, io, patient=patient)
            later = await visit.save(answered.cached)
            if later is None:
                return answered
            return replace(self._loaded(request, later), remarks=answered.remarks, loaded=False)

    def _loaded(self, request: TokenRequest, found: CachedToken) -> Answered:
        self._bindings.bind(found.token, request)
        return Answered(found, loaded=True)

    def _keep(
        self,
        request: TokenRequest,
        answered: Answered,
        name: EventName,
        before: tuple[int, ...],
    ) -> CachedToken:
        """
        Keep a token that was asked for after so many calls of `forget`.
        """
        subject = request.grant.subject
        cached = replace(answered.cached, asked=in_no_name(request), subject=subject)
        if before == self._times_forgotten(request):
            self._memory.save(request.key, cached)
        # Again, for `forget` may have come in between.
        if before != self._times_forgotten(request):
            self._memory.forget(lambda other: other.token.same_as(cached.token))
        with self._lock:
            self._cool_downs.pop(request.key, None)
        self._report(request, "token_loaded" if answered.loaded else name)
        for remark, words in answered.remarks:
            self._report(request, remark, words)
        return cached

    async def _fetch_apart(
        self,
        request: TokenRequest,
        io: IO,
        name: EventName,
        usable: Callable[[CachedToken], bool],
    ) -> CachedToken | None:
        done: Future[CachedToken | None] = Future()

        def fetch() -> None:
            try:
                done.set_result(run_to_end(self._fetch(request, self._background, name, usable)))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                done.set_exception(error)

        self._in.spawn(fetch)
        await io.wait(done, _flight_limit(request))
        if not done.done():
            raise no_turn(request)
        return outcome(done)

    def _is_current(self, request: TokenRequest, sharing: Sharing) -> bool:
        """
        Whether the tokens at hand can be presented without looking what was forgotten elsewhere.
        """
        now = self._in.clock()
        if sharing.is_overdue(now):
            return False
        if sharing.claim_look(now):
            # Without a thread to be had, the look is soon overdue.
            with suppress(RuntimeError):
                self._in.spawn(lambda: run_to_end(sharing.look(request, self._background)))
        return True

    async def _look_if_overdue(self, request: TokenRequest, io: IO) -> None:
        sharing = self._sharing
        if (
            sharing is not None
            and sharing.is_overdue(self._in.clock())
            # Or else the look for a token tells.
            and self._memory.load(request.key) is not None
        ):
            await self._flights.once(
                "generations", io, lambda: sharing.look(request, io), _flight_limit(request)
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
            subject = request.grant.subject
            self._cool_downs[request.key] = _CoolDown(until, failures, kept, subject, refused)

    def _cools_down(self, request: TokenRequest) -> bool:
        now = self._in.clock()
        with self._lock:
            cool_down = self._cool_downs.get(request.key)
        cooling = cool_down is not None and now < cool_down.until
        return cooling or now < self._asker.paused_until(request)

    def _raise_if_refused(self, request: TokenRequest) -> None:
        with self._lock:
            cool_down = self._cool_downs.get(request.key)
        if cool_down is not None and cool_down.refused and self._in.clock() < cool_down.until:
            raise type(cool_down.error)(*cool_down.error.args)

    def _report(self, request: TokenRequest, name: EventName, detail: str = "") -> None:
        self._events.emit(event_of(request, name, detail))


def _scopes(resource: str, subject: bytes) -> list[Scope]:
    """
    What a token of a resource is forgotten with, on behalf of a subject or of nobody.
    """
    scopes: list[Scope] = [(None, None), (resource, None)]
    return [*scopes, (None, subject), (resource, subject)] if subject else scopes


def _presenting(request: TokenRequest, assertion: AccessToken) -> TokenRequest:
    return replace(request, grant=request.grant.presenting(assertion))


def _flight_limit(request: TokenRequest) -> float:
    """
    How long a flight can take: until its turn comes, and the turn.
    """
    return 2 * turn_limit(request)


def _too_short(request: TokenRequest, cached: CachedToken, min_ttl: float) -> TokenRequestError:
    return TokenRequestError(
        f"{request.server.name!r} issues tokens for {request.resource.identifier!r} that can be "
        f"used for {cached.freshness.longest:g} s, and min_ttl asks for {min_ttl:g} s. Ask for "
        "less, or let the server issue tokens that live longer.",
        request.resource.identifier,
        200,
    )


def _too_slow(request: TokenRequest, min_ttl: float) -> TokenRequestError:
    return TokenRequestError(
        f"{request.server.name!r} takes so long to issue a token for "
        f"{request.resource.identifier!r} that it is not good for {min_ttl:g} s more when it "
        "arrives. Ask for less with min_ttl, or see why the server is slow.",
        request.resource.identifier,
        200,
    )


# How often one caller asks, when what arrives has been on its way for too long.
_ENOUGH = 2
_FORCED_INTERVAL = 10.0
_LOOK_AGAIN = 1.0

# RFC 6749 5.2 and RFC 8707 2: what a second request would not change.
_REFUSALS = frozenset(
    {
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
