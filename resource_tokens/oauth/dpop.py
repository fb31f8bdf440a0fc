"""
Proofs of possession (DPoP, RFC 9449): a token that is of no use without a key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resource_tokens._locks import SafeLock
from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.messages import base64url
from resource_tokens.tokens import AccessToken, Secret

if TYPE_CHECKING:
    from resource_tokens.oauth.proof_keys import Signer

__all__ = ["ProofKey", "normalised"]


class ProofKey:
    """
    The key that tokens of `Resource(..., sender="dpop")` are bound to (RFC 9449 6).

    By default it is made when it is first needed, lives in memory and dies with the process: a
    token that was copied out of it is then of no use to anybody. A key that is given lets several
    processes share tokens, and whoever has the key can use them.

    Args:
        key: A private key to use instead: PEM, a JWK as text, the `pathlib.Path` of either, or a
            private key of the `cryptography` package. On P-256 or Ed25519.
        password: Of an encrypted PEM.
        algorithm: What a key that is made here is for: `"ES256"` or `"EdDSA"`.

    Raises:
        ConfigurationError: If a key that was given cannot be used.
    """

    __slots__ = ("_algorithm", "_lock", "_signer", "lasting")

    def __init__(
        self,
        key: str | bytes | Path | Any = None,
        *,
        password: str | None = None,
        algorithm: Literal["ES256", "EdDSA"] | None = None,
    ) -> None:
        if algorithm not in {None, "ES256", "EdDSA"}:
            raise ConfigurationError(f"algorithm={algorithm!r}: use 'ES256' or 'EdDSA'.")
        self._algorithm = algorithm
        # Whether it is there in another process as well.
        self.lasting = key is not None
        self._lock = SafeLock()
        self._signer: Signer | None = None  # written under _lock
        if key is not None:
            # Local: see `proof_keys`.
            from resource_tokens.oauth.proof_keys import given

            self._signer = given(key, None if password is None else Secret(password), algorithm)

    @property
    def thumbprint(self) -> str:
        """
        The `jkt` of the public key (RFC 7638, RFC 9449 6.1).
        """
        return self._made().thumbprint

    def proof(
        self,
        method: str,
        url: str,
        now: float,
        *,
        nonce: str | None = None,
        token: AccessToken | None = None,
    ) -> str:
        """
        A proof for one request (RFC 9449 4.2).

        Args:
            method: The HTTP method.
            url: Where the request goes, as on the wire.
            now: Seconds since the epoch.
            nonce: What the server of this request has asked for, if it has.
            token: The access token that the request carries, if it does.
        """
        claims: dict[str, Any] = {
            # RFC 9449 4.2: "at least 96 bits of pseudorandom data".
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            # The target of the request "without query and fragment parts".
            "htu": normalised(url),
            "iat": int(now),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        if token is not None:
            # "The value MUST be the result of a base64url encoding [...] the SHA-256 hash of the
            # ASCII encoding of the associated access token's value."
            claims["ath"] = base64url(hashlib.sha256(token.reveal().encode("ascii")).digest())
        return self._made().signed(claims)

    def _made(self) -> Signer:
        if self._signer is None:
            from resource_tokens.oauth.proof_keys import made

            with self._lock:
                if self._signer is None:
                    self._signer = made(self._algorithm or "ES256")
        return self._signer

    def __copy__(self) -> ProofKey:
        return self

    def __deepcopy__(self, memo: object) -> ProofKey:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("A proof key is not pickled: what is pickled can be stored and sent.")

    def __repr__(self) -> str:
        return "ProofKey('...')"


def normalised(url: str) -> str:
    """
    A URL as `htu` (RFC 9449 4.3, RFC 3986 6.2.2 and 6.2.3): no query, no default port, scheme and
    host in lower case, percent-encoding in upper case.
    """
    bare = url.partition("#")[0].partition("?")[0]
    scheme, _, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    scheme, authority = scheme.lower(), authority.lower()
    authority = authority.removesuffix({"https": ":443", "http": ":80"}.get(scheme, "\0"))
    if "%" in path:
        path = re.sub(r"%[0-9A-Fa-f]{2}", _decoded_if_plain, path)
    return f"{scheme}://{authority}{slash or '/'}{path}"


def _decoded_if_plain(encoded: re.Match[str]) -> str:
    # RFC 3986 6.2.2.2: what needed no encoding is decoded; 6.2.2.1: the rest is in upper case.
    character = chr(int(encoded.group()[1:], 16))
    return character if re.fullmatch(r"[A-Za-z0-9._~-]", character) else encoded.group().upper()
