"""
APIs that keep a ledger: one that verifies Bearer tokens, and a sink that takes everything.
"""

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import jwt

from tests.servers.bearer import TokenVerifier
from tests.servers.ledger import Ledger, Seen
from tests.servers.listener import Answer, Listener

__all__ = ["Answer", "LedgerApi", "Script", "Seen", "Sink"]

Script = Callable[[Seen], Answer | None]


class Sink:
    """
    Accepts anything, verifies nothing, records all. Runs from the moment it is made until `stop`.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._ledger = Ledger()
        self._lock = threading.Lock()
        self._scripts: list[Script] = []  # guarded by _lock
        self._listener = Listener(self._answer, self._ledger.append, tls)
        self.port = self._listener.port
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def seen(self) -> list[Seen]:
        """
        Every request so far, oldest first.
        """
        return self._ledger.entries()

    @property
    def connections(self) -> int:
        """
        How many connections were accepted, with or without a request on them.
        """
        return self._listener.connections

    def seen_under(self, prefix: str) -> list[Seen]:
        """
        The requests whose path on the wire is the prefix or continues it after a slash.
        """
        return [seen for seen in self.seen if seen.is_under(prefix)]

    def seen_with(self, value: str) -> list[Seen]:
        """
        The requests that hold this value anywhere: target, header, trailer or body.
        """
        return [seen for seen in self.seen if seen.contains(value)]

    def tokens_seen(self) -> list[str]:
        """
        Every token value in any target, header or body, each once, in order of first sight.
        """
        return list(dict.fromkeys(token for seen in self.seen for token in seen.tokens()))

    def clear(self) -> None:
        """
        Empty the ledger. Scripts and revocations stay.
        """
        self._ledger.clear()

    def behave(self, script: Script) -> None:
        """
        Let this decide the answer; where it returns None, older scripts and then the server do.

        It runs in the connection's thread and may block. If it raises `ConnectionError`, the server
        hangs up without an answer.
        """
        with self._lock:
            self._scripts.insert(0, script)

    def answer(
        self,
        path: str,
        status: int,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        times: int | None = None,
    ) -> None:
        """
        Answer requests for exactly this path so, `times` of them or all, whatever token they carry.
        """
        self.behave(_Fixed(path, Answer(status, tuple(headers), body), times))

    def redirect(self, path: str, *, to: str, status: int = 307, times: int | None = None) -> None:
        """
        Redirect requests for exactly this path.
        """
        self.answer(path, status, headers=[("Location", to)], times=times)

    def stop(self) -> None:
        """
        Close the port and every connection. A second call is harmless.
        """
        self._listener.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _answer(self, request: Seen) -> Answer:
        with self._lock:
            scripts = list(self._scripts)
        for script in scripts:
            answer = script(request)
            if answer is not None:
                return answer
        return self._own_answer(request)

    def _own_answer(self, request: Seen) -> Answer:
        return Answer.from_json(200, {"path": request.path})


class LedgerApi(Sink):
    """
    A resource server that verifies the Bearer token: signature, `iss`, `exp`, and its own `aud`.

    Args:
        audience: Its identifier, if the whole server is one API.
        audiences: Path prefixes and their identifiers, if it is several. The longest prefix wins;
            a path under none of them is 404.
        issuer: The only one it trusts.
        jwks_uri: Where the issuer's keys are. Fetched when first needed and for an unknown `kid`.
        keys: JWKs, instead of or in addition to those.
        tls: Serves https with this.
    """

    def __init__(
        self,
        audience: str | None = None,
        *,
        audiences: Mapping[str, str] | None = None,
        issuer: str,
        jwks_uri: str | None = None,
        keys: Iterable[Mapping[str, Any]] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if (audience is None) == (audiences is None):
            raise ValueError("give either `audience` or `audiences`")
        self._audiences = {"/": audience} if audience is not None else dict(audiences or {})
        self._verifier = TokenVerifier(issuer, jwks_uri=jwks_uri, keys=keys)
        self._revoked: set[str] = set()  # guarded by _lock
        self._revoked_before = 0.0  # guarded by _lock
        super().__init__(tls=tls)

    def revoke(self, token: str) -> None:
        """
        Refuse this token from now on.
        """
        with self._lock:
            self._revoked.add(token)

    def revoke_all_issued_before_now(self) -> None:
        """
        Refuse every token that was presented here or whose `iat` lies before this second.

        `iat` counts whole seconds: of the tokens issued within this one, those that were not
        presented yet stay good, so that a renewal in the same second is accepted.
        """
        presented = self.tokens_seen()
        with self._lock:
            self._revoked.update(presented)
            self._revoked_before = float(int(time.time()))

    def _own_answer(self, request: Seen) -> Answer:
        audience = self._audience_of(request)
        if audience is None:
            return Answer.from_json(404, {"path": request.path})
        credentials = request.header("authorization")
        if len(credentials) > 1:
            return _refusal(400, "invalid_request", "more than one Authorization header")
        scheme, _, token = "".join(credentials).partition(" ")
        if scheme.lower() != "bearer" or not token:
            return Answer(401, (("WWW-Authenticate", "Bearer"),))
        try:
            claims = self._claims(token, audience)
        except jwt.InvalidTokenError as error:
            return _refusal(401, "invalid_token", str(error))
        return Answer.from_json(
            200,
            {
                "aud": claims["aud"],
                "scope": claims.get("scope"),
                "sub": claims.get("sub"),
                "path": request.path,
            },
        )

    def _audience_of(self, request: Seen) -> str | None:
        prefixes = [prefix for prefix in self._audiences if request.is_under(prefix)]
        return self._audiences[max(prefixes, key=len)] if prefixes else None

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        claims = self._verifier.claims(token, audience)
        with self._lock:
            if token in self._revoked or claims.get("iat", 0) < self._revoked_before:
                raise jwt.InvalidTokenError("revoked")
        return claims


@dataclass
class _Fixed:
    """
    A script: the same answer for one path, a number of times.
    """

    path: str
    response: Answer
    times: int | None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, request: Seen) -> Answer | None:
        if request.path != self.path:
            return None
        with self._lock:
            if self.times is not None:
                if self.times == 0:
                    return None
                self.times -= 1
        return self.response


def _refusal(status: int, error: str, reason: str) -> Answer:
    challenge = ("WWW-Authenticate", f'Bearer error="{error}"')
    return Answer.from_json(status, {"error": error, "reason": reason}, challenge)
