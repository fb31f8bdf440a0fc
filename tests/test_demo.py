"""
The demonstration: what it claims really happens, and it says so when it does not.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import pytest
from rich.console import Console

from resource_tokens.cli import demo
from resource_tokens.cli.demo import Fact, Report, Visit, main, run, show
from resource_tokens.testing import LocalAuthorizationServer

CLIENT_SECRET = "correct-horse-battery-staple"


@pytest.fixture(name="server")
def _server() -> LocalAuthorizationServer:
    return LocalAuthorizationServer(clients={"demo": CLIENT_SECRET})


def do_its_part(server: LocalAuthorizationServer) -> None:
    assert not server.ignore_resource


def ignore_resource(server: LocalAuthorizationServer) -> None:
    server.ignore_resource = True


def issue_opaque_tokens(server: LocalAuthorizationServer) -> None:
    server.token_format = "opaque"


def issue_one_token_for_all(server: LocalAuthorizationServer) -> None:
    server.token_format = "opaque"
    server.same_token = True


def issue_tokens_that_expire_at_once(server: LocalAuthorizationServer) -> None:
    server.overrides = {"expires_in": 1e-6}


def know_no_such_client(server: LocalAuthorizationServer) -> None:
    server.fail_next(1000, 401, "invalid_client")


def failed_claims(report: Report) -> set[str]:
    return {fact.claim for fact in report.failures}


def printed(
    report: Report, *, encoding: str = "utf-8", colour: bool = False, width: int = 80
) -> str:
    buffer = io.BytesIO()
    out = io.TextIOWrapper(buffer, encoding=encoding)
    system: Literal["standard"] | None = "standard" if colour else None
    show(report, Console(file=out, width=width, force_terminal=colour, color_system=system))
    out.flush()
    return buffer.getvalue().decode(encoding)


def test_every_claim_holds() -> None:
    """
    Four APIs on three origins, four tokens, and no leak but that of httpx alone.
    """
    report = run()

    assert report.held
    assert () == report.failures
    assert 5 == len(report.facts)
    assert ["withheld", "withheld", "carried along", "nothing sent"] == [
        fact.claim.partition(": ")[2] for fact in report.leaks
    ]
    assert [False, False, True, False] == [fact.contrast for fact in report.leaks]


def test_visits_show_the_whole_way() -> None:
    """
    Each destination maps to its resource, which is asked for, which comes back as the one
    audience, and whose token is the only one seen there.
    """
    visits = run().visits

    resources = [f"urn:example:{name}" for name in ("stock", "mail", "orders", "billing")]
    assert resources == [visit.resource for visit in visits]
    assert [(resource,) for resource in resources] == [visit.audience for visit in visits]
    requests = [request for visit in visits for request in visit.token_requests]
    assert [(resource,) for resource in resources] == [request.resources for request in requests]
    assert ["client_credentials"] * 4 == [request.grant_type for request in requests]
    assert [("200",)] * 4 == [visit.answers for visit in visits]
    assert 4 == len({token for visit in visits for token in visit.tokens})
    assert 3 == len({visit.destination.split("/")[2] for visit in visits})


def test_runs_inside_an_event_loop() -> None:
    """
    Who tries it in a notebook has an event loop running already.
    """

    async def cell() -> Report:
        return run()

    report = asyncio.run(cell())

    assert report.held


def test_main_prints_the_report(
    server: LocalAuthorizationServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Where all is as claimed, `main` says so and returns 0.
    """
    status = main(server)

    out, err = capsys.readouterr()
    assert 0 == status
    assert "9 of 9 claims held" in out
    assert "FAILED" not in out
    assert "" == err


@pytest.mark.parametrize(
    ("spoil", "claims"),
    [
        (
            ignore_resource,
            {
                "each token for one audience",
                "each API sees only its own token",
                "again, async: no token request",
                "same host, orders to billing: withheld",
                "same host, httpx alone: carried along",
            },
        ),
        (issue_opaque_tokens, {"each token for one audience"}),
        (
            issue_tokens_that_expire_at_once,
            {
                "again, async: no token request",
                "each API sees only its own token",
                "mail refuses the token for stock",
                "other host, stock to mail: withheld",
                "same host, httpx alone: carried along",
                "same host, orders to billing: withheld",
            },
        ),
    ],
)
def test_broken_claim_is_named(
    server: LocalAuthorizationServer,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[LocalAuthorizationServer], None],
    claims: set[str],
) -> None:
    """
    Where the authorization server does not do its part, `main` names the claims that this breaks,
    and returns 1.
    """
    spoil(server)

    status = main(server)

    out = capsys.readouterr().out
    failed = {line.removeprefix("FAILED: ") for line in out.splitlines() if "FAILED: " in line}
    assert 1 == status
    assert claims == failed
    assert f"{9 - len(claims)} of 9 claims held" in out


