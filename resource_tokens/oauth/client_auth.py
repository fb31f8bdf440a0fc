"""
Client authentication: how a client proves to the token endpoint who it is (RFC 6749 2.3).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote_plus

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.tokens import Secret

__all__ = ["ClientAuth", "ClientSecretBasic", "ClientSecretPost"]


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
    def headers(self) -> Mapping[str, str]:
        """
        The headers that authenticate one token request.
        """

    @abstractmethod
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """
        The body parameters that authenticate one token request.
        """

    @abstractmethod
    def secrets(self) -> tuple[str, ...]:
        """
        What must not show up in any message, even if a server sends it back.
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

    def headers(self) -> Mapping[str, str]:
        return {}

    def parameters(self) -> tuple[tuple[str, str], ...]:
        return ()

    def secrets(self) -> tuple[str, ...]:
        secret = self.client_secret.reveal()
        return (secret, quote_plus(secret))

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

    def headers(self) -> Mapping[str, str]:
        """
        The Basic header.
        """
        # RFC 6749 2.3.1: "The client identifier is encoded using the
        # "application/x-www-form-urlencoded" encoding algorithm", and so is the secret.
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret.reveal())}"
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}

    def secrets(self) -> tuple[str, ...]:
        """
        The secret, as it is and in the forms it is sent in.
        """
        return (*super().secrets(), self.headers()["Authorization"].removeprefix("Basic "))


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

    def parameters(self) -> tuple[tuple[str, str], ...]:
        """
        The client's id and secret.
        """
        return (("client_id", self.client_id), ("client_secret", self.client_secret.reveal()))
