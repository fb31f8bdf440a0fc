"""
The use ledger: which token went where.
"""

from __future__ import annotations

import hmac
import json
import logging
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from resource_tokens import (
    ConfigurationError,
    EgressBlockedError,
    EgressGuard,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
    SubjectToken,
)
from resource_tokens.ledger import TokenUse, UseLedger, Uses
from tests.conftest import BILLING, CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, World

KEY = b"0123456789abcdef"


class Ledger(list[TokenUse]):
    """
    A ledger in a list.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hook = UseLedger(self.append, key=KEY)

    def of(self, token: str) -> list[tuple[str, str]]:
        """
        Where a token went.
        """
        mark = self.hook.fingerprint(token)
        return [(use.decision, use.destination) for use in self if use.token == mark]

    def decisions(self) -> list[tuple[str, str]]:
        return [(use.decision, use.resource) for use in self]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_a_token_shown_is_a_record(caller: Caller, world: World, ledger: Ledger) -> None:
    """
    P11: one record for each request, with all that an auditor asks for and no token.
    """
    resources = {f"{world.orders.url}v1/": Resource(ORDERS, scopes=["b", "a"])}
    auth = world.auth(resources, ledger=ledger.hook, wall_clock=lambda: 1e9)
    with caller.client(auth=auth) as client:
        client.get(f"{world.orders.url}v1/stock?code=sesame")
        client.get(f"{world.orders.url}v1/stock?code=sesame")

    (token,) = world.server.issued
    first, second = ledger
    assert first == second
    assert first == TokenUse(
        at=datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
        decision="shown",
        destination=f"{world.orders.url}v1/stock",
        rule=f"{world.orders.url}v1/",
        resource=ORDERS,
        issuer=world.server.issuer,
        client_id=CLIENT_ID,
        scopes=("a", "b"),
        token=ledger.hook.fingerprint(token),
    )


def test_which_token_went_where(caller: Caller, world: World, ledger: Ledger) -> None:
    """
    The question that the ledger is for: every hop of a redirect chain is in it, for each token.
    """
    world.orders.redirect("/here", "/there")
    world.orders.redirect("/there", f"{world.sink.url}?code=sesame")
    auth = world.auth(ledger=ledger.hook)
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(f"{world.orders.url}here")
        client.get(world.billing.url)

    orders, billing = world.server.issued
    assert [
        ("shown", f"{world.orders.url}here"),
        ("shown", f"{world.orders.url}there"),
        ("withheld", f"{world.sink.url}/"),
    ] == ledger.of(orders)
    assert [("shown", world.billing.url)] == ledger.of(billing)
    assert "no resource is mapped to that destination." == ledger[2].detail
    assert "" == ledger[2].rule


def test_a_token_that_strays_is_withheld_for_a_reason(
    caller: Caller, world: World, ledger: Ledger
) -> None:
    """
    P11: elsewhere, elsewhere again, and back: each hop has its reason, in the events as well.
    """
    world.orders.redirect("/", f"{world.sink.url}/first")
    world.sink.redirect("/first", to=f"{world.sink.url}/second")
    world.sink.redirect("/second", to=f"{world.orders.url}v1")
    auth = world.auth(ledger=ledger.hook)
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(world.orders.url)

    withheld = [event for event in world.events if event.name == "token_withheld"]
    assert ["elsewhere", "elsewhere", "strayed"] == [event.reason for event in withheld]
    assert ["shown", "withheld", "withheld", "withheld"] == [use.decision for use in ledger]


def test_a_request_without_a_token_is_no_record(
    caller: Caller, world: World, ledger: Ledger
) -> None:
    """
    The ledger is of tokens: a request that carries none is not in it.
    """
    auth = world.auth(ledger=ledger.hook, unmapped="anonymous")
    with caller.client(auth=auth) as client:
        client.get(world.sink.url)

    assert [] == ledger


def test_a_retry_shows_another_token(caller: Caller, world: World, ledger: Ledger) -> None:
    """
    P8: after a 401 there is a record for the token that was refused and one for its successor.
    """
    auth = world.auth(ledger=ledger.hook)
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        world.server.revoke(world.server.issued[0])
        client.get(world.orders.url)

    first, second = world.server.issued
    assert 2 == len(ledger.of(first))
    assert [("shown", world.orders.url)] == ledger.of(second)


def test_what_is_blocked_is_a_record(caller: Caller, world: World, ledger: Ledger) -> None:
    """
    P3: a request that is stopped is in the ledger, with the reason, before the caller hears of it.
    """
    auth = world.auth(ledger=ledger.hook)
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        with pytest.raises(EgressBlockedError):
            client.get(world.orders.url, params={"t": world.server.issued[0]})

    assert [("shown", ORDERS), ("blocked", ORDERS)] == ledger.decisions()
    assert "tokens go in headers" in ledger[1].detail


def test_a_redirect_that_a_resource_takes(caller: Caller, world: World, ledger: Ledger) -> None:
    """
    With `redirects="reauthorize"` one token is withheld, and another one shown.
    """
    world.orders.redirect("/", world.billing.url)
    billing = Resource(BILLING, redirects="reauthorize")
    auth = world.auth({world.orders.url: ORDERS, world.billing.url: billing}, ledger=ledger.hook)
    with caller.client(auth=auth, follow_redirects=True) as client:
        assert 200 == client.get(world.orders.url).status_code

    orders, second = world.server.issued
    assert [("shown", world.orders.url), ("withheld", world.billing.url)] == ledger.of(orders)
    assert [("shown", world.billing.url)] == ledger.of(second)
    assert (BILLING, world.billing.url) == (ledger[2].resource, ledger[2].rule)


def test_a_token_that_is_handed_over(caller: Caller, world: World, ledger: Ledger) -> None:
    """
    What a program takes out of the library has a record, as nobody can say where it goes then.
    """
    auth = world.auth(ledger=ledger.hook)
    token = caller.token_for(auth, world.orders.url)

    assert [("handed_over", "")] == ledger.of(token.reveal())


@pytest.mark.parametrize("guarded", [False, True])
def test_other_transports(world: World, ledger: Ledger, guarded: bool) -> None:
    """
    Where no guard was on the wire, what was shown is recorded afterwards, each hop once.
    """
    answers = iter([httpx.Response(401), httpx.Response(200)])
    transport: Any = httpx.MockTransport(lambda _: next(answers))
    auth = world.auth(ledger=ledger.hook)
    with httpx.Client(auth=auth, transport=transport) as client:
        if guarded:
            client._transport = EgressGuard(transport)
        # Warm, or the refusal of a new token would not be worth another one.
        auth.cache.get(ORDERS)
        client.get(world.orders.url)

    assert ["handed_over", "shown", "shown"] == [use.decision for use in ledger]
    assert 2 == len({use.token for use in ledger})
    assert guarded == ("" == ledger[1].detail)


def test_the_rule_that_covers(world: World, ledger: Ledger) -> None:
    """
    Where several destinations belong to one resource, the record names the one that covers the hop;
    behind a sidecar, the one that it stands for.
    """
    port = world.orders.url.rpartition(":")[2].rstrip("/")
    shared = Resource(ORDERS)
    behind = Resource(BILLING, connect_to=world.billing.url.rstrip("/"), host_header="billing")
    resources = {
        world.orders.url: shared,
        f"{world.orders.url}v1/": shared,
        f"http://127.0.0.2:{port}/": shared,
        "http://billing.internal/": behind,
    }
    auth = world.auth(resources, ledger=ledger.hook)
    with httpx.Client(auth=auth, trust_env=False) as client:
        client.get(f"{world.orders.url}v1/stock")
        client.get(f"{world.orders.url}v2/stock")
        client.get("http://billing.internal/v1")

    rules = [f"{world.orders.url}v1/", world.orders.url, "http://billing.internal/"]
    assert rules == [use.rule for use in ledger]
    assert f"{world.billing.url}v1" == ledger[2].destination


def test_a_proxy_is_named(world: World, ledger: Ledger) -> None:
    """
    A hop by way of a proxy says so, and what is no plain URL is covered by no rule.
    """
    resources = {"http://api.test/": Resource(ORDERS, allow_http=True, allow_http_proxy=True)}
    auth = world.auth(resources, ledger=ledger.hook)
    with httpx.Client(auth=auth, proxy=world.sink.url) as client:
        client.get("http://api.test/v1")

    assert f"http://api.test/v1 by way of {world.sink.url.rstrip('/')}" == ledger[0].destination


@pytest.mark.parametrize("where", ["http://[", "https://a.test/v1/%2e%2e/v2"])
def test_what_no_rule_covers(ledger: Ledger, where: str) -> None:
    """
    A destination that is no URL, or that can be read in two ways, is recorded as it is.
    """
    resources = ResourceMap({"https://a.test/v1/": ORDERS})
    Uses(ledger.hook, None, resources, lambda: 0.0).note("blocked", None, None, where, "why")

    (use,) = ledger
    assert (where, "", "why") == (use.destination, use.rule, use.detail)


def test_a_record_is_json_and_holds_no_secret(world: World, ledger: Ledger) -> None:
    """
    P9: neither the record nor the ledger prints a token, the client secret or the key, and the
    ledger is not pickled.
    """
    auth = world.auth(ledger=ledger.hook)
    with httpx.Client(auth=auth, trust_env=False) as client:
        client.get(world.orders.url)

    text = json.dumps(ledger[0].as_dict()) + repr(ledger[0]) + repr(ledger.hook)
    secrets = (*world.server.issued, CLIENT_SECRET, KEY.decode())
    assert [] == [secret for secret in secrets if secret in text]
    assert ledger[0].at.isoformat() == ledger[0].as_dict()["at"]
    with pytest.raises(TypeError, match="its key"):
        pickle.dumps(UseLedger(print, key=KEY))


def test_a_fingerprint_is_one_that_others_can_compute() -> None:
    """
    HMAC-SHA256, cut to 16 bytes; another key gives another one, and so does each default.
    """
    mark = UseLedger(print, key=KEY).fingerprint("token")

    assert hmac.new(KEY, b"token", "sha256").hexdigest()[:32] == mark
    assert 3 == len({mark, *(UseLedger(print).fingerprint("token") for _ in range(2))})


@pytest.mark.parametrize("key", [b"", b"short", "a text of sixteen and more"])
def test_a_key_that_is_none(key: Any) -> None:
    """
    A key that can be guessed is refused, with what to take.
    """
    with pytest.raises(ConfigurationError, match=r"at least 16 .* secrets\.token_bytes"):
        UseLedger(print, key=key)


@pytest.mark.parametrize("source", ["file", "environment"])
def test_what_settings_describe_can_be_recorded(
    world: World,
    ledger: Ledger,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    An auth object that comes from a file or from the environment takes a ledger as well.
    """
    settings = {
        "RESOURCE_TOKENS_ISSUER": world.server.issuer,
        "RESOURCE_TOKENS_CLIENT_ID": CLIENT_ID,
        "RESOURCE_TOKENS_CLIENT_SECRET": CLIENT_SECRET,
        "RESOURCE_TOKENS_RESOURCES": world.orders.url,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    if source == "environment":
        auth = ResourceTokenAuth.from_env(ledger=ledger.hook)
    else:
        written = tmp_path / "resource-tokens.toml"
        written.write_text(
            f"""
            [servers.login]
            issuer = "{world.server.issuer}"

            [clients.worker]
            method = "client_secret_basic"
            client_id = "{CLIENT_ID}"
            client_secret = {{ env = "RESOURCE_TOKENS_CLIENT_SECRET" }}

            [resources]
            "{world.orders.url}" = {{}}
            """
        )
        monkeypatch.delenv("RESOURCE_TOKENS_ISSUER")
        auth = ResourceTokenAuth.from_toml(written, ledger=ledger.hook)
    with httpx.Client(auth=auth, trust_env=False) as client:
        client.get(f"{world.orders.url}v1")

    assert [("shown", f"{world.orders.url}v1")] == ledger.of(world.server.issued[0])


def test_the_token_of_a_user_is_a_record_without_the_user(
    caller: Caller, world: World, ledger: Ledger
) -> None:
    """
    On behalf of a user, the record is of the token that was exchanged; it names no subject.
    """
    issued = world.auth().token_for(world.billing.url).reveal()
    auth = world.auth({world.orders.url: ORDERS}, ledger=ledger.hook)
    view = auth.on_behalf_of(SubjectToken(issued, subject="alice"))
    with caller.client(auth=view) as client:
        client.get(world.orders.url)

    exchanged = world.server.issued[-1]
    assert issued != exchanged
    assert [("shown", world.orders.url)] == ledger.of(exchanged)
    assert [] == ledger.of(issued)
    assert "alice" not in repr(ledger)


def test_a_function_alone_is_no_ledger(world: World) -> None:
    """
    What was meant is said at construction, and not in the middle of a request.
    """
    with pytest.raises(ConfigurationError, match=r"Give UseLedger\(write\)"):
        world.auth(ledger=print)


def test_a_broken_ledger_costs_no_request(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """
    What the function raises is logged, without its text, and the request goes on.
    """

    def broken(use: TokenUse) -> None:
        raise OSError(f"no room for {use.client_id}")

    auth = world.auth(ledger=UseLedger(broken))
    with httpx.Client(auth=auth, trust_env=False) as client:
        assert 200 == client.get(world.orders.url).status_code

    said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert [f"the use ledger raised OSError for {ORDERS}"] == said


def test_without_a_ledger_nothing_is_made(world: World) -> None:
    """
    A cache without a ledger and without telemetry has nobody to tell.
    """
    assert world.auth().cache.uses is None
