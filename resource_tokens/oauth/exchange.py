"""
On behalf of somebody: the token that a service was called with, exchanged for one that is good at
the next (RFC 8693, RFC 7523 2.1, and the two drafts that join them: identity chaining, ID-JAG).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from resource_tokens.exceptions import (
    ConfigurationError,
    EgressBlockedError,
    ResourceTokensError,
)
from resource_tokens.oauth.grants import Answers, Grant
from resource_tokens.oauth.sources import Source, TextSource
from resource_tokens.oauth.subject_tokens import SubjectToken
from resource_tokens.tokens import AccessToken, Secret, TokenKey

if TYPE_CHECKING:
    from resource_tokens.oauth.token_endpoint import TokenRequest

__all__ = ["Exchange", "JwtBearer", "TokenExchange"]

Parameters = tuple[tuple[str, str | Secret], ...]


class Exchange(ABC):
    """
    How tokens are asked for on behalf of a subject.

    Attributes:
        grant_type: As of its grants.
        issuers: Whose subject tokens the authorization server is shown, besides its own.
    """

    __slots__ = ("_parts", "issuers")
    grant_type: ClassVar[str]

    def __init__(self, issuers: Iterable[str], *parts: object) -> None:
        named = type(self).__name__
        if isinstance(issuers, str) or not isinstance(issuers, Iterable):
            raise ConfigurationError(f"{named}: issuers={issuers!r} is no list of issuers.")
        self.issuers = frozenset(issuers)
        if not all(isinstance(issuer, str) and issuer for issuer in self.issuers):
            raise ConfigurationError(f"{named}: issuers= has something in it that is no issuer.")
        self._parts = (self.issuers, *parts)

    @abstractmethod
    def on_behalf_of(self, subject: SubjectToken) -> Grant:
        """
        The grant of one subject. It says where it may go (`Grant.may_go_to`).
        """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)


class TokenExchange(Exchange):
    """
    Exchanges a subject token by RFC 8693.

    Args:
        subject_token_type: What the subject token is (RFC 8693 3): `"access_token"`, `"jwt"`,
            `"id_token"`, `"saml2"`, or a URI.
        actor_token: A token of the service itself, where the result should name it as the one who
            acts (RFC 8693 4.1): the text, a function that returns it, or the path of a file. With
            another actor token, other tokens are asked for.
        actor_token_type: What the actor token is.
        requested_token_type: What to ask for; left out by default, which means an access token.
        issuers: Issuers whose subject tokens are sent to the authorization server although it has
            not issued them. By default it is shown its own, and nobody else's.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    __slots__ = ("_actor", "_types")
    grant_type = "urn:ietf:params:oauth:grant-type:token-exchange"

    def __init__(
        self,
        *,
        subject_token_type: str = "access_token",  # noqa: S107 - the name of a type
        actor_token: TextSource | None = None,
        actor_token_type: str | None = None,
        requested_token_type: str | None = None,
        issuers: Iterable[str] = (),
    ) -> None:
        name = "TokenExchange: actor_token"
        self._actor = None if actor_token is None else Source.of(name, actor_token)
        del actor_token
        # RFC 8693 2.1: actor_token_type is "REQUIRED when the actor_token parameter is present in
        # the request but MUST NOT be included otherwise."
        if (self._actor is None) != (actor_token_type is None):
            raise ConfigurationError(
                "TokenExchange: actor_token= and actor_token_type= go together (RFC 8693 2.1)."
            )
        if self._actor is not None:
            self._actor.check()
        self._types = tuple(
            None if given is None else _type_uri(given)
            for given in (subject_token_type, actor_token_type, requested_token_type)
        )
        super().__init__(issuers, self._actor, self._types)

    def on_behalf_of(self, subject: SubjectToken) -> Grant:
        """
        The grant of one subject.

        Raises:
            ConfigurationError: If the actor token cannot be read.
        """
        return self._grant(subject)

    def assertion_for(self, subject: SubjectToken, issuer: str) -> Grant:
        """
        The grant with which a JWT is asked for that another authorization server takes.

        Args:
            subject: Who it is to be about.
            issuer: That server's issuer identifier.

        Raises:
            ConfigurationError: If the actor token cannot be read.
        """
        grant = self._grant(subject)
        # Here the audience is a server, and the API is named to that one. So it is in identity
        # chaining (draft-ietf-oauth-identity-chaining) and for an ID-JAG
        # (draft-ietf-oauth-identity-assertion-authz-grant), which knows no other way.
        grant.target = (("audience", issuer),)
        wanted = (self._types[2],) if self._types[2] else grant.answers.issued_token_types[::-1]
        # RFC 8693 2.2.1: "N_A" if what was issued is no access token.
        grant.answers = Answers("assertion of the type asked for", wanted, ("n_a", "bearer"))
        return grant

    def _grant(self, subject: SubjectToken) -> _Exchanged:
        subject_type, actor_type, requested_type = self._types
        parameters: list[tuple[str, str | Secret]] = [("subject_token_type", str(subject_type))]
        if self._actor is not None:
            parameters += [
                ("actor_token", self._actor.read()),
                ("actor_token_type", str(actor_type)),
            ]
        if requested_type is not None:
            parameters.append(("requested_token_type", requested_type))
        rotates = self._actor is not None and self._actor.rotates
        return _Exchanged(
            self.grant_type,
            ("subject_token", subject),
            tuple(parameters),
            self.issuers,
            rotates=rotates,
        )

    def __repr__(self) -> str:
        return f"TokenExchange(subject_token_type={self._types[0]!r})"


