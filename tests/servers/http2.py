"""
A server that speaks HTTP/2 over TLS and nothing else, and keeps what it saw.
"""

from __future__ import annotations

import socket
import ssl

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from resource_tokens._local_http import Acceptor
from tests.servers.tls import secured

__all__ = ["Http2Sink"]


class Http2Sink(Acceptor):
    """
    Answers 200, or a redirect where it was told to.

    Args:
        tls: A server-side context; the protocol is negotiated by ALPN.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        tls.set_alpn_protocols(["h2"])
        self._tls = tls
        self.redirects: dict[str, str] = {}
        self.seen: list[list[tuple[str, str]]] = []
        super().__init__()
        self.url = f"https://127.0.0.1:{self.port}"

    def _serve(self, connection: socket.socket) -> None:
        state = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        state.initiate_connection()
        with secured(connection, self._tls) as secure:
            secure.sendall(state.data_to_send())
            while received := secure.recv(65536):
                for event in state.receive_data(received):
                    if isinstance(event, RequestReceived):
                        self._answer(state, event)
                secure.sendall(state.data_to_send())

    def _answer(self, state: H2Connection, event: RequestReceived) -> None:
        headers = [(str(name), str(value)) for name, value in event.headers or ()]
        self.seen.append(headers)
        assert event.stream_id is not None
        location = self.redirects.get(dict(headers)[":path"])
        answer = [(":status", "200")]
        if location is not None:
            answer = [(":status", "302"), ("location", location)]
        state.send_headers(event.stream_id, answer, end_stream=True)
