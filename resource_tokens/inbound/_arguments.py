"""
The arguments of `RequireToken`, checked before any request is.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.published_keys import ALGORITHMS
from resource_tokens.oauth.sources import Source, TextSource
from resource_tokens.tokens import Secret

__all__ = [
    "checked_algorithms",
    "checked_audience",
    "checked_client_auth",
    "checked_nonce_secret",
    "checked_server",
    "checked_skew",
    "checked_typ",
]

# Each of them raises a ConfigurationError if the argument cannot be what it stands for.


def checked_server(issuer: object) -> tuple[AuthorizationServer, str]:
    """
    How to reach the issuer, and its identifier.
    """
    server = AuthorizationServer(issuer=issuer) if isinstance(issuer, str) else issuer
    if not isinstance(server, AuthorizationServer) or server.issuer is None:
        raise ConfigurationError(
            "RequireToken needs issuer=, an issuer identifier or an AuthorizationServer that has "
            "one."
        )
    return server, server.issuer


def checked_audience(audience: object) -> str:
    """
    What the issuer calls this API.
    """
    if not isinstance(audience, str) or not audience:
        raise ConfigurationError(
            "RequireToken needs audience=, one string: what the issuer calls this API."
        )
    return audience


def checked_typ(typ: str) -> frozenset[str | None]:
    """
    What the header of a token may say in `typ`.
    """
    if typ not in _TYP:
        raise ConfigurationError(f"typ={typ!r}: use 'at+jwt' or 'JWT'.")
    return _TYP[typ]


def checked_algorithms(algorithms: Collection[str]) -> frozenset[str]:
    """
    The signatures that count.
    """
    if isinstance(algorithms, str) or not algorithms or set(algorithms) - set(ALGORITHMS):
        raise ConfigurationError(
            f"algorithms={algorithms!r}: give a list with some of {', '.join(ALGORITHMS)}. With "
            "others, whoever can verify a token can make one."
        )
    return frozenset(algorithms)


def checked_client_auth(client_auth: ClientAuth | None) -> ClientAuth | None:
    """
    What this API proves its identity with.
    """
    known = isinstance(client_auth, ClientAuth) and client_auth.confidential
    if client_auth is not None and not known:
        raise ConfigurationError(
            "client_auth= is what this API proves its identity with when it asks about opaque "
            "tokens, such as ClientSecretBasic(...) or PrivateKeyJwt(...)."
        )
    return client_auth


def checked_nonce_secret(given: TextSource | None) -> Secret | None:
    """
    What nonces are made with.
    """
    if given is None:
        return None
    source = Source.of("nonce_secret", given)
    del given
    secret = source.read()
    if len(secret.reveal()) < _LEAST_SECRET:
        raise ConfigurationError(
            f"nonce_secret is shorter than {_LEAST_SECRET} characters: whoever saw one nonce could "
            "find it by trying."
        )
    return secret


def checked_skew(skew: object) -> float:
    """
    How far clocks may be apart, in seconds.
    """
    if not isinstance(skew, timedelta) or skew < timedelta():
        raise ConfigurationError(f"skew={skew!r}: give a timedelta, such as timedelta(seconds=30).")
    return skew.total_seconds()


_LEAST_SECRET = 32
# RFC 9068 4: `at+jwt` or `application/at+jwt`.
_STRICT: frozenset[str | None] = frozenset({"at+jwt", "application/at+jwt"})
_TYP = {"at+jwt": _STRICT, "JWT": _STRICT | {"jwt", "application/jwt", None}}
