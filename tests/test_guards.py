"""
The guards around other transports, sidecars, proxies, hand-copied tokens, and looking back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx2
import pytest

from resource_tokens import (
    AsyncEgressGuard,
    ConfigurationError,
    EgressBlockedError,
    EgressGuard,
    OAuthError,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
)
from resource_tokens.ledger import UseLedger
from tests.conftest import BILLING, ORDERS, Caller, Clock, World
from tests.servers.apis import Sink
from tests.servers.proxy import RecordingProxy
from tests.servers.tls import serving, trusting

ORIGIN = "https://gw.example.com"
BY_PATH = {f"{ORIGIN}/orders": ORDERS, f"{ORIGIN}/billing": BILLING}


class Mock:
    """
    A transport that is not httpcore's: it records what it gets, and redirects as it is told.
    """

    def __init__(self, caller: Caller, redirects: dict[str, str] | None = None) -> None:
        self.seen: list[tuple[str, list[str]]] = []
        self.closed = False
        outer = self
        library = caller.library

        def answer(request: Any) -> Any:
            outer.seen.append((str(request.url), request.headers.get_list("authorization")))
            location = (redirects or {}).get(str(request.url))
            if location is not None:
                return library.Response(302, headers={"Location": location})
            return library.Response(200)

        class Recording(library.MockTransport):  # type: ignore[name-defined,misc]
            def close(self) -> None:
                outer.closed = True

            async def aclose(self) -> None:
                outer.closed = True

        self.transport = Recording(answer)


def guarded(caller: Caller, transport: Any, auth: Any = None) -> Any:
    return (EgressGuard if caller.blocking else AsyncEgressGuard)(transport, auth)


def test_a_guarded_transport_withholds_the_token(caller: Caller, world: World) -> None:
    """
    P3, LIB-5: the same rule around a transport that does not call `trace`.
    """
    mock = Mock(caller, {f"{ORIGIN}/orders/jump": f"{ORIGIN}/billing/landing"})
    with caller.client(
        auth=world.auth(BY_PATH), transport=guarded(caller, mock.transport), follow_redirects=True
    ) as client:
        response = client.get(f"{ORIGIN}/orders/jump")

    assert 200 == response.status_code
    token = world.server.issued[0]
    assert [
        (f"{ORIGIN}/orders/jump", [f"Bearer {token}"]),
        (f"{ORIGIN}/billing/landing", []),
    ] == mock.seen
    assert "token_withheld" in world.event_names()
    assert mock.closed


def test_a_guard_in_a_guard_changes_nothing(caller: Caller, world: World) -> None:
    """
    Idempotent, also around a transport of httpx's own, and in `mounts=`: P11: each hop is told of
    once, in the events, in the answer and in the ledger.
    """
    uses: list[tuple[str, str]] = []
    ledger = UseLedger(lambda use: uses.append((use.decision, use.destination)))
    library = caller.library
    own = library.HTTPTransport() if caller.blocking else library.AsyncHTTPTransport()
    twice = guarded(caller, guarded(caller, own))
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    with caller.client(
        auth=world.auth(ledger=ledger), mounts={"http://127.0.0.1": twice}, follow_redirects=True
    ) as client:
        assert 200 == client.get(world.orders.url).status_code
        jumped = client.get(f"{world.orders.url}jump")
        assert 401 == jumped.status_code
        with pytest.raises(EgressBlockedError):
            client.get(world.orders.url, headers={"Host": "billing.example.com"})

    assert () == world.billing.tokens_seen()
    assert 1 == len(jumped.extensions["token_withheld"])
    told = ["metadata_discovered", "token_issued", "token_withheld", "egress_blocked"]
    assert told == world.event_names()
    assert [
        ("shown", world.orders.url),
        ("shown", f"{world.orders.url}jump"),
        ("withheld", f"{world.billing.url}landing"),
        ("blocked", world.orders.url),
    ] == uses


def changing(caller: Caller, change: Callable[[Any], None]) -> Any:
    """
    A transport of httpx's own that changes each request before it sends it.
    """
    library = caller.library
    kind = library.HTTPTransport if caller.blocking else library.AsyncHTTPTransport

    class Changing(kind):  # type: ignore[misc,valid-type]
        def handle_request(self, request: Any) -> Any:
            change(request)
            return super().handle_request(request)

        async def handle_async_request(self, request: Any) -> Any:
            change(request)
            return await super().handle_async_request(request)

    return Changing()


def test_a_guard_further_in_sees_where_a_hop_was_moved_to(caller: Caller, world: World) -> None:
    """
    P3, P11: what is between two guards sends it somewhere else, and the token stays behind.
    """

    def move(request: Any) -> None:
        request.url = caller.library.URL(f"{world.sink.url}/moved")

    uses: list[tuple[str, str]] = []
    ledger = UseLedger(lambda use: uses.append((use.decision, use.destination)))
    with caller.client(
        auth=world.auth(ledger=ledger), transport=guarded(caller, changing(caller, move))
    ) as client:
        client.get(world.orders.url)

    assert [] == world.sink.tokens_seen()
    assert [("shown", world.orders.url), ("withheld", f"{world.sink.url}/moved")] == uses


def application(caller: Caller, seen: dict[str, str]) -> Any:
    """
    A transport to an application in this process, by WSGI or ASGI. It notes which path saw which
    `Authorization`, and redirects from `/orders/jump` to billing.
    """

    def answer(path: str, authorization: str) -> tuple[int, list[tuple[str, str]]]:
        seen[path] = authorization
        moved = [("Location", "/billing/landing")] if path == "/orders/jump" else []
        return (302, moved) if moved else (200, [])

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        status, headers = answer(environ["PATH_INFO"], authorization)
        start_response(f"{status} X", headers)
        return [b""]

    async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
        status, headers = answer(scope["path"], authorization)
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b""})

    library = caller.library
    if caller.blocking:
        return library.WSGITransport(app=wsgi)
    return library.ASGITransport(app=asgi)


def test_an_application_in_the_same_process(caller: Caller, world: World) -> None:
    """
    P3: by WSGI or ASGI no `trace` is called, and within one origin httpx keeps the header. With
    the guard around the transport the token stays with its resource; without it that is noticed.
    """
    base = "https://app.example.com"
    auth = world.auth({f"{base}/orders": ORDERS, f"{base}/billing": BILLING})
    seen: dict[str, str] = {}
    transport = guarded(caller, application(caller, seen))
    with caller.client(auth=auth, transport=transport, follow_redirects=True) as client:
        assert 200 == client.get(f"{base}/orders/jump").status_code
        with pytest.raises(EgressBlockedError):
            client.get(f"{base}/orders/x", headers={"Host": "other.example.com"})

    assert {"/orders/jump": f"Bearer {world.server.issued[0]}", "/billing/landing": ""} == seen

    transport = application(caller, seen)
    with (
        caller.client(auth=auth, transport=transport, follow_redirects=True) as client,
        pytest.raises(EgressBlockedError, match="nobody could look at"),
    ):
        client.get(f"{base}/orders/jump")


def test_an_unguarded_leak_is_noticed(caller: Caller, world: World) -> None:
    """
    Detection: where no guard could look, the history of the response shows where the token went.
    """
    mock = Mock(caller, {f"{ORIGIN}/orders/jump": f"{ORIGIN}/billing/landing"})
    with (
        caller.client(
            auth=world.auth(BY_PATH), transport=mock.transport, follow_redirects=True
        ) as client,
        pytest.raises(EgressBlockedError, match=r"EgressGuard\(transport\)") as caught,
    ):
        client.get(f"{ORIGIN}/orders/jump")

    assert (ORDERS, f"{ORIGIN}/billing/landing") == (
        caught.value.resource,
        caught.value.destination,
    )
    assert "egress_blocked" == world.event_names()[-1]


def test_an_unguarded_leak_of_what_was_replaced_is_noticed(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    Detection: a guard on the first hop gave it another token, and httpx takes the one of before
    along to where no guard is.
    """
    library, mock = caller.library, Mock(caller)
    kind = library.HTTPTransport if caller.blocking else library.AsyncHTTPTransport

    class Branching(kind):  # type: ignore[misc,valid-type]
        def handle_request(self, request: Any) -> Any:
            if request.url.path == "/elsewhere":
                return mock.transport.handle_request(request)
            clock.advance(3600)
            return super().handle_request(request)

        async def handle_async_request(self, request: Any) -> Any:
            if request.url.path == "/elsewhere":
                return await mock.transport.handle_async_request(request)
            clock.advance(3600)
            return await super().handle_async_request(request)

    world.sink.redirect("/x", to="/elsewhere", status=302)
    auth = world.auth({f"{world.sink.url}/x": ORDERS}, clock=clock)
    with (
        caller.client(auth=auth, transport=Branching(), follow_redirects=True) as client,
        pytest.raises(EgressBlockedError, match="nobody could look at"),
    ):
        client.get(f"{world.sink.url}/x")

    assert 2 == len(world.server.issued)


