"""
A cached request on behalf of a user, against a plain cached one: what a subject costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from time import perf_counter
from typing import Any

from benchmarks.clients import COLOURS, LIBRARIES, check
from benchmarks.measure import Effort, Goal, Row, Section, interleaved
from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ResourceTokenAuth,
    SubjectToken,
)
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["measure"]

URL = "https://inventory.example.com/v1/stock"
USERS = 100
GOAL = Goal("ratio", 1.10)

Auths = Callable[[], Any]
"""
What to give as `auth=` to the next request.
"""


def measure(effort: Effort) -> Iterator[Row]:
    """
    For each library, sync and async, through a mock transport: with a view that is there, and with
    one that is made for the request, of a user's token that has just come in.
    """
    with LocalAuthorizationServer() as server:
        for library, module in LIBRARIES.items():
            for colour, kind in COLOURS.items():
                auth = ResourceTokenAuth(
                    AuthorizationServer(issuer=server.issuer),
                    ClientSecretBasic("orders-worker", "secret"),
                    resources=["https://inventory.example.com/"],
                )
                transport = module.MockTransport(partial(_answer, module.Response))
                client = getattr(module, kind)(transport=transport)
                with ExitStack() as stack:
                    sections = {
                        name: _section(client, auths, effort.requests, stack)
                        for name, auths in _contenders(auth, server).items()
                    }
                    rounds = interleaved(sections, effort.rounds)
                for name, goal in (("a view", GOAL), ("a new view", None)):
                    yield Row.compared(
                        benchmark="on-behalf-of",
                        case=f"{library} {colour}, {name}",
                        contender="resource_tokens",
                        unit="µs",
                        rounds=[(taken[name], taken["plain"]) for taken in rounds],
                        goal=goal,
                    )


def _answer(response: Any, _: Any) -> Any:
    return response(200)


def _contenders(auth: ResourceTokenAuth, server: LocalAuthorizationServer) -> dict[str, Auths]:
    issuer = server.issuer
    tokens = [server.user_token(f"user {n}", audience="urn:example:me") for n in range(USERS)]
    views = [auth.on_behalf_of(SubjectToken(token, issuer=issuer)) for token in tokens]
    for view in views:
        view.token_for(URL)
    in_turns, coming_in = cycle(views), cycle(tokens)
    return {
        "plain": lambda: auth,
        "a view": lambda: next(in_turns),
        "a new view": lambda: auth.on_behalf_of(SubjectToken(next(coming_in), issuer=issuer)),
    }


def _section(client: Any, auths: Auths, size: int, stack: ExitStack) -> Section:
    if not asyncio.iscoroutinefunction(client.get):

        def section() -> float:
            started = perf_counter()
            for _ in range(size):
                client.get(URL, auth=auths())
            return (perf_counter() - started) / size

        check(client.get(URL, auth=auths()))
        return section

    runner = stack.enter_context(asyncio.Runner())

    async def asynchronous() -> float:
        started = perf_counter()
        for _ in range(size):
            await client.get(URL, auth=auths())
        return (perf_counter() - started) / size

    async def first() -> None:
        check(await client.get(URL, auth=auths()))

    runner.run(first())
    return lambda: runner.run(asynchronous())
