"""
What holds for every store.

`FileTokenStore` and `RedisTokenStore` are token stores (`TokenStore`): the first half is about
these, and about the one that the simulations use, which shows that they simulate the right thing.
`MemoryTokenStore` is none, as nobody shares it: it has no leases, generations or keys, and what is
in it needs no sealing. What it has in common with the others is what a cache does with it, so the
second half goes through a cache, and is about all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.virtual import SharedStore
from resource_tokens import ResourceTokenAuth
from resource_tokens.files import FileTokenStore
from resource_tokens.redis import RedisTokenStore
from resource_tokens.stores import (
    Generation,
    Loaded,
    MemoryTokenStore,
    StoredGrant,
    StoredToken,
    TokenStore,
    UnreadableEntryError,
    new_key,
)
from resource_tokens.tokens import AccessToken, Secret, TokenKey
from tests.conftest import BILLING, CLIENT_ID, ORDERS, Caller, Clock, World
from tests.servers.valkey import ValkeyServer

KEY = new_key()
HERE, THERE = TokenKey.of(["here"]), TokenKey.of(["there"])


class FileBacking:
    """
    A folder, and the time that goes by in it.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "state" / "tokens"
        self._later = 0.0

    def store(self, *keys: str) -> TokenStore:
        return FileTokenStore(
            self.file.parent,
            keys=keys or [KEY],
            clock=lambda: time.monotonic() + self._later,
            wall_clock=lambda: time.time() + self._later,
        )

    def pass_time(self, seconds: float) -> None:
        self._later += seconds

    def content(self) -> list[bytes]:
        return [
            part
            for file in self.file.parent.iterdir()
            for part in (file.name.encode(), file.read_bytes())
        ]

    def damage(self, garbage: bytes) -> None:
        self.file.write_bytes(garbage)

    def exchange(self) -> None:
        members = json.loads(self.file.read_bytes())
        one, two = members["entries"].values()
        one[4], two[4] = two[4], one[4]
        self.file.write_text(json.dumps(members))

    def exchange_grants(self) -> None:
        file = self.file.with_name("grants")
        members = json.loads(file.read_bytes())
        one, two = members["grants"]
        members["grants"] = {one: members["grants"][two], two: members["grants"][one]}
        file.write_text(json.dumps(members))

    def damage_grants(self, garbage: bytes) -> None:
        self.file.with_name("grants").write_bytes(garbage)


class ValkeyBacking:
    """
    A Valkey server, and the time that goes by in it.
    """

    def __init__(self, server: ValkeyServer) -> None:
        self._server: Any = server
        with closing(server.client()) as client:
            client.flushall()

    def store(self, *keys: str) -> TokenStore:
        return RedisTokenStore(self._server.url, keys=keys or [KEY])

    def pass_time(self, seconds: float) -> None:
        with closing(self._server.client()) as client:
            for name in client.keys("*"):
                left = client.pttl(name)
                if left >= 0:
                    client.pexpire(name, left - int(seconds * 1000))

    def content(self) -> list[bytes]:
        with closing(self._server.client()) as client:
            return [part for name in client.keys("*") for part in (name, client.dump(name) or b"")]

    def damage(self, garbage: bytes) -> None:
        with closing(self._server.client()) as client:
            for name in client.keys("*"):
                if client.type(name) == b"string":
                    client.set(name, garbage)

    def exchange(self) -> None:
        with closing(self._server.client()) as client:
            one, two = client.keys("*")
            values = client.mget(one, two)
            client.mset({two: values[0], one: values[1]})

    exchange_grants, damage_grants = exchange, damage


