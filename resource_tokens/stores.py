"""
Where tokens are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from cachetools import LRUCache

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
        self._lock = threading.Lock()
        self._tokens: LRUCache[TokenKey, CachedToken] = LRUCache(maxsize)  # guarded by _lock

    def load(self, key: TokenKey) -> CachedToken | None:
        """
        See `TokenStore`.
        """
        with self._lock:
            try:
                return self._tokens[key]
            except KeyError:
                return None

    def save(self, key: TokenKey, cached: CachedToken) -> None:
        """
        See `TokenStore`.
        """
        with self._lock:
            self._tokens[key] = cached

    def forget(self, matches: Callable[[CachedToken], bool]) -> int:
        """
        See `TokenStore`.
        """
        with self._lock:
            dropped = [key for key, cached in self._tokens.items() if matches(cached)]
            for key in dropped:
                del self._tokens[key]
            return len(dropped)

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"MemoryTokenStore({len(self)} of {self._tokens.maxsize} tokens)"
