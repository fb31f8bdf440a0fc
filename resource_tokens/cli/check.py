"""
`resource-tokens check`: what is wrong with settings, and what is only too broad.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from publicsuffixlist import PublicSuffixList

from resource_tokens._httpx import http
from resource_tokens.exceptions import EgressBlockedError, ResourceTokensError
from resource_tokens.resources import ResourceMap
from resource_tokens.settings import Entry, Settings
from resource_tokens.settings.problems import Key, Problem, key_text

__all__ = ["Finding", "as_findings", "findings", "findings_online"]

Level = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """
    Something to know about settings.

    Attributes:
        level: An error is wrong, a warning gives away some of the protection, and a note says how
            things are.
        rule: What it was found by.
        line: The line in the file, if there is one.
        key: The key it is about.
        text: What there is to know.
    """

    level: Level
    rule: str
    line: int | None
    key: str
    text: str


def as_findings(problems: Iterable[Problem]) -> list[Finding]:
    """
    What is wrong with a file that cannot be used.
    """
    return [
        Finding("error", "settings", problem.line, key_text(problem.key), problem.text)
        for problem in problems
    ]


def findings(settings: Settings) -> list[Finding]:
    """
    What there is to know about settings, without asking anybody.
    """
    found = [
        *_of_destinations(settings),
        *_of_servers(settings),
        *_of_files(settings),
        *_of_overlaps(settings),
    ]
    if settings.unmapped == "anonymous":
        text = "a destination that was forgotten is no error: its requests go without a token."
        found.append(("note", "unmapped", ("unmapped",), text))
    return [
        Finding(level, rule, settings.lines(key), key_text(key), text)
        for level, rule, key, text in found
    ]


def findings_online(settings: Settings) -> Iterator[Finding]:
    """
    What comes of asking for a token of each resource.
    """
    with_auth = settings.auth()
    for entry in settings.entries:
        key: Key = ("resources", entry.destination)
        try:
            with_auth.cache.get(entry.resource)
        except ResourceTokensError as error:
            yield Finding("error", "token", settings.lines(key), key_text(key), str(error))
    with_auth.close()


_Found = tuple[Level, str, Key, str]


def _of_destinations(settings: Settings) -> Iterator[_Found]:
    suffixes = PublicSuffixList()
    for entry in settings.entries:
        key: Key = ("resources", entry.destination)
        resource = entry.resource
        scheme, _, rest = entry.destination.partition("://")
        domain = http.URL(f"{scheme}://{rest.removeprefix('*.')}").host
        if rest.startswith("*."):
            if suffixes.publicsuffix(domain) == domain:
                text = f"anybody can have a host below {domain!r}, and would get the token."
                yield "error", "wildcard", key, text
            elif suffixes.privatesuffix(domain) == domain:
                text = f"every host of {domain!r} gets the token. Name those that need it."
                yield "warning", "wildcard", key, text
        if resource.allow_http and scheme == "http" and resource.connect_to is None:
            text = "plain http: whoever can read that network can use the token."
            yield "warning", "plain-http", key, text
        if resource.allow_http_proxy:
            text = "a proxy that is spoken to in plain http can use the token."
            yield "warning", "plain-http-proxy", key, text
        if resource.verify_audience == "off":
            text = "tokens are shown without a look at their `aud`."
            yield "warning", "audience", key, text
        if resource.redirects == "reauthorize":
            text = "by a redirect, every other API can have requests made with this token."
            yield "note", "redirects", key, text


def _of_servers(settings: Settings) -> Iterator[_Found]:
    names = {entry.server_name: entry.server for entry in settings.entries}
    for name, server in names.items():
        if server.verify is False:
            text = (
                "the server's certificate is not checked: whoever is on the way can read the "
                "client's credentials and issue tokens of their own."
            )
            yield "error", "verify", ("servers", name, "verify"), text


def _of_files(settings: Settings) -> Iterator[_Found]:
    if os.name != "posix":
        return
    for key, path in settings.secret_files:
        mode = _mode(path)
        if mode & stat.S_IROTH:
            text = f"everybody on this machine can read {str(path)!r}: chmod o-rwx."
            yield "error", "readable-secret", key, text
        elif mode & stat.S_IRGRP:
            text = f"its whole group can read {str(path)!r}."
            yield "note", "readable-secret", key, text
    if _mode(Path(settings.origin)) & stat.S_IWOTH:
        text = "everybody on this machine can write this file, and send secrets elsewhere by it."
        yield "error", "writable-settings", (), text


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _of_overlaps(settings: Settings) -> Iterator[_Found]:
    for outer, inner in itertools.permutations(settings.entries, 2):
        if _covers(outer, inner):
            same = outer.resource == inner.resource
            level: Level = "warning" if same else "note"
            text = f"lies in {outer.destination!r}, " + (
                "which says the same." if same else "and goes before it."
            )
            yield level, "overlap", ("resources", inner.destination), text


def _covers(outer: Entry, inner: Entry) -> bool:
    """
    Whether a destination would belong to another one, if that were alone.
    """
    url = inner.destination.replace("://*.", "://x.", 1)
    try:
        return ResourceMap({outer.destination: outer.resource}).resource_for(url) is not None
    except EgressBlockedError:
        # Its path is read in different ways, letter case for one.
        return True
