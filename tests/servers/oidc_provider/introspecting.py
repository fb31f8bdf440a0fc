"""
An API for opaque tokens: it asks the authorization server about each.
"""

from typing import Any
from urllib.error import HTTPError

import jwt

from tests.servers.apis import LedgerApi
from tests.servers.oidc_provider import OidcProvider

__all__ = ["IntrospectingApi"]


class IntrospectingApi(LedgerApi):
    """
    A resource server that introspects the Bearer token: active, and with its own `aud`.

    Args:
        audience: Its identifier.
        provider: The server to ask.
        client_id: As whom to ask.
        client_secret: The secret of that client.
    """

    def __init__(
        self, audience: str, *, provider: OidcProvider, client_id: str, client_secret: str
    ) -> None:
        self._provider = provider
        self._credentials = (client_id, client_secret)
        super().__init__(audience, issuer=provider.issuer)

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        try:
            claims = self._provider.introspected(token, *self._credentials)
        except HTTPError as error:
            # A JWT is not looked at there: whoever has one is to verify it.
            raise jwt.InvalidTokenError(str(error)) from error
        if not claims["active"] or claims["aud"] != audience:
            raise jwt.InvalidTokenError("inactive, or for another API")
        return claims
