"""
APIs that let requests in by their tokens, over sockets: FastAPI, Starlette and plain ASGI; what
they ask of the issuer and how often; tokens that are opaque; tokens of node-oidc-provider.
"""

from __future__ import annotations

import http.client
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI, Security
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from resource_tokens import (
    AccessToken,
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    RefreshToken,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
    TlsClientAuth,
    TokenCache,
    TokenEvent,
)
from resource_tokens.inbound import InboundToken, RequireToken, TokenRefusedError
from resource_tokens.oauth.client_auth import ClientAuth
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.possession import certificate_thumbprint
from resource_tokens.testing import LocalAuthorizationServer
from resource_tokens.tokens import Secret
from tests.conftest import CLIENT_ID, CLIENT_SECRET, Clock
from tests.servers.apis import Sink
from tests.servers.asgi import served
from tests.servers.loopback import post_form
from tests.servers.oidc_provider import OidcProvider
from tests.servers.oidc_provider.clients import SECRET, registered, server_tls, write_certificates
from tests.servers.scripted import Issuer
from tests.servers.signing import access_token, published
from tests.servers.tls import certificate, trusting

NOW = 1_800_000_000.0
ORDERS = "urn:example:orders"


def issued(server: LocalAuthorizationServer, resource: str, scope: str = "") -> str:
    """
    A token of the local authorization server.
    """
    form = {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "resource": resource,
    }
    answer = post_form(server.token_endpoint, form | ({"scope": scope} if scope else {}))
    return str(json.loads(answer)["access_token"])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Mint:
    """
    A scripted issuer that signs, and `RequireToken` for it with clocks that stand still.
    """

    def __init__(self) -> None:
        self.server = Issuer()
        self.clock = Clock()
        self.wall = NOW
        self.events: list[TokenEvent] = []
        self.loaded = threading.Event()
        self.server.metadata = {
            "issuer": self.server.issuer,
            "token_endpoint": f"{self.server.issuer}/token",
            "introspection_endpoint": f"{self.server.issuer}/introspect",
            "jwks_uri": f"{self.server.issuer}/keys",
        }
        self.token = partial(access_token, self.server.issuer, ORDERS, NOW)
        self.publish("ES256")

    def publish(self, *names: str) -> None:
        """
        These keys, and no others.
        """
        keys = [published(name) for name in names]
        self.server.answer("/keys", 200, body=json.dumps({"keys": keys}).encode())

    def say(self, status: int = 200, **members: Any) -> None:
        """
        What the introspection endpoint answers to everything.
        """
        said = {"active": True, "aud": ORDERS, "exp": int(NOW) + 300} | members
        said = {name: value for name, value in said.items() if value is not ...}
        self.server.answer("/introspect", status, body=json.dumps(said).encode())

    def require(self, **changes: Any) -> RequireToken:
        arguments: dict[str, Any] = {
            "issuer": AuthorizationServer(issuer=self.server.issuer, verify=trusting()),
            "audience": ORDERS,
            "on_event": self._report,
            "clock": self.clock,
            "wall_clock": lambda: self.wall,
        }
        return RequireToken(**arguments | changes)

    def introspecting(self, **changes: Any) -> RequireToken:
        return self.require(client_auth=ClientSecretBasic("orders-api", SECRET), **changes)

    def asked(self, path: str = "/keys") -> int:
        return len(self.server.seen_under(path))

    def _report(self, event: TokenEvent) -> None:
        self.events.append(event)
        if event.name in {"keys_loaded", "keys_failed"}:
            self.loaded.set()


@pytest.fixture(name="issuer")
def _issuer() -> Iterator[Mint]:
    mint = Mint()
    with mint.server:
        yield mint


def refused(require: RequireToken, token: str) -> TokenRefusedError:
    with pytest.raises(TokenRefusedError) as caught:
        require.verify(bearer(token), "GET", "/")
    return caught.value


# Frameworks


def fastapi_app(require: RequireToken) -> Any:
    app = FastAPI()
    app.get(require.metadata_path)(lambda: require.metadata)

    reading = Depends(require)
    cancelling = Depends(require.with_scopes("orders:write"))
    changing = Security(require, scopes=["orders:write"])

    @app.get("/orders/{number}")
    async def order(number: int, token: InboundToken = reading) -> dict[str, Any]:
        return {"number": number, "client": token.client_id}

    @app.delete("/orders/{number}")
    async def cancel(number: int, token: InboundToken = cancelling) -> dict[str, Any]:
        return {"number": number, "client": token.client_id}

    @app.put("/orders/{number}")
    async def change(number: int, token: InboundToken = changing) -> dict[str, Any]:
        return {"number": number, "client": token.client_id}

    return app


def starlette_app(require: RequireToken) -> Any:
    writing = require.with_scopes("orders:write")

    async def order(request: Request) -> JSONResponse:
        token = await (require if request.method == "GET" else writing)(request)
        number = int(request.path_params["number"])
        return JSONResponse({"number": number, "client": token.client_id})

    async def metadata(_: Request) -> JSONResponse:
        return JSONResponse(require.metadata)

    return Starlette(
        routes=[
            Route("/orders/{number}", order, methods=["GET", "PUT", "DELETE"]),
            Route(require.metadata_path, metadata),
        ]
    )


def middleware_app(require: RequireToken) -> Any:
    writing = require.with_scopes("orders:write")

    async def order(request: Request) -> JSONResponse:
        token: InboundToken = request.state.inbound_token
        if request.method != "GET":
            token = await writing(request)
        number = int(request.path_params["number"])
        return JSONResponse({"number": number, "client": token.client_id})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"well": True})

    routes = [
        Route("/orders/{number}", order, methods=["GET", "PUT", "DELETE"]),
        Route("/health", health),
    ]
    return require.middleware(Starlette(routes=routes), public=["/health"])


