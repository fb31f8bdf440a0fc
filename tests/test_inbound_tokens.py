"""
Which tokens an API lets in: forged ones, those of others, and proofs of possession that are none.

The issuer is a scripted one, so that it can publish and sign anything; what it is asked goes over
sockets.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from resource_tokens import (
    AccessToken,
    AuthorizationServer,
    ConfigurationError,
    PublicClient,
    TokenEvent,
)
from resource_tokens.inbound import RequireToken, TokenRefusedError
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.possession import certificate_thumbprint
from resource_tokens.oauth.published_keys import verified
from resource_tokens.tokens import Secret
from tests.conftest import Clock
from tests.servers import signing
from tests.servers.scripted import Issuer
from tests.servers.signing import encoded, private_key, published, signed
from tests.servers.tls import certificate, trusting

API = "https://api.example.com/orders"
ISSUER = "https://login.example.com"
NOW = 1_800_000_000.0


CLAIMS = ["iss", "aud", "exp", "nbf", "iat", "sub", "scope", "scp", "client_id", "cnf", "token_use"]
GOOD = ("ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256")
USELESS = [
    {"kty": "oct", "kid": "symmetric", "k": encoded(b"k" * 32), "alg": "HS256"},
    {"kty": "oct", "kid": "symmetric as RS256", "k": encoded(b"k" * 32), "alg": "RS256"},
    published("RS256 encrypts", use="enc"),
    published("RS256 signs only", key_ops=["sign"]),
    published("RS256 odd operations", key_ops="verify"),
    published("RS256 weak"),
    {**published("RS256 private"), "d": "AQAB"},
    published("ES256 no point", x=None),
    published("ES256 a number for a point", x=7),
    published("ES256 off the curve", x=encoded(b"\1" * 32)),
    published("ES256 no base64", x="!"),
    published("ES256 of another algorithm", alg="ES384"),
    published("EdDSA too short", x=encoded(b"\1" * 8)),
    {"kty": "EC", "crv": "secp256k1", "kid": "another curve", "x": "AQ", "y": "AQ"},
    {"kty": "quantum", "kid": "unknown"},
    {"kid": "nothing"},
    "no key",
    None,
]


access_token = partial(signing.access_token, ISSUER, API, NOW)


@pytest.fixture(name="issuer", scope="module")
def _issuer() -> Iterator[Issuer]:
    with Issuer(ISSUER) as running:
        keys = [published(name) for name in GOOD]
        running.answer("/keys", 200, body=json.dumps({"keys": [*USELESS, *keys]}).encode())
        yield running


class Gate:
    """
    A `RequireToken`, its clocks and its events.
    """

    def __init__(self, issuer: Issuer) -> None:
        self.clock = Clock()
        self.wall = NOW
        self.events: list[TokenEvent] = []
        self._issuer = issuer

    def require(self, **changes: Any) -> RequireToken:
        arguments: dict[str, Any] = {
            # With a context at hand: to load all authorities of the system takes a while.
            "issuer": AuthorizationServer(issuer=ISSUER, verify=trusting()),
            "jwks_uri": f"{self._issuer.url}/keys",
            "audience": API,
            "on_event": self.events.append,
            "clock": self.clock,
            "wall_clock": lambda: self.wall,
        }
        return RequireToken(**arguments | changes)

    def refused(self, token: str, *, require: RequireToken | None = None, **headers: str) -> Any:
        """
        The error that a token meets.
        """
        require = require or self.require()
        presented = {"Authorization": f"Bearer {token}", **headers}
        with pytest.raises(TokenRefusedError) as caught:
            require.verify(presented, "GET", "/orders/7")
        return caught.value


@pytest.fixture(name="gate")
def _gate(issuer: Issuer) -> Gate:
    return Gate(issuer)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [*((name, name) for name in GOOD), ("RS256", "RS512"), ("RS256", "PS384"), ("PS256", "RS384")],
)
def test_every_asymmetric_algorithm_counts(gate: Gate, name: str, algorithm: str) -> None:
    """
    A token signed by a published key is let in, with what it says.
    """
    token = gate.require().verify(
        bearer(access_token(name, algorithm=algorithm)), "GET", "/orders/7"
    )

    assert (ISSUER, "alice", "orders-web") == (token.issuer, token.subject, token.client_id)
    assert (API,) == token.audience
    assert {"orders:read", "orders:write"} == token.scopes
    assert datetime.fromtimestamp(NOW + 300, UTC) == token.expires_at
    assert "1" == token.claims["jti"]


def _forged(address: str = "") -> dict[str, Callable[[], str]]:
    public = private_key("ES256").public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    evil = published("ES256 of an attacker")

    def by_secret(secret: bytes, kid: str) -> str:
        body = access_token(header={"alg": "HS256", "kid": kid}).rpartition(".")[0]
        hmac = jwt.get_algorithm_by_name("HS256")
        return f"{body}.{encoded(hmac.sign(body.encode(), secret))}"

    def brought_along(**header: Any) -> str:
        body = access_token().split(".")[1]
        head = encoded({"alg": "ES256", "typ": "at+jwt", "kid": "ES256", **header})
        signer = jwt.get_algorithm_by_name("ES256")
        signature = signer.sign(f"{head}.{body}".encode(), private_key("ES256 of an attacker"))
        return f"{head}.{body}.{encoded(signature)}"

    def cut() -> str:
        return access_token()[:-4]

    return {
        "alg none": lambda: access_token(header={"alg": "none"}).rpartition(".")[0] + ".",
        "alg nOnE": lambda: access_token(header={"alg": "nOnE"}).rpartition(".")[0] + ".",
        "alg none, signed": lambda: access_token(header={"alg": "none"}),
        "no alg": lambda: access_token(header={"alg": None}),
        "alg is a list": lambda: access_token(header={"alg": ["ES256"]}),
        "the public key as an HMAC secret": lambda: by_secret(pem, "ES256"),
        "the JWK as an HMAC secret": lambda: by_secret(
            json.dumps(published("ES256")).encode(), "ES256"
        ),
        "a symmetric key that is published": lambda: by_secret(b"k" * 32, "symmetric"),
        "no secret at all": lambda: by_secret(b"", "ES256"),
        "a key in the header": lambda: brought_along(jwk=evil),
        "the address of keys": lambda: brought_along(jku=f"{address}/elsewhere"),
        "the address of a certificate": lambda: brought_along(x5u=f"{address}/elsewhere"),
        "a certificate in the header": lambda: brought_along(x5c=["MIIB"]),
        "signed by somebody else": brought_along,
        "no signature": lambda: access_token().rpartition(".")[0] + ".",
        "half a signature": cut,
        "a signature of noughts": lambda: (
            access_token().rpartition(".")[0] + "." + encoded(bytes(64))
        ),
        "the key of another algorithm": lambda: access_token("RS256", header={"kid": "ES256"}),
        "another hash on the same curve": lambda: access_token(header={"alg": "ES384"}),
        "a critical extension": lambda: access_token(header={"crit": ["exp"]}),
        "no critical extension": lambda: access_token(header={"crit": []}),
        "a payload that is apart": lambda: access_token(header={"b64": False}),
        "kid is a path": lambda: access_token(header={"kid": "../../dev/null"}),
        "kid is a list": lambda: access_token(header={"kid": ["ES256"]}),
        "no kid, and several keys": lambda: access_token("RS256", header={"kid": None}),
        "claims in a list": lambda: signed("ES256", [1], {"typ": "at+jwt", "kid": "ES256"}),
        "claims that are no JSON": lambda: signed("ES256", b"{", {"typ": "at+jwt", "kid": "ES256"}),
        "claims that are deep": lambda: signed(
            "ES256", b"[" * 6000, {"typ": "at+jwt", "kid": "ES256"}
        ),
        "a header that is deep": lambda: f"{encoded(b'[' * 9000)}.e30.AA",
        "a header in a list": lambda: f"{encoded(['ES256'])}.e30.AA",
        "no header": lambda: ".e30.AA",
        "two parts": lambda: access_token().rpartition(".")[0],
        "four parts": lambda: access_token() + ".AA",
        "encrypted": lambda: access_token() + ".AA.AA",
        "one character more": lambda: access_token() + "A",
        "no base64": lambda: access_token().replace(".", ".!", 1),
        "too long": lambda: access_token(more="x" * 16_384),
        "a word": lambda: "token",
    }


@pytest.mark.parametrize("kind", _forged())
def test_a_forged_token_is_refused(gate: Gate, issuer: Issuer, kind: str) -> None:
    """
    Nothing that a token says of its own key or algorithm is believed, and no address in it asked.
    """
    issuer.clear()
    error = gate.refused(_forged(issuer.url)[kind]())

    assert (401, "invalid_token") == (error.status, error.error)
    assert [] == issuer.seen_under("/elsewhere")


@pytest.mark.parametrize(
    "kid", [key["kid"] for key in USELESS if isinstance(key, dict) and "kid" in key]
)
def test_a_key_that_is_not_for_signatures_verifies_none(gate: Gate, kid: str) -> None:
    """
    Published keys that are symmetric, weak, private, broken or for something else are left out.
    """
    name = kid if kid.startswith(("ES", "RS", "Ed")) else "ES256"

    error = gate.refused(access_token(name, header={"kid": kid}))

    assert "does not publish" in str(error)


def _of_others() -> dict[str, dict[str, Any]]:
    there = API
    return {
        "another audience": {"aud": "https://api.example.com/billing"},
        "a longer audience": {"aud": f"{there}/"},
        "a shorter audience": {"aud": there[:-1]},
        "another case": {"aud": there.upper()},
        "an audience of nothing": {"aud": []},
        "no audience": {"without": "aud"},
        "null": {"aud": None},
        "an empty audience": {"aud": ""},
        "a list with something else": {"aud": [there, 7]},
        "a list in a list": {"aud": [[there]]},
        "an object": {"aud": {there: there}},
        "several in one": {"aud": f"{there} https://api.example.com/billing"},
    }


@pytest.mark.parametrize("kind", _of_others())
def test_a_token_for_somebody_else_is_refused(gate: Gate, kind: str) -> None:
    """
    The audience is compared to the letter, and what is no audience is none.
    """
    error = gate.refused(access_token(**_of_others()[kind]))

    assert (401, "invalid_token") == (error.status, error.error)
    assert f"and not for '{API}'" in str(error)


def test_a_wrong_audience_is_an_event_with_both(gate: Gate) -> None:
    """
    P11: the event has the audience that was wanted, the one that came, where it was presented, and
    neither the token nor the query.
    """
    token = access_token(aud=["https://api.example.com/billing", "urn:other"])
    with pytest.raises(TokenRefusedError):
        gate.require().verify(bearer(token), "GET", "/orders/7?card=4111")

    rejected = gate.events[-1]
    assert ("inbound_rejected", API) == (rejected.name, rejected.resource)
    assert "for 'https://api.example.com/billing, urn:other'" in rejected.detail
    assert API in rejected.detail
    assert "https://api.example.com/orders/7" == rejected.destination
    assert token not in repr(rejected)


def test_one_of_several_audiences_is_enough(gate: Gate) -> None:
    """
    RFC 9068 4: this API has to be among them.
    """
    token = gate.require().verify(
        bearer(access_token(aud=["urn:example:billing", API])), "GET", "/orders/7"
    )

    assert ("urn:example:billing", API) == token.audience


@pytest.mark.parametrize(
    "written",
    [
        lambda own: f"{own}/",
        lambda own: own.upper(),
        lambda own: own[:-1],
        lambda own: [own],
        lambda _: "https://other.example.com",
        lambda _: "",
        lambda _: None,
        lambda _: 7,
    ],
)
def test_another_issuer_is_refused(gate: Gate, written: Callable[[str], object]) -> None:
    """
    RFC 9068 4: `iss` is equal to the letter, whoever has signed.
    """
    error = gate.refused(access_token(iss=written(ISSUER)))

    assert "from the issuer" in str(error)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": int(NOW) - 31}, "has expired"),
        ({"exp": int(NOW) - 30}, "has expired"),
        ({"exp": str(int(NOW) + 300)}, "does not say when"),
        ({"exp": True}, "does not say when"),
        ({"exp": float("nan")}, "does not say when"),
        ({"exp": float("inf")}, "does not say when"),
        ({"exp": 10**300}, "does not say when"),
        ({"exp": None}, "does not say when"),
        ({"without": "exp"}, "does not say when"),
        ({"exp": 0}, "has expired"),
        ({"nbf": int(NOW) + 31}, "nbf"),
        ({"nbf": "soon"}, "nbf"),
        ({"iat": int(NOW) + 31}, "iat"),
        ({"iat": False}, "iat"),
        ({"token_use": "id"}, "token_use"),
        ({"token_use": ["access"]}, "token_use"),
        ({"cnf": {}}, "cnf"),
        ({"cnf": "key"}, "cnf"),
        ({"cnf": {"kid": "7"}}, "cnf"),
        ({"cnf": {"jkt": 7}}, "cnf"),
        ({"cnf": {"jkt": ""}}, "cnf"),
        ({"cnf": {"x5t#S256": ""}}, "cnf"),
        ({"cnf": {"jkt": "x", "jwk": {}}}, "cnf"),
    ],
)
def test_a_token_that_is_not_good_now_or_not_understood_is_refused(
    gate: Gate, claims: dict[str, Any], reason: str
) -> None:
    """
    Times are numbers, and a binding that cannot be checked lets nobody in.
    """
    assert reason in str(gate.refused(access_token(**claims)))


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": int(NOW) - 29},
        {"nbf": int(NOW) + 30},
        {"iat": int(NOW) + 30},
        {"without": "iat"},
        {"nbf": None},
        {"cnf": None},
        {"token_use": "access"},
    ],
)
def test_clocks_may_be_half_a_minute_apart(gate: Gate, claims: dict[str, Any]) -> None:
    """
    By default; what a token does not say is not held against it.
    """
    assert gate.require().verify(bearer(access_token(**claims)), "GET", "/orders/7")


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
def test_the_type_of_an_access_token(gate: Gate, typ: str) -> None:
    """
    RFC 9068 4: either form, without regard to letter case.
    """
    assert gate.require().verify(bearer(access_token(header={"typ": typ})), "GET", "/orders/7")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "application/jwt", None])
def test_other_jwts_need_leave(gate: Gate, typ: str | None) -> None:
    """
    An ID token is no access token, unless the API says that its issuer does not tell them apart.
    """
    token = access_token(header={"typ": typ})

    assert "typ" in str(gate.refused(token))
    assert gate.require(typ="JWT").verify(bearer(token), "GET", "/orders/7")


@pytest.mark.parametrize("typ", ["dpop+jwt", "logout+jwt", "secevent+jwt", "", ["at+jwt"], 7])
def test_what_says_to_be_something_else_is_refused(gate: Gate, typ: Any) -> None:
    """
    Even where JWTs without a type of their own are taken.
    """
    assert "typ" in str(
        gate.refused(access_token(header={"typ": typ}), require=gate.require(typ="JWT"))
    )


def test_algorithms_can_be_fewer(gate: Gate) -> None:
    """
    A key of an algorithm that does not count verifies nothing.
    """
    require = gate.require(algorithms=["ES256"])

    assert require.verify(bearer(access_token("ES256")), "GET", "/orders/7")
    assert "alg" in str(gate.refused(access_token("RS256"), require=require))


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "a b"}, {"a", "b"}),
        ({"scope": ""}, set()),
        ({"without": "scope"}, set()),
        ({"scope": ["a", "b"]}, {"a", "b"}),
        ({"scope": ["a", 7]}, set()),
        ({"scope": 7}, set()),
        ({"without": "scope", "scp": "a"}, {"a"}),
        ({"scope": "a", "scp": ["b"]}, {"a", "b"}),
    ],
)
def test_scopes_as_servers_write_them(gate: Gate, claims: dict[str, Any], scopes: set[str]) -> None:
    """
    RFC 9068 2.2.3, `scp` of Entra ID and Okta; what is malformed allows nothing.
    """
    token = gate.require().verify(bearer(access_token(**claims)), "GET", "/orders/7")

    assert scopes == token.scopes


@pytest.mark.parametrize(
    ("claims", "client_id"),
    [
        ({}, "orders-web"),
        ({"without": "client_id", "azp": "a"}, "a"),
        ({"client_id": 7, "appid": "b"}, "b"),
        ({"without": "client_id", "cid": "c"}, "c"),
        ({"without": "client_id"}, None),
    ],
)
def test_the_client_as_servers_write_it(
    gate: Gate, claims: dict[str, Any], client_id: str | None
) -> None:
    """
    RFC 9068 2.2, and what others call it.
    """
    token = gate.require().verify(bearer(access_token(**claims)), "GET", "/orders/7")

    assert client_id == token.client_id


def test_a_missing_scope_is_403_and_named(gate: Gate) -> None:
    """
    RFC 6750 3.1: the challenge says which scopes are needed; case counts.
    """
    require = gate.require(scopes=["orders:read"]).with_scopes("Orders:Write")
    error = gate.refused(access_token(), require=require)

    assert (403, "insufficient_scope") == (error.status, error.error)
    challenge = error.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer error="insufficient_scope"')
    assert 'scope="Orders:Write orders:read"' in challenge
    assert (
        gate.require()
        .with_scopes("orders:write")
        .verify(bearer(access_token()), "GET", "/orders/7")
    )


@pytest.fixture(name="known_gate", scope="module")
def _known_gate(issuer: Issuer) -> RequireToken:
    """
    One that has read the keys, for many tokens.
    """
    return Gate(issuer).require(typ="JWT", base_url="https://api.example.com")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "x5c", "b64", "cnf", "aud"])
MEMBERS = st.dictionaries(NAMES, JSON | st.sampled_from(["ES256", "none", "at+jwt", "dpop+jwt"]))
PARTS = st.one_of(st.text(), st.binary().map(encoded), MEMBERS.map(encoded))


@given(parts=st.lists(PARTS, max_size=5), header=st.sampled_from(["Authorization", "DPoP"]))
def test_whatever_comes_is_refused_and_breaks_nothing(
    known_gate: RequireToken, parts: list[str], header: str
) -> None:
    """
    Nothing that looks like a token or a proof and is none causes another error than the refusal.
    """
    token = bound_token()
    given_headers = [("Authorization", f"DPoP {token}")] if header == "DPoP" else []
    scheme = "" if header == "DPoP" else "Bearer "

    with pytest.raises(TokenRefusedError):
        known_gate.verify([*given_headers, (header, scheme + ".".join(parts))], "GET", "/")


@given(
    payload=st.sampled_from([b"{}", b"[]", b"{", b"1", b"\xff"]),
    place=st.integers(0, 130),
    more=st.text("AQg_-.!=\u00e9", max_size=6),
    kept=st.booleans(),
)
def test_signatures_are_judged_as_by_pyjwt(
    payload: bytes, place: int, more: str, kept: bool
) -> None:
    """
    What is taken apart here is what PyJWT takes for signed, to the letter; but for padding, which
    RFC 7515 does not allow.
    """
    token = signed("EdDSA", payload, {})
    token = token[:place] + more + (token[place:] if kept else "")
    key = private_key("EdDSA").public_key()
    try:
        expected = json.loads(jwt.PyJWS().decode(token, key, ["EdDSA"]))
    except (jwt.PyJWTError, ValueError):
        expected = None

    found = verified(Secret(token), key, "EdDSA")

    assert found == (None if "=" in token or not isinstance(expected, dict) else expected)


@given(data=st.data())
def test_a_token_with_one_other_character_is_refused(
    known_gate: RequireToken, data: st.DataObject
) -> None:
    """
    Wherever it is: the signature is over all of it, and has one spelling.
    """
    token = access_token("EdDSA")
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("AbZ09_-.=").filter(lambda c: c != token[place]))

    with pytest.raises(TokenRefusedError):
        known_gate.verify(bearer(token[:place] + other + token[place + 1 :]), "GET", "/")


@given(claims=st.dictionaries(st.sampled_from(CLAIMS), JSON))
def test_signed_claims_of_any_kind_break_nothing(
    known_gate: RequireToken, claims: dict[str, Any]
) -> None:
    """
    What an issuer signs is judged or refused, whatever types it writes.
    """
    token = access_token("EdDSA", **claims)

    with suppress(TokenRefusedError):
        assert API in known_gate.verify(bearer(token), "GET", "/").audience


# How a token is presented


@pytest.mark.parametrize(
    ("headers", "target", "expected"),
    [
        ([], "/", (401, "")),
        ([("Authorization", "Basic b2s6b2s=")], "/", (401, "")),
        ([("Authorization", "Bearer")], "/", (400, "invalid_request")),
        ([("Authorization", "Bearer ")], "/", (400, "invalid_request")),
        ([("Authorization", "Bearer a b")], "/", (400, "invalid_request")),
        ([("Authorization", "Bearer {}, Bearer {}")], "/", (400, "invalid_request")),
        ([("Authorization", "Bearer {}\u00e9")], "/", (400, "invalid_request")),
        ([("Authorization", "Bearer {}\x00")], "/", (401, "invalid_token")),
        (
            [("Authorization", "Bearer {}"), ("authorization", "Bearer {}")],
            "/",
            (400, "invalid_request"),
        ),
        ([("Authorization", "Bearer {}"), ("Authorization", "")], "/", (400, "invalid_request")),
        ([("Authorization", "Bearer {}")], "/?access_token={}", (400, "invalid_request")),
        ([("Authorization", "Bearer {}")], "/?a=1&access_token={}", (400, "invalid_request")),
        ([], "/?access_token={}", (401, "")),
        ([("X-Authorization", "Bearer {}")], "/", (401, "")),
        ([("Cookie", "access_token={}")], "/", (401, "")),
    ],
)
def test_a_token_is_taken_from_one_place_only(
    gate: Gate, headers: list[tuple[str, str]], target: str, expected: tuple[int, str]
) -> None:
    """
    RFC 6750 2 and 3.1: one `Authorization` header and nothing else; a request without a token gets
    no error code, and is no event.
    """
    token = access_token()
    given = [(name, value.replace("{}", token)) for name, value in headers]
    with pytest.raises(TokenRefusedError) as caught:
        gate.require().verify(given, "GET", target.replace("{}", token))

    assert expected == (caught.value.status, caught.value.error)
    assert (caught.value.error != "") == ("inbound_rejected" in {e.name for e in gate.events})
    assert token not in repr(gate.events)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "bearer {}"},
        {"AUTHORIZATION": "BEARER   {} "},
        [(b"authorization", b"Bearer {}")],
        [("Authorization", "Bearer {}"), ("X-Access-Token", "other")],
    ],
)
def test_headers_in_every_form(gate: Gate, headers: Any) -> None:
    """
    Mappings and pairs, text and bytes, in any letter case (RFC 9110 11.1).
    """
    token = access_token()
    pairs = headers.items() if isinstance(headers, dict) else headers
    given = [
        (name, value.replace(b"{}", token.encode()))
        if isinstance(value, bytes)
        else (name, value.replace("{}", token))
        for name, value in pairs
    ]

    assert gate.require().verify(
        dict(given) if isinstance(headers, dict) else given, "GET", "https://api.example.com?x=1"
    )


def test_no_token_in_errors_logs_or_tracebacks(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """
    P9: whatever is wrong with it, the token stays out of the error, its traceback with all local
    variables of ours, the events, the answers and the logs.
    """
    require = gate.require(scopes=["admin"])
    tokens = [access_token(), access_token(aud="x"), access_token()[:-4], "opaque-token-of-mine"]
    shown = []
    with caplog.at_level(logging.DEBUG):
        for token in tokens:
            error = gate.refused(token, require=require, DPoP=token)
            frames = traceback.TracebackException.from_exception(error, capture_locals=True)
            for frame in frames.stack:
                if "resource_tokens/" not in frame.filename:
                    frame.locals = None
            shown += ["".join(frames.format()), repr(error), repr(error.__context__)]
            shown += [repr(error.headers), repr(pickle.loads(pickle.dumps(error)))]

    text = "\n".join([*shown, caplog.text, repr(gate.events), repr(require)])
    assert [] == [token for token in tokens if token in text or token.split(".")[-1] in text]


def test_a_token_that_came_in_shows_and_stores_nothing(gate: Gate) -> None:
    """
    P9: neither the token nor its claims are in the `repr`, and it does not pickle.
    """
    given = access_token(email="alice@example.com")
    token = gate.require().verify(bearer(given), "GET", "/orders/7")

    assert given not in repr(token)
    assert "alice@example.com" not in repr(token)
    assert given == token.subject_token().reveal()
    with pytest.raises(TypeError):
        pickle.dumps(token)
    with pytest.raises(TypeError):
        token.claims["scope"] = "admin"  # type: ignore[index]


# Proofs of possession


KEY = ec.generate_private_key(ec.SECP256R1())
PROOFS = ProofKey(KEY)


def proof(
    token: str,
    *,
    key: Any = KEY,
    header: dict[str, Any] | None = None,
    without: str = "",
    **claims: Any,
) -> str:
    """
    A good proof for `GET https://api.example.com/orders/7` with these changes.
    """
    digest = hashlib.sha256(token.encode()).digest()
    found = {
        "jti": "1",
        "htm": "GET",
        "htu": "https://api.example.com/orders/7",
        "iat": int(NOW),
        "ath": encoded(digest),
    } | claims
    found = {name: value for name, value in found.items() if name != without}
    jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk} | (header or {})
    body = f"{encoded(head)}.{encoded(found)}"
    signature = jwt.get_algorithm_by_name("ES256").sign(body.encode(), key)
    return f"{body}.{encoded(signature)}"


def bound_token(**claims: Any) -> str:
    return access_token(cnf={"jkt": PROOFS.thumbprint}, **claims)


def with_proof(token: str, *proofs: str) -> list[tuple[str, str]]:
    return [("Authorization", f"DPoP {token}"), *(("DPoP", each) for each in proofs)]


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_bound_token_comes_in_with_the_proof_of_its_key(gate: Gate, algorithm: Any) -> None:
    """
    RFC 9449 7.1, with the proofs that the client's side of this library makes.
    """
    key = ProofKey(algorithm=algorithm)
    token = access_token(cnf={"jkt": key.thumbprint})
    own = AccessToken(Secret(token), API, "DPoP", frozenset(), datetime.now(UTC))
    made = key.proof("PUT", "https://API.example.com:443/orders/%7e7?x=1", NOW, token=own)

    come_in = gate.require().verify(with_proof(token, made), "PUT", "/orders/~7?y=2")

    assert "alice" == come_in.subject


def test_a_proof_of_an_rsa_key(gate: Gate) -> None:
    """
    RFC 7638 3.2: the thumbprint of each kind of key.
    """
    key = private_key("RS256 of a client")
    jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    members = json.dumps({n: jwk[n] for n in ("e", "kty", "n")}, separators=(",", ":"))
    thumbprint = encoded(hashlib.sha256(members.encode()).digest())
    token = access_token(cnf={"jkt": thumbprint})
    head, body, _ = proof(token, header={"alg": "PS256", "jwk": jwk}).split(".")
    signature = jwt.get_algorithm_by_name("PS256").sign(f"{head}.{body}".encode(), key)

    assert gate.require().verify(
        with_proof(token, f"{head}.{body}.{encoded(signature)}"), "GET", "/orders/7"
    )


OTHER = ec.generate_private_key(ec.SECP256R1())
OTHER_JWK = ECAlgorithm.to_jwk(OTHER.public_key(), as_dict=True)
OWN_JWK = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
BAD_PROOFS: dict[str, dict[str, Any]] = {
    "another typ": {"header": {"typ": "JWT"}},
    "no typ": {"header": {"typ": None}},
    "alg none": {"header": {"alg": "none"}},
    "symmetric": {"header": {"alg": "HS256"}},
    "another algorithm": {"header": {"alg": "ES384"}},
    "no key": {"header": {"jwk": None}},
    "a key in words": {"header": {"jwk": "key"}},
    "a private key": {"header": {"jwk": OWN_JWK | {"d": "AQAB"}}},
    "a symmetric key": {"header": {"jwk": {"kty": "oct", "k": "AQAB"}}},
    "half a key": {"header": {"jwk": {"kty": "EC", "crv": "P-256", "x": OWN_JWK["x"]}}},
    "a critical extension": {"header": {"crit": ["exp"]}},
    "a payload apart": {"header": {"b64": False}},
    "another key": {"key": OTHER},
    "another key than it says": {"key": OTHER, "header": {"jwk": OWN_JWK}},
    "its own key, but signed by another": {"header": {"jwk": OTHER_JWK}},
    "another method": {"htm": "POST"},
    "another letter case of the method": {"htm": "get"},
    "no method": {"without": "htm"},
    "another path": {"htu": "https://api.example.com/orders/8"},
    "a path above": {"htu": "https://api.example.com/orders"},
    "a longer path": {"htu": "https://api.example.com/orders/7/"},
    "another letter case of the path": {"htu": "https://api.example.com/Orders/7"},
    "dot segments": {"htu": "https://api.example.com/x/../orders/7"},
    "another host": {"htu": "https://evil.example.com/orders/7"},
    "another port": {"htu": "https://api.example.com:8443/orders/7"},
    "plain http": {"htu": "http://api.example.com/orders/7"},
    "userinfo": {"htu": "https://api.example.com@evil.example.com/orders/7"},
    "no URL": {"htu": "/orders/7"},
    "a list of URLs": {"htu": ["https://api.example.com/orders/7"]},
    "nowhere": {"without": "htu"},
    "too old": {"iat": int(NOW) - 61},
    "from the future": {"iat": int(NOW) + 31},
    "a time in words": {"iat": "now"},
    "no time": {"without": "iat"},
    "another token": {"ath": encoded(hashlib.sha256(b"other").digest())},
    "no token": {"without": "ath"},
    "no number": {"without": "jti"},
    "an empty number": {"jti": ""},
    "a number that is no text": {"jti": 7},
}


@pytest.mark.parametrize("kind", BAD_PROOFS)
def test_a_proof_of_something_else_is_refused(gate: Gate, kind: str) -> None:
    """
    RFC 9449 4.3: each of its rules, one at a time.
    """
    token = bound_token()
    with pytest.raises(TokenRefusedError) as caught:
        gate.require().verify(
            with_proof(token, proof(token, **BAD_PROOFS[kind])), "GET", "/orders/7"
        )

    assert (401, "invalid_dpop_proof") == (caught.value.status, caught.value.error)
    assert caught.value.headers["WWW-Authenticate"].startswith("DPoP ")


@pytest.mark.parametrize("kind", ["none", "two", "joined", "long", "no JWT", "a list", "encrypted"])
def test_there_is_one_proof_and_it_is_a_jwt(gate: Gate, kind: str) -> None:
    """
    RFC 9449 4.3, 1 and 2.
    """
    token = bound_token()
    made = proof(token)
    given = {
        "none": (),
        "two": (made, proof(token, jti="2")),
        "joined": (f"{made}, {made}",),
        "long": (proof(token, jti="x" * 8192),),
        "no JWT": ("proof",),
        "a list": (f"{encoded(['x'])}.e30.AA",),
        "encrypted": (f"{made}.AA.AA",),
    }
    with pytest.raises(TokenRefusedError) as caught:
        gate.require().verify(with_proof(token, *given[kind]), "GET", "/orders/7")

    assert "invalid_dpop_proof" == caught.value.error


def test_a_bound_token_is_not_taken_as_bearer(gate: Gate) -> None:
    """
    RFC 9449 7.2: whoever has stolen it cannot present it without the key, proof or no proof.
    """
    token = bound_token()
    error = gate.refused(token, DPoP=proof(token))

    assert (401, "invalid_token") == (error.status, error.error)
    assert error.headers["WWW-Authenticate"].startswith("DPoP ")


def test_a_bearer_token_is_not_taken_as_bound(gate: Gate) -> None:
    """
    RFC 9449 7.1: a proof of any key does not make it one.
    """
    token = access_token()
    with pytest.raises(TokenRefusedError, match="bound to no key"):
        gate.require().verify(with_proof(token, proof(token)), "GET", "/orders/7")


def test_a_proof_is_good_once(gate: Gate) -> None:
    """
    RFC 9449 11.1: until it is too old, by the clocks of both; another key's `jti` is another.
    """
    token = bound_token()
    require = gate.require()
    made = proof(token, iat=int(NOW) + 30)
    require.verify(with_proof(token, made), "GET", "/orders/7")

    for passed in (0, 60, 29):
        gate.clock.advance(passed)
        gate.wall += passed
        with pytest.raises(TokenRefusedError, match="used before"):
            require.verify(with_proof(token, made), "GET", "/orders/7")
    gate.clock.advance(2)
    gate.wall += 2
    with pytest.raises(TokenRefusedError, match="too old"):
        require.verify(with_proof(token, made), "GET", "/orders/7")


def test_what_is_kept_of_proofs_is_bounded(gate: Gate) -> None:
    """
    P10: by number and by age; and who has no good token fills nothing.
    """
    token = bound_token()
    require = gate.require()
    seen = require._check.proofs._seen
    for number in range(3):
        require.verify(with_proof(token, proof(token, jti=f"{number}")), "GET", "/orders/7")
    bad = bound_token(aud="urn:other")
    with pytest.raises(TokenRefusedError):
        require.verify(with_proof(bad, proof(bad, jti="9")), "GET", "/orders/7")

    assert (3, 65_536) == (len(seen), seen.maxsize)
    gate.clock.advance(121)
    assert 0 == len(seen)


@pytest.mark.parametrize(
    ("options", "target", "htu"),
    [
        ({}, "/orders/7", "https://api.example.com/orders/7"),
        (
            {"base_url": "https://gw.example.com/shop/"},
            "/orders/7",
            "https://gw.example.com/shop/orders/7",
        ),
        (
            {"audience": "urn:orders", "resource": "https://o.example.com:8443/"},
            "/7",
            "https://o.example.com:8443/7",
        ),
        (
            {"audience": "urn:orders", "base_url": "http://10.0.0.8:8080"},
            "/7",
            "http://10.0.0.8:8080/7",
        ),
        ({}, "https://inside:8080//orders", "https://api.example.com//orders"),
        ({}, "/a%2Fb", "https://api.example.com/a%2fb"),
    ],
)
def test_proofs_are_for_the_url_that_clients_know(
    gate: Gate, options: dict[str, Any], target: str, htu: str
) -> None:
    """
    Behind a gateway the URL of the API is what is configured; `Host` and the scheme of this side
    do not matter.
    """
    token = bound_token(aud=options.get("audience", API))
    headers = [*with_proof(token, proof(token, htu=htu)), ("Host", "evil.example.com")]

    assert gate.require(**options).verify(headers, "GET", target)


def test_without_a_url_no_proof_is_taken(gate: Gate) -> None:
    """
    A bound token is refused where nobody can say what its proof is for; the event tells what to do.
    """
    token = bound_token(aud="urn:orders")
    with pytest.raises(TokenRefusedError, match="no proof can be checked") as caught:
        gate.require(audience="urn:orders").verify(
            with_proof(token, proof(token)), "GET", "/orders/7"
        )

    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer ")
    assert "base_url" not in str(caught.value)
    assert "base_url=" in gate.events[-1].detail


def test_a_nonce_can_be_asked_for(gate: Gate) -> None:
    """
    RFC 9449 9: a proof needs the nonce of this API, which is good for five to ten minutes, in every
    process that has the secret.
    """
    secret = "thirty-two characters, or a few more"
    require = gate.require(nonce_secret=secret)
    token = bound_token(exp=int(NOW) + 3600)

    def attempt(nonce: object, jti: str) -> Any:
        made = proof(token, jti=jti, nonce=nonce, iat=int(gate.wall))
        return require.verify(with_proof(token, made), "GET", "/orders/7")

    with pytest.raises(TokenRefusedError) as caught:
        attempt(None, "1")
    headers = caught.value.headers
    nonce = headers["DPoP-Nonce"]
    assert "use_dpop_nonce" == caught.value.error
    assert 'error="use_dpop_nonce"' in headers["WWW-Authenticate"]

    assert attempt(nonce, "1")
    for wrong in ("", "x", [nonce]):
        with pytest.raises(TokenRefusedError, match="nonce"):
            attempt(wrong, "2")
    require = gate.require(nonce_secret=lambda: secret)
    gate.wall += 300
    assert attempt(nonce, "3")
    gate.wall += 300
    with pytest.raises(TokenRefusedError, match="nonce"):
        attempt(nonce, "4")
    assert secret not in repr(require)


# Certificates


LEAF = certificate("worker.example.com")
PEM = LEAF.cert_chain_pems[0].bytes().decode()
DER = base64.b64decode("".join(PEM.splitlines()[1:-1]))
THUMBPRINT = encoded(hashlib.sha256(DER).digest())
ESCAPED = PEM.replace("\n", "%0A").replace(" ", "%20").replace("+", "%2B").replace("/", "%2F")
STRANGE = certificate("other.example.com").cert_chain_pems[0].bytes().decode()


@pytest.mark.parametrize(
    "given",
    [PEM, PEM.encode(), PEM + STRANGE, DER, ESCAPED, f":{base64.b64encode(DER).decode()}:"],
    ids=["PEM", "PEM bytes", "chain", "DER", "escaped", "RFC 9440"],
)
def test_the_thumbprint_of_a_certificate(given: str | bytes) -> None:
    """
    RFC 8705 3.1: in each form in which servers and gateways pass one on.
    """
    assert THUMBPRINT == certificate_thumbprint(given)


@pytest.mark.parametrize("given", ["", "x", "::", ":*:", "-----BEGIN CERTIFICATE-----", b"-----x"])
def test_what_is_no_certificate_has_no_thumbprint(given: str | bytes) -> None:
    """
    And so is the one that no token is bound to.
    """
    assert "" == certificate_thumbprint(given)


def test_a_token_bound_to_a_certificate(gate: Gate) -> None:
    """
    RFC 8705 3: good on a connection with that certificate, and on no other.
    """
    token = bearer(access_token(cnf={"x5t#S256": THUMBPRINT}))
    require = gate.require()

    assert require.verify(token, "GET", "/", client_certificate=PEM)
    assert require.verify(token, "GET", "/", client_certificate=DER)
    with pytest.raises(TokenRefusedError, match="none was presented"):
        require.verify(token, "GET", "/")
    with pytest.raises(TokenRefusedError, match="another certificate"):
        require.verify(token, "GET", "/", client_certificate=STRANGE)
    with pytest.raises(TokenRefusedError, match="another certificate"):
        require.verify(token, "GET", "/", client_certificate="none")


def test_a_certificate_in_a_header_has_to_be_configured(gate: Gate) -> None:
    """
    What a client writes into a header is no certificate, unless a gateway owns that header; and
    then it alone counts, if it is there once.
    """
    token = access_token(cnf={"x5t#S256": THUMBPRINT})
    headers = [("Authorization", f"Bearer {token}"), ("Client-Cert", ESCAPED)]
    behind = gate.require(certificate_header="Client-Cert")

    assert behind.verify(headers, "GET", "/")
    for require, shown, connection in (
        (gate.require(), headers, None),
        (behind, headers[:1], PEM),
        (behind, [*headers, ("client-cert", ESCAPED)], None),
        (behind, [headers[0], ("Client-Cert", f"{ESCAPED}, {ESCAPED}"[:40])], None),
    ):
        with pytest.raises(TokenRefusedError, match="certificate"):
            require.verify(shown, "GET", "/", client_certificate=connection)


def test_a_token_bound_to_both_needs_both(gate: Gate) -> None:
    """
    A proof does not make up for a certificate.
    """
    token = access_token(cnf={"jkt": PROOFS.thumbprint, "x5t#S256": THUMBPRINT})
    require = gate.require()

    with pytest.raises(TokenRefusedError, match="none was presented"):
        require.verify(with_proof(token, proof(token)), "GET", "/orders/7")
    assert require.verify(
        with_proof(token, proof(token)), "GET", "/orders/7", client_certificate=PEM
    )


# Arguments


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issuer": None}, "issuer="),
        ({"issuer": AuthorizationServer(token_endpoint="https://login.example.com/t")}, "issuer="),
        ({"issuer": "http://login.example.com"}, "not https"),
        ({"audience": ""}, "audience="),
        ({"audience": ["a"]}, "audience="),
        ({"scopes": 7}, "scopes="),
        ({"resource": "urn:example:orders"}, "https URL"),
        ({"resource": "http://api.example.com/"}, "https URL"),
        ({"resource": "no URI"}, "no URI"),
        ({"base_url": "api.example.com"}, "base_url="),
        ({"base_url": "https://api.example.com/?x"}, "base_url="),
        ({"base_url": "https://user@api.example.com/"}, "base_url="),
        ({"base_url": "https://a\x00b/"}, "base_url="),
        ({"typ": "jwt"}, "typ="),
        ({"algorithms": []}, "algorithms="),
        ({"algorithms": "RS256"}, "algorithms="),
        ({"algorithms": ["HS256"]}, "can make one"),
        ({"algorithms": ["none"]}, "can make one"),
        ({"jwks_uri": "http://login.example.com/keys"}, "plain http"),
        ({"jwks_uri": 7}, "jwks_uri="),
        ({"introspection_endpoint": "ftp://login.example.com/"}, "introspection_endpoint="),
        ({"client_auth": "secret"}, "client_auth="),
        ({"client_auth": PublicClient("orders")}, "client_auth="),
        ({"nonce_secret": "short"}, "nonce_secret"),
        ({"skew": 30}, "skew="),
        ({"skew": timedelta(seconds=-1)}, "skew="),
    ],
)
def test_what_cannot_be_is_said_at_once(gate: Gate, changes: dict[str, Any], reason: str) -> None:
    """
    Before any request comes.
    """
    with pytest.raises(ConfigurationError, match=reason):
        gate.require(**changes)


async def nothing(*_: Any) -> None:
    """
    An application that answers nothing.
    """


def test_one_string_is_no_list_of_public_paths(gate: Gate) -> None:
    """
    Or "/health" would open "/".
    """
    with pytest.raises(ConfigurationError, match="public="):
        gate.require().middleware(nothing, public="/health")


@pytest.mark.parametrize("audience", ["urn:orders", "orders-api", "http://api.example.com/"])
def test_an_api_without_a_url_has_no_metadata(gate: Gate, audience: str) -> None:
    """
    RFC 9728 1.2: its identifier is an https URL.
    """
    require = gate.require(audience=audience)

    with pytest.raises(ConfigurationError, match="resource="):
        _ = require.metadata
    with pytest.raises(ConfigurationError, match="resource="):
        _ = require.metadata_path


def test_what_an_api_says_of_itself(gate: Gate) -> None:
    """
    RFC 9728 2: with all scopes that are asked for somewhere in it.
    """
    require = gate.require(scopes=["orders:read"])
    require.with_scopes("orders:write")

    assert "/.well-known/oauth-protected-resource/orders" == require.metadata_path
    assert {
        "resource": API,
        "authorization_servers": [ISSUER],
        "scopes_supported": ["orders:read", "orders:write"],
        "bearer_methods_supported": ["header"],
    } == {name: require.metadata[name] for name in require.metadata if "dpop" not in name}
    assert "ES256" in require.metadata["dpop_signing_alg_values_supported"]
    assert "scopes_supported" not in gate.require().metadata


def test_a_challenge_cannot_be_broken_out_of(gate: Gate) -> None:
    """
    RFC 6750 3: what a token says comes into the answer without quotes and controls.
    """
    error = gate.refused(access_token(aud='x", evil="1\r\nSet-Cookie: a=b'))

    challenge = error.headers["WWW-Authenticate"]
    assert "evil=?1" in challenge
    assert "\r" not in challenge
    assert "\n" not in challenge
