"""
Where the text of a credential comes from: it is given, or in a file, or a function returns it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.tokens import Secret

__all__ = ["Source", "TextSource", "is_text"]

TextSource = str | Callable[[], str] | os.PathLike[str]
"""
The text itself, a function that returns it, or the path of a file that holds it.

A `str` is always the text and never a path. A function or file is asked whenever a token is
requested and every few seconds in between, in the event loop of asynchronous callers: it must be
quick, and a function is called from several threads.
"""


@dataclass(frozen=True, slots=True)
class Source:
    """
    One place that a secret text comes from.

    What a user gives is wrapped before it is judged, so that an error about it is not raised
    where it still is a variable: reporters of errors show those.

    Attributes:
        name: What the text is, for messages.
        origin: The text, the file, or the function; `None` if what was given is none of them.
        wrong: Why it is none.
    """

    name: str
    origin: Secret | Path | Callable[[], Any] | None
    wrong: str = ""

    @classmethod
    def of(cls, name: str, given: object) -> Source:
        """
        A text, a path or a function.
        """
        if isinstance(given, str):
            return cls(name, Secret(given))
        if isinstance(given, os.PathLike):
            return cls.file(name, given)
        if callable(given):
            return cls(name, given)
        return cls(name, None, f"is empty, or no string, path or function. {_ENVIRONMENT}")

    @classmethod
    def file(cls, name: str, given: object) -> Source:
        """
        A path, which can be a string here.
        """
        path = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
        if not path or not isinstance(path, str):
            return cls(name, None, f"has no path. {_ENVIRONMENT}")
        # A path is shown in messages, and this one would be PEM, JSON or a JWT.
        if "\n" in path or path.startswith(("-----", "{", "eyJ")):
            return cls(name, None, "should be the path of a file, and is what belongs into one.")
        return cls(name, Path(path))

    @property
    def rotates(self) -> bool:
        """
        Whether the text can change.
        """
        return not isinstance(self.origin, Secret)

    def check(self) -> None:
        """
        Raises:
            ConfigurationError: If there is no place to read from.
        """
        if self.wrong:
            raise ConfigurationError(f"{self.name} {self.wrong}")

    def read(self) -> Secret:
        """
        The text, as it is now.

        Raises:
            ConfigurationError: If there is none, or it is no text.
        """
        self.check()
        if isinstance(self.origin, Secret):
            text, remedy = self.origin, _ENVIRONMENT
        elif isinstance(self.origin, Path):
            text, remedy = self._in_file(self.origin), "Replace it as a whole, by renaming."
        else:
            text, remedy = self._from_function(self.origin), "The function must return it."
        if not text.reveal():
            raise ConfigurationError(f"{self} is empty. {remedy}")
        if not is_text(text.reveal()):
            raise ConfigurationError(
                f"{self} is no valid text. If it comes from the environment, its bytes are not "
                "UTF-8."
            )
        return text

    def _in_file(self, path: Path) -> Secret:
        # Raised after the `except`, since an error that was being handled shows what was read.
        try:
            return _text_of(path)
        except OSError as error:
            why = error.strerror or type(error).__name__
        except UnicodeDecodeError:
            why = "it is not UTF-8"
        except ValueError as error:
            why = str(error)
        raise ConfigurationError(
            f"{self} cannot be read: {why}. Check the path, and who may read it."
        )

    def _from_function(self, function: Any) -> Secret:
        try:
            text = _returned_by(function)
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises
            # Its type only: the text of the error can hold anything.
            text, why = None, f"the function raised {type(error).__name__}"
        else:
            why = "the function returned no string"
        if text is None:
            raise ConfigurationError(f"{self} cannot be read: {why}.")
        return text

    def __str__(self) -> str:
        return (
            f"{self.name} in {str(self.origin)!r}" if isinstance(self.origin, Path) else self.name
        )

    def __repr__(self) -> str:
        # A function's `repr` can show what it is bound to.
        return repr(self.origin) if isinstance(self.origin, Secret | Path) else "<function>"


def is_text(text: str) -> bool:
    """
    Whether it can be written in UTF-8. What the environment holds need not be.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_of(path: Path) -> Secret:
    # Opening a pipe could wait for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        content = file.read(_MAX_SIZE + 1)
    if len(content) > _MAX_SIZE:
        raise ValueError(f"it is larger than {_MAX_SIZE // 1024} KiB")
    # Some editors begin a file with a mark, and all end it with a newline.
    return Secret(content.decode("utf-8-sig").rstrip("\r\n"))


def _returned_by(function: Callable[[], Any]) -> Secret | None:
    returned = function()
    return Secret(returned) if isinstance(returned, str) else None


_MAX_SIZE = 64 * 1024
_ENVIRONMENT = "If it comes from the environment, is the variable set?"
