"""
What many processes do with one store, in virtual time: the rules of `_sharing.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from benchmarks.virtual import REQUEST, RESOURCE, Fate, SharedStore, Worker, World
from resource_tokens import OAuthError, Resource, ResourceTokensError, TokenRequestError
from resource_tokens._acquire import Acquirer
from resource_tokens._ask import Surroundings
from resource_tokens._io import AsyncIO, BlockingIO, run_to_end
from resource_tokens.egress import Bindings
from resource_tokens.events import Events
from resource_tokens.stores import (
    Generation,
    Loaded,
    MemoryTokenStore,
    News,
    StoredToken,
    UnreadableEntryError,
)
from resource_tokens.tokens import CachedToken, TokenKey
from tests.test_tokens import asked

LEASE = 15.0
PATIENCE = 2.0


@pytest.fixture
def world() -> World:
    return World()


def fails_in(method: str, error: Exception, world: World) -> None:
    """
    From now on this method of the store raises.
    """

    def failing(*_: object) -> Any:
        raise error

    setattr(world.store, method, failing)


def together(world: World, workers: list[Worker]) -> list[CachedToken]:
    """
    All ask at the same time; what they got, in the order in which they got it.
    """
    got: list[CachedToken] = []
    for worker in workers:
        world.time.start(lambda worker=worker: got.append(worker.get()))  # type: ignore[misc]
    world.time.run()
    return got


def alone(world: World, work: Callable[[], Any]) -> Any:
    """
    The outcome of something that takes its time.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:  # noqa: BLE001 - raised below
            outcome.set_exception(error)

    world.time.start(run)
    world.time.run()
    return outcome.result(0)


# 1: a store costs nobody a token.


@pytest.mark.parametrize("method", ["load", "lease", "save"])
@pytest.mark.parametrize("error", [ConnectionError("gone"), ValueError("what is this"), KeyError()])
def test_a_store_that_raises_costs_no_token(world: World, method: str, error: Exception) -> None:
    """
    Rule 1: whatever it raises, wherever; it is said once, without what may be in its words.
    """
    worker = world.worker(draw=0.5)
    fails_in(method, error, world)
    for number in range(3):
        request = asked(server=REQUEST.server, resource=Resource(f"urn:x:{number}"))
        assert f"token-{number + 1}" == alone(world, partial(worker.get, request)).token.reveal()

    failures = [event.detail for event in worker.events if event.name == "store_failed"]
    assert [type(error).__name__] == failures


def test_a_store_that_is_back_is_used_again(world: World) -> None:
    """
    Rule 1: after about 1, 2, 4 ... 30 seconds, and it is said once.
    """
    worker = world.worker(draw=0.5)
    # Or else the store is looked into once more before the token is saved.
    world.answer_after = 0.0
    load, tries = world.store.load, list[float]()

    def failing(*_: object) -> Loaded:
        tries.append(world.time.now)
        raise ConnectionError

    world.store.load = failing  # type: ignore[method-assign,assignment]
    for half in range(300):
        world.time.run(half / 2)
        worker.memory.forget(lambda _: True)
        alone(world, worker.get)
    assert [0, 1.5, 4, 8.5, 17, 33.5, 64, 94.5, 125] == pytest.approx(tries, abs=0.01)

    world.store.load = load  # type: ignore[method-assign]
    world.time.run(200)
    worker.memory.forget(lambda _: True)
    alone(world, worker.get)
    names = [name for name in worker.names() if name.startswith("store")]
    assert ["store_failed", "store_recovered"] == names


def test_a_store_that_cannot_be_written_is_read(world: World) -> None:
    """
    Rule 1: a read-only replica, or a full one. Writing is tried again later, and said once.
    """
    other, worker = world.worker(), world.worker(draw=0.5)
    alone(world, other.get)
    fails_in("lease", ConnectionError(), world)
    fails_in("save", ConnectionError(), world)

    requests = [asked(server=REQUEST.server, resource=Resource(f"urn:x:{n}")) for n in range(5)]
    for request in requests:
        alone(world, partial(worker.get, request))
    assert "token-1" == alone(world, worker.get).token.reveal()
    assert 1 == worker.names().count("store_failed")
    assert "store_recovered" not in worker.names()
    assert "token_loaded" == worker.names()[-1]


