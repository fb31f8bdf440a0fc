"""
The auth plugin for httpx and httpx2: the right token for each destination, and for no other.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextvars import Token
from datetime import timedelta
from types import new_class
from typing import TYPE_CHECKING, Any, Literal, Self

from resource_tokens._destinations import AnyURL, display_url
from resource_tokens._httpx import LIBRARIES, http
from resource_tokens._refusals import Remedy, remedy_for
from resource_tokens._subjects import Block
from resource_tokens.cache import TokenCache, seconds_of, steady_clock
from resource_tokens.events import Observer, TokenEvent
from resource_tokens.exceptions import (
    ConfigurationError,
    EgressBlockedError,
    ResourceTokensError,
    UnmappedDestinationError,
)
from resource_tokens.guards import AsyncHopGuard, HopGuard
from resource_tokens.ledger import UseLedger
from resource_tokens.oauth.challenges import challenges_in
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.exchange import Exchange
from resource_tokens.oauth.grants import Grant
from resource_tokens.oauth.inbound_tokens import InboundToken
from resource_tokens.oauth.messages import origin_of
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.subject_tokens import SubjectToken
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource, ResourceMap, parse_scopes
from resource_tokens.stores import MemoryTokenStore, TokenStore
from resource_tokens.tokens import AccessToken, CachedToken

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Auth(httpx.Auth, httpx2.Auth):  # type: ignore[misc]  # pyright: ignore
        """Both libraries' `Auth`; every method they disagree on is overridden below."""
else:
    # Each library takes only instances of its own `Auth`, so the plugin inherits from every one
    # that is installed.
    _Auth = new_class("_Auth", tuple(library.Auth for library in LIBRARIES))

__all__ = ["ResourceTokenAuth"]


