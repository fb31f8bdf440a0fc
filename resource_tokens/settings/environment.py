"""
Settings from environment variables, for the simplest case: one server, one client, a few APIs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.client_auth import ClientSecretBasic
from resource_tokens.oauth.dialects import RFC8707, dialect_of
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.resources import Resource
from resource_tokens.settings import Entry, SecretPath, Settings

__all__ = ["PREFIX", "VARIABLES", "load"]

PREFIX = "RESOURCE_TOKENS_"
VARIABLES: Mapping[str, str] = {
    "CONFIG": "The path of a settings file. No other variable is set then.",
    "ISSUER": "The issuer identifier of the authorization server.",
    "TOKEN_ENDPOINT": "The URL to ask for tokens, when it should not be discovered.",
    "DIALECT": "The name of a dialect.",
    "CLIENT_ID": "The client identifier.",
    "CLIENT_SECRET": "The client secret, for `ClientSecretBasic`.",
    "CLIENT_SECRET_FILE": "Instead, the path of a file that holds it.",
    "RESOURCES": "The resources: URLs with white space between them, each of them both "
    "destination and identifier.",
    "SCOPES": "The scopes to ask for, with white space between them.",
}
"""
The variables, without the prefix that all of them have.
"""


def load() -> Settings:
    """
    The settings in the environment.

    Raises:
        ConfigurationError: If anything is wrong, with all that is.
    """
    given = {
        name.removeprefix(PREFIX)
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and value
    }
    problems = _problems(given)
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise ConfigurationError(f"The environment does not say what to use:{listed}")
    if "CONFIG" in given:
        from resource_tokens.settings import file

        return file.load(_value("CONFIG"))
    server = AuthorizationServer(
        issuer=_value("ISSUER") or None,
        token_endpoint=_value("TOKEN_ENDPOINT") or None,
        dialect=dialect_of(_value("DIALECT") or RFC8707),
    )
    if "CLIENT_SECRET_FILE" in given:
        path = Path(_value("CLIENT_SECRET_FILE"))
        client_auth = ClientSecretBasic(_value("CLIENT_ID"), path)
        secret_files: tuple[SecretPath, ...] = (SecretPath((f"{PREFIX}CLIENT_SECRET_FILE",), path),)
    else:
        client_auth = ClientSecretBasic(_value("CLIENT_ID"), _value("CLIENT_SECRET"))
        secret_files = ()
    entries = [
        Entry(
            url,
            Resource(url, scopes=_value("SCOPES").split()),
            server,
            "the environment's",
            client_auth,
            "the environment's",
        )
        for url in dict.fromkeys(_value("RESOURCES").split())
    ]
    return Settings(
        "the environment", server, client_auth, tuple(entries), secret_files=secret_files
    )


def _problems(given: set[str]) -> list[str]:
    """
    What is missing, or cannot be, by the names of the variables.
    """
    problems = []
    for name in sorted(given - VARIABLES.keys()):
        known = ", ".join(f"{PREFIX}{one}" for one in VARIABLES)
        problems.append(f"{PREFIX}{name} is set, and no variable of that name is known: {known}.")
    given = given & VARIABLES.keys()
    if "CONFIG" in given:
        others = ", ".join(f"{PREFIX}{name}" for name in VARIABLES if name in given - {"CONFIG"})
        if others:
            problems.append(
                f"{PREFIX}CONFIG names a file, and these say something too: {others}. Use the one "
                "or the others."
            )
        return problems
    for choices in _NEEDED:
        names = " or ".join(f"{PREFIX}{name}" for name in choices)
        if not given.intersection(choices):
            problems.append(f"{names} is not set. {VARIABLES[choices[0]]}")
    if {"CLIENT_SECRET", "CLIENT_SECRET_FILE"} <= given:
        problems.append(f"{PREFIX}CLIENT_SECRET and {PREFIX}CLIENT_SECRET_FILE: give one.")
    return problems


def _value(name: str) -> str:
    return os.environ.get(f"{PREFIX}{name}", "")


_NEEDED = (
    ("ISSUER", "TOKEN_ENDPOINT"),
    ("CLIENT_ID",),
    ("CLIENT_SECRET", "CLIENT_SECRET_FILE"),
    ("RESOURCES",),
)