class JwtBearer(Exchange):
    """
    Presents a JWT as an authorization grant (RFC 7523 2.1).

    Args:
        requested_token_use: `"on_behalf_of"` for Entra ID's on-behalf-of flow.
        first: For an API behind another authorization server (identity chaining, ID-JAG), which is
            a `Resource` with its own `server=` and `client_auth=`: how the auth object's own server
            is asked for the JWT to present there, such as
            `TokenExchange(requested_token_type="id-jag")`. It is asked for that server and goes to
            no other, and to no API.
        issuers: As for `TokenExchange`.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    __slots__ = ("_use", "first")
    grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer"

    def __init__(
        self,
        *,
        requested_token_use: str | None = None,
        first: TokenExchange | None = None,
        issuers: Iterable[str] = (),
    ) -> None:
        super().__init__(issuers, requested_token_use, first)
        if first is not None and (not isinstance(first, TokenExchange) or self.issuers):
            raise ConfigurationError(
                "JwtBearer: first= is a TokenExchange, and issuers= is for that one, as it is what "
                "presents the subject token."
            )
        if requested_token_use not in {None, "on_behalf_of"}:
            raise ConfigurationError(
                f"JwtBearer: requested_token_use={requested_token_use!r}: use 'on_behalf_of', or "
                "leave it out."
            )
        self._use = requested_token_use
        self.first = first

    def on_behalf_of(self, subject: SubjectToken) -> Grant:
        """
        The grant of one subject.
        """
        return _Exchanged(self.grant_type, ("assertion", subject), self._extra(), self.issuers)

    def chained(self, first: TokenRequest) -> Grant:
        """
        The grant that presents the answer to a request of `first.assertion_for`.
        """
        return _Chained(first, self._extra())

    def _extra(self) -> Parameters:
        return () if self._use is None else (("requested_token_use", self._use),)

    def __repr__(self) -> str:
        return f"JwtBearer(requested_token_use={self._use!r})"


class _Exchanged(Grant):
    """
    The grant of one subject. It lives as long as the requests that it is for.
    """

    __slots__ = (
        "_is_known",
        "_issuer",
        "_issuers",
        "_parameters",
        "answers",
        "expires_at",
        "grant_type",
        "rotates",
        "subject",
        "target",
    )
    confidential: ClassVar[bool] = True
    portable: ClassVar[bool] = False

    def __init__(
        self,
        grant_type: str,
        presented: tuple[str, SubjectToken],
        parameters: Parameters,
        issuers: frozenset[str],
        *,
        rotates: bool = False,
    ) -> None:
        name, subject = presented
        self.grant_type = grant_type  # type: ignore[misc]  # of the class elsewhere
        self._parameters = ((name, subject.token), *parameters)
        self._issuer, self._issuers = subject.issuer, issuers
        self.subject = subject.digest()
        self._is_known = subject.issuer is not None and subject.subject is not None
        self.expires_at = subject.expires_at
        self.rotates = rotates
        self.answers, self.target = Grant.answers, Grant.target

    def parameters(self) -> Parameters:
        """
        The subject token, and the actor token if there is one.
        """
        return self._parameters

    def fingerprint(self) -> bytes:
        """
        A digest of the subject and the actor: two users never share a token.
        """
        return _digest(self._parameters)

    def principal(self) -> bytes:
        """
        A digest of the user, if it is known which; else of all that is presented.
        """
        return self.subject if self._is_known else self.fingerprint()

    def may_go_to(self, issuer: str | None, *, own: bool, configured: bool) -> bool:
        """
        A subject token is shown to the server that issued it, or to one that was configured to
        take those of its issuer (RFC 9700 4.4).
        """
        if self._issuer is None:
            return own
        return issuer == self._issuer or (configured and self._issuer in self._issuers)

    def kept_from(self, server: str, resource: str) -> ResourceTokensError:
        """
        The error for a server that it may not go to.
        """
        if self._issuer is None:
            why = "it is not known who issued it. Say so: SubjectToken(..., issuer=...)."
        else:
            why = (
                f"it was issued by {self._issuer!r}. If that server is to take such tokens, name "
                "the issuer: exchange=TokenExchange(issuers=[...]) or JwtBearer(issuers=[...])."
            )
        return EgressBlockedError(
            f"No token for {resource!r}: the subject token would go to {server!r}, but {why}",
            server,
            resource,
            "foreign_issuer",
        )

    def __repr__(self) -> str:
        return f"<{self.grant_type} of one subject>"


class _Chained(Grant):
    """
    A grant that presents what another authorization server says of the subject to the next.
    """

    __slots__ = ("_assertion", "_extra", "expires_at", "first", "rotates", "subject")
    grant_type = JwtBearer.grant_type
    confidential: ClassVar[bool] = True
    portable: ClassVar[bool] = False

    def __init__(self, first: TokenRequest, extra: Parameters, assertion: Parameters = ()) -> None:
        # It is set here alone, so that it can be less than what it overrides.
        self.first: TokenRequest = first  # pyright: ignore[reportIncompatibleVariableOverride]
        self._extra = extra
        self._assertion = assertion
        self.expires_at, self.rotates = first.grant.expires_at, first.grant.rotates
        self.subject = first.grant.subject

    def presenting(self, assertion: AccessToken) -> Grant:
        """
        This grant, presenting the answer to `first`.
        """
        presented = ("assertion", Secret(assertion.reveal()))
        return _Chained(self.first, self._extra, (presented,))

    def parameters(self) -> Parameters:
        """
        The assertion, once it is there.
        """
        return (*self._assertion, *self._extra)

    def fingerprint(self) -> bytes:
        """
        A digest of what is asked for first: the assertion itself is another one each time.
        """
        return TokenKey.of(["first", self.first.key, _digest(self._extra)])

    def principal(self) -> bytes:
        """
        As of the subject.
        """
        return self.first.grant.principal()

    def may_go_to(self, issuer: str | None, *, own: bool, configured: bool) -> bool:  # noqa: ARG002
        """
        An assertion goes to the server that it was asked for.
        """
        return issuer == self.first.resource.identifier

    def __repr__(self) -> str:
        return f"<{self.grant_type} of one subject, by way of {self.first.server.name!r}>"


def _digest(parameters: Parameters) -> TokenKey:
    parts: list[str | bytes] = []
    for name, value in parameters:
        text = value.reveal() if isinstance(value, Secret) else value
        parts += (name, hashlib.sha256(text.encode()).digest())
    return TokenKey.of(parts)


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
