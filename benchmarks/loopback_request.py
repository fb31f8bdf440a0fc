"""
A request over a real connection: our auth looks at the headers of each hop on the wire.
"""

from __future__ import annotations

import multiprocessing
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from multiprocessing.connection import Connection

from benchmarks.clients import COLOURS, LIBRARIES, Setting, rows
from benchmarks.measure import Effort, Goal, Row
from resource_tokens.testing import LocalAuthorizationServer

__all__ = ["api", "measure"]

GOAL = Goal("ratio", 1.03)


def measure(effort: Effort) -> Iterator[Row]:
    """
    Our auth against a static header, for each library, sync and async.
    """
    with LocalAuthorizationServer() as server, api() as resource:
        for (library, module), (colour, client) in product(LIBRARIES.items(), COLOURS.items()):
            # Without `trust_env`, no proxy of this machine comes in between.
            options = {"trust_env": False}
            setting = Setting(server, getattr(module, client), options, [resource], resource)
            yield from rows("loopback-request", f"{library} {colour}", setting, effort, GOAL)


@contextmanager
def api() -> Iterator[str]:
    """
    An API in a process of its own, so that it does not take turns with the client under the GIL.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}/"
    finally:
        process.terminate()
        process.join()


def _serve(sender: Connection) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Exchange) as server:
        sender.send(server.server_address[1])
        server.serve_forever()


class _Exchange(socketserver.StreamRequestHandler):
    """
    As quick as it can be in Python: time that the API takes would make ours look smaller.
    """

    disable_nagle_algorithm = True

    def handle(self) -> None:
        for line in self.rfile:
            # The end of the headers, and of a GET.
            if line == b"\r\n":
                self.wfile.write(_ANSWER)


_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    b'{"stock": 1234}'
)
