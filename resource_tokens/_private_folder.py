"""
A folder that nobody but its user can change, and files in it that are replaced as a whole.

1. A file is read without a lock: whoever reads it finds the one before a change or the one after
   it, and no half of either. It is changed by one process at a time, under a lock that the system
   takes from a process that ends.
2. What somebody else could have put there is neither read nor written: a folder or file that
   belongs to another user, that others can write, or that is a symbolic link. Nor is a folder that
   others could put another in the place of, as they can write to one on the way to it.
3. On Windows there is no owner and no mode to look at. What holds there is what the rights of the
   folder say, and in the profile of a user those are that user's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resource_tokens.exceptions import ConfigurationError

__all__ = ["PrivateFolder"]


class PrivateFolder:
    """
    A folder by the rules above. It is made when something is first written.

    Args:
        path: Where it is, or shall be.

    Raises:
        ConfigurationError: If it is there and not its user's alone, or others can write to a
            folder on the way.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self._check_way()
        self._is_there()

    def read(self, name: str, limit: int) -> bytes | None:
        """
        The content of a file, or its first `limit` bytes and one; `None` if there is none.

        Raises:
            ConfigurationError: If somebody else could have written it.
            OSError: If it cannot be read.
        """
        if not self._is_there():
            return None
        try:
            # Opening a pipe would wait for somebody to write to it.
            opened = os.open(self.path / name, os.O_RDONLY | _NONBLOCK | _SAFELY)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _refused(self.path / name, "is a symbolic link") from None
            raise
        with os.fdopen(opened, "rb") as file:
            _check(os.fstat(opened), self.path / name, stat.S_ISREG)
            return file.read(limit + 1)

    @contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        """
        The time in which nobody else changes a file here.

        Raises:
            TimeoutError: If others keep it from beginning for so many seconds.
            ConfigurationError: If the folder is not its user's alone.
            OSError: If the folder is not there and cannot be made, or cannot be written.
        """
        # Local: what only reads does not need it.
        from filelock import FileLock

        if not self._is_there():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_way()
            self._is_there()
        with FileLock(self.path / "lock", timeout=seconds, mode=0o600, poll_interval=0.01):
            yield

    def replace(self, name: str, content: bytes, *, durable: bool) -> None:
        """
        Put a file in the place of the one there; for whoever has the lock.

        Args:
            name: Its name.
            content: What is in it.
            durable: Whether it has to be there after a power failure that comes next.

        Raises:
            OSError: If that did not work. The file is then what it was.
        """
        new = self.path / f"{name}.new"
        # Of a process that was killed.
        new.unlink(missing_ok=True)
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600)
        try:
            with os.fdopen(opened, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(opened)
            new.replace(self.path / name)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise
        if durable and hasattr(os, "O_DIRECTORY"):
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _is_there(self) -> bool:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return False
        _check(found, self.path, stat.S_ISDIR)
        return True

    def _check_way(self) -> None:
        for place in dict.fromkeys((*self.path.parents, *self.path.resolve().parents)):
            with suppress(FileNotFoundError):
                if _HAS_OWNERS and _is_anybodys(place.lstat()):
                    raise _refused(place, "can be changed by everybody, and is on the way")

    def __repr__(self) -> str:
        return f"PrivateFolder({str(self.path)!r})"


def _check(found: os.stat_result, path: Path, is_kind: Callable[[int], bool]) -> None:
    """
    Raises:
        ConfigurationError: If somebody else could have put it there.
    """
    if stat.S_ISLNK(found.st_mode):
        raise _refused(path, "is a symbolic link")
    if not is_kind(found.st_mode):
        raise _refused(path, "is no folder, or no regular file, where it should be one")
    if _HAS_OWNERS and found.st_uid != os.geteuid():
        raise _refused(path, "belongs to another user")
    if _HAS_OWNERS and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _refused(path, "can be written by other users")


def _is_anybodys(found: os.stat_result) -> bool:
    """
    Whether what is on the way can be changed by everybody.
    """
    if stat.S_ISLNK(found.st_mode):
        # Links are common there (/var on macOS); what counts is who has made them.
        return found.st_uid not in (0, os.geteuid())
    # In a sticky folder, such as /tmp, nobody moves what belongs to others.
    return found.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH


def _refused(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{str(path)!r} {why}. Tokens are kept where only the user of this process can write: "
        "give a folder that is that user's own, with mode 0700."
    )


_HAS_OWNERS = hasattr(os, "geteuid")
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
