"""
Many callers at once and nothing in the cache: how many token requests reach the server?
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter

import trio

from benchmarks.measure import Effort, Goal, Row, Spread
from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["measure"]

# Long enough for every caller to come while the first one waits.
DELAY = timedelta(milliseconds=100)


def asyncio_tasks(cache: TokenCache, wanted: Sequence[str]) -> None:
    """
    One asyncio task for each token wanted.
    """

    async def everybody() -> None:
        async with asyncio.TaskGroup() as group:
            for resource in wanted:
                group.create_task(cache.aget(resource))

    asyncio.run(everybody())


def trio_tasks(cache: TokenCache, wanted: Sequence[str]) -> None:
    """
    One trio task for each token wanted.
    """

    async def everybody() -> None:
        async with trio.open_nursery() as nursery:
            for resource in wanted:
                nursery.start_soon(cache.aget, resource)

    trio.run(everybody)


def threads(cache: TokenCache, wanted: Sequence[str]) -> None:
    """
    One thread for each token wanted, all let go at the same moment.
    """
    barrier = threading.Barrier(len(wanted))

    def get(resource: str) -> None:
        barrier.wait()
        cache.get(resource)

    running = [threading.Thread(target=get, args=(resource,)) for resource in wanted]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@dataclass(frozen=True, slots=True)
class Case:
    """
    A crowd, and how many resources it spreads over.
    """

    name: str
    crowd: Callable[[TokenCache, Sequence[str]], None]
    size: int
    resources: int


CASES = (
    Case("1,000 asyncio tasks, 1 resource", asyncio_tasks, 1_000, 1),
    Case("1,000 trio tasks, 1 resource", trio_tasks, 1_000, 1),
    Case("64 threads, 1 resource", threads, 64, 1),
    Case("1,000 asyncio tasks, 100 resources", asyncio_tasks, 1_000, 100),
)


def measure(_: Effort) -> Iterator[Row]:
    """
    Token requests, counted by the server that received them.
    """
    for case in CASES:
        with LocalAuthorizationServer() as server:
            server.delay = DELAY
            cache = TokenCache(
                AuthorizationServer(issuer=server.issuer),
                ClientSecretBasic("orders-worker", "secret"),
            )
            wanted = [f"urn:example:{number % case.resources}" for number in range(case.size)]
            started = perf_counter()
            case.crowd(cache, wanted)
            taken = perf_counter() - started
        # After the server has stopped: by then every request that was sent has been counted.
        received = len(server.token_requests)
        yield Row(
            "stampede",
            case.name,
            "resource_tokens",
            "token requests",
            Spread.of([received]),
            Goal("median", case.resources, exact=True),
            note=(
                f"everybody served after {taken * 1e3:.0f} ms, of which the server took "
                f"{DELAY.total_seconds() * 1e3:.0f} ms for each token request; requests for "
                f"metadata: {len(server.requests) - received}"
            ),
        )
