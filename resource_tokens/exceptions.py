"""
Every error this library raises.

    ResourceTokensError
      ConfigurationError (also ValueError)   wrong at construction, before any request
      UnmappedDestinationError               no resource is mapped to this URL
      EgressBlockedError                     a hop would have carried a token elsewhere
      AudienceMismatchError                  the token is not (only) for the resource asked for
      TokenRequestError                      no usable answer from the token endpoint
        OAuthError                           it refused: error, error_description, error_uri
      TokenRefusedError                      a request came in without a token that is good here

All of them pickle, and none holds a token, secret, client or request.
They do not subclass httpx's errors: there are two libraries, and a token that could not be had is
not a failed request.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "AudienceMismatchError",
    "ConfigurationError",
    "EgressBlockedError",
    "OAuthError",
    "ResourceTokensError",
    "TokenRefusedError",
    "TokenRequestError",
    "UnmappedDestinationError",
]


class ResourceTokensError(Exception):
    """
    Base of every error of this library.

    `str(error)` says what happened, to which resource or destination, and what to do next.
    """

    def __str__(self) -> str:
        # The other arguments are the attributes below; they are in `args` so that pickle and
        # the copies made for waiters need nothing else.
        return str(self.args[0]) if self.args else ""


class ConfigurationError(ResourceTokensError, ValueError):
    """
    The configuration is wrong; raised at construction, before any request is made.
    """


class UnmappedDestinationError(ResourceTokensError):
    """
    No resource is mapped to the destination of a request, so there is no token to send there.

    Attributes:
        destination: Where the request was going, without its query.
    """

    def __init__(self, message: str, destination: str = "") -> None:
        super().__init__(message, destination)
        self.destination = destination


class EgressBlockedError(ResourceTokensError):
    """
    A request was stopped because it would have carried a token to where it does not belong, or
    because its URL can be read in more than one way.

    Attributes:
        destination: Where the request was going.
        resource: The resource that the token is for, or "" if it was not yet known.
        reason: Why, in one word: `"ambiguous_url"`, `"elsewhere"` (in a header, to where the
            token does not belong), `"in_url"`, `"no_certificate"` (which the token is bound to),
            `"foreign_issuer"` (of a user's token, which goes to its own server only), or
            `"noticed_afterwards"`.
    """

    def __init__(
        self, message: str, destination: str = "", resource: str = "", reason: str = ""
    ) -> None:
        super().__init__(message, destination, resource, reason)
        self.destination = destination
        self.resource = resource
        self.reason = reason


class AudienceMismatchError(ResourceTokensError):
    """
    The authorization server returned a token that is not, or not only, for the resource that was
    asked for. The token was dropped.

    Attributes:
        resource: The resource asked for.
        audience: What the token says it is for (RFC 9068 `aud`, or the `resource` member of the
            response); empty where the token does not say.
    """

    def __init__(self, message: str, resource: str = "", audience: tuple[str, ...] = ()) -> None:
        super().__init__(message, resource, audience)
        self.resource = resource
        self.audience = audience


class TokenRequestError(ResourceTokensError):
    """
    The token endpoint, or the metadata that names it, gave no usable answer.

    Attributes:
        resource: The resource asked for.
        status: The HTTP status of the answer; `None` if there was none.
    """

    def __init__(self, message: str, resource: str = "", status: int | None = None) -> None:
        super().__init__(message, resource, status)
        self.resource = resource
        self.status = status


class OAuthError(TokenRequestError):
    """
    The authorization server refused with an error response (RFC 6749 5.2).

    Attributes:
        error: The error code, such as `"invalid_client"` or `"invalid_target"` (RFC 8707 2).
        error_description: The server's own words, escaped and shortened; `None` if it gave none.
        error_uri: A page about the error; `None` if it gave none.
        claims: What the user has to bring for it, as Entra ID says with `"interaction_required"`:
            JSON, to pass on in a challenge to whoever called this service. `None` if there is none.
    """

    def __init__(  # noqa: PLR0917 - positional, so that it pickles
        self,
        message: str,
        resource: str = "",
        status: int | None = None,
        error: str = "",
        error_description: str | None = None,
        error_uri: str | None = None,
        claims: str | None = None,
    ) -> None:
        super().__init__(message, resource, status)
        self.args = (message, resource, status, error, error_description, error_uri, claims)
        self.error = error
        self.error_description = error_description
        self.error_uri = error_uri
        self.claims = claims


class TokenRefusedError(ResourceTokensError):
    """
    A request came without a token that is good here. Answer it with `status` and `headers`, and do
    nothing for it.

    Its text says what is wrong with the token, and may be shown to whoever sent it. It holds no
    token.

    Attributes:
        status: 401, 403 where scopes are missing, 400 where nobody can say which token is meant,
            503 where the issuer could not be asked.
        error: The code of RFC 6750 3.1 or RFC 9449 7.1; empty if there is none, as where there
            was no token.
        headers: For the answer. Several challenges are one value (RFC 9110 5.3).
    """

    def __init__(
        self,
        message: str,
        status: int = 401,
        error: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.headers = dict(headers or {})
        super().__init__(message, status, error, self.headers)
        self.status = status
        self.error = error
