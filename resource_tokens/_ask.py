"""
Asking for a token: from waiting for one's turn to a verdict on the answer.

1. At most `AT_A_TIME` token requests go to one server at a time; those that callers wait for go
   first. For a grant that is exclusive it is one.
2. While callers wait, a request that failed on the way is sent again within the server's
   `timeout`, unless its answer may have been lost and the grant is exclusive. A refresh ahead has
   the time until the next one.
3. When a server asks to be left alone (`Retry-After`), it is: by all requests of that client.
4. The endpoint of an issuer is discovered by the first who needs it, and again when it is an hour
   old or answers like one that has moved. Where it has, the request goes there once.
5. A grant is told what becomes of it, whatever becomes of the token.
6. A request for a token that is to be bound to a key carries a proof of it. Where the server wants
   it to say something else, such as a nonce, the request is made once more.
7. A token is revoked as one is asked for, in no grant's name: a request that may have arrived is
   sent again, as a token that is revoked already is no error.
8. No lock is held across any of this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial

from cachetools import LRUCache, TTLCache

from resource_tokens._addresses import Reach
from resource_tokens._destinations import display_url
from resource_tokens._httpx import http
from resource_tokens._io import IO, SendError
from resource_tokens._locks import SafeLock
from resource_tokens._proofs import PROOF_REFUSED, Prover, Terms
from resource_tokens._single_flight import SingleFlight
from resource_tokens._turns import Turn, Turns
from resource_tokens.egress import Bindings
from resource_tokens.events import EventName, Events, TokenEvent
from resource_tokens.exceptions import OAuthError, ResourceTokensError, TokenRequestError
from resource_tokens.oauth.grants import expired_grant
from resource_tokens.oauth.messages import (
    HTTPAnswer,
    HTTPRequest,
    json_object,
    origin_of,
    retry_after,
)
from resource_tokens.oauth.metadata import (
    AuthorizationServer,
    Metadata,
    headers_for,
    metadata_in,
    metadata_requests,
)
from resource_tokens.oauth.revocation import Revocation
from resource_tokens.oauth.token_endpoint import Remark, TokenRequest, issued_token, settle
from resource_tokens.tokens import CachedToken, Freshness, Secret

__all__ = ["AT_A_TIME", "Asker", "Surroundings", "in_daemon_thread", "no_turn", "turn_limit"]


def in_daemon_thread(work: Callable[[], None]) -> None:
    """
    Run `work` in a thread that keeps no process alive.

    Raises:
        RuntimeError: If this platform or moment has no threads.
    """
    threading.Thread(target=work, name="resource_tokens refresh", daemon=True).start()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What a decision takes from outside, so that a test can decide it.

    Attributes:
        clock: Seconds that never jump; for everything that lasts.
        wall_clock: Seconds since the epoch; only for the `expires_at` shown to users.
        draw: A uniform random number from 0 to 1.
        spawn: Runs a refresh ahead somewhere else.
    """

    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    draw: Callable[[], float]
    spawn: Callable[[Callable[[], None]], None] = in_daemon_thread


@dataclass(frozen=True, slots=True)
class Answered:
    """
    A token that was believed, and what is worth an event in the answer.

    Attributes:
        loaded: Whether another process has asked for it.
    """

    cached: CachedToken
    remarks: tuple[Remark, ...] = ()
    loaded: bool = False


def event_of(request: TokenRequest, name: EventName, detail: str = "") -> TokenEvent:
    """
    An event about what was asked for.
    """
    return TokenEvent(name, request.resource.identifier, request.server.name, detail=detail)


