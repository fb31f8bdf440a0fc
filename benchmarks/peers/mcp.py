"""
The MCP SDK: an auth class for httpx2's async client, with one token.

It asks for a token when the server refuses a request, and finds out from the server whom to ask.
"""

from __future__ import annotations

from typing import Any

import httpx2
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from benchmarks.peers import Peer, Setting, leeway, opened, with_auths

__all__ = ["PEERS", "InMemory"]


class InMemory:
    """
    The storage that the documentation shows.
    """

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


def _client(setting: Setting) -> Any:
    def auth(resource: str) -> ClientCredentialsOAuthProvider:
        return ClientCredentialsOAuthProvider(
            resource,
            InMemory(),
            setting.client_id,
            setting.client_secret,
            issuer=setting.issuer,
        )

    return with_auths(opened(httpx2.AsyncClient, setting), setting, auth)


PEERS = (
    Peer(
        name="MCP SDK",
        stack="httpx2",
        imports=(
            "import httpx2; from mcp.client.auth.extensions.client_credentials import "
            "ClientCredentialsOAuthProvider"
        ),
        asynchronous=_client,
        lifetime=leeway(0),
        distribution="mcp",
    ),
)
