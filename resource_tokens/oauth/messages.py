"""
A request to send to an authorization server, and its answer, as plain values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resource_tokens.exceptions import TokenRequestError

__all__ = ["HTTPAnswer", "HTTPRequest", "Members", "json_object", "quoted", "refused_redirect"]


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """
    What to send. `headers` and `body` can hold credentials and stay out of `repr`.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """
    What came back. `headers` has lower-case names; the body can hold a token.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


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