class Asker:
    """
    Asks authorization servers for tokens, by the rules above. One per `TokenCache`.
    """

    def __init__(
        self,
        bindings: Bindings,
        events: Events,
        surroundings: Surroundings,
        audiences: AbstractSet[str],
    ) -> None:
        self._bindings = bindings
        self._events = events
        self._in = surroundings
        self._audiences = audiences
        self._turns = Turns(surroundings.clock)
        self._prover = Prover(surroundings.wall_clock)
        self._discoveries = SingleFlight()
        self._lock = SafeLock()
        # Both guarded by _lock.
        self._discovered: TTLCache[AuthorizationServer, _Discovered] = TTLCache(
            64, _METADATA_AGE, timer=surroundings.clock
        )
        # Until when a server wants to be left alone by a client.
        self._pauses: LRUCache[Hashable, float] = LRUCache(256)

    async def until_it_comes(self, turn: Turn, request: TokenRequest, io: IO) -> None:
        """
        Wait for a turn.

        Raises:
            TokenRequestError: If it does not come.
        """
        # What holds the turns cannot end while its own thread waits in here.
        if io.blocking and self._turns.held_by_this_thread(turn.key):
            return
        await io.wait(turn.future, turn.lasts)
        if not turn.future.done():
            raise no_turn(request)

    def turn(self, request: TokenRequest, *, hurried: bool = True) -> Turn:
        """
        A turn to ask, which may have come already.
        """
        key: Hashable = request.server
        limit = AT_A_TIME
        if request.grant.exclusive:
            key, limit = (request.server, request.grant.fingerprint()), 1
        return self._turns.ask(key, limit, turn_limit(request), hurried=hurried)

    async def ask(self, request: TokenRequest, io: IO, *, patient: bool = True) -> Answered:
        """
        Ask for a token; for whoever has the turn.

        Args:
            request: What to ask for.
            io: How to send and wait.
            patient: Whether somebody waits for it, so that it is worth another try.

        Raises:
            TokenRequestError: If the server gave none.
            AudienceMismatchError: If it gave one for something else.
        """
        names = request.resource.identifier, request.server.name, request.grant.grant_type
        with self._events.asking(*names, ahead=not patient):
            try:
                return await self._asked(request, io, patient)
            finally:
                request.grant.end()

    async def _asked(self, request: TokenRequest, io: IO, patient: bool) -> Answered:
        endpoint = await self._token_endpoint(request, io, patient)
        exchange = await self._post(endpoint, request, io, patient)
        if self._may_have_moved(endpoint, exchange.answer):
            there = await self._token_endpoint_after(endpoint, request, io, patient)
            if there.url != endpoint.url:
                exchange = await self._post(there, request, io, patient)
        grant = request.grant
        # RFC 6749 5.1: the lifetime counts "from the time the response was generated". When that
        # was is not known, but it was not before the request was sent.
        message, answer, wall = exchange.message, exchange.answer, exchange.sent_wall
        others = self._audiences - {request.resource.expected_audience}
        rotated = settle(answer, request, message.secrets)
        try:
            issued = issued_token(answer, request, others, wall, message.secrets)
        except ResourceTokensError as error:
            grant.fail(error, message.secrets)
            raise
        if rotated:
            self._report(request, "refresh_token_rotated")
        self._bindings.bind(issued.token, request)
        freshness = Freshness.of(
            issued.lifetime, exchange.sent_at, wall, self._in.draw, final=issued.final
        )
        if self._in.clock() >= freshness.hard_at:
            if issued.final:
                raise expired_grant(request.resource.identifier)
            raise TokenRequestError(
                f"The token of {request.server.name!r} for {request.resource.identifier!r} had "
                f"expired when it arrived: it lives {issued.lifetime.total_seconds():g} s. Let "
                "the server issue tokens that live longer.",
                request.resource.identifier,
                200,
            )
        return Answered(CachedToken(issued.token, freshness), issued.remarks)

    async def revoke(self, revocation: Revocation, io: IO) -> None:
        """
        Revoke a token at the server that issued it.

        Raises:
            TokenRequestError: If it may be good all the same.
        """
        request, failure = revocation.request, None
        with self.turn(request) as turn:
            try:
                await self.until_it_comes(turn, request, io)
                endpoint = await self._revocation_endpoint(request, io)
                if endpoint is not None:
                    exchange = await self._post_revocation(endpoint, revocation, io)
                    revocation.check(exchange.answer, exchange.message.secrets)
                    return
                failure = revocation.failed(
                    "it names no revocation endpoint (RFC 7009). If it has one, configure "
                    "AuthorizationServer(revocation_endpoint=...)"
                )
            except OAuthError:
                raise
            except TokenRequestError as error:
                why = str(error).removeprefix(f"No token for {request.resource.identifier!r}: ")
                failure = revocation.failed(why.rstrip("."), error.status)
        raise failure

    async def _revocation_endpoint(self, request: TokenRequest, io: IO) -> _Endpoint | None:
        server = request.server
        if server.revocation_endpoint is not None:
            return _Endpoint(server.revocation_endpoint)
        if server.issuer is None:
            return None
        metadata = (await self._metadata(request, io, patient=True)).metadata
        url = metadata.endpoint("revocation_endpoint", request.client_auth.method)
        return None if url is None else _Endpoint(url, metadata.reach_for(url))

    async def _post_revocation(
        self, endpoint: _Endpoint, revocation: Revocation, io: IO
    ) -> _Exchange:
        server = revocation.request.server
        token_endpoint = await self._token_endpoint(revocation.request, io, patient=True)

        def message_at(wall: float) -> HTTPRequest:
            message = revocation.message(endpoint.url, token_endpoint.url, wall)
            keys = [value for _, value in headers_for(server)]
            return replace(message, reach=endpoint.reach, secrets=(*message.secrets, *keys))

        return await self._send(message_at, revocation.request, io, patient=True)

    async def _post(
        self, endpoint: _Endpoint, request: TokenRequest, io: IO, patient: bool
    ) -> _Exchange:
        key, server = request.proof_key, (request.server, origin_of(endpoint.url))
        terms = self._prover.terms(server)

        def message_at(wall: float) -> HTTPRequest:
            request.grant.begin(request.resource.identifier)
            message = request.message(endpoint.url, wall)
            secrets = [*message.secrets, *(value for _, value in headers_for(request.server))]
            headers = dict(message.headers)
            if key is not None:
                proof = self._prover.proof(key, message.method, message.url, terms)
                headers["DPoP"] = proof
                secrets.append(Secret(proof))
            return replace(message, reach=endpoint.reach, headers=headers, secrets=tuple(secrets))

        exchange = await self._send(message_at, request, io, patient)
        if key is not None:
            why = self._heed_proofs(server, terms, exchange.answer)
            if why:
                self._report(request, "proof_renewed", why)
                terms = self._prover.terms(server)
                exchange = await self._send(message_at, request, io, patient)
                self._heed_proofs(server, terms, exchange.answer)
        return exchange

    def _heed_proofs(self, server: Hashable, used: Terms, answer: HTTPAnswer) -> str:
        nonce, date = (answer.headers.get(name, "") for name in ("dpop-nonce", "date"))
        return self._prover.heed(server, used, nonce, _proof_error(answer), date)

    async def _token_endpoint(self, request: TokenRequest, io: IO, patient: bool) -> _Endpoint:
        if request.server.token_endpoint is not None:
            return _Endpoint(request.server.token_endpoint)
        discovered = await self._metadata(request, io, patient)
        metadata = discovered.metadata
        url = str(metadata.endpoint("token_endpoint", request.client_auth.method))
        return _Endpoint(url, metadata.reach_for(url), discovered)

    async def _metadata(self, request: TokenRequest, io: IO, patient: bool) -> _Discovered:
        server = request.server

        async def look_and_discover() -> _Discovered:
            with self._lock:
                known = self._discovered.get(server)
            return known if known is not None else await self._discover(request, io, patient)

        # By the server and not by its issuer: what one learned through a proxy of its own, or
        # without checking certificates, is nothing to another.
        discovered: _Discovered = await self._discoveries.once(
            server, io, look_and_discover, turn_limit(request)
        )
        return discovered

    def _may_have_moved(self, endpoint: _Endpoint, answer: HTTPAnswer) -> bool:
        discovered = endpoint.discovered
        gone = answer.status in _GONE or 300 <= answer.status < 400
        return (
            gone
            and discovered is not None
            and self._in.clock() - discovered.at > _REDISCOVERY_INTERVAL
        )

    async def _token_endpoint_after(
        self, endpoint: _Endpoint, request: TokenRequest, io: IO, patient: bool
    ) -> _Endpoint:
        with self._lock:
            if self._discovered.get(request.server) is endpoint.discovered:
                del self._discovered[request.server]
        try:
            return await self._token_endpoint(request, io, patient)
        except TokenRequestError:
            # What the endpoint has answered says more.
            return endpoint

    async def _discover(self, request: TokenRequest, io: IO, patient: bool) -> _Discovered:
        issuer, resource = request.server.name, request.resource.identifier
        status = None
        for message in metadata_requests(issuer):
            # The same each time: it proves nothing.
            exchange = await self._send(partial(_as_it_is, message), request, io, patient)
            metadata = metadata_in(exchange.answer, request.server, resource)
            if metadata is not None:
                discovered = _Discovered(metadata, self._in.clock())
                with self._lock:
                    self._discovered[request.server] = discovered
                self._report(
                    request, "metadata_discovered", str(metadata.endpoint("token_endpoint", ""))
                )
                return discovered
            status = exchange.answer.status
        raise TokenRequestError(
            f"No token for {resource!r}: the issuer {issuer!r} publishes no metadata at the "
            "addresses of RFC 8414 and OpenID Connect Discovery. Check the issuer, or configure "
            "AuthorizationServer(token_endpoint=...).",
            resource,
            status,
        )

    async def _send(
        self,
        message_at: Callable[[float], HTTPRequest],
        request: TokenRequest,
        io: IO,
        patient: bool,
    ) -> _Exchange:
        """
        Send a message that is made anew for each try, and get an answer that is worth reading
        (rules 8 and 9).
        """
        ends_at = self._in.clock() + request.server.timeout.total_seconds()
        tries_left = _TRIES - 1 if patient else 0
        while True:
            await self._leave_alone(request, io, ends_at if patient else 0.0)
            now, wall = self._in.clock(), self._in.wall_clock()
            message, answer = message_at(wall), None
            failure, passing, may_have_arrived = "interrupted", False, True
            try:
                answer = await io.send(message, request.server, max(ends_at - now, _LEAST))
            except SendError as error:
                failure, passing, may_have_arrived = str(error), error.passing, error.sent
            except BaseException:
                request.grant.fail(_failed(request, message, failure), message.secrets)
                raise
            else:
                failure, passing = f"status {answer.status}", answer.status in _PASSING
                self._heed(answer, request, wall)
            # An answer that was lost may have used up what cannot be used twice.
            blind = may_have_arrived and request.grant.exclusive
            backoff = _FIRST_BACKOFF * 2 ** (_TRIES - tries_left) * self._in.draw()
            next_at = max(self._in.clock() + backoff, self.paused_until(request))
            if not (passing and tries_left) or blind or next_at >= ends_at:
                break
            tries_left -= 1
            self._report(request, "token_request_retried", failure)
            await io.sleep(backoff)
        if answer is not None:
            return _Exchange(message, answer, now, wall)
        failed = _failed(request, message, failure)
        if may_have_arrived:
            request.grant.fail(failed, message.secrets)
        raise failed

    def _heed(self, answer: HTTPAnswer, request: TokenRequest, wall: float) -> None:
        """
        Leave a server alone for as long as it asks for, with all requests of this client.
        """
        wanted = retry_after(answer, wall) if answer.status in _BUSY else None
        if wanted is not None:
            # Spread out, or all who waited would come back in the same moment.
            pause = min(wanted, _LONGEST_PAUSE) * (1 + _SPREAD * self._in.draw())
            until, client = self._in.clock() + pause, _client(request)
            with self._lock:
                # Of several answers the one that asks for most.
                self._pauses[client] = max(until, self._pauses.get(client, 0.0))

    def paused_until(self, request: TokenRequest) -> float:
        """
        Until when the server wants to be left alone by this client.
        """
        with self._lock:
            return self._pauses.get(_client(request), 0.0)

    async def _leave_alone(self, request: TokenRequest, io: IO, ends_at: float) -> None:
        # Again after each pause: another answer may have made it longer.
        while (until := self.paused_until(request)) > (now := self._in.clock()):
            if until >= ends_at:
                raise TokenRequestError(
                    f"No token for {request.resource.identifier!r}: {request.server.name!r} is "
                    f"busy and has asked the client {request.client_auth.client_id!r} to stay "
                    f"away for another {until - now:.0f} s (Retry-After). Try again then.",
                    request.resource.identifier,
                    429,
                )
            await io.sleep(until - now)

    def _report(self, request: TokenRequest, name: EventName, detail: str = "") -> None:
        self._events.emit(event_of(request, name, detail))


