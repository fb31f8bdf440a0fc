"""
What holds for the pages at the root and for docs/ as a whole. The code blocks in them are run by
conftest.py at the root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest

import resource_tokens
import resource_tokens.inbound
import resource_tokens.stores
import resource_tokens.testing
from resource_tokens import AuthorizationServer, exceptions
from resource_tokens._ask import _LONGEST_PAUSE, _TRIES, AT_A_TIME
from resource_tokens.events import EventName
from resource_tokens.tokens import Freshness

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
AT_THE_ROOT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*AT_THE_ROOT, *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)]
ALL = [*PAGES, ROOT / "CHANGELOG.md"]

RUN = {"python", "output", "toml"}
ONLY_SHOWN = {"console", "text"}
DIRECTIVES = {"{eval-rst}", "{glossary}", "{toctree}"}


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda p: str(p.relative_to(ROOT)))


def fences(text: str) -> Iterator[str]:
    """
    The info string of each fenced block.
    """
    opened = False
    for line in text.splitlines():
        if re.match(r"\s*(```|~~~)", line):
            opened = not opened
            if opened:
                yield line.strip().lstrip("`~")


def prose(text: str) -> str:
    """
    The text without fenced blocks, comments and tables.
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)


@each(ALL)
def test_every_block_is_run_or_meant_to_be_shown(page: Path) -> None:
    """
    Every fenced block says its language, and is run unless that is on a short list.
    """
    languages = set(fences(page.read_text(encoding="utf-8")))

    assert set() == languages - RUN - ONLY_SHOWN - DIRECTIVES


@each(PAGES)
def test_output_follows_the_block_that_prints_it(page: Path) -> None:
    """
    An `output` block is compared with the `python` block before it, so there is one.
    """
    blocks = list(fences(page.read_text(encoding="utf-8")))

    before = {
        first for first, second in zip(["", *blocks], blocks, strict=False) if second == "output"
    }

    assert before <= {"python"}


@each(ALL)
def test_one_sentence_per_line(page: Path) -> None:
    """
    A line of prose holds one sentence, so that a diff shows the sentence that changed.
    """
    text = re.sub(r"`[^`]*`", "`code`", prose(page.read_text(encoding="utf-8")))

    several = [
        line for line in text.splitlines() if re.search(r"[^\s\d][.?!][*)]* +[A-Z`*\[]", line)
    ]

    assert [] == several


@each(ALL)
def test_links_lead_somewhere(page: Path) -> None:
    """
    A link to another file of the project names a file that exists.
    """
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", prose(page.read_text(encoding="utf-8")))

    # What the host of the repository serves is not in it.
    inside = [at for at in links if "://" not in at and not at.startswith("../../security/")]
    broken = [at for at in inside if not (page.parent / at).exists()]

    assert [] == broken


def test_the_changelog_has_an_unreleased_section() -> None:
    """
    CHANGELOG.md begins with what is not released yet.
    """
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)

    assert "[Unreleased]" == headings[0]


def test_the_reference_has_every_public_name() -> None:
    """
    Every public name is in the API reference, by an autodoc directive of its own.
    """
    reference = "".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: (?:[\w.]+\.)?(\w+)", reference, re.MULTILINE))
    modules = (
        resource_tokens,
        resource_tokens.inbound,
        resource_tokens.stores,
        resource_tokens.testing,
        exceptions,
    )

    public = {name for module in modules for name in module.__all__}

    assert set() == public - documented


def test_the_security_review_names_tests_that_exist() -> None:
    """
    Each promise on the page for reviewers has tests, and they are there.
    """
    page = (DOCS / "explanation" / "security-review.md").read_text(encoding="utf-8")
    promises = page.partition("## What is promised")[2].partition("## What it does not do")[0]
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    rows = [line for line in promises.splitlines()[4:] if line.startswith("| ")]

    assert [] == [row for row in rows if "`test_" not in row]
    named = re.findall(r"`(test_\w+)`", page)
    assert [] == [name for name in named if f"def {name}(" not in tests]


def test_the_reference_has_every_event() -> None:
    """
    The page of the events has a row for every name that an event can have.
    """
    page = (DOCS / "reference" / "events.md").read_text(encoding="utf-8")

    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)

    assert sorted(get_args(EventName)) == sorted(rows)


def test_the_errors_are_drawn_as_in_the_code() -> None:
    """
    The tree on the page of the errors is the one in the module's docstring.
    """
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    documented = re.search(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)

    drawn = re.findall(r"^    (.*)$", exceptions.__doc__ or "", re.MULTILINE)

    assert documented is not None
    assert drawn == documented[1].splitlines()


def test_the_numbers_are_those_of_the_code() -> None:
    """
    What the page of the numbers says about the life of a token and of a request is so.
    """
    hour = Freshness.of(timedelta(hours=1), 0.0, 0.0, lambda: 0.0)
    early = Freshness.of(timedelta(hours=1), 0.0, 0.0, lambda: 1.0)
    minute = Freshness.of(timedelta(minutes=1), 0.0, 0.0, lambda: 0.0)
    server = AuthorizationServer(issuer="https://login.example.com")

    assert (3600 - 300, 3600 - 30) == (hour.soft_at, hour.hard_at)
    assert 3600 - 300 * 1.2 == early.soft_at
    assert (60 * 0.75, 60 * 0.9) == (minute.soft_at, minute.hard_at)
    assert timedelta(seconds=10) == server.timeout
    assert (4, 3, 3600) == (AT_A_TIME, _TRIES, _LONGEST_PAUSE)
    assert "MemoryTokenStore(0 of 1024 tokens)" == repr(resource_tokens.stores.MemoryTokenStore())
