"""
Grants: on whose behalf a token is asked for, and what proves it (RFC 6749 1.3).
"""

from __future__ import annotations

import hashlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from resource_tokens._locks import SafeLock
from resource_tokens.exceptions import (
    ConfigurationError,
    OAuthError,
    ResourceTokensError,
    TokenRequestError,
)
from resource_tokens.resources import parse_scopes
from resource_tokens.tokens import AccessToken, Secret

if TYPE_CHECKING:
    from resource_tokens.oauth.token_endpoint import TokenRequest

__all__ = [
    "Answers",
    "ClientCredentials",
    "Grant",
    "RefreshToken",
    "expired_grant",
    "is_refresh_token",
]


class Answers(NamedTuple):
    """
    What may come back for a grant.

    Attributes:
        what: What that is, in words.
        issued_token_types: Each `issued_token_type` (RFC 8693 2.2.1).
        token_types: Each `token_type`, in lower case.
    """

    what: str
    issued_token_types: tuple[str, ...]
    token_types: tuple[str, ...]


# RFC 8693 2.2.1: an access token in the narrow sense, or a JWT that is one.
_ACCESS_TOKEN = Answers(
    "access token",
    (
        "urn:ietf:params:oauth:token-type:access_token",
        "urn:ietf:params:oauth:token-type:jwt",
    ),
    ("bearer",),
)


class Grant(ABC):
    """
    On whose behalf a token is asked for.

    A grant can change while it is used: a refresh token is replaced by the server. So whoever
    sends token requests tells it what becomes of each, in this order:

    1. `begin` before a request is made. What it raises is the outcome, and nothing is sent.
    2. `parameters`, once for each message; `TokenRequest.message` does that.
    3. `accept` when there is an answer, before the rest of it is believed: even where its access
       token is refused, the refresh token next to it has replaced the one that was sent.
       `settle` of the module `token_endpoint` does that.
    4. `fail` with whatever went wrong once a byte of the request may have left.
    5. `end`, in any case, once nothing more is sent. Between 1 and 5 all is done by one thread.

    `begin`, `accept`, `fail` and `end` can block, as they call the user's code. For a grant that
    is `exclusive`, only one request at a time is between steps 1 and 5, whatever resource it is
    for. It is not sent a second time without step 1, and it is not cancelled along with whoever
    waits for it, as what it would have brought is then lost.

    Attributes:
        grant_type: The parameter of this name (RFC 6749 1.3, 4.5).
        exclusive: Whether there may be one request at a time only.
        confidential: Whether only a client with a credential may use it.
        portable: Whether it may be presented to every authorization server. One that was issued
            by a server goes to that server alone.
        scopes: The scopes that were granted, where they are known. No others can be asked for.
        expires_at: When what the grant rests on expires, in seconds since the epoch, if it does
            and that is known. No token outlives it.
        rotates: Whether another object like this would present something else after a while.
        first: What to ask for before, as the grant presents what comes back; `presenting` then
            makes the grant that does.
        target: The parameters that say what is asked for, if that is no API.
        answers: What may come back.
        subject: The digest of the subject that it is a grant of (`SubjectToken.digest`), however
            that is exchanged; empty if it is nobody's but the client's.
    """

    __slots__ = ()
    grant_type: ClassVar[str]
    exclusive: ClassVar[bool] = False
    confidential: ClassVar[bool] = False
    portable: ClassVar[bool] = True
    scopes: frozenset[str] | None = None
    expires_at: float | None = None
    rotates: bool = False
    first: TokenRequest | None = None
    target: tuple[tuple[str, str], ...] | None = None
    answers: Answers = _ACCESS_TOKEN
    subject: bytes = b""

    def presenting(self, assertion: AccessToken) -> Grant:  # noqa: ARG002 - most present their own
        """
        This grant, presenting the answer to `first`.
        """
        return self

    def parameters(self) -> tuple[tuple[str, str | Secret], ...]:
        """
        What presents this grant in the body of one request, besides `grant_type`.
        """
        return ()

    @abstractmethod
    def fingerprint(self) -> bytes:
        """
        A digest of whose grant this is. It stays the same when a refresh token is replaced.
        """

    def principal(self) -> bytes:
        """
        A digest of on whose behalf tokens are asked for with it, however that is proved.
        """
        return self.fingerprint()

    def may_go_to(self, issuer: str | None, *, own: bool, configured: bool) -> bool:  # noqa: ARG002
        """
        Whether it may be presented to an authorization server.

        Args:
            issuer: The server's issuer identifier, if it has one.
            own: Whether it is the server of the auth object.
            configured: Whether it was configured for the resource, and not learned.
        """
        return own or self.portable

    def kept_from(self, server: str, resource: str) -> ResourceTokensError:  # noqa: ARG002
        """
        The error for a server that it may not go to.
        """
        return ConfigurationError(
            f"{resource!r} names its own server=, and the grant {self.grant_type!r} was "
            "issued by another: it goes to the server of its auth object only. Use an auth "
            "object of its own for that resource."
        )

    def begin(self, resource: str) -> None:  # noqa: B027 - most grants have no state
        """
        A request is about to be made.

        Raises:
            TokenRequestError: If it would be useless or do harm.
        """

    def accept(  # most grants have no state
        self,
        refresh_token: Secret | None,  # noqa: ARG002
        sent: tuple[Secret, ...],  # noqa: ARG002
        resource: str,  # noqa: ARG002
    ) -> bool:
        """
        Take the refresh token that came back, if one did.

        Args:
            refresh_token: What came back; `None` if nothing did.
            sent: The secrets of the request that this answers (`HTTPRequest.secrets`).
            resource: What was asked for.

        Returns:
            Whether the grant is another now.

        Raises:
            TokenRequestError: If it could not be stored. The answer is then not used.
        """
        return False

    def fail(self, error: ResourceTokensError, sent: tuple[Secret, ...]) -> None:  # noqa: B027
        """
        A request failed after a byte of it may have left.

        Args:
            error: What is raised for it.
            sent: The secrets of the request.
        """

    def give_up(self) -> Secret | None:
        """
        Present nothing any more, today and later.

        Returns:
            The refresh token to revoke (RFC 7009), if the grant has one.
        """
        return None

    def end(self) -> None:  # noqa: B027 - most grants have no state
        """
        Nothing more is sent; what `accept` or `fail` have not been told of was never sent at all.
        """


