"""
HTTP/1.1 on 127.0.0.1, for the servers of `resource_tokens.testing`.
"""

from __future__ import annotations

import http.server
import json
import re
import socket
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import Any, Self, cast

__all__ = ["Acceptor", "Answer", "Listener", "Request", "json_answer"]


class Acceptor(ABC):
    """
    Accepts connections from the moment it is made, each in a thread of its own, until `stop`.

    Not `socketserver`: that one looks every so often whether it should stop, forgets its daemon
    threads, and leaves idle keep-alive connections open.

    Args:
        port: Where to listen; a free one by default.

    Attributes:
        port: Where it listens.
        connections: How many connections were accepted.
    """

    def __init__(self, port: int = 0) -> None:
        self.connections = 0
        self._stopped = False
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}  # guarded by _lock
        self._listening = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @abstractmethod
    def _serve(self, connection: socket.socket) -> None:
        """
        Converse with one client; `OSError` means that it went away, which is no news.
        """

    def stop(self) -> None:
        """
        Close the port and every connection, and wait for the threads. A second call is harmless.
        """
        if self._stopped:
            return
        self._stopped = True
        with suppress(OSError):
            # Whether closing the socket wakes who waits in `accept` differs between systems.
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._acceptor.join()
        self._listening.close()
        with self._lock:
            connections = dict(self._open)
        for connection in connections.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while not self._stopped:
            with suppress(OSError):
                self._admit(self._listening.accept()[0])

    def _admit(self, connection: socket.socket) -> None:
        if self._stopped:
            connection.close()
            return
        self.connections += 1
        thread = threading.Thread(target=self._converse, args=(connection,), daemon=True)
        with self._lock:
            self._open[thread] = connection
        thread.start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._serve(connection)
                connection.shutdown(socket.SHUT_WR)
        finally:
            connection.close()
            with self._lock:
                del self._open[threading.current_thread()]


@dataclass(frozen=True, slots=True)
class Request:
    """
    A request as it came; what it holds may be secret and is not in its `repr`.

    Attributes:
        body: The first 64 KiB.
        truncated: Whether there was more.
    """

    method: str
    target: str = field(repr=False)
    headers: Message = field(repr=False)
    body: bytes = field(repr=False)
    truncated: bool

    @property
    def path(self) -> str:
        """
        The path on the wire, of a target in origin form or in a proxy's absolute form.
        """
        return re.sub(r"^[A-Za-z]+://[^/?]*", "", self.target).partition("?")[0] or "/"


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A response; what it holds may be secret and is not in its `repr`.

    Attributes:
        headers: `Content-Length` is added unless it is here, right or wrong.
        error: The RFC 6749 error code in the body, if it has one.
    """

    status: int
    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    error: str | None = None


def json_answer(
    status: int, members: Mapping[str, object], *headers: tuple[str, str], error: str | None = None
) -> Answer:
    """
    An answer with a JSON object that no cache keeps.
    """
    standard = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
    return Answer(status, json.dumps(members).encode(), standard + headers, error)


class Listener(Acceptor):
    """
    Hands requests on and writes their answers.

    Args:
        answer: Called in the connection's own thread.
        port: Where to listen; a free one by default.
        clock: Seconds since the epoch, for the `Date` of answers.
    """

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.answer = answer
        self.clock = clock
        super().__init__(port)

    def _serve(self, connection: socket.socket) -> None:
        try:
            _Exchange(connection, ("127.0.0.1", self.port), cast("Any", self))
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - it is printed, and the other connections go on
            traceback.print_exc()


class _Exchange(http.server.BaseHTTPRequestHandler):
    """
    Reads the requests of one connection and writes their answers.
    """

    protocol_version = "HTTP/1.1"

    def __getattr__(self, name: str) -> Callable[[], None]:
        # Every method there is or may be, so that no request escapes the ledger.
        if name.startswith("do_"):
            return self._exchange
        raise AttributeError(name)

    def _exchange(self) -> None:
        body = bytearray()
        size = 0
        try:
            for piece in self._body():
                size += len(piece)
                body += piece[: _BODY_LIMIT - len(body)]
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        # The base class folds a leading `//` in self.path; the ledger shows the wire.
        target = self.requestline.split()[1]
        request = Request(self.command, target, self.headers, bytes(body), size > _BODY_LIMIT)
        answer = cast("Listener", self.server).answer(request)

        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if any(name.lower() == "content-length" for name, _ in answer.headers):
            # It may be wrong on purpose, and then only the end of the connection ends the body.
            self.close_connection = True
        elif answer.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            yield from self._read(int(self.headers.get("Content-Length", "0")))
            return
        while size := int(self.rfile.readline(1024).partition(b";")[0], 16):
            yield from self._read(size)
            self.rfile.readline(1024)
        while self.rfile.readline(1024).strip():
            pass  # trailers

    def _read(self, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self.rfile.read(min(size, _BODY_LIMIT))
            if not piece:
                raise ConnectionResetError("The client went away in the middle of a body")
            size -= len(piece)
            yield piece

    def date_time_string(self, timestamp: float | None = None) -> str:
        """
        The `Date` of an answer, by the server's clock.
        """
        now = cast("Listener", self.server).clock() if timestamp is None else timestamp
        return super().date_time_string(int(now))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """
        Write nothing; the ledger has it.
        """


_BODY_LIMIT = 64 * 1024
