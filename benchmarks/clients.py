"""
The contenders: HTTP clients that send a token, each in its own way.

To compare with another library, add a function to `CONTENDERS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter
from types import ModuleType
from typing import Any

import httpx
import httpx2

from benchmarks.measure import Effort, Goal, Row, Section, interleaved
from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["BASELINE", "COLOURS", "CONTENDERS", "LIBRARIES", "Setting", "rows"]

LIBRARIES: Mapping[str, ModuleType] = {"httpx": httpx, "httpx2": httpx2}
COLOURS = {"sync": "Client", "async": "AsyncClient"}


@dataclass(frozen=True, slots=True)
class Setting:
    """
    What every contender is given.

    Attributes:
        client: The class of client to use, of either library, sync or async.
        options: The arguments that each client is made with, such as its transport.
        resources: The resources that the program talks to.
        url: What is requested, at one of them.
    """

    authorization_server: LocalAuthorizationServer
    client: Callable[..., Any]
    options: Mapping[str, Any]
    resources: Sequence[str]
    url: str


def bare(setting: Setting) -> Any:
    """
    A client that knows nothing of tokens: a header like ours, set once and sent everywhere.
    """
    authorization = _auth(setting).token_for(setting.url).authorization
    return setting.client(headers={"Authorization": authorization}, **setting.options)


def resource_tokens(setting: Setting) -> Any:
    """
    The same client with our auth.
    """
    return setting.client(auth=_auth(setting), **setting.options)


BASELINE = "bare"
CONTENDERS: Mapping[str, Callable[[Setting], Any]] = {
    BASELINE: bare,
    "resource_tokens": resource_tokens,
}


def rows(benchmark: str, case: str, setting: Setting, effort: Effort, goal: Goal) -> Iterator[Row]:
    """
    Send warm requests with all contenders in turns, and compare each with the baseline.
    """
    with ExitStack() as stack:
        sections = {
            name: stack.enter_context(_section(client(setting), setting.url, effort.requests))
            for name, client in CONTENDERS.items()
        }
        rounds = interleaved(sections, effort.rounds)
    for name in CONTENDERS:
        if name != BASELINE:
            pairs = [(taken[name], taken[BASELINE]) for taken in rounds]
            yield Row.compared(
                benchmark=benchmark, case=case, contender=name, unit="µs", rounds=pairs, goal=goal
            )


def _auth(setting: Setting) -> ResourceTokenAuth:
    server = AuthorizationServer(issuer=setting.authorization_server.issuer)
    client_auth = ClientSecretBasic("orders-worker", "secret")
    return ResourceTokenAuth(server, client_auth, setting.resources)


def _section(client: Any, url: str, size: int) -> Any:
    asynchronous = hasattr(client, "aclose")
    return (_async_section if asynchronous else _sync_section)(client, url, size)


@contextmanager
def _sync_section(client: Any, url: str, size: int) -> Iterator[Section]:
    def section() -> float:
        started = perf_counter()
        for _ in repeat(None, size):
            client.get(url)
        return (perf_counter() - started) / size

    with client:
        _check(client.get(url))
        yield section


@contextmanager
def _async_section(client: Any, url: str, size: int) -> Iterator[Section]:
    async def section() -> float:
        started = perf_counter()
        for _ in repeat(None, size):
            await client.get(url)
        return (perf_counter() - started) / size

    with asyncio.Runner() as runner:
        _check(runner.run(client.get(url)))
        yield lambda: runner.run(section())
        runner.run(client.aclose())


def _check(response: Any) -> None:
    scheme, _, token = response.request.headers["Authorization"].partition(" ")
    if response.status_code != 200 or scheme != "Bearer" or not token:
        raise RuntimeError("This client does not do what is to be measured.")
