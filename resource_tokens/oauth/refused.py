"""
Telling a client why it is not let in (RFC 6750 3, RFC 9449 7.1, RFC 9728 5.1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from resource_tokens.exceptions import TokenRefusedError
from resource_tokens.oauth.inbound_tokens import Refusal
from resource_tokens.oauth.presented import Presented

__all__ = ["refused"]


def refused(
    refusal: Refusal,
    presented: Presented,
    *,
    scopes: Iterable[str],
    resource_metadata: str | None,
    proof_algorithms: Collection[str],
    nonce: str,
) -> TokenRefusedError:
    """
    What to answer to a request that is refused.

    Args:
        refusal: Why.
        presented: What it came with.
        scopes: What a token needs.
        resource_metadata: Where the metadata of this API is, if it has any.
        proof_algorithms: How DPoP proofs may be signed; none if they cannot be checked here.
        nonce: What a DPoP proof has to hold, if it has to.
    """
    # No answer to a bad token is for a cache to keep.
    headers = {"Cache-Control": "no-store"}
    challenges = []
    parameters = {
        "error": refusal.error,
        "error_description": str(refusal) if refusal.error else "",
        # RFC 6750 3.1: "with the scope necessary to access the protected resource".
        "scope": " ".join(sorted(scopes)) if refusal.status in {401, 403} else "",
        # RFC 9728 5.1.
        "resource_metadata": resource_metadata or "",
    }
    if refusal.status == 503:
        headers["Retry-After"] = _RETRY_AFTER
    else:
        by_proof = bool(proof_algorithms) and (refusal.sender or presented.scheme == "dpop")
        # Whoever has shown nothing yet may choose.
        anonymous = refusal.status == 401 and not refusal.error
        if not by_proof:
            challenges.append(_challenge("Bearer", parameters))
        if by_proof or (proof_algorithms and anonymous):
            parameters["algs"] = " ".join(proof_algorithms)
            challenges.append(_challenge("DPoP", parameters))
        headers["WWW-Authenticate"] = ", ".join(challenges)
    # RFC 9449 9: the nonce goes with the challenge that asks for it.
    if nonce and refusal.error == "use_dpop_nonce":
        headers["DPoP-Nonce"] = nonce
    return TokenRefusedError(str(refusal), refusal.status, refusal.error, headers)


def _challenge(scheme: str, parameters: dict[str, str]) -> str:
    # RFC 6750 3: values of `error_description` "MUST NOT include characters outside the set
    # %x20-21 / %x23-5B / %x5D-7E". The others have no reason to.
    shown = [
        f'{name}="{re.sub(_UNQUOTABLE, "?", value)}"' for name, value in parameters.items() if value
    ]
    return f"{scheme} {', '.join(shown)}".rstrip()


_UNQUOTABLE = r"[^\x20-\x21\x23-\x5b\x5d-\x7e]"
_RETRY_AFTER = "10"
