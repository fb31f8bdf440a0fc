"""
Client authentication: how a client proves to the token endpoint who it is (RFC 6749 2.3).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple
from urllib.parse import quote_plus

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.credentials import Credential
from resource_tokens.oauth.messages import ClientCertificate
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.sources import Source, TextSource, is_text
from resource_tokens.tokens import Secret

__all__ = [
    "Authentication",
    "ClientAuth",
    "ClientSecretBasic",
    "ClientSecretPost",
    "PublicClient",
    "Recipient",
    "checked_client_id",
]


class Recipient(NamedTuple):
    """
    Whom a client authenticates to, and when.

    Attributes:
        server: The authorization server.
        endpoint: The endpoint that the request goes to.
        now: Seconds since the epoch.
        resource: What a token is asked for, for messages.
    """

    server: AuthorizationServer
    endpoint: str
    now: float
    resource: str


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
        confidential: Whether it proves anything. A client that cannot is a public one (RFC 6749
            2.1), and gets no token for itself.
    """

    __slots__ = ()
    client_id: str
    method: str
    confidential: ClassVar[bool] = True

    @property
    def rotates(self) -> bool:
        """
        Whether the credential, and with it the fingerprint, can change.
        """
        return False

    @abstractmethod
    def authenticate(self, recipient: Recipient) -> Authentication:
        """
        What authenticates one request; made anew for each.

        Raises:
            TokenRequestError: If the credential cannot be read or used now.
            ConfigurationError: If it can never be used at this server.
        """

    @abstractmethod
    def fingerprint(self) -> bytes:
        """
        A digest that differs when the credential does.
        """

    def __repr__(self) -> str:
        # Of one that is still being made as well: reporters of errors print it.
        return f"{type(self).__name__}(client_id={getattr(self, 'client_id', None)!r})"


def checked_client_id(client_id: object) -> str:
    """
    A client identifier that can be sent.

    Raises:
        ConfigurationError: If it is none.
    """
    if not isinstance(client_id, str) or not client_id:
        raise ConfigurationError(
            "client_id is empty or no string. If it comes from the environment, is the variable "
            "set?"
        )
    if not is_text(client_id):
        raise ConfigurationError(
            "client_id is no valid text. If it comes from the environment, its bytes are not UTF-8."
        )
    return client_id


@dataclass(frozen=True, slots=True, init=False, repr=False)
class _ClientSecret(ClientAuth):
    client_id: str
    client_secret: Credential[Secret]

    def __init__(self, client_id: str, client_secret: TextSource) -> None:
        source = Source.of(f"The client_secret of {client_id!r}", client_secret)
        del client_secret
        object.__setattr__(self, "client_id", checked_client_id(client_id))
        object.__setattr__(self, "client_secret", Credential(_itself, source))
        self.client_secret.read()

    @property
    def rotates(self) -> bool:
        """
        Whether the secret comes from a file or a function.
        """
        return self.client_secret.rotates

    def fingerprint(self) -> bytes:
        """
        A digest of the secret.
        """
        return hashlib.sha256(self.client_secret.latest().reveal().encode()).digest()


def _itself(secret: Secret) -> Secret:
    return secret


class ClientSecretBasic(_ClientSecret):
    """
    Client id and secret in an HTTP Basic header (`client_secret_basic`, RFC 6749 2.3.1).

    Args:
        client_id: The client identifier.
        client_secret: The client secret; or, if it rotates, the `pathlib.Path` of a file that
            holds it or a function that returns it. A `str` is the secret and never a path.

    Raises:
        ConfigurationError: If either is empty, or the secret cannot be read.
    """

    __slots__ = ()
    method = "client_secret_basic"

    def authenticate(self, recipient: Recipient) -> Authentication:
        """
        The Basic header.
        """
        plain = self.client_secret.for_request(recipient.resource)
        client_id, secret = self.client_id, plain.reveal()
        if recipient.server.dialect.basic_credentials == "form":
            # RFC 6749 2.3.1: "The client identifier is encoded using the
            # "application/x-www-form-urlencoded" encoding algorithm", and so is the secret.
            client_id, secret = quote_plus(client_id), quote_plus(secret)
        pair = b64encode(f"{client_id}:{secret}".encode()).decode()
        return Authentication(
            headers={"Authorization": f"Basic {pair}"},
            secrets=(plain, Secret(secret), Secret(pair)),
        )


class ClientSecretPost(_ClientSecret):
    """
    Client id and secret as body parameters (`client_secret_post`, RFC 6749 2.3.1).

    Args:
        client_id: The client identifier.
        client_secret: The client secret; or, if it rotates, the `pathlib.Path` of a file that
            holds it or a function that returns it. A `str` is the secret and never a path.

    Raises:
        ConfigurationError: If either is empty, or the secret cannot be read.
    """

    __slots__ = ()
    method = "client_secret_post"

    def authenticate(self, recipient: Recipient) -> Authentication:
        """
        The client's id and secret.
        """
        plain = self.client_secret.for_request(recipient.resource)
        return Authentication(
            parameters=(("client_id", self.client_id), ("client_secret", plain.reveal())),
            secrets=(plain, Secret(quote_plus(plain.reveal()))),
        )


@dataclass(frozen=True, slots=True, repr=False)
class PublicClient(ClientAuth):
    """
    A client that has no credential (`none`, RFC 6749 2.1). It says who it is and proves nothing.

    It is for grants that somebody else has given, such as a refresh token. Client credentials
    need a client that can prove who it is.

    Args:
        client_id: The client identifier.

    Raises:
        ConfigurationError: If it is empty.
    """

    method = "none"
    # RFC 6749 4.4: "The client credentials grant type MUST only be used by confidential clients."
    confidential = False
    client_id: str

    def __post_init__(self) -> None:
        checked_client_id(self.client_id)

    def authenticate(self, recipient: Recipient) -> Authentication:  # noqa: ARG002 - the same for all
        """
        The client's id alone.
        """
        return Authentication(parameters=(("client_id", self.client_id),))

    def fingerprint(self) -> bytes:
        """
        The same for all, as there is no credential.
        """
        return b""
