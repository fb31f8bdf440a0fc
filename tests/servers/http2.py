"""
A server that speaks HTTP/2 over TLS and nothing else, and keeps what it saw.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

__all__ = ["Http2Sink"]


class Http2Sink:
    """
    Answers 200, or a redirect where it was told to.

    Args:
        tls: A server-side context; the protocol is negotiated by ALPN.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        tls.set_alpn_protocols(["h2"])
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.redirects: dict[str, str] = {}
        self.seen: list[list[tuple[str, str]]] = []
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def stop(self) -> None:
        """
        Close all sockets and wait for the threads.
        """
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, plain)

    def _serve(self, plain: socket.socket) -> None:
        try:
            connection = self._tls.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        self._open.add(connection)
        state = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        state.initiate_connection()
        with contextlib.suppress(OSError), connection:
            connection.sendall(state.data_to_send())
            while received := connection.recv(65536):
                for event in state.receive_data(received):
                    if isinstance(event, RequestReceived):
                        self._answer(state, event)
                connection.sendall(state.data_to_send())
        self._open.discard(connection)

    def _answer(self, state: H2Connection, event: RequestReceived) -> None:
        headers = [(str(name), str(value)) for name, value in event.headers or ()]
        self.seen.append(headers)
        assert event.stream_id is not None
        location = self.redirects.get(dict(headers)[":path"])
        answer = [(":status", "200")]
        if location is not None:
            answer = [(":status", "302"), ("location", location)]
        state.send_headers(event.stream_id, answer, end_stream=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
