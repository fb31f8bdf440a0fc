"""
The key of a token store in the keyring of the system: Keychain, Credential Locker, Secret Service.
"""

from __future__ import annotations

import keyring
import keyring.errors

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.stores import new_key

__all__ = ["key_in_keyring"]


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
            keyring.set_password(name, _USER, new_key())
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


_USER = "key of the token store"
