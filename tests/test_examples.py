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


def test_every_example_is_run() -> None:
    """
    There is no example that the tests above do not run.
    """
    here = Path(__file__).read_text(encoding="utf-8")

    unused = [path.name for path in EXAMPLES.glob("*.py") if f"examples/{path.name}" not in here]

    assert [] == unused
