"""
The ways to reach an authorization server: headers, Unix sockets, own transports, aliases, and an
endpoint that has moved.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import httpx2
import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    TlsClientAuth,
    TokenCache,
    TokenEvent,
    TokenRequestError,
)
from resource_tokens._addresses import Reach
from resource_tokens._io import AsyncIO, BlockingIO, SendError, run_to_end
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest
from tests.conftest import CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, Clock
from tests.servers.apis import Answer, Sink
from tests.servers.proxy import RecordingProxy
from tests.servers.scripted import Issuer, UnixSocket
from tests.servers.tls import authority, serving, trusting

KEY = "gateway-key-8d1f"
LOGIN, STS = "login.example.com", "sts.example.com"


def cache_for(server: AuthorizationServer, **options: Any) -> TokenCache:
    options.setdefault("client_auth", ClientSecretBasic(CLIENT_ID, CLIENT_SECRET))
    return TokenCache(server, **options)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


# Extra headers ------------------------------------------------------------------------------------


def test_headers_go_along_with_every_request(caller: Caller, issuer: Issuer) -> None:
    """
    A gateway in front of the server wants a key for its metadata and for its tokens.
    """
    server = AuthorizationServer(issuer=issuer.issuer, headers={"X-Api-Key": KEY})
    caller.token(cache_for(server), ORDERS)

    assert [[KEY], [KEY]] == [seen.header("x-api-key") for seen in issuer.seen]
    (request,) = issuer.token_requests
    assert 1 == len(request.header("authorization"))
    assert ["application/x-www-form-urlencoded"] == request.header("content-type")


def test_a_header_that_is_sent_back_is_not_shown(caller: Caller, issuer: Issuer) -> None:
    """
    P9: a server that repeats the key in its error does not get it into ours.
    """
    refusal = {"error": "invalid_client", "error_description": f"bad key {KEY}"}
    issuer.behave(lambda seen: Answer.from_json(401, refusal) if seen.method == "POST" else None)
    server = AuthorizationServer(issuer=issuer.issuer, headers={"X-Api-Key": KEY})

    with pytest.raises(TokenRequestError, match=r"bad key \[secret\]") as caught:
        caller.token(cache_for(server), ORDERS)
    assert KEY not in repr(caught.value.args)


# Unix sockets -------------------------------------------------------------------------------------


def test_an_agent_behind_a_unix_socket(caller: Caller, tmp_path: Path) -> None:
    """
    The socket is connected to, whatever the URLs name; no resolver knows this host.
    """
    with (
        Issuer("http://agent.invalid") as agent,
        UnixSocket(tmp_path / "agent.sock", agent.port) as door,
    ):
        server = AuthorizationServer(issuer=agent.issuer, uds=door.path)
        token = caller.token(cache_for(server), ORDERS)

    assert "issued-here-0" == token.reveal()
    assert 2 == door.connections
    assert {("agent.invalid",)} == {tuple(seen.header("host")) for seen in agent.seen}


def test_tls_through_a_unix_socket(caller: Caller, tmp_path: Path) -> None:
    """
    R6750-9: with https the certificate is checked there too.
    """
    with (
        Issuer(f"https://{LOGIN}", tls=serving(LOGIN)) as agent,
        UnixSocket(tmp_path / "agent.sock", agent.port) as door,
    ):
        server = AuthorizationServer(issuer=agent.issuer, uds=door.path, verify=trusting())
        strangers = AuthorizationServer(issuer=agent.issuer, uds=door.path)
        assert "issued-here-0" == caller.token(cache_for(server), ORDERS).reveal()
        with pytest.raises(TokenRequestError, match=r"(?i)certificate"):
            caller.token(cache_for(strangers), ORDERS)


# httpcore leaves the socket that it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_unix_socket_that_is_not_there(caller: Caller, tmp_path: Path) -> None:
    """
    P4: one clear error.
    """
    server = AuthorizationServer(issuer="http://agent", uds=tmp_path / "missing.sock")

    with pytest.raises(TokenRequestError, match="No such file"):
        caller.token(cache_for(server), ORDERS)


# Own transports -----------------------------------------------------------------------------------


class Scripted:
    """
    What a transport of a test answers, and what it saw.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self.seen: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.seen.append(request)
        members = {
            "GET": {"issuer": f"https://{LOGIN}", "token_endpoint": f"https://{LOGIN}/token"},
            "POST": {"access_token": "t", "token_type": "Bearer", "expires_in": 60},
        }
        return self._library.Response(200, json=members[request.method])


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda m: m.__name__)
def test_a_transport_of_either_library(caller: Caller, library: Any) -> None:
    """
    Tests of others need no server; the transport is of whichever library they use.
    """
    script = Scripted(library)
    server = AuthorizationServer(issuer=f"https://{LOGIN}", transport=library.MockTransport(script))
    cache = cache_for(server)
    for _ in range(2):
        assert "t" == caller.token(cache, ORDERS).reveal()
        cache.forget()

    assert ["GET", "POST", "POST"] == [request.method for request in script.seen]
    body = dict(parse_qsl(script.seen[1].content.decode()))
    assert ORDERS == body["resource"]


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda m: m.__name__)
def test_a_transport_is_never_closed(caller: Caller, library: Any) -> None:
    """
    Whoever made it closes it: it is used by many requests.
    """
    closed: list[str] = []

    class Transport(library.MockTransport):  # type: ignore[misc]
        def close(self) -> None:
            closed.append("close")

        async def aclose(self) -> None:
            closed.append("aclose")

    server = AuthorizationServer(issuer=f"https://{LOGIN}", transport=Transport(Scripted(library)))
    caller.token(cache_for(server), ORDERS)

    assert [] == closed


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda m: m.__name__)
def test_what_a_transport_raises_is_one_clear_error(caller: Caller, library: Any) -> None:
    """
    P4: errors of either library are understood, and so is that nothing was sent.
    """

    def refuse(request: Any) -> Any:
        raise library.ConnectError("nobody there", request=request)

    server = AuthorizationServer(
        issuer=f"https://{LOGIN}",
        transport=library.MockTransport(refuse),
        timeout=timedelta(seconds=1),
    )
    with pytest.raises(TokenRequestError, match="ConnectError: nobody there"):
        caller.token(cache_for(server), ORDERS)


