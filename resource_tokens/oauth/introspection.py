"""
Asking the authorization server what an opaque token is (RFC 7662).
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote_plus, urlencode

from resource_tokens._addresses import Reach
from resource_tokens.oauth.client_auth import ClientAuth, Recipient
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest, Members, json_object
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.tokens import Secret

__all__ = ["introspected", "introspection_request"]


def introspection_request(
    token: Secret, client_auth: ClientAuth, recipient: Recipient, reach: Reach
) -> HTTPRequest:
    """
    The question. It holds the token and the client's credentials.

    Args:
        token: What is asked about.
        client_auth: Who asks. RFC 7662 2.1: "the endpoint MUST also require some form of
            authorization", or anybody could try which tokens are good.
        recipient: Whom it goes to.
        reach: How near the address may be that it goes to.

    Raises:
        TokenRequestError: If the credential cannot be used now.
    """
    proof = client_auth.authenticate(recipient)
    parameters = (("token", token.reveal()), ("token_type_hint", "access_token"), *proof.parameters)
    message = HTTPRequest(
        "POST",
        recipient.endpoint,
        {
            # RFC 7662 2.2: the answer is "in "application/json" format".
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            **proof.headers,
        },
        urlencode(parameters).encode("ascii"),
        (token, Secret(quote_plus(token.reveal())), *proof.secrets),
        proof.certificate,
    )
    return replace(message, reach=reach)


def introspected(answer: HTTPAnswer, server: AuthorizationServer) -> Members | None:
    """
    What is said of a token; `None` if it is not good (any more), or of another kind.

    Raises:
        ValueError: If the answer says neither; its text is safe to show.
    """
    said = json_object(answer) if answer.status == 200 else None
    # RFC 7662 2.2: `active` is "REQUIRED. Boolean indicator". A string "false" is no such thing,
    # and would be true.
    if said is None or not isinstance(said.get("active"), bool):
        raise ValueError(
            f"the introspection endpoint of {server.name!r} answered {answer.status} and did not "
            "say whether the token is active"
        )
    # A member that is null says nothing.
    members = {name: value for name, value in said.items() if value is not None}
    # RFC 9449 6.2: what a token is bound to is in `cnf`, as in a JWT.
    bound_to_nothing = str(said.get("token_type")).lower() == "dpop" and "cnf" not in members
    if not said["active"] or bound_to_nothing:
        return None
    # RFC 7662 2.2: `iss` is OPTIONAL there. Nobody else was asked, so it was that issuer.
    return Members({"iss": server.issuer, **members})
