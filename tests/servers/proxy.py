"""
A proxy that keeps every byte its clients send: CONNECT, forward and SOCKS5, on one port.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from resource_tokens._local_http import Acceptor

__all__ = ["Passage", "RecordingProxy"]

Kind = Literal["connect", "forward", "socks"]


@dataclass
class Passage:
    """
    One connection through the proxy.

    Attributes:
        host: Where the client asked to be connected to, by the name it used.
        sent: Everything that the client has sent, from the first byte on.
    """

    kind: Kind
    host: str
    port: int
    sent: bytearray = field(repr=False)


class RecordingProxy(Acceptor):
    """
    Runs from the moment it is made until `stop`. No name is resolved: `route` says where to go.

    Args:
        route: The loopback port to connect to for a host and a port; None refuses.

    Attributes:
        url: Its address for CONNECT and forward.
    """

    def __init__(self, route: Callable[[str, int], int | None]) -> None:
        self._route = route
        self._passages: list[Passage] = []  # guarded by _lock
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def passages(self) -> list[Passage]:
        """
        Every connection so far, oldest first; also one that was refused.
        """
        with self._lock:
            return list(self._passages)

    def _serve(self, connection: socket.socket) -> None:
        socks = connection.recv(1, socket.MSG_PEEK) == b"\x05"
        passage = _socks(connection) if socks else _http(connection)
        with self._lock:
            self._passages.append(passage)
        port = self._route(passage.host, passage.port)
        if port is None:
            connection.sendall(_REFUSALS[passage.kind])
            return
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if passage.kind == "forward":
                upstream.sendall(passage.sent)
            connection.sendall(_WELCOMES[passage.kind])
            _relay(connection, upstream, passage)


def _socks(client: socket.socket) -> Passage:
    """
    RFC 1928, without authentication.
    """
    sent = bytearray()
    greeting = _exactly(client, 2, sent)
    _exactly(client, greeting[1], sent)
    client.sendall(b"\x05\x00")
    kind = _exactly(client, 4, sent)[3]
    if kind == 3:
        host = _exactly(client, _exactly(client, 1, sent)[0], sent).decode("latin-1")
    else:
        family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, _exactly(client, size, sent))
    return Passage("socks", host, int.from_bytes(_exactly(client, 2, sent)), sent)


def _http(client: socket.socket) -> Passage:
    sent = bytearray()
    while b"\r\n\r\n" not in sent:
        _some(client, sent)
    method, target, _ = sent.decode("latin-1").split(" ", 2)
    authority = target if method == "CONNECT" else target.split("/")[2]
    host, _, port = authority.partition(":")
    return Passage("connect" if method == "CONNECT" else "forward", host, int(port or 80), sent)


def _exactly(client: socket.socket, size: int, sent: bytearray) -> bytes:
    read = b""
    while len(read) < size:
        piece = client.recv(size - len(read))
        if not piece:
            raise ConnectionError
        read += piece
    sent += read
    return read


def _some(client: socket.socket, sent: bytearray) -> None:
    piece = client.recv(65536)
    if not piece:
        raise ConnectionError
    sent += piece


def _relay(client: socket.socket, upstream: socket.socket, passage: Passage) -> None:
    while True:
        for readable in select.select([client, upstream], [], [])[0]:
            received = readable.recv(65536)
            if not received:
                return
            if readable is client:
                passage.sent += received
            (upstream if readable is client else client).sendall(received)


_WELCOMES: dict[Kind, bytes] = {
    "connect": b"HTTP/1.1 200 OK\r\n\r\n",
    "forward": b"",
    "socks": b"\x05\x00\x00\x01" + bytes(6),
}
_REFUSALS: dict[Kind, bytes] = {
    "connect": b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n",
    "forward": b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n",
    "socks": b"\x05\x04\x00\x01" + bytes(6),
}
