"""
An origin that takes whatever comes: http or https on one port, HTTP/1.1 or HTTP/2, and keeps it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass, replace
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from resource_tokens._local_http import Acceptor
from tests.servers.ledger import Seen
from tests.servers.tls import secured, serving

__all__ = ["Origin", "Received"]

_TLS_HANDSHAKE = b"\x16"


@dataclass(frozen=True, slots=True)
class Received:
    """
    A request, and the connection it came on.

    Attributes:
        request: As it came; the headers of HTTP/2 with their pseudo-headers.
        server_name: The TLS server name that the client asked for; None for an address.
    """

    request: Seen
    scheme: str
    protocol: str
    server_name: str | None

    @property
    def authority(self) -> list[str]:
        """
        Every `Host`, and `:authority`.
        """
        return [*self.request.header("host"), *self.request.header(":authority")]


class Origin(Acceptor):
    """
    Answers 200, or a redirect where it was told to. Runs from the moment it is made until `stop`.

    Args:
        names: What its certificate is good for, besides 127.0.0.1.

    Attributes:
        redirects: Status and `Location` by target, query included.
    """

    def __init__(self, *names: str) -> None:
        self.redirects: dict[str, tuple[int, str]] = {}
        self._received: list[Received] = []  # guarded by _lock
        self._names = threading.local()
        self._tls = serving(*names)
        self._tls.set_alpn_protocols(["h2", "http/1.1"])
        self._tls.sni_callback = self._note_name
        super().__init__()

    def take(self) -> list[Received]:
        """
        What has come since the last call, oldest first.
        """
        with self._lock:
            taken, self._received = self._received, []
        return taken

    def _note_name(self, _connection: Any, name: str | None, _context: ssl.SSLContext) -> None:
        # Called in the thread that shakes hands.
        self._names.current = name

    def _serve(self, connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) != _TLS_HANDSHAKE:
            self._speak_http1(connection, Received(_NOTHING, "http", "HTTP/1.1", None))
            return
        with secured(connection, self._tls) as secure:
            name = getattr(self._names, "current", None)
            if secure.selected_alpn_protocol() == "h2":
                self._speak_http2(secure, Received(_NOTHING, "https", "HTTP/2", name))
            else:
                self._speak_http1(secure, Received(_NOTHING, "https", "HTTP/1.1", name))

    def _keep(self, on: Received, request: Seen) -> tuple[int, str | None]:
        with self._lock:
            self._received.append(replace(on, request=request))
        return self.redirects.get(request.target, (200, None))

    def _speak_http1(self, connection: socket.socket, on: Received) -> None:
        with connection.makefile("rb") as lines:
            while line := lines.readline().decode("latin-1"):
                parts = line.rstrip("\r\n").split(" ")
                if len(parts) != 3:
                    self._keep(on, Seen("", line, (), b""))
                    return
                headers = []
                while header := lines.readline().decode("latin-1").rstrip("\r\n"):
                    name, _, value = header.partition(":")
                    headers.append((name, value.strip(" ")))
                request = Seen(parts[0], parts[1], tuple(headers), b"")
                length = int("".join(request.header("content-length")) or 0)
                request = replace(request, body=lines.read(length))
                status, location = self._keep(on, request)
                redirect = "" if location is None else f"Location: {location}\r\n"
                answer = f"HTTP/1.1 {status} X\r\n{redirect}Content-Length: 0\r\n\r\n"
                connection.sendall(answer.encode("latin-1"))

    def _speak_http2(self, connection: socket.socket, on: Received) -> None:
        state = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        state.initiate_connection()
        requests: dict[int, Seen] = {}
        connection.sendall(state.data_to_send())
        while received := connection.recv(65536):
            for event in state.receive_data(received):
                match event:
                    case RequestReceived(stream_id=int(stream)):
                        headers = tuple((str(n), str(v)) for n, v in event.headers or ())
                        known = dict(headers)
                        requests[stream] = Seen(known[":method"], known[":path"], headers, b"")
                    case DataReceived(stream_id=int(stream), data=bytes(body)):
                        request = requests[stream]
                        requests[stream] = replace(request, body=request.body + body)
                        state.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                    case StreamEnded(stream_id=int(stream)):
                        status, location = self._keep(on, requests.pop(stream))
                        redirect = [] if location is None else [("location", location)]
                        answer = [(":status", str(status)), *redirect]
                        state.send_headers(stream, answer, end_stream=True)
            connection.sendall(state.data_to_send())


_NOTHING = Seen("", "", (), b"")
