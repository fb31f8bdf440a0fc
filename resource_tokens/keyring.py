"""
Secrets in the keyring of the system: Keychain, Credential Locker, Secret Service.
"""

from __future__ import annotations

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.stores import new_key
from resource_tokens.tokens import Secret

try:
    import keyring
    import keyring.errors
except ModuleNotFoundError:
    raise ConfigurationError(
        "Secrets in a keyring are read with keyring: pip install 'resource-tokens[keyring]'"
    ) from None

__all__ = ["key_in_keyring", "secret_in", "write_secret"]


def key_in_keyring(name: str = "resource_tokens") -> str:
    """
    The key of a token store, kept in the keyring of the system. A new one is put there the first
    time.

    A keyring that is locked, as it often is while nobody is logged in, gives nothing: a cron job
    then wants its key from a file.

    Args:
        name: What it is kept under there.

    Raises:
        ConfigurationError: If there is no keyring, or it is locked or keeps nothing.
    """
    failure = "does not keep what is put there"
    try:
        if keyring.get_password(name, _USER) is None:
            write_secret(name, _USER, Secret(new_key()))
        # Again: another process may have put one there at the same time.
        kept = keyring.get_password(name, _USER)
    except keyring.errors.KeyringError as error:
        kept, failure = None, f"cannot be used ({type(error).__name__})"
    if kept is None:
        raise ConfigurationError(
            f"The keyring of this system {failure}, so there is no key of the token store "
            f"{name!r}. Unlock it, or keep the key in a file that only this user can read."
        )
    return kept


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


_USER = "key of the token store"
