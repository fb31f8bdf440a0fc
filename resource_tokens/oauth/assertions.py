"""
Client authentication by an assertion: what a request carries, and whom it names (RFC 7521 4.2,
RFC 7523 2.2 and 3, draft-ietf-oauth-rfc7523bis).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from resource_tokens._httpx import http
from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.client_auth import (
    Authentication,
    ClientAuth,
    Recipient,
    checked_client_id,
)
from resource_tokens.oauth.credentials import Credential
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.tokens import Secret

if TYPE_CHECKING:
    from resource_tokens.oauth.signing import SigningKey

__all__ = ["SignedAssertion", "authentication_by", "check_assertions", "check_choice"]


@dataclass(frozen=True, slots=True, repr=False)
class SignedAssertion(ClientAuth):
    """
    A JWT that the client itself signs, made anew for each request.
    """

    client_id: str
    key: Credential[SigningKey]
    algorithm: str | None
    key_id: str | None
    audience: Literal["issuer", "token_endpoint"] | None
    typ: Literal["client-authentication+jwt", "JWT"]
    lifetime: timedelta
    allow_shared_key: bool

    def __post_init__(self) -> None:
        checked_client_id(self.client_id)
        check_choice("audience", self.audience, (None, "issuer", "token_endpoint"))
        check_choice("typ", self.typ, ("client-authentication+jwt", "JWT"))
        shortest, longest = timedelta(seconds=1), timedelta(hours=1)
        if not isinstance(self.lifetime, timedelta) or not shortest <= self.lifetime <= longest:
            raise ConfigurationError(
                f"lifetime={self.lifetime!r}: give a timedelta of one second to one hour. An "
                "assertion serves one request, and servers refuse those that live long."
            )
        self.key.read()

    @property
    def rotates(self) -> bool:
        """
        Whether the key comes from a file or a function.
        """
        return self.key.rotates

    def authenticate(self, recipient: Recipient) -> Authentication:
        """
        An assertion for this one request.
        """
        issued_at = int(recipient.now)
        claims = {
            # RFC 7523 3: "For client authentication, the subject MUST be the "client_id" of the
            # OAuth client", and so is the issuer of what the client signs itself.
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self._audience(recipient),
            "iat": issued_at,
            "exp": issued_at + int(self.lifetime.total_seconds()),
            # OpenID Connect Core 9: "These tokens MUST only be used once".
            "jti": secrets.token_urlsafe(24),
        }
        key = self.key.for_request(recipient.resource)
        return authentication_by(key.signed(claims, self.typ), self.client_id)

    def fingerprint(self) -> bytes:
        """
        A digest of the public key, or of the secret.
        """
        return self.key.latest().fingerprint

    def names_endpoint(self, server: AuthorizationServer) -> bool:
        """
        Whether an assertion for this server names the token endpoint, and not the issuer.

        Raises:
            ConfigurationError: If it should name the issuer, which is not configured.
        """
        # draft-ietf-oauth-rfc7523bis: the issuer identifier is the sole value of `aud`. Ory Hydra
        # documents the token endpoint, which RFC 7523 3 had allowed.
        if (self.audience or server.dialect.assertion_audience) == "token_endpoint":
            return True
        if server.issuer is None:
            method = type(self).__name__
            raise ConfigurationError(
                f"{method} names the issuer as the audience of its assertions, and the issuer of "
                f"{server.name!r} is not configured. Give AuthorizationServer(issuer=...) as "
                "well; or, where the server wants its token endpoint to be named, "
                f"{method}(..., audience='token_endpoint')."
            )
        return False

    def _audience(self, recipient: Recipient) -> str:
        named = self.names_endpoint(recipient.server)
        return recipient.endpoint if named else str(recipient.server.issuer)


def authentication_by(
    assertion: Secret,
    client_id: str,
    kind: Literal["jwt-bearer", "jwt-spiffe"] = "jwt-bearer",
) -> Authentication:
    """
    A request that carries this assertion.
    """
    return Authentication(
        parameters=(
            # RFC 7521 4.2: optional, and "MUST identify the same client as is identified by the
            # client assertion". Entra ID wants it.
            ("client_id", client_id),
            ("client_assertion_type", f"urn:ietf:params:oauth:client-assertion-type:{kind}"),
            ("client_assertion", assertion.reveal()),
        ),
        # Without its signature an assertion is worth nothing, in case a server quotes the end.
        secrets=(assertion, Secret(assertion.reveal().rpartition(".")[2])),
    )


def check_assertions(uses: Iterable[tuple[AuthorizationServer, ClientAuth]]) -> None:
    """
    Refuse assertions that one server could present to another.

    draft-ietf-oauth-security-topics-update, audience injection: a server is free to publish
    another's token endpoint as its own, and an assertion that names this endpoint is then as good
    there. So a key that signs for several servers names issuers only. Servers of one origin are
    one party, such as the authorization servers of an Okta organisation.

    Args:
        uses: Which client authentication goes to which server.

    Raises:
        ConfigurationError: If there are such assertions, or some that could not be made at all.
    """
    origins: dict[tuple[str, bytes], set[str]] = {}
    injectable: dict[tuple[str, bytes], str] = {}
    for server, client_auth in uses:
        if isinstance(client_auth, SignedAssertion):
            key = (client_auth.client_id, client_auth.fingerprint())
            url = http.URL(server.name)
            origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
            origins.setdefault(key, set()).add(origin)
            if client_auth.names_endpoint(server) and not client_auth.allow_shared_key:
                injectable[key] = origin
    for key, origin in injectable.items():
        others = sorted(origins[key] - {origin})
        if others:
            raise ConfigurationError(
                f"The client {key[0]!r} signs with one key for {origin!r} and for "
                f"{', '.join(map(repr, others))}, and its assertions for {origin!r} name a token "
                "endpoint, which another server could claim as its own. Use a key for each "
                "server, or audience='issuer' at all of them; allow_shared_key=True takes the "
                "risk."
            )


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """
    Raises:
        ConfigurationError: If the value of an argument is none of the choices.
    """
    if value not in choices:
        raise ConfigurationError(f"{name}={value!r}: use {' or '.join(map(repr, choices))}.")
