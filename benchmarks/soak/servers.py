"""
An authorization server with bad days, and an API that writes down what it was shown.

Each runs in a process of its own, on the standard library alone. What is good for how long is
judged by the clock of the machine, which all its processes share.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from urllib.parse import parse_qs

__all__ = ["LIFETIME", "RESOURCES", "serve_api", "serve_tokens"]

LIFETIME = 2
RESOURCES = ("orders", "billing")
FAILING = 0.3


@dataclass
class Answer:
    """
    What goes back; `None` for the body hangs up instead.
    """

    status: int
    body: str | None = "{}"


Answering = Callable[[str, Mapping[str, str], str], Answer]
"""
What to say to a path, headers with lower-case names, and a body.
"""


def serve_tokens(parent: Connection, seed: int) -> None:
    """
    Issue tokens, or fail, until the parent says "stop". "down" and "up" close and open the port.
    """
    chance, ledger = random.Random(seed), Counter[str]()

    def answer(path: str, headers: Mapping[str, str], body: str) -> Answer:
        del path
        ledger["token requests"] += 1
        if not headers.get("authorization", "").startswith("Basic "):
            return Answer(401, '{"error": "invalid_client"}')
        if chance.random() < FAILING:
            ledger["failed"] += 1
            failures = [
                Answer(503, '{"error": "temporarily_unavailable"}'),
                Answer(500, "<html>Traceback (most recent call last)</html>"),
                Answer(200, None),
            ]
            return chance.choice(failures)
        (resource,) = parse_qs(body)["resource"]
        ends_at = time.monotonic() + LIFETIME
        token = f"{resource.rpartition('/')[2]}~{ends_at:.6f}~{ledger['token requests']}"
        members = {"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME}
        return Answer(200, json.dumps(members))

    asyncio.run(_serve(parent, answer, ledger))


def serve_api(parent: Connection) -> None:
    """
    Let in whoever shows a token for the path that has not expired, until the parent says "stop".

    The client says when it has sent a request. On a busy machine one can be on its way, or wait to
    be read, for longer than what is left of a token; that is "overtaken", and not "expired".
    """
    ledger = Counter[str]()

    def answer(path: str, headers: Mapping[str, str], body: str) -> Answer:
        del body
        token = headers.get("authorization", "").removeprefix("Bearer ")
        resource, ends_at, _ = f"{token}~~".split("~", 2)
        if resource != path.split("/")[1]:
            verdict = "not for here"
        elif float(headers["x-sent-at"]) >= float(ends_at):
            verdict = "expired"
        elif time.monotonic() >= float(ends_at):
            verdict = "overtaken"
        else:
            verdict = "let in"
        ledger[verdict] += 1
        return Answer(200 if verdict == "let in" else 401)

    asyncio.run(_serve(parent, answer, ledger))


async def _serve(parent: Connection, answer: Answering, ledger: Counter[str]) -> None:
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Transport] = set()
    port = 0

    async def listen() -> asyncio.Server:
        return await loop.create_server(
            lambda: _Exchange(answer, connections), "127.0.0.1", port, backlog=1024
        )

    server = await listen()
    port = server.sockets[0].getsockname()[1]
    parent.send(port)
    while (word := await loop.run_in_executor(None, parent.recv)) != "stop":
        if word == "down":
            server.close()
            for connection in tuple(connections):
                connection.abort()
        elif word == "up":
            server = await listen()
        parent.send(dict(ledger))
    server.close()


class _Exchange(asyncio.Protocol):
    """
    The requests of one connection.
    """

    def __init__(self, answer: Answering, connections: set[asyncio.Transport]) -> None:
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
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (ln.partition(": ") for ln in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        answer = self._answer(line.split(" ")[1], headers, rest[:length].decode("latin-1"))
        if answer.body is None:
            self._transport.abort()
            return
        self._transport.write(
            f"HTTP/1.1 {answer.status} -\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(answer.body)}\r\n\r\n{answer.body}".encode("latin-1")
        )
