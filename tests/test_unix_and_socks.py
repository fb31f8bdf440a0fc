"""
Unix sockets and SOCKS5: the connection goes somewhere else than the URL says, and the URL decides.

Whoever configures the socket or the proxy says by it how the APIs are reached. Which of them is
asked is still told by scheme, host and port, and over a socket that many share by nothing else.
"""

from __future__ import annotations

import select
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from resource_tokens import EgressBlockedError, Resource, ResourceTokenAuth
from tests.conftest import BILLING, ORDERS, Caller, World
from tests.servers.origin import Origin, Received
from tests.servers.proxy import RecordingProxy
from tests.servers.tls import trusting

Kind = Literal["unix", "socks"]
NAMES = ("orders.internal", "billing.internal", "files.internal")


class UnixSocket:
    """
    A path that leads to a port.
    """

    def __init__(self, port: int) -> None:
        # Not a folder of pytest's: the path of a socket has little more than a hundred characters.
        self._folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self._folder.name, "s"))
        self._port = port
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._stopped = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        """
        Take it away; its clients have closed their connections.
        """
        self._stopped = True
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)
        for thread in self._threads:
            thread.join()
        self._listening.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while not self._stopped:
            thread = threading.Thread(target=self._relay, args=self._listening.accept()[:1])
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as api, suppress(OSError):
            while True:
                for readable in select.select([client, api], [], [])[0]:
                    received = readable.recv(65536)
                    if not received:
                        return
                    (api if readable is client else client).sendall(received)


@dataclass
class Road:
    """
    A way to three hosts that are one server, over plain http, https or HTTP/2.
    """

    kind: Kind
    scheme: str
    protocol: str
    origin: Origin
    proxy: RecordingProxy
    unix: UnixSocket

    def url(self, name: str) -> str:
        return f"{self.scheme}://{name}.internal"

    def options(self, caller: Caller) -> dict[str, Any]:
        """
        The arguments of a client that goes this way.
        """
        http2 = self.protocol == "HTTP/2"
        how: dict[str, Any] = {"verify": trusting(), "http1": not http2, "http2": http2}
        if self.kind == "socks":
            return {**how, "proxy": f"socks5://127.0.0.1:{self.proxy.port}"}
        library = caller.library
        transport = library.HTTPTransport if caller.blocking else library.AsyncHTTPTransport
        return {"transport": transport(uds=self.unix.path, **how)}

    def auth(self, world: World, **kwargs: Any) -> ResourceTokenAuth:
        return world.auth(
            {
                self.url("orders"): Resource(ORDERS, allow_http=True),
                self.url("billing"): Resource(BILLING, allow_http=True),
            },
            **kwargs,
        )


