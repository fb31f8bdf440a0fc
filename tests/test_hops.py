"""
One request, many hops: sent twice, sent again, tried again below the client; and what is told.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import anyio.to_thread
import httpcore
import httpcore2
import httpx
import pytest
from h2.connection import H2Connection
from h2.events import RequestReceived

from resource_tokens import (
    EgressBlockedError,
    OAuthError,
    Resource,
    ResourceTokenAuth,
    TokenEvent,
)
from resource_tokens.guards import AsyncHopGuard, HopGuard
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.testing import LocalResourceServer
from tests.conftest import BILLING, ORDERS, Caller, Clock, World
from tests.servers.http2 import Http2Sink
from tests.servers.tls import serving

CORES: dict[str, ModuleType] = {"httpx": httpcore, "httpx2": httpcore2}
HTTP2: dict[str, Any] = {"http1": False, "http2": True}


def authorizations(api: Any, path: str) -> list[list[str]]:
    """
    The `Authorization` values of each request that an API has seen for a path.
    """
    if isinstance(api, LocalResourceServer):
        return [
            [value for name, value in request.headers if name.lower() == "authorization"]
            for request in api.requests
            if request.target == path
        ]
    return [seen.header("authorization") for seen in api.seen if seen.target == path]


# How often httpcore tells us.


@contextmanager
def counted(caller: Caller) -> Iterator[tuple[Any, list[str]]]:
    """
    A kind of guard that notes what it is told.
    """
    told: list[str] = []
    if caller.blocking:

        class Counting(HopGuard):
            def __call__(self, name: str, info: dict[str, Any]) -> Any:
                told.append(name)
                return super().__call__(name, info)

        yield Counting, told
    else:

        class AsyncCounting(AsyncHopGuard):
            async def __call__(self, name: str, info: dict[str, Any]) -> None:
                told.append(name)
                await super().__call__(name, info)

        yield AsyncCounting, told


def test_httpcore_tells_no_more_than_it_must(caller: Caller, world: World) -> None:
    """
    After the look httpcore speaks of a hop no more, and that rests on how it is made: that it
    looks `trace` up in the request's attribute `extensions` for each step. If it ever does not,
    nothing is less safe, but each request takes longer, and this test says why.
    """
    auth = world.auth()
    with counted(caller) as (guard, told), caller.client() as client:
        for _ in range(2):
            told.clear()
            plain = client.real.build_request("GET", world.orders.url)
            request, _guard = guard.on(plain, auth.cache, None)
            client.send(request)

    assert [
        "http11.send_request_headers.started",
        "http11.send_request_headers.complete",
    ] == told


def test_each_hop_of_a_chain_is_told(caller: Caller, world: World) -> None:
    """
    P3: what is taken away from one hop's request of httpcore is still there for the next hop.
    """
    world.orders.redirect("/a", "/b")
    world.orders.redirect("/b", f"{world.billing.url}c")
    auth = world.auth()
    with counted(caller) as (guard, told), caller.client(follow_redirects=True) as client:
        plain = client.real.build_request("GET", f"{world.orders.url}a")
        request, _guard = guard.on(plain, auth.cache, None)
        response = client.send(request)

    assert 2 == len(response.history)
    assert 3 == told.count("http11.send_request_headers.started")
    assert response.request.extensions["trace"] == request.extensions["trace"]


def test_a_users_trace_is_told_everything(caller: Caller, world: World) -> None:
    """
    Section 5: ours is one more, not instead, up to the last step.
    """
    steps: list[list[str]] = []

    def trace(name: str, _info: dict[str, Any]) -> None:
        steps[-1].append(name)

    async def atrace(name: str, _info: dict[str, Any]) -> None:
        steps[-1].append(name)

    extensions = {"trace": trace if caller.blocking else atrace}
    with caller.client() as client:
        for auth in (None, world.auth()):
            client.get(world.orders.url, auth=auth)
            steps.append([])
            client.get(world.orders.url, auth=auth, extensions=extensions)

    bare, guarded = steps
    assert bare == guarded
    assert len(guarded) >= 8


# What the transport does by itself.


def test_connections_are_tried_again(caller: Caller, world: World) -> None:
    """
    P3: `HTTPTransport(retries=)` connects again, and the hop is looked at when it is sent.
    """
    transport, attempts = failing_once(caller)
    with caller.client(auth=world.auth(), transport=transport) as client:
        assert 200 == client.get(world.orders.url).status_code
        with pytest.raises(EgressBlockedError):
            client.get(world.orders.url, headers={"Host": "billing.example.com"})

    assert ["refused", "connected"] == attempts[:2]
    assert 1 == len(world.orders.requests)


def failing_once(caller: Caller) -> tuple[Any, list[str]]:
    """
    A transport of the library's own, whose first connection is refused.
    """
    core = CORES[caller.library.__name__]
    attempts: list[str] = []

    def attempt() -> None:
        attempts.append("connected" if attempts else "refused")
        if attempts == ["refused"]:
            raise core.ConnectError("refused")

    class Sync(core.SyncBackend):  # type: ignore[name-defined,misc]
        def connect_tcp(self, *where: Any, **options: Any) -> Any:
            attempt()
            return super().connect_tcp(*where, **options)

    class Async(core.AnyIOBackend):  # type: ignore[name-defined,misc]
        async def connect_tcp(self, *where: Any, **options: Any) -> Any:
            attempt()
            return await super().connect_tcp(*where, **options)

    library = caller.library
    kind = library.HTTPTransport if caller.blocking else library.AsyncHTTPTransport
    transport = kind(retries=1, trust_env=False)
    transport._pool._network_backend = (Sync if caller.blocking else Async)()
    return transport, attempts


def test_many_at_once_on_few_connections(caller: Caller, world: World) -> None:
    """
    P3: what waits for a connection, or has to ask the pool again, is looked at like anything else,
    and what is stopped holds up nobody.
    """
    # The pool of httpcore 1.0 closes idle connections that it has just given to another thread,
    # whatever it was that ended a request before its headers.
    few = 16 if repr(caller) == "httpx-sync" else 2
    limits = caller.library.Limits(max_connections=few)
    auth = world.auth()
    with caller.client(auth=auth, limits=limits) as client:
        client.get(world.orders.url)
        calls = [
            partial(client.real.get, world.orders.url, headers={"Host": host} if host else {})
            for host in (None, "billing.example.com") * 8
        ]
        outcomes = caller.together(calls)

    assert ([200] * 8, [EgressBlockedError] * 8) == (
        [getattr(outcome, "status_code", outcome) for outcome in outcomes[::2]],
        [type(outcome) for outcome in outcomes[1::2]],
    )
    assert 9 == len(world.orders.requests)


class GoingAway(Http2Sink):
    """
    An HTTP/2 server that serves one request on its first connection, and refuses the second by
    GOAWAY, after which clients send it again on another connection (RFC 9113 6.8).
    """

    def _answer(self, state: H2Connection, event: RequestReceived) -> None:
        if len(self.seen) == 1:
            headers = [(str(name), str(value)) for name, value in event.headers or ()]
            self.seen.append(headers)
            state.close_connection(last_stream_id=1)
            return
        super()._answer(state, event)


def test_what_http2_sends_again_is_looked_at_again(caller: Caller, world: World) -> None:
    """
    P3: after GOAWAY the same request goes out on another connection, and its guard is told.
    """
    with (
        GoingAway(serving()) as api,
        counted(caller) as (guard, told),
        caller.client(**HTTP2) as client,
    ):
        auth = world.auth({api.url: ORDERS})
        client.get(f"{api.url}/first", auth=auth)
        plain = client.real.build_request("GET", f"{api.url}/second")
        request, _guard = guard.on(plain, auth.cache, None)
        response = client.send(request)

    assert 200 == response.status_code
    assert ["/first", "/second", "/second"] == [dict(seen)[":path"] for seen in api.seen]
    assert 2 == told.count("http2.send_request_headers.started")


@pytest.mark.parametrize(
    "target", [b"/x\r\nX-Injected: yes", b"/x\x00", b"/x y", b"/x\ty", b"/caf\xc3\xa9"]
)
@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_target_that_no_url_has_is_blocked(
    caller: Caller, world: World, target: bytes, http2: bool
) -> None:
    """
    M7, H4: also where the whole host is one resource, and HTTP/2 would carry any byte.
    """
    with Http2Sink(serving()) as streams:
        url = f"{streams.url}/" if http2 else world.orders.url
        with (
            caller.client(auth=world.auth({url: ORDERS}), **(HTTP2 if http2 else {})) as client,
            pytest.raises(EgressBlockedError, match="bytes that no URL has"),
        ):
            client.get(url, extensions={"target": target})

        assert ([], ()) == (streams.seen, world.orders.requests)


# What takes so long that the token ends meanwhile.


def test_a_token_that_ends_on_its_way_through_redirects(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    P7: the first hop took an hour to answer. The next one within the resource has a new token, and
    so has the one after it, where httpx copies the header of the hop before.
    """
    world.sink.redirect("/slow", to="/next", status=302)
    world.sink.redirect("/next", to="/last", status=302)
    world.sink.behave(lambda seen: clock.advance(3600) if seen.target == "/slow" else None)
    auth = world.auth({world.sink.url: ORDERS}, clock=clock)
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(f"{world.sink.url}/slow")
        client.get(f"{world.sink.url}/last")

    first, second = world.server.issued
    shown = {path: authorizations(world.sink, path) for path in ("/slow", "/next", "/last")}
    new = f"Bearer {second}"
    assert {"/slow": [[f"Bearer {first}"]], "/next": [[new]], "/last": [[new]] * 2} == shown


