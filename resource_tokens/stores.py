"""
Where tokens are kept: in the memory of this process, always, and behind it in a store that other
processes see as well, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from resource_tokens._recently_used import RecentlyUsed
from resource_tokens.exceptions import ConfigurationError, ResourceTokensError
from resource_tokens.tokens import AccessToken, CachedToken, Secret, TokenKey

__all__ = [
    "Generation",
    "GrantStore",
    "Loaded",
    "MemoryTokenStore",
    "News",
    "StoredGrant",
    "StoredToken",
    "TokenStore",
    "UnreadableEntryError",
    "new_key",
]


class Generation(NamedTuple):
    """
    How often tokens were forgotten by all who share a store. A token of an earlier generation is
    not used any more.

    Attributes:
        of_all: How often all were.
        of_resource: How often those of the resource were.
    """

    of_all: int = 0
    of_resource: int = 0


@dataclass(frozen=True, slots=True)
class StoredToken:
    """
    A token outside the process that asked for it.

    Attributes:
        token: The token.
        requested_wall: When it was asked for, in seconds since the epoch, by the clock of the
            machine that did.
        generation: The generation of its resource when it was asked for.
        forgotten: `Loaded.forgotten` when it was asked for.
        age: Seconds since it was asked for, as far as whoever hands it over can tell: by the
            clock of the store, where it has one that is not that of this machine.
        instead_of: The `Loaded.mark` of what it is to replace; `None` if nobody knows.
    """

    token: AccessToken
    requested_wall: float
    generation: Generation
    forgotten: int = 0
    age: float = field(default=0.0, compare=False)
    instead_of: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def lifetime(self) -> float:
        """
        Seconds from asking for it to its expiry.
        """
        return self.token.expires_at.timestamp() - self.requested_wall


class Loaded(NamedTuple):
    """
    What a store has under a key.

    Attributes:
        stored: The token, or `None`.
        generation: The generation of the resource now.
        mark: What tells this entry from every other one that was or will be there; empty if there
            is none. It tells nothing else.
        leased: Seconds for which somebody has the lease, as far as the store can tell along with
            this.
        forgotten: The place in the journal of forgotten subjects where the subject was forgotten
            last, with this resource or all; 0 if it was not for as long as a token can live. A
            token that was asked for before that is not used any more.
        position: The last place in that journal, where it was asked about a subject.
    """

    stored: StoredToken | None
    generation: Generation
    mark: bytes = b""
    leased: float = 0.0
    forgotten: int = 0
    position: int = 0


class News(NamedTuple):
    """
    What was forgotten by all who share a store.

    Subjects can be many, so that nobody asks about each of them: there is a journal of those who
    were forgotten, which is read on from where it was read to. Its places are numbers that grow.

    Attributes:
        generations: The generations of the resources that were asked about, in their order.
        position: The last place in the journal.
        forgotten: The place at which a subject was forgotten, with a resource or all, among those
            after the one that was asked about; 0 if it was not.
    """

    generations: list[Generation]
    position: int = 0
    forgotten: Callable[[str, bytes], int] = lambda _resource, _subject: 0


class UnreadableEntryError(ResourceTokensError):
    """
    A store has something under a key that cannot be opened: it is damaged, was sealed with a key
    that is not there, belongs to another place, or is of another version of this library.
    """


class TokenStore(Protocol):
    """
    Where several processes keep their tokens, such as `RedisTokenStore` and `FileTokenStore`.

    All methods can block for a short while, and are called from many threads. Whatever they raise
    costs nobody a token; it is an event, and the store is left alone for a while. A store keeps
    what can be used by whoever reads it, so it has to be sealed.
    """

    def load(self, key: TokenKey, resource: str, subject: bytes = b"") -> Loaded:
        """
        What is there under exactly this key.

        Args:
            key: The key.
            resource: What the token is for.
            subject: The digest of whom it is got on behalf of; empty if that is nobody.

        Raises:
            UnreadableEntryError: If there is something that cannot be opened.
        """
        ...

    def save(self, key: TokenKey, stored: StoredToken) -> bool:
        """
        Keep a token under this key until it expires, unless another one is there than the one it
        is to replace; where nobody knows which, unless the one there was asked for later.

        Returns:
            Whether it is kept.
        """
        ...

    def lease(self, key: TokenKey, seconds: float) -> Callable[[], object] | None:
        """
        The right to ask for the token of a key: for so long, for nobody else.

        Returns:
            A function that gives it back; `None` if somebody has it.
        """
        ...

    def news(self, resources: list[str], since: int | None = None) -> News:
        """
        The generations of these resources now, and what the journal has after a place in it;
        nothing of it if that is `None`.
        """
        ...

    def forget(self, resource: str | None, subject: bytes = b"") -> int:
        """
        Begin a new generation of a resource, or of all; or write a subject into the journal, with
        the resource or all. It stands there for longer than any token lives.

        Returns:
            Its place there, after all others; 0 without a subject.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """
    What several processes know of a refresh token that they share.

    Attributes:
        refresh_token: The one to present next.
        presented: While it is presented, and nobody knows what became of that, a word that only
            whoever does so knows; or else empty.
        reuse_known: Whether the server is known to take it a second time.
        ended: If it is of no use any more, what the server said: `error`, `error_description` and
            `error_uri`.
    """

    refresh_token: Secret
    presented: str = ""
    reuse_known: bool = False
    ended: tuple[str, str | None, str | None] | None = None


