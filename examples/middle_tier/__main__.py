"""
A user calls the gateway, the gateway calls orders, and orders calls inventory: each with a token of
its own, about the same user.

Run it: python -m examples.middle_tier          (with fastapi and uvicorn installed)
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI

from examples.middle_tier import gateway, inventory, orders
from examples.middle_tier.parts import Visit
from resource_tokens import AuthorizationServer
from resource_tokens.testing import LocalAuthorizationServer

SECRETS = {"gateway": "the secret of gateway", "orders": "the secret of orders"}
AUDIENCES = {"urn:example:orders": "orders", "urn:example:inventory": "inventory"}


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """
    The URL of a service, which runs in a thread of its own.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def main() -> int:
    with LocalAuthorizationServer(clients=SECRETS, audiences=AUDIENCES) as server:
        login = AuthorizationServer(issuer=server.issuer)
        last = inventory.application(login)
        with served(last) as inventory_url:
            middle = orders.application(login, SECRETS["orders"], inventory_url)
            with served(middle) as orders_url:
                first = gateway.application(login, SECRETS["gateway"], orders_url)
                with served(first) as gateway_url, httpx.Client(trust_env=False) as browser:
                    for user in ("alice", "bob", "alice"):
                        token = server.user_token(user, audience="gateway")
                        headers = {"Authorization": f"Bearer {token}"}
                        answer = browser.get(f"{gateway_url}my/orders/7", headers=headers)
                        print(f"{user} at the gateway: {answer.status_code} {answer.json()}")
                    answer = browser.get(f"{orders_url}orders/7", headers=headers)
                    print(f"alice at orders, with the same token: {answer.status_code}")
    visits: dict[str, list[Visit]] = {
        name: app.state.ledger.visits
        for name, app in (("gateway", first), ("orders", middle), ("inventory", last))
    }
    for name, seen in visits.items():
        print(f"\n{name} has seen:")
        for visit in seen:
            print(f"  {visit.refused or f'{visit.subject}, with a token for {visit.audience[0]}'}")
    accepted = {
        name: {visit.token for visit in seen if not visit.refused} for name, seen in visits.items()
    }
    shared = accepted["gateway"] & accepted["orders"] | accepted["orders"] & accepted["inventory"]
    print(f"\nTokens that were good at more than one service: {len(shared)}")
    return len(shared)


if __name__ == "__main__":
    sys.exit(main())
