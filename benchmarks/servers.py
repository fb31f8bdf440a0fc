"""
An authorization server, an API and a stranger, on loopback, in a process of their own.

Of their own, so that they do not take turns with the client under its GIL. They are as quick as
Python allows: time that they take would make what a client does look smaller. This module imports
the standard library only, so that starting it is quick as well.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self
from urllib.parse import parse_qs

__all__ = ["LET_IN", "Ledger", "Servers", "Setting"]

LET_IN = "filled-in."
"""
How tokens begin that the API lets in though nobody issued them.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """
    What a program knows before its first request.

    Attributes:
        resources: URLs, each of a resource of its own.
        tokens: A token for each, in the cache from the start; or none.
        punctual: Renew at the earliest moment, where a library draws one at random.
        crowd: Whether very many tasks will send at once.
    """

    issuer: str
    token_endpoint: str
    client_id: str
    client_secret: str
    resources: Sequence[str]
    tokens: Sequence[str] = ()
    punctual: bool = False
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class Ledger:
    """
    What the servers have seen.

    Attributes:
        token_requests: Requests that reached the token endpoint.
        resources: How often each resource was asked for; "" where none was named.
        refused: Requests that the API answered with 401.
        strays: Requests with a token that is not for where they arrived, by place.
    """

    token_requests: int
    resources: Mapping[str, int]
    refused: int
    strays: Mapping[str, int]


