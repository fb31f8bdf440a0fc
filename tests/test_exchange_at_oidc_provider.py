"""
On behalf of users at node-oidc-provider, with APIs that verify what they are shown: token exchange,
and an ID-JAG that one issuer writes for the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    JwtBearer,
    OAuthError,
    Resource,
    ResourceTokenAuth,
    SubjectToken,
    TokenEvent,
    TokenExchange,
)
from tests.conftest import Caller
from tests.servers.apis import LedgerApi
from tests.servers.oidc_provider import OidcProvider
from tests.servers.oidc_provider.clients import SECRET, registered
from tests.test_oidc_provider import BOTH

ORDERS, PARTNER = "https://orders.example.com/api", "urn:example:partner"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    known: Any = {ORDERS: {"scopes": ["orders:read"]}, PARTNER: {"scopes": ["read"]}}
    clients = [client for client in registered() if client["client_id"].startswith("middle")]
    with OidcProvider({"clients": clients, "resources": known}) as running:
        yield running


class Middle:
    """
    A service that is called by users; an API of its own issuer, and one of another.
    """

    def __init__(self, provider: OidcProvider, stack: ExitStack) -> None:
        provider.clear()
        self.provider = provider
        other = provider.issuer_with_a_path
        self.orders = stack.enter_context(
            LedgerApi(ORDERS, issuer=provider.issuer, jwks_uri=provider.jwks_uri)
        )
        self.partner = stack.enter_context(
            LedgerApi(PARTNER, issuer=other, jwks_uri=f"{other}/jwks")
        )
        self.events: list[TokenEvent] = []
        self.auth = ResourceTokenAuth(
            AuthorizationServer(issuer=provider.issuer, dialect="node-oidc-provider"),
            ClientSecretBasic("middle", SECRET),
            resources={
                f"{self.orders.url}/": Resource(ORDERS, scopes=["orders:read"], subject="required"),
                f"{self.partner.url}/": Resource(
                    PARTNER,
                    subject="required",
                    server=AuthorizationServer(issuer=other, dialect="node-oidc-provider"),
                    client_auth=ClientSecretBasic("middle elsewhere", SECRET),
                    exchange=JwtBearer(first=TokenExchange(requested_token_type="id-jag")),
                ),
            },
            on_event=self.events.append,
        )

    def user(self, name: str) -> SubjectToken:
        token = self.provider.user_token(name, "middle")
        claims = jwt.decode(token, options={"verify_signature": False})
        return SubjectToken(
            token,
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            issuer=claims["iss"],
            subject=claims["sub"],
        )


@pytest.fixture
def middle(provider: OidcProvider) -> Iterator[Middle]:
    with ExitStack() as stack:
        yield Middle(provider, stack)


def about(api: Any) -> list[tuple[str, str]]:
    """
    Whom the tokens are about that an API has let in, and who asked for them.
    """
    seen = [jwt.decode(t, options={"verify_signature": False}) for t in api.tokens_seen()]
    return [(claims["sub"], claims["client_id"]) for claims in seen]


def test_a_token_is_exchanged(caller: Caller, middle: Middle) -> None:
    """
    R8693-1: users and a service that acts for them, at an API that verifies the result.
    """
    alice, bob = middle.user("alice"), middle.user("bob")
    with caller.client() as client:
        for user in (alice, bob, alice):
            view = middle.auth.on_behalf_of(user)
            assert 200 == client.get(f"{middle.orders.url}/v1", auth=view).status_code

    assert [("alice", "middle"), ("bob", "middle")] == about(middle.orders)
    entries = middle.provider.ledger()
    assert [[ORDERS]] * 2 == [entry["form"]["resource"] for entry in entries]
    assert {"middle"} == {entry["client_id"] for entry in entries}


def test_an_api_behind_another_issuer(caller: Caller, middle: Middle) -> None:
    """
    RIDJAG-1, RIDJAG-2, RCHAIN-1: the first issuer is asked for the second by `audience`, and the
    second for the API; each sees the client that is registered with it. The assertion is kept, for
    other scopes too, and no API sees it.
    """
    alice = middle.user("alice")
    with caller.client() as client:
        for scopes in ((), ("read",), ()):
            view = middle.auth.scoped(*scopes) if scopes else middle.auth
            answer = client.get(f"{middle.partner.url}/v1", auth=view.on_behalf_of(alice))
            assert 200 == answer.status_code

    assert [("alice", "middle elsewhere")] * 2 == about(middle.partner)
    first, second, third = middle.provider.ledger()
    other = middle.provider.issuer_with_a_path
    assert ("middle", middle.provider.issuer) == (first["client_id"], first["issuer"])
    assert ([other], [ID_JAG]) == (
        first["form"]["audience"],
        first["form"]["requested_token_type"],
    )
    assert "resource" not in first["form"]
    for entry in (second, third):
        assert ("middle elsewhere", other) == (entry["client_id"], entry["issuer"])
        assert [PARTNER] == entry["form"]["resource"]


@BOTH
def test_a_user_who_has_logged_out(caller: Caller, middle: Middle) -> None:
    """
    The server's refusal reaches the caller, is remembered for that user, and is nothing to others.
    """
    dave, erin = middle.user("dave"), middle.user("erin")
    middle.provider.log_out("dave")
    with caller.client() as client:
        for _ in range(2):
            with pytest.raises(OAuthError) as caught:
                client.get(f"{middle.orders.url}/v1", auth=middle.auth.on_behalf_of(dave))
            assert "invalid_grant" == caught.value.error
        answer = client.get(f"{middle.orders.url}/v1", auth=middle.auth.on_behalf_of(erin))

    assert 200 == answer.status_code
    assert 2 == len(middle.provider.ledger())


@BOTH
def test_nothing_outlives_the_users_token(caller: Caller, middle: Middle) -> None:
    """
    R8693-8: the token that came back lives longer than it may be used.
    """
    alice = middle.user("alice")
    soon = SubjectToken(alice.token.reveal(), expires_at=datetime.now(UTC) + timedelta(seconds=90))
    token = caller.token_for(middle.auth.on_behalf_of(soon), f"{middle.orders.url}/v1")
    claims = jwt.decode(token.reveal(), options={"verify_signature": False})

    assert soon.expires_at == pytest.approx(token.expires_at.timestamp())
    assert claims["exp"] > token.expires_at.timestamp() + 300
