"""
The check of an incoming JWT, against the bare verification by PyJWT.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from time import perf_counter
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from benchmarks.measure import Effort, Goal, Row, Section, interleaved
from resource_tokens.inbound import RequireToken
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["measure"]

AUDIENCE = "urn:example:orders"
GOAL = Goal("ratio", 1.15)
# What a browser or an SDK sends along.
OTHERS = {
    "Host": "orders.example.com",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate, br",
    "Connection": "keep-alive",
    "User-Agent": "python-httpx/0.28.1",
    "Content-Type": "application/json",
    "X-Request-Id": "01JD2Z6Y7M3W8Q",
}


def measure(effort: Effort) -> Iterator[Row]:
    """
    The whole check of a request: its headers, signature, issuer, audience, times and scopes; beside
    `jwt.decode` with the key at hand, and algorithm, issuer and audience given.
    """
    keys: dict[str, tuple[Any, Any]] = {
        "RS256": (rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm),
        "ES256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
        "EdDSA": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
    }
    for algorithm, (key, kind) in keys.items():
        jwk = kind.to_jwk(key.public_key(), as_dict=True) | {"kid": algorithm, "alg": algorithm}
        with LocalAuthorizationServer() as server:
            server.respond("/keys", body=json.dumps({"keys": [jwk]}).encode())
            require = RequireToken(
                issuer=server.issuer,
                audience=AUDIENCE,
                scopes=["orders:read"],
                jwks_uri=f"{server.issuer}/keys",
            )
            token = _signed(server.issuer, key, algorithm)
            headers = OTHERS | {"Authorization": f"Bearer {token}"}
            require.verify(headers, "GET", "/v1/orders")
            bare = partial(
                jwt.decode,
                token,
                key.public_key(),
                [algorithm],
                audience=AUDIENCE,
                issuer=server.issuer,
            )
        ours = partial(require.verify, headers, "GET", "/v1/orders")
        sections = {
            "ours": _section(ours, effort.requests),
            "bare": _section(bare, effort.requests),
        }
        rounds = [(taken["ours"], taken["bare"]) for taken in interleaved(sections, effort.rounds)]
        yield Row.compared(
            benchmark="inbound",
            case=algorithm,
            contender="resource_tokens",
            unit="µs",
            rounds=rounds,
            goal=GOAL,
        )


def _signed(issuer: str, key: Any, algorithm: str) -> str:
    now = int(time.time())
    claims = {
        "iss": issuer,
        "sub": "alice",
        "client_id": "orders-web",
        "aud": AUDIENCE,
        "scope": "orders:read orders:write",
        "iat": now,
        "exp": now + 3600,
        "jti": "8c2f6a1e-7d9b-4c53-9f0e-6f1d2a3b4c5d",
    }
    return jwt.encode(claims, key, algorithm, {"kid": algorithm, "typ": "at+jwt"})


def _section(work: Callable[[], object], size: int) -> Section:
    def section() -> float:
        started = perf_counter()
        for _ in repeat(None, size):
            work()
        return (perf_counter() - started) / size

    return section
