"""
A request with its token in the cache, over a kept-alive connection on loopback.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle

from benchmarks.clients import async_section, sync_section
from benchmarks.measure import Effort, Goal, Row, interleaved
from benchmarks.peers import STATIC, Peer, Setting, all_peers
from benchmarks.servers import LET_IN, Servers

__all__ = ["measure"]

GOAL = Goal("ratio", 1.05)
COLOURS = {"sync": ("blocking", sync_section), "async": ("asynchronous", async_section)}


def measure(effort: Effort) -> Iterator[Row]:
    """
    Each against a static header in the same HTTP client.

    With many tokens, each request goes to another one of the resources, in random order: always
    the same one would be found in caches that are too small for all.
    """
    peers = all_peers()
    rows: list[Row] = []
    with Servers() as servers:
        for colour in COLOURS:
            rows += _rows(colour, peers, servers.setting("orders"), effort)
        for tokens in effort.many:
            several = [peer for peer in peers if peer.several]
            filled = [LET_IN + secrets.token_urlsafe(600) for _ in range(tokens)]
            setting = servers.setting(*map(str, range(tokens)), tokens=filled)
            for colour in COLOURS:
                rows += _rows(colour, several, setting, effort)
    order = [str(peer) for peer in peers]
    yield from sorted(rows, key=lambda row: order.index(row.contender))


def _rows(colour: str, peers: Sequence[Peer], setting: Setting, effort: Effort) -> Iterator[Row]:
    attribute, section = COLOURS[colour]
    peers = [peer for peer in peers if getattr(peer, attribute)]
    urls = random.sample(setting.resources, len(setting.resources))
    with ExitStack() as stack:
        sections = {}
        for peer in peers:
            client = getattr(peer, attribute)(setting)
            opened = section(client, cycle(urls), effort.requests)
            sections[str(peer)] = stack.enter_context(opened)
        rounds = interleaved(sections, effort.peer_rounds)
    tokens = len(setting.resources)
    for peer in peers:
        static = f"{STATIC} ({peer.stack})"
        yield Row.compared(
            benchmark="warm-request",
            case=f"{colour}, {tokens:,} {'token' if tokens == 1 else 'tokens'}",
            contender=str(peer),
            unit="µs",
            rounds=[(taken[str(peer)], taken[static]) for taken in rounds],
            goal=GOAL if peer.is_ours else None,
        )
