"""
The metadata of a protected resource (RFC 9728): where it is, and what of it is believed.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from resource_tokens import Resource, TokenRequestError
from resource_tokens.oauth.messages import HTTPAnswer
from resource_tokens.oauth.protected_resource import (
    ProtectedResource,
    is_describable,
    protected_resource_in,
    where_described,
)

API = Resource("https://api.example.com/mcp")
LOGIN = "https://login.example.com"


def document(**changes: Any) -> dict[str, Any]:
    return {"resource": API.identifier, "authorization_servers": [LOGIN]} | changes


def read(
    body: Any, *, status: int = 200, kind: str = "application/json", cache_control: str = ""
) -> ProtectedResource | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": kind, "cache-control": cache_control}
    return protected_resource_in(HTTPAnswer(status, headers, raw), API)


def lifetime(cache_control: str) -> timedelta:
    found = read(document(), cache_control=cache_control)
    assert found is not None
    return found.lifetime


@pytest.mark.parametrize(
    ("identifier", "allow_http", "expected"),
    [
        ("https://api.example.com/", False, True),
        ("https://10.0.0.8/", False, True),
        ("http://127.0.0.1:8080/mcp", False, True),
        ("http://api.example.com/", False, False),
        ("http://api.example.com/", True, True),
        ("urn:example:api", True, False),
        ("api://client", False, False),
        ("https:api.example.com", False, False),
        ("https://:x/", False, False),
    ],
)
def test_which_resources_can_be_described(
    identifier: str, allow_http: bool, expected: bool
) -> None:
    """
    R9728-1: https URLs, loopback aside; plain http where the token goes in plain http as well.
    """
    assert expected is is_describable(Resource(identifier, allow_http=allow_http))


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("https://r", ["https://r/.well-known/oauth-protected-resource"]),
        ("https://r/", ["https://r/.well-known/oauth-protected-resource"]),
        (
            "https://r:8443/a/b",
            [
                "https://r:8443/.well-known/oauth-protected-resource/a/b",
                "https://r:8443/.well-known/oauth-protected-resource",
            ],
        ),
        (
            "https://r/a/",
            [
                "https://r/.well-known/oauth-protected-resource/a/",
                "https://r/.well-known/oauth-protected-resource",
            ],
        ),
    ],
)
def test_where_to_look(identifier: str, expected: list[str]) -> None:
    """
    R9728-2, RMCP-5: inserted between host and path, then at the root of the host.
    """
    requests = where_described(Resource(identifier))

    assert expected == [request.url for request in requests]
    assert [{"Accept": "application/json"}] * len(expected) == [r.headers for r in requests]


@pytest.mark.filterwarnings("ignore:The resource identifier:UserWarning")
@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("https://r/a?x=1", "https://r/.well-known/oauth-protected-resource/a?x=1"),
        ("https://r/?x=1", "https://r/.well-known/oauth-protected-resource?x=1"),
        ("https://r?x=1", "https://r/.well-known/oauth-protected-resource?x=1"),
    ],
)
def test_a_query_of_the_identifier_stays(identifier: str, expected: str) -> None:
    """
    R9728-2: the suffix goes between the host and the path or query.
    """
    assert expected == where_described(Resource(identifier))[0].url


def test_where_a_challenge_says() -> None:
    """
    R9728-5: anywhere on the origin of the identifier.
    """
    for url in ("https://api.example.com/meta?v=2", "https://API.example.com:443/meta"):
        (request,) = where_described(API, url)
        assert request.url.startswith("https://api.example.com/meta")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.test/.well-known/oauth-protected-resource",
        "https://api.example.com:8443/meta",
        "http://api.example.com/meta",
        "https://api.example.com.evil.test/meta",
        "https://api.example.com@evil.test/meta",
        "https://user@api.example.com/meta",
        "https://api.example.com/meta#f",
        "https://169.254.169.254/latest",
        "https://[::ffff:a00:1]/",
        "https://localhost/",
        "//api.example.com/meta",
        "/meta",
        "",
        "file:///etc/passwd",
        "https://api.example.com:x/",
        "https://api.example.com/\ud800",
    ],
)
def test_a_challenge_leads_nowhere_else(url: str) -> None:
    """
    X3, R9728-9: another origin is not asked, and what was written there is shown escaped (L11).
    """
    with pytest.raises(TokenRequestError, match="not at the same origin") as caught:
        where_described(API, f"{url}\n\x1b[31mforged" if url == "/meta" else url)

    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_what_is_read_of_a_document() -> None:
    """
    R9728-12: issuers and scopes; unknown members and signed metadata are ignored.
    """
    found = read(
        document(
            scopes_supported=["b", "a"],
            signed_metadata="eyJhbGciOiJub25lIn0.e30.",
            bearer_methods_supported=["header"],
        )
    )

    assert found is not None
    assert (LOGIN,) == found.authorization_servers
    assert frozenset({"a", "b"}) == found.scopes_supported


@pytest.mark.parametrize("wrong", [None, 5, "a", {}, [5], ["a", None]])
def test_members_that_are_no_lists_of_strings(wrong: Any) -> None:
    """
    What cannot be read was not said.
    """
    found = read(document(authorization_servers=wrong, scopes_supported=wrong))

    assert found is not None
    assert ((), frozenset()) == (found.authorization_servers, found.scopes_supported)


def test_scopes_of_which_one_is_none() -> None:
    """
    R6749-9: then none of them was said.
    """
    found = read(document(scopes_supported=["read", "wri te"]))

    assert found is not None
    assert frozenset() == found.scopes_supported


@pytest.mark.parametrize(
    "resource",
    [
        "https://api.example.com",
        "https://api.example.com/mcp/",
        "https://API.example.com/mcp",
        "https://api.example.com:443/mcp",
        "https://other.example.com/mcp",
        None,
        5,
        ["https://api.example.com/mcp"],
    ],
)
def test_a_document_about_another_resource_is_not_used(resource: Any) -> None:
    """
    R9728-3, R9728-4: equal to the letter, or an API could speak for another one.
    """
    with pytest.raises(TokenRequestError, match="about another one"):
        read(document(resource=resource))


def test_the_name_in_a_wrong_document_is_shown_escaped() -> None:
    """
    L11: what a server writes forges no log line.
    """
    with pytest.raises(TokenRequestError, match="about another one") as caught:
        read(document(resource="x\r\n2026-01-01 INFO all is well\x1b[0m"))

    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_no_document_there(status: int) -> None:
    """
    RMCP-5: the next address is tried. Gateways answer 401 to whatever has no token.
    """
    assert read(b"", status=status) is None


@pytest.mark.parametrize(
    ("status", "kind", "body", "words"),
    [
        (302, "application/json", b"{}", "redirect"),
        (307, "application/json", b"{}", "redirect"),
        (429, "application/json", b"{}", "status 429"),
        (503, "application/json", b"{}", "status 503"),
        (204, "application/json", b"", "status 204"),
        (200, "text/html", b"{}", "no JSON document"),
        (200, "application/json", b"[]", "no JSON document"),
        (200, "application/json", b"{", "no JSON document"),
        (200, "application/json", b"[" * 60_000, "no JSON document"),
    ],
)
def test_what_is_no_document(status: int, kind: str, body: bytes, words: str) -> None:
    """
    R9728-9: neither followed nor guessed.
    """
    with pytest.raises(TokenRequestError, match=words):
        read(body, status=status, kind=kind)


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("", 3600),
        ("max-age=600", 600),
        ("public, MAX-AGE = 600", 600),
        ('max-age="600"', 600),
        ("s-maxage=5, max-age=600", 600),
        ("max-age=5", 60),
        ("max-age=0", 60),
        ("max-age=999999999", 3600),
        ("max-age=99999999999999", 3600),
        ("max-age=-1", 3600),
        ("max-age=x", 3600),
        ("no-store", 60),
        ("no-cache, max-age=600", 60),
    ],
)
def test_for_how_long_a_document_is_believed(cache_control: str, seconds: int) -> None:
    """
    R9728-11, P10: by HTTP's own rules, from a minute to an hour.
    """
    assert timedelta(seconds=seconds) == lifetime(cache_control)
