"""
MSAL: a confidential client gets the tokens and keeps them; httpx2 sends them.

It is asked for the token before each request, as its documentation shows. It has no async
interface, so that asyncio asks in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2
import msal  # type: ignore[import-untyped]
import requests

from benchmarks.peers import Peer, Setting, leeway, once, opened, with_auths

__all__ = ["PEERS"]


class MSALAuth(httpx2.Auth):
    def __init__(self, application: Any, resource: str) -> None:
        self._application = application
        self._scopes = [f"{resource}/.default"]

    def sync_auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = self._authorization()
        yield request

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        request.headers["Authorization"] = await asyncio.to_thread(self._authorization)
        yield request

    def _authorization(self) -> str:
        result = self._application.acquire_token_for_client(self._scopes)
        return f"Bearer {result['access_token']}"


class _PlainHTTP(requests.Session):
    """
    MSAL takes https URLs only. What stands on loopback speaks http, to the others as well.
    """

    def request(self, method: str, url: Any, *args: Any, **kwargs: Any) -> Any:
        plain = url.replace("https://127.0.0.1", "http://127.0.0.1", 1)
        return super().request(method, plain, *args, **kwargs)


@once
def _application(setting: Setting) -> Any:
    application = msal.ConfidentialClientApplication(
        setting.client_id,
        client_credential=setting.client_secret,
        oidc_authority=setting.issuer.replace("http:", "https:"),
        http_client=_PlainHTTP(),
    )
    for resource, token in zip(setting.resources, setting.tokens, strict=False):
        application.token_cache.add(
            {
                "client_id": setting.client_id,
                "scope": [f"{resource}/.default"],
                "token_endpoint": setting.token_endpoint.replace("http:", "https:"),
                "response": {"access_token": token, "expires_in": 3600},
            }
        )
    return application


def _made_by(client: Any) -> Any:
    def make(setting: Setting) -> Any:
        application = _application(setting)
        return with_auths(opened(client, setting), setting, lambda url: MSALAuth(application, url))

    return make


PEERS = (
    Peer(
        name="MSAL",
        stack="httpx2",
        imports="import httpx2, msal",
        blocking=_made_by(httpx2.Client),
        asynchronous=_made_by(httpx2.AsyncClient),
        lifetime=leeway(300),
        several=True,
        distribution="msal",
    ),
)
