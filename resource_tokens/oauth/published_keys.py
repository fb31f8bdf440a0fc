"""
The keys that an issuer publishes, and the signatures of access tokens (RFC 7517, RFC 9068).

PyJWT has the algorithms. What is here decides with which key, as that is where forged tokens get
in: by a key that the token itself brings along, by the name of another algorithm, by an extension
that nobody looked at. So it takes the token apart itself, once; PyJWT would do it again, and look
at each character in Python.

PyJWT and cryptography take longer to import than all the rest, so nothing that comes with `import
resource_tokens` needs this module.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from resource_tokens.oauth.inbound_tokens import Refusal
from resource_tokens.oauth.messages import Members, base64url
from resource_tokens.tokens import Secret

__all__ = ["ALGORITHMS", "PublishedKeys", "UnknownKey", "header_in", "public_key", "verified"]

ALGORITHMS = (
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "PS256",
    "PS384",
    "PS512",
    "RS256",
    "RS384",
    "RS512",
)
"""
What a signature can be of. All of them are asymmetric: whoever verifies a token cannot sign one.
"""


class UnknownKey(Refusal):
    """
    The token is signed with a key that is not among those published, as far as is known here.
    """


class _Key(NamedTuple):
    kid: object
    algorithms: frozenset[str]
    key: Any


class PublishedKeys:
    """
    What the tokens of one issuer are verified with.

    Args:
        document: A JWK Set (RFC 7517 5).
        algorithms: Those that count, of `ALGORITHMS`.
        typ: What a header may say in `typ`, in lower case; `None` among them if it may say
            nothing.
    """

    def __init__(
        self, document: Mapping[str, Any], algorithms: Collection[str], typ: Collection[str | None]
    ) -> None:
        self._algorithms = frozenset(algorithms)
        self._typ = frozenset(typ)
        published = document.get("keys")
        listed = published[:_MAX_KEYS] if isinstance(published, list) else []
        # RFC 7517 5: "Implementations SHOULD ignore JWKs within a JWK Set that use "kty" values
        # that are not understood by them, that are missing required members, or for which values
        # are out of the supported ranges."
        keys = (_published_key(jwk, self._algorithms) for jwk in listed)
        self._keys = tuple(key for key in keys if key is not None)

    def __len__(self) -> int:
        return len(self._keys)

    def claims(self, token: Secret) -> Members:
        """
        The claims of a JWT access token whose signature is good.

        Raises:
            UnknownKey: If it is signed with a key that is not here.
            Refusal: If it is not signed, or by nobody that counts, or is no access token.
        """
        header = header_in(token)
        if header is None:
            raise Refusal("The token is no JWT.")
        algorithm = header["alg"]
        claims = verified(token, self._key_for(header), algorithm)
        if claims is None:
            # One that does not say which key is meant may be signed with a newer one.
            raise (Refusal if "kid" in header else UnknownKey)(
                "The token is not signed by its issuer, or holds no claims."
            )
        return claims

    def _key_for(self, header: Members) -> Any:
        # RFC 7515 4.1.11: "If any of the listed extension Header Parameters are not understood
        # and supported by the recipient, then the JWS is invalid." None is. RFC 7797 6 asks for
        # it with `b64`.
        if "crit" in header or "b64" in header:
            raise Refusal("The token has extensions that are not understood here (crit).")
        # RFC 9068 4: the header "MUST" say "at+jwt" or "application/at+jwt", and the server
        # "MUST" refuse "tokens carrying any other value". Media types have no letter case.
        typ = header.get("typ")
        if (None if typ is None else str(typ).lower()) not in self._typ:
            raise Refusal(
                "The token is no JWT access token (typ). If its issuer writes another typ, the "
                "API has to be told."
            )
        # RFC 8725 3.1: "each key MUST be used with exactly one algorithm", and the `alg` of the
        # header chooses among those of the key, not the other way round. What else it says of
        # keys (jwk, jku, x5c, x5u) was written by whoever made the token, and is not read.
        algorithm, kid = header["alg"], header.get("kid")
        if algorithm not in self._algorithms:
            raise Refusal("The token is signed in a way that does not count here (alg).")
        usable = [key for key in self._keys if algorithm in key.algorithms]
        found = usable if kid is None else [key for key in usable if key.kid == kid]
        if not found:
            raise UnknownKey("The token is signed with a key that its issuer does not publish.")
        if kid is None and len(found) > 1:
            raise Refusal("The token does not say which key it is signed with (kid).")
        return found[0].key


def header_in(token: Secret) -> Members | None:
    """
    The header of a JWS; `None` if there is none.
    """
    try:
        header = json.loads(_decoded(token.reveal().partition(".")[0]))
    except (ValueError, RecursionError):
        return None
    # A string could not be told from a list by what follows.
    named = isinstance(header, dict) and isinstance(header.get("alg"), str)
    return Members(header) if named else None


def verified(token: Secret, key: Any, algorithm: str) -> Members | None:
    """
    The members in a JWS (RFC 7515 7.1) signed with this key; `None` if it is no such thing.

    Args:
        token: The JWS, whose header was read by `header_in`.
        key: The key.
        algorithm: What its header says, and the key is for.
    """
    # RFC 7515 5.2: what is signed is all before the last dot; after the first one is the payload.
    signed, _, signature = token.reveal().rpartition(".")
    payload = signed.partition(".")[2]
    try:
        verifier = jwt.get_algorithm_by_name(algorithm)
        good = verifier.verify(signed.encode("ascii"), key, _decoded(signature))
        claims = json.loads(_decoded(payload)) if good else None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    return Members(claims) if isinstance(claims, dict) else None


def _decoded(part: str) -> bytes:
    # RFC 7515 2: base64url "with all trailing '=' characters omitted" and "without the inclusion
    # of any line breaks, whitespace, or other additional characters". Python's decoder takes more
    # than one spelling.
    decoded = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64url(decoded) != part:
        raise ValueError("This is not the base64url of anything.")
    return decoded


def public_key(jwk: Mapping[str, Any], algorithms: Collection[str]) -> tuple[Any, frozenset[str]]:
    """
    The key that a JWK describes, and the algorithms that it may be used with; none if it is no
    public key, or too weak or too strong for any.
    """
    curve = None if jwk.get("kty") == "RSA" else str(jwk.get("crv"))
    suitable = _SUITABLE.get((str(jwk.get("kty")), curve), frozenset())
    if "alg" in jwk:
        suitable &= {str(jwk["alg"])}
    suitable &= frozenset(algorithms)
    # A private key that was published is known to everybody.
    if not suitable or "d" in jwk:
        return None, frozenset()
    members = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}
    if not all(isinstance(value, str) for value in members.values()):
        return None, frozenset()
    try:
        key = jwt.PyJWK(members, min(suitable)).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return None, frozenset()
    # RFC 7518 3.3: "A key of size 2048 bits or larger MUST be used with these algorithms." One
    # that is far larger makes each signature expensive to look at.
    if isinstance(key, RSAPublicKey) and not 2048 <= key.key_size <= 8192:
        return None, frozenset()
    return key, suitable


def _published_key(jwk: object, algorithms: frozenset[str]) -> _Key | None:
    # RFC 7517 4.2 and 4.3.
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    key, suitable = public_key(jwk, algorithms)
    return _Key(jwk.get("kid"), suitable, key) if suitable else None


_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_SUITABLE: dict[tuple[str, str | None], frozenset[str]] = {
    ("RSA", None): _RSA,
    # RFC 7518 3.4 pairs each curve with one hash.
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
_MAX_KEYS = 64
