"""
An MCP client whose tokens come from here: two MCP servers, one client, a token for each.

The servers are the MCP SDK's own. Each takes only tokens that were issued for it.

Run it: python examples/mcp_client.py          (needs the packages `mcp` and `httpx2`)
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx2
import jwt
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl

from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth
from resource_tokens.testing import LocalAuthorizationServer


class Verifier:
    """
    The server's side: a token that was issued for another server is none.
    """

    def __init__(self, login: LocalAuthorizationServer, url: str) -> None:
        self._login = login
        self._url = url
        self.seen: list[str] = []

    async def verify_token(self, token: str) -> AccessToken | None:
        self.seen.append(token)
        try:
            claims = self._login.verify(token, audience=self._url)
        except jwt.InvalidTokenError:
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims["scope"].split(),
            expires_at=claims["exp"],
            resource=claims["aud"],
        )


@contextmanager
def mcp_server(name: str, login: LocalAuthorizationServer) -> Iterator[tuple[str, Verifier]]:
    """
    An MCP server on a free port, with one tool.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    verifier = Verifier(login, url)
    server = MCPServer(
        name,
        token_verifier=verifier,
        log_level="ERROR",
        auth=AuthSettings(
            issuer_url=AnyHttpUrl(login.issuer),
            resource_server_url=AnyHttpUrl(url),
            validate_token_resource=True,
        ),
    )

    @server.tool()
    def whoami() -> str:
        return f"this is {name}"

    config = uvicorn.Config(server.streamable_http_app(), log_level="error", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield url, verifier
    finally:
        running.should_exit = True
        thread.join()


async def ask(url: str, http: httpx2.AsyncClient) -> str:
    """
    Call the tool of a server.
    """
    async with Client(streamable_http_client(url, http_client=http)) as client:
        answer: Any = await client.call_tool("whoami", {})
        return str(answer.content[0].text)


async def converse(auth: ResourceTokenAuth, urls: list[str]) -> list[str]:
    async with httpx2.AsyncClient(auth=auth, trust_env=False) as http:
        return [await ask(url, http) for url in urls]


def main() -> int:
    with (
        LocalAuthorizationServer(clients={"agent": "secret"}) as login,
        mcp_server("files", login) as (files, files_saw),
        mcp_server("tickets", login) as (tickets, tickets_saw),
    ):
        # MCP takes the URL of the server for its resource.
        auth = ResourceTokenAuth(
            AuthorizationServer(issuer=login.issuer),
            ClientSecretBasic("agent", "secret"),
            resources=[files, tickets],
        )
        for answer in anyio.run(converse, auth, [files, tickets]):
            print(answer)
    first, second = set(files_saw.seen), set(tickets_saw.seen)
    print(f"token requests: {len(login.token_requests)}")
    print(f"tokens seen by both servers: {len(first & second)}")
    return 0 if (len(first), len(second), len(first & second)) == (1, 1, 0) else 1


if __name__ == "__main__":
    sys.exit(main())
