"""
Orders: the service in the middle. To show an order to a user it asks inventory, for that user.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI

from examples.middle_tier.ledger import Ledger
from resource_tokens import AuthorizationServer, ClientSecretBasic, Resource, ResourceTokenAuth
from resource_tokens.inbound import InboundToken, RequireToken

__all__ = ["application"]


def application(login: AuthorizationServer, secret: str, inventory_url: str) -> FastAPI:
    ledger = Ledger(RequireToken(issuer=login, audience="orders", scopes=["orders:read"]))
    inventory = Resource(
        "urn:example:inventory",
        audience="inventory",
        scopes=["stock:read"],
        # Never with the rights of this service itself.
        subject="required",
    )
    auth = ResourceTokenAuth(
        login, ClientSecretBasic("orders", secret), resources={inventory_url: inventory}
    )

    @asynccontextmanager
    async def with_client(app: FastAPI) -> AsyncIterator[None]:
        # The servers are on this machine, so no proxy of the environment leads to them.
        async with httpx.AsyncClient(auth=auth, trust_env=False) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=with_client)
    app.state.ledger = ledger

    @app.get("/orders/{number}")
    async def order(number: int, token: Annotated[InboundToken, Depends(ledger)]) -> dict[str, Any]:
        answer = await app.state.client.get(
            f"{inventory_url}stock/lamp", auth=auth.on_behalf_of(token)
        )
        answer.raise_for_status()
        return {"number": number, "of": token.subject, "stock": answer.json()}

    return app
