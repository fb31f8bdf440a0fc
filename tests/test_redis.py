"""
Tokens shared through a real Valkey server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import redis.asyncio

from resource_tokens import ConfigurationError, ResourceTokenAuth
from resource_tokens.redis import RedisTokenStore
from resource_tokens.stores import UnreadableEntryError, new_key
from tests.conftest import ORDERS, Caller, Clock, World
from tests.servers.valkey import ValkeyServer
from tests.test_store_contract import HERE, THERE, token

KEY = new_key()


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


def test_a_journal_lets_go_of_what_is_old(valkey: ValkeyServer) -> None:
    """
    P10: when the next one is forgotten; and its places grow, whatever the clock of the server says.
    """
    shared = store(valkey)
    first = shared.forget(None, b"alice")
    assert first < shared.forget(None, b"bob")
    with closing(valkey.client()) as client:
        hour, there = 3_600_000, "resource_tokens:subjects"
        entries: list[Any] = client.zrange(there, 0, -1, withscores=True)
        for name, place in entries:
            early = place - (24 if int(place) > first else 26) * hour
            client.zadd(there, {name: early})
    shared.forget(None, b"carol")
    assert 0 == shared.load(HERE, ORDERS, b"alice").forgotten
    assert 0 < shared.load(HERE, ORDERS, b"bob").forgotten

    with closing(valkey.client()) as client:
        client.zadd("resource_tokens:subjects", {"ahead": 9e12})
    assert 9_000_000_000_001 == shared.forget(None, b"alice")
    assert 9_000_000_000_001 == shared.news([], 9_000_000_000_000).forgotten(ORDERS, b"alice")


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
