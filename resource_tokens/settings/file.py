"""
Reading a settings file: from its text to objects that their constructors have taken.

Everything that is wrong with it is said at once. So nothing here stops at the first mistake: what
is broken is left out, and what refers to it is not blamed for that.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

from resource_tokens._httpx import http
from resource_tokens.exceptions import ConfigurationError, EgressBlockedError
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.dialects import PRESETS, Dialect
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.resources import Resource, ResourceMap
from resource_tokens.settings import AuditRequest, Entry, Settings
from resource_tokens.settings.clients import maker_of
from resource_tokens.settings.grants import exchange_of, grant_of, proof_key_of
from resource_tokens.settings.messages import Wording, suggestion
from resource_tokens.settings.model import (
    Audit,
    DialectTable,
    ResourceTable,
    ServerTable,
    Table,
    errors_in,
    given,
    parsed,
)
from resource_tokens.settings.problems import Key, Lines, Problem, Problems
from resource_tokens.settings.references import References, revealed
from resource_tokens.settings.stores import store_of, url_of

__all__ = ["Reading", "load", "read"]


class Reading(NamedTuple):
    """
    What came of reading a file.

    Attributes:
        settings: The settings, if nothing is wrong.
        problems: What is wrong.
    """

    settings: Settings | None
    problems: tuple[Problem, ...]


def load(path: str | os.PathLike[str]) -> Settings:
    """
    The settings in a file.

    Raises:
        ConfigurationError: If anything is wrong, with all that is.
    """
    settings, problems = read(path)
    if settings is None:
        listed = "".join(f"\n  {problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigurationError(f"{count} in {os.fspath(path)}:{listed}")
    return settings


def read(path: str | os.PathLike[str]) -> Reading:
    """
    The settings in a file, or all that is wrong with them.
    """
    file = Path(path)
    text, why = _text_in(file)
    if why:
        return Reading(None, (Problem(None, (), why),))
    contents, problem = _parsed(text)
    if problem is not None:
        return Reading(None, (problem,))
    problems = Problems(Lines(text))
    settings = _Reader(file, contents, problems).settings()
    return Reading(settings, problems.in_order())


class _Reader:
    """
    Makes the objects of one file.
    """

    def __init__(self, file: Path, contents: dict[str, Any], problems: Problems) -> None:
        self.file = file
        self.contents = contents
        self.problems = problems
        self.references = References(file.parent, problems)
        # What has a form that nothing can be made of. An unknown key does not break its table.
        self.broken: list[Key] = []
        self.dialects: dict[str, Dialect] = {}
        self.servers: dict[str, AuthorizationServer] = {}
        self.clients: dict[str, ClientAuth] = {}
        # The name of the server that knows a client.
        self.homes: dict[str, str] = {}

    def settings(self) -> Settings | None:
        """
        The settings; `None` if anything is wrong.
        """
        self.check_form()
        for name, table in self.tables("dialects"):
            with self.problems.at("dialects", name):
                self.add_dialect(name, table)
        for name, table in self.tables("servers"):
            with self.problems.at("servers", name):
                self.add_server(name, table)
        for name, table in self.tables("clients"):
            with self.problems.at("clients", name):
                self.add_client(name, table)
        self.name_homes()
        default = self.named("client", self.contents.get("client"), self.section("clients"), ())
        resources = dict(self.tables("resources"))
        entries = [
            self.entry(destination, resources.get(destination), default)
            for destination in self.section("resources")
        ]
        whole = self.whole()
        if self.problems.found:
            return None
        return self.assembled([entry for entry in entries if entry], default, whole)

    def check_form(self) -> None:
        """
        What can be seen without making anything.
        """
        wording = Wording()
        for detail in errors_in(self.contents):
            # A form of a table that has several is in angle brackets.
            key = tuple(part for part in detail["loc"] if not re.fullmatch(r"<.*>", str(part)))
            self.problems.add(key, wording.of(detail, key))
            if detail["type"] != "extra_forbidden":
                self.broken.append(key)

    def section(self, name: str) -> Mapping[str, Any]:
        section = self.contents.get(name)
        return section if isinstance(section, dict) else {}

    def tables(self, section: str) -> Iterator[tuple[str, Any]]:
        """
        The tables of a section that something can be made of.
        """
        for name in self.section(section):
            if not self.is_broken(section, name):
                yield from parsed(section, {name: self.section(section)[name]}).items()

    def is_broken(self, *key: str) -> bool:
        return any(broken[: len(key)] == key[: len(broken)] for broken in self.broken)

    def add_dialect(self, name: str, table: DialectTable) -> None:
        options = given(table, "exchange")
        if table.default_lifetime is not None:
            options["default_lifetime"] = timedelta(seconds=table.default_lifetime)
        if table.local_hosts is not None:
            options["local_hosts"] = tuple(table.local_hosts)
        exchange = exchange_of(table.exchange, self.references, ("dialects", name, "exchange"))
        if exchange is not None:
            options["exchange"] = exchange
        self.dialects[name] = Dialect(name=name, **options)

    def add_server(self, name: str, table: ServerTable) -> None:
        here = ("servers", name)
        options = given(table, "canary", "ca_file")
        if table.dialect is not None:
            options["dialect"] = self.dialect(table.dialect, (*here, "dialect"))
        if table.timeout is not None:
            options["timeout"] = timedelta(seconds=table.timeout)
        if table.uds is not None:
            options["uds"] = self.references.path(table.uds)
        if table.ca_file is not None:
            options["verify"] = self.ca_file(table, (*here, "ca_file"))
        before = self.references.troubles
        if table.proxy is not None:
            options["proxy"] = url_of(table.proxy, self.references, (*here, "proxy"))
        for header, value in (table.headers or {}).items():
            options["headers"][header] = self.references.secret(value, (*here, "headers", header))
        if self.references.whole(before):
            self.servers[name] = _server(options)

    def dialect(self, name: str, key: Key) -> Dialect | str:
        known = {*PRESETS, *self.section("dialects")}
        if name not in known:
            self.problems.add(key, f"there is no dialect {name!r}.{suggestion(name, known)}")
        return self.dialects.get(name) or ("rfc8707" if name not in PRESETS else name)

    def ca_file(self, table: ServerTable, key: Key) -> str:
        path = self.references.path(str(table.ca_file))
        if table.verify is not None:
            self.problems.add(key, "`verify` says something else. Keep one of the two.")
        if not path.is_file():
            self.problems.add(key, f"there is no file {str(path)!r}.")
        return str(path)

    def add_client(self, name: str, table: Table) -> None:
        here = ("clients", name)
        before = self.references.troubles
        maker = maker_of(table, self.references, here)
        if self.references.whole(before):
            self.clients[name] = maker()

    def name_homes(self) -> None:
        """
        Find the server that knows each client, broken as its table may be.
        """
        for name, table in self.section("clients").items():
            named = table.get("server") if isinstance(table, dict) else None
            home = self.named("server", named, self.section("servers"), ("clients", name))
            if home is None and named is None and len(self.section("servers")) > 1:
                self.problems.add(
                    ("clients", name),
                    f"says no `server`, and there are several: {_listed(self.section('servers'))}.",
                )
            self.homes[name] = home or ""

    def named(self, what: str, name: object, known: Mapping[str, Any], table: Key) -> str | None:
        """
        The name of a server or a client; without one, that of the only one there is.
        """
        if name is None:
            return next(iter(known)) if len(known) == 1 else None
        if isinstance(name, str) and name not in known:
            why = f"there is no {what} {name!r}.{suggestion(name, known)}"
            self.problems.add((*table, what), why)
        return name if isinstance(name, str) and name in known else None

    def entry(
        self, destination: str, table: ResourceTable | str | None, default: str | None
    ) -> Entry | None:
        here = ("resources", destination)
        raw = self.section("resources")[destination]
        named = raw.get("client") if isinstance(raw, dict) else None
        client = default
        if named is not None:
            client = self.named("client", named, self.section("clients"), here)
        elif default is None and self.contents.get("client") is None and self.section("clients"):
            self.problems.add(
                here,
                f"says no `client`, and there are several: {_listed(self.section('clients'))}. "
                "Name one here, or for the whole file.",
            )
        if table is None:
            return None
        if isinstance(table, str):
            table = ResourceTable(identifier=table)
        options = {"identifier": destination, **given(table, "client", "audit", "exchange")}
        audit = None
        with self.problems.at(*here):
            if table.exchange is not None:
                exchange = exchange_of(table.exchange, self.references, (*here, "exchange"))
                options["exchange"] = exchange
            resource = Resource(**options)
            # Alone, so that what is wrong with one does not hide what is wrong with another.
            alone = ResourceMap({destination: resource})
            audit = self.audit(table.audit, destination, alone)
        home = self.homes.get(client or "", "")
        server, client_auth = self.servers.get(home), self.clients.get(client or "")
        if self.problems.within(*here) or server is None or client_auth is None:
            return None
        if client != default:
            resource = Resource(**options, server=server, client_auth=client_auth)
        canary = self.section("servers")[home].get("canary")
        if table.audit is not None and table.audit.canary is not None:
            canary = table.audit.canary
        return Entry(destination, resource, server, home, client_auth, str(client), canary, audit)

    def audit(
        self, table: Audit | None, destination: str, alone: ResourceMap
    ) -> AuditRequest | None:
        if table is None:
            return None
        url, why = table.url, ""
        try:
            url = urljoin(f"{destination.rstrip('/')}/", url)
            covered = alone.resource_for(url) is not None
        except (EgressBlockedError, http.InvalidURL, ValueError) as error:
            covered, why = False, f": {error}"
        if not covered:
            self.problems.add(
                ("resources", destination, "audit", "url"),
                f"this leads to {url!r}, which the destination does not cover{why}.",
            )
        return AuditRequest(url, table.method, frozenset(table.wrong_scopes))

    def whole(self) -> dict[str, Any]:
        """
        What the file says for all resources.
        """
        whole: dict[str, Any] = {}
        references = self.references
        with self.problems.at("store"):
            whole["store"] = store_of(self.table("store"), references)
        with self.problems.at("grant"):
            whole["grant"] = grant_of(self.table("grant"), references, whole.get("store"))
        with self.problems.at("exchange"):
            whole["exchange"] = exchange_of(self.table("exchange"), references, ("exchange",))
        with self.problems.at("proof_key"):
            whole["proof_key"] = proof_key_of(self.table("proof_key"), references)
        return whole

    def table(self, name: str) -> Any:
        """
        A table of the file itself; `None` if it is not there or nothing can be made of it.
        """
        if name not in self.contents or self.is_broken(name):
            return None
        return parsed(name, self.contents[name])

    def assembled(
        self, entries: list[Entry], default: str | None, whole: dict[str, Any]
    ) -> Settings | None:
        """
        The settings; `None` if their parts do not go together.
        """
        first = entries[0]
        settings = Settings(
            str(self.file),
            self.servers[self.homes[default]] if default else first.server,
            self.clients[default] if default else first.client_auth,
            tuple(entries),
            self.contents.get("unmapped", "raise"),
            tuple(self.contents.get("discover", ())),
            **whole,
            secret_files=tuple(dict.fromkeys(self.references.files)),
            lines=self.problems.lines,
        )
        with self.problems.at("resources"):
            ResourceMap(settings.resources)
        if not self.problems.found:
            with self.problems.at():
                settings.auth().close()
        return None if self.problems.found else settings


def _server(options: dict[str, Any]) -> AuthorizationServer:
    return AuthorizationServer(**revealed(options))


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _text_in(file: Path) -> tuple[str, str]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_SIZE + 1)
        if len(content) > _MAX_SIZE:
            return "", f"is larger than {_MAX_SIZE // 1024} KiB."
        return content.decode("utf-8-sig").replace("\r\n", "\n"), ""
    except OSError as error:
        return "", f"cannot be read: {error.strerror or type(error).__name__}."
    except UnicodeDecodeError:
        return "", "is not UTF-8, as TOML asks for."


def _parsed(text: str) -> tuple[dict[str, Any], Problem | None]:
    try:
        return tomllib.loads(text), None
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at ")
    numbers = re.findall(r"[0-9]+", place)
    if len(numbers) == 2:
        return {}, Problem(int(numbers[0]), (), f"is no TOML: {what}, in column {numbers[1]}.")
    return {}, Problem(text.count("\n") + 1, (), f"is no TOML: {what}, at the end.")


_MAX_SIZE = 256 * 1024
