"""
Signing JWTs (RFC 7515, RFC 7518).

PyJWT and cryptography take longer to import than all the rest, so whoever needs this module
imports it late.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.keys import (
    certificate_thumbprint,
    jwk_in,
    private_jwk,
    private_pem,
    public_bytes,
)
from resource_tokens.oauth.messages import Members, base64url
from resource_tokens.tokens import Secret

__all__ = ["SigningKey", "private_signing_key", "secret_signing_key"]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """
    A key, and how JWTs are signed with it.

    Attributes:
        algorithm: The `alg` (RFC 7518 3.1).
        header: What the header says of the key: `kid`, `x5t#S256`.
        fingerprint: A digest of the public key, or of the secret.
    """

    _key: Any = field(repr=False)
    algorithm: str
    header: Mapping[str, str]
    fingerprint: bytes

    def signed(self, claims: Mapping[str, Any], typ: str) -> Secret:
        """
        A JWT with these claims.
        """
        return Secret(
            jwt.encode(
                dict(claims),
                self._key.reveal() if isinstance(self._key, Secret) else self._key,
                self.algorithm,
                {"typ": typ, **self.header},
            )
        )


def secret_signing_key(name: str, algorithm: str, secret: Secret) -> SigningKey:
    """
    A client secret as a key for HMAC.

    Raises:
        ConfigurationError: If it is too short for the algorithm.
    """
    # RFC 7518 3.2: "A key of the same size as the hash output (for instance, 256 bits for
    # "HS256") or larger MUST be used with this algorithm."
    needed, given = _HMAC_BYTES[algorithm], len(secret.reveal().encode())
    if given < needed:
        raise ConfigurationError(
            f"{name} has {given} bytes, and {algorithm} needs {needed} (RFC 7518 3.2): whoever saw "
            "one assertion could find a short secret by trying. Get a longer one from the server."
        )
    return SigningKey(secret, algorithm, {}, hashlib.sha256(secret.reveal().encode()).digest())


def private_signing_key(
    name: str,
    text: Secret,
    password: Secret | None,
    certificate: Secret | None,
    *,
    algorithm: str | None,
    key_id: str | None,
) -> SigningKey:
    """
    A private key in PEM or JWK.

    Args:
        name: What it is, for messages.
        text: PEM or JWK.
        password: Of an encrypted PEM.
        certificate: PEM of the certificate that is registered for the key.
        algorithm: The `alg`; by default what the JWK says, or else what suits the key.
        key_id: The `kid`; by default what the JWK says.

    Raises:
        ConfigurationError: If it cannot be used.
    """
    jwk = jwk_in(name, text, password)
    key = private_pem(name, text, password) if jwk is None else private_jwk(name, jwk)
    said = Members() if jwk is None else jwk
    algorithm = _suitable(name, key, algorithm or said.get("alg"))
    # RFC 7515 4.1.8: `x5t#S256` is "a base64url-encoded SHA-256 thumbprint (a.k.a. digest) of
    # the DER encoding of the X.509 certificate".
    thumbprint = (
        said.get("x5t#S256")
        if certificate is None
        else base64url(certificate_thumbprint(name, key, certificate))
    )
    header = {"kid": key_id or said.get("kid"), "x5t#S256": thumbprint}
    return SigningKey(
        key,
        algorithm,
        {member: value for member, value in header.items() if value},
        hashlib.sha256(public_bytes(key)).digest(),
    )


def _suitable(name: str, key: Any, wanted: str | None) -> str:
    kind, algorithms = _kind(key)
    if not algorithms:
        raise ConfigurationError(
            f"{name} is {kind}. Supported are RSA (RS256, PS256), EC on P-256 (ES256) and Ed25519 "
            "(EdDSA)."
        )
    # RFC 7518 3.3: "A key of size 2048 bits or larger MUST be used with these algorithms."
    if isinstance(key, RSAPrivateKey) and key.key_size < 2048:
        raise ConfigurationError(
            f"{name} has {key.key_size} bits, and RSA needs 2048 (RFC 7518 3.3)."
        )
    if wanted is not None and wanted not in algorithms:
        raise ConfigurationError(
            f"{name} is {kind}, which signs with {' or '.join(algorithms)} and not {wanted!r}."
        )
    return wanted or algorithms[0]


def _kind(key: Any) -> tuple[str, tuple[str, ...]]:
    if isinstance(key, RSAPrivateKey):
        return "an RSA key", ("RS256", "PS256")
    if isinstance(key, EllipticCurvePrivateKey):
        p256 = isinstance(key.curve, SECP256R1)
        return f"an EC key on {key.curve.name}", ("ES256",) if p256 else ()
    if isinstance(key, Ed25519PrivateKey):
        return "an Ed25519 key", ("EdDSA",)
    return f"no signing key but {type(key).__name__}", ()


_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
