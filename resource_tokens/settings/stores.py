"""
From the table of a store in a settings file to the store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.settings.messages import refer_to
from resource_tokens.settings.model import (
    FileStoreTable,
    MemoryStoreTable,
    RedisStoreTable,
    Reference,
)
from resource_tokens.settings.problems import Key
from resource_tokens.settings.references import References, revealed
from resource_tokens.stores import MemoryTokenStore, TokenStore
from resource_tokens.tokens import Secret

__all__ = ["Store", "store_of", "url_of"]

Store = TokenStore | MemoryTokenStore


def store_of(table: Any, references: References) -> Store | None:
    """
    The store; `None` if it is the default one, or a secret is missing.

    Raises:
        ConfigurationError: If it cannot be made.
    """
    if isinstance(table, MemoryStoreTable):
        bounds = {"maxsize": table.size, "max_bytes": table.max_bytes}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        return MemoryTokenStore(**given) if given else None
    if isinstance(table, RedisStoreTable):
        return _redis(table, references)
    if isinstance(table, FileStoreTable):
        return _file(table, references)
    return None


def url_of(given: str | Reference, references: References, key: Key) -> Secret:
    """
    A URL, which is a secret if it has credentials in it.
    """
    if not isinstance(given, str):
        return references.secret(given, key)
    if "@" in given:
        references.refuse(key, f"the URL has credentials in it. {refer_to(key)}")
    return Secret(given)


def _redis(table: RedisStoreTable, references: References) -> Store | None:
    before = references.troubles
    url = url_of(table.url, references, ("store", "url"))
    keys = _keys(table.keys, references)
    try:
        from resource_tokens.redis import RedisTokenStore
    except ModuleNotFoundError:
        raise ConfigurationError(
            "tokens are kept in Redis with redis-py: pip install 'resource-tokens[redis]'"
        ) from None
    options = {} if table.prefix is None else {"prefix": table.prefix}
    return _made(RedisTokenStore, [url], keys, options) if references.whole(before) else None


def _file(table: FileStoreTable, references: References) -> Store | None:
    from resource_tokens.files import FileTokenStore

    before = references.troubles
    keys = _keys(table.keys, references)
    options = {} if table.maxsize is None else {"maxsize": table.maxsize}
    folder = None if table.folder is None else references.path(table.folder)
    return _made(FileTokenStore, [folder], keys, options) if references.whole(before) else None


def _keys(keys: list[Reference], references: References) -> list[Secret | Path]:
    return [references.source(key, ("store", "keys", index)) for index, key in enumerate(keys)]


def _made(
    kind: Callable[..., Store],
    place: list[Any],
    keys: list[Secret | Path],
    options: dict[str, Any],
) -> Store:
    return kind(*map(revealed, place), keys=list(map(revealed, keys)), **options)
