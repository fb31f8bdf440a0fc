"""
Whether the sender of a token has the key that the token is bound to (RFC 9449 4.3 and 7.1,
RFC 8705 3).

PyJWT and cryptography take longer to import than all the rest, so nothing that comes with `import
resource_tokens` needs this module.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from resource_tokens.oauth.dpop import normalised
from resource_tokens.oauth.inbound_tokens import InboundToken, Refusal
from resource_tokens.oauth.jwt import claims_in
from resource_tokens.oauth.messages import base64url
from resource_tokens.oauth.presented import Presented
from resource_tokens.oauth.published_keys import ALGORITHMS, header_in, public_key, verified

__all__ = ["PROOF_AGE", "Proof", "certificate_thumbprint", "proof_for"]


class Proof(NamedTuple):
    """
    A proof that is good for one request, if it was not used before.

    Attributes:
        once: What no other proof may have.
        nonce: What the server has asked to be in it; `None` if there is nothing.
    """

    once: bytes
    nonce: str | None


def proof_for(
    presented: Presented, token: InboundToken, base_url: str | None, now: float, skew: float
) -> Proof | None:
    """
    The proof that a request has to come with; `None` if its token is bound to no key for proofs.

    Args:
        presented: What the request presents.
        token: Its token, which is good otherwise.
        base_url: What goes before the target in the URL that the client has asked for; `None` if
            that is not known.
        now: Seconds since the epoch.
        skew: How far the clocks may be apart, in seconds.

    Raises:
        Refusal: If the token is bound, and the request does not show that its sender has the key.
    """
    bound = _confirmation(token)
    if "x5t#S256" in bound:
        _check_certificate(presented, bound["x5t#S256"])
    if "jkt" not in bound:
        # RFC 9449 7.1: "the DPoP access token is accepted" only if it is bound to the key.
        if presented.scheme == "dpop":
            raise Refusal("The token is bound to no key: present it as Bearer.")
        return None
    # RFC 9449 7.2: a server that supports both schemes "MUST reject an access token received as a
    # bearer token per [RFC6750] if that token is determined to be DPoP-bound."
    if presented.scheme != "dpop":
        raise Refusal("The token is bound to a key: present it as DPoP, with a proof.", sender=True)
    if base_url is None:
        raise Refusal(
            "The token is bound to a key, and no proof can be checked here.",
            detail="RequireToken was not told the URL that the API is called by: give base_url=",
        )
    return _checked(presented, token, bound["jkt"], base_url + presented.path, now, skew)


def _confirmation(token: InboundToken) -> Mapping[str, str]:
    bound: Any = token.claims.get("cnf")
    if bound is None:
        return {}
    # RFC 7800 3.1: what is in `cnf` says who may present the token. Whatever is not understood
    # here binds it to something that cannot be checked.
    named = isinstance(bound, dict) and bool(bound) and bound.keys() <= {"jkt", "x5t#S256"}
    if not named or not all(isinstance(value, str) and value for value in bound.values()):
        raise Refusal("The token is bound in a way that is not understood here (cnf).")
    return dict(bound)


def _check_certificate(presented: Presented, wanted: str) -> None:
    given = presented.certificate
    # RFC 8705 3: the server "MUST obtain, from its TLS implementation layer, the client
    # certificate used for mutual TLS and MUST verify that the certificate matches".
    if given is None:
        raise Refusal("The token is bound to a certificate, and none was presented.")
    if certificate_thumbprint(given) != wanted:
        raise Refusal("The token is bound to another certificate than the one presented.")


def certificate_thumbprint(certificate: str | bytes) -> str:
    """
    The `x5t#S256` of a certificate (RFC 8705 3.1); empty if it is none.

    Args:
        certificate: DER; PEM, which may be URL-encoded, as nginx writes it into a header; or
            base64 between colons (RFC 9440 2.1).
    """
    if isinstance(certificate, bytes) and not certificate.startswith(b"-----"):
        return _digest(certificate)
    text = certificate.decode("latin-1") if isinstance(certificate, bytes) else certificate
    # Of a chain the first is the client's own.
    coded = re.fullmatch(r":([^:]+):", text.strip()) or re.search(_PEM, unquote(text))
    try:
        return _digest(b64decode("".join(coded[1].split()), validate=True)) if coded else ""
    except ValueError:
        return ""


def _checked(  # noqa: PLR0917 - one call, right above
    presented: Presented, token: InboundToken, thumbprint: str, url: str, now: float, skew: float
) -> Proof:
    def bad(why: str) -> Refusal:
        return Refusal(f"The DPoP proof {why}", "invalid_dpop_proof", sender=True)

    # RFC 9449 4.3, with its numbers. 1: "There is not more than one DPoP HTTP request header
    # field." 2: it "is a single and well-formed JWT."
    if not presented.proofs:
        raise bad("is missing.")
    proof = presented.proofs[0]
    length = len(proof.reveal())
    if len(presented.proofs) > 1 or length > _MAX_LENGTH or not re.fullmatch(_JWT, proof.reveal()):
        raise bad("is not one JWT.")
    header = header_in(proof)
    # 4 and 5: "The typ JOSE Header Parameter has the value dpop+jwt", and `alg` is asymmetric and
    # acceptable. Extensions are not understood (RFC 7515 4.1.11).
    if header is None or header.get("typ") != "dpop+jwt" or "crit" in header or "b64" in header:
        raise bad("has another header than RFC 9449 4.2 says.")
    # 6 and 7: "The JWT signature verifies with the public key contained in the jwk JOSE Header
    # Parameter", which "does not contain a private key."
    jwk = header.get("jwk")
    key, suitable = public_key(jwk, ALGORITHMS) if isinstance(jwk, dict) else (None, frozenset())
    algorithm = header["alg"]
    if not isinstance(jwk, dict) or algorithm not in suitable:
        raise bad("has no public key that its algorithm can be used with.")
    # 12: "the public key to which the access token is bound matches the public key from the DPoP
    # proof". And "the value of the ath claim equals the hash of that access token".
    if _thumbprint(jwk) != thumbprint:
        raise bad("is not from the key that the token is bound to.")
    claims = verified(proof, key, algorithm)
    if claims is None:
        raise bad("is not signed with the key in it.")
    if claims.get("ath") != _digest(token.subject_token().reveal().encode("ascii")):
        raise bad("is for another token (ath).")
    # 8 and 9: `htm` is the method, `htu` is the URL "ignoring any query and fragment parts".
    if claims.get("htm") != presented.method:
        raise bad("is for another method (htm).")
    htu = claims.get("htu")
    if not isinstance(htu, str) or normalised(htu) != normalised(url):
        raise bad(f"is not for {normalised(url)} (htu).")
    # 11: "The creation time of the JWT [...] is within an acceptable window".
    created = claims_in(claims).issued_at
    if created is None or not now - PROOF_AGE <= created <= now + skew:
        raise bad("is too old, or from the future (iat).")
    jti, nonce = claims.get("jti"), claims.get("nonce")
    if not isinstance(jti, str) or not jti:
        raise bad("can be used more than once (jti).")
    once = hashlib.sha256(f"{thumbprint}.{jti}".encode("utf-8", "surrogatepass")).digest()
    return Proof(once, nonce if isinstance(nonce, str) else None)


def _thumbprint(jwk: Mapping[str, Any]) -> str:
    # RFC 7638 3.2: the required members only, in lexicographic order.
    members = {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}
    return _digest(json.dumps(members, separators=(",", ":")).encode())


def _digest(value: bytes) -> str:
    return base64url(hashlib.sha256(value).digest())


PROOF_AGE = 60.0
_MAX_LENGTH = 8 * 1024
_REQUIRED = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_PEM = r"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----"
_JWT = r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
