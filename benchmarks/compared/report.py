"""
What the kit has found, as tables.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

from benchmarks.compared import FACTORIES
from resource_tokens.conformance import test_destinations, test_races, test_redirects

__all__ = ["Found", "cells", "found_by", "found_by_all", "tables"]

ROOT = Path(__file__).parents[2]
CORPORA = {
    "test_no_token_goes_astray_by_redirect": len(test_redirects.ASTRAY),
    "test_no_path_misleads": len(test_destinations.PATHS),
    "test_no_host_misleads": len(test_destinations.HOSTS),
}


@dataclass
class Found:
    """
    What was found about one claim.

    Attributes:
        held: In what it was held: library and colour.
        broken: In what not.
        astray: Which cases of a corpus were led astray.
    """

    held: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    astray: set[str] = field(default_factory=set)

    def cell(self, test: str) -> str:
        """
        The same in a few words.
        """
        if not (self.held or self.broken):
            return "not supported"
        if not self.broken:
            return "yes"
        if self.astray:
            return f"no: {len(self.astray)} of {CORPORA[test]}"
        if not self.held:
            return "no"
        colours = dict.fromkeys(where.partition("-")[2] for where in self.broken)
        return f"not {', '.join(colours)}"


Findings = Mapping[str, Found]


def found_by_all() -> dict[str, Findings]:
    """
    What the kit finds with each library, two of them at a time.
    """
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FACTORIES, pool.map(found_by, FACTORIES), strict=True))


def found_by(name: str) -> Findings:
    """
    Run the kit with one library.
    """
    factory = FACTORIES[name]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        # With an empty configuration of its own: warnings of others are not what is tested.
        Path(folder, "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pytest", "--pyargs", "resource_tokens.conformance"),
            *(f"--auth={factory.__module__}:{factory.__name__}", f"--junitxml={report}"),
            *("-q", "-p", "no:cacheprovider", "-c", f"{folder}/pytest.ini", "--rootdir", folder),
        ]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode not in (0, 1):
            raise RuntimeError(f"The kit did not run with {name}:\n{ended.stdout}{ended.stderr}")
        return _read(ET.parse(report))


def _read(report: ET.ElementTree[ET.Element[str]]) -> Findings:
    findings: dict[str, Found] = {}
    for case in report.iter("testcase"):
        test, _, parameters = str(case.get("name")).partition("[")
        found = findings.setdefault(test, Found())
        where = "-".join(parameters.rstrip("]").split("-")[:2])
        if case.find("failure") is not None or case.find("error") is not None:
            found.broken.append(where)
        elif case.find("skipped") is None:
            found.held.append(where)
        for recorded in case.iter("property"):
            if recorded.get("name") == "astray":
                found.astray |= set(json.loads(str(recorded.get("value"))))
    return findings


def claims() -> dict[str, str]:
    """
    The first sentence of each test of the kit.
    """
    modules = (test_redirects, test_destinations, test_races)
    return {
        name: re.sub(r"\s+", " ", str(function.__doc__)).strip()
        for module in modules
        for name, function in vars(module).items()
        if name.startswith("test_")
    }


def cells(findings: Mapping[str, Findings]) -> list[list[str]]:
    """
    A row for each claim: the claim, and what each library makes of it.
    """
    return [
        [claim, *(found[test].cell(test) for found in findings.values())]
        for test, claim in claims().items()
    ]


def tables(findings: Mapping[str, Findings]) -> str:
    """
    The tables of the page, in Markdown.
    """
    heads = [f"{name} {version(name)}" for name in findings]
    rows = [_row(["claim", *heads]), _row(["---"] * (len(heads) + 1))]
    rows += [_row(row) for row in cells(findings)]
    return "\n".join([*rows, "", *_led_astray(findings)])


def _led_astray(findings: Mapping[str, Findings]) -> list[str]:
    test = "test_no_token_goes_astray_by_redirect"
    rows = [_row(["a redirect to", *findings]), _row(["---"] * (len(findings) + 1))]
    for case in test_redirects.ASTRAY:
        went = ["token sent" if case in f[test].astray else "no token" for f in findings.values()]
        rows.append(_row([case, *went]))
    return [*rows, ""]


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
