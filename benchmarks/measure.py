"""
How everything is measured: short timed sections, interleaved, compared round by round.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FULL", "QUICK", "Effort", "Goal", "Measure", "Row", "Section", "Spread", "interleaved"]

Measure = Literal["median", "ratio", "extra"]
Section = Callable[[], float]
"""
Does the same thing some times over, and returns the seconds that it took once.
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """
    How often everything is done, and for how long.

    Attributes:
        rounds: Rounds of interleaved sections, of this library and a bare client.
        peer_rounds: The same with all the peers.
        requests: HTTP requests in one section.
        lookups: Cache look-ups in one section.
        repeats: How often is done again what is not done in rounds.
        processes: Fresh processes for each import.
        many: Numbers of tokens to have in a cache.
        kept: Tokens to keep for the memory they take.
        tasks: Tasks that miss together.
        threads: Threads that miss together, or send together.
        seconds: How long the threads send.
        rate: Requests a second while a token comes to its end.
        renewed_after: When it is renewed, in seconds after it was asked for.
        delay: How long the authorization server takes, in seconds.
        outage: How long it is away, in seconds; the tokens of that run are renewed
            `outage_after` seconds after they were asked for.
        together: Whether peers are under load at the same time, which is quicker and makes the
            times meaningless.
    """

    rounds: int
    peer_rounds: int
    requests: int
    lookups: int
    repeats: int
    processes: int
    many: Sequence[int]
    kept: int
    tasks: int
    threads: int
    seconds: float
    rate: float
    renewed_after: float
    delay: float
    outage: float
    outage_after: float
    together: bool


FULL = Effort(
    rounds=300,
    peer_rounds=100,
    requests=10,
    lookups=1_000,
    repeats=3,
    processes=8,
    many=(1_000, 100_000),
    kept=1_000,
    tasks=1_000,
    threads=64,
    seconds=1.0,
    rate=500,
    renewed_after=2.1,
    delay=0.3,
    outage=2.4,
    outage_after=8.4,
    together=False,
)
QUICK = Effort(
    rounds=3,
    peer_rounds=2,
    requests=3,
    lookups=100,
    repeats=1,
    processes=1,
    many=(20,),
    kept=5,
    tasks=40,
    threads=8,
    seconds=0.05,
    rate=10,
    renewed_after=1.4,
    delay=0.1,
    outage=0.8,
    outage_after=1.4,
    together=True,
)


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

    @classmethod
    def range(cls, values: Iterable[float]) -> Spread:
        """
        The median of a few measurements, with the least and the greatest.
        """
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Goal:
    """
    What a median is held against.

    Attributes:
        measure: Which spread of a row: the thing itself, its ratio to the baseline, or what it
            takes more than the baseline.
        limit: The most it may be; the only thing it may be, if `exact`.
    """

    measure: Measure
    limit: float
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """
    One number of one contender.

    Attributes:
        contender: Which library does it, by which HTTP client.
        unit: Of `spread`, `baseline` and `extra`.
        goal: What it is held against; None for other people's libraries.
        baseline: The same with a bare client; None where there is no such thing.
        extra: The difference to the baseline, taken in each round.
        ratio: The ratio to the baseline, taken in each round.
        ranked_by: Which spread says who is first. The least is.
        note: More in words.
    """

    benchmark: str
    case: str
    contender: str
    unit: str
    spread: Spread
    goal: Goal | None = None
    baseline: Spread | None = None
    extra: Spread | None = None
    ratio: Spread | None = None
    ranked_by: Measure = "median"
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
        goal: Goal | None,
        ranked_by: Measure = "extra",
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
            ranked_by,
            note,
        )

    def measured(self, measure: Measure) -> Spread:
        """
        One of its spreads.

        Raises:
            ValueError: If it has no such spread.
        """
        spread = {"median": self.spread, "ratio": self.ratio, "extra": self.extra}[measure]
        if spread is None:
            raise ValueError(f"{self.case!r} of {self.contender!r} has no {measure}")
        return spread

    @property
    def met(self) -> bool | None:
        """
        Whether the median meets the goal.
        """
        if self.goal is None:
            return None
        median = self.measured(self.goal.measure).median
        return median == self.goal.limit if self.goal.exact else median <= self.goal.limit


def interleaved(
    sections: Mapping[str, Section], rounds: int, *, rehearsed: bool = True
) -> list[dict[str, float]]:
    """
    Run every section once in each round, and return what each took in each round.

    The order rotates, so that none always runs after the same other. The garbage collector runs
    between the rounds and never in one.
    """
    if rehearsed:
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
