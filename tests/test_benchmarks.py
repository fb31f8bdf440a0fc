"""
The benchmarks run and count right, with every library that is compared. What they time is nobody's
business here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import chart, peers, report
from benchmarks.measure import Goal, Row, Spread

ROOT = Path(__file__).parent.parent


@pytest.fixture(name="measured", scope="module")
def _measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("benchmarks") / "numbers.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(file)]
    subprocess.run(command, cwd=ROOT, check=True)
    return file


@pytest.fixture(name="rows", scope="module")
def _rows(measured: Path) -> list[Row]:
    return report.read(measured)[1]


def counted(rows: list[Row], contender: str) -> dict[tuple[str, str], float]:
    """
    What does not depend on how quick the machine is.
    """
    counts = {"stampede", "outage", "short-lives", "strays"}
    return {
        (row.benchmark, row.case): row.spread.median
        for row in rows
        if row.contender == contender
        and (row.benchmark in counts or row.case in {"token requests", "failed requests"})
    }


def test_every_row_is_there(rows: list[Row]) -> None:
    """
    Each benchmark has every library that is installed, in each colour that the library has.
    """
    installed = peers.all_peers()
    blocking = {str(peer) for peer in installed if peer.blocking}
    asynchronous = {str(peer) for peer in installed if peer.asynchronous}
    several = {str(peer) for peer in installed if peer.several}
    asking = {str(peer) for peer in installed if peer.lifetime}
    everybody = blocking | asynchronous
    clients = [f"{library} {colour}" for library in ("httpx", "httpx2") for colour in _COLOURS]

    expected = {
        ("warm-request", "sync, 1 token"): blocking,
        ("warm-request", "async, 1 token"): asynchronous,
        ("warm-request", "sync, 20 tokens"): blocking & several,
        ("warm-request", "async, 20 tokens"): asynchronous & several,
        ("threads", "8 threads"): blocking,
        ("stampede", "40 tasks"): asynchronous & asking,
        ("stampede", "8 threads"): blocking & asking,
        **{("expiry", case): everybody for case in _EXPIRY},
        ("outage", "failed requests"): asking,
        ("short-lives", "tokens of 5 minutes"): asking,
        ("short-lives", "tokens of 1 minute"): asking,
        **{("strays", case): everybody for case in _STRAYS},
        ("memory", "each token"): asking,
        ("memory", "each resource, before"): asking,
        ("import-time", "import"): everybody,
        **{("mock-request", f"{name}, {rules}"): _OURS for name in clients for rules in _RULES},
        **{("loopback-request", name): _OURS for name in clients},
        **{("dpop-request", name): _OURS | {"a header as long"} for name in clients},
        **{("on-behalf-of", f"{name}, {view}"): _OURS for name in clients for view in _VIEWS},
        ("cache-lookup", "by Resource"): _OURS,
        ("cache-lookup", "by identifier"): _OURS,
        ("cold-file", "first token, 20 in the file"): _OURS,
        **{("inbound", algorithm): _OURS for algorithm in ("RS256", "ES256", "EdDSA")},
        ("shared-store", "token at hand"): _OURS,
        ("shared-store", "first token of a process"): _OURS,
    }
    found: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        found.setdefault((row.benchmark, row.case), set()).add(row.contender)

    assert expected == found


@pytest.mark.parametrize("stack", ["httpx", "httpx2"])
def test_counts_of_this_library(rows: list[Row], stack: str) -> None:
    """
    P6, P7 and P3: one token request however many miss together or whenever a token ends, no
    request failed while the server is away, no token anywhere else.
    """
    expected = {
        ("stampede", "40 tasks"): 1,
        ("stampede", "8 threads"): 1,
        ("expiry", "token requests"): 1,
        ("expiry", "failed requests"): 0,
        ("outage", "failed requests"): 0,
        ("short-lives", "tokens of 5 minutes"): 1,
        ("short-lives", "tokens of 1 minute"): 1,
        **{("strays", case): 0 for case in _STRAYS},
    }

    assert expected == counted(rows, f"resource_tokens ({stack})")


def test_the_ledgers_see_what_others_do(rows: list[Row]) -> None:
    """
    The noughts of this library mean something: a static header strays, a dict lets everybody ask.
    """
    static = counted(rows, "static header (httpx)")
    by_hand = counted(rows, "dict, by hand (httpx2)")

    assert [1, 0, 1] == [static["strays", case] for case in _STRAYS]
    assert 40 == by_hand["stampede", "40 tasks"]


def test_a_library_that_is_missing_is_left_out_but_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Who has not installed all of them sees which ones are missing; CI fails.
    """
    monkeypatch.delenv("CI", raising=False)

    found = peers.all_peers(("static_header", "absent"))

    assert {"static header"} == {peer.name for peer in found}
    assert "absent is left out" in capsys.readouterr().err

    monkeypatch.setenv("CI", "true")
    with pytest.raises(ModuleNotFoundError):
        peers.all_peers(("absent",))


