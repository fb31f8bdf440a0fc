"""
Tokens shared by many processes and machines, in Redis or Valkey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import redis
import redis.asyncio
import redis.backoff
import redis.cluster
import redis.exceptions
import redis.retry
from redis.lock import Lock

from resource_tokens._sealing import EVERYBODY, FORGOTTEN_KEPT, GRANT_KEPT, Sealer
from resource_tokens.exceptions import ConfigurationError
from resource_tokens.stores import Generation, Loaded, News, StoredGrant, StoredToken
from resource_tokens.tokens import TokenKey

__all__ = ["RedisTokenStore"]


class RedisTokenStore:
    """
    Tokens in Redis or Valkey, for `ResourceTokenAuth(store=...)`. It serves blocking callers,
    asyncio and trio.

    Whoever can read there learns neither a token nor what it is for: entries are sealed, and
    their names are keyed hashes. Whoever has one of the keys can use all tokens.

    The user of the server needs `GET`, `SET`, `PTTL`, `HMGET`, `ZSCORE`, `ZRANGE`, `ZRANGEBYSCORE`,
    `EVALSHA` and `SCRIPT LOAD`, and in scripts `GET`, `SET`, `DEL`, `TIME`, `PTTL`, `HINCRBY`,
    `HLEN`, `HGET`, `HSET`, `ZADD`, `ZCARD`, `ZRANGE` and `ZREMRANGEBYSCORE`.

    Args:
        url: Where it is, such as `rediss://user:password@redis.example.com:6380/0`; or a client
            of redis-py, for a cluster, sentinels or options of your own. No asyncio client: it
            would belong to one event loop.
        keys: What entries are sealed with, from `resource_tokens.stores.new_key()`. The first one
            is used; the others are for replacing it one process after the other.
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
        self._forget_subject = self._client.register_script(_FORGET_SUBJECT)
        self._swap = self._client.register_script(_SWAP)

    def load(self, key: TokenKey, resource: str, subject: bytes = b"") -> Loaded:
        """
        See `TokenStore`. One round trip.
        """
        pipeline = self._client.pipeline(transaction=False)
        # In this order: a token that is replaced in between looks older than it is, and not newer.
        pipeline.pttl(self._entry(key))
        pipeline.get(self._entry(key))
        pipeline.pttl(self._lease(key))
        pipeline.hmget(self._generations, [_ALL, self._sealer.name("resource", resource)])
        if subject:
            pipeline.zrange(self._journal, -1, -1, withscores=True)
            for name in self._sealer.subject_names(resource, subject):
                pipeline.zscore(self._journal, name)
        left, entry, leased, counts, *journal = pipeline.execute(raise_on_error=False)
        if _is_of_another_type(entry):
            # A damaged entry, and not a server that fails.
            entry = b""
        for answer in (left, entry, leased, counts, *journal):
            if isinstance(answer, Exception):
                raise answer
        generation, leased = _generation(*counts), max(leased, 0) / 1000
        forgotten, position = 0, 0
        if subject:
            last, *places = journal
            forgotten, position = max(int(place or 0) for place in places), _position(last)
        if entry is None:
            return Loaded(None, generation, b"", leased, forgotten, position)
        stored = self._sealer.open(key, entry.partition(b":")[2])
        aged = replace(stored, age=stored.lifetime - max(left, 0) / 1000)
        return Loaded(aged, generation, entry[-_MARK:], leased, forgotten, position)

    def save(self, key: TokenKey, stored: StoredToken) -> bool:
        """
        See `TokenStore`.
        """
        age, lifetime = int(stored.age * 1000), int(stored.lifetime * 1000)
        sealed = self._sealer.seal(key, stored)
        known, mark = int(stored.instead_of is not None), stored.instead_of or b""
        return bool(
            self._save(keys=[self._entry(key)], args=[age, lifetime, sealed, known, mark, -_MARK])
        )

    def lease(self, key: TokenKey, seconds: float) -> Callable[[], object] | None:
        """
        See `TokenStore`. A `Lock` of redis-py. One round trip.
        """
        lock = self._client.lock(
            self._lease(key),
            timeout=seconds,
            blocking=False,
            # It is given back from another thread.
            thread_local=False,
            lock_class=_Lock,
        )

        def release() -> None:
            # Its time may be up, and somebody else have it.
            with suppress(redis.exceptions.LockError):
                lock.release()

        return release if lock.acquire() else None

    def news(self, resources: list[str], since: int | None = None) -> News:
        """
        See `TokenStore`. One round trip.
        """
        names = [self._sealer.name("resource", resource) for resource in resources]
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hmget(self._generations, [_ALL, *names])
        if since is not None:
            # In this order: what comes in between is read again the next time.
            pipeline.zrange(self._journal, -1, -1, withscores=True)
            pipeline.zrangebyscore(self._journal, f"({since}", "+inf", withscores=True)
        (of_all, *counts), *journal = pipeline.execute()
        generations = [_generation(of_all, count) for count in counts]
        if not journal:
            return News(generations)
        last, entries = journal
        places = {name.decode(): int(place) for name, place in entries}

        def forgotten(resource: str, subject: bytes) -> int:
            names = self._sealer.subject_names(resource, subject)
            return max(places.get(name, 0) for name in names)

        return News(generations, _position(last), forgotten)

    def forget(self, resource: str | None, subject: bytes = b"") -> int:
        """
        See `TokenStore`.
        """
        # By the names of all keys: those who have another one first shall know as well.
        if subject:
            kept = int(FORGOTTEN_KEPT.total_seconds() * 1000)
            names = self._sealer.names("subject", subject, resource or "")
            return int(
                self._forget_subject(
                    keys=[self._journal], args=[EVERYBODY, _MAX_GENERATIONS, kept, *names]
                )
            )
        names = [_ALL] if resource is None else self._sealer.names("resource", resource)
        self._forget(keys=[self._generations], args=[_ALL, _MAX_GENERATIONS, *names])
        return 0

    def load_grant(self, key: TokenKey) -> StoredGrant | None:
        """
        See `GrantStore`. One round trip.
        """
        entry = self._client.get(self._grant(key))
        return None if entry is None else self._sealer.open_grant(key, entry)

    def swap_grant(self, key: TokenKey, before: StoredGrant | None, after: StoredGrant) -> bool:
        """
        See `GrantStore`. Two round trips.
        """
        entry = self._client.get(self._grant(key))
        there = None if entry is None else self._sealer.open_grant(key, entry)
        if there != before:
            return False
        sealed = self._sealer.seal_grant(key, after)
        arguments = [entry or b"", sealed, int(GRANT_KEPT.total_seconds())]
        return bool(self._swap(keys=[self._grant(key)], args=arguments))

    def _grant(self, key: TokenKey) -> str:
        # The same for all keys of the store: there is only one refresh token to present. The key
        # is a digest of what nobody can guess.
        return f"{self._prefix}:grant:{key.hex()}"

    def _entry(self, key: TokenKey) -> str:
        # In braces, by which the node of a cluster is chosen: entry and lease are on the same one.
        return f"{self._prefix}:{{{self._sealer.name('token', key)}}}"

    def _lease(self, key: TokenKey) -> str:
        return f"{self._entry(key)}:lease"

    @property
    def _generations(self) -> str:
        return f"{self._prefix}:generations"

    @property
    def _journal(self) -> str:
        return f"{self._prefix}:subjects"

    def __repr__(self) -> str:
        return f"RedisTokenStore(prefix={self._prefix!r})"


