"""
node-oidc-provider as a strict RFC 8707 authorization server on a loopback port.
"""

import json
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NotRequired, Self, TypedDict

from tests.servers.loopback import fetch_json, post_form, send
from tests.servers.oidc_provider.install import find_node, installed_packages

_SERVER = Path(__file__).with_name("server.mjs")


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
        assertion_audience: The only `aud` taken in its assertions. By default both are.
    """

    client_id: str
    client_secret: NotRequired[str]
    grant_types: NotRequired[list[str]]
    token_endpoint_auth_method: NotRequired[AuthMethod]
    token_endpoint_auth_signing_alg: NotRequired[str]
    jwks: NotRequired[dict[str, Any]]
    tls_client_auth_san_dns: NotRequired[str]
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
    """

    clients: list[ClientConfig]
    resources: dict[str, ResourceConfig]
    token_ttl: NotRequired[int]
    tls: NotRequired[TLSConfig]


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
        form: Every parameter but `client_secret` and `client_assertion`; a list each.
        method: How it was authenticated, to judge by what it carried.
        assertion: The client assertion, None if there was none.
        status: None while the answer is not known yet.
        error: RFC 6749 5.2, None if a token was issued.
    """

    issuer: str
    form: dict[str, list[str]]
    method: AuthMethod
    assertion: Assertion | None
    client_id: str | None
    status: int | None
    error: str | None
    error_description: str | None


class OidcProvider:
    """
    A running server. Get one from `start`, and `stop` it or use it as a context manager.

    Attributes:
        issuer: The main one.
        issuer_with_a_path: Another, whose metadata is at the OpenID address alone.
        tls_issuer_with_a_path: A third if there is `tls`, with https, and its metadata at the
            OAuth address alone.
    """

    def __init__(self, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self._process = process
        self._stderr = stderr
        self.issuer = ""
        self.issuer_with_a_path = ""
        self.tls_issuer_with_a_path = ""
        self.token_endpoint = ""
        self.jwks_uri = ""
        self.introspection_endpoint = ""
        self.revocation_endpoint = ""

    @classmethod
    def start(cls, config: Config, *, timeout: float = 30) -> Self:
        """
        Start one on a free port and wait until it answers.

        The first call in a checkout installs the npm packages, which the timeout does not cover.

        Raises:
            RuntimeError: It did not come up; what it said on stderr is in the message.
        """
        node = find_node()
        # A file, because a pipe that nobody reads would block the server once full.
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        process = subprocess.Popen(
            [node.node, str(_SERVER), str(installed_packages(node))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        server = cls(process, stderr)
        try:
            server._become_ready(config, time.monotonic() + timeout)
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def pid(self) -> int:
        """
        The process id of the server.
        """
        return self._process.pid

    @property
    def running(self) -> bool:
        """
        Whether its process is still there.
        """
        return self._process.poll() is None

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

    def refresh_token(self, client_id: str, resources: Mapping[str, str]) -> str:
        """
        A refresh token of the main issuer, as after a user's consent in a browser.

        Args:
            client_id: Whose it is.
            resources: The resources it is good for, and the scopes at each.
        """
        grant = {"client_id": client_id, "resources": dict(resources)}
        answer = send(f"{self.issuer}/_grants", method="POST", body=json.dumps(grant).encode())
        return str(json.loads(answer)["refresh_token"])

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

    def stop(self) -> None:
        """
        End the process. A second call is harmless.
        """
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _become_ready(self, config: Config, deadline: float) -> None:
        assert self._process.stdin is not None
        try:
            # Over stdin, because a command line shows the secrets to everyone on the machine.
            # It stays open: the server ends when it closes, so it cannot outlive us.
            self._process.stdin.write(json.dumps(config).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended at once") from None

        line = self._first_line(deadline)
        if not line:
            raise self._failure("ended before it was ready")
        self.issuer, self.issuer_with_a_path, *more = json.loads(line)["issuers"]
        self.tls_issuer_with_a_path = "".join(more)

        metadata = self._metadata(deadline)
        self.token_endpoint = metadata["token_endpoint"]
        self.jwks_uri = metadata["jwks_uri"]
        self.introspection_endpoint = metadata["introspection_endpoint"]
        self.revocation_endpoint = metadata["revocation_endpoint"]

    def _first_line(self, deadline: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            return lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            raise self._failure("did not say in time where it listens") from None

    def _metadata(self, deadline: float) -> dict[str, str]:
        while True:
            try:
                metadata: dict[str, str] = fetch_json(
                    f"{self.issuer}/.well-known/openid-configuration", timeout=2
                )
            except OSError as error:
                if time.monotonic() > deadline or not self.running:
                    raise self._failure(f"served no discovery document ({error})") from error
                time.sleep(0.02)
            else:
                return metadata

    def _failure(self, what: str) -> RuntimeError:
        self._process.kill()
        status = self._process.wait()
        self._stderr.seek(0)
        stderr = self._stderr.read().decode(errors="replace")
        return RuntimeError(f"oidc-provider {what} (exit status {status}). It said:\n{stderr}")
