"""
Whether a request may come in: the order in which that is decided, for all colours and frameworks.
"""

from __future__ import annotations

from collections.abc import Callable

from resource_tokens._io import IO
from resource_tokens.inbound._introspection import BELIEVED_FOR, Introspection
from resource_tokens.inbound._issuer import Issuer
from resource_tokens.inbound._proofs import Proofs
from resource_tokens.oauth.inbound_tokens import Expected, InboundToken, Refusal, judged
from resource_tokens.oauth.messages import Members
from resource_tokens.oauth.presented import Presented
from resource_tokens.oauth.published_keys import UnknownKey, header_in
from resource_tokens.tokens import Secret

__all__ = ["Check"]


class Check:
    """
    What `RequireToken` and all its views share.

    Args:
        expected: What a token has to say.
        issuer: Whose tokens count.
        introspection: How to ask about opaque tokens; `None` if there are none.
        proofs: What bound tokens have to come with.
        wall_clock: Seconds since the epoch.

    Attributes:
        scopes: Every scope that is asked for somewhere in this API.
    """

    def __init__(
        self,
        expected: Expected,
        issuer: Issuer,
        introspection: Introspection | None,
        proofs: Proofs,
        wall_clock: Callable[[], float],
    ) -> None:
        self.expected = expected
        self.proofs = proofs
        self.wall_clock = wall_clock
        self.scopes: frozenset[str] = frozenset()
        self._issuer = issuer
        self._introspection = introspection

    async def token(self, presented: Presented, io: IO) -> InboundToken:
        """
        The token of a request, which is good here, whatever its scopes.

        Raises:
            Refusal: If there is none.
        """
        # RFC 6750 3.1: `invalid_request` is for a request that "uses more than one method for
        # including an access token", and one without a token gets no error code.
        if presented.trouble:
            raise Refusal(presented.trouble, "invalid_request", 400)
        if not presented.scheme:
            raise Refusal("The request has no token.", "")
        value = presented.token
        if len(value.reveal()) > _MAX_LENGTH:
            raise Refusal(f"The token is longer than {_MAX_LENGTH} characters.")
        if self._introspection is not None and not _is_jwt(value):
            members = await self._introspection.members(value, io)
            if members is None:
                raise Refusal("The token is not active.")
            now = self.wall_clock()
            token = judged(value, members, self.expected, now, now + BELIEVED_FOR)
        else:
            members = await self._signed(value, io)
            now = self.wall_clock()
            token = judged(value, members, self.expected, now)
        self.proofs.check(presented, token, now)
        return token

    async def _signed(self, value: Secret, io: IO) -> Members:
        published = self._issuer.at_hand() or await self._issuer.published(io)
        try:
            return published.keys.claims(value)
        except UnknownKey:
            # Asked for below, where this is over.
            pass
        newer = await self._issuer.newer(published, io)
        return newer.keys.claims(value)


def _is_jwt(value: Secret) -> bool:
    # RFC 7515 3.1: two dots; and the first part is a header, as other tokens have dots too.
    return value.reveal().count(".") == 2 and header_in(value) is not None


_MAX_LENGTH = 16 * 1024
