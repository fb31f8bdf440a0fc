"""
At most so many at a time, for each key, across threads and event loops.

1. A turn is asked for without waiting. It has come when its future is done, and is given back by
   whoever asked for it, whether it had come or not.
2. Whoever is waited for goes before work that nobody waits for; among equals, first come first
   served.
3. A turn lasts for a while only: what holds it may be stuck in an event loop that nobody runs
   any more.
4. After a fork the parent's turns mean nothing in the child.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

from resource_tokens._locks import SafeLock

__all__ = ["Turn", "Turns"]


@dataclass(eq=False, slots=True)
class Turn:
    """
    A place in the queue of a key; as a context manager, given back at the end.

    Attributes:
        lasts: Seconds from when it comes until it is over in any case.
        thread: The thread that asked for it; `None` where nobody waits for it.
        future: Done when the turn has come.
        ends_at: When it is over in any case; set when it comes.
    """

    turns: Turns = field(repr=False)
    key: Hashable
    lasts: float
    thread: int | None
    future: Future[None] = field(default_factory=Future)
    ends_at: float = 0.0

    def give_back(self) -> None:
        """
        End it, or leave the queue. Nothing happens the second time.
        """
        self.turns.take_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.give_back()


class _Queue:
    """
    The turns of one key.
    """

    __slots__ = ("limit", "taken", "unhurried", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken: list[Turn] = []
        self.waiting: deque[Turn] = deque()
        self.unhurried: deque[Turn] = deque()


class Turns:
    """
    The turns of one cache.

    Args:
        clock: Seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = SafeLock()
        self._queues: dict[Hashable, _Queue] = {}  # guarded by _lock
        self._pid = os.getpid()

    def ask(self, key: Hashable, limit: int, lasts: float, *, hurried: bool = True) -> Turn:
        """
        A turn under a key, which may have come already.

        Args:
            key: What is taken in turns.
            limit: How many turns there are at a time.
            lasts: Seconds until the turn is over in any case.
            hurried: Whether somebody waits for it.
        """
        turn = Turn(self, key, lasts, threading.get_ident() if hurried else None)
        with self._lock:
            if self._pid != os.getpid():
                self._queues = {}
                self._pid = os.getpid()
            queue = self._queues.setdefault(key, _Queue(limit))
            (queue.waiting if hurried else queue.unhurried).append(turn)
            come = self._next(queue)
        _tell(come)
        return turn

    def take_back(self, turn: Turn) -> None:
        """
        See `Turn.give_back`.
        """
        with self._lock:
            queue = self._queues.get(turn.key)
            if queue is None:
                return
            for turns in (queue.taken, queue.waiting, queue.unhurried):
                if turn in turns:
                    turns.remove(turn)
                    break
            come = self._next(queue)
            if not queue.taken:
                del self._queues[turn.key]
        _tell(come)

    def held_by_this_thread(self, key: Hashable) -> bool:
        """
        Whether the calling thread has a turn, which it could not give back while it waits.
        """
        me = threading.get_ident()
        with self._lock:
            queue = self._queues.get(key)
            return queue is not None and any(turn.thread == me for turn in queue.taken)

    def _next(self, queue: _Queue) -> list[Turn]:
        now = self._clock()
        queue.taken = [turn for turn in queue.taken if now < turn.ends_at]
        come = []
        while len(queue.taken) < queue.limit and (queue.waiting or queue.unhurried):
            turn = (queue.waiting or queue.unhurried).popleft()
            turn.ends_at = now + turn.lasts
            queue.taken.append(turn)
            come.append(turn)
        return come


def _tell(turns: list[Turn]) -> None:
    # Outside the lock: what waits for a future runs in here.
    for turn in turns:
        turn.future.set_result(None)
