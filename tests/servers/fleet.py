"""
Processes that share one store, as their frameworks start them: what they all run.

It imports little, as a worker is started many times over. The two apps are configured by the
environment; `python -m tests.servers.fleet` forks with threads and connections about.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import httpx

import resource_tokens._sharing
import resource_tokens.redis
from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth
from resource_tokens.redis import RedisTokenStore

__all__ = ["Place", "Report", "app", "asgi", "called", "placed", "work"]


_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True)
class Place:
    """
    Where everything is.

    Attributes:
        timeout: Of the authorization server, in seconds.
        patience: With the store, in seconds. On a machine with too much to do, a store that has no
            time to answer looks like one that fails.
    """

    token_endpoint: str
    redis_url: str
    key: str
    resources: dict[str, str]
    timeout: float = 30.0
    patience: float = 30.0

    def auth(self) -> ResourceTokenAuth:
        """
        What shows tokens, and shares them.
        """
        resource_tokens.redis._TIMEOUT = resource_tokens._sharing._PATIENCE = self.patience
        server = AuthorizationServer(
            token_endpoint=self.token_endpoint,
            timeout=timedelta(seconds=self.timeout),
            # Shared by the processes, so that not each of them loads the system's authorities.
            verify=_CONTEXT,
        )
        return ResourceTokenAuth(
            server,
            ClientSecretBasic("orders-worker", "secret"),
            resources=self.resources,
            store=RedisTokenStore(self.redis_url, keys=[self.key]),
        )

    def environment(self) -> dict[str, str]:
        """
        What `placed` reads, beside what this process has.
        """
        return {**os.environ, "FLEET_PLACE": json.dumps(self.__dict__)}


@dataclass
class Report:
    """
    What one process has to say.

    Attributes:
        waits: For how long each task waited for its token, in seconds.
        tokens: The digest of each token, by URL.
        failures: What went wrong.
    """

    pid: int = field(default_factory=os.getpid)
    waits: list[float] = field(default_factory=list)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def placed() -> Place:
    """
    The place that the environment names.
    """
    return Place(**json.loads(os.environ["FLEET_PLACE"]))


def work(parent: Connection, place: Place, tasks: int) -> None:
    """
    Get ready, wait for the word, then ask for tokens in so many tasks at the same time.
    """
    auth, report, urls = place.auth(), Report(), list(place.resources)

    async def ask(url: str) -> None:
        began = time.monotonic()
        try:
            token = await auth.atoken_for(url)
        except Exception as error:  # noqa: BLE001 - reported
            report.failures.append(repr(error))
        else:
            report.tokens.setdefault(url, set()).add(_digest(token.reveal()))
        report.waits.append(time.monotonic() - began)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(urls[number % len(urls)]) for number in range(tasks)))

    parent.send("ready")
    parent.recv()
    asyncio.run(ask_all())
    parent.send(report)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# The apps: what they answer says which process did, and what the API said to the token.


def called(path: str) -> dict[str, Any]:
    """
    Call an API: which process has, and what it said to the token.
    """
    with httpx.Client(auth=_loaded(), trust_env=False) as client:
        return {"pid": os.getpid(), "status": client.get(_url(path)).status_code}


def _url(path: str) -> str:
    (url,) = [url for url in placed().resources if url.endswith(f"{path}/")]
    return url


def _loaded() -> ResourceTokenAuth:
    # Its parent's, where that had one before it forked.
    if not _AUTHS:
        _AUTHS.append(placed().auth())
    return _AUTHS[0]


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """
    For WSGI servers.
    """
    answer = json.dumps(called(environ["PATH_INFO"]))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer.encode()]


async def asgi(
    scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Awaitable[None]]
) -> None:
    """
    For ASGI servers.
    """
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    async with httpx.AsyncClient(auth=_loaded(), trust_env=False) as client:
        status = (await client.get(_url(scope["path"]))).status_code
    answer = {"pid": os.getpid(), "status": status}
    head = {"type": "http.response.start", "status": 200, "headers": []}
    await send(head)
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


_AUTHS: list[ResourceTokenAuth] = []
if "FLEET_PRELOAD" in os.environ:
    # As an app does that calls an API while it is imported: there is a connection to the store.
    called("/orders")


def _fork(children: int) -> None:
    """
    Fork while threads of this process talk to the store, and let the children call an API.
    """
    auth, over = _loaded(), threading.Event()
    store = auth.cache._store
    assert isinstance(store, RedisTokenStore)
    key = next(iter(auth.cache._acquirer._memory._tokens._values))

    def talk() -> None:
        while not over.is_set():
            store.load(key, "urn:example:orders")

    threads = [threading.Thread(target=talk) for _ in range(3)]
    for thread in threads:
        thread.start()
    pids = []
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            # In one piece, as all of them write to the same pipe.
            os.write(1, json.dumps(called("/billing")).encode() + b"\n")
            os._exit(0)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    over.set()
    assert statuses == [0] * children


if __name__ == "__main__":
    _fork(4)
