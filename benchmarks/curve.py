"""
Lines over the number of something, both axes by powers of ten.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "curve"]

LEFT, TOP, WIDTH, HEIGHT, RIGHT = 64, 64, 420, 300, 300


@dataclass(frozen=True)
class Line:
    """
    A named row of values, one for each place on the axis.

    Attributes:
        ours: Whether it is what the picture is about.
    """

    name: str
    values: Sequence[float]
    ours: bool = False


def curve(title: str, axis: tuple[str, Sequence[float]], lines: Sequence[Line]) -> str:
    """
    The picture. It is readable without colours, and follows the reader's choice of light or dark.
    """
    name, places = axis
    powers = math.ceil(math.log10(max(places)))
    top = math.ceil(math.log10(max(value for line in lines for value in line.values)))
    width, height = LEFT + WIDTH + RIGHT, TOP + HEIGHT + 54

    def x(place: float) -> float:
        return LEFT + WIDTH * math.log10(place) / powers

    def y(value: float) -> float:
        return TOP + HEIGHT - HEIGHT * math.log10(max(value, 1)) / top

    def drawing() -> Iterator[str]:
        yield f'<text x="{LEFT - 40}" y="30" class="title">{escape(title)}</text>'
        for power in range(top + 1):
            at = y(10**power)
            yield f'<path d="M{LEFT} {at:.1f}h{WIDTH}" class="grid"/>'
            yield f'<text x="{LEFT - 8}" y="{at + 4:.1f}" class="end">{10**power:,}</text>'
        for power in range(powers + 1):
            place = f'x="{x(10**power):.1f}" y="{TOP + HEIGHT + 20}"'
            yield f'<text {place} class="middle">{10**power:,}</text>'
        yield f'<text x="{LEFT + WIDTH / 2:.0f}" y="{height - 12}" class="middle">{name}</text>'
        taken: list[float] = []
        for line in sorted(lines, key=lambda line: line.values[-1], reverse=True):
            kind = "ours" if line.ours else "other"
            points = " ".join(
                f"{x(place):.1f},{y(value):.1f}"
                for place, value in zip(places, line.values, strict=True)
            )
            yield f'<polyline points="{points}" class="{kind}"/>'
            # Names that would stand on each other move down.
            at = max([y(line.values[-1]) + 4, *(other + 17 for other in taken[-1:])])
            taken.append(at)
            place = f'x="{LEFT + WIDTH + 10}" y="{at:.1f}"'
            yield f'<text {place} class="{kind}">{escape(line.name)}</text>'

    described = "; ".join(
        f"{line.name}: "
        + ", ".join(
            f"{value:,.0f} for {place:,.0f}"
            for place, value in zip(places, line.values, strict=True)
        )
        for line in lines
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" \
aria-labelledby="title desc">
<title id="title">{escape(title)}</title>
<desc id="desc">{escape(described)}.</desc>
<style>
text {{ font: 13px system-ui, sans-serif; fill: #0f172a; }}
.title, text.ours {{ font-weight: 700; }}
.end {{ text-anchor: end; fill: #475569; }}
.middle {{ text-anchor: middle; fill: #475569; }}
.grid {{ stroke: #e2e8f0; }}
polyline {{ fill: none; stroke: #64748b; stroke-width: 1.5; }}
polyline.ours {{ stroke: #1d4ed8; stroke-width: 3; }}
.paper {{ fill: #ffffff; }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e2e8f0; }}
  .end, .middle {{ fill: #94a3b8; }}
  .grid {{ stroke: #334155; }}
  polyline {{ stroke: #94a3b8; }}
  polyline.ours {{ stroke: #60a5fa; }}
  .paper {{ fill: #131416; }}
}}
</style>
<rect class="paper" width="{width}" height="{height}" rx="8"/>
{chr(10).join(drawing())}
</svg>
"""
