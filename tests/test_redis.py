"""
Tokens shared through a real Valkey server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio

from resource_tokens import ConfigurationError, ResourceTokenAuth
from resource_tokens._sealing import new_key
from resource_tokens.redis import RedisTokenStore
from resource_tokens.stores import Generation, Loaded, StoredToken, UnreadableEntryError
from resource_tokens.tokens import AccessToken, Secret, TokenKey
from tests.conftest import BILLING, CLIENT_ID, ORDERS, Caller, Clock, World
from tests.servers.valkey import ValkeyServer

KEY = new_key()
HERE, THERE = TokenKey.of(["here"]), TokenKey.of(["there"])


@pytest.fixture(scope="module")
def running() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey(running: ValkeyServer) -> ValkeyServer:
    """
    A server with nothing in it.
    """
    with closing(running.client()) as client:
        client.flushall()
    return running


def store(valkey: ValkeyServer, *keys: str, **options: Any) -> RedisTokenStore:
    return RedisTokenStore(valkey.url, keys=keys or [KEY], **options)


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


def test_what_is_saved_is_loaded(valkey: ValkeyServer) -> None:
    """
    Under its own key, and under no other.
    """
    saving, loading = store(valkey), store(valkey)
    saving.save(HERE, token())

    assert token() == loading.load(HERE, ORDERS).stored
    assert Loaded(None, Generation()) == loading.load(THERE, ORDERS)


def test_an_entry_expires_with_its_token(valkey: ValkeyServer) -> None:
    """
    P10: the server itself drops it.
    """
    now = datetime.now(UTC)
    soon, past = now + timedelta(seconds=100), now - timedelta(seconds=100)
    store(valkey).save(HERE, token(requested_at=now.timestamp(), expires_at=soon))
    gone = token(requested_at=past.timestamp() - 100, expires_at=past)
    store(valkey).save(THERE, replace(gone, age=200.0))

    with closing(valkey.client()) as client:
        (name,) = client.keys("*")
        assert 90_000 < client.pttl(name) <= 100_000


def test_the_token_that_was_asked_for_last_is_kept(valkey: ValkeyServer) -> None:
    """
    Where nobody knows what was there before.
    """
    later, earlier = token("later", 1e9 + 1), token("earlier", 1e9)
    for each in (later, earlier, later):
        store(valkey).save(HERE, each)

    assert later == store(valkey).load(HERE, ORDERS).stored


def test_only_what_was_there_is_replaced(valkey: ValkeyServer) -> None:
    """
    A leader that outlived its lease does no harm, even if it has asked later: the entry is not the
    one that it is to replace. One that has gone keeps nobody away.
    """
    shared = store(valkey)
    assert shared.save(HERE, token("first", instead_of=b""))
    first = shared.load(HERE, ORDERS)
    assert shared.save(HERE, token("second", instead_of=first.mark))
    second = shared.load(HERE, ORDERS)

    for mark in (b"", first.mark, b"something else"):
        assert not shared.save(HERE, token("late", 1e9 + 100, instead_of=mark))
    assert second == shared.load(HERE, ORDERS)
    assert first.mark != second.mark
    with closing(valkey.client()) as client:
        client.flushall()
    assert shared.save(HERE, token("third", instead_of=second.mark))


def test_nothing_is_there_in_clear(valkey: ValkeyServer) -> None:
    """
    P9: neither token nor client nor resource nor scope, in names or values.
    """
    shared = store(valkey)
    shared.save(HERE, token())
    shared.forget(ORDERS)
    release = shared.lease(HERE, 10)

    with closing(valkey.client()) as client:
        kept = []
        for name in client.keys("*"):
            kept += [name, client.dump(name) or b""]
    assert 6 == len(kept)
    for text in ("a-token", ORDERS, "orders", CLIENT_ID, "Bearer", HERE.hex()):
        assert not [entry for entry in kept if text.encode() in entry]
    assert release is not None
    release()


def test_an_entry_that_was_moved_does_not_open(valkey: ValkeyServer) -> None:
    """
    P2: whoever can write to the server gives nobody the token of somebody else.
    """
    shared = store(valkey)
    shared.save(HERE, token("one"))
    with closing(valkey.client()) as client:
        (here,) = client.keys("*")
        shared.save(THERE, token("two"))
        (there,) = {*client.keys("*")} - {here}
        client.rename(here, there)

    with pytest.raises(UnreadableEntryError, match="belongs to another place"):
        shared.load(THERE, ORDERS)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"1", b"1:", b"1:x", b"\xff\xfe", b"99999999999999999999999:gAAAA", b"{}", ["a", "list"]],
)
def test_garbage_is_said_and_overwritten(valkey: ValkeyServer, garbage: Any) -> None:
    """
    An old format, damage or another type is no token, and keeps none away.
    """
    shared = store(valkey)
    shared.save(HERE, token())
    with closing(valkey.client()) as client:
        (name,) = client.keys("*")
        if isinstance(garbage, list):
            client.delete(name)
            client.rpush(name, *garbage)
        else:
            client.set(name, garbage)

    with pytest.raises(UnreadableEntryError):
        shared.load(HERE, ORDERS)
    assert shared.save(HERE, token())
    assert token() == shared.load(HERE, ORDERS).stored


def test_keys_are_replaced_one_after_the_other(valkey: ValkeyServer) -> None:
    """
    Each key has entries of its own, so nobody comes across what he cannot open; and whoever
    forgets tells those with another key first as well.
    """
    old, new = new_key(), new_key()
    before, rolling, after = store(valkey, old), store(valkey, new, old), store(valkey, new)
    before.save(HERE, token("of the old"))
    assert rolling.load(HERE, ORDERS).stored is None

    rolling.save(HERE, token("of the new"))
    assert token("of the new") == after.load(HERE, ORDERS).stored
    assert token("of the old") == before.load(HERE, ORDERS).stored
    rolling.forget(ORDERS)
    assert Generation(0, 1) == before.load(HERE, ORDERS).generation
    assert Generation(0, 1) == after.load(HERE, ORDERS).generation
    assert store(valkey, new_key()).load(HERE, ORDERS).stored is None


def test_a_lease_is_for_one(valkey: ValkeyServer) -> None:
    """
    Until it is given back, which only its owner can do.
    """
    first = store(valkey).lease(HERE, 30)
    assert first is not None
    assert store(valkey).lease(HERE, 30) is None
    other = store(valkey).lease(THERE, 30)
    assert other is not None

    first()
    second = store(valkey).lease(HERE, 30)
    assert second is not None
    first()
    assert store(valkey).lease(HERE, 30) is None


def test_a_lease_ends_by_itself(valkey: ValkeyServer) -> None:
    """
    A leader that was killed costs its lease, and no more.
    """
    store(valkey).lease(HERE, 30)
    with closing(valkey.client()) as client:
        (name,) = client.keys("*lease")
        assert 29_000 < client.pttl(name) <= 30_000
        client.pexpire(name, 0)

    assert store(valkey).lease(HERE, 30) is not None


def test_generations(valkey: ValkeyServer) -> None:
    """
    Of one resource, or of all.
    """
    shared, other = store(valkey), store(valkey)
    assert [Generation(), Generation()] == other.generations([ORDERS, BILLING])

    shared.forget(ORDERS)
    assert [Generation(0, 1), Generation()] == other.generations([ORDERS, BILLING])
    shared.forget(None)
    assert [Generation(1, 1), Generation(1, 0)] == other.generations([ORDERS, BILLING])
    assert Generation(1, 1) == other.load(HERE, ORDERS).generation
    assert [] == other.generations([])


def test_generations_are_bounded(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    P10: too many become one of all, by which every token is of an earlier one.
    """
    monkeypatch.setattr("resource_tokens.redis._MAX_GENERATIONS", 5)
    shared = store(valkey)
    for number in range(6):
        shared.forget(f"urn:x:{number}")

    assert [Generation(1, 0)] * 6 == shared.generations([f"urn:x:{n}" for n in range(6)])


