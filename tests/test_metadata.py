"""
The authorization server and its metadata (RFC 8414, OpenID Connect Discovery).
"""

from __future__ import annotations

import json
import ssl
from datetime import timedelta
from typing import Any

import pytest

from resource_tokens import (
    AuthorizationServer,
    ConfigurationError,
    Resource,
    TokenRequestError,
)
from resource_tokens.oauth.messages import HTTPAnswer
from resource_tokens.oauth.metadata import metadata_requests, token_endpoint_in
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, Clock, World
from tests.servers.apis import Answer, Sink

ISSUER = "https://login.example.com"


def document(**changes: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "token_endpoint": f"{ISSUER}/token"} | changes


def read(
    body: Any, *, status: int = 200, kind: str = "application/json", issuer: str = ISSUER
) -> str | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return token_endpoint_in(HTTPAnswer(status, {"content-type": kind}, raw), issuer, "urn:x:a")


@pytest.mark.parametrize(
    ("issuer", "oauth", "openid"),
    [
        (
            "https://h",
            "https://h/.well-known/oauth-authorization-server",
            "https://h/.well-known/openid-configuration",
        ),
        (
            "https://h/",
            "https://h/.well-known/oauth-authorization-server",
            "https://h/.well-known/openid-configuration",
        ),
        (
            "https://h/t1",
            "https://h/.well-known/oauth-authorization-server/t1",
            "https://h/t1/.well-known/openid-configuration",
        ),
        (
            "https://h:8443/t1/v2/",
            "https://h:8443/.well-known/oauth-authorization-server/t1/v2",
            "https://h:8443/t1/v2/.well-known/openid-configuration",
        ),
    ],
)
def test_the_two_addresses(issuer: str, oauth: str, openid: str) -> None:
    """
    R8414-1, R8414-2, R8414-3: inserted first, appended second, one slash at the end removed.
    """
    requests = metadata_requests(issuer)

    assert [oauth, openid] == [request.url for request in requests]
    assert ["GET", "GET"] == [request.method for request in requests]


def test_the_token_endpoint_is_taken_from_the_document() -> None:
    """
    R8414-5: unknown members are ignored; the endpoint may be on another host, and keeps its query.
    """
    endpoint = "https://oauth.example.net/token?tenant=a"

    assert endpoint == read(document(token_endpoint=endpoint, x=1))
    assert f"{ISSUER}/token" == read(document(), kind="Application/JSON; charset=utf-8")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410])
def test_no_document_there_falls_through(status: int) -> None:
    """
    R8414-3: the next address is tried.
    """
    assert read(b"", status=status) is None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 204])
def test_a_server_in_trouble_does_not_fall_through(status: int) -> None:
    """
    R8414-3: another document is no substitute for one that cannot be read now.
    """
    with pytest.raises(TokenRequestError, match=f"status {status}"):
        read(b"", status=status)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_of_the_metadata_is_refused(status: int) -> None:
    """
    X3: a redirect would let somebody else say where credentials go.
    """
    with pytest.raises(TokenRequestError, match="redirect"):
        read(b"", status=status)


@pytest.mark.parametrize(
    "issuer",
    [f"{ISSUER}/", "https://LOGIN.example.com", f"{ISSUER}:443", "https://evil.test", None, 5],
)
def test_another_issuer_in_the_document_is_refused(issuer: Any) -> None:
    """
    R8414-4, X1: equal to the letter, nothing normalised.
    """
    with pytest.raises(TokenRequestError, match="another issuer"):
        read(document(issuer=issuer))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "text/html"),
        (document(), "text/html"),
        (document(), ""),
        (b"{", "application/json"),
        (b"[]", "application/json"),
    ],
)
def test_what_is_no_json_document_is_refused(body: Any, kind: str) -> None:
    """
    R8414-5: a 200 with something else is a wrong issuer, not a missing document.
    """
    with pytest.raises(TokenRequestError, match="no JSON document"):
        read(body, kind=kind)


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        5,
        "",
        "token",
        "https://",
        "https://h:x/",
        "https://h/\ud800",
        "https://h/#f",
        "https://u@h/",
    ],
)
def test_an_unusable_token_endpoint_is_refused(endpoint: Any) -> None:
    """
    A document without a URL to post to is no help.
    """
    with pytest.raises(TokenRequestError, match="no usable token_endpoint"):
        read(document(token_endpoint=endpoint))