APPS = {"fastapi": fastapi_app, "starlette": starlette_app, "middleware": middleware_app}


@dataclass
class Api:
    """
    A running API whose resource identifier is its URL.
    """

    url: str
    server: LocalAuthorizationServer
    events: list[TokenEvent]
    client: httpx.Client

    def ask(self, method: str = "GET", path: str = "orders/7", **kwargs: Any) -> httpx.Response:
        return self.client.request(method, f"{self.url}{path}", **kwargs)


@pytest.fixture(name="api", params=APPS)
def _api(request: pytest.FixtureRequest, server: LocalAuthorizationServer) -> Iterator[Api]:
    events: list[TokenEvent] = []

    def application(url: str) -> Any:
        require = RequireToken(
            issuer=AuthorizationServer(issuer=server.issuer, verify=trusting()),
            audience=f"{url}/",
            scopes=["orders:read"],
            on_event=events.append,
        )
        return APPS[request.param](require)

    with served(application) as url, httpx.Client(trust_env=False) as client:
        yield Api(f"{url}/", server, events, client)


def test_who_is_let_in_and_who_is_not(api: Api) -> None:
    """
    The token for this API with its scopes comes in; without one, with one for another API and
    without the scopes it does not, and the challenges say why.
    """
    right = issued(api.server, api.url, "orders:read orders:write")
    few = issued(api.server, api.url, "orders:read")
    other = issued(api.server, "https://billing.example.com/", "orders:read orders:write")

    assert {"number": 7, "client": CLIENT_ID} == api.ask(headers=bearer(right)).json()
    for method in ("PUT", "DELETE"):
        assert 200 == api.ask(method, headers=bearer(right)).status_code
        forbidden = api.ask(method, headers=bearer(few))
        assert 403 == forbidden.status_code
        assert 'scope="orders:read orders:write"' in forbidden.headers["WWW-Authenticate"]
    assert 200 == api.ask(headers=bearer(few)).status_code

    nothing, wrong = api.ask(), api.ask(headers=bearer(other))
    assert (401, 401) == (nothing.status_code, wrong.status_code)
    for answer in (nothing, wrong):
        address = f"{api.url}.well-known/oauth-protected-resource"
        assert f'resource_metadata="{address}"' in answer.headers["WWW-Authenticate"]
        assert "no-store" == answer.headers["Cache-Control"]
    assert "error" not in nothing.headers["WWW-Authenticate"]
    assert 'error="invalid_token"' in wrong.headers["WWW-Authenticate"]
    (rejected,) = [e for e in api.events if "https://billing.example.com/" in e.detail]
    assert ("inbound_rejected", api.url) == (rejected.name, rejected.resource)
    assert api.url in rejected.detail


def test_the_clients_side_of_this_library_learns_and_comes_in(api: Api) -> None:
    """
    RFC 9728: the metadata leads `ResourceTokenAuth` to the issuer and to the scopes.
    """
    resources = ResourceMap(
        {api.url: Resource(api.url, max_scopes=["orders:read", "orders:write"])},
        discover=[api.server.issuer],
    )
    auth = ResourceTokenAuth(
        AuthorizationServer(issuer=api.server.issuer, verify=trusting()),
        ClientSecretBasic(CLIENT_ID, CLIENT_SECRET),
        resources,
    )

    assert 200 == api.ask(auth=auth).status_code
    assert 200 == api.ask("DELETE", auth=auth).status_code


def status(api: Api, target: str, *authorization: str) -> int:
    """
    What is answered, asked without httpx: it logs URLs, and has its own idea of headers.
    """
    connection = http.client.HTTPConnection("127.0.0.1", httpx.URL(api.url).port)
    connection.putrequest("GET", target)
    for value in authorization:
        connection.putheader("Authorization", value)
    connection.endheaders()
    found = connection.getresponse().status
    connection.close()
    return found


def test_two_authorization_headers(api: Api) -> None:
    """
    RFC 6750 2: nobody can say which one is meant, so neither is, in whatever order.
    """
    good, bad = bearer(issued(api.server, api.url, "orders:read")), "Bearer other"
    for values in ((good["Authorization"], bad), (bad, good["Authorization"])):
        assert 400 == status(api, "/orders/7", *values)


def test_a_token_in_the_query_or_the_body_is_none(api: Api) -> None:
    """
    RFC 9700 4.3.2: it is read from the header alone.
    """
    token = issued(api.server, api.url, "orders:read")

    assert 401 == api.ask("PUT", data={"access_token": token}).status_code
    assert 400 == status(api, "/orders/7?access_token=another", f"Bearer {token}")


def test_an_issuer_that_is_away_is_503(api: Api) -> None:
    """
    Nobody knows whether the token is good, so that is what the answer says.
    """
    token = issued(api.server, api.url, "orders:read")
    api.server.stop()

    answer = api.ask(headers=bearer(token))

    assert (503, "10") == (answer.status_code, answer.headers["Retry-After"])
    assert "WWW-Authenticate" not in answer.headers
    assert "keys_failed" in [event.name for event in api.events]


def test_the_middleware_serves_the_metadata_and_what_is_public(
    server: LocalAuthorizationServer,
) -> None:
    """
    Both to the letter; everything else needs a token.
    """

    def application(url: str) -> Any:
        issuer = AuthorizationServer(issuer=server.issuer, verify=trusting())
        return middleware_app(
            RequireToken(issuer=issuer, audience=ORDERS, resource=f"{url}/orders")
        )

    with served(application) as url, httpx.Client(trust_env=False, base_url=url) as client:
        path = "/.well-known/oauth-protected-resource/orders"
        described = client.get(path)
        statuses = {
            target: client.get(target).status_code
            for target in ("/health", "/health/", "/Health", "/health/../orders/7", "//health", "/")
        }

        assert f"{url}/orders" == described.json()["resource"]
        assert [server.issuer] == described.json()["authorization_servers"]
        assert "application/json" == described.headers["Content-Type"]
        assert 200 == client.head(path).status_code
        assert 401 == client.post(path).status_code
    assert 200 == statuses.pop("/health")
    assert {401} == set(statuses.values())