def test_all_who_were_at_it_when_it_failed_are_one_failure(world: World) -> None:
    """
    Rule 1: fifty at once do not make it stay away for as long as fifty in a row would.
    """
    worker = world.worker(draw=0.5)
    requests = [asked(server=REQUEST.server, resource=Resource(f"urn:x:{n}")) for n in range(50)]
    world.fate = lambda _: Fate(takes=0.1, raises=ConnectionError(), done=False)
    for request in requests:
        world.time.start(partial(worker.get, request))
    world.time.run(0.5)
    sharing = worker.acquirer._sharing
    assert sharing is not None

    assert 1 == sharing._reading.failures
    assert 1.1 == pytest.approx(sharing._reading.again_at - 1000)
    world.time.run()
    assert 1 == worker.names().count("store_failed")
    assert 50 == len(world.issued)


def test_one_tries_a_store_again_while_the_others_go_on(world: World) -> None:
    """
    Rule 1: a store that hangs does not cost everybody its patience each time.
    """
    worker = world.worker(draw=0.5)
    world.fate = lambda _: Fate(takes=60, done=False)
    alone(world, worker.get)
    began = world.time.now + 2
    took: list[float] = []

    def get(number: int) -> None:
        worker.get(asked(server=REQUEST.server, resource=Resource(f"urn:x:{number}")))
        took.append(world.time.now - began)

    for number in range(4):
        world.time.start(partial(get, number), began)
    world.time.run()
    assert [0.2, 0.2, 0.2, 2.2] == pytest.approx(took)


@pytest.mark.parametrize("takes", [0.1, 0.9, 1.9, 2.1, 60])
def test_a_slow_store_costs_a_caller_two_seconds_at_most(world: World, takes: float) -> None:
    """
    Rule 1: in all, however many steps there are.
    """
    worker = world.worker()
    world.fate = lambda _: Fate(takes=takes)

    ended = alone(world, lambda: (worker.get(), world.time.now)[1])

    assert "token_issued" in worker.names()
    assert ended <= PATIENCE + world.answer_after + 0.001


def test_what_cannot_be_opened_is_said_once(world: World) -> None:
    """
    Rule 1: for each entry, until it could be opened; the store itself is well.
    """
    worker = world.worker()
    load = world.store.load

    def unreadable(*_: object) -> Loaded:
        world.store.steps["load"] += 1
        raise UnreadableEntryError("It cannot be opened.")

    world.store.load = unreadable  # type: ignore[method-assign,assignment]
    for _ in range(3):
        worker.memory.forget(lambda _: True)
        alone(world, worker.get)
    assert ["store_failed", *["token_issued"] * 3] == worker.names()
    assert "It cannot be opened." == worker.events[0].detail
    assert 3 == world.store.steps["save"]

    world.store.load = load  # type: ignore[method-assign]
    worker.memory.forget(lambda _: True)
    alone(world, worker.get)
    world.store.load = unreadable  # type: ignore[method-assign,assignment]
    worker.memory.forget(lambda _: True)
    alone(world, worker.get)
    assert ["token_loaded", "store_failed", "token_issued"] == worker.names()[4:]


def test_a_success_from_before_a_failure_says_nothing(world: World) -> None:
    """
    Rule 1: what has begun while the store was well, and ended after it failed, is no recovery.
    """
    worker = world.worker(draw=0.5)
    fates = [Fate(takes=1.0), Fate(takes=0.1, raises=ConnectionError(), done=False)]
    world.fate = lambda _: fates.pop(0) if fates else Fate()
    for number in range(2):
        request = asked(server=REQUEST.server, resource=Resource(f"urn:x:{number}"))
        world.time.start(partial(worker.get, request))
    world.time.run(1.05)

    assert "store_failed" in worker.names()
    assert "store_recovered" not in worker.names()


# 2: one asks, the others wait.


def test_one_worker_asks_and_all_have_the_token(world: World) -> None:
    """
    Rule 2: however many come at once.
    """
    workers = [world.worker() for _ in range(50)]

    got = together(world, workers)

    assert ["token-1"] * 50 == [cached.token.reveal() for cached in got]
    assert 1 == len(world.asked)
    assert world.time.now < 1


