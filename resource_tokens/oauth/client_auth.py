"""
Client authentication: how a client proves to the token endpoint who it is (RFC 6749 2.3).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote_plus

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.messages import ClientCertificate
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.tokens import Secret

__all__ = ["Authentication", "ClientAuth", "ClientSecretBasic", "ClientSecretPost", "Recipient"]


class Recipient(NamedTuple):
    """
    Whom a client authenticates to, and when.

    Attributes:
        server: The authorization server.
        endpoint: The endpoint that the request goes to.
        now: Seconds since the epoch.
    """

    server: AuthorizationServer
    endpoint: str
    now: float


@dataclass(frozen=True, slots=True)
class Authentication:
    """
    What one request carries to authenticate its client.

    Attributes:
        headers: Headers to add.
        parameters: Body parameters to add.
        secrets: What must not show up in any message, even if a server sends it back.
        certificate: The client certificate to present on the connection.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    parameters: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[Secret, ...] = ()
    certificate: ClientCertificate | None = None


class ClientAuth(ABC):
    """
    One way to authenticate a client at a token endpoint.

    Attributes:
        client_id: The client identifier (RFC 6749 2.2).
        method: The registered name of the method (RFC 8414 2,
            `token_endpoint_auth_methods_supported`).
    """

    __slots__ = ()
    client_id: str
    method: str

    @abstractmethod
    def authenticate(self, recipient: Recipient) -> Authentication:
        """
        What authenticates one request; made anew for each.
        """

    @abstractmethod
    def fingerprint(self) -> bytes:
        """
        A digest that differs when the credential does.
        """


@dataclass(frozen=True, slots=True, init=False)
class _ClientSecret(ClientAuth):
    client_id: str
    client_secret: Secret

    def __init__(self, client_id: str, client_secret: str) -> None:
        for name, value in (("client_id", client_id), ("client_secret", client_secret)):
            if not isinstance(value, str) or not value:
                raise ConfigurationError(
                    f"{type(self).__name__}: {name} is empty or no string. If it comes from the "
                    "environment, is the variable set?"
                )
            try:
                value.encode()
            except UnicodeEncodeError:
                # Without its context, which holds the value.
                valid = False
            else:
                valid = True
            if not valid:
                raise ConfigurationError(
                    f"{type(self).__name__}: {name} is no valid text. If it comes from the "
                    "environment, its bytes are not UTF-8."
                )
        object.__setattr__(self, "client_id", client_id)
        object.__setattr__(self, "client_secret", Secret(client_secret))

    def fingerprint(self) -> bytes:
        return hashlib.sha256(self.client_secret.reveal().encode()).digest()


class ClientSecretBasic(_ClientSecret):
    """
    Client id and secret in an HTTP Basic header (`client_secret_basic`, RFC 6749 2.3.1).

    Args:
        client_id: The client identifier.
        client_secret: The client secret. Read it from the environment or a file.

    Raises:
        ConfigurationError: If either is empty.
    """

    __slots__ = ()
    method = "client_secret_basic"

    def authenticate(self, recipient: Recipient) -> Authentication:
        """
        The Basic header.
        """
        client_id, secret = self.client_id, self.client_secret.reveal()
        if recipient.server.dialect.basic_credentials == "form":
            # RFC 6749 2.3.1: "The client identifier is encoded using the
            # "application/x-www-form-urlencoded" encoding algorithm", and so is the secret.
            client_id, secret = quote_plus(client_id), quote_plus(secret)
        pair = b64encode(f"{client_id}:{secret}".encode()).decode()
        return Authentication(
            headers={"Authorization": f"Basic {pair}"},
            secrets=(self.client_secret, Secret(secret), Secret(pair)),
        )


class ClientSecretPost(_ClientSecret):
    """
    Client id and secret as body parameters (`client_secret_post`, RFC 6749 2.3.1).

    Args:
        client_id: The client identifier.
        client_secret: The client secret. Read it from the environment or a file.

    Raises:
        ConfigurationError: If either is empty.
    """

    __slots__ = ()
    method = "client_secret_post"

    def authenticate(self, recipient: Recipient) -> Authentication:  # noqa: ARG002 - the same for all
        """
        The client's id and secret.
        """
        secret = self.client_secret.reveal()
        return Authentication(
            parameters=(("client_id", self.client_id), ("client_secret", secret)),
            secrets=(self.client_secret, Secret(quote_plus(secret))),
        )
