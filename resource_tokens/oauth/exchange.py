"""
On behalf of somebody: the token that a service was called with, exchanged for one that is good at
the next (RFC 8693, RFC 7523 2.1).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.grants import Grant
from resource_tokens.tokens import Secret, TokenKey

__all__ = ["Exchange", "JwtBearer", "Subject", "TokenExchange"]


class Subject(NamedTuple):
    """
    On whose behalf a token is asked for.

    Attributes:
        token: What proves it: a token that was issued for this service.
        expires_at: When that token expires, in seconds since the epoch, if it is known. Nothing
            that was got with it outlives it.
    """

    token: Secret
    expires_at: float | None = None

    def __repr__(self) -> str:
        return "Subject('...')"


class Exchange(ABC):
    """
    How tokens are asked for on behalf of a subject.
    """

    __slots__ = ()

    @abstractmethod
    def on_behalf_of(self, subject: Subject) -> Grant:
        """
        The grant of one subject.
        """


class TokenExchange(Exchange):
    """
    Exchanges a subject token by RFC 8693.

    Args:
        subject_token_type: What the subject token is (RFC 8693 3): `"access_token"`, `"jwt"`,
            `"id_token"`, `"saml2"`, or a URI.
        actor_token: A token of the service itself, where the result should name it as the one who
            acts (RFC 8693 4.1).
        actor_token_type: What the actor token is.
        requested_token_type: What to ask for; left out by default, which means an access token.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    __slots__ = ("_actor", "_types")

    def __init__(
        self,
        *,
        subject_token_type: str = "access_token",  # noqa: S107 - the name of a type
        actor_token: str | None = None,
        actor_token_type: str | None = None,
        requested_token_type: str | None = None,
    ) -> None:
        self._actor = None if actor_token is None else Secret(actor_token)
        del actor_token
        # RFC 8693 2.1: actor_token_type is "REQUIRED when the actor_token parameter is present in
        # the request but MUST NOT be included otherwise."
        if (self._actor is None) != (actor_token_type is None):
            raise ConfigurationError(
                "TokenExchange: actor_token= and actor_token_type= go together (RFC 8693 2.1)."
            )
        self._types = tuple(
            None if given is None else _type_uri(given)
            for given in (subject_token_type, actor_token_type, requested_token_type)
        )

    def on_behalf_of(self, subject: Subject) -> Grant:
        """
        The grant of one subject.
        """
        subject_type, actor_type, requested_type = self._types
        parameters: list[tuple[str, str | Secret]] = [
            ("subject_token", subject.token),
            ("subject_token_type", str(subject_type)),
        ]
        if self._actor is not None:
            parameters += [("actor_token", self._actor), ("actor_token_type", str(actor_type))]
        if requested_type is not None:
            parameters.append(("requested_token_type", requested_type))
        return _Exchanged(
            "urn:ietf:params:oauth:grant-type:token-exchange", parameters, subject.expires_at
        )

    def __repr__(self) -> str:
        return f"TokenExchange(subject_token_type={self._types[0]!r})"


class JwtBearer(Exchange):
    """
    Presents a JWT as an authorization grant (RFC 7523 2.1).

    Args:
        requested_token_use: `"on_behalf_of"` for Entra ID's on-behalf-of flow.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    __slots__ = ("_use",)

    def __init__(self, *, requested_token_use: str | None = None) -> None:
        if requested_token_use not in {None, "on_behalf_of"}:
            raise ConfigurationError(
                f"JwtBearer: requested_token_use={requested_token_use!r}: use 'on_behalf_of', or "
                "leave it out."
            )
        self._use = requested_token_use

    def on_behalf_of(self, subject: Subject) -> Grant:
        """
        The grant of one subject.
        """
        parameters: list[tuple[str, str | Secret]] = [("assertion", subject.token)]
        if self._use is not None:
            parameters.append(("requested_token_use", self._use))
        return _Exchanged(
            "urn:ietf:params:oauth:grant-type:jwt-bearer", parameters, subject.expires_at
        )

    def __repr__(self) -> str:
        return f"JwtBearer(requested_token_use={self._use!r})"


class _Exchanged(Grant):
    """
    The grant of one subject. It lives as long as the request that it is for.
    """

    __slots__ = ("_parameters", "expires_at", "grant_type")
    confidential: ClassVar[bool] = True
    # A token that was issued for this service by one server is shown to no other.
    portable: ClassVar[bool] = False

    def __init__(
        self,
        grant_type: str,
        parameters: list[tuple[str, str | Secret]],
        expires_at: float | None,
    ) -> None:
        self.grant_type = grant_type  # type: ignore[misc]  # of the class elsewhere
        self._parameters = tuple(parameters)
        self.expires_at = expires_at

    def parameters(self) -> tuple[tuple[str, str | Secret], ...]:
        """
        The subject token, and the actor token if there is one.
        """
        return self._parameters

    def fingerprint(self) -> bytes:
        """
        A digest of the subject and the actor: two users never share a token.
        """
        parts: list[str | bytes] = []
        for name, value in self._parameters:
            text = value.reveal() if isinstance(value, Secret) else value
            parts += (name, hashlib.sha256(text.encode()).digest())
        return TokenKey.of(parts)

    def __repr__(self) -> str:
        return f"<{self.grant_type} of one subject>"


def _type_uri(given: str) -> str:
    if given in _TYPES:
        return f"urn:ietf:params:oauth:token-type:{given}"
    if isinstance(given, str) and ":" in given:
        return given
    raise ConfigurationError(
        f"TokenExchange: {given!r} is no token type: use {', '.join(map(repr, sorted(_TYPES)))}, "
        "or a URI (RFC 8693 3)."
    )


# RFC 8693 3, and draft-ietf-oauth-identity-assertion-authz-grant.
_TYPES = frozenset({"access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt", "id-jag"})
