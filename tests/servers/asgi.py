"""
An ASGI application behind a real server.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

__all__ = ["served"]


@contextmanager
def served(application: Callable[[str], Any], *, root_path: str = "") -> Iterator[str]:
    """
    The URL of an application on a free loopback port, served by uvicorn from a thread of its own.

    Args:
        application: Makes it, given the URL that it will be at.
        root_path: The path that a gateway in front of it cuts off.
    """
    # It listens from here on: who comes before uvicorn does waits for it.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(application(url), log_config=None, root_path=root_path)
        )
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join()