def test_what_leads_nowhere_else_needs_no_guard(caller: Caller, world: World) -> None:
    """
    Detection speaks of leaks only: a request without redirects is where it was meant to be.
    """
    mock = Mock(caller)
    with caller.client(auth=world.auth(BY_PATH), transport=mock.transport) as client:
        assert 200 == client.get(f"{ORIGIN}/orders/x").status_code


@pytest.mark.parametrize(
    "location", [f"{ORIGIN}/orders/landing", "https://storage.example.net/file"]
)
def test_a_harmless_unguarded_redirect_is_let_pass(
    caller: Caller, world: World, location: str
) -> None:
    """
    Detection speaks of leaks only: within the resource, or where httpx has dropped the header.
    """
    mock = Mock(caller, {f"{ORIGIN}/orders/jump": location})
    with caller.client(
        auth=world.auth(BY_PATH), transport=mock.transport, follow_redirects=True
    ) as client:
        assert 200 == client.get(f"{ORIGIN}/orders/jump").status_code


def test_a_guarded_transport_looks_at_requests_of_others(caller: Caller, world: World) -> None:
    """
    With `auth=` the guard also sees requests that our plugin did not: a token of ours goes to its
    own resource only, whoever puts it on.
    """
    auth = world.auth(BY_PATH)
    mock = Mock(caller)
    with caller.client(transport=guarded(caller, mock.transport, auth)) as client:
        token = caller.token_for(auth, f"{ORIGIN}/orders")
        header = {"Authorization": token.authorization}
        client.get(f"{ORIGIN}/orders/x", headers=header)
        client.get("https://elsewhere.example.com/")
        with pytest.raises(EgressBlockedError, match=r"(?i)'authorization'"):
            client.get(f"{ORIGIN}/billing/x", headers=header)

    assert [f"{ORIGIN}/orders/x", "https://elsewhere.example.com/"] == [url for url, _ in mock.seen]


