"""
What a subject changes: where its token may go, what it is kept under, how long, and what of it
touches others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from benchmarks.virtual import EPOCH
from benchmarks.virtual import World as SharedWorld
from resource_tokens import (
    AsyncEgressGuard,
    AudienceMismatchError,
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    EgressBlockedError,
    EgressGuard,
    JwtBearer,
    OAuthError,
    Resource,
    ResourceTokenAuth,
    SubjectToken,
    TokenEvent,
    TokenExchange,
    TokenRequestError,
)
from resource_tokens._recently_used import RecentlyUsed
from resource_tokens.oauth.dialects import Dialect
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.tokens import CachedToken
from tests.conftest import BILLING, ORDERS, Caller, Clock, World
from tests.test_oidc_provider import BOTH
from tests.test_on_behalf_of import required, subjects_seen, user
from tests.test_tokens import asked

ISSUER, PARTNER = "https://login.example.com", "https://partner.example.net"
API, PARTNER_API = "https://api.example.com/", "https://api.example.net/"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"


class Bench:
    """
    An auth object whose servers answer in this process, with a clock that stands still.
    """

    def __init__(self, *, dialect: str | Dialect = "rfc8707", **kwargs: Any) -> None:
        self.clock = Clock()
        self.wall = 1e9
        self.sent: list[dict[str, str]] = []
        self.answers: list[dict[str, Any]] = []
        self.events: list[TokenEvent] = []
        self.transport = httpx.MockTransport(self._answer)
        kwargs.setdefault("resources", {API: Resource(API)})
        self.auth = ResourceTokenAuth(
            self.server(ISSUER, dialect=dialect),
            ClientSecretBasic("middle", "s"),
            on_event=self.events.append,
            clock=self.clock,
            wall_clock=lambda: self.wall,
            **kwargs,
        )

    def server(self, issuer: str, **kwargs: Any) -> AuthorizationServer:
        return AuthorizationServer(
            issuer=issuer, token_endpoint=f"{issuer}/token", transport=self.transport, **kwargs
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.content.decode()))
        self.sent.append({"to": str(request.url), **form})
        answer = {"access_token": f"token-{len(self.sent)}", "token_type": "Bearer"}
        answer |= {"expires_in": 3600} | (self.answers.pop(0) if self.answers else {})
        return httpx.Response(400 if "error" in answer else 200, json=answer)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall += seconds

    def user(self, name: str, seconds: float | None = None, **kwargs: Any) -> SubjectToken:
        kwargs.setdefault("issuer", ISSUER)
        if seconds is not None:
            kwargs["expires_at"] = datetime.fromtimestamp(self.wall + seconds, UTC)
        return SubjectToken(f"{name}-subject-token", **kwargs)

    def get(self, subject: SubjectToken, url: str = API) -> str:
        return self.auth.on_behalf_of(subject).token_for(url).reveal()


# Where a subject token may go.


def test_a_subject_token_goes_to_its_issuer() -> None:
    """
    R9700-7: one of another issuer is stopped before anything is sent, as an event too.
    """
    bench = Bench()

    with pytest.raises(
        EgressBlockedError, match=r"issued by 'https://evil\.test'.*issuers="
    ) as caught:
        bench.get(bench.user("alice", issuer="https://evil.test"))
    assert (ISSUER, API) == (caught.value.destination, caught.value.resource)
    assert [] == bench.sent
    assert [("egress_blocked", "foreign_issuer")] == [(e.name, e.reason) for e in bench.events]
    # Of unknown issuer it is taken to be the auth object's own.
    bench.get(bench.user("bob", issuer=None))
    assert ["bob-subject-token"] == [sent["subject_token"] for sent in bench.sent]


@pytest.mark.parametrize(
    "exchange",
    [TokenExchange(issuers=["https://idp.test"]), JwtBearer(issuers=["https://idp.test"])],
    ids=repr,
)
def test_an_issuer_that_was_named_is_believed(exchange: Any) -> None:
    """
    A federation: the server takes tokens of that issuer, and of no further one.
    """
    for bench in (
        Bench(exchange=exchange),
        Bench(resources={API: Resource(API, exchange=exchange)}),
    ):
        bench.get(bench.user("alice", issuer="https://idp.test"))
        bench.get(bench.user("bob"))
        with pytest.raises(EgressBlockedError):
            bench.get(bench.user("eve", issuer="https://evil.test"))
        assert 2 == len(bench.sent)


def test_a_resource_of_another_server() -> None:
    """
    It is sent the tokens of its own issuer, and none of the auth object's.
    """
    bench = Bench(resources=())
    partner = bench.server(PARTNER)
    bench = Bench(
        resources={
            PARTNER_API: Resource(
                PARTNER_API, server=partner, client_auth=ClientSecretBasic("other", "s")
            )
        }
    )
    for subject in (bench.user("alice"), bench.user("alice", issuer=None)):
        with pytest.raises(EgressBlockedError, match="would go to 'https://partner"):
            bench.get(subject, PARTNER_API)

    assert [] == bench.sent


def test_a_learned_server_is_sent_no_subject_token(world: World) -> None:
    """
    RMCP-3, R9700-7: a resource cannot talk this service into showing a user's token elsewhere; not
    even to a server that was configured for others.
    """
    asked = world.auth().cache._request_for(Resource(ORDERS))
    elsewhere = AuthorizationServer(issuer="https://elsewhere.example.com")
    grant = TokenExchange(issuers=["https://idp.test"]).on_behalf_of(
        SubjectToken("t", issuer="https://idp.test")
    )
    configured = replace(asked, grant=grant)

    with pytest.raises(EgressBlockedError, match="would go to 'https://elsewhere"):
        replace(configured, server=elsewhere, discovered_from=configured)


# How it is exchanged.


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("rfc8707", {"resource": API}),
        ("auth0", {"audience": "aud", "requested_token_type": True}),
        ("okta", {"audience": "aud"}),
        ("keycloak", {"audience": "aud"}),
        ("keycloak-resource-indicators", {"audience": "aud"}),
        ("authentik", {"audience": "aud"}),
        ("entra-v2", {"scope": f"{API}/.default", "requested_token_use": True, "assertion": True}),
        ("entra-v1", {"resource": API, "requested_token_use": True, "assertion": True}),
    ],
)
def test_each_dialect_has_its_way(dialect: str, expected: dict[str, Any]) -> None:
    """
    R8693-3: Which grant, and how the target is named in it. This service's own requests are as
    ever.
    """
    bench = Bench(
        dialect=dialect,
        resources={API: Resource(API, audience="aud", verify_audience="off")},
    )
    token = bench.get(bench.user("alice"))

    (sent,) = bench.sent
    named = {"resource", "audience", "scope", "requested_token_type", "requested_token_use"}
    named |= {"assertion"}
    assert expected.keys() == sent.keys() & named
    assert {k: v for k, v in expected.items() if v is not True}.items() <= sent.items()
    assert "token-1" == token
    assert "client_credentials" == Bench().auth.cache._request_for(API).grant.grant_type


def test_a_dialect_of_ones_own_names_the_exchange() -> None:
    """
    Any server: by JWT bearer, and with a target of its own in a token exchange.
    """
    both = {"resource": "{resource}", "audience": "{audience}"}
    for dialect, grant_type in (
        (Dialect(name="one", exchange=JwtBearer()), JwtBearer.grant_type),
        (Dialect(name="two", exchange_target=both), TokenExchange.grant_type),
    ):
        bench = Bench(dialect=dialect)
        bench.get(bench.user("alice"))

        (sent,) = bench.sent
        assert (grant_type, API) == (sent["grant_type"], sent["resource"])
        assert ("audience" in sent) == (dialect.name == "two")
    with pytest.raises(ConfigurationError, match="exchange= is a TokenExchange"):
        Dialect(name="three", exchange="token-exchange")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="are filled in"):
        Dialect(name="four", exchange_target={"audience": "{client}"})


@pytest.mark.parametrize(
    "kwargs",
    [{"exchange": "on_behalf_of"}, {"resources": [Resource(API, exchange=5)]}],  # type: ignore[arg-type]
)
def test_what_is_no_exchange_is_refused(kwargs: Any) -> None:
    """
    At construction.
    """
    with pytest.raises(ConfigurationError, match="Give a TokenExchange or a JwtBearer"):
        Bench(**kwargs)


def test_an_actor_token_that_changes(tmp_path: Path) -> None:
    """
    R8693-9: another actor is another key. It is looked at every few seconds, as any credential.
    """
    file = tmp_path / "actor"
    file.write_text("actor-1\n")
    bench = Bench(exchange=TokenExchange(actor_token=file, actor_token_type="access_token"))
    alice = bench.user("alice")
    bench.get(alice)
    file.write_text("actor-2\n")
    bench.get(alice)
    bench.advance(6)
    bench.get(alice)

    assert ["actor-1", "actor-2"] == [sent["actor_token"] for sent in bench.sent]


def test_an_actor_token_that_is_not_there() -> None:
    """
    Said at construction where somebody demands a subject.
    """
    exchange = TokenExchange(actor_token=lambda: "", actor_token_type="jwt")
    with pytest.raises(ConfigurationError, match="actor_token is empty"):
        Bench(exchange=exchange, resources=[Resource(API, subject="required")])
    with pytest.raises(ConfigurationError, match="actor_token"):
        TokenExchange(actor_token=5, actor_token_type="jwt")  # type: ignore[arg-type]


def test_resources_that_only_an_exchange_tells_apart() -> None:
    """
    Keycloak is told nothing by this service itself, and the audience in an exchange: so two
    resources that are called for users only can be told apart there.
    """
    resources = [
        Resource(API, audience="orders", subject="required"),
        Resource(PARTNER_API, audience="billing", subject="required"),
    ]
    Bench(dialect="keycloak", resources=resources)
    with pytest.raises(ConfigurationError, match="cannot tell"):
        Bench(dialect="keycloak", resources=[API, PARTNER_API])


def test_a_server_without_an_issuer_cannot_be_recognised() -> None:
    """
    Where a subject is demanded and no token could ever be shown to the server, that is said at
    construction.
    """
    server = AuthorizationServer(token_endpoint=f"{PARTNER}/token")
    its: Any = {"server": server, "client_auth": ClientSecretBasic("other", "s")}
    with pytest.raises(ConfigurationError, match=r"AuthorizationServer\(issuer="):
        Bench(resources=[Resource(API, subject="required", **its)])

    # Known by name it can.
    named = TokenExchange(issuers=[ISSUER])
    Bench(resources=[Resource(API, subject="required", exchange=named, **its)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TokenExchange(issuers="https://idp.test"), "no list of issuers"),
        (lambda: JwtBearer(issuers=[""]), "no issuer"),
        (lambda: JwtBearer(first="id-jag"), "first= is a TokenExchange"),  # type: ignore[arg-type]
        (lambda: JwtBearer(first=TokenExchange(), issuers=["https://i"]), "issuers= is for"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Any], words: str) -> None:
    """
    At construction.
    """
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_an_exchange_is_a_value() -> None:
    """
    Equal if it says the same, so that servers and resources that hold one are.
    """
    assert TokenExchange() == TokenExchange() != TokenExchange(issuers=["https://i"])
    assert JwtBearer() != TokenExchange()
    assert {JwtBearer(), JwtBearer()} == {JwtBearer()}


# By way of another issuer.


class Chain(Bench):
    """
    An API behind the server of a partner.
    """

    def __init__(self, first: TokenExchange | None = None) -> None:
        self.transport = httpx.MockTransport(self._answer)
        exchange = JwtBearer(first=first or TokenExchange(requested_token_type="id-jag"))
        super().__init__(
            resources={
                PARTNER_API: Resource(
                    PARTNER_API,
                    scopes=["read"],
                    server=self.server(PARTNER),
                    client_auth=ClientSecretBasic("other", "s"),
                    exchange=exchange,
                )
            }
        )

    def answer(self, *answers: dict[str, Any]) -> None:
        self.answers += answers


JAG: dict[str, Any] = {"issued_token_type": ID_JAG, "token_type": "N_A", "expires_in": 300}


def test_a_chain_of_two_issuers() -> None:
    """
    RIDJAG-1, RIDJAG-2, RCHAIN-1: the first is asked for the second; what it says is presented
    there, for the API. Renewing goes from the access token to the assertion, and then to the user.
    """
    chain = Chain()
    alice = chain.user("alice", 3600)
    chain.answer(JAG, {"expires_in": 60}, {"expires_in": 60})
    chain.get(alice, PARTNER_API)
    # The access token has expired, and the assertion not yet.
    chain.advance(61)
    chain.get(alice, PARTNER_API)
    # Both have.
    chain.advance(301)
    chain.answer(JAG)
    chain.get(alice, PARTNER_API)

    first, second, third, fourth, fifth = chain.sent
    assert (
        {
            "to": f"{ISSUER}/token",
            "grant_type": TokenExchange.grant_type,
            "subject_token": "alice-subject-token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "requested_token_type": ID_JAG,
            "audience": PARTNER,
        }
        == first
        == fourth
    )
    expected = {"to": f"{PARTNER}/token", "grant_type": JwtBearer.grant_type}
    expected |= {"resource": PARTNER_API, "scope": "read"}
    assert [{**expected, "assertion": f"token-{n}"} for n in (1, 1, 4)] == [second, third, fifth]


def test_an_actor_who_changes_in_a_chain(tmp_path: Path) -> None:
    """
    Looked at as often as anywhere else; another actor is another assertion, and another token.
    """
    file = tmp_path / "actor"
    file.write_text("actor-1")
    first = TokenExchange(
        requested_token_type="id-jag", actor_token=file, actor_token_type="access_token"
    )
    chain = Chain(first)
    alice = chain.user("alice")
    chain.answer(JAG, {}, JAG, {})
    chain.get(alice, PARTNER_API)
    file.write_text("actor-2")
    chain.advance(6)
    chain.get(alice, PARTNER_API)

    actors = [sent["actor_token"] for sent in chain.sent if "actor_token" in sent]
    assert (["actor-1", "actor-2"], 4) == (actors, len(chain.sent))


def test_an_assertion_is_kept_for_one_user_and_one_server() -> None:
    """
    RIDJAG-4: shared by the scopes of one user, and by nobody else.
    """
    chain = Chain()
    alice, bob = chain.user("alice"), chain.user("bob")
    chain.answer(JAG, {}, {}, JAG)
    for view in (
        chain.auth.on_behalf_of(alice),
        chain.auth.scoped("write").on_behalf_of(alice),
        chain.auth.on_behalf_of(bob),
    ):
        view.token_for(PARTNER_API)

    assert ["token-1", "token-1", "token-4"] == [
        sent["assertion"] for sent in chain.sent if "assertion" in sent
    ]


def test_an_assertion_that_is_used_up_is_asked_for_once_more() -> None:
    """
    RIDJAG-3: one at hand can be good for one time only; a new one that is refused is refused.
    """
    chain = Chain()
    alice = chain.user("alice")
    chain.answer(JAG, {"expires_in": 60}, {"error": "invalid_grant"}, JAG)
    chain.get(alice, PARTNER_API)
    chain.advance(61)
    chain.get(alice, PARTNER_API)
    assert ["token-1", "token-1", "token-4"] == [
        sent["assertion"] for sent in chain.sent if "assertion" in sent
    ]

    # At most once in a while, and not for one that has just come.
    chain.advance(3601)
    chain.answer(JAG, {"error": "invalid_grant"})
    with pytest.raises(OAuthError, match="invalid_grant"):
        chain.get(alice, PARTNER_API)
    assert 7 == len(chain.sent)


def test_an_assertion_that_cannot_be_renewed() -> None:
    """
    The refusal of the second server is what the caller sees, if the first gives no other.
    """
    chain = Chain()
    alice = chain.user("alice")
    chain.answer(JAG, {"expires_in": 60}, {"error": "invalid_grant"}, {"error": "access_denied"})
    chain.get(alice, PARTNER_API)
    chain.advance(61)

    with pytest.raises(OAuthError, match=rf"'{PARTNER}' refused") as caught:
        chain.get(alice, PARTNER_API)
    assert "invalid_grant" == caught.value.error


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"token_type": "N_A"}, "no access token|issued_token_type"),
        ({"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}, "no assertion"),
        ({**JAG, "token_type": "DPoP"}, "token_type"),
    ],
)
def test_what_is_no_assertion_is_not_presented(answer: dict[str, Any], words: str) -> None:
    """
    R8693-5: the first server has issued something else than it was asked for.
    """
    chain = Chain()
    chain.answer({"issued_token_type": "urn:x:other", **answer} if len(answer) == 1 else answer)
    with pytest.raises(TokenRequestError, match=words):
        chain.get(chain.user("alice"), PARTNER_API)

    assert 1 == len(chain.sent)


def test_identity_chaining_without_a_type() -> None:
    """
    RCHAIN-1: without `requested_token_type`, a JWT is what comes.
    """
    chain = Chain(TokenExchange())
    chain.answer({"issued_token_type": "urn:ietf:params:oauth:token-type:jwt"})
    chain.get(chain.user("alice"), PARTNER_API)

    assert "requested_token_type" not in chain.sent[0]
    assert "token-1" == chain.sent[1]["assertion"]


def test_a_refresh_token_in_an_exchange_is_ignored() -> None:
    """
    RCHAIN-2, RIDJAG-3: neither at the first server nor at the second is one used or kept.
    """
    chain = Chain()
    alice = chain.user("alice")
    chain.answer({**JAG, "refresh_token": "r1"}, {"expires_in": 60, "refresh_token": "r2"})
    chain.get(alice, PARTNER_API)
    chain.advance(400)
    chain.answer(JAG)
    chain.get(alice, PARTNER_API)

    exchange, bearer = TokenExchange.grant_type, JwtBearer.grant_type
    assert [exchange, bearer] * 2 == [sent["grant_type"] for sent in chain.sent]
    assert "refresh_token_rotated" not in [event.name for event in chain.events]


def test_an_assertion_is_shown_to_no_api() -> None:
    """
    RIDJAG-4, RMCP-13, P3: copied into a request to an API, it is stopped like a token of another.
    """
    chain = Chain()
    alice = chain.user("alice")
    chain.answer({**JAG, "access_token": "the-assertion-itself"})
    view = chain.auth.on_behalf_of(alice)
    api = EgressGuard(httpx.MockTransport(lambda _: httpx.Response(200)))
    with httpx.Client(auth=view, transport=api) as client:
        client.get(PARTNER_API)
        with pytest.raises(EgressBlockedError, match=PARTNER) as caught:
            client.get(PARTNER_API, headers={"X-Assertion": "the-assertion-itself"})

    assert PARTNER == caught.value.resource


def test_a_chain_needs_a_second_server() -> None:
    """
    Said at construction.
    """
    exchange = JwtBearer(first=TokenExchange())
    with pytest.raises(ConfigurationError, match="at another authorization server"):
        Bench(resources=[Resource(API, exchange=exchange)])
    unnamed = AuthorizationServer(token_endpoint=f"{PARTNER}/token")
    with pytest.raises(ConfigurationError, match="Name that one"):
        Bench(
            resources=[
                Resource(
                    API,
                    server=unnamed,
                    client_auth=ClientSecretBasic("other", "s"),
                    exchange=exchange,
                )
            ]
        )


def test_a_chain_prints_no_secret() -> None:
    """
    P9: neither the grant nor what is asked for first.
    """
    chain = Chain()
    request = chain.auth.on_behalf_of(chain.user("alice")).cache._request_for(PARTNER_API)
    presenting = request.grant.presenting(Bench().auth.cache.get(API))

    assert "by way of 'https://login.example.com'" in repr(request.grant)
    shown = repr((request, request.grant, presenting, chain.auth.on_behalf_of(chain.user("a"))))
    assert not [secret for secret in ("alice", "token-1") if secret in shown]


# How long.


def test_nothing_outlives_the_subject_token() -> None:
    """
    R8693-8: a token that would live longer is presented until then, not refreshed ahead, as no
    other would live longer; and then nothing is asked for any more.
    """
    bench = Bench()
    alice = bench.user("alice", 100)
    for _ in range(20):
        bench.get(alice)
        bench.advance(4.999)
    assert 1 == len(bench.sent)

    bench.advance(1)
    for _ in range(2):
        with pytest.raises(TokenRequestError, match=r"has expired.*Answer 401"):
            bench.get(alice)
    assert 1 == len(bench.sent)


def test_a_token_that_ends_with_the_subject_token_all_but() -> None:
    """
    P7: its own hard margin counts if it begins before that.
    """
    bench = Bench()
    alice = bench.user("alice", 310)
    bench.answers.append({"expires_in": 300})
    cached = bench.auth.on_behalf_of(alice).cache._acquire(
        bench.auth.on_behalf_of(alice).cache._request_for(API)
    )

    assert 1000 + 270 == cached.freshness.hard_at
    assert cached.freshness.soft_at < 1000 + 300 - 60
    assert bench.wall + 300 == cached.token.expires_at.timestamp()


def test_an_end_that_becomes_known_later() -> None:
    """
    The subject token expires, whoever had it first without saying when.
    """
    bench = Bench()
    bench.get(bench.user("alice"))
    bench.get(bench.user("alice", 50))
    bench.advance(51)

    with pytest.raises(TokenRequestError, match="has expired"):
        bench.get(bench.user("alice", -1))
    assert 1 == len(bench.sent)


def test_a_token_that_arrives_after_the_end() -> None:
    """
    The user's token has expired while the request was under way: that is what is said.
    """
    bench = Bench()
    alice = bench.user("alice", 5)

    def slow(request: httpx.Request) -> httpx.Response:
        bench.advance(6)
        return bench._answer(request)

    bench.transport.handler = slow
    with pytest.raises(TokenRequestError, match="was called with has expired"):
        bench.get(alice)


def test_what_is_built_for_a_subject_does_not_outlive_it() -> None:
    """
    P10: expired subject tokens are let go of, with the next that comes after half a minute.
    """
    bench = Bench()
    for number in range(20):
        bench.get(bench.user(f"user-{number}", 60))
    built = bench.auth.cache.subjects._built
    assert 20 == len(built)

    bench.advance(61)
    bench.get(bench.user("later", 60))
    assert 1 == len(built)


# What touches nobody else.


@BOTH
def test_a_refusal_is_one_users(caller: Caller, world: World) -> None:
    """
    R8693-6: Remembered for the user, and nothing to others or to this service itself.
    """
    auth = world.auth()
    alice = auth.on_behalf_of(user(world, "alice"))
    world.server.fail_next(1, status=400, error="invalid_grant")
    with caller.client(auth=auth) as client:
        for _ in range(3):
            with pytest.raises(OAuthError) as caught:
                client.get(world.orders.url, auth=alice)
            assert "invalid_grant" == caught.value.error
        client.get(world.orders.url, auth=auth.on_behalf_of(user(world, "bob")))
        client.get(world.orders.url)

    assert 3 == len(world.server.token_requests)
    assert ["bob", "orders-worker"] == subjects_seen(world.orders)


@BOTH
def test_what_the_user_has_to_do_is_passed_on(caller: Caller, world: World) -> None:
    """
    Entra ID asks for more than the user's token proves: `claims` says what, for a challenge to
    whoever called this service; whole, and with no secret in it.
    """
    claims = json.dumps({"access_token": {"acrs": {"essential": True, "value": "c1"}}})
    auth = world.auth()
    alice = user(world, "alice")
    said: dict[str, Any] = {"error": "interaction_required", "claims": claims}
    echo = {"error": "interaction_required", "claims": alice.token.reveal()}
    odd = {"error": "interaction_required", "claims": {"access_token": {}}}
    for answer in (said, echo, odd):
        world.server.answer_next(400, json.dumps(answer).encode())
    found = []
    for scope in ("a", "b", "c"):
        with pytest.raises(OAuthError) as caught:
            caller.token_for(auth.scoped(scope).on_behalf_of(alice), world.orders.url)
        found.append(caught.value.claims)

    assert [claims, None, None] == found


def test_a_revoked_token_is_renewed_once_and_no_more(caller: Caller, world: World) -> None:
    """
    P8: the API refuses a token, the server refuses the user: the caller gets the 401, and nothing
    is tried for ever. Another user goes on.
    """
    auth = required(world)
    alice, bob = user(world, "alice"), user(world, "bob")
    with caller.client(auth=auth) as client:
        for who in (alice, bob):
            client.get(world.orders.url, auth=auth.on_behalf_of(who))
        world.server.revoke(world.orders.tokens_seen()[0])
        world.server.revoke(alice.token.reveal())
        answers = [client.get(world.orders.url, auth=auth.on_behalf_of(alice)) for _ in range(3)]
        other = client.get(world.orders.url, auth=auth.on_behalf_of(bob))

    assert [401] * 3 == [answer.status_code for answer in answers]
    assert 200 == other.status_code
    # Two at first, and one renewal.
    assert 3 == len(world.server.token_requests)
    assert 6 == len(world.orders.requests)


# What one request may carry.


@BOTH
def test_a_token_of_one_user_does_not_go_along_with_another(caller: Caller, world: World) -> None:
    """
    P3: to the same API, copied into a request for somebody else: stopped. Its own it may carry, and
    the `Authorization` header is that of the view in any case.
    """
    auth = required(world)
    alice, bob = (auth.on_behalf_of(user(world, name)) for name in ("alice", "bob"))
    hers = caller.token_for(alice, world.orders.url)
    with caller.client(auth=bob) as client:
        with pytest.raises(EgressBlockedError, match="a token of another subject for"):
            client.get(world.orders.url, headers={"X-Forwarded-Access-Token": hers.reveal()})
        client.get(world.orders.url, headers={"Authorization": hers.authorization})
        same = client.get(world.orders.url, auth=alice, headers={"X-Again": hers.reveal()})

    assert 200 == same.status_code
    assert ["bob", "alice"] == subjects_seen(world.orders)


@BOTH
def test_a_token_that_was_taken_out_still_goes_to_its_api(caller: Caller, world: World) -> None:
    """
    Without a token of its own a request is for nobody in particular; where the token does not
    belong, it is stopped.
    """
    auth = required(world)
    hers = caller.token_for(auth.on_behalf_of(user(world, "alice")), world.orders.url)
    kind = EgressGuard if caller.blocking else AsyncEgressGuard
    plain = caller.library.HTTPTransport if caller.blocking else caller.library.AsyncHTTPTransport
    with caller.client(transport=kind(plain(), auth)) as client:
        headers = {"Authorization": hers.authorization}
        assert 200 == client.get(world.orders.url, headers=headers).status_code
        with pytest.raises(EgressBlockedError):
            client.get(world.billing.url, headers=headers)


@BOTH
def test_a_redirect_to_another_api_is_for_the_same_user(caller: Caller, world: World) -> None:
    """
    `redirects="reauthorize"` asks for the token of the request's own user, from wherever the
    redirect came.
    """
    auth = world.auth(
        {
            world.orders.url: Resource(ORDERS),
            world.billing.url: Resource(BILLING, redirects="reauthorize"),
        }
    )
    world.orders.redirect("/away", f"{world.billing.url}landing")
    with caller.client(auth=auth, follow_redirects=True) as client:
        view = auth.on_behalf_of(user(world, "alice"))
        assert "alice" == client.get(f"{world.orders.url}away", auth=view).json()["subject"]

    assert ["alice"] == subjects_seen(world.billing)


@BOTH
def test_a_redirect_within_the_resource_keeps_the_users_token(caller: Caller, world: World) -> None:
    """
    P3: two destinations of one resource, with scopes of their own, are one place for a user too.
    """
    auth = world.auth(
        {world.orders.url: Resource(ORDERS, scopes="a"), world.billing.url: Resource(ORDERS)}
    )
    world.orders.redirect("/away", f"{world.billing.url}landing")
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(f"{world.orders.url}away", auth=auth.on_behalf_of(user(world, "alice")))

    assert ["alice"] == subjects_seen(world.billing)
    assert 1 == len(world.server.token_requests)


def test_one_token_for_two_users_is_dropped() -> None:
    """
    A server that makes no difference between users would let one act as the other. For two tokens
    of one user it is all right, if it is known to be one.
    """
    bench = Bench()
    same = {"access_token": "the-same-token"}
    bench.answers += [same] * 4
    bench.get(bench.user("alice", subject="alice"))
    bench.get(SubjectToken("another-of-alice", issuer=ISSUER, subject="alice"))
    for bob in (bench.user("bob", subject="bob"), bench.user("bob")):
        with pytest.raises(AudienceMismatchError, match="on behalf of two subjects"):
            bench.get(bob)


# Bounds.


def test_tokens_are_bounded_by_bytes_too() -> None:
    """
    P10: whichever bound is reached first; the least recently used goes first.
    """
    store = MemoryTokenStore(maxsize=1000, max_bytes=100_000)
    bench = Bench(store=store)
    for number in range(40):
        bench.answers.append({"access_token": f"{number:04d}" * 2_000})
        bench.get(bench.user(f"user-{number}"))
        bench.get(bench.user("user-0"))

    assert len(store) == 100_000 // (8_000 + 2_048)
    before = len(bench.sent)
    bench.get(bench.user("user-0"))
    bench.get(bench.user("user-39"))
    assert before == len(bench.sent)


@pytest.mark.parametrize(
    "kwargs", [{"maxsize": 0}, {"maxsize": True}, {"maxsize": 1.5}, {"max_bytes": 16_000}]
)
def test_bounds_that_allow_nothing_are_refused(kwargs: Any) -> None:
    """
    One token of the largest size has to fit.
    """
    with pytest.raises(ConfigurationError, match="MemoryTokenStore: max"):
        MemoryTokenStore(**kwargs)


def test_what_was_used_lately_is_kept() -> None:
    """
    By number and by bytes; what is larger than all of it is not kept, and takes the old one along.
    """
    kept = RecentlyUsed[str, bytes](3, 10, len)
    for key, size in (("a", 2), ("b", 2), ("c", 2)):
        kept.put(key, b"x" * size)
    kept.get("a")
    kept.put("d", b"xx")
    assert [True, False, True, True] == [kept.get(key) is not None for key in "abcd"]

    kept.put("e", b"x" * 8)
    assert 1 + (kept.get("d") is not None) == len(kept)
    kept.put("e", b"x" * 11)
    assert kept.get("e") is None
    assert len(kept.values()) == len(kept) == kept.drop(lambda _: True)


def test_what_is_built_for_subjects_is_bounded() -> None:
    """
    P10: by bytes, of which the subject tokens are the most.
    """
    bench = Bench()
    subjects = bench.auth.cache.subjects
    large = "x" * 60_000
    for number in range(400):
        view = bench.auth.on_behalf_of(SubjectToken(f"{number}{large}"))
        view.cache._request_for(API)

    assert 200 < len(subjects._built) < 300


def test_nothing_of_a_user_is_kept_on_the_auth_object(world: World) -> None:
    """
    The subject is in the view, and the block in the context.
    """
    auth = required(world)
    with auth.on_behalf_of(user(world, "alice")):
        auth.token_for(world.orders.url)

    assert auth.cache._subject is None
    assert auth.cache.subjects.block.get() is None
    assert "one subject" in repr(auth.on_behalf_of(user(world, "alice")))
    assert "one subject" not in repr(auth)


def test_a_credential_that_is_replaced_is_seen_by_views(tmp_path: Path) -> None:
    """
    A view that lives for one request sees what another has seen: no token of the old one is used.
    """
    file = tmp_path / "secret"
    file.write_text("one")
    bench = Bench()
    auth = ResourceTokenAuth(
        bench.server(ISSUER),
        ClientSecretBasic("middle", file),
        resources=[API],
        clock=bench.clock,
        wall_clock=lambda: bench.wall,
    )
    alice = bench.user("alice")
    auth.on_behalf_of(alice).token_for(API)
    file.write_text("two")
    bench.advance(6)
    for _ in range(3):
        auth.on_behalf_of(alice).token_for(API)

    assert 2 == len(bench.sent)


def test_a_shared_store_keeps_to_the_end_of_the_subject_token() -> None:
    """
    R8693-8: another process finds the token, presents it to the end and does not refresh it ahead;
    nor does it ask when that is over.
    """
    world = SharedWorld()
    grant = TokenExchange().on_behalf_of(
        SubjectToken("alice", expires_at=datetime.fromtimestamp(EPOCH + 600, UTC))
    )
    request = asked(grant=grant, server=AuthorizationServer(token_endpoint="https://x.test/token"))
    first, second = world.worker(), world.worker()
    got: list[CachedToken] = []
    world.time.start(lambda: got.append(first.get(request)))
    world.time.run()
    for after in (200.0, 400.0, 590.0):
        world.time.at(after, lambda: got.append(second.get(request)))
    world.time.run()

    assert ["token-1"] * 4 == [cached.token.reveal() for cached in got]
    assert {1600.0} == {round(cached.freshness.hard_at, 2) for cached in got}
    assert 1 == len(world.asked)
    with pytest.raises(TokenRequestError, match="has expired"):
        request.message("https://x.test/token", EPOCH + 600)
