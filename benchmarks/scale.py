"""
A model check of what a fleet does with one store, and the curve of what that costs:
`python -m benchmarks.scale [--workers N] [--page]`.

Every worker is the real engine, in virtual time (`virtual.py`). In a calm run nothing goes wrong.
In a rough one clocks drift and stand wrong, answers of the store are lost before or after it has
done what was asked, and workers are killed or stand still for longer than a lease, above all
while one of them has it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.curve import Line, curve
from benchmarks.virtual import REQUEST, Fate, Issue, Worker, World

__all__ = ["Outcome", "calm", "main", "rough"]

LIFETIME = 300.0
# A share by which clocks run fast or slow; a bad quartz has a hundredth of that.
DRIFT = 0.01
# Seconds by which wall clocks stand wrong, ahead or behind.
SKEW = 10.0
# From asking for a token to the earliest moment at which somebody may want another one: it has a
# soft window of a quarter, begun up to a fifth earlier, and of two clocks the later one counts.
USED = LIFETIME * (1 - 0.25 * 1.2 - DRIFT) - 2 * SKEW
# Seconds between two requests of a worker.
EVERY = 5.0
# What each step is, in commands to the server.
COMMANDS = {"load": 4, "lease": 2, "save": 1, "release": 1, "news": 1}
PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "scale.svg"


@dataclass(frozen=True)
class Outcome:
    """
    What a run has shown.

    Attributes:
        workers: How many there were at a time.
        lifetimes: How many tokens the fleet needs, one after the other.
        token_requests: How many it has asked for.
        ran_out: How often a lease ended by itself, as its holder was killed, stood still, or did
            not learn that it had it.
        lost: How many exchanges with the store got no answer.
        killed: How many workers were killed.
        held: How many stood still.
        presented: How many requests were sent with a token.
        expired: How many of them with one that had expired.
        at_a_time: How many tokens were in use at a time outside their soft windows, at most;
            those not counted that were asked for without the store.
        commands: To the server, in each second.
    """

    workers: int
    lifetimes: int
    token_requests: int
    ran_out: int
    lost: int
    killed: int
    held: int
    presented: int
    expired: int
    at_a_time: int
    commands: tuple[int, ...]

    @property
    def bounds(self) -> dict[str, bool]:
        """
        What is promised, and whether it was kept.
        """
        most = self.lifetimes + self.ran_out + self.lost
        return {
            "no expired token": self.expired == 0,
            "one token at a time outside its soft window": self.at_a_time <= 1,
            "one token request per lifetime, lease that ran out and lost exchange": (
                self.token_requests <= most
            ),
        }


def calm(workers: int, seconds: float, seed: int = 0) -> Outcome:
    """
    Nothing goes wrong, but all begin in the same second.
    """
    fleet = _Fleet(World(seed=seed, lifetime=LIFETIME), workers)
    return fleet.outcome(seconds)


def rough(workers: int, seconds: float, seed: int = 0) -> Outcome:
    """
    Much goes wrong.
    """
    world = World(seed=seed, lifetime=LIFETIME)
    chance = world.random

    def make() -> Worker:
        drift, skew = chance.uniform(-DRIFT, DRIFT), chance.uniform(-SKEW, SKEW)
        return world.worker(skew=skew, drift=drift)

    fleet = _Fleet(world, workers, make)

    def answer() -> dict[str, object]:
        world.answer_after = chance.choice([0.05, 0.2, 1.0, 5.0])
        return {}

    def fate(worker: Worker) -> Fate:
        # Most exchanges are looks that change nothing, and few are those of who has the lease.
        share = 0.15 if world.store.holder(REQUEST.key) is worker else 0.001
        if chance.random() < share:
            fleet.struck(worker)
        if chance.random() < share:
            return fleet.loses(worker)
        return Fate(takes=chance.uniform(0.0005, 0.01))

    world.answer, world.fate = answer, fate
    return fleet.outcome(seconds)


class _Fleet:
    """
    Workers that send a request every few seconds, and what comes of it.
    """

    def __init__(
        self, world: World, workers: int, make: Callable[[], Worker] | None = None
    ) -> None:
        self._world = world
        self._make = make or world.worker
        self._workers = workers
        self._killed = self._held = self._lost = self._presented = self._expired = 0
        self._begun: list[Worker] = []
        # When each worker did not hear of the store.
        self._deaf: dict[int, list[float]] = {}
        # When each token was first and last presented outside its soft window.
        self._in_use: dict[int, tuple[float, float]] = {}
        self._commands: list[int] = []

    def outcome(self, seconds: float) -> Outcome:
        """
        Let so much time pass.
        """
        for _ in range(self._workers):
            self._begin()
        counted = 0
        for second in range(int(seconds)):
            self._world.time.run(float(second + 1))
            steps = self._world.store.steps
            so_far = sum(COMMANDS.get(step, 0) * times for step, times in steps.items())
            self._commands.append(so_far - counted)
            counted = so_far
        issued = self._world.issued
        shared = [number for number in self._in_use if not self._is_own(issued[number - 1])]
        return Outcome(
            workers=self._workers,
            lifetimes=1 + int(seconds / USED),
            token_requests=len(self._world.asked),
            ran_out=self._world.store.ran_out,
            lost=self._lost,
            killed=self._killed,
            held=self._held,
            presented=self._presented,
            expired=self._expired,
            at_a_time=_at_a_time([self._in_use[number] for number in shared]),
            commands=tuple(self._commands),
        )

    def struck(self, worker: Worker) -> None:
        """
        Kill a worker, and let another one begin; or let it stand still for a while.
        """
        chance, now = self._world.random, self._world.time.now
        when = now + chance.uniform(0, 0.5)
        if chance.random() < 0.3:
            self._killed += 1
            self._world.time.at(when, worker.kill)
            self._world.time.at(when + 1, self._begin)
        else:
            self._held += 1
            until = when + chance.uniform(1, 60)
            self._world.time.at(when, lambda: setattr(worker, "held_until", until))

    def loses(self, worker: Worker) -> Fate:
        """
        An exchange without an answer: the store may have done what was asked, or hang.
        """
        chance = self._world.random
        self._lost += 1
        self._deaf.setdefault(id(worker), []).append(self._world.time.now)
        done = chance.random() < 0.5
        if chance.random() < 0.2:
            return Fate(takes=60.0, done=done)
        return Fate(takes=chance.uniform(0.001, 1.0), raises=ConnectionError(), done=done)

    def _begin(self) -> None:
        worker = self._make()
        # Kept, so that no other one has its number.
        self._begun.append(worker)
        self._world.time.at(
            self._world.time.now + self._world.random.random(), lambda: self._request(worker)
        )

    def _request(self, worker: Worker) -> None:
        now = self._world.time.now
        if worker.dead:
            return
        if now < worker.held_until:
            self._world.time.at(worker.held_until, lambda: self._request(worker))
            return
        again_at = now + EVERY * self._world.random.uniform(0.8, 1.2)
        self._world.time.at(again_at, lambda: self._request(worker))
        cached = worker.acquirer.cached(REQUEST)
        if cached is None:
            self._world.time.start(lambda: self._wait(worker))
        else:
            self._present(int(cached.token.reveal().removeprefix("token-")))

    def _wait(self, worker: Worker) -> None:
        cached = worker.get()
        self._present(int(cached.token.reveal().removeprefix("token-")))

    def _present(self, number: int) -> None:
        now = self._world.time.now
        age = now - self._world.issued[number - 1].asked_at
        self._presented += 1
        self._expired += age >= LIFETIME
        if age < USED:
            self._in_use[number] = self._in_use.get(number, (now, now))[0], now

    def _is_own(self, issue: Issue) -> bool:
        """
        Whether it was asked for by a worker that did not hear of the store then.
        """
        deaf = self._deaf.get(issue.worker, [])
        return any(issue.asked_at - 60 < when < issue.asked_at + 15 for when in deaf)


def _at_a_time(spans: Sequence[tuple[float, float]]) -> int:
    ends = sorted([(first, 1) for first, _ in spans] + [(last, -1) for _, last in spans])
    most = now = 0
    for _, step in ends:
        now += step
        most = max(most, now)
    return most


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run, print, and fail where a bound is missed.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--workers", type=int, default=10_000, help="at most")
    parser.add_argument("--seconds", type=float, default=900.0, help="of virtual time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--page", action="store_true", help=f"draw {PAGE.name}")
    options = parser.parse_args(arguments)
    sizes = [10**power for power in range(8) if 10**power < options.workers]
    sizes.append(options.workers)
    outcomes = [_timed(calm, workers, options.seconds) for workers in sizes]
    checked = _timed(rough, options.workers, options.seconds)
    if options.page:
        PAGE.write_text(_drawn(outcomes), encoding="utf-8")
    if options.json is not None:
        numbers = {"calm": [asdict(o) for o in outcomes], "rough": asdict(checked)}
        options.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    sys.exit(not all(kept for o in (*outcomes, checked) for kept in o.bounds.values()))


def _timed(run: Callable[[int, float], Outcome], workers: int, seconds: float) -> Outcome:
    began = time.monotonic()
    outcome = run(workers, seconds)
    print(f"{run.__name__}, {workers:,} workers ({time.monotonic() - began:.0f} s)")
    for name, value in asdict(outcome).items():
        if name not in {"workers", "commands"}:
            print(f"  {name.replace('_', ' '):16} {value:>12,}")
    print(f"  {'commands/s':16} {_steady(outcome):>12,.0f}  at first {max(outcome.commands):,}")
    for bound, kept in outcome.bounds.items():
        print(f"  {'yes' if kept else 'NO '} {bound}")
    return outcome


def _steady(outcome: Outcome) -> float:
    """
    Commands a second, when all have begun.
    """
    later = outcome.commands[60:] or outcome.commands
    return sum(later) / len(later)


def _drawn(outcomes: Sequence[Outcome]) -> str:
    workers = [float(outcome.workers) for outcome in outcomes]
    requests = [outcome.token_requests / outcome.lifetimes for outcome in outcomes]
    return curve(
        "What a fleet costs, by the number of its workers",
        ("workers", workers),
        [
            Line("commands to Redis in the first second", [max(o.commands) for o in outcomes]),
            Line("token requests per lifetime, without sharing", workers),
            Line("commands to Redis a second, later", [_steady(o) for o in outcomes]),
            Line("token requests per lifetime, shared", requests, ours=True),
        ],
    )


if __name__ == "__main__":
    main()
