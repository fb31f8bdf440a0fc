"""
One suite for every colour: {httpx, httpx2} x {sync, asyncio, trio}.

A `Caller` makes the same call in its own colour, so that a test is written once, as plain
synchronous code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, Literal
from urllib.parse import quote_plus

import anyio
import anyio.from_thread
import httpx
import httpx2
import pytest

from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth, TokenEvent
from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer
from tests.held import Held
from tests.servers.apis import Sink
from tests.servers.tls import trusting

Colour = Literal["sync", "asyncio", "trio"]


class Clock:
    """
    A clock that stands still until it is told to move.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Client:
    """
    A client of one library and one colour, used from synchronous code.
    """

    caller: Caller
    real: Any

    def request(self, method: str, url: str, **kwargs: Any) -> Any:
        return self.caller.call(self.real.request, method, url, **kwargs)

    def get(self, url: str, **kwargs: Any) -> Any:
        return self.request("GET", url, **kwargs)

    def send(self, request: Any, **kwargs: Any) -> Any:
        return self.caller.call(self.real.send, request, **kwargs)


class Caller:
    """
    Makes calls in one colour with one library.
    """

    def __init__(self, library: ModuleType, colour: Colour, portal: Any) -> None:
        self.library = library
        self.colour = colour
        self._portal = portal
        # What went in and what came out, for `no_secret_shows`.
        self.held: list[Any] | None = None

    @property
    def blocking(self) -> bool:
        return self.colour == "sync"

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._hold(function, args, kwargs)
        try:
            if self.blocking:
                result = function(*args, **kwargs)
            else:
                result = self._portal.call(partial(function, *args, **kwargs))
        except Exception as error:
            self._hold(error)
            raise
        self._hold(result)
        return result

    def _hold(self, *values: Any) -> None:
        if self.held is not None:
            self.held += values

    @contextmanager
    def client(self, **kwargs: Any) -> Iterator[Client]:
        self._hold(kwargs)
        kwargs.setdefault("trust_env", False)
        # A context of the client's own would load all authorities of the system, each time.
        kwargs.setdefault("verify", trusting())
        if self.blocking:
            with self.library.Client(**kwargs) as client:
                yield Client(self, client)
        else:
            client = self.library.AsyncClient(**kwargs)
            try:
                yield Client(self, client)
            finally:
                self._portal.call(client.aclose)

    def token(self, cache: Any, *args: Any) -> Any:
        return self.call(cache.get if self.blocking else cache.aget, *args)

    def token_for(self, auth: ResourceTokenAuth, url: str) -> Any:
        return self.call(auth.token_for if self.blocking else auth.atoken_for, url)

    def token_together(self, cache: Any, wanted: Sequence[Any]) -> list[Any]:
        """
        Ask for many tokens at the same time; a result or an exception for each.
        """
        get = cache.get if self.blocking else cache.aget
        return self.together([partial(get, resource) for resource in wanted])

    def together(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """
        Make many calls at the same time; a result or an exception for each.
        """
        self._hold(calls)
        if self.blocking:
            with ThreadPoolExecutor(len(calls)) as pool:
                results = list(pool.map(_outcome, calls))
            self._hold(results)
            return results

        async def all_of_them() -> list[Any]:
            results: list[Any] = [None] * len(calls)

            async def one(index: int) -> None:
                try:
                    results[index] = await calls[index]()
                except Exception as error:  # noqa: BLE001 - handed to the test
                    results[index] = error

            async with anyio.create_task_group() as group:
                for index in range(len(calls)):
                    group.start_soon(one, index)
            return results

        results = list(self._portal.call(all_of_them))
        self._hold(results)
        return results

    def __repr__(self) -> str:
        return f"{self.library.__name__}-{self.colour}"


def _outcome(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:  # noqa: BLE001 - handed to the test
        return error


CALLERS = [
    pytest.param((library, colour), id=f"{library.__name__}-{colour}")
    for library in (httpx, httpx2)
    for colour in ("sync", "asyncio", "trio")
]


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    library, colour = request.param
    with ExitStack() as stack:
        portal = None
        if colour != "sync":
            portal = stack.enter_context(anyio.from_thread.start_blocking_portal(backend=colour))
        caller = Caller(library, colour, portal)
        caller.held = []
        yield caller


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[LocalAuthorizationServer]:
    with LocalAuthorizationServer(clients={CLIENT_ID: CLIENT_SECRET}) as running:
        yield running


CLIENT_ID, CLIENT_SECRET = "orders-worker", "correct horse battery staple 93"
ORDERS, BILLING = "urn:example:orders", "urn:example:billing"


@dataclass
class World:
    """
    An authorization server, two APIs on two origins, a sink that belongs to nobody.
    """

    server: LocalAuthorizationServer
    orders: LocalResourceServer
    billing: LocalResourceServer
    sink: Sink
    events: list[TokenEvent] = field(default_factory=list)
    auths: list[ResourceTokenAuth] = field(default_factory=list)

    @property
    def authorization_server(self) -> AuthorizationServer:
        return AuthorizationServer(issuer=self.server.issuer, verify=trusting())

    @property
    def client_auth(self) -> ClientSecretBasic:
        return ClientSecretBasic(CLIENT_ID, CLIENT_SECRET)

    def auth(self, resources: Any = None, **kwargs: Any) -> ResourceTokenAuth:
        if resources is None:
            resources = {self.orders.url: ORDERS, self.billing.url: BILLING}
        kwargs.setdefault("on_event", self.events.append)
        auth = ResourceTokenAuth(
            self.authorization_server, self.client_auth, resources=resources, **kwargs
        )
        self.auths.append(auth)
        return auth

    def event_names(self) -> list[str]:
        return [event.name for event in self.events]


@pytest.fixture
def world(server: LocalAuthorizationServer) -> Iterator[World]:
    with ExitStack() as stack:
        orders = stack.enter_context(LocalResourceServer(server, audience=ORDERS))
        billing = stack.enter_context(LocalResourceServer(server, audience=BILLING))
        sink = stack.enter_context(Sink())
        yield World(server, orders, billing, sink)


@pytest.fixture(autouse=True)
def no_secret_shows(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """
    P9: after each test with a live token, none is in what all loggers wrote at DEBUG, nor in what
    the test has had in its hands: not in the `repr`, the text or the pickle of an object of this
    library, nor in a traceback with the local variables of its frames.

    What is searched for are the tokens that local servers have issued, and every secret that is
    held by an object of ours: those of other servers, too.
    """
    if not {"server", "caller"} & set(request.fixturenames):
        yield
        return
    with caplog.at_level(logging.DEBUG):
        yield
    given: dict[str, Any] = request.node.funcargs
    held = Held([*given.values(), getattr(given.get("caller"), "held", None)])
    written = [
        f"{logging.Formatter().format(record)} {record.args!r} {record.__dict__!r}"
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        # An HTTP/2 server in this very process decodes what it was sent, and says so.
        if not (record.name.startswith("hpack") and record.funcName.startswith("_decode"))
    ]
    secrets = (*held.secrets, CLIENT_SECRET, quote_plus(CLIENT_SECRET))
    shown = "\n".join([*written, *held.shown()])
    assert [] == [secret for secret in secrets if secret in shown]
