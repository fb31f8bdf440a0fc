"""
Orders: the service in the middle. To show an order to a user it asks inventory, for that user.
"""

from typing import Annotated, Any

from fastapi import Depends, FastAPI

from examples.middle_tier.parts import Ledger, calling
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

    app = FastAPI(lifespan=calling(auth))
    app.state.ledger = ledger

    @app.get("/orders/{number}")
    async def order(number: int, token: Annotated[InboundToken, Depends(ledger)]) -> dict[str, Any]:
        answer = await app.state.client.get(
            f"{inventory_url}stock/lamp", auth=auth.on_behalf_of(token)
        )
        answer.raise_for_status()
        return {"number": number, "of": token.subject, "stock": answer.json()}

    return app
