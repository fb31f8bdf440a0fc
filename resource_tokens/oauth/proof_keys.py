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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
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

    _key: Any = field(repr=False)
    algorithm: str
    jwk: Mapping[str, str]
    thumbprint: str

    def signed(self, claims: Mapping[str, Any]) -> str:
        """
        A proof with these claims.
        """
        # RFC 9449 4.2: "typ: A field with the value dpop+jwt".
        header = {"typ": "dpop+jwt", "jwk": dict(self.jwk)}
        return jwt.encode(dict(claims), self._key, self.algorithm, header)


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
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        algorithm, public = "ES256", json.loads(ECAlgorithm.to_jwk(key.public_key()))
    elif isinstance(key, Ed25519PrivateKey):
        algorithm, public = "EdDSA", json.loads(OKPAlgorithm.to_jwk(key.public_key()))
    else:
        raise ConfigurationError(
            "The proof key is neither on P-256 (ES256) nor Ed25519 (EdDSA). Give another, or none: "
            "then one is made."
        )
    # RFC 7638 3.2: the required members only, in lexicographic order.
    jwk = {member: public[member] for member in sorted(public) if member in _REQUIRED}
    canonical = json.dumps(jwk, separators=(",", ":")).encode()
    thumbprint = urlsafe_b64encode(hashlib.sha256(canonical).digest()).decode().rstrip("=")
    return Signer(key, algorithm, jwk, thumbprint)


_REQUIRED = frozenset({"crv", "kty", "x", "y"})
