"""
The authorization server and its metadata (RFC 8414, OpenID Connect Discovery).
"""

from __future__ import annotations

import json
import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    Resource,
    TokenCache,
    TokenEvent,
    TokenRequestError,
)
from resource_tokens._addresses import Reach
from resource_tokens.oauth.messages import HTTPAnswer
from resource_tokens.oauth.metadata import Metadata, metadata_in, metadata_requests
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, Clock, World
from tests.servers.apis import Answer, Sink

ISSUER = "https://login.example.com"
SERVER = AuthorizationServer(issuer=ISSUER)


def document(**changes: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "token_endpoint": f"{ISSUER}/token"} | changes


def read(
    body: Any,
    *,
    status: int = 200,
    kind: str = "application/json",
    server: AuthorizationServer = SERVER,
    peer: str = "",
) -> Metadata | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = HTTPAnswer(status, {"content-type": kind}, raw, peer)
    return metadata_in(answer, server, "urn:x:a")


def token_endpoint(body: Any, **options: Any) -> str | None:
    found = read(body, **options)
    assert found is not None
    return found.endpoint("token_endpoint", "client_secret_basic")


@pytest.mark.parametrize("issuer", ["https://h", "https://h/"])
def test_where_to_look_for_the_metadata_of_a_host(issuer: str) -> None:
    """
    R8414-1, R8414-3, RMCP-6, R8615-1: the OAuth address, then the OpenID one; one slash at the end
    removed.
    """
    requests = metadata_requests(issuer)

    expected = [
        "https://h/.well-known/oauth-authorization-server",
        "https://h/.well-known/openid-configuration",
    ]
    assert expected == [request.url for request in requests]
    assert {"GET"} == {request.method for request in requests}


@pytest.mark.parametrize("issuer", ["https://h:8443/t1/v2", "https://h:8443/t1/v2/"])
def test_where_to_look_for_the_metadata_of_a_path(issuer: str) -> None:
    """
    R8414-1, R8414-2, R8414-3, RMCP-6: inserted, the OpenID one inserted, the OpenID one appended.
    """
    expected = [
        "https://h:8443/.well-known/oauth-authorization-server/t1/v2",
        "https://h:8443/.well-known/openid-configuration/t1/v2",
        "https://h:8443/t1/v2/.well-known/openid-configuration",
    ]
    assert expected == [request.url for request in metadata_requests(issuer)]


def test_the_token_endpoint_is_taken_from_the_document() -> None:
    """
    R8414-5: unknown members are ignored; the endpoint may be on another host, and keeps its query.
    """
    endpoint = "https://oauth.example.net/token?tenant=a"

    assert endpoint == token_endpoint(document(token_endpoint=endpoint, x=1))
    assert f"{ISSUER}/token" == token_endpoint(document(), kind="Application/JSON; charset=utf-8")


def test_everything_that_is_read_of_a_document() -> None:
    """
    R8414-7: endpoints, keys, methods, and the resources that it is for (R9728-8).
    """
    found = read(
        document(
            revocation_endpoint=f"{ISSUER}/revoke",
            introspection_endpoint=f"{ISSUER}/introspect",
            jwks_uri=f"{ISSUER}/jwks",
            token_endpoint_auth_methods_supported=["private_key_jwt"],
            protected_resources=["https://api.example.com/"],
        )
    )

    assert found is not None
    assert f"{ISSUER}/revoke" == found.endpoint("revocation_endpoint", "none")
    assert f"{ISSUER}/introspect" == found.endpoint("introspection_endpoint", "none")
    assert f"{ISSUER}/jwks" == found.jwks_uri
    assert ("private_key_jwt",) == found.token_endpoint_auth_methods_supported
    assert ("https://api.example.com/",) == found.protected_resources


@pytest.mark.parametrize("wrong", [None, 5, "http://h/", "https://h/#f", ["https://h/"], {}])
def test_what_else_is_wrong_in_a_document_is_as_if_it_was_not_there(wrong: Any) -> None:
    """
    R8414-5: a token can be had without it, and it is never used.
    """
    found = read(
        document(
            revocation_endpoint=wrong,
            jwks_uri=wrong,
            mtls_endpoint_aliases={"token_endpoint": wrong},
            token_endpoint_auth_methods_supported=wrong,
            protected_resources=[wrong, 5],
        )
    )

    assert found is not None
    assert (None, None) == (found.endpoint("revocation_endpoint", "none"), found.jwks_uri)
    assert {} == found.mtls_endpoint_aliases
    assert () == found.protected_resources