class ClientCredentials(Grant):
    """
    The client asks for itself (RFC 6749 4.4).

    A refresh token in the answer is ignored: a new request does the same with one secret less
    to keep (RFC 6749 4.4.3).
    """

    __slots__ = ()
    grant_type = "client_credentials"
    # RFC 6749 4.4: "The client credentials grant type MUST only be used by confidential clients."
    confidential = True

    def fingerprint(self) -> bytes:
        """
        The same for all: whose grant it is, the client's own fingerprint says.
        """
        return b""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClientCredentials)

    def __hash__(self) -> int:
        return hash(ClientCredentials)

    def __repr__(self) -> str:
        return "ClientCredentials()"


class RefreshToken(Grant):
    """
    Asks on behalf of whoever granted a refresh token (RFC 6749 6).

    One refresh token gets an access token for each resource of the grant, one request for each
    (RFC 8707 2.2). Where the server replaces it, the new one is given to `on_rotation` before
    anything that came with it is used. Have one object for one refresh token, and give it to one
    auth object: a second user of the same refresh token looks like a thief to a server that
    notices reuse (RFC 9700 4.14.2).

    - When `on_rotation` raises, the call fails. The new refresh token stays in memory, as the old
      one is spent; it is offered to `on_rotation` again before the next request, and presented
      only once it is stored.
    - `invalid_grant` is the end: this object then makes no request any more, and each call fails
      at once with that error. Give a new `RefreshToken`.
    - When the answer to a request is lost, the server may have replaced the refresh token, and
      nobody knows by what. Presenting the old one again can make a server revoke the whole grant,
      with every token that is still good. So each call fails until `retry` is called. This does
      not happen where the last answer has shown that the server keeps the refresh token.

    Args:
        refresh_token: The refresh token. It is a credential: keep it like one.
        scopes: The scopes that were granted with it, if known: an iterable, or one string. A
            request for others then fails before it is sent.
        on_rotation: Called with the new refresh token, to store it in the place of the old one.
            It may block; it is no coroutine function. Whoever stores a refresh token decides who
            can use it.
        reusable: Whether the server lets a refresh token be presented twice, so that a request
            whose answer was lost can be made again.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    __slots__ = (
        "_current",
        "_ended",
        "_family",
        "_in_doubt",
        "_lock",
        "_on_rotation",
        "_reusable",
        "_reuse_known",
        "_unsaved",
        "scopes",
    )
    grant_type = "refresh_token"
    exclusive = True
    portable = False

    def __init__(
        self,
        refresh_token: str,
        *,
        scopes: Iterable[str] | None = None,
        on_rotation: Callable[[str], object] | None = None,
        reusable: bool = False,
    ) -> None:
        # Wrapped before it is looked at: reporters of errors show the variables of a frame.
        presented = Secret(refresh_token if isinstance(refresh_token, str) else "")
        del refresh_token
        if not is_refresh_token(presented):
            raise ConfigurationError(
                "RefreshToken: the refresh token is empty, no string, or has characters that none "
                "has (RFC 6749 A.17). If it comes from a file, is there a line break at its end?"
            )
        if on_rotation is not None and (
            not callable(on_rotation) or inspect.iscoroutinefunction(on_rotation)
        ):
            raise ConfigurationError(
                "RefreshToken: on_rotation= is an ordinary function that takes the new refresh "
                "token. It is called for blocking callers as well, so it cannot be awaited."
            )
        if not isinstance(reusable, bool):
            raise ConfigurationError(f"RefreshToken: reusable={reusable!r}: use True or False.")
        self.scopes = None if scopes is None else parse_scopes(scopes)
        self._on_rotation = on_rotation
        self._reusable = reusable
        self._family = hashlib.sha256(presented.reveal().encode()).digest()
        self._lock = SafeLock()
        # All guarded by _lock.
        self._current = presented
        self._reuse_known = reusable
        self._unsaved = False
        self._in_doubt = False
        self._ended: OAuthError | None = None

    def parameters(self) -> tuple[tuple[str, str | Secret], ...]:
        """
        The refresh token as it is now.
        """
        return (("refresh_token", self._current),)

    def fingerprint(self) -> bytes:
        """
        A digest of the refresh token that this object began with.
        """
        return self._family

    def begin(self, resource: str) -> None:
        """
        See `Grant`. Fails at once if the grant has ended or is in doubt, and stores a new refresh
        token that could not be stored before.
        """
        with self._lock:
            ended, in_doubt, unsaved = self._ended, self._in_doubt, self._unsaved
        if ended is not None:
            words = f" ({ended.error_description})" if ended.error_description else ""
            raise OAuthError(
                f"No token for {resource!r}: the refresh token has ended, the server said "
                f"{ended.error!r}{words}. Nothing is sent any more. Get a new authorization, and "
                "give a new RefreshToken.",
                resource,
                *ended.args[2:],
            )
        if in_doubt:
            raise TokenRequestError(
                f"No token for {resource!r}: the answer to an earlier request with this refresh "
                "token was lost, and the server may have replaced it. Presenting it once more can "
                "make a server revoke the whole grant (RFC 9700 4.14.2). Call its retry() to do "
                "so, pass RefreshToken(..., reusable=True) where the server allows it, or get a "
                "new authorization.",
                resource,
            )
        if unsaved:
            self._store(resource)

    def accept(self, refresh_token: Secret | None, sent: tuple[Secret, ...], resource: str) -> bool:
        """
        See `Grant`. A compare-and-swap: only the answer to a request that has presented the
        refresh token of now replaces it.
        """
        with self._lock:
            if self._current not in sent:
                return False
            self._in_doubt = False
            # RFC 6749 6: "The authorization server MAY issue a new refresh token, in which case
            # the client MUST discard the old refresh token and replace it with the new".
            rotated = refresh_token is not None and refresh_token != self._current
            if rotated and refresh_token is not None:
                self._current = refresh_token
                self._unsaved = self._on_rotation is not None
            self._reuse_known = self._reusable or not rotated
            unsaved = self._unsaved
        if unsaved:
            self._store(resource)
        return rotated

    def fail(self, error: ResourceTokensError, sent: tuple[Secret, ...]) -> None:
        """
        See `Grant`. Remembers that the grant has ended, or that an answer was lost.
        """
        with self._lock:
            if self._current not in sent:
                return
            if isinstance(error, OAuthError):
                if error.error == "invalid_grant":
                    # A copy, as the error itself holds on to the frames of the request.
                    self._ended = OAuthError(*error.args)
            elif isinstance(error, TokenRequestError) and _is_lost(error.status):
                self._in_doubt = not self._reuse_known

    def give_up(self) -> Secret:
        """
        See `Grant`. It has ended then, as by an `invalid_grant` of the server.
        """
        with self._lock:
            self._ended = OAuthError("", "", None, "invalid_grant", "it was given up here")
            return self._current

    def retry(self) -> None:
        """
        Present the refresh token once more, although the answer to the last request was lost.

        A server that notices reuse may then revoke the grant, and say `invalid_grant`.
        """
        with self._lock:
            self._in_doubt = False

    def _store(self, resource: str) -> None:
        current = self._current
        failure = ""
        try:
            result: Any = self._on_rotation(current.reveal()) if self._on_rotation else None
            if inspect.isawaitable(result):
                getattr(result, "close", lambda: None)()
                failure = "returned something to await"
        except Exception as error:  # noqa: BLE001 - whatever a user's store raises
            # Without its context: its frames hold the refresh token.
            failure = f"raised {type(error).__name__}"
        if failure:
            raise TokenRequestError(
                f"No token for {resource!r}: the server has replaced the refresh token, and "
                f"on_rotation {failure}. The new one is kept in memory and offered to on_rotation "
                "again before the next request. See that it can be stored before this process "
                "ends, for the old one is spent.",
                resource,
                200,
            )
        with self._lock:
            self._unsaved = self._unsaved and self._current is not current

    def __copy__(self) -> RefreshToken:
        # A copy would go on with a refresh token that the original has spent.
        return self

    def __deepcopy__(self, memo: object) -> RefreshToken:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("A refresh token is not pickled: what is pickled can be sent anywhere.")

    def __repr__(self) -> str:
        return "RefreshToken('...')"


def expired_grant(resource: str) -> TokenRequestError:
    """
    The error for a grant that rests on a token whose time is up.
    """
    return TokenRequestError(
        f"No token for {resource!r}: the token that this service was called with has expired, and "
        "nothing that is got with it may outlive it. Answer 401, so that the caller renews it.",
        resource,
    )


def is_refresh_token(value: Secret) -> bool:
    """
    Whether a text can be a refresh token.
    """
    # RFC 6749 A.17: refresh-token = 1*VSCHAR
    return re.fullmatch(r"[\x20-\x7e]+", value.reveal()) is not None


def _is_lost(status: int | None) -> bool:
    """
    Whether a server can have acted on a request that came to nothing: it did not answer, its
    answer could not be read, or it broke on the way. 503 says that nothing was done.
    """
    return status is None or 200 <= status < 300 or (status >= 500 and status != 503)
