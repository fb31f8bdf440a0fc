"""
Values: an access token, the key it is kept under, and how long it is good.

Nothing here sends, waits or reads a clock; the time comes in as `now`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from resource_tokens.oauth.token_endpoint import TokenRequest

__all__ = ["AccessToken", "CachedToken", "Freshness", "Secret", "TokenKey"]


class Secret:
    """
    A string that does not print itself: a token or a client secret.

    `reveal()` is the only way to the text. It does not pickle; a copy is the same object.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """
        The text itself. Whoever calls this decides where it goes.
        """
        return self._text

    def __repr__(self) -> str:
        return "Secret('...')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is not pickled: what is pickled can be stored and sent anywhere.")


@dataclass(frozen=True, slots=True)
class AccessToken:
    """
    An access token (RFC 6749 1.4), bound to the one resource it was asked for.

    `repr` shows what it is for, never the token. Most code wants `ResourceTokenAuth`, which sends
    it to the right place; use this for clients that are not httpx.

    Attributes:
        resource: The identifier of the resource it was asked for.
        token_type: `"Bearer"` (RFC 6750), or `"DPoP"` for one that is of no use without a proof
            of its key (RFC 9449).
        scopes: The scopes granted, which can be fewer than asked for (RFC 6749 5.1).
        expires_at: When it expires, by this machine's wall clock.
    """

    _value: Secret = field(repr=False)
    resource: str
    token_type: str
    scopes: frozenset[str]
    expires_at: datetime

    @property
    def authorization(self) -> str:
        """
        The value `Bearer ...`, or `DPoP ...`, for an `Authorization` header, to `resource` and
        nothing else.
        """
        return f"{self.token_type} {self._value.reveal()}"

    def same_as(self, other: AccessToken) -> bool:
        """
        Whether the two are the same string, whatever was said of them.
        """
        return self._value == other._value

    def reveal(self) -> str:
        """
        The token itself, for protocols without an `Authorization` header.
        """
        return self._value.reveal()


class TokenKey(bytes):
    """
    What a token is stored, awaited and backed off under: everything that was asked for.

    Two keys are equal only if all of it is: parts are length-prefixed before they are hashed
    (SHA-256), so that no two lists of parts read the same. Secrets enter as digests only.
    """

    __slots__ = ()

    @classmethod
    def of(cls, parts: Iterable[str | bytes]) -> TokenKey:
        """
        The key of these parts, in this order.
        """
        sha256 = hashlib.sha256()
        for part in parts:
            raw = part.encode() if isinstance(part, str) else part
            sha256.update(len(raw).to_bytes(8, "big") + raw)
        return cls(sha256.digest())

    def __repr__(self) -> str:
        return f"TokenKey({self.hex()[:12]})"


@dataclass(frozen=True, slots=True)
class Freshness:
    """
    The life of a token, in seconds of a clock that does not jump.

    Attributes:
        requested_at: When the token request was sent; its lifetime counts from here.
        soft_at: From here on it is refreshed ahead, and nobody waits.
        hard_at: From here on it is not presented any more.
        requested_wall: `requested_at` by the wall clock.
    """

    requested_at: float
    soft_at: float
    hard_at: float
    requested_wall: float

    @classmethod
    def of(
        cls,
        lifetime: timedelta,
        requested_at: float,
        requested_wall: float,
        draw: Callable[[], float],
        *,
        final: bool = False,
    ) -> Freshness:
        """
        The windows of a token.

        Args:
            lifetime: How long the server said it lives.
            requested_at: When it was asked for.
            requested_wall: The same by the wall clock, in seconds since the epoch.
            draw: A uniform random number from 0 to 1. It moves the refresh earlier, never later,
                so that a fleet started together does not refresh together.
            final: Whether it ends because what it was got with does. Then no other would live
                longer, so it is not refreshed ahead; and it is good until then.
        """
        seconds = lifetime.total_seconds()
        if final:
            ends_at = requested_at + seconds
            return cls(requested_at, ends_at, ends_at, requested_wall)
        margin = min(_HARD_MARGIN, _HARD_SHARE * seconds)
        window = min(_SOFT_WINDOW, _SOFT_SHARE * seconds) * (1 + _EARLIER_SHARE * draw())
        return cls(
            requested_at=requested_at,
            soft_at=requested_at + seconds - window,
            hard_at=requested_at + seconds - margin,
            requested_wall=requested_wall,
        )

    @staticmethod
    def is_final(lifetime: timedelta, left: timedelta) -> bool:
        """
        Whether what a token was got with ends before the hard margin of the token begins.

        Args:
            lifetime: How long the server said the token lives.
            left: For how long that is good.
        """
        margin = min(timedelta(seconds=_HARD_MARGIN), _HARD_SHARE * lifetime)
        return left <= lifetime - margin

    @property
    def longest(self) -> float:
        """
        The seconds from asking for it to its hard margin.
        """
        return self.hard_at - self.requested_at

    def now(self, clock: float, wall: float) -> float:
        """
        What time it is for this token: the later of two clocks.

        A machine that is frozen and thawed (AWS Lambda, a snapshot) can keep its steady clock
        standing, and a wall clock can be set back. A token that is asked for too early costs one
        request, one that is shown too late costs a refusal.
        """
        return max(clock, self.requested_at + wall - self.requested_wall)


@dataclass(frozen=True, slots=True)
class CachedToken:
    """
    What a store keeps: a token and how long it is good.

    Attributes:
        asked: What to revoke it with: what it was asked for with, in no grant's name.
        subject: The digest of the subject it was got on behalf of; empty if that is nobody.
    """

    token: AccessToken
    freshness: Freshness
    asked: TokenRequest | None = field(default=None, compare=False, repr=False)
    subject: bytes = field(default=b"", compare=False, repr=False)


_HARD_MARGIN, _HARD_SHARE = 30.0, 0.10
_SOFT_WINDOW, _SOFT_SHARE = 300.0, 0.25
_EARLIER_SHARE = 0.20
