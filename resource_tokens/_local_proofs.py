"""
Checking proofs of possession (RFC 9449 4.3), for the servers of `resource_tokens.testing`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jwt

from resource_tokens.oauth.dpop import normalised
from resource_tokens.oauth.messages import base64url

__all__ = ["ProofChecker", "RefusedProofError"]


class RefusedProofError(Exception):
    """
    A proof that is not taken.

    Attributes:
        error: `invalid_dpop_proof`, or `use_dpop_nonce`.
    """

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


class ProofChecker:
    """
    Checks proofs, and takes each once.

    Attributes:
        nonce: What a proof has to have as its nonce; `None` if it needs none.
    """

    def __init__(self) -> None:
        self.nonce: str | None = None
        self._taken: set[str] = set()

    def thumbprint(
        self, proof: str, method: str, url: str, now: float, token: str | None = None
    ) -> str:
        """
        The thumbprint of the key that a request proves (RFC 7638).

        Raises:
            RefusedProofError: If it proves none.
        """
        try:
            header = jwt.get_unverified_header(proof)
            jwk = dict(header.get("jwk", {}))
            claims: dict[str, Any] = jwt.decode(
                proof,
                jwt.PyJWK(jwk, "EdDSA" if jwk.get("kty") == "OKP" else "ES256").key,
                algorithms=["ES256", "EdDSA"],
                options={"require": ["jti", "iat"], "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise RefusedProofError("invalid_dpop_proof", str(error)) from None
        if self.nonce is not None and claims.get("nonce") != self.nonce:
            raise RefusedProofError("use_dpop_nonce", "The proof has to have the nonce given here")
        expected = {
            "typ": (header.get("typ"), "dpop+jwt"),
            "jwk": ("d" in jwk, False),
            "htm": (claims.get("htm"), method),
            "htu": (normalised(str(claims.get("htu"))), normalised(url)),
            "ath": (claims.get("ath"), None if token is None else _digest(token)),
            "iat": (abs(now - claims["iat"]) <= _WINDOW, True),
            "jti": (claims["jti"] in self._taken, False),
        }
        wrong = [name for name, (actual, wanted) in expected.items() if actual != wanted]
        if wrong:
            raise RefusedProofError("invalid_dpop_proof", f"Not as it has to be: {wrong}")
        self._taken.add(claims["jti"])
        members = {name: jwk[name] for name in sorted({"crv", "kty", "x", "y"} & set(jwk))}
        return _digest(json.dumps(members, separators=(",", ":")))


def _digest(text: str) -> str:
    return base64url(hashlib.sha256(text.encode()).digest())


_WINDOW = 60.0
