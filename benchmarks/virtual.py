"""
A fleet in virtual time: the real engine of each worker, and around it a store, an authorization
server, clocks and a network that do what they are told.

Each thing that a worker does at the same time as others runs in a greenlet of its own, and goes on
when the time has come that it waits for. So hours of thousands of workers take seconds, and the
same seed gives the same run.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenEvent
from resource_tokens._acquire import Acquirer
from resource_tokens._ask import Surroundings
from resource_tokens._io import run_to_end
from resource_tokens.egress import Bindings
from resource_tokens.events import Events
from resource_tokens.oauth.grants import ClientCredentials
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource
from resource_tokens.stores import (
    Generation,
    Loaded,
    MemoryTokenStore,
    News,
    StoredToken,
    TokenStore,
)
from resource_tokens.tokens import CachedToken, TokenKey

__all__ = ["Fate", "Issue", "SharedStore", "Time", "Worker", "World"]

T = TypeVar("T")
EPOCH = 1.7e9
ENDPOINT = AuthorizationServer(token_endpoint="https://login.example.com/token")
RESOURCE = Resource("urn:example:orders")
REQUEST = TokenRequest(
    ENDPOINT, ClientSecretBasic("worker", "secret"), ClientCredentials(), RESOURCE, frozenset()
)


class Time:
    """
    What happens when.

    Attributes:
        now: The true time, in seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._todo: list[tuple[float, int, Callable[[], object]]] = []
        self._cancelled: set[int] = set()
        self._number = 0
        self._hub = getcurrent()

    def at(self, when: float, work: Callable[[], object]) -> int:
        """
        Call this then, on no greenlet in particular; a number to cancel it by.
        """
        self._number += 1
        heapq.heappush(self._todo, (max(when, self.now), self._number, work))
        return self._number

    def cancel(self, number: int) -> None:
        """
        Do not call that after all.
        """
        self._cancelled.add(number)

    def start(self, work: Callable[[], object], when: float | None = None) -> greenlet:
        """
        Run this beside everything else, from then on.
        """
        task = greenlet(work, self._hub)
        self.at(self.now if when is None else when, task.switch)
        return task

    def run(self, until: float = float("inf")) -> None:
        """
        Let time pass, until then or until nothing is left to happen.
        """
        self._hub = getcurrent()
        while self._todo and self._todo[0][0] <= until:
            when, number, work = heapq.heappop(self._todo)
            if number in self._cancelled:
                self._cancelled.discard(number)
                continue
            self.now = when
            work()
        if until < float("inf"):
            self.now = until

    def yield_(self) -> None:
        """
        Let others go on; back when somebody switches to this greenlet.
        """
        self._hub.switch()


@dataclass(frozen=True, slots=True)
class Fate:
    """
    What becomes of one exchange with the store.

    Attributes:
        takes: Seconds until the answer is there; half of them until it is done.
        raises: What comes instead of the answer.
        done: Whether the store does it all the same.
    """

    takes: float = 0.001
    raises: Exception | None = None
    done: bool = True


@dataclass(frozen=True, slots=True)
class Issue:
    """
    A token request that was answered.
    """

    number: int
    asked_at: float
    worker: int


