"""
The keys of proofs (RFC 9449), and signing with them.

PyJWT and cryptography take longer to import than all the rest, so whoever needs this module
imports it late.
"""

from __future__ import annotations

import hashlib
import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.keys import jwk_in, pem_of, private_jwk, private_pem
from resource_tokens.oauth.sources import Source
from resource_tokens.tokens import Secret

__all__ = ["Signer", "given", "made"]


@dataclass(frozen=True, slots=True)
class Signer:
    """
    A private key that signs proofs.

    Attributes:
        algorithm: The `alg`.
        jwk: The public key, and nothing else (RFC 9449 4.2).
        thumbprint: Its SHA-256 thumbprint (RFC 7638).
    """

    algorithm: str
    jwk: Mapping[str, str]
    thumbprint: str
    _sign: Callable[[bytes], bytes] = field(repr=False)
    _header: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # RFC 9449 4.2: "typ: A field with the value dpop+jwt".
        header = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": dict(self.jwk)}
        object.__setattr__(self, "_header", _encoded(_compact(header)))

    def signed(self, claims: Mapping[str, Any]) -> str:
        """
        A proof with these claims.
        """
        # RFC 7515 7.1, with the header encoded once: it is the same in all of them.
        message = b"%b.%b" % (self._header, _encoded(_compact(claims)))
        return (message + b"." + _encoded(self._sign(message))).decode("ascii")


def made(algorithm: str) -> Signer:
    """
    A new key, that is nowhere else.
    """
    if algorithm == "EdDSA":
        return _signer(Ed25519PrivateKey.generate())
    return _signer(generate_private_key(SECP256R1()))


def given(key: Any, password: Secret | None, algorithm: str | None) -> Signer:
    """
    A key of the user's.

    Raises:
        ConfigurationError: If it cannot be used.
    """
    name = "The proof key"
    if isinstance(key, bytes):
        key = key.decode("ascii", "replace")
    from_text = isinstance(key, str | os.PathLike)
    text = Source.of(name, key).read() if from_text else pem_of(name, key)
    del key
    jwk = jwk_in(name, text, password)
    private = private_pem(name, text, password) if jwk is None else private_jwk(name, jwk)
    signer = _signer(private)
    if algorithm is not None and algorithm != signer.algorithm:
        raise ConfigurationError(f"{name} signs with {signer.algorithm}, and not {algorithm!r}.")
    return signer


def _signer(key: Any) -> Signer:
    sign: Callable[[bytes], bytes]
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        algorithm, public = "ES256", json.loads(ECAlgorithm.to_jwk(key.public_key()))
        sign = partial(_es256, key)
    elif isinstance(key, Ed25519PrivateKey):
        algorithm, public = "EdDSA", json.loads(OKPAlgorithm.to_jwk(key.public_key()))
        sign = key.sign
    else:
        raise ConfigurationError(
            "The proof key is neither on P-256 (ES256) nor Ed25519 (EdDSA). Give another, or none: "
            "then one is made."
        )
    # RFC 7638 3.2: the required members only, in lexicographic order.
    jwk = {member: public[member] for member in sorted(public) if member in _REQUIRED}
    thumbprint = _encoded(hashlib.sha256(_compact(jwk)).digest()).decode("ascii")
    return Signer(algorithm, jwk, thumbprint, sign)


def _es256(key: EllipticCurvePrivateKey, message: bytes) -> bytes:
    # RFC 7518 3.4: R and S as big-endian integers of 32 octets, "in that order".
    r, s = decode_dss_signature(key.sign(message, _ECDSA))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _compact(members: Mapping[str, Any]) -> bytes:
    return _JSON.encode(members).encode()


def _encoded(octets: bytes) -> bytes:
    return urlsafe_b64encode(octets).rstrip(b"=")


_ECDSA = ECDSA(SHA256())
_JSON = json.JSONEncoder(separators=(",", ":"))
_REQUIRED = frozenset({"crv", "kty", "x", "y"})
