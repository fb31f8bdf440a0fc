"""
What came of an audit, for a terminal and for programs: JSON, SARIF, JUnit.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.table import Table

from resource_tokens import __version__
from resource_tokens.cli.terminal import safe
from resource_tokens.cli.verdicts import ApiReport, Presented, Report, Result, Verdict

__all__ = ["MEANINGS", "Meaning", "as_json", "as_junit", "as_sarif", "headline", "print_report"]


class Meaning(NamedTuple):
    """
    What it means that an API accepts something.

    Attributes:
        rule: A name for programs.
        question: What is found out by it.
        danger: What can happen.
        remedy: What to do in the API.
    """

    rule: str
    question: str
    danger: str
    remedy: str


MEANINGS = {
    Presented.RIGHT: Meaning(
        "right-token",
        "Is the right token let in?",
        "The right token is refused, so the other answers say nothing.",
        "Name a request that the right token is good for.",
    ),
    Presented.NONE: Meaning(
        "no-token-needed",
        "Is somebody without a token refused?",
        "Anybody who can reach this API can do this.",
        "Ask for a token, or name a request that needs one.",
    ),
    Presented.CANARY: Meaning(
        "audience-not-checked",
        "Is a token that was issued for another API refused?",
        "Whoever is shown a token for any other API of this issuer can use it here.",
        "Compare the `aud` of each token with the name of this API, as a whole and to the letter "
        "(RFC 9068 4).",
    ),
    Presented.EXPIRED: Meaning(
        "expiry-not-checked",
        "Is an expired token refused?",
        "A token that has leaked can be used for ever.",
        "Refuse tokens whose `exp` has passed (RFC 9068 4).",
    ),
    Presented.SCOPE: Meaning(
        "scope-not-checked",
        "Is a token without the right scope refused?",
        "A token that was limited on purpose can do what it must not.",
        "Ask for the scope that this request needs (RFC 6750 3.1, `insufficient_scope`).",
    ),
}

_STYLES = {
    Verdict.LET_IN: ("ok", "green"),
    Verdict.REFUSED: ("ok", "green"),
    Verdict.ACCEPTED: ("ACCEPTED", "bold red"),
    Verdict.UNCLEAR: ("unclear", "yellow"),
    Verdict.NOT_TRIED: ("not tried", "dim"),
}


_WIDE = 110


def headline(report: Report) -> str:
    """
    All of it in a sentence.
    """
    count, verdicts = len(report.apis), [api.verdict for api in report.apis]
    failing, unclear = verdicts.count("fails"), verdicts.count("unclear")
    if failing:
        return f"{failing} of {_apis(count)} accepted what must be refused."
    if unclear:
        return f"{unclear} of {_apis(count)} could not be judged."
    return f"All of {_apis(count)} refused what must be refused." if count else "No API was asked."


def _apis(count: int) -> str:
    return "1 API" if count == 1 else f"{count} APIs"


def print_report(report: Report, console: Console) -> None:
    """
    A matrix of APIs and what they were shown, and what there is to know about it.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("API", overflow="fold", min_width=24)
    # On a narrow terminal in two lines.
    narrow = "\n" if console.width < _WIDE else " "
    for presented in Presented:
        table.add_column(presented.value.replace(" ", narrow))
    for api in report.apis:
        cells = [_cell(api.result_of(presented), narrow) for presented in Presented]
        table.add_row(safe(api.destination), *cells)
    console.print(table, soft_wrap=False)
    console.print()
    for api in report.apis:
        for result in api.results:
            if result.verdict in (Verdict.ACCEPTED, Verdict.UNCLEAR):
                word, style = _STYLES[result.verdict]
                told = safe(f" {api.destination}: {result.presented}: {told_of(result)}")
                console.print(safe(word, style), told, sep="")
    worst = "green" if report.status == 0 else "bold red" if report.status == 1 else "yellow"
    console.print(safe(headline(report), worst))


def _cell(result: Result, narrow: str) -> Any:
    word, style = _STYLES[result.verdict]
    status = "" if result.answer is None or result.answer.status is None else result.answer.status
    return safe(f"{word}{narrow}{status}".strip(), style)


