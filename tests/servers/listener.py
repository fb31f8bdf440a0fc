"""
A small HTTP/1.1 server that hands on requests exactly as they came.

Not `http.server`: it collapses leading slashes and drops the headers after a malformed one, which
are things that a test of what goes over the wire has to see.
"""

import contextlib
import json
import socket
import socketserver
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Self

from tests.servers.ledger import Seen

_IDLE_TIMEOUT = 120.0
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


class Listener:
    """
    Listens on a free loopback port from the moment it is made until `stop`.

    Args:
        answer: Called in the connection's own thread. `ConnectionError` makes the server hang up;
            any other exception is answered with 500 and the traceback.
        record: Called with every request before its answer is sent, so that a client that has the
            answer finds the request recorded.
    """

    def __init__(
        self,
        answer: Callable[[Seen], Answer],
        record: Callable[[Seen], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._server = _Server(answer, record, tls)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    @property
    def connections(self) -> int:
        """
        How many connections were accepted.
        """
        return self._server.connections

    def stop(self) -> None:
        """
        Close the port and every open connection. A second call is harmless.
        """
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # Without it, connections of a test with many threads are refused now and then.
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[Seen], Answer],
        record: Callable[[Seen], None],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.answer = answer
        self.record = record
        self.tls = tls
        self.connections = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()  # guarded by _lock
        super().__init__(("127.0.0.1", 0), _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        request.settimeout(_IDLE_TIMEOUT)
        self.connections += 1
        return request, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """
        Stay silent about connections that break: failed TLS handshakes are part of the tests.
        """

    @contextlib.contextmanager
    def opened(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)

    def hang_up(self) -> None:
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                # The plain one: SSLSocket's own pulls the rug from under a thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    request: socket.socket

    def setup(self) -> None:
        # Here and not where connections are accepted: a slow handshake delays only itself.
        if self.server.tls is not None:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        with self.server.opened(self.request):
            while self._exchange():
                pass

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.request.close()

    def _exchange(self) -> bool:
        reading = _Reading()
        try:
            reading.read(self.rfile.readline, self.rfile.read)
        except (OSError, EOFError, ValueError):
            if reading.target:
                self.server.record(reading.seen())
            return False

        seen = reading.seen()
        try:
            answer = self.server.answer(seen)
        except ConnectionError:
            self.server.record(seen)
            return False
        except Exception:  # noqa: BLE001 - whatever a script raises, its test has to see it
            answer = Answer(500, body=traceback.format_exc().encode())
        self.server.record(replace(seen, status=answer.status))
        return self._send(answer, seen) and reading.keeps_alive

    def _send(self, answer: Answer, request: Seen) -> bool:
        try:
            reason = HTTPStatus(answer.status).phrase
        except ValueError:
            reason = "Unassigned"
        headers = list(answer.headers)
        if answer.status not in (204, 304):
            headers.append(("Content-Length", str(len(answer.body))))
        lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{n}: {v}" for n, v in headers), "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        body = b"" if request.method == "HEAD" or answer.status in (204, 304) else answer.body
        try:
            self.wfile.write(head + body)
        except OSError:
            return False
        return True


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
