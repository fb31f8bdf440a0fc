"""
The command line, all but its audit.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import jwt
import pytest
from typer.testing import CliRunner, Result

from resource_tokens import __version__, cli
from resource_tokens.cli import main
from resource_tokens.cli.app import app
from tests.conftest import BILLING, CLIENT_ID, CLIENT_SECRET, ORDERS, World
from tests.servers.apis import Sink
from tests.servers.tls import authority, serving

Run = Callable[..., Result]


@pytest.fixture(name="run")
def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """
    Runs the command line in a folder of its own, in a world where the secret is known.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORDERS_CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.setenv("TERM", "dumb")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False, **options)

    return run


def settings_for(world: World, more: str = "", head: str = "") -> str:
    return f"""
{head}
[servers.login]
issuer = "{world.server.issuer}"

[clients.worker]
method = "client_secret_basic"
client_id = "{CLIENT_ID}"
client_secret = {{ env = "ORDERS_CLIENT_SECRET" }}

[resources]
"{world.orders.url}" = {{ identifier = "{ORDERS}", scopes = ["orders:read"] }}
"{world.billing.url}" = "{BILLING}"
{more}
"""


@pytest.fixture(name="settled")
def _settled(run: Run, world: World) -> World:
    """
    A world with a settings file in the folder where commands run.
    """
    assert callable(run)
    Path("resource-tokens.toml").write_text(settings_for(world))
    return world


def write(text: str) -> None:
    Path("resource-tokens.toml").write_text(text)


def test_help_names_every_command(run: Run) -> None:
    """
    What there is, and the version.
    """
    shown = run("--help").output

    for command in ("check", "explain", "token", "request", "schema", "demo"):
        assert f" {command} " in shown
    assert f"{__version__}\n" == run("--version").output
    assert 2 == run("explian").exit_code


@pytest.mark.parametrize("how", ["script", "module"])
def test_as_it_is_installed(settled: World, how: str) -> None:
    """
    The script that comes with the package runs, and so does the module.
    """
    script = Path(sys.executable).with_name("resource-tokens")
    if how == "script" and not script.exists() and "CI" not in os.environ:
        pytest.skip("installed before there was a script")
    command = [str(script)] if how == "script" else [sys.executable, "-m", "resource_tokens.cli"]

    done = subprocess.run(
        [*command, "token", settled.orders.url], capture_output=True, text=True, check=False
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert f"resource     {ORDERS}" in done.stdout


def test_the_script_is_declared() -> None:
    """
    By the name and the function that exist.
    """
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))

    assert {"resource-tokens": f"{main.__module__}:{main.__name__}"} == project["project"][
        "scripts"
    ]


def test_the_module_is_the_script(
    settled: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    It ends with the status of the command, and what is told of events is not told twice.
    """
    monkeypatch.setattr(sys, "argv", ["resource-tokens", "explain", "https://nowhere.example.com/"])
    logger = logging.getLogger("resource_tokens")
    before = list(logger.handlers)

    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(cli.__file__).with_name("__main__.py")), run_name="__main__")

    logger.handlers[:] = before
    assert settled
    assert 1 == ended.value.code
    assert "No resource is mapped" in capsys.readouterr().out


def test_without_its_libraries_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The extra is named.
    """
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "resource_tokens.cli.app")

    with pytest.raises(SystemExit) as ended:
        main()

    assert 2 == ended.value.code
    assert "needs typer: pip install 'resource-tokens[cli]'" in capsys.readouterr().err


def test_no_settings_at_all(run: Run) -> None:
    """
    Where they were looked for is said.
    """
    nowhere = "There are no settings: no resource-tokens.toml in this folder"
    for command in (["token", "https://a.example.com/"], ["explain", "https://a/"]):
        done = run(*command)

        assert 2 == done.exit_code
        assert nowhere in done.stderr
    checked = run("check")
    assert 1 == checked.exit_code
    assert f"the environment: error[settings] {nowhere}" in checked.output