class SharedStore:
    """
    A `TokenStore` in virtual time, with a clock of its own, which is the true one.

    Attributes:
        steps: How often each method was called, by name.
        ran_out: How many leases were taken after one that nobody has given back.
        caller: The worker that is about to call a method.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self.steps: Counter[str] = Counter()
        self.ran_out = 0
        self.caller: Worker | None = None
        self._time = time
        self._entries: dict[TokenKey, tuple[float, StoredToken, bytes]] = {}
        self._leases: dict[TokenKey, tuple[object, float, Worker | None]] = {}
        self._generations: Counter[str | None] = Counter()
        self._journal: dict[tuple[str | None, bytes], int] = {}

    def load(self, key: TokenKey, resource: str, subject: bytes = b"") -> Loaded:
        self.steps["load"] += 1
        generation = self._generation(resource)
        there, leased = self._there(key), max(0.0, self._leased_until(key) - self._time())
        journal = (self._forgotten(0, resource, subject), self._position()) if subject else (0, 0)
        if there is None:
            return Loaded(None, generation, b"", leased, *journal)
        asked_at, stored, mark = there
        aged = replace(stored, age=self._time() - asked_at)
        return Loaded(aged, generation, mark, leased, *journal)

    def save(self, key: TokenKey, stored: StoredToken) -> bool:
        self.steps["save"] += 1
        asked_at, there = self._time() - stored.age, self._there(key)
        if there is not None and (
            asked_at < there[0] if stored.instead_of is None else stored.instead_of != there[2]
        ):
            return False
        self._entries[key] = (asked_at, stored, str(self.steps["save"]).encode())
        return True

    def lease(self, key: TokenKey, seconds: float) -> Callable[[], object] | None:
        self.steps["lease"] += 1
        if self.leased(key):
            return None
        self.ran_out += key in self._leases
        mine = object()
        self._leases[key] = (mine, self._time() + seconds, self.caller)

        def release() -> None:
            self.steps["release"] += 1
            if key in self._leases and self._leases[key][0] is mine:
                del self._leases[key]

        return release

    def news(self, resources: list[str], since: int | None = None) -> News:
        self.steps["news"] += 1
        generations = [self._generation(resource) for resource in resources]
        if since is None:
            return News(generations)
        self.steps["journal"] += 1
        return News(generations, self._position(), partial(self._forgotten, since))

    def forget(self, resource: str | None, subject: bytes = b"") -> int:
        self.steps["forget"] += 1
        if not subject:
            self._generations[resource] += 1
            return 0
        place = self._position() + 1
        self._journal[resource, subject] = place
        return place

    def leased(self, key: TokenKey) -> bool:
        """
        Whether somebody has the lease of a key.
        """
        return self._time() < self._leased_until(key)

    def holder(self, key: TokenKey) -> Worker | None:
        """
        Who has it.
        """
        return self._leases[key][2] if self.leased(key) else None

    def flush(self) -> None:
        """
        Lose everything.
        """
        self._entries.clear()
        self._leases.clear()
        self._generations.clear()
        self._journal.clear()

    def _position(self) -> int:
        return max(self._journal.values(), default=0)

    def _forgotten(self, since: int, resource: str, subject: bytes) -> int:
        place = max(self._journal.get((of, subject), 0) for of in (None, resource))
        return place if place > since else 0

    def _generation(self, resource: str) -> Generation:
        return Generation(self._generations[None], self._generations[resource])

    def _leased_until(self, key: TokenKey) -> float:
        return self._leases[key][1] if key in self._leases else float("-inf")

    def _there(self, key: TokenKey) -> tuple[float, StoredToken, bytes] | None:
        there = self._entries.get(key)
        if there is None or self._time() - there[0] >= there[1].lifetime:
            return None
        return there


class World:
    """
    The time, the store, the authorization server, and what has become of it all.

    Args:
        seed: Of everything that is drawn.
        lifetime: Of the tokens, in seconds.
        answer_after: Seconds that a token request takes.
        shared: Whether the workers share a store.

    Attributes:
        fate: What becomes of each exchange of a worker with the store.
        answer: What comes instead of a token: a body, a status, or something to raise.
        issued: Each token request that was answered with a token.
        asked: The time of each token request.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        lifetime: float = 3600.0,
        answer_after: float = 0.2,
        shared: bool = True,
    ) -> None:
        self.time = Time()
        self.random = random.Random(seed)
        self.lifetime = lifetime
        self.answer_after = answer_after
        self.store = SharedStore(lambda: self.time.now)
        self.shared = shared
        self.fate: Callable[[Worker], Fate] = lambda _: Fate()
        self.answer: Callable[[], dict[str, Any]] = dict
        self.issued: list[Issue] = []
        self.asked: list[float] = []

    def worker(self, **options: Any) -> Worker:
        """
        One more of them.
        """
        return Worker(self, **options)


