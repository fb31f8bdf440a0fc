"""
The memory that tokens take, besides the tokens themselves.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from sys import getsizeof

from benchmarks.clients import check, getter
from benchmarks.measure import Effort, Goal, Row, Spread
from benchmarks.peers import Peer, all_peers, ask
from benchmarks.servers import Servers, Setting

__all__ = ["measure"]

GOAL = Goal("median", 1536)


def measure(effort: Effort) -> Iterator[Row]:
    """
    What is there for each resource before the first request, and what each token adds.

    Every token is asked for in the library's own way. Where an object holds one token, there are
    as many objects; the HTTP client below them is shared wherever the library allows.
    """
    with Servers() as servers:
        for peer in all_peers():
            if peer.lifetime is None:
                continue
            setting = servers.setting(*map(str, range(effort.kept)))
            configured, cached = _bytes(peer, setting)
            for case, kept, goal in (
                ("each token", cached, GOAL if peer.is_ours else None),
                ("each resource, before", configured, None),
            ):
                yield Row("memory", case, str(peer), "bytes", Spread.of([kept]), goal)


def _bytes(peer: Peer, setting: Setting) -> tuple[float, float]:
    """
    For each resource before the first request, and for each token.
    """
    first, *others = setting.resources
    gc.collect()
    tracemalloc.start()
    try:
        with getter(peer, setting) as get:
            configured = _traced()
            # The first one is not counted: with it come a connection and much that is made late.
            check(get(first))
            before = _traced()
            for url in others:
                check(get(url))
            after = _traced()
    finally:
        tracemalloc.stop()
    size = getsizeof(ask(setting, first))
    return configured / len(setting.resources), (after - before) / len(others) - size


def _traced() -> int:
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    return kept
