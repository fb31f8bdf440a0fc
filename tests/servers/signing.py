"""
Keys, JWKs and JWTs of any kind, good and forged.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

__all__ = ["access_token", "encoded", "private_key", "published", "signed"]


@cache
def private_key(name: str) -> Any:
    """
    The key of this name, which begins with the algorithm that it is for. It is made when it is
    first asked for; a `weak` one is short.
    """
    kind = name.partition(" ")[0]
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    return rsa.generate_private_key(65537, 1024 if "weak" in name else 2048)


def published(name: str, **members: Any) -> dict[str, Any]:
    """
    The JWK of a key, with its name for `kid` and these changes; one that is `None` is left out.
    """
    kinds: dict[str, Any] = {"Ed": OKPAlgorithm, "ES": ECAlgorithm}
    kind = kinds.get(name[:2], RSAAlgorithm)
    jwk: dict[str, Any] = kind.to_jwk(private_key(name).public_key(), as_dict=True)
    found = {**jwk, "kid": name, **members}
    return {member: value for member, value in found.items() if value is not None}


def encoded(value: object) -> str:
    """
    A part of a JWT: bytes, or something to write as JSON, in base64url.
    """
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def signed(name: str, payload: Any, header: dict[str, Any], algorithm: str | None = None) -> str:
    """
    A JWS with whatever payload and header, signed with a key; what is `None` in the header is
    left out.
    """
    algorithm = algorithm or name.partition(" ")[0]
    header = {"alg": algorithm} | header
    header = {member: value for member, value in header.items() if value is not None}
    body = f"{encoded(header)}.{encoded(payload)}"
    signer = jwt.get_algorithm_by_name(algorithm)
    return f"{body}.{encoded(signer.sign(body.encode(), private_key(name)))}"


def access_token(
    issuer: str,
    audience: str,
    now: float,
    name: str = "ES256",
    *,
    algorithm: str | None = None,
    header: dict[str, Any] | None = None,
    without: str = "",
    **claims: Any,
) -> str:
    """
    An access token by RFC 9068 that is good for five minutes, with these changes.

    Args:
        issuer: Its `iss`.
        audience: Its `aud`.
        now: Its `iat`.
        name: Of the key.
        algorithm: Of the signature, by default the one in the name of the key.
        header: Changes of the header; what is `None` is left out.
        without: A claim to leave out.
        claims: Changes of the claims.
    """
    found: dict[str, Any] = {
        "iss": issuer,
        "sub": "alice",
        "client_id": "orders-web",
        "aud": audience,
        "scope": "orders:read orders:write",
        "iat": int(now),
        "exp": int(now) + 300,
        "jti": "1",
    }
    found = {member: value for member, value in (found | claims).items() if member != without}
    return signed(name, found, {"typ": "at+jwt", "kid": name} | (header or {}), algorithm)


_CURVES: dict[str, Any] = {
    "ES256": ec.SECP256R1(),
    "ES384": ec.SECP384R1(),
    "ES512": ec.SECP521R1(),
}
