"""
httpx-auth: an auth class for httpx, with one token cache per process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from httpx_auth import OAuth2, OAuth2ClientCredentials

from benchmarks.peers import Peer, Setting, leeway, once, opened, with_auths

__all__ = ["PEERS"]


@once
def _auths(setting: Setting) -> Mapping[str, OAuth2ClientCredentials]:
    auths = {
        resource: OAuth2ClientCredentials(
            setting.token_endpoint, setting.client_id, setting.client_secret, resource=resource
        )
        for resource in setting.resources
    }
    for auth, token in zip(auths.values(), setting.tokens, strict=False):
        OAuth2.token_cache._add_access_token(auth.state, token, 3600)
    return auths


def _made_by(client: Any) -> Any:
    return lambda setting: with_auths(opened(client, setting), setting, _auths(setting).__getitem__)


PEERS = (
    Peer(
        name="httpx-auth",
        stack="httpx",
        imports="import httpx, httpx_auth",
        blocking=_made_by(httpx.Client),
        # Its auth flow is the blocking one for both: a token request stops the event loop.
        asynchronous=_made_by(httpx.AsyncClient),
        lifetime=leeway(30),
        several=True,
        distribution="httpx-auth",
    ),
)
