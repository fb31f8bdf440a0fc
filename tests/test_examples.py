"""
The examples, run the way a reader runs them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(
        command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=60, check=False
    )


def test_quickstart() -> None:
    """
    P1, P3: `quickstart.py` shows each resource its own token, and no token leaves by redirect.
    """
    finished = run("examples/quickstart.py")

    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert 7 == finished.stdout.count("  ok ")
    assert "NOT" not in finished.stdout
    assert "UnmappedDestinationError for http://127.0.0.1:" in finished.stdout
    assert "event: token_withheld" in finished.stdout
    assert "the token for urn:example:billing arrived there" in finished.stdout


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_fanout(backend: str) -> None:
    """
    P6: in `async_fanout.py`, requests that miss together cause one token request per resource.
    """
    finished = run("examples/async_fanout.py", backend)

    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert "50 requests to 5 APIs at once" in finished.stdout
    assert 5 == finished.stdout.count("token requests: 1\n")
    assert "Different tokens: 5; seen by more than one API: 0" in finished.stdout
    assert "" == finished.stderr


def test_middle_tier() -> None:
    """
    P3: in `middle_tier`, each of three services is called with a token of its own about the same
    user, and the one that another was called with is refused.
    """
    finished = run("-m", "examples.middle_tier")

    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert 2 == finished.stdout.count("alice at the gateway: 200")
    assert "'asked_for': 'bob'" in finished.stdout
    assert "alice at orders, with the same token: 401" in finished.stdout
    assert "The token is for 'gateway', and not for 'orders'." in finished.stdout
    assert "good at more than one service: 0" in finished.stdout


def test_every_example_is_run() -> None:
    """
    There is no example that the tests above do not run.
    """
    here = Path(__file__).read_text(encoding="utf-8")
    files = {f"examples/{path.name}" for path in EXAMPLES.glob("[!_]*.py")}
    packages = {f"examples.{path.parent.name}" for path in EXAMPLES.glob("*/__main__.py")}

    assert {"examples.middle_tier"} == packages
    assert set() == {name for name in files | packages if name not in here}
