"""
The command: `python -m benchmarks [--quick] [--only NAME] [--json FILE] [--page]`.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks import (
    cache_lookup,
    cold_file,
    dpop_request,
    expiry,
    import_time,
    inbound,
    loopback_request,
    memory,
    mock_request,
    on_behalf_of,
    outage,
    report,
    shared_store,
    short_lives,
    stampede,
    strays,
    threads,
    warm_request,
)
from benchmarks.measure import FULL, QUICK, Effort, Row
from benchmarks.peers import all_peers, versions

BENCHMARKS: dict[str, Callable[[Effort], Iterator[Row]]] = {
    # With all peers.
    "warm-request": warm_request.measure,
    "threads": threads.measure,
    "stampede": stampede.measure,
    "expiry": expiry.measure,
    "outage": outage.measure,
    "short-lives": short_lives.measure,
    "strays": strays.measure,
    "memory": memory.measure,
    "import-time": import_time.measure,
    # This library alone.
    "mock-request": mock_request.measure,
    "on-behalf-of": on_behalf_of.measure,
    "loopback-request": loopback_request.measure,
    "dpop-request": dpop_request.measure,
    "cache-lookup": cache_lookup.measure,
    "cold-file": cold_file.measure,
    "inbound": inbound.measure,
    "shared-store": shared_store.measure,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print the tables, write what is asked for.
    """
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="to see that it runs, not to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--page", action="store_true", help=f"write them into {report.PAGE.name}")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="may be repeated")
    options = parser.parse_args(arguments)

    # Everything is on this machine, so no proxy leads to it.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    environment = _environment()
    rows: list[Row] = []
    for name in options.only or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr)
        rows += BENCHMARKS[name](QUICK if options.quick else FULL)

    for name, block in report.blocks(environment, rows).items():
        print(f"{name}:", block, sep="\n\n", end="\n\n")
    if options.json is not None:
        report.write(options.json, environment, rows)
    if options.page:
        report.write_page(environment, rows)


def _environment() -> dict[str, str]:
    libraries = versions(all_peers())
    machine = platform.machine()
    with suppress(OSError):
        cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        machine += "".join(f", {name}" for name in re.findall(r"model name\s*: (.*)", cpus)[:1])
    return {
        "processor": machine,
        "cores": str(os.cpu_count()),
        "load before": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "system": platform.system() + " " + platform.release(),
        "Python": platform.python_version(),
        **dict(sorted(libraries.items(), key=lambda library: library[0].lower())),
    }


if __name__ == "__main__":
    main()