def test_a_guarded_transport_looks_for_its_own_tokens_in_requests_of_another_auth(
    caller: Caller, world: World
) -> None:
    """
    With `auth=` the guard looks for the tokens of that one's cache, whichever auth object has
    sent the request.
    """
    first, second = world.auth({f"{ORIGIN}/orders": ORDERS}), world.auth(BY_PATH)
    token = caller.token_for(second, f"{ORIGIN}/billing")
    mock = Mock(caller)
    with caller.client(auth=first, transport=guarded(caller, mock.transport, second)) as client:
        assert 200 == client.get(f"{ORIGIN}/orders/x").status_code
        with pytest.raises(EgressBlockedError):
            client.get(f"{ORIGIN}/orders/x", headers={"X-Token": token.reveal()})

    assert 1 == len(mock.seen)


def test_a_hook_that_takes_the_guard_off_is_noticed(caller: Caller, world: World) -> None:
    """
    Detection: a hook that sets a `trace` of its own and rewrites the request.
    """

    def trace(_name: str, _info: Any) -> None:
        pass

    async def atrace(_name: str, _info: Any) -> None:
        pass

    def change(request: Any) -> None:
        request.headers["Host"] = "files.example.net"
        request.extensions["trace"] = trace if caller.blocking else atrace

    async def achange(request: Any) -> None:
        change(request)

    hooks = {"request": [change if caller.blocking else achange]}
    with (
        caller.client(auth=world.auth(), event_hooks=hooks) as client,
        pytest.raises(EgressBlockedError, match="nobody could look at"),
    ):
        client.get(world.orders.url)

    assert "egress_blocked" == world.event_names()[-1]


def test_without_an_auth_object_others_requests_pass(caller: Caller) -> None:
    """
    A guard that knows no tokens looks at nothing.
    """
    mock = Mock(caller)
    with caller.client(transport=guarded(caller, mock.transport)) as client:
        client.get("https://elsewhere.example.com/")

    assert 1 == len(mock.seen)


