"""
Proofs of possession (RFC 9449): what one says, and that nobody else could have said it.
"""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from base64 import urlsafe_b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey

from resource_tokens import ConfigurationError
from resource_tokens.oauth.dpop import ProofKey, normalised
from resource_tokens.tokens import Secret
from tests.test_tokens import TOKEN

URL = "https://api.example.com/orders?id=7#top"


def read(proof: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Header and claims of a proof whose signature is that of the key in its header.
    """
    encoded = proof.partition(".")[0]
    header: dict[str, Any] = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    kind = ECKey if header["jwk"]["kty"] == "EC" else OKPKey
    with warnings.catch_warnings():
        # RFC 9864 has renamed EdDSA; servers go by the old name.
        warnings.simplefilter("ignore", SecurityWarning)
        verified = jwt.decode(proof, kind.import_key(header["jwk"]), algorithms=[header["alg"]])
    return dict(verified.header), dict(verified.claims)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_proof_says_what_it_must(algorithm: Any) -> None:
    """
    R9449-1, R9449-2: type, algorithm, the public key alone; method, target, time.
    """
    key = ProofKey(algorithm=algorithm)

    header, claims = read(key.proof("PUT", URL, 1_700_000_000.9))
    assert ("dpop+jwt", algorithm) == (header["typ"], header["alg"])
    assert "d" not in header["jwk"]
    assert {"alg", "jwk", "typ"} == set(header)
    assert ("PUT", "https://api.example.com/orders") == (claims["htm"], claims["htu"])
    assert 1_700_000_000 == claims["iat"]
    assert {"jti", "htm", "htu", "iat"} == set(claims)


def test_no_two_proofs_are_the_same() -> None:
    """
    R9449-2, R9449-11: a `jti` of its own for each, of at least 96 bits.
    """
    key = ProofKey()
    seen = {read(key.proof("GET", URL, 0.0))[1]["jti"] for _ in range(20)}

    assert 20 == len(seen)
    assert all(len(urlsafe_b64decode(jti + "==")) >= 12 for jti in seen)


def test_a_proof_is_bound_to_the_token() -> None:
    """
    R9449-3: the vector of RFC 9449 7.1.
    """
    value = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    token = replace(TOKEN, _value=Secret(value))

    _, claims = read(ProofKey().proof("GET", URL, 0.0, token=token))
    assert "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo" == claims["ath"]


def test_a_nonce_is_repeated() -> None:
    """
    R9449-8.
    """
    assert "eyJ7S_zG" == read(ProofKey().proof("GET", URL, 0.0, nonce="eyJ7S_zG"))[1]["nonce"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://API.Example.com/a", "https://api.example.com/a"),
        ("HTTPS://api.example.com:443/a", "https://api.example.com/a"),
        ("http://127.0.0.1:80", "http://127.0.0.1/"),
        ("https://api.example.com:8443/a?b#c", "https://api.example.com:8443/a"),
        ("https://h/%7ea%2f%c3%A4%41", "https://h/~a%2F%C3%A4A"),
        ("https://[::1]:443/a", "https://[::1]/a"),
        ("https://h?x=1", "https://h/"),
        ("https://h/a#f?x", "https://h/a"),
    ],
)
def test_the_target_is_normalised(url: str, expected: str) -> None:
    """
    R9449-4: as servers compare it.
    """
    assert expected == normalised(url)


def test_the_thumbprint() -> None:
    """
    R9449-14: that of RFC 7638, as another library computes it.
    """
    for key in (ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        kind = ECKey if isinstance(key, ec.EllipticCurvePrivateKey) else OKPKey

        assert kind.import_key(pem).thumbprint() == ProofKey(key).thumbprint


def test_a_key_that_is_given(tmp_path: Path) -> None:
    """
    As PEM, as JWK, in a file, encrypted: it is one key.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw"))
    file = tmp_path / "key.pem"
    file.write_bytes(pem)
    jwk = json.dumps(ECKey.import_key(pem).as_dict(private=True))
    keys = [ProofKey(k) for k in (key, pem, pem.decode(), jwk, file)]
    keys.append(ProofKey(locked, password="pw", algorithm="ES256"))

    assert 1 == len({each.thumbprint for each in keys})


@pytest.mark.parametrize(
    ("key", "options", "words"),
    [
        (rsa.generate_private_key(65537, 2048), {}, "neither on P-256"),
        (ec.generate_private_key(ec.SECP384R1()), {}, "neither on P-256"),
        (ed25519.Ed25519PrivateKey.generate(), {"algorithm": "ES256"}, "signs with EdDSA"),
        ("no key", {}, "no PEM"),
        (None, {"algorithm": "HS256"}, "use 'ES256' or 'EdDSA'"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused(key: Any, options: Any, words: str) -> None:
    """
    R9449-1: asymmetric, and one of the two that servers know.
    """
    with pytest.raises(ConfigurationError, match=words):
        ProofKey(key, **options)


def test_threads_that_come_first_together_use_one_key() -> None:
    """
    R9449-12: the key a token is bound to must be the one that proves.
    """
    key = ProofKey()
    with ThreadPoolExecutor(16) as pool:
        proofs = list(pool.map(lambda _: key.proof("GET", URL, 0.0), range(32)))

    keys = {json.dumps(read(proof)[0]["jwk"]) for proof in proofs[-8:]}
    assert {json.dumps(read(key.proof("GET", URL, 0.0))[0]["jwk"])} == keys


def test_a_key_does_not_leave() -> None:
    """
    P9: no repr, no pickle; a copy is the same object.
    """
    key = ProofKey()

    assert "ProofKey('...')" == repr(key)
    assert key is copy.copy(key) is copy.deepcopy(key)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
