"""
Many threads that share one client, each with one request after another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from time import perf_counter
from typing import Any

import httpx

from benchmarks.clients import check
from benchmarks.measure import Effort, Row, Section, interleaved
from benchmarks.peers import STATIC, all_peers
from benchmarks.servers import Servers

__all__ = ["measure"]


def measure(effort: Effort) -> Iterator[Row]:
    """
    The time for a request with its token in the cache, all threads together.
    """
    peers = [peer for peer in all_peers() if peer.blocking]
    with Servers() as servers, ExitStack() as stack:
        sections = {}
        for peer in peers:
            setting = servers.setting("orders")
            assert peer.blocking is not None
            client = stack.enter_context(closing(peer.blocking(setting)))
            check(client.get(setting.resources[0]))
            sections[str(peer)] = _section(client, setting.resources[0], effort)
        rounds = interleaved(sections, effort.repeats, rehearsed=False)
    for peer in peers:
        static = f"{STATIC} ({peer.stack})"
        yield Row.compared(
            benchmark="threads",
            case=f"{effort.threads} threads",
            contender=str(peer),
            unit="µs",
            rounds=[(taken[str(peer)], taken[static]) for taken in rounds],
            goal=None,
        )


def _section(client: Any, url: str, effort: Effort) -> Section:
    def section() -> float:
        done: list[int] = []
        ends_at = perf_counter() + effort.seconds

        def send() -> None:
            requests = 0
            while perf_counter() < ends_at:
                # httpx now and then closes a connection that another thread has just got.
                with suppress(httpx.ReadError):
                    check(client.get(url))
                    requests += 1
            done.append(requests)

        running = [threading.Thread(target=send) for _ in range(effort.threads)]
        started = perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return (perf_counter() - started) / sum(done)

    return section
