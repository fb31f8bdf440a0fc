"""
Against node-oidc-provider, a certified server that honours `resource`, and APIs that verify
signature, issuer, audience and expiry against its keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ClientSecretPost,
    OAuthError,
    Resource,
    ResourceTokenAuth,
    TokenCache,
    TokenEvent,
)
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import Caller
from tests.servers.apis import LedgerApi
from tests.servers.oidc_provider import OidcProvider

ORDERS = "https://orders.example.com/api"
BILLING = "urn:example:billing"
SHORT = "urn:example:short-lived"
OPAQUE = "urn:example:opaque"
RENAMED = "urn:example:renamed"
SECRET = "a secret of forty-two characters, or so"

# Every printable ASCII character that has a meaning in a form, a URL or a Basic header.
# oidc-provider refuses others in client metadata; those are tried against the local server.
NASTY = ["a:b:c", "50%25", "a+b+c", "a b c", "a&b=c", "q\"u'o\\te", "s/l?a#sh", "~-._!*()", "%"]


@pytest.fixture(scope="session")
def provider() -> Iterator[OidcProvider]:
    clients: list[Any] = [{"client_id": "worker", "client_secret": SECRET}]
    clients.append(
        {
            "client_id": "poster",
            "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_post",
        }
    )
    for number, secret in enumerate(NASTY):
        clients.append({"client_id": f"nasty:{number} %", "client_secret": secret})
    resources: Any = {
        ORDERS: {"scopes": ["orders:read", "orders:write"]},
        BILLING: {"scopes": ["invoices:read"], "alg": "ES256"},
        SHORT: {"scopes": ["read"], "ttl": 4},
        OPAQUE: {"scopes": ["read"], "format": "opaque"},
        RENAMED: {"scopes": ["read"], "audience": "api-7"},
    }
    with OidcProvider({"clients": clients, "resources": resources}) as running:
        yield running


@pytest.fixture
def ledger(provider: OidcProvider) -> OidcProvider:
    """
    The provider, with nothing in its ledger.
    """
    provider.clear()
    return provider


class Fleet:
    """
    Two APIs on two origins, and a gateway with both of them by path.
    """

    def __init__(self, provider: OidcProvider, stack: ExitStack) -> None:
        known: Any = {"issuer": provider.issuer, "jwks_uri": provider.jwks_uri}
        self.orders = stack.enter_context(LedgerApi(ORDERS, **known))
        self.billing = stack.enter_context(LedgerApi(BILLING, **known))
        self.short = stack.enter_context(LedgerApi(SHORT, **known))
        self.gateway = stack.enter_context(
            LedgerApi(audiences={"/orders": ORDERS, "/billing": BILLING}, **known)
        )
        self.events: list[TokenEvent] = []
        self.auth = ResourceTokenAuth(
            AuthorizationServer(issuer=provider.issuer),
            ClientSecretBasic("worker", SECRET),
            resources={
                f"{self.orders.url}/": Resource(ORDERS, scopes=["orders:read"]),
                f"{self.billing.url}/": BILLING,
                f"{self.short.url}/": SHORT,
                f"{self.gateway.url}/orders": Resource(ORDERS, scopes=["orders:read"]),
                f"{self.gateway.url}/billing": BILLING,
            },
            on_event=self.events.append,
        )


@pytest.fixture
def fleet(ledger: OidcProvider) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(ledger, stack)


def test_each_api_accepts_its_own_token_and_sees_no_other(
    caller: Caller, fleet: Fleet, ledger: OidcProvider
) -> None:
    """
    P1, P3: four destinations, two resources, two token requests; the ledgers of the APIs show
    that no origin has ever seen another's token.
    """
    with caller.client(auth=fleet.auth) as client:
        answers = [
            client.get(f"{fleet.orders.url}/v1/orders"),
            client.get(f"{fleet.billing.url}/v1/invoices"),
            client.get(f"{fleet.gateway.url}/orders/7"),
            client.get(f"{fleet.gateway.url}/billing/7"),
        ]

    assert [200] * 4 == [answer.status_code for answer in answers]
    assert [ORDERS, BILLING, ORDERS, BILLING] == [answer.json()["aud"] for answer in answers]
    assert "orders:read" == answers[0].json()["scope"]
    forms = [entry["form"] for entry in ledger.ledger()]
    assert [
        {
            "grant_type": ["client_credentials"],
            "resource": [ORDERS],
            "scope": ["orders:read"],
        },
        {"grant_type": ["client_credentials"], "resource": [BILLING]},
    ] == forms
    orders, billing = set(fleet.orders.tokens_seen()), set(fleet.billing.tokens_seen())
    assert 1 == len(orders) == len(billing)
    assert orders == {t for seen in fleet.gateway.seen_under("/orders") for t in seen.tokens()}
    assert billing == {t for seen in fleet.gateway.seen_under("/billing") for t in seen.tokens()}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_between_apis_show_no_token(caller: Caller, fleet: Fleet, status: int) -> None:
    """
    P3: across origins and across paths of one origin, the second API refuses a bare request.
    """
    fleet.orders.redirect("/jump", to=f"{fleet.billing.url}/landing", status=status)
    fleet.gateway.redirect("/orders/jump", to="/billing/landing", status=status)
    with caller.client(auth=fleet.auth, follow_redirects=True) as client:
        across = client.get(f"{fleet.orders.url}/jump")
        along = client.get(f"{fleet.gateway.url}/orders/jump")

    assert (401, 401) == (across.status_code, along.status_code)
    assert [] == fleet.billing.tokens_seen()
    assert [()] == [tuple(seen.tokens()) for seen in fleet.gateway.seen_under("/billing")]


def test_a_token_is_renewed_before_it_expires(caller: Caller, fleet: Fleet) -> None:
    """
    P7: with a lifetime of four seconds no API ever sees an expired token.
    """
    with caller.client(auth=fleet.auth) as client:
        ends = time.monotonic() + 20
        statuses = []
        while len(fleet.short.tokens_seen()) < 2 and time.monotonic() < ends:
            statuses.append(client.get(f"{fleet.short.url}/x").status_code)
            time.sleep(0.05)

    assert {200} == set(statuses)
    assert 2 == len(fleet.short.tokens_seen())
    assert "token_rejected" not in [event.name for event in fleet.events]


def test_a_revoked_token_is_replaced(caller: Caller, fleet: Fleet) -> None:
    """
    P8: a 401 from the API the token was for renews it once.
    """
    with caller.client(auth=fleet.auth) as client:
        client.get(f"{fleet.billing.url}/x")
        fleet.billing.revoke(fleet.billing.tokens_seen()[0])
        response = client.get(f"{fleet.billing.url}/x")

    assert 200 == response.status_code
    assert [200, 401, 200] == [seen.status for seen in fleet.billing.seen]


def cache_of(provider: OidcProvider, client_auth: Any = None) -> TokenCache:
    return TokenCache(
        AuthorizationServer(issuer=provider.issuer),
        client_auth or ClientSecretBasic("worker", SECRET),
    )


def test_an_unknown_resource_is_invalid_target(caller: Caller, ledger: OidcProvider) -> None:
    """
    R8707-11: refused by a strict server, remembered, and named in the error.
    """
    cache = cache_of(ledger)
    for _ in range(2):
        with pytest.raises(OAuthError, match="urn:example:unknown") as caught:
            caller.token(cache, "urn:example:unknown")
        assert ("invalid_target", 400) == (caught.value.error, caught.value.status)

    assert 1 == len(ledger.ledger())


def test_the_identifier_is_compared_byte_for_byte(caller: Caller, ledger: OidcProvider) -> None:
    """
    P5, R8707-16: one slash more is another resource to a strict server.
    """
    with pytest.raises(OAuthError, match="invalid_target"):
        caller.token(cache_of(ledger), f"{ORDERS}/")

    assert [[f"{ORDERS}/"]] == [entry["form"]["resource"] for entry in ledger.ledger()]


@pytest.mark.parametrize("number", range(len(NASTY)), ids=NASTY)
@pytest.mark.parametrize("method", [ClientSecretBasic, ClientSecretPost])
def test_any_secret_reaches_a_strict_server(ledger: OidcProvider, method: Any, number: int) -> None:
    """
    R6749-2: id and secret are form-urlencoded before Basic; this server refuses anything else.
    """
    cache = cache_of(ledger, method(f"nasty:{number} %", NASTY[number]))

    assert BILLING == cache.get(BILLING).resource
    (entry,) = ledger.ledger()
    assert method.method == entry["method"]
    assert f"nasty:{number} %" == entry["client_id"]


@pytest.mark.parametrize("secret", [*NASTY, "é", "€", "пароль", "a\u0000b"])
@pytest.mark.parametrize("method", [ClientSecretBasic, ClientSecretPost])
def test_any_secret_reaches_the_local_server(caller: Caller, method: Any, secret: str) -> None:
    """
    R6749-2: beyond ASCII too, decoded strictly as RFC 6749 2.3.1 and appendix B say.
    """
    with LocalAuthorizationServer(clients={"wörker:1": secret}) as server:
        cache = TokenCache(AuthorizationServer(issuer=server.issuer), method("wörker:1", secret))

        assert BILLING == caller.token(cache, BILLING).resource


def test_a_wrong_secret_is_invalid_client(caller: Caller, ledger: OidcProvider) -> None:
    """
    R6749-15: refused, with the RFC's fields, and without the secret in the error.
    """
    cache = cache_of(ledger, ClientSecretBasic("worker", "not the secret at all"))
    with pytest.raises(OAuthError) as caught:
        caller.token(cache, ORDERS)

    assert ("invalid_client", 401) == (caught.value.error, caught.value.status)
    assert "not the secret" not in repr(caught.value.args)


def test_client_secret_post_is_accepted(caller: Caller, ledger: OidcProvider) -> None:
    """
    R21-1: the other way to show a secret.
    """
    caller.token(cache_of(ledger, ClientSecretPost("poster", SECRET)), ORDERS)

    assert ["client_secret_post"] == [entry["method"] for entry in ledger.ledger()]


def test_scopes_the_server_drops_are_an_event(caller: Caller, ledger: OidcProvider) -> None:
    """
    R8707-13: this server narrows in silence, but says what it granted.
    """
    events: list[TokenEvent] = []
    cache = TokenCache(
        AuthorizationServer(issuer=ledger.issuer),
        ClientSecretBasic("worker", SECRET),
        on_event=events.append,
    )
    token = caller.token(cache, ORDERS, ["orders:read", "admin"])

    assert frozenset({"orders:read"}) == token.scopes
    assert "scope_narrowed" in [event.name for event in events]


def test_an_opaque_token_is_taken(caller: Caller, ledger: OidcProvider) -> None:
    """
    R9068-1: what cannot be read is taken as it is, unless the audience is required.
    """
    token = caller.token(cache_of(ledger), OPAQUE)

    assert "." not in token.reveal()


def test_a_renamed_audience_is_configured(caller: Caller, ledger: OidcProvider) -> None:
    """
    R8707-12: the server writes another `aud`; `audience=` says which.
    """
    token = caller.token(cache_of(ledger), Resource(RENAMED, audience="api-7"))

    assert RENAMED == token.resource


def test_many_callers_cost_one_token_request(caller: Caller, ledger: OidcProvider) -> None:
    """
    P6: against a real server, one request for each resource.
    """
    wanted = [ORDERS, BILLING] * 25
    tokens = caller.token_together(cache_of(ledger), wanted)

    assert wanted == [token.resource for token in tokens]
    assert 2 == len(ledger.ledger())
