"""
What people write by hand: a dict, a margin, and the HTTP client's own way to send a token request.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import httpx2

from benchmarks.peers import Peer, Setting, basic, leeway, opened, with_auths

__all__ = ["PEERS"]

MARGIN = 30
Flow = Generator[httpx2.Request, httpx2.Response, None]
Cache = dict[str, tuple[str, float]]


class CachedTokenAuth(httpx2.Auth):
    requires_response_body = True

    def __init__(self, cache: Cache, setting: Setting, resource: str) -> None:
        self._cache = cache
        self._setting = setting
        self._resource = resource

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        token, ends_at = self._cache.get(self._resource, ("", 0.0))
        if time.monotonic() > ends_at - MARGIN:
            form = {"grant_type": "client_credentials", "resource": self._resource}
            headers = {"Authorization": basic(self._setting)}
            url = self._setting.token_endpoint
            answer = yield httpx2.Request("POST", url, data=form, headers=headers)
            answer.raise_for_status()
            token, expires_in = answer.json()["access_token"], answer.json()["expires_in"]
            self._cache[self._resource] = token, time.monotonic() + expires_in
        request.headers["Authorization"] = f"Bearer {token}"
        yield request


def _made_by(client: Any) -> Any:
    def make(setting: Setting) -> Any:
        ends_at = time.monotonic() + 3600
        filled = zip(setting.resources, setting.tokens, strict=False)
        cache = {resource: (token, ends_at) for resource, token in filled}
        return with_auths(
            opened(client, setting), setting, lambda url: CachedTokenAuth(cache, setting, url)
        )

    return make


PEERS = (
    Peer(
        name="dict, by hand",
        stack="httpx2",
        imports="import httpx2",
        blocking=_made_by(httpx2.Client),
        asynchronous=_made_by(httpx2.AsyncClient),
        lifetime=leeway(MARGIN),
        several=True,
    ),
)
