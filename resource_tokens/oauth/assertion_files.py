"""
Client authentication by a token that somebody else has signed for this workload: Kubernetes, a
SPIFFE agent, a CI system (RFC 7521 4.2, RFC 7523 2.2).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from resource_tokens.exceptions import ConfigurationError, TokenRequestError
from resource_tokens.oauth.assertions import authentication_by, check_choice
from resource_tokens.oauth.client_auth import (
    Authentication,
    ClientAuth,
    Recipient,
    checked_client_id,
)
from resource_tokens.oauth.credentials import Credential
from resource_tokens.oauth.jwt import Claims, claims_of
from resource_tokens.oauth.messages import quoted
from resource_tokens.oauth.sources import Source
from resource_tokens.tokens import Secret

__all__ = ["ClientAssertionFile"]


class _Token(NamedTuple):
    text: Secret
    claims: Claims


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ClientAssertionFile(ClientAuth):
    """
    A token in a file, which somebody else has signed for this workload and replaces before it
    expires: a Kubernetes projected service account token, a SPIFFE JWT-SVID, a CI system's token.
    The client has no secret.

    The file is read for each request. A token that is for somebody else, by its `aud`, is not
    sent: that of the cluster's API server, for example, would open the cluster.

    Args:
        path: The file, or a function that returns the token.
        client_id: The client identifier.
        audience: The `aud` of the token, where that is neither the server's issuer nor its token
            endpoint, such as `"api://AzureADTokenExchange"` for Entra ID.
        assertion_type: The `client_assertion_type`: `"jwt-bearer"`, or `"jwt-spiffe"`
            (draft-ietf-oauth-spiffe-client-auth).

    Raises:
        ConfigurationError: If an argument cannot be what it stands for. Whether there is a token
            is seen at the first request.
    """

    client_id: str
    method: str
    audience: str | None
    assertion_type: Literal["jwt-bearer", "jwt-spiffe"]
    token: Credential[_Token]
    _path: str
    _nobody: bytes = field(compare=False)

    def __init__(
        self,
        path: str | os.PathLike[str] | Callable[[], str],
        *,
        client_id: str,
        audience: str | None = None,
        assertion_type: Literal["jwt-bearer", "jwt-spiffe"] = "jwt-bearer",
    ) -> None:
        name = f"The assertion for {client_id!r}"
        source = Source.of(name, path) if callable(path) else Source.file(name, path)
        del path
        source.check()
        checked_client_id(client_id)
        check_choice("assertion_type", assertion_type, ("jwt-bearer", "jwt-spiffe"))
        if audience is not None and not (isinstance(audience, str) and audience):
            raise ConfigurationError(f"audience={audience!r} is empty or no string.")
        for attribute, value in (
            ("client_id", client_id),
            # The names of RFC 8414 2. A server that takes others' tokens announces the first.
            ("method", "private_key_jwt" if assertion_type == "jwt-bearer" else "spiffe_jwt"),
            ("audience", audience),
            ("assertion_type", assertion_type),
            ("token", Credential(partial(_token, name), source)),
            ("_path", str(source.origin) if isinstance(source.origin, Path) else ""),
            ("_nobody", secrets.token_bytes()),
        ):
            object.__setattr__(self, attribute, value)

    @property
    def rotates(self) -> bool:
        """
        Always: a file can come to hold the token of another subject.
        """
        return True

    def authenticate(self, recipient: Recipient) -> Authentication:
        """
        The token as it is now.
        """
        token = self.token.for_request(recipient.resource)
        self._check(token.claims, recipient)
        return authentication_by(token.text, self.client_id, self.assertion_type)

    def fingerprint(self) -> bytes:
        """
        A digest of whom the token is about, so that a new token for the same subject costs no
        cached access token.
        """
        try:
            claims = self.token.latest().claims
        except ConfigurationError:
            return self._nobody
        identity = (self._path, self.client_id, claims.issuer, claims.subject)
        return hashlib.sha256(json.dumps(identity).encode()).digest()

    def _check(self, claims: Claims, recipient: Recipient) -> None:
        expected = (
            {self.audience} if self.audience else {recipient.server.issuer, recipient.endpoint}
        )
        why = None
        # RFC 7523 3: "The JWT MUST contain an "exp" (expiration time) claim".
        if claims.expires_at is None:
            why = "it has no `exp`, so it would be good for ever"
        elif claims.expires_at <= recipient.now:
            ago = recipient.now - claims.expires_at
            why = f"it expired {ago:.0f} s ago. Is it still being replaced, and is the clock right?"
        # draft-ietf-oauth-rfc7523bis asks for a sole value: the token of several audiences can be
        # presented by each of them to the others.
        elif len(claims.audience) != 1 or claims.audience[0] not in expected:
            why = (
                f"it is for {quoted(', '.join(claims.audience)) or 'nobody'!r}, and not for "
                f"{' or '.join(repr(one) for one in sorted(filter(None, expected)))} alone. Have "
                "it issued for this server, or give audience= if that is its name there"
            )
        if why is not None:
            raise TokenRequestError(
                f"No token for {recipient.resource!r}: the assertion for {self.client_id!r} was "
                f"not sent: {why}.",
                recipient.resource,
            )


def _token(name: str, text: Secret) -> _Token:
    trimmed = Secret(text.reveal().strip())
    claims = claims_of(trimmed.reveal())
    if claims is None or trimmed.reveal().endswith("."):
        raise ConfigurationError(f"{name} is no signed JWT.")
    return _Token(trimmed, claims)
