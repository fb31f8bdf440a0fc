"""
Tokens shared by many processes and machines, in Redis or Valkey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import redis
import redis.asyncio
import redis.backoff
import redis.cluster
import redis.exceptions
import redis.retry

from resource_tokens._sealing import Sealer
from resource_tokens.exceptions import ConfigurationError
from resource_tokens.stores import Generation, Loaded, StoredToken
from resource_tokens.tokens import TokenKey

__all__ = ["RedisTokenStore"]


class RedisTokenStore:
    """
    Tokens in Redis or Valkey, for `ResourceTokenAuth(store=...)`. It serves blocking callers,
    asyncio and trio.

    Whoever can read there learns neither a token nor what it is for: entries are sealed, and
    their names are keyed hashes. Whoever has one of the keys can use all tokens.

    The server needs `GET`, `SET`, `HMGET`, `EVALSHA`, `EVAL` and `SCRIPT LOAD`. Give it memory for
    the tokens and a policy that evicts, such as `allkeys-lru`: what is evicted is asked for again.

    Args:
        url: Where it is, such as `rediss://user:password@redis.example.com:6380/0`; or a client
            of redis-py, for a cluster, sentinels or options of your own. No asyncio client: it
            would belong to one event loop.
        keys: What entries are sealed with, from `resource_tokens.stores.new_key()`. The first one
            seals, all of them open. To replace a key put the new one first, everywhere, and take
            the old one out a day later.
        prefix: What the names of all entries begin with.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    def __init__(
        self,
        url: str | redis.Redis | redis.cluster.RedisCluster,
        *,
        keys: Iterable[str | bytes],
        prefix: str = "resource_tokens",
    ) -> None:
        self._sealer = Sealer(keys)
        del keys
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(f"RedisTokenStore: prefix={prefix!r} is empty or no string.")
        self._prefix = prefix
        self._client: Any = _connected(url) if isinstance(url, str) else url
        del url
        if not isinstance(self._client, redis.Redis | redis.cluster.RedisCluster):
            raise ConfigurationError(
                "RedisTokenStore: give a URL or a blocking client of redis-py. It is called in "
                "threads, and serves async callers as well."
            )
        if self._client.get_encoder().decode_responses:
            raise ConfigurationError(
                "RedisTokenStore: the client has decode_responses=True, and entries are bytes. "
                "Give it a client of its own."
            )
        self._save = self._client.register_script(_SAVE)
        self._forget = self._client.register_script(_FORGET)

    def load(self, key: TokenKey, resource: str) -> Loaded:
        """
        See `TokenStore`. One round trip.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.get(self._entry(key))
        pipeline.hmget(self._generations, [_ALL, self._sealer.name("resource", resource)])
        entry, counts = pipeline.execute()
        generation = _generation(*counts)
        if entry is None:
            return Loaded(None, generation)
        return Loaded(self._sealer.open(key, entry.partition(b":")[2]), generation)

    def save(self, key: TokenKey, stored: StoredToken) -> None:
        """
        See `TokenStore`.
        """
        # In clear, so that the server can compare it: when the token was asked for.
        stamp = int(stored.requested_wall * 1000)
        entry = b"%d:%b" % (stamp, self._sealer.seal(key, stored))
        expires_at = int(stored.token.expires_at.timestamp() * 1000)
        self._save(keys=[self._entry(key)], args=[stamp, entry, expires_at])

    def lease(self, key: TokenKey, seconds: float) -> Callable[[], object] | None:
        """
        See `TokenStore`. A `Lock` of redis-py.
        """
        # Not kept by the thread: async callers give it back from another one.
        lock = self._client.lock(
            f"{self._entry(key)}:lease", timeout=seconds, blocking=False, thread_local=False
        )

        def release() -> None:
            # Its time may be up, and somebody else have it.
            with suppress(redis.exceptions.LockError):
                lock.release()

        return release if lock.acquire() else None

    def generations(self, resources: list[str]) -> list[Generation]:
        """
        See `TokenStore`. One round trip.
        """
        names = [self._sealer.name("resource", resource) for resource in resources]
        of_all, *counts = self._client.hmget(self._generations, [_ALL, *names])
        return [_generation(of_all, count) for count in counts]

    def forget(self, resource: str | None) -> None:
        """
        See `TokenStore`.
        """
        name = _ALL if resource is None else self._sealer.name("resource", resource)
        self._forget(keys=[self._generations], args=[name, _ALL, _MAX_GENERATIONS])

    def _entry(self, key: TokenKey) -> str:
        return f"{self._prefix}:{self._sealer.name('token', key)}"

    @property
    def _generations(self) -> str:
        return f"{self._prefix}:generations"

    def __repr__(self) -> str:
        return f"RedisTokenStore(prefix={self._prefix!r})"


def _connected(url: str) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            # Once more, for a connection that was closed while it was idle.
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 1),
        )
    except (ValueError, TypeError):
        # Not shown: it can hold a password.
        pass
    raise ConfigurationError(
        "RedisTokenStore: that is no URL such as 'rediss://redis.example.com:6380/0'."
    )


def _generation(of_all: bytes | None, of_resource: bytes | None) -> Generation:
    return Generation(int(of_all or 0), int(of_resource or 0))


# Keep an entry, unless the one there was asked for later.
_SAVE = """
local current = redis.call('GET', KEYS[1])
if current then
    local stamp = tonumber(string.match(current, '^%d+'))
    if stamp and stamp > tonumber(ARGV[1]) then
        return 0
    end
end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return 1
"""

# Begin a generation. Too many of them are replaced by one of all.
_FORGET = """
redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[3]) then
    local all = tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or '0') + 1
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], ARGV[2], all)
end
return 1
"""

_ALL = "*"
_MAX_GENERATIONS = 10_000
_TIMEOUT = 1.0
