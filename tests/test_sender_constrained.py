"""
Tokens that are of no use without a key (DPoP, RFC 9449), against node-oidc-provider, which wants
nonces, and APIs that check each proof with another library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from resource_tokens import (
    AccessToken,
    AuthorizationServer,
    ClientSecretBasic,
    OAuthError,
    PrivateKeyJwt,
    ProofKey,
    PublicClient,
    RefreshToken,
    Resource,
    ResourceTokenAuth,
    TokenEvent,
)
from resource_tokens.redis import RedisTokenStore
from resource_tokens.stores import new_key
from tests.conftest import Caller
from tests.servers.apis import Sink
from tests.servers.ledger import Seen
from tests.servers.oidc_provider import OidcProvider
from tests.servers.oidc_provider.clients import SECRET, private_key, registered
from tests.servers.proofs import ProofApi, read_proof
from tests.servers.valkey import ValkeyServer
from tests.test_oidc_provider import BOTH

ORDERS = "https://orders.example.com/api"
BILLING = "urn:example:billing"
OPAQUE = "urn:example:opaque"
BASIC = ClientSecretBasic("client_secret_basic", SECRET)


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    resources: Any = {
        ORDERS: {"scopes": ["orders:read"]},
        BILLING: {"scopes": ["invoices:read"], "alg": "ES256"},
        OPAQUE: {"scopes": ["read"], "format": "opaque"},
    }
    clients = registered()
    with OidcProvider({"clients": clients, "resources": resources, "dpop": "nonces"}) as running:
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
    Two APIs on two origins, a gateway with both by path, and a sink that belongs to nobody.
    """

    def __init__(self, provider: OidcProvider, stack: ExitStack) -> None:
        known: Any = {"issuer": provider.issuer, "jwks_uri": provider.jwks_uri}
        self.provider = provider
        self.orders = stack.enter_context(ProofApi(ORDERS, **known))
        self.billing = stack.enter_context(ProofApi(BILLING, **known))
        self.gateway = stack.enter_context(
            ProofApi(audiences={"/orders": ORDERS, "/billing": BILLING}, **known)
        )
        self.sink = stack.enter_context(Sink())
        self.events: list[TokenEvent] = []

    def auth(self, client_auth: Any = BASIC, **options: Any) -> ResourceTokenAuth:
        changes: dict[str, Any] = options.pop("resource", {})
        orders = Resource(ORDERS, sender="dpop", **changes)
        billing = Resource(BILLING, sender="dpop", **changes)
        return ResourceTokenAuth(
            AuthorizationServer(issuer=self.provider.issuer),
            client_auth,
            resources={
                f"{self.orders.url}/": orders,
                f"{self.billing.url}/": billing,
                f"{self.gateway.url}/orders": orders,
                f"{self.gateway.url}/billing": billing,
            },
            on_event=self.events.append,
            **options,
        )

    def event_names(self) -> list[str]:
        return [event.name for event in self.events]


@pytest.fixture
def fleet(ledger: OidcProvider) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(ledger, stack)


def proofs_in(seen: list[Seen]) -> list[dict[str, Any]]:
    """
    The claims of each proof that came, good or not.
    """
    return [read_proof(proof)[1] for each in seen for proof in each.header("dpop")]


def test_each_api_gets_its_token_with_a_proof_for_each_request(
    caller: Caller, fleet: Fleet, ledger: OidcProvider
) -> None:
    """
    P1, P3, R9449-1 to R9449-8, R9449-10, R9700-2: the server wants a nonce and gets it at the
    second try, once for all resources; so does each API. Every proof is for its own request and
    never used twice.
    """
    fleet.orders.nonce, fleet.gateway.nonce = "orders-1", "gateway-1"
    with caller.client(auth=fleet.auth()) as client:
        answers = [
            client.request("POST", f"{fleet.orders.url}/v1/orders?id=7", content=b"{}"),
            client.get(f"{fleet.orders.url}/v1/orders"),
            client.get(f"{fleet.billing.url}/v1/%7Einvoices"),
            client.get(f"{fleet.gateway.url}/orders/7"),
            client.get(f"{fleet.gateway.url}/billing/7"),
        ]

    assert [200] * 5 == [answer.status_code for answer in answers]
    assert [ORDERS, ORDERS, BILLING, ORDERS, BILLING] == [a.json()["aud"] for a in answers]
    statuses = [(e["status"], e["error"]) for e in ledger.ledger()]
    assert [(400, "use_dpop_nonce"), (200, None), (200, None)] == statuses
    assert [401, 200, 200] == [seen.status for seen in fleet.orders.seen]
    assert [200] == [seen.status for seen in fleet.billing.seen]
    # One gateway, two resources: what one of them wants is nothing to the other.
    assert [401, 200, 401, 200] == [seen.status for seen in fleet.gateway.seen]
    claims = proofs_in([*fleet.orders.seen, *fleet.billing.seen, *fleet.gateway.seen])
    claims += [proof["claims"] for e in ledger.ledger() if (proof := e["proof"])]
    assert len(claims) == 11 == len({each["jti"] for each in claims})
    assert ["POST", "POST", "GET"] == [each["htm"] for each in claims[:3]]
    assert ["proof_renewed"] * 4 == [n for n in fleet.event_names() if n.startswith("proof")]
    assert "token_rejected" not in fleet.event_names()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_carry_a_proof_where_the_token_may_go_and_nowhere_else(
    caller: Caller, fleet: Fleet, status: int
) -> None:
    """
    P3, R1, R7, E1, R9449-2: within the resource each hop has its own, with its own target and
    method; to another API, another path of the gateway, or a stranger goes neither token nor proof.
    """
    sink = fleet.sink
    fleet.orders.redirect("/within", to=f"{fleet.gateway.url}/orders/new", status=status)
    fleet.gateway.redirect("/orders/along", to="/billing/landing", status=status)
    fleet.orders.redirect("/across", to=f"{fleet.billing.url}/landing", status=status)
    fleet.orders.redirect("/away", to=f"{sink.url}/landing", status=status)
    with caller.client(auth=fleet.auth(), follow_redirects=True) as client:
        within = client.request("POST", f"{fleet.orders.url}/within", content=b"{}")
        strays = [
            client.get(f"{fleet.gateway.url}/orders/along"),
            client.get(f"{fleet.orders.url}/across"),
            client.get(f"{fleet.orders.url}/away"),
        ]

    assert 200 == within.status_code
    assert [401, 401, 200] == [answer.status_code for answer in strays]
    lands = [*fleet.billing.seen, *fleet.gateway.seen_under("/billing"), *sink.seen]
    assert [([], [])] * 3 == [(s.header("authorization"), s.header("dpop")) for s in lands]
    first, second = proofs_in([fleet.orders.seen[0], fleet.gateway.seen[0]])
    assert ("POST", f"{fleet.orders.url}/within") == (first["htm"], first["htu"])
    method = "POST" if status in {307, 308} else "GET"
    assert (method, f"{fleet.gateway.url}/orders/new") == (second["htm"], second["htu"])
    assert 3 == fleet.event_names().count("token_withheld")