def test_a_transport_of_the_other_colour(caller: Caller) -> None:
    """
    An ASGI application cannot be asked by blocking code, nor a WSGI one by async code.
    """
    other: Any = httpx.ASGITransport(_nothing) if caller.blocking else httpx.WSGITransport(_nothing)
    server = AuthorizationServer(issuer=f"https://{LOGIN}", transport=other)

    words = "handle_request" if caller.blocking else "handle_async_request"
    with pytest.raises(TokenRequestError, match=rf"Transport has no {words}"):
        caller.token(cache_for(server), ORDERS)


def _nothing(*_: object) -> Any:
    raise AssertionError("nobody calls this")


# A proxy and an authority of one's own ------------------------------------------------------------


def test_a_tunnel_and_an_own_authority(caller: Caller) -> None:
    """
    The proxy is told where to connect to, and sees no byte of what is said there.
    """
    with (
        Issuer(f"https://{LOGIN}", tls=serving(LOGIN)) as login,
        RecordingProxy(lambda *_: login.port) as proxy,
    ):
        server = AuthorizationServer(issuer=login.issuer, proxy=proxy.url, verify=trusting())
        token = caller.token(cache_for(server), ORDERS)

    assert "issued-here-0" == token.reveal()
    assert {("connect", LOGIN, 443)} == {(p.kind, p.host, p.port) for p in proxy.passages}
    assert all(b"client_credentials" not in passage.sent for passage in proxy.passages)


# Certificates and aliases -------------------------------------------------------------------------


