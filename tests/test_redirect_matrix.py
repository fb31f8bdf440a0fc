"""
Every redirect there is, by every road, in every colour: what each server and proxy really received.

One table says what is redirected where, and what becomes of the token. Its rows are driven with
each redirect status, and some variants of them with one, by real sockets, over each road:

- `direct`: to loopback addresses with ports, HTTP/1.1 and, where TLS is spoken, HTTP/2;
- `tunnel`: by an HTTP proxy, so that hosts have names and default ports: CONNECT for https, and
  for http the proxy itself reads the request;
- `socks`: by a SOCKS5 proxy, where http on port 80 and https on port 443 are one host.

The claim is read off the ledgers of the servers and of the proxies, by exact search for the
tokens. The same request also carries a copy of its token in a header of the caller's own, which
httpx forwards everywhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, unquote

import httpx
import httpx2
import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    EgressBlockedError,
    Resource,
    ResourceTokenAuth,
    TokenEvent,
)
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import Caller
from tests.servers.origin import Origin, Received
from tests.servers.proofs import read_proof, thumbprint_of
from tests.servers.proxy import RecordingProxy
from tests.servers.tls import trusting

A, B, C = "urn:example:a", "urn:example:b", "urn:example:c"
TENANTS = "https://tenants.example.test/"

Road = Literal["direct", "tunnel", "socks"]
Sender = Literal["bearer", "dpop"]
Fate = Literal["carried", "reauthorized", "withheld", "blocked", "refused"]
"""
What becomes of the token of the first request on a hop: the receiver sees it; it sees its own
token instead; it sees none; the library stops the hop; httpx itself does not follow.
"""


@dataclass(frozen=True)
class Hop:
    """
    One redirect. `{case}` is a path segment of the case's own, `{home}` and so on are origins,
    `{home_at}` their authorities, `{token}` is the token of the first request.

    Attributes:
        location: The `Location` header.
        lands: The origin that receives the hop, and the target on the wire.
    """

    location: str
    lands: str
    fate: Fate


@dataclass(frozen=True)
class Row:
    """
    A chain of redirects.

    Attributes:
        start: The origin and target of the first request.
        roads: Where it can be driven. Names and default ports are not to be had on loopback.
    """

    name: str
    hops: tuple[Hop, ...]
    start: str = "home /a/{case}/jump"
    roads: tuple[Road, ...] = ("direct", "tunnel", "socks")


def row(name: str, location: str, lands: str, fate: Fate, *then: Hop, **more: Any) -> Row:
    return Row(name, (Hop(location, lands, fate), *then), **more)


LANDING = "home /a/{case}/landing"
NAMED: dict[str, Any] = {"roads": ("tunnel", "socks")}
AT_PLAIN: dict[str, Any] = {"start": "plain /a/{case}/jump"}
AT_WHOLE: dict[str, Any] = {"start": "whole /{case}/jump"}
AT_RED: dict[str, Any] = {"start": "red /{case}/jump"} | NAMED

# Each of these with each status.
TABLE = [
    # Same resource, same origin.
    row("A: absolute", "{home}/a/{case}/landing", LANDING, "carried"),
    row("A: relative", "landing", LANDING, "carried"),
    # Same resource, other origin.
    row("A: other origin", "{other}/a/{case}/landing", "other /a/{case}/landing", "carried"),
    row("A: other port", "{port}/a/{case}/landing", "port /a/{case}/landing", "carried"),
    # Other resource, same origin.
    row("B: same origin", "{home}/b/{case}/landing", "home /b/{case}/landing", "withheld"),
    row("B: relative", "/b/{case}/landing", "home /b/{case}/landing", "withheld"),
    row("C: reauthorized", "/c/{case}/landing", "home /c/{case}/landing", "reauthorized"),
    # Other resource, other origin.
    row("B: other origin", "{other}/b/{case}/landing", "other /b/{case}/landing", "withheld"),
    row("C: other origin", "{other}/c/{case}/landing", "other /c/{case}/landing", "reauthorized"),
    # Where nothing is mapped.
    row("lost: origin", "{lost}/a/{case}/landing", "lost /a/{case}/landing", "withheld"),
    row("lost: other port", "{stray}/a/{case}/landing", "stray /a/{case}/landing", "withheld"),
    row("lost: path", "/z/{case}/landing", "home /z/{case}/landing", "withheld"),
    # Up.
    row("up: A", "{home}/a/{case}/landing", LANDING, "carried", **AT_PLAIN),
    row("up: B", "{home}/b/{case}/landing", "home /b/{case}/landing", "withheld", **AT_PLAIN),
    row("up: lost", "{lost}/a/{case}", "lost /a/{case}", "withheld", **AT_PLAIN),
    row(
        "up: same host, not mapped",
        "{upgraded}/a/{case}/landing",
        "upgraded /a/{case}/landing",
        "withheld",
        start="legacy /a/{case}/jump",
    ),
    # Down.
    row("down: A", "{plain}/a/{case}/landing", "plain /a/{case}/landing", "carried"),
    row("down: B", "{plain}/b/{case}/landing", "plain /b/{case}/landing", "withheld"),
    row(
        "down: same host, not mapped",
        "{bare}/a/{case}/landing",
        "bare /a/{case}/landing",
        "withheld",
        start="other /a/{case}/jump",
    ),
    # Userinfo.
    row("userinfo: A", "https://user:word@{home_at}/a/{case}/landing", LANDING, "carried"),
    row("userinfo: B", "https://u@{home_at}/b/{case}", "home /b/{case}", "withheld"),
    row("userinfo: host", "https://{home_at}@{lost_at}/a/{case}", "lost /a/{case}", "withheld"),
    # `//host`
    row("//: A", "//{other_at}/a/{case}/landing", "other /a/{case}/landing", "carried"),
    row("//: B", "//{other_at}/b/{case}/landing", "other /b/{case}/landing", "withheld"),
    row("//: lost", "//{lost_at}/a/{case}/landing", "lost /a/{case}/landing", "withheld"),
    # `..`, which httpx resolves before it sends the request.
    row("..: to B", "/a/{case}/../../b/{case}/landing", "home /b/{case}/landing", "withheld"),
    row("..: relative", "../../b/{case}/landing", "home /b/{case}/landing", "withheld"),
    row("..: to A", "/b/{case}/../../a/{case}/landing", LANDING, "carried"),
    # `%2e%2e` and `%2f`, which it sends, and which can be read in more than one way.
    row("%2e%2e", "/a/{case}/%2e%2e/%2e%2e/b", "home /a/{case}/%2e%2e/%2e%2e/b", "withheld"),
    row("%2f", "/a/{case}%2f..%2f..%2fb", "home /a/{case}%2f..%2f..%2fb", "withheld"),
    # A host that is one resource: there the path decides nothing.
    row("whole: %2e%2e", "/%2e%2e/{case}", "whole /%2e%2e/{case}", "carried", **AT_WHOLE),
    row("whole: %2f", "/b%2f..%2f{case}", "whole /b%2f..%2f{case}", "carried", **AT_WHOLE),
    # The token itself, written into the URL by the first API.
    row("query: A", "landing?t={token}", LANDING, "blocked"),
    row("query: B", "/b/{case}?access_token={token}", "home /b/{case}", "blocked"),
    row("query: lost", "{lost}/{case}?a=1&t={token}", "lost /{case}", "blocked"),
    # More hops than one.
    row(
        "chain: A, A, B",
        "second",
        "home /a/{case}/second",
        "carried",
        Hop("/b/{case}/landing", "home /b/{case}/landing", "withheld"),
    ),
    row(
        "chain: A, B, B",
        "{other}/b/{case}/second",
        "other /b/{case}/second",
        "withheld",
        Hop("landing", "other /b/{case}/landing", "withheld"),
    ),
    row(
        "chain: A, lost, B",
        "{lost}/a/{case}/second",
        "lost /a/{case}/second",
        "withheld",
        Hop("{home}/b/{case}/landing", "home /b/{case}/landing", "withheld"),
    ),
]

# Each of these with one status.
VARIANTS = [
    row("A: query", "?page=2", "home /a/{case}/jump?page=2", "carried"),
    row("A: fragment", "/a/{case}/landing#@{lost_at}/", LANDING, "carried"),
    row("A: a URL in the query", "landing?to={lost}/", LANDING + "?to={lost}/", "carried"),
    row("A: non-ASCII path", "caf%C3%A9", "home /a/{case}/caf%C3%A9", "carried"),
    row(
        "A: letter case", "HTTPS://HOME.example.TEST/a/{case}/landing", LANDING, "carried", **NAMED
    ),
    row("A: its port", "https://{home_at}:443/a/{case}/landing", LANDING, "carried", **NAMED),
    row("A: empty port", "https://{home_at}:/a/{case}/landing", LANDING, "carried", **NAMED),
    row("A: odd port", "https://{home_at}:0443/a/{case}/landing", LANDING, "carried", **NAMED),
    row("B: a segment alone", "/b?{case}", "home /b?{case}", "withheld"),
    row("B: encoded", "/%62/{case}/landing", "home /%62/{case}/landing", "withheld"),
    row("A: encoded", "/%61/{case}/landing", "home /%61/{case}/landing", "withheld"),
    row("A: plain", "{plain}/a/{case}/landing", "plain /a/{case}/landing", "carried", **AT_PLAIN),
    row("B: plain", "/b/{case}/landing", "plain /b/{case}/landing", "withheld", **AT_PLAIN),
    row("lost: origin alone", "{lost}?{case}", "lost /?{case}", "withheld"),
    row("lost: query", "{lost}?{case}@{home_at}/a/", "lost /?{case}@{home_at}/a/", "withheld"),
    row("lost: fragment", "{lost}/{case}#@{home_at}/a/", "lost /{case}", "withheld"),
    row("lost: port without the path", "{port}/b/{case}", "port /b/{case}", "withheld"),
    row("lost: root", "/?{case}", "home /?{case}", "withheld"),
    row("lost: half a segment", "/ab/{case}/landing", "home /ab/{case}/landing", "withheld"),
    row("lost: letter case", "/A/{case}/landing", "home /A/{case}/landing", "withheld"),
    row("lost: subdomain", "{sub}/a/{case}", "sub /a/{case}", "withheld", **NAMED),
    row("lost: parent domain", "{parent}/a/{case}", "parent /a/{case}", "withheld", **NAMED),
    row("lost: trailing dot", "{dotted}/a/{case}", "dotted /a/{case}", "withheld", **NAMED),
    row("wildcard: sibling", "{blue}/{case}/landing", "blue /{case}/landing", "carried", **AT_RED),
    row("wildcard: two labels", "{deep}/{case}", "deep /{case}", "withheld", **AT_RED),
    row("wildcard: its parent", "{tenants}/{case}", "tenants /{case}", "withheld", **AT_RED),
    row("userinfo: %2f", "https://{home_at}%2f@{lost_at}/a/{case}", "lost /a/{case}", "withheld"),
    row("userinfo: \\", "https://{home_at}\\@{lost_at}/a/{case}", "lost /a/{case}", "withheld"),
    row("userinfo: empty", "https://@{lost_at}/a/{case}", "lost /a/{case}", "withheld"),
    row("userinfo: token", "https://user:{token}@{lost_at}/{case}", "lost /{case}", "withheld"),
    row("//: userinfo", "//{home_at}@{lost_at}/a/{case}", "lost /a/{case}", "withheld"),
    row("///", "///{lost_at}/a/{case}", "home /{lost_at}/a/{case}", "withheld"),
    row("\\\\", "\\\\{lost_at}\\a", "home /a/{case}/\\\\{lost_at}\\a", "withheld"),
    row("/\\", "/\\{lost_at}/a/{case}", "home /\\{lost_at}/a/{case}", "withheld"),
    row("https:/", "https:/lost/a/{case}", "home /lost/a/{case}", "withheld", **NAMED),
    row("https:///", "https:///lost/a/{case}", "home /lost/a/{case}", "withheld", **NAMED),
    row("..: within A", "../{case}/./landing", LANDING, "carried"),
    row("..: too many", "../../../../../a/{case}/landing", LANDING, "carried"),
    row("..: absolute", "{home}/a/../b/{case}/landing", "home /b/{case}/landing", "withheld"),
    *(
        row(f"ambiguous: {path}", f"/a/{{case}}{path}", f"home /a/{{case}}{path}", "withheld")
        for path in (
            "/%2E%2E/%2E%2E/b",
            "/.%2e/.%2e/b",
            "/%252e%252e/b",
            "/..%2f..%2fb",
            "/x%2Fy",
            "/..%5c..%5cb",
            "/..\\..\\b",
            "/..;/..;/b",
            ";v=1",
            "//b",
            "/%00",
            "/%0d%0a",
            "/%zz",
        )
    ),
    row("C: %2e%2e", "/c/{case}/%2e%2e/a", "home /c/{case}/%2e%2e/a", "withheld"),
    row("A: other origin, %2e", "{other}/a/%2e/{case}", "other /a/%2e/{case}", "withheld"),
    row("whole: //", "{whole}//x//{case}", "whole //x//{case}", "carried", **AT_WHOLE),
    row("whole: to B", "{home}/b/{case}", "home /b/{case}", "withheld", **AT_WHOLE),
    row("to the whole", "{whole}/%2e%2e/{case}", "whole /%2e%2e/{case}", "carried"),
    row("query: encoded", "{lost}/{case}?h=Bearer%20{quoted}", "lost /{case}", "blocked"),
    row("query: ambiguous", "/a/%2e%2e/{case}?t={token}", "home /a/%2e%2e/{case}", "blocked"),
    row("path: A", "{token}", LANDING, "blocked"),
    row("path: B", "/b/{case}/{token}", "home /b/{case}", "blocked"),
    row("path: lost", "{lost}/{case}/{token}/x", "lost /{case}", "blocked"),
    # httpcore speaks these as http and https.
    row("ws", "ws://{plain_at}/a/{case}", "plain /a/{case}", "withheld", roads=("direct", "socks")),
    row("wss", "wss://{home_at}/a/{case}", "home /a/{case}", "withheld", roads=("direct",)),
    # What httpx does not follow.
    row("scheme: ftp", "ftp://{home_at}/a/{case}", LANDING, "refused"),
    row("scheme: file", "file:///a/{case}", LANDING, "refused"),
    row("scheme: data", "data:,{case}", LANDING, "refused"),
    row("no URL: port", "https://{home_at}:x/a/{case}", LANDING, "refused"),
    row("no URL: no slash", "https:{home_at}/a/{case}", LANDING, "refused"),
    row(
        "chain: A, lost, lost",
        "{lost}/a/{case}/second",
        "lost /a/{case}/second",
        "withheld",
        Hop("/a/{case}/landing", "lost /a/{case}/landing", "withheld"),
    ),
    row(
        "chain: A, lost, A",
        "{lost}/a/{case}/second",
        "lost /a/{case}/second",
        "withheld",
        Hop("{home}/a/{case}/landing", "home /a/{case}/landing", "withheld"),
    ),
    row(
        "chain: A, B, A",
        "/b/{case}/second",
        "home /b/{case}/second",
        "withheld",
        Hop("/a/{case}/landing", "home /a/{case}/landing", "withheld"),
    ),
    row(
        "chain: A, C, C",
        "/c/{case}/second",
        "home /c/{case}/second",
        "reauthorized",
        Hop("landing", "home /c/{case}/landing", "reauthorized"),
    ),
    row(
        "chain: A, C, A",
        "/c/{case}/second",
        "home /c/{case}/second",
        "reauthorized",
        Hop("/a/{case}/landing", LANDING, "withheld"),
    ),
    row(
        "chain: A, C, B",
        "/c/{case}/second",
        "home /c/{case}/second",
        "reauthorized",
        Hop("/b/{case}/landing", "home /b/{case}/landing", "withheld"),
    ),
    row(
        "chain: A, C, lost",
        "/c/{case}/second",
        "home /c/{case}/second",
        "reauthorized",
        Hop("{lost}/{case}/landing", "lost /{case}/landing", "withheld"),
    ),
    row(
        "chain: A, other A, A",
        "{other}/a/{case}/second",
        "other /a/{case}/second",
        "carried",
        Hop("{home}/a/{case}/landing", LANDING, "carried"),
    ),
]
STATUSES = (301, 302, 303, 307, 308)
CASES = [(each, status) for each in TABLE for status in STATUSES]
CASES += [(each, STATUSES[number % 5]) for number, each in enumerate(VARIANTS)]


@dataclass(frozen=True)
class Place:
    """
    An origin under its name, and the resources that are mapped there, by the first segment of
    the path; by "" if the host is one resource.
    """

    scheme: str
    host: str
    port: int
    origin: Origin
    resources: dict[str, str] = field(default_factory=dict)

    @property
    def authority(self) -> str:
        return self.host + (f":{self.port}" if self.port not in (80, 443) else "")

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}"

    def covers(self, target: str) -> str | None:
        """
        The resource that may see its token here. By the first segment of a path in plain form,
        and nothing else: a check of the library must not share its reasoning.
        """
        if "" in self.resources:
            return self.resources[""]
        path = target.partition("?")[0]
        if re.search(r"%[0-7]|%(?![0-9A-Fa-f]{2})|[\\;]|//|/\.\.?(/|$)", path):
            return None
        return self.resources.get(path.split("/")[1])


# The key of a place; its scheme, its name and port where it may have them, the number of the
# listener behind it, and what is mapped there. Loopback has no names: there, a listener serves
# http and https on its one port.
PLACES: list[tuple[str, str, str, int, int, dict[str, str]]] = [
    ("home", "https", "home.example.test", 443, 0, {"a": A, "b": B, "c": C}),
    ("plain", "http", "home.example.test", 80, 0, {"a": A, "b": B}),
    ("other", "https", "other.example.test", 443, 1, {"a": A, "b": B, "c": C}),
    ("bare", "http", "other.example.test", 80, 1, {}),
    ("port", "https", "home.example.test", 8443, 2, {"a": A}),
    ("whole", "https", "whole.example.test", 443, 3, {"": A}),
    ("legacy", "http", "legacy.example.test", 80, 4, {"a": A}),
    ("upgraded", "https", "legacy.example.test", 443, 4, {}),
    ("lost", "https", "lost.test", 443, 5, {}),
    ("stray", "https", "home.example.test", 9443, 6, {}),
    ("red", "https", "red.tenants.example.test", 443, 7, {"": TENANTS}),
    ("blue", "https", "blue.tenants.example.test", 443, 8, {"": TENANTS}),
    ("deep", "https", "a.b.tenants.example.test", 443, 9, {}),
    ("tenants", "https", "tenants.example.test", 443, 10, {}),
    ("sub", "https", "a.home.example.test", 443, 11, {}),
    ("parent", "https", "example.test", 443, 12, {}),
    # In http, since no certificate is good for a name with a dot at its end.
    ("dotted", "http", "home.example.test.", 80, 13, {}),
]
ON_LOOPBACK = range(7)


class Grounds:
    """
    The servers of this module: started once, shared by all cases.
    """

    def __init__(self, stack: ExitStack) -> None:
        names = {host for _, _, host, *_ in PLACES if not host.endswith(".")}
        self.trusting = trusting()
        count = 1 + max(number for *_, number, _ in PLACES)
        self.origins = [stack.enter_context(Origin(*names)) for _ in range(count)]
        self.named = {
            key: Place(scheme, host, port, self.origins[number], mapped)
            for key, scheme, host, port, number, mapped in PLACES
        }
        self.loopback = {
            key: Place(scheme, "127.0.0.1", self.origins[number].port, self.origins[number], mapped)
            for key, scheme, _, _, number, mapped in PLACES
            if number in ON_LOOPBACK
        }
        ports = {(place.host, place.port): place.origin.port for place in self.named.values()}
        self.proxy = stack.enter_context(RecordingProxy(lambda *where: ports.get(where)))
        self.server = stack.enter_context(
            LocalAuthorizationServer(clients={"worker": "secret"}, token_format="opaque")
        )

    def auth(
        self, places: dict[str, Place], events: list[TokenEvent], sender: Sender
    ) -> ResourceTokenAuth:
        resources = {
            f"{place.url}/{segment}": Resource(
                identifier,
                allow_http=True,
                redirects="reauthorize" if identifier == C else "withhold",
                sender=sender,
            )
            for place in places.values()
            for segment, identifier in place.resources.items()
            if identifier != TENANTS
        }
        if "red" in places:
            resources["https://*.tenants.example.test/"] = Resource(TENANTS, sender=sender)
        return ResourceTokenAuth(
            AuthorizationServer(issuer=self.server.issuer, verify=self.trusting),
            ClientSecretBasic("worker", "secret"),
            resources=resources,
            on_event=events.append,
        )


@pytest.fixture(autouse=True)
def no_secret_shows() -> None:
    """
    Not here: servers that write a token into `Location` are among the cases, and httpcore logs
    what they answer. `TokenFilter` is for that.
    """


@pytest.fixture(scope="module")
def grounds() -> Iterator[Grounds]:
    with ExitStack() as stack:
        yield Grounds(stack)


class Journey:
    """
    One client on one road, and its cases one after the other.
    """

    def __init__(
        self,
        grounds: Grounds,
        road: Road,
        client: Any,
        protocol: str,
        tokens: dict[str, str],
        *,
        sender: Sender,
    ) -> None:
        self._road = road
        self._scheme = {"bearer": "Bearer", "dpop": "DPoP"}[sender]
        self._protocol = protocol
        self._places = grounds.loopback if road == "direct" else grounds.named
        self._origins = grounds.origins
        self._client = client
        self._tokens = tokens
        self._words = {key: place.url for key, place in self._places.items()}
        self._words |= {f"{key}_at": place.authority for key, place in self._places.items()}

    def fails(self, row: Row, status: int, case: str, events: list[TokenEvent]) -> list[str]:
        """
        Drive one case, and say what is wrong; [] if nothing is.
        """
        place, target = self._find(row.start, case)
        token = self._tokens[place.covers(target) or A]
        words = {"case": case, "token": token, "quoted": quote(token, safe="")}
        expected: list[tuple[Place, str, Fate]] = [(place, target, "carried")]
        for origin in self._origins:
            origin.redirects.clear()
        source = (place, target)
        for hop in row.hops:
            source[0].origin.redirects[source[1]] = (
                status,
                hop.location.format(**self._words, **words),
            )
            source = self._find(hop.lands, case, token)
            expected.append((*source, hop.fate))
        expected = list(self._on_this_road(expected))
        del events[:]

        outcome = self._outcome(place.url + target, token)

        seen = [(origin, each) for origin in self._origins for each in origin.take()]
        received = [item for item in expected if item[2] not in ("blocked", "refused")]
        wrong = self._misplaced(seen)
        last = expected[-1][2]
        wanted = last if last in ("blocked", "refused") else "answered"
        if wanted != outcome:
            wrong.append(f"{wanted} expected, {outcome} it was")
        if len(received) != len(seen):
            wrong.append(f"{len(received)} requests expected: {seen}")
        for number, (at, wire, fate) in enumerate(received):
            at_place = [
                each
                for origin, each in seen
                if (origin, each.scheme, _path(each)) == (at.origin, at.scheme, wire)
            ]
            if len(at_place) != 1:
                wrong.append(f"{at.url}{wire} was asked {len(at_place)} times: {seen}")
                continue
            replayed = number == 0 or status in (307, 308)
            wrong += self._unlike(at_place[0], at, fate, token, replayed)
        want = [_EVENTS[fate] for _, _, fate in expected if fate in _EVENTS]
        if want != [event.name for event in events]:
            wrong.append(f"{want} expected of {events}")
        return [f"{self._road} {row.name!r} {status}: {text}" for text in wrong]

    def _find(self, where: str, case: str, token: str = "") -> tuple[Place, str]:
        key, target = where.format(**self._words, case=case, token=token).split(" ", 1)
        return self._places[key], target

    def _on_this_road(
        self, expected: Sequence[tuple[Place, str, Fate]]
    ) -> Iterator[tuple[Place, str, Fate]]:
        for number, (place, target, fate) in enumerate(expected):
            if self._road == "tunnel" and place.scheme == "http" and fate == "carried":
                # Of http, the proxy reads every header.
                fate = "withheld" if number else "blocked"  # noqa: PLW2901
            yield place, target, fate
            if fate == "blocked":
                return

    def _outcome(self, url: str, token: str) -> str:
        library = self._client.caller.library
        try:
            self._client.request(
                "POST", url, content=BODY, headers={"X-Copy": f"again {token}", "X-Own": "kept"}
            )
        except EgressBlockedError:
            return "blocked"
        except (library.HTTPError, library.InvalidURL):
            return "refused"
        return "answered"

    def _misplaced(self, seen: list[tuple[Origin, Received]]) -> list[str]:
        """
        INV-1: what a server has seen contains only tokens of a resource that covers its origin
        and the path.
        """
        places = {(place.origin, place.scheme): place for place in self._places.values()}
        return [
            f"the token for {resource} was seen at {each}"
            for origin, each in seen
            for resource, token in self._tokens.items()
            if each.request.contains(token)
            and resource != places[origin, each.scheme].covers(_path(each))
        ]

    def _unlike(
        self, received: Received, place: Place, fate: str, token: str, replayed: bool
    ) -> Iterator[str]:
        own = self._tokens[C]
        secure = place.scheme == "https"
        shown = [each for at, each in (("carried", token), ("reauthorized", own)) if at == fate]
        request = received.request
        bound = shown if self._scheme == "DPoP" else []
        proofs = [read_proof(proof)[1] for proof in request.header("dpop")]
        where = unquote(place.url + _path(received).partition("?")[0])
        comparisons: dict[str, tuple[Any, Any]] = {
            "Authorization": (
                [f"{self._scheme} {each}" for each in shown],
                request.header("authorization"),
            ),
            "DPoP": (
                [(request.method, where, thumbprint_of(each.encode())) for each in bound],
                [(each["htm"], unquote(each["htu"]), each["ath"]) for each in proofs],
            ),
            "X-Copy": ([f"again {token}"] if fate == "carried" else [], request.header("x-copy")),
            "X-Own": (["kept"], request.header("x-own")),
            "protocol": (self._protocol if secure else "HTTP/1.1", received.protocol),
            "server name": (
                place.host if secure and self._road != "direct" else None,
                received.server_name,
            ),
            "Host": ([place.authority], received.authority),
            "method": ("POST" if replayed else "GET", request.method),
            "body": (BODY if replayed else b"", request.body),
        }
        for what, (expected, actual) in comparisons.items():
            if expected != actual:
                yield f"{what}: {expected!r} expected, {actual!r} it was, at {received}"


def _path(received: Received) -> str:
    """
    The target without the origin that a forward proxy is told.
    """
    return re.sub(r"^http://[^/?]*", "", received.request.target)


BODY = b"a body that is sent again after 307 and 308 alone"
_EVENTS = {
    "withheld": "token_withheld",
    "reauthorized": "token_withheld",
    "blocked": "egress_blocked",
}


def drive(
    caller: Caller,
    grounds: Grounds,
    road: Road,
    *,
    http2: bool,
    cases: Sequence[tuple[Row, int]] = CASES,
    plugin: Callable[[ResourceTokenAuth], Any] = lambda auth: auth,
    sender: Sender = "bearer",
) -> tuple[list[str], Counter[Fate], set[str]]:
    """
    All cases with one client and one auth object: the failures, how often which fate was met, and
    in which ways a proxy was asked.
    """
    events: list[TokenEvent] = []
    places = grounds.loopback if road == "direct" else grounds.named
    auth = grounds.auth(places, events, sender)
    scheme = {"tunnel": "http", "socks": "socks5"}.get(road)
    proxy = None if scheme is None else f"{scheme}://127.0.0.1:{grounds.proxy.port}"
    tokens = {
        resource: caller.token_for(auth, f"{place.url}/{segment}").reveal()
        for place in places.values()
        for segment, resource in place.resources.items()
    }
    passed = len(grounds.proxy.passages)
    failures: list[str] = []
    fates: Counter[Fate] = Counter()
    with caller.client(
        auth=plugin(auth), verify=grounds.trusting, http2=http2, proxy=proxy, follow_redirects=True
    ) as client:
        protocol = "HTTP/2" if http2 else "HTTP/1.1"
        journey = Journey(grounds, road, client, protocol, tokens, sender=sender)
        for number, (each, status) in enumerate(cases):
            if road in each.roads:
                failures += journey.fails(each, status, f"case-{number}", events)
                fates[each.hops[-1].fate] += 1
    for passage in grounds.proxy.passages[passed:]:
        allowed = {
            resource
            for place in places.values()
            if (place.scheme, place.host, place.port) == ("http", passage.host, passage.port)
            for resource in place.resources.values()
            if passage.kind == "socks"
        }
        failures += [
            f"{road}: the token for {resource} was seen in {passage}"
            for resource, token in tokens.items()
            if token.encode() in passage.sent and resource not in allowed
        ]
        if passage.kind == "forward" and b"dpop:" in passage.sent.lower():
            failures.append(f"{road}: a proof was seen in {passage}")
    kinds: set[str] = {passage.kind for passage in grounds.proxy.passages[passed:]}
    return failures, fates, kinds


@pytest.mark.parametrize(
    ("road", "http2", "proxied"),
    [
        pytest.param("direct", False, set(), id="direct-http1"),
        pytest.param("direct", True, set(), id="direct-http2"),
        pytest.param("tunnel", False, {"connect", "forward"}, id="tunnel-http1"),
        pytest.param("tunnel", True, {"connect", "forward"}, id="tunnel-http2"),
        pytest.param("socks", False, {"socks"}, id="socks-http1"),
    ],
)
def test_a_token_is_seen_by_its_resource_and_by_nobody_else(
    caller: Caller, grounds: Grounds, road: Road, http2: bool, proxied: set[str]
) -> None:
    """
    P3, INV-1, R1 to R6, R11, R12, R6750-10, R9110-2: for each row and status, each server and proxy
    has seen what the table says, and no other token than its own.
    """
    failures, fates, asked = drive(caller, grounds, road, http2=http2)

    assert [] == failures, "\n".join(failures)
    assert proxied == asked
    assert {"carried", "reauthorized", "withheld", "blocked", "refused"} == set(fates)


# One colour for each road: that the colours are alike is shown above.
@pytest.mark.parametrize(
    ("caller", "road", "http2"),
    [
        pytest.param((httpx2, "sync"), "direct", True, id="direct-httpx2-sync"),
        pytest.param((httpx, "asyncio"), "tunnel", False, id="tunnel-httpx-asyncio"),
        pytest.param((httpx2, "trio"), "socks", False, id="socks-httpx2-trio"),
    ],
    indirect=["caller"],
)
def test_a_proof_is_seen_with_its_token_and_by_nobody_else(
    caller: Caller, grounds: Grounds, road: Road, http2: bool
) -> None:
    """
    P3, R9449-2, R9449-3: the same for tokens that are bound to a key. Each that was seen came with
    one proof, for that very request and token; where there was none, there was no proof.
    """
    failures, fates, _ = drive(caller, grounds, road, http2=http2, sender="dpop")

    assert [] == failures, "\n".join(failures)
    assert {"carried", "reauthorized", "withheld", "blocked", "refused"} == set(fates)


class OrdinaryAuth(httpx.Auth):
    """
    The right token for the first request, as plugins without a guard have it.
    """

    def __init__(self, auth: ResourceTokenAuth) -> None:
        self._auth = auth

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = self._auth.token_for(request.url).authorization
        yield request


def test_the_matrix_notices_a_leak(grounds: Grounds) -> None:
    """
    What httpx alone would show to others, and what it would drop, is found.
    """
    caller = Caller(httpx, "sync", None)
    names = ("B: same origin", "lost: origin", "up: same host, not mapped", "down: A", "query: B")
    cases = [case for case in CASES if case[0].name in names]

    failures, _, _ = drive(caller, grounds, "socks", http2=False, cases=cases, plugin=OrdinaryAuth)

    found = "\n".join(failures)
    assert "'B: same origin' 301: the token for urn:example:a was seen at" in found
    assert "'B: same origin' 308: Authorization: [] expected" in found
    assert "'lost: origin' 307: X-Copy: [] expected" in found
    assert "'up: same host, not mapped' 303: Authorization: [] expected" in found
    assert "'down: A' 302: Authorization: ['Bearer" in found
    assert "'query: B' 301: blocked expected, answered it was" in found