def test_settings_are_found(run: Run, settled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    By option, by variable, in the folder, in the environment; in this order.
    """
    Path("resource-tokens.toml").rename("other.toml")
    option = run("token", settled.orders.url, "--config", "other.toml")
    monkeypatch.setenv("RESOURCE_TOKENS_CONFIG", "other.toml")
    variable = run("token", settled.orders.url)
    monkeypatch.delenv("RESOURCE_TOKENS_CONFIG")
    monkeypatch.setenv("RESOURCE_TOKENS_ISSUER", settled.server.issuer)
    monkeypatch.setenv("RESOURCE_TOKENS_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("RESOURCE_TOKENS_CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.setenv("RESOURCE_TOKENS_RESOURCES", settled.orders.url)
    environment = run("token", settled.orders.url)
    checked = run("check")

    assert [0, 0, 0, 0] == [done.exit_code for done in (option, variable, environment, checked)], (
        environment.output
    )
    assert f"resource     {settled.orders.url}" in environment.output
    assert "the environment: nothing to say." in checked.output


def test_check_has_nothing_to_say(run: Run, settled: World) -> None:
    """
    Exit status 0, and the same as JSON.
    """
    assert settled
    plain, as_json = run("check"), run("check", "resource-tokens.toml", "--json")

    assert (0, "resource-tokens.toml: nothing to say.\n") == (plain.exit_code, plain.output)
    assert {"origin": "resource-tokens.toml", "findings": []} == json.loads(as_json.output)


def test_check_says_what_is_wrong_with_a_file(run: Run) -> None:
    """
    Each problem in the form that editors and CI systems jump to, and exit status 1.
    """
    write("[servers.login]\nissuer = 5\n")

    done = run("check")

    assert 1 == done.exit_code
    assert "resource-tokens.toml:2: error[settings] servers.login.issuer: found 5;" in done.output
    assert done.output.endswith("resource-tokens.toml: 3 errors.\n")


BROAD = """
unmapped = "anonymous"
[servers.login]
issuer = "https://login.example.com"
verify = {verify}
[clients.worker]
method = "client_secret_basic"
client_id = "worker"
client_secret = {{ file = "secret" }}
[resources."https://*.example.co.uk/"]
[resources."https://shop.example.co.uk/"]
redirects = "reauthorize"
[resources."https://*.github.io/"]
[resources."https://*.tenants.example.com/"]
[resources."http://stock.internal/"]
allow_http = true
allow_http_proxy = true
verify_audience = "off"
[resources."http://mesh.internal/"]
connect_to = "http://127.0.0.1:15001"
[resources."https://gw.example.com/orders/"]
identifier = "urn:example:orders"
[resources."https://gw.example.com/orders/v1"]
identifier = "urn:example:orders"
[resources."https://gw.example.com/orders/v2"]
identifier = "urn:example:other"
[resources."https://gw.example.com/ORDERS/v3"]
identifier = "urn:example:loud"
"""


def test_check_says_what_is_too_broad(run: Run) -> None:
    """
    Wildcards, plain http, tokens that nobody looks at, overlaps, and files that others can read.
    """
    write(BROAD.format(verify="true"))
    Path("secret").write_text("s")
    Path("secret").chmod(0o644)
    Path("resource-tokens.toml").chmod(0o646)

    done = run("check", "--json")

    found = json.loads(done.output)["findings"]
    assert 1 == done.exit_code
    assert [
        ("error", "writable-settings", None),
        ("note", "unmapped", 2),
        ("error", "readable-secret", 9),
        ("warning", "wildcard", 10),
        ("note", "redirects", 11),
        ("note", "overlap", 11),
        ("error", "wildcard", 13),
        ("warning", "plain-http", 15),
        ("warning", "plain-http-proxy", 15),
        ("warning", "audience", 15),
        ("warning", "overlap", 23),
        ("note", "overlap", 25),
        ("note", "overlap", 27),
    ] == [(finding["level"], finding["rule"], finding["line"]) for finding in found]


def test_check_of_what_only_warns(run: Run) -> None:
    """
    Warnings do not decide the exit status, unless they are asked to.
    """
    write(BROAD.format(verify="true").replace("https://*.github.io/", "https://x.github.io/"))
    Path("secret").write_text("s")
    Path("secret").chmod(0o640)

    lenient, strict = run("check"), run("check", "--strict")

    assert [0, 1] == [lenient.exit_code, strict.exit_code]
    assert lenient.output.endswith("\nresource-tokens.toml: 5 warnings, 6 notes.\n")
    assert "its whole group can read 'secret'" in lenient.output


def test_check_of_a_server_that_anybody_can_be(run: Run) -> None:
    """
    `verify = false` is an error here, as it gives away the client's credential.
    """
    write(BROAD.format(verify="false"))
    Path("secret").write_text("s")
    Path("secret").chmod(0o600)

    with pytest.warns(UserWarning, match="verify=False"):
        done = run("check")

    assert "error[verify] servers.login.verify: the server's certificate is not" in done.output


def test_check_online(run: Run, settled: World) -> None:
    """
    A token of each resource is asked for, and what comes of it is said.
    """
    fine = run("check", "--online")
    asked = len(settled.server.token_requests)
    settled.server.fail_next(1, 400, "invalid_target")
    refused = run("check", "--online", "--json")
    settled.server.stop()
    down = run("check", "--online")

    assert (0, 2) == (fine.exit_code, asked)
    [finding] = json.loads(refused.output)["findings"]
    assert ("error", "token", 12) == (finding["level"], finding["rule"], finding["line"])
    assert "invalid_target" in finding["text"]
    assert 1 == down.exit_code
    assert 2 == down.output.count("error[token]")


def test_explain(run: Run, settled: World) -> None:
    """
    Rule, resource, server, scopes and what would be sent; and nothing is sent.
    """
    done = run("explain", f"{settled.orders.url}v1?key=secret")

    assert 0 == done.exit_code
    assert [
        f"{settled.orders.url}v1",
        f"destination  {settled.orders.url}",
        f"resource     {ORDERS}",
        f"server       {settled.server.issuer} (login)",
        f"client       {CLIENT_ID} (worker), by client_secret_basic",
        f"asked for    grant_type=client_credentials  resource={ORDERS}  scope=orders:read",
        (
            f"sent         {settled.orders.url}v1  Host: {settled.orders.url.split('/')[2]}  "
            f"<token for {ORDERS}>"
        ),
        "",
    ] == done.output.splitlines()
    assert () == settled.server.requests + settled.orders.requests


def hops(run: Run, *arguments: str) -> list[tuple[str | None, str]]:
    explained = json.loads(run("explain", "--json", *arguments).output)
    return [(hop["token_for"], hop["why"]) for hop in explained[0]["hops"]]


def test_explain_a_redirect(run: Run, settled: World) -> None:
    """
    P3: what becomes of the token is what the real guard does.
    """
    orders, billing = settled.orders.url, settled.billing.url
    write(settings_for(settled, f'"{settled.sink.url}" = {{ redirects = "reauthorize" }}'))

    assert [(ORDERS, ""), (ORDERS, "")] == hops(run, orders, "--redirect-to", "/elsewhere")
    assert [(ORDERS, ""), (None, f"that destination is mapped to {BILLING!r}.")] == hops(
        run, orders, "--redirect-to", billing
    )
    assert [
        (ORDERS, ""),
        (settled.sink.url, f"that destination is mapped to {settled.sink.url!r}."),
    ] == hops(run, orders, "--redirect-to", settled.sink.url)
    assert [(ORDERS, ""), (None, "no resource is mapped to that destination.")] == hops(
        run, orders, "--redirect-to", "https://elsewhere.example.com/"
    )


def test_explain_agrees_with_what_happens(run: Run, settled: World) -> None:
    """
    P3: each redirect of the matrix is rehearsed, and then really made.
    """
    targets = [
        settled.billing.url,
        f"{settled.orders.url}v2",
        f"{settled.sink.url}/",
        settled.orders.url.replace("http:", "https:"),
    ]
    for number, target in enumerate(targets):
        settled.orders.redirect(f"/{number}", target)
        [_, (rehearsed, _)] = hops(run, f"{settled.orders.url}{number}", "--redirect-to", target)
        real = run("request", "-L", "-v", f"{settled.orders.url}{number}")

        carried = real.stderr.count(f"<token for {ORDERS}>")
        # https at that port speaks to nobody: the request fails, and carries nothing.
        assert (1 + (rehearsed is not None) if real.exit_code != 2 else 0) == carried


def test_explain_what_would_be_refused(run: Run, settled: World) -> None:
    """
    P1: why, what is mapped nearby, and exit status 1.
    """
    write(settings_for(settled, '"https://gw.example.com/a/" = "urn:example:a"'))
    near = settled.orders.url.replace("127.0.0.1", "127.0.0.2")

    unmapped = run("explain", near)
    ambiguous = run("explain", "https://gw.example.com/a/%2e%2e/b")
    nothing = run("explain", "https://exa mple/", settled.orders.url, "--json")

    assert [1, 1, 1] == [done.exit_code for done in (unmapped, ambiguous, nothing)]
    assert f"No resource is mapped to {near}" in unmapped.output
    assert f"mapped is  {settled.orders.url}" in unmapped.output
    assert "which servers read in different ways" in ambiguous.output
    assert [True, False] == [bool(one["refusal"]) for one in json.loads(nothing.output)]


def test_explain_what_is_bound(run: Run, settled: World) -> None:
    """
    Tokens of subjects and tokens that are bound say so; where they may go is told all the same.
    """
    write(
        settings_for(
            settled,
            '"https://a.example.com/" = { subject = "required", sender = "dpop" }',
        )
    )

    plain = run("explain", "https://a.example.com/", "--redirect-to", settled.orders.url)

    assert 0 == plain.exit_code
    assert "asked for    on behalf of a subject; without one a request is refused" in plain.output
    assert "bound        to the proof key:" in plain.output
    assert "<token for https://a.example.com/>" in plain.output
    assert f"no token - that destination is mapped to {ORDERS!r}." in plain.output


def test_explain_what_goes_without(run: Run, settled: World) -> None:
    """
    Where unmapped requests are let through, they are, and a sidecar is where the request goes.
    """
    write(
        settings_for(
            settled,
            '"http://stock.internal/" = { identifier = "urn:example:stock", '
            'connect_to = "http://127.0.0.1:15001" }',
            'unmapped = "anonymous"',
        )
    )

    elsewhere, stock = json.loads(
        run("explain", "--json", "https://a.example.com/", "http://stock.internal/v1").output
    )

    assert [None] == [hop["token_for"] for hop in elsewhere["hops"]]
    assert [("http://127.0.0.1:15001/v1", "stock.internal", "urn:example:stock")] == [
        (hop["url"], hop["host"], hop["token_for"]) for hop in stock["hops"]
    ]


def test_token(run: Run, settled: World) -> None:
    """
    P9: claims and lifetime are shown, and the token only to whoever asks for it aloud.
    """
    plain = run("token", settled.orders.url)
    as_json = run("token", settled.orders.url, "--json", "--scope", "a", "--scope", "b")
    [first, second] = settled.server.issued
    revealed = run("token", settled.orders.url, "--reveal")

    assert [0, 0, 0] == [done.exit_code for done in (plain, as_json, revealed)]
    assert f"  aud        {ORDERS}" in plain.output
    assert ", in 59 min " in plain.output
    shown = json.loads(as_json.output)
    assert (["a", "b"], ORDERS) == (shown["scopes"], shown["claims"]["aud"])
    assert 3500 < shown["expires_in"] <= 3600
    assert [] == [token for token in (first, second) if token in plain.output + as_json.output]
    assert f"{settled.server.issued[-1]}\n" == revealed.output


def test_an_opaque_token(run: Run, settled: World) -> None:
    """
    It says nothing, and that is said.
    """
    settled.server.token_format = "opaque"

    done = run("token", settled.billing.url)

    assert "scopes    none said" in done.output
    assert "claims    none that can be read: the token is opaque" in done.output
    assert settled.server.issued[0] not in done.output


def test_what_a_server_says_does_not_move_the_cursor(run: Run, settled: World) -> None:
    """
    Claims are chosen by somebody else.
    """
    claims = {"aud": ORDERS, "sub": "\x1b[2J\x07"}
    token = jwt.encode(claims, "k" * 32, "HS256")
    answer = {"access_token": token, "token_type": "Bearer", "expires_in": 60}
    settled.server.answer_next(200, json.dumps(answer).encode())

    done = run("token", settled.orders.url)

    assert r"\x1b[2J\x07" in done.output
    assert "\x1b" not in done.output


def test_token_is_refused(run: Run, settled: World) -> None:
    """
    P4: no token, and the reason; exit status 2.
    """
    unmapped = run("token", "https://elsewhere.example.com/")
    settled.server.fail_next(1, 401, "invalid_client")
    refused = run("token", settled.orders.url)

    assert [2, 2] == [unmapped.exit_code, refused.exit_code]
    assert "error: No resource is mapped to" in unmapped.stderr
    assert "invalid_client" in refused.stderr


def test_request(run: Run, settled: World) -> None:
    """
    P1: the answer of the API to the token of its resource.
    """
    done = run("request", f"{settled.orders.url}v1", "--scope", "orders:write")

    assert 0 == done.exit_code
    assert {"audience": ORDERS, "scope": "orders:write", "path": "/v1"} == json.loads(done.stdout)
    assert "" == done.stderr
    assert settled.server.issued == settled.orders.tokens_seen()


def test_request_with_a_body(run: Run, settled: World) -> None:
    """
    A text, a file or the standard input, under the type that fits or the one that is given.
    """
    Path("body.txt").write_text("from a file")
    url = f"{settled.orders.url}v1"

    run("request", url, "--json", '{"a": 1}')
    run("request", url, "-d", "@body.txt", "-X", "PUT", "-H", "content-type: text/plain")
    run("request", url, "-d", "@-", input="from standard input")

    assert [
        ("POST", "application/json", b'{"a": 1}'),
        ("PUT", "text/plain", b"from a file"),
        ("POST", "application/x-www-form-urlencoded", b"from standard input"),
    ] == [
        (
            record.method,
            {name.lower(): value for name, value in record.headers}["content-type"],
            record.body,
        )
        for record in settled.orders.requests
    ]


def test_request_to_a_file(run: Run, settled: World) -> None:
    """
    The body as it is, with the head of the answer before it if that is wanted.
    """
    body = bytes(range(256)) * 1000
    settled.orders.respond("/binary", 200, {"Content-Type": "application/octet-stream"}, body)

    to_file = run("request", f"{settled.orders.url}binary", "-o", "out.bin")
    run("request", f"{settled.orders.url}binary", "-i", "-o", "head.bin")
    to_terminal = run("request", f"{settled.orders.url}binary")

    assert (0, "") == (to_file.exit_code, to_file.output)
    assert body == Path("out.bin").read_bytes() == to_terminal.stdout_bytes
    head, _, rest = Path("head.bin").read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == rest


def test_request_with_a_bound_token(run: Run, settled: World) -> None:
    """
    P9: the proof goes along, and is not told.
    """
    write(settings_for(settled).replace('"orders:read"]', '"orders:read"], sender = "dpop"'))

    done = run("request", "-v", settled.orders.url)

    assert 0 == done.exit_code
    [record] = settled.orders.requests
    headers = {name.lower(): value for name, value in record.headers}
    assert headers["authorization"].startswith("DPoP ")
    assert headers["dpop"] not in done.stderr
    assert settled.server.issued[0] not in done.stderr


def test_request_to_an_authority_of_ones_own(run: Run, settled: World, tmp_path: Path) -> None:
    """
    Whom to trust is said, as for the token requests.
    """
    authority().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Sink(tls=serving()) as sink:
        write(settings_for(settled, f'"{sink.url}/" = "urn:example:sink"'))

        trusted = run("request", f"{sink.url}/v1", "--cacert", "ca.pem")
        strange = run("request", f"{sink.url}/v1")

    assert [0, 2] == [trusted.exit_code, strange.exit_code]
    assert {"path": "/v1"} == json.loads(trusted.stdout)
    assert "CERTIFICATE_VERIFY_FAILED" in strange.stderr


def test_request_that_is_redirected_away(run: Run, settled: World) -> None:
    """
    P3, P9: it goes on without the token, says so, and shows no token however much it tells.
    """
    settled.orders.redirect("/moved", settled.billing.url)

    followed = run("request", "-L", "-v", f"{settled.orders.url}moved")
    stayed = run("request", f"{settled.orders.url}moved")

    assert [1, 0] == [followed.exit_code, stayed.exit_code]
    [token] = {*settled.server.issued[:1]}
    assert f"authorization: Bearer <token for {ORDERS}>" in followed.stderr
    assert f"note: {settled.billing.url} got no token of {ORDERS}:" in followed.stderr
    assert f"> GET {settled.orders.url}moved" in followed.stderr
    assert "< 302 Found" in followed.stderr
    assert token not in followed.output
    assert () == settled.billing.tokens_seen()


def test_request_that_is_refused(run: Run, settled: World) -> None:
    """
    P1, P3: exit status 2, and nothing was sent.
    """
    token = run("token", settled.billing.url, "--reveal").stdout.strip()
    stray = run("request", settled.orders.url, "-H", "Host: elsewhere.example.com")
    unmapped = run("request", f"{settled.sink.url}/?t={token}")
    malformed = run("request", settled.orders.url, "-H", "no header")
    missing = run("request", settled.orders.url, "-d", "@nowhere")

    assert [2] * 4 == [done.exit_code for done in (stray, unmapped, malformed, missing)]
    assert "was stopped before it was sent" in stray.stderr
    assert "No resource is mapped" in unmapped.stderr
    assert "A header is given as 'Name: value'." in malformed.stderr
    assert "error: FileNotFoundError:" in missing.stderr
    assert [] == settled.sink.seen
    assert () == settled.orders.requests


def test_request_that_the_api_refuses(run: Run, settled: World) -> None:
    """
    Its answer is shown all the same, and the exit status is 1.
    """
    settled.orders.respond("/gone", 410, body=b"gone")

    done = run("request", f"{settled.orders.url}gone")

    assert (1, "gone") == (done.exit_code, done.stdout)


def test_schema(run: Run, settled: World) -> None:
    """
    The one that editors are given.
    """
    assert settled
    schema = json.loads(run("schema").output)

    jsonschema.validate(tomllib.loads(Path("resource-tokens.toml").read_text()), schema)


def test_demo(run: Run) -> None:
    """
    The same as `make demo`.
    """
    done = run("demo")

    assert 0 == done.exit_code
    assert "9 of 9 claims held" in done.output