def test_a_client_with_a_certificate_goes_to_the_alias(caller: Caller, tmp_path: Path) -> None:
    """
    R8705-1: only there is a certificate asked for, and shown; others use the plain endpoint.
    """
    demanding = serving()
    authority().configure_trust(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    pem = tmp_path / "client.pem"
    authority().issue_cert(f"{CLIENT_ID}@example.com").private_key_and_cert_chain_pem.write_to_path(
        str(pem)
    )
    bundle = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(bundle))
    with Issuer(tls=serving()) as plain, Issuer(tls=demanding) as alias:
        assert plain.metadata is not None
        plain.metadata["mtls_endpoint_aliases"] = {"token_endpoint": f"{alias.url}/token"}
        server = AuthorizationServer(issuer=plain.issuer, verify=str(bundle))
        with_certificate = cache_for(server, client_auth=TlsClientAuth(CLIENT_ID, pem))
        caller.token(with_certificate, ORDERS)
        assert ([], 1) == (plain.token_requests, len(alias.token_requests))

        caller.token(cache_for(server), ORDERS)
        assert (1, 1) == (len(plain.token_requests), len(alias.token_requests))


# The address connected to -------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A resolver that knows of this machine alone, as one that was told lies.
    """
    resolve = socket.getaddrinfo

    def lie(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        return resolve("127.0.0.1" if name in (LOGIN, STS) else host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lie)


def sent(caller: Caller, request: HTTPRequest, server: AuthorizationServer) -> HTTPAnswer:
    if caller.blocking:
        return run_to_end(BlockingIO().send(request, server, 5))
    answer: HTTPAnswer = caller.call(AsyncIO().send, request, server, 5)
    return answer


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("host", [STS, "127.0.0.1", "127.1", "2130706433", "0x7f.1"])
def test_the_address_counts_and_not_the_name(caller: Caller, host: str) -> None:
    """
    X3: whatever a name led to when somebody looked, this is what was connected to. Nothing is sent
    there, not even TLS's greeting.
    """
    with Sink() as near:
        request = HTTPRequest("POST", f"http://{host}:{near.port}/", {}, reach=Reach.PRIVATE)
        server = AuthorizationServer(issuer=f"https://{LOGIN}")
        with pytest.raises(SendError, match=r"at 127\.0\.0\.1, which is nearer") as caught:
            sent(caller, request, server)

        assert (False, False) == (caught.value.sent, caught.value.passing)
        assert [] == near.seen


@pytest.mark.usefixtures("names")
def test_an_answer_says_where_it_came_from(caller: Caller) -> None:
    """
    X3: the address connected to; nothing where a proxy stands between.
    """
    with Sink() as sink, RecordingProxy(lambda *_: sink.port) as proxy:
        request = HTTPRequest("GET", f"http://{LOGIN}:{sink.port}/", {})
        direct = AuthorizationServer(issuer=f"https://{LOGIN}")
        through = AuthorizationServer(issuer=f"https://{LOGIN}", proxy=proxy.url)
        peers = [sent(caller, request, server).peer for server in (direct, through)]

    assert ["127.0.0.1", ""] == peers


@pytest.mark.usefixtures("names")
def test_a_rebound_name_gets_no_credential(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    X3: metadata from far away, here by a proxy, names a host that turns out to be this machine.
    """
    monkeypatch.delenv("no_proxy", raising=False)
    with (
        Issuer(f"https://{LOGIN}", tls=serving(LOGIN)) as login,
        Sink(tls=serving(STS)) as near,
        RecordingProxy(lambda *_: login.port) as proxy,
    ):
        assert login.metadata is not None
        login.metadata["token_endpoint"] = f"https://{STS}:{near.port}/token"
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", STS)
        server = AuthorizationServer(issuer=login.issuer, verify=trusting(), trust_env=True)
        with pytest.raises(TokenRequestError, match="nearer to this machine"):
            caller.token(cache_for(server), ORDERS)

        assert [] == near.seen
    assert [(LOGIN, 443)] == [(passage.host, passage.port) for passage in proxy.passages]