def test_the_page_has_a_place_for_every_number(measured: Path) -> None:
    """
    Each block that was measured has its place in the page, and the page has no place for another.
    """
    blocks = report.blocks(*report.read(measured))

    places = re.findall(r"<!-- measured: ([\w-]+) -->\n", report.PAGE.read_text("utf-8"))

    assert sorted(blocks) == sorted(places)
    assert all(block.startswith("| ") for block in blocks.values())


def test_the_page_shows_where_others_are_first() -> None:
    """
    A number that is worse than that of another library is in the table of those, and no other is.
    """
    rows = [
        _row("memory", "each token", "httpx-auth (httpx)", 400),
        _row("memory", "each token", "resource_tokens (httpx)", 900),
        _row("stampede", "tasks", "httpx-auth (httpx)", 1),
        _row("stampede", "tasks", "resource_tokens (httpx)", 1),
        _row("strays", "host", "static header (httpx)", -1),
        _row("strays", "host", "resource_tokens (httpx)", 0),
    ]

    blocks = report.blocks({}, rows)

    (line,) = blocks["behind"].splitlines()[2:]
    assert ["memory", "each token", "httpx-auth (httpx): 400"] == _cells(line)[:3]


def test_a_goal_that_is_missed_is_marked() -> None:
    """
    The table of goals says so.
    """
    rows = [
        _row("expiry", "p99 added", "resource_tokens (httpx)", 0.5, Goal("median", 1.0)),
        _row("outage", "failed", "resource_tokens (httpx)", 2, Goal("median", 0, exact=True)),
    ]

    met, missed = report.blocks({}, rows)["goals"].splitlines()[2:]

    assert "0.50" == _cells(met)[-1]
    assert "2, **missed**" == _cells(missed)[-1]


def test_the_chart_can_be_read_without_seeing_it(rows: list[Row]) -> None:
    """
    It is well-formed, has a title and a description with every number, and knows the dark.
    """
    drawing = chart.drawn(rows)

    root = ElementTree.fromstring(drawing)
    title, desc = (root.find(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc"))
    assert title is not None
    assert desc is not None
    assert "Less is better" in str(title.text)
    assert "resource_tokens (httpx2) 0" in str(desc.text)
    assert "prefers-color-scheme: dark" in drawing


def _row(benchmark: str, case: str, contender: str, median: float, goal: Goal | None = None) -> Row:
    return Row(benchmark, case, contender, "", Spread.of([median]), goal)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


_OURS = {"resource_tokens"}
_VIEWS = ("a view", "a new view")
_COLOURS = ("sync", "async")
_RULES = ("1 rule", "1,000 rules")
_EXPIRY = ("p50 added", "p99 added", "longest added", "token requests", "failed requests")
_STRAYS = (
    "the client is pointed at another host",
    "a redirect leads to another host",
    "a redirect leads to another API of the same host",
)
