"""
The door of a service, and a book of who has stood before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from resource_tokens.inbound import InboundToken, RequireToken

__all__ = ["Ledger", "Visit", "digest"]


@dataclass(frozen=True)
class Visit:
    """
    A request, whether it was let in or not.

    Attributes:
        token: A digest of the token; empty if there was none.
        audience: Whom the token was for.
        subject: On whose behalf it was; `None` if it was refused, and so nobody knows.
        refused: Why, if it was.
    """

    token: str
    audience: tuple[str, ...] = ()
    subject: str | None = None
    refused: str = ""


class Ledger:
    """
    A dependency of FastAPI: `RequireToken`, and whatever it decides is written down.
    """

    def __init__(self, require: RequireToken) -> None:
        self.visits: list[Visit] = []
        self._require = require

    async def __call__(self, connection: HTTPConnection) -> InboundToken:
        shown = digest(connection.headers.get("Authorization", "").partition(" ")[2])
        try:
            token = await self._require(connection)
        except HTTPException as refusal:
            self.visits.append(Visit(shown, refused=str(refusal.detail)))
            raise
        self.visits.append(Visit(shown, token.audience, token.subject))
        return token


def digest(token: str) -> str:
    """
    What a ledger keeps of a token: enough to know it again, and not to use it.
    """
    return hashlib.sha256(token.encode()).hexdigest() if token else ""
