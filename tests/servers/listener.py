"""
A small HTTP/1.1 server that hands on requests exactly as they came.

Not `http.server`: it collapses leading slashes and drops the headers after a malformed one, which
are things that a test of what goes over the wire has to see.
"""

import json
import socket
import ssl
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from io import BufferedReader
from typing import Any, Self

from resource_tokens._local_http import Acceptor
from tests.servers.ledger import Seen
from tests.servers.tls import secured

_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A response. `Content-Length` is added when it is sent.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @classmethod
    def from_json(cls, status: int, content: Any, *headers: tuple[str, str]) -> Self:
        """
        An answer with a JSON body.
        """
        content_type = ("Content-Type", "application/json")
        return cls(status, (content_type, *headers), json.dumps(content).encode())

    def sent_to(self, request: Seen) -> bytes:
        """
        What goes over the wire in answer to this request.
        """
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Unassigned"
        headers = list(self.headers)
        if self.status not in (204, 304):
            headers.append(("Content-Length", str(len(self.body))))
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{n}: {v}" for n, v in headers), "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        return head if request.method == "HEAD" or self.status in (204, 304) else head + self.body


class Listener(Acceptor):
    """
    Reads requests and writes what is answered, on any connection that comes.

    Args:
        answer: Called in the connection's own thread. `ConnectionError` makes the server hang up;
            any other exception is answered with 500 and the traceback.
        record: Called with every request before its answer is sent, so that a client that has the
            answer finds the request recorded.
        tls: Serves https with this.
    """

    def __init__(
        self,
        answer: Callable[[Seen], Answer],
        record: Callable[[Seen], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answer = answer
        self._record = record
        self._tls = tls
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is None:
            self._converse_on(connection)
        else:
            with secured(connection, self._tls) as secure:
                self._converse_on(secure)

    def _converse_on(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            while self._exchange(connection, lines):
                pass

    def _exchange(self, connection: socket.socket, lines: BufferedReader) -> bool:
        reading = _Reading()
        shown = connection.getpeercert(True) if isinstance(connection, ssl.SSLSocket) else None
        try:
            reading.read(lines.readline, lines.read)
        except (OSError, EOFError, ValueError):
            if reading.target:
                self._record(replace(reading.seen(), certificate=shown))
            return False

        seen = replace(reading.seen(), certificate=shown)
        try:
            answer = self._answer(seen)
        except ConnectionError:
            self._record(seen)
            return False
        except Exception:  # noqa: BLE001 - whatever a script raises, its test has to see it
            answer = Answer(500, body=traceback.format_exc().encode())
        self._record(replace(seen, status=answer.status))
        connection.sendall(answer.sent_to(seen))
        return reading.keeps_alive


class _Reading:
    """
    A request in the making, so that what came of one that breaks off is recorded too.
    """

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self._version = ""

    def read(self, readline: Callable[[int], bytes], read: Callable[[int], bytes]) -> None:
        """
        Fill this from a connection.

        Raises:
            EOFError, OSError: The client went away.
            ValueError: That is not HTTP.
        """
        line, whole = self._line(readline)
        self.target = line
        _require(whole)
        self.method, self.target, self._version = line.split(" ")
        self._read_headers(readline)
        if "chunked" in self._values("transfer-encoding"):
            while size := self._chunk_size(readline):
                self._read_body(read, size)
                _require(self._line(readline) == ("", True))
            self._read_headers(readline)
        else:
            (length,) = set(self._values("content-length")) or {"0"}
            self._read_body(read, int(length))

    @property
    def keeps_alive(self) -> bool:
        """
        Whether another request may follow on this connection.
        """
        return self._version == "HTTP/1.1" and "close" not in self._values("connection")

    def seen(self) -> Seen:
        """
        What has come so far.
        """
        return Seen(self.method, self.target, tuple(self.headers), self.body)

    def _read_headers(self, readline: Callable[[int], bytes]) -> None:
        while True:
            line, whole = self._line(readline)
            if line:
                name, _, value = line.partition(":")
                self.headers.append((name, value.strip(" \t")))
            _require(whole)
            if not line:
                return

    def _chunk_size(self, readline: Callable[[int], bytes]) -> int:
        line, whole = self._line(readline)
        _require(whole)
        return int(line.partition(";")[0], 16)

    def _read_body(self, read: Callable[[int], bytes], size: int) -> None:
        piece = read(size)
        self.body += piece
        _require(len(piece) == size)

    def _line(self, readline: Callable[[int], bytes]) -> tuple[str, bool]:
        raw = readline(_LONGEST_LINE)
        return raw.rstrip(b"\r\n").decode("latin-1"), raw.endswith(b"\n")

    def _values(self, name: str) -> list[str]:
        return [value.lower() for each, value in self.headers if each.lower() == name]


def _require(whole: bool) -> None:
    if not whole:
        raise EOFError
