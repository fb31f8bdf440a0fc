"""
Which settings a command works with.
"""

from __future__ import annotations

import os
from pathlib import Path

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.settings import Settings, environment, file

__all__ = ["DEFAULT", "file_meant", "settings_meant"]

DEFAULT = "resource-tokens.toml"


def file_meant(given: Path | None) -> Path | None:
    """
    The settings file that is named, or else by `RESOURCE_TOKENS_CONFIG`, or else the one in this
    folder; `None` if there is none of them.
    """
    if given is not None:
        return given
    named = os.environ.get(f"{environment.PREFIX}CONFIG")
    if named:
        return Path(named)
    return Path(DEFAULT) if Path(DEFAULT).exists() else None


def settings_meant(given: Path | None) -> Settings:
    """
    The settings to work with: of a file, or else of the environment.

    Raises:
        ConfigurationError: If there are none, or anything is wrong with them.
    """
    path = file_meant(given)
    if path is not None:
        return file.load(path)
    if not any(name.startswith(environment.PREFIX) for name in os.environ):
        raise ConfigurationError(
            f"There are no settings: no {DEFAULT} in this folder, and no variable that begins with "
            f"{environment.PREFIX}. Write a file, or name one with --config."
        )
    return environment.load()