def test_a_token_that_ends_while_its_request_waits(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    P7: for a connection, as the only one is busy. When it is free the request goes with a new one.
    """
    waiting, busy = threading.Event(), threading.Event()

    def hold(seen: Any) -> None:
        if seen.target == "/slow":
            busy.set()
            assert waiting.wait(10)
            clock.advance(3600)

    def tell(request: Any) -> None:
        if request.url.path == "/waits":
            waiting.set()

    async def atell(request: Any) -> None:
        tell(request)

    world.sink.behave(hold)
    auth = world.auth({world.sink.url: ORDERS}, clock=clock)
    options: dict[str, Any] = {
        "limits": caller.library.Limits(max_connections=1),
        "event_hooks": {"request": [tell if caller.blocking else atell]},
        "timeout": 30,
    }
    with caller.client(auth=auth, **options) as client:
        caller.token_for(auth, world.sink.url)

        def slow() -> Any:
            return client.real.get(f"{world.sink.url}/slow")

        def waits() -> Any:
            assert busy.wait(10)
            return client.real.get(f"{world.sink.url}/waits")

        async def awaits() -> Any:
            await anyio.to_thread.run_sync(busy.wait, 10)
            return await client.real.get(f"{world.sink.url}/waits")

        caller.together([slow, waits if caller.blocking else awaits])

    first, second = world.server.issued
    assert [[f"Bearer {first}"]] == authorizations(world.sink, "/slow")
    assert [[f"Bearer {second}"]] == authorizations(world.sink, "/waits")


def test_a_token_that_has_ended_is_renewed_for_its_resource_alone(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    P4, P7: a hop to somebody else needs none and asks for none; one for which no new token can be
    had is not sent.
    """
    world.sink.redirect("/abroad", to=f"{world.billing.url}x", status=302)
    world.sink.redirect("/home", to="/next", status=302)
    world.sink.behave(lambda seen: clock.advance(3600) if seen.target != "/next" else None)
    auth = world.auth({world.sink.url: ORDERS, world.billing.url: BILLING}, clock=clock)
    with caller.client(auth=auth, follow_redirects=True) as client:
        assert 401 == client.get(f"{world.sink.url}/abroad").status_code
        # Somebody else leads back.
        world.billing.redirect("/x", f"{world.sink.url}/next")
        client.get(f"{world.sink.url}/abroad")
        assert 2 == len(world.server.issued)
        assert [[]] == authorizations(world.sink, "/next")
        caller.token_for(auth, world.sink.url)
        world.server.fail_next(9, status=400, error="invalid_client")
        with pytest.raises(OAuthError, match="invalid_client"):
            client.get(f"{world.sink.url}/home")

    assert [[]] == authorizations(world.sink, "/next")


def test_no_token_is_renewed_for_a_request_that_is_stopped(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    P3, P7: it has ended since the request was made, and would go somewhere else.
    """

    def wait(_request: Any) -> None:
        clock.advance(3600)

    async def await_(request: Any) -> None:
        wait(request)

    hooks = {"request": [wait if caller.blocking else await_]}
    auth = world.auth(clock=clock)
    with (
        caller.client(auth=auth, event_hooks=hooks) as client,
        pytest.raises(EgressBlockedError, match="Host"),
    ):
        client.get(world.orders.url, headers={"Host": "billing.example.com"})

    assert 1 == len(world.server.issued)
    assert () == world.orders.requests


def test_what_is_refused_is_the_token_of_the_last_hop(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    P8: one that was replaced on the way and then rejected was asked for just now. It is not sent a
    second time, as if the one of the first hop had been meant.
    """
    world.sink.redirect("/slow", to="/next", status=302)
    world.sink.answer("/next", 401)
    world.sink.behave(lambda seen: clock.advance(3600) if seen.target == "/slow" else None)
    auth = world.auth({world.sink.url: ORDERS}, clock=clock)
    with caller.client(auth=auth, follow_redirects=True) as client:
        caller.token_for(auth, world.sink.url)
        assert 401 == client.get(f"{world.sink.url}/slow").status_code

    first, second = world.server.issued
    assert [[f"Bearer {first}"]] == authorizations(world.sink, "/slow")
    assert [[f"Bearer {second}"]] == authorizations(world.sink, "/next")
    assert 1 == world.event_names().count("token_rejected")


# One request, sent twice.


def at_the_same_time(
    caller: Caller, world: World, first: Callable[[], Any], then: Callable[[], Any]
) -> tuple[Any, Any]:
    """
    The outcomes of two calls, the second made while the first waits for an answer of `/slow` at
    the sink.
    """
    arrived, go_on = threading.Event(), threading.Event()

    def hold(seen: Any) -> None:
        if seen.target == "/slow" and not arrived.is_set():
            arrived.set()
            go_on.wait(10)

    world.sink.behave(hold)

    def second() -> Any:
        assert arrived.wait(10)
        try:
            return caller.call(then)
        finally:
            go_on.set()

    if caller.blocking:
        one, two = caller.together([first, second])
        return one, two
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(second()))
    thread.start()
    one = caller.call(first)
    thread.join()
    return one, outcome[0]


def test_one_request_sent_twice_at_the_same_time(caller: Caller, world: World) -> None:
    """
    P3: each flow has a guard of its own, although a `Request` has but one set of extensions. The
    first goes on after the second has come to its end, to a redirect: nothing leaks.
    """
    world.sink.redirect("/slow", to=f"{world.billing.url}landing", status=302)
    auth = world.auth({world.sink.url: ORDERS, world.billing.url: BILLING})
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(f"{world.sink.url}/warm")
        request = client.real.build_request("GET", f"{world.sink.url}/slow")
        one, two = at_the_same_time(
            caller,
            world,
            partial(client.real.send, request),
            partial(client.real.send, request, follow_redirects=False),
        )

    token = world.server.issued[0]
    assert (401, 302) == (one.status_code, two.status_code)
    assert [[f"Bearer {token}"]] * 2 == authorizations(world.sink, "/slow")
    assert [[]] == authorizations(world.billing, "/landing")
    assert () == world.billing.tokens_seen()
    assert ["token_withheld"] == [event.name for event in one.extensions["token_withheld"]]
    assert "token_withheld" not in two.extensions


def test_a_request_in_flight_sent_with_another_auth(caller: Caller, world: World) -> None:
    """
    P3: neither does the second auth object, which knows nothing of the first one's tokens, get to
    send them, nor is the first one's guard taken off.
    """
    world.sink.redirect("/slow", to="/elsewhere", status=302)
    mine = world.auth({f"{world.sink.url}/slow": ORDERS, f"{world.sink.url}/elsewhere": BILLING})
    other = world.auth({world.orders.url: ORDERS}, unmapped="anonymous")
    with caller.client(follow_redirects=True) as client:
        request = client.real.build_request("GET", f"{world.sink.url}/slow")
        at_the_same_time(
            caller,
            world,
            partial(client.real.send, request, auth=mine),
            partial(client.real.send, request, auth=other, follow_redirects=False),
        )

    (token,) = world.server.issued
    # The first is in the ledger once it is answered.
    assert [[], [f"Bearer {token}"]] == authorizations(world.sink, "/slow")
    assert [[]] == authorizations(world.sink, "/elsewhere")


def test_a_request_sent_again_with_another_auth(caller: Caller, world: World) -> None:
    """
    P3: the token that one auth object has put on a request is no longer there for the next one.
    """
    world.sink.redirect("/x", to="/elsewhere", status=302)
    mine = world.auth({f"{world.sink.url}/x": ORDERS, f"{world.sink.url}/elsewhere": BILLING})
    other = world.auth({world.orders.url: ORDERS}, unmapped="anonymous")
    with caller.client(follow_redirects=True) as client:
        request = client.real.build_request("GET", f"{world.sink.url}/x")
        for auth in (mine, other, mine, other):
            client.send(request, auth=auth)

    (token,) = world.server.issued
    assert [[f"Bearer {token}"], []] * 2 == authorizations(world.sink, "/x")
    assert [[]] * 4 == authorizations(world.sink, "/elsewhere")


def test_the_next_request_sent_with_another_auth(caller: Caller, world: World) -> None:
    """
    P3, E18: httpx copies the header into the next request on the same origin. Another auth object,
    to which that destination is nothing, does not send it.
    """
    world.sink.redirect("/x", to="/elsewhere", status=302)
    mine = world.auth({f"{world.sink.url}/x": ORDERS})
    other = world.auth({world.orders.url: ORDERS}, unmapped="anonymous")
    with caller.client() as client:
        first = client.get(f"{world.sink.url}/x", auth=mine)
        client.send(first.next_request, auth=other)
        client.send(first.next_request, auth=world.auth({}, unmapped="anonymous"))

    assert [[]] * 2 == authorizations(world.sink, "/elsewhere")


def test_what_was_replaced_on_the_way_is_taken_back_as_well(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    P3: what httpx copies is the token that the request began with, although another one was sent.
    """

    def wait(request: Any) -> None:
        if request.url.path == "/x":
            clock.advance(3600)

    async def await_(request: Any) -> None:
        wait(request)

    world.sink.redirect("/x", to="/elsewhere", status=302)
    mine = world.auth({f"{world.sink.url}/x": ORDERS}, clock=clock)
    other = world.auth({world.orders.url: ORDERS}, unmapped="anonymous")
    hooks = {"request": [wait if caller.blocking else await_]}
    with caller.client(event_hooks=hooks) as client:
        first = client.get(f"{world.sink.url}/x", auth=mine)
        client.send(first.next_request, auth=other)

    _, sent = world.server.issued
    assert [[f"Bearer {sent}"]] == authorizations(world.sink, "/x")
    assert [[]] == authorizations(world.sink, "/elsewhere")


def test_a_users_trace_survives_a_request_sent_again(caller: Caller, world: World) -> None:
    """
    Section 5: each flow tells the user's function, and no guard of an earlier flow.
    """
    names: list[str] = []

    def trace(name: str, _info: dict[str, Any]) -> None:
        names.append(name)

    async def atrace(name: str, _info: dict[str, Any]) -> None:
        names.append(name)

    users = trace if caller.blocking else atrace
    with caller.client() as client:
        request = client.real.build_request("GET", world.orders.url, extensions={"trace": users})
        for _ in range(3):
            client.send(request, auth=world.auth())
        late = client.real.build_request("GET", world.orders.url)
        client.send(late, auth=world.auth())
        late.extensions["trace"] = users
        client.send(late, auth=world.auth())

    assert 4 == names.count("http11.send_request_headers.started")


def test_a_flow_that_was_left_alone_holds_up_nobody(caller: Caller, world: World) -> None:
    """
    A flow that nobody has ended yet: the request can be sent, and with the token.
    """
    auth: Any = world.auth()
    with caller.client() as client:
        request = client.real.build_request("GET", world.orders.url)
        left = (auth.sync_auth_flow if caller.blocking else auth.async_auth_flow)(request)
        caller.call(left.__next__ if caller.blocking else left.__anext__)
        response = client.send(request, auth=auth)
        caller.call(left.close if caller.blocking else left.aclose)

    assert 200 == response.status_code
    assert response.request is not request


def test_a_request_for_which_no_token_could_be_had_is_sent_again(
    caller: Caller, world: World
) -> None:
    """
    P4: after a failure the same request goes out as if it were new, and not as a copy of itself.
    """
    with caller.client(auth=world.auth()) as client:
        request = client.real.build_request("GET", world.orders.url)
        world.server.fail_next(1, status=400, error="invalid_request")
        with pytest.raises(OAuthError):
            client.send(request)
        client.real.auth.cache.forget()
        response = client.send(request)

    assert 200 == response.status_code
    assert request is response.request


# What the caller is told.


def told(response: Any) -> list[tuple[str, str]]:
    events: tuple[TokenEvent, ...] = response.extensions.get("token_withheld", ())
    assert {"token_withheld"} >= {event.name for event in events}
    return [(event.destination, event.detail) for event in events]


def test_a_response_tells_what_was_withheld(caller: Caller, world: World) -> None:
    """
    P11: the answer of the second API is often a 401. Its extensions say why, and hold no secret.
    """
    world.orders.redirect("/jump", f"{world.billing.url}landing?private=1")
    with caller.client(auth=world.auth(), follow_redirects=True) as client:
        response = client.get(f"{world.orders.url}jump")
        plain = client.get(world.orders.url)

    ((destination, why),) = told(response)
    assert (401, f"{world.billing.url}landing") == (response.status_code, destination)
    assert repr(BILLING) in why
    assert [] == told(plain)
    shown = repr(response.extensions["token_withheld"])
    stored = pickle.dumps(response.extensions["token_withheld"]).decode("latin-1")
    assert [] == [text for text in (*world.server.issued, "private") if text in shown + stored]


def test_a_response_tells_of_each_hop(caller: Caller, world: World) -> None:
    """
    P11: by every hop from the one on that left the resource.
    """
    world.orders.redirect("/jump", f"{world.billing.url}between")
    world.billing.redirect("/between", f"{world.orders.url}back")
    with caller.client(auth=world.auth(), follow_redirects=True) as client:
        response = client.get(f"{world.orders.url}jump")

    (away, _), (back, why) = told(response)
    assert (f"{world.billing.url}between", f"{world.orders.url}back") == (away, back)
    assert "a redirect from elsewhere has led there" in why


def test_a_reauthorized_response_tells_it_as_well(caller: Caller, world: World) -> None:
    """
    P11: the token of the request was withheld, although another one was put on.
    """
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    second = Resource(BILLING, redirects="reauthorize")
    auth = world.auth({world.orders.url: ORDERS, world.billing.url: second})
    with caller.client(auth=auth, follow_redirects=True) as client:
        response = client.get(f"{world.orders.url}jump")

    assert 200 == response.status_code
    assert [f"{world.billing.url}landing"] == [destination for destination, _ in told(response)]


def test_an_anonymous_response_tells_what_was_taken_out(caller: Caller, world: World) -> None:
    """
    P11: also where the request was given no token, but carried a copy of one.
    """
    world.orders.redirect("/a/jump", "/b/landing")
    auth = world.auth(
        {f"{world.orders.url}a": ORDERS, world.billing.url: BILLING}, unmapped="anonymous"
    )
    token = caller.token_for(auth, world.billing.url)
    world.billing.redirect("/jump", f"{world.sink.url}/landing")
    with caller.client(auth=auth, follow_redirects=True) as client:
        response = client.get(
            f"{world.billing.url}jump", headers={"X-Copy": token.reveal()}, auth=auth
        )
        world.sink.redirect("/jump", to=f"{world.sink.url}/landing", status=302)
        bare = client.get(f"{world.sink.url}/jump")

    assert [f"{world.sink.url}/landing"] == [destination for destination, _ in told(response)]
    assert [] == told(bare)


def test_the_answer_after_a_renewal_tells_of_its_own_hops(caller: Caller, world: World) -> None:
    """
    P11: not of those before.
    """
    auth = world.auth()
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(world.orders.url)
        world.server.revoke(world.server.issued[0])
        world.orders.redirect("/jump", f"{world.billing.url}landing")
        response = client.get(world.orders.url)
        jumped = client.get(f"{world.orders.url}jump")

    assert (200, 1, []) == (response.status_code, len(response.history), told(response))
    assert 1 == len(told(jumped))


# Tokens in URLs.


def test_no_token_goes_in_a_url(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """
    R9700-5, R6750-2, P9: httpx writes each URL into its log. So a token in one is stopped on the
    caller's own hop and on redirects, also on the way to the resource it is for.
    """
    auth = world.auth()
    token = caller.token_for(auth, world.orders.url).reveal()
    world.orders.redirect("/jump", f"/landing?access_token={token}")
    world.orders.redirect("/deep", f"/landing/{token}/x")
    with (
        caplog.at_level(logging.INFO),
        caller.client(auth=auth, follow_redirects=True) as client,
    ):
        for path, arguments in (
            ("", {"params": {"access_token": token}}),
            (f"x/{token}", {}),
            ("jump", {}),
            ("deep", {}),
        ):
            with pytest.raises(EgressBlockedError, match="its URL carries a token") as caught:
                client.get(f"{world.orders.url}{path}", **arguments)
            assert token not in f"{caught.value!r}{caught.value.args}"
            assert (ORDERS, world.orders.url) == (caught.value.resource, caught.value.destination)

    assert ["/jump", "/deep"] == [request.target for request in world.orders.requests]
    assert token not in caplog.text


# Tokens that were not asked for here.


def test_a_token_that_another_has_stored_is_known(caller: Caller, world: World) -> None:
    """
    P3: a store may hold tokens that somebody else put there, such as another process. From the
    moment it is shown, such a token is recognised wherever it strays.
    """
    store = MemoryTokenStore()
    resources = {world.orders.url: ORDERS, world.billing.url: BILLING}
    caller.token_for(world.auth(resources, store=store), world.orders.url)
    auth = world.auth(resources, store=store)
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        (token,) = world.server.issued
        with pytest.raises(EgressBlockedError, match=ORDERS):
            client.get(world.billing.url, headers={"X-Token": token})

    assert () == world.billing.requests


# What is shown of a request that was stopped.


@pytest.mark.parametrize(
    "place",
    ["a header", "the name of a header", "the Host", "an ambiguous path", "the server name"],
)
def test_nothing_of_a_stopped_request_shows_the_token(
    caller: Caller, world: World, place: str
) -> None:
    """
    P9: wherever a token was put, not even what stopped it shows it.
    """
    auth = world.auth({f"{world.orders.url}a": ORDERS, f"{world.orders.url}b": BILLING})
    world.server.token_format = "opaque"
    token = caller.token_for(auth, f"{world.orders.url}a").reveal()
    arguments: dict[str, Any] = {
        "a header": {"headers": {"X-Token": token}},
        "the name of a header": {"headers": {token: "x"}},
        "the Host": {"headers": {"Host": token}},
        "an ambiguous path": {
            "headers": {"X-Token": token},
            "extensions": {"target": f"/b/%2e/{token}".encode()},
        },
        "the server name": {
            "headers": {"X-Token": token},
            "extensions": {"sni_hostname": token},
        },
    }
    with (
        caller.client(auth=auth) as client,
        pytest.raises(EgressBlockedError) as caught,
    ):
        client.get(f"{world.orders.url}b/x", **arguments[place])

    assert ORDERS == caught.value.resource
    shown = f"{caught.value}{caught.value!r}{caught.value.args}{world.events}"
    assert token not in shown
    assert () == world.orders.requests
    assert f"<token for {ORDERS}>" in shown or place in ("a header", "the server name")


def test_guards_do_not_pickle(world: World) -> None:
    """
    P9: what a guard remembers of its hops is nothing to store.
    """
    auth = world.auth()
    with httpx.Client(auth=auth, trust_env=False) as client:
        response = client.get(world.orders.url)
    guard = response.request.extensions["resource_tokens"]

    for held in (guard, guard._seen[0], guard._shown, guard._rule(guard._seen[0])):
        assert world.server.issued[0] not in repr(held)
        with pytest.raises(TypeError):
            pickle.dumps(held)


def test_the_auth_object_itself_runs_no_flow(world: World) -> None:
    """
    `auth_flow` is httpx's hook for plugins of one colour, and is the blocking one here.
    """
    auth: ResourceTokenAuth = world.auth()
    request = httpx.Request("GET", world.orders.url)

    flow = auth.auth_flow(request)

    assert next(flow).headers["Authorization"] == f"Bearer {world.server.issued[0]}"
    flow.close()
