"""
Clients of node-oidc-provider, one for each way to authenticate, and what they prove it with.
"""

from __future__ import annotations

import base64
import datetime
import json
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.servers.oidc_provider import ClientConfig, TLSConfig
from tests.servers.tls import authority, certificate

__all__ = ["SECRET", "TLS_NAME", "private_key", "registered", "server_tls", "write_certificates"]

SECRET = "a secret of forty-two characters, or so"
TLS_NAME = "worker.example.com"
_GRANT = "urn:ietf:params:oauth:grant-type"
_ALGORITHMS: dict[str, Any] = {"RS256": RSAAlgorithm, "PS256": RSAAlgorithm, "ES256": ECAlgorithm}


@cache
def private_key(algorithm: str) -> Any:
    """
    The key of the client that signs with this algorithm.
    """
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def registered() -> list[ClientConfig]:
    """
    The clients, as the server is to know them.
    """
    key_clients: list[ClientConfig] = [
        {
            "client_id": f"private_key_jwt {algorithm}",
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": algorithm,
            "jwks": {"keys": [_public_jwk(algorithm)]},
        }
        for algorithm in ("RS256", "PS256", "ES256", "EdDSA")
    ]
    strict_clients: list[ClientConfig] = [
        {
            "client_id": f"wants the {audience}",
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [_public_jwk("ES256")]},
            "assertion_audience": audience,
        }
        for audience in ("issuer", "token_endpoint")
    ]
    return [
        {"client_id": "client_secret_basic", "client_secret": SECRET},
        {
            "client_id": "client_secret_post",
            "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_post",
        },
        {
            "client_id": "client_secret_jwt",
            "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_jwt",
        },
        *key_clients,
        *strict_clients,
        {
            "client_id": "tls_client_auth",
            "token_endpoint_auth_method": "tls_client_auth",
            "tls_client_auth_san_dns": TLS_NAME,
        },
        {
            "client_id": "bound tls_client_auth",
            "token_endpoint_auth_method": "tls_client_auth",
            "tls_client_auth_san_dns": TLS_NAME,
            "tls_client_certificate_bound_access_tokens": True,
        },
        {
            "client_id": "self_signed_tls_client_auth",
            "token_endpoint_auth_method": "self_signed_tls_client_auth",
            "jwks": {"keys": [_certified_jwk()]},
        },
        {
            "client_id": "none",
            "token_endpoint_auth_method": "none",
            "grant_types": ["refresh_token"],
        },
        {
            "client_id": "agent",
            "client_secret": SECRET,
            "grant_types": ["refresh_token", "client_credentials"],
        },
        {
            "client_id": "middle",
            "client_secret": SECRET,
            "grant_types": [f"{_GRANT}:token-exchange", "client_credentials"],
        },
        {
            "client_id": "middle elsewhere",
            "client_secret": SECRET,
            "grant_types": [f"{_GRANT}:jwt-bearer"],
        },
    ]


def server_tls() -> TLSConfig:
    """
    What the server shows its clients, and whose certificates of theirs it believes.
    """
    own = certificate()
    return {
        "key": own.private_key_pem.bytes().decode(),
        "cert": "".join(blob.bytes().decode() for blob in own.cert_chain_pems),
        "ca": authority().cert_pem.bytes().decode(),
    }


def write_certificates(folder: Path) -> None:
    """
    The certificates of the clients that have one, `<client_id>.pem` with the key in it; and
    `ca.pem`, which the server's own is from.
    """
    authority().cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate(TLS_NAME).private_key_and_cert_chain_pem.write_to_path(
        str(folder / "tls_client_auth.pem")
    )
    key = private_key("ES256").private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    own = _self_signed().public_bytes(serialization.Encoding.PEM)
    (folder / "self_signed_tls_client_auth.pem").write_bytes(key + own)


def _public_jwk(algorithm: str) -> dict[str, Any]:
    public = private_key(algorithm).public_key()
    jwk: dict[str, Any] = json.loads(_ALGORITHMS.get(algorithm, OKPAlgorithm).to_jwk(public))
    return {**jwk, "use": "sig"}


def _certified_jwk() -> dict[str, Any]:
    der = _self_signed().public_bytes(serialization.Encoding.DER)
    return {**_public_jwk("ES256"), "x5c": [base64.b64encode(der).decode()]}


@cache
def _self_signed() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody vouches for me")])
    now = datetime.datetime.now(datetime.UTC)
    key = private_key("ES256")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
