"""
Fifty requests at once to five APIs, without a token at hand: one token request for each API.

Run it: python examples/async_fanout.py          (on asyncio)
        python examples/async_fanout.py trio     (on trio, if it is installed)
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import anyio
import httpx

from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth
from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer

NAMES = ("billing", "inventory", "orders", "reports", "shipping")
REQUESTS = 50


async def main() -> int:
    with ExitStack() as servers:
        login = servers.enter_context(LocalAuthorizationServer(clients={"fanout": "secret"}))
        # Slow enough that all requests wait for a token before the first one is there.
        login.delay = timedelta(milliseconds=200)
        apis = {
            f"urn:example:{name}": servers.enter_context(
                LocalResourceServer(login, audience=f"urn:example:{name}")
            )
            for name in NAMES
        }
        auth = ResourceTokenAuth(
            AuthorizationServer(issuer=login.issuer),
            ClientSecretBasic("fanout", "secret"),
            resources={api.url: resource for resource, api in apis.items()},
        )
        answers: Counter[tuple[int, str]] = Counter()

        # The servers are on this machine, so no proxy of the environment leads to them.
        async with httpx.AsyncClient(auth=auth, trust_env=False) as client:

            async def call(url: str) -> None:
                response = await client.get(url)
                answers[response.status_code, response.json().get("audience", "")] += 1

            async with anyio.create_task_group() as tasks:
                for number in range(REQUESTS):
                    tasks.start_soon(call, list(apis.values())[number % len(apis)].url)

        asked = Counter(resource for r in login.token_requests for resource in r.resources)
        tokens = [token for api in apis.values() for token in api.tokens_seen()]

    print(f"{answers.total()} requests to {len(apis)} APIs at once:")
    for (status, resource), count in sorted(answers.items()):
        print(f"  {count} answers {status} from {resource}, token requests: {asked[resource]}")
    print(f"Different tokens: {len(set(tokens))}; seen by more than one API: {repeated(tokens)}")

    as_it_should_be = (
        answers == {(200, resource): REQUESTS // len(apis) for resource in apis}
        and asked == dict.fromkeys(apis, 1)
        and len(tokens) == len(apis)
        and repeated(tokens) == 0
    )
    return 0 if as_it_should_be else 1


def repeated(tokens: list[str]) -> int:
    return len(tokens) - len(set(tokens))


if __name__ == "__main__":
    sys.exit(anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio"))
