"""
Gateway: the service that users call. It asks orders, for whoever has called.
"""

from typing import Annotated, Any

from fastapi import Depends, FastAPI

from examples.middle_tier.parts import Ledger, calling
from resource_tokens import AuthorizationServer, ClientSecretBasic, Resource, ResourceTokenAuth
from resource_tokens.inbound import InboundToken, RequireToken

__all__ = ["application"]


def application(login: AuthorizationServer, secret: str, orders_url: str) -> FastAPI:
    ledger = Ledger(RequireToken(issuer=login, audience="gateway"))
    orders = Resource(
        "urn:example:orders", audience="orders", scopes=["orders:read"], subject="required"
    )
    auth = ResourceTokenAuth(
        login, ClientSecretBasic("gateway", secret), resources={orders_url: orders}
    )

    app = FastAPI(lifespan=calling(auth))
    app.state.ledger = ledger

    @app.get("/my/orders/{number}")
    async def order(number: int, token: Annotated[InboundToken, Depends(ledger)]) -> dict[str, Any]:
        # All requests of the block are made for whoever has called.
        with auth.on_behalf_of(token):
            answer = await app.state.client.get(f"{orders_url}orders/{number}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    return app
