"""
A websocket: the token of its resource in the handshake, asked for anew with each connection.

The library that connects is not httpx, so that no guard looks at its hops: here it follows no
redirects.

Run it: python examples/websocket.py          (needs the package `websockets`)
"""

from __future__ import annotations

import http
import sys
from typing import Any

import anyio
import jwt
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth
from resource_tokens.testing import LocalAuthorizationServer

TICKER = "urn:example:ticker"


class WithoutRedirects(connect):
    """
    A connection to where it was asked to go, and to nowhere else.
    """

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def listen(auth: ResourceTokenAuth, url: str) -> str:
    # The same host and port: what `auth` maps is the http form of the URL.
    token = await auth.atoken_for(url.replace("ws", "http", 1))
    headers = {"Authorization": token.authorization}
    async with WithoutRedirects(url, additional_headers=headers, proxy=None) as connection:
        return str(await connection.recv())


async def converse(login: LocalAuthorizationServer) -> int:
    seen: list[str] = []

    def check(connection: ServerConnection, request: Request) -> Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        seen.append(token)
        if request.path == "/moved":
            response = connection.respond(http.HTTPStatus.FOUND, "")
            response.headers["Location"] = "/v1"
            return response
        try:
            login.verify(token, audience=TICKER)
        except jwt.InvalidTokenError:
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "")
        return None

    async def tick(connection: Any) -> None:
        await connection.send("a tick")

    async with serve(tick, "127.0.0.1", 0, process_request=check) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        auth = ResourceTokenAuth(
            AuthorizationServer(issuer=login.issuer),
            ClientSecretBasic("orders-worker", "secret"),
            resources={f"http://127.0.0.1:{port}/": TICKER},
        )
        for _ in range(2):
            print(await listen(auth, f"ws://127.0.0.1:{port}/v1"))
        try:
            await listen(auth, f"ws://127.0.0.1:{port}/moved")
        except InvalidStatus as error:
            print(f"a redirect is not followed: {error.response.status_code}")
    print(f"connections: {len(seen)}, token requests: {len(login.token_requests)}")
    return 0 if len(set(seen)) == 1 else 1


def main() -> int:
    with LocalAuthorizationServer(clients={"orders-worker": "secret"}) as login:
        return anyio.run(converse, login)


if __name__ == "__main__":
    sys.exit(main())