@dataclass(eq=False)
class Worker:
    """
    A process with a cache of its own.

    Attributes:
        skew: How far its wall clock is ahead.
        drift: How much faster its clocks are, as a share.
        draw: What it draws instead of something at random.
        held_until: Until when it stands still, as under a debugger.
        dead: Whether it was killed.
    """

    world: World
    skew: float = 0.0
    drift: float = 0.0
    draw: float | None = None
    held_until: float = 0.0
    dead: bool = False
    events: list[TokenEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = MemoryTokenStore()
        surroundings = Surroundings(self.clock, self.wall_clock, self._drawn, self._spawn)
        store: TokenStore | None = self.world.store if self.world.shared else None
        self.acquirer = Acquirer(
            self.memory,
            Bindings(),
            Events(self.events.append),
            surroundings,
            frozenset(),
            store=store,
        )
        self.io: Any = _Network(self)
        # A refresh ahead uses the engine's own.
        self.acquirer._background = self.io  # type: ignore[assignment]  # of the same shape
        self._tasks: list[greenlet] = []

    def clock(self) -> float:
        """
        What it takes for the time.
        """
        return 1000.0 + self.world.time.now * (1 + self.drift)

    def wall_clock(self) -> float:
        """
        The same since the epoch.
        """
        return EPOCH + self.skew + self.world.time.now * (1 + self.drift)

    def get(self, request: TokenRequest = REQUEST, min_ttl: float = 0.0) -> CachedToken:
        """
        A token as a caller gets it, who waits for it in virtual time.
        """
        cached = self.acquirer.cached(request, min_ttl)
        return cached or run_to_end(self.acquirer.acquire(request, self.io, min_ttl))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """
        The outcome of anything else that the engine does.
        """
        return run_to_end(coroutine)

    def kill(self) -> None:
        """
        End it in the middle of whatever it is at.
        """
        self.dead = True

    def names(self) -> list[str]:
        """
        The events so far.
        """
        return [event.name for event in self.events]

    def wake(self, task: greenlet) -> None:
        """
        Go on with a task, unless this is dead, or stands still.
        """
        if self.world.time.now < self.held_until:
            self.world.time.at(self.held_until, lambda: self.wake(task))
        elif not self.dead:
            task.switch()

    def _drawn(self) -> float:
        return self.world.random.random() if self.draw is None else self.draw

    def _spawn(self, work: Callable[[], None]) -> None:
        self.world.time.start(work)


class _Network:
    """
    The I/O of one worker: what takes time lets the others go on.
    """

    blocking = False

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._world = worker.world

    async def send(
        self, _request: HTTPRequest, _server: AuthorizationServer, _limit: float
    ) -> HTTPAnswer:
        world = self._world
        asked_at = world.time.now
        world.asked.append(asked_at)
        step = world.answer()
        status = step.pop("status", 200)
        if status == 200:
            issue = Issue(len(world.issued) + 1, asked_at, id(self._worker))
            world.issued.append(issue)
            usual = {
                "access_token": f"token-{issue.number}",
                "token_type": "Bearer",
                "expires_in": world.lifetime,
            }
            step = usual | step
        self._sleep(world.answer_after)
        return HTTPAnswer(status, {}, json.dumps(step).encode())

    async def sleep(self, seconds: float) -> None:
        self._sleep(seconds)

    async def run(self, work: Callable[[], T], limit: float, *, shielded: bool = False) -> T:  # noqa: ARG002
        if self._worker.dead:
            # What is left of it is cleared away, and must not change anything.
            raise GreenletExit
        fate = self._world.fate(self._worker)
        outcome: list[T | Exception] = []

        def done() -> None:
            self._world.store.caller = self._worker
            try:
                outcome.append(work())
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                outcome.append(error)

        if fate.takes > limit:
            # It goes on behind the back of who has waited for it.
            if fate.done:
                self._world.time.at(self._world.time.now + fate.takes / 2, done)
            self._sleep(limit)
            raise TimeoutError
        self._sleep(fate.takes / 2)
        if fate.done:
            done()
        self._sleep(fate.takes / 2)
        if fate.raises is not None:
            raise fate.raises
        (result,) = outcome
        if isinstance(result, Exception):
            raise result
        return result

    async def wait(self, future: Future[Any], limit: float) -> None:
        if future.done():
            return
        task, time = getcurrent(), self._world.time
        too_late = time.at(time.now + limit, lambda: self._worker.wake(task))

        def wake(_: object) -> None:
            if waiting:
                time.cancel(too_late)
                time.at(time.now, lambda: self._worker.wake(task))

        waiting = [True]
        future.add_done_callback(wake)
        time.yield_()
        waiting.clear()

    def _sleep(self, seconds: float) -> None:
        if self._worker.dead:
            raise GreenletExit
        task = getcurrent()
        self._world.time.at(self._world.time.now + seconds, lambda: self._worker.wake(task))
        self._world.time.yield_()
