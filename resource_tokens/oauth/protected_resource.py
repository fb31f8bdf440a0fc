"""
Protected resource metadata: what a resource says of itself (RFC 9728).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from resource_tokens._destinations import is_secure_url
from resource_tokens._httpx import http
from resource_tokens.exceptions import ConfigurationError, TokenRequestError
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest, quoted
from resource_tokens.oauth.metadata import disbelieved, json_document, strings_in
from resource_tokens.resources import Resource, parse_scopes

__all__ = ["ProtectedResource", "is_describable", "protected_resource_in", "where_described"]


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """
    What a resource says of itself (RFC 9728 2).

    Attributes:
        authorization_servers: The issuers whose tokens it takes.
        scopes_supported: The scopes it knows.
        lifetime: For how long to believe it.
    """

    authorization_servers: tuple[str, ...]
    scopes_supported: frozenset[str]
    lifetime: timedelta


def is_describable(resource: Resource) -> bool:
    """
    Whether there can be metadata for a resource.
    """
    # RFC 9728 1.2: the identifier is "an https URL". Where tokens may travel in the clear, what
    # is said about them may too.
    url = _parsed(resource.identifier)
    return url is not None and (is_secure_url(url) or resource.allow_http)


def where_described(resource: Resource, challenged: str | None = None) -> tuple[HTTPRequest, ...]:
    """
    Where to look for the metadata of a resource, in order.

    Args:
        resource: One that `is_describable`.
        challenged: The address that a challenge of the resource has named.

    Raises:
        TokenRequestError: If that is anywhere but at the origin of the resource's identifier.
    """
    identifier = http.URL(resource.identifier)
    if challenged is not None:
        url = _parsed(challenged)
        if url is None or url.userinfo or "#" in challenged or _origin(url) != _origin(identifier):
            raise TokenRequestError(
                f"A challenge of {resource.identifier!r} names {quoted(challenged)!r} for its "
                "metadata, which is not at the same origin. It was not asked.",
                resource.identifier,
            )
        return (_get(url),)
    # RFC 9728 3.1: "any terminating slash (/) following the host component MUST be removed before
    # inserting /.well-known/ and the well-known URI path suffix".
    inserted = identifier.raw_path.decode("ascii")
    if identifier.path == "/":
        inserted = inserted.removeprefix("/")
    # A server with a path may publish one document for all of its host: "At the root" in the
    # authorization of MCP. It has to name this very identifier too.
    paths = dict.fromkeys((f"{_WELL_KNOWN}{inserted}", _WELL_KNOWN))
    return tuple(_get(identifier.copy_with(raw_path=path.encode())) for path in paths)


def protected_resource_in(answer: HTTPAnswer, resource: Resource) -> ProtectedResource | None:
    """
    The metadata in an answer; `None` if there is no document at that address.

    Raises:
        TokenRequestError: If there is a document that cannot be believed.
    """
    identifier = resource.identifier
    whose = f"the metadata of the resource {identifier!r}"
    document = json_document(answer, whose, identifier)
    if document is None:
        return None
    # RFC 9728 3.3: the value "MUST be identical to the protected resource's resource identifier
    # value into which the well-known URI path suffix was inserted". If they "are not identical,
    # the data contained in the response MUST NOT be used". Where a challenge has named the
    # address, the same identifier counts, as it is the one whose token was shown there.
    if document.get("resource") != identifier:
        raise disbelieved(
            answer,
            whose,
            identifier,
            f"is about another one, {quoted(str(document.get('resource')))!r}. The two must be "
            "equal to the letter: if the document is right, map the destination to what it says.",
        )
    return ProtectedResource(
        strings_in(document, "authorization_servers"),
        _scopes(strings_in(document, "scopes_supported")),
        _lifetime(answer.headers.get("cache-control", "").lower()),
    )


def _get(url: http.URL) -> HTTPRequest:
    return HTTPRequest("GET", str(url), {"Accept": "application/json"})


def _parsed(text: str) -> http.URL | None:
    try:
        url = http.URL(text)
    except (http.InvalidURL, UnicodeError):
        return None
    return url if url.scheme in ("https", "http") and url.raw_host else None


def _origin(url: http.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


def _scopes(names: tuple[str, ...]) -> frozenset[str]:
    try:
        return parse_scopes(names)
    except ConfigurationError:
        return frozenset()


def _lifetime(cache_control: str) -> timedelta:
    # RFC 9728 7.10: metadata is cached by HTTP's own rules (RFC 9111 5.2.2), here within bounds.
    if re.search(r"\bno-(?:store|cache)\b", cache_control):
        return _SHORTEST
    max_age = re.search(r'\bmax-age\s*=\s*"?([0-9]{1,9})', cache_control, re.ASCII)
    if max_age is None:
        return _LONGEST
    return min(max(timedelta(seconds=int(max_age[1])), _SHORTEST), _LONGEST)


_WELL_KNOWN = "/.well-known/oauth-protected-resource"
_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(hours=1)