@pytest.mark.parametrize(
    ("root_path", "base_url"),
    [("", "https://gw.example.com/shop"), ("/shop", "https://gw.example.com")],
)
def test_behind_a_gateway_that_cuts_off_a_part_of_the_path(
    issuer: Mint, root_path: str, base_url: str
) -> None:
    """
    The client has asked for `https://gw.example.com/shop/orders/7`, and that is what its proof is
    for. A server that was told of the part puts it back itself.
    """
    key = ProofKey()
    token = issuer.token(cnf={"jkt": key.thumbprint})
    own = AccessToken(Secret(token), ORDERS, "DPoP", frozenset(), datetime.now(UTC))

    def headers(url: str) -> dict[str, str]:
        made = key.proof("GET", url, NOW, token=own)
        return {"Authorization": f"DPoP {token}", "DPoP": made, "Host": "gw.example.com"}

    def application(url: str) -> Any:
        return starlette_app(issuer.require(base_url=base_url, resource=url))

    with served(application, root_path=root_path) as url, httpx.Client(trust_env=False) as client:
        right, wrong = (
            client.get(f"{url}/orders/7", headers=headers(f"https://gw.example.com{path}"))
            for path in ("/shop/orders/7", "/orders/7")
        )

    assert 200 == right.status_code
    assert 401 == wrong.status_code
    assert "is not for https://gw.example.com/shop/orders/7" in wrong.headers["WWW-Authenticate"]


def test_fastapi_sees_the_connection_and_the_scopes() -> None:
    """
    What FastAPI asks for by type is in the signature of an object, and not in that of the class.
    """
    require = RequireToken(issuer="https://login.example.com", audience=ORDERS)

    assert ["connection", "security_scopes"] == list(inspect.signature(require).parameters)
    assert "issuer" in inspect.signature(RequireToken).parameters


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        ("fastapi.security", ["connection"]),
        ("starlette.requests", ["connection", "security_scopes"]),
    ],
)
def test_the_signature_without_a_framework(
    monkeypatch: pytest.MonkeyPatch, absent: str, expected: list[str]
) -> None:
    """
    Starlette without FastAPI is enough for dependencies; without both it is that of the method.
    """
    monkeypatch.setitem(sys.modules, absent, None)
    require = RequireToken(issuer="https://login.example.com", audience=ORDERS)

    assert expected == list(inspect.signature(require).parameters)


def test_importing_it_is_light() -> None:
    """
    No framework comes with `resource_tokens.inbound`.
    """
    code = (
        "import sys, httpx, httpx2; before = set(sys.modules)\n"
        "import resource_tokens.inbound\n"
        "heavy = {'starlette', 'fastapi', 'pydantic'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


# Plain ASGI, without a server: what uvicorn does not send


@dataclass
class Exchange:
    """
    What a middleware did with one ASGI connection.
    """

    sent: list[dict[str, Any]] = field(default_factory=list)
    reached: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.sent if m["type"].endswith("response.start")), None)


def through(
    require: RequireToken, scope: dict[str, Any], backend: str = "asyncio", **options: Any
) -> Exchange:
    exchange = Exchange()

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        exchange.reached.append(scope)

    async def receive() -> dict[str, Any]:
        return {"type": f"{scope['type']}.connect"}

    async def send(message: dict[str, Any]) -> None:
        exchange.sent.append(message)

    gate: Any = require.middleware(app, **options)
    anyio.run(gate, scope, receive, send, backend=backend)
    return exchange


