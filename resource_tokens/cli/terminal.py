"""
Writing to a terminal: what others have chosen is shown, and never obeyed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from resource_tokens._httpx import http
from resource_tokens.exceptions import ResourceTokensError
from resource_tokens.oauth.messages import quoted

__all__ = ["error_console", "failing", "output_console", "print_json", "print_pairs", "safe"]


def output_console() -> Console:
    """
    Where results go.
    """
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def error_console() -> Console:
    """
    Where everything else goes.
    """
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def safe(text: object, style: str = "") -> Text:
    """
    A text in which nothing moves the cursor.
    """
    lines = str(text).split("\n")
    return Text("\n".join(quoted(line, limit=4096) for line in lines), style)


def print_pairs(console: Console, rows: Iterable[tuple[str, object]]) -> None:
    """
    Print names and values, one pair a line.
    """
    known = list(rows)
    width = max(len(name) for name, _ in known)
    for name, value in known:
        console.print(safe(f"{name:{width}}  ", "dim"), safe(value), sep="")


def print_json(value: Any) -> None:
    """
    A result for programs.
    """
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@contextmanager
def failing() -> Iterator[None]:
    """
    What this library refuses, and what the network does, ends a command with status 2.
    """
    try:
        yield
    except (ResourceTokensError, http.HTTPError, http.InvalidURL, OSError) as error:
        kind = "" if isinstance(error, ResourceTokensError) else f"{type(error).__name__}: "
        error_console().print(safe(f"error: {kind}{error}", "red"))
        raise typer.Exit(2) from None
