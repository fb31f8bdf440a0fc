"""
Verifies JWT access tokens the way an API should, against any server that publishes its keys.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import jwt

from tests.servers.loopback import fetch_json

_ALGORITHMS = ("RS256", "ES256", "PS256", "EdDSA")


class TokenVerifier:
    """
    Knows one issuer and its keys: given ones, or those at its `jwks_uri`, or both.
    """

    def __init__(
        self,
        issuer: str,
        *,
        jwks_uri: str | None = None,
        keys: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._issuer = issuer
        self._jwks_uri = jwks_uri
        self._lock = threading.Lock()
        self._keys = _by_kid(keys)  # guarded by _lock

    def claims(self, token: str, audience: str) -> dict[str, Any]:
        """
        The claims of a token that is good here.

        Raises:
            jwt.InvalidTokenError: It is not; the message says why.
        """
        claims: dict[str, Any] = jwt.decode(
            token,
            self._key_for(token),
            algorithms=_ALGORITHMS,
            audience=audience,
            issuer=self._issuer,
            options={"require": ["exp", "iss", "aud"]},
        )
        return claims

    def _key_for(self, token: str) -> jwt.PyJWK:
        kid = jwt.get_unverified_header(token).get("kid")
        # Held across the fetch on purpose: many threads with a new key fetch it once.
        with self._lock:
            if kid not in self._keys and self._jwks_uri is not None:
                self._keys |= _by_kid(fetch_json(self._jwks_uri)["keys"])
            if kid not in self._keys:
                raise jwt.InvalidTokenError(f"no key {kid!r}")
            return self._keys[kid]


def _by_kid(keys: Iterable[Mapping[str, Any]]) -> dict[str | None, jwt.PyJWK]:
    jwks = [dict(key) for key in keys]
    if not jwks:
        return {}
    return {key.key_id: key for key in jwt.PyJWKSet.from_dict({"keys": jwks}).keys}
