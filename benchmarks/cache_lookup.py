"""
`TokenCache.get` for a token that is there, against the least that a cache with expiry must do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import repeat
from time import perf_counter
from typing import Any

from benchmarks.measure import Effort, Goal, Row, Section, interleaved
from resource_tokens import AuthorizationServer, ClientSecretBasic, Resource, TokenCache
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["measure"]

IDENTIFIER = "https://inventory.example.com/"
KEYS: Mapping[str, Resource | str] = {
    "by Resource": Resource(IDENTIFIER),
    "by identifier": IDENTIFIER,
}
GOAL = Goal("extra", 2.0)


def measure(effort: Effort) -> Iterator[Row]:
    """
    `get` against a dict look-up and a clock read, both without the time of the loop around them.
    """
    with LocalAuthorizationServer() as server:
        cache = TokenCache(
            AuthorizationServer(issuer=server.issuer),
            ClientSecretBasic("orders-worker", "secret"),
            resources=[IDENTIFIER],
        )
        for case, key in KEYS.items():
            cache.get(key)
            sections = {
                "loop": _loop(effort.lookups),
                "dict": _dict_and_clock(key, effort.lookups),
                "cache": _get(cache, key, effort.lookups),
            }
            pairs = [
                (taken["cache"] - taken["loop"], taken["dict"] - taken["loop"])
                for taken in interleaved(sections, effort.rounds)
            ]
            yield Row.compared(
                benchmark="cache-lookup",
                case=case,
                contender="resource_tokens",
                unit="µs",
                rounds=pairs,
                goal=GOAL,
            )


def _loop(size: int) -> Section:
    def section() -> float:
        started = perf_counter()
        for _ in repeat(None, size):
            pass
        return (perf_counter() - started) / size

    return section


def _dict_and_clock(key: Any, size: int) -> Section:
    table = {key: object()}
    clock = time.monotonic

    def section() -> float:
        started = perf_counter()
        for _ in repeat(None, size):
            table[key]
            clock()
        return (perf_counter() - started) / size

    return section


def _get(cache: TokenCache, key: Resource | str, size: int) -> Section:
    get = cache.get

    def section() -> float:
        started = perf_counter()
        for _ in repeat(None, size):
            get(key)
        return (perf_counter() - started) / size

    return section