class VirtualBacking:
    """
    The store of the simulations.
    """

    def __init__(self) -> None:
        self._now = 1e6
        self._store = SharedStore(lambda: self._now)

    def store(self) -> TokenStore:
        return self._store

    def pass_time(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


def backing_of(kind: str, request: pytest.FixtureRequest) -> Any:
    if kind == "virtual":
        return VirtualBacking()
    if kind == "redis":
        return ValkeyBacking(request.getfixturevalue("valkey"))
    return FileBacking(request.getfixturevalue("tmp_path"))


@pytest.fixture(params=["file", "redis", "virtual"])
def backing(request: pytest.FixtureRequest) -> Any:
    """
    What a store keeps its tokens in, with nothing there.
    """
    return backing_of(request.param, request)


@pytest.fixture(params=["file", "redis"])
def outside(request: pytest.FixtureRequest) -> Any:
    """
    One that others can look into.
    """
    return backing_of(request.param, request)


def token(
    text: str = "a-token",
    requested_at: float = 1e9,
    instead_of: bytes | None = None,
    **changes: Any,
) -> StoredToken:
    usual: dict[str, Any] = {
        "resource": ORDERS,
        "token_type": "Bearer",
        "scopes": frozenset({"orders:read", "b"}),
        "expires_at": datetime(2099, 1, 1, tzinfo=UTC),
    }
    issued = AccessToken(Secret(text), **usual | changes)
    return StoredToken(issued, requested_at, Generation(2, 3), instead_of=instead_of)


# A store by itself.


def test_what_is_saved_is_loaded(backing: Any) -> None:
    """
    Under its own key, and under no other.
    """
    assert backing.store().save(HERE, token())

    assert token() == backing.store().load(HERE, ORDERS).stored
    assert Loaded(None, Generation()) == backing.store().load(THERE, ORDERS)


def test_an_entry_ends_with_its_token(backing: Any) -> None:
    """
    P7, P10: not before, and one that is over is not kept at all.
    """
    now = datetime.now(UTC)
    soon, past = now + timedelta(seconds=100), now - timedelta(seconds=100)
    gone = replace(token(requested_at=past.timestamp() - 100, expires_at=past), age=200.0)
    backing.store().save(HERE, token(requested_at=now.timestamp(), expires_at=soon))
    assert backing.store().save(THERE, gone)

    backing.pass_time(90)
    stored = backing.store().load(HERE, ORDERS).stored
    assert 90 == pytest.approx(stored.age, abs=1)
    assert backing.store().load(THERE, ORDERS).stored is None
    backing.pass_time(10.1)
    assert backing.store().load(HERE, ORDERS).stored is None


def test_only_what_was_there_is_replaced(backing: Any) -> None:
    """
    A leader that outlived its lease does no harm, even if it has asked later: the entry is not the
    one that it is to replace. One that has gone keeps nobody away.
    """
    shared = backing.store()
    assert shared.save(HERE, token("first", instead_of=b""))
    first = shared.load(HERE, ORDERS)
    assert shared.save(HERE, token("second", instead_of=first.mark))
    second = shared.load(HERE, ORDERS)

    for mark in (b"", first.mark, b"something else"):
        assert not shared.save(HERE, token("late", instead_of=mark))
    assert second == shared.load(HERE, ORDERS)
    assert first.mark != second.mark
    backing.pass_time(3e9)
    assert shared.save(THERE, token("third", instead_of=second.mark))


def test_the_token_that_was_asked_for_last_is_kept(backing: Any) -> None:
    """
    Where nobody knows what was there before.
    """
    early, late = replace(token("early"), age=10.0), token("late")

    assert [True, True, False] == [backing.store().save(HERE, t) for t in (early, late, early)]
    assert late == backing.store().load(HERE, ORDERS).stored


def test_a_lease_is_for_one(backing: Any) -> None:
    """
    Until it is given back, which only its owner can do.
    """
    first = backing.store().lease(HERE, 30)
    assert backing.store().lease(HERE, 30) is None
    assert backing.store().lease(THERE, 30) is not None

    first()
    assert backing.store().lease(HERE, 30) is not None
    first()
    assert backing.store().lease(HERE, 30) is None


def test_a_lease_ends_by_itself(backing: Any) -> None:
    """
    A leader that was killed costs its lease, and no more.
    """
    backing.store().lease(HERE, 30)
    backing.pass_time(29)
    assert backing.store().lease(HERE, 30) is None
    backing.pass_time(1.1)

    assert backing.store().lease(HERE, 30) is not None


def test_generations(backing: Any) -> None:
    """
    Of one resource, or of all; whoever looks for a token sees them as well.
    """
    shared, other = backing.store(), backing.store()
    assert [Generation(), Generation()] == other.news([ORDERS, BILLING]).generations

    shared.forget(ORDERS)
    assert [Generation(0, 1), Generation()] == other.news([ORDERS, BILLING]).generations
    shared.forget(None)
    assert [Generation(1, 1), Generation(1, 0)] == other.news([ORDERS, BILLING]).generations
    assert Generation(1, 1) == other.load(HERE, ORDERS).generation
    assert [] == other.news([]).generations


ALICE, BOB = b"a" * 32, b"b" * 32


def test_a_journal_of_subjects(backing: Any) -> None:
    """
    With one resource or all; it is read from a place on, and whoever looks for a token of a
    subject sees where that one was forgotten. Generations stay as they are.
    """
    shared, other = backing.store(), backing.store()
    assert (0, 0) == other.load(HERE, ORDERS, ALICE)[4:]
    assert 0 == other.news([ORDERS], 0).position

    first = shared.forget(None, ALICE)
    second = shared.forget(ORDERS, BOB)
    assert 0 < first < second
    assert (first, second) == other.load(HERE, ORDERS, ALICE)[4:]
    assert (second, second) == other.load(HERE, ORDERS, BOB)[4:]
    assert (0, second) == other.load(HERE, BILLING, BOB)[4:]
    assert (0, 0) == other.load(HERE, ORDERS)[4:]
    assert 0 == shared.forget(BILLING)

    def read(since: int | None) -> list[int]:
        news = other.news([ORDERS], since)
        assert [Generation()] == news.generations
        assert (0 if since is None else shared.load(HERE, ORDERS, ALICE).position) == news.position
        return [news.forgotten(r, s) for s in (ALICE, BOB) for r in (ORDERS, BILLING)]

    assert [first, first, second, 0] == read(0)
    assert [0, 0, second, 0] == read(first)
    assert [0, 0, 0, 0] == read(second) == read(None)
    third = shared.forget(None, ALICE)
    assert [third, third, 0, 0] == read(second)
    assert third > second


def test_it_is_known_when_the_subject_of_a_token_was_forgotten(backing: Any) -> None:
    """
    By the token, which is of another subject than the one that was forgotten after it.
    """
    place = backing.store().forget(None, ALICE)
    stored = replace(token(), forgotten=place)
    backing.store().save(HERE, stored)

    assert stored == backing.store().load(HERE, ORDERS, ALICE).stored


# What is in it, for those who can get at it.


FIRST, SECOND = StoredGrant(Secret("first-rt")), StoredGrant(Secret("second-rt"), "a word")
ENDED = StoredGrant(Secret("third-rt"), reuse_known=True, ended=("invalid_grant", "gone", None))


def test_a_refresh_token_is_swapped_for_what_was_there(outside: Any) -> None:
    """
    And for nothing else; all that is known of it is kept.
    """
    shared, other = outside.store(), outside.store()
    assert other.load_grant(HERE) is None

    assert shared.swap_grant(HERE, None, FIRST)
    assert not other.swap_grant(HERE, None, SECOND)
    assert not other.swap_grant(HERE, SECOND, ENDED)
    assert not other.swap_grant(HERE, replace(FIRST, presented="x"), SECOND)
    for before, after in ((FIRST, SECOND), (SECOND, ENDED)):
        assert before == other.load_grant(HERE)
        assert other.swap_grant(HERE, before, after)
    assert ENDED == shared.load_grant(HERE)
    assert shared.load_grant(THERE) is None


def test_a_refresh_token_is_kept_for_400_days(outside: Any) -> None:
    """
    P10: since it was last used.
    """
    outside.store().swap_grant(HERE, None, FIRST)
    outside.pass_time(399 * 86400)
    assert FIRST == outside.store().load_grant(HERE)
    outside.store().swap_grant(HERE, FIRST, SECOND)
    outside.pass_time(399 * 86400)
    assert SECOND == outside.store().load_grant(HERE)

    outside.pass_time(2 * 86400)
    assert outside.store().swap_grant(THERE, None, FIRST)
    assert outside.store().load_grant(HERE) is None


def test_a_refresh_token_is_not_there_in_clear(outside: Any) -> None:
    """
    P9, P2: and it opens in its own place only.
    """
    outside.store().swap_grant(HERE, None, FIRST)
    outside.store().swap_grant(THERE, None, SECOND)
    assert b"first-rt" not in b"".join(outside.content())

    outside.exchange_grants()
    for key in (HERE, THERE):
        with pytest.raises(UnreadableEntryError, match="left as it is"):
            outside.store().load_grant(key)
        with pytest.raises(UnreadableEntryError, match="left as it is"):
            outside.store().swap_grant(key, None, FIRST)


def test_a_refresh_token_that_cannot_be_opened_is_not_replaced(outside: Any) -> None:
    """
    Unlike a token it cannot be had again: it may be put back, or the key.
    """
    outside.store().swap_grant(HERE, None, FIRST)
    is_refused(outside.store(new_key()))
    outside.damage_grants(b"garbage")
    is_refused(outside.store())


def is_refused(store: Any) -> None:
    with pytest.raises(UnreadableEntryError, match="damaged"):
        store.load_grant(HERE)
    with pytest.raises(UnreadableEntryError, match="damaged"):
        store.swap_grant(HERE, None, SECOND)


def test_a_refresh_token_is_one_whichever_key_comes_first(outside: Any) -> None:
    """
    A new key is added at the end everywhere, before it is put in front.
    """
    old, new = new_key(), new_key()
    outside.store(old).swap_grant(HERE, None, FIRST)

    assert outside.store(new, old).swap_grant(HERE, FIRST, SECOND)
    assert SECOND == outside.store(old, new).load_grant(HERE)
    assert SECOND == outside.store(new).load_grant(HERE)


def test_nothing_is_there_in_clear(outside: Any) -> None:
    """
    P9: neither token nor client nor resource nor scope, in names or values.
    """
    shared = outside.store()
    shared.save(HERE, token())
    shared.forget(ORDERS)
    shared.forget(ORDERS, ALICE)
    release = shared.lease(HERE, 10)

    kept = b"\n".join(outside.content())
    for text in ("a-token", ORDERS, "orders", CLIENT_ID, "Bearer", HERE.hex(), KEY):
        assert text.encode() not in kept
    assert ALICE not in kept
    assert ALICE.hex().encode() not in kept
    release()


def test_an_entry_that_was_moved_does_not_open(outside: Any) -> None:
    """
    P2: whoever can write there gives nobody the token of somebody else.
    """
    outside.store().save(HERE, token("one"))
    outside.store().save(THERE, token("two"))
    outside.exchange()

    for key in (HERE, THERE):
        with pytest.raises(UnreadableEntryError, match="belongs to another place"):
            outside.store().load(key, ORDERS)


GARBAGE = [
    b"",
    b"1",
    b"1:",
    b"1:x",
    b"\xff\xfe",
    b"99999999999999999999999:gAAAA",
    b"{}",
    b"[" * 9999,
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_said_and_overwritten(outside: Any, garbage: bytes) -> None:
    """
    An old format or damage is no token, and keeps none away.
    """
    outside.store().save(HERE, token())
    outside.damage(garbage)

    with pytest.raises(UnreadableEntryError):
        outside.store().load(HERE, ORDERS)
    assert outside.store().save(HERE, token("new"))
    assert token("new") == outside.store().load(HERE, ORDERS).stored


def test_keys_are_replaced_one_after_the_other(outside: Any) -> None:
    """
    Each key has entries of its own, so nobody comes across what he cannot open; and whoever
    forgets tells those with another key first as well.
    """
    old, new = new_key(), new_key()
    before, rolling, after = outside.store(old), outside.store(new, old), outside.store(new)
    before.save(HERE, token("of the old"))
    assert rolling.load(HERE, ORDERS).stored is None

    rolling.save(HERE, token("of the new"))
    assert token("of the new") == after.load(HERE, ORDERS).stored
    assert token("of the old") == before.load(HERE, ORDERS).stored
    rolling.forget(ORDERS)
    assert Generation(0, 1) == before.load(HERE, ORDERS).generation
    assert Generation(0, 1) == after.load(HERE, ORDERS).generation
    place = rolling.forget(None, ALICE)
    for known in (before, rolling, after):
        assert place == known.load(HERE, ORDERS, ALICE).forgotten
        assert place == known.news([], 0).forgotten(ORDERS, ALICE)
    assert outside.store(new_key()).load(HERE, ORDERS).stored is None


def test_generations_are_bounded(outside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    P10: too many become one of all, by which every token is of an earlier one.
    """
    shared = outside.store()
    monkeypatch.setattr(f"{type(shared).__module__}._MAX_GENERATIONS", 5)
    for number in range(6):
        shared.forget(f"urn:x:{number}")

    assert [Generation(1, 0)] * 6 == shared.news([f"urn:x:{n}" for n in range(6)]).generations


def test_a_journal_is_bounded(outside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    P10: too many become everybody, who are then forgotten at the last place.
    """
    shared = outside.store()
    monkeypatch.setattr(f"{type(shared).__module__}._MAX_GENERATIONS", 5)
    places = [shared.forget(None, bytes([number]) * 32) for number in range(6)]

    assert (places[-1], places[-1]) == shared.load(HERE, ORDERS, ALICE)[4:]
    news = shared.news([ORDERS], places[-2])
    assert places[-1] == news.forgotten(BILLING, BOB)
    assert [Generation()] == news.generations
    last = shared.forget(None, BOB)
    assert places[-1] == shared.load(HERE, ORDERS, ALICE).forgotten
    assert last == shared.load(HERE, ORDERS, BOB).forgotten


def test_a_journal_lets_go_of_what_is_old(tmp_path: Path) -> None:
    """
    P10: when the next one is forgotten, as no token can be from before.
    """
    backing = FileBacking(tmp_path)
    first = backing.store().forget(None, ALICE)
    backing.pass_time(24 * 3600)
    backing.store().forget(None, BOB)
    assert first == backing.store().load(HERE, ORDERS, ALICE).forgotten
    backing.pass_time(3700)
    last = backing.store().forget(None, b"c" * 32)

    assert (0, last) == backing.store().load(HERE, ORDERS, ALICE)[4:]
    assert 0 < backing.store().load(HERE, ORDERS, BOB).forgotten
    # A clock that is set back does not let places shrink.
    backing.pass_time(-7 * 24 * 3600)
    assert last < backing.store().forget(None, ALICE)


# A cache with a store, whichever it is.


@pytest.fixture(params=["memory", "file", "redis"])
def any_store(request: pytest.FixtureRequest) -> Any:
    """
    A store of each kind.
    """
    if request.param == "memory":
        return MemoryTokenStore()
    return backing_of(request.param, request).store()


def test_a_token_is_kept_for_what_was_asked(world: World, any_store: Any) -> None:
    """
    P2: for that resource and these scopes, and for no others.
    """
    cache = world.auth(store=any_store).cache
    wanted: list[tuple[Any, ...]] = [(ORDERS,), (BILLING,), (ORDERS, ["a"]), (ORDERS, ["a", "b"])]

    first = [cache.get(*what).reveal() for what in wanted]
    assert first == [cache.get(*what).reveal() for what in wanted]
    assert 4 == len(set(first)) == len(world.server.issued)


def test_what_is_forgotten_is_not_presented(world: World, any_store: Any) -> None:
    """
    Of one resource, or of all.
    """
    cache = world.auth(store=any_store).cache
    first = [cache.get(name).reveal() for name in (ORDERS, BILLING)]

    assert 1 == cache.forget(ORDERS)
    second = [cache.get(name).reveal() for name in (ORDERS, BILLING)]
    assert (False, True) == (first[0] == second[0], first[1] == second[1])
    assert 2 == cache.forget()
    assert not {*first, *second} & {cache.get(name).reveal() for name in (ORDERS, BILLING)}


def test_no_expired_token_is_presented(world: World, any_store: Any, clock: Clock) -> None:
    """
    P7: neither by this cache nor by another one that has the same store.
    """
    begun = time.time()
    shared: dict[str, Any] = {"clock": clock, "wall_clock": lambda: begun - 1000 + clock()}
    auth = world.auth(store=any_store, **shared)
    first = auth.cache.get(ORDERS)
    clock.advance(3600 - 29)

    assert not first.same_as(auth.cache.get(ORDERS))
    clock.advance(3600)
    assert not first.same_as(world.auth(store=any_store, **shared).cache.get(ORDERS))


# Caches that share one.


def sharing(world: World, backing: Any, **options: Any) -> ResourceTokenAuth:
    return world.auth(store=backing.store(), **options)


def test_a_second_process_asks_nobody(caller: Caller, world: World, outside: Any) -> None:
    """
    One token request for all who share a store, in every colour; and the token is good.
    """
    with caller.client(auth=sharing(world, outside)) as client:
        client.get(world.orders.url)
    with caller.client(auth=sharing(world, outside)) as client:
        response = client.get(world.orders.url)

    assert 200 == response.status_code
    assert 1 == len(world.server.issued)
    assert ["metadata_discovered", "token_issued", "token_loaded"] == world.event_names()


def test_all_who_come_at_once_ask_once(caller: Caller, world: World, outside: Any) -> None:
    """
    The lease: the others wait for the token of the first, each in a cache of its own.
    """
    auths = [sharing(world, outside) for _ in range(8)]
    world.server.delay = timedelta(milliseconds=200)
    tokens = caller.together(
        [partial(auth.cache.get if caller.blocking else auth.cache.aget, ORDERS) for auth in auths]
    )

    assert 1 == len({token.reveal() for token in tokens})
    assert 1 == len(world.server.issued)


def test_a_soft_refresh_is_for_all(
    caller: Caller, world: World, outside: Any, clock: Clock
) -> None:
    """
    One process refreshes, and the others take what it left.
    """
    auths = [sharing(world, outside, clock=clock, wall_clock=clock) for _ in range(3)]
    clock.now = datetime.now(UTC).timestamp()
    for auth in auths:
        caller.token_for(auth, world.orders.url)
    clock.advance(3400)
    for auth in auths:
        run_refreshes(auth)
        caller.token_for(auth, world.orders.url)

    assert 2 == len(world.server.issued)


def run_refreshes(auth: ResourceTokenAuth) -> None:
    """
    From here on a refresh ahead runs at once, where it is noticed.
    """
    acquirer = auth.cache._acquirer
    run_at_once: Callable[[Callable[[], None]], None] = lambda work: work()  # noqa: E731
    acquirer._in = replace(acquirer._in, spawn=run_at_once)


def test_forget_reaches_the_others(
    caller: Caller, world: World, outside: Any, clock: Clock
) -> None:
    """
    In the background after five seconds; at once where nothing was looked at for longer.
    """
    one, two, idle = (sharing(world, outside, clock=clock) for _ in range(3))
    for auth in (one, two, idle):
        run_refreshes(auth)
        caller.token_for(auth, world.orders.url)
        caller.token_for(auth, world.billing.url)
    first = world.server.issued[0]
    caller.call(one.cache.forget if caller.blocking else one.cache.aforget, ORDERS)

    clock.advance(5)
    caller.token_for(two, world.orders.url)
    assert first != caller.token_for(two, world.orders.url).reveal()
    clock.advance(5)
    assert first != caller.token_for(idle, world.orders.url).reveal()
    caller.token_for(idle, world.billing.url)
    assert 3 == len(world.server.issued)


def test_damage_costs_no_request(caller: Caller, world: World, outside: Any) -> None:
    """
    What cannot be opened is said once, asked for again and replaced.
    """
    caller.token_for(sharing(world, outside), world.orders.url)
    outside.damage(b"0:garbage")
    caller.token_for(sharing(world, outside), world.orders.url)
    caller.token_for(sharing(world, outside), world.orders.url)

    assert 2 == len(world.server.issued)
    assert 1 == world.event_names().count("store_failed")
    assert "token_loaded" == world.event_names()[-1]


def test_what_others_left_is_recognised_where_it_does_not_belong(
    caller: Caller, world: World, outside: Any
) -> None:
    """
    P3: a token from the store is one of ours, also in a header that was copied by hand.
    """
    caller.token_for(sharing(world, outside), world.orders.url)
    auth = sharing(world, outside)
    copied = caller.token_for(auth, world.orders.url).authorization

    with caller.client(auth=auth) as client, pytest.raises(Exception, match="stopped before"):
        client.get(world.billing.url, headers={"X-Copied": copied})
    assert 0 == len(world.billing.requests)
