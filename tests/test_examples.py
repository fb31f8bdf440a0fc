"""
The examples, run the way a reader runs them.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
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


@pytest.mark.parametrize(
    ("example", "lines"),
    [
        (
            "batch_job.py",
            [
                "3 tokens before the work begins",
                "30 uploads in 8 threads: {200: 30}",
                "3 token requests in all",
                "3 tokens, 3 places, 3 pairs of the two",
            ],
        ),
        (
            "mcp_client.py",
            [
                "this is files",
                "this is tickets",
                "token requests: 2",
                "tokens seen by both servers: 0",
            ],
        ),
        ("vendor_sdk.py", ["was shown a token for urn:example:model:large", "arrived: False"]),
        (
            "grpc_metadata.py",
            [
                "stock.Stock/Count for orders-worker at urn:example:stock",
                "prices.Prices/List for orders-worker at urn:example:prices",
                "secrets.Secrets/Read got no token: UNAVAILABLE",
                "token requests: 2",
            ],
        ),
        (
            "websocket.py",
            ["a tick", "a redirect is not followed: 302", "connections: 3, token requests: 1"],
        ),
    ],
)
def test_an_example(example: str, lines: list[str]) -> None:
    """
    P1, P3: each API and each service of the example is shown its own token, whatever is the client:
    `batch_job.py`, `mcp_client.py`, `vendor_sdk.py`, `grpc_metadata.py`, `websocket.py`.
    """
    finished = run(f"examples/{example}")

    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert [] == [line for line in lines if line not in finished.stdout]


def test_the_notebook() -> None:
    """
    P3: the cells of `where_do_my_tokens_go.ipynb`, one after the other, print what its text says;
    and it is kept without output, which could hold more than it should.
    """
    notebook = json.loads((EXAMPLES / "where_do_my_tokens_go.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    printed = io.StringIO()
    namespace: dict[str, object] = {}
    with redirect_stdout(printed):
        for cell in cells:
            exec("".join(cell["source"]), namespace)

    assert [] == [output for cell in cells for output in cell["outputs"]]
    assert "401 ['elsewhere']" in printed.getvalue()
    assert "UnmappedDestinationError" in printed.getvalue()
    told = [line.split()[1:] for line in printed.getvalue().splitlines()[-4:]]
    assert [
        ["shown", "billing/v1"],
        ["shown", "orders/v1"],
        ["shown", "billing/latest"],
        ["withheld", "orders/17"],
    ] == told


def test_every_example_is_run() -> None:
    """
    There is no example that the tests above do not run.
    """
    here = Path(__file__).read_text(encoding="utf-8")
    files = {path.name for pattern in ("[!_]*.py", "*.ipynb") for path in EXAMPLES.glob(pattern)}
    packages = {f"examples.{path.parent.name}" for path in EXAMPLES.glob("*/__main__.py")}

    assert {"examples.middle_tier"} == packages
    assert set() == {name for name in files | packages if name not in here}
