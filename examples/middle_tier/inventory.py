"""
Inventory: the last service. It calls nobody.
"""

from typing import Annotated, Any

from fastapi import Depends, FastAPI

from examples.middle_tier.parts import Ledger
from resource_tokens import AuthorizationServer
from resource_tokens.inbound import InboundToken, RequireToken

__all__ = ["application"]


def application(login: AuthorizationServer) -> FastAPI:
    ledger = Ledger(RequireToken(issuer=login, audience="inventory", scopes=["stock:read"]))
    app = FastAPI()
    app.state.ledger = ledger

    @app.get("/stock/{item}")
    async def stock(item: str, token: Annotated[InboundToken, Depends(ledger)]) -> dict[str, Any]:
        return {"item": item, "left": 12, "asked_for": token.subject}

    return app
