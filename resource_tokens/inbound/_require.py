"""
The requirement: which tokens a request may come in with, and how frameworks ask for it.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from resource_tokens._io import IO, AsyncIO, BlockingIO, run_to_end
from resource_tokens.cache import steady_clock
from resource_tokens.events import Events, TokenEvent
from resource_tokens.exceptions import ConfigurationError, TokenRefusedError
from resource_tokens.inbound._arguments import (
    checked_algorithms,
    checked_audience,
    checked_client_auth,
    checked_nonce_secret,
    checked_server,
    checked_skew,
    checked_typ,
)
from resource_tokens.inbound._asgi import (
    ASGIApp,
    DependencySignature,
    Scope,
    TokenMiddleware,
    http_exception,
    parts_of,
)
from resource_tokens.inbound._check import Check
from resource_tokens.inbound._described import Described, checked_url, described, external
from resource_tokens.inbound._introspection import Introspection
from resource_tokens.inbound._issuer import Issuer
from resource_tokens.inbound._proofs import Proofs
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.inbound_tokens import Expected, InboundToken, Refusal
from resource_tokens.oauth.messages import quoted
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.presented import Headers, Presented, presented
from resource_tokens.oauth.published_keys import ALGORITHMS
from resource_tokens.oauth.refused import refused
from resource_tokens.oauth.sources import TextSource
from resource_tokens.resources import parse_scopes

if TYPE_CHECKING:
    from fastapi.security import SecurityScopes
    from starlette.requests import HTTPConnection

__all__ = ["RequireToken"]


class RequireToken:
    """
    Lets a request in only with an access token that one issuer has issued for this API.

    It is a dependency of FastAPI, `Depends(require)` or `Security(require, scopes=[...])`; in a
    Starlette endpoint, `await
    require(request)` does the same. `middleware` puts it around any ASGI application, `verify` and
    `averify` are for everything else. One object serves threads, asyncio and trio at the same time.

    A token that is bound to a key has to come with a proof of that key: a DPoP proof (RFC 9449), or
    a connection with the certificate (RFC 8705). Tokens are taken from the `Authorization` header
    and from nowhere else.

    Args:
        issuer: Who issues the tokens: an issuer identifier, or an `AuthorizationServer` that also
            says how to reach it.
        audience: What this API is called there. It has to be in the `aud` of a token, to the
            letter.
        scopes: Scopes that every token needs.
        resource: The https URL that the API is known by; by default the audience, if that is one.
            It names the document of `metadata`.
        base_url: What goes before the path of a request, as this server sees it, to make the URL
            that the client has asked for. By default the origin of `resource`. Behind a gateway
            that cuts off a part of the path, that part belongs here. DPoP proofs are for URLs: what
            the client says in `Host` is not believed.
        typ: `"at+jwt"` for JWTs by RFC 9068. `"JWT"` takes those of servers that write `JWT` or
            nothing there too; then an ID token whose `aud` is this audience passes for an access
            token.
        algorithms: The signatures that count. All that can be named are asymmetric.
        jwks_uri: Where the issuer publishes its keys, if that should not be discovered.
        client_auth: How this API authenticates to the issuer to ask about opaque tokens (RFC 7662).
            Without it, only JWTs are taken.
        introspection_endpoint: Where to ask, if that should not be discovered.
        certificate_header: The header in which a gateway passes the client certificate on: as RFC
            9440 has it, or as URL-encoded PEM. The gateway has to remove it from what clients send.
            By default the certificate comes from the server itself (the TLS extension of ASGI).
        nonce_secret: Makes clients put a nonce of this API into their DPoP proofs. A text of 32
            characters or more that all processes of the API share.
        skew: How far the issuer's clock may be from this machine's.
        on_event: Called with each `TokenEvent`, in the thread or task where it happens.
        clock: Seconds that never jump, for how long things are kept.
        wall_clock: Seconds since the epoch, for the times in tokens.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    # What FastAPI reads of a dependency: it hands in the connection by the type of the parameter.
    __signature__ = DependencySignature()

    def __init__(
        self,
        *,
        issuer: str | AuthorizationServer,
        audience: str,
        scopes: Iterable[str] = (),
        resource: str | None = None,
        base_url: str | None = None,
        typ: Literal["at+jwt", "JWT"] = "at+jwt",
        algorithms: Collection[str] = ALGORITHMS,
        jwks_uri: str | None = None,
        client_auth: ClientAuth | None = None,
        introspection_endpoint: str | None = None,
        certificate_header: str | None = None,
        nonce_secret: TextSource | None = None,
        skew: timedelta = timedelta(seconds=30),
        on_event: Callable[[TokenEvent], object] | None = None,
        clock: Callable[[], float] = steady_clock,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        secret = checked_nonce_secret(nonce_secret)
        del nonce_secret
        server, name = checked_server(issuer)
        asking = checked_client_auth(client_auth)
        seconds = checked_skew(skew)
        for argument, url in (
            ("jwks_uri", jwks_uri),
            ("introspection_endpoint", introspection_endpoint),
        ):
            if url is not None:
                checked_url(argument, url, secure=server.uds is None)
        self._known = described(resource, checked_audience(audience))
        self._scopes = parse_scopes(scopes)
        self._certificate_header = (certificate_header or "").lower()
        self._events = Events(on_event)
        self._blocking_io, self._async_io = BlockingIO(), AsyncIO()
        kept = Issuer(
            server,
            audience,
            jwks_uri=jwks_uri,
            discovers=jwks_uri is None or (asking is not None and introspection_endpoint is None),
            keyless=asking is not None,
            algorithms=checked_algorithms(algorithms),
            typ=checked_typ(typ),
            events=self._events,
            clock=clock,
            ahead=self._blocking_io,
        )
        introspection = None
        if asking is not None:
            introspection = Introspection(
                kept,
                asking,
                introspection_endpoint,
                audience,
                clock=clock,
                wall_clock=wall_clock,
            )
        proofs = Proofs(external(base_url, self._known), secret, audience, seconds, clock)
        self._check = Check(
            Expected(name, audience, seconds), kept, introspection, proofs, wall_clock
        )
        self._check.scopes |= self._scopes

    def with_scopes(self, *scopes: str) -> RequireToken:
        """
        A light view that needs these scopes as well. It shares everything else.
        """
        if not scopes:
            return self
        view = copy.copy(self)
        view._scopes |= parse_scopes(" ".join(scopes))  # noqa: SLF001 - it is one of ours
        self._check.scopes |= view._scopes  # noqa: SLF001
        return view

    def verify(
        self,
        headers: Headers,
        method: str,
        url: str,
        *,
        client_certificate: str | bytes | None = None,
    ) -> InboundToken:
        """
        The token of a request, for frameworks that block, such as Flask and Django.

        Args:
            headers: The headers of the request: a mapping, or pairs.
            method: Its method.
            url: Its URL, or path and query, as on the wire. Only the path counts.
            client_certificate: The client certificate of the connection, PEM or DER.

        Raises:
            TokenRefusedError: If it is not to be let in.
        """
        request = self._presented(headers, method, url, client_certificate)
        del headers, url
        return run_to_end(self._let_in(request, self._blocking_io))

    async def averify(
        self,
        headers: Headers,
        method: str,
        url: str,
        *,
        client_certificate: str | bytes | None = None,
    ) -> InboundToken:
        """
        The same for async frameworks, on asyncio and trio.

        Raises:
            TokenRefusedError: If it is not to be let in.
        """
        request = self._presented(headers, method, url, client_certificate)
        del headers, url
        return await self._let_in(request, self._async_io)

    async def __call__(
        self, connection: HTTPConnection, security_scopes: SecurityScopes | None = None
    ) -> InboundToken:
        """
        The token of a request of Starlette or FastAPI.

        Args:
            connection: The request.
            security_scopes: Scopes that it needs as well, from FastAPI.

        Raises:
            starlette.exceptions.HTTPException: If it is not to be let in.
        """
        more = () if security_scopes is None else security_scopes.scopes
        try:
            return await self.with_scopes(*more)._token_of(connection.scope)  # noqa: SLF001
        except TokenRefusedError as error:
            failure = error
        raise http_exception(failure)

    def middleware(self, app: ASGIApp, public: Collection[str] = ()) -> ASGIApp:
        """
        An ASGI application that lets requests through to `app` only with a token, and serves the
        metadata. The token is in `scope["state"]["inbound_token"]`, which is
        `request.state.inbound_token` in Starlette.

        Args:
            app: The application behind it.
            public: Paths that need no token, each to the letter.
        """
        if isinstance(public, str):
            raise ConfigurationError(f"public={public!r} is one string. Give a list of paths.")

        def document(path: str) -> dict[str, Any] | None:
            return self.metadata if self._known is not None and path == self._known.path else None

        return TokenMiddleware(app, self._token_of, frozenset(public), document)

    @property
    def metadata(self) -> dict[str, Any]:
        """
        What this API says of itself (RFC 9728 2), to be served as JSON at `metadata_path`.

        Raises:
            ConfigurationError: If there is no URL that it is known by.
        """
        return self._described().document(self._check.expected.issuer, self._check.scopes)

    @property
    def metadata_path(self) -> str:
        """
        Where the metadata belongs, on the host of `resource` (RFC 9728 3.1).

        Raises:
            ConfigurationError: If there is no URL that this API is known by.
        """
        return self._described().path

    def _described(self) -> Described:
        if self._known is None:
            raise ConfigurationError(
                f"The audience {self._check.expected.audience!r} is no https URL, so there is no "
                "place for metadata. Give RequireToken(resource='https://...')."
            )
        return self._known

    def _presented(
        self, headers: Headers, method: str, url: str, certificate: str | bytes | None
    ) -> Presented:
        target = url if url.startswith("/") else f"/{_BEFORE_PATH.sub('', url).removeprefix('/')}"
        return presented(headers, method, target, certificate, self._certificate_header)

    async def _token_of(self, scope: Scope) -> InboundToken:
        # What a request presents is looked at once, however often it is asked for: a proof is
        # good once. A copy of the scope with other headers presents something else.
        known: _Known = scope.setdefault("resource_tokens.inbound", {})
        request = self._presented(*parts_of(scope))
        return await self._let_in(request, self._async_io, known)

    async def _let_in(
        self, request: Presented, io: IO, known: _Known | None = None
    ) -> InboundToken:
        try:
            token = None if known is None else known.get((self._check, request))
            if token is None:
                token = await self._check.token(request, io)
            if known is not None:
                known[self._check, request] = token
            missing = self._scopes - token.scopes
            if missing:
                raise Refusal(
                    f"The token lacks the scopes {' '.join(sorted(missing))}.",
                    "insufficient_scope",
                    403,
                )
        except Refusal as error:
            refusal = error
        else:
            return token
        raise self._refused(refusal, request)

    def _refused(self, refusal: Refusal, request: Presented) -> TokenRefusedError:
        check = self._check
        if refusal.error or refusal.status != 401:
            self._events.emit(
                TokenEvent(
                    "inbound_rejected",
                    check.expected.audience,
                    check.expected.issuer,
                    quoted((check.proofs.base_url or "") + request.path),
                    f"{refusal}{refusal.detail and f' ({refusal.detail})'}",
                )
            )
        return refused(
            refusal,
            request,
            scopes=self._scopes,
            resource_metadata=None if self._known is None else self._known.url,
            proof_algorithms=() if check.proofs.base_url is None else ALGORITHMS,
            nonce=check.proofs.nonce(check.wall_clock()),
        )

    def __repr__(self) -> str:
        expected = self._check.expected
        return f"RequireToken(issuer={expected.issuer!r}, audience={expected.audience!r})"


_Known = dict[tuple[Check, Presented], InboundToken]
_BEFORE_PATH = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
