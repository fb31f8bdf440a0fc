"""
A TCP proxy before a real server that spoils what passes, one connection after the other.

Every connection carries one exchange: a request, and what its fault makes of the answer.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from resource_tokens._local_http import Acceptor
from tests.servers.ledger import Seen
from tests.servers.listener import Answer
from tests.servers.tls import secured

__all__ = [
    "ChaosProxy",
    "Delay",
    "Exchange",
    "Fault",
    "Garbage",
    "Instead",
    "Pass",
    "Passage",
    "Refuse",
    "Reset",
    "Silence",
    "StackTrace",
    "Trickle",
    "Truncate",
]


@dataclass(frozen=True, slots=True)
class Passage:
    """
    One connection, and what was done to it.

    Attributes:
        request: What the client has sent; empty if nothing was read.
        forwarded: Whether the server has got it.
    """

    fault: Fault
    request: bytes
    forwarded: bool

    @property
    def target(self) -> str:
        """
        Method and target of the request; empty where none was read.
        """
        return self.request.partition(b"\r\n")[0].decode("latin-1").rpartition(" ")[0]


class ChaosProxy(Acceptor):
    """
    Runs from the moment it is made until `stop`.

    Args:
        upstream: The loopback port of the server behind.
        tls: Speaks TLS with clients by this; the server behind never does.

    Attributes:
        url: Its address.
        otherwise: What is done to connections that no script is left for.
    """

    def __init__(self, upstream: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.otherwise: Fault = Pass()
        self._upstream = upstream
        self._tls = tls
        self._stopping = threading.Event()
        self._script: deque[Fault] = deque()  # guarded by _lock
        self._passages: list[Passage] = []  # guarded by _lock
        super().__init__()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def passages(self) -> list[Passage]:
        """
        Every connection so far, in the order in which their fates were decided.
        """
        with self._lock:
            return list(self._passages)

    def script(self, *faults: Fault) -> None:
        """
        What to do to the next connections, one fault each, after those already planned.
        """
        with self._lock:
            self._script.extend(faults)

    def heal(self) -> None:
        """
        Let everything pass from now on.
        """
        with self._lock:
            self._script.clear()
        self.otherwise = Pass()

    def clear(self) -> None:
        """
        Forget the passages so far.
        """
        with self._lock:
            self._passages.clear()

    def stop(self) -> None:
        """
        Close the port and every connection, and wait for the threads.
        """
        self._stopping.set()
        super().stop()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            fault = self._script.popleft() if self._script else self.otherwise
        with Exchange(connection, self._tls, self._upstream, self._stopping) as exchange:

            def record() -> None:
                with self._lock:
                    self._passages.append(Passage(fault, exchange.received, exchange.forwarded))

            fault(exchange, record)


class Exchange:
    """
    One request on one connection, in the hands of a fault.

    Attributes:
        received: What the client has sent so far, decrypted.
        forwarded: Whether the server was asked.
    """

    def __init__(
        self,
        connection: socket.socket,
        tls: ssl.SSLContext | None,
        upstream: int,
        stopping: threading.Event,
    ) -> None:
        self.received = b""
        self.forwarded = False
        self._connection = connection
        self._client = connection
        self._tls = tls
        self._upstream = upstream
        self._stopping = stopping

    def read(self) -> None:
        """
        Read the request, after the handshake if there is one.

        Raises:
            ConnectionError: If the client hangs up.
        """
        if self._tls is not None:
            self._client = secured(self._connection, self._tls)
        while b"\r\n\r\n" not in self.received:
            self._read_on()
        head = self.received.partition(b"\r\n\r\n")[0]
        length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
        size = len(head) + 4 + (0 if length is None else int(length[1]))
        while len(self.received) < size:
            self._read_on()

    def answer(self) -> bytes:
        """
        The whole answer of the real server.
        """
        line, _, rest = self.received.partition(b"\r\n")
        whole = bytearray()
        with socket.create_connection(("127.0.0.1", self._upstream)) as upstream:
            self.forwarded = True
            upstream.sendall(line + b"\r\nConnection: close\r\n" + rest)
            while piece := upstream.recv(65536):
                whole += piece
        return bytes(whole)

    def send(self, raw: bytes) -> None:
        """
        Send bytes to the client.
        """
        self._client.sendall(raw)

    def pause(self, seconds: float) -> None:
        """
        Let time pass, unless the proxy stops.
        """
        self._stopping.wait(seconds)

    def take(self) -> None:
        """
        Read whatever comes first, and decrypt nothing.
        """
        self.received += self._client.recv(65536)

    def until_the_client_leaves(self) -> None:
        """
        Wait until the client hangs up, or the proxy stops.
        """
        while self._client.recv(65536):
            pass

    def hang_up(self) -> None:
        """
        Say that there is no more.
        """
        self._connection.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """
        End the connection with RST instead of FIN.
        """
        # Zero seconds to linger: the system drops what was not sent, and tells the client so.
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # The connection itself is not ours to close.
        if self._client is not self._connection:
            self._client.close()

    def _read_on(self) -> None:
        piece = self._client.recv(65536)
        if not piece:
            raise ConnectionError
        self.received += piece


Record = Callable[[], None]
Fault = Callable[[Exchange, Record], None]
"""
What happens on one connection. It records the passage before the client can know its outcome.
"""


@dataclass(frozen=True, slots=True)
class Pass:
    """
    Nothing is spoilt.
    """

    def __call__(self, exchange: Exchange, record: Record) -> None:
        exchange.read()
        answer = exchange.answer()
        record()
        exchange.send(answer)


@dataclass(frozen=True, slots=True)
class Delay:
    """
    The answer comes, later.
    """

    seconds: float

    def __call__(self, exchange: Exchange, record: Record) -> None:
        exchange.read()
        answer = exchange.answer()
        record()
        exchange.pause(self.seconds)
        exchange.send(answer)


@dataclass(frozen=True, slots=True)
class Refuse:
    """
    The connection ends before anything was read.
    """

    def __call__(self, exchange: Exchange, record: Record) -> None:
        record()
        exchange.reset()


@dataclass(frozen=True, slots=True)
class Reset:
    """
    RST: at the first bytes (a handshake, if there is one), instead of an answer, or in the middle
    of it.
    """

    where: Literal["at once", "instead", "headers", "body"] = "instead"

    def __call__(self, exchange: Exchange, record: Record) -> None:
        if self.where == "at once":
            exchange.take()
        else:
            exchange.read()
        if self.where in ("headers", "body"):
            part = _part(exchange.answer(), self.where)
            record()
            exchange.send(part)
        else:
            record()
        exchange.reset()


@dataclass(frozen=True, slots=True)
class Truncate:
    """
    The answer ends early, and the connection as if that were all.
    """

    where: Literal["headers", "body"]

    def __call__(self, exchange: Exchange, record: Record) -> None:
        exchange.read()
        part = _part(exchange.answer(), self.where)
        record()
        exchange.send(part)


@dataclass(frozen=True, slots=True)
class Silence:
    """
    The request is taken, and nothing comes.
    """

    def __call__(self, exchange: Exchange, record: Record) -> None:
        exchange.read()
        record()
        exchange.until_the_client_leaves()


@dataclass(frozen=True, slots=True)
class Trickle:
    """
    The answer comes a byte at a time (slow loris).
    """

    pause: float = 0.02

    def __call__(self, exchange: Exchange, record: Record) -> None:
        exchange.read()
        answer = exchange.answer()
        record()
        for number in range(len(answer)):
            exchange.send(answer[number : number + 1])
            exchange.pause(self.pause)


@dataclass(frozen=True, slots=True)
class Instead:
    """
    Another answer; the server is not asked.
    """

    answer: Answer

    def __call__(self, exchange: Exchange, record: Record) -> None:
        exchange.read()
        record()
        exchange.send(self.answer.sent_to(_ASKED))


@dataclass(frozen=True, slots=True)
class StackTrace:
    """
    A debug page with the request in it, credentials and all.
    """

    def __call__(self, exchange: Exchange, record: Record) -> None:
        exchange.read()
        record()
        trace = b"Traceback (most recent call last):\n  File 'token.py', line 7, in issue\n"
        page = b"<pre>" + trace + b"KeyError: " + exchange.received + b"</pre>"
        exchange.send(Answer(500, (("Content-Type", "text/html"),), page).sent_to(_ASKED))


@dataclass(frozen=True, slots=True)
class Garbage:
    """
    Bytes that are neither TLS nor HTTP, at whatever was sent.
    """

    raw: bytes = b"\x15\x03\x00\x00\x02\x02\x50 no protocol that anybody speaks\r\n\r\n"

    def __call__(self, exchange: Exchange, record: Record) -> None:
        exchange.take()
        record()
        exchange.send(self.raw)
        # Closed with something unread, the connection would be reset and the garbage lost.
        exchange.hang_up()
        exchange.until_the_client_leaves()


def _part(answer: bytes, where: Literal["headers", "body"]) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    return answer[: len(head) // 2] if where == "headers" else answer[: -len(body) // 2]


_ASKED = Seen("POST", "/token", (), b"")
