"""
Grants: what they present, and what a refresh token remembers of what became of it.
"""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest

from resource_tokens import (
    AudienceMismatchError,
    AuthorizationServer,
    ClientCredentials,
    ClientSecretBasic,
    ConfigurationError,
    OAuthError,
    PublicClient,
    RefreshToken,
    Resource,
    ResourceTokensError,
    TokenRequestError,
)
from resource_tokens.oauth.grants import Grant
from resource_tokens.oauth.messages import HTTPRequest
from resource_tokens.oauth.token_endpoint import TokenRequest, issued_token, settle
from resource_tokens.tokens import Secret
from tests.test_token_endpoint import answer, good, signed
from tests.test_tokens import asked

FIRST, SECOND, THIRD = "rt-1 of ~40 characters+/=", "rt-2", "rt-3"
ENDPOINT = "https://login.example.com/token"


def message(grant: Grant) -> HTTPRequest:
    """
    One request, as whoever sends it makes it.
    """
    grant.begin("urn:x:a")
    return asked(grant=grant).message(ENDPOINT, 0.0)


def presented(grant: Grant) -> str:
    """
    The refresh token that the next request shows.
    """
    return dict(parse_qsl(message(grant).body.decode()))["refresh_token"]


def answered(grant: Grant, body: Any, status: int = 200) -> bool:
    """
    A request, and an answer to it that is handed to the grant as the contract says.
    """
    sent = message(grant).secrets
    request = asked(grant=grant)
    try:
        rotated = settle(answer(body, status), request, sent)
        issued_token(answer(body, status), request, frozenset(), 1_000_000.0, sent)
    except ResourceTokensError as error:
        grant.fail(error, sent)
        raise
    return rotated


def lost(grant: Grant, status: int | None = None) -> None:
    """
    A request whose answer never came, or came broken.
    """
    sent = message(grant).secrets
    grant.fail(TokenRequestError("the connection broke", "urn:x:a", status), sent)


def test_client_credentials_are_for_clients_that_can_keep_a_secret() -> None:
    """
    R6749-7: with a public client it raises before a request exists.
    """
    with pytest.raises(ConfigurationError, match="public client"):
        asked(client_auth=PublicClient("app"))

    assert asked(client_auth=PublicClient("app"), grant=RefreshToken(FIRST)).key


def test_client_credentials_ignore_a_refresh_token() -> None:
    """
    R6749-8, RMCP-14: the next renewal is the same request again, and all such grants are one.
    """
    grant = ClientCredentials()

    assert not answered(grant, good(refresh_token=SECOND))
    assert b"refresh_token" not in message(grant).body
    assert ClientCredentials() == grant != RefreshToken(FIRST)
    assert 1 == len({ClientCredentials(), grant})
    assert "ClientCredentials()" == repr(grant)


def test_a_refresh_token_is_presented_as_the_standard_asks() -> None:
    """
    R6749-16, R8707-6, R6749-3: in the body, with the resource and the scopes, and not in the URL.
    """
    request = message(RefreshToken(FIRST))

    assert [
        ("grant_type", "refresh_token"),
        ("refresh_token", FIRST),
        ("resource", "urn:x:a"),
        ("scope", "a b"),
    ] == parse_qsl(request.body.decode(), strict_parsing=True)
    assert ENDPOINT == request.url
    assert "Authorization" in request.headers


def test_a_new_refresh_token_takes_the_place_of_the_old_one() -> None:
    """
    R6749-17: it is stored before anything that came with it is used, and the key stays the same.
    """
    stored: list[str] = []
    grant = RefreshToken(FIRST, on_rotation=stored.append)
    key, identity = asked(grant=grant).key, asked(grant=grant).identity

    assert answered(grant, good(refresh_token=SECOND))
    assert SECOND == presented(grant)
    assert [SECOND] == stored
    assert (key, identity) == (asked(grant=grant).key, asked(grant=grant).identity)


@pytest.mark.parametrize("member", [None, "", FIRST, 5, ["rt"], "a\nb", "é"])
def test_no_new_refresh_token_leaves_the_old_one(member: Any) -> None:
    """
    RFC 6749 6: absent, empty (Azure's instance metadata), the same, or no refresh token at all.
    """
    stored: list[str] = []
    grant = RefreshToken(FIRST, on_rotation=stored.append)

    assert not answered(grant, good(refresh_token=member))
    assert FIRST == presented(grant)
    assert [] == stored


def test_a_new_refresh_token_counts_even_if_the_access_token_does_not() -> None:
    """
    R6749-17: the server has spent the old one, whatever else is wrong with its answer.
    """
    stored: list[str] = []
    grant = RefreshToken(FIRST, on_rotation=stored.append)

    with pytest.raises(AudienceMismatchError):
        answered(grant, good(access_token=signed(aud="urn:x:b"), refresh_token=SECOND))
    with pytest.raises(TokenRequestError):
        answered(grant, good(token_type="mac", refresh_token=THIRD))
    assert [SECOND, THIRD] == stored
    assert THIRD == presented(grant)


