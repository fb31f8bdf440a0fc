"""
Opaque tokens: what their issuer says of them, kept for a short while (RFC 7662).

1. What was said of a token that is active is believed for a minute, and never beyond its `exp`.
   Until then it is not noticed that the token was revoked.
2. That a token is not active is believed for five seconds.
3. Requests with the same token at the same time ask once.
4. At most sixteen questions are under way at a time, whoever sends how many tokens.
5. Tokens are kept as digests, and those that are not active apart: whoever sends made-up ones does
   not push out the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import LRUCache

from resource_tokens._addresses import Reach
from resource_tokens._io import IO, SendError
from resource_tokens._locks import SafeLock
from resource_tokens._single_flight import SingleFlight
from resource_tokens._turns import Turns
from resource_tokens.exceptions import TokenRequestError
from resource_tokens.inbound._issuer import Issuer, unchecked
from resource_tokens.oauth.client_auth import ClientAuth, Recipient
from resource_tokens.oauth.introspection import introspected, introspection_request
from resource_tokens.oauth.jwt import claims_in
from resource_tokens.oauth.messages import Members
from resource_tokens.tokens import Secret

__all__ = ["BELIEVED_FOR", "Introspection"]


@dataclass(frozen=True, slots=True)
class _Said:
    """
    Attributes:
        members: What was said of a token; `None` if it is not active.
        until: How long to believe it.
        failure: Why nothing was said.
    """

    members: Members | None = None
    until: float = 0.0
    failure: str = ""


class Introspection:
    """
    Asks about the tokens of one issuer, by the rules above.

    Args:
        issuer: Whose tokens they are.
        client_auth: How this API authenticates there.
        endpoint: Where to ask, if that is not to be discovered.
        audience: This API, for messages.
        clock: Seconds that never jump.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        issuer: Issuer,
        client_auth: ClientAuth,
        endpoint: str | None,
        audience: str,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._issuer = issuer
        self._client_auth = client_auth
        self._endpoint = endpoint
        self._audience = audience
        self._clock = clock
        self._wall_clock = wall_clock
        self._flights = SingleFlight()
        self._turns = Turns(clock)
        self._lock = SafeLock()
        # Both guarded by _lock.
        self._active: LRUCache[bytes, _Said] = LRUCache(_MAX_KEPT)
        self._inactive: LRUCache[bytes, _Said] = LRUCache(_MAX_KEPT)

    async def members(self, token: Secret, io: IO) -> Members | None:
        """
        What the issuer says of a token; `None` if it is not active.

        Raises:
            Refusal: If the issuer could not be asked.
        """
        key = hashlib.sha256(token.reveal().encode("ascii")).digest()

        async def look_and_ask() -> _Said:
            return self._known(key) or await self._ask(key, token, io)

        # The metadata and the keys, one's turn, the question.
        limit = 6 * self._issuer.server.timeout.total_seconds() + 1
        said: _Said = self._known(key) or await self._flights.once(key, io, look_and_ask, limit)
        if said.failure:
            raise unchecked(said.failure)
        return said.members

    def _known(self, key: bytes) -> _Said | None:
        with self._lock:
            said = self._active.get(key) or self._inactive.get(key)
        return said if said is not None and self._clock() < said.until else None

    async def _ask(self, key: bytes, token: Secret, io: IO) -> _Said:
        endpoint, reach = await self._where(io)
        server = self._issuer.server
        if endpoint is None:
            return _Said(failure=f"{server.name!r} names no usable introspection_endpoint")
        limit = server.timeout.total_seconds()
        with self._turns.ask(endpoint, _AT_A_TIME, limit) as turn:
            # What holds the turns cannot end while its own thread waits in here.
            if not (io.blocking and self._turns.held_by_this_thread(endpoint)):
                await io.wait(turn.future, limit)
            if not turn.future.done():
                return _Said(failure=f"{server.name!r} was asked about others all the time")
            asked_at, now = self._clock(), self._wall_clock()
            recipient = Recipient(server, endpoint, now, self._audience)
            try:
                message = introspection_request(token, self._client_auth, recipient, reach)
                members = introspected(await io.send(message, server, limit), server)
            except (SendError, TokenRequestError, ValueError) as error:
                return _Said(failure=str(error))
        lasts = _NEGATIVE if members is None else BELIEVED_FOR
        expires_at = None if members is None else claims_in(members).expires_at
        if expires_at is not None:
            lasts = min(lasts, expires_at - now)
        said = _Said(members, asked_at + lasts)
        with self._lock:
            self._active.pop(key, None)
            (self._inactive if members is None else self._active)[key] = said
        return said

    async def _where(self, io: IO) -> tuple[str | None, Reach]:
        if self._endpoint is not None:
            return self._endpoint, Reach.LINK_LOCAL
        metadata = (self._issuer.at_hand() or await self._issuer.published(io)).metadata
        method = self._client_auth.method
        endpoint = None if metadata is None else metadata.endpoint("introspection_endpoint", method)
        return endpoint, metadata.reach_for(endpoint) if metadata and endpoint else Reach.PUBLIC


BELIEVED_FOR = 60.0
_NEGATIVE = 5.0
_MAX_KEPT = 1024
_AT_A_TIME = 16
