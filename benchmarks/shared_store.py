"""
What a shared store costs: a token that is at hand, with and without one; and the first token of a
fresh process, which another one has left in Valkey.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from time import perf_counter

from benchmarks.measure import Effort, Goal, Row, Section, Spread, interleaved
from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache
from resource_tokens.redis import RedisTokenStore
from resource_tokens.stores import new_key
from resource_tokens.testing import LocalAuthorizationServer
from tests.servers.valkey import ValkeyServer

__all__ = ["measure"]

RESOURCE = "https://inventory.example.com/"
# In microseconds: nothing beside a request.
GOAL = Goal("extra", 0.5)


def measure(effort: Effort) -> Iterator[Row]:
    """
    The first token is counted from the making of the cache and its store, without imports.
    """
    with LocalAuthorizationServer() as server, ValkeyServer() as valkey:
        key = new_key()
        shared = _cache(server, RedisTokenStore(valkey.url, keys=key))
        sections = {
            "with": _get(shared, effort.lookups),
            "without": _get(_cache(server), effort.lookups),
        }
        warm = interleaved(sections, effort.rounds)
        yield Row.compared(
            benchmark="shared-store",
            case="token at hand",
            contender="resource_tokens",
            unit="µs",
            rounds=[(taken["with"], taken["without"]) for taken in warm],
            goal=GOAL,
        )
        asked = len(server.token_requests)
        arguments = (valkey.url, key, server.token_endpoint, RESOURCE)
        first = interleaved({"first": partial(_seconds, *arguments)}, 5 * effort.processes)
        if len(server.token_requests) != asked:
            raise RuntimeError("A fresh process did not find the token in the store.")
        yield Row(
            "shared-store",
            "first token of a process",
            "resource_tokens",
            "ms",
            Spread.of(1000 * taken["first"] for taken in first),
        )


def _cache(server: LocalAuthorizationServer, store: RedisTokenStore | None = None) -> TokenCache:
    return TokenCache(
        AuthorizationServer(token_endpoint=server.token_endpoint),
        ClientSecretBasic("orders-worker", "secret"),
        store=store,
    )


def _get(cache: TokenCache, size: int) -> Section:
    get = cache.get

    def section() -> float:
        # Once before: what is looked for every few seconds is not due meanwhile.
        get(RESOURCE)
        started = perf_counter()
        for _ in repeat(None, size):
            get(RESOURCE)
        return (perf_counter() - started) / size

    return section


def _seconds(*arguments: str) -> float:
    command = [sys.executable, "-c", _TIMED, *arguments]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


_TIMED = """
import sys
from time import perf_counter
import cryptography.fernet
from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache
from resource_tokens.redis import RedisTokenStore

url, key, endpoint, resource = sys.argv[1:]
started = perf_counter()
server = AuthorizationServer(token_endpoint=endpoint)
store = RedisTokenStore(url, keys=key)
TokenCache(server, ClientSecretBasic("orders-worker", "secret"), store=store).get(resource)
print(perf_counter() - started)
"""
