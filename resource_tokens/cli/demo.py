"""
A demonstration on this machine alone: which token goes where, and three leaks that do not happen.

    python -m resource_tokens.cli.demo

It starts an authorization server and some APIs on loopback, sends real requests, and prints what
the servers' ledgers say. A token is shown as a short fingerprint under a key that is thrown away.
The exit status is 0 if every claim held, 1 if one did not, and 2 if rich is not installed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jwt

from resource_tokens._httpx import http
from resource_tokens.auth import ResourceTokenAuth
from resource_tokens.events import TokenEvent
from resource_tokens.exceptions import ResourceTokensError, UnmappedDestinationError
from resource_tokens.oauth.client_auth import ClientSecretBasic
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.resources import Resource
from resource_tokens.testing import (
    LocalAuthorizationServer,
    LocalResourceServer,
    RequestRecord,
    TokenRequestRecord,
)
from resource_tokens.tokens import AccessToken

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Fact", "Report", "Visit", "main", "run", "show"]


@dataclass(frozen=True, slots=True)
class Visit:
    """
    One request to one API, and what the ledgers say about it.

    Attributes:
        destination: Where it went, as configured.
        resource: The resource that the destination is mapped to.
        token_requests: What the authorization server was asked for on the way.
        audience: The `aud` of what it issued.
        tokens: What the API saw: the fingerprint of the token, in each request that arrived.
        answers: What the API answered.
    """

    destination: str
    resource: str
    token_requests: tuple[TokenRequestRecord, ...]
    audience: tuple[str, ...]
    tokens: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """
    A claim, and what really happened.

    Attributes:
        contrast: Whether it is about httpx without this library.
    """

    claim: str
    evidence: str
    held: bool
    contrast: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """
    All that happened. It holds no token and no secret.
    """

    visits: tuple[Visit, ...]
    facts: tuple[Fact, ...]
    leaks: tuple[Fact, ...]

    @property
    def failures(self) -> tuple[Fact, ...]:
        """
        The claims that did not hold.
        """
        return tuple(fact for fact in self.facts + self.leaks if not fact.held)

    @property
    def held(self) -> bool:
        """
        Whether every claim held.
        """
        return not self.failures


def main(authorization_server: LocalAuthorizationServer | None = None) -> int:
    """
    Run the demonstration, print it, and return the exit status.

    Args:
        authorization_server: Another one than a new `LocalAuthorizationServer`, to see what the
            demonstration says of a server that does not do its part.
    """
    try:
        from rich.console import Console
    except ImportError:
        sys.stderr.write("The demo prints with rich: pip install 'resource-tokens[cli]'\n")
        return 2
    report = run(authorization_server)
    show(report, Console())
    return 0 if report.held else 1


def run(authorization_server: LocalAuthorizationServer | None = None) -> Report:
    """
    Play the whole demonstration on loopback and say what happened. Prints nothing.

    Args:
        authorization_server: As for `main`. It is started and stopped here.
    """
    with ExitStack() as stack:
        # Warnings of what is provoked here are evidence, and shall not land between the tables.
        quiet = logging.NullHandler()
        logging.getLogger("resource_tokens").addHandler(quiet)
        stack.callback(logging.getLogger("resource_tokens").removeHandler, quiet)
        play = _Play(stack, authorization_server or LocalAuthorizationServer())
        visits = play.first_round()
        facts = (
            _fact("one token request per resource", play.one_request_each),
            _fact("each token for one audience", lambda: play.one_audience_each(visits)),
            _fact("each API sees only its own token", lambda: play.own_token_only(visits)),
            _fact("again, async: no token request", play.second_round),
            _fact("mail refuses the token for stock", play.wrong_hands),
        )
        leaks = (
            _fact("other host, stock to mail: withheld", play.redirect_to_another_host),
            _fact("same host, orders to billing: withheld", play.redirect_on_the_same_host),
            _fact(f"same host, {http.__name__} alone: carried along", play.alone, contrast=True),
            _fact("unmapped host: nothing sent", play.unmapped_host),
        )
    return Report(visits, facts, leaks)


def show(report: Report, console: Console) -> None:
    """
    Print a report.
    """
    from rich.box import SIMPLE_HEAD
    from rich.padding import Padding
    from rich.table import Column, Table
    from rich.text import Text

    yes, no = ("ok", "NO") if console.options.ascii_only else ("✓", "✗")
    # A token has the colour of its resource wherever it turns up.
    colours = [
        ((visit.resource, *visit.tokens), colour)
        for visit, colour in zip(
            report.visits, ("cyan", "magenta", "yellow", "bright_blue"), strict=False
        )
    ]

    def coloured(words: str) -> Text:
        text = Text(words)
        for names, colour in colours:
            text.highlight_words(names, colour)
        return text

    def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
        columns = [Column(head, overflow="fold") for head in heads]
        grid = Table(*columns, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
        for row in rows:
            grid.add_row(*map(coloured, row))
        return grid

    def claims(facts: Iterable[Fact]) -> Table:
        grid = Table.grid(Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2))
        for fact in facts:
            mark = ("!" if fact.contrast else yes) if fact.held else no
            style = "green" if fact.held and not fact.contrast else "red"
            claim = Text.assemble((f"{mark:{len(yes)}}", style), " ", fact.claim)
            grid.add_row(claim, coloured(fact.evidence))
        return grid

    def section(title: str, about: str, content: Table) -> None:
        console.print(Text.assemble((title, "bold"), "  ", (about, "dim")))
        console.print(Padding(content, (0, 0, 1, 2), expand=False))

    console.print(Text("resource_tokens: each token at its own resource, nowhere else\n", "bold"))
    section(
        "Shown",
        "each destination has a resource, and sees that resource's token",
        table(
            ("destination", "resource", "token seen", "answer"),
            (
                (
                    v.destination,
                    v.resource,
                    ", ".join(v.tokens) or "none",
                    ", ".join(v.answers) or "not sent",
                )
                for v in report.visits
            ),
        ),
    )
    section(
        "Asked for",
        "the token requests behind it, and the audience that came back",
        table(
            ("grant_type", "resource", "scope", "aud"),
            (
                (str(r.grant_type), " ".join(r.resources), " ".join(r.scopes), " ".join(v.audience))
                for v in report.visits
                for r in v.token_requests
            ),
        ),
    )
    section("Facts", "by the servers' own ledgers", claims(report.facts))
    section("Leaks tried", "two redirects and a stranger, and what arrived", claims(report.leaks))
    count, failures = len(report.facts + report.leaks), report.failures
    for fact in failures:
        console.print(Text(f"FAILED: {fact.claim}", "red"))
    verdict = f"{count - len(failures)} of {count} claims held"
    console.print(Text(verdict, "bold red" if failures else "bold green"))


def _fact(claim: str, act: Callable[[], tuple[str, bool]], *, contrast: bool = False) -> Fact:
    try:
        evidence, held = act()
    except (ResourceTokensError, http.HTTPError) as error:
        what_happened = str(error).partition(". ")[0]
        evidence, held = f"{type(error).__name__}: {what_happened}", False
    return Fact(claim, evidence, held, contrast)


class _Play:
    """
    The servers, the client, and the acts. An act says what happened, and whether it is as claimed.

    Every act has paths of its own, so that the ledgers tell its requests from all others.
    """

    def __init__(self, stack: ExitStack, authorization_server: LocalAuthorizationServer) -> None:
        self.server = stack.enter_context(authorization_server)
        self.hosts = tuple(
            stack.enter_context(LocalResourceServer(self.server, audiences=audiences))
            for audiences in (
                {"/": "urn:example:stock"},
                {"/": "urn:example:mail"},
                {"/orders": "urn:example:orders", "/billing": "urn:example:billing"},
                {"/": "urn:example:stranger"},
            )
        )
        self.stock, self.mail, self.gateway, self.stranger = self.hosts
        self.orders = f"{self.gateway.url}orders/"
        self.billing = f"{self.gateway.url}billing/"
        self.events: list[TokenEvent] = []
        credentials, *_ = self.server.clients.items()
        self.auth = ResourceTokenAuth(
            AuthorizationServer(issuer=self.server.issuer),
            ClientSecretBasic(*credentials),
            resources={
                self.stock.url: Resource("urn:example:stock", scopes=["stock:read"]),
                self.mail.url: Resource("urn:example:mail", scopes=["mail:send"]),
                self.orders: Resource("urn:example:orders", scopes=["orders:read"]),
                self.billing: Resource("urn:example:billing", scopes=["invoices:read"]),
            },
            on_event=self.events.append,
        )
        self.client = stack.enter_context(
            http.Client(auth=self.auth, follow_redirects=True, trust_env=False)
        )
        self.key = secrets.token_bytes(32)

    def first_round(self) -> tuple[Visit, ...]:
        return tuple(self.visit(*mapped) for mapped in self.auth.resources)

    def visit(self, destination: str, resource: Resource) -> Visit:
        asked, issued = len(self.server.token_requests), len(self.server.issued)
        url = f"{destination}first"
        # What went wrong is seen in the ledgers, and said by the acts that follow.
        with suppress(ResourceTokensError, http.HTTPError):
            self.client.get(url)
        return Visit(
            destination,
            resource.identifier,
            self.server.token_requests[asked:],
            tuple(aud for token in self.server.issued[issued:] for aud in _audience(token)),
            tuple(self.fingerprint(token) for token in self.tokens_at(url) if token),
            tuple(str(record.status) for record in self.arrived(url)),
        )

    def one_request_each(self) -> tuple[str, bool]:
        asked = [record.resources for record in self.server.token_requests]
        return self.tally(), asked == [(r.identifier,) for _, r in self.auth.resources]

    def one_audience_each(self, visits: tuple[Visit, ...]) -> tuple[str, bool]:
        exact = sum(visit.audience == (visit.resource,) for visit in visits)
        issued = len(self.server.issued)
        evidence = f"tokens: {issued}, with that aud alone: {exact}"
        return evidence, exact == issued == len(visits)

    def own_token_only(self, visits: tuple[Visit, ...]) -> tuple[str, bool]:
        seen = [token for url, _ in self.auth.resources for token in self.tokens_at(f"{url}first")]
        let_in = sum(visit.answers == ("200",) for visit in visits)
        evidence = f"let in: {let_in}, seen at two APIs: {len(seen) - len(set(seen))}"
        return evidence, seen == list(self.server.issued) and let_in == len(visits)

    def second_round(self) -> tuple[str, bool]:
        # In a thread, because whoever calls `run` may have an event loop at work already.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self.asecond_round()).result()

    async def asecond_round(self) -> tuple[str, bool]:
        asked = len(self.server.token_requests)
        async with http.AsyncClient(auth=self.auth, trust_env=False) as client:
            answers = [await client.get(f"{url}second") for url, _ in self.auth.resources]
        let_in = all(answer.status_code == 200 for answer in answers)
        return self.tally(), let_in and len(self.server.token_requests) == asked

    def wrong_hands(self) -> tuple[str, bool]:
        token = self.auth.token_for(self.stock.url)
        url = f"{self.mail.url}by-hand"
        answer = _get_alone(url, token)
        challenge = answer.headers.get("WWW-Authenticate", "")
        reason = challenge.partition("error_description=")[2].strip('"')
        held = self.tokens_at(url) == [token.reveal()] and answer.status_code == 401
        return f"{self.sight(url)} {reason}".rstrip(), held

    def redirect_to_another_host(self) -> tuple[str, bool]:
        here, there = f"{self.stock.url}moved", f"{self.mail.url}redirected"
        self.stock.redirect("/moved", there)
        self.client.get(here)
        return f"mail saw {self.sight(there)}", self.withheld(here, there)

    def unmapped_host(self) -> tuple[str, bool]:
        refusal = "no error"
        try:
            self.client.get(self.stranger.url)
        except UnmappedDestinationError as error:
            refusal = type(error).__name__
        arrived = len(self.stranger.requests)
        held = refusal == UnmappedDestinationError.__name__ and arrived == 0
        return f"{arrived} requests, {refusal}", held

    def redirect_on_the_same_host(self) -> tuple[str, bool]:
        here, there = f"{self.orders}moved", f"{self.billing}redirected"
        self.gateway.redirect("/orders/moved", there)
        self.client.get(here)
        return f"billing saw {self.sight(there)}", self.withheld(here, there)

    def alone(self) -> tuple[str, bool]:
        token = self.auth.token_for(self.orders)
        there = f"{self.billing}redirected-alone"
        self.gateway.redirect("/orders/moved-alone", there)
        _get_alone(f"{self.orders}moved-alone", token)
        return f"billing saw {self.sight(there)}", self.tokens_at(there) == [token.reveal()]

    def arrived(self, url: str) -> list[RequestRecord]:
        """
        The requests for a URL, from the ledgers.
        """
        requests = [(host.url, record) for host in self.hosts for record in host.requests]
        return [record for root, record in requests if root + record.target[1:] == url]

    def tokens_at(self, url: str) -> list[str]:
        """
        The token in each request for a URL, wherever it stood; "" for a request without one.
        """
        return [self.token_in(record) for record in self.arrived(url)]

    def token_in(self, record: RequestRecord) -> str:
        everything = "\n".join([record.target, *(value for _, value in record.headers)])
        issued = (token for token in self.server.issued if token in everything)
        headers = {name.lower(): value for name, value in record.headers}
        return next(issued, headers.get("authorization", ""))

    def withheld(self, here: str, there: str) -> bool:
        """
        Whether one request went from here to there, with a token here, with none there, and not
        silently.
        """
        carried, arrived = self.tokens_at(here), self.tokens_at(there)
        reported = ("token_withheld", there) in [(e.name, e.destination) for e in self.events]
        return len(carried) == 1 and all(carried) and arrived == [""] and reported

    def sight(self, url: str) -> str:
        """
        What arrived at a URL, and how it was answered.
        """
        requests = [
            (f"token {self.fingerprint(token)}" if token else "no Authorization", record.status)
            for token, record in zip(self.tokens_at(url), self.arrived(url), strict=True)
        ]
        return "; ".join(f"{seen}, {status}" for seen, status in requests) or "nothing"

    def tally(self) -> str:
        requests = sum(len(host.requests) for host in self.hosts)
        return f"API requests: {requests}, token requests: {len(self.server.token_requests)}"

    def fingerprint(self, token: str) -> str:
        return hashlib.blake2b(token.encode(), key=self.key, digest_size=4).hexdigest()


def _audience(token: str) -> list[str]:
    """
    What a token itself says it is for. Read here and not by the library, which is on trial.
    """
    try:
        audience = jwt.decode(token, options={"verify_signature": False})["aud"]
    except jwt.InvalidTokenError:
        return []
    return [audience] if isinstance(audience, str) else audience


def _get_alone(url: str, token: AccessToken) -> http.Response:
    """
    What a client without this library does: the token is a header, and goes where the client goes.
    """
    headers = {"Authorization": token.authorization}
    with http.Client(headers=headers, follow_redirects=True, trust_env=False) as client:
        return client.get(url)


if __name__ == "__main__":
    sys.exit(main())
