"""
What is wrong with a settings file: all of it at once, each with its line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from resource_tokens.exceptions import ConfigurationError

__all__ = ["Key", "Lines", "Problem", "Problems", "key_text"]

Key = tuple[str | int, ...]
"""
The way to a value: the names of tables and keys, the positions in arrays.
"""


class Problem(NamedTuple):
    """
    Something that is wrong.

    Attributes:
        line: The line that the key is on, or would belong to; `None` if that is not known.
        key: The key it is about.
        text: What was found, and what was expected.
    """

    line: int | None
    key: Key
    text: str

    def __str__(self) -> str:
        place = ", ".join(
            part for part in (self.line and f"line {self.line}", key_text(self.key)) if part
        )
        return f"{place}: {self.text}" if place else self.text


class Problems:
    """
    Collects what is wrong.

    Attributes:
        lines: Where keys are.
        found: What is wrong, in the order in which it was found.
    """

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.found: list[Problem] = []

    def add(self, key: Key, text: str) -> None:
        """
        Something is wrong here.
        """
        self.found.append(Problem(self.lines(key), key, text))

    @contextmanager
    def at(self, *key: str | int) -> Iterator[None]:
        """
        What a constructor refuses in here is wrong with this key.
        """
        try:
            yield
        except ConfigurationError as error:
            self.add(key, str(error))

    def within(self, *key: str | int) -> bool:
        """
        Whether anything is wrong with this key, or below it.
        """
        return any(problem.key[: len(key)] == key for problem in self.found)

    def in_order(self) -> tuple[Problem, ...]:
        """
        All of them, from the top of the file to its end.
        """
        return tuple(sorted(dict.fromkeys(self.found), key=lambda problem: problem.line or 0))


class Lines:
    """
    The lines that the keys of a TOML file are on.

    `tomllib` does not tell. But a file that is cut after a statement is a TOML file as well, so a
    key is on the first line after which it is there.

    Args:
        text: The file.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._until = lru_cache(maxsize=None)(self._parsed_until)

    def __call__(self, key: Key) -> int | None:
        """
        The line on which a key is set, or else the table that it would be in; `None` if neither is
        in the file.
        """
        while key and not _holds(self._until(len(self._lines))[1], key):
            key = key[:-1]
        if not key:
            return None
        low, high = 1, len(self._lines)
        while low < high:
            middle = (low + high) // 2
            if _holds(self._until(middle)[1], key):
                high = middle
            else:
                low = middle + 1
        # A value can go on for several lines. Before the first of them the key is not there.
        return self._until(low - 1)[0] + 1

    def _parsed_until(self, count: int) -> tuple[int, Mapping[str, Any]]:
        """
        What is in the first lines, as far as these are whole statements; and how many are.
        """
        for whole in range(count, 0, -1):
            try:
                return whole, tomllib.loads("\n".join(self._lines[:whole]))
            except tomllib.TOMLDecodeError:
                continue
        return 0, {}


def _holds(value: Any, key: Key) -> bool:
    for part in key:
        if isinstance(value, list):
            value = dict(enumerate(value))
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def key_text(key: Key) -> str:
    """
    A key as one would write it.
    """
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += f"{'.' if text else ''}{part if bare else _quoted(part)}"
    return text


def _quoted(part: str) -> str:
    escaped = part.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[^\x20-\x7e]", "?", escaped) + '"'
