"""
The list of advisories: what has gone wrong elsewhere, each with a test that it does not go wrong
here. docs/explanation/advisories.md tells the same list in words.

A test is named by its CVE, or by the issue that told of it, or by its row in that list; the row is
in its docstring too. What is about the wire is told by real sockets: every host is a server of its
own on loopback, reached by its name through a SOCKS proxy, and keeps whatever it was sent. After
each of these tests INV-1 is looked up in all the ledgers: no server ever saw a token that was not
for the very origin and path it was sent to, nor the client's secret.
"""

from __future__ import annotations

import ast
import asyncio
import copy
import json
import logging
import os
import pickle
import re
import signal
import ssl
import sys
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cache, cached_property, partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlsplit

import anyio
import anyio.from_thread
import httpx
import httpx2
import jwt
import pytest
import trio
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec
from h2.connection import H2Connection
from h2.events import RequestReceived
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import example, given
from hypothesis import strategies as st

import resource_tokens
from resource_tokens import (
    AsyncEgressGuard,
    AudienceMismatchError,
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    EgressBlockedError,
    EgressGuard,
    OAuthError,
    PrivateKeyJwt,
    RefreshToken,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
    ResourceTokensError,
    SharedRefreshToken,
    SubjectToken,
    TokenCache,
    TokenEvent,
    TokenRequestError,
    UnmappedDestinationError,
)
from resource_tokens.files import FileTokenStore
from resource_tokens.logs import TokenFilter
from resource_tokens.redis import RedisTokenStore
from resource_tokens.stores import MemoryTokenStore, new_key
from resource_tokens.testing import ABSENT, LocalAuthorizationServer
from resource_tokens.tokens import TokenKey
from tests.conftest import BILLING, CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, Clock
from tests.servers.apis import Answer, Sink
from tests.servers.http2 import Http2Sink
from tests.servers.ledger import Seen
from tests.servers.proxy import RecordingProxy
from tests.servers.scripted import Issuer
from tests.servers.tls import serving, trusting
from tests.servers.valkey import ValkeyServer

API, FILES = "https://api.example.com", "https://files.example.net"
GATEWAY, PLAIN = "https://gw.example.com", "http://plain.example.com"
BY_PATH = {f"{GATEWAY}/orders": ORDERS, f"{GATEWAY}/billing": BILLING}
IN_PLAIN = Resource(ORDERS, allow_http=True)

