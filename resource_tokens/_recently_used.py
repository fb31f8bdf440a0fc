"""
What was used lately, within a bound of number and one of bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

from resource_tokens._locks import SafeLock

__all__ = ["RecentlyUsed"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class RecentlyUsed(Generic[K, V]):
    """
    Values by their keys; the least recently used one goes first.

    Looking one up takes no lock: that is done for every request, and must not wait for another
    thread, a signal handler or a parent process.

    Args:
        maxsize: How many there can be.
        max_bytes: How many bytes they can take together.
        size_of: How many one takes.
    """

    def __init__(self, maxsize: int, max_bytes: int, size_of: Callable[[V], int]) -> None:
        self.maxsize = maxsize
        self._size_of = size_of
        self._values: dict[K, V] = {}
        # What was looked up since the last change, as far as it is worth remembering.
        self._used: deque[K] = deque(maxlen=4 * min(maxsize, _USES))
        self._lock = SafeLock()
        self._order = _Order(max_bytes, self._values)  # guarded by _lock

    def get(self, key: K) -> V | None:
        """
        The value of a key, by two atomic operations.
        """
        value = self._values.get(key)
        if value is not None:
            self._used.append(key)
        return value

    def put(self, key: K, value: V) -> None:
        """
        Keep a value, in the place of the one there. One that is larger than the bound is not kept.
        """
        size = self._size_of(value)
        with self._lock:
            while self._used:
                self._order.get(self._used.popleft())
            self._drop([key])
            if size <= self._order.maxsize:
                self._order[key] = size
                self._values[key] = value
            if len(self._values) > self.maxsize:
                self._order.popitem()

    def drop(self, matches: Callable[[V], bool]) -> int:
        """
        Drop every value that matches; the number dropped.
        """
        with self._lock:
            dropped = [key for key, value in self._values.items() if matches(value)]
            self._drop(dropped)
            return len(dropped)

    def values(self) -> list[V]:
        """
        All that there are now.
        """
        with self._lock:
            return list(self._values.values())

    def _drop(self, keys: list[K]) -> None:
        for key in keys:
            self._order.pop(key, None)
            self._values.pop(key, None)

    def __len__(self) -> int:
        return len(self._values)


class _Order(LRUCache[K, int]):
    """
    How recently each was used, and its size.
    """

    def __init__(self, max_bytes: int, values: dict[K, V]) -> None:
        super().__init__(max_bytes, getsizeof=int)
        self._of = values

    def popitem(self) -> tuple[K, int]:
        """
        Let go of the least recently used one.
        """
        key, size = super().popitem()
        self._of.pop(key, None)
        return key, size


_USES = 16 * 1024
