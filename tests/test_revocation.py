"""
The kill switch: nobody uses a token any more, and then it is revoked (RFC 7009).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import httpx2
import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ClientSecretPost,
    ConfigurationError,
    OAuthError,
    PrivateKeyJwt,
    PublicClient,
    RefreshToken,
    Resource,
    ResourceTokenAuth,
    ResourceTokensError,
    SharedRefreshToken,
    TokenCache,
)
from resource_tokens.files import FileTokenStore
from resource_tokens.oauth.grants import ClientCredentials
from resource_tokens.oauth.messages import HTTPAnswer
from resource_tokens.oauth.revocation import Revocation, in_no_name
from resource_tokens.testing import LocalAuthorizationServer
from resource_tokens.tokens import Secret
from tests.conftest import BILLING, CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, World
from tests.servers.oidc_provider import OidcProvider
from tests.servers.oidc_provider.clients import SECRET, private_key, registered
from tests.servers.oidc_provider.introspecting import IntrospectingApi
from tests.test_files import Away, child, line_of, tell
from tests.test_forgotten_subjects import WORKER
from tests.test_on_behalf_of import user
from tests.test_store_contract import KEY
from tests.test_tokens import asked

OPAQUE = "urn:example:opaque"


# A colour of each kind, where all six would say the same at some length.
BOTH = pytest.mark.parametrize(
    "caller",
    [(httpx2, "sync"), (httpx, "trio")],
    ids=["httpx2-sync", "httpx-trio"],
    indirect=True,
)


def revoke_all(caller: Caller, cache: TokenCache) -> Any:
    return caller.call(cache.revoke_all if caller.blocking else cache.arevoke_all)


def sent_to(server: LocalAuthorizationServer) -> list[dict[str, str]]:
    """
    The forms that came to the revocation endpoint.
    """
    bodies = [r.body.decode() for r in server.requests if r.target == "/revoke"]
    return [{name: value for name, (value,) in parse_qs(body).items()} for body in bodies]


def test_all_tokens_are_revoked_and_none_is_presented(caller: Caller, world: World) -> None:
    """
    R7009-1: with the client's own authentication; the APIs refuse them, and the next request has
    another token.
    """
    auth = world.auth()
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        client.get(world.billing.url, auth=auth.scoped("a"))
        first = world.server.issued

        assert 2 == revoke_all(caller, auth.cache)
        statuses = [
            client.get(api.url, auth=None, headers={"Authorization": f"Bearer {token}"}).status_code
            for api, token in zip((world.orders, world.billing), first, strict=True)
        ]
        assert [401, 401] == statuses
        assert 200 == client.get(world.orders.url).status_code
    assert sorted(first) == sorted(form["token"] for form in sent_to(world.server))
    assert {"access_token"} == {form["token_type_hint"] for form in sent_to(world.server)}
    assert 2 == world.event_names().count("token_revoked")
    assert 3 == len(world.server.issued)
    assert 0 == revoke_all(caller, world.auth().cache)


def test_they_are_dropped_before_they_are_revoked(world: World, tmp_path: Path) -> None:
    """
    R7009-1: here and for the fleet. Another process does not present one that the server is being
    told of, and one without any finds the token that was left.
    """
    store = FileTokenStore(tmp_path / "state", keys=KEY)
    world.auth(store=store).cache.get(ORDERS)
    seen: list[Any] = []

    def look(event: Any) -> None:
        if event.name == "token_revoked":
            seen.append((len(cache._acquirer._memory), store.news([ORDERS]).generations[0].of_all))

    cache = world.auth(store=store, on_event=look).cache
    assert 1 == cache.revoke_all()
    assert [(0, 1)] == seen
    assert world.server.is_revoked(world.server.issued[0])


@pytest.mark.parametrize("ended", [False, True])
def test_what_others_have_left_is_revoked_on_whosever_behalf(
    world: World, tmp_path: Path, ended: bool
) -> None:
    """
    R7009-1: the switch can be in a handler that is called by a user, or in a task that outlives
    it. What others have left is the service's own all the same.
    """
    store = FileTokenStore(tmp_path / "state", keys=KEY)
    left = world.auth(store=store).cache.get(ORDERS)
    auth = world.auth(store=store)
    with auth.on_behalf_of(user(world, "alice")):
        inside = copy_context()
        revoked = 0 if ended else inside.run(auth.cache.revoke_all)
    revoked += inside.run(auth.cache.revoke_all)

    assert 1 == revoked
    assert [left.reveal()] == [form["token"] for form in sent_to(world.server)]


def test_what_could_not_be_revoked_is_raised_after_all_was_tried(
    caller: Caller, world: World
) -> None:
    """
    P11: each with its resource and why; no token in it.
    """
    auth = world.auth()
    for url in (world.orders.url, world.billing.url):
        caller.token_for(auth, url)
    refused = b'{"error": "unsupported_token_type", "error_description": "no JWT, no %s"}'
    body = refused % world.server.issued[0].encode()
    world.server.respond("/revoke", 400, {"Content-Type": "application/json"}, body, times=1)

    with pytest.raises(ExceptionGroup, match="1 tokens could not be revoked") as caught:
        revoke_all(caller, auth.cache)
    (error,) = caught.value.exceptions
    assert isinstance(error, OAuthError)
    assert ("unsupported_token_type", 400) == (error.error, error.status)
    assert "until it expires" in str(error)
    assert not [token for token in world.server.issued if token in repr(error)]
    assert sorted(["token_revoked", "revocation_failed"]) == sorted(world.event_names()[-2:])
    assert 2 == len(sent_to(world.server))


def test_a_server_that_is_busy_is_asked_again(world: World) -> None:
    """
    R7009-2: after 503 the token still exists; `Retry-After` is obeyed, and a lost answer is no
    reason to leave it.
    """
    cache = world.auth().cache
    cache.get(ORDERS)
    world.server.respond("/revoke", 503, {"Retry-After": "0"}, times=2)

    assert 1 == cache.revoke_all()
    assert 3 == len(sent_to(world.server))
    assert 2 == world.event_names().count("token_request_retried")


def test_a_server_that_stays_busy_has_not_revoked(world: World) -> None:
    """
    R7009-2: that is said.
    """
    cache = world.auth().cache
    cache.get(ORDERS)
    world.server.respond("/revoke", 503)

    with pytest.raises(ExceptionGroup) as caught:
        cache.revoke_all()
    assert "answered 503" in str(caught.value.exceptions[0])


def test_a_server_that_is_away_has_not_revoked(world: World) -> None:
    """
    The tokens are gone here all the same.
    """
    cache = world.auth().cache
    cache.get(ORDERS)
    world.server.stop()

    with pytest.raises(ExceptionGroup) as caught:
        cache.revoke_all()
    words = str(caught.value.exceptions[0])
    assert "could not be revoked at" in words
    assert "No token for" not in words
    assert 0 == len(cache._acquirer._memory)


@pytest.mark.parametrize("known", ["token_endpoint", "revocation_endpoint", "issuer"])
def test_where_a_token_is_revoked(server: LocalAuthorizationServer, known: str) -> None:
    """
    Where it was configured, or where the metadata says; nowhere else is one guessed.
    """
    endpoints: dict[str, Any] = {"token_endpoint": server.token_endpoint}
    if known != "token_endpoint":
        endpoints[known] = getattr(server, known)
    cache = TokenCache(AuthorizationServer(**endpoints), ClientSecretPost(CLIENT_ID, CLIENT_SECRET))
    cache.get(ORDERS)

    if known == "token_endpoint":
        with pytest.raises(ExceptionGroup) as caught:
            cache.revoke_all()
        assert "AuthorizationServer(revocation_endpoint=...)" in str(caught.value.exceptions[0])
    else:
        assert 1 == cache.revoke_all()
        assert CLIENT_ID == sent_to(server)[0]["client_id"]


@pytest.mark.parametrize("url", ["http://login.example.com/revoke", "/revoke", "https://x/#y"])
def test_a_revocation_endpoint_is_a_secure_url(url: str) -> None:
    """
    Tokens and credentials go there.
    """
    with pytest.raises(ConfigurationError, match="revocation endpoint"):
        AuthorizationServer(issuer="https://login.example.com", revocation_endpoint=url)


def test_a_redirect_is_not_followed(world: World) -> None:
    """
    It would take token and credentials along.
    """
    cache = world.auth().cache
    cache.get(ORDERS)
    world.server.redirect("/revoke", world.sink.url)

    with pytest.raises(ExceptionGroup) as caught:
        cache.revoke_all()
    assert "redirect" in str(caught.value.exceptions[0])
    assert [] == world.sink.seen


def test_others_that_cannot_be_told_are_an_error(world: World, tmp_path: Path) -> None:
    """
    P11: the tokens are revoked all the same.
    """
    store: Any = Away(FileTokenStore(tmp_path / "state", keys=KEY))
    cache = world.auth(store=store).cache
    cache.get(ORDERS)
    store.away = {"forget"}

    with pytest.raises(ExceptionGroup) as caught:
        cache.revoke_all()
    assert "other processes go on" in str(caught.value.exceptions[0])
    assert world.server.is_revoked(world.server.issued[0])


def test_what_is_kept_for_it_holds_nothing_of_the_grant() -> None:
    """
    P9: a subject token or a refresh token is not kept for as long as what it has brought.
    """
    request = asked(server=AuthorizationServer(issuer="https://x"), grant=RefreshToken("a-refresh"))
    bare = in_no_name(request)

    assert (b"", ()) == (bare.grant.fingerprint(), bare.grant.parameters())
    assert request.key == bare.key


@pytest.mark.parametrize("body", [b"", b"[]", b"junk", b'{"error": 5}', b'{"error": "x"}'])
def test_an_answer_is_judged_by_its_status(body: bytes) -> None:
    """
    R7009-1: 200 with whatever body is done, and anything else is not.
    """
    request = asked(server=AuthorizationServer(issuer="https://x"), grant=ClientCredentials())
    revocation = Revocation(in_no_name(request), Secret("a-token"), "access_token")
    revocation.check(HTTPAnswer(200, {}, body), ())

    for status in (204, 400, 401, 404, 500):
        with pytest.raises(ResourceTokensError, match="could not be revoked"):
            revocation.check(HTTPAnswer(status, {}, body), ())
    assert "a-token" not in repr(revocation)


# The refresh token.


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with OidcProvider(
        {
            "clients": registered(),
            "resources": {
                OPAQUE: {"scopes": ["read"], "format": "opaque"},
                ORDERS: {"scopes": ["read"]},
            },
        }
    ) as running:
        yield running


@BOTH
@pytest.mark.parametrize(
    "client_auth",
    [
        ClientSecretBasic("client_secret_basic", SECRET),
        PrivateKeyJwt("private_key_jwt ES256", private_key("ES256")),
    ],
    ids=lambda client_auth: client_auth.method,
)
def test_a_real_server_has_revoked_it(
    caller: Caller, provider: OidcProvider, client_auth: Any
) -> None:
    """
    R7009-1, R7523-7: introspection says that it is not active, and the API refuses it.
    """
    with IntrospectingApi(
        OPAQUE, provider=provider, client_id="agent", client_secret=SECRET
    ) as api:
        server = AuthorizationServer(issuer=provider.issuer)
        auth = ResourceTokenAuth(server, client_auth, {api.url: OPAQUE})
        with caller.client(auth=auth) as client:
            client.get(api.url)
            (token,) = api.tokens_seen()
            assert provider.introspected(token, "agent", SECRET)["active"]

            assert 1 == revoke_all(caller, auth.cache)
            copied = {"Authorization": f"Bearer {token}"}
            assert 401 == client.get(api.url, auth=None, headers=copied).status_code
            assert not provider.introspected(token, "agent", SECRET)["active"]
            assert 200 == client.get(api.url).status_code


def test_a_token_that_a_server_cannot_revoke_is_named(provider: OidcProvider) -> None:
    """
    P11: this one keeps no record of its JWTs, and says so.
    """
    cache = TokenCache(
        AuthorizationServer(issuer=provider.issuer),
        ClientSecretBasic("client_secret_basic", SECRET),
    )
    for resource in (OPAQUE, ORDERS):
        cache.get(resource)

    with pytest.raises(ExceptionGroup) as caught:
        cache.revoke_all()
    assert [ORDERS] == [getattr(error, "resource", "") for error in caught.value.exceptions]


@BOTH
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "client_auth", [ClientSecretBasic("agent", SECRET), PublicClient("none")], ids=["agent", "none"]
)
def test_a_refresh_token_is_given_up_and_revoked(
    caller: Caller, provider: OidcProvider, tmp_path: Path, client_auth: Any, shared: bool
) -> None:
    """
    R7009-1: with everything that was got with it; nothing is asked for with it any more, by any
    process that shares it.
    """
    first = provider.refresh_token(client_auth.client_id, {OPAQUE: "read"})
    store = FileTokenStore(tmp_path / "state", keys=KEY)

    def cache() -> TokenCache:
        grant = SharedRefreshToken(first, store) if shared else RefreshToken(first)
        return TokenCache(AuthorizationServer(issuer=provider.issuer), client_auth, grant=grant)

    one, two = cache(), cache()
    token = caller.token(one, OPAQUE)
    latest = one._grant.parameters()[0][1]
    assert isinstance(latest, Secret)
    provider.clear()

    assert 2 == revoke_all(caller, one)
    for text in (token.reveal(), latest.reveal()):
        assert not provider.introspected(text, "agent", SECRET)["active"]
    for each in (one, two) if shared else (one,):
        with pytest.raises(OAuthError, match="given up"):
            caller.token(each, OPAQUE)
    assert [] == provider.ledger()


def test_the_refresh_token_that_others_have_left_is_given_up(tmp_path: Path) -> None:
    """
    By a process that has presented none; and one that is at it does not bring it back.
    """
    store = FileTokenStore(tmp_path / "state", keys=KEY)
    one, other = SharedRefreshToken("first", store), SharedRefreshToken("first", store)
    one.begin(ORDERS)
    one.accept(Secret("second"), (Secret("first"),), ORDERS)
    assert "second" == SharedRefreshToken("first", store).give_up().reveal()
    one.end()

    other._seen = None
    for grant in (one, other):
        with pytest.raises(OAuthError, match="given up"):
            grant.begin(ORDERS)
        grant.end()


def test_a_refresh_token_is_given_up_without_its_store(tmp_path: Path) -> None:
    """
    Here it is at an end in any case; the others hear of it from the server.
    """
    store: Any = Away(FileTokenStore(tmp_path / "state", keys=KEY))
    grant, other = SharedRefreshToken("first", store), SharedRefreshToken("first", store.store)
    store.away = {"load_grant", "swap_grant"}
    assert "first" == grant.give_up().reveal()

    store.away = set()
    other.begin(ORDERS)
    other.accept(Secret("second"), (Secret("first"),), ORDERS)
    other.end()
    with pytest.raises(OAuthError, match="given up"):
        grant.begin(ORDERS)
    grant.end()


def test_a_store_that_hangs_does_not_keep_it_from_the_rest(world: World) -> None:
    """
    P11: what could not be given up in time is said, and all else is done.
    """

    class Hanging(ClientCredentials):
        def give_up(self) -> Secret | None:
            raise TimeoutError

    cache = world.auth(grant=Hanging()).cache
    cache.get(ORDERS)
    with pytest.raises(ExceptionGroup) as caught:
        cache.revoke_all()

    assert "Call revoke_all() again" in str(caught.value.exceptions[0])
    assert world.server.is_revoked(world.server.issued[0])


def test_a_credential_that_is_gone_is_said(world: World, tmp_path: Path) -> None:
    """
    P11: nothing can be revoked without it; the tokens are dropped all the same.
    """
    secret = tmp_path / "secret"
    secret.write_text(CLIENT_SECRET)
    cache = TokenCache(
        world.authorization_server,
        ClientSecretBasic(CLIENT_ID, secret),
        resources=[world.orders.url, Resource(world.billing.url, subject="required")],
        grant=RefreshToken("a-refresh-token"),
    )
    secret.unlink()

    with pytest.raises(ExceptionGroup, match="could not be revoked") as caught:
        cache.revoke_all()
    assert "cannot be read" in str(caught.value.exceptions[0])


# Forgetting, across processes.


@pytest.mark.parametrize("how", [f"forget {ORDERS}", "forget", "revoke"])
def test_it_reaches_another_process_within_ten_seconds(
    server: LocalAuthorizationServer, tmp_path: Path, how: str
) -> None:
    """
    That is the stated time for one that presents tokens all the while or none: it looks every five
    seconds, or at once after ten.
    """
    arguments = (server.issuer, CLIENT_SECRET, tmp_path / "state", KEY)
    with child(WORKER, *arguments) as one, child(WORKER, *arguments) as two:

        def told(process: Any, command: str, argument: str = "") -> str:
            tell(
                process,
                f"{command} - {argument}" if command == "wait" else f"{command} - |{argument}",
            )
            return line_of(process)

        first = [told(process, "get", ORDERS) for process in (one, two)]
        other = told(two, "get", BILLING)
        told(one, *how.split())
        told(two, "wait", "10")
        second = told(two, "get", ORDERS)

        assert 1 == len(set(first))
        assert second not in first
        assert second == told(one, "get", ORDERS)
        assert (other == told(two, "get", BILLING)) == (how == f"forget {ORDERS}")
    assert (how == "revoke") == server.is_revoked(first[0])


def test_the_stated_time_is_that_of_the_engine() -> None:
    """
    What the page of numbers says.
    """
    from resource_tokens import _sharing

    page = Path(__file__).parent.parent / "docs" / "reference" / "numbers.md"
    assert timedelta(seconds=5) == timedelta(seconds=_sharing._LOOK_EVERY)
    assert "not used any more after 5 s" in page.read_text("utf-8")