@pytest.mark.parametrize("method", ["tls_client_auth", "self_signed_tls_client_auth"])
def test_a_client_with_a_certificate_uses_the_alias(method: str) -> None:
    """
    R8705-1: where there is an alias, and for such clients only.
    """
    aliases = {"token_endpoint": "https://mtls.example.com/token", "x": "y"}
    found = read(document(mtls_endpoint_aliases=aliases, revocation_endpoint=f"{ISSUER}/revoke"))

    assert found is not None
    assert aliases["token_endpoint"] == found.endpoint("token_endpoint", method)
    assert f"{ISSUER}/revoke" == found.endpoint("revocation_endpoint", method)
    assert f"{ISSUER}/token" == found.endpoint("token_endpoint", "client_secret_basic")


@pytest.mark.parametrize("aliases", [None, [], "x", 5])
def test_aliases_that_are_none(aliases: Any) -> None:
    """
    R8705-1: "else the normal one".
    """
    found = read(document(mtls_endpoint_aliases=aliases))

    assert found is not None
    assert f"{ISSUER}/token" == found.endpoint("token_endpoint", "tls_client_auth")


NEAR = ["127.0.0.1", "169.254.169.254", "10.0.0.8", "[::ffff:a00:1]", "[64:ff9b::a9fe:a9fe]"]


@pytest.mark.parametrize("host", NEAR)
def test_a_document_from_far_away_names_no_machine_next_door(host: str) -> None:
    """
    X3, R9728-9: an address that is written in the document is refused before anything is sent.
    """
    endpoint = f"https://{host}/token"

    with pytest.raises(TokenRequestError, match="nearer to this machine"):
        read(document(token_endpoint=endpoint))
    found = read(document(mtls_endpoint_aliases={"token_endpoint": endpoint}, jwks_uri=endpoint))
    assert found is not None
    assert ({}, None) == (found.mtls_endpoint_aliases, found.jwks_uri)


def test_where_a_document_came_from_decides() -> None:
    """
    X3: the address that was connected to, whatever the issuer's name suggests.
    """
    named = document(token_endpoint="https://10.0.0.8/token")
    inside = read(named, peer="192.168.1.1")

    assert inside is not None
    assert Reach.PRIVATE is inside.reach is inside.reach_for("https://other.example.com/token")
    assert Reach.LINK_LOCAL is inside.reach_for(f"{ISSUER}/token")
    with pytest.raises(TokenRequestError, match="nearer to this machine"):
        read(named, peer="2606:4700::1111")


@pytest.mark.parametrize("host", NEAR)
def test_the_host_of_the_issuer_is_wherever_it_is(host: str) -> None:
    """
    X3: whoever configured the issuer chose that host.
    """
    issuer = f"https://{host}"
    endpoint = f"{issuer}:8443/token"
    found = read(
        document(issuer=issuer, token_endpoint=endpoint), server=AuthorizationServer(issuer=issuer)
    )

    assert found is not None
    assert Reach.LINK_LOCAL is found.reach_for(endpoint)
    assert found.reach is found.reach_for("https://other.example.com/token") is not Reach.PUBLIC


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
    endpoint = "http://127.0.0.2:8080/token"
    named = document(issuer=issuer, token_endpoint=endpoint)

    assert endpoint == token_endpoint(named, server=AuthorizationServer(issuer=issuer))


def test_a_loopback_issuer_names_nothing_nearer() -> None:
    """
    X3: not even tests get at what the cloud gives to this machine alone.
    """
    named = document(issuer="http://127.0.0.1", token_endpoint="https://169.254.169.254/token")

    with pytest.raises(TokenRequestError, match="nearer to this machine"):
        read(named, server=AuthorizationServer(issuer="http://127.0.0.1"))


