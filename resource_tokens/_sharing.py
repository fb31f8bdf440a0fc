"""
What other processes have, and what they are at.

1. A store never makes a request fail that a token request could have served: whatever it raises,
   and however long it takes, this process goes on with its own memory and its own token requests,
   says so once, and leaves the store alone for a while. Reading and writing are left alone
   separately, as a replica can be read. One caller tries it again, while the others go on without.
   Whoever has gone there for a lease goes back with what came of it all the same: the answer may
   have been lost, and the lease be there.
   No caller loses more than `_PATIENCE` to a store, once before and once after waiting for others.
   A refresh ahead waits for the store in the first half of the soft window: nobody needs it yet,
   and otherwise a short outage costs one token request for each process of a fleet.
2. One process at a time asks for the token of a key: whoever has the lease. The others look again
   and again, less and less often, until the token is there, the lease is free, or twice its time is
   over. Whoever waits for a lease has no turn, and a refresh ahead does not wait at all: it is
   tried again later.
3. A lease ends by itself. A process that outlives its lease does no harm: there is then one token
   request more, and what it brings is thrown away if the store has another token now than when it
   was asked for. So the one that was saved first is used by all. A caller that is cancelled gives
   its lease back, also one that gets it only after that.
4. A token of an earlier generation is not used, and none of a subject that was forgotten after it
   was asked for. Both are looked at along with every look into the store, and otherwise every
   `_LOOK_EVERY` seconds in the background; a process that was idle for longer looks before it
   presents a token. While the store fails, nobody waits for that.
   Subjects can be many, so the journal of those who were forgotten is read on from where it was
   read to, and compared with those for whom there are tokens here, or some on their way. It begins
   where it ended when the first token of a subject was looked for.
5. What comes out of a store is judged by the same clocks as any other token, and by the store's own
   if it has one: of two ages the greater counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple, Self, TypeVar
from weakref import WeakSet

from cachetools import LRUCache

from resource_tokens._ask import Surroundings, event_of
from resource_tokens._io import IO
from resource_tokens._locks import SafeLock
from resource_tokens.events import EventName, Events
from resource_tokens.exceptions import ResourceTokensError
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.stores import (
    Generation,
    MemoryTokenStore,
    News,
    StoredToken,
    TokenStore,
    UnreadableEntryError,
)
from resource_tokens.tokens import CachedToken, Freshness, TokenKey

__all__ = ["Scope", "Sharing", "Visit"]

T = TypeVar("T")
Scope = tuple[str | None, bytes | None]
"""
What is forgotten: the tokens of a resource, or of all; on behalf of a subject, or of whomever.
"""


@dataclass(slots=True)
class _Standing:
    """
    How one kind of work with the store goes.

    Attributes:
        failures: How often it has failed since it last worked.
        again_at: Until when it is left alone, if it has.
    """

    failures: int = 0
    again_at: float = 0.0


class _Found(NamedTuple):
    """
    What is in the store: a token if it can still be used, the mark, for how long somebody has the
    lease, and where the subject was forgotten.
    """

    cached: CachedToken | None = None
    mark: bytes | None = None
    leased: float = 0.0
    forgotten: int = 0


class Sharing:
    """
    The store behind the memory of one cache.

    Attributes:
        quiet_until: Until then, nobody has to look what was forgotten elsewhere.
    """

    def __init__(
        self,
        store: TokenStore,
        memory: MemoryTokenStore,
        events: Events,
        surroundings: Surroundings,
        on_forgotten: Callable[[Iterable[Scope]], object],
    ) -> None:
        self._store = store
        self._memory = memory
        self._events = events
        self._in = surroundings
        self._on_forgotten = on_forgotten
        self._lock = SafeLock()
        # All guarded by _lock.
        self._known: LRUCache[str, Generation] = LRUCache(4096)
        self._unreadable: LRUCache[TokenKey, bool] = LRUCache(256)
        self._visits: WeakSet[Visit] = WeakSet()
        # How far the journal was read; what was forgotten because of a place after that.
        self._read_to = math.inf
        self._ahead: LRUCache[Scope, int] = LRUCache(4096)
        self.quiet_until = surroundings.clock() + _LOOK_EVERY
        self._look_until = 0.0
        self._reading = _Standing()
        self._writing = _Standing()
        self._said = False

    def visit(self, request: TokenRequest, io: IO, usable: Callable[[CachedToken], bool]) -> Visit:
        """
        The way of one caller to a token.
        """
        visit = Visit(self, self._store, request, io, usable)
        if visit.subject:
            with self._lock:
                self._visits.add(visit)
        return visit

    def generation(self, resource: str) -> Generation:
        """
        The generation of a resource, as far as is known here.
        """
        with self._lock:
            return self._known.get(resource, Generation())

    def is_overdue(self, now: float) -> bool:
        """
        Whether new generations have to be looked for before a token is presented.
        """
        return now >= self.quiet_until + _LOOK_EVERY and not self._reading.failures

    def claim_look(self, now: float) -> bool:
        """
        Whether it is time to look for them in the background, and nobody else is at it.
        """
        if now < self.quiet_until or now < self._look_until:
            return False
        with self._lock:
            mine = now >= self._look_until
            self._look_until = max(now + 2 * _PATIENCE, self._reading.again_at)
        return mine

    async def look(self, request: TokenRequest, io: IO) -> None:
        """
        Look for new generations of the resources that there are tokens of, and for subjects that
        were forgotten.

        Args:
            request: What made it due.
            io: How to wait.
        """
        named, now = sorted(self._memory.resources()), self._in.clock()

        def work() -> None:
            since = int(self._read_to) if self._read_to < math.inf else None
            news = self._store.news(named, since)
            for resource, generation in zip(named, news.generations, strict=True):
                self._learn(resource, generation)
            if since is not None:
                self._read_on(since, news)
            with self._lock:
                self.quiet_until = now + _LOOK_EVERY

        await self.attempt(request, io, work, _PATIENCE)

    def _subjects(self) -> set[tuple[str, bytes]]:
        # First those who are on their way: nobody arrives in between unseen.
        with self._lock:
            visits = list(self._visits)
        return {(visit.resource, visit.subject) for visit in visits} | self._memory.subjects()

    def _read_on(self, since: int, news: News) -> None:
        """
        Forget whom the journal names, of those who are known here.
        """
        late, anew = [], news.position < since
        if anew:
            # The store was emptied, or lost what it said last.
            with self._lock:
                self._ahead.clear()
            news = self._store.news([], 0)
        if anew or news.position > since:
            places = {pair: news.forgotten(*pair) for pair in self._subjects()}
            with self._lock:
                late = [pair for pair, place in places.items() if self._is_late(pair, place)]
        if late:
            self._on_forgotten(late)
        with self._lock:
            # Unless somebody has seen less meanwhile.
            if self._read_to == since:
                self._read_to = news.position

    def _is_late(self, pair: tuple[str, bytes], place: int) -> bool:
        """
        Whether a subject was forgotten there, and not here yet; it is from now on.
        """
        if place <= max(self._ahead.get(pair, 0), self._ahead.get((None, pair[1]), 0)):
            return False
        self._ahead[pair] = place
        return True

    def _heed(self, pair: tuple[str, bytes], forgotten: int, position: int) -> None:
        """
        What a look into the store says of its subject.
        """
        with self._lock:
            # The answer may have been on its way while the journal was read.
            if position < self._read_to:
                self._read_to = position
                self._ahead.clear()
            late = forgotten > self._read_to and self._is_late(pair, forgotten)
        if late:
            self._on_forgotten([pair])

    def miss(self) -> None:
        """
        A token of a subject is had without the store: nobody knows who was forgotten before.
        """
        with self._lock:
            if self._read_to == math.inf:
                self._read_to = 0

    async def forget(self, resource: str | None, subject: bytes, io: IO) -> None:
        """
        Let all others forget the tokens of a resource, or of all; on behalf of a subject, or of
        whomever.

        Raises:
            ResourceTokensError: If that did not work. Whoever forgets has to know.
        """
        failure, place = "", 0
        try:
            place = await io.run(lambda: self._store.forget(resource, subject), _PATIENCE)
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            failure = type(error).__name__
        with self._lock:
            # What was forgotten here need not be forgotten again at the next look.
            if subject:
                self._ahead[resource, subject] = place
            else:
                for known in list(self._known) if resource is None else [resource]:
                    self._known.pop(known, None)
        if failure:
            whose = " on behalf of one subject" if subject else ""
            raise ResourceTokensError(
                f"The tokens of {resource or 'all resources'!r}{whose} were dropped here, but the "
                f"shared store could not be told ({failure}), so other processes go on using "
                "theirs. Call forget() again when the store is back."
            )

    async def left(self, request: TokenRequest, io: IO) -> CachedToken | None:
        """
        The token that another process has left there, if it can still be used.
        """
        found = await self.attempt(request, io, lambda: self.load(request), _PATIENCE)
        return None if found is None else found.cached

    def load(self, request: TokenRequest) -> _Found:
        """
        What another process has left there. It blocks, and raises whatever the store does.
        """
        resource, subject = request.resource.identifier, request.grant.subject
        loaded = self._store.load(request.key, resource, subject)
        self._learn(resource, loaded.generation)
        if subject:
            self._heed((resource, subject), loaded.forgotten, loaded.position)
        with self._lock:
            self._unreadable.pop(request.key, None)
        stored, found = loaded.stored, _Found(None, *loaded[2:5])
        if stored is None or stored.generation != loaded.generation:
            return found
        if stored.forgotten < loaded.forgotten:
            return found
        cached = self._judged(stored, request.grant.expires_at)
        usable = self._in.clock() < cached.freshness.hard_at
        return found._replace(cached=cached) if usable else found

    def _judged(self, stored: StoredToken, ends_at: float | None) -> CachedToken:
        clock, wall = self._in.clock(), self._in.wall_clock()
        age = max(0.0, stored.age, wall - stored.requested_wall)
        lifetime = stored.lifetime
        # It was given the end of what it was got with, to the millisecond.
        final = ends_at is not None and stored.token.expires_at.timestamp() > ends_at - 1e-3
        freshness = Freshness.of(
            timedelta(seconds=lifetime), clock - age, wall - age, self._in.draw, final=final
        )
        # By this machine's clock, as with a token that was asked for here.
        expires_at = datetime.fromtimestamp(wall - age + lifetime, UTC)
        return CachedToken(replace(stored.token, expires_at=expires_at), freshness)

    def _learn(self, resource: str, generation: Generation) -> None:
        with self._lock:
            known = self._known.get(resource)
            self._known[resource] = generation
        if known is None:
            # Nothing has been forgotten by a process that has nothing yet.
            known = Generation() if resource in self._memory.resources() else generation
        if known != generation:
            self._on_forgotten([(resource, None)])

    async def attempt(
        self,
        request: TokenRequest,
        io: IO,
        work: Callable[[], T],
        limit: float,
        *,
        writes: bool = False,
        anyway: bool = False,
        shielded: bool = False,
    ) -> T | None:
        """
        Do something with the store, within so many seconds; `None` if it fails, or is left alone
        and this is not done anyway (rule 1).
        """
        standing = self._writing if writes else self._reading
        claimed = self._claim(standing)
        if claimed is None:
            if not anyway:
                return None
            # What comes of it changes nothing.
            claimed = -1
        try:
            result = await io.run(work, limit, shielded=shielded)
        except UnreadableEntryError as error:
            # It is there, and answers.
            self._worked(request, standing, claimed)
            with self._lock:
                first = request.key not in self._unreadable
                self._unreadable[request.key] = True
            if first:
                self._report(request, "store_failed", str(error))
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            # The words of others can hold anything.
            own = isinstance(error, ResourceTokensError)
            self._failed(request, standing, claimed, str(error) if own else type(error).__name__)
        else:
            self._worked(request, standing, claimed)
            return result
        return None

    def _claim(self, standing: _Standing) -> int | None:
        """
        How often it has failed; `None` if it is to be left alone.
        """
        now, reading = self._in.clock(), self._reading
        with self._lock:
            if reading.failures and standing is not reading and now < reading.again_at:
                return None
            if standing.failures:
                if now < standing.again_at:
                    return None
                # The others wait for what becomes of this try.
                standing.again_at = now + _PATIENCE
            return standing.failures

    def _worked(self, request: TokenRequest, standing: _Standing, claimed: int) -> None:
        with self._lock:
            # Or else it began before a failure, and says nothing of what is now.
            if standing.failures == claimed:
                standing.failures = 0
            back = self._said and not (self._reading.failures or self._writing.failures)
            self._said = self._said and not back
        if back:
            self._report(request, "store_recovered")

    def _failed(
        self, request: TokenRequest, standing: _Standing, claimed: int, failure: str
    ) -> None:
        with self._lock:
            # All who were at it when it failed are one failure.
            if standing.failures != claimed:
                return
            standing.failures += 1
            pause = self.pause(min(2.0 ** (standing.failures - 1), _LONGEST_ABSENCE))
            standing.again_at = self._in.clock() + pause
            first = not self._said
            self._said = True
        if first:
            self._report(request, "store_failed", failure)

    def pause(self, seconds: float) -> float:
        """
        About so many seconds: all who wait would otherwise look at the same moment.
        """
        return seconds * (0.5 + self._in.draw())

    def is_fresh(self, cached: CachedToken) -> bool:
        """
        Whether nobody wants to replace it yet.
        """
        freshness = cached.freshness
        return freshness.now(self._in.clock(), self._in.wall_clock()) < freshness.soft_at

    def now(self) -> float:
        """
        The time by the clock of the cache.
        """
        return self._in.clock()

    def _report(self, request: TokenRequest, name: EventName, detail: str = "") -> None:
        self._events.emit(event_of(request, name, detail))


class Visit:
    """
    The way of one caller to a token; as an async context manager, the time in which it asks.

    Attributes:
        resource: What the token is for.
        subject: On whose behalf it is; empty if that is nobody.
    """

    def __init__(
        self,
        sharing: Sharing,
        store: TokenStore,
        request: TokenRequest,
        io: IO,
        usable: Callable[[CachedToken], bool],
    ) -> None:
        self._sharing = sharing
        self._store = store
        self._request = request
        self.resource, self.subject = request.resource.identifier, request.grant.subject
        self._io = io
        self._usable = usable
        self._seconds = request.server.timeout.total_seconds() + _MARGIN
        self._waits_until: float | None = None
        self._pause = _FIRST_PAUSE
        self._lost = 0.0
        self._lease: _Lease | None = None
        self._generation = Generation()
        self._last = _Found()

    async def found(self) -> CachedToken | None:
        """
        A token that another process has left, if it is of use.
        """
        found = await self._attempt(lambda: self._sharing.load(self._request))
        self._generation = self._sharing.generation(self.resource)
        self._last = found or _Found()
        if found is None and self.subject:
            self._sharing.miss()
        cached = self._last.cached
        return cached if cached is not None and self._usable(cached) else None

    @property
    def has_to_wait(self) -> bool:
        """
        Whether another process was asking when this one looked.
        """
        return self._last.leased > 0 and not self._is_over()

    async def may_ask(self, *, without: bool = True) -> bool:
        """
        Take the lease, if nobody has it.

        Args:
            without: Whether to ask while the store is away as well.
        """
        if self._is_over():
            return True
        self._lease = _Lease(partial(self._store.lease, self._request.key, self._seconds))
        taken = await self._attempt(self._lease.take, writes=True)
        return without if taken is None else taken

    async def save(self, cached: CachedToken) -> CachedToken | None:
        """
        Let the others have a token that was asked for after the last look.

        Returns:
            What they have instead, if somebody was first.
        """
        asked_at = cached.freshness.requested_at
        stored = StoredToken(
            cached.token,
            cached.freshness.requested_wall,
            self._generation,
            self._last.forgotten,
        )
        for _ in range(2):
            if self._last.mark is None:
                theirs = await self.found()
                if theirs is not None and self._sharing.is_fresh(theirs):
                    return theirs
            age = self._sharing.now() - asked_at
            saved = replace(stored, age=age, instead_of=self._last.mark)
            save = partial(self._store.save, self._request.key, saved)
            went = self._lease is not None and self._lease.tried
            if await self._attempt(save, writes=True, anyway=went):
                break
            # Something else is there, or nobody knows.
            self._last = _Found()
        return None

    async def pause(self) -> None:
        """
        Wait for whoever has the lease, for a moment.
        """
        if self._waits_until is None:
            self._waits_until = self._sharing.now() + 2 * self._seconds
        # Not for much longer than the lease lasts, if that is known.
        lasts = self._last.leased or self._pause
        await self._io.sleep(self._sharing.pause(max(_FIRST_PAUSE, min(lasts, self._pause))))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._lost = 0.0

    def _is_over(self) -> bool:
        return self._waits_until is not None and self._sharing.now() >= self._waits_until

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        release = None if self._lease is None else self._lease.end()
        # A coroutine that is thrown away cannot await: the lease ends by itself then.
        if release is not None and kind is not GeneratorExit:
            await self._attempt(release, writes=True, anyway=True, shielded=True)

    async def _attempt(
        self, work: Callable[[], T], *, writes: bool = False, **how: bool
    ) -> T | None:
        left, began = _PATIENCE - self._lost, self._sharing.now()
        if left <= 0:
            return None
        try:
            return await self._sharing.attempt(
                self._request, self._io, work, left, writes=writes, **how
            )
        finally:
            took = self._sharing.now() - began
            # Much longer than the limit is not the store: this process stood still.
            if took < left + _PATIENCE:
                self._lost += took


class _Lease:
    """
    A lease that is taken by a thread, which may outlive whoever wants it.

    Attributes:
        tried: Whether the store was asked for it.
    """

    __slots__ = ("_lock", "_over", "_release", "_take", "tried")

    def __init__(self, take: Callable[[], Callable[[], object] | None]) -> None:
        self.tried = False
        self._take = take
        self._lock = SafeLock()
        # Both guarded by _lock.
        self._release: Callable[[], object] | None = None
        self._over = False

    def take(self) -> bool:
        """
        Take it, unless somebody else has it.
        """
        self.tried = True
        release = self._take()
        with self._lock:
            over = self._over
            self._release = None if over else release
        if over and release is not None:
            release()
        return release is not None

    def end(self) -> Callable[[], object] | None:
        """
        How to give it back, if it was taken. If it is still being taken, it is given back then.
        """
        with self._lock:
            self._over = True
            release, self._release = self._release, None
        return release


_MARGIN = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_LOOK_EVERY = 5.0
_PATIENCE = 2.0
_LONGEST_ABSENCE = 30.0
