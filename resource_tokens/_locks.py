"""
A lock that neither a fork nor a signal handler can leave locked for ever.
"""

from __future__ import annotations

import os
import threading

__all__ = ["SafeLock"]


class SafeLock:
    """
    Guards a few lines of dictionary access.

    A signal handler may come back to it in the thread that holds it. A forked child gets a lock
    of its own: the thread that held the parent's is not in the child, and would never let go.
    """

    __slots__ = ("_lock", "_pid")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def __enter__(self) -> None:
        if self._pid != os.getpid():
            self._lock = threading.RLock()
            self._pid = os.getpid()
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()
