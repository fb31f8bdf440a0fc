"""
How everything is measured: short timed sections, interleaved, compared round by round.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["FULL", "QUICK", "Effort", "Goal", "Row", "Section", "Spread", "interleaved"]

Section = Callable[[], float]
"""
Does the same thing some times over, and returns the seconds that it took once.
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """
    How often everything is done.

    Attributes:
        rounds: Rounds of interleaved sections.
        requests: HTTP requests in one section.
        lookups: Cache look-ups in one section.
        processes: Fresh processes for each import.
        tokens: Tokens to keep for the memory they take.
    """

    rounds: int
    requests: int
    lookups: int
    processes: int
    tokens: int


FULL = Effort(rounds=1_000, requests=10, lookups=1_000, processes=40, tokens=10_000)
QUICK = Effort(rounds=4, requests=3, lookups=100, processes=2, tokens=200)


@dataclass(frozen=True, slots=True)
class Spread:
    """
    A median and the quartiles around it.
    """

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """
        The spread of some measurements, or of a single one.
        """
        values = list(values)
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass(frozen=True, slots=True)
class Goal:
    """
    What a median is held against.

    Attributes:
        measure: Which spread of a row: the thing itself, its ratio to the baseline, or what it
            takes more than the baseline.
        limit: The most it may be; the only thing it may be, if `exact`.
    """

    measure: Literal["median", "ratio", "extra"]
    limit: float
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """
    One line of the table.

    Attributes:
        unit: Of `spread`, `baseline` and `extra`.
        baseline: The same without `resource_tokens`; None where there is no such thing.
        extra: The difference to the baseline, taken in each round.
        ratio: The ratio to the baseline, taken in each round.
        note: More in words.
    """

    benchmark: str
    case: str
    contender: str
    unit: str
    spread: Spread
    goal: Goal
    baseline: Spread | None = None
    extra: Spread | None = None
    ratio: Spread | None = None
    note: str = ""

    @classmethod
    def compared(
        cls,
        *,
        benchmark: str,
        case: str,
        contender: str,
        unit: Literal["ms", "µs"],
        rounds: Iterable[tuple[float, float]],
        goal: Goal,
        note: str = "",
    ) -> Row:
        """
        The row of a contender and its baseline, given the seconds of both in each round.

        A disturbance that lasts longer than a round slows both, and leaves the ratio as it is.
        """
        factor = {"ms": 1e3, "µs": 1e6}[unit]
        rounds = [(taken * factor, baseline * factor) for taken, baseline in rounds]
        return cls(
            benchmark,
            case,
            contender,
            unit,
            Spread.of(taken for taken, _ in rounds),
            goal,
            Spread.of(baseline for _, baseline in rounds),
            Spread.of(taken - baseline for taken, baseline in rounds),
            Spread.of(taken / baseline for taken, baseline in rounds),
            note,
        )

    @property
    def judged(self) -> Spread:
        """
        What the goal is about.
        """
        spreads = {"median": self.spread, "ratio": self.ratio, "extra": self.extra}
        spread = spreads[self.goal.measure]
        if spread is None:
            raise ValueError(f"{self.case!r} has a goal for {self.goal.measure}, and no such value")
        return spread

    @property
    def met(self) -> bool:
        """
        Whether the median meets the goal.
        """
        if self.goal.exact:
            return self.judged.median == self.goal.limit
        return self.judged.median <= self.goal.limit


def interleaved(sections: Mapping[str, Section], rounds: int) -> list[dict[str, float]]:
    """
    Run every section once in each round, and return what each took in each round.

    The order rotates, so that none always runs after the same other. The garbage collector runs
    between the rounds and never in one.
    """
    for section in sections.values():
        section()
    order = tuple(sections)
    taken = []
    gc.collect()
    # What is there already is not looked at again by every collection between two rounds.
    gc.freeze()
    gc.disable()
    try:
        for number in range(rounds):
            gc.collect()
            turn = number % len(order)
            taken.append({name: sections[name]() for name in order[turn:] + order[:turn]})
    finally:
        gc.enable()
        gc.unfreeze()
    return taken
