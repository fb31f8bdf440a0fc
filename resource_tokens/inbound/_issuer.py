"""
The keys of an issuer, kept.

1. They are read when a token first needs them, by one request for all threads and event loops.
2. After ten minutes they are read again in the background, and nobody waits.
3. After an hour, whoever comes waits for that; unless it has failed just now.
4. A token that is signed with an unknown key makes them be read at once, as issuers rotate keys.
5. No two reads begin within ten seconds, whatever comes in: anybody can name an unknown key.
6. While they cannot be read, those at hand are used, for a day at most: a key that the issuer has
   withdrawn must not be good for ever.
7. Where they are is read from the issuer's metadata each time, unless it is configured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from resource_tokens._addresses import Reach
from resource_tokens._ask import in_daemon_thread
from resource_tokens._io import IO, BlockingIO, SendError, run_to_end
from resource_tokens._single_flight import SingleFlight
from resource_tokens.events import EventName, Events, TokenEvent
from resource_tokens.exceptions import TokenRequestError
from resource_tokens.oauth.inbound_tokens import Refusal
from resource_tokens.oauth.messages import HTTPRequest, Members, json_object
from resource_tokens.oauth.metadata import (
    AuthorizationServer,
    Metadata,
    metadata_in,
    metadata_requests,
)
from resource_tokens.oauth.published_keys import PublishedKeys

__all__ = ["Issuer", "Published", "unchecked"]


@dataclass(frozen=True, slots=True)
class Published:
    """
    What an issuer has published, and when that was read.
    """

    keys: PublishedKeys
    metadata: Metadata | None
    document: bytes
    read_at: float


class Issuer:
    """
    An issuer and its keys, by the rules above.

    Args:
        server: The issuer, and how to reach it.
        audience: The API that asks, for messages.
        jwks_uri: Where the keys are, if that is not to be discovered.
        discovers: Whether the metadata is needed.
        keyless: Whether the issuer may have no keys, since its tokens are opaque.
        algorithms: Those that count.
        typ: What the header of a token may say in `typ`.
        events: Where to report.
        clock: Seconds that never jump.
        ahead: What reads in the background.
    """

    def __init__(
        self,
        server: AuthorizationServer,
        audience: str,
        *,
        jwks_uri: str | None,
        discovers: bool,
        keyless: bool,
        algorithms: Collection[str],
        typ: Collection[str | None],
        events: Events,
        clock: Callable[[], float],
        ahead: BlockingIO,
    ) -> None:
        self.server = server
        self._audience = audience
        self._jwks_uri = jwks_uri
        self._discovers = discovers
        self._keyless = keyless
        self._algorithms, self._typ = algorithms, typ
        self._events = events
        self._clock = clock
        self._flights = SingleFlight()
        self._io_ahead = ahead
        # Each is replaced as a whole.
        self._published: Published | None = None
        self._failure = ""
        self._tried_at = self._ahead_until = float("-inf")

    def at_hand(self) -> Published | None:
        """
        What was published, if that is known and fresh.
        """
        published = self._published
        if published is not None and self._clock() < published.read_at + _FRESH:
            return published
        return None

    async def published(self, io: IO) -> Published:
        """
        What is published, where nothing is at hand.

        Raises:
            Refusal: If that is not known, and cannot be read now.
        """
        published, now = self._published, self._clock()
        age = _LONGEST if published is None else now - published.read_at
        if published is None or age >= _LONGEST or (age >= _STALE and not self._failure):
            await self._refresh(published, io)
        else:
            self._refresh_ahead(published)
        published = self._published
        if published is None or self._clock() >= published.read_at + _LONGEST:
            raise unchecked(f"no keys are at hand: {self._failure}")
        return published

    async def newer(self, known: Published, io: IO) -> Published:
        """
        What is published by now, for a token that is signed with a key that is not in `known`.

        Raises:
            Refusal: If nobody knows, as it cannot be read.
        """
        await self._refresh(known, io)
        published = self._published
        if published is None or (published is known and self._failure):
            raise unchecked(f"it is signed with an unknown key, and {self._failure}")
        return published

    async def _refresh(self, known: Published | None, io: IO) -> None:
        async def look() -> None:
            if self._published is known and self._may_try():
                await self._try(known, io)

        # Three addresses of metadata, and the keys.
        limit = 4 * self.server.timeout.total_seconds() + 1
        await self._flights.once("keys", io, look, limit)

    def _refresh_ahead(self, known: Published) -> None:
        now = self._clock()
        if now < self._ahead_until or not self._may_try():
            return
        # A time and not a flag: after a fork the thread is not there.
        self._ahead_until = now + 4 * self.server.timeout.total_seconds() + 1

        def refresh() -> None:
            run_to_end(self._refresh(known, self._io_ahead))
            self._ahead_until = now

        try:
            in_daemon_thread(refresh)
        except RuntimeError:
            # There are no threads here, and rule 3 is enough.
            return

    def _may_try(self) -> bool:
        return self._clock() >= self._tried_at + _INTERVAL

    async def _try(self, known: Published | None, io: IO) -> None:
        try:
            published, failure = await self._read(io), ""
        except (SendError, TokenRequestError, ValueError) as error:
            # What an error about a token request begins with is not so here.
            published, failure = None, str(error).removeprefix(f"No token for {self._audience!r}: ")
        # Not before, and not if it was cancelled: whoever waits is to try then.
        self._tried_at = self._clock()
        self._failure = failure
        if published is None:
            self._report("keys_failed", failure)
            return
        self._published = published
        if known is None or known.document != published.document:
            self._report("keys_loaded", f"{len(published.keys)} keys")

    async def _read(self, io: IO) -> Published:
        metadata = await self._metadata(io) if self._discovers else None
        document, body = Members(), b""
        url, reach = self._jwks_uri, Reach.LINK_LOCAL
        if url is None and metadata is not None and metadata.jwks_uri is not None:
            url = metadata.jwks_uri
            reach = metadata.reach_for(url)
        if url is not None:
            message = HTTPRequest("GET", url, {"Accept": _ACCEPT}, reach=reach)
            answer = await io.send(message, self.server, self.server.timeout.total_seconds())
            found = json_object(answer) if answer.status == 200 else None
            if found is None:
                raise ValueError(f"{url} answered {answer.status} and no JWK Set")
            document, body = found, answer.body
        keys = PublishedKeys(document, self._algorithms, self._typ)
        if not keys and not self._keyless:
            raise ValueError(
                f"the issuer {self.server.name!r} publishes no key that can be used"
                f"{'; its metadata names no usable jwks_uri' if url is None else f' at {url}'}"
            )
        return Published(keys, metadata, body, self._clock())

    async def _metadata(self, io: IO) -> Metadata:
        for message in metadata_requests(self.server.name):
            answer = await io.send(message, self.server, self.server.timeout.total_seconds())
            metadata = metadata_in(answer, self.server, self._audience)
            if metadata is not None:
                return metadata
        raise ValueError(
            f"the issuer {self.server.name!r} publishes no metadata at the addresses of RFC 8414 "
            "and OpenID Connect Discovery"
        )

    def _report(self, name: EventName, detail: str) -> None:
        self._events.emit(TokenEvent(name, self._audience, self.server.name, detail=detail))


def unchecked(why: str) -> Refusal:
    """
    The refusal of a token that is neither good nor bad, as far as anybody knows.
    """
    return Refusal(
        "The token could not be checked at this time. Try again later.", "", 503, detail=why
    )


_ACCEPT = "application/jwk-set+json, application/json"
_FRESH, _STALE, _LONGEST = 600.0, 3600.0, 86_400.0
_INTERVAL = 10.0
