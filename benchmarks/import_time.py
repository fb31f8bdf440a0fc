"""
The import statement of a program that uses each of them, in fresh processes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.measure import Effort, Goal, Row, interleaved
from benchmarks.peers import STATIC, all_peers

__all__ = ["measure"]

GOAL = Goal("ratio", 1.5)


def measure(effort: Effort) -> Iterator[Row]:
    """
    The time of the import statement itself; the start of the interpreter would hide it.
    """
    peers = all_peers()
    sections = {str(peer): partial(_seconds, peer.imports, peer.stack) for peer in peers}
    rounds = interleaved(sections, effort.processes, rehearsed=False)
    for peer in peers:
        static = f"{STATIC} ({peer.stack})"
        yield Row.compared(
            benchmark="import-time",
            case="import",
            contender=str(peer),
            unit="ms",
            rounds=[(taken[str(peer)], taken[static]) for taken in rounds],
            goal=GOAL if peer.is_ours else None,
            ranked_by="median",
        )


def _seconds(imports: str, stack: str) -> float:
    # With None in `sys.modules`, an import raises ModuleNotFoundError, as where it is not
    # installed. Some import httpx2 if it is there, and a program with httpx has no need of it.
    absent = "" if stack == "httpx2" else "sys.modules['httpx2'] = None"
    code = _TIMED.format(absent=absent, imports=imports)
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=True, text=True
    )
    return float(run.stdout)


_TIMED = """
import sys
from time import perf_counter
{absent}
started = perf_counter()
{imports}
print(perf_counter() - started)
"""
