"""
APIs that let in whoever has what a token is bound to: the key that a proof is signed with (RFC 9449
4.3 and 7), checked with joserfc; or the certificate on the connection (RFC 8705 3).
"""

from __future__ import annotations

import hashlib
import threading
import time
import warnings
from base64 import urlsafe_b64encode
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import jwt
from joserfc import jws
from joserfc import jwt as joserfc_jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey

from tests.servers.apis import Answer, LedgerApi, Seen

__all__ = ["CertificateApi", "ProofApi", "read_proof", "thumbprint_of"]


def read_proof(proof: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """
    Header, claims and key thumbprint of a proof that is signed by the key in its header.

    Raises:
        JoseError: It is not.
    """
    header = jws.extract_compact(proof.encode("ascii")).headers()
    jwk = header.get("jwk", {})
    key = (ECKey if jwk.get("kty") == "EC" else OKPKey).import_key(jwk)
    with warnings.catch_warnings():
        # RFC 9864 has renamed EdDSA; servers go by the old name.
        warnings.simplefilter("ignore", SecurityWarning)
        claims = joserfc_jwt.decode(proof, key, algorithms=["ES256", "EdDSA"]).claims
    return dict(header), dict(claims), key.thumbprint()


class ProofApi(LedgerApi):
    """
    Refuses what is not proved: 401 with a challenge of the scheme DPoP.

    Attributes:
        nonce: What it wants in a proof, and gives out with every answer; nothing if empty.
        origin: What it believes to be asked at; its own URL by default.
        clock: Seconds since the epoch.
        proofs: The claims of every proof that was good, and of no other.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.nonce = ""
        self.origin = ""
        self.clock = time.time
        self.proofs: list[dict[str, Any]] = []
        self._seen_once: set[str] = set()  # guarded by _proving
        self._proving = threading.Lock()
        super().__init__(*args, **kwargs)

    def _own_answer(self, request: Seen) -> Answer:
        answer = self._judged(request)
        given = (("DPoP-Nonce", self.nonce),) if self.nonce else ()
        return replace(answer, headers=(*answer.headers, *given))

    def _judged(self, request: Seen) -> Answer:
        authorization, proofs = request.header("authorization"), request.header("dpop")
        scheme, _, token = "".join(authorization).partition(" ")
        if (len(authorization), len(proofs), scheme) != (1, 1, "DPoP"):
            return _refusal("invalid_token", f"{authorization and scheme}, {len(proofs)} proofs")
        try:
            header, claims, thumbprint = read_proof(proofs[0])
        except (JoseError, ValueError) as error:
            return _refusal("invalid_dpop_proof", repr(error))
        if self.nonce and claims.get("nonce") != self.nonce:
            return _refusal("use_dpop_nonce", "another nonce")
        wrong = self._wrong(request, header, claims)
        if wrong:
            return _refusal("invalid_dpop_proof", wrong)
        if claims.get("ath") != thumbprint_of(token.encode("ascii")):
            return _refusal("invalid_dpop_proof", "ath")
        audience = self._audience_of(request)
        assert audience is not None
        try:
            said = self._claims(token, audience)
        except jwt.InvalidTokenError as error:
            return _refusal("invalid_token", str(error))
        if said.get("cnf", {}).get("jkt") != thumbprint:
            return _refusal("invalid_token", "bound to another key")
        self.proofs.append(claims)
        return Answer.from_json(200, {"aud": said["aud"], "scope": said.get("scope")})

    def _wrong(self, request: Seen, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """
        The first thing that is not as it has to be.
        """
        with self._proving:
            known = claims["jti"] in self._seen_once
            self._seen_once.add(claims["jti"])
        checks = {
            "typ": header["typ"] == "dpop+jwt",
            "jwk": "d" not in header["jwk"],
            "jti": not known,
            "htm": claims["htm"] == request.method,
            # RFC 9449 4.3: after normalisation, of which this is the part that matters here.
            "htu": unquote(claims["htu"]) == unquote((self.origin or self.url) + request.path),
            "iat": abs(self.clock() - claims["iat"]) < 30,
        }
        return next((name for name, holds in checks.items() if not holds), "")


class CertificateApi(LedgerApi):
    """
    Refuses a token that is not bound to the certificate that it comes with. Serve it with a context
    that asks for one.
    """

    def _own_answer(self, request: Seen) -> Answer:
        answer = super()._own_answer(request)
        if answer.status != 200:
            return answer
        _, _, token = request.header("authorization")[0].partition(" ")
        bound_to = jwt.decode(token, options={"verify_signature": False})["cnf"]["x5t#S256"]
        if request.certificate is None or bound_to != thumbprint_of(request.certificate):
            return _refusal("invalid_token", "not with this certificate")
        return answer


def thumbprint_of(octets: bytes) -> str:
    """
    A SHA-256 digest as these RFCs write it.
    """
    return urlsafe_b64encode(hashlib.sha256(octets).digest()).decode().rstrip("=")


def _refusal(error: str, reason: str) -> Answer:
    challenge = ("WWW-Authenticate", f'DPoP error="{error}", algs="ES256 EdDSA"')
    return Answer.from_json(401, {"error": error, "reason": reason}, challenge)