HTTP2 = {"http1": False, "http2": True, "proxy": None}
BOTH = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
STATUSES = (301, 302, 303, 307, 308)
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda m: m.__name__)
PACKAGE = Path(resource_tokens.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "advisories.md"


class Streams(Http2Sink):
    """
    An HTTP/2 server that answers as it was told, like `Sink`.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._told: dict[str, list[tuple[str, str]]] = {}
        super().__init__(tls)

    def answer(self, path: str, status: int) -> None:
        self._told[path] = [(":status", str(status))]

    def redirect(self, path: str, *, to: str, status: int = 307) -> None:
        self._told[path] = [(":status", str(status)), ("location", to)]

    def _answer(self, state: H2Connection, event: RequestReceived) -> None:
        headers = [(str(name), str(value)) for name, value in event.headers or ()]
        answer = self._told.get(dict(headers)[":path"], [(":status", "200")])
        self.seen.append(headers)
        assert event.stream_id is not None
        state.send_headers(event.stream_id, answer, end_stream=True)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def asker(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """
    A caller for tests that make no request but those for tokens, which know one library only.
    """
    if request.param == "sync":
        yield Caller(httpx, "sync", None)
        return
    with anyio.from_thread.start_blocking_portal(backend=request.param) as portal:
        yield Caller(httpx, request.param, portal)


# What the certificates of the servers here are good for.
NAMES = ("*.example.com", "*.example.net", "*.api.example.com", "example.com", "localhost")


@dataclass
class Net:
    """
    An authorization server, and hosts by name, each started when it is first spoken of.

    Attributes:
        mapping: The destinations configured so far and their resources, as INV-1 reads them.
    """

    server: LocalAuthorizationServer
    stack: ExitStack
    events: list[TokenEvent] = field(default_factory=list)
    mapping: dict[str, str] = field(default_factory=dict)
    _places: dict[str, Sink] = field(default_factory=dict)
    _streams: list[Streams] = field(default_factory=list)

    def at(self, url: str) -> Sink:
        """
        The server of a URL's origin.
        """
        origin = origin_of(url)
        if origin not in self._places:
            tls = serving(*NAMES) if origin.startswith("https:") else None
            self._places[origin] = self.stack.enter_context(Sink(tls=tls))
        return self._places[origin]

    def streams(self) -> Streams:
        """
        A server of HTTP/2 alone, at its own address.
        """
        self._streams.append(self.stack.enter_context(Streams(serving(*NAMES))))
        return self._streams[-1]

    def spoken(self, http2: bool) -> tuple[Any, str, dict[str, Any]]:
        """
        A server of this protocol, its origin, and how a client has to be made for it.
        """
        if not http2:
            return self.at(GATEWAY), GATEWAY, {}
        streams = self.streams()
        return streams, streams.url, HTTP2

    def chain(self, *urls: str, status: int = 302) -> None:
        """
        Let each URL redirect to the next one.
        """
        for here, there in pairwise(urls):
            self.at(here).redirect(urlsplit(here).path, to=there, status=status)
            self.at(there)

    def shown(self, url: str) -> list[list[str]]:
        """
        The `Authorization` values of each request for exactly this URL.
        """
        path = urlsplit(url).path
        return [seen.header("authorization") for seen in self.at(url).seen if seen.path == path]

    @cached_property
    def recorder(self) -> RecordingProxy:
        return self.stack.enter_context(RecordingProxy(self._port_of))

    @property
    def proxy(self) -> str:
        return f"socks5://127.0.0.1:{self.recorder.port}"

    def _port_of(self, host: str, port: int) -> int | None:
        for origin, place in self._places.items():
            url = urlsplit(origin)
            default = 443 if url.scheme in ("https", "wss") else 80
            if (host.strip("[]"), port) == (url.hostname, url.port or default):
                return place.port
        return None

    def auth(self, resources: Mapping[str, Resource | str], **kwargs: Any) -> ResourceTokenAuth:
        for destination, resource in resources.items():
            named = resource if isinstance(resource, str) else resource.identifier
            self.mapping[destination] = named
        kwargs.setdefault("on_event", self.events.append)
        issuer = AuthorizationServer(issuer=self.server.issuer, verify=trusting())
        secret = ClientSecretBasic(CLIENT_ID, CLIENT_SECRET)
        return ResourceTokenAuth(issuer, secret, resources=resources, **kwargs)

    def client(self, caller: Caller, **kwargs: Any) -> Any:
        kwargs.setdefault("proxy", self.proxy)
        kwargs.setdefault("follow_redirects", True)
        return caller.client(verify=trusting(), **kwargs)

    def transport(self, caller: Caller, **kwargs: Any) -> Any:
        """
        A transport of the library's own.
        """
        library = caller.library
        kind = library.HTTPTransport if caller.blocking else library.AsyncHTTPTransport
        kwargs.setdefault("proxy", self.proxy)
        return kind(verify=trusting(), **kwargs)

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def strays(self) -> list[str]:
        """
        INV-1: every token that a server saw and that is not for the origin and path it was sent
        to, in whatever header, target or body; and every secret of the client.
        """
        found = []
        tokens = {token: resource_of(jwt_) for token, jwt_ in self.server._issued.items()}
        for origin, seen in self.ledger():
            here = covering(self.mapping, origin + seen.path)
            found += [
                f"a token for {resource} at {origin}{seen.path}"
                for token, resource in tokens.items()
                if resource != here and seen.contains(token)
            ]
            found += [f"a secret at {origin}{seen.path}" for s in SECRETS if seen.contains(s)]
        return found

    def ledger(self) -> Iterator[tuple[str, Seen]]:
        for origin, place in self._places.items():
            for seen in place.seen:
                yield origin, seen
        for streams in self._streams:
            for headers in tuple(streams.seen):
                known = dict(headers)
                origin = f"https://{known[':authority']}"
                yield origin, Seen(known[":method"], known[":path"], tuple(headers), b"")


SECRETS = (
    CLIENT_SECRET,
    b64encode(f"{quote_plus(CLIENT_ID)}:{quote_plus(CLIENT_SECRET)}".encode()).decode(),
)


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def resource_of(token: str) -> str:
    """
    What a token of the local authorization server was asked for.
    """
    return str(jwt.decode(token, options={"verify_signature": False})["aud"])


def covering(mapping: Mapping[str, str], url: str) -> str | None:
    """
    How INV-1 reads a mapping, by itself: the longest prefix, on segments.
    """
    prefixes = [prefix for prefix in mapping if f"{url}/".startswith(f"{prefix.rstrip('/')}/")]
    return mapping[max(prefixes, key=len)] if prefixes else None


@pytest.fixture
def net(server: LocalAuthorizationServer) -> Iterator[Net]:
    with ExitStack() as stack:
        net = Net(server, stack)
        yield net
        assert [] == net.strays()


def hooks(caller: Caller, change: Callable[[Any], None]) -> dict[str, Any]:
    """
    A request hook, which httpx calls on each hop, after the auth plugin.
    """

    async def achange(request: Any) -> None:
        change(request)

    return {"request": [change if caller.blocking else achange]}


def all_at_once(caller: Caller, call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """
    The results of calling with each of the arguments at the same time.
    """
    if caller.blocking:
        with ThreadPoolExecutor(len(arguments)) as pool:
            return list(pool.map(call, arguments))
    results: list[Any] = [None] * len(arguments)

    async def one(index: int) -> None:
        results[index] = await call(arguments[index])

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for index in range(len(arguments)):
                group.start_soon(one, index)

    caller.call(run)
    return results


def let_refreshes_end() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("resource_tokens"):
            thread.join()


def identifier(resources: Any, url: Any) -> str | None:
    found = ResourceMap(resources).resource_for(url)
    return None if found is None else found.identifier


def outcome(resources: Any, library: Any, url: str) -> str | None:
    """
    The resource of a URL; "refused" if the library or httpx itself will not have it.
    """
    try:
        return identifier(resources, library.URL(url))
    except (EgressBlockedError, library.InvalidURL):
        return "refused"


# R. Credentials that follow a redirect.


def test_cve_2018_1000007_custom_header_follows_redirect(caller: Caller, net: Net) -> None:
    """
    R1, curl: by every redirect status and with every method, another host gets the credential
    under no name.
    """
    methods = ("GET", "POST", "PUT", "DELETE")
    for status in STATUSES:
        net.chain(f"{API}/{status}", f"{FILES}/{status}", status=status)
    auth = net.auth({API: ORDERS})
    token = caller.token_for(auth, API)

    with net.client(caller, auth=auth) as client:
        for status, method in product(STATUSES, methods):
            client.request(method, f"{API}/{status}", headers={"X-Custom": token.authorization})

    assert 20 == len(net.at(API).seen_with(token.reveal())) == len(net.at(FILES).seen)


def test_cve_2022_27774_same_host_other_port_or_scheme(caller: Caller, net: Net) -> None:
    """
    R2, LIB-3, curl CVE-2022-27774 and CVE-2022-27776: a host is not an origin. Another port, and
    http and https either way, are other places.
    """
    hops = [
        (f"{API}/a", f"{API}:8443/a"),
        (f"{API}/b", "http://api.example.com/b"),
        (f"{PLAIN}/c", f"{PLAIN}:8080/c"),
        (f"{PLAIN}/d", "https://plain.example.com/d"),
    ]
    for hop in hops:
        net.chain(*hop)

    with net.client(caller, auth=net.auth({API: BILLING, PLAIN: IN_PLAIN})) as client:
        for start, _ in hops:
            client.get(start)

    assert [1, 1, 1, 1] == [len(net.shown(start)[0]) for start, _ in hops]
    assert [[[]]] * 4 == [net.shown(end) for _, end in hops]


def test_cve_2018_18074_downgrade_to_plain_http(caller: Caller, net: Net) -> None:
    """
    R3, requests CVE-2018-18074 and urllib3 CVE-2018-20060: from https to http nothing goes along,
    unless that very destination has leave to be plain.
    """
    net.chain(f"{API}/own", "http://api.example.com/own")
    net.chain(f"{API}/other", "http://files.example.net/other")
    net.chain(f"{API}/leave", f"{PLAIN}/leave")

    with net.client(caller, auth=net.auth({API: ORDERS, PLAIN: IN_PLAIN})) as client:
        for path in ("own", "other", "leave"):
            client.get(f"{API}/{path}")

    assert [[]] == net.shown("http://api.example.com/own")
    assert [[]] == net.shown("http://files.example.net/other")
    assert net.shown(f"{API}/leave") == net.shown(f"{PLAIN}/leave")


def test_cve_2024_45336_a_stripped_credential_comes_back(caller: Caller, net: Net) -> None:
    """
    R4, Go: what was dropped at the first foreign hop does not come back at the next one, on the
    foreign host or back at home, for it is the foreign host that has chosen the URL.
    """
    net.chain(f"{API}/start", f"{FILES}/1", f"{FILES}/2", f"{API}/back")

    with net.client(caller, auth=net.auth({API: ORDERS})) as client:
        client.get(f"{API}/start")

    assert [1] == [len(values) for values in net.shown(f"{API}/start")]
    assert [[[]]] * 3 == [net.shown(url) for url in (f"{FILES}/1", f"{FILES}/2", f"{API}/back")]


def test_cve_2023_45289_a_subdomain_is_not_the_same_host(caller: Caller, net: Net) -> None:
    """
    R5, Go CVE-2023-45289 and follow-redirects: neither a subdomain nor the parent is trusted more
    than anybody else.
    """
    lands = ["https://evil.api.example.com", "https://example.com", "https://xapi.example.com"]
    for number, land in enumerate(lands):
        net.chain(f"{API}/{number}", f"{land}/{number}")

    with net.client(caller, auth=net.auth({API: ORDERS})) as client:
        for number in range(len(lands)):
            client.get(f"{API}/{number}")

    assert [[[]]] * 3 == [net.shown(f"{land}/{number}") for number, land in enumerate(lands)]


def test_cve_2025_4673_cookie_and_proxy_authorization(caller: Caller, net: Net) -> None:
    """
    R6, Go CVE-2025-4673, requests CVE-2023-32681, urllib3 CVE-2024-37891, follow-redirects
    CVE-2024-28849, aiohttp CVE-2026-34518: `Authorization` is not the only header that carries
    credentials. A token is taken out of each, and out of cookies that the client itself keeps.
    """
    net.chain(f"{API}/jump", f"{FILES}/landing")
    auth = net.auth({API: ORDERS}, unmapped="anonymous")
    token = caller.token_for(auth, API)

    with net.client(caller, auth=auth) as client:
        for name in ("Cookie", "Cookie2", "Proxy-Authorization", "WWW-Authenticate"):
            client.get(f"{API}/jump", headers={name: f"a=b; t={token.reveal()}"})
    with net.client(caller, auth=auth, cookies={"kept": token.reveal()}) as client:
        client.get(f"{API}/jump")
        with pytest.raises(EgressBlockedError, match=r"(?i)cookie"):
            client.get(f"{FILES}/landing")

    assert 5 == len(net.at(FILES).seen) == len(net.at(API).seen_with(token.reveal()))


def test_cve_2026_40895_api_key_headers(caller: Caller, net: Net) -> None:
    """
    R7, LIB-2, follow-redirects CVE-2026-40895, Kiota CVE-2026-44503, urllib3 GHSA-qccp-gfcp-xxvc: a
    credential is known by its value, whatever its header is called, across origins and within.
    """
    names = ("X-Api-Key", "DPoP", "X-Auth-Token", "Authentication", "X-Forwarded-Access-Token")
    net.chain(f"{GATEWAY}/orders/out", f"{FILES}/landing")
    net.chain(f"{GATEWAY}/orders/in", f"{GATEWAY}/billing/landing")
    auth = net.auth(BY_PATH)
    token = caller.token_for(auth, f"{GATEWAY}/orders")
    headers = dict.fromkeys(names, token.reveal())

    with net.client(caller, auth=auth) as client:
        client.get(f"{GATEWAY}/orders/out", headers=headers)
        client.get(f"{GATEWAY}/orders/in", headers=headers)

    landings = [net.at(FILES).seen[0], net.at(GATEWAY).seen_under("/billing")[0]]
    assert [[], []] == [[n for n in names if seen.header(n)] for seen in landings]


def test_ghsa_396q_4vc8_28x9_header_names_in_any_case(caller: Caller, net: Net) -> None:
    """
    R8, Kiota: spelled in whatever case, there is one `Authorization` at the resource, and none
    after a redirect.
    """
    net.chain(f"{API}/jump", f"{FILES}/landing")
    auth = net.auth({API: ORDERS})
    value = caller.token_for(auth, API).authorization
    spelled = [(name, value) for name in ("authorization", "AUTHORIZATION", "AuThOrIzAtIoN")]

    with net.client(caller, auth=auth) as client:
        client.get(f"{API}/jump", headers=spelled)

    assert [[value]] == net.shown(f"{API}/jump")
    assert [[]] == net.shown(f"{FILES}/landing")


def test_aiohttp_13180_only_the_first_duplicate_removed(caller: Caller, net: Net) -> None:
    """
    R9: when a hook has made two `Authorization` headers of one, both are taken out.
    """

    def double(request: Any) -> None:
        raw = request.headers.raw
        again = [pair for pair in raw if pair[0].lower() == b"authorization"]
        request.headers = type(request.headers)([*raw, *again])

    net.chain(f"{GATEWAY}/orders/jump", f"{GATEWAY}/billing/landing")

    with net.client(caller, auth=net.auth(BY_PATH), event_hooks=hooks(caller, double)) as client:
        client.get(f"{GATEWAY}/orders/jump")

    assert [2] == [len(values) for values in net.shown(f"{GATEWAY}/orders/jump")]
    assert [[]] == net.shown(f"{GATEWAY}/billing/landing")


def test_golang_oauth2_500_the_wrapper_adds_it_again(caller: Caller, net: Net) -> None:
    """
    R10, golang/oauth2 500 and 805, google-cloud-go 14547, go-github 4190: a redirect followed by
    hand is a request of its own, with the token of its own destination, or none.
    """
    net.chain(f"{GATEWAY}/orders/in", f"{GATEWAY}/billing/landing")
    net.chain(f"{GATEWAY}/orders/out", f"{FILES}/landing")

    with net.client(caller, auth=net.auth(BY_PATH), follow_redirects=False) as client:
        within = client.get(f"{GATEWAY}/orders/in").next_request
        without = client.get(f"{GATEWAY}/orders/out").next_request
        client.send(within, auth=None)
        client.send(within)
        client.send(without, auth=None)
        with pytest.raises(UnmappedDestinationError):
            client.send(without)

    bare, own = net.shown(f"{GATEWAY}/billing/landing")
    assert [] == bare
    assert [BILLING] == [resource_of(value.removeprefix("Bearer ")) for value in own]
    assert [[]] == net.shown(f"{FILES}/landing")


def following(caller: Caller, inner: Any, *, keeps_extensions: bool) -> Any:
    """
    A transport that follows redirects by itself, below the client, with the headers as they are.
    """
    library = caller.library

    def follow(request: Any, response: Any) -> Any:
        extensions = request.extensions if keeps_extensions else None
        url = request.url.join(response.headers["Location"])
        return library.Request(request.method, url, headers=request.headers, extensions=extensions)

    class Following(library.BaseTransport, library.AsyncBaseTransport):  # type: ignore[name-defined,misc]
        def handle_request(self, request: Any) -> Any:
            response = inner.handle_request(request)
            response.read()
            return inner.handle_request(follow(request, response))

        async def handle_async_request(self, request: Any) -> Any:
            response = await inner.handle_async_request(request)
            await response.aread()
            return await inner.handle_async_request(follow(request, response))

        def close(self) -> None:
            inner.close()

        async def aclose(self) -> None:
            await inner.aclose()

    return Following()


def test_google_cloud_go_14547_redirects_below_the_client(caller: Caller, net: Net) -> None:
    """
    R10: a transport that follows redirects by itself takes nothing along; one that also forgets
    the request's extensions is stopped by a guard next to the wire.
    """
    net.chain(f"{GATEWAY}/orders/jump", f"{GATEWAY}/billing/landing")
    auth = net.auth(BY_PATH)
    guard = EgressGuard if caller.blocking else AsyncEgressGuard

    transport = following(caller, net.transport(caller), keeps_extensions=True)
    with net.client(caller, auth=auth, transport=transport, proxy=None) as client:
        client.get(f"{GATEWAY}/orders/jump")
    guarded = guard(net.transport(caller), auth)
    transport = following(caller, guarded, keeps_extensions=False)
    with (
        net.client(caller, auth=auth, transport=transport, proxy=None) as client,
        pytest.raises(EgressBlockedError),
    ):
        client.get(f"{GATEWAY}/orders/jump")

    assert [[]] == net.shown(f"{GATEWAY}/billing/landing")


def test_cve_2025_14524_another_protocol_or_netrc(
    caller: Caller, net: Net, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    R11, curl CVE-2025-14524 and CVE-2026-3783: nothing goes along to `ws` and `ftp`, and no
    `.netrc` entry for the new host brings a credential back.
    """
    netrc = tmp_path / "netrc"
    netrc.write_text("machine files.example.net login u password p\ndefault login u password p\n")
    monkeypatch.setenv("NETRC", str(netrc))
    net.chain(f"{API}/ws", "ws://api.example.com/ws")
    net.chain(f"{API}/ftp", "ftp://files.example.net/ftp")
    net.chain(f"{API}/netrc", f"{FILES}/netrc")

    with net.client(caller, auth=net.auth({API: ORDERS}), trust_env=True) as client:
        client.get(f"{API}/ws")
        client.get(f"{API}/netrc")
        with pytest.raises(caller.library.UnsupportedProtocol):
            client.get(f"{API}/ftp")

    assert [[]] == net.shown("ws://api.example.com/ws") == net.shown(f"{FILES}/netrc")
    assert 0 == net.at("ftp://files.example.net").connections


@BOTH
def test_httpx_keeps_the_token_on_the_same_origin(caller: Caller, net: Net, http2: bool) -> None:
    """
    R12, LIB-1: on a gateway another path is another resource; httpx and httpx2 by themselves would
    keep the header there.
    """
    place, base, options = net.spoken(http2)
    for status in STATUSES:
        place.redirect(f"/orders/{status}", to=f"/billing/{status}", status=status)
    auth = net.auth({f"{base}/orders": ORDERS, f"{base}/billing": BILLING})

    with net.client(caller, auth=auth, **options) as client:
        for status in STATUSES:
            client.get(f"{base}/orders/{status}")

    hops = [(s.path, len(s.header("authorization"))) for _, s in net.ledger()]
    assert [(f"/{a}/{s}", n) for s in STATUSES for a, n in (("orders", 1), ("billing", 0))] == hops
    assert ["token_withheld"] * 5 == net.names()[-5:]


def test_oauth2_rs_the_token_endpoint_redirects(asker: Caller, net: Net) -> None:
    """
    R13, oauth2-rs and Gitlawb/zero 729: a redirect of the token endpoint is an error, and whoever
    it names sees neither secret nor body.
    """
    cache = net.auth({API: ORDERS}).cache
    trap = net.at(PLAIN)

    for status in STATUSES:
        net.server.respond("/token", status, {"Location": f"{trap.url}/token"}, times=1)
        with pytest.raises(TokenRequestError, match="redirect"):
            asker.token(cache, ORDERS)

    assert 0 == trap.connections
    assert () == net.server.issued


def test_cve_2026_11856_state_of_the_transfer_before(caller: Caller, net: Net) -> None:
    """
    R14, curl CVE-2026-11856 and CVE-2026-6276: from request to request on one client nothing is
    carried over, nor after one that was stopped.
    """
    auth = net.auth({API: ORDERS, GATEWAY: BILLING}, unmapped="anonymous")
    for url in (API, FILES, GATEWAY):
        net.at(url)

    with net.client(caller, auth=auth) as client:
        for _ in range(2):
            client.get(f"{API}/x")
            client.get(f"{FILES}/x")
            with pytest.raises(EgressBlockedError):
                client.get(f"{API}/y", headers={"Host": "files.example.net"})
            client.get(f"{GATEWAY}/x")
            client.get(f"{GATEWAY}/bare", auth=None)

    first, second = net.server.issued
    assert [[f"Bearer {first}"]] * 2 == net.shown(f"{API}/x")
    assert [[f"Bearer {second}"]] * 2 == net.shown(f"{GATEWAY}/x")
    assert [[]] * 2 == net.shown(f"{FILES}/x") == net.shown(f"{GATEWAY}/bare")


def test_cve_2026_6253_the_proxys_credentials_follow(caller: Caller, net: Net) -> None:
    """
    R15, curl, undici and axios: what is for a proxy of http does not go along when a redirect
    leads to https, where there is another way out.
    """
    forward = net.proxy.replace("socks5://", "http://user:word@")
    mounts = {
        "http://": net.transport(caller, proxy=forward),
        "https://": net.transport(caller),
    }
    plain = Resource(ORDERS, allow_http=True, allow_http_proxy=True)
    net.chain(f"{PLAIN}/jump", f"{API}/landing")

    with net.client(
        caller, auth=net.auth({PLAIN: plain, API: BILLING}), mounts=mounts, proxy=None
    ) as client:
        client.get(f"{PLAIN}/jump")

    by_proxy = next(p for p in net.recorder.passages if p.kind == "forward")
    assert b"proxy-authorization: basic" in bytes(by_proxy.sent).lower()
    (landing,) = net.at(API).seen
    assert [] == landing.header("proxy-authorization") == landing.header("authorization")


def test_cve_2020_8169_userinfo_and_a_relative_redirect(caller: Caller, net: Net) -> None:
    """
    R16, curl: with an `@` in the userinfo, a relative redirect stays on its host, and the userinfo
    decides nothing.
    """
    tricky = "user%40files.example.net:p%40x"
    net.chain(f"{API}/jump", f"https://{tricky}@api.example.com/first")
    net.at(API).redirect("/first", to="second", status=302)
    net.at("https://www.example.com").redirect("/jump", to="/second", status=302)
    net.at(FILES)

    with net.client(caller, auth=net.auth({API: ORDERS}, unmapped="anonymous")) as client:
        client.get(f"{API}/jump")
        client.get(f"https://{tricky}@www.example.com/jump")
        client.get("https://api.example.com@files.example.net/x")

    (token,) = net.server.issued
    assert [[f"Bearer {token}"]] == net.shown(f"{API}/second")
    assert 1 == len(net.shown("https://www.example.com/second"))
    assert ["/x"] == [seen.path for seen in net.at(FILES).seen]


# U. One URL, two readings.


def test_userinfo_makes_one_host_look_like_another(caller: Caller, net: Net) -> None:
    """
    U1: what stands before an `@` decides nothing, and in a URL of a mapped host it is refused.
    """
    auth = net.auth({API: ORDERS})
    net.at(FILES)

    with net.client(caller, auth=auth) as client:
        with pytest.raises(UnmappedDestinationError):
            client.get("https://api.example.com@files.example.net/x")
        with pytest.raises(EgressBlockedError, match="userinfo"):
            client.get("https://files.example.net:x@api.example.com/x")

    assert 0 == net.at(API).connections == net.at(FILES).connections
    assert () == net.server.issued


ODD_HOSTS = [
    "api.example.com%2f.evil.test",
    "api.example.com%23.evil.test",
    "api.example.com%00.evil.test",
    "api%2eexample.com",
    "%61pi.example.com",
    "api.example.com;.evil.test",
    "api.example.com,evil.test",
    "api.example.com%20",
    "api.example.com[.evil.test]",
    "[api.example.com]",
    "[::1%25api.example.com]",
]


@LIBRARIES
@pytest.mark.parametrize("host", ODD_HOSTS)
def test_cve_2022_27780_odd_bytes_in_a_host(library: Any, host: str) -> None:
    """
    U2, curl CVE-2022-27780, Python CVE-2024-11168: a host with bytes that no host name has is no
    destination, neither by name nor by a wildcard, and cannot be configured.
    """
    resources = {API: "urn:x:a", "https://*.example.com": API, "https://*.evil.test": API}

    assert outcome(resources, library, f"https://{host}/") in (None, "refused")
    with pytest.raises(ConfigurationError):
        ResourceMap({f"https://{host}/": "urn:x:a"})


@LIBRARIES
def test_cve_2016_8625_idna_and_homographs(library: Any) -> None:
    """
    U3, curl: hosts are compared in their ASCII form, by the same rules for both sides, and a
    letter that only looks alike makes another host.
    """
    sharp = {"https://straße.example/": "urn:x:a"}
    latin = {"https://apple.example/": "urn:x:a"}

    assert "urn:x:a" == outcome(sharp, library, "https://xn--strae-oqa.example/")
    assert None is outcome(sharp, library, "https://strasse.example/")
    assert None is outcome(latin, library, "https://аpple.example/")  # noqa: RUF001 - the point
    assert outcome(latin, library, "https://ａpple.example/") in (None, "refused")  # noqa: RUF001


def test_cve_2022_27779_trailing_dot(caller: Caller, net: Net) -> None:
    """
    U4, curl CVE-2022-27779 and CVE-2026-8924: with a dot at its end it is another host.
    """
    net.chain(f"{PLAIN}/jump", f"{PLAIN}./landing")

    with net.client(caller, auth=net.auth({PLAIN: IN_PLAIN})) as client:
        client.get(f"{PLAIN}/jump")
        with pytest.raises(UnmappedDestinationError):
            client.get(f"{PLAIN}./x")

    assert [[]] == net.shown(f"{PLAIN}./landing")
    with pytest.raises(ConfigurationError):
        ResourceMap({"https://api.example.com../": "urn:x:a"})


@LIBRARIES
def test_utcp_24_spellings_of_a_port(library: Any) -> None:
    """
    U5: the default port is the same written or not; in a configuration it has one spelling.
    """
    odd = ["0443", "+443", "4_43", "٤٤٣", "0", "65536"]

    assert "urn:x:a" == outcome({API: "urn:x:a"}, library, f"{API}:443/")
    assert "urn:x:a" == outcome({f"{API}:443": "urn:x:a"}, library, f"{API}/")
    assert [None, None] == [outcome({API: "urn:x:a"}, library, f"{API}:{p}/") for p in (80, 8443)]
    for port in odd:
        with pytest.raises(ConfigurationError):
            ResourceMap({f"{API}:{port}/": "urn:x:a"})


def test_cve_2024_45341_ipv6_spellings_and_zones(caller: Caller, net: Net) -> None:
    """
    U6, Go CVE-2024-45341, curl CVE-2022-27775, Cloudflare agents 1325: an IPv6 address is one
    destination in every spelling, a zone makes it none, and an embedded IPv4 address is another.
    """
    auth = net.auth({"http://[::1]": ORDERS}, unmapped="anonymous")
    here, embedded = "http://[::1]", "http://[::ffff:127.0.0.1]"
    net.chain(f"{here}/jump", f"{embedded}/landing")

    with net.client(caller, auth=auth) as client:
        client.get("http://[0:0:0:0:0:0:0:1]/jump")

    assert [1] == [len(values) for values in net.shown(f"{here}/jump")]
    assert [[]] == net.shown(f"{embedded}/landing")
    assert outcome({here: ORDERS}, caller.library, "http://[::1%25eth0]/") in (None, "refused")
    with pytest.raises(ConfigurationError):
        ResourceMap({"https://[fe80::1%25eth0]/": "urn:x:a"})


def test_numeric_ipv4_is_no_loopback_address(caller: Caller, net: Net) -> None:
    """
    U7: `127.1`, `2130706433` and `0x7f.0.0.1` are host names to httpx, and to us: not loopback,
    not the address that resolvers make of them.
    """
    numbers = ("127.1", "2130706433", "0x7f.0.0.1")
    for number in numbers:
        net.chain(f"http://127.0.0.1/{number}", f"http://{number}/landing")

    with net.client(caller, auth=net.auth({"http://127.0.0.1": ORDERS})) as client:
        for number in numbers:
            client.get(f"http://127.0.0.1/{number}")

    assert [[[]]] * 3 == [net.shown(f"http://{number}/landing") for number in numbers]
    for number in numbers:
        with pytest.raises(ConfigurationError):
            ResourceMap({f"http://{number}/": "urn:x:a"})


def test_cve_2025_27152_an_absolute_url_over_base_url(caller: Caller, net: Net) -> None:
    """
    U8, axios CVE-2025-27152 and 6816: an absolute URL replaces `base_url`, and finds no mapping.
    """
    auth = net.auth({f"{API}/v1": ORDERS})
    for url in (API, FILES):
        net.at(url)

    with net.client(caller, auth=auth, base_url=f"{API}/v1") as client:
        client.get("x")
        client.get("//files.example.net/x")
        with pytest.raises(UnmappedDestinationError):
            client.get(f"{FILES}/x")

    assert 0 == net.at(FILES).connections


def test_dots_lead_out_of_base_url(caller: Caller, net: Net) -> None:
    """
    U9: `../admin` leaves the prefix of `base_url`, and with it the resource.
    """
    auth = net.auth({f"{API}/v1": ORDERS})

    with net.client(caller, auth=auth, base_url=f"{API}/v1/") as client:
        for path in ("../admin", "../v1x", "..", "../../admin"):
            with pytest.raises(UnmappedDestinationError):
                client.get(path)

    assert 0 == net.at(API).connections


def test_fragments_and_queries_with_an_at_sign(caller: Caller, net: Net) -> None:
    """
    U10: `?@` and `#@` do not move the host, and a fragment is not sent.
    """
    auth = net.auth({API: ORDERS}, unmapped="anonymous")
    for url in (API, FILES):
        net.at(url)

    with net.client(caller, auth=auth) as client:
        client.get(f"{API}?@files.example.net/x")
        client.get(f"{API}#@files.example.net/x")
        client.get(f"{FILES}?@api.example.com/x")
        client.get(f"{FILES}#@api.example.com/x")

    assert ["/?@files.example.net/x", "/"] == [seen.target for seen in net.at(API).seen]
    assert ["/?@api.example.com/x", "/"] == [seen.target for seen in net.at(FILES).seen]


@LIBRARIES
@pytest.mark.parametrize("character", [" ", "\t", "\n", "\r", "\x00", "\u00a0", "\u3000"])
def test_white_space_and_controls_in_a_url(library: Any, character: str) -> None:
    """
    U11: parsers differ in what they strip. Such a destination is refused, and such a URL matches
    nothing.
    """
    host = f"https://api.exam{character}ple.com/"
    around = f"{character}https://api.example.com/"

    assert outcome({API: "urn:x:a"}, library, host) in (None, "refused")
    assert outcome({API: "urn:x:a"}, library, around) in (None, "refused")
    for destination in (host, around, f"{API}/{character}", f"{API}{character}/"):
        with pytest.raises(ConfigurationError):
            ResourceMap({destination: "urn:x:a"})


# M. The rules of the mapping.

TENANTS = {"https://*.tenants.example.com/": "https://tenants.example.com/"}


@given(st.text("abz09-_.", min_size=1, max_size=12), st.sampled_from(["", "evil", "x."]))
@example("a", "evil")
@example("a.b", "")
def test_cve_2026_18206_a_wildcard_without_its_dot(label: str, glued: str) -> None:
    """
    M1, Keycloak CVE-2026-18206, curl CVE-2013-1944, llrt 1467, passkey-rs 92, tinyproxy 627: `*.`
    stands for exactly one label and the dot behind it.
    """
    url = f"https://{label}.{glued}tenants.example.com/"
    expected = glued == "" and re.fullmatch(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?", label)

    found = outcome(TENANTS, httpx, url)

    assert bool(expected) == (found == "https://tenants.example.com/")


@LIBRARIES
def test_keycloak_51278_the_parent_of_a_wildcard(library: Any) -> None:
    """
    M2: the parent domain is not covered, whatever stands in front or behind.
    """
    urls = ["https://tenants.example.com/", "https://.tenants.example.com/", "https://example.com/"]

    assert {None, "refused"} >= {outcome(TENANTS, library, url) for url in urls}


@pytest.mark.parametrize("host", ["*", "*.com", "*.com.", "*.127.0.0.1"])
def test_agent_os_1484_a_rule_that_is_too_broad(host: str) -> None:
    """
    M3: a wildcard over what belongs to everybody is refused, as far as that can be seen without
    a list of public suffixes.
    """
    with pytest.raises(ConfigurationError):
        ResourceMap({f"https://{host}/": "https://api.example.com/"})


def test_mcp_check_resource_allowed_prefix_of_a_word(caller: Caller, net: Net) -> None:
    """
    M4: a prefix ends where a segment ends, and letter case counts.
    """
    inside, outside = ["/api", "/api/", "/api/x"], ["/api123", "/apix/y", "/ap", "/", "/API/x"]
    auth = net.auth({f"{API}/api": ORDERS})
    net.at(API)

    with net.client(caller, auth=auth) as client:
        for path in inside:
            client.get(f"{API}{path}")
        for path in outside:
            with pytest.raises((UnmappedDestinationError, EgressBlockedError)):
                client.get(f"{API}{path}")

    assert inside == [seen.path for seen in net.at(API).seen if seen.header("authorization")]
    assert len(inside) == len(net.at(API).seen)


AMBIGUOUS = [
    "/orders/%2e%2e/billing",
    "/orders/..%2fbilling",
    "/orders/..%5cbilling",
    "/orders/%252e%252e/billing",
    "/orders/..;/billing",
    "/orders//billing",
    "//billing",
    "/orders\\..\\billing",
    "/orders/%00",
    "/orders/%c0%ae%c0%ae/billing",
    "/%62illing",
    "/BILLING",
]


def test_cve_2021_31920_paths_with_two_readings(caller: Caller, net: Net) -> None:
    """
    M5, Istio CVE-2021-31920, Envoy CVE-2019-9901 and CVE-2021-29492: what a gateway may read as
    another path is stopped in a request, and goes without the token in a redirect.
    """
    for number, path in enumerate(AMBIGUOUS):
        net.chain(f"{GATEWAY}/orders/{number}", f"{GATEWAY}{path}")

    with net.client(caller, auth=net.auth(BY_PATH)) as client:
        for path in AMBIGUOUS:
            with pytest.raises(EgressBlockedError):
                client.get(f"{GATEWAY}{path}")
        assert 0 == net.at(GATEWAY).connections
        for number in range(len(AMBIGUOUS)):
            client.get(f"{GATEWAY}/orders/{number}")

    starts, landings = net.at(GATEWAY).seen[::2], net.at(GATEWAY).seen[1::2]
    assert [1] * len(AMBIGUOUS) == [len(seen.header("authorization")) for seen in starts]
    assert [0] * len(AMBIGUOUS) == [len(seen.header("authorization")) for seen in landings]


def test_the_order_of_rules_decides_nothing() -> None:
    """
    M6: the longest prefix wins in any order, and two rules of the same reach are an error.
    """
    rules = {f"{API}/a": "urn:x:a", f"{API}/a/b": "urn:x:b", API: "urn:x:all"}
    backwards = dict(reversed(rules.items()))

    for path, expected in (("/a/b/c", "urn:x:b"), ("/a/bc", "urn:x:a"), ("/c", "urn:x:all")):
        assert expected == identifier(rules, API + path) == identifier(backwards, API + path)
    for twin in (f"{API}/a/", f"{API}:443/a", "HTTPS://API.example.com/a"):
        with pytest.raises(ConfigurationError, match="twice"):
            ResourceMap(rules | {twin: "urn:x:c"})


TARGETS = [b"/billing/x", b"/orders/../billing", b"https://files.example.net/", b"*", b""]


@BOTH
def test_the_target_extension_replaces_the_path(caller: Caller, net: Net, http2: bool) -> None:
    """
    M7: what goes on the wire decides, not the URL: by the extension `target`, and by a `:path`
    that stands among the headers of HTTP/2.
    """
    place, base, options = net.spoken(http2)
    auth = net.auth({f"{base}/orders": ORDERS, f"{base}/billing": BILLING})

    with net.client(caller, auth=auth, **options) as client:
        for target in TARGETS:
            with pytest.raises(EgressBlockedError):
                client.get(f"{base}/orders/x", extensions={"target": target})
        with pytest.raises((EgressBlockedError, caller.library.LocalProtocolError)):
            client.get(f"{base}/orders/x", headers={":path": "/billing/x"})

    assert [] == place.seen


def test_a_whole_url_as_the_target(caller: Caller, net: Net) -> None:
    """
    M7: only who speaks to a proxy writes a whole URL as the target. Set by hand it says where the
    request pretends to go, and httpx takes it along to wherever a redirect leads.
    """
    net.chain(f"{GATEWAY}/orders/jump", f"{FILES}/landing")
    auth = net.auth(
        {
            f"{GATEWAY}/orders": Resource(ORDERS, allow_http_proxy=True),
            f"{GATEWAY}/billing": Resource(BILLING, allow_http_proxy=True),
        }
    )

    with net.client(caller, auth=auth) as client:
        for url in (f"{GATEWAY}/orders/jump", f"{GATEWAY}/billing/x"):
            with pytest.raises(EgressBlockedError, match="by hand"):
                client.get(url, extensions={"target": f"{GATEWAY}/orders/jump".encode()})

    assert [] == [*net.at(GATEWAY).seen, *net.at(FILES).seen]


@BOTH
def test_cve_2026_6276_another_host_than_the_urls(caller: Caller, net: Net, http2: bool) -> None:
    """
    M8, curl: a `Host` or an `:authority` that is not the URL's is stopped, wherever it comes from;
    so is a hook that changes the URL after the token was put on.
    """
    place, base, options = net.spoken(http2)
    auth = net.auth({base: ORDERS})

    other = net.at(PLAIN)
    away = {"host": "127.0.0.1", "port": other.port} if http2 else {"host": "plain.example.com"}

    def elsewhere(request: Any) -> None:
        request.url = request.url.copy_with(scheme="http", **away)

    def renamed(request: Any) -> None:
        request.headers["host"] = "files.example.net"

    with net.client(caller, auth=auth, **options) as client:
        for headers in (
            {"Host": "files.example.net"},
            [("Host", urlsplit(base).netloc), ("host", "files.example.net")],
        ):
            with pytest.raises(EgressBlockedError):
                client.get(f"{base}/x", headers=headers)
        with pytest.raises((EgressBlockedError, caller.library.LocalProtocolError)):
            client.get(f"{base}/x", headers={":authority": "files.example.net"})
    for change in (elsewhere, renamed):
        event_hooks = hooks(caller, change)
        with (
            net.client(caller, auth=auth, event_hooks=event_hooks, **options) as client,
            pytest.raises(EgressBlockedError),
        ):
            client.get(f"{base}/x")

    # A client of HTTP/2 begins with a preface, whoever listens.
    assert [] == [*place.seen, *(seen for seen in other.seen if seen.method != "PRI")]


def test_the_tls_server_name_is_overridden(caller: Caller, net: Net) -> None:
    """
    M9: `sni_hostname` can bring a connection to another service behind the same address; what is
    not the URL's host is stopped, and on a redirect, where httpx keeps it, goes without the token.
    """
    net.chain(f"{API}/jump", f"{GATEWAY}/landing")
    auth = net.auth({API: ORDERS, GATEWAY: ORDERS})

    with net.client(caller, auth=auth) as client:
        with pytest.raises(EgressBlockedError, match="server name"):
            client.get(f"{API}/x", extensions={"sni_hostname": "gw.example.com"})
        client.get(f"{API}/jump", extensions={"sni_hostname": "api.example.com"})

    assert ["/jump"] == [seen.path for seen in net.at(API).seen]
    assert [[]] == net.shown(f"{GATEWAY}/landing")


# C. The wrong token from the cache.


def test_cve_2025_26620_the_token_of_another_flight(asker: Caller, net: Net) -> None:
    """
    C1, Duende CVE-2025-26620 and foss 360: of many callers at once each gets the token it has
    asked for, by one token request for each resource and scope.
    """
    net.server.delay = timedelta(milliseconds=50)
    keys = [Resource(f"urn:x:{n}", scopes=scope) for n, scope in product(range(10), ("r", "w"))]
    wanted = keys * (3 if asker.blocking else 10)

    tokens = asker.token_together(net.auth({}).cache, wanted)

    assert [(r.identifier, r.scopes) for r in wanted] == [(t.resource, t.scopes) for t in tokens]
    assert [t.resource for t in tokens] == [resource_of(t.reveal()) for t in tokens]
    assert 20 == len(net.server.token_requests) == len(net.server.issued)


def test_msal_dotnet_5743_a_member_that_is_missing(asker: Caller, net: Net) -> None:
    """
    C2: nor is a token mixed up when the answers leave out all that they may leave out.
    """
    net.server.overrides = {"expires_in": ABSENT, "scope": ABSENT}
    wanted = [f"urn:x:{n % 10}" for n in range(40)]

    tokens = asker.token_together(net.auth({}).cache, wanted)

    assert wanted == [resource_of(token.reveal()) for token in tokens]
    assert 10 == len(net.server.token_requests)


def test_cve_2024_51987_state_of_one_request_in_another(caller: Caller, net: Net) -> None:
    """
    C3, Duende: what a request asks for by a view stays with that request, also when two views
    share one client at the same time.
    """
    auth = net.auth({API: ORDERS})
    views = [auth.scoped("read"), auth.scoped("write")]
    net.at(API)

    with net.client(caller, auth=auth) as client:
        get = client.real.get
        all_at_once(caller, lambda n: get(f"{API}/{n % 2}", auth=views[n % 2]), range(24))

    granted = {"/0": "read", "/1": "write"}
    for path, scope in granted.items():
        (bearer,) = {value for (value,) in net.shown(f"{API}{path}")}
        claims = jwt.decode(bearer.removeprefix("Bearer "), options={"verify_signature": False})
        assert scope == claims["scope"]
    assert 2 == len(net.server.issued)


def user_of(net: Net, name: str) -> SubjectToken:
    token = net.server.user_token(name, audience="urn:example:me")
    return SubjectToken(token, issuer=net.server.issuer)


def test_cve_2024_51987_the_token_of_another_user(caller: Caller, net: Net) -> None:
    """
    C3, Duende: many requests on behalf of many users go through one client at the same time, each
    with the token of its own user.
    """
    users = [user_of(net, f"user-{number}") for number in range(5)]
    auth = net.auth({API: Resource(ORDERS, subject="required")})
    views = [auth.on_behalf_of(user) for user in users]
    net.at(API)

    with net.client(caller, auth=auth) as client:
        get = client.real.get
        all_at_once(caller, lambda n: get(f"{API}/user-{n % 5}", auth=views[n % 5]), range(60))

    for seen in net.at(API).seen:
        (bearer,) = seen.header("authorization")
        claims = jwt.decode(bearer.removeprefix("Bearer "), options={"verify_signature": False})
        assert seen.path == f"/{claims['sub']}"
    assert 5 == len(net.server.token_requests)


def test_msal_dotnet_2798_an_assertion_for_another_audience(asker: Caller) -> None:
    """
    C4: one key at two servers, asked for at the same time, one of which fails at first: each
    assertion is for the server that it went to, and no two requests have the same.
    """
    key = PrivateKeyJwt("worker", SIGNING_KEY)
    with Issuer() as one, Issuer() as two:
        two.answer("/token", 503, times=2)
        caches = [TokenCache(AuthorizationServer(issuer=s.issuer), key) for s in (one, two)]
        all_at_once(
            asker,
            lambda n: (caches[n % 2].get if asker.blocking else caches[n % 2].aget)(f"urn:x:{n}"),
            range(8),
        )
        sent = [
            (server.issuer, claims_of_the_assertion(seen))
            for server in (one, two)
            for seen in server.seen
            if seen.method == "POST"
        ]

    assert 8 + 2 == len(sent)
    assert [issuer for issuer, _ in sent] == [claims["aud"] for _, claims in sent]
    assert 8 + 2 == len({claims["jti"] for _, claims in sent})


SIGNING_KEY = ec.generate_private_key(ec.SECP256R1())


def claims_of_the_assertion(seen: Seen) -> dict[str, Any]:
    (assertion,) = parse_qs(seen.body.decode())["client_assertion"]
    claims: dict[str, Any] = jwt.decode(assertion, options={"verify_signature": False})
    return claims


def test_azure_sdk_for_cpp_4129_a_wrong_secret_gets_a_token(asker: Caller, net: Net) -> None:
    """
    C5, azure-sdk-for-cpp 4129, MSAL Java 787, ADAL 460: the credential is part of the key, also
    in a store that several caches share.
    """
    store = MemoryTokenStore()
    server = AuthorizationServer(issuer=net.server.issuer)
    right, wrong, rotated = (ClientSecretBasic(CLIENT_ID, s) for s in (CLIENT_SECRET, "x", "new"))
    asker.token(TokenCache(server, right, store=store), ORDERS)

    with pytest.raises(OAuthError, match="invalid_client"):
        asker.token(TokenCache(server, wrong, store=store), ORDERS)
    net.server.clients[CLIENT_ID] = "new"
    asker.token(TokenCache(server, rotated, store=store), ORDERS)

    assert 2 == len(net.server.issued)


def test_kiota_644_the_first_hosts_scope_sticks(caller: Caller, net: Net) -> None:
    """
    C6, Kiota 644, kiota-go 163: whatever was asked for first, the next destination's token is
    asked for by its own resource and scopes.
    """
    first, second = Resource(ORDERS, scopes="read"), Resource(BILLING, scopes="pay")
    for url in (API, GATEWAY):
        net.at(url)

    with net.client(caller, auth=net.auth({API: first, GATEWAY: second})) as client:
        client.get(f"{API}/x")
        client.get(f"{GATEWAY}/x")

    asked = [(r.resources, r.scopes) for r in net.server.token_requests]
    assert [((ORDERS,), ("read",)), ((BILLING,), ("pay",))] == asked


def test_azure_sdk_for_rust_scopes_ignored_on_a_hit(asker: Caller, net: Net) -> None:
    """
    C7, Azure's Rust policy; C10, Spring Security's key: another set of scopes is another token,
    by a view as well as by an argument.
    """
    auth = net.auth({API: ORDERS})
    views = [auth.scoped("read"), auth.scoped("write"), auth.scoped("read")]

    by_view = [asker.token_for(view, API) for view in views]
    by_argument = [asker.token(auth.cache, ORDERS, scope) for scope in ("read", "write", "admin")]

    assert by_view[0] == by_view[2] == by_argument[0]
    assert by_view[1] == by_argument[1]
    assert [("read",), ("write",), ("admin",)] == [r.scopes for r in net.server.token_requests]


PART = st.text(st.sampled_from("aA-:_.\0 ;é/"), max_size=4)


@given(st.lists(PART, max_size=4), st.lists(PART, max_size=4))
@example(["a-b", "c"], ["a", "b-c"])
@example(["name::s_x"], ["name", "s_x"])
@example(["A"], ["a"])
def test_msal_joined_and_lowered_keys(left: list[str], right: list[str]) -> None:
    """
    C8, MSAL's and Duende's keys: no separator inside a part and no letter case makes two keys one.
    """
    assert (left == right) == (TokenKey.of(left) == TokenKey.of(right))


def test_msal_a_broader_token_for_a_narrower_request(asker: Caller, net: Net) -> None:
    """
    C9: with a token for more in the cache, one for less is still asked for.
    """
    cache = net.auth({API: ORDERS}).cache

    broad = asker.token(cache, ORDERS, "read write")
    narrow = asker.token(cache, ORDERS, "read")

    assert frozenset({"read"}) == narrow.scopes
    assert broad != narrow
    assert 2 == len(net.server.token_requests)


@pytest.mark.skipif(sys.platform != "linux", reason="the wheel has a server for Linux alone")
def test_an_entry_that_somebody_else_has_written(asker: Caller, net: Net) -> None:
    """
    C11: whoever can write to a shared store moves an entry to another key, cuts it, puts back an
    old one or writes one of their own: it is not opened, it is said, and the token is asked for.
    """
    with ValkeyServer() as valkey, closing(valkey.client()) as attacker:

        def shared() -> ResourceTokenAuth:
            store = RedisTokenStore(valkey.url, keys=[Fernet.generate_key()])
            return net.auth({API: ORDERS, GATEWAY: BILLING}, store=store)

        def written_by(auth: ResourceTokenAuth, url: str) -> tuple[Any, Any]:
            before = {*attacker.keys("*")}
            asker.token_for(auth, url)
            (name,) = {*attacker.keys("*")} - before
            return name, attacker.get(name)

        auth, stranger = shared(), shared()
        (orders, mine), (billing, other) = (written_by(auth, url) for url in (API, GATEWAY))
        _, foreign = written_by(stranger, API)
        for planted in (other, mine[:-9], mine[:40], foreign, b"", b"{}", mine.replace(b"g", b"h")):
            attacker.set(orders, planted)
            reader = net.auth({API: ORDERS}, store=auth.cache._store)
            token = asker.token_for(reader, API)
            assert net.server.issued[-1] == token.reveal()
            assert ORDERS == resource_of(token.reveal())
            assert "store_failed" in net.names()[-3:]
        assert other == attacker.get(billing)


def test_scopes_in_another_order_are_the_same(asker: Caller, net: Net) -> None:
    """
    C12: order and repetition make no difference, letter case does.
    """
    cache = net.auth({API: ORDERS}).cache

    same = [asker.token(cache, ORDERS, s) for s in (["a", "b"], ["b", "a"], "b a b", ("a", "b"))]
    other = asker.token(cache, ORDERS, "A b")

    assert 1 == len(set(same))
    assert other not in same
    assert 2 == len(net.server.token_requests)


def test_a_token_is_for_one_resource(asker: Caller, net: Net) -> None:
    """
    C13: RFC 8707 lets a client ask for several resources at once. Here each token request has
    exactly one, so that no token is good at two.
    """
    cache = net.auth({API: ORDERS, GATEWAY: BILLING}).cache

    for resource in (ORDERS, BILLING):
        asker.token(cache, resource)

    assert [(ORDERS,), (BILLING,)] == [r.resources for r in net.server.token_requests]
    for several in ([ORDERS, BILLING], (ORDERS, BILLING)):
        with pytest.raises(ConfigurationError):
            Resource(several)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        Resource(ORDERS, extra={"resource": BILLING})


# T. Refreshing, crowds and time.


def test_spring_security_11461_thundering_herd(asker: Caller, net: Net, clock: Clock) -> None:
    """
    T1, Spring Security 11461, 14123 and 15145: a crowd without a token makes one token request,
    and a crowd whose token has expired makes one more.
    """
    net.server.delay = timedelta(milliseconds=50)
    cache = net.auth({API: ORDERS}, clock=clock).cache
    crowd = [ORDERS] * (50 if asker.blocking else 300)

    cold = asker.token_together(cache, crowd)
    clock.advance(3600)
    expired = asker.token_together(cache, crowd)

    assert (1, 1) == (len(set(cold)), len(set(expired)))
    assert 2 == len(net.server.token_requests)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_leader_is_cancelled(net: Net, backend: str) -> None:
    """
    T2: whoever asks on behalf of all may be cancelled, and everybody else still gets the token.
    """
    net.server.delay = timedelta(milliseconds=100)
    cache = net.auth({API: ORDERS}).cache
    tokens: list[Any] = []

    async def wait() -> None:
        tokens.append(await cache.aget(ORDERS))

    async def scenario() -> None:
        async with anyio.create_task_group() as group, anyio.create_task_group() as leading:
            leading.start_soon(cache.aget, ORDERS)
            # The metadata has been read, so the token request is on its way.
            while not net.server.requests:
                await anyio.lowlevel.checkpoint()
            for _ in range(5):
                group.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            leading.cancel_scope.cancel()

    anyio.run(scenario, backend=backend)

    assert [ORDERS] * 5 == [token.resource for token in tokens]
    assert 1 == len(set(tokens))


def test_the_leader_fails(asker: Caller, net: Net, clock: Clock) -> None:
    """
    T3: all who wait hear of a refusal, each with an error of its own, and the next call after a
    while asks again.
    """
    net.server.delay = timedelta(milliseconds=50)
    net.server.fail_next(1, status=400, error="invalid_target")
    cache = net.auth({API: ORDERS}, clock=clock).cache

    errors = asker.token_together(cache, [ORDERS] * 16)
    clock.advance(60)
    token = asker.token(cache, ORDERS)

    assert {"invalid_target"} == {error.error for error in errors}
    assert 16 == len({id(error) for error in errors})
    assert ORDERS == token.resource
    assert 2 == len(net.server.token_requests)


def test_hqbase_41_two_processes_use_one_refresh_token(asker: Caller, tmp_path: Path) -> None:
    """
    T4, HQBase 41, derive 209, golang/oauth2 672: two that share a refresh token ask at the same
    time, and each one that the server issues is presented once.
    """
    used: list[str] = []

    def rotate(seen: Seen) -> Answer:
        used.extend(re.findall("refresh_token=(rt-[0-9]+)", seen.body.decode()))
        new = f"rt-{len(used)}"
        token = {"access_token": f"at-{new}", "token_type": "Bearer", "expires_in": 3600}
        return Answer.from_json(200, token | {"refresh_token": new})

    with Sink() as place:
        place.behave(rotate)
        server = AuthorizationServer(token_endpoint=f"{place.url}/token")
        client_auth, key = ClientSecretBasic(CLIENT_ID, CLIENT_SECRET), new_key()
        caches = [
            TokenCache(
                server,
                client_auth,
                grant=SharedRefreshToken("rt-0", FileTokenStore(tmp_path / "state", keys=key)),
            )
            for _ in range(2)
        ]
        asker.together(
            [
                partial(cache.get if asker.blocking else cache.aget, resource)
                for cache in caches
                for resource in (ORDERS, BILLING)
            ]
        )

    assert [f"rt-{number}" for number in range(4)] == used


def test_hqbase_41_one_refresh_token_used_twice(asker: Caller) -> None:
    """
    T4, HQBase 41, derive 209, golang/oauth2 672: however many ask for however many resources at
    once, each refresh token is presented once, and not before it was stored.
    """
    presented, stored = list[str](), ["refresh-0"]

    def rotate(seen: Seen) -> Answer:
        (refresh_token,) = parse_qs(seen.body.decode())["refresh_token"]
        presented.append(refresh_token)
        # As a server that notices reuse: only the newest counts.
        if refresh_token != f"refresh-{len(presented) - 1}" or refresh_token != stored[-1]:
            return Answer.from_json(400, {"error": "invalid_grant"})
        members = {"access_token": f"access-{len(presented)}", "token_type": "Bearer"}
        more = {"expires_in": 3600, "refresh_token": f"refresh-{len(presented)}"}
        return Answer.from_json(200, members | more)

    with Sink() as place:
        place.behave(rotate)
        server = AuthorizationServer(token_endpoint=f"{place.url}/token")
        grant = RefreshToken(stored[0], on_rotation=stored.append)
        cache = TokenCache(server, ClientSecretBasic(CLIENT_ID, CLIENT_SECRET), grant=grant)
        wanted = [f"urn:x:{number % 8}" for number in range(32)]
        tokens = all_at_once(asker, cache.get if asker.blocking else cache.aget, wanted)

    assert [f"refresh-{number}" for number in range(8)] == presented
    assert 8 == len({token.reveal() for token in tokens})


def test_get_engram_389_an_answer_that_was_lost(asker: Caller) -> None:
    """
    T5: a refresh whose answer is lost is not sent again, as the server may have replaced the
    refresh token; neither by itself nor by the next caller.
    """

    def hang_up(_seen: Seen) -> Answer:
        raise ConnectionError

    with Sink() as place:
        place.behave(hang_up)
        server = AuthorizationServer(token_endpoint=f"{place.url}/token")
        client_auth = ClientSecretBasic(CLIENT_ID, CLIENT_SECRET)
        cache = TokenCache(server, client_auth, grant=RefreshToken("a-refresh-token"))
        for _ in range(2):
            with pytest.raises(TokenRequestError):
                asker.token(cache, ORDERS)

        assert 1 == len(place.seen)


def test_ydb_rs_638_a_failure_takes_the_place_of_a_token(
    asker: Caller, net: Net, clock: Clock
) -> None:
    """
    T6, ydb-rs-sdk 638, ADAL 460: a refresh that fails costs nothing while the token is good, and
    the next one that succeeds puts all right.
    """
    cache = net.auth({API: ORDERS}, clock=clock).cache
    first = asker.token(cache, ORDERS)
    net.server.fail_next(1, status=400, error="invalid_grant")

    clock.advance(3600 - 200)
    served = [asker.token(cache, ORDERS)]
    let_refreshes_end()
    served.append(asker.token(cache, ORDERS))
    clock.advance(60)
    served.append(asker.token(cache, ORDERS))
    let_refreshes_end()

    assert [first] * 3 == served
    assert asker.token(cache, ORDERS) not in served
    assert [400, 200] == [r.status for r in net.server.token_requests[1:]]


def test_azure_sdk_for_go_a_storm_of_401s(caller: Caller, net: Net) -> None:
    """
    T7, Azure's policies, AWS's `InvalidateCredentials`: many requests whose token is refused at
    the same time make one renewal, and no late refusal of the old token takes the new one away.
    """
    auth = net.auth({API: ORDERS})
    old = caller.token_for(auth, API).reveal()
    together = threading.Barrier(12)

    def refuse_the_old(seen: Seen) -> Answer | None:
        if not seen.contains(old):
            return None
        together.wait(10)
        return Answer(401)

    net.at(API).behave(refuse_the_old)

    with net.client(caller, auth=auth) as client:
        get = client.real.get
        answers = all_at_once(caller, lambda n: get(f"{API}/{n}"), range(12))

    assert [200] * 12 == [answer.status_code for answer in answers]
    assert 2 == len(net.server.issued)
    assert 24 == len(net.at(API).seen)


def test_solace_395_skew_applied_twice(asker: Caller, net: Net, clock: Clock) -> None:
    """
    T8, solace-broker-mcp 395: a token is used until its hard margin, `min(30 s, 10 %)` before its
    end, and no longer, whatever its lifetime.
    """
    auth = net.auth({API: ORDERS}, clock=clock)
    # No refresh ahead, so that the margin itself can be seen.
    auth.close()

    for lifetime in (5, 31, 60, 61, 300, 3600):
        net.server.lifetime = timedelta(seconds=lifetime)
        auth.cache.forget()
        first = asker.token(auth.cache, ORDERS)
        clock.advance(lifetime - min(30, lifetime / 10) - 0.25)
        assert first == asker.token(auth.cache, ORDERS)
        clock.advance(0.5)
        assert first != asker.token(auth.cache, ORDERS)


def test_gotransip_29_a_leeway_longer_than_the_life(asker: Caller, net: Net, clock: Clock) -> None:
    """
    T9: a token of 30 s is kept and used, and not asked for on every request.
    """
    net.server.lifetime = timedelta(seconds=30)
    cache = net.auth({API: ORDERS}, clock=clock).cache

    tokens = []
    for _ in range(20):
        tokens.append(asker.token(cache, ORDERS))
        clock.advance(1)

    assert 1 == len(set(tokens))
    assert 1 == len(net.server.token_requests)


def test_duende_an_expires_in_that_is_none(asker: Caller, net: Net, clock: Clock) -> None:
    """
    T10, Duende, Spring Security and Nango read an absent or odd `expires_in` as forever, as one
    second, as years: here it is five minutes, capped at a day, or refused.
    """
    auth = net.auth({API: ORDERS}, clock=clock)
    auth.close()
    # The token's own `exp` would be the earlier one.
    net.server.lifetime = timedelta(days=30)
    read: dict[Any, float] = {ABSENT: 300, None: 300, "3600": 3600, 3600.5: 3600.5, 1e30: 86400}

    for expires_in, seconds in read.items():
        net.server.overrides = {"expires_in": expires_in}
        auth.cache.forget()
        first = asker.token(auth.cache, ORDERS)
        clock.advance(seconds - 31)
        assert first == asker.token(auth.cache, ORDERS)
        clock.advance(2)
        assert first != asker.token(auth.cache, ORDERS)
    auth.cache.forget()
    for expires_in in (0, -1, True, [], {}, "soon", float("nan"), float("inf")):
        net.server.overrides = {"expires_in": expires_in}
        with pytest.raises(TokenRequestError):
            asker.token(auth.cache, ORDERS)


def test_worldmonitor_5938_the_wall_clock_jumps(asker: Caller, net: Net, clock: Clock) -> None:
    """
    T11: a wall clock that is set back makes no token younger. One that is ahead all at once, as
    after a machine was frozen and its other clock stood still, costs a token request, and no token
    is shown that may have expired.
    """
    jumps = [0.0, -3600.0, 600.0, 3599.0, -86400.0]
    now = {"jump": 0.0}
    start = 1.7e9
    net.server.overrides = {"access_token": "opaque-token", "expires_in": 3600}
    cache = net.auth({API: ORDERS}, clock=clock, wall_clock=lambda: start + now["jump"]).cache

    asked = []
    for jump in jumps:
        now["jump"] = jump
        asker.token(cache, ORDERS)
        asked.append(len(net.server.token_requests))

    assert [1, 1, 1, 2, 2] == asked


def test_aws_expired_on_arrival(asker: Caller, net: Net) -> None:
    """
    T12: a token that is already expired is one clear error, not a loop of token requests.
    """
    expired = jwt.encode({"aud": ORDERS, "exp": 1000}, "k" * 32, "HS256")
    net.server.overrides = {"access_token": expired}

    with pytest.raises(TokenRequestError, match="expired"):
        asker.token(net.auth({API: ORDERS}).cache, ORDERS)

    assert 1 == len(net.server.token_requests)


def test_envoy_44674_a_stale_token_in_silence(caller: Caller, net: Net, clock: Clock) -> None:
    """
    T13: with the authorization server down past the end of a token, requests raise; the expired
    token is not presented.
    """
    auth = net.auth({API: ORDERS}, clock=clock)
    net.at(API)

    with net.client(caller, auth=auth) as client:
        client.get(f"{API}/x")
        net.server.stop()
        clock.advance(3600)
        with pytest.raises(TokenRequestError):
            client.get(f"{API}/x")

    assert 1 == len(net.at(API).seen)


def test_envoy_42009_an_empty_200(asker: Caller, net: Net) -> None:
    """
    T14: an answer that is empty, HTML, cut off or oversized is a clear error and no token, and the
    next answer that is good is taken.
    """
    cache = net.auth({API: ORDERS}).cache
    bodies = [b"", b"<html>Sign in</html>", b'{"access_token": "ab', b"{}", b" " * 70_000]

    for body in bodies:
        net.server.answer_next(200, body)
        with pytest.raises(TokenRequestError):
            asker.token(cache, ORDERS)

    assert ORDERS == asker.token(cache, ORDERS).resource


def test_msal_retry_after_is_bounded(asker: Caller, net: Net, clock: Clock) -> None:
    """
    T15: whatever a server says by `Retry-After`, no token at hand is withheld, and the client is
    not stopped for ever.
    """
    cache = net.auth({API: ORDERS, GATEWAY: BILLING}, clock=clock).cache
    # What is no time is not obeyed: then there are three tries.
    said = {
        "1000000000": 1,
        "Fri, 31 Dec 9999 23:59:59 GMT": 1,
        "soon": 3,
        "-1": 3,
        "nan": 3,
        "": 3,
    }
    for status, (retry_after, tries) in zip([429, 503] * 3, said.items(), strict=True):
        cache.forget()
        asker.token(cache, BILLING)
        net.server.fail_next(tries, status=status, headers={"Retry-After": retry_after})
        with pytest.raises(TokenRequestError):
            asker.token(cache, ORDERS)

        assert BILLING == asker.token(cache, BILLING).resource
        clock.advance(1.1 * 3600)
        assert ORDERS == asker.token(cache, ORDERS).resource


def test_a_body_that_cannot_be_sent_twice(caller: Caller, net: Net) -> None:
    """
    T16: after a 401 a body from a generator is gone; the 401 is the answer, and no error of the
    client about a stream.
    """

    def chunks() -> Iterator[bytes]:
        yield b"once"

    async def achunks() -> Any:
        yield b"once"

    auth = net.auth({API: ORDERS})
    net.at(API).answer("/x", 401)
    caller.token_for(auth, API)

    with net.client(caller, auth=auth) as client:
        body = chunks() if caller.blocking else achunks()
        response = client.request("PUT", f"{API}/x", content=body)

    assert 401 == response.status_code
    assert [b"once"] == [seen.body for seen in net.at(API).seen]


def test_mcp_a_lock_held_across_the_request(caller: Caller, net: Net) -> None:
    """
    T17, the MCP SDK for Python: requests with one token are under way at the same time, which the
    server sees by having all of them before it answers any.
    """
    auth = net.auth({API: ORDERS})
    together = threading.Barrier(20)

    def wait_for_all(_seen: Seen) -> Answer:
        together.wait(10)
        return Answer(204)

    net.at(API).behave(wait_for_all)

    with net.client(caller, auth=auth) as client:
        get = client.real.get
        answers = all_at_once(caller, lambda n: get(f"{API}/{n}"), range(20))

    assert [204] * 20 == [answer.status_code for answer in answers]
    assert 1 == len(net.server.issued)


def test_two_event_loops_and_a_thread(net: Net) -> None:
    """
    T18: one auth object serves two loops of asyncio, one of trio and a thread at the same time.
    """
    net.server.delay = timedelta(milliseconds=100)
    cache = net.auth({API: ORDERS}).cache

    async def ask() -> Any:
        return await cache.aget(ORDERS)

    with ThreadPoolExecutor(4) as pool:
        running = [
            pool.submit(asyncio.run, ask()),
            pool.submit(asyncio.run, ask()),
            pool.submit(trio.run, ask),
            pool.submit(cache.get, ORDERS),
        ]
        tokens = {future.result() for future in running}

    assert 1 == len(tokens)
    assert 1 == len(net.server.token_requests)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_waits_for_nobody(net: Net) -> None:
    """
    T19: a token request that was under way in the parent means nothing in a child: it asks for
    itself.
    """
    net.server.delay = timedelta(milliseconds=300)
    cache = net.auth({API: ORDERS}).cache
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(cache.get, ORDERS)
        while not net.server.requests:
            pass

        pid = os.fork()
        if pid == 0:  # pragma: no cover - runs in the child, where nothing is measured
            # The lock of a log file, unlike those of `logging`, does not survive a fork.
            logging.disable()
            signal.alarm(20)
            os._exit(0 if cache.get(ORDERS).resource == ORDERS else 1)
        _, status = os.waitpid(pid, 0)

        assert ORDERS == leading.result().resource
    assert 0 == os.waitstatus_to_exitcode(status)
    assert 2 == len(net.server.token_requests)


# X. One authorization server for another, one resource for another.


def test_mcp_1721_issuer_mix_up(asker: Caller, net: Net) -> None:
    """
    X1, MCP 1721, RFC 9700 4.4: metadata that names another issuer is not believed, to the letter,
    and a credential goes to the server it was issued by alone.
    """
    with LocalAuthorizationServer(clients={"other": "another secret"}) as second:
        other = Resource(
            BILLING,
            server=AuthorizationServer(issuer=second.issuer),
            client_auth=ClientSecretBasic("other", "another secret"),
        )
        cache = net.auth({API: ORDERS, GATEWAY: other}).cache
        asker.token(cache, ORDERS)
        asker.token(cache, other)
        document = {"issuer": f"{net.server.issuer}/", "token_endpoint": second.token_endpoint}
        body = json.dumps(document).encode()
        kind = {"Content-Type": "application/json"}
        net.server.respond("/.well-known/oauth-authorization-server", 200, kind, body)
        with pytest.raises(TokenRequestError, match="another issuer"):
            asker.token(net.auth({API: ORDERS}).cache, ORDERS)

        assert {"other"} == {request.client_id for request in second.token_requests}
    assert {CLIENT_ID} == {request.client_id for request in net.server.token_requests}
    with pytest.raises(ConfigurationError):
        Resource(BILLING, server=AuthorizationServer(issuer=net.server.issuer))


def test_mcguinness_resource_mix_up(asker: Caller, net: Net) -> None:
    """
    X2, draft-mcguinness-oauth-resource-token-resp: an answer that says it is for something else,
    in a member or in the token, or for two of our resources, is not used.
    """
    cache = net.auth({API: ORDERS, GATEWAY: BILLING}).cache
    for member in (BILLING, [BILLING], [], 5, None):
        net.server.overrides = {"resource": member}
        cache.forget()
        with pytest.raises(AudienceMismatchError):
            asker.token(cache, ORDERS)
    net.server.overrides = {}
    cache.forget()
    asker.token(cache, ORDERS)

    net.server.ignore_resource = True
    with pytest.raises(AudienceMismatchError):
        asker.token(cache, BILLING)

    assert ["audience_mismatch"] * 5 == [n for n in net.names() if n == "audience_mismatch"][:5]


@cache
def imported_by_the_package() -> frozenset[str]:
    return frozenset(
        name.name.partition(".")[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import)
        for name in node.names
    )


LINK_LOCAL = ["https://169.254.169.254", "https://[fe80::1]", "https://[::ffff:a9fe:a9fe]"]
NEARBY = [*LINK_LOCAL, "http://169.254.169.254/latest/meta-data", "https://[::ffff:a00:1]"]
NEARBY += ["https://10.0.0.1", "https://localhost", "http://login.example.com"]


@pytest.mark.parametrize("nearby", NEARBY)
def test_bayes_platform_710_metadata_that_leads_inside(asker: Caller, nearby: str) -> None:
    """
    X3, bayes-platform 710, openworker 527, zero 991: what an API says of itself is not asked for
    unless the user wants it, and never leads to a server that the user has not listed.
    """
    well_known = "/.well-known/oauth-protected-resource"
    with Issuer() as login, Sink() as api:
        said = {"resource": f"{api.url}/", "authorization_servers": [nearby]}
        api.behave(lambda seen: Answer.from_json(200, said) if seen.path == well_known else None)

        def auth(*discover: str) -> ResourceTokenAuth:
            resource = Resource(f"{api.url}/", verify_audience="off")
            resources = ResourceMap([resource], discover=discover)
            server = AuthorizationServer(issuer=login.issuer, verify=trusting())
            return ResourceTokenAuth(server, ClientSecretBasic(CLIENT_ID, CLIENT_SECRET), resources)

        asker.token_for(auth(), api.url)
        assert ([], 1) == (api.seen, len(login.token_requests))
        with pytest.raises(TokenRequestError, match="none of them is both allowed"):
            asker.token_for(auth(login.issuer), api.url)
        assert 1 == len(login.token_requests)


@pytest.mark.parametrize("nearer", LINK_LOCAL)
def test_bayes_platform_710_a_server_that_names_a_nearer_address(
    asker: Caller, nearer: str
) -> None:
    """
    X3: what a listed server says of itself names no address that is nearer to this machine than
    its own.
    """
    with Issuer() as login:
        login.metadata = {"issuer": login.issuer, "token_endpoint": f"{nearer}/token"}
        cache = TokenCache(
            AuthorizationServer(issuer=login.issuer), ClientSecretBasic(CLIENT_ID, CLIENT_SECRET)
        )
        with pytest.raises(TokenRequestError, match="nearer to this machine"):
            asker.token(cache, ORDERS)


def test_bayes_platform_710_a_challenge_that_leads_inside(caller: Caller) -> None:
    """
    X3: `resource_metadata` in a challenge is asked for at the origin of the API alone, and the
    caller gets the 401.
    """
    with Issuer() as login, Sink() as api, Sink() as sink:
        api.answer("/.well-known/oauth-protected-resource", 404)
        for named in (*NEARBY, f"{sink.url}/x", "file:///etc/passwd", "//evil.example"):
            challenge = f'Bearer resource_metadata="{named}"'
            api.answer("/x", 401, headers=[("WWW-Authenticate", challenge)])
            events: list[TokenEvent] = []
            auth = ResourceTokenAuth(
                AuthorizationServer(issuer=login.issuer),
                ClientSecretBasic(CLIENT_ID, CLIENT_SECRET),
                ResourceMap(
                    [Resource(f"{api.url}/", verify_audience="off")], discover=[login.issuer]
                ),
                on_event=events.append,
            )
            with caller.client(auth=auth) as client:
                client.get(f"{api.url}/y")
                assert 401 == client.get(f"{api.url}/x").status_code
            assert "not at the same origin" in [e.detail for e in events if "fail" in e.name][-1]

        assert [] == sink.seen
        assert {"/x", "/y", "/.well-known/oauth-protected-resource"} == {s.path for s in api.seen}


def test_cve_2025_6514_an_address_handed_to_a_shell(asker: Caller, net: Net) -> None:
    """
    X4, mcp-remote: the library starts no program and opens no browser, and an address that a
    server names comes to the asker without control characters.
    """
    error = {"error": "invalid_client", "error_uri": "https://a.test/$(x)\r\n\x1b[2J"}
    net.server.answer_next(400, json.dumps(error).encode())

    with pytest.raises(OAuthError) as caught:
        asker.token(net.auth({API: ORDERS}).cache, ORDERS)

    assert set() == imported_by_the_package() & {"subprocess", "webbrowser", "shlex", "pty"}
    assert caught.value.error_uri is not None
    assert caught.value.error_uri.isprintable()


def test_azure_key_vault_the_challenge_chooses(caller: Caller, net: Net) -> None:
    """
    X5, R9728-7, Azure Key Vault 2022: whatever an API asks for in a 401, the next token is asked
    for by the configuration, and nothing that it names is fetched.
    """
    challenge = (
        f'Bearer resource="{BILLING}", scope="admin", error="invalid_token", '
        f'resource_metadata="{FILES}/.well-known/oauth-protected-resource", '
        f'authorization_uri="{FILES}/authorize"'
    )
    answer = {"headers": [("WWW-Authenticate", challenge)]}
    net.at(API).answer("/x", 401, **answer)  # type: ignore[arg-type]
    net.at(FILES)

    with net.client(caller, auth=net.auth({API: ORDERS, GATEWAY: BILLING})) as client:
        for _ in range(3):
            client.get(f"{API}/x")

    assert {((ORDERS,), ())} == {(r.resources, r.scopes) for r in net.server.token_requests}
    assert 0 == net.at(FILES).connections


def test_mcp_a_token_is_passed_through(caller: Caller, net: Net) -> None:
    """
    X6, MCP: a token that came in is exchanged, and only what came of that goes out; where nothing
    does, nothing is sent.
    """
    alice = user_of(net, "alice")
    inbound = alice.token.reveal()
    auth = net.auth({API: Resource(ORDERS, subject="required")})
    net.at(API)

    with net.client(caller, auth=auth) as client:
        client.get(f"{API}/x", auth=auth.on_behalf_of(alice))
        net.server.fail_next(1, status=400, error="invalid_request")
        with pytest.raises(OAuthError):
            client.get(f"{API}/refused", auth=auth.on_behalf_of(user_of(net, "bob")))
        with pytest.raises(TokenRequestError, match="on behalf of others only"):
            client.get(f"{API}/for-nobody")

    assert ["/x"] == [seen.path for seen in net.at(API).seen]
    assert not any(seen.contains(inbound) for _, seen in net.ledger())


def test_rfc_9449_another_token_type(asker: Caller, net: Net) -> None:
    """
    X7: a token of a type that was not asked for, or of none, is not used.
    """
    cache = net.auth({API: ORDERS}).cache

    for token_type in ("DPoP", "mac", "N_A", "", None, 5, ABSENT):
        net.server.overrides = {"token_type": token_type}
        with pytest.raises(TokenRequestError):
            asker.token(cache, ORDERS)


def test_rfc_6749_other_scopes_than_asked_for(asker: Caller, net: Net) -> None:
    """
    X8: a token is kept under what was asked for, says what was granted, and a difference is an
    event.
    """
    auth = net.auth({API: Resource(ORDERS, scopes="read write")})
    net.server.overrides = {"scope": "read"}
    narrowed = asker.token_for(auth, API)
    net.server.overrides = {"scope": "read admin"}
    widened = asker.token(auth.cache, ORDERS, "read")

    again = [asker.token_for(auth, API), asker.token(auth.cache, ORDERS, "read")]

    assert [narrowed, widened] == again
    assert [{"read"}, {"read", "admin"}] == [narrowed.scopes, widened.scopes]
    assert ["scope_narrowed", "scope_widened"] == [n for n in net.names() if "scope" in n]


# L. Leaks at rest and in the clear.


def go_through_everything(caller: Caller, net: Net, place: Any, base: str, **options: Any) -> None:
    """
    Tokens issued, refused, renewed, withheld and blocked.
    """
    auth = net.auth({f"{base}/orders": ORDERS, f"{base}/billing": BILLING})
    with net.client(caller, auth=auth, **options) as client:
        client.get(f"{base}/orders/x")
        client.get(f"{base}/orders/jump")
        with pytest.raises(EgressBlockedError):
            client.get(f"{base}/orders/x", headers={"Host": "files.example.net"})
        token = caller.token_for(auth, f"{base}/orders").reveal()
        with pytest.raises(EgressBlockedError):
            client.get(f"{base}/billing/x", headers={"X-Token": token})
        client.get(f"{base}/orders/refused")
        net.server.fail_next(1, status=401, error="invalid_client")
        with pytest.raises(OAuthError):
            client.get(f"{base}/billing/x", auth=auth.scoped("more"))
    assert place.seen


def test_crossbeam_2023_tokens_in_logs(
    caller: Caller, net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    """
    L1, Crossbeam 2023, requests-oauthlib 536, requests_auth 62, KAFKA-14623: with every logger at
    DEBUG no record holds a token or a secret. The same is looked up after each test that has an
    authorization server.
    """
    net.chain(f"{GATEWAY}/orders/jump", f"{GATEWAY}/billing/landing")
    net.at(GATEWAY).answer("/orders/refused", 401)

    with caplog.at_level(logging.DEBUG):
        go_through_everything(caller, net, net.at(GATEWAY), GATEWAY)

    written = "\n".join(f"{r.getMessage()} {r.__dict__!r}" for r in caplog.records)
    assert {"httpx", "resource_tokens"} <= {
        r.name.replace("httpx2", "httpx") for r in caplog.records
    }
    assert [] == [text for text in (*net.server.issued, *SECRETS) if text in written]


def test_cp_oauth_21_a_prefix_is_a_leak(
    caller: Caller, net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    """
    L2, cp-oauth 21: not even eight characters of a token are told, at its beginning, its end or
    elsewhere, by a record, an event, a `repr` or an error.
    """
    net.server.token_format = "opaque"
    auth = net.auth({API: ORDERS, GATEWAY: BILLING})
    for url in (API, GATEWAY):
        net.at(url)
    with caplog.at_level(logging.DEBUG), net.client(caller, auth=auth) as client:
        client.get(f"{API}/x")
        token = caller.token_for(auth, API)
        with pytest.raises(EgressBlockedError) as caught:
            client.get(f"{GATEWAY}/x", headers={"X-Token": token.reveal()})

    told = [auth, auth.cache, token, asdict(token), net.events, caught.value, caught.value.args]
    written = "\n".join([*map(repr, told), *(f"{r.getMessage()} {r.args}" for r in caplog.records)])

    text = token.reveal()
    assert text == net.server.issued[0]
    assert [] == [text[n : n + 8] for n in range(len(text) - 7) if text[n : n + 8] in written]


def test_hpack_writes_headers(caller: Caller, net: Net, caplog: pytest.LogCaptureFixture) -> None:
    """
    L3: over HTTP/2 with every logger at DEBUG, what is written of the headers shows no token: the
    header is marked as never to be indexed, and hpack hides the value of such a one.
    """
    place = net.streams()
    place.redirect("/orders/jump", to="/billing/landing")
    place.answer("/orders/refused", 401)

    with caplog.at_level(logging.DEBUG):
        go_through_everything(caller, net, place, place.url, **HTTP2)

    encoded = [r for r in caplog.records if r.name.startswith("hpack") and is_encoding(r)]
    written = "\n".join(f"{r.getMessage()} {r.args!r}" for r in encoded)
    assert "authorization" in written
    assert [] == [token for token in net.server.issued if token in written]


def test_hpack_writes_what_it_has_encoded(
    caller: Caller, net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    """
    L3: the block that hpack sends is in its records too, with the token in Huffman code, which
    anybody can read. With the filter on a handler nothing of hpack is written, nor what the
    server sends back in its headers.
    """
    place = net.streams()
    auth = net.auth({f"{place.url}/orders": ORDERS})
    token = caller.token_for(auth, f"{place.url}/orders").reveal()
    place.redirect("/orders/jump", to=f"/orders/landing?again={token}")
    coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(token.encode())

    def written() -> list[str]:
        caplog.clear()
        with net.client(caller, auth=auth, **HTTP2, follow_redirects=False) as client:
            client.get(f"{place.url}/orders/jump")
        return [f"{record.name} {record.getMessage()}" for record in caplog.records]

    assert any(line.startswith("hpack") and repr(coded)[2:-1] in line for line in written())
    with caplog.filtering(TokenFilter(auth.cache)):
        lines = written()
    caplog.clear()

    assert any("receive_response_headers" in line for line in lines)
    for shown in (token, repr(coded)[2:-1], "hpack"):
        assert [] == [line for line in lines if shown in line]


def is_encoding(record: logging.LogRecord) -> bool:
    # The server in this process decodes what it was sent, and says so.
    return not record.funcName.startswith(("_decode", "decode"))


def rendered(error: BaseException | None) -> str:
    """
    The tracebacks of an error and of what led to it, with the local variables of our own frames,
    as error reporters show them.
    """
    texts = []
    while error is not None:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        for frame in shown.stack:
            if not Path(frame.filename).is_relative_to(PACKAGE):
                frame.locals = None
        texts.append("".join(shown.format(chain=False)))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


ANSWERS: dict[str, bytes | dict[str, Any]] = {
    "cut off": b'{"access_token": "PRIVATE", "expires',
    "oversized": b'{"access_token": "PRIVATE"' * 9000,
    "an error too": {"error": "invalid_target"},
    "no lifetime": {"expires_in": 0},
    "another type": {"token_type": "mac"},
    "another resource": {"resource": BILLING},
    "a token in two words": {"access_token": "PRIVATE PRIVATE"},
    "a long token": {"access_token": "PRIVATE" * 4000},
    "another audience": {
        "access_token": jwt.encode({"aud": BILLING, "jti": "PRIVATE"}, "k" * 32, "HS256")
    },
    "an expired token": {
        "access_token": jwt.encode({"aud": ORDERS, "exp": 1, "jti": "PRIVATE"}, "k" * 32, "HS256")
    },
}


def test_oauthlib_665_tokens_in_tracebacks(asker: Caller, net: Net) -> None:
    """
    L4, oauthlib 665: whatever is wrong with an answer of the token endpoint, a traceback with the
    local variables of our frames shows neither secret nor token.
    """
    usual = {"access_token": "PRIVATE-and-opaque", "token_type": "Bearer", "expires_in": 3600}
    leaks = {}
    for what, answer in ANSWERS.items():
        raw = answer if isinstance(answer, bytes) else json.dumps(usual | answer).encode()
        net.server.answer_next(200, raw)
        with pytest.raises(ResourceTokensError) as caught:
            asker.token(net.auth({API: ORDERS, GATEWAY: BILLING}).cache, ORDERS)
        text = rendered(caught.value)
        jwts = re.findall(rb"eyJ[\w.-]+", raw)
        leaks[what] = [t[:40] for t in ("PRIVATE", *SECRETS, *map(bytes.decode, jwts)) if t in text]

    assert {what: [] for what in ANSWERS} == leaks


def test_oauthlib_665_a_token_for_two_resources_in_a_traceback(asker: Caller, net: Net) -> None:
    """
    L4: nor does the traceback of a token that was refused because another resource has it.
    """
    net.server.same_token = True
    net.server.token_format = "opaque"
    cache = net.auth({API: ORDERS, GATEWAY: BILLING}).cache
    asker.token(cache, BILLING)

    with pytest.raises(AudienceMismatchError) as caught:
        asker.token(cache, ORDERS)

    text = rendered(caught.value)
    assert [] == [secret for secret in (*net.server.issued, *SECRETS) if secret in text]


def test_oauthlib_665_a_request_that_was_stopped_in_a_traceback(caller: Caller, net: Net) -> None:
    """
    L4: nor does the traceback of a request that was stopped, by its headers, its query or its
    `Host`.
    """
    auth = net.auth({API: ORDERS, GATEWAY: BILLING})
    for url in (API, GATEWAY):
        net.at(url)
    token = caller.token_for(auth, API).reveal()
    arguments: dict[str, Any] = {
        "header": {"headers": {"X-Token": token}},
        "query": {"params": {"access_token": token}},
        "host": {"headers": {"Host": "files.example.net"}},
    }

    leaks = {}
    with net.client(caller, auth=auth) as client:
        for place, more in arguments.items():
            with pytest.raises(EgressBlockedError) as caught:
                client.get(f"{GATEWAY}/x", **more)
            text = rendered(caught.value)
            leaks[place] = [secret[:40] for secret in net.server.issued if secret in text]

    assert {place: [] for place in arguments} == leaks


def test_pickles_and_cassettes(caller: Caller, net: Net) -> None:
    """
    L5: a token does not pickle, a copy of one is the same object, and what httpx pickles of a
    request and its answer holds no client secret.
    """
    auth = net.auth({API: ORDERS})
    net.at(API)
    token = caller.token_for(auth, API)

    with net.client(caller, auth=auth) as client:
        response = client.get(f"{API}/x")

    for held in (token, auth.cache._cached(auth.cache._request_for(ORDERS)), [token]):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(held)
    assert token == copy.deepcopy(token) == copy.copy(token)
    stored = pickle.dumps(response) + pickle.dumps(net.events)
    assert [] == [secret for secret in SECRETS if secret.encode() in stored]


def test_rfc_6750_tokens_in_plain_http(caller: Caller, net: Net) -> None:
    """
    L6: plain http needs leave, except to a loopback address; a proxy of plain http is stopped; a
    tunnel is not, and its proxy sees no token.
    """
    proxy = net.proxy.replace("socks5://", "http://")
    auth = net.auth({API: ORDERS, PLAIN: IN_PLAIN})
    for url in (API, PLAIN):
        net.at(url)

    with net.client(caller, auth=auth, proxy=proxy) as client:
        client.get(f"{API}/x")
        with pytest.raises(EgressBlockedError, match="proxy"):
            client.get(f"{PLAIN}/x")

    assert ["connect"] == [passage.kind for passage in net.recorder.passages]
    assert [1] == [len(values) for values in net.shown(f"{API}/x")]
    assert [] == net.at(PLAIN).seen
    heads = [bytes(p.sent).partition(b"\r\n\r\n")[0] for p in net.recorder.passages]
    assert [] == [head for head in heads if net.server.issued[0].encode() in head]
    for destination in (PLAIN, "http://localhost", "http://[::ffff:127.0.0.1]"):
        with pytest.raises(ConfigurationError, match="plain http"):
            ResourceMap({destination: ORDERS})


def test_cve_2024_47081_netrc_at_the_token_endpoint(
    asker: Caller, net: Net, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    L7, requests CVE-2024-47081, curl CVE-2024-11053, CVE-2025-0167, CVE-2026-6429 and
    CVE-2026-8926: an entry for the token endpoint's host changes no token request, also where the
    environment may name proxies.
    """
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login stolen password stolen\n")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(netrc))

    for trust_env in (False, True):
        server = AuthorizationServer(
            issuer=net.server.issuer, trust_env=trust_env, verify=trusting()
        )
        cache = TokenCache(server, ClientSecretBasic(CLIENT_ID, CLIENT_SECRET))
        assert ORDERS == asker.token(cache, ORDERS).resource

    sent = [dict(request.headers).get("Authorization") for request in net.server.requests]
    assert {None, f"Basic {SECRETS[1]}"} == set(sent)


@BOTH
def test_cve_2022_22576_a_connection_is_used_again(caller: Caller, net: Net, http2: bool) -> None:
    """
    L8, curl CVE-2022-22576, CVE-2022-27782, CVE-2026-1965 and CVE-2026-4873: a connection keeps
    no credential. Requests with this token, with that one and with none share it.
    """
    place, base, options = net.spoken(http2)
    auth = net.auth({f"{base}/orders": ORDERS, f"{base}/billing": BILLING})

    with net.client(caller, auth=auth, **options) as client:
        for _ in range(2):
            client.get(f"{base}/orders/x")
            client.get(f"{base}/billing/x")
            client.get(f"{base}/orders/x", auth=None)

    assert 1 == place.connections
    sent = [sorted(seen.tokens()) for origin, seen in net.ledger() if origin == base]
    orders, billing = net.server.issued
    assert [[orders], [billing], []] * 2 == [sorted(set(tokens)) for tokens in sent]


def test_cve_2022_27782_token_requests_share_no_connection(asker: Caller) -> None:
    """
    L8: not even two of one client. What a connection was made with, such as a client certificate,
    is for one token request.
    """
    with Issuer() as login:
        server = AuthorizationServer(token_endpoint=f"{login.issuer}/token")
        for client_id in ("one", "two", "one"):
            cache = TokenCache(server, ClientSecretBasic(client_id, f"secret of {client_id}"))
            asker.token(cache, ORDERS)
            asker.token(cache, BILLING)

        assert 6 == len(login.token_requests) == login.connections


def test_secrets_have_no_dictionary(asker: Caller, net: Net) -> None:
    """
    L9: what holds a secret shows it by no `vars`, no `asdict` and no format; that it is in memory
    in plain form is said in the threat model, for Python cannot wipe it.
    """
    token = asker.token(net.auth({API: ORDERS}).cache, ORDERS)
    secret = ClientSecretBasic(CLIENT_ID, CLIENT_SECRET)

    for held in (token, secret):
        with pytest.raises(TypeError):
            vars(held)
        shown = f"{held} {held!r} {asdict(held)}"
        assert [] == [text for text in (token.reveal(), *SECRETS) if text in shown]


def test_kiota_userinfo_in_a_span(caller: Caller, net: Net) -> None:
    """
    L10: no event, and no error, has the userinfo or the query of a URL.
    """
    auth = net.auth({API: ORDERS})
    net.chain(f"{API}/jump", "https://user:private@files.example.net/x?private=1#private")
    net.at(FILES)

    with net.client(caller, auth=auth) as client:
        client.get(f"{API}/jump?private=1")
        for url in (f"{FILES}/x?private=1", "https://u:private@files.example.net/x"):
            with pytest.raises(UnmappedDestinationError) as caught:
                client.get(url)
            assert "private" not in f"{caught.value!r} {caught.value}"
        with pytest.raises(EgressBlockedError) as blocked:
            client.get("https://u:private@api.example.com/x?private=1")

    assert "private" not in f"{blocked.value!r} {blocked.value} {net.events}"
    assert [f"{FILES}/x"] * 3 == [e.destination for e in net.events if FILES in e.destination]


def test_mcp_forged_log_lines(asker: Caller, net: Net, caplog: pytest.LogCaptureFixture) -> None:
    """
    L11: what a server says of an error is escaped and cut, so that it can forge no line of a log
    and paint no terminal, and the client's own secret is taken out of it.
    """
    said = f"a\nINFO all is well\r\x1b[31m\u202e\x00 {CLIENT_SECRET} " + "x" * 1000
    answer = {"error": "invalid_client\n", "error_description": said}
    net.server.answer_next(400, json.dumps(answer).encode())

    with caplog.at_level(logging.DEBUG), pytest.raises(OAuthError) as caught:
        asker.token(net.auth({API: ORDERS}).cache, ORDERS)

    assert caught.value.error_description is not None
    assert 300 > len(caught.value.error_description)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("resource_tokens")]
    for text in (str(caught.value), caught.value.error, *ours):
        assert text.isprintable()
        assert CLIENT_SECRET not in text


# H. Connections.


def test_istio_13589_two_names_on_one_connection(caller: Caller, net: Net) -> None:
    """
    H1, Istio 13589 and 52853, Envoy 6767, Contour 5240, Keycloak 50602: two names at one address
    with one certificate have a connection each, and each its own token.
    """
    place = net.streams()
    named = place.url.replace("127.0.0.1", "localhost")
    auth = net.auth({place.url: ORDERS, named: BILLING})

    with net.client(caller, auth=auth, **HTTP2) as client:
        for url in (place.url, named, place.url, named):
            client.get(f"{url}/x")

    assert 2 == place.connections
    sent = {(h[":authority"], resource_of(h["authorization"][7:])) for h in map(dict, place.seen)}
    assert {(urlsplit(place.url).netloc, ORDERS), (urlsplit(named).netloc, BILLING)} == sent


@BOTH
def test_gardener_14867_misdirected_request(caller: Caller, net: Net, http2: bool) -> None:
    """
    H2: a 421 is the answer; the token is neither renewed nor taken to another connection.
    """
    place, base, options = net.spoken(http2)
    place.answer("/x", 421)

    with net.client(caller, auth=net.auth({base: ORDERS}), **options) as client:
        response = client.get(f"{base}/x")

    assert 421 == response.status_code
    assert 1 == len(place.seen) == place.connections == len(net.server.issued)


def test_an_alternative_service_is_not_followed(caller: Caller, net: Net) -> None:
    """
    H3: `Alt-Svc` names another place for the same origin; no token is taken there.
    """
    other = net.at(f"{API}:8443")
    advertised = f'h2=":8443", h2="files.example.net:443", http/1.1=":{other.port}"; persist=1'
    net.at(API).answer("/x", 200, headers=[("Alt-Svc", advertised)])
    net.at(FILES)

    with net.client(caller, auth=net.auth({API: ORDERS})) as client:
        for _ in range(3):
            client.get(f"{API}/x")

    assert 3 == len(net.at(API).seen)
    assert (0, 0) == (other.connections, net.at(FILES).connections)


FORGED = [
    "token\r\nX-Injected: yes",
    "token\nX-Injected: yes",
    "token\x00",
    "token\t",
    "to ken",
    "tokén",
    "token\x7f",
    "t" * (16 * 1024 + 1),
    "",
    5,
    None,
    ["token"],
]


def test_a_token_that_injects_headers(caller: Caller, net: Net) -> None:
    """
    H4: a token that no header can carry in one piece is refused when it is read, and the request
    is not sent.
    """
    net.at(API)

    with net.client(caller, auth=net.auth({API: ORDERS})) as client:
        for forged in FORGED:
            net.server.overrides = {"access_token": forged}
            with pytest.raises(TokenRequestError):
                client.get(f"{API}/x")

    assert 0 == net.at(API).connections
    with pytest.raises(ConfigurationError):
        Resource(ORDERS, connect_to="http://127.0.0.1:1", host_header="a\r\nX-Injected: yes")


CATALOGUE = {"R": 16, "U": 11, "M": 9, "C": 13, "T": 19, "X": 8, "L": 11, "H": 4}


def test_the_page_and_this_file_are_one_list() -> None:
    """
    The page has a row for each advisory, in order; each test it names is there and says in its
    docstring that it is about that row; and no test is here that it does not name.
    """
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z]\d+) \|(.*)\|$", page, re.MULTILINE)
    here = {name for name in vars(sys.modules[__name__]) if name.startswith("test_")}
    # A few are beside others of their kind.
    tests = {
        node.name: ast.get_docstring(node) or ""
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }

    named = [(row, name) for row, text in rows for name in re.findall(r"`(test_\w+)`", text)]

    everything = [f"{kind}{n}" for kind, count in CATALOGUE.items() for n in range(1, count + 1)]
    assert everything == [row for row, _ in rows]
    assert set() == here - {"test_the_page_and_this_file_are_one_list"} - {n for _, n in named}
    strangers = [
        (row, name) for row, name in named if not re.search(rf"\b{row}\b", tests.get(name, ""))
    ]
    assert [] == strangers