@dataclass(frozen=True, slots=True)
class _Discovered:
    metadata: Metadata
    at: float


@dataclass(frozen=True, slots=True)
class _Endpoint:
    url: str
    reach: Reach = Reach.LINK_LOCAL
    discovered: _Discovered | None = None


@dataclass(frozen=True, slots=True)
class _Exchange:
    message: HTTPRequest
    answer: HTTPAnswer
    sent_at: float
    sent_wall: float


def _as_it_is(message: HTTPRequest, _: float) -> HTTPRequest:
    return message


def _proof_error(answer: HTTPAnswer) -> str:
    # RFC 9449 8: "400 (Bad Request) status code and the error use_dpop_nonce".
    members = json_object(answer) if answer.status in (400, 401) else None
    error = None if members is None else members.get("error")
    return error if error in PROOF_REFUSED else ""


def _client(request: TokenRequest) -> Hashable:
    return request.server, request.client_auth.client_id


def turn_limit(request: TokenRequest) -> float:
    """
    How long one turn can take: three addresses of metadata, the token request, and another one
    where the server wants another proof.
    """
    requests = 4 if request.proof_key is None else 5
    return requests * request.server.timeout.total_seconds() + 1


def _failed(request: TokenRequest, message: HTTPRequest, why: str) -> TokenRequestError:
    resource, where = request.resource.identifier, display_url(http.URL(message.url))
    return TokenRequestError(
        f"No token for {resource!r}: {message.method} {where} failed: {why}. Check that the "
        "authorization server can be reached from here.",
        resource,
    )


def no_turn(request: TokenRequest) -> TokenRequestError:
    """
    The error for a turn that does not come.
    """
    return TokenRequestError(
        f"No token for {request.resource.identifier!r}: other requests to "
        f"{request.server.name!r} were under way all the time. The server is slow, or too many "
        "tokens are asked for at once.",
        request.resource.identifier,
    )


AT_A_TIME = 4
_TRIES = 3
_FIRST_BACKOFF = 0.125
# What is left of the time for the last try, if it has run out.
_LEAST = 0.001
_LONGEST_PAUSE = 3600.0
_SPREAD = 0.1
_METADATA_AGE = 3600.0
_REDISCOVERY_INTERVAL = 10.0

# RFC 9110 15: what another try may find gone.
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_BUSY = frozenset({429, 503})
_GONE = frozenset({404, 405, 410})