def test_a_hand_copied_token_is_blocked_at_the_wrong_place(caller: Caller, world: World) -> None:
    """
    P3: the token of one API in a header or in the query of a request to another one, or to
    nowhere in particular.
    """
    auth = world.auth(unmapped="anonymous")
    token = caller.token_for(auth, world.orders.url)
    with caller.client(auth=auth) as client:
        for url in (world.billing.url, f"{world.sink.url}/"):
            for arguments in (
                {"headers": {"X-Upstream-Token": token.reveal()}},
                {"headers": {"Cookie": f"session={token.reveal()}; a=b"}},
                {"params": {"access_token": token.reveal()}},
            ):
                with pytest.raises(EgressBlockedError) as caught:
                    client.get(url, **arguments)
                assert ORDERS == caught.value.resource
                assert token.reveal() not in str(caught.value)
        with pytest.raises(EgressBlockedError):
            client.get(f"{world.sink.url}/", headers={"Authorization": token.authorization})

    assert () == world.billing.requests
    assert [] == world.sink.seen
    assert "egress_blocked" == world.event_names()[-1]


def test_a_hand_copied_token_does_not_follow_a_redirect(caller: Caller, world: World) -> None:
    """
    P3: also on a request to an unmapped destination that then redirects.
    """
    auth = world.auth(
        {world.orders.url: ORDERS, f"{world.sink.url}/mapped": BILLING}, unmapped="anonymous"
    )
    token = caller.token_for(auth, world.orders.url)
    world.orders.redirect("/jump", f"{world.sink.url}/free")
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(f"{world.orders.url}jump", headers={"X-Again": token.reveal()})

    assert [] == world.sink.tokens_seen()
    assert [[]] == [seen.header("x-again") for seen in world.sink.seen]


def test_an_anonymous_redirect_loses_a_hand_copied_token(caller: Caller, world: World) -> None:
    """
    P3: whoever put it there, a redirect does not take it along.
    """
    auth = world.auth({f"{world.orders.url}a": ORDERS}, unmapped="anonymous")
    token = caller.token_for(auth, f"{world.orders.url}a")
    world.orders.redirect("/a/jump", "/b/landing")
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.send(
            client.real.build_request(
                "GET", f"{world.orders.url}a/jump", headers={"X-Token": token.reveal()}
            )
        )

    landing = next(r for r in world.orders.requests if r.target == "/b/landing")
    assert [] == [value for _, value in landing.headers if token.reveal() in value]


def test_a_redirect_is_reauthorized_if_its_resource_says_so(caller: Caller, world: World) -> None:
    """
    `redirects="reauthorize"`: the second API gets its own token, never the first one's.
    """
    auth = world.auth(
        {
            world.orders.url: ORDERS,
            world.billing.url: Resource(BILLING, redirects="reauthorize"),
        }
    )
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    with caller.client(auth=auth, follow_redirects=True) as client:
        cold = client.get(f"{world.orders.url}jump")
        warm = client.get(f"{world.orders.url}jump")

    assert (200, 200) == (cold.status_code, warm.status_code)
    orders, billing = world.server.issued
    assert (orders,) == world.orders.tokens_seen()
    assert (billing,) == world.billing.tokens_seen()


def test_a_reauthorized_redirect_without_a_token_is_not_sent(caller: Caller, world: World) -> None:
    """
    P4: if the second token cannot be had, the request raises.
    """
    world.server.resources = {ORDERS: ()}
    auth = world.auth(
        {
            world.orders.url: ORDERS,
            world.billing.url: Resource(BILLING, redirects="reauthorize"),
        }
    )
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    with (
        caller.client(auth=auth, follow_redirects=True) as client,
        pytest.raises(OAuthError, match="invalid_target"),
    ):
        client.get(f"{world.orders.url}jump")

    assert () == world.billing.requests


def test_a_foreign_server_name_is_blocked(caller: Caller, world: World) -> None:
    """
    M9: `sni_hostname` can bring the connection to another service.
    """
    with (
        caller.client(auth=world.auth()) as client,
        pytest.raises(EgressBlockedError, match="TLS server name"),
    ):
        client.get(world.orders.url, extensions={"sni_hostname": "billing.example.com"})

    assert () == world.orders.requests


@pytest.fixture
def tunnel() -> Iterator[RecordingProxy]:
    """
    A proxy that connects to the port it is told on this machine.
    """
    with RecordingProxy(lambda _, port: port) as running:
        yield running


