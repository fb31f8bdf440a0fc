"""
A token comes to its end under load: who waits, who fails, how often is a new one asked for?
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.load import Sample, under_load
from benchmarks.measure import Effort, Goal, Row, Spread
from benchmarks.peers import Peer, all_peers
from benchmarks.servers import Servers

__all__ = ["measure"]

CASES: Mapping[str, tuple[str, Goal | None]] = {
    "p50 added": ("ms", None),
    "p99 added": ("ms", Goal("median", 1.0)),
    "longest added": ("ms", None),
    "token requests": ("", Goal("median", 1, exact=True)),
    "failed requests": ("", Goal("median", 0, exact=True)),
}


def measure(effort: Effort) -> Iterator[Row]:
    """
    Each token lives as long as it takes for its library to renew it at the same moment of the run.
    """
    peers = all_peers()
    runs: dict[Peer, list[Mapping[str, float]]] = {peer: [] for peer in peers}
    for _ in range(effort.repeats):
        with ThreadPoolExecutor(len(peers) if effort.together else 1) as threads:
            numbers = threads.map(lambda peer: _numbers(peer, effort), peers)
            for peer, found in zip(peers, numbers, strict=True):
                runs[peer].append(found)
    for peer in peers:
        for case, (unit, goal) in CASES.items():
            yield Row(
                "expiry",
                case,
                str(peer),
                unit,
                Spread.range(run[case] for run in runs[peer]),
                goal if peer.is_ours else None,
            )


def _numbers(peer: Peer, effort: Effort) -> Mapping[str, float]:
    with Servers() as servers:
        if peer.lifetime is not None:
            servers.issue(lifetime=peer.lifetime(effort.renewed_after))

        def started() -> None:
            servers.clear()
            servers.issue(delay=effort.delay)

        # What the benchmarks before have left is not collected in the middle of this one.
        gc.collect()
        gc.freeze()
        try:
            samples = under_load(
                peer,
                servers.setting("orders", punctual=True),
                effort.rate,
                effort.renewed_after + 1.6,
                started,
            )
        finally:
            gc.unfreeze()
        ahead = effort.renewed_after - 0.2
        calm = _quantiles([sample for sample in samples if 0.2 <= sample.due < ahead])
        then = _quantiles([sample for sample in samples if sample.due >= ahead])
        added = {f"{name} added": (then[name] - calm[name]) * 1e3 for name in calm}
        return added | {
            "token requests": servers.ledger().token_requests,
            "failed requests": sum(sample.failed for sample in samples),
        }


def _quantiles(samples: Sequence[Sample]) -> Mapping[str, float]:
    taken = [sample.taken for sample in samples]
    percentiles = statistics.quantiles(taken, n=100, method="inclusive")
    return {"p50": percentiles[49], "p99": percentiles[98], "longest": max(taken)}
