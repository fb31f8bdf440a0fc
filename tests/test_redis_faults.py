"""
Between the library and its Valkey server stands a proxy that spoils replies; or the server itself
is stopped, frozen and emptied while requests are sent. No request fails for that.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import redis

from resource_tokens import ResourceTokenAuth
from resource_tokens.redis import RedisTokenStore
from resource_tokens.stores import new_key
from tests.conftest import Caller, Clock, World
from tests.servers.redis_proxy import Cut, Delay, Fault, Garbage, RedisProxy, Reset, Silence
from tests.servers.valkey import ValkeyServer

KEY = new_key()
TIMEOUT = 0.2
FAULTS = {
    "slow": Delay(TIMEOUT / 10),
    "too slow": Delay(TIMEOUT * 1.5),
    "silent": Silence(),
    "cut": Cut(),
    "reset before": Reset("before"),
    "reset instead": Reset("instead"),
    "garbage": Garbage(),
}
EVERY_FAULT = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def proxy(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisProxy]:
    """
    A proxy before a server with nothing in it, and a client that is less patient than usual.
    """
    monkeypatch.setattr("resource_tokens.redis._TIMEOUT", TIMEOUT)
    with closing(valkey.client()) as client:
        client.flushall()
        client.script_flush()
    with RedisProxy(valkey.port) as running:
        yield running


def sharing(world: World, url: str, **options: Any) -> ResourceTokenAuth:
    return world.auth(store=RedisTokenStore(url, keys=[KEY]), **options)


@EVERY_FAULT
@pytest.mark.parametrize("exchange", range(8))
def test_one_spoilt_reply_costs_no_request(
    world: World, valkey: ValkeyServer, proxy: RedisProxy, fault: Fault, exchange: int
) -> None:
    """
    Whichever it is: of a look, a lease, a save or a script that is not there yet. Each API gets a
    token of its own, and a reply that comes late is nobody else's.
    """
    proxy.script(*[Delay(0)] * exchange, fault)
    with httpx.Client(auth=sharing(world, proxy.url), trust_env=False) as client:
        statuses = [client.get(api.url).status_code for api in (world.orders, world.billing)]
    with httpx.Client(auth=sharing(world, valkey.url), trust_env=False) as client:
        statuses += [client.get(api.url).status_code for api in (world.orders, world.billing)]

    assert [200] * 4 == statuses
    assert 2 <= len(world.server.issued) <= 4
    assert world.event_names().count("store_failed") <= 1
    assert "audience_mismatch" not in world.event_names()


@EVERY_FAULT
@pytest.mark.parametrize(
    "caller",
    [(httpx, "sync"), (httpx2, "asyncio"), (httpx, "trio")],
    ids=["sync", "asyncio", "trio"],
    indirect=True,
)
def test_a_link_that_stays_bad_costs_no_request(
    caller: Caller, world: World, proxy: RedisProxy, fault: Fault, clock: Clock
) -> None:
    """
    It is said once, also when it is over; then all share again. A slow one is none that fails.
    """
    resources = {f"{world.orders.url}{number}/": f"urn:x:{number}" for number in range(4)}
    resources |= {world.orders.url: "urn:example:orders"}
    auth, other = (sharing(world, proxy.url, resources=resources, clock=clock) for _ in range(2))
    proxy.otherwise = fault
    tokens = [caller.token_for(auth, url).reveal() for url in resources]

    proxy.heal()
    clock.advance(60)
    with closing(redis.Redis.from_url(proxy.url)) as client:
        for lease in client.keys("*:lease"):
            client.delete(lease)
    auth.cache._acquirer._drop(None)
    again = [caller.token_for(auth, url).reveal() for url in resources]
    shared = [caller.token_for(other, url).reveal() for url in resources]

    assert 5 == len(set(tokens))
    assert again == shared
    failed = fault != FAULTS["slow"]
    assert 5 * (1 + failed) == len(world.server.issued)
    names = world.event_names()
    assert failed == names.count("store_failed")
    assert failed == names.count("store_recovered")


def test_the_first_token_of_a_process_is_one_round_trip(
    caller: Caller, world: World, proxy: RedisProxy
) -> None:
    """
    Where another one has left it, and no token request; further requests are none.
    """
    caller.token_for(sharing(world, proxy.url), world.orders.url)
    auth = sharing(world, proxy.url)
    proxy.exchanges = 0
    asked = len(world.server.requests)
    for _ in range(3):
        caller.token_for(auth, world.orders.url)

    assert 1 == proxy.exchanges
    assert asked == len(world.server.requests)


# Under load.

HAPPENINGS = ("stop", "start", "freeze", "thaw", "flush", "stop", "start")


def test_no_request_fails_whatever_the_server_does(world: World) -> None:
    """
    Threads, asyncio and trio, each with a cache of its own, and tokens that live for seconds. The
    server is stopped, started, frozen, thawed and emptied meanwhile.
    """
    world.server.lifetime = timedelta(seconds=3)
    outcomes = Counter[str]()
    over = threading.Event()

    def note(call: Any) -> None:
        try:
            outcomes[str(call().status_code)] += 1
        except Exception as error:  # noqa: BLE001 - counted, and shown
            outcomes[repr(error)] += 1

    def send(auth: ResourceTokenAuth) -> None:
        with httpx.Client(auth=auth, trust_env=False) as client:
            while not over.wait(0.01):
                note(lambda: client.get(world.orders.url))

    async def asend(auth: ResourceTokenAuth) -> None:
        async with httpx2.AsyncClient(auth=auth, trust_env=False) as client:
            while not over.is_set():
                await anyio.sleep(0.01)
                try:
                    outcomes[str((await client.get(world.orders.url)).status_code)] += 1
                except Exception as error:  # noqa: BLE001 - counted, and shown
                    outcomes[repr(error)] += 1

    with ValkeyServer() as valkey:
        auths = [sharing(world, valkey.url) for _ in range(4)]
        senders = [threading.Thread(target=send, args=(auth,)) for auth in auths[:2]]
        senders += [
            threading.Thread(target=anyio.run, args=(asend, auth), kwargs={"backend": backend})
            for auth, backend in zip(auths[2:], ("asyncio", "trio"), strict=True)
        ]
        for sender in senders:
            sender.start()
        for happening in HAPPENINGS:
            time.sleep(0.8)
            if happening == "flush":
                with closing(valkey.client()) as client:
                    client.flushall()
            else:
                getattr(valkey, happening)()
        time.sleep(2)
        over.set()
        for sender in senders:
            sender.join()

    assert ["200"] == list(outcomes), outcomes
    assert "store_failed" in world.event_names()
    assert "store_recovered" in world.event_names()
