"""
One process of clients, in one colour, sending as fast as it can.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2

from benchmarks.soak.servers import RESOURCES
from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ResourceTokenAuth,
    ResourceTokensError,
)

__all__ = ["COLOURS", "Report", "work"]

COLOURS = ("httpx threads", "httpx asyncio", "httpx2 trio", "httpx2 threads")
CROWD = 4
# How long a sender may be kept from running between its own look and that of the auth flow.
ABOUT_TO_END = 0.25


@dataclass
class Report:
    """
    What one process has to say.

    Attributes:
        counts: Requests by their outcome; "failed while a token was good" is the one to be zero.
        resident: Bytes of memory, once a second.
        traced: Bytes that Python objects take, once a second; empty where nobody looked.
    """

    colour: str
    counts: Counter[str] = field(default_factory=Counter)
    resident: list[int] = field(default_factory=list)
    traced: list[int] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


def work(parent: Connection, colour: str, endpoint: str, api: str, *, traced: bool) -> None:
    """
    Send requests until the parent says something, and report.
    """
    logging.disable(logging.CRITICAL)
    auth = ResourceTokenAuth(
        AuthorizationServer(token_endpoint=endpoint),
        ClientSecretBasic("soak", "a secret of no importance"),
        resources={f"{api}/{name}/": f"https://{name}.example.com/{name}" for name in RESOURCES},
    )
    crowd = _Crowd(auth, api, Report(colour))
    if traced:
        tracemalloc.start()
    parent.send("ready")
    threading.Thread(target=crowd.watch, args=(parent,), daemon=True).start()
    library: Any = httpx2 if colour.startswith("httpx2") else httpx
    if colour.endswith("threads"):
        threads = [
            threading.Thread(target=crowd.send, args=(library, number)) for number in range(CROWD)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        anyio.run(crowd.asend_all, library, backend=colour.rpartition(" ")[2])
    parent.send(crowd.report)


class _Crowd:
    """
    Those who send, and one who watches.
    """

    def __init__(self, auth: ResourceTokenAuth, api: str, report: Report) -> None:
        self.report = report
        self._auth = auth
        self._urls = [f"{api}/{name}/v1" for name in RESOURCES]
        self._stop = False
        self._lock = threading.Lock()  # guards the report's counts

    def watch(self, parent: Connection) -> None:
        """
        Look at the memory once a second, until the parent says something.
        """
        while not parent.poll(1.0):
            if tracemalloc.is_tracing():
                gc.collect()
                self.report.traced.append(tracemalloc.get_traced_memory()[0])
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            self.report.resident.append(pages * os.sysconf("SC_PAGESIZE"))
        parent.recv()
        self._stop = True

    def send(self, library: Any, number: int) -> None:
        """
        One thread.
        """
        hooks: Any = {"request": [_say_when]}
        with library.Client(auth=self._auth, trust_env=False, event_hooks=hooks) as client:
            while not self._stop:
                url = self._urls[number % 2]
                good = self._is_good(url)
                try:
                    status = client.get(url).status_code
                except ResourceTokensError as error:
                    self._failed(good, str(error))
                    time.sleep(0.01)
                else:
                    self._answered(status)

    async def asend_all(self, library: Any) -> None:
        """
        All tasks of one event loop.
        """
        hooks: Any = {"request": [_asay_when]}
        async with (
            library.AsyncClient(auth=self._auth, trust_env=False, event_hooks=hooks) as client,
            anyio.create_task_group() as tasks,
        ):
            for number in range(CROWD):
                tasks.start_soon(self._asend, client, self._urls[number % 2])

    async def _asend(self, client: Any, url: str) -> None:
        while not self._stop:
            good = self._is_good(url)
            try:
                status = (await client.get(url)).status_code
            except ResourceTokensError as error:
                self._failed(good, str(error))
                await anyio.sleep(0.01)
            else:
                self._answered(status)

    def _is_good(self, url: str) -> bool:
        """
        Whether there is a token to present, as the cache itself would say without waiting; and
        for long enough that it still is when the auth flow looks, on a machine that is busy.
        """
        cache = self._auth.cache
        resource = self._auth.resources.resource_for(url)
        assert resource is not None
        return cache._cached(cache._request_for(resource), ABOUT_TO_END) is not None

    def _answered(self, status: int) -> None:
        with self._lock:
            self.report.counts["let in" if status == 200 else "refused"] += 1

    def _failed(self, good: bool, why: str) -> None:
        when = "failed while a token was good" if good else "failed without a token"
        with self._lock:
            self.report.counts[when] += 1
            self.report.failures[f"{when}: {why[:120]}"] += 1


def _say_when(request: Any) -> None:
    # After the token has been set, and right before the request is sent.
    request.headers["X-Sent-At"] = f"{time.monotonic():.6f}"


async def _asay_when(request: Any) -> None:
    _say_when(request)
