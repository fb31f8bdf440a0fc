"""
A request with a proof of the key that its token is bound to (DPoP): beside one with a bearer token
and one bare signature; and what it takes to send a header of that length, whoever makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from benchmarks.clients import (
    BASELINE,
    COLOURS,
    LIBRARIES,
    Setting,
    resource_tokens,
    rows,
)
from benchmarks.loopback_request import api
from benchmarks.measure import Effort, Goal, Row
from resource_tokens import Resource
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["measure"]

GOAL = Goal("ratio", 1.10)


def measure(effort: Effort) -> Iterator[Row]:
    """
    Over a real connection, for each library, sync and async.
    """
    contenders = {
        BASELINE: bearer_and_signature,
        "a header as long": header_as_long,
        "resource_tokens": proof,
    }
    with LocalAuthorizationServer() as server, api() as resource:
        for (library, module), (colour, client) in product(LIBRARIES.items(), COLOURS.items()):
            # Without `trust_env`, no proxy of this machine comes in between.
            options = {"trust_env": False}
            setting = Setting(server, getattr(module, client), options, [resource], resource)
            case = f"{library} {colour}"
            yield from rows("dpop-request", case, setting, effort, GOAL, contenders=contenders)


def bearer_and_signature(setting: Setting) -> Any:
    """
    A client with our auth, that signs once for each request.
    """
    return _Signing(resource_tokens(setting))


def header_as_long(setting: Setting) -> Any:
    """
    The same, with a header of the length of a proof: the least that any client can take.
    """
    options = {**setting.options, "headers": {"DPoP": "x" * _LENGTH}}
    return bearer_and_signature(replace(setting, options=options))


def proof(setting: Setting) -> Any:
    """
    The same client, whose tokens are bound to a key.
    """
    bound = [Resource(setting.url, sender="dpop")]
    return resource_tokens(replace(setting, resources=bound))


class _Signing:
    """
    A client of either colour.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._key = generate_private_key(SECP256R1())
        self.close, self.aclose = (getattr(client, name, None) for name in ("close", "aclose"))

    def get(self, url: str) -> Any:
        self._key.sign(b"x" * _LENGTH, _ES256)
        return self._client.get(url)


_ES256 = ECDSA(SHA256())
# Of a proof with a nonce, as it is signed and as it is sent.
_LENGTH = 480
