"""
What a test server has seen, request by request.
"""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_plus

_TOKEN = r"[A-Za-z0-9._~+/-]+=*"
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){2,4}")
_TOKEN_PLACES = (
    re.compile(rf"\b(?:Bearer|DPoP)[ \t]+({_TOKEN})", re.IGNORECASE),
    re.compile(rf"access_token[\"'\s]*[:=][\"'\s]*({_TOKEN})", re.IGNORECASE),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """
    One request as it came over the wire, latin-1 decoded and not normalised.

    Attributes:
        headers: Names and values in their order, trailers last.
        status: What was answered; None for a request that broke off, or a server that hung up.
        certificate: The certificate that the client has shown on the connection, as DER.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    status: int | None = None
    certificate: bytes | None = None

    @property
    def path(self) -> str:
        """
        The path of the target, still encoded; also of a target in absolute form, empty for CONNECT.
        """
        if self.target.startswith("/"):
            return self.target.partition("?")[0]
        # By hand: urlsplit normalises, and refuses some targets that a test may want to see.
        _, slash, path = self.target.partition("://")[2].partition("/")
        return (slash + path).partition("?")[0]

    def header(self, name: str) -> list[str]:
        """
        Every value of this header.
        """
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def is_under(self, prefix: str) -> bool:
        """
        Whether the path is the prefix or continues it after a slash.
        """
        return self.path == prefix or self.path.startswith(prefix.rstrip("/") + "/")

    def contains(self, value: str) -> bool:
        """
        Whether the value stands anywhere in the request, as it is or percent-encoded.
        """
        return any(value in text for text in self._texts())

    def tokens(self) -> Iterator[str]:
        """
        Whatever looks like an access token: after a scheme, in a parameter, or any JWT.

        The proof in a `DPoP` header is not one.
        """
        for text in self._texts():
            for pattern in _TOKEN_PLACES:
                yield from pattern.findall(text)
            if not text.lower().startswith("dpop:"):
                yield from _JWT.findall(text)

    def _texts(self) -> Iterator[str]:
        raw = [self.method, self.target, *(f"{name}: {value}" for name, value in self.headers)]
        raw.append(self.body.decode("latin-1"))
        for text in raw:
            yield text
            if "%" in text or "+" in text:
                yield unquote_plus(text)


class Ledger:
    """
    An append-only list that many threads write.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Seen] = []  # guarded by _lock

    def append(self, seen: Seen) -> None:
        """
        Add one request.
        """
        with self._lock:
            self._entries.append(seen)

    def entries(self) -> list[Seen]:
        """
        A copy, oldest first.
        """
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """
        Forget everything.
        """
        with self._lock:
            self._entries.clear()