class _Lock(Lock):
    """
    A lock that is had even if the answer that said so was lost, and the command sent again.
    """

    def do_acquire(self, token: str) -> bool:
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.set(self.name, token, nx=True, px=int((self.timeout or 0) * 1000))
        pipeline.get(self.name)
        return bool(pipeline.execute()[1] == token)


def _connected(url: str) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            # Once more, for a connection that was closed while it was idle. What takes too long
            # would take too long again.
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 1, (redis.ConnectionError,)),
            # A new connection says nothing but who it is.
            protocol=2,
            driver_info=None,
        )
    except (ValueError, TypeError):
        # Not shown: it can hold a password.
        pass
    raise ConfigurationError(
        "RedisTokenStore: that is no URL such as 'rediss://redis.example.com:6380/0'."
    )


def _is_of_another_type(answer: object) -> bool:
    return isinstance(answer, redis.ResponseError) and str(answer).startswith("WRONGTYPE")


def _generation(of_all: bytes | None, of_resource: bytes | None) -> Generation:
    return Generation(int(of_all or 0), int(of_resource or 0))


def _position(last: list[tuple[bytes, float]]) -> int:
    return int(last[0][1]) if last else 0


# Keep an entry, unless the one there is another than the one it is to replace: so whoever has
# outlived a lease changes nothing. Where nobody knows which, unless the one there was asked for
# later. When that was is by the clock of the server, for those of the machines differ; it stands
# before the entry. A time that has not come yet is nobody's.
_SAVE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local asked_at, left = now - ARGV[1], ARGV[2] - ARGV[1]
local there = redis.pcall('GET', KEYS[1])
if type(there) ~= 'string' then
    there = nil
end
if there and ARGV[4] == '1' then
    if string.sub(there, ARGV[6]) ~= ARGV[5] then
        return 0
    end
elseif there then
    local stamp = tonumber(string.match(there, '^%d+'))
    if stamp and asked_at < stamp and stamp <= now then
        return 0
    end
end
if left <= 0 then
    return 1
end
redis.call('SET', KEYS[1], string.format('%.0f:', asked_at) .. ARGV[3], 'PX', left)
return 1
"""

# Begin a generation. Too many of them are replaced by one of all.
_FORGET = """
for number = 3, #ARGV do
    redis.call('HINCRBY', KEYS[1], ARGV[number], 1)
end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then
    local all = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') + 1
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], ARGV[1], all)
end
return 1
"""

# Write names into the journal. Its places are times, by the clock of the server, as far as those
# grow; so what is old enough can go. Too many names are replaced by one of everybody.
_FORGET_SUBJECT = """
local time = redis.call('TIME')
local place = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
if last and tonumber(last) >= place then
    place = tonumber(last) + 1
end
for number = 4, #ARGV do
    redis.call('ZADD', KEYS[1], string.format('%.0f', place), ARGV[number])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', place - ARGV[3]))
if redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[2]) then
    redis.call('DEL', KEYS[1])
    redis.call('ZADD', KEYS[1], string.format('%.0f', place), ARGV[1])
end
return place
"""

# Put a refresh token in the place of the one there.
_SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""

_ALL = "*"
# Of an entry these last bytes are of its authentication code, and so are in no other one.
_MARK = 32
_MAX_GENERATIONS = 10_000
_TIMEOUT = 1.0
