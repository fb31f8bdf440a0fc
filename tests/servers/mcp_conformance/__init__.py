"""
The MCP conformance suite: scenarios that a client must live through, with the suite's own servers.

Those listen on all interfaces, at free ports, while a scenario runs.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.npm import find_node, installed_packages

__all__ = ["Outcome", "run"]

_HERE = Path(__file__).resolve().parent
_SUITE = Path("node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js")


@dataclass(frozen=True)
class Outcome:
    """
    What the suite says about one run of the client.

    Attributes:
        passed: Its verdict on the whole.
        checks: The statuses of its checks, by their ids; among them what it only observed.
        output: What it and the client wrote.
    """

    passed: bool
    checks: dict[str, list[str]]
    output: str

    def observed(self, check: str) -> int:
        """
        How often something was seen.
        """
        return len(self.checks.get(check, []))

    def not_green(self) -> dict[str, list[str]]:
        """
        The checks that failed or were warned about.
        """
        return {k: v for k, v in self.checks.items() if not {"SUCCESS", "INFO"}.issuperset(v)}


def run(scenario: str, results: Path, *, version: str | None = None, **environment: str) -> Outcome:
    """
    Put the client of this folder through one scenario.

    The first run in a checkout installs the npm packages.

    Args:
        scenario: Its name in the suite.
        results: An empty folder for what the suite writes.
        version: The revision of the protocol, for a scenario that is part of several.
        environment: More variables for the client.
    """
    node = find_node()
    suite = installed_packages(node, _HERE) / _SUITE
    client = [sys.executable, str(_HERE / "client.py")]
    command = ["client", "--command", shlex.join(client), "--scenario", scenario]
    if version is not None:
        command += ["--spec-version", version]
    ended = subprocess.run(
        [node.node, "--import", str(_HERE / "preload.mjs"), str(suite), *command, "-o", results],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    written = list(results.rglob("checks.json"))
    if len(written) != 1:
        raise RuntimeError(f"The conformance suite ran no scenario. It said:\n{ended.stdout}")
    checks: dict[str, list[str]] = {}
    found: list[dict[str, Any]] = json.loads(written[0].read_text())
    for check in found:
        checks.setdefault(check["id"], []).append(check["status"])
    return Outcome(ended.returncode == 0, checks, ended.stdout)
