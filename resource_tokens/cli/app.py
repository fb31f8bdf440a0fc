"""
The commands: their names, their options, and what they print.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import jwt
import typer

from resource_tokens import __version__
from resource_tokens.cli import demo as demonstration
from resource_tokens.cli.audit import Audit, requests_from
from resource_tokens.cli.audit_page import as_html
from resource_tokens.cli.audit_reports import as_json as json_of
from resource_tokens.cli.audit_reports import as_junit, as_sarif, print_report
from resource_tokens.cli.check import Finding, as_findings, findings, findings_online
from resource_tokens.cli.explain import Explanation
from resource_tokens.cli.explain import explain as explanation_of
from resource_tokens.cli.requests import Wanted, body_from, headers_from, send
from resource_tokens.cli.sources import file_meant, settings_meant
from resource_tokens.cli.terminal import (
    error_console,
    failing,
    output_console,
    print_json,
    print_pairs,
    safe,
)
from resource_tokens.exceptions import ConfigurationError
from resource_tokens.settings.file import Reading, read
from resource_tokens.settings.problems import Problem
from resource_tokens.tokens import AccessToken

__all__ = ["app"]

app = typer.Typer(
    name="resource-tokens",
    help="One OAuth access token for each API, shown to that API and to nothing else.",
    no_args_is_help=True,
    # The variables of a frame are no matter for a terminal.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The settings file. By default the one that RESOURCE_TOKENS_CONFIG names, or "
        "resource-tokens.toml in this folder, or the environment.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", "-s", help="Ask for this scope instead of the resource's own."),
]


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit


@app.callback()
def _resource_tokens(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    pass


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="The settings file.", show_default=False)
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Ask for a token of each resource as well.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Let warnings decide the exit status, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Look for what is wrong with settings, and for what is only too broad.

    The exit status is 1 if there is an error, or with --strict a warning.
    """
    path = file_meant(file)
    settings, problems = _read_environment() if path is None else read(path)
    found = as_findings(problems)
    if settings is not None:
        found += findings(settings)
        found += findings_online(settings) if online else ()
    found.sort(key=lambda finding: finding.line or 0)
    origin = "the environment" if path is None else str(path)
    if as_json:
        print_json({"origin": origin, "findings": [finding._asdict() for finding in found]})
    else:
        _print_findings(origin, found)
    decisive = {"error", "warning"} if strict else {"error"}
    raise typer.Exit(1 if any(finding.level in decisive for finding in found) else 0)


def _read_environment() -> Reading:
    try:
        return Reading(settings_meant(None), ())
    except ConfigurationError as error:
        return Reading(None, (Problem(None, (), str(error)),))


def _print_findings(origin: str, found: list[Finding]) -> None:
    console = output_console()
    for finding in found:
        line = "" if finding.line is None else f":{finding.line}"
        key = f"{finding.key}: " if finding.key else ""
        console.print(
            safe(f"{origin}{line}: "),
            safe(f"{finding.level}[{finding.rule}] ", _STYLES[finding.level]),
            safe(f"{key}{finding.text}"),
            sep="",
        )
    counts = [
        f"{count} {level}{'' if count == 1 else 's'}"
        for level in _STYLES
        if (count := sum(finding.level == level for finding in found))
    ]
    console.print(safe(f"{origin}: {', '.join(counts) or 'nothing to say'}."))


