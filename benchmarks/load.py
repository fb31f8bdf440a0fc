"""
Requests at a fixed rate, whether or not those before have been answered.

The time of a request counts from when it was due. Otherwise a client that stands still would be
asked for nothing in the meantime, and would look quick (coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from benchmarks.clients import check
from benchmarks.peers import Peer, Setting

__all__ = ["Sample", "under_load"]


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One request: when it was due, in seconds from the first token on, and how long it took.
    """

    due: float
    taken: float
    failed: bool


def under_load(
    peer: Peer, setting: Setting, rate: float, seconds: float, started: Callable[[], None]
) -> Sequence[Sample]:
    """
    Send to the setting's resource, by asyncio where the library can and by threads otherwise.

    Args:
        started: Called when the first token is there, right before the load begins.
    """
    due = [number / rate for number in range(int(seconds * rate))]
    if peer.asynchronous is None:
        assert peer.blocking is not None
        return _by_threads(peer.blocking(setting), setting.resources[0], due, started)
    with asyncio.Runner() as runner:
        return runner.run(_by_tasks(peer.asynchronous, setting, due, started))


def _by_threads(
    client: Any, url: str, due: Sequence[float], started: Callable[[], None]
) -> Sequence[Sample]:
    def send(at: float) -> Sample:
        time.sleep(max(0.0, begun + at - time.monotonic()))
        return _sample(at, begun, failed=not _let_in(lambda: client.get(url)))

    with closing(client), ThreadPoolExecutor(_WORKERS) as threads:
        check(client.get(url))
        begun = time.monotonic()
        started()
        return list(threads.map(send, due))


async def _by_tasks(
    made: Callable[[Setting], Any],
    setting: Setting,
    due: Sequence[float],
    started: Callable[[], None],
) -> Sequence[Sample]:
    client, url = made(setting), setting.resources[0]

    async def send(at: float) -> Sample:
        try:
            check(await client.get(url))
        except Exception:  # noqa: BLE001 - every library has its own
            return _sample(at, begun, failed=True)
        return _sample(at, begun, failed=False)

    check(await client.get(url))
    begun = time.monotonic()
    started()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for at in due:
            await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
            tasks.append(group.create_task(send(at)))
    await client.aclose()
    return [task.result() for task in tasks]


def _let_in(get: Callable[[], Any]) -> bool:
    try:
        check(get())
    except Exception:  # noqa: BLE001 - every library has its own
        return False
    return True


def _sample(due: float, begun: float, *, failed: bool) -> Sample:
    return Sample(due, time.monotonic() - begun - due, failed)


_WORKERS = 64
