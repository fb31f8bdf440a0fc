"""
The command: `python -m benchmarks.soak [--seconds N] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.soak.servers import LIFETIME, RESOURCES, serve_api, serve_tokens
from benchmarks.soak.worker import COLOURS, Report, work

__all__ = ["main"]

# A token is refreshed ahead in the last quarter of its life, begun up to a fifth earlier.
USED = LIFETIME - 0.25 * LIFETIME * 1.1
PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Outcome:
    """
    What a run has shown, and whether it is as it should be.

    Attributes:
        expired: Requests that were sent with an expired token.
        overtaken: Requests that were on their way for longer than their token had left, as happens
            on a machine with too much to do.
        ideal: Token requests if each token were used until its soft window, and each failure
            made up for once.
        traced: Growth of what Python objects take in one process, in bytes.
        resident: The largest growth of a process, in bytes.
    """

    seconds: float
    down: float
    requests: int
    expired: int
    overtaken: int
    strayed: int
    refused: int
    failed_with_a_token: int
    failed_without: int
    token_requests: int
    failures: int
    ideal: float
    traced: int
    resident: int

    @property
    def bounds(self) -> dict[str, bool]:
        """
        What was promised, and whether it was kept.
        """
        return {
            "0 requests with an expired token": self.expired == 0,
            "0 requests with a token for something else": self.strayed == 0,
            "0 requests failed while a token was good": self.failed_with_a_token == 0,
            "0 requests refused that were not overtaken": self.refused <= self.overtaken,
            "token requests within 1.2 times the ideal": self.token_requests <= 1.2 * self.ideal,
            "Python objects within 256 KiB": self.traced <= 256 * 1024,
            "resident memory within 4 MiB": self.resident <= 4 * 1024 * 1024,
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run, print, and fail where a bound is missed.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args(arguments)
    outcome, reports, noted = run(options.seconds)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    for name, value in asdict(outcome).items():
        print(f"{name.replace('_', ' '):20} {value:>14,.1f}")
    rate = outcome.requests / outcome.seconds
    ratio = outcome.token_requests / outcome.ideal
    print(f"\n{rate:,.0f} requests a second; token requests: {ratio:.2f} times the ideal")
    for report in reports:
        print(f"  {report.colour:16} {report.counts['let in'] / outcome.seconds:,.0f} a second")
    for failure, times in sorted(noted.items(), key=lambda item: ("good" not in item[0], -item[1]))[
        :6
    ]:
        print(f"  {times} times {failure}")
    for bound, kept in outcome.bounds.items():
        print(f"{'yes' if kept else 'NO ':3} {bound}")
    if options.json is not None:
        text = json.dumps(asdict(outcome) | {"bounds": outcome.bounds}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(not all(outcome.bounds.values()))


def run(seconds: float) -> tuple[Outcome, list[Report], Counter[str]]:
    """
    One run; the authorization server is down for a tenth of it, from its middle on.
    """
    tokens, api = _process(serve_tokens, 7), _process(serve_api)
    token_port, api_port = tokens.recv(), api.recv()
    origins = (f"http://127.0.0.1:{token_port}/token", f"http://127.0.0.1:{api_port}")
    workers = [
        _process(work, colour, *origins, traced=number == 0)
        for number, colour in enumerate(COLOURS)
    ]
    for worker in workers:
        assert worker.recv() == "ready"
    started = time.monotonic()
    time.sleep(seconds / 2)
    _tell(tokens, "down")
    down_at = time.monotonic()
    time.sleep(seconds / 10)
    down = time.monotonic() - down_at
    _tell(tokens, "up")
    time.sleep(seconds - seconds / 2 - seconds / 10)
    for worker in workers:
        worker.send("stop")
    reports: list[Report] = [worker.recv() for worker in workers]
    seconds = time.monotonic() - started
    issued, shown = _tell(tokens, "count"), _tell(api, "count")
    for server in (tokens, api):
        server.send("stop")
    counts, noted = Counter[str](), Counter[str]()
    for report in reports:
        counts += report.counts
        noted += report.failures
    failures = issued.get("failed", 0)
    lives = (seconds - down) / USED
    outcome = Outcome(
        seconds=seconds,
        down=down,
        requests=sum(shown.values()),
        expired=shown.get("expired", 0),
        overtaken=shown.get("overtaken", 0),
        strayed=shown.get("not for here", 0),
        refused=counts["refused"],
        failed_with_a_token=counts["failed while a token was good"],
        failed_without=counts["failed without a token"],
        token_requests=issued.get("token requests", 0),
        failures=failures,
        ideal=len(COLOURS) * len(RESOURCES) * lives + failures,
        traced=_growth(reports[0].traced),
        resident=max(_growth(report.resident) for report in reports),
    )
    return outcome, reports, noted


def _growth(samples: Sequence[int]) -> int:
    """
    From the second sixth of a run, when everything is in place, to the last; nothing is known of a
    run of less than a minute.
    """
    size = len(samples) // 6
    if size < 9:
        return 0
    return int(median(samples[-size:]) - median(samples[size : 2 * size]))


def _process(target: Any, *arguments: Any, **options: Any) -> Connection:
    ours, theirs = PROCESSES.Pipe()
    PROCESSES.Process(target=target, args=(theirs, *arguments), kwargs=options, daemon=True).start()
    theirs.close()
    return ours


def _tell(server: Connection, word: str) -> dict[str, int]:
    server.send(word)
    ledger: dict[str, int] = server.recv()
    return ledger


if __name__ == "__main__":
    main()