@pytest.fixture(params=["unix", "socks"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[("http", "HTTP/1.1"), ("https", "HTTP/1.1"), ("https", "HTTP/2")], ids=str)
def road(request: pytest.FixtureRequest, kind: Kind) -> Iterator[Road]:
    scheme, protocol = request.param
    with ExitStack() as stack:
        origin = stack.enter_context(Origin(*NAMES))
        proxy = stack.enter_context(RecordingProxy(lambda *_: origin.port))
        unix = UnixSocket(origin.port)
        stack.callback(unix.stop)
        yield Road(kind, scheme, protocol, origin, proxy, unix)


def told(received: list[Received]) -> list[tuple[str, str, list[str]]]:
    """
    The host that each request is for, its target, and the tokens in it, wherever they are.
    """
    return [
        (each.authority[0], each.request.target, list(dict.fromkeys(each.request.tokens())))
        for each in received
    ]


def test_each_api_gets_its_own_token(caller: Caller, world: World, road: Road) -> None:
    """
    P1, P3: APIs that are reached in the same way, even on the same connection, are still several.
    """
    auth = road.auth(world, unmapped="anonymous")
    with caller.client(auth=auth, **road.options(caller)) as client:
        for name in ("orders", "billing", "files", "orders"):
            response = client.get(f"{road.url(name)}/x")
    received = road.origin.take()

    orders, billing = world.server.issued
    assert road.protocol == response.http_version
    assert [
        ("orders.internal", "/x", [orders]),
        ("billing.internal", "/x", [billing]),
        ("files.internal", "/x", []),
        ("orders.internal", "/x", [orders]),
    ] == told(received)
    assert {road.scheme} == {each.scheme for each in received}
    hosts = {passage.host for passage in road.proxy.passages}
    assert hosts == (set(NAMES) if road.kind == "socks" else set())


def test_redirects_are_looked_at(caller: Caller, world: World, road: Road) -> None:
    """
    P3: within the API, to another one, and to a host that is nobody's. Over one socket, or one
    server behind a proxy, nothing but the name tells them apart.
    """
    road.origin.redirects |= {
        "/within": (302, "/landing"),
        "/across": (302, f"{road.url('billing')}/landing"),
        "/away": (307, f"{road.url('files')}/landing"),
    }
    with caller.client(
        auth=road.auth(world), follow_redirects=True, **road.options(caller)
    ) as client:
        client.get(f"{road.url('orders')}/x")
        (token,) = world.server.issued
        road.origin.take()
        for path in ("within", "across", "away"):
            client.get(f"{road.url('orders')}/{path}")

    assert [
        ("orders.internal", "/within", [token]),
        ("orders.internal", "/landing", [token]),
        ("orders.internal", "/across", [token]),
        ("billing.internal", "/landing", []),
        ("orders.internal", "/away", [token]),
        ("files.internal", "/landing", []),
    ] == told(road.origin.take())
    assert ["token_withheld"] * 2 == [
        name for name in world.event_names() if name == "token_withheld"
    ]


def test_a_contradiction_is_stopped(caller: Caller, world: World, road: Road) -> None:
    """
    P3, M8, M9: what the server at the end of the socket or the proxy would route by.
    """
    auth = road.auth(world, unmapped="anonymous")
    with caller.client(auth=auth, **road.options(caller)) as client:
        token = caller.token_for(auth, road.url("orders"))
        for name, arguments in (
            ("orders", {"headers": {"Host": "billing.internal"}}),
            ("orders", {"extensions": {"target": f"{road.url('billing')}/x".encode()}}),
            ("billing", {"headers": {"X-Token": token.reveal()}}),
            ("files", {"headers": {"Authorization": token.authorization}}),
        ):
            with pytest.raises(EgressBlockedError):
                client.get(f"{road.url(name)}/x", **arguments)

    assert [] == road.origin.take()


def test_one_socket_for_each_api(caller: Caller, world: World) -> None:
    """
    P3: with `mounts=` a redirect changes the socket too, and leaves the token behind.
    """
    library = caller.library
    kind = library.HTTPTransport if caller.blocking else library.AsyncHTTPTransport
    with ExitStack() as stack:
        origins = [stack.enter_context(Origin(*NAMES)) for _ in range(2)]
        sockets = [UnixSocket(origin.port) for origin in origins]
        for unix in sockets:
            stack.callback(unix.stop)
        orders, billing = origins
        orders.redirects["/across"] = (302, "http://billing.internal/landing")
        mounts = {
            f"http://{name}": kind(uds=unix.path)
            for name, unix in zip(NAMES, sockets, strict=False)
        }
        resources = {
            "http://orders.internal/": Resource(ORDERS, allow_http=True),
            "http://billing.internal/": Resource(BILLING, allow_http=True),
        }
        with caller.client(
            auth=world.auth(resources), mounts=mounts, follow_redirects=True
        ) as client:
            client.get("http://orders.internal/across")
            client.get("http://billing.internal/x")

        first, second = world.server.issued
        assert [("orders.internal", "/across", [first])] == told(orders.take())
        assert [
            ("billing.internal", "/landing", []),
            ("billing.internal", "/x", [second]),
        ] == told(billing.take())
