"""
Secrets by reference: where a settings file says that one is, and reading it there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.sources import Source
from resource_tokens.settings import SecretPath
from resource_tokens.settings.model import (
    EnvironmentVariable,
    KeyringEntry,
    Reference,
    SecretFile,
)
from resource_tokens.settings.problems import Key, Problems
from resource_tokens.tokens import Secret

__all__ = ["References", "revealed"]


class References:
    """
    Follows the references of one settings file.

    Args:
        folder: The folder of the file, which relative paths start from.
        problems: Where a reference that leads nowhere is reported. What stands for its secret is
            empty then.

    Attributes:
        files: The files that hold secrets.
    """

    def __init__(self, folder: Path, problems: Problems) -> None:
        self._folder = folder
        self._problems = problems
        self.files: list[SecretPath] = []

    def path(self, file: str) -> Path:
        """
        A path as it is meant.
        """
        return self._folder / Path(file).expanduser()

    def secret_path(self, file: str, key: Key) -> Path:
        """
        The path of a file that holds a secret.
        """
        path = self.path(file)
        self.files.append(SecretPath(key, path))
        return path

    def source(self, reference: Reference, key: Key) -> Secret | Path:
        """
        The secret, or the path of a file that is read whenever it is needed.
        """
        if isinstance(reference, SecretFile):
            return self.secret_path(reference.file, key)
        return self.secret(reference, key)

    def secret(self, reference: Reference, key: Key) -> Secret:
        """
        The secret, as it is now.
        """
        with self._problems.at(*key):
            return self._read(reference, key)
        return Secret("")

    def variable(self, name: str) -> Callable[[], str]:
        """
        A function that returns what a variable holds then.
        """
        return partial(os.environ.__getitem__, name)

    def writer(self, reference: Reference) -> Callable[[str], None]:
        """
        A function that puts another secret in the place of this one.

        Raises:
            ConfigurationError: If there is no such place.
        """
        if isinstance(reference, SecretFile):
            return partial(_write_file, self.path(reference.file))
        if isinstance(reference, KeyringEntry):
            from resource_tokens.keyring import write_secret

            service, username = reference.keyring, reference.username
            return lambda text: write_secret(service, username, Secret(text))
        raise ConfigurationError(
            "a refresh token that the server replaces has to be stored, and a variable cannot be "
            "written. Refer to a file or to the keyring, or say `reusable = true` if your server "
            "does not replace it."
        )

    def refuse(self, key: Key, text: str) -> None:
        """
        There is a secret where none belongs.
        """
        self._problems.add(key, text)

    def whole(self, before: int) -> bool:
        """
        Whether every reference since then has led to a secret.

        Args:
            before: How many problems there were then.
        """
        return before == len(self._problems.found)

    @property
    def troubles(self) -> int:
        """
        How many problems there are.
        """
        return len(self._problems.found)

    def _read(self, reference: Reference, key: Key) -> Secret:
        if isinstance(reference, EnvironmentVariable):
            secret = Secret(os.environ.get(reference.env, ""))
            if not secret.reveal():
                raise ConfigurationError(f"the environment variable {reference.env} is not set.")
            return secret
        if isinstance(reference, KeyringEntry):
            from resource_tokens.keyring import secret_in

            return secret_in(reference.keyring, reference.username)
        return Source("The secret", self.secret_path(reference.file, key)).read()


def revealed(value: Any) -> Any:
    """
    A value, as a constructor takes it.
    """
    if isinstance(value, dict):
        return {name: revealed(member) for name, member in value.items()}
    return value.reveal() if isinstance(value, Secret) else value


def _write_file(path: Path, text: str) -> None:
    """
    Replace a file as a whole. The new one is for its owner only.
    """
    # Not the link, where it is one.
    path = path.resolve()
    new = NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False)  # noqa: SIM115 - closed before it is renamed
    try:
        with new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).replace(path)
    except BaseException:
        Path(new.name).unlink()
        raise
