"""
The authorization server is away when a token is to be renewed, and back before the token ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.load import under_load
from benchmarks.measure import Effort, Goal, Row, Spread
from benchmarks.peers import Peer, all_peers
from benchmarks.servers import Servers

__all__ = ["measure"]

RATE = 20
GOAL = Goal("median", 0, exact=True)


def measure(effort: Effort) -> Iterator[Row]:
    """
    The worst moment for each library: the outage begins right before it wants a new token.
    """
    peers = [peer for peer in all_peers() if peer.lifetime]
    # No times are taken, so that all of them can run together.
    with ThreadPoolExecutor(len(peers)) as threads:
        failed = threads.map(lambda peer: _failed(peer, effort), peers)
    for peer, share in zip(peers, failed, strict=True):
        yield Row(
            "outage",
            "failed requests",
            str(peer),
            "%",
            Spread.of([share]),
            GOAL if peer.is_ours else None,
        )


def _failed(peer: Peer, effort: Effort) -> float:
    """
    Of the requests in the outage, in per cent.
    """
    assert peer.lifetime is not None
    begins = effort.outage_after - 0.6
    ends = begins + effort.outage
    with Servers() as servers:
        servers.issue(lifetime=peer.lifetime(effort.outage_after))

        def started() -> None:
            threading.Timer(begins, servers.close_authorization_server).start()
            threading.Timer(ends, servers.open_authorization_server).start()

        samples = under_load(
            peer, servers.setting("orders", punctual=True), RATE, ends + 1.0, started
        )
    during = [sample.failed for sample in samples if begins <= sample.due < ends]
    return 100 * sum(sample.failed for sample in samples) / len(during)
