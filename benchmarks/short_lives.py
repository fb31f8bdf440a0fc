"""
Tokens that do not live long: how many token requests do twenty requests in a row cost?
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from benchmarks.clients import getter
from benchmarks.measure import Effort, Goal, Row, Spread
from benchmarks.peers import all_peers
from benchmarks.servers import Servers

__all__ = ["measure"]

REQUESTS = 20
LIFETIMES = {"tokens of 5 minutes": 300, "tokens of 1 minute": 60}
GOAL = Goal("median", 1, exact=True)


def measure(_effort: Effort) -> Iterator[Row]:
    """
    Some want more life to be left than such a token has when it is new.
    """
    with Servers() as servers:
        for peer in all_peers():
            if peer.lifetime is None:
                continue
            for case, lifetime in LIFETIMES.items():
                servers.issue(lifetime=lifetime)
                servers.clear()
                setting = servers.setting("orders")
                let_in = 0
                with getter(peer, setting) as get:
                    for _ in range(REQUESTS):
                        # A library may not take such a token at all.
                        with suppress(Exception):
                            let_in += get(setting.resources[0]).status_code == 200
                yield Row(
                    "short-lives",
                    case,
                    str(peer),
                    "",
                    Spread.of([servers.ledger().token_requests]),
                    GOAL if peer.is_ours else None,
                    note="" if let_in == REQUESTS else f"{REQUESTS - let_in} requests failed",
                )
