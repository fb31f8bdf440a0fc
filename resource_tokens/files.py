"""
Tokens shared by the processes of one user on one machine, in a file.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from resource_tokens._private_folder import PrivateFolder
from resource_tokens._sealing import EVERYBODY, FORGOTTEN_KEPT, GRANT_KEPT, Sealer, StoreKey
from resource_tokens.cache import steady_clock
from resource_tokens.exceptions import ConfigurationError
from resource_tokens.stores import (
    Generation,
    Loaded,
    News,
    StoredGrant,
    StoredToken,
    UnreadableEntryError,
)
from resource_tokens.tokens import TokenKey

__all__ = ["FileTokenStore"]

T = TypeVar("T")


class FileTokenStore:
    """
    Tokens in a file, for programs that start often on one machine, by
    `ResourceTokenAuth(store=...)`. It serves blocking callers, asyncio and trio.

    Whoever can read the file learns neither a token nor what it is for: entries are sealed, and
    their names are keyed hashes. Whoever has one of the keys as well can use all tokens. The file
    and its folder are made for their user alone, and not used if others can write there.

    Args:
        folder: Where it is kept, on a disk of this machine. By default a folder of its own among
            those where programs of this user keep their state.
        keys: What entries are sealed with, from `resource_tokens.stores.new_key()`: each the key
            itself, or the `pathlib.Path` of a file that holds it. The first one is used; the
            others are for replacing it one program after the other.
        maxsize: How many tokens to keep. Those that expire first go first.
        clock: Seconds that never jump, and are the same for all processes of this machine.
        wall_clock: Seconds since the epoch.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for, others can write to the
            folder, or the packages of the extra `files` are missing.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        keys: Iterable[StoreKey] | StoreKey,
        maxsize: int = 256,
        clock: Callable[[], float] = steady_clock,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._sealer = Sealer(keys)
        del keys
        if find_spec("filelock") is None:
            raise ConfigurationError(
                "FileTokenStore locks its file with the package filelock. Install it with "
                '`pip install "resource-tokens[files]"`.'
            )
        if not isinstance(maxsize, int) or maxsize < 1:
            raise ConfigurationError(f"FileTokenStore: maxsize={maxsize!r} is no positive number.")
        self._folder = PrivateFolder(_state_folder() if folder is None else folder)
        self._maxsize = maxsize
        self._clock = clock
        self._wall_clock = wall_clock

    def load(self, key: TokenKey, resource: str, subject: bytes = b"") -> Loaded:
        """
        See `TokenStore`. One file is read, without a lock.
        """
        tokens = self._read()
        generation = self._generation(tokens, resource)
        forgotten, position = 0, 0
        if subject:
            forgotten = self._forgotten(tokens.journal, resource, subject)
            position = max(tokens.journal.values(), default=0)
        entry = tokens.entries.get(self._sealer.name("token", key))
        if entry is None or not entry.is_live(self._wall_clock()):
            return Loaded(None, generation, forgotten=forgotten, position=position)
        stored = self._sealer.open(key, entry.sealed.encode(errors="replace"))
        aged = replace(stored, age=self._age(entry))
        return Loaded(aged, generation, entry.mark, 0.0, forgotten, position)

    def save(self, key: TokenKey, stored: StoredToken) -> bool:
        """
        See `TokenStore`.
        """
        name, sealed = self._sealer.name("token", key), self._sealer.seal(key, stored).decode()

        def keep(tokens: _Tokens) -> bool:
            now = self._wall_clock()
            there, asked_at = tokens.entries.get(name), now - stored.age
            # A time that has not come yet is nobody's: the clock was set back.
            if there is not None and there.is_live(now):
                replaces, known = stored.instead_of, stored.instead_of is not None
                if there.mark != replaces if known else asked_at < there.asked_at:
                    return False
            tokens.entries[name] = _Entry(
                asked_at, asked_at + stored.lifetime, _boot(), self._clock() - stored.age, sealed
            )
            return True

        return self._change(keep)

    def lease(self, key: TokenKey, seconds: float) -> Callable[[], object] | None:
        """
        See `TokenStore`.
        """
        name, owner = self._sealer.name("token", key), secrets.token_hex(8)

        def take(tokens: _Tokens) -> bool:
            now = self._wall_clock()
            if name in tokens.leases and tokens.leases[name].is_live(now):
                return False
            tokens.leases[name] = _Lease(owner, now, now + seconds)
            return True

        def give_back(tokens: _Tokens) -> bool:
            # Its time may be up, and somebody else have it.
            if name not in tokens.leases or tokens.leases[name].owner != owner:
                return False
            del tokens.leases[name]
            return True

        return (lambda: self._change(give_back)) if self._change(take) else None

    def news(self, resources: list[str], since: int | None = None) -> News:
        """
        See `TokenStore`. One file is read, without a lock.
        """
        tokens = self._read()
        generations = [self._generation(tokens, resource) for resource in resources]
        if since is None:
            return News(generations)
        later = {name: place for name, place in tokens.journal.items() if place > since}
        position = max(tokens.journal.values(), default=0)
        return News(generations, position, partial(self._forgotten, later))

    def forget(self, resource: str | None, subject: bytes = b"") -> int:
        """
        See `TokenStore`. It is on the disk when this returns.
        """
        # By the names of all keys: those who have another one first shall know as well.
        if subject:
            return self._forget_subject(self._sealer.names("subject", subject, resource or ""))
        names = [_ALL] if resource is None else self._sealer.names("resource", resource)

        def begin(tokens: _Tokens) -> bool:
            counts = tokens.generations
            for name in names:
                counts[name] = counts.get(name, 0) + 1
            if len(counts) > _MAX_GENERATIONS:
                tokens.generations = {_ALL: counts.get(_ALL, 0) + 1}
            return True

        self._change(begin, durable=True)
        return 0

    def _forget_subject(self, names: list[str]) -> int:
        place = 0

        def write(tokens: _Tokens) -> bool:
            nonlocal place
            # A time, as far as times grow, so that what is old enough can go.
            now = int(self._wall_clock() * 1000)
            place = max(now, *(there + 1 for there in tokens.journal.values()), 1)
            oldest = place - FORGOTTEN_KEPT.total_seconds() * 1000
            journal = {name: there for name, there in tokens.journal.items() if there > oldest}
            journal |= dict.fromkeys(names, place)
            tokens.journal = journal if len(journal) <= _MAX_GENERATIONS else {EVERYBODY: place}
            return True

        self._change(write, durable=True)
        return place

    def load_grant(self, key: TokenKey) -> StoredGrant | None:
        """
        See `GrantStore`. One file is read, without a lock.
        """
        return self._grant_in(self._grants(), key)

    def swap_grant(self, key: TokenKey, before: StoredGrant | None, after: StoredGrant) -> bool:
        """
        See `GrantStore`. It is on the disk when this returns.
        """
        with self._folder.locked(_LOCK_PATIENCE):
            # A file of its own: tokens may get lost, and are written without waiting for the disk.
            grants, now = self._grants(), self._wall_clock()
            if self._grant_in(grants, key) != before:
                return False
            oldest = now - GRANT_KEPT.total_seconds()
            grants = {name: kept for name, kept in grants.items() if kept.changed_at > oldest}
            grants[key.hex()] = _Grant(now, self._sealer.seal_grant(key, after).decode())
            content = json.dumps({"version": _VERSION, "grants": grants}).encode()
            self._folder.replace(_GRANTS, content, durable=True)
        return True

    def _grant_in(self, grants: dict[str, _Grant], key: TokenKey) -> StoredGrant | None:
        kept = grants.get(key.hex())
        return (
            None
            if kept is None
            else self._sealer.open_grant(key, kept.sealed.encode(errors="replace"))
        )

    def _grants(self) -> dict[str, _Grant]:
        content = self._folder.read(_GRANTS, _MAX_SIZE)
        if content is None:
            return {}
        try:
            members = json.loads(content)
            if members["version"] == _VERSION:
                return {name: _grant(*parts) for name, parts in members["grants"].items()}
        except _NO_SUCH_FILE:
            pass
        raise UnreadableEntryError(
            "The file of refresh tokens cannot be read: it is damaged, or of another version of "
            "this library. It is left as it is. Put it back from a backup, or take it away and "
            "get new authorizations."
        )

    def _read(self) -> _Tokens:
        content = self._folder.read(_FILE, _MAX_SIZE)
        return _Tokens() if content is None else _Tokens.of(content)

    def _change(self, work: Callable[[_Tokens], bool], *, durable: bool = False) -> bool:
        """
        Let `work` change what is there, and keep that if it says so.
        """
        with self._folder.locked(_LOCK_PATIENCE):
            tokens = _Tokens()
            with suppress(UnreadableEntryError):
                tokens = self._read()
            changed = work(tokens)
            if changed:
                tokens.tidy(self._wall_clock(), self._maxsize)
                self._folder.replace(_FILE, tokens.content(), durable=durable)
        return changed

    def _generation(self, tokens: _Tokens, resource: str) -> Generation:
        counts = tokens.generations
        return Generation(
            counts.get(_ALL, 0), counts.get(self._sealer.name("resource", resource), 0)
        )

    def _forgotten(self, journal: dict[str, int], resource: str, subject: bytes) -> int:
        names = self._sealer.subject_names(resource, subject)
        return max(journal.get(name, 0) for name in names)

    def _age(self, entry: _Entry) -> float:
        """
        By the clock that does not jump, if the machine has not been started since.
        """
        return self._clock() - entry.steady if entry.boot == _boot() else 0.0

    def __repr__(self) -> str:
        return f"FileTokenStore({str(self._folder.path)!r})"


