"""
What the services have in common: a door with a book of who has stood before it, and a client to
call others with.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import httpx
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from resource_tokens import ResourceTokenAuth
from resource_tokens.inbound import InboundToken, RequireToken

__all__ = ["Ledger", "Visit", "calling", "digest"]


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


def calling(auth: ResourceTokenAuth) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """
    The life of a service that calls others: with one client, `app.state.client`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The servers are on this machine, so no proxy of the environment leads to them.
        async with httpx.AsyncClient(auth=auth, trust_env=False) as client:
            app.state.client = client
            yield

    return lifespan


def digest(token: str) -> str:
    """
    What a ledger keeps of a token: enough to know it again, and not to use it.
    """
    return hashlib.sha256(token.encode()).hexdigest() if token else ""
