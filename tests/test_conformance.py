"""
The conformance kit: what it finds with others, and that nobody passes it by doing nothing.

With this library it runs as a part of the suite, in resource_tokens/conformance.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.compared import FACTORIES
from benchmarks.compared.report import cells, found_by

pytest_plugins = "pytester"

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "compared.md"
FACTORIES_HERE = """
    from resource_tokens.conformance import UnsupportedError, resource_tokens_factory

    def nothing(setting):
        return setting.client()

    def one_each(setting):
        made = resource_tokens_factory(setting)
        return {destination: made for destination in setting.resources}

    def always(setting):
        made = resource_tokens_factory(setting)
        header = made.auth.token_for(next(iter(setting.resources))).authorization
        return setting.client(headers={"Authorization": header})

    def for_threads(setting):
        if setting.colour != "sync":
            raise UnsupportedError("it is for threads")
        return resource_tokens_factory(setting)
"""


def test_the_page_says_what_a_run_finds() -> None:
    """
    What docs/explanation/compared.md says about others is what the kit finds with the versions
    that are installed. If one of them has changed: `python -m benchmarks.compared --page`.
    """
    others = [name for name in FACTORIES if name != "resource-tokens"]
    with ThreadPoolExecutor(2) as pool:
        findings = dict(zip(others, pool.map(found_by, others), strict=True))

    table = re.findall(r"^\| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    rows = [row.split(" | ") for row in table]
    assert ["claim", "resource-tokens", *others] == [head.partition(" ")[0] for head in rows[0]]
    published = [[claim, *cells] for claim, _, *cells in rows[2 : len(cells(findings)) + 2]]
    assert published == cells(findings)


def test_this_library_holds_every_claim_on_the_page() -> None:
    """
    The column of this library has no other word than "yes": the suite runs the kit with it.
    """
    column = re.findall(r"^\| [A-Z][^|]*\. \| ([^|]*) \|", PAGE.read_text("utf-8"), re.MULTILINE)

    assert {"yes"} == set(column)
    assert 14 == len(column)


def run(pytester: pytest.Pytester, factory: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(factories=FACTORIES_HERE)
    kit = ("--pyargs", "resource_tokens.conformance", f"--auth={factory}")
    return pytester.runpytest_inprocess(*kit, "-p", "no:cacheprovider", "-rs", *args)


def test_who_sends_nothing_holds_no_claim(pytester: pytest.Pytester) -> None:
    """
    A client without any auth leaks nothing, and holds no claim all the same.
    """
    run(pytester, "factories:nothing", "-k", "httpx-sync").assert_outcomes(failed=6, errors=9)


def test_who_sends_a_token_everywhere_is_found_out(pytester: pytest.Pytester) -> None:
    """
    A token in the headers of the client goes astray, and the report says by which URLs.
    """
    done = run(pytester, "factories:always", "-k", "test_no_path_misleads and httpx-sync")

    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*%2e%2e/orders/x*"])


def test_a_client_for_each_destination(pytester: pytest.Pytester) -> None:
    """
    A factory may return a mapping, with a client for each destination.
    """
    chosen = "test_each_api_sees and (httpx-sync or httpx2-trio)"

    run(pytester, "factories:one_each", "-k", chosen).assert_outcomes(passed=2)


def test_what_is_not_supported_is_not_passed(pytester: pytest.Pytester) -> None:
    """
    What a factory is not made for is skipped, with its own words.
    """
    done = run(pytester, "factories:for_threads", "-k", "test_two_users_race and httpx2")

    done.assert_outcomes(passed=1, skipped=2)
    done.stdout.fnmatch_lines(["*conformance of: factories:for_threads*"])
    done.stdout.fnmatch_lines(["*not supported: it is for threads*"])


def test_a_factory_that_is_not_named_so(pytester: pytest.Pytester) -> None:
    """
    `--auth` says what it wants.
    """
    done = run(pytester, "factories", "-k", "test_two_users_race and httpx-sync")

    done.stdout.fnmatch_lines(["*--auth is MODULE:FACTORY*"])


def test_other_runs_have_no_such_option(pytester: pytest.Pytester) -> None:
    """
    `--auth` is an option of the runs that name the kit: in others it may be somebody else's.
    """
    done = pytester.runpytest_inprocess("--auth=x:y", "-p", "no:cacheprovider")

    assert pytest.ExitCode.USAGE_ERROR == done.ret
