"""
django-oauth-toolkit as an authorization server, and APIs that check its tokens, on loopback.
"""

import json
import sys
from collections.abc import Sequence
from typing import Literal, TypedDict

from tests.servers.child import ChildServer
from tests.servers.loopback import fetch_json, post_form, send

__all__ = ["Application", "DjangoProvider", "Exchange"]


class Application(TypedDict):
    """
    One client. The toolkit allows each a single grant.
    """

    client_id: str
    client_secret: str
    authorization_grant_type: Literal["client-credentials", "authorization-code"]


class Exchange(TypedDict):
    """
    One entry of the ledger.

    Attributes:
        origin: Where it was sent: the server's, or that of the APIs.
        path: The path and the query.
        token: The Bearer token.
        basic: Whether an `Authorization: Basic` header came with it.
        form: Every parameter but `client_secret`; a list each.
        status: None while the answer is not known yet.
    """

    origin: str
    method: str
    path: str
    token: str | None
    basic: bool
    form: dict[str, list[str]]
    status: int | None


class DjangoProvider(ChildServer):
    """
    A running server; a context manager that stops it.

    There is an API under every first segment of a path, `/orders` say: its resource identifier is
    its URL up to there, `GET` needs the scope `read` and `POST` needs `write`.

    Attributes:
        issuer: The authorization server.
        apis: The origin of the APIs, which is another.
    """

    def __init__(self, applications: Sequence[Application]) -> None:
        command = [sys.executable, "-m", "tests.servers.django_provider.site"]
        super().__init__(command, {"clients": list(applications)})
        self.issuer: str = self.ready["issuer"]
        self.apis: str = self.ready["apis"]

    def ledger(self, origin: str) -> list[Exchange]:
        """
        Every request to this origin since the start or the last `clear`, in order of arrival.
        """
        entries: list[Exchange] = fetch_json(f"{self.issuer}/_ledger")
        return [entry for entry in entries if entry["origin"] == origin]

    def clear(self) -> None:
        """
        Forget the requests so far.
        """
        send(f"{self.issuer}/_ledger", method="DELETE")

    def refresh_token(self, client_id: str, resources: Sequence[str], scope: str = "read") -> str:
        """
        A refresh token, as after a user's consent in a browser.
        """
        grant = {"client_id": client_id, "resources": list(resources), "scope": scope}
        answer = send(f"{self.issuer}/_grants", method="POST", body=json.dumps(grant).encode())
        return str(json.loads(answer)["refresh_token"])

    def issue(self, application: Application, resources: Sequence[str] = ()) -> str:
        """
        A token that some careless client has got: for several resources, or for none.
        """
        form: dict[str, str | list[str]] = {
            "grant_type": "client_credentials",
            "client_id": application["client_id"],
            "client_secret": application["client_secret"],
            "resource": list(resources),
        }
        answer = json.loads(post_form(f"{self.issuer}/token/", form))
        return str(answer["access_token"])

    def revoke(self, application: Application, token: str) -> None:
        """
        Revoke a token (RFC 7009).
        """
        form: dict[str, str | list[str]] = {
            "client_id": application["client_id"],
            "client_secret": application["client_secret"],
            "token": token,
        }
        post_form(f"{self.issuer}/revoke_token/", form)