class Servers:
    """
    The process, and the words to it. Whatever is asked for is in effect when the call returns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.servers"]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        told = self._tell("addresses")
        self._issuer: str = told["issuer"]
        self._token_endpoint: str = told["token_endpoint"]
        self._api: str = told["api"]
        self.elsewhere: str = told["elsewhere"]
        return self

    def __exit__(self, *exc_info: object) -> None:
        # The end of its input ends the child, also where this process dies.
        self._child.communicate(timeout=10)

    def setting(self, *names: str, **more: Any) -> Setting:
        """
        A client of its own, for some resources of the API. The rest is as in `Setting`.
        """
        return Setting(
            self._issuer,
            self._token_endpoint,
            f"orders-worker-{next(_NUMBERS)}",
            "secret",
            [f"{self._api}{name}/" for name in names],
            **more,
        )

    def issue(self, *, lifetime: int = 3600, delay: float = 0.0) -> None:
        """
        Tokens that live this many seconds, after this many seconds.
        """
        self._tell("issue", lifetime=lifetime, delay=delay)

    def close_authorization_server(self) -> None:
        """
        From now on, connections to it are refused.
        """
        self._tell("close")

    def open_authorization_server(self) -> None:
        """
        Listen at the same address again.
        """
        self._tell("open")

    def clear(self) -> None:
        """
        Begin a new ledger.
        """
        self._tell("clear")

    def ledger(self) -> Ledger:
        """
        What was seen since it was begun.
        """
        return Ledger(**self._tell("ledger"))

    def _tell(self, command: str, **arguments: Any) -> dict[str, Any]:
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:
            stdin.write(json.dumps([command, arguments]) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
        return answer


_NUMBERS = count()


@dataclass(slots=True)
class _World:
    """
    What the three servers share.
    """

    lifetime: int = 3600
    delay: float = 0.0
    # The resource and the end of each token, by the clock of this machine.
    tokens: dict[str, tuple[str, float]] = field(default_factory=dict)
    token_requests: int = 0
    resources: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    strays: dict[str, int] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    listening: dict[str, asyncio.Server] = field(default_factory=dict)
    connections: set[asyncio.Transport] = field(default_factory=set)

    # What the parent tells.

    async def addresses(self) -> dict[str, Any]:
        for name in _ANSWERS:
            await self.open(name)
        # An issuer with a path: libraries disagree on the slash at the end of one without.
        return {
            "issuer": f"{self.origin('as')}/as",
            "token_endpoint": f"{self.origin('as')}/as/token",
            "api": f"{self.origin('api')}/",
            "elsewhere": f"{self.origin('elsewhere')}/",
        }

    async def open(self, name: str = "as") -> dict[str, Any]:
        def connection() -> _Connection:
            return _Connection(self, _ANSWERS[name], self.connections if name == "as" else set())

        server = await asyncio.get_running_loop().create_server(
            connection, "127.0.0.1", self.ports.get(name, 0), backlog=2048
        )
        self.listening[name] = server
        self.ports[name] = server.sockets[0].getsockname()[1]
        return {}

    async def close(self) -> dict[str, Any]:
        self.listening["as"].close()
        for connection in tuple(self.connections):
            connection.abort()
        return {}

    async def issue(self, lifetime: int, delay: float) -> dict[str, Any]:
        self.lifetime, self.delay = lifetime, delay
        return {}

    async def clear(self) -> dict[str, Any]:
        self.token_requests = self.refused = 0
        self.resources, self.strays = {}, {}
        return {}

    async def ledger(self) -> dict[str, Any]:
        return {
            "token_requests": self.token_requests,
            "resources": self.resources,
            "refused": self.refused,
            "strays": self.strays,
        }

    # What the clients ask.

    def origin(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def authorization_server(self, path: str, authorization: str, body: bytes) -> _Answer:
        if path == "/as/token":
            return self._token(authorization, body)
        issuer = f"{self.origin('as')}/as"
        if path == "/as/.well-known/openid-configuration":
            # Read by MSAL alone, which takes no http URL, and is made to send by http.
            issuer = issuer.replace("http:", "https:")
        elif path != "/.well-known/oauth-authorization-server/as":
            return _Answer(404)
        metadata = {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/token",
            "authorization_endpoint": f"{issuer}/authorize",
            "response_types_supported": ["code"],
            "grant_types_supported": ["client_credentials"],
        }
        return _Answer(200, json.dumps(metadata))

    def _token(self, authorization: str, body: bytes) -> _Answer:
        self.token_requests += 1
        form = parse_qs(body.decode())
        (resource,) = form.get("resource", [""])
        (scope,) = form.get("scope", [""])
        # MSAL names the resource in the scope.
        resource = resource or scope.removesuffix("/.default")
        self.resources[resource] = self.resources.get(resource, 0) + 1
        if not (authorization.startswith("Basic ") or form.get("client_secret")):
            return _Answer(401, '{"error": "invalid_client"}')
        # As long as a signed one usually is.
        token = secrets.token_urlsafe(600)
        self.tokens[token] = (resource, time.monotonic() + self.lifetime)
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime}
        return _Answer(200, json.dumps(answer), delay=self.delay)

    def api(self, path: str, authorization: str, body: bytes) -> _Answer:
        del body
        name = path.split("/")[1]
        if name == ".well-known":
            metadata = {
                "resource": f"{self.origin('api')}/{path.rsplit('/', 1)[-1]}/",
                "authorization_servers": [f"{self.origin('as')}/as"],
            }
            return _Answer(200, json.dumps(metadata))
        token = authorization.removeprefix("Bearer ")
        known = (path, math.inf) if token.startswith(LET_IN) else ("", 0.0)
        resource, ends_at = self.tokens.get(token, known)
        if ends_at and name == "billing" and not resource.endswith("/billing/"):
            self.strays["next door"] = self.strays.get("next door", 0) + 1
        if time.monotonic() >= ends_at:
            self.refused += 1
            metadata_url = f"{self.origin('api')}/.well-known/oauth-protected-resource/{name}"
            return _Answer(
                401, header=f'WWW-Authenticate: Bearer resource_metadata="{metadata_url}"'
            )
        if path.endswith("/away"):
            return _Answer(302, header=f"Location: {self.origin('elsewhere')}/")
        if path.endswith("/next-door"):
            return _Answer(302, header=f"Location: {self.origin('api')}/billing/v1")
        return _STOCK

    def elsewhere(self, path: str, authorization: str, body: bytes) -> _Answer:
        del path, body
        if authorization.removeprefix("Bearer ") in self.tokens:
            self.strays["elsewhere"] = self.strays.get("elsewhere", 0) + 1
        return _STOCK


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: str = "{}"
    header: str = "Cache-Control: no-store"
    delay: float = 0.0

    def __bytes__(self) -> bytes:
        return (
            f"HTTP/1.1 {self.status} -\r\nContent-Type: application/json\r\n{self.header}\r\n"
            f"Content-Length: {len(self.body)}\r\n\r\n{self.body}"
        ).encode()


_STOCK = _Answer(200, '{"stock": 1234}')
_ANSWERS: Mapping[str, Callable[[_World, str, str, bytes], _Answer]] = {
    "as": _World.authorization_server,
    "api": _World.api,
    "elsewhere": _World.elsewhere,
}


class _Connection(asyncio.Protocol):
    """
    The requests of one connection, each with a `Content-Length` if it has a body.
    """

    def __init__(
        self,
        world: _World,
        answer: Callable[[_World, str, str, bytes], _Answer],
        connections: set[asyncio.Transport],
    ) -> None:
        self._world = world
        self._answer = answer
        self._connections = connections
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            request, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                return
            body, self._received = rest[:length], rest[length:]
            path = request.split(" ")[1]
            answer = self._answer(self._world, path, headers.get("authorization", ""), body)
            if answer.delay:
                loop = asyncio.get_running_loop()
                loop.call_later(answer.delay, self._transport.write, bytes(answer))
            else:
                self._transport.write(bytes(answer))


async def _serve() -> None:
    world, loop, ended = _World(), asyncio.get_running_loop(), asyncio.Event()

    def obey() -> None:
        for line in sys.stdin:
            command, arguments = json.loads(line)
            task = asyncio.run_coroutine_threadsafe(getattr(world, command)(**arguments), loop)
            print(json.dumps(task.result()), flush=True)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=obey, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