def test_a_leader_that_fails_is_followed_at_once(world: World) -> None:
    """
    Rule 2: it gives its lease back; the next one asks, and who failed says so.
    """
    answers = [{"status": 400, "error": "invalid_scope"}]
    world.answer = lambda: answers.pop() if answers else {}
    refused = []
    workers = [world.worker() for _ in range(5)]

    def get(worker: Worker) -> None:
        try:
            worker.get()
        except OAuthError as error:
            refused.append(error)

    for worker in workers:
        world.time.start(partial(get, worker))
    world.time.run()

    assert 1 == len(refused)
    assert 2 == len(world.asked)
    assert world.time.now < 1.5


@pytest.mark.parametrize("number", [2, 100])
def test_a_leader_that_is_killed_costs_its_lease(world: World, number: int) -> None:
    """
    Rule 2: nobody waits longer, and one of the others asks for all.
    """
    leader, *others = [world.worker() for _ in range(number)]
    world.time.start(leader.get)
    world.time.at(0.1, leader.kill)

    got = []
    for worker in others:
        world.time.start(lambda worker=worker: got.append(worker.get()), 0.05)  # type: ignore[misc]
    world.time.run()

    assert 2 == len(world.asked)
    assert number - 1 == len(got)
    assert LEASE <= world.time.now < LEASE + 2


def test_after_two_leases_everybody_asks_for_themselves(world: World) -> None:
    """
    Rules 1 and 2: whoever keeps a lease for ever keeps nobody from a token.
    """
    world.store.lease = lambda *_: None  # type: ignore[method-assign]
    worker = world.worker()
    alone(world, worker.get)

    assert 2 * LEASE <= world.issued[0].asked_at < 2 * LEASE + 1


def test_whoever_waits_for_others_has_no_turn(world: World) -> None:
    """
    Rule 2: four keys that a dead process has the leases of do not stop the fifth.
    """
    requests = [asked(server=REQUEST.server, resource=Resource(f"urn:x:{n}")) for n in range(5)]
    dead, worker = world.worker(), world.worker()
    for request in requests[:4]:
        world.time.start(partial(dead.get, request))
    world.time.at(0.1, dead.kill)
    for request in requests[:4]:
        world.time.start(partial(worker.get, request), 0.2)
    ended: list[float] = []

    def get_and_note() -> None:
        worker.get(requests[4])
        ended.append(world.time.now)

    world.time.start(get_and_note, 0.5)
    world.time.run()

    assert 0.9 > ended[0]


def test_a_refresh_ahead_does_not_wait_for_others(world: World) -> None:
    """
    Rule 2: nobody waits for it. It is tried again a second later, and has no turn meanwhile.
    """
    one, two = world.worker(draw=0.0), world.worker(draw=0.0)
    together(world, [one, two])
    world.time.run(3400)
    world.answer_after = 3.0
    world.store.steps.clear()
    for tenth in range(60):
        for worker in (one, two):
            world.time.start(worker.get, 3400 + tenth / 10)
    world.time.run(3402)
    assert 1 == sum(len(worker.acquirer._asker._turns._queues) for worker in (one, two))
    world.time.run()

    assert 2 == len(world.asked)
    assert 10 >= world.store.steps["lease"]
    assert ["token_loaded", "token_refreshed"] == sorted([one.names()[-1], two.names()[-1]])


def test_a_caller_who_joins_a_refresh_ahead_that_came_to_nothing_asks(world: World) -> None:
    """
    Rule 2: what has given way to another process is no token.
    """
    worker, other = world.worker(draw=0.0), world.worker(draw=0.0)
    together(world, [worker, other])
    world.time.run(3569)
    other_release = world.store.lease(REQUEST.key, 100)
    world.fate = lambda _: Fate(takes=1.5)
    worker.get()
    world.time.run(3570.5)
    got: list[CachedToken] = []
    world.time.start(lambda: got.append(worker.get()))
    assert other_release is not None
    world.time.at(3572, other_release)
    world.time.run()

    assert "token-2" == got[0].token.reveal()


