"""
Values: keys, freshness and secrets.
"""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resource_tokens import (
    AccessToken,
    AuthorizationServer,
    ClientCredentials,
    ClientSecretBasic,
    ClientSecretPost,
    Resource,
)
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.tokens import CachedToken, Freshness, Secret, TokenKey

SERVER = AuthorizationServer(issuer="https://login.example.com")
TEXT = "eyJ-a-token-that-nobody-may-see"
TOKEN = AccessToken(
    Secret(TEXT), "urn:x:a", "Bearer", frozenset({"read"}), datetime(2030, 1, 1, tzinfo=UTC)
)


def asked(**changes: Any) -> TokenRequest:
    """
    A token request that differs from the usual one in what is named.
    """
    usual: dict[str, Any] = {
        "server": SERVER,
        "client_auth": ClientSecretBasic("id", "secret"),
        "grant": ClientCredentials(),
        "resource": Resource("urn:x:a"),
        "scopes": frozenset({"a", "b"}),
    }
    return TokenRequest(**usual | changes)


@given(st.lists(st.text()), st.lists(st.text()))
@example(["a", "b"], ["ab"])
@example(["a", ""], ["a"])
@example(["a\0b"], ["a", "b"])
@example(["A"], ["a"])
@example([], [""])
def test_keys_are_equal_only_if_all_parts_are(left: list[str], right: list[str]) -> None:
    """
    P2, C8: no separator, letter case or split makes two lists of parts one key.
    """
    assert (left == right) == (TokenKey.of(left) == TokenKey.of(right))


def test_a_key_shows_a_digest_only() -> None:
    """
    P9: nothing of what went in can be read from a key.
    """
    assert 32 == len(TokenKey.of(["secret"]))
    assert f"TokenKey({TokenKey.of(['secret']).hex()[:12]})" == repr(TokenKey.of(["secret"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"server": AuthorizationServer(issuer="https://login.example.com/")},
        {"server": AuthorizationServer(token_endpoint="https://login.example.com")},
        {
            "server": AuthorizationServer(
                issuer="https://login.example.com", token_endpoint="https://x.example/t"
            )
        },
        {"client_auth": ClientSecretBasic("ID", "secret")},
        {"client_auth": ClientSecretBasic("id", "rotated")},
        {"client_auth": ClientSecretPost("id", "secret")},
        {"resource": Resource("urn:x:A")},
        {"resource": Resource("urn:x:a", extra={"k": "v"})},
        {"resource": Resource("urn:x:a", audience="other")},
        {"resource": Resource("urn:x:a", verify_audience="off")},
        {"scopes": frozenset({"a"})},
        {"scopes": frozenset({"a", "B"})},
        {"scopes": frozenset()},
    ],
    ids=str,
)
def test_whatever_differs_is_another_key(changes: dict[str, Any]) -> None:
    """
    P2, C5, C9: issuer, endpoint, client, method, credential, resource, scopes and parameters.
    """
    assert asked().key != asked(**changes).key
    assert asked(**changes).key == asked(**changes).key


@pytest.mark.parametrize(
    ("lifetime", "draw", "soft", "hard"),
    [
        (3600, 0.0, 3300, 3570),
        (3600, 1.0, 3240, 3570),
        (300, 0.0, 225, 270),
        (300, 1.0, 210, 270),
        (60, 0.0, 45, 54),
        (30, 0.5, 21.75, 27),
        (5, 0.0, 3.75, 4.5),
        (86400, 0.0, 86100, 86370),
    ],
)
def test_windows_scale_with_the_lifetime(
    lifetime: float, draw: float, soft: float, hard: float
) -> None:
    """
    P7, T8, T9: the numbers of the refresh windows, counted from when the request was sent.
    """
    freshness = Freshness.of(timedelta(seconds=lifetime), 1000.0, 0.0, lambda: draw)

    assert (1000.0, 1000 + soft, 1000 + hard) == pytest.approx(
        (freshness.requested_at, freshness.soft_at, freshness.hard_at)
    )


@given(st.floats(0.001, 86400), st.floats(0, 1))
def test_the_soft_window_opens_before_the_hard_margin(lifetime: float, draw: float) -> None:
    """
    P7: whatever the lifetime and the draw, there is time to refresh while the token is good.
    """
    freshness = Freshness.of(timedelta(seconds=lifetime), 0.0, 0.0, lambda: draw)

    assert 0 <= freshness.soft_at <= freshness.hard_at <= lifetime


def test_a_token_does_not_print_itself() -> None:
    """
    P9, L4: not by repr, str, format, asdict or vars; only by name.
    """
    cached = CachedToken(TOKEN, Freshness(0, 1, 2, 0))
    shown = [
        repr(TOKEN),
        str(TOKEN),
        f"{TOKEN}",
        f"{TOKEN!r}",
        repr(asdict(TOKEN)),
        repr(cached),
        repr(asdict(cached)),
        repr(Secret(TEXT)),
        f"{Secret(TEXT)}",
        repr(ClientSecretBasic("id", TEXT)),
        repr(asked(client_auth=ClientSecretPost("id", TEXT))),
        repr(asked(client_auth=ClientSecretPost("id", TEXT)).message("https://x.example/", 0.0)),
    ]

    assert [] == [text for text in shown if TEXT in text]
    assert "urn:x:a" in repr(TOKEN)
    assert "2030" in repr(TOKEN)
    assert TEXT == TOKEN.reveal()
    assert f"Bearer {TEXT}" == TOKEN.authorization


@pytest.mark.parametrize(
    "value",
    [Secret(TEXT), TOKEN, CachedToken(TOKEN, Freshness(0, 1, 2, 0)), ClientSecretBasic("id", TEXT)],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_a_secret_does_not_pickle(value: object) -> None:
    """
    P9, L5: what is pickled can be stored and sent anywhere.
    """
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(value)


def test_a_copied_secret_is_the_same_object() -> None:
    """
    L5: a copy makes no second place where the text lies.
    """
    secret = Secret(TEXT)

    assert copy.copy(secret) is secret
    assert copy.deepcopy({"k": secret})["k"] is secret


def test_secrets_compare_by_their_text() -> None:
    """
    A renewed token is another one if its text is.
    """
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert {Secret("a")} == {Secret("a"), Secret("a")}
    assert replace(TOKEN, _value=Secret("b")) != TOKEN
