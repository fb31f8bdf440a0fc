"""
The numbers as Markdown, and as docs/explanation/performance.md.

`python -m benchmarks.report numbers.json` writes the page anew from what `--json` has kept.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.chart import drawn
from benchmarks.measure import Goal, Row, Spread

__all__ = ["PAGE", "blocks", "read", "write", "write_page"]

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "performance.md"
OURS = "resource_tokens"
STATIC = "static header"
_TIMES = "\N{MULTIPLICATION SIGN}"
Environment = Mapping[str, str]


def write(file: Path, environment: Environment, rows: Iterable[Row]) -> None:
    """
    Keep every number.
    """
    measured = {"environment": environment, "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def read(file: Path) -> tuple[Environment, list[Row]]:
    """
    What `write` has kept.
    """
    measured = json.loads(file.read_text(encoding="utf-8"))
    spreads = ("spread", "baseline", "extra", "ratio")
    rows = []
    for kept in measured["rows"]:
        kept |= {name: kept[name] and Spread(**kept[name]) for name in spreads}
        rows.append(Row(**kept | {"goal": kept["goal"] and Goal(**kept["goal"])}))
    return measured["environment"], rows


def write_page(environment: Environment, rows: Sequence[Row]) -> None:
    """
    Put the numbers into the page, each block between its markers, and draw the chart beside it.

    Raises:
        KeyError: If a block of the page was not measured.
    """
    measured = blocks(environment, rows)
    text = re.sub(
        r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{measured[found[2]]}\n\n{found[3]}",
        PAGE.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    PAGE.write_text(text, encoding="utf-8")
    PAGE.with_suffix(".svg").write_text(drawn(rows), encoding="utf-8")


def blocks(environment: Environment, rows: Sequence[Row]) -> Mapping[str, str]:
    """
    A table for each benchmark, and those that are made of all.
    """
    benchmarks = dict.fromkeys(row.benchmark for row in rows)
    tables = {name: _pivot([row for row in rows if row.benchmark == name]) for name in benchmarks}
    return tables | {
        "machine": _table(["", ""], [[name, value] for name, value in environment.items()]),
        "goals": _goals([row for row in rows if row.goal is not None]),
        "behind": _behind(rows),
    }


def _pivot(rows: Sequence[Row]) -> str:
    """
    A line for each contender, a column for each case; a line for each case of only one contender.
    """
    cases = list(dict.fromkeys(row.case for row in rows))
    contenders = dict.fromkeys(row.contender for row in rows)
    if len(contenders) == 1:
        return _table(["", *contenders], [[row.case, _cell(row)] for row in rows])
    cells = {(row.contender, row.case): _cell(row) for row in rows}
    return _table(
        ["", *cases],
        [[_shown(c), *(cells.get((c, case), "") for case in cases)] for c in contenders],
    )


def _goals(rows: Sequence[Row]) -> str:
    contenders = list(dict.fromkeys(row.contender for row in rows))
    found = {(row.benchmark, row.case, row.contender): row for row in rows}
    lines = []
    for benchmark, case in dict.fromkeys((row.benchmark, row.case) for row in rows):
        same = [found.get((benchmark, case, contender)) for contender in contenders]
        goal = next(row.goal for row in same if row is not None)
        assert goal is not None
        lines.append([benchmark, case, _goal(goal), *(_held(row) for row in same)])
    return _table(["", "", "goal", *contenders], lines)


def _held(row: Row | None) -> str:
    if row is None:
        return ""
    assert row.goal is not None
    median = row.measured(row.goal.measure).median
    shown = f"{_TIMES}{median:.3f}" if row.goal.measure == "ratio" else _number(median, row.unit)
    return shown if row.met else f"{shown}, **missed**"


def _goal(goal: Goal) -> str:
    sign = "" if goal.exact else "at most "
    return f"{sign}{_TIMES if goal.measure == 'ratio' else ''}{goal.limit:,g}"


def _behind(rows: Sequence[Row]) -> str:
    """
    Where another library is before this one, by numbers as they are shown.
    """
    lines = []
    for benchmark, case in dict.fromkeys((row.benchmark, row.case) for row in rows):
        same = [row for row in rows if (row.benchmark, row.case) == (benchmark, case)]
        others = [row for row in same if not row.contender.startswith((OURS, STATIC))]
        ours = [row for row in same if row.contender.startswith(OURS)]
        if not (others and ours):
            continue
        first, best = min(others, key=_rank), min(ours, key=_rank)
        if _rank(first) < _rank(best):
            lines.append(
                [
                    benchmark,
                    case,
                    f"{first.contender}: {_cell(first)}",
                    f"{_shown(best.contender)}: {_cell(best)}",
                ]
            )
    return _table(["", "", "first", "this library"], lines)


def _rank(row: Row) -> float:
    return round(row.measured(row.ranked_by).median, 2 if row.unit == "ms" else 1)


def _cell(row: Row) -> str:
    if row.contender.startswith(STATIC) and row.ratio is not None:
        return _spread(row.spread, row.unit)
    if row.ratio is None or row.extra is None:
        return _spread(row.spread, row.unit) + (f" ({row.note})" if row.note else "")
    if row.ranked_by == "median":
        return f"{_spread(row.spread, row.unit)}, {_TIMES}{row.ratio.median:.2f}"
    return f"+{_spread(row.extra, row.unit)}, {_TIMES}{row.ratio.median:.3f}".replace("+-", "-")


def _spread(spread: Spread, unit: str) -> str:
    """
    The median, and around it the quartiles, or the least and the greatest of a few.
    """
    lower, median, upper = (_number(n, "") for n in (spread.lower, spread.median, spread.upper))
    around = "" if lower == upper else f" ({lower} to {upper})"
    return f"{median}{around} {unit}".rstrip()


def _number(number: float, unit: str) -> str:
    digits = 0 if number == int(number) or abs(number) >= 100 else 1 if abs(number) >= 10 else 2
    return f"{number:,.{digits}f} {unit}".rstrip()


def _shown(contender: str) -> str:
    return f"**{contender}**" if contender.startswith(OURS) else contender


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """
    In columns that line up.
    """
    table = [headings, *lines]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * max(width, 3) for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in table)


if __name__ == "__main__":
    write_page(*read(Path(sys.argv[1])))
