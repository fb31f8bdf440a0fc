"""
The token cache: one token for each (client, resource, scopes).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial

from resource_tokens._acquire import Acquirer, Surroundings
from resource_tokens._io import IO, AsyncIO, BlockingIO, run_to_end
from resource_tokens.egress import Bindings
from resource_tokens.events import Events, TokenEvent
from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.grants import ClientCredentials
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.token_endpoint import Identity, TokenRequest
from resource_tokens.resources import Resource, ResourceMap, parse_scopes
from resource_tokens.stores import MemoryTokenStore, TokenStore
from resource_tokens.tokens import AccessToken, CachedToken

__all__ = ["TokenCache", "steady_clock"]


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
        grant: On whose behalf tokens are asked for.
        store: Where tokens are kept; in this process's memory by default.
        on_event: Called with each `TokenEvent`, from whichever thread it happens in. It must be
            quick.
        clock: Seconds that never jump, for lifetimes.
        wall_clock: Seconds since the epoch, for the `expires_at` that tokens show.
    """

    def __init__(
        self,
        server: AuthorizationServer,
        client_auth: ClientAuth,
        *,
        resources: Mapping[str, Resource | str] | Iterable[Resource | str] | ResourceMap = (),
        grant: ClientCredentials | None = None,
        store: TokenStore | None = None,
        on_event: Callable[[TokenEvent], object] | None = None,
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
        self.events = Events(on_event)
        self.bindings = Bindings()
        self._grant = ClientCredentials() if grant is None else grant
        self._store = MemoryTokenStore() if store is None else store
        audiences = frozenset(r.expected_audience for _, r in self.resources)
        surroundings = Surroundings(clock, wall_clock, random.random)
        self._acquirer = Acquirer(self._store, self.bindings, self.events, surroundings, audiences)
        self._blocking: IO = BlockingIO()
        self._async: IO = AsyncIO()
        # Building a request hashes its key; a warm request must not pay for that.
        self._built = lru_cache(maxsize=4096)(self._build_request)

    def get(self, resource: Resource | str, scopes: Iterable[str] | None = None) -> AccessToken:
        """
        The token for a resource: from the cache, or asked for now.

        Args:
            resource: A `Resource`, or the identifier of a configured one. Where none are
                configured, any identifier.
            scopes: The scopes to ask for instead of the resource's own.

        Raises:
            TokenRequestError: If the authorization server gave none.
            AudienceMismatchError: If it gave one for something else.
            ConfigurationError: If the identifier is not that of one configured resource.
        """
        request = self._request_for(resource, scopes)
        return (self._cached(request) or self._acquire(request)).token

    async def aget(
        self, resource: Resource | str, scopes: Iterable[str] | None = None
    ) -> AccessToken:
        """
        The same as `get`, without blocking the event loop (asyncio or trio).
        """
        request = self._request_for(resource, scopes)
        return (self._cached(request) or await self._aacquire(request)).token

    def forget(self, resource: Resource | str | None = None) -> int:
        """
        Drop the cached tokens of a resource, whatever their scopes; of all resources by default.

        A refusal that is remembered is forgotten as well, so that the next call asks again.

        Returns:
            How many were dropped.
        """
        identifier = resource.identifier if isinstance(resource, Resource) else resource
        self._acquirer.forget_refusals(identifier)
        return self._store.forget(
            lambda cached: identifier is None or cached.token.resource == identifier
        )

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
        if not (scopes is None or isinstance(scopes, str | frozenset)):
            scopes = tuple(scopes)
        return self._built(resource, scopes)

    def _identity(self, resource: Resource) -> Identity:
        """
        What the tokens of a resource are for.
        """
        return self._built(resource, None).identity

    def _cached(self, request: TokenRequest) -> CachedToken | None:
        """
        The token to present now, if it is there. Never waits.
        """
        return self._acquirer.cached(request)

    def _acquire(self, request: TokenRequest) -> CachedToken:
        """
        The token to present, asked for if need be. Raises as `get`.
        """
        return run_to_end(self._acquirer.acquire(request, self._blocking))

    async def _aacquire(self, request: TokenRequest) -> CachedToken:
        """
        The same as `_acquire`, without blocking the event loop.
        """
        return await self._acquirer.acquire(request, self._async)

    def _renew(self, request: TokenRequest, rejected: AccessToken) -> CachedToken | None:
        """
        Another token than the one its resource rejected, or `None` if there is none to be had.
        """
        return run_to_end(self._acquirer.renew(request, rejected, self._blocking))

    async def _arenew(self, request: TokenRequest, rejected: AccessToken) -> CachedToken | None:
        """
        The same as `_renew`, without blocking the event loop.
        """
        return await self._acquirer.renew(request, rejected, self._async)

    def _build_request(
        self, resource: Resource | str, scopes: Iterable[str] | None
    ) -> TokenRequest:
        if isinstance(resource, str):
            resource = self._named(resource)
        return TokenRequest(
            self.server if resource.server is None else resource.server,
            self.client_auth if resource.client_auth is None else resource.client_auth,
            self._grant,
            resource,
            parse_scopes(resource.scopes if scopes is None else scopes),
        )

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
        return f"TokenCache({self.server.name!r}, {self.client_auth.client_id!r}, {self._store!r})"
