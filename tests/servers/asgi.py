"""
An ASGI application behind a real server.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import uvicorn

__all__ = ["Served"]


class Served:
    """
    An application on a free loopback port, served by uvicorn from a thread of its own.

    Args:
        application: Makes it, given the URL that it will be at.
        root_path: The path that a gateway in front of it cuts off.
    """

    def __init__(self, application: Callable[[str], Any], *, root_path: str = "") -> None:
        # It listens from here on: who comes before uvicorn does waits for it.
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(self.url), log_config=None, access_log=False, root_path=root_path
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()

    def stop(self) -> None:
        """
        Answer what is being asked, close the port, wait for the thread.
        """
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