def told_of(result: Result) -> str:
    """
    What there is to say of a result, in a sentence or two.
    """
    meaning = MEANINGS[result.presented]
    answered = f" (answer: {result.answer})" if result.answer is not None else ""
    if result.verdict is Verdict.ACCEPTED:
        return f"{meaning.danger} {meaning.remedy}{answered}"
    if result.why:
        return f"{result.why[0].upper()}{result.why[1:]}{answered}".removesuffix(".") + "."
    return f"As it should be{answered}."


def as_json(report: Report) -> dict[str, Any]:
    """
    For programs of one's own.
    """
    return {
        "origin": report.origin,
        "at": report.at.isoformat(timespec="seconds"),
        "status": report.status,
        "headline": headline(report),
        "apis": [
            {
                "destination": api.destination,
                "resource": api.resource,
                "request": None
                if api.request is None
                else f"{api.request.method} {api.request.url}",
                "verdict": api.verdict,
                "results": {
                    result.presented.value: {
                        "verdict": result.verdict.value,
                        "status": None if result.answer is None else result.answer.status,
                        "detail": "" if result.answer is None else result.answer.detail,
                        "why": result.why,
                    }
                    for result in api.results
                },
            }
            for api in report.apis
        ],
    }


def as_sarif(report: Report) -> str:
    """
    SARIF 2.1.0, for code scanning. A finding stands at the line of the settings that names the API.
    """
    rules = [
        {
            "id": meaning.rule,
            "shortDescription": {"text": meaning.question},
            "fullDescription": {"text": meaning.danger},
            "help": {"text": meaning.remedy},
        }
        for meaning in MEANINGS.values()
    ]
    results = [_sarif_result(report, api, result) for api in report.apis for result in api.results]
    tool = {"name": "resource-tokens audit", "version": __version__, "rules": rules}
    run = {"tool": {"driver": tool}, "results": results, "columnKind": "unicodeCodePoints"}
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }
    return json.dumps(document, indent=2) + "\n"


# SARIF 3.27.9 and 3.27.10: only what fails has a level.
_KINDS = {
    Verdict.LET_IN: ("pass", "none"),
    Verdict.REFUSED: ("pass", "none"),
    Verdict.ACCEPTED: ("fail", "error"),
    Verdict.UNCLEAR: ("open", "none"),
    Verdict.NOT_TRIED: ("notApplicable", "none"),
}


def _sarif_result(report: Report, api: ApiReport, result: Result) -> dict[str, Any]:
    kind, level = _KINDS[result.verdict]
    rule = MEANINGS[result.presented].rule
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": api.destination, "kind": "resource"}]
    }
    if api.line is not None:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": quote(PurePath(report.origin).as_posix())},
            "region": {"startLine": api.line},
        }
    return {
        "ruleId": rule,
        "kind": kind,
        "level": level,
        "message": {"text": f"{api.destination}, {result.presented}: {told_of(result)}"},
        "locations": [location],
        "partialFingerprints": {"apiAndRule/v1": f"{api.destination} {rule}"},
    }


def as_junit(report: Report) -> str:
    """
    JUnit's XML, for CI systems: a suite for each API, and a case for each thing it was shown.
    """
    suites = ET.Element("testsuites", name="resource-tokens audit")
    for api in report.apis:
        verdicts = [result.verdict for result in api.results]
        suite = ET.SubElement(
            suites,
            "testsuite",
            name=api.destination,
            tests=str(len(verdicts)),
            failures=str(verdicts.count(Verdict.ACCEPTED)),
            errors=str(verdicts.count(Verdict.UNCLEAR)),
            skipped=str(verdicts.count(Verdict.NOT_TRIED)),
            timestamp=report.at.strftime("%Y-%m-%dT%H:%M:%S"),
        )
        for result in api.results:
            case = ET.SubElement(
                suite,
                "testcase",
                classname=api.destination,
                name=MEANINGS[result.presented].question,
            )
            outcome = _OUTCOMES.get(result.verdict)
            if outcome is not None:
                ET.SubElement(case, outcome, message=told_of(result))
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, "unicode") + "\n"


_OUTCOMES = {
    Verdict.ACCEPTED: "failure",
    Verdict.UNCLEAR: "error",
    Verdict.NOT_TRIED: "skipped",
}
