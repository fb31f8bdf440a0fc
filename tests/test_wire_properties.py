"""
Any URL, any destination: what was mapped is what was connected to, and what was sent.

The client is the real one, down to httpcore, whose connection pool takes a network backend: that
one records which host and port a socket would be opened to, which server name TLS would ask for,
and each byte written. So any host can be asked for, without a resolver and without a packet. That
it records the truth is checked against real sockets and real TLS, by a SOCKS proxy.

Whether a token may be where it was found is decided by an oracle that shares no code with the
library and none of httpx's parsing: it looks at the socket, the bytes, and the destination as
configured, and asks for one answer from every way in which a server could read the path.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote

import anyio.from_thread
import httpcore
import httpcore2
import idna
import jwt
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
    ResourceTokensError,
)
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import CALLERS, Caller
from tests.servers.origin import Origin
from tests.servers.proxy import RecordingProxy

# What is opened, and what is written to it.


@dataclass
class Socket:
    """
    A connection that was asked for.

    Attributes:
        server_name: The name that TLS was started with; None without TLS.
    """

    host: str
    port: int
    secure: bool = False
    server_name: str | None = None
    written: bytearray = field(default_factory=bytearray)

    @property
    def tokens(self) -> list[str]:
        """
        The audience of each token in the bytes written, wherever it stands.
        """
        return audiences(bytes(self.written))

    @property
    def target(self) -> str:
        """
        The request target as it was written.
        """
        return (
            self.written.split(b"\r\n")[0].decode("latin-1").split(" ", 1)[1][: -len(" HTTP/1.1")]
        )

    def header(self, name: str) -> list[str]:
        """
        Every value of a header as it was written.
        """
        lines = self.written.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        pairs = [line.partition(": ") for line in lines]
        return [value for each, _, value in pairs if each.lower() == name]


def audiences(text: bytes) -> list[str]:
    """
    The `aud` of each token in a text.
    """
    found = re.findall(rb"eyJ[\w-]+\.[\w-]+\.[\w-]+", text)
    return [jwt.decode(token, options={"verify_signature": False})["aud"] for token in found]


class Recorder:
    """
    The network backend: opens nothing, and keeps what it was asked for.

    Args:
        answers: What is answered to the first requests. The later ones get 200.
    """

    def __init__(self, answers: Sequence[bytes] = ()) -> None:
        self.sockets: list[Socket] = []
        self.answers = list(answers)

    @property
    def written(self) -> list[Socket]:
        """
        The connections on which something was sent.
        """
        return [each for each in self.sockets if each.written]

    def connect_tcp(self, host: str, port: int, **_: Any) -> RecordedStream:
        self.sockets.append(Socket(host, port))
        return RecordedStream(self, self.sockets[-1])

    def next_answer(self) -> bytes:
        return self.answers.pop(0) if self.answers else answer(200)


class RecordedStream:
    """
    A connection of the recorder. Each carries one request.
    """

    def __init__(self, recorder: Recorder, socket: Socket) -> None:
        self._recorder = recorder
        self._socket = socket
        self._answered = False

    def read(self, *_: Any, **__: Any) -> bytes:
        if self._answered:
            return b""
        self._answered = True
        return self._recorder.next_answer()

    def write(self, buffer: bytes, *_: Any, **__: Any) -> None:
        self._socket.written += buffer

    def close(self) -> None:
        """
        There is nothing to close.
        """

    def start_tls(self, *, server_hostname: str | None = None, **_: Any) -> RecordedStream:
        self._socket.secure, self._socket.server_name = True, server_hostname
        return self

    def get_extra_info(self, _: str) -> None:
        return None


class AsyncRecorder(Recorder):
    """
    The same for async clients.
    """

    async def connect_tcp(self, *where: Any, **options: Any) -> Any:  # type: ignore[override]
        return AsyncRecordedStream(super().connect_tcp(*where, **options))


class AsyncRecordedStream:
    """
    The same, asynchronous.
    """

    def __init__(self, stream: RecordedStream) -> None:
        self._stream = stream
        self.get_extra_info = stream.get_extra_info

    async def read(self, *_: Any, **__: Any) -> bytes:
        return self._stream.read()

    async def write(self, buffer: bytes, *_: Any, **__: Any) -> None:
        self._stream.write(buffer)

    async def aclose(self) -> None:
        """
        There is nothing to close.
        """

    async def start_tls(self, **options: Any) -> AsyncRecordedStream:
        self._stream.start_tls(**options)
        return self


def answer(status: int, location: bytes = b"") -> bytes:
    redirect = b"Location: %b\r\n" % location if location else b""
    return b"HTTP/1.1 %d X\r\n%bContent-Length: 0\r\nConnection: close\r\n\r\n" % (status, redirect)


CORES: dict[str, ModuleType] = {"httpx": httpcore, "httpx2": httpcore2}
# No certificate is ever looked at, and making a context that could costs more than the request.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def transport(caller: Caller, recorder: Recorder) -> Any:
    """
    What `HTTPTransport` of the library does with a request, on a pool with our backend.
    """
    library, core = caller.library, CORES[caller.library.__name__]

    def for_core(request: Any) -> Any:
        url = request.url
        return core.Request(
            method=request.method,
            url=core.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )

    class Recording(library.BaseTransport):  # type: ignore[name-defined,misc]
        def handle_request(self, request: Any) -> Any:
            with core.ConnectionPool(NO_TLS, network_backend=recorder) as pool:
                response = pool.handle_request(for_core(request))
                body = response.read()
            return library.Response(response.status, headers=response.headers, content=body)

    class AsyncRecording(library.AsyncBaseTransport):  # type: ignore[name-defined,misc]
        async def handle_async_request(self, request: Any) -> Any:
            async with core.AsyncConnectionPool(NO_TLS, network_backend=recorder) as pool:
                response = await pool.handle_async_request(for_core(request))
                body = await response.aread()
            return library.Response(response.status, headers=response.headers, content=body)

    return Recording() if caller.blocking else AsyncRecording()


# The oracle: may this token be here?

Rules = tuple[tuple[str, str], ...]
"""
Destinations and the identifiers of their resources.
"""


@dataclass(frozen=True)
class Destination:
    """
    A destination, read by its plain form alone.
    """

    scheme: str
    host: str
    port: int
    path: str
    resource: str

    @classmethod
    def read(cls, text: str, resource: str) -> Destination:
        # An empty userinfo is none, and httpx resolves dot segments before anything else.
        match = re.fullmatch(
            r"(https?)://@?(\[[0-9a-f:.]+\]|[^\s/\\:@?#%;,\[\]]+)(?::([0-9]{1,5}))?(/[^\s\\?#]*)?",
            text,
            re.IGNORECASE,
        )
        assert match, f"{text!r} should have been refused"
        scheme, host, port, path = match.groups()
        path = _without_dots(path or "/")
        assert not re.search(r";|//|%(2[ef]|5c|3b|00)", path, re.IGNORECASE), text
        return cls(
            scheme.lower(),
            host.lower() if host.isascii() else idna.encode(host.lower()).decode(),
            int(port) if port else DEFAULT_PORTS[scheme.lower()],
            quote(path, safe="/%!$&'()*+,:=@~^|[]").rstrip("/"),
            resource,
        )

    def is_at(self, socket: Socket, host: str) -> bool:
        scheme = "https" if socket.secure else "http"
        if (self.scheme, self.port) != (scheme, socket.port):
            return False
        if ":" in host:
            address = ipaddress.IPv6Address(host)
            return self.host.startswith("[") and address == ipaddress.IPv6Address(self.host[1:-1])
        return self.host == host


DEFAULT_PORTS = {"https": 443, "http": 80}


def rightful(socket: Socket, rules: Rules) -> str | None:
    """
    The one resource that a request belongs to, however a server may read its path.
    """
    destinations = [Destination.read(text, resource) for text, resource in rules]
    here = [each for each in destinations if each.is_at(socket, socket.host)]
    label, _, parent = socket.host.partition(".")
    if not here and re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label):
        here = [each for each in destinations if each.is_at(socket, f"*.{parent}")]
    path = socket.target.partition("?")[0]
    if not path.startswith("/"):
        return None
    if [each.path for each in here] == [""]:
        return here[0].resource
    found: set[str | None] = set()
    for number, reading in enumerate(readings(path)):
        prefixes = {readings(each.path)[number].rstrip("/"): each.resource for each in here}
        segments = reading.split("/")
        starts = ["/".join(segments[:count]) for count in range(len(segments), 0, -1)]
        found.add(next((prefixes[start] for start in starts if start in prefixes), None))
    return found.pop() if len(found) == 1 else None


Way = Callable[[str], str]


def _without_dots(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


# What servers, gateways and their caches do to a path before they look at it.
STEPS: tuple[Way, ...] = (
    unquote,
    lambda path: unquote(unquote(unquote(path))),
    lambda path: path.replace("\\", "/"),
    lambda path: re.sub(r";[^/]*", "", path),
    lambda path: re.split(r"[?#\0]", path, maxsplit=1)[0],
    lambda path: re.sub(r"/{2,}", "/", path),
    _without_dots,
    lambda path: re.sub(r"[. ]+(?=/|$)", "", path),
    str.lower,
)


WAYS = [steps for count in (0, 1, 2, 3, 8, 9) for steps in combinations(STEPS, count)]


@lru_cache(maxsize=4096)
def readings(path: str) -> tuple[str, ...]:
    """
    The path, read in each of the ways.
    """
    return tuple(reduce(lambda text, step: step(text), steps, path) for steps in WAYS)


def wrongs(sockets: Sequence[Socket], rules: Rules) -> list[str]:
    """
    What is wrong with the tokens on these connections.
    """
    found: list[str] = []
    for socket in sockets:
        if not socket.tokens:
            continue
        if {rightful(socket, rules)} != set(socket.tokens):
            found.append(f"{rightful(socket, rules)} is asked, {socket.tokens} shown: {socket}")
        host = socket.host.lower()
        name = f"[{host}]" if ":" in host else host
        default = {DEFAULT_PORTS["https" if socket.secure else "http"]: [name]}
        hosts = [f"{name}:{socket.port}", *default.get(socket.port, [])]
        if len(socket.header("host")) != 1 or socket.header("host")[0].lower() not in hosts:
            found.append(f"the Host is another one: {socket}")
        if socket.secure and (socket.server_name or "").lower() != host:
            found.append(f"the TLS server name is another one: {socket}")
    return found


# Clients, and what they may raise.


@pytest.fixture(scope="module")
def issuing() -> Iterator[LocalAuthorizationServer]:
    with LocalAuthorizationServer(clients={"worker": "secret"}) as running:
        yield running


@pytest.fixture(scope="module", params=CALLERS)
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    library, colour = request.param
    if colour == "sync":
        yield Caller(library, colour, None)
        return
    with anyio.from_thread.start_blocking_portal(backend=colour) as portal:
        yield Caller(library, colour, portal)


Outcome = str | None
"""
The name of the exception, if the call raised one.
"""


class Desk:
    """
    Makes requests in one colour, each with a recorder of its own.
    """

    def __init__(self, caller: Caller, issuing: LocalAuthorizationServer) -> None:
        self.caller = caller
        self._server = AuthorizationServer(
            issuer=issuing.issuer, token_endpoint=issuing.token_endpoint
        )
        self._store = MemoryTokenStore()
        core = CORES[caller.library.__name__]
        # What the client raises itself. No transport maps the exceptions of httpcore here.
        self.of_the_client = (
            caller.library.HTTPError,
            caller.library.InvalidURL,
            caller.library.CookieConflict,
            core.ProtocolError,
            core.UnsupportedProtocol,
        )
        self.auth = lru_cache(maxsize=64)(self._auth)

    def _auth(self, rules: Rules) -> ResourceTokenAuth:
        """
        Raises `ConfigurationError`, and nothing else, for what is no destination.
        """
        return ResourceTokenAuth(
            self._server,
            ClientSecretBasic("worker", "secret"),
            # Plain http is allowed, so that a change of scheme is never refused for being one.
            resources={text: Resource(name, allow_http=True) for text, name in rules},
            # One token for each resource, not one for each example.
            store=self._store,
        )

    def url(self, url: str, base_url: str) -> Any:
        """
        The URL of a request, as the auth object gets to see it.
        """
        with self.caller.library.Client(
            transport=self.caller.library.BaseTransport(), base_url=base_url
        ) as client:
            return client.build_request("GET", url).url

    def ask(
        self,
        auth: ResourceTokenAuth | None,
        url: str,
        answers: Sequence[bytes] = (),
        base_url: str = "",
        **options: Any,
    ) -> tuple[Recorder, Outcome]:
        """
        What was opened and written; and what was raised, which must be an error of the library or
        the client's own.
        """
        recorder = (Recorder if self.caller.blocking else AsyncRecorder)(answers)
        try:
            with self.caller.client(
                transport=transport(self.caller, recorder),
                base_url=base_url,
                follow_redirects=True,
                max_redirects=2,
            ) as client:
                client.get(url, auth=auth, **options)
        except (ResourceTokensError, *self.of_the_client) as error:
            return recorder, type(error).__name__
        except ValueError as error:
            # Such as UnicodeError. The client must raise the same without us.
            if auth is None:
                return recorder, type(error).__name__
            _, alone = self.ask(None, url, answers, base_url, **options)
            if alone != type(error).__name__:
                raise
            return recorder, alone
        return recorder, None


@pytest.fixture(scope="module")
def desk(caller: Caller, issuing: LocalAuthorizationServer) -> Desk:
    return Desk(caller, issuing)


# What URLs are made of.

RESOURCES = [f"https://{name}.resource.example/" for name in "abcdefg"]
DESTINATIONS = [
    "https://api.example.com/",
    "https://api.example.com:8443/",
    "https://api.example.com./",
    "http://api.example.com/",
    "https://gw.example.com/orders",
    "https://gw.example.com/orders/archive/",
    "https://gw.example.com/billing/",
    "https://gw.example.com/caf%C3%A9/",
    "https://gw.example.com/",
    "https://*.t.example.com/",
    "https://*.t.example.com/orders/",
    "https://blue.t.example.com/billing/",
    "https://[2001:db8::1]/",
    "https://[2001:DB8:0::1]:8443/x",
    "https://192.0.2.7/",
    "http://127.0.0.1:8080/orders/",
    "http://[::1]/",
    "https://bücher.example/",
    "https://xn--strae-oqa.example/a/",
    "HTTPS://API.Example.org:443/V1/",
]
HOSTS = [
    *("api.example.com", "gw.example.com", "blue.t.example.com", "[2001:db8::1]", "192.0.2.7"),
    *("127.0.0.1", "[::1]", "bücher.example", "xn--bcher-kva.example", "straße.example"),
    *("API.EXAMPLE.COM", "api.example.com.", "api。example．com", "a.b.t.example.com"),
    *("t.example.com", "-.t.example.com", "evil.test", "api.example.com.evil.test", "127.1"),
    *("2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[2001:0db8::0:1]", "[fe80::1%25eth0]"),
    *("api%2eexample.com", "evil.test%2f.t.example.com", "api.example.com%00", "ａpi.example.com"),
    *("ſ.t.example.com", "faß.t.example.com", "", ".", "*", "*.t.example.com", "a_b.t.example.com"),
]
SCHEMES = ["https://", "http://", "HTTPS://", "https:/", "https:", "//", "", "/", "https:\\\\"]
SCHEMES += ["wss://", "ws://", "ftp://", " https://", "https:///", "https://\t"]
USERINFO = ["", "user@", "user:word@", "api.example.com@", "api.example.com:443@", "@", "@@", ":@"]
USERINFO += ["gw.example.com%2f@", "api.example.com\\@", "gw.example.com/@", "u%40@", "?@", "#@"]
PORTS = [
    "",
    ":",
    ":443",
    ":80",
    ":8443",
    ":8080",
    ":0443",
    ":+443",
    ":4_43",
    ":٤٤٣",
    ":99999",
    ":-1",
]
PORTS += [":0", ": 443", ":443 ", ":x", ":443:80"]
NASTY = ["\\", "/", "//", "..", "/../", "/./", "/..;/", ";", ";v=1", "@", ":", "?", "#", "%", "%zz"]
NASTY += ["%2e%2e", "%2E", ".%2e", "%252e", "%2f", "%5C", "%00", "%09", "%3b", "%3F", "%23", "%25"]
NASTY += ["%c0%ae", "%C0%AF", "%e2%80%8b", "%40", "%3a", "%62", "%4f", "%6frders", "%20", "%ff"]
NASTY += [
    " ",
    "\t",
    "\n",
    "\r\n",
    "\x00",
    "\x7f",
    "。",
    "．．",
    "／",
    "＠",
    "：",
    "\u200d",
    "\u00ad",
]
NASTY += ["\ufeff", "İ", "ſ", "K", "ß", "é", "①", "\ud800", "[", "]", "*", "+", "|", "^", "~", "'"]
NASTY += ["%u002e", "{", "}", "`", '"', "<", ">", "xn--", "0x7f.1", "..%2f", "%2e%2e%5c", "ORDERS"]
# Ways from one resource of a gateway to another, for servers that read them so.
ASIDE = ["%2e%2e/billing", "..%2fbilling", "..;/billing", "..%5cbilling", "..%252fbilling/x"]
ASIDE += ["%2e%2e/%2e%2e/billing", "ARCHIVE", "%61rchive", "%2561rchive/x", "x/..%2farchive", "/"]
ASIDE += ["archive%2f..", "archive;v=1", ";/archive", "archive%3f", "archive.", "%61rchive./x"]
SEGMENTS = ["orders", "billing", "archive", "Orders", "billings", "order", "x", "", "V1", "v1", "a"]
SEGMENTS += ["caf%C3%A9", "café", "caf%c3%a9", "cafe\u0301", "..", ".", "...", "api.example.com"]
ENDS = [
    "",
    "?",
    "?q=1",
    "?/../x",
    "?@gw.example.com/",
    "#f",
    "#@gw.example.com/orders",
    "?\\",
    "#?",
]
ENDS += ["?u=https://gw.example.com/orders", "?%00", "? x", "?é", "#\\@evil.test/"]


def mostly(usual: Sequence[str], *odd: str) -> st.SearchStrategy[str]:
    """
    The usual, and one in ten times something odd: one such part in a URL is enough.
    """
    return st.sampled_from([*(list(usual) * (1 + 9 * len(odd) // len(usual))), *odd])


paths = st.lists(st.sampled_from([*SEGMENTS, *SEGMENTS, *ASIDE, *NASTY]), max_size=4).map(
    lambda parts: "".join(f"/{part}" for part in parts)
)
composed = st.builds(
    "{}{}{}{}{}{}".format,
    mostly(["https://", "https://", "http://"], *SCHEMES),
    mostly([""], *USERINFO),
    mostly(HOSTS[:8], *HOSTS),
    mostly([""], *PORTS),
    paths,
    mostly([""], *ENDS),
)


@st.composite
def mutated(draw: st.DrawFn, texts: Sequence[str] = DESTINATIONS) -> str:
    """
    A plain URL at a destination, with one or two nasty things put in somewhere.
    """
    text = draw(st.sampled_from(texts)).replace("*", "red")
    text += draw(st.sampled_from(["", "x", "orders/7", "/archive", "?q=1", "billing/../orders"]))
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 0, 1, 3])))
        text = text[:start] + draw(st.sampled_from(NASTY)) + text[end:]
    return text


@st.composite
def configurations(draw: st.DrawFn) -> Rules:
    """
    One to three destinations, often of one gateway; one in ten of them may be none.
    """
    texts = draw(st.lists(st.sampled_from(DESTINATIONS), min_size=1, max_size=3))
    if draw(st.booleans()):
        texts = [text for text in DESTINATIONS if "//gw." in text][: len(texts)]
    if draw(st.integers(0, 9)) == 9:
        texts[-1] = draw(st.one_of(composed, mutated()))
    return tuple(zip(dict.fromkeys(texts), RESOURCES, strict=False))


@st.composite
def urls(draw: st.DrawFn, rules: Rules) -> str:
    """
    A URL that has to do with these destinations, more or less.
    """
    at = draw(st.sampled_from([text for text, _ in rules])).replace("*", "red")
    match draw(st.sampled_from("ssshcm")):
        case "s":
            return at.rstrip("/") + draw(paths) + draw(mostly([""], *ENDS))
        case "h":
            scheme, _, rest = at.partition("://")
            userinfo, port = draw(mostly([""], *USERINFO)), draw(mostly([""], *PORTS))
            host, slash, path = rest.partition("/")
            return f"{scheme}://{userinfo}{host}{port}{slash}{path}{draw(mostly([''], *SEGMENTS))}"
        case "c":
            return draw(composed)
    return draw(mutated([at]))


pairs = configurations().flatmap(lambda rules: st.tuples(st.just(rules), urls(rules)))
PROPERTY = settings(
    deadline=None,
    derandomize=False,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def judge(desk: Desk, rules: Rules, url: str, base_url: str = "", **options: Any) -> str:
    """
    Make a request. Either nothing is sent, and the name of the error is returned; or what was
    mapped is what was connected to and sent, with its one token, and the resource is returned.
    """
    auth = desk.auth(rules)
    recorder, error = desk.ask(auth, url, base_url=base_url, **options)

    assert [] == wrongs(recorder.written, rules)
    if error is not None:
        assert [] == recorder.written
        return error
    (socket,) = recorder.written
    (token,) = socket.tokens
    mapped = desk.url(url, base_url)
    resource = auth.resources.resource_for(mapped)
    assert resource is not None
    assert resource.identifier == token
    target = options.get("extensions", {}).get("target", mapped.raw_path)
    assert (
        mapped.scheme,
        mapped.raw_host.decode(),
        mapped.port or DEFAULT_PORTS[mapped.scheme],
        target.decode(),
    ) == ("https" if socket.secure else "http", socket.host, socket.port, socket.target)
    return token


def judge_redirect(desk: Desk, rules: Rules, start: str, location: str, status: int) -> str:
    """
    Make a request that is answered by a redirect. A token that was shown at the first hop is shown
    at the second one, or nothing is.
    """
    redirect = answer(status, location.encode("utf-8", "surrogatepass"))
    recorder, outcome = desk.ask(desk.auth(rules), start, [redirect])

    assert [] == wrongs(recorder.written, rules), location
    first, *others = recorder.written
    assert [rightful(first, rules)] == first.tokens
    assert set(first.tokens) >= {token for each in others for token in each.tokens}
    return "token sent" if any(each.tokens for each in others) else f"not sent: {outcome}"


@settings(PROPERTY, max_examples=120)
@given(pair=pairs, by_base_url=mostly([""], "base_url"))
def test_what_was_mapped_is_what_was_connected_to_and_sent(
    desk: Desk, pair: tuple[Rules, str], by_base_url: str
) -> None:
    """
    P1, P3, P4, U1 to U11, R6749-18: for any destination and any URL, either nothing is sent, or one
    request with the one token of the resource that the socket and the bytes written belong to.
    """
    rules, url = pair
    try:
        desk.auth(rules)
    except ConfigurationError:
        event("no such configuration")
        return
    outcome = judge(desk, rules, url, rules[0][0] if by_base_url else "")

    event("token sent" if outcome in RESOURCES else outcome)


MAP: Rules = tuple(
    zip(
        [
            "https://api.example.com/",
            "https://gw.example.com/orders",
            "https://gw.example.com/billing/",
            "https://*.t.example.com/",
            "https://[2001:db8::1]/",
            "http://127.0.0.1:8080/orders/",
            "https://bücher.example/",
        ],
        RESOURCES,
        strict=True,
    )
)
STARTS = [
    "https://api.example.com/v1/x",
    "https://gw.example.com/orders/7",
    "https://gw.example.com/billing/",
    "https://blue.t.example.com/",
    "http://127.0.0.1:8080/orders/7?q=1",
    "https://[2001:db8::1]/x",
]


@settings(PROPERTY, max_examples=80)
@given(
    start=st.sampled_from(STARTS),
    location=st.one_of(urls(MAP), paths, mutated(STARTS)),
    status=st.sampled_from([301, 302, 303, 307, 308]),
)
def test_no_location_takes_a_token_elsewhere(
    desk: Desk, start: str, location: str, status: int
) -> None:
    """
    P3, R1 to R12: whatever a server writes into `Location`.
    """
    outcome = judge_redirect(desk, MAP, start, location, status)

    event(outcome)


@settings(PROPERTY, max_examples=80)
@given(
    start=st.sampled_from(STARTS),
    target=st.one_of(st.none(), paths, paths, urls(MAP)),
    host=st.one_of(st.none(), st.none(), st.sampled_from(HOSTS)),
    server_name=st.one_of(st.none(), st.none(), st.sampled_from(HOSTS)),
)
def test_no_rewritten_request_takes_a_token_elsewhere(
    desk: Desk, start: str, target: str | None, host: str | None, server_name: str | None
) -> None:
    """
    P3, M7 to M9: another target, another `Host`, another TLS server name.
    """
    options: dict[str, Any] = {"headers": {} if host is None else {"Host": host}}
    options["extensions"] = {} if server_name is None else {"sni_hostname": server_name}
    if target is not None:
        options["extensions"]["target"] = target.encode("utf-8", "surrogatepass")
    outcome = judge(desk, MAP, start, **options)

    event("token sent" if outcome in RESOURCES else outcome)


@settings(PROPERTY, max_examples=300)
@given(text=st.one_of(composed, mutated(), st.text(max_size=30).map("https://{}".format)))
def test_a_destination_is_plain_or_refused(text: str) -> None:
    """
    M3, U2, U5, U7, U11: what is accepted has one reading, and covers itself.
    """
    try:
        resources = ResourceMap({text: Resource(RESOURCES[0], allow_http=True)})
    except ConfigurationError:
        return
    read = Destination.read(text, RESOURCES[0])

    assert resources.resource_for(text.replace("://*.", "://red.")) is not None, read
    event("accepted")


# A fixed corpus, in the spirit of the URL tests of the WHATWG.

CORPUS = {
    RESOURCES[0]: [
        "https://api.example.com",
        "https://api.example.com/",
        "HTTPS://API.EXAMPLE.COM/x",
        "https://api.example.com:443/x",
        "https://api.example.com:/x",
        "https://api.example.com:0443/x",
        "https://api.example.com:+443/x",
        "https://api.example.com:4_43/x",
        "https://api.example.com:٤٤٣/x",
        "https://@api.example.com/x",
        "https://api.example.com?@evil.test/x",
        "https://api.example.com#@evil.test/x",
        "https://api.example.com/x#y?z",
        "https://api。example。com/x",
        "https://api．example．com/x",
        "https://api｡example｡com/x",
        "https://api.example.com/x y",
        "https://api.example.com/é",
        "https://api.example.com/%2e%2e/%2f//;x\\y",
        "https://api.example.com/../../x",
        "https://api.example.com//evil.test/x",
        "https://api.example.com/x?redirect=https://evil.test/",
        "https://api.example.com/x?a=1#@evil.test/",
    ],
    RESOURCES[1]: [
        "https://gw.example.com/orders",
        "https://gw.example.com/orders/",
        "https://gw.example.com/orders?x=/../billing",
        "https://gw.example.com/orders#/../billing",
        "https://gw.example.com/orders/7/lines?x=%2f#y",
        "https://gw.example.com/orders/caf%C3%A9",
        "https://gw.example.com/orders/café",
        "https://gw.example.com/orders/100%25",
        "https://gw.example.com/orders/a b",
        "https://gw.example.com/orders/...",
        "https://gw.example.com/orders/.hidden",
        "https://gw.example.com/orders/~x",
        "https://gw.example.com/orders/a:b@c,d",
        "https://gw.example.com/orders/./x",
        "https://gw.example.com/billing/../orders/x",
    ],
    RESOURCES[2]: [
        "https://gw.example.com/orders/../billing/x",
        "https://gw.example.com/billing",
        "https://gw.example.com/billing/x",
    ],
    RESOURCES[3]: [
        "https://blue.t.example.com/x",
        "https://BLUE.t.example.com/x",
        "https://évil.t.example.com/x",
    ],
    RESOURCES[4]: [
        "https://[2001:db8::1]/x",
        "https://[2001:DB8::1]/x",
        "https://[2001:db8:0:0::1]:443/x",
        "https://[2001:0db8:0000:0000:0000:0000:0000:0001]/x",
    ],
    RESOURCES[5]: [
        "http://127.0.0.1:8080/orders/x",
    ],
    RESOURCES[6]: [
        "https://bücher.example/x",
        "https://BÜCHER.example/x",
        "https://xn--bcher-kva.example/x",
        "https://XN--BCHER-KVA.example/x",
        "https://bücher.example/x",
    ],
    "UnmappedDestinationError": [
        "https://api.example.com:444/x",
        "https://api.example.com:80/x",
        "https://api.example.com:99999/x",
        "https://api.example.com:-443/x",
        "http://api.example.com/x",
        "http://api.example.com:443/x",
        "wss://api.example.com/x",
        "ftp://api.example.com/x",
        "https:/api.example.com/x",
        "https:api.example.com/x",
        "https:///api.example.com/x",
        "//api.example.com/x",
        "api.example.com/x",
        "https://api.example.com@evil.test/x",
        "https://api.example.com:443@evil.test/x",
        "https://api.example.com%2f@evil.test/x",
        "https://api.example.com%40evil.test/x",
        "https://evil.test/@api.example.com/x",
        "https://api.example.com\\@evil.test/x",
        "https://api.example.com\\.evil.test/x",
        "https://api.example.com\\x",
        "https:\\\\api.example.com\\x",
        "https://evil.test?@api.example.com/x",
        "https://evil.test#@api.example.com/x",
        "https://api.example.com./x",
        "https://api.example.com../x",
        "https://.api.example.com/x",
        "https://api..example.com/x",
        "https://api.example.com.evil.test/x",
        "https://evil-api.example.com/x",
        "https://evil.api.example.com/x",
        "https://example.com/x",
        "https://api%2eexample%2ecom/x",
        "https://api.example.com%00.evil.test/x",
        "https://api.example.com%23.evil.test/x",
        "https://api.example.com%2f.evil.test/x",
        "https://api.example.com%5c.evil.test/x",
        "https://api.example.com;.evil.test/x",
        "https://api.example.com,evil.test/x",
        "https://%61pi.example.com/x",
        "https://аpi.example.com/x",
        " https://api.example.com/x",
        "https://api.example.com /x",
        "https://bucher.example/x",
        "https://bücher.example@evil.test/x",
        "https://t.example.com/x",
        "https://.t.example.com/x",
        "https://a.b.t.example.com/x",
        "https://-.t.example.com/x",
        "https://a%2fb.t.example.com/x",
        "https://a;b.t.example.com/x",
        "https://evilt.example.com/x",
        "https://blue.t.example.com.evil.test/x",
        "https://[2001:db8::2]/x",
        "https://[2001:db8::1%25eth0]/x",
        "https://[2001:db8::1%eth0]/x",
        "https://[::ffff:2001:db8]/x",
        "https://[2001:db8::1]@evil.test/x",
        "http://127.1:8080/orders/x",
        "http://2130706433:8080/orders/x",
        "http://0x7f.0.0.1:8080/orders/x",
        "http://127.0.0.1.:8080/orders/x",
        "http://localhost:8080/orders/x",
        "http://[::ffff:127.0.0.1]:8080/orders/x",
        "http://127.0.0.1/orders/x",
        "https://127.0.0.1:8080/orders/x",
        "https://gw.example.com/ordersx",
        "https://gw.example.com/order",
        "https://gw.example.com/",
        "https://gw.example.com",
        "https://gw.example.com/x/orders",
        "https://gw.example.com/orders/../x",
        "https://gw.example.com/orders／x",
        "https://gw.example.com/ord\u200bers/x",
        "https://gw.example.com/billing.json",
        "https://evil.test/https://gw.example.com/orders",
        "https://gw.example.com/orders@evil.test/x",
        "https://gw.example.com:443@evil.test/orders",
        "https://gw.example.com?/orders/x",
        "https://gw.example.com#/orders/x",
        "",
        "/",
        "?",
        "#",
        "..",
    ],
    "EgressBlockedError": [
        "https://user@api.example.com/x",
        "https://user:word@api.example.com/x",
        "https://:@api.example.com/x",
        "https://evil.test@api.example.com/x",
        "https://evil.test%40@api.example.com/x",
        "https://evil.test\\@api.example.com/x",
        "https://gw.example.com/Orders",
        "https://gw.example.com/ORDERS/x",
        "https://gw.example.com/%6frders/x",
        "https://gw.example.com/%256frders/x",
        "https://gw.example.com/orders/%2e%2e/billing",
        "https://gw.example.com/orders/%2E%2E/billing",
        "https://gw.example.com/orders/.%2e/billing",
        "https://gw.example.com/orders/%2e",
        "https://gw.example.com/orders/%252e%252e/billing",
        "https://gw.example.com/orders/%25252e/billing",
        "https://gw.example.com/orders/..%2fbilling",
        "https://gw.example.com/orders%2fx",
        "https://gw.example.com/orders/..%5cbilling",
        "https://gw.example.com/orders/..\\billing",
        "https://gw.example.com/orders\\..\\billing",
        "https://gw.example.com/orders/..;/billing",
        "https://gw.example.com/orders;/x",
        "https://gw.example.com/orders/x;v=1",
        "https://gw.example.com/orders/%3b/x",
        "https://gw.example.com//orders/x",
        "https://gw.example.com/orders//x",
        "https://gw.example.com/orders/%00",
        "https://gw.example.com/orders/%0a",
        "https://gw.example.com/orders/%09x",
        "https://gw.example.com/orders/%7f",
        "https://gw.example.com/orders/%zz",
        "https://gw.example.com/orders/%",
        "https://gw.example.com/orders/%2",
        "https://gw.example.com/orders/%c0%ae%c0%ae/billing",
        "https://gw.example.com/orders%3f/x",
        "https://gw.example.com/orders%23/x",
        "https://gw.example.com/orders%20/x",
        "https://gw.example.com/orders./x",
    ],
    "InvalidURL": [
        "https://api.example.com:443:443/x",
        "https://api.example.com:x/x",
        "https://ａpi.example.com/x",
        "https://api.example.ⓒⓞⓜ/x",
        "https://api.exam\xadple.com/x",
        "https://api.exam\u200bple.com/x",
        "https://2001:db8::1/x",
        "https://[2001:db8::1].evil.test/x",
        "http://0177.0.0.1:8080/orders/x",
        "https://api.example.com\t/x",
        "https://api.exam\nple.com/x",
        "https://api.example.com/x\r\nX: y",
        "\thttps://api.example.com/x",
        "https://api.example.com/\x00",
        "https://api.example.com\x00/x",
        "https://gw.example.com/orders/\t../billing",
        "https://\ud800.example.com/",
    ],
    "UnicodeEncodeError": [
        "https://api.example.com/\ud800",
    ],
}


def test_the_corpus(desk: Desk) -> None:
    """
    Section 4, U1 to U11, M4, M5: URLs that other parsers read in another way, each with its one
    right outcome.
    """
    expected = {url: outcome for outcome, urls in CORPUS.items() for url in urls}

    actual = {url: judge(desk, MAP, url) for url in expected}

    assert expected == actual


def test_the_oracle_notices_a_stray_token(desk: Desk) -> None:
    """
    A token that is shown to every URL of the corpus, as by a client with a default header, is
    found at each that is not its own, and at no other.
    """
    token = desk.caller.token_for(desk.auth(MAP), "https://api.example.com/")
    headers = {"X-Token": token.reveal()}
    shown = {
        url: recorder
        for urls in CORPUS.values()
        for url in urls
        for recorder, _ in [desk.ask(None, url, headers=headers)]
        if recorder.written
    }

    accepted = {url for url, recorder in shown.items() if not wrongs(recorder.written, MAP)}

    # Userinfo is not sent, and httpcore speaks wss as https: there is nothing wrong on the wire.
    alike = {url for url in CORPUS["EgressBlockedError"] if "@api.example.com" in url}
    assert {*CORPUS[RESOURCES[0]], *alike, "wss://api.example.com/x"} == accepted
    assert len(shown) > 100


# The URLs that browsers are tested with: tests/wpt/LICENSE.md says where they come from.


def of_browsers() -> tuple[list[tuple[str, str]], Rules]:
    """
    References and what they stand in, "" for nothing; and a map of every http(s) origin that any of
    them is about, each a resource of its own.
    """
    text = (Path(__file__).parent / "wpt" / "urltestdata.json").read_text("utf-8")
    entries = [entry for entry in json.loads(text) if isinstance(entry, dict)]
    pairs = [(entry["input"], entry["base"] or "") for entry in entries]
    about = [entry.get("href", "") for entry in entries] + [base for _, base in pairs]
    origins = {each[0] for url in about if (each := re.match(r"https?://[^/?#@]+(?=[/?#]|$)", url))}
    destinations = {*filter(is_destination, origins), "http://example.org/foo"}
    numbered = enumerate(sorted(destinations))
    return pairs, tuple((at, f"https://{number}.resource.example/") for number, at in numbered)


def is_destination(text: str) -> bool:
    try:
        ResourceMap({text: Resource(RESOURCES[0], allow_http=True)})
    except ConfigurationError:
        return False
    return True


def test_what_browsers_are_tested_with(desk: Desk) -> None:
    """
    P1, P3, U1 to U11: the URL tests of the Web Platform Tests, as the URL of a request, as what it
    is under a `base_url`, and as the `Location` of a redirect. Each library sees each of them.
    """
    pairs, rules = of_browsers()
    mine = pairs[("sync", "asyncio", "trio").index(desk.caller.colour) :: 3]
    resources = {resource for _, resource in rules}
    asked, redirected = Counter[str](), Counter[str]()
    for reference, base in mine:
        outcome = judge(desk, rules, reference, base if base.startswith("http") else "")
        asked["token sent" if outcome in resources else outcome] += 1
        start = base if re.match(r"https?://[^/@]+/", base) else "http://example.org/foo/bar"
        redirected[judge_redirect(desk, rules, start, reference, 302)] += 1

    # Neither are all of them refused nor are all of them let through.
    for outcomes in (asked, redirected):
        assert 10 < outcomes["token sent"] < len(mine) - 100, outcomes


def test_an_asterisk_is_no_label(desk: Desk) -> None:
    """
    M1: a wildcard stands for a label as host names have them, and `*` is none.
    """
    assert "UnmappedDestinationError" == judge(desk, MAP, "https://*.t.example.com/x")


def test_the_recorder_tells_what_happens_on_real_sockets(desk: Desk) -> None:
    """
    The same hosts, ports, server names, targets, `Host`s and tokens go by a SOCKS proxy to a
    server with TLS.
    """
    auth = desk.auth(MAP)
    # Of `*`, of address spellings and of the like, no certificate says anything.
    believing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    believing.check_hostname, believing.verify_mode = False, ssl.CERT_NONE
    failures: list[str] = []
    with (
        Origin() as origin,
        RecordingProxy(lambda *_: origin.port) as proxy,
        desk.caller.client(
            auth=auth, verify=believing, proxy=f"socks5://127.0.0.1:{proxy.port}"
        ) as client,
    ):
        for url in (url for urls in CORPUS.values() for url in urls):
            recorder, _ = desk.ask(auth, url)
            with contextlib.suppress(ResourceTokensError, ValueError, *desk.of_the_client):
                client.get(url, headers={"Connection": "close"})
            expected = [
                (_canonical(each.host), each.port, each.target, each.header("host"), each.tokens)
                for each in recorder.written
            ]
            actual = [
                (
                    _canonical(proxy.passages[-1].host),
                    proxy.passages[-1].port,
                    received.request.target,
                    received.request.header("host"),
                    audiences(repr(received.request).encode()),
                )
                for received in origin.take()
            ]
            if expected != actual:
                failures.append(f"{url!r}: {expected} recorded, {actual} it was")

    assert [] == failures, "\n".join(failures)


def _canonical(host: str) -> str:
    return ipaddress.IPv6Address(host).compressed if ":" in host else host
