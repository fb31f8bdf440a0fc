"""
Real threads, loops, forks and exits, with the interpreter changing threads as often as it can.

What can be decided one step at a time is in test_refresh_machine.py; this is for what happens
between the steps, and at the ends of processes and loops.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import anyio
import pytest
import trio

from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache, TokenEvent
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, Clock, World


@pytest.fixture(autouse=True)
def nervous() -> Iterator[None]:
    """
    The interpreter offers to change threads after each microsecond instead of five milliseconds.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def cache_for(server: LocalAuthorizationServer, **options: Any) -> TokenCache:
    return TokenCache(
        AuthorizationServer(token_endpoint=server.token_endpoint),
        ClientSecretBasic(CLIENT_ID, CLIENT_SECRET),
        **options,
    )


def test_stampedes_of_threads(server: LocalAuthorizationServer, clock: Clock) -> None:
    """
    P6, T1: at a cold start, and whenever the token has come to its hard margin: one request for
    each key, and everybody gets the same token.
    """
    cache = cache_for(server, clock=clock)
    barrier = threading.Barrier(32)

    def get(number: int) -> str:
        barrier.wait(30)
        return cache.get(f"urn:example:{number % 2}").reveal()

    with ThreadPoolExecutor(32) as pool:
        for round_number in range(1, 11):
            tokens = list(pool.map(get, range(32)))
            assert 2 == len(set(tokens))
            assert 2 * round_number == len(server.token_requests)
            clock.advance(3580)


def test_threads_in_the_soft_window_start_one_refresh(
    server: LocalAuthorizationServer, clock: Clock
) -> None:
    """
    P7: thirty-two threads see at once that it is time; nobody waits, and one asks.
    """
    server.delay = timedelta(milliseconds=100)
    refreshed = threading.Event()

    def hear(event: TokenEvent) -> None:
        if event.name == "token_refreshed":
            refreshed.set()

    cache = cache_for(server, clock=clock, on_event=hear)
    first = cache.get(ORDERS).reveal()
    barrier = threading.Barrier(32)

    def get(_: int) -> str:
        barrier.wait(30)
        return cache.get(ORDERS).reveal()

    with ThreadPoolExecutor(32) as pool:
        for requests in range(2, 6):
            clock.advance(3400)
            tokens = set(pool.map(get, range(32)))
            assert {first} == tokens
            assert refreshed.wait(30)
            refreshed.clear()
            first = cache.get(ORDERS).reveal()
            assert requests == len(server.token_requests)


def test_two_hundred_rejections_cause_one_renewal(caller: Caller, world: World) -> None:
    """
    P8, T7: all of them see 401 for one token; it is replaced once, and all go through.
    """
    auth = world.auth()
    url = f"{world.orders.url}v1"
    with caller.client(auth=auth, timeout=60) as client:
        client.get(url)
        world.server.revoke(world.orders.tokens_seen()[0])
        if not caller.blocking:
            answers = caller.call(_two_hundred, client.real, url)

    # Each request in a client of its own: at this switch interval the threads of one blocking
    # client of bare httpx now and then close each other's connections.
    def get(_: int) -> int:
        with caller.client(auth=auth, timeout=60) as client:
            return int(client.get(url).status_code)

    if caller.blocking:
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(get, range(200)))

    assert [200] * 200 == answers
    assert 2 == len(world.server.token_requests)
    assert 2 == len(world.orders.tokens_seen())


async def _two_hundred(client: Any, url: str) -> list[int]:
    answers: list[int] = []

    async def get() -> None:
        answers.append((await client.get(url)).status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(get)
    return answers


Leading = Callable[[Callable[[], object]], Any]
"""
What is cancelled by calling its argument.
"""


async def _by_asyncio_timeout(lead: Leading) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            await lead(lambda: timeout.reschedule(asyncio.get_running_loop().time()))


async def _by_asyncio_cancel(lead: Leading) -> None:
    async def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None
        await lead(task.cancel)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(cancelled())


async def _by_anyio_scope(lead: Leading) -> None:
    with anyio.CancelScope() as scope:
        await lead(scope.cancel)
    assert scope.cancelled_caught


async def _by_trio_scope(lead: Leading) -> None:
    with trio.CancelScope() as scope:
        await lead(lambda: setattr(scope, "deadline", trio.current_time()))
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("cancel", "backend"),
    [
        (_by_asyncio_timeout, "asyncio"),
        (_by_asyncio_cancel, "asyncio"),
        (_by_anyio_scope, "asyncio"),
        (_by_anyio_scope, "trio"),
        (_by_trio_scope, "trio"),
    ],
)
def test_a_leader_that_is_cancelled_hands_over(
    server: LocalAuthorizationServer, cancel: Callable[[Leading], Any], backend: str
) -> None:
    """
    P6, T2: in the middle of its request to a real server, by each way there is to cancel; who
    waits, in the same loop and in a thread, gets a token from one request more.
    """
    server.delay = timedelta(milliseconds=400)
    cache = cache_for(server)
    tokens: list[str] = []

    async def wait() -> None:
        tokens.append((await cache.aget(ORDERS)).reveal())

    def in_a_thread() -> None:
        tokens.append(cache.get(ORDERS).reveal())

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:

            async def lead_and_be_followed(expire: Callable[[], object]) -> None:
                async with anyio.create_task_group() as leading:
                    leading.start_soon(cache.aget, ORDERS)
                    await anyio.wait_all_tasks_blocked()
                    for _ in range(5):
                        tasks.start_soon(wait)
                    tasks.start_soon(anyio.to_thread.run_sync, in_a_thread)
                    await anyio.wait_all_tasks_blocked()
                    expire()
                    await anyio.sleep_forever()

            await cancel(lead_and_be_followed)

    anyio.run(scenario, backend=backend)

    assert 6 == len(tokens)
    assert 1 == len(set(tokens))
    server.stop()
    assert len(server.token_requests) <= 2