def test_only_an_answer_to_the_refresh_token_of_now_counts() -> None:
    """
    C1, T4: compare-and-swap. A straggler neither replaces a newer refresh token nor ends it.
    """
    grant = RefreshToken(FIRST)
    straggler = message(grant).secrets
    answered(grant, good(refresh_token=SECOND))

    assert not settle(answer(good(refresh_token=THIRD)), asked(grant=grant), straggler)
    grant.fail(OAuthError("no", "urn:x:a", 400, "invalid_grant"), straggler)
    grant.fail(TokenRequestError("lost", "urn:x:a"), straggler)
    assert SECOND == presented(grant)


def test_a_refresh_token_that_cannot_be_stored_is_not_used() -> None:
    """
    T4: persist before use. The call fails; the new one is kept, and offered again before the next
    request. The error does not hold what the callback was given.
    """
    full = True
    stored: list[str] = []

    def store(refresh_token: str) -> None:
        if full:
            raise OSError(refresh_token)
        stored.append(refresh_token)

    grant = RefreshToken(FIRST, on_rotation=store)
    for _ in range(2):
        with pytest.raises(TokenRequestError, match="on_rotation raised OSError") as caught:
            answered(grant, good(refresh_token=SECOND))
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert SECOND not in str(caught.value)
    full = False

    assert SECOND == presented(grant)
    assert [SECOND] == stored
    assert SECOND == presented(grant)
    assert [SECOND] == stored


def test_a_callback_that_would_have_to_be_awaited_is_refused() -> None:
    """
    A coroutine that nobody awaits stores nothing; it is noticed at once, or else when it is called.
    """

    async def store(_: str) -> None: ...

    def starts_to_store(refresh_token: str) -> object:
        return store(refresh_token)

    with pytest.raises(ConfigurationError, match="on_rotation"):
        RefreshToken(FIRST, on_rotation=store)
    grant = RefreshToken(FIRST, on_rotation=starts_to_store)
    with pytest.raises(TokenRequestError, match="something to await"):
        answered(grant, good(refresh_token=SECOND))


def test_invalid_grant_is_the_end() -> None:
    """
    R6749-15: each later call fails at once with the same error, for whichever resource.
    """
    grant = RefreshToken(FIRST)
    refusal = {"error": "invalid_grant", "error_description": "revoked", "error_uri": "https://e/"}

    with pytest.raises(OAuthError):
        answered(grant, refusal, 400)
    for resource in ("urn:x:a", "urn:x:b"):
        with pytest.raises(OAuthError, match=r"has ended.*revoked.*new RefreshToken") as caught:
            grant.begin(resource)
        raised = caught.value
        assert (resource, 400, "invalid_grant", "revoked", "https://e/") == (
            raised.resource,
            raised.status,
            raised.error,
            raised.error_description,
            raised.error_uri,
        )
    assert raised.args == pickle.loads(pickle.dumps(raised)).args


@pytest.mark.parametrize("error", ["invalid_target", "invalid_scope", "temporarily_unavailable"])
def test_another_refusal_is_not_the_end(error: str) -> None:
    """
    R8707-8: that one resource is refused says nothing about the others.
    """
    grant = RefreshToken(FIRST)

    with pytest.raises(OAuthError):
        answered(grant, {"error": error}, 400)
    assert FIRST == presented(grant)


