"""
node-oidc-provider as a strict RFC 8707 authorization server on a loopback port.
"""

import json
import queue
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, NotRequired, Self, TypedDict

from tests.servers.loopback import fetch_json, send
from tests.servers.oidc_provider.install import find_node, installed_packages

_SERVER = Path(__file__).with_name("server.mjs")


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
    One client. Both values may hold printable ASCII only, or the server refuses to start.
    """

    client_id: str
    client_secret: str
    token_endpoint_auth_method: NotRequired[Literal["client_secret_basic", "client_secret_post"]]


class Config(TypedDict):
    """
    What the server knows.

    Attributes:
        resources: By resource identifier, compared byte for byte.
        token_ttl: Seconds, for tokens without a resource or whose resource sets no `ttl`.
    """

    clients: list[ClientConfig]
    resources: dict[str, ResourceConfig]
    token_ttl: NotRequired[int]


class TokenRequest(TypedDict):
    """
    One entry of the ledger.

    Attributes:
        form: Every parameter but `client_secret` and `client_assertion`; a list each.
        basic: Whether an `Authorization: Basic` header came with it.
        status: None while the answer is not known yet.
        error: RFC 6749 5.2, None if a token was issued.
    """

    form: dict[str, list[str]]
    basic: bool
    client_id: str | None
    status: int | None
    error: str | None
    error_description: str | None


class OidcProvider:
    """
    A running server. Get one from `start`, and `stop` it or use it as a context manager.
    """

    def __init__(self, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self._process = process
        self._stderr = stderr
        self.issuer = ""
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
        self.issuer = json.loads(line)["issuer"]

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
