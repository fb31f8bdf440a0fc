"""
Against node-oidc-provider, a certified server that honours `resource`, and APIs that verify
signature, issuer, audience and expiry against its keys.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import jwt
import pytest
import trustme

from resource_tokens import (
    AuthorizationServer,
    ClientAssertionFile,
    ClientSecretBasic,
    ClientSecretJwt,
    ClientSecretPost,
    OAuthError,
    PrivateKeyJwt,
    PublicClient,
    RefreshToken,
    Resource,
    ResourceTokenAuth,
    TlsClientAuth,
    TokenCache,
    TokenEvent,
    TokenRequestError,
)
from resource_tokens.oauth.dialects import RFC8707, Dialect
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import Caller
from tests.servers.apis import LedgerApi
from tests.servers.loopback import post_form
from tests.servers.oidc_provider import OidcProvider
from tests.servers.oidc_provider.clients import (
    SECRET,
    TLS_NAME,
    private_key,
    registered,
    server_tls,
    write_certificates,
)
from tests.servers.oidc_provider.introspecting import IntrospectingApi

ORDERS = "https://orders.example.com/api"
BILLING = "urn:example:billing"
SHORT = "urn:example:short-lived"
OPAQUE = "urn:example:opaque"
RENAMED = "urn:example:renamed"

# A colour of each kind, where all six would say the same at some length.
BOTH = pytest.mark.parametrize(
    "caller",
    [(httpx2, "sync"), (httpx, "asyncio")],
    ids=["httpx2-sync", "httpx-asyncio"],
    indirect=True,
)

# Every printable ASCII character that has a meaning in a form, a URL or a Basic header.
# oidc-provider refuses others in client metadata; those are tried against the local server.
NASTY = ["a:b:c", "50%25", "a+b+c", "a b c", "a&b=c", "q\"u'o\\te", "s/l?a#sh", "~-._!*()", "%"]


@pytest.fixture(scope="session")
def provider() -> Iterator[OidcProvider]:
    nasty: list[Any] = [
        {"client_id": f"nasty:{number} %", "client_secret": secret}
        for number, secret in enumerate(NASTY)
    ]
    resources: Any = {
        ORDERS: {"scopes": ["orders:read", "orders:write"]},
        BILLING: {"scopes": ["invoices:read"], "alg": "ES256"},
        SHORT: {"scopes": ["read"], "ttl": 4},
        OPAQUE: {"scopes": ["read"], "format": "opaque"},
        RENAMED: {"scopes": ["read"], "audience": "api-7"},
    }
    clients = registered() + nasty
    with OidcProvider({"clients": clients, "resources": resources, "tls": server_tls()}) as running:
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
            ClientSecretBasic("client_secret_basic", SECRET),
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


@BOTH
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
    P8, R7009-3: a 401 from the API the token was for renews it once.
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
        client_auth or ClientSecretBasic("client_secret_basic", SECRET),
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


@BOTH
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
    cache = cache_of(ledger, ClientSecretBasic("client_secret_basic", "not the secret at all"))
    with pytest.raises(OAuthError) as caught:
        caller.token(cache, ORDERS)

    assert ("invalid_client", 401) == (caught.value.error, caught.value.status)
    assert "not the secret" not in repr(caught.value.args)


def test_scopes_the_server_drops_are_an_event(caller: Caller, ledger: OidcProvider) -> None:
    """
    R8707-13: this server narrows in silence, but says what it granted.
    """
    events: list[TokenEvent] = []
    cache = TokenCache(
        AuthorizationServer(issuer=ledger.issuer),
        ClientSecretBasic("client_secret_basic", SECRET),
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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


def signed_for(provider: OidcProvider, client_id: str, **claims: Any) -> str:
    """
    An assertion as a workload's platform would sign it.
    """
    now = int(time.time())
    return jwt.encode(
        {
            "iss": client_id,
            "sub": client_id,
            "aud": provider.issuer,
            "iat": now,
            "exp": now + 600,
            "jti": str(uuid4()),
            **claims,
        },
        private_key("ES256"),
        "ES256",
    )


CLIENT_AUTH: dict[str, Callable[[OidcProvider, Path], Any]] = {
    "client_secret_basic": lambda *_: ClientSecretBasic("client_secret_basic", SECRET),
    "client_secret_post": lambda *_: ClientSecretPost("client_secret_post", SECRET),
    "client_secret_jwt": lambda *_: ClientSecretJwt("client_secret_jwt", SECRET),
    **{
        f"private_key_jwt {alg}": lambda *_, alg=alg: PrivateKeyJwt(
            f"private_key_jwt {alg}", private_key(alg), algorithm=alg
        )
        for alg in ("RS256", "PS256", "ES256", "EdDSA")
    },
    "wants the issuer": lambda provider, _: ClientAssertionFile(
        lambda: signed_for(provider, "wants the issuer"), client_id="wants the issuer"
    ),
    "tls_client_auth": lambda _, folder: TlsClientAuth(
        "tls_client_auth", folder / "tls_client_auth.pem"
    ),
    "self_signed_tls_client_auth": lambda _, folder: TlsClientAuth(
        "self_signed_tls_client_auth",
        folder / "self_signed_tls_client_auth.pem",
        self_signed=True,
    ),
}


@BOTH
@pytest.mark.parametrize("client_id", CLIENT_AUTH)
def test_every_way_to_authenticate_gets_tokens_for_one_api_each(
    caller: Caller, ledger: OidcProvider, certificates: Path, client_id: str
) -> None:
    """
    P3, R7523-1, R8705-1, R8705-5, R21-1: a token, JWT or opaque, is good at its API and refused
    at the other; the server has seen the client prove itself in the way intended.
    """
    client_auth = CLIENT_AUTH[client_id](ledger, certificates)
    with ExitStack() as stack:
        signed = stack.enter_context(
            LedgerApi(ORDERS, issuer=ledger.issuer, jwks_uri=ledger.jwks_uri)
        )
        opaque = stack.enter_context(
            IntrospectingApi(OPAQUE, provider=ledger, client_id="agent", client_secret=SECRET)
        )
        server = AuthorizationServer(issuer=ledger.issuer, verify=str(certificates / "ca.pem"))
        auth = ResourceTokenAuth(server, client_auth, {signed.url: ORDERS, opaque.url: OPAQUE})
        apis = (signed, opaque)
        with caller.client(auth=auth) as client:
            own = [client.get(api.url).status_code for api in apis]
        tokens = [api.tokens_seen()[0] for api in apis]
        with caller.client() as careless:
            others = [
                careless.get(api.url, headers={"Authorization": f"Bearer {token}"}).status_code
                for api, token in zip(apis, reversed(tokens), strict=True)
            ]

    assert ([200, 200], [401, 401]) == (own, others)
    entries = ledger.ledger()
    assert [[ORDERS], [OPAQUE]] == [entry["form"]["resource"] for entry in entries]
    assert {(client_id, client_auth.method, 200)} == {
        (entry["client_id"], entry["method"], entry["status"]) for entry in entries
    }


@pytest.mark.parametrize("client_id", [name for name in CLIENT_AUTH if "jwt" in name])
def test_an_assertion_says_who_to_whom_and_for_how_long(
    ledger: OidcProvider, certificates: Path, client_id: str
) -> None:
    """
    R7523-2 to R7523-5: issuer and subject are the client, the audience is the issuer alone, it is
    good for a minute, and each request has its own.
    """
    cache = cache_of(ledger, CLIENT_AUTH[client_id](ledger, certificates))
    for resource in (ORDERS, BILLING):
        cache.get(resource)

    assertions = [entry["assertion"] for entry in ledger.ledger()]
    claims = [assertion["claims"] for assertion in assertions if assertion]
    headers = [assertion["header"] for assertion in assertions if assertion]
    assert [(client_id, client_id, ledger.issuer)] * 2 == [
        (c["iss"], c["sub"], c["aud"]) for c in claims
    ]
    assert [60, 60] == [c["exp"] - c["iat"] for c in claims]
    assert 2 == len({c["jti"] for c in claims})
    assert {client_id.partition(" ")[2] or "HS256"} == {header["alg"] for header in headers}
    assert {"client-authentication+jwt"} == {header["typ"] for header in headers}


def test_a_server_that_wants_the_token_endpoint_as_audience_is_told(ledger: OidcProvider) -> None:
    """
    R7523-4: the issuer by default; the token endpoint by the client's or the server's say-so.
    """

    def outcome(client_id: str, dialect: Dialect = RFC8707, **options: Any) -> str:
        key_auth = PrivateKeyJwt(client_id, private_key("ES256"), **options)
        server = AuthorizationServer(issuer=ledger.issuer, dialect=dialect)
        try:
            return TokenCache(server, key_auth).get(ORDERS).resource
        except OAuthError as error:
            return error.error

    legacy = Dialect(name="legacy", assertion_audience="token_endpoint")
    assert ORDERS == outcome("wants the issuer")
    assert "invalid_client" == outcome("wants the token_endpoint")
    assert ORDERS == outcome("wants the token_endpoint", audience="token_endpoint")
    assert ORDERS == outcome("wants the token_endpoint", legacy)
    assert "invalid_client" == outcome("wants the issuer", legacy)
    issuer, at = ledger.issuer, ledger.token_endpoint
    assertions = [entry["assertion"] for entry in ledger.ledger()]
    assert [issuer, issuer, at, at, at] == [a["claims"]["aud"] for a in assertions if a]


@BOTH
def test_an_assertion_that_is_not_replaced_is_good_once(
    caller: Caller, ledger: OidcProvider, tmp_path: Path
) -> None:
    """
    R7523-3: this server remembers each `jti`. The file is read anew for each request, so all is
    well as soon as there is a new token in it.
    """
    file = tmp_path / "token"
    file.write_text(signed_for(ledger, "wants the issuer"))
    cache = cache_of(ledger, ClientAssertionFile(file, client_id="wants the issuer"))

    caller.token(cache, ORDERS)
    with pytest.raises(OAuthError) as caught:
        caller.token(cache, BILLING)
    file.write_text(signed_for(ledger, "wants the issuer"))
    caller.token(cache, OPAQUE)

    assert ("invalid_client", 401) == (caught.value.error, caught.value.status)
    assert [200, 401, 200] == [entry["status"] for entry in ledger.ledger()]


def test_a_certificate_of_somebody_else_gets_nothing(
    ledger: OidcProvider, certificates: Path, tmp_path: Path
) -> None:
    """
    R8705-5: the right name, but from an authority that the server does not know.
    """
    file = tmp_path / "forged.pem"
    forged = trustme.CA().issue_cert(TLS_NAME)
    forged.private_key_and_cert_chain_pem.write_to_path(str(file))
    server = AuthorizationServer(issuer=ledger.issuer, verify=str(certificates / "ca.pem"))
    cache = TokenCache(server, TlsClientAuth("tls_client_auth", file))

    with pytest.raises(OAuthError) as caught:
        cache.get(ORDERS)

    assert "invalid_client" == caught.value.error
    assert ["self_signed_tls_client_auth"] == [entry["method"] for entry in ledger.ledger()]


@BOTH
@pytest.mark.parametrize(
    ("which", "client_id"),
    [
        ("issuer_with_a_path", "client_secret_basic"),
        ("tls_issuer_with_a_path", "client_secret_basic"),
        ("tls_issuer_with_a_path", "tls_client_auth"),
    ],
)
def test_an_issuer_with_a_path_is_discovered(
    caller: Caller, ledger: OidcProvider, certificates: Path, which: str, client_id: str
) -> None:
    """
    R8414-1 to R8414-3, R8414-7, R8705-1: at the one address or at the other; without an alias a
    certificate is presented at the endpoint that all use. Its tokens are good where it is trusted.
    """
    issuer = getattr(ledger, which)
    server = AuthorizationServer(issuer=issuer, verify=str(certificates / "ca.pem"))
    known: Any = {"jwks_uri": ledger.jwks_uri}
    with LedgerApi(ORDERS, issuer=issuer, **known) as own:
        client_auth = CLIENT_AUTH[client_id](ledger, certificates)
        auth = ResourceTokenAuth(server, client_auth, {own.url: ORDERS})
        with caller.client(auth=auth) as client:
            accepted = client.get(own.url)
        (token,) = own.tokens_seen()
    with LedgerApi(ORDERS, issuer=ledger.issuer, **known) as other, caller.client() as careless:
        refused = careless.get(other.url, headers={"Authorization": f"Bearer {token}"})

    assert (200, 401) == (accepted.status_code, refused.status_code)
    assert [(issuer, client_id)] == [(e["issuer"], e["method"]) for e in ledger.ledger()]


@pytest.mark.parametrize("which", ["issuer", "issuer_with_a_path", "tls_issuer_with_a_path"])
def test_an_issuer_is_compared_to_the_letter(
    ledger: OidcProvider, certificates: Path, which: str
) -> None:
    """
    R8414-4: with a slash at the end it is another, and nothing is asked of it.
    """
    server = AuthorizationServer(
        issuer=f"{getattr(ledger, which)}/", verify=str(certificates / "ca.pem")
    )
    cache = TokenCache(server, ClientSecretBasic("client_secret_basic", SECRET))
    with pytest.raises(TokenRequestError, match="another issuer"):
        cache.get(ORDERS)

    assert [] == ledger.ledger()


@BOTH
def test_two_issuers_share_neither_tokens_nor_an_entry(
    caller: Caller, ledger: OidcProvider
) -> None:
    """
    P2, R8414-8: the same client, secret and resource at two servers are two tokens.
    """
    secret = ClientSecretBasic("client_secret_basic", SECRET)
    elsewhere = AuthorizationServer(issuer=ledger.issuer_with_a_path)
    cache = cache_of(ledger, secret)

    here = caller.token(cache, ORDERS)
    there = caller.token(cache, Resource(ORDERS, server=elsewhere, client_auth=secret))

    assert here.reveal() != there.reveal()
    issuers = [ledger.issuer, ledger.issuer_with_a_path]
    assert issuers == [entry["issuer"] for entry in ledger.ledger()]


@BOTH
def test_a_revoked_opaque_token_is_replaced(caller: Caller, ledger: OidcProvider) -> None:
    """
    P8: revoked at the server (RFC 7009), which the API learns by introspection (RFC 7662).
    """
    with IntrospectingApi(OPAQUE, provider=ledger, client_id="agent", client_secret=SECRET) as api:
        client_auth = ClientSecretBasic("client_secret_basic", SECRET)
        server = AuthorizationServer(issuer=ledger.issuer)
        auth = ResourceTokenAuth(server, client_auth, {api.url: OPAQUE})
        with caller.client(auth=auth) as client:
            client.get(api.url)
            ledger.revoke(api.tokens_seen()[0], "client_secret_basic", SECRET)
            response = client.get(api.url)

        assert 200 == response.status_code
        assert [200, 401, 200] == [seen.status for seen in api.seen]


GRANTED = {ORDERS: "orders:read", OPAQUE: "read"}


@pytest.mark.parametrize(
    "client_auth", [ClientSecretBasic("agent", SECRET), PublicClient("none")], ids=["agent", "none"]
)
def test_one_refresh_token_opens_each_api_with_a_token_of_its_own(
    caller: Caller, ledger: OidcProvider, client_auth: Any
) -> None:
    """
    R8707-8, R21-1: of a user, by a client with a secret or without one. Each use has its own
    successor, which is stored first.
    """
    first = ledger.refresh_token(client_auth.client_id, GRANTED)
    stored: list[str] = []
    with ExitStack() as stack:
        signed = stack.enter_context(
            LedgerApi(ORDERS, issuer=ledger.issuer, jwks_uri=ledger.jwks_uri)
        )
        opaque = stack.enter_context(
            IntrospectingApi(OPAQUE, provider=ledger, client_id="agent", client_secret=SECRET)
        )
        auth = ResourceTokenAuth(
            AuthorizationServer(issuer=ledger.issuer),
            client_auth,
            {signed.url: ORDERS, opaque.url: OPAQUE},
            grant=RefreshToken(first, on_rotation=stored.append),
        )
        with caller.client(auth=auth) as client:
            answers = [client.get(api.url).json() for api in (signed, opaque)]

    assert [("alice", ORDERS), ("alice", OPAQUE)] == [(a["sub"], a["aud"]) for a in answers]
    entries = ledger.ledger()
    assert [(client_auth.client_id, client_auth.method)] * 2 == [
        (entry["client_id"], entry["method"]) for entry in entries
    ]
    assert [([ORDERS], [first]), ([OPAQUE], stored[:1])] == [
        (entry["form"]["resource"], entry["form"]["refresh_token"]) for entry in entries
    ]
    assert 2 == len(stored)


def test_after_a_theft_the_grant_ends_with_all_its_tokens(ledger: OidcProvider) -> None:
    """
    RFC 9700 4.14.2: a thief has presented the refresh token first. The server revokes the family,
    we are told so once and ask no more, and the thief's token is worth nothing either.
    """
    first = ledger.refresh_token("agent", GRANTED)
    stolen = {"grant_type": "refresh_token", "refresh_token": first, "resource": OPAQUE}
    thief = {"client_id": "agent", "client_secret": SECRET}
    taken = json.loads(post_form(ledger.token_endpoint, stolen | thief))
    ledger.clear()
    cache = TokenCache(
        AuthorizationServer(issuer=ledger.issuer),
        ClientSecretBasic("agent", SECRET),
        grant=RefreshToken(first),
    )

    for resource in (OPAQUE, ORDERS, OPAQUE):
        with pytest.raises(OAuthError) as caught:
            cache.get(resource)
        assert "invalid_grant" == caught.value.error

    assert 1 == len(ledger.ledger())
    for token in (taken["access_token"], taken["refresh_token"]):
        assert not ledger.introspected(token, "agent", SECRET)["active"]


def test_a_resource_beyond_the_grant_costs_this_server_the_refresh_token(
    ledger: OidcProvider,
) -> None:
    """
    R8707-11: it replaces the refresh token before it looks at the target, and does not say by
    what. It is better to know the resources of a grant than to try.
    """
    cache = TokenCache(
        AuthorizationServer(issuer=ledger.issuer),
        ClientSecretBasic("agent", SECRET),
        grant=RefreshToken(ledger.refresh_token("agent", GRANTED)),
    )
    with pytest.raises(OAuthError, match="invalid_target"):
        cache.get(BILLING)
    with pytest.raises(TokenRequestError):
        cache.get(ORDERS)
