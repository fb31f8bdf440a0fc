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
from contextvars import ContextVar
from dataclasses import replace

from resource_tokens._discovery import Party
from resource_tokens._recently_used import RecentlyUsed
from resource_tokens.events import Events, TokenEvent
from resource_tokens.exceptions import ConfigurationError, EgressBlockedError, TokenRequestError
from resource_tokens.oauth.exchange import Exchange, JwtBearer
from resource_tokens.oauth.grants import Grant, expired_grant
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
        own: The auth object's own server, and the client's credential there.
        exchange: How that server is asked; by its dialect, if this is `None`.
        resources: The map.
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
        own: Party,
        exchange: Exchange | None,
        resources: ResourceMap,
        *,
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
        self._own = own
        self._exchange = exchange
        self._apply = apply
        self._events = events
        self._wall_clock = wall_clock
        self._built = RecentlyUsed[tuple[bytes, SubjectToken], _Built](
            _AT_MOST, _MAX_BYTES, _size_of
        )
        self._tidied_at = wall_clock()

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
        key, now = (usual.key, subject), self._wall_clock()
        built = self._built.get(key)
        if built is None or now >= built.until:
            built = _Built(self._build(usual, subject, now), now)
            self._tidy(now)
            self._built.put(key, built)
        return built.request

    def clear(self) -> None:
        """
        Build everything anew: what it is built from has changed.
        """
        self._built.drop(lambda _: True)

    def forget(self, subject: bytes) -> None:
        """
        Let go of the tokens of a subject, by its digest.
        """
        self._built.drop(lambda built: built.request.grant.subject == subject)

    def is_wanting(self, resource: Resource, given: SubjectToken | None) -> bool:
        """
        Whether a resource cannot be called for want of a subject.
        """
        return resource.subject == "required" and given is None and self.block.get() is None

    def probe(self, usual: TokenRequest) -> TokenRequest:
        """
        What would be asked for on behalf of somebody, where nothing else is; to see that it can be.

        Raises:
            ConfigurationError: If it cannot.
        """
        resource = usual.resource
        demanded = resource.subject == "required"
        if not demanded and resource.exchange is None:
            return usual
        exchange, server = self._exchange_for(usual), usual.server
        if isinstance(exchange, JwtBearer) and exchange.first is not None:
            exchange, server = exchange.first, self._own[0]
        somebody = SubjectToken("probe", issuer=next(iter(exchange.issuers), server.issuer))
        try:
            asked = replace(usual, grant=self._grant_for(usual, somebody))
        except EgressBlockedError:
            asked = None
        if asked is None:
            raise ConfigurationError(
                f"{resource.identifier!r} is called on behalf of others, and its own server= has "
                "no issuer by which subject tokens could be known to be for it. Give "
                "AuthorizationServer(issuer=...)."
            )
        return asked if demanded else usual

    def _in_reach(self, resource: Resource) -> SubjectToken | None:
        block = self.block.get()
        if block is None:
            return None
        if block.subject is None:
            raise self._refused(resource, _OVER)
        return block.subject

    def _tidy(self, now: float) -> None:
        """
        Let go of subject tokens that have expired, now and then.
        """
        if not 0 <= now - self._tidied_at < _TIDY_EVERY:
            self._tidied_at = now
            self._built.drop(lambda built: now >= built.until)

    def _build(self, usual: TokenRequest, subject: SubjectToken, now: float) -> TokenRequest:
        expires_at = subject.expires_at
        if expires_at is not None and now >= expires_at:
            raise expired_grant(usual.resource.identifier)
        try:
            grant = self._grant_for(usual, subject)
            return self._apply(replace(usual.discovered_from or usual, grant=grant))
        except EgressBlockedError as error:
            self._events.emit(
                TokenEvent(
                    "egress_blocked",
                    usual.resource.identifier,
                    usual.server.name,
                    error.destination,
                    str(error),
                    error.reason,
                )
            )
            raise

    def _grant_for(self, usual: TokenRequest, subject: SubjectToken) -> Grant:
        exchange, server = self._exchange_for(usual), usual.resource.server
        if not isinstance(exchange, JwtBearer) or exchange.first is None:
            return exchange.on_behalf_of(subject)
        if server is None or server.issuer is None:
            raise ConfigurationError(
                f"{usual.resource.identifier!r} is asked for with JwtBearer(first=...), at another "
                "authorization server than the auth object's own. Name that one: Resource("
                "server=AuthorizationServer(issuer=...), client_auth=...)."
            )
        grant = exchange.first.assertion_for(subject, server.issuer)
        return exchange.chained(
            TokenRequest(*self._own, grant, Resource(server.issuer), frozenset())
        )

    def _exchange_for(self, usual: TokenRequest) -> Exchange:
        if usual.resource.exchange is not None:
            return usual.resource.exchange
        elsewhere = usual.resource.server is not None or usual.server != self._own[0]
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


class _Built:
    """
    What was built for a subject, and until when it is used.
    """

    __slots__ = ("request", "until")

    def __init__(self, request: TokenRequest, now: float) -> None:
        grant = request.grant
        latest = now + (_LOOK_AT_ROTATING_EVERY if grant.rotates else _KEPT)
        self.request = request
        self.until = latest if grant.expires_at is None else min(latest, grant.expires_at)


def _size_of(built: _Built) -> int:
    grant = built.request.grant
    presented = (grant if grant.first is None else grant.first.grant).parameters()
    secrets = (value for _, value in presented if isinstance(value, Secret))
    return _ENTRY + sum(len(secret.reveal()) for secret in secrets)


_NOBODY = (
    'it is called on behalf of others only (subject="required"), and nobody is in reach here: no '
    "`with auth.on_behalf_of(inbound)` is around this, or it is around another thread or task."
)
_OVER = (
    "the `with auth.on_behalf_of(inbound)` that this task was begun in has ended, and what comes "
    "after it is done in nobody's name."
)
_KEPT = 300.0
_TIDY_EVERY = 30.0
_LOOK_AT_ROTATING_EVERY = 5.0
_AT_MOST = 16 * 1024
_MAX_BYTES = 16 * 1024 * 1024
# What an entry takes besides the subject token.
_ENTRY = 1536
