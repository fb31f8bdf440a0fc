"""
Point by point: what the conformance kit finds with other libraries, and with this one.

Each factory shows its library at its best: as its documentation says, or better where there is a
choice. To compare another one, add a factory and name it in `FACTORIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import httpx2
from authlib.integrations.httpx_client import (  # type: ignore[import-untyped]
    AsyncOAuth2Client,
    OAuth2Client,
)
from httpx_auth import OAuth2ClientCredentials
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider

from benchmarks.peers.authlib import EXPIRED
from benchmarks.peers.mcp import InMemory
from resource_tokens.conformance import Setting, UnsupportedError, resource_tokens_factory

__all__ = ["FACTORIES", "of_authlib", "of_httpx_auth", "of_mcp"]


def of_httpx_auth(setting: Setting) -> Any:
    """
    httpx-auth: an auth class for httpx. Its auth flow is the blocking one for all colours.
    """
    if setting.library is not httpx:
        raise UnsupportedError("httpx-auth is for httpx")
    auths = {
        destination: OAuth2ClientCredentials(
            setting.token_endpoint, setting.client_id, setting.client_secret, resource=resource
        )
        for destination, resource in setting.resources.items()
    }
    return {destination: setting.client(auth=auth) for destination, auth in auths.items()}


def of_authlib(setting: Setting) -> Any:
    """
    Authlib: a client of httpx2 that holds one token and renews it.

    It does not fetch the first one by itself, so that it starts with one that has expired; and it
    takes `resource` for each token request, so that a subclass gives it.
    """
    if setting.library is not httpx2:
        raise UnsupportedError("where both are installed, Authlib is for httpx2")
    base = OAuth2Client if setting.colour == "sync" else AsyncOAuth2Client

    class Client(base):  # type: ignore[misc, valid-type]
        resource = ""

        def fetch_token(self, url: Any = None, **kwargs: Any) -> Any:
            return super().fetch_token(url, resource=self.resource, **kwargs)

    def client(resource: str) -> Any:
        made = Client(
            setting.client_id,
            setting.client_secret,
            token_endpoint=setting.token_endpoint,
            grant_type="client_credentials",
            token=EXPIRED,
            **setting.options,
        )
        made.resource = resource
        return made

    return {destination: client(resource) for destination, resource in setting.resources.items()}


def of_mcp(setting: Setting) -> Any:
    """
    The MCP SDK: an auth class for httpx2's async client, which asks for a token when it is refused.
    """
    if setting.library is not httpx2 or setting.colour == "sync":
        raise UnsupportedError("the MCP SDK is for the async client of httpx2")

    def client(resource: str) -> Any:
        return setting.client(
            auth=ClientCredentialsOAuthProvider(
                resource,
                InMemory(),
                setting.client_id,
                setting.client_secret,
                issuer=setting.issuer,
            )
        )

    return {destination: client(resource) for destination, resource in setting.resources.items()}


FACTORIES: Mapping[str, Callable[[Setting], Any]] = {
    "resource-tokens": resource_tokens_factory,
    "httpx-auth": of_httpx_auth,
    "Authlib": of_authlib,
    "mcp": of_mcp,
}
