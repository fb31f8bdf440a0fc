"""
What other processes have, and what they are at.

1. A store never makes a request fail that a token request could have served: whatever it raises,
   and however long it takes, this process goes on with its own memory and its own token requests,
   says so once, and tries the store again later.
2. One process at a time asks for the token of a key: whoever has the lease. The others look again
   and again until the token is there, the lease is free, or its time is up.
3. A lease ends by itself. A process that outlives its lease does no harm: there is then one token
   request more, and the token that was asked for last is kept.
4. A token of an earlier generation is not used. Generations are looked at along with every look
   into the store, and otherwise every `_LOOK_EVERY` seconds in the background; a process that was
   idle for longer looks before it presents a token.
5. What comes out of a store is judged by the same clocks as any other token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

from cachetools import LRUCache

from resource_tokens._ask import Surroundings, event_of
from resource_tokens._io import IO
from resource_tokens._locks import SafeLock
from resource_tokens.events import EventName, Events
from resource_tokens.exceptions import ResourceTokensError
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.stores import Generation, StoredToken, TokenStore, UnreadableEntryError
from resource_tokens.tokens import CachedToken, Freshness

__all__ = ["Sharing"]

T = TypeVar("T")


class Sharing:
    """
    The store behind the memory of one cache.
    """

    def __init__(
        self,
        store: TokenStore,
        events: Events,
        surroundings: Surroundings,
        on_forgotten: Callable[[str], object],
    ) -> None:
        self._store = store
        self._events = events
        self._in = surroundings
        self._on_forgotten = on_forgotten
        self._lock = SafeLock()
        # All guarded by _lock.
        self._known: LRUCache[str, Generation] = LRUCache(4096)
        self._looked_at = surroundings.clock()
        self._look_until = 0.0
        self._failures = 0
        self._up_again_at = 0.0

    async def found(self, request: TokenRequest, io: IO) -> CachedToken | None:
        """
        The token that another process has left there, if it can still be used.
        """
        resource = request.resource.identifier
        loaded = await self._attempt(request, io, lambda: self._store.load(request.key, resource))
        if loaded is None:
            return None
        self._learn(resource, loaded.generation)
        stored = loaded.stored
        if stored is None or stored.generation != loaded.generation:
            return None
        clock, wall = self._in.clock(), self._in.wall_clock()
        age = max(0.0, wall - stored.requested_wall)
        lifetime = stored.token.expires_at.timestamp() - stored.requested_wall
        freshness = Freshness.of(
            timedelta(seconds=lifetime), clock - age, wall - age, self._in.draw
        )
        return CachedToken(stored.token, freshness) if clock < freshness.hard_at else None

    @asynccontextmanager
    async def lease(
        self, request: TokenRequest, io: IO, usable: Callable[[CachedToken], bool]
    ) -> AsyncIterator[CachedToken | None]:
        """
        A usable token that has come meanwhile, or the right to ask for one.
        """
        seconds = request.server.timeout.total_seconds() + _MARGIN
        ends_at = self._in.clock() + seconds
        pause = _FIRST_PAUSE
        while True:
            lease = await self._attempt(
                request, io, lambda: _Lease(self._store.lease(request.key, seconds))
            )
            # Again: whoever had the lease may have saved a token since the last look.
            found = await self.found(request, io)
            if found is not None and not usable(found):
                found = None
            # Without the store, each process asks for itself.
            if found or lease is None or lease.release or self._in.clock() >= ends_at:
                break
            await io.sleep(pause * (0.5 + self._in.draw()))
            pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            yield found
        finally:
            if lease is not None and lease.release is not None:
                await self._attempt(request, io, lease.release, shielded=True)

    async def save(
        self, request: TokenRequest, cached: CachedToken, generation: Generation, io: IO
    ) -> None:
        """
        Let the others have a token that was asked for in a generation.
        """
        stored = StoredToken(cached.token, cached.freshness.requested_wall, generation)
        await self._attempt(request, io, lambda: self._store.save(request.key, stored))

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
        return now >= self._looked_at + 2 * _LOOK_EVERY and now >= self._up_again_at

    def claim_look(self, now: float) -> bool:
        """
        Whether it is time to look for them in the background, and nobody else is at it.
        """
        if now < self._looked_at + _LOOK_EVERY or now < self._up_again_at:
            return False
        with self._lock:
            mine = now >= self._look_until
            if mine:
                self._look_until = now + 2 * _PATIENCE
        return mine

    async def look(self, request: TokenRequest, io: IO, resources: set[str]) -> None:
        """
        Look for new generations.

        Args:
            request: What made it due.
            io: How to wait.
            resources: Those that there are tokens of.
        """
        named, now = sorted(resources), self._in.clock()
        found = await self._attempt(request, io, lambda: self._store.generations(named))
        if found is not None:
            with self._lock:
                self._looked_at = now
            for resource, generation in zip(named, found, strict=True):
                self._learn(resource, generation)

    def _learn(self, resource: str, generation: Generation) -> None:
        with self._lock:
            known = self._known.get(resource, Generation())
            self._known[resource] = generation
        if known != generation:
            self._on_forgotten(resource)

    async def forget(self, resource: str | None, io: IO) -> None:
        """
        Let all others forget the tokens of a resource, or of all.

        Raises:
            ResourceTokensError: If that did not work. Whoever forgets has to know.
        """
        failure = ""
        try:
            await io.run(lambda: self._store.forget(resource), _PATIENCE)
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            failure = type(error).__name__
        if failure:
            raise ResourceTokensError(
                f"The tokens of {resource or 'all resources'!r} were dropped here, but the shared "
                f"store could not be told ({failure}), so other processes go on using theirs. Call "
                "forget() again when the store is back."
            )

    async def _attempt(
        self,
        request: TokenRequest,
        io: IO,
        work: Callable[[], T],
        *,
        shielded: bool = False,
    ) -> T | None:
        """
        Do something with the store; `None` if it fails (rule 1).
        """
        with self._lock:
            if self._in.clock() < self._up_again_at:
                return None
        try:
            result = await io.run(work, _PATIENCE, shielded=shielded)
        except UnreadableEntryError as error:
            self._report(request, "store_failed", str(error))
            return None
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            failure = type(error).__name__
        else:
            with self._lock:
                recovered, self._failures = self._failures > 0, 0
            if recovered:
                self._report(request, "store_recovered")
            return result
        with self._lock:
            self._failures += 1
            first = self._failures == 1
            pause = min(2.0 ** (self._failures - 1), _LONGEST_ABSENCE) * (0.5 + self._in.draw())
            self._up_again_at = self._in.clock() + pause
        if first:
            self._report(request, "store_failed", failure)
        return None

    def _report(self, request: TokenRequest, name: EventName, detail: str = "") -> None:
        self._events.emit(event_of(request, name, detail))


class _Lease(NamedTuple):
    """
    An answer of the store: how to give the lease back, if it was given.
    """

    release: Callable[[], object] | None


_MARGIN = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
_LOOK_EVERY = 5.0
_PATIENCE = 2.0
_LONGEST_ABSENCE = 30.0
