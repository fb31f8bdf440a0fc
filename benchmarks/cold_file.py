"""
The first token of a fresh process: from a file that another one has left, against memory alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Effort, Goal, Row, interleaved
from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache
from resource_tokens.files import FileTokenStore
from resource_tokens.stores import new_key
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["measure"]

# In milliseconds.
GOAL = Goal("extra", 5.0)
RESOURCES = [f"https://api-{number}.example.com/" for number in range(20)]


def measure(effort: Effort) -> Iterator[Row]:
    """
    From the making of the cache and its store to the token, without imports. With memory alone the
    token is put there by hand: what is compared is the bookkeeping, and not a token request.
    """
    with LocalAuthorizationServer() as server, tempfile.TemporaryDirectory() as folder:
        key = new_key()
        cache = TokenCache(
            AuthorizationServer(token_endpoint=server.token_endpoint),
            ClientSecretBasic("orders-worker", "secret"),
            store=FileTokenStore(Path(folder, "state"), keys=key),
        )
        cache.prefetch(RESOURCES)
        arguments = (str(Path(folder, "state")), key, server.token_endpoint, *RESOURCES)
        sections = {name: partial(_seconds, name, *arguments) for name in ("file", "memory")}
        rounds = interleaved(sections, 5 * effort.processes)
        if len(server.token_requests) != len(RESOURCES):
            raise RuntimeError("A fresh process did not find the token in the file.")
        yield Row.compared(
            benchmark="cold-file",
            case=f"first token, {len(RESOURCES)} in the file",
            contender="resource_tokens",
            unit="ms",
            rounds=[(taken["file"], taken["memory"]) for taken in rounds],
            goal=GOAL,
        )


def _seconds(kind: str, *arguments: str) -> float:
    command = [sys.executable, "-c", _TIMED, kind, *arguments]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


_TIMED = """
import sys
from time import perf_counter
import cryptography.fernet
from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache
from resource_tokens.files import FileTokenStore

kind, folder, key, endpoint, *resources = sys.argv[1:]

def cache(store=None):
    server = AuthorizationServer(token_endpoint=endpoint)
    return TokenCache(server, ClientSecretBasic("orders-worker", "secret"), store=store)

if kind == "memory":
    before = cache(FileTokenStore(folder, keys=key))
    before.get(resources[0])
    (kept,) = before._acquirer._memory._tokens._values.items()

started = perf_counter()
if kind == "memory":
    found = cache()
    found._acquirer._memory.save(*kept)
else:
    found = cache(FileTokenStore(folder, keys=key))
found.get(resources[0])
print(perf_counter() - started)
"""
