"""
Authorization servers and APIs that say what a test wants them to say, true or not.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from pathlib import Path
from typing import Any, Self

from tests.servers.apis import Answer, Seen, Sink

__all__ = ["Issuer", "UnixSocket"]


class Issuer(Sink):
    """
    An authorization server without a mind of its own.

    Args:
        name: Its issuer identifier; its address by default.
        path: Under which it is, such as `/tenant`.
        tls: Serves https with this.

    Attributes:
        metadata: Its document; `None` for none.
        token: The members of its token responses. Each access token gets a number of its own.
    """

    def __init__(
        self, name: str | None = None, *, path: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(tls=tls)
        self.issuer = f"{self.url}{path}" if name is None else name
        self.metadata: dict[str, Any] | None = {
            "issuer": self.issuer,
            "token_endpoint": f"{self.issuer}/token",
        }
        self.token: dict[str, Any] = {
            "access_token": "issued-here",
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        self._well_known = f"/.well-known/oauth-authorization-server{path}"
        self._token_path = f"{path}/token"
        self.behave(self._say)

    def _say(self, request: Seen) -> Answer | None:
        if request.path == self._well_known and self.metadata is not None:
            return Answer.from_json(200, self.metadata)
        if request.path == self._token_path:
            number = len(self.token_requests)
            token = f"{self.token['access_token']}-{number}"
            return Answer.from_json(200, self.token | {"access_token": token})
        return Answer(404)

    @property
    def token_requests(self) -> list[Seen]:
        """
        What was posted, wherever.
        """
        return [seen for seen in self.seen if seen.method == "POST"]


class UnixSocket:
    """
    A Unix socket that leads to a port on loopback.
    """

    def __init__(self, path: Path, port: int) -> None:
        self.path = str(path)
        self.connections = 0
        bridge = self

        class Bridge(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                bridge.connections += 1
                with socket.create_connection(("127.0.0.1", port)) as upstream:
                    back = threading.Thread(target=_pump, args=(upstream, self.request))
                    back.start()
                    _pump(self.request, upstream)
                    back.join()

        self._server = socketserver.ThreadingUnixStreamServer(self.path, Bridge)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _pump(source: socket.socket, drain: socket.socket) -> None:
    try:
        while received := source.recv(65536):
            drain.sendall(received)
        drain.shutdown(socket.SHUT_WR)
    except OSError:
        # One end went away, and the other one hears of it.
        return
