"""
node-oidc-provider as a strict RFC 8707 authorization server on a loopback port.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from tests.servers.child import ChildServer
from tests.servers.loopback import fetch_json, post_form, send
from tests.servers.npm import find_node, installed_packages

_HERE = Path(__file__).resolve().parent

AuthMethod = Literal[
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    "private_key_jwt",
    "tls_client_auth",
    "self_signed_tls_client_auth",
    "none",
]


class ResourceConfig(TypedDict):
    """
    One API that tokens can be asked for.

    Attributes:
        scopes: What it knows. Others that are asked for are dropped without a word.
        format: `"jwt"` (RFC 9068) by default.
        alg: `"RS256"` by default.
        ttl: Seconds, at least 1.
        audience: The `aud` of its tokens, if that is not the resource itself.
    """

    scopes: list[str]
    format: NotRequired[Literal["jwt", "opaque"]]
    alg: NotRequired[Literal["RS256", "ES256"]]
    ttl: NotRequired[int]
    audience: NotRequired[str]


class ClientConfig(TypedDict):
    """
    One client: members of its metadata (RFC 7591 2) as oidc-provider reads them.

    Identifier and secret may hold printable ASCII only, or the server refuses to start.

    Attributes:
        grant_types: `["client_credentials"]` by default.
        token_endpoint_auth_method: `"client_secret_basic"` by default.
        jwks: The keys of its assertions, or its self-signed certificates.
        tls_client_auth_san_dns: The name in its certificate.
        tls_client_certificate_bound_access_tokens: Whether its tokens are bound to that.
        assertion_audience: The only `aud` taken in its assertions. By default both are.
    """

    client_id: str
    client_secret: NotRequired[str]
    grant_types: NotRequired[list[str]]
    token_endpoint_auth_method: NotRequired[AuthMethod]
    token_endpoint_auth_signing_alg: NotRequired[str]
    jwks: NotRequired[dict[str, Any]]
    tls_client_auth_san_dns: NotRequired[str]
    tls_client_certificate_bound_access_tokens: NotRequired[bool]
    assertion_audience: NotRequired[Literal["issuer", "token_endpoint"]]


class TLSConfig(TypedDict):
    """
    PEM texts: the server's own key and certificate, and the authority of its clients'.
    """

    key: str
    cert: str
    ca: str


class Config(TypedDict):
    """
    What the server knows.

    Attributes:
        resources: By resource identifier, compared byte for byte.
        token_ttl: Seconds, for tokens without a resource or whose resource sets no `ttl`.
        tls: Adds an https port, named by `mtls_endpoint_aliases`, and an https issuer.
        dpop: Binds tokens to keys (RFC 9449) for whoever sends a proof; `"nonces"` for those only
            whose proof has a nonce.
    """

    clients: list[ClientConfig]
    resources: dict[str, ResourceConfig]
    token_ttl: NotRequired[int]
    tls: NotRequired[TLSConfig]
    dpop: NotRequired[Literal["nonces", "proofs"]]


class Assertion(TypedDict):
    """
    A client assertion without its signature.
    """

    header: dict[str, Any]
    claims: dict[str, Any]


class TokenRequest(TypedDict):
    """
    One entry of the ledger.

    Attributes:
        issuer: The one it was sent to.
        form: Every parameter but secrets, assertions and tokens; a list each.
        method: How it was authenticated, to judge by what it carried.
        assertion: The client assertion, None if there was none.
        proof: The DPoP proof, likewise.
        status: None while the answer is not known yet.
        error: RFC 6749 5.2, None if a token was issued.
    """

    issuer: str
    form: dict[str, list[str]]
    method: AuthMethod
    assertion: Assertion | None
    proof: Assertion | None
    client_id: str | None
    status: int | None
    error: str | None
    error_description: str | None


class OidcProvider(ChildServer):
    """
    A running server; a context manager that stops it.

    Its first start in a checkout installs the npm packages.

    Attributes:
        issuer: The main one.
        issuer_with_a_path: Another, whose metadata is at the OpenID address alone.
        tls_issuer_with_a_path: A third if there is `tls`, with https, and its metadata at the
            OAuth address alone.
    """

    def __init__(self, config: Config) -> None:
        node = find_node()
        packages = installed_packages(node, _HERE)
        super().__init__([node.node, str(_HERE / "server.mjs"), str(packages)], config)
        self.issuer, self.issuer_with_a_path, *more = self.ready["issuers"]
        self.tls_issuer_with_a_path = "".join(more)
        metadata = fetch_json(f"{self.issuer}/.well-known/openid-configuration")
        self.token_endpoint: str = metadata["token_endpoint"]
        self.jwks_uri: str = metadata["jwks_uri"]
        self.introspection_endpoint: str = metadata["introspection_endpoint"]
        self.revocation_endpoint: str = metadata["revocation_endpoint"]

    def ledger(self) -> list[TokenRequest]:
        """
        Every token request since the start or the last `clear`, in order of arrival.
        """
        entries: list[TokenRequest] = fetch_json(f"{self.issuer}/_ledger")
        return entries

    def clear(self) -> None:
        """
        Forget the token requests so far.
        """
        send(f"{self.issuer}/_ledger", method="DELETE")

    def refresh_token(
        self, client_id: str, resources: Mapping[str, str], thumbprint: str | None = None
    ) -> str:
        """
        A refresh token of the main issuer, as after a user's consent in a browser.

        Args:
            client_id: Whose it is.
            resources: The resources it is good for, and the scopes at each.
            thumbprint: That of the key that it was asked for with, if there was one.
        """
        grant: dict[str, Any] = {"client_id": client_id, "resources": dict(resources)}
        if thumbprint is not None:
            grant["jkt"] = thumbprint
        answer = send(f"{self.issuer}/_grants", method="POST", body=json.dumps(grant).encode())
        return str(json.loads(answer)["refresh_token"])

    def user_token(self, subject: str, client_id: str) -> str:
        """
        An access token of the main issuer that is about a user and for a client, as an API that
        the user calls.
        """
        return str(json.loads(self._about("POST", subject, client_id))["access_token"])

    def log_out(self, subject: str) -> None:
        """
        Let the main issuer exchange no more tokens that are about a user.
        """
        self._about("DELETE", subject, "")

    def _about(self, method: str, subject: str, client_id: str) -> bytes:
        who = json.dumps({"subject": subject, "client_id": client_id}).encode()
        return send(f"{self.issuer}/_users", method=method, body=who)

    def introspected(self, token: str, client_id: str, client_secret: str) -> dict[str, Any]:
        """
        What is said about an opaque token or a refresh token (RFC 7662).
        """
        form = {"token": token, "client_id": client_id, "client_secret": client_secret}
        answer: dict[str, Any] = json.loads(post_form(self.introspection_endpoint, form))
        return answer

    def revoke(self, token: str, client_id: str, client_secret: str) -> None:
        """
        Revoke an opaque token or a refresh token (RFC 7009).
        """
        form = {"token": token, "client_id": client_id, "client_secret": client_secret}
        post_form(self.revocation_endpoint, form)
