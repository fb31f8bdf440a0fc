"""
Two resources behind one gateway, and a redirect that tries to carry a token from one to the other.

Run it: python examples/quickstart.py
"""

from __future__ import annotations

import sys

import httpx

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    Resource,
    ResourceTokenAuth,
    TokenEvent,
    UnmappedDestinationError,
)
from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer

BILLING, ORDERS = "urn:example:billing", "urn:example:orders"


def main() -> int:
    outcome = Outcome()
    events: list[TokenEvent] = []
    with (
        LocalAuthorizationServer(clients={"orders-worker": "secret"}) as login,
        LocalResourceServer(login, audiences={"/billing": BILLING, "/orders": ORDERS}) as gateway,
    ):
        billing, orders = f"{gateway.url}billing/", f"{gateway.url}orders/"
        auth = ResourceTokenAuth(
            AuthorizationServer(issuer=login.issuer),
            ClientSecretBasic("orders-worker", "secret"),
            resources={
                billing: Resource(BILLING, scopes=["invoices:read"]),
                orders: Resource(ORDERS, scopes=["orders:read"]),
            },
            on_event=events.append,
        )
        # The servers are on this machine, so no proxy of the environment leads to them.
        with httpx.Client(auth=auth, follow_redirects=True, trust_env=False) as client:
            print("One client, two resources on one host:")
            for url, resource in ((billing, BILLING), (orders, ORDERS)):
                found = client.get(f"{url}v1/recent").json()["audience"]
                outcome.check(f"{url} was shown a token for {found}", found == resource)
            client.get(f"{billing}v1/recent")
            asked = [request.resources for request in login.token_requests]
            outcome.check(
                "three requests made one token request for each resource",
                asked == [(BILLING,), (ORDERS,)],
            )

            print("\nA URL that is not on the list:")
            try:
                client.get(f"{gateway.url}status")
            except UnmappedDestinationError as error:
                outcome.check(f"{type(error).__name__} for {error.destination}", True)
            else:
                outcome.check("a request without a resource was sent", False)

            print("\nA redirect from billing to orders, on the same host:")
            gateway.redirect("/billing/v1/latest", to=f"{orders}v1/17")
            response = client.get(f"{billing}v1/latest")
            outcome.check(
                f"{response.url.path} answered {response.status_code}", response.status_code == 401
            )
            outcome.check(f"event: {events[-1].name}", events[-1].name == "token_withheld")
            arrived = dict(gateway.requests[-1].headers)
            outcome.check("the redirected request had no token", "Authorization" not in arrived)

        print("\nThe same redirect in a client that just sets the header:")
        headers = {"Authorization": auth.token_for(billing).authorization}
        with httpx.Client(headers=headers, follow_redirects=True, trust_env=False) as plain:
            plain.get(f"{billing}v1/latest")
            carried = "Authorization" in dict(gateway.requests[-1].headers)
            print(
                f"      the token for {BILLING} {'arrived' if carried else 'did not arrive'} there"
            )
    return outcome.exit_status


class Outcome:
    """
    Prints what holds and what does not.
    """

    def __init__(self) -> None:
        self.exit_status = 0

    def check(self, claim: str, holds: bool) -> None:
        print(f"  {'ok ' if holds else 'NOT'} {claim}")
        if not holds:
            self.exit_status = 1


if __name__ == "__main__":
    sys.exit(main())
