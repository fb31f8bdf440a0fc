"""
Secrets in the keyring of the operating system.
"""

from __future__ import annotations

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.tokens import Secret

try:
    import keyring
    import keyring.errors
except ModuleNotFoundError:
    raise ConfigurationError(
        "Secrets in a keyring are read with keyring: pip install 'resource-tokens[keyring]'"
    ) from None

__all__ = ["secret_in", "write_secret"]


def secret_in(service: str, username: str) -> Secret:
    """
    A secret as it is now.

    Raises:
        ConfigurationError: If it cannot be read, or there is none.
    """
    text, why = _password(service, username)
    if text is None:
        raise ConfigurationError(f"the keyring has no secret of {username!r} at {service!r}{why}.")
    return text


def write_secret(service: str, username: str, secret: Secret) -> None:
    """
    Put a secret in the place of the one there.
    """
    keyring.set_password(service, username, secret.reveal())


def _password(service: str, username: str) -> tuple[Secret | None, str]:
    try:
        text = keyring.get_password(service, username)
    except keyring.errors.KeyringError as error:
        return None, f" that can be read ({type(error).__name__})"
    return (None if text is None else Secret(text)), ""
