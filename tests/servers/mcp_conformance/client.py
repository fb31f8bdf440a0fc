"""
The client that the conformance suite puts through a scenario: the MCP SDK's, on an
`httpx2.AsyncClient` with the plugin. All about tokens is up to the plugin.

    python client.py <URL of the MCP server>

What its operator would have written into a configuration comes in the environment.
"""

from __future__ import annotations

import hashlib
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
    ClientCredentials,
    ClientSecretBasic,
    PrivateKeyJwt,
    PublicClient,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
)
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.grants import Grant
from resource_tokens.tokens import Secret

CONTEXT: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
VERSION = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
# Who gave this client its credentials: its operator knows, and a test can say otherwise.
ISSUER = os.environ.get("CLIENT_ISSUER") or os.environ["MCP_CONFORMANCE_ORIGINS"].split()[0]


class WorkloadToken(Grant):
    """
    A token that the platform of a workload has signed for it (RFC 7523 2.1).
    """

    grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer"

    def __init__(self, token: Secret) -> None:
        self._token = token

    def parameters(self) -> tuple[tuple[str, str | Secret], ...]:
        return (("assertion", self._token),)

    def fingerprint(self) -> bytes:
        return hashlib.sha256(self._token.reveal().encode()).digest()


def grant() -> Grant:
    # Which of several tokens the workload has, a test can choose.
    name = os.environ.get("WORKLOAD_TOKEN", "valid_jwt")
    return WorkloadToken(Secret(CONTEXT[name])) if name in CONTEXT else ClientCredentials()


def client_auth() -> ClientAuth:
    client_id = CONTEXT.get("client_id", "some client")
    if "valid_jwt" in CONTEXT:
        return PublicClient(client_id)
    if "private_key_pem" in CONTEXT:
        return PrivateKeyJwt(
            client_id, CONTEXT["private_key_pem"], algorithm=CONTEXT["signing_algorithm"]
        )
    return ClientSecretBasic(client_id, CONTEXT.get("client_secret", "some secret"))


def auth(server_url: str) -> ResourceTokenAuth:
    # The suite's tokens are opaque, and its token responses do not say what they are for.
    server = Resource(server_url, verify_audience="off")
    return ResourceTokenAuth(
        AuthorizationServer(issuer=ISSUER),
        client_auth(),
        ResourceMap({server_url: server}, discover=[ISSUER]),
        grant=grant(),
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
