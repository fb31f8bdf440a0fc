"""
Many callers at once and no token in the cache: how many token requests reach the server?
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from typing import Any

import httpx

from benchmarks.clients import check
from benchmarks.measure import Effort, Goal, Row, Spread
from benchmarks.peers import all_peers
from benchmarks.servers import Servers, Setting

__all__ = ["measure"]

DELAY = 0.1
GOAL = Goal("median", 1, exact=True)


def measure(effort: Effort) -> Iterator[Row]:
    """
    Token requests, counted by the server that received them.
    """
    with Servers() as servers:
        # Long enough for every caller to come while the first one waits.
        servers.issue(delay=DELAY)
        for peer in all_peers():
            if peer.lifetime is None:
                continue
            for case, made, crowd in (
                (f"{effort.tasks:,} tasks", peer.asynchronous, partial(_tasks, effort.tasks)),
                (f"{effort.threads:,} threads", peer.blocking, partial(_threads, effort.threads)),
            ):
                if made is None:
                    continue
                servers.clear()
                crowd(made, servers.setting("orders", crowd=True))
                counted = servers.ledger().token_requests
                goal = GOAL if peer.is_ours else None
                yield Row("stampede", case, str(peer), "", Spread.of([counted]), goal)


def _tasks(size: int, made: Callable[[Setting], Any], setting: Setting) -> None:
    async def everybody() -> None:
        client = made(setting)

        async def send() -> None:
            check(await client.get(setting.resources[0]))

        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                group.create_task(send())
        await client.aclose()

    asyncio.run(everybody())


def _threads(size: int, made: Callable[[Setting], Any], setting: Setting) -> None:
    barrier = threading.Barrier(size)
    with closing(made(setting)) as client, ThreadPoolExecutor(size) as threads:

        def send(_: int) -> None:
            barrier.wait()
            # As in `threads`. By then the token has been asked for.
            with suppress(httpx.ReadError):
                check(client.get(setting.resources[0]))

        list(threads.map(send, range(size)))