class ResourceTokenAuth(_Auth):
    """
    Sends each request with the token of the resource it goes to, and with no other.

    Give it as `auth=` to `httpx.Client`, `httpx.AsyncClient`, `httpx2.Client` or
    `httpx2.AsyncClient`, to several of them if you like: they share its cache. When a resource
    answers 401 the token is renewed and the request sent once more, if its body is in memory; the
    first answer is then in `response.history`.

    Security: `resources` is an allow-list. A request to any other destination raises, and a
    redirect to one goes on without the token. On every hop the destination is checked again right
    before the headers are sent, when the client uses httpx's own transports.

    Args:
        server: The authorization server.
        client_auth: How the client authenticates there.
        resources: The destinations and their resources, as for `ResourceMap`.
        unmapped: `"raise"`, or `"anonymous"` to send requests to unmapped destinations without a
            token.
        grant: How the client itself asks for tokens; with its credentials by default.
        exchange: How they are asked for on behalf of somebody else, at `server`: see
            `on_behalf_of`. By default its dialect says.
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

    Attributes:
        cache: The `TokenCache` behind it.
        resources: The `ResourceMap` that decides.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    def __init__(
        self,
        server: AuthorizationServer,
        client_auth: ClientAuth,
        resources: Mapping[str, Resource | str] | Iterable[Resource | str] | ResourceMap,
        *,
        unmapped: Literal["raise", "anonymous"] = "raise",
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
        if unmapped not in ("raise", "anonymous"):
            raise ConfigurationError(f"unmapped={unmapped!r}: use 'raise' or 'anonymous'.")
        self.cache = TokenCache(
            server,
            client_auth,
            resources=resources,
            grant=grant,
            exchange=exchange,
            store=store,
            proof_key=proof_key,
            on_event=on_event,
            ledger=ledger,
            telemetry=telemetry,
            clock=clock,
            wall_clock=wall_clock,
        )
        self.resources = self.cache.resources
        self._unmapped = unmapped
        self._scopes: frozenset[str] | None = None
        self._min_ttl = timedelta()
        self._min_seconds = 0.0

    @staticmethod
    def from_toml(
        path: str | os.PathLike[str],
        *,
        on_event: Callable[[TokenEvent], object] | None = None,
        ledger: UseLedger | None = None,
        telemetry: Observer | None = None,
    ) -> ResourceTokenAuth:
        """
        The auth object that a settings file describes.

        Args:
            path: The file. Paths in it are relative to its folder.
            on_event: Called with each `TokenEvent`.
            ledger: Where each use of a token is recorded.
            telemetry: What counts and times.

        Raises:
            ConfigurationError: If anything in the file is wrong, with all that is.
            ModuleNotFoundError: If pydantic is not installed.
        """
        from resource_tokens.settings import file

        return file.load(path).auth(on_event, ledger=ledger, telemetry=telemetry)

    @staticmethod
    def from_env(
        *,
        on_event: Callable[[TokenEvent], object] | None = None,
        ledger: UseLedger | None = None,
        telemetry: Observer | None = None,
    ) -> ResourceTokenAuth:
        """
        The auth object that the environment describes: in the variables `RESOURCE_TOKENS_ISSUER`,
        `RESOURCE_TOKENS_CLIENT_ID` and others, or in the file that `RESOURCE_TOKENS_CONFIG` names.

        Args:
            on_event: Called with each `TokenEvent`.
            ledger: Where each use of a token is recorded.
            telemetry: What counts and times.

        Raises:
            ConfigurationError: If anything is missing or wrong, with all that is.
        """
        from resource_tokens.settings import environment

        return environment.load().auth(on_event, ledger=ledger, telemetry=telemetry)

    def scoped(self, *scopes: str) -> ResourceTokenAuth:
        """
        A light view that asks for these scopes instead of the resources' own: `auth=` for one
        request. It shares the cache.
        """
        if not scopes:
            raise ConfigurationError(
                "scoped() without a scope asks for nothing in particular. Name the scopes."
            )
        view = copy.copy(self)
        view._scopes = parse_scopes(" ".join(scopes))
        return view

    def on_behalf_of(self, subject: InboundToken | SubjectToken) -> OnBehalfOf:
        """
        A light view that calls others on behalf of whoever has called this service: `auth=` for
        one request or one client, or `with auth.on_behalf_of(inbound):` for all requests of a
        block. It shares the cache, and the tokens of each subject are kept apart.

        The subject token goes to the authorization server that issued it, to be exchanged, and
        nowhere else.

        Args:
            subject: The token that this service was called with: an `InboundToken` of
                `resource_tokens.inbound`, or a `SubjectToken`.

        Raises:
            ConfigurationError: If it is something else, such as a token of this service's own.
        """
        found = SubjectToken.of(subject)
        del subject
        if isinstance(found, ConfigurationError):
            raise found
        view = object.__new__(OnBehalfOf)
        view.__dict__.update(self.__dict__)
        view.cache = self.cache.on_behalf_of(found)
        view._entered = None
        return view

    def with_min_ttl(self, min_ttl: timedelta) -> ResourceTokenAuth:
        """
        A light view whose tokens are good for this long at least: `auth=` for a long upload. It
        shares the cache.
        """
        view = copy.copy(self)
        view._min_ttl, view._min_seconds = min_ttl, seconds_of(min_ttl)
        return view

    def prefetch(self, urls: Iterable[AnyURL] | None = None) -> None:
        """
        Get the tokens of many destinations before they are needed, at most four at a time from
        each authorization server.

        Args:
            urls: The destinations; all that are mapped by default.

        Raises:
            UnmappedDestinationError: If no resource is mapped to a URL; then nothing is sent.
            ExceptionGroup: With a `TokenRequestError` or `AudienceMismatchError` for each token
                that could not be had, after all of them were tried.
        """
        self.cache.prefetch(self._all_mapped(urls), self._scopes)

    async def aprefetch(self, urls: Iterable[AnyURL] | None = None) -> None:
        """
        The same as `prefetch`, without blocking the event loop.
        """
        await self.cache.aprefetch(self._all_mapped(urls), self._scopes)

    def token_for(self, url: AnyURL) -> AccessToken:
        """
        The token for a destination, for clients that are not httpx (gRPC, websockets).

        Whoever takes the token out of this library decides where it goes.

        Raises:
            UnmappedDestinationError: If no resource is mapped to the URL.
            EgressBlockedError: If the URL can be read in more than one way.
            TokenRequestError: If the authorization server gave no token.
            AudienceMismatchError: If it gave one for something else.
        """
        return self.cache.get(self._mapped(url), self._scopes, min_ttl=self._min_ttl)

    async def atoken_for(self, url: AnyURL) -> AccessToken:
        """
        The same as `token_for`, without blocking the event loop.
        """
        return await self.cache.aget(self._mapped(url), self._scopes, min_ttl=self._min_ttl)

    def proof_for(
        self, method: str, url: AnyURL, token: AccessToken, *, nonce: str | None = None
    ) -> str:
        """
        The `DPoP` header to send along with a token of `token_for` that is bound to the proof key
        (RFC 9449 7), for clients that are not httpx. Each request needs its own.

        Args:
            method: The method of the request.
            url: Where it goes.
            token: What it carries.
            nonce: The `DPoP-Nonce` of an answer from there. It is remembered for the next proofs.

        Raises:
            UnmappedDestinationError: If no resource is mapped to the URL.
            EgressBlockedError: If the token is for another resource.
            ConfigurationError: If its tokens are not bound to a key.
        """
        resource = self._mapped(url)
        key = self.cache._built(resource, None).proof_key
        if key is None:
            raise ConfigurationError(
                f"The tokens of {resource.identifier!r} are bound to no key, so there is nothing "
                "to prove. Set Resource(..., sender='dpop')."
            )
        full = http.URL(str(url))
        if token.resource != resource.identifier:
            where = display_url(full)
            raise EgressBlockedError(
                f"There is no proof for {where} with a token for {token.resource!r}: that "
                f"destination is mapped to {resource.identifier!r}. Take the token of "
                "token_for(url).",
                where,
                token.resource,
                "elsewhere",
            )
        prover, server = self.cache.prover, (resource.identifier, origin_of(str(full)))
        if nonce is not None:
            prover.heed(server, prover.terms(server), nonce)
        return prover.proof(key, method, str(full), prover.terms(server), token)

    def close(self) -> None:
        """
        Start no more refreshes ahead. Optional and idempotent.
        """
        self.cache.close()

    async def aclose(self) -> None:
        """
        The same as `close`.
        """
        self.cache.close()

    def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """
        Not used: httpx calls one of the two below.
        """
        return self.sync_auth_flow(request)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """
        What `httpx.Client` and `httpx2.Client` call.
        """
        asked = self._asked_for(request)
        request, guard = HopGuard.on(request, self.cache, asked)
        try:
            if asked is None:
                guard.witness((yield request))
                return
            warm = self.cache._cached(asked, self._min_seconds)
            shown: CachedToken | None = warm or self.cache._acquire(asked, self._min_seconds)
            while shown is not None:
                guard.show(request, asked, shown)
                response = yield request
                guard.witness(response)
                shown = guard.cached or shown
                remedy = self._remedy_for(request, response, guard, shown, warm)
                if remedy is None or not remedy.prove:
                    shown = remedy and self.cache._remedied(asked, shown.token, remedy)
        finally:
            guard.retire()

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """
        What `httpx.AsyncClient` and `httpx2.AsyncClient` call, on asyncio and on trio.
        """
        asked = self._asked_for(request)
        request, guard = AsyncHopGuard.on(request, self.cache, asked)
        try:
            if asked is None:
                guard.witness((yield request))
                return
            warm = self.cache._cached(asked, self._min_seconds)
            shown: CachedToken | None = warm or await self.cache._aacquire(asked, self._min_seconds)
            while shown is not None:
                guard.show(request, asked, shown)
                response = yield request
                guard.witness(response)
                shown = guard.cached or shown
                remedy = self._remedy_for(request, response, guard, shown, warm)
                if remedy is None or not remedy.prove:
                    shown = remedy and await self.cache._aremedied(asked, shown.token, remedy)
        finally:
            guard.retire()

    def _all_mapped(self, urls: Iterable[AnyURL] | None) -> list[Resource] | None:
        return None if urls is None else [self._mapped(url) for url in urls]

    def _mapped(self, url: AnyURL) -> Resource:
        if isinstance(url, str):
            try:
                url = http.URL(url)
            except (http.InvalidURL, UnicodeError) as error:
                raise UnmappedDestinationError(f"That is no URL: {error}.") from None
        resource = self._resource_for(url)
        if resource is None:
            raise self._unmapped_error(url)
        return resource

    def _asked_for(self, request: Any) -> TokenRequest | None:
        resource = self._resource_for(request.url) or self._behind_a_sidecar(request)
        if resource is not None:
            return self.cache._request_for(resource, self._scopes)
        if self._unmapped == "raise":
            raise self._unmapped_error(request.url)
        return None

    def _resource_for(self, url: Any) -> Resource | None:
        try:
            return self.resources.resource_for(url)
        except EgressBlockedError as error:
            self.cache.events.emit(
                TokenEvent("egress_blocked", "", "", error.destination, str(error), error.reason)
            )
            raise

    def _behind_a_sidecar(self, request: Any) -> Resource | None:
        url, named = request.url, request.headers.get("Host", "").encode()
        return self.resources.resource_at(url.scheme, url.raw_host, url.port, url.raw_path, named)

    def _unmapped_error(self, url: Any) -> UnmappedDestinationError:
        shown = display_url(url)
        self.cache.events.emit(TokenEvent("unmapped_destination", "", "", shown))
        return UnmappedDestinationError(
            f"No resource is mapped to {shown}. Add its destination to `resources`, pass "
            "`unmapped='anonymous'` to send such requests without a token, or `auth=None` for "
            "this one.",
            shown,
        )

    def _remedy_for(
        self,
        request: Any,
        response: Any,
        guard: HopGuard,
        shown: CachedToken,
        warm: CachedToken | None,
    ) -> Remedy | None:
        asked = guard.asked
        if response.status_code not in (401, 403) or asked is None:
            return None
        # A body that was streamed is gone: only one in memory can be sent twice.
        repeatable = isinstance(request.stream, _BYTES_IN_MEMORY)
        remedy: Remedy | None
        if guard.proof_refused and "proof" not in guard.tried:
            why = guard.proof_refused
            remedy = Remedy("proof_renewed", why, prove=True)
            if not repeatable:
                why = f"{why}; the body of the request cannot be sent again"
                remedy = Remedy("proof_refused", why)
            guard.tried += ("proof",)
        elif "token" in guard.tried or not self._is_from_resource(response, guard, asked):
            return None
        else:
            remedy = remedy_for(
                response.status_code,
                challenges_in(response.headers.get_list("WWW-Authenticate")),
                asked,
                shown.token,
                # One that came in its place on the way was asked for just now.
                warm=shown is warm,
                repeatable=repeatable,
            )
            guard.tried += ("token",)
        if remedy is None:
            return None
        where = display_url(response.request.url)
        resource, issuer = asked.resource.identifier, asked.server.name
        self.cache.events.emit(TokenEvent(remedy.event, resource, issuer, where, remedy.detail))
        return remedy if remedy.worth_a_try else None

    def _is_from_resource(self, response: Any, guard: HopGuard, asked: TokenRequest) -> bool:
        # Redirects are followed inside the flow: a refusal may be somebody else's, or an answer to
        # a hop that went without the token.
        try:
            answered = self._behind_a_sidecar(response.request)
        except EgressBlockedError:
            return False
        return answered == asked.resource and not guard.strayed

    def __repr__(self) -> str:
        scopes = "" if self._scopes is None else f", scopes={sorted(self._scopes)}"
        return f"ResourceTokenAuth({self.cache!r}, {self.resources!r}{scopes})"


class OnBehalfOf(ResourceTokenAuth):
    """
    A view of a `ResourceTokenAuth` for one subject: see `ResourceTokenAuth.on_behalf_of`.

    As a context manager it makes all requests with the auth object that are made in its block, and
    in tasks that begin there, on behalf of the subject. What outlives the block is refused: give
    it the view itself, as `auth=`.
    """

    _entered: tuple[Block, Token[Block | None]] | None

    def __enter__(self) -> Self:
        subject = self.cache._subject
        if subject is None or self._entered or self._scopes is not None or self._min_seconds:
            raise ConfigurationError(
                "A block is for one subject and for nothing else: call on_behalf_of() for each "
                "block anew, and leave scoped() and with_min_ttl() to single requests."
            )
        block = Block(subject)
        self._entered = block, self.cache.subjects.block.set(block)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if self._entered is None:
            return
        (block, before), self._entered = self._entered, None
        block.end()
        try:
            self.cache.subjects.block.reset(before)
        except ValueError:
            elsewhere = kind is None
        else:
            elsewhere = False
        if elsewhere:
            raise ResourceTokensError(
                "The block of on_behalf_of() was left in another context than it was entered in, "
                "as happens in a generator that is run in threads, so requests in between may not "
                "have been made on behalf of anybody. Enter it where the requests are made, or "
                "give them auth=auth.on_behalf_of(inbound)."
            )


_BYTES_IN_MEMORY = tuple(library.ByteStream for library in LIBRARIES)
