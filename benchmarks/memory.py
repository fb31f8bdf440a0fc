"""
The memory that a cached token takes besides the token itself.
"""

from __future__ import annotations

import gc
import json
import secrets
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from benchmarks.measure import Effort, Goal, Row, Spread
from resource_tokens import AuthorizationServer, ClientSecretBasic, Resource, TokenCache
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest
from resource_tokens.stores import MemoryTokenStore

__all__ = ["measure"]

GOAL = Goal("median", 1536)


def measure(effort: Effort) -> Iterator[Row]:
    """
    All that a cache keeps: tokens, keys, lifetimes, and its bounded maps of requests and bindings.

    Those maps hold fewer entries than the large case has tokens, and one for each in the small.
    """
    _bytes_per_token(10)
    for tokens in (effort.tokens, effort.tokens // 10):
        yield Row(
            "memory",
            f"{tokens:,} tokens",
            "resource_tokens",
            "bytes",
            Spread.of(_bytes_per_token(tokens) for _ in range(3)),
            GOAL,
        )


def _bytes_per_token(tokens: int) -> float:
    resources = [Resource(f"https://api-{number}.example.com/") for number in range(tokens)]
    cache = TokenCache(
        AuthorizationServer(token_endpoint="https://login.example.com/token"),
        ClientSecretBasic("orders-worker", "secret"),
        store=MemoryTokenStore(maxsize=20_000),
    )
    cache._blocking = _InstantServer()
    gc.collect()
    tracemalloc.start()
    try:
        for resource in resources:
            cache.get(resource)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    themselves = sum(sys.getsizeof(cache.get(resource).reveal()) for resource in resources)
    return (kept - themselves) / tokens


class _InstantServer:
    """
    In the place of the network: a new token for every request.
    """

    blocking = True

    async def send(self, request: HTTPRequest, server: AuthorizationServer) -> HTTPAnswer:
        del request, server
        response = {
            "access_token": secrets.token_urlsafe(600),
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        return HTTPAnswer(200, {}, json.dumps(response).encode())

    async def wait(self, future: Future[Any], limit: float) -> None:
        raise NotImplementedError(f"Nobody waits for {future} here.")