PREAMBLE = """
import asyncio, os, signal, sys, threading, time
from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache

class Skipping:
    ahead = 0.0
    def __call__(self):
        return time.monotonic() + self.ahead

clock = Skipping()
happened = []
cache = TokenCache(
    AuthorizationServer(token_endpoint=sys.argv[1]),
    ClientSecretBasic("orders-worker", sys.argv[2]),
    clock=clock,
    on_event=lambda event: happened.append(event.name),
)
RESOURCE = "urn:example:orders"

def await_event(name, times=1):
    ends_at = time.monotonic() + 30
    while happened.count(name) < times and time.monotonic() < ends_at:
        time.sleep(0.005)
    assert happened.count(name) >= times, happened
"""


def run_script(server: LocalAuthorizationServer, script: str) -> None:
    """
    In a process of its own, which must end well and say nothing: no task that was destroyed, no
    exception that was never retrieved, no socket that was left open.
    """
    ended = subprocess.run(
        [
            sys.executable,
            *("-W", "error::ResourceWarning", "-W", "error::RuntimeWarning"),
            *("-c", PREAMBLE + script, server.token_endpoint, CLIENT_SECRET),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (0, "") == (ended.returncode, ended.stderr)


def test_a_process_ends_while_it_refreshes(server: LocalAuthorizationServer) -> None:
    """
    A short script does not wait for a refresh that nobody needs any more.
    """
    script = """
cache.get(RESOURCE)
cache.get(RESOURCE + ":started")
clock.ahead = 3400
cache.get(RESOURCE)
time.sleep(0.05)
"""
    server.delay = timedelta(milliseconds=300)
    run_script(server, script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_process_forks_while_it_refreshes(server: LocalAuthorizationServer) -> None:
    """
    T19: the child has the parent's token and none of its threads. In the soft window it is served
    at once and refreshes for itself; after the hard margin it asks.
    """
    script = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
first = cache.get(RESOURCE)
clock.ahead = 3400
assert first == cache.get(RESOURCE)
children = []
for ahead in (3400, 3590):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        happened.clear()
        clock.ahead = ahead
        token = cache.get(RESOURCE)
        ok = (token == first) == (ahead == 3400)
        await_event("token_refreshed" if ahead == 3400 else "token_issued")
        os._exit(0 if ok else 1)
    children.append(child)
assert [0, 0] == [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]
await_event("token_refreshed")
assert first != cache.get(RESOURCE)
"""
    server.delay = timedelta(milliseconds=300)
    run_script(server, script)

    # The parent's first one, its refresh, and one for each child.
    assert 4 == len(server.token_requests)


def test_a_notebook_has_a_new_loop_in_each_cell(server: LocalAuthorizationServer) -> None:
    """
    T18: a refresh ahead outlives the loop that started it, and the next loop has its token.
    """
    script = """
first = asyncio.run(cache.aget(RESOURCE))
for cell in range(1, 6):
    clock.ahead = 3400 * cell
    assert first == asyncio.run(cache.aget(RESOURCE))
    await_event("token_refreshed", cell)
    second = asyncio.run(cache.aget(RESOURCE))
    assert first != second
    first = second
"""
    server.delay = timedelta(milliseconds=50)
    run_script(server, script)

    assert 6 == len(server.token_requests)


def test_a_loop_ends_while_it_waits(server: LocalAuthorizationServer) -> None:
    """
    T18: for a thread's request, and with a request of its own under way; nothing is left behind,
    and whoever comes later is served.
    """
    script = """
async def give_up(seconds):
    asyncio.get_running_loop().create_task(cache.aget(RESOURCE))
    await asyncio.sleep(seconds)

leading = threading.Thread(target=cache.get, args=(RESOURCE,))
leading.start()
time.sleep(0.05)
asyncio.run(give_up(0.05))
leading.join()
clock.ahead = 3590
asyncio.run(give_up(0.1))
assert "urn:example:orders" == cache.get(RESOURCE).resource
"""
    server.delay = timedelta(milliseconds=300)
    run_script(server, script)


def test_a_loop_that_nobody_runs_any_more_holds_nobody_up(
    server: LocalAuthorizationServer,
) -> None:
    """
    P6: closed without being told to its tasks, as by `loop.stop()` in a notebook: its leader is
    collected, and the next caller leads.
    """
    script = """
import gc, warnings
warnings.simplefilter("ignore")
loop = asyncio.new_event_loop()
task = loop.create_task(cache.aget(RESOURCE))
loop.run_until_complete(asyncio.sleep(0.1))
task.cancel()
loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
loop.close()
assert "urn:example:orders" == cache.get(RESOURCE).resource
"""
    server.delay = timedelta(milliseconds=300)
    run_script(server, script)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no timers")
def test_ctrl_c_in_the_thread_that_asks(server: LocalAuthorizationServer) -> None:
    """
    P6: the interrupt is the main thread's alone; the thread that waits for it gets its token.
    """
    script = """
def interrupt(*_):
    raise KeyboardInterrupt

tokens = []
signal.signal(signal.SIGALRM, interrupt)
waiting = threading.Timer(0.1, lambda: tokens.append(cache.get(RESOURCE)))
waiting.start()
signal.setitimer(signal.ITIMER_REAL, 0.25)
try:
    cache.get(RESOURCE)
except KeyboardInterrupt:
    pass
else:
    sys.exit("not interrupted")
waiting.join()
assert 1 == len(tokens)
"""
    server.delay = timedelta(milliseconds=500)
    run_script(server, script)