# An endpoint that has moved -----------------------------------------------------------------------


def gone(status: int) -> Callable[[Any], Answer | None]:
    def script(seen: Any) -> Answer | None:
        return Answer(status, (("Location", "/elsewhere"),)) if seen.path == "/token" else None

    return script


@pytest.mark.parametrize("status", [301, 307, 308, 404, 405, 410])
def test_a_token_endpoint_that_has_moved(
    caller: Caller, issuer: Issuer, clock: Clock, status: int
) -> None:
    """
    The metadata is read again, and what it names now is asked. The redirect is not followed.
    """
    events: list[TokenEvent] = []
    cache = cache_for(
        AuthorizationServer(issuer=issuer.issuer), clock=clock, on_event=events.append
    )
    caller.token(cache, "urn:x:a")
    clock.advance(60)
    with Issuer() as moved:
        issuer.behave(gone(status))
        assert issuer.metadata is not None
        issuer.metadata["token_endpoint"] = f"{moved.url}/token"
        moved.token["access_token"] = "issued-there"
        token = caller.token(cache, "urn:x:b")
        again = caller.token(cache, "urn:x:c")

    assert ["issued-there-0", "issued-there-1"] == [token.reveal(), again.reveal()]
    paths = ["/.well-known/oauth-authorization-server", "/token"]
    assert paths * 2 == [f"{seen.path}" for seen in sorted_by_turn(issuer)]
    assert 2 == len(moved.token_requests)
    assert 2 == [event.name for event in events].count("metadata_discovered")


def sorted_by_turn(issuer: Issuer) -> list[Any]:
    (first, second), rest = issuer.seen[:2], issuer.seen[2:]
    return [first, second, *sorted(rest, key=lambda seen: seen.path)]


@pytest.mark.parametrize("metadata", ["the same", "none", "another issuer"])
def test_one_that_has_gone_and_is_nowhere_else(
    caller: Caller, issuer: Issuer, clock: Clock, metadata: str
) -> None:
    """
    P10: one more look, no second request, no loop; the answer of the endpoint is what is told.
    """
    cache = cache_for(AuthorizationServer(issuer=issuer.issuer), clock=clock)
    caller.token(cache, "urn:x:a")
    clock.advance(60)
    issuer.behave(gone(404))
    if metadata == "none":
        issuer.metadata = None
    elif metadata == "another issuer":
        issuer.metadata = {"issuer": "https://evil.test", "token_endpoint": "https://evil.test/t"}
    with pytest.raises(TokenRequestError, match="404"):
        caller.token(cache, "urn:x:b")

    assert 2 == len(issuer.token_requests)


def test_what_was_looked_up_just_now_is_not_looked_up_again(
    caller: Caller, issuer: Issuer, clock: Clock
) -> None:
    """
    P10: an endpoint that answers 404 all the time costs one look in ten seconds.
    """
    cache = cache_for(AuthorizationServer(issuer=issuer.issuer), clock=clock)
    issuer.behave(gone(404))
    for resource in ("urn:x:a", "urn:x:b", "urn:x:c"):
        with pytest.raises(TokenRequestError, match="404"):
            caller.token(cache, resource)

    assert 3 == len(issuer.token_requests)
    assert 1 == len(issuer.seen) - 3


def test_a_configured_endpoint_is_where_it_is(caller: Caller, clock: Clock) -> None:
    """
    R8414-7: what the user has written is not looked up.
    """
    with Issuer() as issuer:
        server = AuthorizationServer(issuer=issuer.issuer, token_endpoint=f"{issuer.url}/token")
        cache = cache_for(server, clock=clock)
        caller.token(cache, "urn:x:a")
        clock.advance(60)
        issuer.behave(gone(410))
        with pytest.raises(TokenRequestError, match="410"):
            caller.token(cache, "urn:x:b")

        assert ["/token", "/token"] == [seen.path for seen in issuer.seen]
