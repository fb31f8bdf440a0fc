"""
Learning from a resource which authorization server it trusts (RFC 9728).

1. Nothing is learned unless `ResourceMap(discover=)` names issuers; and only for the resources of
   that map whose identifier is a URL that metadata can be fetched from safely, and whose tokens are
   not bound to the certificate of a configured client.
2. The metadata is looked for at the origin of the identifier and nowhere else: at the well-known
   address of the identifier, then at that of its host, or where a 401 of the resource says. It is
   asked for without any credential, and no redirect is followed.
3. It has to be about that very identifier, to the letter.
4. Of the issuers it names, one counts that `discover` allows and that a credential is configured
   for: with the resource itself, if it has a server of its own; else with the auth object, or with
   another resource of the map. A credential goes to the issuer that it was configured with.
5. Scopes are learned where none are configured, and never beyond `max_scopes`: those that the
   challenge asks for, else those that the metadata lists.
6. A token that was asked for on such advice has to say what it is for.
7. Where no metadata is, what is configured counts. Where there is some that breaks a rule, there
   is no token.
8. It is read when a token has to be waited for, and again when its time is up, a minute to an hour
   later; or when a challenge names its address, at most once in ten seconds. A failure is
   remembered for five.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from cachetools import LRUCache, TTLCache

from resource_tokens._io import IO, SendError
from resource_tokens._locks import SafeLock
from resource_tokens._single_flight import SingleFlight
from resource_tokens.events import EventName, Events, TokenEvent
from resource_tokens.exceptions import (
    ConfigurationError,
    EgressBlockedError,
    TokenRequestError,
)
from resource_tokens.oauth.challenges import Challenge
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.messages import quoted
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.protected_resource import (
    ProtectedResource,
    is_describable,
    protected_resource_in,
    where_described,
)
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource, ResourceMap

__all__ = ["Discovery", "Party"]

Party = tuple[AuthorizationServer, ClientAuth]
"""
A server, and the credential that was configured for it.
"""


@dataclass(frozen=True, slots=True)
class _Learned:
    party: Party | None
    scopes: frozenset[str]
    until: float


class Discovery:
    """
    What the resources of one `TokenCache` have said of themselves, by the rules above.

    Args:
        resources: The map.
        own: The server and the credential of the auth object.
        portable: Whether the grant is good at other servers than that one.
        events: Where to report.
        clock: Seconds that never jump.
        changed: Called when something was learned that makes other requests of those before.

    Raises:
        ConfigurationError: If an issuer is allowed that no credential is configured for.
    """

    def __init__(
        self,
        resources: ResourceMap,
        own: Party,
        *,
        portable: bool,
        events: Events,
        clock: Callable[[], float],
        changed: Callable[[], object],
    ) -> None:
        listed = [resource for _, resource in resources]
        others = [
            (resource.server, resource.client_auth)
            for resource in listed
            if resource.server is not None and resource.client_auth is not None and portable
        ]
        self._parties: dict[str, Party] = {}
        for party in (own, *others):
            issuer = party[0].issuer
            if issuer in resources.discover:
                self._parties.setdefault(str(issuer), party)
        unknown = resources.discover - set(self._parties)
        if unknown:
            raise ConfigurationError(
                f"discover={sorted(unknown)}: no credential is configured for that issuer. Name "
                "the issuer of the auth object's own AuthorizationServer(issuer=...), or of a "
                "Resource(server=..., client_auth=...), to the letter."
            )
        self._covered = frozenset(
            resource
            for resource in listed
            if is_describable(resource)
            and resource.sender != "mtls"
            and (resource.server is None or resource.server.issuer in self._parties)
        )
        server = own[0]
        # How to reach the resources; the name is none. Without the headers and the socket, which
        # are for that server alone, and with certificates checked in any case (RFC 9728 7.3).
        self._way = AuthorizationServer(
            issuer="https://resources.invalid",
            verify=server.verify or True,
            proxy=server.proxy,
            timeout=server.timeout,
            trust_env=server.trust_env,
            transport=server.transport,
        )
        self._events = events
        self._clock = clock
        self._changed = changed
        self._flights = SingleFlight()
        self._lock = SafeLock()
        # All guarded by _lock.
        self._learned: LRUCache[Resource, _Learned] = LRUCache(1024)
        self._failed: TTLCache[Resource, TokenRequestError] = TTLCache(1024, 5.0, timer=clock)
        self._challenged: TTLCache[Resource, bool] = TTLCache(1024, 10.0, timer=clock)

    def covers(self, resource: Resource) -> bool:
        """
        Whether anything is learned about a resource (rule 1).
        """
        return bool(self._parties) and resource in self._covered

    def apply(self, request: TokenRequest) -> TokenRequest:
        """
        The request to make in the place of this one, by what is known.
        """
        configured = request.discovered_from or request
        with self._lock:
            learned = self._learned.get(configured.resource)
        if learned is None or learned.party is None:
            return configured
        server, client_auth = learned.party
        return replace(
            configured,
            server=server,
            client_auth=client_auth,
            scopes=configured.scopes or learned.scopes,
            discovered_from=configured,
        )

    async def settle(self, request: TokenRequest, io: IO) -> TokenRequest:
        """
        The request to make now, after what has to be learned first.

        Raises:
            TokenRequestError: If the resource says something that cannot be believed or followed.
            EgressBlockedError: If it names a server that the subject token is not for.
        """
        if not self.covers(request.resource):
            return request
        configured = request.discovered_from or request

        async def look() -> None:
            if self._is_stale(configured.resource):
                await self._learn(configured, io, None)

        if self._is_stale(configured.resource):
            await self._flights.once(configured.resource, io, look, self._limit())
        return self._applied(configured)

    async def heed(self, request: TokenRequest, challenge: Challenge, io: IO) -> TokenRequest:
        """
        The request to make after a challenge of the resource that names its metadata (RFC 9728
        5.2), which is the same if nothing came of that.

        Raises:
            EgressBlockedError: As `settle`.
        """
        if not self.covers(request.resource) or challenge.resource_metadata is None:
            return request
        configured = request.discovered_from or request

        async def look() -> None:
            with self._lock:
                if configured.resource in self._challenged:
                    return
                self._challenged[configured.resource] = True
            await self._learn(configured, io, challenge)

        # An event says what failed, and what was known before is still known.
        with suppress(TokenRequestError):
            await self._flights.once(
                (configured.resource, challenge.resource_metadata), io, look, self._limit()
            )
        return self._applied(request)

    def forget(self, identifier: str | None) -> None:
        """
        Ask a resource again, or all of them, at the next occasion.
        """
        with self._lock:
            for known in (self._learned, self._failed, self._challenged):
                for resource in list(known):
                    if identifier is None or resource.identifier == identifier:
                        known.pop(resource, None)
        self._changed()

    def _applied(self, request: TokenRequest) -> TokenRequest:
        try:
            return self.apply(request)
        except EgressBlockedError as error:
            self._events.emit(
                TokenEvent(
                    "egress_blocked",
                    request.resource.identifier,
                    request.server.name,
                    error.destination,
                    str(error),
                    error.reason,
                )
            )
            raise

    def _is_stale(self, resource: Resource) -> bool:
        """
        Whether there is something to be read before a request is made.

        Raises:
            TokenRequestError: If that has failed just now.
        """
        with self._lock:
            failed, learned = self._failed.get(resource), self._learned.get(resource)
        if failed is not None:
            raise type(failed)(*failed.args)
        return learned is None or self._clock() >= learned.until

    async def _learn(self, configured: TokenRequest, io: IO, challenge: Challenge | None) -> None:
        resource = configured.resource
        try:
            said = await self._read(resource, io, challenge)
            learned = self._judge(configured, said, challenge)
        except TokenRequestError as error:
            self._report(configured, "discovery_failed", str(error))
            if challenge is None:
                with self._lock:
                    # A copy, as the error itself holds on to the frames of what failed.
                    self._failed[resource] = type(error)(*error.args)
            raise
        with self._lock:
            before = self._learned.get(resource)
            self._learned[resource] = learned
            self._failed.pop(resource, None)
        if before is None or replace(before, until=learned.until) != learned:
            self._changed()

    async def _read(
        self, resource: Resource, io: IO, challenge: Challenge | None
    ) -> ProtectedResource | None:
        where = None if challenge is None else challenge.resource_metadata
        for message in where_described(resource, where):
            answer, failure = None, ""
            try:
                answer = await io.send(message, self._way, self._way.timeout.total_seconds())
            except SendError as error:
                failure = str(error)
            if answer is None:
                raise TokenRequestError(
                    f"No token for {resource.identifier!r}: its metadata at {message.url} could "
                    f"not be read: {failure}. Try again later, or leave the issuers out of "
                    "ResourceMap(discover=...).",
                    resource.identifier,
                )
            said = protected_resource_in(answer, resource)
            if said is not None:
                return said
        return None

    def _judge(
        self,
        configured: TokenRequest,
        said: ProtectedResource | None,
        challenge: Challenge | None,
    ) -> _Learned:
        resource = configured.resource
        if said is None:
            self._report(configured, "discovery_failed", "no metadata; going by what is configured")
            return _Learned(None, frozenset(), self._clock() + _NOTHING_THERE)
        party = self._party_for(configured, said)
        asked_for = frozenset[str]() if challenge is None else challenge.scopes
        scopes = (asked_for or said.scopes_supported) & frozenset(resource.max_scopes or ())
        detail = f"issuer {party[0].issuer}, scopes {' '.join(sorted(scopes))!r}"
        self._report(configured, "resource_discovered", detail)
        return _Learned(party, scopes, self._clock() + said.lifetime.total_seconds())

    def _party_for(self, configured: TokenRequest, said: ProtectedResource) -> Party:
        own = (configured.server, configured.client_auth)
        named = said.authorization_servers
        allowed = [issuer for issuer in named if issuer in self._parties]
        if not named or configured.server.issuer in allowed:
            return own
        if allowed and configured.resource.server is None:
            return self._parties[allowed[0]]
        identifier = configured.resource.identifier
        raise TokenRequestError(
            f"No token for {identifier!r}: its metadata names the issuers "
            f"{quoted(', '.join(named))!r}, and none of them is both allowed by "
            "ResourceMap(discover=...) and configured with a credential for it. Nothing was sent "
            "there.",
            identifier,
        )

    def _limit(self) -> float:
        return 2 * self._way.timeout.total_seconds() + 1

    def _report(self, configured: TokenRequest, name: EventName, detail: str) -> None:
        identifier = configured.resource.identifier
        self._events.emit(TokenEvent(name, identifier, configured.server.name, detail=detail))


_NOTHING_THERE = 3600.0
