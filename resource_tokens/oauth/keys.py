"""
Private keys and certificates, as PEM (RFC 7468) and JWK (RFC 7517).

PyJWT and cryptography take longer to import than all the rest, so whoever needs this module
imports it late.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.messages import Members
from resource_tokens.tokens import Secret

__all__ = [
    "certificate_thumbprint",
    "jwk_in",
    "pem_of",
    "private_jwk",
    "private_pem",
    "public_bytes",
]

# In all of these, errors are raised after the `except`: the error that was being handled can hold
# the text of the key.


def jwk_in(name: str, text: Secret, password: Secret | None) -> Members | None:
    """
    The private JWK in a text; `None` if it is none.

    Raises:
        ConfigurationError: If it is another JWK.
    """
    if not text.reveal().lstrip().startswith("{"):
        return None
    try:
        jwk = Members(json.loads(text.reveal()))
    except (ValueError, RecursionError):
        jwk = Members()
    if password is not None:
        raise ConfigurationError(f"{name} is a JWK, which no password encrypts. Leave it out.")
    if "keys" in jwk:
        raise ConfigurationError(f"{name} is a JWK Set. Give one key of it.")
    if jwk.get("kty") == "oct":
        raise ConfigurationError(
            f"{name} is symmetric. A secret that the server knows too is for ClientSecretJwt."
        )
    if "kty" in jwk and "d" not in jwk:
        raise ConfigurationError(f"{name} is a public JWK, without `d`. Give the private one.")
    if not all(isinstance(jwk.get(member, ""), str) for member in ("kid", "alg", "x5t#S256")):
        raise ConfigurationError(f"{name} is a JWK whose kid, alg or x5t#S256 is no string.")
    # RFC 7517 4.2 and 4.3.
    operations = jwk.get("key_ops", ["sign"])
    if (
        jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "sign" not in operations
    ):
        raise ConfigurationError(f"{name} is a JWK that is not for signing: see `use`, `key_ops`.")
    return jwk


def private_jwk(name: str, jwk: Members) -> Any:
    """
    The key that a JWK describes.

    Raises:
        ConfigurationError: If it describes none.
    """
    try:
        # Without `alg`: which one suits the key is decided elsewhere.
        return jwt.PyJWK({member: jwk[member] for member in jwk if member != "alg"}).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        kind = jwk.get("kty")
    raise ConfigurationError(f"{name} is no valid private JWK (its kty is {kind!r}).")


def private_pem(name: str, text: Secret, password: Secret | None) -> Any:
    """
    The first private key in a PEM text, which may hold certificates too.

    Raises:
        ConfigurationError: If there is none, or not with this password.
    """
    if "PRIVATE KEY-----" not in text.reveal():
        public = "-----BEGIN " in text.reveal()
        found = "is a public key or certificate" if public else "is no PEM"
        raise ConfigurationError(
            f"{name} {found}. Give the private key; if it is in a file, as pathlib.Path(...)."
        )
    try:
        return load_pem_private_key(
            text.reveal().encode(), None if password is None else password.reveal().encode()
        )
    except TypeError:
        encrypted = password is None
        why = "is encrypted" if encrypted else "is not encrypted: leave password= out"
    except (ValueError, UnsupportedAlgorithm):
        form = "PEM in the form PKCS #8, PKCS #1 or SEC 1"
        why = f"is no {form}" if password is None else "cannot be decrypted with this password"
    raise ConfigurationError(f"{name} {why}.")


def pem_of(name: str, key: object) -> Secret:
    """
    The PEM of a private key of the `cryptography` package.

    Raises:
        ConfigurationError: If it is none.
    """
    try:
        encoded: bytes = key.private_bytes(  # type: ignore[attr-defined]  # they have no base class
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        return Secret(encoded.decode())
    except (AttributeError, TypeError, ValueError, UnsupportedAlgorithm):
        public = hasattr(key, "public_bytes")
    raise ConfigurationError(
        f"{name} is a public key or certificate. Give the private key."
        if public
        else f"{name} is a {type(key).__name__}. Give PEM, a JWK, a pathlib.Path, or a private key "
        "of the cryptography package."
    )


def certificate_thumbprint(name: str, key: Any, certificate: Secret) -> bytes:
    """
    The SHA-256 thumbprint of the first certificate in a PEM text, which is that of a private key.

    Raises:
        ConfigurationError: If there is none, or it belongs to another key.
    """
    first, theirs = None, b""
    try:
        first = x509.load_pem_x509_certificates(certificate.reveal().encode())[0]
        theirs = public_bytes(first)
    except (ValueError, UnsupportedAlgorithm):
        first = None
    if first is None:
        raise ConfigurationError(f"{name} comes with a certificate that is no PEM.")
    if theirs != public_bytes(key):
        raise ConfigurationError(
            f"{name} is not that of the certificate it comes with. Files that belong together are "
            "replaced together."
        )
    return hashlib.sha256(first.public_bytes(Encoding.DER)).digest()


def public_bytes(holder: Any) -> bytes:
    """
    The public key of a private key or certificate (SubjectPublicKeyInfo, RFC 5280 4.1).
    """
    public: bytes = holder.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return public