_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@app.command()
def explain(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="Where requests would go.")],
    redirect_to: Annotated[
        str | None, typer.Option(help="Where the API would redirect them to.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """
    Say what would happen to a request, and why. Nothing is sent.

    The exit status is 1 if one of the requests would be refused.
    """
    with failing():
        settings = settings_meant(config)
        explanations = [explanation_of(settings, url, redirect_to) for url in urls]
    if as_json:
        print_json([explanation.as_json() for explanation in explanations])
    else:
        for explanation in explanations:
            _print_explanation(explanation)
    raise typer.Exit(1 if any(explanation.refusal for explanation in explanations) else 0)


def _print_explanation(explanation: Explanation) -> None:
    console = output_console()
    console.print(safe(explanation.url, "bold"))
    entry, rows = explanation.entry, list[tuple[str, object]]()
    if entry is not None:
        auth = entry.client_auth
        asked = "  ".join(f"{name}={value}" for name, value in explanation.parameters)
        rows += [
            ("destination", entry.destination),
            ("resource", entry.resource.identifier),
            ("server", f"{entry.server.name} ({entry.server_name})"),
            ("client", f"{auth.client_id} ({entry.client_name}), by {auth.method}"),
            ("asked for", asked or "on behalf of a subject; without one a request is refused"),
        ]
        if entry.resource.sender != "bearer":
            rows.append(("bound", _BOUND[entry.resource.sender]))
    for hop in explanation.hops:
        carried = "no token" if hop.token_for is None else f"<token for {hop.token_for}>"
        why = f" - {hop.why}" if hop.why else ""
        rows.append(("sent", f"{hop.url}  Host: {hop.host}  {carried}{why}"))
    if explanation.refusal:
        rows.append(("refused", explanation.refusal))
    if explanation.hint:
        rows.append(("mapped is", explanation.hint))
    print_pairs(console, rows)
    console.print()


_BOUND = {
    "dpop": "to the proof key: each request proves that it has it (RFC 9449)",
    "mtls": "to the client certificate, which the connection has to show (RFC 8705)",
}


@app.command()
def token(
    url: Annotated[str, typer.Argument(help="A destination, whose token is meant.")],
    scope: Scopes = None,
    reveal: Annotated[
        bool,
        typer.Option("--reveal", help="Print the token itself, and nothing else."),
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """
    Get the token of a destination, and show what it says and how long it is good.

    The token itself is shown with --reveal only; whoever has it can use it.
    """
    with failing():
        auth = settings_meant(config).auth()
        got = (auth.scoped(*scope) if scope else auth).token_for(url)
        auth.close()
    if reveal:
        sys.stdout.write(f"{got.reveal()}\n")
        return
    claims, scopes = _claims(got), sorted(got.scopes)
    expires_at = got.expires_at.isoformat(timespec="seconds")
    expires_in = int((got.expires_at - datetime.now(UTC)).total_seconds())
    if as_json:
        print_json(
            {
                "resource": got.resource,
                "token_type": got.token_type,
                "scopes": scopes,
                "expires_at": expires_at,
                "expires_in": expires_in,
                "claims": claims,
            }
        )
        return
    minutes, seconds = divmod(expires_in, 60)
    rows: list[tuple[str, object]] = [
        ("resource", got.resource),
        ("scopes", " ".join(scopes) or "none said"),
        ("expires", f"{expires_at}, in {minutes} min {seconds} s"),
    ]
    if claims is None:
        rows.append(("claims", "none that can be read: the token is opaque"))
    else:
        rows += [("claims", "as the token says, unverified")]
        rows += [(f"  {name}", value) for name, value in claims.items()]
    print_pairs(output_console(), rows)


def _claims(got: AccessToken) -> dict[str, Any] | None:
    try:
        claims: dict[str, Any] = jwt.decode(got.reveal(), options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
    return claims


@app.command()
def request(
    url: Annotated[str, typer.Argument(help="Where to send it.")],
    *,
    method: Annotated[
        str | None,
        typer.Option("--method", "-X", help="By default GET, or POST if there is a body."),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="A header, 'Name: value'.")
    ] = None,
    content: Annotated[
        str | None,
        typer.Option("--data", "-d", help="The body: a text, @file, or @- for standard input."),
    ] = None,
    json_text: Annotated[
        str | None, typer.Option("--json", help="The same, as application/json.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the body to this file.")
    ] = None,
    include: Annotated[
        bool, typer.Option("--include", "-i", help="Write status and headers before it.")
    ] = False,
    location: Annotated[bool, typer.Option("--location", "-L", help="Follow redirects.")] = False,
    scope: Scopes = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the network.")] = 30.0,
    cacert: Annotated[
        Path | None, typer.Option(help="A file with the certificate authorities to trust.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell the exchange on standard error.")
    ] = False,
    config: Config = None,
) -> None:
    """
    Make a request with the token of its destination.

    The exit status is 0 if the answer is below 400, 1 if it is not, and 2 if there is none: the
    library has refused to send the request, or the network failed.
    """
    with failing():
        auth = settings_meant(config).auth()
        headers = headers_from(header or [])
        given = content if json_text is None else json_text
        body = None if given is None else body_from(given)
        if body is not None:
            kind = "application/x-www-form-urlencoded" if json_text is None else "application/json"
            if "content-type" not in {name.lower() for name in headers}:
                headers["Content-Type"] = kind
        wanted = Wanted(
            method or ("GET" if body is None else "POST"),
            url,
            headers,
            body,
            location,
            timeout,
            cacert,
            output,
            include,
            verbose,
        )
        status = send(auth.scoped(*scope) if scope else auth, wanted)
        auth.close()
    raise typer.Exit(0 if status < 400 else 1)


@app.command()
def audit(
    destinations: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DESTINATION]...", help="The APIs to ask; all by default."),
    ] = None,
    *,
    requests: Annotated[
        list[str] | None,
        typer.Option(
            "--request", "-r", help="A harmless request, 'GET URL', instead of the settings' own."
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(help="How many seconds to wait for tokens to expire.")
    ] = 0.0,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 10.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing before sending.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write SARIF to this file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """
    Ask your APIs which of them check what they are shown.

    Each API is asked a harmless request with its own token, without one, with one that was issued
    for a canary, and with an expired one and one of the wrong scope where these can be had. No API
    is shown the token of another.

    The exit status is 1 if an API accepts what it must refuse, 2 if something could not be judged,
    and 0 if all is well.
    """
    console = error_console()
    with failing():
        settings = settings_meant(config)
        status = console.status("")
        auditing = Audit(
            settings,
            requests=requests_from(settings, requests or []),
            only=destinations or (),
            wait=wait,
            timeout=timeout,
            progress=lambda what: status.update(safe(what)),
        )
        if not yes:
            _ask_leave(auditing)
        with status:
            report = auditing.run()
        for path, written in ((html, as_html), (sarif, as_sarif), (junit, as_junit)):
            if path is not None:
                path.write_text(written(report), "utf-8")
    if as_json:
        print_json(json_of(report))
    else:
        print_report(report, output_console())
    raise typer.Exit(report.status)


def _ask_leave(auditing: Audit) -> None:
    console = error_console()
    for wanted, presented in auditing.plan:
        console.print(safe(f"{wanted.method} {wanted.url}: {', '.join(presented)}"))
    count = sum(len(presented) for _, presented in auditing.plan)
    try:
        if typer.confirm(f"Send these {count} requests?", err=True):
            return
    except typer.Abort:
        console.print(safe("\nNobody is there to ask: say --yes."))
    raise typer.Exit(2)


@app.command()
def schema() -> None:
    """
    Print the JSON Schema of the settings file, by which editors complete it.
    """
    text = files("resource_tokens.settings").joinpath("schema.json").read_text("utf-8")
    sys.stdout.write(text)


@app.command()
def demo() -> None:
    """
    See the library at work, against servers on this machine.
    """
    raise typer.Exit(demonstration.main())
