"""
Client authentication: what each method sends, with whose key, and what it never shows.

Signatures are checked by joserfc, which shares no code with PyJWT.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import traceback
import warnings
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus, unquote_plus

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc import jwt as independent
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from resource_tokens import (
    AuthorizationServer,
    ClientAssertionFile,
    ClientSecretBasic,
    ClientSecretJwt,
    ClientSecretPost,
    ConfigurationError,
    OAuthError,
    PrivateKeyJwt,
    PublicClient,
    ResourceTokenAuth,
    ResourceTokensError,
    TlsClientAuth,
    TokenRequestError,
)
from resource_tokens.oauth.assertions import check_assertions
from resource_tokens.oauth.client_auth import Authentication, ClientAuth, Recipient
from resource_tokens.oauth.dialects import Dialect
from resource_tokens.oauth.messages import ClientCertificate
from resource_tokens.oauth.token_endpoint import issued_token
from tests.conftest import CLIENT_ID, ORDERS, Caller, World
from tests.test_token_endpoint import answer
from tests.test_tokens import asked

ISSUER, ENDPOINT, NOW = (
    "https://login.example.com",
    "https://login.example.com/token",
    1_800_000_000.5,
)
SERVER = AuthorizationServer(issuer=ISSUER)
RECIPIENT = Recipient(SERVER, ENDPOINT, NOW, "urn:x:a")
WANTS_ENDPOINT = Dialect(name="hydra-like", assertion_audience="token_endpoint")
RAW_BASIC = Dialect(name="raw", basic_credentials="raw")
SECRET = "a secret of 64 bytes, as long as HS512 asks for: 0123456789abcdef"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: Any, password: bytes | None = None, form: Any = PrivateFormat.PKCS8) -> str:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return str(key.private_bytes(Encoding.PEM, form, encryption).decode())


@cache
def locked_pem() -> str:
    return pem(ec_key(), b"pass word")


def public_pem(key: Any) -> str:
    public = key.public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: RSAKey, ec.EllipticCurvePrivateKey: ECKey}
    kind: Any = next((k for base, k in kinds.items() if isinstance(key, base)), OKPKey)
    members_of_key: dict[str, Any] = kind.import_key(pem(key)).as_dict(private=True)
    return members_of_key | members


def certificate_of(key: Any) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "orders-worker")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    hashed = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return built.sign(key, hashed).public_bytes(Encoding.PEM).decode()


@cache
def a_certificate() -> str:
    return certificate_of(ec_key())


def thumbprint(certificate: str) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).digest()


def written(path: Path, text: str) -> Path:
    """
    A file with this text, replaced as a whole.
    """
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    return new.replace(path)


class Presented(NamedTuple):
    """
    An assertion as the server sees it.
    """

    header: dict[str, Any]
    claims: dict[str, Any]


def verified(proof: Authentication, key: Any) -> Presented:
    """
    What the assertion of a request says, its signature checked by somebody else's code.
    """
    assertion = dict(proof.parameters)["client_assertion"]
    kinds: dict[Any, Any] = {rsa.RSAPrivateKey: RSAKey, ec.EllipticCurvePrivateKey: ECKey}
    if isinstance(key, str):
        imported: Any = OctKey.import_key(key)
    else:
        kind = next((k for base, k in kinds.items() if isinstance(key, base)), OKPKey)
        imported = kind.import_key(public_pem(key))
    algorithms = ["RS256", "PS256", "ES256", "EdDSA", "HS256", "HS384", "HS512"]
    with warnings.catch_warnings():
        # RFC 9864 has another name for it, which few servers know yet.
        warnings.filterwarnings("ignore", message="EdDSA is deprecated")
        token = independent.decode(assertion, imported, algorithms=algorithms)
    return Presented(token.header, token.claims)


def shown_by(error: BaseException) -> str:
    """
    Everything that a reporter of errors could print of it: messages, and the variables of our
    own frames, for the whole chain.
    """
    shown = []
    link: BaseException | None = error
    while link is not None:
        frames = traceback.TracebackException.from_exception(link, capture_locals=True)
        for frame in frames.stack:
            if "resource_tokens/" not in frame.filename:
                frame.locals = None
        shown.append("".join(frames.format(chain=False)) + repr(vars(link)))
        link = link.__cause__ or link.__context__
    return "\n".join(shown)


def refused(make: Callable[[], object], *secrets: str, match: str) -> str:
    """
    The message of the ConfigurationError that `make` raises, which shows none of the secrets.
    """
    with pytest.raises(ConfigurationError, match=match) as caught:
        make()
    shown = shown_by(caught.value)
    assert [] == [secret for secret in secrets if secret and secret in shown]
    return str(caught.value)


def hidden_part(key_pem: str) -> str:
    """
    A line of a PEM that nobody may see.
    """
    return key_pem.splitlines()[1]


@pytest.mark.parametrize(
    ("key", "algorithm", "expected"),
    [
        (rsa_key, None, "RS256"),
        (rsa_key, "RS256", "RS256"),
        (rsa_key, "PS256", "PS256"),
        (ec_key, None, "ES256"),
        (ec_key, "ES256", "ES256"),
        (ed_key, None, "EdDSA"),
        (ed_key, "EdDSA", "EdDSA"),
    ],
)
def test_a_private_key_signs_an_assertion(key: Any, algorithm: Any, expected: str) -> None:
    """
    R7523-1, R7523-2, R7523-4, R7523-5, R7523-9: the whole request, for every kind of key.
    """
    client_auth = PrivateKeyJwt("worker", pem(key()), algorithm=algorithm, key_id="k 1")

    proof = client_auth.authenticate(RECIPIENT)

    header, claims = verified(proof, key())
    assert {"alg": expected, "typ": "client-authentication+jwt", "kid": "k 1"} == header
    jti = claims.pop("jti")
    assert {
        "iss": "worker",
        "sub": "worker",
        "aud": ISSUER,
        "iat": 1_800_000_000,
        "exp": 1_800_000_060,
    } == claims
    assert len(urlsafe_b64decode(jti + "==")) * 8 >= 128
    assert "private_key_jwt" == client_auth.method
    assert {} == proof.headers
    assert proof.certificate is None
    assert ["client_id", "client_assertion_type", "client_assertion"] == [
        n for n, _ in proof.parameters
    ]
    assert ("worker", JWT_BEARER) == tuple(value for _, value in proof.parameters[:2])


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_client_secret_signs_an_assertion(algorithm: Any) -> None:
    """
    R7523-1, R7523-2, R7523-4: and the secret itself is not sent.
    """
    client_auth = ClientSecretJwt("worker", SECRET, algorithm)

    proof = client_auth.authenticate(RECIPIENT)

    header, claims = verified(proof, SECRET)
    assert {"alg": algorithm, "typ": "client-authentication+jwt"} == header
    assert ("worker", "worker", ISSUER) == (claims["iss"], claims["sub"], claims["aud"])
    assert "client_secret_jwt" == client_auth.method
    assert SECRET not in repr([*proof.parameters, proof.headers])


def test_a_request_carries_the_assertion_and_nothing_else() -> None:
    """
    R6749-1, R7523-1: one method in the body of a token request, and no header.
    """
    message = asked(client_auth=PrivateKeyJwt("worker", ec_key())).message(ENDPOINT, NOW)

    names = [pair.partition("=")[0] for pair in message.body.decode().split("&")]
    assert ["client_id", "client_assertion_type", "client_assertion"] == names[-3:]
    assert "client_secret" not in names
    assert "Authorization" not in message.headers


FORMS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "pem": lambda _: {"key": pem(ec_key())},
    "pem-bytes": lambda _: {"key": pem(ec_key()).encode()},
    "sec1": lambda _: {"key": pem(ec_key(), form=PrivateFormat.TraditionalOpenSSL)},
    "encrypted": lambda _: {"key": pem(ec_key(), b"pass word"), "password": "pass word"},
    "encrypted-files": lambda at: {
        "key": written(at / "key.pem", pem(ec_key(), b"pass word")),
        "password": written(at / "password", "pass word\n"),
    },
    "jwk": lambda _: {"key": jwk(ec_key())},
    "jwk-text": lambda _: {"key": "\n " + json.dumps(jwk(ec_key()))},
    "jwk-file": lambda at: {"key": written(at / "key.json", json.dumps(jwk(ec_key())))},
    "pem-file": lambda at: {"key": written(at / "key.pem", pem(ec_key()))},
    "pem-with-certificate": lambda _: {"key": certificate_of(ec_key()) + pem(ec_key())},
    "function": lambda _: {"key": lambda: pem(ec_key())},
    "object": lambda _: {"key": ec_key()},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_can_be_given_in_many_forms(form: str, tmp_path: Path) -> None:
    """
    PEM, JWK, file, function or object: the same key, the same fingerprint, a good signature.
    """
    client_auth = PrivateKeyJwt("worker", **FORMS[form](tmp_path))

    assert "worker" == verified(client_auth.authenticate(RECIPIENT), ec_key()).claims["sub"]
    assert PrivateKeyJwt("worker", ec_key()).fingerprint() == client_auth.fingerprint()
    assert client_auth.rotates == (form in {"encrypted-files", "jwk-file", "pem-file", "function"})


@pytest.mark.parametrize("key", [rsa_key, ed_key])
def test_other_kinds_of_keys_can_be_jwks(key: Any) -> None:
    """
    RFC 7518 6.3, RFC 8037 2.
    """
    client_auth = PrivateKeyJwt("worker", jwk(key()))

    assert "worker" == verified(client_auth.authenticate(RECIPIENT), key()).claims["sub"]


def test_a_jwk_says_how_it_is_used() -> None:
    """
    RFC 7517 4: `kid`, `alg` and `x5t#S256` of the JWK are taken, unless something else is given.
    """
    key = jwk(rsa_key(), kid="k-1", alg="PS256", use="sig", key_ops=["sign"]) | {"x5t#S256": "abc"}

    own = verified(PrivateKeyJwt("w", key).authenticate(RECIPIENT), rsa_key()).header
    other = PrivateKeyJwt("w", key, algorithm="RS256", key_id="k-2")

    assert ("PS256", "k-1", "abc") == (own["alg"], own["kid"], own["x5t#S256"])
    header = verified(other.authenticate(RECIPIENT), rsa_key()).header
    assert ("RS256", "k-2") == (header["alg"], header["kid"])


@pytest.mark.parametrize("key", [rsa_key, ec_key, ed_key])
def test_a_certificate_is_named_by_its_thumbprint(key: Any, tmp_path: Path) -> None:
    """
    RFC 7515 4.1.8: `x5t#S256`, which Entra ID finds the key by. A file with key and certificate
    is both.
    """
    certificate = certificate_of(key())
    both = written(tmp_path / "both.pem", pem(key()) + certificate)
    expected = urlsafe_b64encode(thumbprint(certificate)).decode().rstrip("=")

    for client_auth in (
        PrivateKeyJwt("worker", pem(key()), certificate=certificate),
        PrivateKeyJwt("worker", both, certificate=both),
    ):
        header = verified(client_auth.authenticate(RECIPIENT), key()).header
        assert expected == header["x5t#S256"]
        assert "kid" not in header


def edited(**members: Any) -> dict[str, Any]:
    return jwk(ec_key(), **members)


def without(member: str) -> dict[str, Any]:
    return {name: value for name, value in jwk(ec_key()).items() if name != member}


WRONG_KEYS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "none": (lambda: None, {}, "environment"),
    "empty": (lambda: "", {}, "environment"),
    "number": (lambda: 7, {}, "is a int"),
    "a path as text": (lambda: "/etc/keys/worker.pem", {}, "is no PEM.*pathlib"),
    "public pem": (lambda: public_pem(rsa_key()), {}, "public key or certificate"),
    "certificate": (lambda: certificate_of(ec_key()), {}, "public key or certificate"),
    "public object": (lambda: rsa_key().public_key(), {}, "public key or certificate"),
    "public jwk": (lambda: without("d"), {}, "public JWK"),
    "symmetric jwk": (lambda: {"kty": "oct", "k": "c2VjcmV0"}, {}, "ClientSecretJwt"),
    "jwk set": (lambda: {"keys": [jwk(ec_key())]}, {}, "JWK Set"),
    "encryption jwk": (lambda: edited(use="enc"), {}, "not for signing"),
    "deriving jwk": (lambda: edited(key_ops=["deriveKey"]), {}, "not for signing"),
    "odd key_ops": (lambda: edited(key_ops="sign"), {}, "not for signing"),
    "odd kid": (lambda: edited(kid=7), {}, "no string"),
    "odd kty": (lambda: edited(kty="XX"), {}, "no valid private JWK"),
    "no kty": (lambda: without("kty"), {}, "no valid private JWK"),
    "cut jwk": (lambda: json.dumps(jwk(ec_key()))[:-1], {}, "no valid private JWK"),
    "jwk of no json": (lambda: edited(x=b"\0"), {}, "neither PEM nor JWK"),
    "jwk with password": (lambda: jwk(ec_key()), {"password": "pw"}, "no password"),
    "alg of the jwk": (lambda: edited(alg="RS256"), {}, "ES256 and not 'RS256'"),
    "der": (lambda: ed_key().private_bytes_raw() + b"\xff", {}, "neither PEM nor JWK"),
    "cut pem": (lambda: pem(rsa_key())[:900], {}, "PKCS #8"),
    "garbage pem": (
        lambda: "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----",
        {},
        "PKCS #8",
    ),
    "openssh": (lambda: pem(ec_key(), form=PrivateFormat.OpenSSH), {}, "PKCS #8"),
    "encrypted": (lambda: pem(ec_key(), b"pw"), {}, "is encrypted"),
    "wrong password": (lambda: pem(ec_key(), b"pw"), {"password": "other"}, "with this password"),
    "needless password": (lambda: pem(ec_key()), {"password": "pw"}, "not encrypted"),
    "empty password": (
        lambda: pem(ec_key(), b"pw"),
        {"password": ""},
        "password of 'worker' is empty",
    ),
    "short rsa": (lambda: pem(rsa_key(1024)), {}, "1024 bits, and RSA needs 2048"),
    "other curve": (lambda: pem(ec.generate_private_key(ec.SECP384R1())), {}, "secp384r1"),
    "ed448": (lambda: pem(ed448.Ed448PrivateKey.generate()), {}, "Supported are"),
    "x25519": (lambda: pem(x25519.X25519PrivateKey.generate()), {}, "Supported are"),
    "dsa": (lambda: pem(dsa.generate_private_key(1024)), {}, "Supported are"),
    "rsa for ES256": (lambda: pem(rsa_key()), {"algorithm": "ES256"}, "RS256 or PS256 and not"),
    "ec for RS256": (lambda: pem(ec_key()), {"algorithm": "RS256"}, "ES256 and not 'RS256'"),
    "algorithm": (lambda: pem(rsa_key()), {"algorithm": "none"}, "algorithm='none'"),
    "key_id": (lambda: pem(rsa_key()), {"key_id": ""}, "key_id="),
    "audience": (lambda: pem(rsa_key()), {"audience": ISSUER}, "audience="),
    "typ": (lambda: pem(rsa_key()), {"typ": "jwt"}, "typ="),
    "lifetime": (lambda: pem(rsa_key()), {"lifetime": 60}, "lifetime="),
    "no lifetime": (lambda: pem(rsa_key()), {"lifetime": timedelta()}, "lifetime="),
    "long lifetime": (lambda: pem(rsa_key()), {"lifetime": timedelta(days=1)}, "lifetime="),
    "other certificate": (
        lambda: pem(rsa_key()),
        {"certificate": "ec"},
        "not that of the certificate",
    ),
    "no certificate": (
        lambda: pem(rsa_key()),
        {"certificate": "text"},
        "certificate that is no PEM",
    ),
}


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_a_wrong_key_is_a_clear_error(case: str) -> None:
    """
    P9: said at construction, in words for this mistake, without a bit of the key anywhere in the
    traceback.
    """
    make, arguments, match = WRONG_KEYS[case]
    key = make()
    if arguments.get("certificate") == "ec":
        arguments = {"certificate": certificate_of(ec_key())}
    secrets = [key if isinstance(key, str) else ""]
    if isinstance(key, str) and key.startswith("-----BEGIN") and "\n" in key:
        secrets.append(hidden_part(key))
    if isinstance(key, dict):
        secrets += [value for name, value in key.items() if name in {"d", "k"}]
    if arguments.get("password"):
        secrets.append(arguments["password"] * (arguments["password"] != "pw"))

    refused(partial(PrivateKeyJwt, "worker", key, **arguments), *secrets, match=match)


@pytest.mark.parametrize(("algorithm", "length"), [("HS256", 31), ("HS384", 47), ("HS512", 63)])
def test_a_short_secret_does_not_sign(algorithm: Any, length: int) -> None:
    """
    RFC 7518 3.2: a shorter key than the hash could be found by trying.
    """
    secret = SECRET[:length]

    message = refused(
        lambda: ClientSecretJwt("worker", secret, algorithm), secret, match="RFC 7518 3.2"
    )

    assert f"{length} bytes, and {algorithm} needs {length + 1}" in message
    ClientSecretJwt("worker", SECRET[: length + 1], algorithm)
    refused(lambda: ClientSecretJwt("w", SECRET, "RS256"), SECRET, match="algorithm=")  # type: ignore[arg-type]


def test_every_request_has_an_assertion_of_its_own() -> None:
    """
    R7523-3, C4: a retry carries another `jti`, and the time of its own.
    """
    client_auth = PrivateKeyJwt("worker", ec_key(), lifetime=timedelta(minutes=5))

    first, second = (
        verified(client_auth.authenticate(RECIPIENT._replace(now=now)), ec_key()).claims
        for now in (NOW, NOW + 7)
    )

    assert first["jti"] != second["jti"]
    assert (first["iat"] + 7, first["exp"] + 7) == (second["iat"], second["exp"])
    assert 300 == first["exp"] - first["iat"]


@pytest.mark.parametrize(
    ("dialect", "audience", "expected"),
    [
        (Dialect(name="standard"), None, ISSUER),
        (Dialect(name="standard"), "token_endpoint", ENDPOINT),
        (WANTS_ENDPOINT, None, ENDPOINT),
        (WANTS_ENDPOINT, "issuer", ISSUER),
    ],
)
def test_the_audience_is_one_name(dialect: Dialect, audience: Any, expected: str) -> None:
    """
    R7523-4, R21-2: the issuer alone, as a string; the token endpoint where dialect or user say so.
    """
    server = AuthorizationServer(issuer=ISSUER, dialect=dialect)
    client_auth = PrivateKeyJwt("worker", ec_key(), audience=audience)

    proof = client_auth.authenticate(RECIPIENT._replace(server=server))

    assert expected == verified(proof, ec_key()).claims["aud"]


def test_without_an_issuer_there_is_no_guess() -> None:
    """
    R7523-4, R8414-8: what would be the issuer's name is not known, and is not made up.
    """
    server = AuthorizationServer(token_endpoint=ENDPOINT)
    both = AuthorizationServer(token_endpoint=ENDPOINT, issuer=ISSUER)
    client_auth = PrivateKeyJwt("worker", ec_key())

    with pytest.raises(ConfigurationError, match=r"issuer=.*audience='token_endpoint'"):
        client_auth.authenticate(RECIPIENT._replace(server=server))
    with pytest.raises(ConfigurationError, match=r"issuer=.*audience='token_endpoint'"):
        check_assertions([(server, client_auth)])
    proof = client_auth.authenticate(RECIPIENT._replace(server=both))
    assert ISSUER == verified(proof, ec_key()).claims["aud"]


def test_the_type_can_be_the_old_one() -> None:
    """
    R7523-5: for a server that insists on `JWT`.
    """
    client_auth = PrivateKeyJwt("worker", ec_key(), typ="JWT")

    assert "JWT" == verified(client_auth.authenticate(RECIPIENT), ec_key()).header["typ"]


OTHER = AuthorizationServer(issuer="https://other.example")
ENDPOINT_THERE = AuthorizationServer(issuer="https://there.example", dialect=WANTS_ENDPOINT)
OKTA = [
    AuthorizationServer(issuer=f"https://org.okta.example/oauth2/{name}", dialect=WANTS_ENDPOINT)
    for name in ("orders", "billing")
]


def test_a_shared_key_names_issuers_only() -> None:
    """
    R7523-6: one key at two servers, one of which has its token endpoint named, is refused.
    """
    one, same = PrivateKeyJwt("w", ec_key()), PrivateKeyJwt("w", jwk(ec_key()))
    secret = ClientSecretJwt("w", SECRET)

    for uses in (
        [(SERVER, one), (ENDPOINT_THERE, one)],
        [(ENDPOINT_THERE, one), (SERVER, same)],
        [(SERVER, secret), (ENDPOINT_THERE, secret)],
        [(SERVER, PrivateKeyJwt("w", ec_key(), audience="token_endpoint")), (OTHER, one)],
        [(OKTA[0], one), (ENDPOINT_THERE, one)],
    ):
        with pytest.raises(ConfigurationError, match=r"one key.*allow_shared_key"):
            check_assertions(uses)


def test_what_cannot_be_injected_is_left_alone() -> None:
    """
    R7523-6: a key or a client id for each server, issuers as audiences, or one party's servers.
    """
    one = PrivateKeyJwt("w", ec_key())
    leave = PrivateKeyJwt("w", ec_key(), allow_shared_key=True)

    for uses in (
        [(SERVER, one), (OTHER, one)],
        [(ENDPOINT_THERE, one), (ENDPOINT_THERE, one)],
        [(server, one) for server in OKTA],
        [(SERVER, one), (ENDPOINT_THERE, PrivateKeyJwt("w", ed_key()))],
        [(SERVER, one), (ENDPOINT_THERE, PrivateKeyJwt("v", ec_key()))],
        [(SERVER, one), (ENDPOINT_THERE, leave)],
        [(SERVER, ClientSecretBasic("w", "s")), (ENDPOINT_THERE, ClientSecretBasic("w", "s"))],
    ):
        assert check_assertions(uses) is None  # type: ignore[func-returns-value]


# Tokens that somebody else has signed.


def workload_token(**changes: Any) -> str:
    claims = {
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": "system:serviceaccount:shop:orders",
        "aud": ISSUER,
        "exp": NOW + 600,
    }
    kept = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(kept, SECRET, algorithm="HS256")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return written(tmp_path / "token", workload_token())


def test_a_token_of_the_platform_is_the_assertion(token_file: Path) -> None:
    """
    R7523-1: byte for byte what is in the file, without the newline.
    """
    token = workload_token()
    written(token_file, f" {token}\n")
    client_auth = ClientAssertionFile(token_file, client_id="orders")

    proof = client_auth.authenticate(RECIPIENT)

    assert (
        ("client_id", "orders"),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", token),
    ) == proof.parameters
    assert {} == proof.headers
    assert "private_key_jwt" == client_auth.method


def test_the_token_is_read_for_each_request(token_file: Path) -> None:
    """
    A token that was replaced is the one that is sent, and costs no cached access token.
    """
    client_auth = ClientAssertionFile(str(token_file), client_id="orders")
    fingerprint = client_auth.fingerprint()
    newer = workload_token(exp=NOW + 1200)
    written(token_file, newer)

    assert newer == dict(client_auth.authenticate(RECIPIENT).parameters)["client_assertion"]
    assert fingerprint == client_auth.fingerprint()
    assert client_auth.rotates


def test_another_subject_is_another_client(token_file: Path) -> None:
    """
    P2: what came for one workload is not served to another.
    """
    client_auth = ClientAssertionFile(token_file, client_id="orders")
    seen = {client_auth.fingerprint()}

    for changes in ({"sub": "system:serviceaccount:shop:billing"}, {"iss": "https://other"}):
        written(token_file, workload_token(**changes))
        seen.add(client_auth.fingerprint())
    seen.add(ClientAssertionFile(token_file, client_id="other").fingerprint())
    elsewhere = written(token_file.parent / "elsewhere", workload_token())
    seen.add(ClientAssertionFile(elsewhere, client_id="orders").fingerprint())

    assert 5 == len(seen)


def test_a_token_that_was_never_there_is_nobodys(tmp_path: Path) -> None:
    """
    P2: before the first token is there, no two clients are the same; a file that is away later
    costs no cached token.
    """
    path = tmp_path / "token"
    first, second = (ClientAssertionFile(path, client_id="orders") for _ in range(2))
    assert first.fingerprint() == first.fingerprint() != second.fingerprint()

    written(path, workload_token())
    known = first.fingerprint()
    path.unlink()

    assert known == first.fingerprint()


def test_a_function_can_give_the_token() -> None:
    """
    For CI systems that hand a token out on demand.
    """
    client_auth = ClientAssertionFile(workload_token, client_id="orders")

    proof = client_auth.authenticate(RECIPIENT)

    assert workload_token() == dict(proof.parameters)["client_assertion"]
    assert "workload_token" not in repr(client_auth)


def test_spiffe_has_a_type_of_its_own(token_file: Path) -> None:
    """
    draft-ietf-oauth-spiffe-client-auth: `jwt-spiffe`, and the method `spiffe_jwt`.
    """
    client_auth = ClientAssertionFile(token_file, client_id="orders", assertion_type="jwt-spiffe")

    sent = dict(client_auth.authenticate(RECIPIENT).parameters)

    assert "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe" == sent["client_assertion_type"]
    assert "spiffe_jwt" == client_auth.method


def unsigned() -> str:
    return workload_token().rpartition(".")[0] + "."


BAD_TOKENS: dict[str, tuple[Callable[[], str | bytes | None], str]] = {
    "missing": (lambda: None, "No such file"),
    "empty": (lambda: "", "is empty"),
    "blank": (lambda: " \n\n ", "no signed JWT"),
    "no jwt": (lambda: "s3cr3t-opaque-token", "no signed JWT"),
    "unsigned": (unsigned, "no signed JWT"),
    "binary": (lambda: b"\xff\xfe\0", "not UTF-8"),
    "huge": (lambda: "x" * (64 * 1024 + 1), "larger than 64 KiB"),
    "expired": (lambda: workload_token(exp=NOW - 42), "expired 42 s ago"),
    "expired just now": (lambda: workload_token(exp=NOW), "expired 0 s ago"),
    "for ever": (lambda: workload_token(exp=None), "no `exp`"),
    "for the cluster": (
        lambda: workload_token(aud=["https://kubernetes.default.svc"]),
        "for 'https://kubernetes.default.svc', and not for",
    ),
    "for both": (lambda: workload_token(aud=[ISSUER, "https://kubernetes.default.svc"]), "alone"),
    "for nobody": (lambda: workload_token(aud=None), "for 'nobody'"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_a_bad_token_is_not_sent(case: str, tmp_path: Path) -> None:
    """
    P4, P9: the request fails with the reason, the resource and no bit of the token.
    """
    content, match = BAD_TOKENS[case][0](), BAD_TOKENS[case][1]
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    client_auth = ClientAssertionFile(path, client_id="orders")

    with pytest.raises(TokenRequestError, match=match) as caught:
        client_auth.authenticate(RECIPIENT)

    assert "urn:x:a" == caught.value.resource
    assert "urn:x:a" in str(caught.value)
    if isinstance(content, str) and content.strip():
        assert content.strip() not in shown_by(caught.value)


@pytest.mark.parametrize("aud", [ISSUER, [ISSUER], ENDPOINT])
def test_a_token_is_for_the_server_it_goes_to(aud: Any, token_file: Path) -> None:
    """
    R7523-4, P3: its `aud` is the issuer or the endpoint; anything else is said by the user.
    """
    written(token_file, workload_token(aud=aud))
    named = ClientAssertionFile(token_file, client_id="o", audience="api://AzureADTokenExchange")

    ClientAssertionFile(token_file, client_id="o").authenticate(RECIPIENT)
    with pytest.raises(TokenRequestError, match="not for 'api://AzureADTokenExchange' alone"):
        named.authenticate(RECIPIENT)
    written(token_file, workload_token(aud="api://AzureADTokenExchange"))
    assert "client_assertion" in dict(named.authenticate(RECIPIENT).parameters)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"path": "", "client_id": "o"}, "no path"),
        ({"path": None, "client_id": "o"}, "no path"),
        ({"path": "f", "client_id": ""}, "client_id"),
        ({"path": "f", "client_id": "o", "audience": ""}, "audience="),
        ({"path": "f", "client_id": "o", "assertion_type": "saml2-bearer"}, "assertion_type="),
    ],
)
def test_what_cannot_be_a_token_file_is_refused(arguments: dict[str, Any], match: str) -> None:
    """
    At construction, although the file itself is looked at later.
    """
    refused(lambda: ClientAssertionFile(**arguments), match=match)


def test_a_token_in_place_of_its_path_is_not_shown() -> None:
    """
    P9: a path is shown in messages, and a token is not, whatever else is wrong.
    """
    token: Any = workload_token()

    for arguments in ({}, {"assertion_type": "x"}, {"audience": 7}):
        refused(
            partial(ClientAssertionFile, token, client_id="o", **arguments),
            token,
            match="belongs into",
        )
    for arguments in ({"assertion_type": "x"}, {"audience": 7}):
        refused(
            partial(ClientAssertionFile, partial(str, token), client_id="o", **arguments),
            token,
            match="=",
        )


# Certificates.


@dataclass
class Pair:
    """
    The files of a certificate and its key.
    """

    certificate: Path
    key: Path

    def replace(self, key: Any) -> str:
        certificate = certificate_of(key)
        written(self.certificate, certificate)
        written(self.key, pem(key))
        return certificate


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    pair = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    pair.replace(ec_key())
    return pair


@pytest.mark.parametrize(
    ("self_signed", "method"),
    [(False, "tls_client_auth"), (True, "self_signed_tls_client_auth")],
)
def test_a_certificate_goes_with_the_client_id_alone(
    pair: Pair, self_signed: bool, method: str
) -> None:
    """
    R8705-5: the body says who, the connection proves it, and there is no secret.
    """
    client_auth = TlsClientAuth("worker", pair.certificate, pair.key, self_signed=self_signed)

    proof = client_auth.authenticate(RECIPIENT)

    assert (("client_id", "worker"),) == proof.parameters
    assert {} == proof.headers
    assert ClientCertificate(str(pair.certificate), str(pair.key)) == proof.certificate
    assert method == client_auth.method
    message = asked(client_auth=client_auth).message(ENDPOINT, NOW)
    assert proof.certificate == message.certificate


def test_another_certificate_is_another_fingerprint(pair: Pair) -> None:
    """
    R8705-3, C5: the thumbprint, which changes when the files do.
    """
    client_auth = TlsClientAuth("worker", str(pair.certificate), str(pair.key))
    assert thumbprint(pair.certificate.read_text()) == client_auth.fingerprint()

    replaced = pair.replace(ed_key())

    assert thumbprint(replaced) == client_auth.fingerprint()
    assert client_auth.rotates


def test_key_and_certificate_can_be_one_file(tmp_path: Path) -> None:
    """
    As many tools write them.
    """
    certificate = certificate_of(rsa_key())
    path = written(tmp_path / "both.pem", pem(rsa_key()) + certificate)

    client_auth = TlsClientAuth("worker", path)

    assert thumbprint(certificate) == client_auth.fingerprint()
    assert ClientCertificate(str(path), str(path)) == client_auth.files


def test_files_that_do_not_belong_together_are_not_used(pair: Pair) -> None:
    """
    P4: in the middle of a replacement the request fails with the reason; what is cached stays.
    """
    client_auth = TlsClientAuth("worker", pair.certificate, pair.key)
    known = client_auth.fingerprint()
    written(pair.key, pem(ed_key()))

    with pytest.raises(TokenRequestError, match="replaced together"):
        client_auth.authenticate(RECIPIENT)

    assert known == client_auth.fingerprint()
    refused(
        lambda: TlsClientAuth("worker", pair.certificate, pair.key),
        hidden_part(pem(ed_key())),
        match="not that of the certificate",
    )


def test_wrong_files_are_noticed_at_once(pair: Pair, tmp_path: Path) -> None:
    """
    An encrypted key would make OpenSSL ask for the password on the terminal.
    """
    secret = hidden_part(pem(ec_key()))
    nowhere, text = tmp_path / "nowhere", pem(ec_key())
    locked = written(tmp_path / "locked.key", pem(ec_key(), b"pw"))

    refused(lambda: TlsClientAuth("w", pair.certificate, locked), match="is encrypted")
    refused(lambda: TlsClientAuth("w", pair.certificate, nowhere), match="No such file")
    refused(
        lambda: TlsClientAuth("w", nowhere, pair.key), match=r"certificate of 'w'.*No such file"
    )
    refused(lambda: TlsClientAuth("w", pair.key, pair.key), match="certificate that is no PEM")
    refused(lambda: TlsClientAuth("w", pair.certificate), match="public key or certificate")
    refused(lambda: TlsClientAuth("w", pair.certificate, text), secret, match="belongs into one")
    refused(lambda: TlsClientAuth("w", pair.certificate, Path(text)), secret, match="belongs into")
    refused(lambda: TlsClientAuth("", pair.certificate, pair.key), match="client_id")
    refused(lambda: TlsClientAuth("w", None), match="no path")  # type: ignore[arg-type]


# Clients without a credential.


def test_a_public_client_says_who_it_is() -> None:
    """
    R6749-1: its id, and nothing that would prove it.
    """
    client_auth = PublicClient("app")

    proof = client_auth.authenticate(RECIPIENT)

    assert (("client_id", "app"),) == proof.parameters
    assert ({}, (), None) == (proof.headers, proof.secrets, proof.certificate)
    assert ("none", b"", False) == (
        client_auth.method,
        client_auth.fingerprint(),
        client_auth.rotates,
    )
    refused(lambda: PublicClient(""), match="client_id")


def test_only_a_public_client_is_not_confidential(pair: Pair) -> None:
    """
    R6749-7: what a grant for confidential clients asks before any request.
    """
    assert not PublicClient("app").confidential
    for client_auth in (
        ClientSecretBasic("w", "s"),
        ClientSecretJwt("w", SECRET),
        ClientAssertionFile("f", client_id="w"),
        TlsClientAuth("w", pair.certificate, pair.key),
    ):
        assert client_auth.confidential


# Where secrets come from.

WITH_SECRET = [ClientSecretBasic, ClientSecretPost, ClientSecretJwt]


def sent_secret(client_auth: ClientAuth) -> str:
    """
    The client secret that the next request proves.
    """
    proof = client_auth.authenticate(RECIPIENT)
    if "Authorization" in proof.headers:
        pair = b64decode(proof.headers["Authorization"].removeprefix("Basic ")).decode()
        return unquote_plus(pair.partition(":")[2])
    if "client_assertion" in dict(proof.parameters):
        known = [SECRET, SECRET[::-1]]
        return next(secret for secret in known if _is_signed_with(proof, secret))
    return dict(proof.parameters)["client_secret"]


def _is_signed_with(proof: Authentication, secret: str) -> bool:
    signed, _, signature = dict(proof.parameters)["client_assertion"].rpartition(".")
    algorithm = OctKey.import_key(secret)
    try:
        independent.decode(f"{signed}.{signature}", algorithm)
    except Exception:  # noqa: BLE001 - whatever the library calls a bad signature
        return False
    return True


@pytest.mark.parametrize("method", WITH_SECRET)
def test_a_secret_in_a_file_rotates(method: Any, tmp_path: Path) -> None:
    """
    C5: the next request proves the new secret, under another fingerprint.
    """
    path = written(tmp_path / "secret", SECRET + "\n")
    client_auth = method("worker", path)
    fingerprint = client_auth.fingerprint()
    assert SECRET == sent_secret(client_auth)

    path.write_bytes(b"\xef\xbb\xbf" + SECRET[::-1].encode() + b"\r\n")

    assert SECRET[::-1] == sent_secret(client_auth)
    assert fingerprint != client_auth.fingerprint() == method("worker", SECRET[::-1]).fingerprint()
    assert client_auth.rotates


@pytest.mark.parametrize("method", WITH_SECRET)
def test_a_secret_of_a_function_rotates(method: Any) -> None:
    """
    C5: the function is asked for each request.
    """
    current = [SECRET]
    client_auth = method("worker", lambda: current[0])
    fingerprint = client_auth.fingerprint()

    current[0] = SECRET[::-1]

    assert SECRET[::-1] == sent_secret(client_auth)
    assert fingerprint != client_auth.fingerprint()
    assert client_auth.rotates


@pytest.mark.parametrize("method", WITH_SECRET)
def test_a_string_is_the_secret_and_no_path(method: Any, tmp_path: Path) -> None:
    """
    A secret that happens to name a file is still the secret.
    """
    path = written(tmp_path / "secret", "what is in the file, and is not the secret of anybody")
    text = str(path).ljust(64, "/")
    client_auth = method("worker", text)

    assert not client_auth.rotates
    assert method("worker", lambda: text).fingerprint() == client_auth.fingerprint()


def test_only_newlines_at_the_end_are_trimmed(tmp_path: Path) -> None:
    """
    An editor puts them there; a space can be part of the secret.
    """
    path = tmp_path / "secret"
    for content, secret in (
        ("s", "s"),
        ("s\n", "s"),
        ("s\r\n\n", "s"),
        (" s \n", " s "),
        ("s\nt", "s\nt"),
    ):
        path.write_bytes(content.encode())
        assert secret == sent_secret(ClientSecretPost("worker", path))


@pytest.mark.parametrize("method", WITH_SECRET)
def test_a_file_that_is_away_fails_the_request_only(method: Any, tmp_path: Path) -> None:
    """
    P4, P7: no request without a secret; but the fingerprint stays, and so do cached tokens.
    """
    path = written(tmp_path / "secret", SECRET)
    client_auth = method("worker", path)
    fingerprint = client_auth.fingerprint()
    path.unlink()

    with pytest.raises(TokenRequestError, match=r"'urn:x:a'.*secret.*No such file") as caught:
        client_auth.authenticate(RECIPIENT)

    assert str(path) in str(caught.value)
    assert SECRET not in shown_by(caught.value)
    assert fingerprint == client_auth.fingerprint()
    written(path, SECRET)
    assert SECRET == sent_secret(client_auth)


def test_a_secret_that_becomes_too_short_is_not_used(tmp_path: Path) -> None:
    """
    RFC 7518 3.2 holds for a rotated secret as well.
    """
    path = written(tmp_path / "secret", SECRET)
    client_auth = ClientSecretJwt("worker", path)
    written(path, "short-and-secret")

    with pytest.raises(TokenRequestError, match="16 bytes, and HS256 needs 32") as caught:
        client_auth.authenticate(RECIPIENT)

    assert "short-and-secret" not in shown_by(caught.value)


def raising() -> str:
    raise PermissionError("vault said: token s.h4rdc0ded is not allowed")


@pytest.mark.parametrize("method", WITH_SECRET)
@pytest.mark.parametrize(
    ("secret", "match"),
    [
        (None, "environment"),
        ("", "is empty.*environment"),
        (b"as bytes, that nobody sees", "no string"),
        ("\udcff-that-nobody-sees" + SECRET, "not UTF-8"),
        (lambda: "", "is empty"),
        (lambda: None, "returned no string"),
        (raising, "the function raised PermissionError"),
        (Path("/nonexistent/secret"), "No such file"),
        (Path(__file__, "secret"), "Not a directory.*who may read it"),
        (Path(__file__).parent, "no regular file"),
        (Path(os.devnull), "no regular file"),
        (Path("-----BEGIN that-nobody-sees"), "belongs into one"),
        (Path("eyJ0-that-nobody-sees"), "belongs into one"),
    ],
)
def test_a_secret_that_cannot_be_had_is_a_clear_error(method: Any, secret: Any, match: str) -> None:
    """
    P9: at construction, and without the text of anything.
    """
    hidden = ["that-nobody-sees", "that nobody sees", "s.h4rdc0ded"]

    refused(lambda: method("worker", secret), *hidden, match=match)


@pytest.mark.parametrize("client_id", ["", None, 7, "\udcff"])
def test_a_client_id_is_a_text(client_id: Any) -> None:
    """
    An unset environment variable is noticed at once, by every method; the secret stays unseen.
    """
    key = pem(ec_key())

    for make, hidden in (
        (lambda: ClientSecretBasic(client_id, SECRET), SECRET),
        (lambda: ClientSecretPost(client_id, SECRET), SECRET),
        (lambda: ClientSecretJwt(client_id, SECRET), SECRET),
        (lambda: PrivateKeyJwt(client_id, key), hidden_part(key)),
        (lambda: ClientAssertionFile("f", client_id=client_id), ""),
        (lambda: PublicClient(client_id), ""),
    ):
        refused(make, hidden, match="client_id.*environment")


# What checks the assertion here warns of a secret that begins like a PEM.
@pytest.mark.filterwarnings("ignore:This key should not be used as an oct key")
@given(st.text(min_size=1), st.text(min_size=1))
@example("0", "-----BEGIN ")
def test_credentials_arrive_as_they_are(client_id: str, secret: str) -> None:
    """
    R6749-2: whatever the characters, a strict decoder gets back what was configured.
    """
    form = ClientSecretBasic(client_id, secret).authenticate(RECIPIENT)
    raw = ClientSecretBasic(client_id, secret).authenticate(
        RECIPIENT._replace(server=AuthorizationServer(issuer=ISSUER, dialect=RAW_BASIC))
    )
    post = ClientSecretPost(client_id, secret).authenticate(RECIPIENT)
    signed = ClientSecretJwt(client_id, secret.ljust(64, "=")).authenticate(RECIPIENT)

    sent = b64decode(form.headers["Authorization"].removeprefix("Basic ")).decode("ascii")
    assert [client_id, secret] == [unquote_plus(part) for part in sent.split(":")]
    sent = b64decode(raw.headers["Authorization"].removeprefix("Basic ")).decode()
    assert f"{client_id}:{secret}" == sent
    assert (("client_id", client_id), ("client_secret", secret)) == post.parameters
    claims = verified(signed, secret.ljust(64, "=")).claims
    assert (client_id, client_id) == (claims["iss"], claims["sub"])


# What is never shown.


def every_method(at: Path) -> Iterator[tuple[ClientAuth, list[str]]]:
    """
    One client authentication of each kind, and what nobody may see of it.
    """
    key, token = pem(ec_key()), workload_token()
    written(at / "tls.crt", a_certificate())
    written(at / "key", key)
    written(at / "secret", SECRET)
    written(at / "token", token)
    for method in WITH_SECRET:
        for secret in (SECRET, at / "secret", partial(str, SECRET)):
            yield method("worker", secret), [SECRET, quote_plus(SECRET)]
    hidden = [hidden_part(key), jwk(ec_key())["d"], "pass word"]
    for given_key in (key, at / "key", jwk(ec_key()), partial(str, key)):
        yield PrivateKeyJwt("worker", given_key), hidden
    hidden.append(hidden_part(locked_pem()))
    yield PrivateKeyJwt("worker", locked_pem(), password="pass word"), hidden
    yield ClientAssertionFile(at / "token", client_id="worker"), [token, token.rpartition(".")[2]]
    yield TlsClientAuth("worker", at / "tls.crt", at / "key"), hidden


def test_no_method_shows_its_credential(tmp_path: Path) -> None:
    """
    P9: neither it nor what it sends, in any `repr` or `str`.
    """
    for client_auth, hidden in every_method(tmp_path):
        proof = client_auth.authenticate(RECIPIENT)
        sent = [
            v
            for n, v in (*proof.parameters, *proof.headers.items())
            if n not in {"client_id", "client_assertion_type"}
        ]

        shown = f"{client_auth!r} {client_auth} {proof!r} {asked(client_auth=client_auth)!r}"

        assert [] == [secret for secret in (*hidden, *sent) if secret in shown]
        assert f"{type(client_auth).__name__}(client_id='worker'" in shown


def test_what_a_server_echoes_is_not_shown(tmp_path: Path) -> None:
    """
    P9, L11: whatever was sent, as it was sent, is taken out of the server's words.
    """
    for client_auth, hidden in every_method(tmp_path):
        request = asked(client_auth=client_auth)
        message = request.message(ENDPOINT, NOW)
        proof = [secret.reveal() for secret in message.secrets]
        assertion = next((text for text in proof if text.count(".") == 2), "")
        echo = f"{message.headers} {message.body!r} {assertion[-90:]} {proof}"
        body = {"error": "invalid_client", "error_description": echo, "error_uri": echo[-200:]}

        with pytest.raises(OAuthError) as caught:
            issued_token(answer(body, 401), request, frozenset(), NOW, message.secrets)

        shown = repr(caught.value.args)
        assert [] == [secret for secret in (*hidden, *proof) if secret in shown]


def test_equal_clients_are_equal(tmp_path: Path) -> None:
    """
    A `Resource` that names its client authentication is looked up by value.
    """
    first, again = ([one for one, _ in every_method(tmp_path)] for _ in range(2))

    same = [
        (left == right, hash(left) == hash(right)) for left, right in zip(first, again, strict=True)
    ]
    # A function is equal to itself only.
    assert same.count((False, False)) == 4
    assert same.count((True, True)) == len(same) - 4
    assert len(first) == len(set(first))
    assert PrivateKeyJwt("w", ec_key()) != PrivateKeyJwt("w", ec_key(), key_id="k")
    assert PrivateKeyJwt("w", rsa_key()) != PrivateKeyJwt("w", rsa_key(), algorithm="PS256")


def test_a_key_rotates_under_many_threads(tmp_path: Path) -> None:
    """
    C5: while the file is replaced, every assertion is signed by one of the two keys, named by
    its own `kid`.
    """
    keys = {"old": ec_key(), "new": ec.generate_private_key(ec.SECP256R1())}
    texts = [json.dumps(jwk(key, kid=kid)) for kid, key in keys.items()]
    path = written(tmp_path / "key.json", texts[0])
    client_auth = PrivateKeyJwt("worker", path)

    def use() -> set[str]:
        proofs = [client_auth.authenticate(RECIPIENT) for _ in range(40)]
        headers = [
            jwt.get_unverified_header(dict(p.parameters)["client_assertion"]) for p in proofs
        ]
        return {
            str(verified(proof, keys[header["kid"]]).header["kid"])
            for proof, header in zip(proofs, headers, strict=True)
        }

    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use) for _ in range(4)]
        for turn in range(60):
            written(path, texts[turn % 2])
        seen = set().union(*(user.result() for user in users))

    written(path, texts[1])
    assert seen <= {"old", "new"}
    assert {"new"} == {
        str(verified(client_auth.authenticate(RECIPIENT), keys["new"]).header["kid"])
    }


def test_a_rotated_secret_is_used_by_the_next_request(
    caller: Caller, world: World, tmp_path: Path
) -> None:
    """
    C5: over sockets, in every colour: the server's secret changes, the file follows.
    """
    path = written(tmp_path / "secret", world.server.clients[CLIENT_ID] + "\n")
    auth = ResourceTokenAuth(
        world.authorization_server,
        ClientSecretBasic(CLIENT_ID, path),
        resources={world.orders.url: ORDERS},
    )
    with caller.client(auth=auth) as client:
        assert 200 == client.get(world.orders.url).status_code
        world.server.clients[CLIENT_ID] = "another secret"
        auth.cache.forget()
        with pytest.raises(OAuthError, match="invalid_client"):
            client.get(world.orders.url)
        written(path, "another secret")
        auth.cache.forget()

        assert 200 == client.get(world.orders.url).status_code


def test_a_lost_secret_is_an_error_of_the_request(
    caller: Caller, world: World, tmp_path: Path
) -> None:
    """
    P4, P7: as a ResourceTokensError, and only once a token is really needed.
    """
    path = written(tmp_path / "secret", world.server.clients[CLIENT_ID])
    auth = ResourceTokenAuth(
        world.authorization_server,
        ClientSecretPost(CLIENT_ID, path),
        resources={world.orders.url: ORDERS},
    )
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        path.unlink()
        assert 200 == client.get(world.orders.url).status_code
        auth.cache.forget()

        with pytest.raises(ResourceTokensError, match="No such file"):
            client.get(world.orders.url)
