"""
A request with a token in the cache, through a mock transport: all that is left is our own work.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from benchmarks.clients import COLOURS, LIBRARIES, Setting, rows
from benchmarks.measure import Effort, Goal, Row
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["measure"]

RULES = (1, 1_000)
GOAL = Goal("ratio", 1.10)


def measure(effort: Effort) -> Iterator[Row]:
    """
    Our auth against a static header, for each library, sync and async, with few and many rules.
    """
    with LocalAuthorizationServer() as server:
        for (library, module), (colour, client), rules in product(
            LIBRARIES.items(), COLOURS.items(), RULES
        ):
            answer = module.Response
            options = {"transport": module.MockTransport(lambda _, answer=answer: answer(200))}
            resources = [f"https://api-{number}.example.com/" for number in range(rules)]
            url = f"{resources[rules // 2]}v1/stock"
            setting = Setting(server, getattr(module, client), options, resources, url)
            case = f"{library} {colour}, {rules:,} {'rule' if rules == 1 else 'rules'}"
            yield from rows("mock-request", case, setting, effort, GOAL)