def test_two_prefixes_do_not_meet(valkey: ValkeyServer) -> None:
    """
    Two programs on one server.
    """
    store(valkey).save(HERE, token())

    assert store(valkey, prefix="another").load(HERE, ORDERS).stored is None
    assert "RedisTokenStore(prefix='another')" == repr(store(valkey, prefix="another"))


@pytest.mark.parametrize("keys", [[], "", ["short"], ["x" * 44], [KEY, ""], b"\xff" * 44, [None]])
def test_a_store_without_a_good_key_is_refused(valkey: ValkeyServer, keys: Any) -> None:
    """
    At construction, and the key is not shown.
    """
    with pytest.raises(ConfigurationError, match=r"new_key\(\)") as caught:
        RedisTokenStore(valkey.url, keys=keys)
    assert KEY not in repr(caught.value)


@pytest.mark.parametrize("url", ["http://x", "", "redis://h:port:1/0", 5, None])
def test_what_is_no_server_is_refused(url: Any) -> None:
    """
    The URL is not shown: it can hold a password.
    """
    with pytest.raises(ConfigurationError, match="RedisTokenStore") as caught:
        RedisTokenStore(url, keys=[KEY])
    assert caught.value.__context__ is None


def test_clients_that_cannot_be_used_are_refused(valkey: ValkeyServer) -> None:
    """
    One of asyncio belongs to one loop; one that decodes breaks entries; a prefix is a name.
    """
    with pytest.raises(ConfigurationError, match="blocking client"):
        RedisTokenStore(redis.asyncio.Redis(), keys=[KEY])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisTokenStore(redis.Redis(decode_responses=True), keys=[KEY])
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisTokenStore(valkey.url, keys=[KEY], prefix="")


