"""
Every hop, on real sockets: what goes on the wire is checked right before it goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resource_tokens import (
    AudienceMismatchError,
    AuthorizationServer,
    EgressBlockedError,
    Resource,
    ResourceMap,
)
from resource_tokens.egress import Bindings, Hop, Shown, rule
from resource_tokens.oauth.token_endpoint import Identity
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.testing import LocalResourceServer
from resource_tokens.tokens import Secret
from tests.conftest import BILLING, ORDERS, Caller, World
from tests.servers.apis import Sink
from tests.servers.http2 import Http2Sink
from tests.servers.tls import serving, trusting
from tests.test_tokens import TOKEN, asked

REDIRECTS = pytest.mark.parametrize("status", [301, 302, 303, 307, 308])


def authorizations(server: LocalResourceServer, path: str) -> list[list[str]]:
    """
    The Authorization values of each request that a server saw at a path.
    """
    return [
        [value for name, value in record.headers if name.lower() == "authorization"]
        for record in server.requests
        if record.target == path
    ]


@pytest.fixture
def gateway(world: World) -> Iterator[LocalResourceServer]:
    with LocalResourceServer(
        world.server, audiences={"/orders": ORDERS, "/billing": BILLING}
    ) as running:
        yield running


def by_path(gateway: LocalResourceServer) -> dict[str, str]:
    return {f"{gateway.url}orders": ORDERS, f"{gateway.url}billing": BILLING}


@REDIRECTS
def test_a_redirect_to_another_api_goes_without_the_token(
    caller: Caller, world: World, status: int
) -> None:
    """
    P3, R1, R2, R14, CVE-2018-1000007: the other API sees no token at all, not even its own.
    """
    world.orders.redirect("/jump", f"{world.billing.url}landing", status)
    auth = world.auth()
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(f"{world.billing.url}warm")
        response = client.request("POST", f"{world.orders.url}jump", json={})

    assert 401 == response.status_code
    assert [[]] == authorizations(world.billing, "/landing")
    assert "token_withheld" in world.event_names()
    withheld = next(e for e in world.events if e.name == "token_withheld")
    assert (ORDERS, f"{world.billing.url}landing") == (withheld.resource, withheld.destination)
    assert f"that destination is mapped to {BILLING!r}." == withheld.detail


@REDIRECTS
def test_a_redirect_to_another_path_resource_goes_without_the_token(
    caller: Caller, world: World, gateway: LocalResourceServer, status: int
) -> None:
    """
    P3, R12: on one origin httpx itself would keep the token.
    """
    gateway.redirect("/orders/jump", "/billing/landing", status)
    with caller.client(auth=world.auth(by_path(gateway)), follow_redirects=True) as client:
        response = client.get(f"{gateway.url}orders/jump")

    assert 401 == response.status_code
    assert [[]] == authorizations(gateway, "/billing/landing")
    assert 1 == len(world.server.token_requests)


@REDIRECTS
def test_a_redirect_within_a_resource_keeps_the_token(
    caller: Caller, world: World, status: int
) -> None:
    """
    Same resource, same origin: one token, both hops.
    """
    world.orders.redirect("/jump", "/landing", status)
    with caller.client(auth=world.auth(), follow_redirects=True) as client:
        response = client.get(f"{world.orders.url}jump")

    assert 200 == response.status_code
    assert authorizations(world.orders, "/jump") == authorizations(world.orders, "/landing")


def test_a_redirect_to_another_origin_of_the_resource_keeps_the_token(
    caller: Caller, world: World
) -> None:
    """
    One resource on two origins: the token goes along, where httpx would drop it.
    """
    with LocalResourceServer(world.server, audience=ORDERS) as second:
        world.orders.redirect("/jump", f"{second.url}landing")
        auth = world.auth({world.orders.url: ORDERS, second.url: ORDERS})
        with caller.client(auth=auth, follow_redirects=True) as client:
            response = client.get(f"{world.orders.url}jump")

        assert 200 == response.status_code
        assert 1 == len(second.tokens_seen())


def test_a_token_that_was_withheld_does_not_come_back(
    caller: Caller, world: World, gateway: LocalResourceServer
) -> None:
    """
    R4, CVE-2024-45336: from A to B and on to B again, both hops are bare.
    """
    gateway.redirect("/orders/jump", "/billing/first")
    gateway.redirect("/billing/first", "/billing/second")
    with caller.client(auth=world.auth(by_path(gateway)), follow_redirects=True) as client:
        client.get(f"{gateway.url}orders/jump")

    assert [[]] == authorizations(gateway, "/billing/first")
    assert [[]] == authorizations(gateway, "/billing/second")


def test_a_redirect_to_nowhere_in_particular_goes_without_the_token(
    caller: Caller, world: World
) -> None:
    """
    Section 4: downloads by redirect to storage keep working, bare.
    """
    world.orders.redirect("/download", f"{world.sink.url}/file?sig=1")
    with caller.client(auth=world.auth(), follow_redirects=True) as client:
        response = client.get(f"{world.orders.url}download")

    assert 200 == response.status_code
    (seen,) = world.sink.seen
    assert [] == seen.header("authorization")
    assert [] == world.sink.tokens_seen()
    assert "?" not in next(e for e in world.events if e.name == "token_withheld").destination


def test_an_ambiguous_redirect_goes_without_the_token(
    caller: Caller, world: World, gateway: LocalResourceServer
) -> None:
    """
    M5: a path with two readings carries nothing.
    """
    gateway.redirect("/orders/jump", "/orders/%2e%2e/billing")
    with caller.client(auth=world.auth(by_path(gateway)), follow_redirects=True) as client:
        client.get(f"{gateway.url}orders/jump")

    assert [[]] == authorizations(gateway, "/orders/%2e%2e/billing")


def test_a_redirect_that_went_astray_does_not_lead_back(
    caller: Caller, world: World, gateway: LocalResourceServer
) -> None:
    """
    R4: from A to a stranger and back to A, on other origins and along the paths of one. What the
    stranger asks A to do is done without A's token.
    """
    world.sink.redirect("/evil", to=f"{world.orders.url}delete-all", status=307)
    world.orders.redirect("/jump", f"{world.sink.url}/evil", 307)
    gateway.redirect("/orders/jump", "/billing/evil", 307)
    gateway.redirect("/billing/evil", "/orders/delete-all", 307)
    auth = world.auth({world.orders.url: ORDERS, **by_path(gateway)})
    with caller.client(auth=auth, follow_redirects=True) as client:
        across = client.request("POST", f"{world.orders.url}jump", json={})
        along = client.request("POST", f"{gateway.url}orders/jump", json={})

    assert (401, 401) == (across.status_code, along.status_code)
    assert [[]] == authorizations(world.orders, "/delete-all")
    assert [[]] == authorizations(gateway, "/orders/delete-all")


def test_a_connect_of_the_callers_own_is_looked_at(
    caller: Caller, world: World, gateway: LocalResourceServer
) -> None:
    """
    Only a CONNECT without a token of ours is a tunnel's; another method name is no way around.
    """
    auth = world.auth(by_path(gateway))
    with caller.client(auth=auth) as client, pytest.raises(EgressBlockedError):
        client.request("CONNECT", f"{gateway.url}orders/x", extensions={"target": b"/billing/x"})

    assert () == gateway.requests


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"extra": {"tenant": "blue"}}, {"extra": {"tenant": "green"}}),
        (
            {"audience": "orders-blue", "verify_audience": "off"},
            {"audience": "orders-green", "verify_audience": "off"},
        ),
    ],
    ids=["extra", "audience"],
)
def test_one_identifier_with_other_parameters_is_another_resource(
    caller: Caller, world: World, left: Any, right: Any
) -> None:
    """
    P2, P3: what is part of the key is part of where a token may go, scopes excepted.
    """
    auth = world.auth(
        {
            f"{world.orders.url}blue": Resource(ORDERS, **left),
            f"{world.orders.url}green": Resource(ORDERS, **right),
            f"{world.orders.url}azure": Resource(ORDERS, scopes="orders:read", **left),
        }
    )
    world.orders.redirect("/blue/jump", "/green/landing")
    world.orders.redirect("/blue/within", "/azure/landing")
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(f"{world.orders.url}blue/jump")
        client.get(f"{world.orders.url}blue/within")

    assert [[]] == authorizations(world.orders, "/green/landing")
    assert [[f"Bearer {world.server.issued[0]}"]] == authorizations(world.orders, "/azure/landing")


def test_a_guard_gives_nothing_after_its_flow(caller: Caller, world: World) -> None:
    """
    A request that is sent once more with `auth=None` gets no token back.
    """
    with LocalResourceServer(world.server, audience=ORDERS) as second:
        world.orders.redirect("/jump", f"{second.url}landing")
        auth = world.auth({world.orders.url: ORDERS, second.url: ORDERS})
        with caller.client(auth=auth) as client:
            first = client.get(f"{world.orders.url}jump")
            bare = client.send(first.next_request, auth=None)

        assert 401 == bare.status_code
        assert [[]] == authorizations(second, "/landing")


def test_a_foreign_host_header_is_blocked(caller: Caller, world: World) -> None:
    """
    M8, E5: what the server routes by must be what the mapping saw; nothing is sent.
    """
    with (
        caller.client(auth=world.auth()) as client,
        pytest.raises(EgressBlockedError, match="Host header") as caught,
    ):
        client.get(world.orders.url, headers={"Host": "billing.example.com"})

    assert () == world.orders.requests
    assert (ORDERS, world.orders.url) == (caught.value.resource, caught.value.destination)
    assert "egress_blocked" == world.event_names()[-1]


@pytest.mark.parametrize(
    "target", [b"/billing/x", b"http://billing.example.com/", b"*", b"/orders/../billing"]
)
def test_a_replaced_target_is_blocked(
    caller: Caller, world: World, gateway: LocalResourceServer, target: bytes
) -> None:
    """
    M7, E6: the wire target decides, not the URL.
    """
    with (
        caller.client(auth=world.auth(by_path(gateway))) as client,
        pytest.raises(EgressBlockedError),
    ):
        client.get(f"{gateway.url}orders/x", extensions={"target": target})

    assert () == gateway.requests


def test_a_blocked_hop_leaves_the_client_usable(caller: Caller, world: World) -> None:
    """
    A block neither poisons nor leaks a connection: there is but one, for as many blocks as there
    are requests.
    """
    limits = caller.library.Limits(max_connections=1)
    with caller.client(auth=world.auth(), limits=limits) as client:
        for _ in range(3):
            with pytest.raises(EgressBlockedError):
                client.get(world.orders.url, headers={"Host": "x.example.com"})
            assert 200 == client.get(world.orders.url).status_code

    assert 3 == len(world.orders.requests)


def test_a_next_request_sent_by_hand_is_judged_anew(
    caller: Caller, world: World, gateway: LocalResourceServer
) -> None:
    """
    R10, E18: with auth it is a request of the caller's; without, it carries nothing of ours.
    """
    gateway.redirect("/orders/jump", "/billing/landing")
    auth = world.auth(by_path(gateway))
    with caller.client(auth=auth) as client:
        first = client.get(f"{gateway.url}orders/jump")
        bare = client.send(first.next_request, auth=None)
        own = client.send(client.get(f"{gateway.url}orders/jump").next_request)

    assert (302, 401, 200) == (first.status_code, bare.status_code, own.status_code)
    without, with_own = authorizations(gateway, "/billing/landing")
    assert [] == without
    assert with_own != authorizations(gateway, "/orders/jump")[0]


def test_a_trace_function_of_the_user_is_still_called(caller: Caller, world: World) -> None:
    """
    Section 5: ours is one more, not instead; also when the request is sent again after a 401.
    """
    names: list[str] = []

    def trace(name: str, _info: dict[str, Any]) -> None:
        names.append(name)

    async def atrace(name: str, _info: dict[str, Any]) -> None:
        names.append(name)

    extensions = {"trace": trace if caller.blocking else atrace}
    auth = world.auth()
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        world.server.revoke(world.server.issued[0])
        response = client.get(world.orders.url, extensions=extensions)

    assert 200 == response.status_code
    assert 2 == names.count("http11.send_request_headers.started")


def test_a_hook_that_copies_the_token_elsewhere_leaks_nothing(
    caller: Caller, world: World, gateway: LocalResourceServer
) -> None:
    """
    R7: whatever header the token lies in, it does not leave the resource by a redirect.
    """

    def copy(request: Any) -> None:
        if "authorization" in request.headers:
            request.headers["X-Debug"] = request.headers["authorization"]

    async def acopy(request: Any) -> None:
        copy(request)

    gateway.redirect("/orders/jump", "/billing/landing")
    hooks = {"request": [copy if caller.blocking else acopy]}
    auth = world.auth(by_path(gateway))
    with caller.client(auth=auth, follow_redirects=True, event_hooks=hooks) as client:
        client.get(f"{gateway.url}orders/jump")

    landing = next(r for r in gateway.requests if r.target == "/billing/landing")
    assert [] == [v for _, v in landing.headers if world.server.issued[0] in v]


def test_a_plain_http_proxy_does_not_see_the_token(caller: Caller, world: World) -> None:
    """
    E10, L6: a forward proxy would read the header; the request is stopped.
    """
    with (
        Sink() as proxy,
        caller.client(auth=world.auth(), proxy=proxy.url) as client,
        pytest.raises(EgressBlockedError, match="proxy") as caught,
    ):
        client.get(world.orders.url)

    assert [] == proxy.seen
    assert () == world.orders.requests
    assert f"{world.orders.url} by way of {proxy.url}" == caught.value.destination


def test_the_guard_looks_at_http11_over_tls(caller: Caller, world: World) -> None:
    """
    Section 5: httpcore calls `trace` before the headers of each hop. If that ever changes its
    name, this test says so.
    """
    with Sink(tls=serving()) as api:
        auth = world.auth({api.url: ORDERS})
        with caller.client(auth=auth, verify=trusting()) as client:
            assert 200 == client.get(f"{api.url}/x").status_code
            with pytest.raises(EgressBlockedError):
                client.get(f"{api.url}/x", headers={"Host": "billing.example.com"})

        assert [world.server.issued[0]] == api.tokens_seen()
        assert 1 == len(api.seen)


def test_the_guard_looks_at_every_stream_of_http2(caller: Caller, world: World) -> None:
    """
    Section 5: the same over HTTP/2, where hops share a connection.
    """
    with Http2Sink(serving()) as api:
        api.redirects["/orders/jump"] = "/billing/landing"
        auth = world.auth({f"{api.url}/orders": ORDERS, f"{api.url}/billing": BILLING})
        one = caller.library.Limits(max_connections=1)
        with caller.client(
            auth=auth, http1=False, http2=True, limits=one, follow_redirects=True
        ) as client:
            response = client.get(f"{api.url}/orders/jump")
            with pytest.raises(EgressBlockedError):
                client.get(f"{api.url}/orders/x", headers={"Host": "billing.example.com"})
            assert 200 == client.get(f"{api.url}/orders/x").status_code

    assert "HTTP/2" == response.http_version
    jump, landing, after = (dict(headers) for headers in api.seen)
    assert f"Bearer {world.server.issued[0]}" == jump["authorization"] == after["authorization"]
    assert "/billing/landing" == landing[":path"]
    assert "authorization" not in landing


SERVER = AuthorizationServer(issuer="https://login.example.com")
RESOURCES = ResourceMap(
    {
        "https://api.example.com/": "urn:x:a",
        "https://b.example.com:8443/": "urn:x:a",
        "https://c.example.com/": "urn:x:c",
        "https://[2001:db8::1]/": "urn:x:a",
        "http://127.0.0.1:81/": Resource("urn:x:a", allow_http_proxy=True),
    }
)


def identity(resource: Resource) -> Identity:
    return asked(server=SERVER, resource=Resource(resource.identifier)).identity


SHOWN = Shown(TOKEN, asked(server=SERVER, resource=Resource("urn:x:a")))
AUTHORIZATION = (b"Authorization", TOKEN.authorization.encode())


def hop(**changes: Any) -> Hop:
    usual: dict[str, Any] = {
        "scheme": "https",
        "host": b"api.example.com",
        "port": None,
        "target": b"/v1?q=private",
        "headers": [(b"Host", b"api.example.com")],
        "first": True,
    }
    made = Hop(**usual | changes)
    return made._replace(headers=[*made.headers, AUTHORIZATION])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"headers": [(b"host", b"API.example.com:443")]},
        {"host": b"b.example.com", "port": 8443, "headers": [(b"Host", b"b.example.com:8443")]},
        {"host": b"2001:db8::1", "headers": [(b"Host", b"[2001:db8::1]")]},
        {"first": False},
        {"server_name": "API.example.com"},
        {
            "scheme": "http",
            "host": b"proxy.example.com",
            "target": b"http://127.0.0.1:81/x",
            "headers": [(b"Host", b"127.0.0.1:81")],
        },
    ],
)
def test_a_hop_to_the_resource_carries_its_token(changes: dict[str, Any]) -> None:
    """
    P3: the destinations of the resource, and nothing else.
    """
    ruling = rule(hop(**changes), SHOWN, RESOURCES, Bindings(), identity)

    assert ("", False) == (ruling.why, ruling.stripped)
    assert AUTHORIZATION in ruling.headers


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scheme": "http"}, "no resource is mapped"),
        ({"port": 444}, "no resource is mapped"),
        ({"host": b"c.example.com", "headers": [(b"Host", b"c.example.com")]}, "'urn:x:c'"),
        ({"host": b"evil.test"}, "no resource is mapped"),
        ({"target": b"https://api.example.com/v1"}, "Host header|proxy"),
        ({"target": b""}, "neither a path nor a URL|no resource"),
        ({"target": b"*"}, "neither a path nor a URL|no resource"),
        ({"target": b"http://h:x/"}, "neither a path nor a URL"),
        ({"target": b"http://\xff/"}, "bytes that no URL has"),
        ({"target": b"/v1\r\nX: y"}, "bytes that no URL has"),
        ({"target": b"/v1\x00"}, "bytes that no URL has"),
        ({"target": b"/v1 x"}, "bytes that no URL has"),
        ({"headers": [(b"Host", b"api.example.com:444")]}, "Host header"),
        ({"headers": [(b"Host", b"api.example.com"), (b"host", b"evil.test")]}, "Host header"),
        ({"host": b"2001:db8::1", "headers": [(b"Host", b"2001:db8::1")]}, "Host header"),
        ({"server_name": "evil.test"}, "TLS server name"),
    ],
)
def test_any_other_hop_does_not(changes: dict[str, Any], words: str) -> None:
    """
    P3: the caller's own request is stopped, a redirect goes on without; no query is shown.
    """
    with pytest.raises(EgressBlockedError, match=words) as caught:
        rule(hop(**changes), SHOWN, RESOURCES, Bindings(), identity)

    assert "private" not in str(caught.value)
    assert "'Authorization'" in str(caught.value)
    ruling = rule(hop(**changes, first=False), SHOWN, RESOURCES, Bindings(), identity)
    assert AUTHORIZATION not in ruling.headers
    assert ruling.stripped
    assert ruling.why


def bound(*values: tuple[str, str]) -> Bindings:
    """
    What remembers that each of these tokens is for its resource.
    """
    bindings = Bindings()
    for value, resource in values:
        request = asked(server=SERVER, resource=Resource(resource))
        bindings.bind(replace(TOKEN, _value=Secret(value), resource=resource), request)
    return bindings


LIVE = "live-token-of-c.that-is_long~enough=="


@pytest.mark.parametrize(
    "text",
    [
        f"Bearer {LIVE}",
        f"bearer   {LIVE}",
        LIVE,
        f'token="{LIVE}", realm=x',
        f"session={LIVE}; path=/",
        f"a,{LIVE},b",
        f"access_token={LIVE}",
        f"Bearer:{LIVE}",
        f"({LIVE})",
        f"<{LIVE}>",
        f"[{LIVE}]",
        f"user:{LIVE}",
        f"x=y={LIVE}",
        f"a|{LIVE}",
        f"path/{LIVE}",
        f"{LIVE}.",
        f"--{LIVE}--",
        f"x{LIVE}",
        f"a/{LIVE}/b",
        f"{LIVE}@host",
        f"`{LIVE}`",
        f"({quote(LIVE, safe='')})",
        f"a/{quote(LIVE, safe='')}/b",
    ],
)
def test_a_live_token_is_found_in_any_header(text: str) -> None:
    """
    P3: whatever the scheme or the separators around it.
    """
    assert ["urn:x:c"] == [
        found.resource for found in bound((LIVE, "urn:x:c")).tokens_in(text.encode())
    ]


@pytest.mark.parametrize("text", ["", "short", LIVE[:-1], LIVE[1:], "x" * 200, f"{LIVE}x"])
def test_what_is_no_live_token_is_not_found(text: str) -> None:
    """
    Exact matches only: no part of a token, and nothing that merely looks like one.
    """
    assert [] == bound((LIVE, "urn:x:c")).tokens_in(text.encode())


@pytest.mark.parametrize(
    "target",
    [
        f"/v1?access_token={LIVE}",
        f"/v1?t={quote(LIVE, safe='')}&x=1",
        f"/v1?state={quote('access_token=' + quote(LIVE, safe=''), safe='')}",
        f"/v1/{LIVE}/x",
        f"/v1/{quote(LIVE, safe='')}?x",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_live_token_in_a_url_is_blocked_on_every_hop(target: str, first: bool) -> None:
    """
    P3, R6750-2, R9700-5, R21-3: a URL cannot be sent without it, so the hop is not sent.
    """
    plain = hop(target=target.encode(), first=first)
    with pytest.raises(EgressBlockedError, match="its URL carries a token") as caught:
        rule(plain, None, RESOURCES, bound((LIVE, "urn:x:c")), identity)

    assert LIVE not in str(caught.value)


def test_each_of_several_tokens_is_found() -> None:
    """
    P3: also where they are encoded as one word.
    """
    bindings = bound((LIVE, "urn:x:c"), (LIVE[::-1], "urn:x:a"))
    both = f"{LIVE},{LIVE[::-1]}"

    for text in (both, quote(both, safe=""), f"{both}%20"):
        found = [each.resource for each in bindings.tokens_in(text.encode())]
        assert ["urn:x:a", "urn:x:c"] == sorted(found)
        assert not {LIVE, LIVE[::-1]} & {*bindings.masked(text).split(",")}


def test_tokens_that_end_alike_are_told_apart() -> None:
    """
    P3: some servers write the same at the end of each, such as a region.
    """
    values = [f"{'x' * number}-token-of-number-{number}.eu-central-1" for number in range(30)]
    bindings = bound(*((value, f"urn:x:{number}") for number, value in enumerate(values)))

    for number, value in enumerate(values):
        found = bindings.tokens_in(f"Bearer {value}".encode())
        assert f"urn:x:{number}" in [each.resource for each in found]


@given(
    token=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=16, max_size=90),
    before=st.text(max_size=60),
    after=st.text(max_size=60).filter(lambda text: not re.match("[0-9A-Za-z]", text)),
)
def test_any_token_is_found_and_masked_in_any_text(token: str, before: str, after: str) -> None:
    """
    P3, P9: whatever characters it is made of, whatever stands before it; what follows it is no
    letter and no digit.
    """
    bindings = bound((token, "urn:x:c"))
    text = before + token + after

    assert "urn:x:c" in [found.resource for found in bindings.tokens_in(text.encode())]
    assert token not in bindings.masked(text)


def test_looking_for_tokens_takes_no_longer_than_reading() -> None:
    """
    P10: the time grows with the length of a text, not with its square, whatever it is made of.
    """
    bindings = bound((LIVE, "urn:x:c"))
    for part in ("a", "%", "%2", "%25", "-", ".", "=", f"{LIVE}x", LIVE[-8:], LIVE[:-8], "\u2603"):
        assert [] == bindings.tokens_in((part * 50_000)[:50_000].encode() + b"x")


def test_a_live_token_goes_where_it_belongs() -> None:
    """
    A hand-made header with the right token for the right place is the caller's business.
    """
    right = hop(headers=[(b"Host", b"api.example.com"), (b"X-Token", LIVE.encode())])

    assert not rule(right, SHOWN, RESOURCES, bound((LIVE, "urn:x:a")), identity).stripped


def test_a_token_in_the_name_of_a_header_is_found() -> None:
    """
    P3: name and value mixed up.
    """
    swapped = hop(headers=[(b"Host", b"api.example.com"), (LIVE.encode(), b"Authorization")])
    bindings = bound((LIVE, "urn:x:c"))
    with pytest.raises(EgressBlockedError, match="its header '<token for urn:x:c>'") as caught:
        rule(swapped, SHOWN, RESOURCES, bindings, identity)

    assert LIVE not in str(caught.value)
    assert rule(swapped._replace(first=False), SHOWN, RESOURCES, bindings, identity).stripped


@pytest.mark.parametrize(
    "text",
    [
        'HTTP Request: GET https://api.example.com/x?access_token={} "HTTP/1.1 200 OK"',
        "Adding (b'authorization', b'Bearer {}') to the header table",
        "[(b'x', b'{}'), (b'y', b'{}')]",
        "{{'X-Token': '{}'}} and café",
        "{}",
    ],
)
def test_live_tokens_are_masked(text: str) -> None:
    """
    P9: what stands around them stays, and so do tokens of others.
    """
    bindings = bound((LIVE, "urn:x:c"))
    other = "other-token-of-somebody.that-is_long~enough=="

    masked = bindings.masked(text.replace("{}", LIVE, 1).replace("{}", other))

    assert text.replace("{}", "<token for urn:x:c>", 1).replace("{}", other) == masked


def test_an_encoded_token_is_masked() -> None:
    """
    P9: as it stands in a URL.
    """
    text = f"https://api.example.com/x?t={quote(LIVE, safe='')}&u=%zz%"

    assert text.replace(quote(LIVE, safe=""), "<token for urn:x:c>") == bound(
        (LIVE, "urn:x:c")
    ).masked(text)


def test_a_token_shown_is_bound() -> None:
    """
    P3: one that came from elsewhere is known from then on; one known for something else is not
    shown.
    """
    bindings = Bindings()
    request = asked(server=SERVER, resource=Resource("urn:x:a"))
    shown = bindings.shown(TOKEN, request)

    assert shown is bindings.shown(TOKEN, request)
    assert [request.identity] == bindings.tokens_in(TOKEN.authorization.encode())
    with pytest.raises(AudienceMismatchError):
        bindings.shown(TOKEN, asked(server=SERVER, resource=Resource("urn:x:c")))


def test_tokens_shown_are_bounded() -> None:
    """
    P10: the one shown first goes first, and comes back when it is shown again.
    """
    bindings = Bindings(maxsize=2)
    requests = [
        asked(server=SERVER, resource=Resource(f"urn:x:{name}"), scopes=frozenset({name}))
        for name in "abc"
    ]
    tokens = [replace(TOKEN, _value=Secret(f"token-{name}" * 4)) for name in "abc"]
    first, *_ = [bindings.shown(*pair) for pair in zip(tokens, requests, strict=True)]

    assert 2 == len(bindings._shown)
    assert first is not bindings.shown(tokens[0], requests[0])


def test_a_token_in_use_is_known_however_many_came_after_it() -> None:
    """
    P3, P10: what goes first when there are too many is the oldest, and a token that lives for long
    is old. With each use it is known again.
    """
    bindings = Bindings(maxsize=4)
    request = asked(server=SERVER, resource=Resource("urn:x:a"))
    bindings.shown(TOKEN, request)
    for number in range(10):
        other = replace(TOKEN, _value=Secret(f"another-token-{number}"))
        bindings.bind(other, asked(server=SERVER, resource=Resource(f"urn:x:{number}")))
    assert [] == bindings.tokens_in(TOKEN.reveal().encode())

    bindings.shown(TOKEN, request)

    assert [request.identity] == bindings.tokens_in(TOKEN.reveal().encode())
    assert 4 == len(bindings._bound)


def test_what_is_handed_out_is_known(caller: Caller, world: World) -> None:
    """
    P3: who takes a token out of the cache is the one who copies it to the wrong place. It is known
    there although there have been thousands since it was asked for; and a cache that keeps more
    tokens knows more of them.
    """
    auth = world.auth(store=MemoryTokenStore(1500))
    token = caller.token_for(auth, world.orders.url)
    bound = auth.cache.bindings._bound
    for number in range(2 * 1500 - 1):
        other = replace(TOKEN, _value=Secret(f"another-token-{number}"))
        auth.cache.bindings.bind(other, asked(resource=Resource("urn:x:other")))
    assert 2 * 1500 == len(bound)
    other = replace(TOKEN, _value=Secret("another-token-more"))
    auth.cache.bindings.bind(other, asked(resource=Resource("urn:x:other")))
    assert [] == auth.cache.bindings.tokens_in(token.reveal().encode())

    assert token is caller.token_for(auth, world.orders.url)

    headers = {"X-Copy": token.reveal()}
    with caller.client(auth=auth) as client, pytest.raises(EgressBlockedError, match="X-Copy"):
        client.get(world.billing.url, headers=headers)


def test_a_long_url_is_no_token() -> None:
    """
    What is as long as a token is looked at, and passes.
    """
    long = hop(target=b"/v1/" + b"x" * 100 + b"?q=" + b"%20y" * 100)

    assert long.headers == rule(long, SHOWN, RESOURCES, bound((LIVE, "urn:x:c")), identity).headers
