"""
The command: `python -m benchmarks [--quick] [--only NAME] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks import (
    cache_lookup,
    import_time,
    loopback_request,
    memory,
    stampede,
    warm_request,
)
from benchmarks.measure import FULL, QUICK, Effort, Goal, Row, Spread

BENCHMARKS: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "warm-request": warm_request.measure,
    "cache-lookup": cache_lookup.measure,
    "stampede": stampede.measure,
    "import-time": import_time.measure,
    "loopback-request": loopback_request.measure,
    "memory": memory.measure,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print the table, write the file.
    """
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="to see that it runs, not to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="may be repeated")
    options = parser.parse_args(arguments)

    rows: list[Row] = []
    for name in options.only or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr)
        rows += BENCHMARKS[name](QUICK if options.quick else FULL)

    environment = _environment()
    print(", ".join(f"{name} {value}" for name, value in environment.items()), end="\n\n")
    print(_table(rows))
    print(*(f"\n{row.benchmark}, {row.case}: {row.note}." for row in rows if row.note), sep="")
    if options.json is not None:
        measured = [asdict(row) | {"met": row.met} for row in rows]
        text = json.dumps({"environment": environment, "rows": measured}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


def _environment() -> dict[str, str]:
    libraries = {name: version(name) for name in ("httpx", "httpx2", "resource_tokens")}
    return {"Python": platform.python_version(), "cores": str(os.cpu_count()), **libraries}


def _table(rows: Iterable[Row]) -> str:
    """
    The rows in Markdown, in columns that line up.
    """
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in lines)


_HEADINGS = (
    "benchmark",
    "case",
    "unit",
    "median (quartiles)",
    "baseline",
    "extra (quartiles)",
    "ratio (quartiles)",
    "goal",
    "met",
)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.benchmark,
        row.case,
        row.unit,
        _spread(row.spread, ",.1f"),
        "" if row.baseline is None else f"{row.baseline.median:,.1f}",
        _spread(row.extra, ",.2f"),
        _spread(row.ratio, ".3f"),
        _goal(row.goal),
        "yes" if row.met else "NO",
    )


def _spread(spread: Spread | None, style: str) -> str:
    if spread is None:
        return ""
    median, lower, upper = (
        # Counts are whole.
        format(value, ",d" if isinstance(value, int) else style)
        for value in (spread.median, spread.lower, spread.upper)
    )
    return median if lower == upper else f"{median} ({lower} to {upper})"


def _goal(goal: Goal) -> str:
    return f"{goal.measure} {'=' if goal.exact else '<='} {goal.limit:,g}"


if __name__ == "__main__":
    main()
