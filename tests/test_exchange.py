"""
Asking on behalf of somebody (RFC 8693, RFC 7523 2.1): what is sent, and under which key it is kept.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest

from resource_tokens import (
    ClientCredentials,
    ConfigurationError,
    JwtBearer,
    SubjectToken,
    TokenExchange,
    TokenRequestError,
)
from resource_tokens.oauth.exchange import Exchange
from resource_tokens.oauth.token_endpoint import TokenRequest, issued_token
from tests.test_token_endpoint import answer, good
from tests.test_tokens import TOKEN, asked

ALICE = SubjectToken("alice-token", expires_at=datetime.fromtimestamp(2_000, UTC))
BOB = SubjectToken("bob-token")
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


def on_behalf_of(
    subject: SubjectToken, exchange: Exchange | None = None, **changes: Any
) -> TokenRequest:
    grant = (exchange or TokenExchange()).on_behalf_of(subject)
    return asked(grant=grant, **changes)


def body(request: TokenRequest) -> dict[str, str]:
    return dict(parse_qsl(request.message("https://x.test", 0.0).body.decode()))


def test_a_token_exchange() -> None:
    """
    R8693-1, R8693-3, R8707-6, R8693-7: the golden body; what is not set is not sent (R8693-4).
    """
    assert {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "alice-token",
        "subject_token_type": ACCESS_TOKEN,
        "resource": "urn:x:a",
        "scope": "a b",
    } == body(on_behalf_of(ALICE))


def test_a_token_exchange_with_an_actor() -> None:
    """
    R8693-2, R8693-4: types by their short names or as URIs.
    """
    exchange = TokenExchange(
        subject_token_type="id_token",
        actor_token="actor-token",
        actor_token_type="urn:example:own",
        requested_token_type="access_token",
    )
    sent = body(on_behalf_of(ALICE, exchange))

    assert "urn:ietf:params:oauth:token-type:id_token" == sent["subject_token_type"]
    assert ("actor-token", "urn:example:own") == (sent["actor_token"], sent["actor_token_type"])
    assert ACCESS_TOKEN == sent["requested_token_type"]
    assert "actor-token" not in repr((exchange, on_behalf_of(ALICE, exchange)))


def test_a_jwt_as_a_grant() -> None:
    """
    R7523-8, and Entra ID's form of it.
    """
    plain, entra = JwtBearer(), JwtBearer(requested_token_use="on_behalf_of")

    assert {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": "alice-token",
        "resource": "urn:x:a",
        "scope": "a b",
    } == body(on_behalf_of(ALICE, plain))
    assert "on_behalf_of" == body(on_behalf_of(ALICE, entra))["requested_token_use"]
    assert "JwtBearer(requested_token_use='on_behalf_of')" == repr(entra)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TokenExchange(actor_token="t"), "go together"),
        (lambda: TokenExchange(actor_token_type="jwt"), "go together"),
        (lambda: TokenExchange(subject_token_type="bearer"), "no token type"),
        (lambda: JwtBearer(requested_token_use="obo"), "use 'on_behalf_of'"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, words: str) -> None:
    """
    R8693-2: at construction.
    """
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_each_subject_has_keys_of_its_own() -> None:
    """
    R8693-9, P2: subject, actor and kinds are all in the key, and in what a token is for.
    """
    requests = [
        asked(),
        on_behalf_of(ALICE),
        on_behalf_of(BOB),
        on_behalf_of(ALICE, JwtBearer()),
        on_behalf_of(ALICE, JwtBearer(requested_token_use="on_behalf_of")),
        on_behalf_of(ALICE, TokenExchange(subject_token_type="jwt")),
        on_behalf_of(ALICE, TokenExchange(actor_token="x", actor_token_type="jwt")),
        on_behalf_of(ALICE, TokenExchange(actor_token="y", actor_token_type="jwt")),
    ]

    assert len(requests) == len({request.key for request in requests})
    assert len(requests) == len({request.identity for request in requests})
    assert on_behalf_of(ALICE).key == on_behalf_of(ALICE).key


def test_a_subject_does_not_print_itself() -> None:
    """
    P9: neither it nor the grant nor the request; and an echo of it is no part of an error.
    """
    request = on_behalf_of(ALICE)
    message = request.message("https://x.test", 0.0)

    assert "alice" not in repr((ALICE, request, message, request.grant, TokenExchange()))
    assert "alice-token" in [secret.reveal() for secret in message.secrets]


def test_nothing_outlives_the_subject_token() -> None:
    """
    R8693-8: the shorter life counts; without a known end, the server's.
    """
    lives = {
        subject: issued_token(answer(good()), on_behalf_of(subject), frozenset(), 1500.0)
        for subject in (ALICE, BOB)
    }

    assert 500 == lives[ALICE].lifetime.total_seconds()
    assert 2_000.0 == lives[ALICE].token.expires_at.timestamp()
    assert 3600 == lives[BOB].lifetime.total_seconds()


def test_an_expired_subject_is_not_presented() -> None:
    """
    R8693-8: said before anything is sent.
    """
    with pytest.raises(TokenRequestError, match="has expired"):
        on_behalf_of(ALICE).message("https://x.test", 2_000.0)


def test_other_grants_present_what_they_have() -> None:
    """
    Nothing has to be asked for before, so an answer to that changes nothing.
    """
    grant = ClientCredentials()

    assert grant.first is None
    assert grant is grant.presenting(TOKEN)


def test_a_subject_token_goes_to_one_server_only() -> None:
    """
    R9700-7, RMCP-3: what was issued for this service is not handed to another's server.
    """
    assert not TokenExchange().on_behalf_of(ALICE).portable
