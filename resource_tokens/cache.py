"""
The token cache: one token for each (client, resource, scopes).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache, partial

from resource_tokens._acquire import Acquirer
from resource_tokens._ask import Surroundings
from resource_tokens._discovery import Discovery
from resource_tokens._io import IO, AsyncIO, BlockingIO, run_to_end
from resource_tokens._proofs import Prover
from resource_tokens._refusals import Remedy
from resource_tokens._subjects import Subjects
from resource_tokens._together import Jobs, raise_all
from resource_tokens.egress import Bindings
from resource_tokens.events import Events, Observer, TokenEvent
from resource_tokens.exceptions import (
    AudienceMismatchError,
    ConfigurationError,
    EgressBlockedError,
    ResourceTokensError,
    TokenRequestError,
)
from resource_tokens.ledger import UseLedger, Uses
from resource_tokens.oauth.assertions import check_assertions
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.exchange import Exchange
from resource_tokens.oauth.grants import ClientCredentials, Grant
from resource_tokens.oauth.inbound_tokens import InboundToken
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.revocation import NoGrant, Revocation
from resource_tokens.oauth.subject_tokens import SubjectToken
from resource_tokens.oauth.token_endpoint import Identity, TokenRequest, check_told_apart
from resource_tokens.resources import Resource, ResourceMap, parse_scopes
from resource_tokens.stores import MemoryTokenStore, TokenStore
from resource_tokens.tokens import AccessToken, CachedToken

__all__ = ["TokenCache", "seconds_of", "steady_clock"]


def steady_clock() -> float:
    """
    Seconds that never jump, and go on while the machine sleeps where the system can tell.
    """
    return _read()


_read: Callable[[], float] = time.monotonic
if hasattr(time, "CLOCK_BOOTTIME"):
    # Linux: `time.monotonic` stands still in a suspended machine, where tokens expire all the same.
    _read = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class TokenCache:
    """
    Gets, keeps and refreshes one access token for each (client, resource, scopes).

    Most code wants `ResourceTokenAuth`, which also sends the token to the right place and to no
    other. Use this for clients that are not httpx. One cache serves threads, asyncio and trio at
    the same time.

    Args:
        server: The authorization server, for resources that do not name their own.
        client_auth: How the client authenticates there.
        resources: The configured resources, as for `ResourceMap`. A token that is also good at
            another one of them is refused.
        grant: How the client itself asks for tokens.
        exchange: How they are asked for on behalf of somebody else, at `server`; by its dialect,
            if it is not given.
        store: Where tokens are shared with other processes, behind the memory of this one; or a
            `MemoryTokenStore` of another size.
        proof_key: The key that tokens of `Resource(..., sender="dpop")` are bound to. By default
            one is made, and dies with this process.
        on_event: Called with each `TokenEvent`, from whichever thread it happens in. It must be
            quick.
        ledger: Where each use of a token is recorded.
        telemetry: What counts and times, such as `resource_tokens.telemetry.Telemetry()`.
        clock: Seconds that never jump, for lifetimes.
        wall_clock: Seconds since the epoch, for the `expires_at` that tokens show.
    """

    def __init__(
        self,
        server: AuthorizationServer,
        client_auth: ClientAuth,
        *,
        resources: Mapping[str, Resource | str] | Iterable[Resource | str] | ResourceMap = (),
        grant: Grant | None = None,
        exchange: Exchange | None = None,
        store: TokenStore | MemoryTokenStore | None = None,
        proof_key: ProofKey | None = None,
        on_event: Callable[[TokenEvent], object] | None = None,
        ledger: UseLedger | None = None,
        telemetry: Observer | None = None,
        clock: Callable[[], float] = steady_clock,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(server, AuthorizationServer) or not isinstance(client_auth, ClientAuth):
            raise ConfigurationError(
                "Give an AuthorizationServer and a client authentication, in this order: "
                "AuthorizationServer(issuer=...), ClientSecretBasic(client_id, client_secret)."
            )
        self.server = server
        self.client_auth = client_auth
        self.resources = ResourceMap(resources)
        self.events = Events(on_event, telemetry)
        self.uses: Uses | None = None
        if ledger is not None or telemetry is not None:
            self.uses = Uses(ledger, telemetry, self.resources, wall_clock)
        self.prover = Prover(wall_clock)
        self._proof_key = ProofKey() if proof_key is None else proof_key
        self._grant = ClientCredentials() if grant is None else grant
        if not isinstance(self._grant, Grant):
            raise ConfigurationError(
                f"grant= is a {type(grant).__name__}. Give a grant, such as RefreshToken(...)."
            )
        memory = store if isinstance(store, MemoryTokenStore) else MemoryTokenStore()
        # Those that were replaced a while ago can still be good.
        self.bindings = Bindings(max(_KNOWN, 2 * memory.maxsize))
        shared = None if isinstance(store, MemoryTokenStore) else store
        audiences = frozenset(r.expected_audience for _, r in self.resources)
        surroundings = Surroundings(clock, wall_clock, random.random)
        self._acquirer = Acquirer(
            memory, self.bindings, self.events, surroundings, audiences, store=shared
        )
        self._store = memory if shared is None else shared
        self._blocking: IO = BlockingIO()
        self._async: IO = AsyncIO()
        self._clock = clock
        self._rotating = _Rotating(clock)
        # Building a request hashes its key; a warm request must not pay for that.
        self._built = lru_cache(maxsize=4096)(self._build_request)
        self._discovery = Discovery(
            self.resources,
            (server, client_auth),
            portable=self._grant.portable,
            events=self.events,
            clock=clock,
            changed=self._build_anew,
        )
        self.subjects = Subjects(
            (server, client_auth),
            exchange,
            self.resources,
            apply=self._discovery.apply,
            events=self.events,
            wall_clock=wall_clock,
        )
        self._subject: SubjectToken | None = None
        # What cannot be asked for is said now, not at the first request.
        requests = [
            self.subjects.probe(self._built(resource, None)) for _, resource in self.resources
        ]
        check_assertions((request.server, request.client_auth) for request in requests)
        check_told_apart(requests)

    def on_behalf_of(self, subject: InboundToken | SubjectToken) -> TokenCache:
        """
        A light view that asks for tokens on behalf of somebody. It shares all that is kept.

        Args:
            subject: As for `ResourceTokenAuth.on_behalf_of`.

        Raises:
            ConfigurationError: If it is something else.
        """
        found = SubjectToken.of(subject)
        del subject
        if isinstance(found, ConfigurationError):
            raise found
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._subject = found
        return view

    def get(
        self,
        resource: Resource | str,
        scopes: Iterable[str] | None = None,
        *,
        min_ttl: timedelta = timedelta(),
    ) -> AccessToken:
        """
        The token for a resource: from the cache, or asked for now.

        Args:
            resource: A `Resource`, or the identifier of a configured one. Where none are
                configured, any identifier.
            scopes: The scopes to ask for instead of the resource's own.
            min_ttl: How long the token must be good for, at least. One that is good for less is
                replaced, however fresh it is.

        Raises:
            TokenRequestError: If the authorization server gave none, or none that is good for as
                long as `min_ttl`.
            AudienceMismatchError: If it gave one for something else.
            ConfigurationError: If the identifier is not that of one configured resource.
        """
        request, seconds = self._request_for(resource, scopes), seconds_of(min_ttl)
        cached = self._cached(request, seconds) or self._acquire(request, seconds)
        return self._handed_over(request, cached)

    async def aget(
        self,
        resource: Resource | str,
        scopes: Iterable[str] | None = None,
        *,
        min_ttl: timedelta = timedelta(),
    ) -> AccessToken:
        """
        The same as `get`, without blocking the event loop (asyncio or trio).
        """
        request, seconds = self._request_for(resource, scopes), seconds_of(min_ttl)
        cached = self._cached(request, seconds) or await self._aacquire(request, seconds)
        return self._handed_over(request, cached)

    def prefetch(
        self,
        resources: Iterable[Resource | str] | None = None,
        scopes: Iterable[str] | None = None,
    ) -> None:
        """
        Get the tokens of many resources before they are needed, a few at a time from each server.

        Args:
            resources: As for `get`; all configured ones by default.
            scopes: As for `get`.

        Raises:
            ExceptionGroup: With a `TokenRequestError` or `AudienceMismatchError` for each token
                that could not be had, after all of them were tried.
            ConfigurationError: If an identifier is not that of one configured resource.
        """
        wanted, failed = self._wanted(resources, scopes), _Failures()
        self._prefetching(wanted, failed).run(self._blocking)
        raise_all([failed[r.key] for r in wanted if r.key in failed], "could not be had")

    async def aprefetch(
        self,
        resources: Iterable[Resource | str] | None = None,
        scopes: Iterable[str] | None = None,
    ) -> None:
        """
        The same as `prefetch`, without blocking the event loop (asyncio or trio).
        """
        wanted, failed = self._wanted(resources, scopes), _Failures()
        await self._prefetching(wanted, failed).arun(self._async)
        raise_all([failed[r.key] for r in wanted if r.key in failed], "could not be had")

    def forget(
        self,
        resource: Resource | str | None = None,
        *,
        subject: InboundToken | SubjectToken | None = None,
    ) -> int:
        """
        Drop the cached tokens of a resource, whatever their scopes, here and wherever the store is
        shared; of all resources by default.

        A refusal that is remembered is forgotten as well, so that the next call asks again.

        Args:
            resource: Of which resource.
            subject: On whose behalf they were got: what `on_behalf_of` was given, or any other
                token that says the same of its `issuer` and `subject`. By default on whosever, and
                as this service itself; with a view of `on_behalf_of`, on behalf of its subject.

        Returns:
            How many were dropped here.

        Raises:
            ConfigurationError: If `subject` is something else.
            ResourceTokensError: If the others could not be told.
        """
        found = self._subject if subject is None else SubjectToken.of(subject, _FORGET)
        del subject
        if isinstance(found, ConfigurationError):
            raise found
        return run_to_end(self._forget(resource, found, self._blocking))

    async def aforget(
        self,
        resource: Resource | str | None = None,
        *,
        subject: InboundToken | SubjectToken | None = None,
    ) -> int:
        """
        The same as `forget`, without blocking the event loop while the shared store is told.
        """
        found = self._subject if subject is None else SubjectToken.of(subject, _FORGET)
        del subject
        if isinstance(found, ConfigurationError):
            raise found
        return await self._forget(resource, found, self._async)

    def revoke_all(self) -> int:
        """
        Drop all tokens, here and wherever the store is shared, and then revoke them at the servers
        that issued them (RFC 7009): those that are kept here, those that others have left in the
        store for the configured resources, and the refresh token of the grant. This is for
        incidents.

        A refresh token is given up: the grant has ended then. What the client asks for itself can
        be asked for again, by the next call.

        Returns:
            How many were revoked.

        Raises:
            ExceptionGroup: With a `ResourceTokensError` for each token that could not be revoked,
                and for a store that could not be told, after all was tried.
        """
        revocations, failed = run_to_end(self._given_up(self._blocking))
        self._revoking(revocations, failed).run(self._blocking)
        raise_all([*failed.values()], "could not be revoked")
        return len(revocations)

    async def arevoke_all(self) -> int:
        """
        The same as `revoke_all`, without blocking the event loop (asyncio or trio).
        """
        revocations, failed = await self._given_up(self._async)
        await self._revoking(revocations, failed).arun(self._async)
        raise_all([*failed.values()], "could not be revoked")
        return len(revocations)

    def close(self) -> None:
        """
        Start no more refreshes ahead. Optional and idempotent: nothing is left open between
        requests, and a token can still be had afterwards.
        """
        self._acquirer.close()

    def _request_for(
        self, resource: Resource | str, scopes: Iterable[str] | None = None
    ) -> TokenRequest:
        """
        What would be asked for, with the key that its token is kept under.
        """
        replaced = self._rotating.replaced()
        if replaced is not None:
            self._build_anew()
            self.events.emit(TokenEvent("credential_rotated", "", detail=replaced.client_id))
        if not (scopes is None or isinstance(scopes, str | frozenset)):
            scopes = tuple(scopes)
        return self.subjects.request(self._built(resource, scopes), self._subject)

    def _wanted(
        self, resources: Iterable[Resource | str] | None, scopes: Iterable[str] | None
    ) -> list[TokenRequest]:
        if resources is None:
            resources = [
                resource
                for _, resource in self.resources
                if not self.subjects.is_wanting(resource, self._subject)
            ]
        requests = [self._request_for(resource, scopes) for resource in resources]
        return list({request.key: request for request in requests}.values())

    def _identity(self, resource: Resource) -> Identity:
        """
        What the tokens of a resource are for.
        """
        return self._built(resource, None).identity

    def _handed_over(self, request: TokenRequest, cached: CachedToken) -> AccessToken:
        if self.uses is not None:
            self.uses.note("handed_over", cached.asked or request, cached.token)
        # Whoever takes it out is the one who can copy it to the wrong place.
        return self.bindings.shown(cached.token, request).token

    def _cached(self, request: TokenRequest, min_ttl: float = 0.0) -> CachedToken | None:
        """
        The token to present now, if it is there and good for `min_ttl` seconds. Never waits.
        """
        return self._acquirer.cached(request, min_ttl)

    def _is_good(self, cached: CachedToken) -> bool:
        """
        Whether a token can be presented: its hard margin has not begun.
        """
        return self._acquirer.lives_for(cached)

    def _acquire(self, request: TokenRequest, min_ttl: float = 0.0) -> CachedToken:
        """
        The token to present, asked for if need be. Raises as `get`.
        """
        return run_to_end(self._settled(request, self._blocking, min_ttl))

    async def _aacquire(self, request: TokenRequest, min_ttl: float = 0.0) -> CachedToken:
        """
        The same as `_acquire`, without blocking the event loop.
        """
        return await self._settled(request, self._async, min_ttl)

    def _remedied(
        self, request: TokenRequest, refused: AccessToken, remedy: Remedy
    ) -> CachedToken | None:
        """
        Another token than the one its resource refused, or `None` if there is none to be had.
        """
        return run_to_end(self._remedy(request, refused, remedy, self._blocking))

    async def _aremedied(
        self, request: TokenRequest, refused: AccessToken, remedy: Remedy
    ) -> CachedToken | None:
        """
        The same as `_remedied`, without blocking the event loop.
        """
        return await self._remedy(request, refused, remedy, self._async)

    async def _forget(
        self, resource: Resource | str | None, subject: SubjectToken | None, io: IO
    ) -> int:
        identifier = resource.identifier if isinstance(resource, Resource) else resource
        if subject is not None:
            digest = subject.digest()
            self.subjects.forget(digest)
            return await self._acquirer.forget(identifier, io, digest)
        self._discovery.forget(identifier)
        return await self._acquirer.forget(identifier, io)

    def _prefetching(self, wanted: Iterable[TokenRequest], failed: _Failures) -> Jobs:
        async def prefetch(request: TokenRequest, io: IO) -> None:
            try:
                await self._settled(request, io, 0.0)
            except ResourceTokensError as error:
                failed[request.key] = error

        return Jobs([partial(prefetch, r) for r in wanted], [r.server for r in wanted])

    async def _given_up(self, io: IO) -> tuple[list[Revocation], _Failures]:
        """
        Let nobody use any token any more; what there is to revoke then.
        """
        failed, wanted = _Failures(), list[TokenRequest]()
        for _, resource in self.resources:
            # One that cannot even be asked for has left nothing.
            with suppress(ResourceTokensError):
                if not self.subjects.is_wanting(resource, self._subject):
                    wanted.append(self._request_for(resource))
            # The service's own, whoever it is acting for at the moment.
            with suppress(ResourceTokensError):
                wanted.append(self._built(resource, None))
        revocations = await self._acquirer.revocations(wanted, io)
        try:
            refresh_token = await io.run(self._grant.give_up, _LONGEST_GOODBYE)
            if refresh_token is not None:
                # It is for no resource in particular.
                name, parties = Resource(self.server.name), (self.server, self.client_auth)
                request = TokenRequest(*parties, NoGrant(), name, frozenset())
                revocations.insert(0, Revocation(request, refresh_token, "refresh_token"))
        except TimeoutError:
            failed["store"] = ResourceTokensError(
                "The refresh token could not be given up in time, as its store does not answer. "
                "Call revoke_all() again when it does."
            )
        except ResourceTokensError as error:
            failed["client"] = error
        try:
            await self._forget(None, None, io)
        except ResourceTokensError as error:
            failed["others"] = error
        return revocations, failed

    def _revoking(self, revocations: list[Revocation], failed: _Failures) -> Jobs:
        async def revoke(number: int, io: IO) -> None:
            try:
                await self._acquirer.revoke(revocations[number], io)
            except ResourceTokensError as error:
                failed[number] = error

        jobs = [partial(revoke, number) for number in range(len(revocations))]
        return Jobs(jobs, [revocation.request.server for revocation in revocations])

    async def _settled(self, request: TokenRequest, io: IO, min_ttl: float) -> CachedToken:
        request = await self._discovery.settle(request, io)
        return await self._acquirer.acquire(request, io, min_ttl)

    async def _remedy(
        self, request: TokenRequest, refused: AccessToken, remedy: Remedy, io: IO
    ) -> CachedToken | None:
        learned, described = self._discovery, remedy.described
        before = learned.apply(request)
        try:
            if remedy.missing:
                wider = self._request_for(request.resource, remedy.scopes)
                token = await self._settled(wider, io, 0.0)
                # One that was granted less is refused again.
                return token if remedy.missing <= token.token.scopes else None
            if described is None:
                request = await learned.settle(request, io)
            else:
                request = await learned.heed(request, described, io)
        except (TokenRequestError, AudienceMismatchError, EgressBlockedError):
            # An event says so, and the caller gets the answer of the resource.
            return None
        if not remedy.renew and request.key == before.key:
            return None
        return await self._acquirer.renew(request, refused, io)

    def _build_anew(self) -> None:
        """
        Build all requests anew: their keys are others now.
        """
        self._built.cache_clear()
        self.subjects.clear()

    def _build_request(
        self, resource: Resource | str, scopes: Iterable[str] | None
    ) -> TokenRequest:
        if isinstance(resource, str):
            resource = self._named(resource)
        if not isinstance(resource, Resource):
            raise ConfigurationError(
                f"A token is for a Resource or its identifier, not for {type(resource).__name__}."
            )
        request = self._discovery.apply(
            TokenRequest(
                self.server if resource.server is None else resource.server,
                self.client_auth if resource.client_auth is None else resource.client_auth,
                self._grant,
                resource,
                parse_scopes(resource.scopes if scopes is None else scopes),
                proof_key=self._proof_key if resource.sender == "dpop" else None,
            )
        )
        self._rotating.add(request.client_auth)
        return request

    def _named(self, identifier: str) -> Resource:
        configured = {r for _, r in self.resources if r.identifier == identifier}
        if not len(self.resources):
            return Resource(identifier)
        if len(configured) != 1:
            raise ConfigurationError(
                f"{identifier!r} is configured in {len(configured)} ways, so the name alone does "
                "not say what to ask for. Pass a Resource."
            )
        return configured.pop()

    def __repr__(self) -> str:
        behalf = "" if self._subject is None else ", on behalf of one subject"
        return (
            f"TokenCache({self.server.name!r}, {self.client_auth.client_id!r}, {self._store!r}"
            f"{behalf})"
        )


class _Rotating:
    """
    The credentials that can change, as they were when a request was last built with them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[ClientAuth, bytes] = {}
        self._look_again_at = 0.0

    def add(self, client_auth: ClientAuth) -> None:
        """
        Look after a credential, if it can change.
        """
        if client_auth.rotates:
            self._known.setdefault(client_auth, client_auth.fingerprint())

    def replaced(self) -> ClientAuth | None:
        """
        One that has changed, if it is time to look; all are forgotten then.
        """
        if not self._known or self._clock() < self._look_again_at:
            return None
        self._look_again_at = self._clock() + _LOOK_AT_CREDENTIALS_EVERY
        for client_auth, known in list(self._known.items()):
            # One that cannot be read now is an error when it is needed.
            with suppress(ResourceTokensError):
                if client_auth.fingerprint() != known:
                    self._known.clear()
                    return client_auth
        return None


def seconds_of(min_ttl: timedelta) -> float:
    """
    A `min_ttl` in seconds.

    Raises:
        ConfigurationError: If it is no length of time.
    """
    if not isinstance(min_ttl, timedelta) or min_ttl < timedelta():
        raise ConfigurationError(
            f"min_ttl={min_ttl!r}: give a timedelta, such as timedelta(minutes=10)."
        )
    return min_ttl.total_seconds()


_FORGET = "forget(subject=...)"
_KNOWN = 2048
_LOOK_AT_CREDENTIALS_EVERY = 5.0
_LONGEST_GOODBYE = 10.0
_Failures = dict[object, ResourceTokensError]