@pytest.mark.parametrize("endpoint", ["http://h.example/token", "http://127.0.0.1/token"])
def test_an_https_issuer_names_an_https_endpoint(endpoint: str) -> None:
    """
    R8414-6: credentials never go out in the clear because a document says so.
    """
    with pytest.raises(TokenRequestError, match="plain http"):
        read(document(token_endpoint=endpoint))


def test_a_loopback_issuer_may_name_a_loopback_endpoint() -> None:
    """
    Tests and sidecars have no certificates.
    """
    issuer = "http://127.0.0.1:8080"
    endpoint = "http://127.0.0.1:8080/token"

    assert endpoint == read(document(issuer=issuer, token_endpoint=endpoint), issuer=issuer)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "issuer= or token_endpoint="),
        ({"issuer": "login.example.com"}, "no URL"),
        ({"issuer": ""}, "no URL"),
        ({"issuer": 5}, "no URL"),
        ({"issuer": "https://h:x"}, "no URL"),
        ({"issuer": "https://h:99999"}, "no URL"),
        ({"issuer": "https://a..example"}, "no URL"),
        ({"issuer": f"https://{'a' * 64}.example"}, "no URL"),
        ({"issuer": "https://h/\ud800"}, "no URL"),
        ({"issuer": "https://h", "proxy": "proxy:3128"}, "proxy="),
        ({"issuer": "https://h", "proxy": "foo://proxy"}, "proxy="),
        ({"issuer": "https://h", "verify": None}, "verify="),
        ({"issuer": "http://login.example.com"}, "not https"),
        ({"issuer": "http://localhost:8080"}, "not https"),
        ({"issuer": "https://h/?a"}, "query"),
        ({"issuer": "https://h/#"}, "query, fragment"),
        ({"issuer": "https://u:p@h/"}, "userinfo"),
        ({"token_endpoint": "https://h/token#f"}, "fragment"),
        ({"token_endpoint": "https://u:p@h/token"}, "userinfo"),
        ({"token_endpoint": "http://h/token"}, "not https"),
        ({"issuer": "https://h", "timeout": timedelta()}, "timeout"),
        ({"issuer": "https://h", "timeout": 10}, "timeout"),
    ],
)
def test_an_authorization_server_is_checked_at_construction(
    arguments: dict[str, Any], words: str
) -> None:
    """
    R8414-6, R6749-4: https, no fragment, and a name by which to know the server.
    """
    with pytest.raises(ConfigurationError, match=words):
        AuthorizationServer(**arguments)


def test_a_server_does_not_show_its_proxys_password_or_its_endpoints_query() -> None:
    """
    P9: function keys and proxy passwords are credentials too.
    """
    server = AuthorizationServer(
        token_endpoint="https://h/token?code=functionkey", proxy="http://user:hunter2@proxy:3128"
    )

    assert "hunter2" not in repr(server)
    assert "https://h/token" == server.name


def test_what_one_server_learned_is_nothing_to_another(caller: Caller, world: World) -> None:
    """
    X1: the same issuer by another way, such as a proxy that forges its metadata, is discovered
    anew; no credential follows the forged document.
    """
    forged = {"issuer": world.server.issuer, "token_endpoint": f"{world.sink.url}/steal"}
    with Sink() as proxy:
        proxy.behave(
            lambda _: Answer(
                200, (("Content-Type", "application/json"),), json.dumps(forged).encode()
            )
        )
        misled = AuthorizationServer(issuer=world.server.issuer, proxy=proxy.url)
        direct = AuthorizationServer(issuer=world.server.issuer)
        resources = [
            Resource("https://a.test/", server=misled, client_auth=world.client_auth),
            Resource("https://b.test/", server=direct, client_auth=world.client_auth),
        ]
        cache = world.auth(resources).cache
        with pytest.raises(TokenRequestError):
            caller.token(cache, "https://a.test/")
        token = caller.token(cache, "https://b.test/")

    assert "https://b.test/" == token.resource
    assert [] == world.sink.seen