@pytest.mark.parametrize(("back_after", "asked"), [(120, 1), (600, 20)])
def test_a_short_outage_costs_a_fleet_no_token_requests(
    world: World, back_after: float, asked: int
) -> None:
    """
    Rule 1: refreshes ahead wait for the store in the first half of their window. After that, each
    process asks for itself, before its token ends.
    """
    workers = [world.worker() for _ in range(20)]
    together(world, workers)
    world.time.run(3190)
    down = Fate(takes=0.01, raises=ConnectionError(), done=False)
    world.time.at(3235, lambda: setattr(world, "fate", lambda _: down))
    world.time.at(3235 + back_after, lambda: setattr(world, "fate", lambda _: Fate()))
    waited = []

    def get(worker: Worker) -> None:
        began = world.time.now
        worker.get()
        waited.append(world.time.now - began)

    for second in range(3200, 3900, 4):
        for worker in workers:
            world.time.start(partial(get, worker), float(second) + world.random.random())
    world.time.run()

    assert asked == len(world.asked) - 1
    assert [0] * len(waited) == waited[20:] + [0] * 20


def test_a_soft_refresh_is_one_for_all(world: World) -> None:
    """
    Rule 2: over many lifetimes, one token request each.
    """
    workers = [world.worker() for _ in range(20)]
    for second in range(0, 4 * 3600, 30):
        for worker in workers:
            world.time.start(worker.get, float(second) + world.random.random())
    world.time.run()

    assert 5 == len(world.asked)


def test_a_token_that_does_not_live_for_long_enough_is_replaced_for_all(world: World) -> None:
    """
    Rule 2: `min_ttl` holds for what others have left, too.
    """
    one, two = world.worker(), world.worker()
    alone(world, one.get)
    world.time.run(1000)

    assert "token-2" == alone(world, partial(two.get, min_ttl=3000)).token.reveal()
    assert "token-2" == alone(world, partial(one.get, min_ttl=3000)).token.reveal()
    with pytest.raises(TokenRequestError, match="min_ttl"):
        alone(world, partial(one.get, min_ttl=4000))


def test_a_rejected_token_is_renewed_once_for_all(world: World) -> None:
    """
    P8: who is refused after that takes the new one.
    """
    workers = [world.worker() for _ in range(10)]
    rejected = together(world, workers)[0].token
    for worker in workers:
        renewing = worker.acquirer.renew(REQUEST, rejected, worker.io)
        renewed = alone(world, partial(worker.run, renewing))
        assert "token-2" == renewed.token.reveal()


# 3: leases end.


def test_whoever_outlives_its_lease_takes_what_was_asked_for_later(world: World) -> None:
    """
    Rule 3: one token request more, and one token in the end.
    """
    slow, quick = world.worker(), world.worker()
    got: dict[str, str] = {}
    world.time.start(lambda: got.update(slow=slow.get().token.reveal()))
    # Its request is on the way.
    world.time.at(0.1, lambda: setattr(slow, "held_until", 40.0))
    world.time.start(lambda: got.update(quick=quick.get().token.reveal()), 0.2)
    world.time.run()

    assert 2 == len(world.asked)
    assert {"quick": "token-2", "slow": "token-2"} == got
    assert "token_issued" == slow.names()[-1]
    assert "token-2" == slow.get().token.reveal()


def test_whoever_asks_after_its_lease_takes_what_was_saved_first(world: World) -> None:
    """
    Rule 3: its token is the younger one, and still none that others would see beside theirs.
    """
    slow, quick = world.worker(), world.worker()
    got: dict[str, str] = {}
    world.time.start(lambda: got.update(slow=slow.get().token.reveal()))
    # It has the lease, has looked once more, and has not asked yet.
    world.time.at(0.0027, lambda: setattr(slow, "held_until", 40.0))
    world.time.start(lambda: got.update(quick=quick.get().token.reveal()), 0.2)
    world.time.run()

    assert [pytest.approx(LEASE, abs=2), 40] == [issue.asked_at for issue in world.issued]
    assert {"quick": "token-1", "slow": "token-1"} == got
    assert "token-1" == alone(world, world.worker().get).token.reveal()


