"""
A TCP proxy before a Redis or Valkey server that spoils replies.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from resource_tokens._local_http import Acceptor

__all__ = [
    "Cut",
    "Delay",
    "Fault",
    "Garbage",
    "Pass",
    "RedisProxy",
    "Reset",
    "Silence",
    "Spoilt",
]


class RedisProxy(Acceptor):
    """
    Runs from the moment it is made until `stop`.

    Args:
        upstream: The loopback port of the server behind.

    Attributes:
        url: Its address.
        otherwise: What is done to exchanges that no script is left for.
        exchanges: How many there were: what a client has sent until it waited for a reply.
    """

    def __init__(self, upstream: int) -> None:
        self.otherwise: Fault = Pass()
        self.exchanges = 0
        self._upstream = upstream
        self._stopping = threading.Event()
        self._script: deque[Fault] = deque()
        super().__init__()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def script(self, *faults: Fault) -> None:
        """
        What to do to the next exchanges, one fault each.
        """
        self._script.extend(faults)

    def heal(self) -> None:
        """
        Let everything pass from now on.
        """
        self._script.clear()
        self.otherwise = Pass()

    def stop(self) -> None:
        """
        Close the port and every connection, and wait for the threads.
        """
        self._stopping.set()
        super().stop()

    def _serve(self, connection: socket.socket) -> None:
        with (
            socket.create_connection(("127.0.0.1", self._upstream)) as upstream,
            selectors.DefaultSelector() as ready,
        ):
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(connection, selectors.EVENT_READ)
            ready.register(upstream, selectors.EVENT_READ)
            fault: Fault = Pass()
            while True:
                for key, _ in ready.select():
                    piece = key.fileobj.recv(65536)  # type: ignore[union-attr]  # a socket
                    if not piece:
                        return
                    if key.fileobj is connection:
                        self.exchanges += 1
                        fault = self._script.popleft() if self._script else self.otherwise
                        if fault == Reset("before"):
                            fault(Spoilt(connection, b"", self._stopping))
                        upstream.sendall(piece)
                    else:
                        fault(Spoilt(connection, piece, self._stopping))


@dataclass(frozen=True, slots=True)
class Spoilt:
    """
    A reply in the hands of a fault.
    """

    connection: socket.socket
    reply: bytes
    stopping: threading.Event


@dataclass(frozen=True, slots=True)
class Pass:
    """
    Nothing is spoilt.
    """

    def __call__(self, spoilt: Spoilt) -> None:
        spoilt.connection.sendall(spoilt.reply)


@dataclass(frozen=True, slots=True)
class Delay:
    """
    The reply comes, later.
    """

    seconds: float

    def __call__(self, spoilt: Spoilt) -> None:
        spoilt.stopping.wait(self.seconds)
        spoilt.connection.sendall(spoilt.reply)


@dataclass(frozen=True, slots=True)
class Silence:
    """
    It is done, and no reply comes.
    """

    def __call__(self, spoilt: Spoilt) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Cut:
    """
    The connection ends in the middle of the reply.
    """

    def __call__(self, spoilt: Spoilt) -> None:
        spoilt.connection.sendall(spoilt.reply[: len(spoilt.reply) // 2])
        raise ConnectionError


@dataclass(frozen=True, slots=True)
class Reset:
    """
    RST: before the server knows of it, or instead of the reply.
    """

    when: Literal["before", "instead"]

    def __call__(self, spoilt: Spoilt) -> None:
        # Zero seconds to linger: the system drops what was not sent, and tells the client so.
        linger = struct.pack("ii", 1, 0)
        spoilt.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise ConnectionError


@dataclass(frozen=True, slots=True)
class Garbage:
    """
    Something that is no reply.
    """

    raw: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n"

    def __call__(self, spoilt: Spoilt) -> None:
        spoilt.connection.sendall(self.raw)


Fault = Pass | Delay | Silence | Cut | Reset | Garbage
