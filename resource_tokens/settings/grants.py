"""
From the tables of grants, exchanges and proof keys in a settings file to what they stand for.
"""

from __future__ import annotations

from typing import Any

from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.exchange import Exchange, JwtBearer, TokenExchange
from resource_tokens.oauth.grants import ClientCredentials, Grant, RefreshToken
from resource_tokens.refresh_tokens import SharedRefreshToken
from resource_tokens.settings.model import (
    EnvironmentVariable,
    JwtBearerTable,
    ProofKeyTable,
    RefreshTokenTable,
    Table,
    TokenExchangeTable,
    given,
)
from resource_tokens.settings.problems import Key
from resource_tokens.settings.references import References, revealed
from resource_tokens.settings.stores import Store
from resource_tokens.tokens import Secret

__all__ = ["exchange_of", "grant_of", "proof_key_of"]


def grant_of(table: Table | None, references: References, store: Store | None) -> Grant | None:
    """
    The grant; `None` if the file names none, or a secret is missing.

    Args:
        table: The table.
        references: Where its secrets are.
        store: The store of the file.

    Raises:
        ConfigurationError: If it cannot be made.
    """
    if not isinstance(table, RefreshTokenTable):
        return None if table is None else ClientCredentials()
    before = references.troubles
    options = given(table, "type", "refresh_token", "shared")
    if table.shared:
        options["store"] = store
    elif not (table.reusable and isinstance(table.refresh_token, EnvironmentVariable)):
        options["on_rotation"] = references.writer(table.refresh_token)
    presented = references.secret(table.refresh_token, ("grant", "refresh_token"))
    if not references.whole(before):
        return None
    kind = SharedRefreshToken if table.shared else RefreshToken
    grant: Grant = _made(kind, presented, options)
    return grant


def exchange_of(table: Table | None, references: References, here: Key) -> Exchange | None:
    """
    How tokens are asked for on behalf of somebody; `None` if the table is, or a secret is missing.

    Raises:
        ConfigurationError: If it cannot be made.
    """
    if isinstance(table, TokenExchangeTable):
        return _token_exchange(table, references, here)
    if isinstance(table, JwtBearerTable):
        options = given(table, "type", "first")
        if table.first is not None:
            options["first"] = _token_exchange(table.first, references, (*here, "first"))
        return JwtBearer(**options)
    return None


def proof_key_of(table: ProofKeyTable | None, references: References) -> ProofKey | None:
    """
    The proof key; `None` if the table is, or a secret is missing.

    Raises:
        ConfigurationError: If it cannot be made.
    """
    if table is None:
        return None
    before = references.troubles
    options = given(table, "key", "password")
    for name in ("key", "password"):
        reference = getattr(table, name)
        if reference is not None:
            options[name] = references.secret(reference, ("proof_key", name))
    return _made(ProofKey, None, options) if references.whole(before) else None


def _token_exchange(
    table: TokenExchangeTable, references: References, here: Key
) -> TokenExchange | None:
    before = references.troubles
    options = given(table, "type", "actor_token")
    if table.actor_token is not None:
        options["actor_token"] = references.source(table.actor_token, (*here, "actor_token"))
    return _made(TokenExchange, None, options) if references.whole(before) else None


def _made(kind: Any, presented: Secret | None, options: dict[str, Any]) -> Any:
    first = [] if presented is None else [presented.reveal()]
    return kind(*first, **{name: revealed(value) for name, value in options.items()})
