"""
`resource-tokens request`: a request with the token of its destination.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from resource_tokens._httpx import http
from resource_tokens.auth import ResourceTokenAuth
from resource_tokens.certificates import CertificateTransport
from resource_tokens.cli.terminal import error_console, safe
from resource_tokens.exceptions import ConfigurationError

__all__ = ["Wanted", "body_from", "headers_from", "send"]


class Wanted(NamedTuple):
    """
    A request to make, and what to do with its answer.

    Attributes:
        cacert: A file with the certificate authorities to trust.
        output: Where the body goes; `None` for the standard output.
        show_headers: Whether the status and the headers go before it.
        verbose: Whether the exchange is told on the standard error.
    """

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    follow_redirects: bool
    timeout: float
    cacert: Path | None
    output: Path | None
    show_headers: bool
    verbose: bool


def send(auth: ResourceTokenAuth, wanted: Wanted) -> int:
    """
    Make the request, write what comes as it comes, and return the status of the answer.
    """
    options: dict[str, Any] = {}
    if any(resource.sender == "mtls" for _, resource in auth.resources):
        options["transport"] = CertificateTransport(http.HTTPTransport, verify=wanted.cacert)
    elif wanted.cacert is not None:
        options["verify"] = ssl.create_default_context(cafile=wanted.cacert)
    with (
        http.Client(
            auth=auth,
            follow_redirects=wanted.follow_redirects,
            timeout=wanted.timeout,
            **options,
        ) as client,
        client.stream(
            wanted.method, wanted.url, headers=wanted.headers, content=wanted.body
        ) as response,
    ):
        _tell(auth, response, verbose=wanted.verbose)
        with _opened(wanted.output) as output:
            if wanted.show_headers:
                output.write(_head(response))
            for chunk in response.iter_bytes():
                output.write(chunk)
                output.flush()
        return int(response.status_code)


def headers_from(lines: list[str]) -> dict[str, str]:
    """
    Headers as they are given, `Name: value`.

    Raises:
        ConfigurationError: If one is none.
    """
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigurationError("A header is given as 'Name: value'.")
        headers[name.strip()] = value.strip()
    return headers


def body_from(given: str) -> bytes:
    """
    A body as it is given: a text, `@` and the name of a file, or `@-` for the standard input.
    """
    if given == "@-":
        return sys.stdin.buffer.read()
    return Path(given[1:]).read_bytes() if given.startswith("@") else given.encode()


def _tell(auth: ResourceTokenAuth, response: Any, *, verbose: bool) -> None:
    console = error_console()

    def say(text: str, style: str = "") -> None:
        console.print(safe(auth.cache.bindings.masked(text), style))

    for answer in (*response.history, response) if verbose else ():
        say(f"> {answer.request.method} {answer.request.url}")
        for name, value in answer.request.headers.items():
            say(f"> {name}: {value}", "dim")
        say(f"< {answer.status_code} {answer.reason_phrase}")
    for event in response.extensions.get("token_withheld", ()):
        say(f"note: {event.destination} got no token of {event.resource}: {event.detail}", "yellow")


def _head(response: Any) -> bytes:
    version = response.http_version.encode()
    status = b"%d %b" % (response.status_code, response.reason_phrase.encode())
    lines = [b"%b: %b" % pair for pair in response.headers.raw]
    return b"\r\n".join([b"%b %b" % (version, status), *lines, b"", b""])


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
    else:
        with output.open("wb") as file:
            yield file
