"""
Client authentication by a JWT that the client signs: with its secret, or with a private key
(OpenID Connect Core 9).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.assertions import SignedAssertion, check_choice
from resource_tokens.oauth.credentials import Credential
from resource_tokens.oauth.sources import Source, TextSource
from resource_tokens.tokens import Secret

if TYPE_CHECKING:
    from resource_tokens.oauth.signing import SigningKey

__all__ = ["ClientSecretJwt", "PrivateKeyJwt"]


class PrivateKeyObject(Protocol):
    """
    A private key of the `cryptography` package.
    """

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002 - its name there
        """
        The key in a form that can be stored.
        """
        ...


class ClientSecretJwt(SignedAssertion):
    """
    A JWT signed with the client secret (`client_secret_jwt`). The secret itself is not sent.

    Args:
        client_id: The client identifier.
        client_secret: The client secret; or, if it rotates, the `pathlib.Path` of a file that
            holds it or a function that returns it. It is as long as the algorithm asks for, which
            is 32 bytes for HS256.
        algorithm: The `alg` of the signature.
        audience: Whom the assertion names as its audience; by default what the server's dialect
            says, which is the issuer.
        typ: The `typ` in its header. `"JWT"` is for servers that refuse the explicit one.
        lifetime: How long an assertion is good. Each request has its own.
        allow_shared_key: Whether the secret may sign for several servers although one of them wants
            its token endpoint as the audience.

    Raises:
        ConfigurationError: If the secret cannot be read or is too short, or another argument cannot
            be what it stands for.
    """

    __slots__ = ()
    method = "client_secret_jwt"

    def __init__(
        self,
        client_id: str,
        client_secret: TextSource,
        algorithm: Literal["HS256", "HS384", "HS512"] = "HS256",
        *,
        audience: Literal["issuer", "token_endpoint"] | None = None,
        typ: Literal["client-authentication+jwt", "JWT"] = "client-authentication+jwt",
        lifetime: timedelta = timedelta(seconds=60),
        allow_shared_key: bool = False,
    ) -> None:
        name = f"The client_secret of {client_id!r}"
        source = Source.of(name, client_secret)
        del client_secret
        check_choice("algorithm", algorithm, ("HS256", "HS384", "HS512"))
        key = Credential(partial(_secret_signing_key, name, algorithm), source)
        super().__init__(client_id, key, algorithm, None, audience, typ, lifetime, allow_shared_key)


class PrivateKeyJwt(SignedAssertion):
    """
    A JWT signed with the client's private key (`private_key_jwt`). The server has the public key,
    and nothing that is sent lets anybody else sign.

    Args:
        client_id: The client identifier.
        key: The private key, as PEM or JWK: RSA of at least 2048 bits, EC on P-256, or Ed25519. Or
            the `pathlib.Path` of a file that holds it, a function that returns it, or a key of
            the `cryptography` package.
        algorithm: The `alg` of the signature; by default what the JWK says, or else RS256 for RSA
            and the only one for the others.
        key_id: The `kid` in the header; by default that of the JWK, if it has one.
        certificate: The X.509 certificate that is registered for the key, as PEM or as the
            `pathlib.Path` of a file. The header then has its thumbprint, `x5t#S256`.
        password: The password of an encrypted PEM, or a file or function for it.
        audience: Whom the assertion names as its audience; by default what the server's dialect
            says, which is the issuer.
        typ: The `typ` in its header. `"JWT"` is for servers that refuse the explicit one.
        lifetime: How long an assertion is good. Each request has its own.
        allow_shared_key: Whether the key may sign for several servers although one of them wants
            its token endpoint as the audience.

    Raises:
        ConfigurationError: If the key cannot be read or used, or another argument cannot be what it
            stands for.
    """

    __slots__ = ()
    method = "private_key_jwt"

    def __init__(
        self,
        client_id: str,
        key: TextSource | bytes | Mapping[str, Any] | PrivateKeyObject,
        *,
        algorithm: Literal["RS256", "PS256", "ES256", "EdDSA"] | None = None,
        key_id: str | None = None,
        certificate: str | os.PathLike[str] | None = None,
        password: TextSource | None = None,
        audience: Literal["issuer", "token_endpoint"] | None = None,
        typ: Literal["client-authentication+jwt", "JWT"] = "client-authentication+jwt",
        lifetime: timedelta = timedelta(seconds=60),
        allow_shared_key: bool = False,
    ) -> None:
        name = f"The key of {client_id!r}"
        sources = (
            _key_source(name, key),
            _optional(f"The password of {client_id!r}", password),
            _optional(f"The certificate of {client_id!r}", certificate),
        )
        del key, password
        check_choice("algorithm", algorithm, (None, "RS256", "PS256", "ES256", "EdDSA"))
        if key_id is not None and not (isinstance(key_id, str) and key_id):
            raise ConfigurationError(f"key_id={key_id!r} is empty or no string.")
        credential = Credential(
            partial(_private_signing_key, name, algorithm=algorithm, key_id=key_id), *sources
        )
        super().__init__(
            client_id, credential, algorithm, key_id, audience, typ, lifetime, allow_shared_key
        )


def _key_source(name: str, key: Any) -> Source:
    if key is None or isinstance(key, str | os.PathLike) or callable(key):
        return Source.of(name, key)
    try:
        if isinstance(key, Mapping):
            return Source.of(name, json.dumps(dict(key)))
        if isinstance(key, bytes):
            return Source.of(name, key.decode())
    except (TypeError, ValueError):
        return Source(name, None, "is neither PEM nor JWK, but something binary.")
    from resource_tokens.oauth.keys import pem_of

    return Source(name, pem_of(name, key))


def _optional(name: str, given: object) -> Source | None:
    return None if given is None else Source.of(name, given)


def _secret_signing_key(name: str, algorithm: str, secret: Secret) -> SigningKey:
    from resource_tokens.oauth.signing import secret_signing_key

    return secret_signing_key(name, algorithm, secret)


def _private_signing_key(name: str, *texts: Any, **choices: Any) -> SigningKey:
    from resource_tokens.oauth.signing import private_signing_key

    return private_signing_key(name, *texts, **choices)