def test_a_tunnel_carries_what_its_proxy_never_sees(
    caller: Caller,
    world: World,
    tunnel: RecordingProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    L6: CONNECT has no token, from an explicit proxy and from the environment's; NO_PROXY works.
    """
    monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Sink(tls=serving()) as api:
        auth = world.auth({f"{api.url}/": ORDERS})
        for options in ({"proxy": tunnel.url}, {"trust_env": True}):
            with caller.client(auth=auth, verify=trusting(), **options) as client:
                assert 200 == client.get(f"{api.url}/x").status_code
                with pytest.raises(EgressBlockedError):
                    client.get(f"{api.url}/x", headers={"Host": "billing.example.com"})
        tunnelled = len(tunnel.passages)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with caller.client(auth=auth, verify=trusting(), trust_env=True) as client:
            assert 200 == client.get(f"{api.url}/x").status_code

        assert [world.server.issued[0]] == api.tokens_seen()
        assert 3 == len(api.seen)
    assert tunnelled == len(tunnel.passages) >= 2
    for passage in tunnel.passages:
        assert "connect" == passage.kind
        assert world.server.issued[0].encode() not in passage.sent


def test_a_proxy_in_plain_http_needs_leave(
    caller: Caller, world: World, tunnel: RecordingProxy
) -> None:
    """
    L6: `allow_http_proxy=True` is the explicit word; the rule for the hop stays the same.
    """
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    auth = world.auth(
        {world.orders.url: Resource(ORDERS, allow_http_proxy=True), world.billing.url: BILLING}
    )
    with caller.client(auth=auth, proxy=tunnel.url, follow_redirects=True) as client:
        assert 200 == client.get(f"{world.orders.url}x").status_code
        assert 401 == client.get(f"{world.orders.url}jump").status_code
        with pytest.raises(EgressBlockedError, match="allow_http_proxy"):
            client.get(world.billing.url)

    assert 1 == len(world.orders.tokens_seen())
    assert () == world.billing.tokens_seen()


def sidecar_auth(world: World, sidecar: str, **kwargs: Any) -> ResourceTokenAuth:
    return world.auth(
        {
            "http://orders.internal/": Resource(ORDERS, connect_to=sidecar),
            "http://billing.internal:8080/": Resource(
                BILLING, connect_to=sidecar, host_header="billing.mesh"
            ),
        },
        **kwargs,
    )


def test_a_sidecar_is_reached_by_its_own_address(caller: Caller, world: World) -> None:
    """
    Section 9: the connection goes to loopback, and the service is named in `Host`.
    """
    auth = sidecar_auth(world, world.sink.url)
    with caller.client(auth=auth) as client:
        client.get("http://orders.internal/v1/orders")
        client.get("http://billing.internal:8080/v1/invoices")
        client.get(f"{world.sink.url}/direct", headers={"Host": "billing.mesh"})

    orders, billing, direct = world.sink.seen
    assert ["orders.internal"] == orders.header("host")
    assert ["billing.mesh"] == billing.header("host") == direct.header("host")
    first, second = world.server.issued
    assert [f"Bearer {first}"] == orders.header("authorization")
    assert [f"Bearer {second}"] == billing.header("authorization") == direct.header("authorization")


def test_a_sidecar_is_not_gone_around(caller: Caller, world: World) -> None:
    """
    Section 9: an unknown Host at the sidecar has no resource, and a redirect to the service's own
    name is not followed with a token.
    """
    world.sink.redirect("/jump", to=f"{world.orders.url}landing", status=302)
    world.sink.redirect("/within", to="/landing", status=302)
    with caller.client(
        auth=sidecar_auth(world, world.sink.url, unmapped="anonymous"), follow_redirects=True
    ) as client:
        client.get(f"{world.sink.url}/x", headers={"Host": "other.mesh"})
        client.get(f"{world.sink.url}/x")
        assert [] == world.sink.tokens_seen()
        client.get("http://orders.internal/within")
        client.get("http://orders.internal/jump")

    assert () == world.orders.tokens_seen()
    landing = next(seen for seen in world.sink.seen if seen.target == "/landing")
    assert ["orders.internal"] == landing.header("host")
    assert [f"Bearer {world.server.issued[0]}"] == landing.header("authorization")


def test_a_401_from_behind_a_sidecar_renews_the_token(caller: Caller, world: World) -> None:
    """
    P8: the answer comes from the destination that the token was sent to.
    """
    auth = sidecar_auth(world, world.sink.url)
    with caller.client(auth=auth) as client:
        client.get("http://orders.internal/x")
        world.sink.answer("/x", 401, times=1)
        response = client.get("http://orders.internal/x")

    assert 200 == response.status_code
    assert 2 == len(world.server.token_requests)
    assert {"orders.internal"} == {seen.header("host")[0] for seen in world.sink.seen}


@pytest.mark.parametrize(
    ("destination", "arguments", "words"),
    [
        ("https://a.test/", {"connect_to": "http://10.0.0.1:15001"}, "no loopback address"),
        ("https://a.test/", {"connect_to": "127.0.0.1:15001"}, "no origin"),
        ("https://a.test/", {"connect_to": "http://127.0.0.1:15001/x"}, "no origin"),
        ("https://a.test/", {"connect_to": "http://h:x"}, "no origin"),
        ("https://*.a.test/", {"connect_to": "http://127.0.0.1:15001"}, "wildcard"),
        ("https://a.test/", {"host_header": "a.mesh"}, "goes with connect_to"),
        (
            "https://a.test/",
            {"connect_to": "http://127.0.0.1:1", "host_header": "a b"},
            "host with an optional port",
        ),
        ("https://a.test/", {"redirects": "follow"}, "redirects="),
    ],
)
def test_a_sidecar_is_checked_at_construction(
    destination: str, arguments: dict[str, Any], words: str
) -> None:
    """
    Wrong at construction, with the remedy.
    """
    with pytest.raises(ConfigurationError, match=words):
        ResourceMap({destination: Resource("https://a.test/", **arguments)})


def test_two_services_behind_a_sidecar_differ_in_their_host() -> None:
    """
    A sidecar tells services apart by `Host` alone, and so must we.
    """
    sidecar: Any = {"connect_to": "http://127.0.0.1:15001", "host_header": "mesh"}
    with pytest.raises(ConfigurationError, match="two destinations"):
        ResourceMap(
            {
                "https://a.test/": Resource("https://a.test/", **sidecar),
                "https://b.test/": Resource("https://b.test/", **sidecar),
            }
        )
    # Two paths of one service are one Host.
    by_path = ResourceMap(
        {
            "https://a.test/x": Resource("https://a.test/x", **sidecar),
            "https://a.test/y": Resource("https://a.test/y", **sidecar),
        }
    )
    found = by_path.resource_at("http", b"127.0.0.1", 15001, b"/y/1", b"MESH")
    assert found is not None
    assert "https://a.test/y" == found.identifier
    assert by_path.resource_at("https", b"a.test", None, b"/y/1") is None


def test_streams_are_guarded_and_closed(caller: Caller, world: World) -> None:
    """
    `client.stream`, with a body that is sent in chunks: checked before the first of them.
    """
    sent: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        sent.append(b"x")
        yield b"x"

    async def achunks() -> Any:
        sent.append(b"x")
        yield b"x"

    def stream(client: Any, **kwargs: Any) -> int:
        with client.stream("POST", world.orders.url, content=chunks(), **kwargs) as response:
            response.read()
            return int(response.status_code)

    async def astream(client: Any, **kwargs: Any) -> int:
        async with client.stream("POST", world.orders.url, content=achunks(), **kwargs) as response:
            await response.aread()
            return int(response.status_code)

    with caller.client(auth=world.auth()) as client:
        call = stream if caller.blocking else astream
        assert 200 == caller.call(call, client.real)
        with pytest.raises(EgressBlockedError):
            caller.call(call, client.real, headers={"Host": "billing.example.com"})

    assert [b"x"] == sent
    assert 1 == len(world.orders.requests)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_request_leaves_the_client_usable(world: World, backend: str) -> None:
    """
    Cancelled in the middle of a hop: the next request is as guarded as ever.
    """
    released = threading.Event()

    def slow(_seen: Any) -> None:
        released.wait(10)

    world.sink.behave(slow)
    auth = world.auth({f"{world.sink.url}/": ORDERS})

    async def scenario() -> int:
        async with httpx2.AsyncClient(auth=auth, trust_env=False) as client:
            with anyio.move_on_after(0.3) as scope:
                await client.get(f"{world.sink.url}/slow")
            assert scope.cancelled_caught
            released.set()
            with pytest.raises(EgressBlockedError):
                await client.get(f"{world.sink.url}/x", headers={"Host": "other.example.com"})
            return (await client.get(f"{world.sink.url}/x")).status_code

    assert 200 == anyio.run(scenario, backend=backend)
