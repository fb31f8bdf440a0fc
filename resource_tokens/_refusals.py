"""
What to try when a resource refuses a token (RFC 6750 3.1, RFC 9470, RFC 9728 5.2).

1. A 401 means that the token is no good. Another one is asked for once, unless this one had been
   asked for just now; and if the challenge names metadata of the resource, that is read first.
2. A 401 that asks for a user to authenticate, or for claims, is one that no token of a machine
   satisfies: nothing is asked for.
3. A 403 that says `insufficient_scope` is worth another request if it names scopes that were not
   asked for yet, and `max_scopes` allows all of them. One token is asked for then, with these
   scopes and those of before; it is kept beside the old one, and the next request begins with what
   is configured again.
4. A 401 that dislikes the proof of a key says nothing of the token. The request is repeated with
   another proof where that would say something else (RFC 9449 9), and no token is asked for.
5. A request is repeated once at most for its token and once for its proof, and only if its body is
   in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from resource_tokens._proofs import PROOF_REFUSED
from resource_tokens.events import EventName
from resource_tokens.oauth.challenges import Challenge
from resource_tokens.oauth.messages import quoted
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.tokens import AccessToken

__all__ = ["Remedy", "remedy_for"]


class Remedy(NamedTuple):
    """
    What a refusal means, and what is worth a try.

    Attributes:
        event: What it means.
        detail: The same in words.
        renew: Whether to ask for another token of the same kind.
        described: The challenge that names metadata of the resource to read before that.
        missing: The scopes to add, for a wider token.
        scopes: All scopes of that token.
        prove: Whether to send the same token with another proof.
    """

    event: EventName
    detail: str = ""
    renew: bool = False
    described: Challenge | None = None
    missing: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    prove: bool = False

    @property
    def worth_a_try(self) -> bool:
        """
        Whether there is anything to try.
        """
        return bool(self.renew or self.described or self.missing or self.prove)


def remedy_for(
    status: int,
    challenges: Sequence[Challenge],
    asked: TokenRequest,
    shown: AccessToken,
    *,
    warm: bool,
    repeatable: bool,
) -> Remedy | None:
    """
    What to try, by the rules above; `None` if the answer is no refusal of the token.

    Args:
        status: The status of the answer.
        challenges: Its challenges.
        asked: What the token was asked for.
        shown: The token.
        warm: Whether it comes from the cache, and was not asked for just now.
        repeatable: Whether the request can be sent a second time.
    """
    # RFC 9449 7.1 has the same error codes as RFC 6750 3.1.
    errors = {c.error: c for c in reversed(challenges) if c.scheme in ("bearer", "dpop")}
    if status == 403 and "insufficient_scope" in errors:
        return _wider(errors["insufficient_scope"], asked, shown, repeatable)
    if status != 401:
        return None
    disliked = next((error for error in PROOF_REFUSED if error in errors), None)
    if disliked is not None:
        return Remedy("proof_refused", f"{disliked}, and another proof would say the same")
    if "insufficient_user_authentication" in errors:
        return _user_wanted(errors["insufficient_user_authentication"])
    if "insufficient_claims" in errors or any(c.claims is not None for c in errors.values()):
        return Remedy("insufficient_claims", "the resource asks for claims that the token lacks")
    # RFC 9728 5.1: the parameter may be in a challenge of any scheme.
    described = next((c for c in challenges if c.resource_metadata is not None), None)
    if not repeatable:
        return Remedy("token_rejected", "the body of the request cannot be sent again")
    return Remedy("token_rejected", renew=warm, described=described)


def _user_wanted(challenge: Challenge) -> Remedy:
    wanted = [f"acr_values {quoted(' '.join(challenge.acr_values))!r}"]
    if challenge.max_age is not None:
        wanted.append(f"max_age {challenge.max_age.total_seconds():.0f} s")
    return Remedy("insufficient_user_authentication", ", ".join(wanted))


def _wider(
    challenge: Challenge, asked: TokenRequest, shown: AccessToken, repeatable: bool
) -> Remedy:
    allowed = frozenset(asked.resource.max_scopes or ())
    missing = challenge.scopes - asked.scopes - shown.scopes
    named = f"missing: {quoted(' '.join(sorted(missing)))!r}"
    if not missing:
        # RFC 6750 3.1: "The request requires higher privileges than provided by the access
        # token." What was asked for already does not bring them.
        return Remedy("insufficient_scope", "it names no scope that was not asked for already")
    if asked.grant.grant_type != "client_credentials":
        return Remedy("insufficient_scope", f"{named}; a grant of somebody else is not widened")
    if not missing <= allowed:
        return Remedy("insufficient_scope", f"{named}; max_scopes does not allow all of them")
    if not repeatable:
        return Remedy(
            "insufficient_scope", f"{named}; the body of the request cannot be sent again"
        )
    scopes = asked.scopes | (shown.scopes & allowed) | challenge.scopes
    return Remedy("insufficient_scope", f"{named}; asking for them", missing=missing, scopes=scopes)
