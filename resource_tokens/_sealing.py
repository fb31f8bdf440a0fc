"""
Sealing what leaves the process: who reads a store learns nothing, who writes to it changes nothing.

The key that an entry belongs to is sealed along with it, so that one that was moved to another key
does not open there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.messages import Members
from resource_tokens.oauth.sources import Source
from resource_tokens.stores import (
    Generation,
    StoredGrant,
    StoredToken,
    UnreadableEntryError,
)
from resource_tokens.tokens import AccessToken, Secret, TokenKey

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

__all__ = ["EVERYBODY", "FORGOTTEN_KEPT", "GRANT_KEPT", "Sealer", "StoreKey"]

T = TypeVar("T")

GRANT_KEPT = timedelta(days=400)
"""
How long a refresh token is kept that nobody uses.
"""

EVERYBODY = "*"
"""
The name of all subjects in the journal of those who were forgotten.
"""

FORGOTTEN_KEPT = timedelta(hours=25)
"""
How long it is known that a subject was forgotten: longer than any token lives.
"""

StoreKey = str | bytes | os.PathLike[str]
"""
A key of a store, or the path of a file that holds it. A `str` is the key and never a path.
"""


class Sealer:
    """
    Seals and opens the entries of a store (AES-128-CBC and HMAC-SHA-256, by `cryptography`).

    Args:
        keys: From `new_key`. The first one seals and names, all of them open, so that keys can be
            replaced one after the other. Files are read once, now.

    Raises:
        ConfigurationError: If there is no key, or one is no such key.
    """

    def __init__(self, keys: Iterable[StoreKey] | StoreKey) -> None:
        # Wrapped before it is looked at: reporters of errors show the variables of a frame.
        given = [keys] if isinstance(keys, str | bytes | os.PathLike) else keys
        secrets = [_secret(key) for key in given]
        del given, keys
        self._fernet = _fernet(secrets)
        # Names are not sealed, as they have to be found again. Each key makes names of its own, so
        # that nobody comes across what another key has sealed.
        self._naming = [
            Secret(hashlib.sha256(key.reveal().encode()).hexdigest()) for key in secrets
        ]

    def seal(self, key: TokenKey, stored: StoredToken) -> bytes:
        """
        An entry, for this key only.
        """
        return self._sealed(
            key,
            {
                "access_token": stored.token.reveal(),
                "token_type": stored.token.token_type,
                "resource": stored.token.resource,
                "scopes": sorted(stored.token.scopes),
                "expires_at": stored.token.expires_at.timestamp(),
                "requested_wall": stored.requested_wall,
                "generation": list(stored.generation),
                "forgotten": stored.forgotten,
            },
        )

    def open(self, key: TokenKey, sealed: bytes) -> StoredToken:
        """
        What was sealed for this key.

        Raises:
            UnreadableEntryError: If it was not, or not by one of the keys, or is damaged.
        """
        opened = self._opened(key, sealed, _stored)
        if opened is None:
            raise UnreadableEntryError(
                "An entry of the token store cannot be opened: it belongs to another place, is "
                "damaged, is of another version, or was sealed with a key that is not among "
                "`keys`. It counts as absent."
            )
        return opened

    def seal_grant(self, key: TokenKey, grant: StoredGrant) -> bytes:
        """
        A shared refresh token, for this key only.
        """
        return self._sealed(
            key,
            {
                "refresh_token": grant.refresh_token.reveal(),
                "presented": grant.presented,
                "reuse_known": grant.reuse_known,
                "ended": grant.ended,
            },
        )

    def open_grant(self, key: TokenKey, sealed: bytes) -> StoredGrant:
        """
        What was sealed for this key.

        Raises:
            UnreadableEntryError: If it was not, or not by one of the keys, or is damaged.
        """
        opened = self._opened(key, sealed, _grant)
        if opened is None:
            raise UnreadableEntryError(
                "A refresh token in the store cannot be opened: it is damaged, or was sealed with "
                "a key that is not among `keys`. It is left as it is."
            )
        return opened

    def _sealed(self, key: TokenKey, members: dict[str, Any]) -> bytes:
        members |= {"version": _VERSION, "key": key.hex()}
        return self._fernet.encrypt(json.dumps(members).encode())

    def _opened(
        self, key: TokenKey, sealed: bytes, read: Callable[[dict[str, Any]], T]
    ) -> T | None:
        from cryptography.fernet import InvalidToken

        try:
            members = Members(json.loads(self._fernet.decrypt(sealed)))
            if members["version"] == _VERSION and members["key"] == key.hex():
                return read(members)
        except (InvalidToken, ValueError, TypeError, KeyError, OverflowError):
            pass
        return None

    def name(self, *parts: str | bytes) -> str:
        """
        A name that says nothing of its parts to whoever does not have the key.
        """
        return _named(self._naming[0], TokenKey.of(parts))

    def names(self, *parts: str | bytes) -> list[str]:
        """
        The name that each of the keys would make: the one that is used first, those that others
        use while keys are replaced after it.
        """
        message = TokenKey.of(parts)
        return [_named(naming, message) for naming in self._naming]

    def subject_names(self, resource: str, subject: bytes) -> list[str]:
        """
        What a subject is looked for by in the journal of those who were forgotten: as everybody,
        with all resources, with this one.
        """
        return [EVERYBODY, *(self.name("subject", subject, of) for of in ("", resource))]

    def __repr__(self) -> str:
        return "Sealer('...')"


def _named(naming: Secret, message: TokenKey) -> str:
    return hmac.digest(naming.reveal().encode(), message, "sha256").hex()


def _secret(key: object) -> Secret:
    if isinstance(key, bytes):
        key = key.decode("ascii", "replace")
    if isinstance(key, os.PathLike):
        return Source.of("A key of the token store", key).read()
    return Secret(key.strip() if isinstance(key, str) else "")


def _fernet(keys: list[Secret]) -> MultiFernet:
    # Local: cryptography takes long to import, and most programs share nothing.
    from cryptography.fernet import Fernet, MultiFernet

    for key in keys:
        try:
            usable = len(base64.urlsafe_b64decode(key.reveal())) == 32
        except (binascii.Error, ValueError):
            usable = False
        if not usable:
            keys = []
            break
    if not keys:
        raise ConfigurationError(
            "keys= of a token store: give at least one key, each 32 random bytes in URL-safe "
            "base64, as `resource_tokens.stores.new_key()` makes them. If it comes from the "
            "environment, is the variable set?"
        )
    return MultiFernet([Fernet(key.reveal()) for key in keys])


def _stored(members: dict[str, Any]) -> StoredToken:
    of_all, of_resource = members["generation"]
    return StoredToken(
        AccessToken(
            Secret(str(members["access_token"])),
            str(members["resource"]),
            str(members["token_type"]),
            frozenset(map(str, members["scopes"])),
            datetime.fromtimestamp(float(members["expires_at"]), UTC),
        ),
        float(members["requested_wall"]),
        Generation(int(of_all), int(of_resource)),
        int(members.get("forgotten", 0)),
    )


def _grant(members: dict[str, Any]) -> StoredGrant:
    ended = members["ended"]
    if ended is not None:
        error, description, uri = ended
        ended = str(error), _text(description), _text(uri)
    return StoredGrant(
        Secret(str(members["refresh_token"])),
        str(members["presented"]),
        members["reuse_known"] is True,
        ended,
    )


def _text(member: object) -> str | None:
    return None if member is None else str(member)


_VERSION = 1
