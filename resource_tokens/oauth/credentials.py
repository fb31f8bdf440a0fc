"""
A credential that can rotate under a running program.

1. Its texts are read anew each time, and it is made anew when one of them has changed.
2. It is read once at construction, so that a wrong path is noticed before any request.
3. For a request it must be readable at that moment. Only a fingerprint goes by what was read last,
   so that a file that is away for a moment costs no cached token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from resource_tokens.exceptions import ConfigurationError, TokenRequestError
from resource_tokens.oauth.sources import Source
from resource_tokens.tokens import Secret

__all__ = ["Credential"]

T = TypeVar("T")


class Credential(Generic[T]):
    """
    What a client proves itself with, made of texts, and made anew when one of them has changed.

    Args:
        make: Makes it of the texts. Raises ConfigurationError where they cannot be used.
        sources: Where the texts come from; `None` for one that was not given.
    """

    __slots__ = ("_last", "_make", "_sources")

    def __init__(self, make: Callable[..., T], *sources: Source | None) -> None:
        self._make = make
        self._sources = sources
        # Replaced as a whole, so that threads see texts and value of one reading.
        self._last: tuple[tuple[Secret | None, ...], T] | None = None

    @property
    def rotates(self) -> bool:
        """
        Whether it can change.
        """
        return any(source.rotates for source in self._sources if source is not None)

    def read(self) -> T:
        """
        The credential, as it is now.

        Raises:
            ConfigurationError: If it cannot be read or used.
        """
        texts = tuple(None if source is None else source.read() for source in self._sources)
        last = self._last
        if last is None or last[0] != texts:
            last = (texts, self._make(*texts))
            self._last = last
        return last[1]

    def for_request(self, resource: str) -> T:
        """
        The credential to use for a request.

        Raises:
            TokenRequestError: If it cannot be read or used now.
        """
        try:
            return self.read()
        except ConfigurationError as error:
            why = str(error)
        raise TokenRequestError(f"No token for {resource!r}: {why}", resource)

    def latest(self) -> T:
        """
        The credential as it was when it could last be read.

        Raises:
            ConfigurationError: If it never could.
        """
        try:
            return self.read()
        except ConfigurationError:
            if self._last is None:
                raise
            return self._last[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and self._sources == other._sources

    def __hash__(self) -> int:
        return hash(self._sources)

    def __repr__(self) -> str:
        return ", ".join(map(repr, filter(None, self._sources)))
