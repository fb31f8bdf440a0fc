"""
On whose behalf a token is asked for, and the token that proves it (RFC 8693 2.1).
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import NoReturn

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.inbound_tokens import InboundToken
from resource_tokens.tokens import AccessToken, Secret, TokenKey

__all__ = ["SubjectToken"]


class SubjectToken:
    """
    A token that this service was called with, for `auth.on_behalf_of`.

    For tokens that something else than `resource_tokens.inbound` has checked: check that it was
    meant for this service before you make one. It is sent to the authorization server that issued
    it and to nobody else, and it does not print itself.

    Args:
        token: The token itself, without `Bearer`.
        expires_at: When it expires, with a timezone. Nothing that is got with it outlives it;
            without it, that is left to the authorization server.
        issuer: Who issued it (`iss`). Without it, the auth object's own server is taken to have.
        subject: Who it speaks of (`sub`), if that is known: two tokens of one user then are known
            to be one user's.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    __slots__ = ("_hash", "_parts")

    def __init__(
        self,
        token: str,
        *,
        expires_at: datetime | None = None,
        issuer: str | None = None,
        subject: str | None = None,
    ) -> None:
        # Wrapped before it is looked at: reporters of errors show the variables of a frame.
        presented = Secret(token if isinstance(token, str) else "")
        del token
        if not _is_token(presented.reveal()):
            raise ConfigurationError(
                "SubjectToken: the token is empty, no string, or has characters that none has. "
                "Give what follows `Bearer ` in the Authorization header."
            )
        if expires_at is not None and (
            not isinstance(expires_at, datetime) or expires_at.tzinfo is None
        ):
            raise ConfigurationError(
                f"SubjectToken: expires_at={expires_at!r}: give a datetime with a timezone, such "
                "as datetime.fromtimestamp(claims['exp'], UTC)."
            )
        for name, value in (("issuer", issuer), ("subject", subject)):
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigurationError(f"SubjectToken: {name}= is a text, or left out.")
        ends = None if expires_at is None else expires_at.timestamp()
        self._parts = (presented, ends, issuer, subject)
        self._hash = hash(self._parts)

    @classmethod
    def of(
        cls, given: SubjectToken | InboundToken, to: str = "on_behalf_of()"
    ) -> SubjectToken | ConfigurationError:
        """
        What `auth.on_behalf_of` is given; or what is wrong with it, to be raised where it is no
        variable any more: it can be a token, and reporters of errors show those.

        Args:
            given: What it is given.
            to: What else than that was given it.
        """
        if isinstance(given, SubjectToken):
            return given
        if not isinstance(given, InboundToken):
            kind = type(given)
            return ConfigurationError(_WRONG.get(kind, _UNKNOWN).format(kind=kind.__name__, to=to))
        made = object.__new__(cls)
        ends = given.expires_at.timestamp()
        made._parts = (given.subject_token(), ends, given.issuer, given.subject)
        made._hash = hash(made._parts)
        return made

    @property
    def token(self) -> Secret:
        """
        The token itself.
        """
        return self._parts[0]

    @property
    def expires_at(self) -> float | None:
        """
        When it expires, in seconds since the epoch, if that is known.
        """
        return self._parts[1]

    @property
    def issuer(self) -> str | None:
        """
        Who issued it, if that is known.
        """
        return self._parts[2]

    @property
    def subject(self) -> str | None:
        """
        Who it speaks of, if that is known.
        """
        return self._parts[3]

    def digest(self) -> bytes:
        """
        A digest of the user, if it is known which; else of the token.
        """
        token, _, issuer, subject = self._parts
        if issuer is None or subject is None:
            digest = hashlib.sha256(token.reveal().encode()).digest()
            return TokenKey.of(["subject token", digest])
        return TokenKey.of(["subject", issuer, subject])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubjectToken) and self._parts == other._parts

    def __hash__(self) -> int:
        # Computed once: it is looked up on every request.
        return self._hash

    def __repr__(self) -> str:
        return "SubjectToken('...')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A token is not pickled: what is pickled can be stored and sent anywhere.")


def _is_token(text: str) -> bool:
    # RFC 6749 A.12, without the space: what stands behind `Bearer` ends there.
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


_UNKNOWN = (
    "{to} takes the InboundToken that a request came in with (resource_tokens.inbound), "
    "or a SubjectToken that you have checked yourself. It was given a {kind}."
)
_WRONG: dict[type, str] = {
    AccessToken: (
        "{to} was given an AccessToken. That is a token this service calls others with: "
        "exchanged, it would say that this service is the user. Give the InboundToken that the "
        "request came in with."
    ),
    str: (
        "{to} was given a string. Check that the token was meant for this service, then "
        "give SubjectToken(token, expires_at=..., issuer=...)."
    ),
    type(None): (
        "{to} was given None, so nobody would be acted for. Use the auth object itself "
        "to call as this service."
    ),
}