class _Entry(NamedTuple):
    """
    A sealed token, and when it was asked for by two clocks.
    """

    asked_at: float
    ends_at: float
    boot: str
    steady: float
    sealed: str

    @property
    def mark(self) -> bytes:
        # The end of its authentication code.
        return self.sealed[-32:].encode(errors="replace")

    def is_live(self, now: float) -> bool:
        return self.asked_at <= now < self.ends_at


class _Grant(NamedTuple):
    changed_at: float
    sealed: str


class _Lease(NamedTuple):
    owner: str
    taken_at: float
    ends_at: float

    def is_live(self, now: float) -> bool:
        return self.taken_at <= now < self.ends_at


@dataclass(slots=True)
class _Tokens:
    """
    What is in the file. Each dictionary is by names that say nothing.
    """

    entries: dict[str, _Entry] = field(default_factory=dict)
    leases: dict[str, _Lease] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    journal: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, content: bytes) -> _Tokens:
        """
        Raises:
            UnreadableEntryError: If that is no such file.
        """
        try:
            members = json.loads(content)
            if members["version"] == _VERSION:
                return cls(
                    {name: _entry(*parts) for name, parts in members["entries"].items()},
                    {name: _lease(*parts) for name, parts in members["leases"].items()},
                    {name: int(count) for name, count in members["generations"].items()},
                    {name: int(place) for name, place in members.get("journal", {}).items()},
                )
        except _NO_SUCH_FILE:
            pass
        raise UnreadableEntryError(
            "The file of the token store cannot be read: it is damaged, or of another version of "
            "this library. It counts as absent, and is replaced."
        )

    def tidy(self, now: float, maxsize: int) -> None:
        """
        Drop what is over, and what is too much.
        """
        live = [item for item in self.entries.items() if item[1].is_live(now)]
        live.sort(key=lambda item: item[1].ends_at)
        self.entries = dict(live[-maxsize:])
        self.leases = {name: lease for name, lease in self.leases.items() if lease.is_live(now)}

    def content(self) -> bytes:
        members = {
            "version": _VERSION,
            "entries": self.entries,
            "leases": self.leases,
            "generations": self.generations,
            "journal": self.journal,
        }
        return json.dumps(members).encode()


def _entry(asked_at: Any, ends_at: Any, boot: Any, steady: Any, sealed: Any) -> _Entry:
    return _Entry(float(asked_at), float(ends_at), str(boot), float(steady), str(sealed))


def _lease(owner: Any, taken_at: Any, ends_at: Any) -> _Lease:
    return _Lease(str(owner), float(taken_at), float(ends_at))


def _grant(changed_at: Any, sealed: Any) -> _Grant:
    return _Grant(float(changed_at), str(sealed))


def _boot() -> str:
    """
    Which start of the machine this is, where the system can tell.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return ""


def _state_folder() -> Path:
    # Local: most programs that give no folder start once, and those that give one do not need it.
    from platformdirs import user_state_path

    return user_state_path("resource_tokens", appauthor=False)


_VERSION = 1
_FILE, _GRANTS = "tokens", "grants"
_NO_SUCH_FILE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)
_ALL = "*"
_MAX_GENERATIONS = 1_000
_MAX_SIZE = 16 * 1024 * 1024
_LOCK_PATIENCE = 1.0
