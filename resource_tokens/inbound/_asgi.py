"""
ASGI, and the frameworks on it: Starlette and FastAPI.

Starlette is imported where its type or its exception is asked for. By then it is there.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from resource_tokens.exceptions import TokenRefusedError
from resource_tokens.oauth.inbound_tokens import InboundToken

__all__ = [
    "ASGIApp",
    "DependencySignature",
    "Scope",
    "TokenMiddleware",
    "http_exception",
    "parts_of",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Parts = tuple[Iterable[tuple[bytes, bytes]], str, str, str | None]


def parts_of(scope: Scope) -> Parts:
    """
    Headers, method, target and client certificate of a request.
    """
    # ASGI: `raw_path` is optional, `path` is decoded. Behind `root_path` both have it.
    path = scope.get("raw_path") or quote(scope["path"], _PLAIN).encode()
    target = path.partition(b"?")[0] + b"?" + scope.get("query_string", b"")
    # The TLS extension of ASGI: PEM, the client's own first.
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain") or [None]
    headers = scope.get("headers", ())
    return headers, scope.get("method", "GET"), target.decode("latin-1"), chain[0]


class TokenMiddleware:
    """
    Lets requests through with a token only, and serves the metadata.

    Args:
        app: What is behind it.
        token_of: Finds the token of a request.
        public: Paths that need none.
        metadata: The metadata by its path.
    """

    def __init__(
        self,
        app: ASGIApp,
        token_of: Callable[[Scope], Awaitable[InboundToken]],
        public: Collection[str],
        metadata: Callable[[str], dict[str, Any] | None],
    ) -> None:
        self._app = app
        self._token_of = token_of
        self._public = public
        self._metadata = metadata

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one request, or let it through.
        """
        kind = scope["type"]
        if kind == "lifespan" or scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        document = self._metadata(scope["path"]) if kind == "http" else None
        if document is not None and scope["method"] in {"GET", "HEAD"}:
            headers = {"Cache-Control": "max-age=3600"}
            await _answer(send, "http.response", 200, headers, document)
            return
        try:
            token = await self._token_of(scope)
        except TokenRefusedError as error:
            refused = error
        else:
            state = {**scope.get("state", {}), "inbound_token": token}
            await self._app({**scope, "state": state}, receive, send)
            return
        await _refuse(scope, receive, send, refused)


async def _refuse(scope: Scope, receive: Receive, send: Send, refused: TokenRefusedError) -> None:
    members = {"error": refused.error, "error_description": str(refused)}
    if scope["type"] == "http":
        await _answer(send, "http.response", refused.status, refused.headers, members)
        return
    await receive()
    if "websocket.http.response" in scope.get("extensions", {}):
        await _answer(send, "websocket.http.response", refused.status, refused.headers, members)
        return
    # ASGI: closed before it is accepted, a websocket is answered with 403.
    await send({"type": "websocket.close", "code": 1008})


async def _answer(
    send: Send,
    kind: str,
    status: int,
    headers: dict[str, str],
    members: dict[str, Any],
) -> None:
    body = json.dumps({name: value for name, value in members.items() if value}).encode()
    own = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers | own).items()]
    await send({"type": f"{kind}.start", "status": status, "headers": pairs})
    await send({"type": f"{kind}.body", "body": body})


class DependencySignature:
    """
    The signature by which FastAPI hands its connection to a dependency, and the scopes of
    `Security(require, scopes=[...])`: of the objects of a class, and not of the class itself.
    """

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is None:
            raise AttributeError("__signature__")
        try:
            from starlette.requests import HTTPConnection
        except ModuleNotFoundError:
            # Then it is that of `__call__`.
            raise AttributeError("__signature__") from None
        wanted: dict[str, Any] = {"connection": HTTPConnection}
        with suppress(ModuleNotFoundError):
            from fastapi.security import SecurityScopes

            wanted["security_scopes"] = SecurityScopes
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature(
            [inspect.Parameter(name, kind, annotation=found) for name, found in wanted.items()]
        )


def http_exception(refused: TokenRefusedError) -> Exception:
    """
    What Starlette and FastAPI answer with.
    """
    from starlette.exceptions import HTTPException

    return HTTPException(refused.status, str(refused), refused.headers)


# RFC 3986 3.3: what a path may hold as it is.
_PLAIN = "/:@!$&'()*+,;=~"
