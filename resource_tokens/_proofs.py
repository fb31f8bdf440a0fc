"""
Proofs for the servers that a client speaks to (RFC 9449), with what each has asked to be in them.

1. What one server asks for is nothing to another. A server is whoever has asked, at its origin:
   authorization servers and resources are apart, and so are two resources behind one gateway.
2. The newest nonce of a server counts, whatever else its answer says (RFC 9449 8.2).
3. Proofs bear the time of this machine. A server that refuses one and says that it is another time
   there gets proofs by its own clock.
4. A refusal is worth another try only if the proof for it would say something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import NamedTuple

from cachetools import LRUCache

from resource_tokens._locks import SafeLock
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.messages import date_in
from resource_tokens.tokens import AccessToken

__all__ = ["PROOF_REFUSED", "Prover", "Terms"]

PROOF_REFUSED = ("use_dpop_nonce", "invalid_dpop_proof")
"""
The errors of servers that dislike the proof, and not the token or the client (RFC 9449 12.2).
"""


class Terms(NamedTuple):
    """
    What a server wants to be in its proofs.

    Attributes:
        nonce: The nonce that it gave out last.
        skew: What its clock is ahead of this machine's, in seconds.
    """

    nonce: str | None = None
    skew: float = 0.0


class Prover:
    """
    Makes proofs for servers of one kind, by the rules above.

    Args:
        wall_clock: Seconds since the epoch.
        maxsize: How many servers to remember.
    """

    def __init__(self, wall_clock: Callable[[], float], maxsize: int = 256) -> None:
        self._wall_clock = wall_clock
        self._lock = SafeLock()
        self._terms: LRUCache[Hashable, Terms] = LRUCache(maxsize)  # guarded by _lock

    def terms(self, server: Hashable) -> Terms:
        """
        What a server has asked for so far.
        """
        with self._lock:
            return self._terms.get(server, _NONE)

    def proof(
        self,
        key: ProofKey,
        method: str,
        url: str,
        terms: Terms,
        token: AccessToken | None = None,
    ) -> str:
        """
        A proof for one request, by the terms of its server.
        """
        now = self._wall_clock() + terms.skew
        return key.proof(method, url, now, nonce=terms.nonce, token=token)

    def heed(
        self, server: Hashable, used: Terms, nonce: str, error: str = "", date: str = ""
    ) -> str:
        """
        Learn from an answer what the next proof for its server has to say.

        Args:
            server: Who has answered.
            used: By which terms the proof was made that is answered to.
            nonce: The `DPoP-Nonce` of the answer; "" if there is none.
            error: The error code in it, likewise.
            date: Its `Date`, likewise.

        Returns:
            Why another proof is worth a try; "" if it is not.
        """
        if nonce in ("", used.nonce) and not error:
            return ""
        why = ""
        terms = before = self.terms(server)
        if _NONCE.fullmatch(nonce):
            terms = terms._replace(nonce=nonce)
            if error == "use_dpop_nonce" and nonce != used.nonce:
                why = "the server wants a nonce in the proof"
        its_time = date_in(date) if error == "invalid_dpop_proof" else None
        if its_time is not None:
            skew = its_time - self._wall_clock()
            if abs(skew - used.skew) > _MAX_SKEW:
                terms = terms._replace(skew=skew)
                why = f"the server's clock is {skew:+.0f} s from this machine's"
        if terms != before:
            with self._lock:
                self._terms[server] = terms
        return why


_NONE = Terms()
# RFC 9449 8.1: nonce = 1*NQCHAR; and no honest one is longer.
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,512}")
# Servers write whole seconds, and take proofs of some seconds around their own time.
_MAX_SKEW = 5.0