@BOTH
@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_either_algorithm_and_a_key_of_ones_own(
    caller: Caller, fleet: Fleet, ledger: OidcProvider, algorithm: Any
) -> None:
    """
    R9449-14: the token is bound to the key that was given.
    """
    key = ProofKey(algorithm=algorithm)
    with caller.client(auth=fleet.auth(proof_key=key)) as client:
        assert 200 == client.get(f"{fleet.orders.url}/").status_code

    (seen,) = fleet.orders.seen
    header, _, thumbprint = read_proof(seen.header("dpop")[0])
    assert (algorithm, key.thumbprint) == (header["alg"], thumbprint)
    assert {algorithm} == {e["proof"]["header"]["alg"] for e in ledger.ledger() if e["proof"]}


@BOTH
def test_a_second_try_has_another_assertion(
    caller: Caller, fleet: Fleet, ledger: OidcProvider
) -> None:
    """
    R9449-8, R7523-3: this server takes no `jti` twice, neither of a proof nor of an assertion.
    """
    name = "private_key_jwt ES256"
    auth = fleet.auth(PrivateKeyJwt(name, private_key("ES256"), algorithm="ES256"))
    with caller.client(auth=auth) as client:
        assert 200 == client.get(f"{fleet.orders.url}/").status_code

    entries: list[Any] = ledger.ledger()
    first, second = entries
    for part in ("assertion", "proof"):
        assert first[part]["claims"]["jti"] != second[part]["claims"]["jti"]
    assert ledger.token_endpoint == second["proof"]["claims"]["htu"]
    assert "ath" not in second["proof"]["claims"]


def test_a_refresh_token_of_a_public_client_is_bound_to_its_key(
    fleet: Fleet, ledger: OidcProvider, tmp_path: Path
) -> None:
    """
    R9449-12: whoever has its successor but not the key gets nothing.
    """
    key, stored = tmp_path / "key.jwk", list[str]()
    key.write_text(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))

    def token(refresh_token: str, proof_key: ProofKey) -> AccessToken:
        grant = RefreshToken(refresh_token, on_rotation=stored.append)
        auth = fleet.auth(PublicClient("none"), grant=grant, proof_key=proof_key)
        return auth.token_for(f"{fleet.orders.url}/")

    first = ledger.refresh_token("none", {ORDERS: "orders:read"}, ProofKey(key).thumbprint)
    token(first, ProofKey(key))
    token(stored[-1], ProofKey(key))
    with pytest.raises(OAuthError, match="invalid_grant"):
        token(stored[-1], ProofKey(ec.generate_private_key(ec.SECP256R1())))


@BOTH
def test_an_opaque_token_is_believed_to_be_bound(
    caller: Caller, ledger: OidcProvider, fleet: Fleet
) -> None:
    """
    R9449-6: its type says so, and the server knows by which key.
    """
    auth = fleet.auth()
    token = caller.token(auth.cache, Resource(OPAQUE, sender="dpop"))

    assert "DPoP" == token.token_type
    said = ledger.introspected(token.reveal(), "agent", SECRET)
    assert read_proof_of(auth, token) == said["cnf"]["jkt"]


def read_proof_of(auth: ResourceTokenAuth, token: AccessToken) -> str:
    """
    The thumbprint of the key that an auth object proves.
    """
    url = next(iter(auth.resources))[0]
    proof = auth.proof_for("GET", url, replace(token, resource=ORDERS))
    return read_proof(proof)[2]


def test_two_processes_share_a_token_only_with_one_key(fleet: Fleet, ledger: OidcProvider) -> None:
    """
    P2, R9449-14: in one Valkey server, sealed by the same key of the store.
    """
    mine, sealed_with = ProofKey(), new_key()
    with ValkeyServer() as valkey:

        def process(key: ProofKey) -> str:
            store = RedisTokenStore(valkey.url, keys=[sealed_with])
            auth = fleet.auth(store=store, proof_key=key)
            with httpx.Client(auth=auth) as client:
                assert 200 == client.get(f"{fleet.orders.url}/").status_code
            return auth.token_for(f"{fleet.orders.url}/").reveal()

        tokens = [process(mine), process(mine), process(ProofKey())]

    assert tokens[0] == tokens[1] != tokens[2]
    assert 2 == [entry["status"] for entry in ledger.ledger()].count(200)
    assert 1 == fleet.event_names().count("token_loaded")
