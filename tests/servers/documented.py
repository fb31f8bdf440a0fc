"""
An authorization server for a page of the documentation: it answers at the address that the page
shows, and what it was asked can be printed there.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import jwt

from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["DocumentedServer"]


class DocumentedServer:
    """
    A local authorization server under an issuer or an address of somebody else's.

    Args:
        loopback: The servers of the page, which know what address stands for what.
        shown: The issuer, or the beginning of the token endpoint, as the page writes it.
        token_endpoint: The token endpoint, likewise.
    """

    def __init__(self, loopback: Any, shown: str, token_endpoint: str) -> None:
        self._server = LocalAuthorizationServer(clients=loopback.login.clients).start()
        self._token_endpoint = token_endpoint
        loopback._origins[token_endpoint] = self._server.token_endpoint
        loopback._origins[shown] = self._server.issuer

    def issues(self, *, refresh_token: str = "", **claims: Any) -> None:
        """
        Answer the next request with a JWT of these claims, or an opaque token without any.
        """
        token = jwt.encode(claims, "k" * 32, "HS256") if claims else secrets.token_urlsafe()
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
        answer |= {"refresh_token": refresh_token}
        self._server.answer_next(200, json.dumps(answer).encode())

    def refuses(self, error: str, description: str) -> None:
        """
        Refuse the next request.
        """
        answer = {"error": error, "error_description": description}
        self._server.answer_next(400, json.dumps(answer).encode())

    def print_request(self) -> None:
        """
        Print the last token request.
        """
        print(f"POST {self._token_endpoint}")  # noqa: T201 - what a page shows
        for name, value in self._server.token_requests[-1].parameters:
            print(f"    {name}={value}")  # noqa: T201

    def stop(self) -> None:
        """
        Stop it.
        """
        self._server.stop()
