"""
On whose behalf requests are made.

1. What a view says counts. Without a view, it is the block that the caller is in.
2. A block reaches as far as its context: what its own thread or task does in it, and what was begun
   in it with a copy of that context, as tasks are. A thread of a pool and a job that was begun
   elsewhere have no part in it.
3. When a block ends, it ends for all copies too. A request from there is refused: it is sent
   neither for whom the block was for nor as this service.
4. A resource that demands a subject is not called without one. One that has none is called as this
   service itself, whoever is in reach.
5. What was built for a subject is kept until the subject token expires, for a few minutes at most,
   and within a bound of bytes. The subject token is kept nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace

from cachetools import TLRUCache

from resource_tokens._locks import SafeLock
from resource_tokens.events import Events, TokenEvent
from resource_tokens.exceptions import ConfigurationError, EgressBlockedError, TokenRequestError
from resource_tokens.oauth.exchange import Exchange
from resource_tokens.oauth.grants import expired_grant
from resource_tokens.oauth.subject_tokens import SubjectToken
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource, ResourceMap
from resource_tokens.tokens import Secret

__all__ = ["Block", "Subjects"]


class Block:
    """
    One `with auth.on_behalf_of(...)`.

    Attributes:
        subject: For whom it is; `None` when it has ended.
    """

    __slots__ = ("subject",)

    def __init__(self, subject: SubjectToken) -> None:
        self.subject: SubjectToken | None = subject

    def end(self) -> None:
        """
        End it, for all who have a copy of its context.
        """
        self.subject = None


class Subjects:
    """
    On whose behalf the requests of one `TokenCache` are made, by the rules above.

    Args:
        exchange: How the auth object's own server is asked; by its dialect, if this is `None`.
        apply: What becomes of a request by what has been learned.
        events: Where to report.
        wall_clock: Seconds since the epoch.

    Attributes:
        block: The block that the caller is in.

    Raises:
        ConfigurationError: If `exchange` is none.
    """

    def __init__(
        self,
        exchange: Exchange | None,
        resources: ResourceMap,
        apply: Callable[[TokenRequest], TokenRequest],
        events: Events,
        wall_clock: Callable[[], float],
    ) -> None:
        for given in (exchange, *(resource.exchange for _, resource in resources)):
            if given is not None and not isinstance(given, Exchange):
                raise ConfigurationError(
                    f"exchange= is a {type(given).__name__}. Give a TokenExchange or a JwtBearer."
                )
        self.block: ContextVar[Block | None] = ContextVar("resource_tokens block", default=None)
        self._exchange = exchange
        self._apply = apply
        self._events = events
        self._wall_clock = wall_clock
        self._lock = SafeLock()
        # Guarded by _lock.
        self._built: TLRUCache[tuple[bytes, SubjectToken], TokenRequest] = TLRUCache(
            _MAX_BYTES, _kept_until, timer=wall_clock, getsizeof=_size_of
        )

    def request(self, usual: TokenRequest, given: SubjectToken | None) -> TokenRequest:
        """
        What to ask for, on behalf of whoever is in reach.

        Args:
            usual: What this service asks for itself.
            given: The subject of a view.

        Raises:
            TokenRequestError: If there is nobody where somebody has to be, or not any more.
            EgressBlockedError: If the subject token would go to a server that it is not for.
        """
        wanted = usual.resource.subject
        if wanted == "none":
            return usual
        subject = given or self._in_reach(usual.resource)
        if subject is None:
            if wanted == "required":
                raise self._refused(usual.resource, _NOBODY)
            return usual
        key = usual.key, subject
        with self._lock:
            try:
                return self._built[key]
            except KeyError:
                pass
        built = self._build(usual, subject)
        # One that is larger than the bound is built each time.
        with self._lock, suppress(ValueError):
            self._built[key] = built
        return built

    def is_wanting(self, resource: Resource, given: SubjectToken | None) -> bool:
        """
        Whether a resource cannot be called for want of a subject.
        """
        return resource.subject == "required" and given is None and self.block.get() is None

    def probe(self, usual: TokenRequest) -> TokenRequest:
        """
        What would be asked for on behalf of somebody, where nothing else is; to see that it can be.

        Raises:
            ConfigurationError: If no subject token could ever be shown to the server.
        """
        if usual.resource.subject != "required":
            return usual
        exchange = self._exchange_for(usual)
        issuer = next(iter(exchange.issuers), usual.server.issuer)
        try:
            return replace(usual, grant=exchange.on_behalf_of(SubjectToken("probe", issuer=issuer)))
        except EgressBlockedError:
            pass
        raise ConfigurationError(
            f"{usual.resource.identifier!r} is called on behalf of others, and its own server= "
            "has no issuer by which subject tokens could be known to be for it. Give "
            "AuthorizationServer(issuer=...)."
        )

    def _in_reach(self, resource: Resource) -> SubjectToken | None:
        block = self.block.get()
        if block is None:
            return None
        if block.subject is None:
            raise self._refused(resource, _OVER)
        return block.subject

    def _build(self, usual: TokenRequest, subject: SubjectToken) -> TokenRequest:
        expires_at = subject.expires_at
        if expires_at is not None and self._wall_clock() >= expires_at:
            raise expired_grant(usual.resource.identifier)
        grant = self._exchange_for(usual).on_behalf_of(subject)
        try:
            return self._apply(replace(usual.discovered_from or usual, grant=grant))
        except EgressBlockedError as error:
            self._events.emit(
                TokenEvent(
                    "egress_blocked",
                    usual.resource.identifier,
                    usual.server.name,
                    error.destination,
                    str(error),
                )
            )
            raise

    def _exchange_for(self, usual: TokenRequest) -> Exchange:
        if usual.resource.exchange is not None:
            return usual.resource.exchange
        elsewhere = usual.resource.server is not None or usual.discovered_from is not None
        if elsewhere or self._exchange is None:
            return usual.server.dialect.exchange
        return self._exchange

    def _refused(self, resource: Resource, why: str) -> TokenRequestError:
        identifier = resource.identifier
        self._events.emit(TokenEvent("subject_missing", identifier, detail=why))
        return TokenRequestError(
            f"No token for {identifier!r}: {why} Send it with auth=auth.on_behalf_of(inbound), "
            "which goes along to wherever the request is made.",
            identifier,
        )


def _kept_until(_: object, request: TokenRequest, now: float) -> float:
    expires_at = request.grant.expires_at
    latest = now + (_LOOK_AT_ROTATING_EVERY if request.grant.rotates else _KEPT)
    return latest if expires_at is None else min(latest, expires_at)


def _size_of(request: TokenRequest) -> int:
    presented = (value for _, value in request.grant.parameters() if isinstance(value, Secret))
    return _ENTRY + sum(len(value.reveal()) for value in presented)


_NOBODY = (
    'it is called on behalf of others only (subject="required"), and nobody is in reach here: no '
    "`with auth.on_behalf_of(inbound)` is around this, or it is around another thread or task."
)
_OVER = (
    "the `with auth.on_behalf_of(inbound)` that this task was begun in has ended, and what comes "
    "after it is done in nobody's name."
)
_KEPT = 300.0
_LOOK_AT_ROTATING_EVERY = 5.0
_MAX_BYTES = 16 * 1024 * 1024
# What an entry takes besides the subject token.
_ENTRY = 2048
