"""
Sending token requests: bounded in time and size, without redirects or surroundings.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    TokenCache,
    TokenRequestError,
)
from resource_tokens._local_http import Acceptor
from tests.conftest import CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, World
from tests.servers.apis import Answer, Sink
from tests.servers.tls import authority, secured, serving, trusting

SHORT = timedelta(milliseconds=300)
# What was left of it when the request was sent.
GIVEN_UP = r"no whole answer within 0\.(?:3|[0-2]\d*) s"


def cache_for(endpoint: str, **options: Any) -> TokenCache:
    options.setdefault("verify", trusting())
    server = AuthorizationServer(token_endpoint=endpoint, **options)
    return TokenCache(server, ClientSecretBasic(CLIENT_ID, CLIENT_SECRET))


class Dripping(Acceptor):
    """
    A server that sends one byte at a time, for as long as somebody listens.
    """

    def __init__(self, preamble: bytes, *, secure: bool = False) -> None:
        self._preamble = preamble
        self._tls = serving() if secure else None
        super().__init__()
        self.url = f"{'https' if secure else 'http'}://127.0.0.1:{self.port}/token"

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is None:
            self._drip(connection)
        else:
            with secured(connection, self._tls) as encrypted:
                self._drip(encrypted)

    def _drip(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(self._preamble)
        while True:
            time.sleep(0.02)
            connection.sendall(b"x")


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "preamble",
    [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"],
    ids=["headers", "body"],
)
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_a_dripping_server_is_given_up(caller: Caller, preamble: bytes, secure: bool) -> None:
    """
    P10: the limit is on the request as a whole, not on each read.
    """
    with Dripping(preamble, secure=secure) as server:
        cache = cache_for(server.url, timeout=SHORT)
        with pytest.raises(TokenRequestError, match=GIVEN_UP) as caught:
            caller.token(cache, ORDERS)

    assert caught.value.__context__ is None
    assert CLIENT_SECRET not in repr(caught.value.args)


def test_a_silent_server_is_given_up(caller: Caller) -> None:
    """
    P10: connected, and no answer.
    """
    with Dripping(b"") as server, pytest.raises(TokenRequestError, match=rf"{GIVEN_UP}|Timeout"):
        caller.token(cache_for(server.url, timeout=SHORT), ORDERS)


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
def test_a_body_is_read_up_to_64_kib(caller: Caller, size: int) -> None:
    """
    P10: a longer answer is no token response.
    """
    with Sink() as server:
        body = b'{"access_token": "t", "token_type": "Bearer", "expires_in": 60}'.ljust(size)
        server.answer("/token", 200, body=body)
        cache = cache_for(f"{server.url}/token")
        if size > 64 * 1024:
            with pytest.raises(TokenRequestError, match="larger than 64 KiB"):
                caller.token(cache, ORDERS)
        else:
            assert "t" == caller.token(cache, ORDERS).reveal()

        assert [["identity"]] == [seen.header("accept-encoding") for seen in server.seen]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_credential_along(caller: Caller, world: World, status: int) -> None:
    """
    R13, E8: a 307 would replay the secret to another origin.
    """
    with Sink() as server:
        server.redirect("/token", to=f"{world.sink.url}/steal", status=status)
        with pytest.raises(TokenRequestError, match="redirect"):
            caller.token(cache_for(f"{server.url}/token"), ORDERS)

    assert [] == world.sink.seen


def _hang_up(_seen: Any) -> Answer | None:
    raise ConnectionResetError


def _half(_seen: Any) -> Answer | None:
    return Answer(200, (("Content-Length", "500"),), b'{"access_token": "half')


@pytest.mark.parametrize("script", [_hang_up, _half], ids=["reset", "half a body"])
def test_a_broken_connection_is_one_clear_error(caller: Caller, script: Callable[..., Any]) -> None:
    """
    T14: half an answer is none, and no part of it is shown.
    """
    with Sink() as server:
        server.behave(script)
        with pytest.raises(TokenRequestError, match=ORDERS) as caught:
            caller.token(cache_for(f"{server.url}/token", timeout=timedelta(seconds=2)), ORDERS)

    assert "half" not in str(caught.value)


@pytest.mark.usefixtures("no_environment")
def test_certificates_are_checked(caller: Caller) -> None:
    """
    R6750-9: an unknown authority is no authorization server.
    """
    with Sink(tls=serving()) as server, pytest.raises(TokenRequestError, match=r"(?i)certificate"):
        caller.token(cache_for(f"{server.url}/token", verify=True), ORDERS)


@pytest.fixture
def answering() -> Iterator[Sink]:
    body = b'{"access_token": "t", "token_type": "Bearer", "expires_in": 60}'
    with Sink(tls=serving()) as server:
        server.answer("/token", 200, body=body)
        yield server


def test_an_own_authority_is_trusted_by_file_or_context(
    caller: Caller, answering: Sink, tmp_path: Any
) -> None:
    """
    `verify=` takes the path of a CA bundle, or a context.
    """
    bundle = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(bundle))
    context = ssl.create_default_context(cafile=str(bundle))
    for verify in (str(bundle), context):
        cache = cache_for(f"{answering.url}/token", verify=verify)
        assert "t" == caller.token(cache, ORDERS).reveal()
        cache.forget()
        assert "t" == caller.token(cache, ORDERS).reveal()

    missing = cache_for(f"{answering.url}/token", verify=str(tmp_path / "missing.pem"))
    with pytest.raises(TokenRequestError, match="FileNotFoundError"):
        caller.token(missing, ORDERS)


@pytest.mark.filterwarnings("ignore:verify=False:UserWarning")
def test_verification_can_be_switched_off(caller: Caller, answering: Sink) -> None:
    """
    It warned at construction.
    """
    cache = cache_for(f"{answering.url}/token", verify=False)

    assert "t" == caller.token(cache, ORDERS).reveal()


def test_the_environment_is_not_trusted_unless_asked(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """
    L7: neither proxies nor `.netrc` of the environment take part in token requests.
    """
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login stolen password stolen\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", world.sink.url)
    monkeypatch.setenv("ALL_PROXY", world.sink.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    post = AuthorizationServer(token_endpoint=world.server.token_endpoint)
    caller.token(TokenCache(post, ClientSecretBasic(CLIENT_ID, CLIENT_SECRET)), ORDERS)
    assert [] == world.sink.seen

    asked = cache_for(world.server.token_endpoint, trust_env=True)
    with pytest.raises(TokenRequestError):
        caller.token(asked, ORDERS)
    assert [world.server.token_endpoint] == [seen.target for seen in world.sink.seen]


def test_a_proxy_for_token_requests_can_be_named(caller: Caller, world: World) -> None:
    """
    `proxy=` is for the token endpoint alone.
    """
    cache = cache_for(world.server.token_endpoint, proxy=world.sink.url)
    with pytest.raises(TokenRequestError):
        caller.token(cache, ORDERS)

    assert [world.server.token_endpoint] == [seen.target for seen in world.sink.seen]
    assert () == world.server.token_requests