def test_switching_certificates_off_warns() -> None:
    """
    R6750-9: it is possible, and never silent.
    """
    with pytest.warns(UserWarning, match="verify=False"):
        AuthorizationServer(issuer=ISSUER, verify=False)
    assert "https://h/token" == AuthorizationServer(token_endpoint="https://h/token").name
    assert AuthorizationServer(issuer=ISSUER, verify=ssl.create_default_context()).name == ISSUER


def paths(server: LocalAuthorizationServer) -> list[str]:
    return [record.target for record in server.requests]


@pytest.mark.parametrize("path", ["", "/tenant1"])
def test_discovery_happens_once_and_lazily(caller: Caller, path: str, clock: Clock) -> None:
    """
    Nothing is asked at construction; many resources share one discovery for an hour.
    """
    with LocalAuthorizationServer(clients={CLIENT_ID: CLIENT_SECRET}, path=path) as server:
        world = World(server, None, None, None)  # type: ignore[arg-type]
        cache = world.auth([], clock=clock).cache
        assert [] == paths(server)
        caller.token_together(cache, ["urn:x:a", "urn:x:b", "urn:x:c"])
        well_known = f"/.well-known/oauth-authorization-server{path}"
        assert 1 == paths(server).count(well_known)
        clock.advance(3601)
        caller.token(cache, "urn:x:d")

        assert 2 == paths(server).count(well_known)
        assert 4 == len(server.token_requests)


def test_the_openid_address_is_tried_second(caller: Caller) -> None:
    """
    R8414-3: servers that publish only OpenID metadata are found.
    """
    with LocalAuthorizationServer(
        clients={CLIENT_ID: CLIENT_SECRET}, path="/t1", metadata="openid"
    ) as server:
        world = World(server, None, None, None)  # type: ignore[arg-type]
        caller.token(world.auth([]).cache, ORDERS)

        assert [
            "/.well-known/oauth-authorization-server/t1",
            "/t1/.well-known/openid-configuration",
        ] == paths(server)[:2]


def test_an_issuer_without_metadata_is_one_clear_error(caller: Caller, world: World) -> None:
    """
    Both addresses were tried; the remedy is in the message.
    """
    world.server.metadata = "none"

    with pytest.raises(TokenRequestError, match="token_endpoint=") as caught:
        caller.token(world.auth([]).cache, ORDERS)
    assert 404 == caught.value.status
    assert () == world.server.token_requests


def test_a_configured_endpoint_needs_no_discovery(caller: Caller, world: World) -> None:
    """
    R8414-7: with an explicit endpoint the issuer is only the name of the server.
    """
    server = AuthorizationServer(
        issuer="https://login.example.com", token_endpoint=world.server.token_endpoint
    )
    cache = type(world.auth([]).cache)(server, world.client_auth)
    caller.token(cache, ORDERS)

    assert ["/token"] == paths(world.server)


def test_a_wrong_issuer_in_real_metadata_sends_no_credential(caller: Caller, world: World) -> None:
    """
    X1: with a document that names another issuer nothing is posted anywhere.
    """
    body = json.dumps(
        {"issuer": "https://evil.test", "token_endpoint": f"{world.sink.url}/token"}
    ).encode()
    world.server.respond(
        "/.well-known/oauth-authorization-server",
        200,
        {"Content-Type": "application/json"},
        body,
    )

    with pytest.raises(TokenRequestError, match="another issuer"):
        caller.token(world.auth([]).cache, ORDERS)
    assert [] == world.sink.seen
    assert () == world.server.token_requests
