"""
From the table of a client in a settings file to its client authentication.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.assertion_files import ClientAssertionFile
from resource_tokens.oauth.client_auth import (
    ClientAuth,
    ClientSecretBasic,
    ClientSecretPost,
    PublicClient,
)
from resource_tokens.oauth.jwt_client_auth import ClientSecretJwt, PrivateKeyJwt
from resource_tokens.oauth.tls_client_auth import TlsClientAuth
from resource_tokens.settings.model import (
    ClientAssertionFileTable,
    ClientSecretJwtTable,
    ClientSecretTable,
    EnvironmentVariable,
    KeyringEntry,
    PrivateKeyJwtTable,
    PublicClientTable,
    Table,
    TlsClientTable,
    given,
)
from resource_tokens.settings.problems import Key
from resource_tokens.settings.references import References, revealed
from resource_tokens.tokens import Secret

__all__ = ["Maker", "maker_of"]

Maker = Callable[[], ClientAuth]


def maker_of(table: Table, references: References, here: Key) -> Maker:
    """
    What makes the client authentication, once its secrets are known to be there.
    """
    return _MAKERS[type(table)](table, references, here)


def _secret(table: ClientSecretTable, references: References, here: Key) -> Maker:
    post = table.method == "client_secret_post"
    source = references.source(table.client_secret, (*here, "client_secret"))
    return partial(_make, ClientSecretPost if post else ClientSecretBasic, table.client_id, source)


def _secret_jwt(table: ClientSecretJwtTable, references: References, here: Key) -> Maker:
    source = references.source(table.client_secret, (*here, "client_secret"))
    options = _options(table, "client_secret")
    return partial(_make, ClientSecretJwt, table.client_id, source, options)


def _private_key_jwt(table: PrivateKeyJwtTable, references: References, here: Key) -> Maker:
    options = _options(table, "key", "certificate_file", "password")
    if table.certificate_file is not None:
        options["certificate"] = references.path(table.certificate_file)
    if table.password is not None:
        options["password"] = references.source(table.password, (*here, "password"))
    source = references.source(table.key, (*here, "key"))
    return partial(_make, PrivateKeyJwt, table.client_id, source, options)


def _assertion_file(table: ClientAssertionFileTable, references: References, here: Key) -> Maker:
    options = _options(table, "assertion") | {"client_id": table.client_id}
    if isinstance(table.assertion, EnvironmentVariable):
        return partial(ClientAssertionFile, references.variable(table.assertion.env), **options)
    if isinstance(table.assertion, KeyringEntry):
        raise ConfigurationError(
            "`assertion` is replaced by whoever signs it before it expires, and a keyring is no "
            "place for that. Refer to a file or a variable."
        )
    path = references.secret_path(table.assertion.file, (*here, "assertion"))
    return partial(ClientAssertionFile, path, **options)


def _tls(table: TlsClientTable, references: References, here: Key) -> Maker:
    # Without a key of its own, the first file holds the key as well.
    named = "certificate_file" if table.key_file is None else "key_file"
    key = references.secret_path(table.key_file or table.certificate_file, (*here, named))
    self_signed = table.method == "self_signed_tls_client_auth"
    certificate = references.path(table.certificate_file)
    return partial(TlsClientAuth, table.client_id, certificate, key, self_signed=self_signed)


def _public(table: PublicClientTable, _references: References, _here: Key) -> Maker:
    return partial(PublicClient, table.client_id)


_MAKERS: dict[type[Table], Callable[[Any, References, Key], Maker]] = {
    ClientSecretTable: _secret,
    ClientSecretJwtTable: _secret_jwt,
    PrivateKeyJwtTable: _private_key_jwt,
    ClientAssertionFileTable: _assertion_file,
    TlsClientTable: _tls,
    PublicClientTable: _public,
}


def _make(
    kind: Any,
    client_id: str,
    source: Secret | Path,
    options: Mapping[str, Any] | None = None,
) -> Any:
    plain = {name: revealed(value) for name, value in (options or {}).items()}
    return kind(client_id, revealed(source), **plain)


def _options(table: Table, *others: str) -> dict[str, Any]:
    """
    What a table says by the names of the arguments.
    """
    options = given(table, "method", "server", "client_id", *others)
    if "lifetime" in options:
        options["lifetime"] = timedelta(seconds=options["lifetime"])
    return options
