"""
Authlib: an httpx2 client that holds one token and renews it.

It does not fetch the first one by itself, so that it starts with one that has expired.
"""

from __future__ import annotations

from typing import Any

import httpx2
from authlib.integrations.httpx_client import (  # type: ignore[import-untyped]
    AsyncOAuth2Client,
    OAuth2Client,
)

from benchmarks.peers import ByURL, Peer, Setting, leeway, opened

__all__ = ["EXPIRED", "PEERS"]


def _made_by(client: Any, transport: Any) -> Any:
    def make(setting: Setting) -> Any:
        # Made once: each transport loads the certificates, which takes milliseconds and memory.
        shared = transport()
        clients = [
            opened(
                client,
                setting,
                client_id=setting.client_id,
                client_secret=setting.client_secret,
                token_endpoint=setting.token_endpoint,
                grant_type="client_credentials",
                token=EXPIRED,
                transport=shared,
            )
            for _ in setting.resources
        ]
        if len(clients) == 1:
            return clients[0]
        senders = dict(zip(setting.resources, (client.get for client in clients), strict=True))
        return ByURL(senders, getattr(shared, "aclose", None) or shared.close)

    return make


EXPIRED = {"access_token": "none", "token_type": "Bearer", "expires_at": 1}

PEERS = (
    Peer(
        name="Authlib",
        stack="httpx2",
        imports="from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client",
        blocking=_made_by(OAuth2Client, httpx2.HTTPTransport),
        asynchronous=_made_by(AsyncOAuth2Client, httpx2.AsyncHTTPTransport),
        lifetime=leeway(60),
        distribution="Authlib",
    ),
)