class GrantStore(Protocol):
    """
    Where several processes keep a refresh token that they share, such as `RedisTokenStore` and
    `FileTokenStore`. Unlike a token it cannot be had again, so nothing is done without the store.

    All methods can block for a short while, and may raise whatever they like.
    """

    def lease(self, key: TokenKey, seconds: float) -> Callable[[], object] | None:
        """
        As in `TokenStore`.
        """
        ...

    def load_grant(self, key: TokenKey) -> StoredGrant | None:
        """
        What is there under exactly this key.

        Raises:
            UnreadableEntryError: If there is something that cannot be opened.
        """
        ...

    def swap_grant(self, key: TokenKey, before: StoredGrant | None, after: StoredGrant) -> bool:
        """
        Put something in the place of what was there, if that still is. It outlives a power failure
        that comes next, as far as the store outlives one at all.

        Returns:
            Whether it is there now.

        Raises:
            UnreadableEntryError: If there is something that cannot be opened.
        """
        ...


class MemoryTokenStore:
    """
    Tokens in this process's memory. It is in front of every other store, and the default is that
    there is no other.

    Whichever of the two bounds is reached first counts; the least recently used token goes first.

    Args:
        maxsize: How many tokens to keep.
        max_bytes: How much memory they may take, all that is kept with them included. By default
            64 MiB, and more where `maxsize` allows for more tokens: 4 KiB for each.

    Raises:
        ConfigurationError: If an argument is no number that allows one token at least.
    """

    def __init__(self, maxsize: int = 1024, *, max_bytes: int | None = None) -> None:
        given = _USUAL_BYTES if max_bytes is None else max_bytes
        for name, value, least in (("maxsize", maxsize, 1), ("max_bytes", given, _LARGEST)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(
                    f"MemoryTokenStore: {name}={value!r} is less than {least}."
                )
        if max_bytes is None:
            given = max(given, maxsize * _USUAL_ENTRY)
        self.maxsize = maxsize
        self._tokens = RecentlyUsed[TokenKey, CachedToken](maxsize, given, _size_of)

    def load(self, key: TokenKey) -> CachedToken | None:
        """
        The token under exactly this key, or `None`.
        """
        return self._tokens.get(key)

    def save(self, key: TokenKey, cached: CachedToken) -> None:
        """
        Keep a token under this key, in the place of the one there.
        """
        self._tokens.put(key, cached)

    def forget(self, matches: Callable[[CachedToken], bool]) -> int:
        """
        Drop every token that matches; the number dropped.
        """
        return self._tokens.drop(matches)

    def tokens(self) -> list[CachedToken]:
        """
        All of them.
        """
        return list(self._tokens.values())

    def resources(self) -> set[str]:
        """
        The identifiers of the resources that there are tokens of.
        """
        return {cached.token.resource for cached in self.tokens()}

    def subjects(self) -> set[tuple[str, bytes]]:
        """
        Of which resource there are tokens on behalf of whom, by digests.
        """
        tokens = self.tokens()
        return {(cached.token.resource, cached.subject) for cached in tokens if cached.subject}

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"MemoryTokenStore({len(self)} of {self.maxsize} tokens)"


def new_key() -> str:
    """
    A fresh random key for a store: 32 bytes in URL-safe base64. Keep it like a password.
    """
    # Local: cryptography takes long to import, and most programs share nothing.
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode("ascii")


def _size_of(cached: CachedToken) -> int:
    return _ENTRY + len(cached.token.reveal())


# What an entry takes besides its token, with what is remembered of it elsewhere.
_ENTRY = 2048
# The longest token there can be, and what it takes besides.
_LARGEST = 32 * 1024
_USUAL_BYTES, _USUAL_ENTRY = 64 * 1024 * 1024, 4 * 1024
