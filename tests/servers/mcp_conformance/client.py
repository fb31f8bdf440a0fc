"""
The client that the conformance suite puts through a scenario: the MCP SDK's, on an
`httpx2.AsyncClient` with the plugin. All about tokens is up to the plugin.

    python client.py <URL of the MCP server>

What its operator would have written into a configuration comes in the environment.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    PrivateKeyJwt,
    ResourceTokenAuth,
)

CONTEXT: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
VERSION = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
ISSUER = os.environ["MCP_CONFORMANCE_ORIGINS"].split()[0]


def client_auth() -> PrivateKeyJwt | ClientSecretBasic:
    client_id = CONTEXT.get("client_id", "some client")
    if "private_key_pem" in CONTEXT:
        return PrivateKeyJwt(
            client_id, CONTEXT["private_key_pem"], algorithm=CONTEXT["signing_algorithm"]
        )
    return ClientSecretBasic(client_id, CONTEXT.get("client_secret", "some secret"))


def auth(server_url: str) -> ResourceTokenAuth:
    return ResourceTokenAuth(
        AuthorizationServer(issuer=ISSUER), client_auth(), resources={server_url: server_url}
    )


async def main(server_url: str) -> None:
    mode = "legacy" if VERSION < "2026" else VERSION
    async with httpx2.AsyncClient(auth=auth(server_url), trust_env=False) as http:
        transport: Any = streamable_http_client(server_url, http_client=http)
        async with Client(transport, mode=mode) as client:
            tools = (await client.list_tools()).tools
            for tool in tools:
                await client.call_tool(tool.name, {})


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
