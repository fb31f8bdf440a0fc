"""
A request to send to an authorization server, and its answer, as plain values.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode

from resource_tokens._addresses import Reach
from resource_tokens.exceptions import TokenRequestError
from resource_tokens.tokens import Secret

__all__ = [
    "ClientCertificate",
    "HTTPAnswer",
    "HTTPRequest",
    "Members",
    "base64url",
    "date_in",
    "date_of",
    "foreign_text",
    "form",
    "json_object",
    "origin_of",
    "quoted",
    "refused_redirect",
    "retry_after",
    "spellings",
]


def base64url(octets: bytes) -> str:
    """
    Octets as the standards write them (RFC 7515 2): in URL-safe base64 without padding.
    """
    return urlsafe_b64encode(octets).decode().rstrip("=")


class ClientCertificate(NamedTuple):
    """
    The files of a client certificate (RFC 8705).

    Attributes:
        certificate: A PEM file with the certificate and its chain.
        key: A PEM file with the private key; the same file if it is in there.
    """

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """
    What to send. `headers`, `body` and the query of `url` can hold credentials and stay out of
    `repr`.

    Attributes:
        secrets: What must not show up in any message, even if the server sends it back.
        certificate: The client certificate to present on the connection.
        reach: How near the address may be that it is sent to.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    secrets: tuple[Secret, ...] = ()
    certificate: ClientCertificate | None = None
    reach: Reach = Reach.LINK_LOCAL

    def __repr__(self) -> str:
        return f"HTTPRequest({self.method} {self.url.partition('?')[0]!r})"


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """
    What came back. `headers` has lower-case names; the body can hold a token.

    Attributes:
        peer: The address it came from; empty if something was between that is not the server, or
            no network at all.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    peer: str = ""


class Members(dict[str, Any]):
    """
    The members of a JSON object. Their values, a token among them, stay out of `repr`.
    """

    def __repr__(self) -> str:
        return f"Members({list(self)!r})"


def json_object(answer: HTTPAnswer) -> Members | None:
    """
    The JSON object in the body, or `None` if the body is anything else.
    """
    try:
        parsed = json.loads(answer.body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return Members(parsed) if isinstance(parsed, dict) else None


def _refuse_constant(name: str) -> None:
    # json accepts NaN and Infinity, which are no JSON and compare with nothing.
    raise ValueError(name)


def quoted(text: str, limit: int = 256) -> str:
    """
    A text from somebody else's server, safe to log: controls escaped, length bounded.
    """
    shown = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def retry_after(answer: HTTPAnswer, now: float) -> float | None:
    """
    The seconds that the server asks to be left alone for (RFC 9110 10.2.3); `None` if it does not.

    Args:
        answer: What came back.
        now: Seconds since the epoch.
    """
    value = answer.headers.get("retry-after", "").strip()
    # RFC 9110 10.2.3: "Retry-After = HTTP-date / delay-seconds".
    if re.fullmatch(r"[0-9]{1,10}", value, re.ASCII):
        return float(value)
    until = date_in(value)
    # By the server's own clock, where it says what time it is there.
    date = date_of(answer)
    return None if until is None else max(0.0, until - (now if date is None else date))


def date_of(answer: HTTPAnswer) -> float | None:
    """
    What time it was at the server, in seconds since the epoch (RFC 9110 6.6.1); `None` if it does
    not say.
    """
    return date_in(answer.headers.get("date", ""))


def date_in(value: str) -> float | None:
    """
    The date in a header (RFC 9110 5.6.7), in seconds since the epoch; `None` if there is none.
    """
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date.replace(tzinfo=date.tzinfo or UTC).timestamp()


def origin_of(url: str) -> str:
    """
    The origin of a URL (RFC 6454 4), as it is spelled there.
    """
    return "/".join(url.split("/", 3)[:3])


def refused_redirect(answer: HTTPAnswer, what: str, resource: str) -> TokenRequestError:
    """
    The error for a redirect, which would carry credentials or trust to somewhere else.
    """
    return TokenRequestError(
        f"{what} answered {answer.status}, a redirect. Redirects are not followed, since they "
        "would hand the client's credentials to another address. Configure the final address.",
        resource,
        answer.status,
    )


def form(parameters: Iterable[tuple[str, str | Secret]]) -> bytes:
    """
    Parameters as the body of a request (`application/x-www-form-urlencoded`).
    """
    pairs = (
        (name, value.reveal() if isinstance(value, Secret) else value) for name, value in parameters
    )
    return urlencode(tuple(pairs)).encode("ascii")


def spellings(parameters: Iterable[tuple[str, str | Secret]]) -> tuple[Secret, ...]:
    """
    The secrets among parameters, as they are and as they are written in a form.
    """
    secrets = [value for _, value in parameters if isinstance(value, Secret)]
    return (*secrets, *(Secret(quote_plus(secret.reveal())) for secret in secrets))


def foreign_text(text: object, secrets: tuple[Secret, ...]) -> str | None:
    """
    A member of somebody else's answer as text that is safe to log; `None` if it is no text.

    Args:
        text: The member.
        secrets: What was sent along, and must not show up.
    """
    if not isinstance(text, str):
        return None
    for secret in secrets:
        text = text.replace(secret.reveal(), "[secret]")
    return quoted(text)
