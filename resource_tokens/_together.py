"""
Many things to do with authorization servers, a few at a time with each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from resource_tokens._ask import AT_A_TIME
from resource_tokens._io import IO, run_to_end
from resource_tokens.exceptions import ResourceTokensError
from resource_tokens.oauth.metadata import AuthorizationServer

__all__ = ["Jobs", "raise_all"]

_Job = Callable[[IO], Coroutine[Any, Any, None]]


class Jobs:
    """
    What is to be done, once.

    Args:
        jobs: Each handles its own errors.
        servers: Whom they are done with.
    """

    def __init__(self, jobs: Iterable[_Job], servers: Collection[AuthorizationServer]) -> None:
        self._todo = deque(jobs)
        self._workers = max(1, min(len(self._todo), AT_A_TIME * len(set(servers))))

    def run(self, io: IO) -> None:
        """
        Do all of it, in threads.
        """

        def work() -> None:
            while (job := self._next()) is not None:
                run_to_end(job(io))

        with ThreadPoolExecutor(self._workers, "resource_tokens") as pool:
            try:
                for worker in [pool.submit(work) for _ in range(self._workers)]:
                    worker.result()
            finally:
                # Interrupted, the workers stop after what they are at.
                self._todo.clear()

    async def arun(self, io: IO) -> None:
        """
        The same as `run`, without blocking the event loop (asyncio or trio).
        """
        import anyio

        async def work() -> None:
            while (job := self._next()) is not None:
                await job(io)

        async with anyio.create_task_group() as workers:
            for _ in range(self._workers):
                workers.start_soon(work)

    def _next(self) -> _Job | None:
        # Another thread may take the last one first.
        with suppress(IndexError):
            return self._todo.popleft()
        return None


def raise_all(errors: list[ResourceTokensError], how: str) -> None:
    """
    Raise all that went wrong.

    Raises:
        ExceptionGroup: If anything did.
    """
    if errors:
        raise ExceptionGroup(f"{len(errors)} tokens {how}", errors)
