"""
The ledger of the pytest plugin: which token arrived where.
"""

from __future__ import annotations

import httpx
import pytest

from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth
from resource_tokens.pytest_plugin import StartResourceServer
from resource_tokens.testing import (
    LocalAuthorizationServer,
    LocalResourceServer,
    TokenLeak,
    TokenLedger,
)


@pytest.fixture
def gateway(resource_server: StartResourceServer) -> LocalResourceServer:
    return resource_server(audiences={"/billing": "urn:x:billing", "/orders": None})


@pytest.fixture
def token(authorization_server: LocalAuthorizationServer, gateway: LocalResourceServer) -> str:
    """
    A token for billing.
    """
    auth = ResourceTokenAuth(
        AuthorizationServer(issuer=authorization_server.issuer),
        ClientSecretBasic("orders-worker", "secret"),
        resources={f"{gateway.url}billing/": "urn:x:billing"},
    )
    return auth.token_for(f"{gateway.url}billing/").reveal()


def test_a_token_where_it_belongs(
    gateway: LocalResourceServer, token: str, token_ledger: TokenLedger
) -> None:
    """
    A token at the API that it was issued for is no leak, nor is a request without one.
    """
    httpx.get(f"{gateway.url}billing/v1", headers={"Authorization": f"Bearer {token}"})
    httpx.get(f"{gateway.url}orders/v1", headers={"Authorization": "Bearer something-else"})

    assert () == token_ledger.leaks()
    token_ledger.assert_no_leaks()


def test_a_token_elsewhere(
    gateway: LocalResourceServer, token: str, token_ledger: TokenLedger
) -> None:
    """
    A token at another API is a leak, in whatever header or parameter it came; and the error says
    where, and does not hold the token.
    """
    httpx.get(f"{gateway.url}orders/v1", headers={"X-Forwarded-Token": token})
    httpx.post(f"{gateway.url}nowhere?token={token}")

    orders = TokenLeak("GET", f"{gateway.url}orders/v1", ("urn:x:billing",), f"{gateway.url}orders")
    nowhere = TokenLeak("POST", f"{gateway.url}nowhere", ("urn:x:billing",), None)
    assert (orders, nowhere) == token_ledger.leaks()
    with pytest.raises(AssertionError, match="Tokens leaked") as caught:
        token_ledger.assert_no_leaks()
    said = str(caught.value)
    assert "orders/v1 received a token for urn:x:billing, where one for http" in said
    assert "nowhere received a token for urn:x:billing, where there is no API" in said
    assert token not in said


@pytest.mark.parametrize(
    "path",
    [
        "billing/%2e%2e/orders",
        "billing/%252e%252e/orders",
        "billing/..%5corders",
        "billing/..;a=b/orders",
        "billing/%c0%ae%c0%ae%c0%aforders",
        "ORDERS",
        "orders%00/x",
    ],
)
def test_a_path_that_can_be_read_in_two_ways(
    gateway: LocalResourceServer, token: str, token_ledger: TokenLedger, path: str
) -> None:
    """
    A token at a path that some servers read as another API's is a leak: which server is behind a
    gateway, a client does not know.
    """
    httpx.get(gateway.url + path, headers={"Authorization": f"Bearer {token}"})

    assert f"{gateway.url}orders" in [leak.expected for leak in token_ledger.leaks()]


def test_a_token_that_is_good_at_two(
    authorization_server: LocalAuthorizationServer,
    resource_server: StartResourceServer,
    token_ledger: TokenLedger,
) -> None:
    """
    A token belongs wherever its `aud` says, however many these are; and one that the server has
    never issued is none of the ledger's.
    """
    one, two = resource_server(audience="urn:x:one"), resource_server(audience="urn:x:two")
    authorization_server.ignore_resource = True
    authorization_server.resources = {"urn:x:one": [], "urn:x:two": []}
    form = {"grant_type": "client_credentials", "resource": "urn:x:one"}
    answer = httpx.post(
        authorization_server.token_endpoint, data=form, auth=("orders-worker", "secret")
    )
    token = answer.json()["access_token"]
    for server in (one, two):
        httpx.get(server.url, headers={"Authorization": f"Bearer {token}"})

    assert () == token_ledger.leaks()
    claims = authorization_server.claims(token)
    assert claims is not None
    assert ["urn:x:one", "urn:x:two"] == claims["aud"]
    assert authorization_server.claims("something else") is None


def test_opaque_tokens(authorization_server: LocalAuthorizationServer) -> None:
    """
    What an opaque token is for, the server that issued it knows; and a server that was started by
    hand is watched when the ledger is told of it.
    """
    authorization_server.token_format = "opaque"
    ledger = TokenLedger(authorization_server)
    with LocalResourceServer(authorization_server, audience="urn:x:other") as other:
        ledger.watch(other)
        form = {"grant_type": "client_credentials", "resource": "urn:x:one"}
        answer = httpx.post(
            authorization_server.token_endpoint, data=form, auth=("orders-worker", "secret")
        )
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        httpx.get(other.url, headers=headers)

        assert [("urn:x:one",)] == [leak.audience for leak in ledger.leaks()]
