"""
Where tokens are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from cachetools import LRUCache

from resource_tokens._locks import SafeLock
from resource_tokens.tokens import CachedToken, TokenKey

__all__ = ["MemoryTokenStore", "TokenStore"]


class TokenStore(Protocol):
    """
    What a store of tokens can do. It must be safe to use from several threads, and belongs to
    one process: the times in a `CachedToken` are of that process's own clock.
    """

    def load(self, key: TokenKey) -> CachedToken | None:
        """
        The token under exactly this key, or `None`.
        """

    def save(self, key: TokenKey, cached: CachedToken) -> None:
        """
        Keep a token under this key, in the place of the one there.
        """

    def forget(self, matches: Callable[[CachedToken], bool]) -> int:
        """
        Drop every token that matches; the number dropped.
        """
        ...


class MemoryTokenStore:
    """
    Tokens in this process's memory: the default.

    Args:
        maxsize: How many tokens to keep. The least recently used one goes first.
    """

    def __init__(self, maxsize: int = 1024) -> None:
        self._tokens: dict[TokenKey, CachedToken] = {}
        self._used: deque[TokenKey] = deque(maxlen=4 * maxsize)
        self._lock = SafeLock()
        self._order: LRUCache[TokenKey, None] = LRUCache(maxsize)  # guarded by _lock

    def load(self, key: TokenKey) -> CachedToken | None:
        """
        See `TokenStore`. Two atomic operations and no lock: this is done for every request, and
        must not wait for another thread, a signal handler or a parent process.
        """
        cached = self._tokens.get(key)
        if cached is not None:
            self._used.append(key)
        return cached

    def save(self, key: TokenKey, cached: CachedToken) -> None:
        """
        See `TokenStore`.
        """
        with self._lock:
            while self._used:
                self._order.get(self._used.popleft())
            self._order[key] = None
            self._tokens[key] = cached
            if len(self._tokens) > self._order.maxsize:
                for dropped in self._tokens.keys() - self._order.keys():
                    del self._tokens[dropped]

    def forget(self, matches: Callable[[CachedToken], bool]) -> int:
        """
        See `TokenStore`.
        """
        with self._lock:
            dropped = [key for key, cached in self._tokens.items() if matches(cached)]
            for key in dropped:
                del self._tokens[key]
                self._order.pop(key, None)
            return len(dropped)

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"MemoryTokenStore({len(self)} of {self._order.maxsize:g} tokens)"
