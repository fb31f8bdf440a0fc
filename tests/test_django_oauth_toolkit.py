"""
Against django-oauth-toolkit and its own APIs, which check audiences: a second, independent
implementation, with habits of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import pytest

from resource_tokens import (
    AudienceMismatchError,
    AuthorizationServer,
    ClientSecretBasic,
    ClientSecretPost,
    ConfigurationError,
    OAuthError,
    RefreshToken,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
    TokenCache,
    TokenEvent,
    TokenRequestError,
)
from resource_tokens.oauth.dialects import RFC8707, Dialect
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import Caller
from tests.servers.django_provider import Application, DjangoProvider

SECRET = "s:e/c+r e%t"
WORKER: Application = {
    "client_id": "worker",
    "client_secret": SECRET,
    "authorization_grant_type": "client-credentials",
}
PORTAL: Application = {
    "client_id": "portal",
    "client_secret": SECRET,
    "authorization_grant_type": "authorization-code",
}
CLIENT_AUTH = ClientSecretBasic("worker", SECRET)


@pytest.fixture(scope="module")
def running() -> Iterator[DjangoProvider]:
    with DjangoProvider([WORKER, PORTAL]) as server:
        yield server


@pytest.fixture
def django(running: DjangoProvider) -> DjangoProvider:
    """
    The site, with nothing in its ledger.
    """
    running.clear()
    return running


def auth_for(
    django: DjangoProvider,
    *names: str,
    dialect: Dialect = RFC8707,
    on_event: Callable[[TokenEvent], object] | None = None,
    **resource: Any,
) -> ResourceTokenAuth:
    """
    Each API under its own name, as the URL that is its identifier.
    """
    server = AuthorizationServer(issuer=django.issuer, dialect=dialect)
    urls = [f"{django.apis}/{name}" for name in names]
    resources = {url: Resource(url, **resource) for url in urls}
    return ResourceTokenAuth(server, CLIENT_AUTH, resources, on_event=on_event)


def tokens_at(django: DjangoProvider, name: str) -> set[str | None]:
    return {e["token"] for e in django.ledger(django.apis) if e["path"].startswith(f"/{name}/")}


def resources_asked_for(django: DjangoProvider) -> list[list[str]]:
    return [e["form"]["resource"] for e in django.ledger(django.issuer) if e["path"] == "/token/"]


def shown_by_hand(django: DjangoProvider, token: str | None, path: str) -> int:
    """
    The status for a client that puts any token anywhere.
    """
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{django.apis}{path}", headers=headers, trust_env=False).status_code


def test_each_api_accepts_its_own_token_alone(caller: Caller, django: DjangoProvider) -> None:
    """
    P1, P3, R8707-16: two APIs of one host, two token requests with the identifiers as configured,
    and neither API sees the other's token, which it would refuse.
    """
    auth = auth_for(django, "orders", "billing")
    with caller.client(auth=auth) as client:
        statuses = [
            client.get(f"{django.apis}/{name}/7").status_code for name in ("orders", "billing")
        ]

    assert [200, 200] == statuses
    assert [[f"{django.apis}/orders"], [f"{django.apis}/billing"]] == resources_asked_for(django)
    (orders,), (billing,) = tokens_at(django, "orders"), tokens_at(django, "billing")
    assert 401 == shown_by_hand(django, orders, "/billing/7")
    assert 401 == shown_by_hand(django, billing, "/orders/7")


@pytest.mark.parametrize("method", [ClientSecretBasic, ClientSecretPost])
def test_a_secret_is_understood_either_way(django: DjangoProvider, method: Any) -> None:
    """
    R6749-2, R21-1: form-urlencoded before Basic, or in the body.
    """
    cache = TokenCache(AuthorizationServer(issuer=django.issuer), method("worker", SECRET))
    cache.get(f"{django.apis}/orders")

    (entry,) = [e for e in django.ledger(django.issuer) if e["path"] == "/token/"]
    assert (method is ClientSecretBasic, 200) == (entry["basic"], entry["status"])


def test_a_wrong_secret_is_invalid_client(django: DjangoProvider) -> None:
    """
    R6749-15: with the RFC's fields, and without the secret.
    """
    wrong = ClientSecretBasic("worker", "not the secret at all")
    cache = TokenCache(AuthorizationServer(issuer=django.issuer), wrong)
    with pytest.raises(OAuthError) as caught:
        cache.get(f"{django.apis}/orders")

    assert ("invalid_client", 401) == (caught.value.error, caught.value.status)
    assert "not the secret" not in repr(caught.value.args)


def test_a_token_for_two_apis_is_not_asked_for(django: DjangoProvider) -> None:
    """
    R8707-10: this server gives one token that is good at both to whoever names both. A request of
    ours names one.
    """
    both = [f"{django.apis}/orders", f"{django.apis}/billing"]
    too_good = django.issue(WORKER, both)
    assert [200, 200] == [
        shown_by_hand(django, too_good, path) for path in ("/orders/7", "/billing/7")
    ]
    django.clear()

    with httpx2.Client(trust_env=False, auth=auth_for(django, "orders", "billing")) as client:
        for url in both:
            client.get(f"{url}/7")

    assert [1, 1] == [len(resources) for resources in resources_asked_for(django)]
    assert set() == tokens_at(django, "orders") & tokens_at(django, "billing")


def test_a_token_for_nothing_in_particular_is_good_everywhere(django: DjangoProvider) -> None:
    """
    P3: without `resource` this server gives a token that every API takes, and nothing shows it.
    Even then we show it to the one API that it was asked for; and R9700-1: one auth object for
    both is an error of the configuration.
    """
    mute = Dialect(name="mute", target={})
    with pytest.raises(ConfigurationError, match="same words"):
        auth_for(django, "orders", "billing", dialect=mute)
    for name in ("orders", "billing"):
        auth = auth_for(django, name, dialect=mute)
        with httpx2.Client(trust_env=False, auth=auth) as client:
            client.get(f"{django.apis}/{name}/7")

    (orders,), (billing,) = tokens_at(django, "orders"), tokens_at(django, "billing")
    assert orders != billing
    assert 200 == shown_by_hand(django, orders, "/billing/7")


def test_whoever_wants_proof_of_the_audience_gets_no_token(django: DjangoProvider) -> None:
    """
    P4, R9068-1: tokens of this server are opaque, so `verify_audience="require"` takes none.
    """
    auth = auth_for(django, "orders", verify_audience="require")
    with (
        httpx2.Client(trust_env=False, auth=auth) as client,
        pytest.raises(AudienceMismatchError, match="opaque"),
    ):
        client.get(f"{django.apis}/orders/7")

    assert [] == django.ledger(django.apis)


@pytest.mark.parametrize("wider", ["/orders", ""])
def test_audiences_are_prefixes_here_and_resources_are_not(
    django: DjangoProvider, wider: str
) -> None:
    """
    P3, R8707-14: these APIs take a token for any URL above their own. An API below another one
    has its own token all the same, and does not see the other's.
    """
    upper, lower = f"{django.apis}{wider}", f"{django.apis}/orders/archive"
    auth = ResourceTokenAuth(
        AuthorizationServer(issuer=django.issuer), CLIENT_AUTH, {upper: upper, lower: lower}
    )
    with httpx2.Client(trust_env=False, auth=auth) as client:
        statuses = [client.get(f"{url}/7").status_code for url in (f"{upper}/orders", lower)]

    assert [200, 200] == statuses
    assert [[upper], [lower]] == resources_asked_for(django)
    above, below = (entry["token"] for entry in django.ledger(django.apis))
    assert above != below
    assert 200 == shown_by_hand(django, above, "/orders/archive/7")
    assert 401 == shown_by_hand(django, below, "/orders/7")


def test_a_name_that_is_no_location_is_an_invalid_target(django: DjangoProvider) -> None:
    """
    R8707-11: RFC 8707 allows `urn:`, this server wants a host.
    """
    cache = TokenCache(AuthorizationServer(issuer=django.issuer), CLIENT_AUTH)
    with pytest.raises(OAuthError, match="urn:example:orders") as caught:
        cache.get("urn:example:orders")

    assert ("invalid_target", 400) == (caught.value.error, caught.value.status)


def test_a_misspelt_identifier_is_noticed_by_the_api_alone(
    caller: Caller, django: DjangoProvider
) -> None:
    """
    P8: this server issues tokens for whatever it is asked. The API refuses such a token, and we
    do not ask for another of the kind at once.
    """
    events: list[TokenEvent] = []
    auth = ResourceTokenAuth(
        AuthorizationServer(issuer=django.issuer),
        CLIENT_AUTH,
        {f"{django.apis}/orders": f"{django.apis}/odrers"},
        on_event=events.append,
    )
    with caller.client(auth=auth) as client:
        response = client.get(f"{django.apis}/orders/7")

    assert 401 == response.status_code
    assert [[f"{django.apis}/odrers"]] == resources_asked_for(django)
    assert "token_rejected" in [event.name for event in events]


def test_a_scope_that_is_missing_is_asked_for_by_name(
    caller: Caller, django: DjangoProvider
) -> None:
    """
    P8, P11, RMCP-9: the 403 goes back, as its challenge does not say what is missing, although
    more is allowed; whoever knows asks for it, in a token of its own.
    """
    events: list[TokenEvent] = []
    auth = auth_for(django, "orders", on_event=events.append, max_scopes="read write")
    with caller.client(auth=auth) as client:
        refused = client.request("POST", f"{django.apis}/orders/7")
        again = client.request("POST", f"{django.apis}/orders/7")
        allowed = client.request("POST", f"{django.apis}/orders/7", auth=auth.scoped("write"))

    assert (403, 403, 200) == (refused.status_code, again.status_code, allowed.status_code)
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    assert 2 == [event.name for event in events].count("insufficient_scope")
    assert 2 == len(resources_asked_for(django))


def test_a_refresh_token_shrinks_to_what_it_was_used_for(django: DjangoProvider) -> None:
    """
    R8707-8: there the refresh token stays bound to the full grant; with this server its successor
    is good for the one resource alone. It says so, and the other is not lost over it.
    """
    orders, billing = f"{django.apis}/orders", f"{django.apis}/billing"
    cache = TokenCache(
        AuthorizationServer(issuer=django.issuer),
        ClientSecretBasic("portal", SECRET),
        grant=RefreshToken(django.refresh_token("portal", [orders, billing])),
    )
    first = cache.get(orders)
    with pytest.raises(OAuthError, match="invalid_target"):
        cache.get(billing)
    second = cache.get(orders, ["read"])

    assert orders == first.resource == second.resource
    assert [[orders], [billing], [orders]] == resources_asked_for(django)
    assert 200 == shown_by_hand(django, second.reveal(), "/orders/7")
    assert 401 == shown_by_hand(django, second.reveal(), "/billing/7")


def learning_auth(django: DjangoProvider, identifier: str, **options: Any) -> ResourceTokenAuth:
    """
    Asks the API itself which server it trusts, and may be told one.
    """
    resource = Resource(identifier, **options)
    resources = ResourceMap({f"{django.apis}/orders": resource}, discover=[django.issuer])
    return ResourceTokenAuth(AuthorizationServer(issuer=django.issuer), CLIENT_AUTH, resources)


def hops(django: DjangoProvider) -> list[tuple[str, bool, int | None]]:
    """
    The path of each request to the APIs, whether a token came with it, and the answer.
    """
    return [(e["path"], e["token"] is not None, e["status"]) for e in django.ledger(django.apis)]


def test_the_whole_way_from_a_refusal_to_the_api(caller: Caller, django: DjangoProvider) -> None:
    """
    R9728-2, R9728-6, R8414-1, RMCP-5, RMCP-8: the API says where tokens are to be had and which
    scopes it knows; when it refuses a token, what it says is read again. No metadata is asked for
    with a token.
    """
    orders = f"{django.apis}/orders"
    auth = learning_auth(django, orders, verify_audience="off", max_scopes="read write")
    with caller.client(auth=auth) as client:
        first = client.request("POST", f"{orders}/7")
        (token,) = tokens_at(django, "orders")
        django.revoke(WORKER, str(token))
        second = client.request("POST", f"{orders}/7")

    assert (200, 200) == (first.status_code, second.status_code)
    described = ("/.well-known/oauth-protected-resource/orders", False, 200)
    assert [
        described,
        ("/orders/7", True, 200),
        ("/orders/7", True, 401),
        described,
        ("/orders/7", True, 200),
    ] == hops(django)
    at_server = [(e["path"], e["form"]) for e in django.ledger(django.issuer)]
    asked = {
        "grant_type": ["client_credentials"],
        "resource": [orders],
        "scope": ["read write"],
    }
    assert ("/.well-known/oauth-authorization-server", {}) == at_server[0]
    assert [asked, asked] == [form for path, form in at_server if path == "/token/"]


def test_what_is_learned_has_to_be_confirmed(django: DjangoProvider) -> None:
    """
    P4: who has learned at run time where to ask wants to be told what the token is for, and this
    server does not say.
    """
    orders = f"{django.apis}/orders"
    auth = learning_auth(django, orders)
    with httpx2.Client(trust_env=False, auth=auth) as client, pytest.raises(AudienceMismatchError):
        client.get(f"{orders}/7")

    assert [("/.well-known/oauth-protected-resource/orders", False, 200)] == hops(django)


def test_metadata_that_drops_a_slash_is_about_another_resource(django: DjangoProvider) -> None:
    """
    R9728-3: this site describes `/orders` at the address of `/orders/`.
    """
    auth = learning_auth(django, f"{django.apis}/orders/", verify_audience="off")
    with (
        httpx2.Client(trust_env=False, auth=auth) as client,
        pytest.raises(TokenRequestError, match="about another one"),
    ):
        client.get(f"{django.apis}/orders/7")

    assert [] == django.ledger(django.issuer)


def test_an_issuer_that_nobody_has_listed_is_not_asked(django: DjangoProvider) -> None:
    """
    R9700-7, RMCP-7: the API names a server that the credential is not from.
    """
    orders = f"{django.apis}/orders"
    with LocalAuthorizationServer(clients={"worker": SECRET}) as ours:
        resources = ResourceMap({orders: orders}, discover=[ours.issuer])
        auth = ResourceTokenAuth(AuthorizationServer(issuer=ours.issuer), CLIENT_AUTH, resources)
        with (
            httpx2.Client(trust_env=False, auth=auth) as client,
            pytest.raises(TokenRequestError, match="names the issuers"),
        ):
            client.get(f"{orders}/7")

        assert () == ours.issued
    assert [] == django.ledger(django.issuer)