LOSSES: list[Callable[[Grant], None]] = [
    lost,
    lambda grant: lost(grant, 502),
    lambda grant: lost(grant, 200),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_refresh_whose_answer_was_lost_is_not_repeated(loss: Callable[[Grant], None]) -> None:
    """
    T5: the server may have replaced the refresh token; nothing is sent until the owner decides.
    """
    grant = RefreshToken(FIRST)
    loss(grant)

    for _ in range(2):
        with pytest.raises(TokenRequestError, match=r"retry\(\)") as caught:
            grant.begin("urn:x:a")
    assert "urn:x:a" == caught.value.resource
    grant.retry()
    assert FIRST == presented(grant)


@pytest.mark.parametrize("status", [302, 400, 404, 429, 503])
def test_a_server_that_answered_has_replaced_nothing(status: int) -> None:
    """
    T5: an answer that says no is not a lost one.
    """
    grant = RefreshToken(FIRST)
    lost(grant, status)

    assert FIRST == presented(grant)


def test_a_refresh_token_that_may_be_used_twice_may_be_sent_twice() -> None:
    """
    T5: because its owner says so, or because the server has just shown that it keeps it.
    """
    told, seen = RefreshToken(FIRST, reusable=True), RefreshToken(FIRST)
    answered(seen, good())

    for grant in (told, seen):
        lost(grant)
        assert FIRST == presented(grant)
    answered(seen, good(refresh_token=SECOND))
    lost(seen)
    with pytest.raises(TokenRequestError, match=r"retry\(\)"):
        seen.begin("urn:x:a")


def test_an_answer_that_comes_after_all_ends_the_doubt() -> None:
    """
    Whoever waited may have given up before the answer came.
    """
    grant = RefreshToken(FIRST)
    sent = message(grant).secrets
    grant.fail(TokenRequestError("given up", "urn:x:a"), sent)

    assert settle(answer(good(refresh_token=SECOND)), asked(grant=grant), sent)
    assert SECOND == presented(grant)


def test_no_wider_scope_than_was_granted() -> None:
    """
    R6749-16: refused here, if what was granted is known.
    """
    grant = RefreshToken(FIRST, scopes="a c")

    assert asked(grant=grant, scopes=frozenset("a")).key
    with pytest.raises(ConfigurationError, match="'b'"):
        asked(grant=grant)
    assert asked(grant=RefreshToken(FIRST)).key


def test_a_refresh_token_goes_to_no_other_server() -> None:
    """
    R6749-20, R9700-7: a resource with a server of its own cannot be asked for by it.
    """
    other = Resource(
        "urn:x:a",
        server=AuthorizationServer(issuer="https://other.example.com"),
        client_auth=ClientSecretBasic("i", "s"),
    )

    assert asked(resource=other).key
    with pytest.raises(ConfigurationError, match="issued by another"):
        asked(resource=other, grant=RefreshToken(FIRST))


def test_what_a_grant_sends_is_no_extra_parameter() -> None:
    """
    R6749-5: nor is there a way around storing a refresh token.
    """
    for name in ("refresh_token", "assertion", "grant_type"):
        with pytest.raises(ConfigurationError, match=name):
            Resource("urn:x:a", extra={name: "x"})


def test_two_grants_have_two_keys() -> None:
    """
    P2, R9700-8: what one user's refresh token brought is never another's.
    """
    one, other = RefreshToken(FIRST), RefreshToken(SECOND)

    assert 3 == len({asked(grant=g).key for g in (ClientCredentials(), one, other)})
    assert 3 == len({asked(grant=g).identity for g in (ClientCredentials(), one, other)})
    assert asked(grant=one).key == asked(grant=RefreshToken(FIRST)).key


@pytest.mark.parametrize(
    ("token", "options"),
    [
        ("", {}),
        (None, {}),
        ("secret-é", {}),
        ("secret-\n", {}),
        (FIRST, {"on_rotation": 5}),
        (FIRST, {"reusable": "yes"}),
        (FIRST, {"scopes": 'a"b'}),
    ],
)
def test_what_cannot_be_is_noticed_at_once(token: Any, options: dict[str, Any]) -> None:
    """
    A ConfigurationError that shows neither the value nor, in its frames, the refresh token.
    """
    with pytest.raises(ConfigurationError) as caught:
        RefreshToken(token, **options)

    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in frames.stack if frame.filename.endswith("oauth/grants.py")]
    assert ours
    assert "secret-" not in str(caught.value)
    assert not any("secret-" in value for frame in ours for value in (frame.locals or {}).values())


def test_a_refresh_token_shows_itself_nowhere() -> None:
    """
    P9: not in repr, str or pickle; a server that repeats it is not repeated; a copy is the same
    object, or it would go on with what the original has spent.
    """
    grant = RefreshToken(FIRST)
    sent = message(grant)

    assert FIRST not in f"{grant!r}{grant}{sent!r}{asked(grant=grant)!r}"
    assert copy.copy(grant) is grant is copy.deepcopy(grant)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(grant)
    for echo in (FIRST, "rt-1+of+~40+characters%2B%2F%3D"):
        with pytest.raises(OAuthError) as caught:
            answered(RefreshToken(FIRST), {"error": "x", "error_description": f"<{echo}>"}, 400)
        assert "<[secret]>" == caught.value.error_description


def test_a_grant_without_a_state_needs_only_a_fingerprint() -> None:
    """
    A grant of one's own is a name, what presents it, and whose it is.
    """

    class Own(Grant):
        grant_type = "urn:example:own"

        def parameters(self) -> tuple[tuple[str, str | Secret], ...]:
            return (("assertion", Secret("s3cret")), ("kind", "b"))

        def fingerprint(self) -> bytes:
            return b"own"

    grant = Own()
    request = TokenRequest(
        AuthorizationServer(issuer="https://login.example.com"),
        PublicClient("app"),
        grant,
        Resource("urn:x:a"),
        frozenset(),
    )
    sent = request.message(ENDPOINT, 0.0)

    assert (
        b"grant_type=urn%3Aexample%3Aown&assertion=s3cret&kind=b&resource=urn%3Ax%3Aa&client_id=app"
        == sent.body
    )
    assert Secret("s3cret") in sent.secrets
    assert not settle(answer(good(refresh_token=SECOND)), request, sent.secrets)
    lost(grant)
    grant.begin("urn:x:a")
