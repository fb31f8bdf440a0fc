"""
Where else a token arrives, by the ledgers of those who received it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from benchmarks.clients import check, getter
from benchmarks.measure import Effort, Goal, Row, Spread
from benchmarks.peers import all_peers
from benchmarks.servers import Servers

__all__ = ["measure"]

GOAL = Goal("median", 0, exact=True)
CASES = {
    "the client is pointed at another host": "elsewhere",
    "a redirect leads to another host": "away",
    "a redirect leads to another API of the same host": "next-door",
}


def measure(_: Effort) -> Iterator[Row]:
    """
    One client, with a token for one API; one request in each way that leads somewhere else.
    """
    with Servers() as servers:
        for peer in all_peers():
            setting = servers.setting("orders")
            for case, way in CASES.items():
                url = servers.elsewhere if way == "elsewhere" else setting.resources[0] + way
                servers.clear()
                with getter(peer, setting) as get:
                    check(get(setting.resources[0]))
                    # A library may refuse to go there at all.
                    with suppress(Exception):
                        get(url)
                yield Row(
                    "strays",
                    case,
                    str(peer),
                    "",
                    Spread.of([sum(servers.ledger().strays.values())]),
                    GOAL if peer.is_ours else None,
                )
