"""
A token that somebody else presents to us: what it says, and whether it was meant for us
(RFC 9068 4, RFC 7662 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from resource_tokens.oauth.jwt import audience_in, date_in
from resource_tokens.oauth.messages import quoted
from resource_tokens.tokens import Secret

__all__ = ["Expected", "InboundToken", "Refusal", "judged"]


@dataclass(frozen=True, slots=True)
class InboundToken:
    """
    A token that a request came in with, and that was found good here.

    It is another thing than an `AccessToken`, and nothing that sends requests takes it: shown to
    the next service it would say that the caller of this one is calling there. It has no
    `authorization`, and it does not pickle.

    Attributes:
        issuer: Who issued it (`iss`).
        subject: On whose behalf it is presented (`sub`); `None` if it does not say.
        client_id: The client that it was issued to; `None` if it does not say.
        audience: Everything that it is for (`aud`), this API among it.
        scopes: What it allows (`scope`, or `scp` with Entra ID and Okta).
        expires_at: When it expires, by the wall clock.
        claims: Everything that was said of it; not in its `repr`, as it can be personal.
    """

    _value: Secret = field(repr=False)
    issuer: str
    subject: str | None
    client_id: str | None
    audience: tuple[str, ...]
    scopes: frozenset[str]
    expires_at: datetime
    claims: Mapping[str, Any] = field(repr=False, compare=False)

    def subject_token(self) -> Secret:
        """
        The token itself, to exchange it for one that is good elsewhere (RFC 8693 2.1), at the
        authorization server that issued it and nowhere else.
        """
        return self._value


class Expected(NamedTuple):
    """
    What a token has to say.

    Attributes:
        issuer: Who has to have issued it.
        audience: What it has to be for.
        skew: How far the clocks may be apart, in seconds.
    """

    issuer: str
    audience: str
    skew: float


class Refusal(Exception):  # noqa: N818 - it is an outcome, and never leaves the library
    """
    Why a request is refused. Its text is safe to show to whoever sent it.

    Attributes:
        error: The code for the challenge (RFC 6750 3.1, RFC 9449 7.1).
        status: The status of the answer.
        sender: Whether the token has to be presented with a proof of possession.
        detail: More for whoever runs this API, and for nobody else.
    """

    def __init__(
        self,
        text: str,
        error: str = "invalid_token",
        status: int = 401,
        *,
        sender: bool = False,
        detail: str = "",
    ) -> None:
        super().__init__(text)
        self.error = error
        self.status = status
        self.sender = sender
        self.detail = detail


def judged(
    value: Secret,
    claims: dict[str, Any],
    expected: Expected,
    now: float,
    until: float | None = None,
) -> InboundToken:
    """
    The token with these claims, which its issuer has vouched for, if it was meant for us.

    Args:
        value: The token.
        claims: What is said of it.
        expected: What it has to say.
        now: Seconds since the epoch.
        until: When it is taken to expire if it does not say; it has to say if this is `None`.

    Raises:
        Refusal: If it is for somebody else, from somebody else, or not good at this time.
    """
    # Hydra says of a refresh token too that it is active, and for what; Cognito's ID tokens have
    # the `typ` of its access tokens. Both say here what it is.
    if claims.get("token_use", "access") not in ("access", "access_token"):
        raise Refusal("The token is no access token (token_use).")
    # RFC 9068 4: the issuer "MUST exactly match the value of the "iss" claim".
    issuer, audience = claims.get("iss"), audience_in(claims)
    if issuer != expected.issuer:
        raise Refusal(
            f"The token is from the issuer {quoted(str(issuer))!r}, and not from "
            f"{expected.issuer!r}."
        )
    # RFC 9068 4: "The resource server MUST validate that the "aud" claim contains a resource
    # indicator value corresponding to an identifier the resource server expects for itself."
    if expected.audience not in audience:
        named = quoted(", ".join(audience))
        raise Refusal(f"The token is for {named!r}, and not for {expected.audience!r}.")
    for name in ("nbf", "iat"):
        begins = date_in(claims, name)
        # A time that cannot be read is no time that has come.
        unread = begins is None and claims.get(name) is not None
        if unread or (begins is not None and begins > now + expected.skew):
            raise Refusal(f"The token is not good yet ({name}).")
    expires_at = until if claims.get("exp") is None else date_in(claims, "exp")
    if expires_at is None:
        raise Refusal("The token does not say when it expires.")
    # RFC 9068 4: "The current time MUST be before the time represented by the "exp" claim.
    # Implementers MAY provide for some small leeway".
    if now >= expires_at + expected.skew:
        raise Refusal("The token has expired.")
    subject = claims.get("sub")
    return InboundToken(
        value,
        expected.issuer,
        subject if isinstance(subject, str) and subject else None,
        _client(claims),
        audience,
        _scopes(claims),
        datetime.fromtimestamp(expires_at, UTC),
        MappingProxyType(claims),
    )


def _client(claims: Mapping[str, Any]) -> str | None:
    # RFC 9068 2.2; then OpenID Connect, Entra ID v1, Okta.
    for name in ("client_id", "azp", "appid", "cid"):
        value = claims.get(name)
        if isinstance(value, str):
            return value
    return None


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    # RFC 9068 2.2.3: `scope` as in RFC 8693 4.2, "a space-separated list of scopes". Okta writes
    # `scp` as an array, and so does Duende IdentityServer `scope`.
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        names = value.split(" ") if isinstance(value, str) else value
        if isinstance(names, list) and all(isinstance(each, str) for each in names):
            found.update(names)
    return frozenset(found - {""})
