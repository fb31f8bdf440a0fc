"""
Proofs of possession: each is good once (RFC 9449 11.1), and with a nonce of this server where it
asks for one (RFC 9449 9).

1. A proof is looked at after its token was found good, so that only clients with a good token fill
   what is kept here.
2. What makes a proof unique is kept until the proof is too old anyway. Of 65,536 kept, the oldest
   goes first.
3. It is kept in this process: another process of the same API would take the proof once more.
4. A nonce is made of a secret and the time. Every process with the same secret knows it, and
   nothing is stored. It is good for five to ten minutes.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable

from cachetools import TTLCache

from resource_tokens._locks import SafeLock
from resource_tokens.oauth.inbound_tokens import InboundToken, Refusal
from resource_tokens.oauth.possession import PROOF_AGE, proof_for
from resource_tokens.oauth.presented import Presented
from resource_tokens.tokens import Secret

__all__ = ["Proofs"]


class Proofs:
    """
    The proofs that one API takes, by the rules above.

    Args:
        base_url: What goes before the target of a request in its URL; `None` if it is not known.
        nonce_secret: What nonces are made with; `None` if none are asked for.
        audience: This API.
        skew: How far clocks may be apart, in seconds.
        clock: Seconds that never jump.
    """

    def __init__(
        self,
        base_url: str | None,
        nonce_secret: Secret | None,
        audience: str,
        skew: float,
        clock: Callable[[], float],
    ) -> None:
        self.base_url = base_url
        self._nonce_secret = nonce_secret
        self._audience = audience
        self._skew = skew
        self._lock = SafeLock()
        self._seen: TTLCache[bytes, bool] = TTLCache(  # guarded by _lock
            _MAX_KEPT, PROOF_AGE + 2 * skew, timer=clock
        )

    def check(self, presented: Presented, token: InboundToken, now: float) -> None:
        """
        See that the sender of a good token has the key that it is bound to, if it is.

        Raises:
            Refusal: If there is no proof of that.
        """
        proof = proof_for(presented, token, self.base_url, now, self._skew)
        if proof is None:
            return
        if self._nonce_secret is not None and proof.nonce not in self._nonces(now):
            raise Refusal(
                "The DPoP proof has to hold the nonce of this answer.",
                "use_dpop_nonce",
                sender=True,
            )
        with self._lock:
            used = proof.once in self._seen
            self._seen[proof.once] = True
        if used:
            raise Refusal(
                "The DPoP proof was used before (jti).", "invalid_dpop_proof", sender=True
            )

    def nonce(self, now: float) -> str:
        """
        The nonce to ask for; empty if none is.
        """
        return self._nonces(now)[0]

    def _nonces(self, now: float) -> tuple[str, ...]:
        if self._nonce_secret is None:
            return ("",)
        secret = self._nonce_secret
        period = int(now // _NONCE_PERIOD)
        digests = (
            hmac.digest(secret.reveal().encode(), f"{number} {self._audience}".encode(), "sha256")
            for number in (period, period - 1)
        )
        return tuple(urlsafe_b64encode(digest[:18]).decode() for digest in digests)


_MAX_KEPT = 65_536
_NONCE_PERIOD = 300.0
