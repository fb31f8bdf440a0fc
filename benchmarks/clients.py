"""
The contenders: HTTP clients that send a token, each in its own way.

To compare with another library, add a function to `CONTENDERS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from time import perf_counter
from types import ModuleType
from typing import Any

import httpx
import httpx2

from benchmarks import servers
from benchmarks.measure import Effort, Goal, Row, Section, interleaved
from benchmarks.peers import Peer
from resource_tokens import AuthorizationServer, ClientSecretBasic, Resource, ResourceTokenAuth
from resource_tokens.testing import LocalAuthorizationServer

__all__ = [
    "BASELINE",
    "COLOURS",
    "CONTENDERS",
    "LIBRARIES",
    "Setting",
    "async_section",
    "check",
    "getter",
    "resource_tokens",
    "rows",
    "sync_section",
]

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
    client: type[Any]
    options: Mapping[str, Any]
    resources: Sequence[str | Resource]
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


def rows(
    benchmark: str,
    case: str,
    setting: Setting,
    effort: Effort,
    goal: Goal,
    *,
    contenders: Mapping[str, Callable[[Setting], Any]] = CONTENDERS,
) -> Iterator[Row]:
    """
    Send warm requests with all contenders in turns, and compare each with the baseline.
    """
    with ExitStack() as stack:
        section = async_section if setting.client.__name__ == "AsyncClient" else sync_section
        sections = {
            name: stack.enter_context(
                section(client(setting), repeat(setting.url), effort.requests)
            )
            for name, client in contenders.items()
        }
        rounds = interleaved(sections, effort.rounds)
    for name in contenders:
        if name != BASELINE:
            pairs = [(taken[name], taken[BASELINE]) for taken in rounds]
            yield Row.compared(
                benchmark=benchmark,
                case=case,
                contender=name,
                unit="µs",
                rounds=pairs,
                goal=goal if name == resource_tokens.__name__ else None,
            )


def _auth(setting: Setting) -> ResourceTokenAuth:
    server = AuthorizationServer(issuer=setting.authorization_server.issuer)
    client_auth = ClientSecretBasic("orders-worker", "secret")
    return ResourceTokenAuth(server, client_auth, setting.resources)


@contextmanager
def sync_section(client: Any, urls: Iterator[str], size: int) -> Iterator[Section]:
    """
    A section that sends a request to each of the next `size` URLs; the client is closed at the end.
    """

    def section() -> float:
        wanted = list(islice(urls, size))
        started = perf_counter()
        for url in wanted:
            client.get(url)
        return (perf_counter() - started) / size

    with closing(client):
        check(client.get(next(urls)))
        yield section


@contextmanager
def async_section(client: Any, urls: Iterator[str], size: int) -> Iterator[Section]:
    """
    The same with an async client, on asyncio.
    """

    async def section() -> float:
        wanted = list(islice(urls, size))
        started = perf_counter()
        for url in wanted:
            await client.get(url)
        return (perf_counter() - started) / size

    async def first() -> None:
        check(await client.get(next(urls)))

    with asyncio.Runner() as runner:
        runner.run(first())
        yield lambda: runner.run(section())
        runner.run(client.aclose())


@contextmanager
def getter(peer: Peer, setting: servers.Setting) -> Iterator[Callable[[str], Any]]:
    """
    The `get` of a peer's client, for one request after another, run to its end if it is async.
    """
    if peer.blocking is not None:
        with closing(peer.blocking(setting)) as client:
            yield client.get
    elif peer.asynchronous is not None:
        with asyncio.Runner() as runner:
            client = peer.asynchronous(setting)
            yield lambda url: runner.run(client.get(url))
            runner.run(client.aclose())


def check(response: Any) -> None:
    """
    Raise if the request was not let in.
    """
    if response.status_code != 200:
        raise RuntimeError(f"This client does not do what is to be measured: {response}.")