def sharing(world: World, valkey: ValkeyServer, **options: Any) -> ResourceTokenAuth:
    return world.auth(store=store(valkey), **options)


def test_a_second_process_asks_nobody(caller: Caller, world: World, valkey: ValkeyServer) -> None:
    """
    One token request for all who share a store, in every colour; and the token is good.
    """
    with caller.client(auth=sharing(world, valkey)) as client:
        client.get(world.orders.url)
    with caller.client(auth=sharing(world, valkey)) as client:
        response = client.get(world.orders.url)

    assert 200 == response.status_code
    assert 1 == len(world.server.issued)
    assert ["metadata_discovered", "token_issued", "token_loaded"] == world.event_names()


def test_all_who_come_at_once_ask_once(caller: Caller, world: World, valkey: ValkeyServer) -> None:
    """
    The lease: the others wait for the token of the first, each in a cache of its own.
    """
    auths = [sharing(world, valkey) for _ in range(8)]
    world.server.delay = timedelta(milliseconds=200)
    tokens = caller.together(
        [partial(auth.cache.get if caller.blocking else auth.cache.aget, ORDERS) for auth in auths]
    )

    assert 1 == len({token.reveal() for token in tokens})
    assert 1 == len(world.server.issued)


def test_a_soft_refresh_is_for_all(
    caller: Caller, world: World, valkey: ValkeyServer, clock: Clock
) -> None:
    """
    One process refreshes, and the others take what it left.
    """
    auths = [sharing(world, valkey, clock=clock, wall_clock=clock) for _ in range(3)]
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
    surroundings = replace(acquirer._in, spawn=lambda work: work())
    acquirer._in = surroundings


def test_forget_reaches_the_others(
    caller: Caller, world: World, valkey: ValkeyServer, clock: Clock
) -> None:
    """
    In the background after five seconds; at once where nothing was looked at for longer.
    """
    one, two, idle = (sharing(world, valkey, clock=clock) for _ in range(3))
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


def test_a_server_that_is_down_costs_no_request(
    caller: Caller, world: World, valkey: ValkeyServer, clock: Clock
) -> None:
    """
    Said once, and once more when it is back.
    """
    auth = sharing(world, valkey, clock=clock)
    valkey.stop()
    try:
        caller.token_for(auth, world.orders.url)
        caller.token_for(auth, world.billing.url)
        assert ["store_failed", "metadata_discovered"] == world.event_names()[:2]
        assert 1 == world.event_names().count("store_failed")
    finally:
        valkey.start()
    clock.advance(60)
    auth.cache._acquirer._drop(None)
    caller.token_for(auth, world.orders.url)

    assert 1 == world.event_names().count("store_recovered")
    assert 3 == len(world.server.issued)


def test_a_server_that_hangs_costs_a_moment(
    caller: Caller, world: World, valkey: ValkeyServer
) -> None:
    """
    Its time is bounded, and then it is left alone.
    """
    auth = sharing(world, valkey)
    valkey.freeze()
    try:
        caller.token_for(auth, world.orders.url)
    finally:
        valkey.thaw()

    assert 1 == len(world.server.issued)
    assert "store_failed" == world.event_names()[0]


def test_garbage_costs_no_request(caller: Caller, world: World, valkey: ValkeyServer) -> None:
    """
    What cannot be opened is said, asked for again and replaced.
    """
    caller.token_for(sharing(world, valkey), world.orders.url)
    with closing(valkey.client()) as client:
        (name,) = client.keys("*")
        client.set(name, b"0:garbage")
    caller.token_for(sharing(world, valkey), world.orders.url)
    caller.token_for(sharing(world, valkey), world.orders.url)

    assert 2 == len(world.server.issued)
    assert "token_loaded" == world.event_names()[-1]


def test_what_others_left_is_recognised_where_it_does_not_belong(
    caller: Caller, world: World, valkey: ValkeyServer
) -> None:
    """
    P3: a token from the store is one of ours, also in a header that was copied by hand.
    """
    caller.token_for(sharing(world, valkey), world.orders.url)
    auth = sharing(world, valkey)
    copied = caller.token_for(auth, world.orders.url).authorization

    with caller.client(auth=auth) as client, pytest.raises(Exception, match="stopped before"):
        client.get(world.billing.url, headers={"X-Copied": copied})
    assert 0 == len(world.billing.requests)


def test_forget_that_does_not_reach_the_others_is_an_error(
    caller: Caller, world: World, valkey: ValkeyServer
) -> None:
    """
    Whoever forgets has to know; here the tokens are gone all the same.
    """
    auth = sharing(world, valkey)
    caller.token_for(auth, world.orders.url)
    valkey.stop()
    try:
        with pytest.raises(Exception, match="other processes go on using theirs"):
            caller.call(auth.cache.forget if caller.blocking else auth.cache.aforget)
        caller.token_for(auth, world.orders.url)
    finally:
        valkey.start()
    assert 2 == len(world.server.issued)
