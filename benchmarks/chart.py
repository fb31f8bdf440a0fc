"""
The chart of docs/explanation/performance.md: a line for each library, bars side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.measure import Measure, Row

__all__ = ["drawn"]

LEFT, WIDTH, GAP, TOP, LINE = 206, 118, 18, 74, 26


def drawn(rows: Sequence[Row]) -> str:
    """
    The picture. It is readable without colours, and follows the reader's choice of light or dark.
    """
    panels = {panel: panel.values(rows) for panel in PANELS}
    names = list(dict.fromkeys(name for values in panels.values() for name in values))
    width, height = LEFT + len(panels) * (WIDTH + GAP), TOP + len(names) * LINE + 14
    drawing = [
        _text(LEFT - 12, _y(number), name, "end", _kind(name)) for number, name in enumerate(names)
    ]
    for number, (panel, values) in enumerate(panels.items()):
        x = LEFT + number * (WIDTH + GAP)
        drawing += [
            _text(x, 26 + 16 * n, part, "start", "head") for n, part in enumerate(panel.heading)
        ]
        drawing.append(f'<path d="M{x} {TOP - 8}V{height - 10}" class="axis"/>')
        most = max([*values.values(), 1e-9])
        for line, name in enumerate(names):
            drawing += _bar(x, line, values.get(name), most, _kind(name))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" \
aria-labelledby="title desc">
<title id="title">{TITLE}</title>
<desc id="desc">{escape(_described(panels))}</desc>
<style>
text {{ font: 13px system-ui, sans-serif; fill: #0f172a; }}
.head {{ font-size: 12px; fill: #475569; }}
.axis {{ stroke: #475569; }}
.ours {{ font-weight: 700; }}
rect {{ fill: #94a3b8; }}
rect.ours {{ fill: #1d4ed8; }}
.paper {{ fill: #ffffff; }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e2e8f0; }}
  .head {{ fill: #94a3b8; }}
  .axis {{ stroke: #94a3b8; }}
  rect {{ fill: #64748b; }}
  rect.ours {{ fill: #60a5fa; }}
  .paper {{ fill: #131416; }}
}}
</style>
<rect class="paper" width="{width}" height="{height}" rx="8"/>
{chr(10).join(drawing)}
</svg>
"""


TITLE = "What each library costs, and what it does when things go wrong. Less is better."


@dataclass(frozen=True, slots=True)
class Panel:
    """
    What a column of bars shows.

    Attributes:
        cases: How the names of the cases end, the better ones later; all are added up if none is
            given.
    """

    heading: tuple[str, str]
    benchmark: str
    cases: Sequence[str] = ()
    measure: Measure = "median"

    def values(self, rows: Iterable[Row]) -> Mapping[str, float]:
        """
        A number for each library that has one.
        """
        found: dict[str, float] = {}
        for row in rows:
            if row.benchmark != self.benchmark or row.contender.startswith("static header"):
                continue
            median = row.measured(self.measure).median
            if not self.cases:
                found[row.contender] = found.get(row.contender, 0) + median
            elif row.case.endswith(self.cases[-1]) or (
                row.case.endswith(tuple(self.cases)) and row.contender not in found
            ):
                found[row.contender] = median
        return found


# What is async is shown as such, and what is not, by threads.
PANELS = (
    Panel(
        ("warm request:", "µs added"), "warm-request", ("sync, 1 token", "async, 1 token"), "extra"
    ),
    Panel(("renewal under load:", "ms added at p99"), "expiry", ("p99 added",)),
    Panel(("stampede:", "token requests"), "stampede", (" threads", " tasks")),
    Panel(("outage:", "% of requests failed"), "outage", ("failed requests",)),
    Panel(("three ways to stray:", "tokens that did"), "strays"),
)


def _described(panels: Mapping[Panel, Mapping[str, float]]) -> str:
    return " ".join(
        f"{' '.join(panel.heading)}: "
        + ", ".join(f"{name} {_number(value)}" for name, value in values.items())
        + "."
        for panel, values in panels.items()
    )


def _bar(x: int, line: int, value: float | None, most: float, kind: str) -> Iterator[str]:
    if value is None:
        yield _text(x + 6, _y(line), "-", "start", kind)
        return
    # At least a hair, so that nothing looks like a gap.
    width = max(1.5, (WIDTH - 46) * max(value, 0) / most)
    yield f'<rect x="{x}" y="{_y(line) - 12}" width="{width:.1f}" height="16" class="{kind}"/>'
    yield _text(x + width + 6, _y(line), _number(value), "start", kind)


def _text(x: float, y: int, text: str, anchor: str, kind: str) -> str:
    return f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _y(line: int) -> int:
    return TOP + line * LINE + 12


def _kind(name: str) -> str:
    return "ours" if name.startswith("resource_tokens") else "peer"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) or abs(number) >= 10 else f"{number:.1f}"
