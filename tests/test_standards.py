"""
The page of the standards: every rule has its row, and every test that it names is there.
"""

from __future__ import annotations

import ast
import re
from itertools import chain
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reference" / "standards.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| ((?:R[0-9A-Z]+|LIB)-\d+) \| (.+?) \| (.+?) \| (.*) ?\|$", PAGE, re.MULTILINE
)

# How many rules of each document were found to bind a client, and how many an API. A new one gets
# the next number.
RULES = {
    "R6749": 20,
    "R6750": 10,
    "R8707": 16,
    "RRESP": 4,
    "R8414": 8,
    "R9728": 12,
    "R9068": 3,
    "R9449": 14,
    "R8705": 5,
    "R8693": 9,
    "R7523": 9,
    "R9700": 8,
    "R9207": 1,
    "R9470": 2,
    "R7009": 3,
    "R7662": 1,
    "RMCP": 14,
    "RIDJAG": 5,
    "RCHAIN": 2,
    "R21": 3,
    "R9110": 3,
    "R8615": 1,
    "LIB": 5,
    "RAPI": 20,
}


def rules_by_test() -> dict[str, set[str]]:
    """
    The name of each test, with the rules that its docstring names.
    """
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.glob("test_*.py"))
    nodes = chain.from_iterable(ast.walk(tree) for tree in trees)
    found: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            rules = found.setdefault(node.name, set())
            rules |= set(re.findall(r"\b(?:R[0-9A-Z]+|LIB)-\d+", text))
            for name, first, last in re.findall(r"\b((?:R[0-9A-Z]+|LIB)-)(\d+) to \1(\d+)", text):
                rules |= {f"{name}{number}" for number in range(int(first), int(last) + 1)}
    return found


def test_every_rule_has_one_row() -> None:
    """
    The list of the rules is frozen: none is lost, and none is there twice.
    """
    every = [f"{name}-{number + 1}" for name, count in RULES.items() for number in range(count)]

    assert every == [row[0] for row in ROWS]
    assert len(ROWS) == len(re.findall(r"^\| (?:R|LIB)", PAGE, re.MULTILINE))


def test_every_row_says_whether_it_is_held() -> None:
    """
    What is held is shown by a test, or by there being nothing to test; what is not is not claimed.
    """
    states = {state for _, _, state, _ in ROWS}
    unshown = [id_ for id_, _, state, where in ROWS if state == "held" and "test_" not in where]
    unsaid = [id_ for id_, _, state, where in ROWS if state == "not applicable" and not where]

    assert {"held", "in part", "not yet", "not applicable"} == states
    assert ["R9700-6"] == unshown
    assert [] == unsaid


def test_every_test_that_is_named_exists() -> None:
    """
    A test that was renamed is renamed on the page too.
    """
    named = set(re.findall(r"`(test_\w+)`", PAGE))

    assert set() == named - set(rules_by_test())


def test_what_is_held_is_shown_by_a_test_that_names_it() -> None:
    """
    One of the tests in its row, at least, says in its docstring which rule it is about.
    """
    known = rules_by_test()
    silent = {
        id_
        for id_, _, state, where in ROWS
        if state in ("held", "in part")
        # Those for an API are sorted anew, from several documents; its tests name the sections.
        and not id_.startswith("RAPI-")
        and not any(id_ in known.get(name, ()) for name in re.findall(r"`(test_\w+)`", where))
    }

    assert {"R9700-6"} == silent