def test_claims_that_could_not_be_tried_have_not_held(server: LocalAuthorizationServer) -> None:
    """
    Without a single token nothing leaks, and still only the refusal that needs none holds.
    """
    know_no_such_client(server)

    report = run(server)

    held = {fact.claim for fact in (*report.facts, *report.leaks) if fact.held}
    assert {"unmapped host: nothing sent"} == held - {"one token request per resource"}
    assert [()] * 4 == [visit.answers for visit in report.visits]
    assert any("OAuthError" in fact.evidence for fact in report.failures)


@pytest.mark.parametrize(
    "spoil",
    [
        do_its_part,
        ignore_resource,
        issue_opaque_tokens,
        issue_one_token_for_all,
        issue_tokens_that_expire_at_once,
        know_no_such_client,
    ],
)
def test_no_secret_is_printed_or_reported(
    server: LocalAuthorizationServer,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[LocalAuthorizationServer], None],
) -> None:
    """
    P9: no token, and no part of its signature, is in the output, the log or the report; nor is
    the client's secret.
    """
    spoil(server)
    caplog.set_level(logging.DEBUG, "resource_tokens")

    report = run(server)
    out = printed(report)

    everything = out + repr(report) + caplog.text + "".join(capsys.readouterr())
    unfolded = "".join(everything.split())
    assert CLIENT_SECRET not in unfolded
    assert all(token[-16:] not in unfolded for token in server.issued)


def test_tokens_have_other_fingerprints_in_every_run(server: LocalAuthorizationServer) -> None:
    """
    P9: a fingerprint is made with a key of that run, and says nothing afterwards.
    """
    server.same_token = True
    server.token_format = "opaque"

    first, second = run(server).visits[0], run(server).visits[0]

    assert 1 == len(server.issued)
    assert first.tokens != second.tokens


FAILED = Report(
    visits=(
        Visit("http://127.0.0.1:1/", "urn:example:stock", (), (), (), ()),
        Visit("http://127.0.0.1:2/", "urn:example:mail", (), (), ("0badc0de",), ("200",)),
    ),
    facts=(Fact("true as said", "as said", held=True),),
    leaks=(
        Fact("withheld", "mail saw token 0badc0de, 200", held=False),
        Fact("carried along", "no Authorization, 401", held=False, contrast=True),
    ),
)


def test_show_names_what_failed() -> None:
    """
    A leak that was not refused, and one of httpx that did not happen, are both failures.
    """
    out = printed(FAILED)

    assert {"withheld", "carried along"} == failed_claims(FAILED)
    assert "not sent" in out
    assert "✓ true as said" in out
    assert "✗ withheld" in out
    assert "✗ carried along" in out
    assert out.endswith("FAILED: withheld\nFAILED: carried along\n1 of 3 claims held\n")


def test_show_needs_no_more_than_ascii() -> None:
    """
    What is piped to a place that knows no Unicode is still readable, however narrow it is.
    """
    out = printed(FAILED, encoding="ascii")
    narrow = printed(run(), encoding="ascii", width=30)

    assert "ok true as said" in out
    assert "NO withheld" in out
    assert narrow.endswith("9 of 9 claims held\n")


def test_token_has_the_colour_of_its_resource() -> None:
    """
    One sees at a glance whose token turned up where.
    """
    out = printed(FAILED, colour=True)

    assert "\x1b[35murn:example:mail\x1b[0m" in out
    assert 2 == out.count("\x1b[35m0badc0de\x1b[0m")


def test_fits_into_80_columns(server: LocalAuthorizationServer) -> None:
    """
    Where all is as claimed, no line is longer than 80 columns and none is folded.
    """
    out = printed(run(server))

    assert 80 >= max(map(len, out.splitlines()))
    assert 32 == len(out.splitlines())


def test_rich_is_missed_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Without rich, `main` says how to get it and returns 2.
    """
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)

    status = main()

    out, err = capsys.readouterr()
    assert 2 == status
    assert "" == out
    assert "The demo prints with rich: pip install 'resource-tokens[cli]'\n" == err


def test_module_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """
    `python -m resource_tokens.cli.demo` exits with the status of `main`.
    """
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(demo.__file__, run_name="__main__")

    assert 0 == exited.value.code
    assert "9 of 9 claims held" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_own_process(encoding: str) -> None:
    """
    In a process of its own, piped, it warns of nothing and leaves nothing open; a proxy in the
    environment is not asked.
    """
    environment = os.environ | {
        "PYTHONIOENCODING": encoding,
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }
    for name in ("FORCE_COLOR", "COLUMNS", "NO_PROXY", "no_proxy"):
        environment.pop(name, None)

    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "resource_tokens.cli.demo"],
        capture_output=True,
        timeout=30,
        check=False,
        env=environment,
        text=True,
        encoding=encoding,
    )

    assert "" == finished.stderr
    assert 0 == finished.returncode
    assert finished.stdout.endswith("9 of 9 claims held\n")
    assert "\x1b" not in finished.stdout
