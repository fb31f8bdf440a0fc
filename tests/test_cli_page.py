"""
The reference page of the command line, made from the commands.

    python -m tests.test_cli_page > docs/reference/command-line.md
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from resource_tokens.cli.app import app

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "command-line.md"

HEAD = """\
# Command line

What each command of `resource-tokens` takes.
How to use it is told in [Use the command line](../howto/command-line.md).

Settings come from the file that `--config` names, or else `RESOURCE_TOKENS_CONFIG`, or else from `resource-tokens.toml` in the current folder, or else from the [environment](settings.md#environment-variables).
"""  # noqa: E501 - one sentence a line


def page() -> str:
    """
    The whole page.
    """
    group: Any = get_command(app)
    parts = [HEAD]
    for name, command in group.commands.items():
        about = inspect.cleandoc(command.help).replace("\n\n", "\0").replace("\n", " ")
        text = about.replace("\0", "\n\n").replace(". ", ".\n")
        parts.append(f"## `{name}`\n\n{text}\n\n{''.join(rows(command))}")
    return "\n".join(parts)


def rows(command: Any) -> Iterator[str]:
    """
    A line for each argument and option.
    """
    context = typer.Context(command)
    given = [p for p in command.get_params(context) if p.name != "help"]
    if given:
        yield "| | |\n| --- | --- |\n"
    for parameter in given:
        names = ", ".join(f"`{name}`" for name in parameter.opts if name.startswith("-"))
        names = names or f"`{(parameter.metavar or parameter.name).upper()}`"
        yield f"| {names} | {parameter.help} |\n"


def test_the_page_is_up_to_date() -> None:
    """
    Each command and option is on it, in its own words.
    """
    assert page() == PAGE.read_text("utf-8")


if __name__ == "__main__":
    sys.stdout.write(page())
