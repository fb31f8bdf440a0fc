"""
The libraries that are compared, one module each.

A module shows its library at its best: as its documentation says, or better where there is a
choice. To compare with another one, add a module with a `PEERS` and name it in `MODULES`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx

from benchmarks.servers import Setting

__all__ = [
    "CONNECTIONS",
    "STATIC",
    "ByURL",
    "Peer",
    "Setting",
    "all_peers",
    "ask",
    "basic",
    "leeway",
    "once",
    "opened",
    "versions",
    "with_auths",
]

T = TypeVar("T")

MODULES = (
    "static_header",
    "dict_cache",
    "httpx_auth",
    "msal",
    "authlib",
    "mcp",
    "google_auth",
    "azure_core",
    "resource_tokens",
)
STATIC = "static header"
CONNECTIONS = 64
"""
How many connections the clients of requests may keep; httpx and aiohttp keep more by themselves.
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """
    One way to send requests with a token.

    Attributes:
        stack: The HTTP client that sends. Times are compared with a static header in the same one.
        imports: What a program imports to use it.
        blocking: Makes something with `get(url)` and `close()`, for threads.
        asynchronous: Makes something with `async get(url)` and `aclose()`, for asyncio.
        lifetime: How long a token must live to be renewed this many seconds after it was issued.
        several: Whether one cache can hold the tokens of several resources.
        distribution: What to show the version of.
    """

    name: str
    stack: str
    imports: str
    blocking: Callable[[Setting], Any] | None = None
    asynchronous: Callable[[Setting], Any] | None = None
    lifetime: Callable[[float], int] | None = None
    several: bool = False
    distribution: str = ""

    @property
    def is_ours(self) -> bool:
        return self.name == "resource_tokens"

    def __str__(self) -> str:
        return self.name if self.name == self.stack else f"{self.name} ({self.stack})"


def leeway(seconds: int) -> Callable[[float], int]:
    """
    The `lifetime` of those that renew a fixed time before the end, however long a token lives.
    """
    return lambda after: seconds + math.ceil(after)


@cache
def all_peers(modules: Sequence[str] = MODULES) -> Sequence[Peer]:
    """
    Those that are installed here.

    Raises:
        ModuleNotFoundError: If one is not, where `CI` is set: there, none may go missing unseen.
    """
    found: list[Peer] = []
    for name in modules:
        try:
            found += import_module(f"benchmarks.peers.{name}").PEERS
        except ModuleNotFoundError as error:
            if os.environ.get("CI") == "true":
                raise
            message = f"{name} is left out: {error}. See the dependency group `bench`."
            print(message, file=sys.stderr)
    return tuple(found)


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """
    The versions of what is compared.
    """
    return {peer.distribution: version(peer.distribution) for peer in peers if peer.distribution}


def once(make: Callable[[Setting], T]) -> Callable[[Setting], T]:
    """
    Make it once for each setting: the clients of one program share what they can.
    """
    kept: dict[str, T] = {}

    def made(setting: Setting) -> T:
        found = kept.get(setting.client_id)
        if found is None:
            found = make(setting)
            kept.clear()
            kept[setting.client_id] = found
        return found

    return made


def opened(client: Any, setting: Setting, **options: Any) -> Any:
    """
    A client of httpx or httpx2, that follows redirects as those of other libraries do unasked.
    """
    if setting.crowd and client is httpx.AsyncClient:
        options["transport"] = _Unpooled()
    return client(follow_redirects=True, timeout=60, **options)


class _Unpooled(httpx.AsyncBaseTransport):
    """
    A connection for each request, and as many at a time as httpx's pool has.

    That pool looks through all requests that wait, for each that is done: a thousand take minutes.
    """

    def __init__(self) -> None:
        self._tls = httpx.create_ssl_context()
        self._at_a_time = asyncio.Semaphore(100)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with self._at_a_time, httpx.AsyncHTTPTransport(verify=self._tls) as transport:
            response = await transport.handle_async_request(request)
            body = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=body)


class ByURL:
    """
    A sender for each resource, for those that hold one token in each client or auth object.
    """

    def __init__(
        self, senders: Mapping[str, Callable[[str], Any]], close: Callable[[], Any]
    ) -> None:
        self._senders = senders
        self.close = self.aclose = close

    def get(self, url: str) -> Any:
        """
        Send a request to one of the resources.
        """
        return self._senders[url](url)


def with_auths(client: Any, setting: Setting, auth: Callable[[str], Any]) -> Any:
    """
    An httpx or httpx2 client with an auth object for each resource.
    """
    if len(setting.resources) == 1:
        client.auth = auth(setting.resources[0])
        return client
    senders = {url: partial(client.get, auth=auth(url)) for url in setting.resources}
    return ByURL(senders, getattr(client, "aclose", None) or client.close)


def basic(setting: Setting) -> str:
    """
    The header that authenticates the client (RFC 6749 2.3.1; nothing in it needs to be encoded).
    """
    pair = f"{setting.client_id}:{setting.client_secret}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def ask(setting: Setting, resource: str) -> str:
    """
    A token for a resource, for those that get theirs from somewhere else.
    """
    form = {"grant_type": "client_credentials", "resource": resource}
    request = urllib.request.Request(
        setting.token_endpoint, urlencode(form).encode(), {"Authorization": basic(setting)}
    )
    with urllib.request.urlopen(request) as answer:
        token: str = json.load(answer)["access_token"]
    return token
