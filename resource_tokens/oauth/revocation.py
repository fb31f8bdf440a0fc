"""
Revoking a token: the request to send, and the answer to believe (RFC 7009).
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Literal

from resource_tokens.exceptions import OAuthError, TokenRequestError
from resource_tokens.oauth.client_auth import Recipient
from resource_tokens.oauth.grants import ClientCredentials, Grant
from resource_tokens.oauth.messages import (
    HTTPAnswer,
    HTTPRequest,
    Members,
    foreign_text,
    form,
    json_object,
    refused_redirect,
    spellings,
)
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.tokens import Secret

__all__ = ["NoGrant", "Revocation", "in_no_name"]


class NoGrant(Grant):
    """
    For what is asked in no grant's name: what becomes of it is no news to one.
    """

    __slots__ = ()
    grant_type = ""

    def fingerprint(self) -> bytes:
        """
        The same for all.
        """
        return b""


def in_no_name(request: TokenRequest) -> TokenRequest:
    """
    The same request without its grant and what that rests on: what may be kept for as long as the
    token is.
    """
    if isinstance(request.grant, ClientCredentials) and request.discovered_from is None:
        # Nothing rests on anything.
        return request
    bare = copy(request)
    object.__setattr__(bare, "grant", _NO_GRANT)
    object.__setattr__(bare, "discovered_from", None)
    return bare


@dataclass(frozen=True, slots=True)
class Revocation:
    """
    A token that is to be revoked.

    Attributes:
        request: What it was asked for with, in no grant's name.
        token: The token.
        kind: Which one it is, as `token_type_hint` has it.
    """

    request: TokenRequest
    token: Secret
    kind: Literal["access_token", "refresh_token"]

    def message(self, endpoint: str, token_endpoint: str, now: float) -> HTTPRequest:
        """
        The request to send; made anew for each attempt. It holds the token and the client's
        credentials.

        Args:
            endpoint: Where it goes.
            token_endpoint: Where the token came from.
            now: Seconds since the epoch.

        Raises:
            TokenRequestError: If the credential cannot be read or used now.
        """
        # RFC 7009 2.1: "The client also includes its authentication credentials as described in
        # Section 2.3. of [RFC6749]." An assertion whose audience is the token endpoint names that
        # one here as well, as there is no other name of the server that all of them know.
        request = self.request
        recipient = Recipient(request.server, token_endpoint, now, request.resource.identifier)
        proof = request.client_auth.authenticate(recipient)
        headers = {
            "Accept": "application/json",
            **dict(request.server.dialect.headers),
            **proof.headers,
            "Content-Type": "application/x-www-form-urlencoded",
        }
        presented = (("token", self.token),)
        body = form((*presented, ("token_type_hint", self.kind), *proof.parameters))
        secrets = (*proof.secrets, *spellings(presented))
        return HTTPRequest("POST", endpoint, headers, body, secrets, proof.certificate)

    def check(self, answer: HTTPAnswer, secrets: tuple[Secret, ...]) -> None:
        """
        See whether an answer says that the token is revoked.

        Raises:
            OAuthError: If the server refused.
            TokenRequestError: If it did not say so.
        """
        # RFC 7009 2.2: "The content of the response body is ignored by the client as all necessary
        # information is conveyed in the response code." 200 is also for a token that is not known.
        if answer.status == 200:
            return
        if 300 <= answer.status < 400:
            name, resource = self.request.server.name, self.request.resource.identifier
            raise refused_redirect(answer, f"The revocation endpoint of {name!r}", resource)
        members = json_object(answer) or Members()
        code, description, uri = (
            foreign_text(members.get(member), secrets)
            for member in ("error", "error_description", "error_uri")
        )
        if not code:
            # RFC 7009 2.2.1: after 503 "the client must assume the token still exists".
            raise self.failed(f"the server answered {answer.status}", answer.status)
        words = f"the server said {code!r}{f' ({description})' if description else ''}"
        error = self.failed(words, answer.status)
        raise OAuthError(str(error), error.resource, error.status, code, description, uri)

    def failed(self, why: str, status: int | None = None) -> TokenRequestError:
        """
        The error for a token that may be good all the same.
        """
        resource, what = self.request.resource.identifier, self.kind.replace("_", " ")
        return TokenRequestError(
            f"The {what} for {resource!r} is not used here any more, but could not be revoked at "
            f"{self.request.server.name!r}: {why}. Whoever has a copy of it can use it until it "
            "expires.",
            resource,
            status,
        )


_NO_GRANT = NoGrant()