def test_a_token_that_nobody_uses_any_more_is_replaced_late(world: World) -> None:
    """
    Rule 3: what was saved first is forgotten when whoever outlived its lease has a token.
    """
    slow, quick = world.worker(), world.worker()
    got: dict[str, str] = {}
    world.time.start(lambda: got.update(slow=slow.get().token.reveal()))
    world.time.at(0.0027, lambda: setattr(slow, "held_until", 40.0))
    world.time.start(lambda: got.update(quick=quick.get().token.reveal()), 0.2)
    world.time.at(39, lambda: world.store.forget(RESOURCE.identifier))
    world.time.run()

    # It has asked before it knew of that, as far as it can tell, so others ask once more.
    assert {"quick": "token-1", "slow": "token-2"} == got
    assert "token-3" == alone(world, world.worker().get).token.reveal()


def test_whoever_asked_while_the_store_was_away_takes_what_others_use(world: World) -> None:
    """
    Rules 1 and 3: its own token is thrown away if the store is back by then.
    """
    alone(world, world.worker().get)
    worker = world.worker(draw=0.0)
    world.fate = lambda _: Fate(takes=0.1, raises=ConnectionError(), done=False)
    world.time.at(0.75, lambda: setattr(world, "fate", lambda _: Fate()))
    world.answer_after = 1.0

    assert "token-1" == alone(world, worker.get).token.reveal()
    assert 2 == len(world.asked)


def test_what_was_asked_for_later_can_be_gone_again(world: World) -> None:
    """
    Rule 3: then the own token is as good.
    """
    worker = world.worker()
    world.store.save = lambda *_: False  # type: ignore[method-assign]

    assert "token-1" == alone(world, worker.get).token.reveal()


