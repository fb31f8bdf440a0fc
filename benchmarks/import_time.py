"""
`import resource_tokens` against `import httpx`, in fresh processes.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires

from benchmarks.measure import Effort, Goal, Row, interleaved

__all__ = ["measure"]

BASELINE = "httpx"
MODULES = ("resource_tokens",)
GOAL = Goal("ratio", 1.5)


def measure(effort: Effort) -> Iterator[Row]:
    """
    The time of the import statement itself; the start of the interpreter would hide it.
    """
    sections = {
        module: lambda module=module: float(_run(_TIMED.format(module)).stdout)
        for module in (BASELINE, *MODULES)
    }
    rounds = interleaved(sections, effort.processes)
    for module in MODULES:
        pairs = [(taken[module], taken[BASELINE]) for taken in rounds]
        best, best_baseline = (min(times) for times in zip(*pairs, strict=True))
        note = (
            f"best {best * 1e3:.1f} ms against {best_baseline * 1e3:.1f} ms "
            f"({best / best_baseline:.2f}x); {_on_top(module, min(effort.processes, 10))}"
        )
        case = f"import {module} / import {BASELINE}"
        yield Row.compared(
            benchmark="import-time",
            case=case,
            contender=module,
            unit="ms",
            rounds=pairs,
            goal=GOAL,
            note=note,
        )


def _on_top(module: str, processes: int) -> str:
    """
    Which modules are imported that the baseline does not import, and the slowest of them.
    """
    baseline, ours = (set(_run(_LISTED.format(name)).stdout.split()) for name in (BASELINE, module))
    taken = defaultdict(list)
    for _ in range(processes):
        report = _run(f"import {module}", "-X", "importtime").stderr
        for own_time, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", report):
            taken[name].append(int(own_time) / 1e3)
    own_times = {name: statistics.median(taken[name]) for name in ours - baseline if name in taken}
    slowest = sorted(own_times.items(), key=lambda item: -item[1])[:5]
    return f"{len(ours - baseline)} modules on top, the slowest: " + ", ".join(
        f"{name} {own_time:.1f} ms" for name, own_time in slowest
    )


def _run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [sys.executable, "-I", *options, "-c", f"{_WITHOUT_EXTRAS}\n{code}"],
        capture_output=True,
        check=False,
        text=True,
    )
    if run.returncode != 0:
        raise RuntimeError(f"A process to time an import in has failed:\n{run.stderr}")
    return run


def _optional_modules() -> list[str]:
    """
    What is installed here for development, and is not where somebody installs no extra.
    """
    optional = {
        re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()
        for package in ("resource_tokens", "httpx")
        for requirement in requires(package) or ()
        if "extra ==" in requirement
    }
    return [
        module
        for module, distributions in packages_distributions().items()
        if optional.intersection(distribution.lower() for distribution in distributions)
    ]


# With None in `sys.modules`, an import raises ModuleNotFoundError and `find_spec` returns None,
# as for a module that is not installed. An import hook in `sys.meta_path` could do only the one or
# the other, and a fresh virtual environment would need a package index.
_WITHOUT_EXTRAS = f"import sys; sys.modules.update(dict.fromkeys({_optional_modules()!r}))"
_TIMED = """
from time import perf_counter
started = perf_counter()
import {}
print(perf_counter() - started)
"""
_LISTED = """
import {}
print(*(name for name, module in sys.modules.items() if module is not None))
"""
