"""
Reading a JWT access token's audience (RFC 9068), to see what the server really issued.

Nothing is verified here: that is the resource server's work. A wrong `aud` means that the token
endpoint ignored `resource`, and that is worth knowing before the token is shown to anybody.
"""

from __future__ import annotations

__all__ = ["audience_of"]


def audience_of(token: str) -> tuple[str, ...] | None:
    """
    The `aud` of a JWT, `()` if it has none or a malformed one, `None` if the token is no JWT.
    """
    if token.count(".") != 2:
        return None
    # Local: PyJWT takes as long to import as httpx, and opaque tokens do not need it.
    import jwt

    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, RecursionError):
        return None
    audience = claims.get("aud")
    values = (audience,) if isinstance(audience, str) else audience
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        return ()
    return tuple(values)