def real(store: SharedStore) -> Acquirer:
    """
    An engine in the real time.
    """
    surroundings = Surroundings(lambda: 1000.0, lambda: 1e9, lambda: 0.0)
    return Acquirer(
        MemoryTokenStore(),
        Bindings(),
        Events(None),
        surroundings,
        frozenset(),
        store=store,
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("where", ["asking", "taking"])
def test_a_leader_that_is_cancelled_gives_its_lease_back(backend: str, where: str) -> None:
    """
    Rule 3: in the middle of its request; or while the lease is being taken, by the thread that
    takes it.
    """
    import threading

    store = SharedStore(lambda: 0.0)
    reached, go_on, given_back = threading.Event(), threading.Event(), threading.Event()
    take = store.lease

    def lease(key: TokenKey, seconds: float) -> Callable[[], object] | None:
        if where == "taking":
            reached.set()
            go_on.wait(10)
        release = take(key, seconds)
        assert release is not None

        def give_back() -> None:
            release()
            given_back.set()

        return give_back

    store.lease = lease  # type: ignore[method-assign]
    acquirer, io = real(store), AsyncIO()

    async def send(*_: object) -> Any:
        reached.set()
        await anyio.sleep_forever()

    io.send = send  # type: ignore[method-assign,assignment]

    async def cancelled() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(acquirer.acquire, REQUEST, io)
            await anyio.to_thread.run_sync(reached.wait, 10)
            group.cancel_scope.cancel()
        go_on.set()
        await anyio.to_thread.run_sync(given_back.wait, 10)

    anyio.run(cancelled, backend=backend)
    assert given_back.is_set()
    assert not store.leased(REQUEST.key)


def test_a_coroutine_that_is_thrown_away_leaves_its_lease_to_end() -> None:
    """
    Rule 3: its event loop is gone, so nothing can be awaited; and no warning says otherwise.
    """
    store = SharedStore(lambda: 0.0)
    acquirer = real(store)

    class Suspends:
        def __await__(self) -> Any:
            yield

    class Suspending(BlockingIO):
        async def send(self, *_: object) -> Any:
            await Suspends()

    coroutine = acquirer.acquire(REQUEST, Suspending())
    coroutine.send(None)
    coroutine.close()

    assert store.leased(REQUEST.key)


def test_a_lease_that_is_refused_after_all_is_nothing_to_give_back() -> None:
    """
    Rule 3: the caller has gone, and the store has said no.
    """
    from resource_tokens._sharing import _Lease

    lease = _Lease(lambda: None)
    assert lease.end() is None

    assert not lease.take()
    assert lease.end() is None


# 4: generations.


def test_forget_reaches_everybody_within_five_seconds(world: World) -> None:
    """
    Rule 4: in the background where requests come, and before a token is presented where none did.
    """
    one, two, idle = (world.worker() for _ in range(3))
    together(world, [one, two, idle])
    for second in range(1, 20):
        world.time.start(one.get, float(second))
        world.time.start(two.get, float(second))
    world.time.run(6.5)
    alone_forgets(world, one)
    seen: list[tuple[float, str]] = []
    for tenth in range(70, 130):
        world.time.start(
            lambda: seen.append((world.time.now, two.get().token.reveal())), tenth / 10
        )
    world.time.start(lambda: seen.append((world.time.now, idle.get().token.reveal())), 30.0)
    world.time.run()

    last_use = max(when for when, token in seen if token == "token-1")
    assert last_use <= 6.5 + 5.1
    assert "token-2" == seen[-1][1]
    assert 2 == len(world.issued)


def alone_forgets(world: World, worker: Worker, resource: str | None = None) -> None:
    world.time.start(lambda: worker.run(worker.acquirer.forget(resource, worker.io)))
    world.time.run(world.time.now + 0.1)


def test_forget_that_fails_is_an_error(world: World) -> None:
    """
    Whoever forgets has to know; the words of the store are not passed on.
    """
    worker = world.worker()
    fails_in("forget", ConnectionError("redis://user:password@host"), world)

    with pytest.raises(
        ResourceTokensError, match=r"could not be told \(ConnectionError\)"
    ) as caught:
        alone(world, lambda: worker.run(worker.acquirer.forget("urn:x:a", worker.io)))
    assert "password" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_a_token_that_was_asked_for_before_is_not_used_after(world: World) -> None:
    """
    Rule 4: the leader has begun before `forget`, and saves after it.
    """
    leader, other = world.worker(), world.worker()
    got: list[str] = []
    world.time.start(lambda: got.append(leader.get().token.reveal()))
    world.time.at(0.1, lambda: world.store.forget(RESOURCE.identifier))
    world.time.run()
    got.append(alone(world, other.get).token.reveal())
    world.time.run(world.time.now + 6)
    leader.get()
    world.time.run()
    got.append(alone(world, leader.get).token.reveal())

    assert ["token-1", "token-2", "token-2"] == got


def test_the_first_look_of_a_process_forgets_nothing(world: World) -> None:
    """
    Rule 4: what others have forgotten before costs no second look.
    """
    world.store.forget(RESOURCE.identifier)
    alone(world, world.worker().get)
    worker = world.worker()
    world.store.steps.clear()

    assert [alone(world, worker.get)] * 2 == [alone(world, worker.get) for _ in range(2)]
    assert {"load": 1} == world.store.steps


def test_a_process_that_has_asked_without_the_store_forgets_when_it_is_back(world: World) -> None:
    """
    Rule 4: nobody knows when that was.
    """
    worker = world.worker(draw=0.0)
    world.fate = lambda _: Fate(raises=ConnectionError(), done=False)
    alone(world, worker.get)
    world.store.forget(RESOURCE.identifier)
    world.fate = lambda _: Fate()
    world.time.run(20)
    worker.get()
    world.time.run()

    assert "token-2" == alone(world, worker.get).token.reveal()


def test_nobody_waits_for_generations_of_a_store_that_fails(world: World) -> None:
    """
    Rule 4: a good token is presented at once, and the store is tried in the background.
    """
    worker = world.worker()
    alone(world, worker.get)
    world.fate = lambda _: Fate(takes=60, done=False)
    world.time.run(1000)
    began = world.time.now
    alone(world, worker.get)
    assert PATIENCE == pytest.approx(world.time.now - began)

    waited = []
    for second in range(200):

        def get() -> None:
            began = world.time.now
            worker.get()
            waited.append(world.time.now - began)

        world.time.start(get, 1010.0 + second)
    world.time.run()
    assert [0.0] * 200 == waited
    world.fate = lambda _: Fate()
    world.time.run(world.time.now + 60)
    worker.get()
    world.time.run()
    assert ["token_issued", "store_failed", "store_recovered"] == worker.names()


def test_one_looks_for_generations_at_a_time(world: World) -> None:
    """
    Rule 4: also where many requests come at once.
    """
    worker = world.worker()
    alone(world, worker.get)
    world.fate = lambda _: Fate(takes=1.0)
    world.time.run(5.5)
    for tenth in range(55, 75):
        world.time.start(worker.get, tenth / 10)
    world.time.run()

    assert 1 == world.store.steps["news"]


def test_without_threads_the_look_is_soon_overdue(world: World) -> None:
    """
    Rule 4: then a caller looks.
    """
    worker = world.worker()
    alone(world, worker.get)

    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    object.__setattr__(worker.acquirer._in, "spawn", no_thread)
    world.time.run(6)
    worker.get()
    world.time.run(12)
    world.store.forget(RESOURCE.identifier)

    assert "token-2" == alone(world, worker.get).token.reveal()


def test_a_look_into_the_store_is_a_look_at_the_generation(world: World) -> None:
    """
    Rule 4: a process that was idle and has no token looks once.
    """
    alone(world, world.worker().get)
    worker = world.worker()
    world.time.run(100)
    world.store.steps.clear()

    alone(world, worker.get)
    assert {"load": 1} == world.store.steps


# 5: clocks.


@pytest.mark.parametrize("skew", [-1e6, -4000, -100, 0, 100, 4000, 1e6])
@pytest.mark.parametrize("whose", ["saving", "loading"])
def test_no_expired_token_is_presented_wherever_a_clock_stands(
    world: World, skew: float, whose: str
) -> None:
    """
    Rule 5, P7: the clock of the machine that asked, or of the one that loads; each request later
    shows a token that the server takes, and only a clock that is ahead costs token requests.
    """
    saving = world.worker(skew=skew if whose == "saving" else 0)
    loading = world.worker(skew=skew if whose == "loading" else 0)
    alone(world, saving.get)
    shown = []
    for second in range(10, 3 * 3600, 10):
        world.time.start(
            lambda: shown.append((world.time.now, loading.get().token.reveal())), float(second)
        )
    world.time.run()

    issued = {f"token-{issue.number}": issue.asked_at for issue in world.issued}
    ages = [when - issued[token] for when, token in shown]
    assert max(ages) < 3570
    assert 4 <= len(world.issued) <= 5


def test_what_is_shown_as_expiry_is_by_the_clock_of_this_machine(world: World) -> None:
    """
    Rule 5: as with a token that was asked for here.
    """
    here, there = world.worker(), world.worker(skew=-1000.0)
    own, found = alone(world, here.get).token, alone(world, there.get).token

    assert -1000 == pytest.approx((found.expires_at - own.expires_at).total_seconds(), abs=1)
    assert own.same_as(found)


def test_a_store_that_answers_something_else_is_one_that_fails(world: World) -> None:
    """
    Rule 1: of another version, or somebody's own.
    """
    worker = world.worker()
    alone(world, worker.get)
    world.time.run(100)
    world.store.news = lambda *_: News([Generation()] * 7)  # type: ignore[method-assign]
    alone(world, worker.get)
    world.store.load = lambda *_: None  # type: ignore[method-assign,assignment]
    world.time.run(200)
    worker.memory.forget(lambda _: True)

    assert "token-2" == alone(world, worker.get).token.reveal()
    assert 1 == worker.names().count("store_failed")


def test_blocking_callers_do_not_wait_for_ever() -> None:
    """
    Rule 1: whatever a store of somebody's own does with its sockets.
    """
    hangs = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            run_to_end(BlockingIO().run(lambda: hangs.wait(10), 0.05))
    finally:
        hangs.set()
    assert 5 == run_to_end(BlockingIO().run(lambda: 5, 10))


def test_stored_token_knows_its_lifetime(world: World) -> None:
    """
    By the clock that asked for it.
    """
    cached = alone(world, world.worker().get)
    stored = StoredToken(cached.token, cached.freshness.requested_wall, Generation())

    assert 3600 == pytest.approx(stored.lifetime)