@pytest.fixture(name="require")
def _require(server: LocalAuthorizationServer) -> RequireToken:
    return RequireToken(
        issuer=AuthorizationServer(issuer=server.issuer, verify=trusting()), audience=ORDERS
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_plain_asgi(server: LocalAuthorizationServer, require: RequireToken, backend: str) -> None:
    """
    A token in, its application reached with it; no token, nothing reached. On both event loops.
    """
    headers = [(b"authorization", f"Bearer {issued(server, ORDERS)}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "state": {"a": 1}}

    inside = through(require, scope, backend)
    # A copy, with all that the middleware has put into it.
    outside = through(require, {**scope, "headers": []}, backend)

    assert ORDERS in inside.reached[0]["state"]["inbound_token"].audience
    assert 1 == inside.reached[0]["state"]["a"]
    assert "inbound_token" not in scope["state"]
    assert ([], 401) == (outside.reached, outside.status)


def test_lifespan_and_websockets(server: LocalAuthorizationServer, require: RequireToken) -> None:
    """
    What is no connection passes; a websocket is refused before it is accepted, with an answer
    where the server can send one.
    """
    assert through(require, {"type": "lifespan"}).reached
    headers = [(b"authorization", f"Bearer {issued(server, ORDERS)}".encode())]
    scope: dict[str, Any] = {"type": "websocket", "path": "/", "headers": headers}
    assert through(require, scope).reached

    closed = through(require, {"type": "websocket", "path": "/", "headers": []})
    answered = through(
        require,
        {"type": "websocket", "path": "/", "extensions": {"websocket.http.response": {}}},
    )
    described = through(
        require, {"type": "websocket", "path": "/.well-known/oauth-protected-resource"}
    )

    assert ([], [{"type": "websocket.close", "code": 1008}]) == (closed.reached, closed.sent)
    assert ([], 401) == (answered.reached, answered.status)
    assert [] == described.reached


def test_the_certificate_of_the_connection(issuer: Mint) -> None:
    """
    The TLS extension of ASGI: the first of the chain is the client's own.
    """
    pem = certificate("worker.example.com").cert_chain_pems[0].bytes().decode()
    thumbprint = certificate_thumbprint(pem)
    headers = [(b"authorization", f"Bearer {issuer.token(cnf={'x5t#S256': thumbprint})}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}

    for chain, reached in (([pem], 1), ([], 0), (None, 0)):
        tls = {"tls": {"client_cert_chain": chain}}
        exchange = through(issuer.require(), {**scope, "extensions": tls})
        assert reached == len(exchange.reached)


@pytest.mark.parametrize("raw", [None, b"/caf%C3%A9/a:b;c=1", b"/caf%C3%A9/a:b;c=1?x=1"])
def test_the_path_of_a_proof_is_the_one_on_the_wire(issuer: Mint, raw: bytes | None) -> None:
    """
    `raw_path` where the server has it; with the query or without, as servers differ.
    """
    key = ProofKey()
    token = issuer.token(cnf={"jkt": key.thumbprint})
    own = AccessToken(Secret(token), ORDERS, "DPoP", frozenset(), datetime.now(UTC))
    made = key.proof("GET", "https://api.example.com/caf%C3%A9/a:b;c=1", NOW, token=own)
    headers = [(b"authorization", f"DPoP {token}".encode()), (b"dpop", made.encode())]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/caf\u00e9/a:b;c=1",
        "query_string": b"x=1",
        "headers": headers,
    }
    if raw is not None:
        scope["raw_path"] = raw

    require = issuer.require(base_url="https://api.example.com")
    assert through(require, scope).reached
    assert not through(require, {**scope, "path": "/other", "raw_path": b"/other"}).reached


def test_a_proof_is_looked_at_once_for_a_request(issuer: Mint) -> None:
    """
    However many parts of a program ask: middleware, dependency, view.
    """
    key = ProofKey()
    token = issuer.token(cnf={"jkt": key.thumbprint}, scope="orders:read")
    own = AccessToken(Secret(token), ORDERS, "DPoP", frozenset(), datetime.now(UTC))
    made = key.proof("GET", "https://api.example.com/", NOW, token=own)
    headers = [(b"authorization", f"DPoP {token}".encode()), (b"dpop", made.encode())]
    require = issuer.require(base_url="https://api.example.com")
    found = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        connection = Request(scope)
        found.append(await require(connection))
        found.append(await require.with_scopes("orders:read")(connection))

    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    gate: Any = require.middleware(app)
    anyio.run(gate, scope, None, None)

    assert 2 == len(found)
    assert found[0] is found[1]


# What is asked of the issuer


def together(colour: str, require: RequireToken, tokens: list[str]) -> list[Any]:
    """
    Check many requests at the same time; a token or an exception for each.
    """
    if colour == "sync":

        def check(token: str) -> Any:
            try:
                return require.verify(bearer(token), "GET", "/")
            except TokenRefusedError as error:
                return error

        with ThreadPoolExecutor(len(tokens)) as pool:
            return list(pool.map(check, tokens))
    found: list[Any] = []

    async def acheck(token: str) -> None:
        try:
            found.append(await require.averify(bearer(token), "GET", "/"))
        except TokenRefusedError as error:
            found.append(error)

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for token in tokens:
                group.start_soon(acheck, token)

    anyio.run(all_of_them, backend=colour)
    return found


COLOURS = pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])


@COLOURS
def test_who_comes_first_reads_the_keys_for_all(issuer: Mint, colour: str) -> None:
    """
    One request for the metadata and one for the keys, however many come at the same time.
    """
    found = together(colour, issuer.require(), [issuer.token()] * 20)

    assert 20 == len([token for token in found if isinstance(token, InboundToken)])
    assert (1, 1) == (issuer.asked("/.well-known"), issuer.asked())
    assert ["keys_loaded"] == [event.name for event in issuer.events]


@COLOURS
def test_made_up_keys_do_not_reach_the_issuer(issuer: Mint, colour: str) -> None:
    """
    P10: anybody can name an unknown key; the issuer is asked once in ten seconds, whatever comes.
    """
    require = issuer.require()
    tokens = [issuer.token(header={"kid": f"made up {number}"}) for number in range(20)]

    for expected in (1, 1, 2):
        found = together(colour, require, tokens)
        assert {401} == {error.status for error in found}
        assert expected == issuer.asked()
        issuer.clock.advance(5)


def test_a_new_key_is_found_at_once_and_an_old_one_goes(issuer: Mint) -> None:
    """
    A token with an unknown key makes the keys be read again; what is not published any more
    verifies nothing from then on.
    """
    require = issuer.require()
    old, new = issuer.token("ES256"), issuer.token("ES256 of next week")
    require.verify(bearer(old), "GET", "/")
    issuer.publish("ES256", "ES256 of next week")

    assert 401 == refused(require, new).status
    issuer.clock.advance(10)
    assert require.verify(bearer(new), "GET", "/")
    assert require.verify(bearer(old), "GET", "/")
    issuer.publish("ES256 of next week")
    issuer.clock.advance(3600)
    assert require.verify(bearer(new), "GET", "/")
    assert "does not publish" in str(refused(require, old))


def test_a_key_without_a_name_can_be_replaced(issuer: Mint) -> None:
    """
    Where tokens do not say which key is meant, a bad signature may be that of a newer one.
    """
    keys = json.dumps({"keys": [published("ES256", kid=None)]})
    issuer.server.answer("/keys", 200, body=keys.encode())
    require = issuer.require()
    assert require.verify(bearer(issuer.token(header={"kid": None})), "GET", "/")
    keys = json.dumps({"keys": [published("ES256 new", kid=None)]})
    issuer.server.answer("/keys", 200, body=keys.encode())
    issuer.clock.advance(10)

    assert require.verify(bearer(issuer.token("ES256 new", header={"kid": None})), "GET", "/")
    assert 401 == refused(require, issuer.token(header={"kid": None})).status


def test_a_rotation_of_the_local_server(server: LocalAuthorizationServer, clock: Clock) -> None:
    """
    The same with a server that has a mind of its own: the withdrawn key's tokens are refused.
    """
    require = RequireToken(
        issuer=AuthorizationServer(issuer=server.issuer, verify=trusting()),
        audience=ORDERS,
        clock=clock,
    )
    old = issued(server, ORDERS)
    require.verify(bearer(old), "GET", "/")
    server.rotate_keys(keep_old=False)
    clock.advance(10)

    assert require.verify(bearer(issued(server, ORDERS)), "GET", "/")
    assert 401 == refused(require, old).status


def test_keys_are_read_ahead_while_nobody_waits(issuer: Mint) -> None:
    """
    After ten minutes the old ones serve on, and one thread reads them again.
    """
    require, token = issuer.require(), issuer.token()
    require.verify(bearer(token), "GET", "/")
    issuer.loaded.clear()
    issuer.publish("ES256", "ES256 of next week")
    arrived, go_on = threading.Event(), threading.Event()

    def slowly(seen: Any) -> None:
        if seen.path == "/keys":
            arrived.set()
            go_on.wait(10)

    issuer.server.behave(slowly)
    issuer.clock.advance(601)
    for _ in range(5):
        assert require.verify(bearer(token), "GET", "/")
    assert arrived.wait(10)
    assert require.verify(bearer(token), "GET", "/")
    go_on.set()

    assert issuer.loaded.wait(10)
    assert 2 == issuer.asked()
    assert require.verify(bearer(issuer.token("ES256 of next week")), "GET", "/")


def test_without_threads_the_keys_are_read_by_who_comes_later(
    issuer: Mint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A platform without threads loses the reading ahead and nothing else.
    """
    require, token = issuer.require(), issuer.token()
    require.verify(bearer(token), "GET", "/")

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    issuer.clock.advance(601)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert require.verify(bearer(token), "GET", "/")
    assert 1 == issuer.asked()
    issuer.clock.advance(3000)
    assert require.verify(bearer(token), "GET", "/")
    assert 2 == issuer.asked()


def test_an_outage_of_a_day_is_survived_and_no_longer_one(issuer: Mint) -> None:
    """
    While the keys cannot be read, those at hand are used; for a day, as one of them may have been
    withdrawn. An unknown key cannot be judged then.
    """
    require, token = issuer.require(), issuer.token(exp=int(NOW) + 200_000)
    require.verify(bearer(token), "GET", "/")
    issuer.server.answer("/keys", 503)
    issuer.clock.advance(3600)
    assert require.verify(bearer(token), "GET", "/")
    assert 503 == refused(require, issuer.token(header={"kid": "new"})).status
    assert "keys_failed" in [event.name for event in issuer.events]

    issuer.loaded.clear()
    issuer.clock.advance(3600)
    assert require.verify(bearer(token), "GET", "/")
    assert issuer.loaded.wait(10)
    issuer.clock.advance(86_400 - 7200)
    assert 503 == refused(require, token).status
    issuer.publish("ES256")
    assert 503 == refused(require, token).status
    issuer.clock.advance(10)
    assert require.verify(bearer(token), "GET", "/")


def large() -> bytes:
    return json.dumps({"keys": [], "more": "x" * 70_000}).encode()


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"", "answered 404"),
        (302, b"", "answered 302"),
        (200, b"<html>", "answered 200"),
        (200, b"[]", "answered 200"),
        (200, b'{"keys": []}', "publishes no key"),
        (200, b'{"keys": {}}', "publishes no key"),
        (200, b"{}", "publishes no key"),
        (200, large(), "larger than 64 KiB"),
    ],
)
def test_keys_that_are_none(issuer: Mint, status: int, body: bytes, why: str) -> None:
    """
    Nothing is made up where there are no keys, no redirect is followed, and no document is too
    large; the reason is for whoever runs this API alone.
    """
    with Sink() as elsewhere:
        headers = [("Location", f"{elsewhere.url}/keys")] if status == 302 else []
        issuer.server.answer("/keys", status, headers=headers, body=body)

        error = refused(issuer.require(), issuer.token())

        assert [] == elsewhere.seen
    assert 503 == error.status
    assert why not in str(error)
    (failed, rejected) = issuer.events
    assert ("keys_failed", "inbound_rejected") == (failed.name, rejected.name)
    assert why in failed.detail
    assert why in rejected.detail


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/keys",
        "http://login.example.com/keys",
        "file:///etc/passwd",
        "ftp://127.0.0.1/keys",
        "https://user:word@127.0.0.1/keys",
        "/keys",
        7,
        None,
    ],
)
def test_the_metadata_leads_to_nobody_next_door(issuer: Mint, address: object) -> None:
    """
    `jwks_uri` is held to the same rules as the token endpoint: https, and no nearer than the
    document itself.
    """
    assert issuer.server.metadata is not None
    issuer.server.metadata["jwks_uri"] = address

    assert 503 == refused(issuer.require(), issuer.token()).status
    assert "names no usable jwks_uri" in issuer.events[0].detail


def test_the_metadata_is_the_issuers_own(issuer: Mint) -> None:
    """
    RFC 8414 3.3: another issuer in it, or none at all, and no token counts.
    """
    assert issuer.server.metadata is not None
    issuer.server.metadata["issuer"] = "https://login.example.com"
    assert 503 == refused(issuer.require(), issuer.token()).status
    assert "names another issuer" in issuer.events[0].detail

    issuer.server.metadata = None
    assert 503 == refused(issuer.require(), issuer.token()).status
    assert "publishes no metadata" in issuer.events[2].detail


def test_where_the_keys_are_can_be_configured(issuer: Mint) -> None:
    """
    Then no metadata is asked for.
    """
    issuer.server.metadata = None
    require = issuer.require(jwks_uri=f"{issuer.server.url}/keys")

    assert require.verify(bearer(issuer.token()), "GET", "/")
    assert 0 == issuer.asked("/.well-known")


def test_only_so_many_keys_are_looked_at(issuer: Mint) -> None:
    """
    P10: of a document with thousands of keys, 64 count.
    """
    issuer.server.answer(
        "/keys",
        200,
        body=json.dumps({"keys": [*[{"kty": "oct"}] * 63, *map(published, _SIXTY_FIVE)]}).encode(),
    )
    require = issuer.require()

    assert require.verify(bearer(issuer.token(_SIXTY_FIVE[0])), "GET", "/")
    assert 401 == refused(require, issuer.token(_SIXTY_FIVE[1])).status


_SIXTY_FIVE = ("ES256 number 64", "ES256 number 65")


# Opaque tokens


def test_an_opaque_token_needs_somebody_to_ask(issuer: Mint) -> None:
    """
    Without `client_auth` it is refused, and nothing is sent.
    """
    assert "no JWT" in str(refused(issuer.require(), "opaque"))
    assert 0 == issuer.asked("/introspect")


@COLOURS
def test_an_opaque_token_is_asked_about_once(issuer: Mint, colour: str) -> None:
    """
    RFC 7662: what is said of it is believed for a minute; all who come meanwhile ask once. The
    question authenticates.
    """
    issuer.say(scope="orders:read", sub="alice", client_id="web")
    require = issuer.introspecting()

    found = together(colour, require, ["an-opaque-token"] * 20)

    assert {("alice", "web", frozenset({"orders:read"}))} == {
        (token.subject, token.client_id, token.scopes) for token in found
    }
    assert issuer.server.issuer == found[0].issuer
    (question,) = issuer.server.seen_under("/introspect")
    assert b"token=an-opaque-token&token_type_hint=access_token" == question.body
    assert question.header("authorization")[0].startswith("Basic ")
    issuer.clock.advance(59)
    together(colour, require, ["an-opaque-token"])
    assert 1 == issuer.asked("/introspect")
    issuer.clock.advance(1)
    together(colour, require, ["an-opaque-token"])
    assert 2 == issuer.asked("/introspect")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"active": False}, "not active"),
        ({"aud": "urn:example:billing"}, "is for 'urn:example:billing'"),
        ({"aud": ...}, "is for ''"),
        ({"aud": None}, "is for ''"),
        ({"iss": "https://login.example.com"}, "from the issuer"),
        ({"exp": int(NOW) - 31}, "expired"),
        ({"exp": "soon"}, "does not say when"),
        ({"nbf": int(NOW) + 31}, "nbf"),
        ({"token_use": "refresh_token"}, "token_use"),
        ({"token_type": "DPoP"}, "not active"),
        ({"cnf": {"jkt": "x"}}, "as DPoP"),
        ({"cnf": {"x5t#S256": "x"}}, "certificate"),
        ({"cnf": {"other": "x"}}, "not understood"),
    ],
)
def test_what_is_said_of_an_opaque_token_is_judged(
    issuer: Mint, members: dict[str, Any], reason: str
) -> None:
    """
    As the claims of a JWT are: an answer about a token for another API, or of another kind, lets
    nobody in.
    """
    issuer.say(**members)
    error = refused(issuer.introspecting(), "opaque")

    assert 401 == error.status
    assert reason in str(error)


@pytest.mark.parametrize(
    ("status", "members"),
    [
        (401, {}),
        (500, {}),
        (200, {"active": "false"}),
        (200, {"active": 1}),
        (200, {"active": None}),
        (200, {"active": ...}),
    ],
)
def test_an_answer_that_is_none_is_503(issuer: Mint, status: int, members: dict[str, Any]) -> None:
    """
    `active` is true or false; whatever else there is says nothing, and is not remembered.
    """
    issuer.say(status, **members)
    require = issuer.introspecting()

    assert 503 == refused(require, "opaque").status
    assert "did not say whether" in issuer.events[-1].detail
    issuer.say()
    assert require.verify(bearer("opaque"), "GET", "/")


def test_an_opaque_token_without_an_end_has_one_soon(issuer: Mint) -> None:
    """
    Nothing that is done with it lasts longer than what was said of it is believed.
    """
    issuer.say(exp=...)

    token = issuer.introspecting().verify(bearer("opaque"), "GET", "/")

    assert datetime.fromtimestamp(NOW + 60, UTC) == token.expires_at


def test_what_is_said_is_not_believed_beyond_the_end_of_the_token(issuer: Mint) -> None:
    """
    A token that ends in ten seconds is asked about again then.
    """
    issuer.say(exp=int(NOW) + 10)
    require = issuer.introspecting()
    require.verify(bearer("opaque"), "GET", "/")
    issuer.clock.advance(10)
    issuer.wall += 10
    issuer.say(active=False)

    assert "not active" in str(refused(require, "opaque"))


def test_made_up_tokens_push_out_no_good_one(issuer: Mint) -> None:
    """
    P10: what is kept of either kind is bounded, and that a token is not active is believed for five
    seconds.
    """
    issuer.say()
    require = issuer.introspecting()
    require.verify(bearer("good"), "GET", "/")
    issuer.say(active=False)
    introspection = require._check._introspection
    assert introspection is not None
    introspection._inactive.__init__(8)  # type: ignore[misc]  # a thousand requests take a while
    for number in range(20):
        refused(require, f"made-up-{number}")
    before = issuer.asked("/introspect")
    refused(require, "made-up-19")

    assert before == issuer.asked("/introspect")
    assert require.verify(bearer("good"), "GET", "/")
    assert before == issuer.asked("/introspect")
    assert 8 == len(introspection._inactive)
    issuer.clock.advance(5)
    refused(require, "made-up-19")
    assert before + 1 == issuer.asked("/introspect")


@COLOURS
def test_only_so_many_questions_are_under_way(issuer: Mint, colour: str) -> None:
    """
    P10: forty tokens that nobody knows, and sixteen questions at a time.
    """
    issuer.say()
    arrived, go_on, lock = threading.Semaphore(0), threading.Event(), threading.Lock()
    under_way, most = 0, 0

    def counted(seen: Any) -> None:
        nonlocal under_way, most
        if seen.path != "/introspect":
            return
        with lock:
            under_way += 1
            most = max(most, under_way)
        arrived.release()
        go_on.wait(10)
        with lock:
            under_way -= 1

    issuer.server.behave(counted)
    require = issuer.introspecting()

    def let_go() -> None:
        for _ in range(16):
            arrived.acquire(timeout=10)
        go_on.set()

    watcher = threading.Thread(target=let_go)
    watcher.start()
    found = together(colour, require, [f"opaque-{number}" for number in range(40)])
    watcher.join()

    assert 40 == len([token for token in found if isinstance(token, InboundToken)])
    assert (16, 40) == (most, issuer.asked("/introspect"))


def test_a_question_that_has_to_wait_for_too_long_is_503(issuer: Mint) -> None:
    """
    Nobody hangs: with all turns taken by a loop that blocks, this thread waits for none of them;
    with those of others, as long as a request may take.
    """
    issuer.say()
    quick = AuthorizationServer(
        issuer=issuer.server.issuer, verify=trusting(), timeout=timedelta(seconds=0.2)
    )
    require = issuer.introspecting(issuer=quick)
    introspection = require._check._introspection
    assert introspection is not None
    endpoint = f"{issuer.server.issuer}/introspect"
    ask = partial(introspection._turns.ask, endpoint, 16, 100.0)
    turns = [ask() for _ in range(16)]

    assert 503 == refused(require, "opaque").status
    assert "asked about others" in issuer.events[-1].detail
    for turn in turns:
        turn.give_back()
    others = [ask(hurried=False) for _ in range(16)]
    assert 503 == refused(require, "opaque").status
    for turn in others:
        turn.give_back()
    assert require.verify(bearer("opaque"), "GET", "/")


def test_a_jwt_is_not_asked_about(issuer: Mint) -> None:
    """
    Where both kinds are taken, the one that can be verified is; what only looks like one is not.
    """
    issuer.say()
    require = issuer.introspecting()

    assert require.verify(bearer(issuer.token()), "GET", "/")
    assert 0 == issuer.asked("/introspect")
    assert 401 == refused(require, issuer.token(header={"alg": "none"})).status
    assert 0 == issuer.asked("/introspect")
    assert require.verify(bearer("v2.local.opaque"), "GET", "/")
    assert 1 == issuer.asked("/introspect")


def test_an_issuer_of_opaque_tokens_needs_no_keys(issuer: Mint) -> None:
    """
    And where both addresses are configured, no metadata.
    """
    assert issuer.server.metadata is not None
    del issuer.server.metadata["jwks_uri"]
    issuer.say()
    assert issuer.introspecting().verify(bearer("opaque"), "GET", "/")
    assert "does not publish" in str(refused(issuer.introspecting(), issuer.token()))

    issuer.server.metadata = None
    there = {
        "jwks_uri": f"{issuer.server.url}/keys",
        "introspection_endpoint": f"{issuer.server.url}/introspect",
    }
    assert issuer.introspecting(**there).verify(bearer("opaque"), "GET", "/")


def test_an_issuer_that_cannot_be_asked_is_said(issuer: Mint) -> None:
    """
    Metadata without an introspection endpoint, or with one that is next door.
    """
    assert issuer.server.metadata is not None
    issuer.server.metadata["introspection_endpoint"] = "http://169.254.169.254/"

    assert 503 == refused(issuer.introspecting(), "opaque").status
    assert "no usable introspection_endpoint" in issuer.events[-1].detail
    there = f"{issuer.server.url}/introspect"
    require = issuer.introspecting(introspection_endpoint=there, jwks_uri=f"{issuer.server.url}/k")
    issuer.server.stop()
    assert 503 == refused(require, "opaque").status


# Tokens of node-oidc-provider


API = "https://orders.example.com/api"
OPAQUE = "https://stock.example.com/"


@dataclass
class Provider:
    """
    node-oidc-provider, and what its tokens are asked for with.
    """

    running: OidcProvider
    certificates: Path

    def token(self, resource: str, client_auth: ClientAuth | None = None) -> str:
        """
        An access token for a resource.
        """
        ca = str(self.certificates / "ca.pem")
        cache = TokenCache(
            AuthorizationServer(issuer=self.running.issuer, verify=ca),
            client_auth or ClientSecretBasic("client_secret_basic", SECRET),
        )
        return cache.get(Resource(resource, scopes=["read"])).reveal()

    def bound_token(self, resource: str, key: ProofKey) -> str:
        """
        The same, bound to a key.
        """
        url = self.running.token_endpoint
        proof = key.proof("POST", url, datetime.now(UTC).timestamp())
        form = {"grant_type": "client_credentials", "resource": resource, "scope": "read"}
        with httpx.Client(trust_env=False, auth=("client_secret_basic", SECRET)) as client:
            answer = client.post(url, data=form, headers={"DPoP": proof}).raise_for_status()
        assert "DPoP" == answer.json()["token_type"]
        return str(answer.json()["access_token"])

    def require(self, audience: str, **changes: Any) -> RequireToken:
        return RequireToken(
            issuer=AuthorizationServer(issuer=self.running.issuer, verify=trusting()),
            audience=audience,
            scopes=["read"],
            client_auth=ClientSecretBasic("client_secret_basic", SECRET),
            **changes,
        )


@pytest.fixture(name="provider", scope="module")
def _provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    clients = registered()
    for client in clients:
        if client["client_id"] == "self_signed_tls_client_auth":
            client["tls_client_certificate_bound_access_tokens"] = True
    config: Any = {
        "clients": clients,
        "resources": {
            API: {"scopes": ["read"], "alg": "RS256"},
            "urn:example:es256": {"scopes": ["read"], "alg": "ES256"},
            OPAQUE: {"scopes": ["read"], "format": "opaque"},
        },
        "tls": server_tls(),
    }
    with OidcProvider(config) as running:
        yield Provider(running, folder)


@pytest.mark.parametrize("resource", [API, "urn:example:es256", OPAQUE])
def test_tokens_of_a_real_provider(provider: Provider, resource: str) -> None:
    """
    JWTs of both algorithms and opaque tokens: good at their own API, and at no other.
    """
    token = provider.token(resource)

    come_in = provider.require(resource).verify(bearer(token), "GET", "/")

    assert {"read"} == come_in.scopes
    assert (resource,) == come_in.audience
    assert "client_secret_basic" == come_in.client_id
    for other in {API, "urn:example:es256", OPAQUE} - {resource}:
        assert "and not for" in str(refused(provider.require(other), token))


@pytest.mark.parametrize("resource", [API, OPAQUE])
def test_a_dpop_bound_token_of_a_real_provider(provider: Provider, resource: str) -> None:
    """
    RFC 9449: whether its key is in the JWT or in the answer about it.
    """
    key = ProofKey()
    require = provider.require(resource)
    now = datetime.now(UTC).timestamp()
    token = provider.bound_token(resource, key)
    own = AccessToken(Secret(token), resource, "DPoP", frozenset(), datetime.now(UTC))

    def headers(key: ProofKey) -> dict[str, str]:
        made = key.proof("GET", f"{httpx.URL(resource).copy_with(path='/7')}", now, token=own)
        return {"Authorization": f"DPoP {token}", "DPoP": made}

    assert require.verify(headers(key), "GET", "/7")
    assert "as DPoP" in str(refused(require, token))
    with pytest.raises(TokenRefusedError, match="not from the key"):
        require.verify(headers(ProofKey()), "GET", "/7")


@pytest.mark.parametrize("resource", [API, OPAQUE])
def test_a_certificate_bound_token_of_a_real_provider(provider: Provider, resource: str) -> None:
    """
    RFC 8705 3: the certificate that the client has authenticated with is the one it has to show.
    """
    file = provider.certificates / "self_signed_tls_client_auth.pem"
    pem = file.read_text()
    other = (provider.certificates / "tls_client_auth.pem").read_text()
    require = provider.require(resource)
    token = provider.token(resource, TlsClientAuth("self_signed_tls_client_auth", file))

    assert require.verify(bearer(token), "GET", "/", client_certificate=pem)
    for shown, reason in ((None, "none was presented"), (other, "another certificate")):
        with pytest.raises(TokenRefusedError, match=reason):
            require.verify(bearer(token), "GET", "/", client_certificate=shown)


def test_a_refresh_token_is_no_access_token(provider: Provider) -> None:
    """
    RFC 7662: the server says that it is active, and it is refused all the same.
    """
    token = provider.running.refresh_token("agent", {OPAQUE: "read"})

    assert provider.running.introspected(token, "agent", SECRET)["active"]
    assert 401 == refused(provider.require(OPAQUE), token).status


def test_a_revoked_token_is_noticed_within_a_minute(provider: Provider, clock: Clock) -> None:
    """
    RFC 7009: an opaque token that was let in is asked about again.
    """
    token = provider.token(OPAQUE)
    require = provider.require(OPAQUE, clock=clock)
    require.verify(bearer(token), "GET", "/")
    provider.running.revoke(token, "client_secret_basic", SECRET)

    assert require.verify(bearer(token), "GET", "/")
    clock.advance(60)
    assert "not active" in str(refused(require, token))


# No way out


def test_a_token_that_came_in_goes_nowhere(issuer: Mint) -> None:
    """
    It is a type of its own: nothing that sends requests takes it, and what is raised shows none of
    it.
    """
    given = issuer.token()
    token: Any = issuer.require().verify(bearer(given), "GET", "/")
    server = AuthorizationServer(issuer=issuer.server.issuer)
    client_auth = ClientSecretBasic("orders-api", SECRET)

    def auth_for(resource: Any, **options: Any) -> ResourceTokenAuth:
        return ResourceTokenAuth(server, client_auth, resources=[resource], **options)

    auth = auth_for("https://inventory.example.com/")
    attempts: list[Callable[[], object]] = [
        lambda: auth.cache.get(token),
        lambda: auth.token_for(token),
        lambda: auth.scoped(token),
        lambda: Resource(token),
        lambda: RefreshToken(token),
        lambda: ClientSecretBasic("orders-api", token),
        lambda: Resource("urn:x", extra={"subject_token": token}),
        lambda: auth_for(token),
        lambda: auth_for("urn:x", grant=token),
        lambda: TokenCache(server, client_auth, grant=token),
        lambda: httpx.get(issuer.server.url, auth=token),
        lambda: httpx.get(issuer.server.url, headers={"Authorization": token}),
        lambda: token.authorization,
        lambda: token.reveal,
    ]

    for attempt in attempts:
        with pytest.raises((ConfigurationError, TypeError, AttributeError)) as caught:
            attempt()
        assert given not in str(caught.value)
    with pytest.raises(ConfigurationError, match="not for InboundToken"):
        auth.cache.get(token)
    with pytest.raises(ConfigurationError, match="is a InboundToken"):
        TokenCache(server, client_auth, grant=token)
    assert [] == issuer.server.token_requests
