"""
Reading what a JWT says of itself, without verifying it: that is the work of whoever it is for.

In an access token (RFC 9068) a wrong `aud` means that the token endpoint ignored `resource`, and
that is worth knowing before the token is shown to anybody. So it is with an assertion (RFC 7523).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Claims", "audience_in", "claims_in", "claims_of", "date_in"]


class Claims(NamedTuple):
    """
    What a JWT says of itself.

    Attributes:
        audience: `aud`; empty if it is absent or malformed.
        issued_at: `iat`, in seconds since the epoch; `None` if it is absent or malformed.
        expires_at: `exp`, likewise.
        issuer: `iss`; empty if it is absent or malformed.
        subject: `sub`, likewise.
        not_before: `nbf`, as `iat`.
        key_thumbprint: The `jkt` of the key it is bound to (RFC 9449 6.1); `None` if it is to none,
            empty if it is malformed.
        certificate_thumbprint: Likewise the `x5t#S256` of a certificate (RFC 8705 3.1).
    """

    audience: tuple[str, ...]
    issued_at: float | None
    expires_at: float | None
    issuer: str = ""
    subject: str = ""
    not_before: float | None = None
    key_thumbprint: str | None = None
    certificate_thumbprint: str | None = None


def claims_of(token: str) -> Claims | None:
    """
    The claims of a JWT; `None` if the token is no JWT.
    """
    if token.count(".") != 2:
        return None
    # Local: PyJWT takes as long to import as httpx, and opaque tokens do not need it.
    import jwt

    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, RecursionError):
        return None
    return claims_in(claims)


def claims_in(claims: Mapping[str, Any]) -> Claims:
    """
    The claims among the members of a JSON object.
    """
    return Claims(
        audience_in(claims),
        date_in(claims, "iat"),
        date_in(claims, "exp"),
        _text(claims, "iss"),
        _text(claims, "sub"),
        date_in(claims, "nbf"),
        _confirmed(claims, "jkt"),
        _confirmed(claims, "x5t#S256"),
    )


def audience_in(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """
    What claims are for; empty if that is absent or malformed.
    """
    value = claims.get("aud")
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        return ()
    return tuple(values)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def _confirmed(claims: Mapping[str, Any], name: str) -> str | None:
    confirmation = claims.get("cnf")
    if not isinstance(confirmation, Mapping) or name not in confirmation:
        return None
    return _text(confirmation, name)


def date_in(claims: Mapping[str, Any], name: str) -> float | None:
    """
    A time, in seconds since the epoch; `None` if it is absent or malformed.
    """
    # RFC 7519 2: NumericDate is a JSON number.
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _YEAR_5138 else None


_YEAR_5138 = 1e11