def test_behind_a_unix_socket_plain_http_is_on_no_network() -> None:
    """
    R8414-6: an agent on this machine speaks http, under whatever name.
    """
    server = AuthorizationServer(issuer="http://agent", uds="/run/agent.sock")
    named = document(issuer="http://agent", token_endpoint="http://agent/token")

    assert "http://agent/token" == token_endpoint(named, server=server)
    with pytest.raises(TokenRequestError, match="plain http"):
        read(
            document(token_endpoint="http://agent/token"),
            server=AuthorizationServer(issuer=ISSUER, uds="/run/agent.sock"),
        )


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
        ({"issuer": "https://h", "uds": ""}, "uds="),
        ({"issuer": "https://h", "uds": 5}, "uds="),
        ({"issuer": "https://h", "uds": b"/run/x.sock"}, "uds="),
        ({"issuer": "ftp://h", "uds": "/run/x.sock"}, "not https"),
        ({"issuer": "https://h", "uds": "/x", "proxy": "http://p:1"}, "proxy= and uds="),
        ({"issuer": "https://h", "transport": "httpx"}, "transport="),
        ({"issuer": "https://h", "transport": httpx.MockTransport}, "transport="),
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
    endpoint = "https://127.0.0.1:1/token?code=functionkey"
    server = AuthorizationServer(
        token_endpoint=endpoint, proxy="http://user:hunter2@127.0.0.1:1", dialect="auth0"
    )
    events: list[TokenEvent] = []
    cache = TokenCache(server, ClientSecretBasic("i", "s"), on_event=events.append)
    with pytest.raises(TokenRequestError, match="/token failed") as caught:
        cache.get("urn:x:a")
    request = cache._request_for("urn:x:a")
    shown = f"{server!r} {cache!r} {request!r} {request.message(endpoint, 0.0)!r} {events}"

    assert "https://127.0.0.1:1/token" == server.name
    assert f"AuthorizationServer(token_endpoint='{server.name}', dialect='auth0')" == repr(server)
    assert "hunter2" not in shown + str(caught.value)
    assert "functionkey" not in shown + str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"issuer": "https://user:hunter2@h"},
        {"issuer": "https://h?key=hunter2"},
        {"issuer": "http://user:hunter2@h"},
        {"token_endpoint": "https://user:hunter2@h/token"},
        {"token_endpoint": "https://h/token?code=hunter2#x"},
        {"token_endpoint": "http://h/token?code=hunter2"},
        {"token_endpoint": "https://user:hunter2@h:port/token?code=hunter2"},
        {"token_endpoint": "https://user:hunter2@/token"},
    ],
)
def test_what_is_no_address_of_a_server_shows_no_password(arguments: dict[str, Any]) -> None:
    """
    P9: what is refused at construction is told, without what can be a password or a key in a URL.
    """
    with pytest.raises(ConfigurationError) as caught:
        AuthorizationServer(**arguments)

    assert "hunter2" not in str(caught.value)
    assert "//h" in str(caught.value) or "///token" in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic s3cret"},
        {"HOST": "s3cret"},
        {"content-type": "s3cret"},
        {"Content-Length": "5"},
        {"X Key": "s3cret"},
        {"": "s3cret"},
        {5: "s3cret"},
        {"X-Key": "s3cret\r\nAuthorization: Basic eA=="},
        {"X-Key": "s3cret\x00"},
        {"X-Key": " s3cret"},
        {"X-Key": "s3cret\xe9"},
        {"X-Key": ""},
        {"X-Key": b"s3cret"},
        [("X-Key", "s3cret")],
        "s3cret",
    ],
)
def test_headers_that_cannot_be_set(headers: Any) -> None:
    """
    R6749-1: what a request sets by itself stays its own; what is refused is not shown (P9).
    """
    with pytest.raises(ConfigurationError, match="headers=") as caught:
        AuthorizationServer(issuer=ISSUER, headers=headers)

    assert "s3cret" not in str(caught.value)


def test_headers_can_be_keys_and_are_not_shown() -> None:
    """
    P9: a gateway's key is a credential too, and is part of what makes a server this server.
    """
    keyed = AuthorizationServer(issuer=ISSUER, headers={"X-Api-Key": "s3cret 1"})

    assert "s3cret" not in repr(keyed)
    assert keyed == AuthorizationServer(issuer=ISSUER, headers={"X-Api-Key": "s3cret 1"})
    assert keyed == replace(keyed, timeout=keyed.timeout)
    assert keyed != AuthorizationServer(issuer=ISSUER, headers={"X-Api-Key": "s3cret 2"})


def test_a_unix_socket_may_be_a_path_object() -> None:
    """
    As everywhere else in Python.
    """
    server = AuthorizationServer(issuer="http://agent", uds=Path("/run/agent.sock"))

    assert "/run/agent.sock" == server.uds


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


def test_the_openid_address_is_tried_after_it(caller: Caller) -> None:
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
            "/.well-known/openid-configuration/t1",
            "/t1/.well-known/openid-configuration",
        ] == paths(server)[:3]


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
