"""
The servers of `resource_tokens.testing` and the fixtures built on them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import httpx
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from resource_tokens import pytest_plugin
from resource_tokens.pytest_plugin import StartResourceServer
from resource_tokens.testing import (
    ABSENT,
    LocalAuthorizationServer,
    LocalResourceServer,
    RequestRecord,
    RevokedTokenError,
    TokenRequestRecord,
)

ORDERS = "urn:example:orders"
BILLING = "urn:example:billing"
CLIENT = ("orders-worker", "secret")
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
A_T = "urn:ietf:params:oauth:token-type:access_token"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="http", scope="module")
def _http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


@pytest.fixture(name="server")
def _server() -> Iterator[LocalAuthorizationServer]:
    with LocalAuthorizationServer() as server:
        yield server


def ask(
    http: httpx.Client,
    server: LocalAuthorizationServer,
    *resources: str,
    auth: tuple[str, str] | None = CLIENT,
    **parameters: str,
) -> httpx.Response:
    form: dict[str, Any] = {"grant_type": "client_credentials", "resource": list(resources)}
    return http.post(
        server.token_endpoint, data=form | parameters, auth=auth or httpx.USE_CLIENT_DEFAULT
    )


def token_from(http: httpx.Client, server: LocalAuthorizationServer, resource: str) -> str:
    response = ask(http, server, resource)
    assert 200 == response.status_code
    return str(response.json()["access_token"])


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def basic(credentials: bytes) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(credentials).decode()}


def wire(url: str, request: bytes) -> bytes:
    """
    Send these bytes and return everything that comes back until the server closes.
    """
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


class TestLifecycle:
    def test_stop_leaves_nothing(self, http: httpx.Client) -> None:
        """
        Stopping ends every thread, also that of an idle keep-alive connection.
        """
        before = threading.active_count()
        server = LocalAuthorizationServer()

        with server:
            http.get(server.jwks_uri)
            during = threading.active_count()

        assert before + 2 == during
        assert before == threading.active_count()
        with pytest.raises(httpx.ConnectError):
            http.get(server.jwks_uri)

    def test_start_and_stop_are_idempotent(self, http: httpx.Client) -> None:
        """
        A second start or stop changes nothing, and a restart keeps the address.
        """
        server = LocalAuthorizationServer()
        server.stop()
        issuer = server.start().issuer
        assert issuer == server.start().issuer
        server.stop()
        server.stop()

        with server:
            assert issuer == server.issuer
            assert 200 == http.get(server.jwks_uri).status_code

    def test_keep_alive(self, server: LocalAuthorizationServer) -> None:
        """
        Several requests travel over one connection.
        """
        request = b"GET /jwks HTTP/1.1\r\nHost: x\r\n\r\n"

        received = wire(server.issuer, request * 3)

        assert 3 == received.count(b"HTTP/1.1 200 OK")

    def test_no_address_before_start(self) -> None:
        """
        The issuer cannot be read before the first start, and the message says what to call.
        """
        server = LocalAuthorizationServer()

        with pytest.raises(RuntimeError, match=r"Call start\(\)"):
            _ = server.issuer

        assert "LocalAuthorizationServer(issuer=None)" == repr(server)

    def test_repr_shows_no_secret(self, server: LocalAuthorizationServer) -> None:
        """
        The repr is the issuer and nothing else.
        """
        assert f"LocalAuthorizationServer(issuer='{server.issuer}')" == repr(server)

    def test_stop_interrupts_a_delay(self, http: httpx.Client) -> None:
        """
        Stopping does not wait for a delayed answer.
        """
        arrived = threading.Event()

        def clock() -> float:
            arrived.set()
            return 0.0

        server = LocalAuthorizationServer(clock=clock).start()
        server.delay = timedelta(hours=1)

        def request() -> None:
            with suppress(httpx.TransportError):
                ask(http, server, ORDERS)

        thread = threading.Thread(target=request)
        thread.start()
        assert arrived.wait(10)
        server.stop()
        thread.join()

        assert 1 == len(server.token_requests)

    def test_silence(
        self, server: LocalAuthorizationServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """
        Requests, malformed requests and clients that vanish leave nothing on stderr.
        """
        wire(server.issuer, b"GET /jwks HTTP/1.1\r\n\r\n")
        wire(server.issuer, b"nonsense\r\n\r\n")
        wire(server.issuer, b"POST /token HTTP/1.1\r\nContent-Length: 99\r\n\r\ngone")
        server.stop()

        captured = capfd.readouterr()

        assert ("", "") == (captured.out, captured.err)

    def test_a_mistake_of_the_user_is_seen(
        self,
        server: LocalAuthorizationServer,
        http: httpx.Client,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """
        A value that cannot become JSON drops the connection and prints why.
        """
        server.overrides = {"extra": object()}

        with pytest.raises(httpx.RemoteProtocolError):
            ask(http, server, ORDERS)
        server.stop()

        assert "not JSON serializable" in capfd.readouterr().err

    @pytest.mark.parametrize("run", [asyncio.run, trio.run])
    def test_async_clients(self, server: LocalAuthorizationServer, run: Any) -> None:
        """
        Clients on asyncio and on trio are served alike.
        """

        async def keys() -> Any:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(server.jwks_uri)).json()

        result = run(keys()) if run is asyncio.run else run(keys)

        assert server.jwks == result


class TestDocuments:
    @pytest.mark.parametrize("path", ["", "/", "/tenant1", "/a/b/"])
    def test_addresses(self, http: httpx.Client, path: str) -> None:
        """
        RFC 8414 metadata is at the inserted address, OpenID discovery at the appended one.
        """
        with LocalAuthorizationServer(path=path) as server:
            stem = server.issuer.rstrip("/")
            host = server.issuer.removesuffix(path)
            inserted = f"{host}/.well-known/oauth-authorization-server{stem.removeprefix(host)}"

            documents = [
                http.get(inserted).json(),
                http.get(f"{stem}/.well-known/openid-configuration").json(),
            ]

            assert [server.issuer] * 2 == [document["issuer"] for document in documents]
            assert server.token_endpoint == documents[0]["token_endpoint"]
            assert server.jwks == http.get(documents[0]["jwks_uri"]).json()

    @pytest.mark.parametrize(
        ("metadata", "expected"),
        [
            ("both", [200, 200]),
            ("rfc8414", [200, 404]),
            ("openid", [404, 200]),
            ("none", [404] * 2),
        ],
    )
    def test_switched_off(self, http: httpx.Client, metadata: Any, expected: list[int]) -> None:
        """
        Each of the two documents can be switched off.
        """
        with LocalAuthorizationServer(metadata=metadata) as server:
            well_known = f"{server.issuer}/.well-known"

            statuses = [
                http.get(f"{well_known}/oauth-authorization-server").status_code,
                http.get(f"{well_known}/openid-configuration").status_code,
            ]

            assert expected == statuses

    def test_canned_document(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        `respond` stands in for any document, here one that names another issuer.
        """
        path = "/.well-known/oauth-authorization-server"
        server.respond(path, body=b'{"issuer": "http://evil"}', times=1)

        answers = [http.get(server.issuer + path).json()["issuer"] for _ in range(2)]

        assert ["http://evil", server.issuer] == answers


class TestClientAuthentication:
    @pytest.mark.parametrize("secret", ["secret", "a:b%+ /~*", "pässwörd €"])
    def test_basic(self, http: httpx.Client, secret: str) -> None:
        """
        client_secret_basic carries any secret once both parts are form-urlencoded.
        """
        client_id = "orders worker:1"
        with LocalAuthorizationServer(clients={client_id: secret}) as server:
            response = ask(http, server, ORDERS, auth=(quote_plus(client_id), quote_plus(secret)))

            record = server.token_requests[0]
            assert 200 == response.status_code
            assert (client_id, "client_secret_basic") == (record.client_id, record.auth_method)

    @pytest.mark.parametrize(
        "credentials",
        [b"w:a b", b"w:%zz", b"w:a:b", b"w", b"w:%ff", "w:ä".encode()],
    )
    def test_badly_encoded_basic(
        self, server: LocalAuthorizationServer, http: httpx.Client, credentials: bytes
    ) -> None:
        """
        Basic credentials that are not form-urlencoded are refused, whatever the secret is.
        """
        form = {"grant_type": "client_credentials", "resource": ORDERS}

        response = http.post(server.token_endpoint, data=form, headers=basic(credentials))

        record = server.token_requests[0]
        assert (401, "invalid_client") == refusal(response)
        assert (None, "client_secret_basic") == (record.client_id, record.auth_method)

    def test_bad_base64(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        Basic credentials that are not base64 are refused.
        """
        headers = {"Authorization": "Basic ***"}

        response = http.post(server.token_endpoint, data={"resource": ORDERS}, headers=headers)

        assert (401, "invalid_client") == refusal(response)

    def test_post(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        client_secret_post is accepted, and its secret is redacted in the record.
        """
        credentials = {"client_id": "orders-worker", "client_secret": "secret"}

        response = ask(http, server, ORDERS, auth=None, **credentials)

        record = server.token_requests[0]
        assert 200 == response.status_code
        assert "client_secret_post" == record.auth_method
        assert ("client_secret", "[redacted]") in record.parameters

    @pytest.mark.parametrize("auth", [("orders-worker", "wrong"), ("nobody", "secret"), None])
    def test_wrong_client(
        self,
        server: LocalAuthorizationServer,
        http: httpx.Client,
        auth: tuple[str, str] | None,
    ) -> None:
        """
        An unknown client and a wrong or missing secret are a 401 with a Basic challenge.
        """
        response = ask(http, server, ORDERS, auth=auth)

        assert (401, "invalid_client") == refusal(response)
        assert response.headers["WWW-Authenticate"].startswith("Basic ")
        assert ["invalid_client"] == [record.error for record in server.token_requests]

    def test_two_ways(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A client that authenticates in two ways at once is refused.
        """
        response = ask(http, server, ORDERS, client_secret="secret")

        assert (400, "invalid_request") == refusal(response)

    def test_clients_change_at_runtime(
        self, server: LocalAuthorizationServer, http: httpx.Client
    ) -> None:
        """
        A secret replaced while the server runs is the one that counts.
        """
        server.clients["orders-worker"] = "rotated"

        statuses = [
            ask(http, server, ORDERS, auth=("orders-worker", secret)).status_code
            for secret in ("secret", "rotated")
        ]

        assert [401, 200] == statuses


class TestTokenRequests:
    def test_jwt(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        The answer is an RFC 9068 token for the one resource, signed with the published key.
        """
        response = ask(http, server, ORDERS, scope="orders:read orders:write")

        answer = response.json()
        token = answer.pop("access_token")
        key = jwt.PyJWKSet.from_dict(http.get(server.jwks_uri).json()).keys[0]
        claims = jwt.decode(token, key, algorithms=["ES256"], audience=ORDERS)
        header = jwt.get_unverified_header(token)
        scope = "orders:read orders:write"
        assert {"token_type": "Bearer", "expires_in": 3600, "scope": scope} == answer
        assert "no-store" == response.headers["Cache-Control"]
        assert {"alg": "ES256", "typ": "at+jwt", "kid": key.key_id} == header
        assert claims == server.verify(token, audience=ORDERS)
        assert {"iss", "sub", "client_id", "aud", "scope", "iat", "exp", "jti"} == set(claims)
        assert (server.issuer, "orders-worker") == (claims["iss"], claims["client_id"])
        assert (token,) == server.issued

    def test_opaque(self, http: httpx.Client) -> None:
        """
        An opaque token says nothing, and `verify` looks its claims up.
        """
        with LocalAuthorizationServer(token_format="opaque") as server:
            token = token_from(http, server, ORDERS)

            assert "." not in token
            assert ORDERS == server.verify(token, audience=ORDERS)["aud"]
            with pytest.raises(jwt.InvalidAudienceError):
                server.verify(token, audience=BILLING)

    def test_audiences(self, http: httpx.Client) -> None:
        """
        `audiences` names the `aud` of a resource that has another one.
        """
        with LocalAuthorizationServer(audiences={ORDERS: "orders-api"}) as server:
            claims = server.verify(token_from(http, server, ORDERS), audience="orders-api")

            assert "orders-api" == claims["aud"]

    @pytest.mark.parametrize(
        "resources",
        [
            (),
            (ORDERS, BILLING),
            *((url,) for url in ("orders", "//h/x", "/x", "https://h/#f", "https://h/#", "u:a b")),
        ],
    )
    def test_invalid_target(
        self, server: LocalAuthorizationServer, http: httpx.Client, resources: tuple[str, ...]
    ) -> None:
        """
        No resource, several, a relative one or one with a fragment is invalid_target.
        """
        response = ask(http, server, *resources)

        assert (400, "invalid_target") == refusal(response)
        assert resources == server.token_requests[0].resources

    @pytest.mark.parametrize(
        ("resource", "scope", "expected"),
        [
            (ORDERS, "orders:read", "orders:read"),
            (ORDERS, "orders:read admin", "orders:read"),
            (ORDERS, "", "orders:read orders:write"),
            (ORDERS, "admin", "invalid_scope"),
            (BILLING, "", None),
            (BILLING, "orders:read", "invalid_scope"),
            ("urn:example:other", "", "invalid_target"),
        ],
    )
    def test_allowed_scopes(
        self, http: httpx.Client, resource: str, scope: str, expected: str | None
    ) -> None:
        """
        Scopes are narrowed to those allowed at the resource, and no scope asks for them all.
        """
        resources = {ORDERS: ["orders:read", "orders:write"], BILLING: ()}
        with LocalAuthorizationServer(resources=resources) as server:
            answer = ask(http, server, resource, scope=scope).json()

            assert expected == answer.get("scope", answer.get("error"))

    @pytest.mark.parametrize(
        ("form", "expected"),
        [
            ("grant_type=client_credentials&scope=a&scope=b", "invalid_request"),
            ("resource=urn:x", "invalid_request"),
            ("grant_type=&resource=urn:x", "invalid_request"),
            ("grant_type=password&resource=urn:x", "unsupported_grant_type"),
            ("grant_type", "invalid_request"),
            ("grant_type=%ff", "invalid_request"),
            ("grant_type=ä", "invalid_request"),
            (f"grant_type={EXCHANGE}&resource=urn:x", "invalid_request"),
            (f"grant_type={EXCHANGE}&resource=urn:x&subject_token=t", "invalid_request"),
            (
                f"grant_type={EXCHANGE}&resource=urn:x&subject_token=t&subject_token_type={A_T}",
                "invalid_request",
            ),
            (f"grant_type={JWT_BEARER}&resource=urn:x", "invalid_request"),
            (f"grant_type={JWT_BEARER}&resource=urn:x&assertion=t", "invalid_grant"),
        ],
    )
    def test_bad_forms(
        self, server: LocalAuthorizationServer, http: httpx.Client, form: str, expected: str
    ) -> None:
        """
        A repeated or missing parameter, another grant and a malformed form have their errors.
        """
        headers = {"Content-Type": "application/x-www-form-urlencoded"}

        response = http.post(server.token_endpoint, content=form, headers=headers, auth=CLIENT)

        assert (400, expected) == refusal(response)

    def test_on_behalf_of_a_user(
        self, server: LocalAuthorizationServer, http: httpx.Client
    ) -> None:
        """
        A user's token is exchanged for one about the user, which says who acts; the records show
        none of it. A revoked one is not.
        """
        lifetime = timedelta(minutes=5)
        alice = server.user_token("alice", audience=ORDERS, scopes=["a"], lifetime=lifetime)
        claims = server.verify(alice, audience=ORDERS)
        assert ("alice", "browser", "a") == (claims["sub"], claims["client_id"], claims["scope"])
        assert 300 <= claims["exp"] - claims["iat"] <= 301

        form = {"grant_type": JWT_BEARER, "assertion": alice, "resource": BILLING}
        answer = http.post(server.token_endpoint, data=form, auth=CLIENT).json()
        issued = server.verify(answer["access_token"], audience=BILLING)
        assert ("alice", {"sub": CLIENT[0]}) == (issued["sub"], issued["act"])
        assert "issued_token_type" not in answer
        assert alice not in repr(server.token_requests)

        server.revoke(alice)
        refused = http.post(server.token_endpoint, data=form, auth=CLIENT)
        assert (400, "invalid_grant") == refusal(refused)

    def test_wrong_content_type(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A body that is not a form is invalid_request.
        """
        response = http.post(server.token_endpoint, json={"resource": ORDERS}, auth=CLIENT)

        assert (400, "invalid_request") == refusal(response)

    def test_wrong_method(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        Anything but POST is a 405.
        """
        response = http.get(server.token_endpoint)

        assert (405, "invalid_request") == refusal(response)
        assert "POST" == response.headers["Allow"]

    def test_body_limit(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A body of more than 64 KiB is a 413, and the connection stays usable.
        """
        response = ask(http, server, ORDERS, padding="x" * 70_000)

        assert (413, "invalid_request") == refusal(response)
        assert 200 == ask(http, server, ORDERS).status_code

    def test_chunked_body(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A form that is streamed in chunks is understood.
        """
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        pieces = [b"grant_type=client_credentials", b"&resource=", ORDERS.encode()]

        response = http.post(
            server.token_endpoint, content=iter(pieces), headers=headers, auth=CLIENT
        )

        assert 200 == response.status_code

    def test_trailers(self, server: LocalAuthorizationServer) -> None:
        """
        Trailers after a chunked body are skipped.
        """
        head = b"POST /jwks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

        received = wire(server.issuer, head + b"1\r\nx\r\n0\r\nTrailer: y\r\n\r\n")

        assert received.startswith(b"HTTP/1.1 200")
        assert b"x" == server.requests[0].body

    @pytest.mark.parametrize("framing", [b"Content-Length: x", b"Transfer-Encoding: chunked"])
    def test_malformed_framing(self, server: LocalAuthorizationServer, framing: bytes) -> None:
        """
        A length that is no number is a 400.
        """
        received = wire(server.issuer, b"POST /token HTTP/1.1\r\n" + framing + b"\r\n\r\nzz\r\n")

        assert received.startswith(b"HTTP/1.1 400")


class TestRecords:
    def test_record(self, http: httpx.Client) -> None:
        """
        A record holds what was asked and answered.
        """
        with LocalAuthorizationServer(clock=Clock()) as server:
            ask(http, server, ORDERS, scope="a b")

            expected = TokenRequestRecord(
                received_at=1_700_000_000.25,
                client_id="orders-worker",
                auth_method="client_secret_basic",
                grant_type="client_credentials",
                resources=(ORDERS,),
                scopes=("a", "b"),
                parameters=(
                    ("grant_type", "client_credentials"),
                    ("resource", ORDERS),
                    ("scope", "a b"),
                ),
                status=200,
                error=None,
            )
            assert (expected,) == server.token_requests

    def test_order(self, http: httpx.Client) -> None:
        """
        Records are in the order in which the requests came in, not in that of the answers.
        """
        clock = Clock()
        with LocalAuthorizationServer(clock=clock) as server:
            ask(http, server, BILLING)
            clock.now -= 1
            ask(http, server, ORDERS)

            resources = [record.resources for record in server.token_requests]

            assert [(ORDERS,), (BILLING,)] == resources

    def test_no_secret_in_repr(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        No secret and no token is in a record or its repr, whatever parameter carried it.
        """
        server.clients["orders-worker"] = "hunter2"
        token = token_from_secret(http, server)
        secrets = {"client_assertion": "eyJa", "subject_token": "eyJs", "password": "pw-1"}
        harmless = {"subject_token_type": "urn:t"}

        ask(http, server, ORDERS, auth=None, x=token, y="hunter2", **secrets, **harmless)

        text = repr(server.token_requests) + repr(server.requests)
        leaked = [value for value in (token, "hunter2", *secrets.values()) if value in text]
        assert [] == leaked
        assert ("subject_token_type", "urn:t") in server.token_requests[-1].parameters

    def test_clear(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        Clearing forgets the records and leaves the tokens valid.
        """
        token = token_from(http, server, ORDERS)

        server.clear()

        assert ((), ()) == (server.token_requests, server.requests)
        assert ORDERS == server.verify(token, audience=ORDERS)["aud"]

    def test_records_are_values(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        Records are hashable and survive pickling.
        """
        ask(http, server, ORDERS)

        records = (*server.token_requests, *server.requests)

        assert 2 == len(set(records))
        assert records == pickle.loads(pickle.dumps(records))


def token_from_secret(http: httpx.Client, server: LocalAuthorizationServer) -> str:
    auth = ("orders-worker", server.clients["orders-worker"])
    return str(ask(http, server, ORDERS, auth=auth).json()["access_token"])


class TestFaults:
    def test_fail_next(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        The next answers fail as told, and the one after them does not.
        """
        server.fail_next(2, headers={"Retry-After": "7"})

        responses = [ask(http, server, ORDERS) for _ in range(3)]

        records = [(record.status, record.error) for record in server.token_requests]
        assert [503, 503, 200] == [response.status_code for response in responses]
        assert (503, "temporarily_unavailable") == refusal(responses[0])
        assert "7" == responses[1].headers["Retry-After"]
        assert [(503, "temporarily_unavailable")] * 2 + [(200, None)] == records

    def test_fault_before_judgement(
        self, server: LocalAuthorizationServer, http: httpx.Client
    ) -> None:
        """
        A fault is answered to a bad request as well, and its record says who asked.
        """
        server.fail_next(1, 400, "invalid_scope")

        response = ask(http, server, ORDERS, client_secret="secret")

        assert (400, "invalid_scope") == refusal(response)
        assert (ORDERS,) == server.token_requests[0].resources

    def test_answer_next(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A raw answer goes out as it is, after the faults queued before it.
        """
        server.fail_next()
        server.answer_next(200, b'{"access_tok', {"Content-Type": "application/json"})
        server.answer_next(307, headers=(("Location", "http://127.0.0.1:1/"),))

        responses = [ask(http, server, ORDERS) for _ in range(3)]

        assert [503, 200, 307] == [response.status_code for response in responses]
        assert b'{"access_tok' == responses[1].content
        assert "application/json" == responses[1].headers["Content-Type"]
        assert "http://127.0.0.1:1/" == responses[2].headers["Location"]

    def test_wrong_length(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A body may be cut short on the wire.
        """
        server.answer_next(200, b"short", {"Content-Length": "100"})

        with pytest.raises(httpx.RemoteProtocolError):
            ask(http, server, ORDERS)

        assert 200 == ask(http, server, ORDERS).status_code

    def test_delay(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A delay longer than the client's patience is a timeout for the client.
        """
        server.delay = timedelta(hours=1)

        with pytest.raises(httpx.ReadTimeout):
            http.post(server.token_endpoint, timeout=0.05)

    def test_ignore_resource(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A server that ignores `resource` issues tokens for everything it was ever asked for.
        """
        server.ignore_resource = True
        ask(http, server, ORDERS)

        token = token_from(http, server, BILLING)

        assert [ORDERS, BILLING] == server.verify(token, audience=BILLING)["aud"]

    def test_ignore_resource_with_a_list(self, http: httpx.Client) -> None:
        """
        With an allow-list, everything known is all of it, with the scopes of all.
        """
        resources = {ORDERS: ["read", "write"], BILLING: ["read", "pay"]}
        with LocalAuthorizationServer(resources=resources) as server:
            server.ignore_resource = True

            token = token_from(http, server, "urn:example:unknown")

            claims = server.verify(token, audience=ORDERS)
            assert ([ORDERS, BILLING], "read write pay") == (claims["aud"], claims["scope"])

    def test_same_token(self, http: httpx.Client) -> None:
        """
        The last token is handed out again until it has expired or is void.
        """
        clock = Clock()
        with LocalAuthorizationServer(clock=clock, lifetime=timedelta(seconds=60)) as server:
            server.same_token = True
            first = token_from(http, server, ORDERS)
            assert first == token_from(http, server, BILLING)

            clock.now += 61
            second = token_from(http, server, BILLING)
            server.revoke(second)
            third = token_from(http, server, BILLING)
            server.rotate_keys(keep_old=False)
            fourth = token_from(http, server, BILLING)

            assert (first, second, third, fourth) == server.issued

    def test_overrides(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        Members of a success response are replaced, added and left out.
        """
        server.overrides = {"expires_in": ABSENT, "token_type": "mac", "extra": None}

        answer = ask(http, server, ORDERS).json()

        answer.pop("access_token")
        assert {"token_type": "mac", "extra": None} == answer

    def test_lifetime(self, http: httpx.Client) -> None:
        """
        The lifetime counts from the next token on, and a token lives as long as it says.
        """
        clock = Clock()
        with LocalAuthorizationServer(clock=clock) as server:
            server.lifetime = timedelta(seconds=10)
            answer = ask(http, server, ORDERS).json()
            token = answer["access_token"]
            assert 10 == answer["expires_in"]

            clock.now += 10
            server.verify(token, audience=ORDERS)
            clock.now += 1

            with pytest.raises(jwt.ExpiredSignatureError):
                server.verify(token, audience=ORDERS)

    def test_revoke(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A revoked token has an error of its own, also a PyJWT one.
        """
        token = token_from(http, server, ORDERS)
        assert not server.is_revoked(token)

        server.revoke(token)

        assert server.is_revoked(token)
        with pytest.raises(RevokedTokenError):
            server.verify(token, audience=ORDERS)
        assert issubclass(RevokedTokenError, jwt.InvalidTokenError)

    def test_rotate_keys(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        Tokens of the old key stay valid unless the old key is dropped.
        """
        token = token_from(http, server, ORDERS)

        server.rotate_keys()
        server.verify(token, audience=ORDERS)
        kids = [key["kid"] for key in server.jwks["keys"]]
        header = jwt.get_unverified_header(token_from(http, server, ORDERS))
        server.rotate_keys(keep_old=False)

        assert [jwt.get_unverified_header(token)["kid"], header["kid"]] == kids
        assert 1 == len(server.jwks["keys"])
        with pytest.raises(jwt.InvalidTokenError, match="current key"):
            server.verify(token, audience=ORDERS)

    @pytest.mark.parametrize("token", ["", "x", "a.b.c", "ä", "eyJhbGciOiJub25lIn0.e30."])
    def test_malformed_token(self, server: LocalAuthorizationServer, token: str) -> None:
        """
        What is no token of this server is refused with one of PyJWT's errors.
        """
        with pytest.raises(jwt.InvalidTokenError):
            server.verify(token, audience=ORDERS)

    def test_forged_token(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        A token with a right header and a wrong signature is refused.
        """
        token = token_from(http, server, ORDERS)
        headers = jwt.get_unverified_header(token)
        claims = server.verify(token, audience=ORDERS)
        other_key = ec.generate_private_key(ec.SECP256R1())
        forged = jwt.encode(claims, other_key, "ES256", headers=headers)

        with pytest.raises(jwt.InvalidSignatureError):
            server.verify(forged, audience=ORDERS)


@pytest.fixture(name="api")
def _api(server: LocalAuthorizationServer) -> Iterator[LocalResourceServer]:
    with LocalResourceServer(server, audience=ORDERS) as api:
        yield api


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestResourceServer:
    def test_good_token(
        self, server: LocalAuthorizationServer, api: LocalResourceServer, http: httpx.Client
    ) -> None:
        """
        A token for this audience is let in, and the answer says what the API saw.
        """
        token = ask(http, server, ORDERS, scope="orders:read").json()["access_token"]

        response = http.get(api.url + "v1/stock?q=1", headers=bearer(token))

        expected = {"audience": ORDERS, "scope": "orders:read", "path": "/v1/stock"}
        assert (200, expected) == (response.status_code, response.json())

    def test_no_token(self, api: LocalResourceServer, http: httpx.Client) -> None:
        """
        Without a token the challenge names no error.
        """
        response = http.get(api.url)

        assert (401, 'Bearer realm="local"') == (
            response.status_code,
            response.headers["WWW-Authenticate"],
        )

    def test_token_of_another_audience(
        self, server: LocalAuthorizationServer, api: LocalResourceServer, http: httpx.Client
    ) -> None:
        """
        A token for another API is refused with invalid_token.
        """
        response = http.get(api.url, headers=bearer(token_from(http, server, BILLING)))

        assert 401 == response.status_code
        assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]

    def test_two_authorization_headers(
        self, server: LocalAuthorizationServer, api: LocalResourceServer, http: httpx.Client
    ) -> None:
        """
        Two Authorization headers never pass, even where one of them is good.
        """
        good = ("Authorization", f"Bearer {token_from(http, server, ORDERS)}")

        response = http.get(api.url, headers=[good, ("Authorization", "Bearer other")])

        assert 401 == response.status_code

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/orders", ORDERS),
            ("/orders/1", ORDERS),
            ("/orders/archive/1", "urn:example:archive"),
            ("/billing/", BILLING),
            ("/ordersx", None),
            ("/", None),
        ],
    )
    def test_longest_prefix(
        self,
        server: LocalAuthorizationServer,
        http: httpx.Client,
        path: str,
        expected: str | None,
    ) -> None:
        """
        One host serves several APIs, and the longest prefix by segments decides which.
        """
        audiences = {
            "/orders": ORDERS,
            "/orders/archive/": "urn:example:archive",
            "/billing/": BILLING,
        }
        with LocalResourceServer(server, audiences=audiences) as api:
            token = token_from(http, server, expected or ORDERS)

            response = http.get(api.url.rstrip("/") + path, headers=bearer(token))

            assert (404 if expected is None else 200) == response.status_code
            assert expected == response.json().get("audience")

    def test_the_audience_is_the_address_by_default(
        self, server: LocalAuthorizationServer, http: httpx.Client
    ) -> None:
        """
        An API whose identifier is its URL needs no other name.
        """
        with LocalResourceServer(server) as api:
            token = token_from(http, server, api.url)

            response = http.get(api.url, headers=bearer(token))

            assert api.url == response.json()["audience"]

    def test_one_audience_or_several(self, server: LocalAuthorizationServer) -> None:
        """
        Both `audience` and `audiences` is a mistake.
        """
        with pytest.raises(ValueError, match="not both"):
            LocalResourceServer(server, audience=ORDERS, audiences={})

    def test_redirect(self, api: LocalResourceServer, http: httpx.Client) -> None:
        """
        A redirect goes where it was told, as often as it was told.
        """
        api.redirect("/old", "http://127.0.0.1:1/new", 307, times=1)

        responses = [http.get(api.url + "old?x=1") for _ in range(2)]

        assert [307, 401] == [response.status_code for response in responses]
        assert "http://127.0.0.1:1/new" == responses[0].headers["Location"]

    @pytest.mark.parametrize("status", [200, 204, 304, 403])
    def test_respond(self, api: LocalResourceServer, http: httpx.Client, status: int) -> None:
        """
        An answer set for a path is given to whoever asks, until another one is set.
        """
        api.respond("/x", status, (("X-A", "1"), ("X-A", "2")))

        responses = [http.get(api.url + "x") for _ in range(2)]

        assert [status] * 2 == [response.status_code for response in responses]
        assert ["1", "2"] == responses[1].headers.get_list("X-A")

    def test_head(self, api: LocalResourceServer, http: httpx.Client) -> None:
        """
        HEAD has the headers and no body.
        """
        api.respond("/x", body=b"12345")

        response = http.head(api.url + "x")

        assert ("5", b"") == (response.headers["Content-Length"], response.content)

    def test_ledger(self, api: LocalResourceServer, http: httpx.Client) -> None:
        """
        Every request is in the ledger, byte for byte, whatever its method and answer.
        """
        http.request("PROPFIND", api.url + "a%2Fb?q=%20", headers={"X-A": "1"}, content=b"body")
        wire(api.url, b"GET //h/x HTTP/1.0\r\n\r\n")
        wire(api.url, b"GET http://other/y?z HTTP/1.0\r\n\r\n")

        seen = [(record.method, record.target, record.status) for record in api.requests]

        targets = ["/a%2Fb?q=%20", "//h/x", "http://other/y?z"]
        assert list(zip(["PROPFIND", "GET", "GET"], targets, [401] * 3, strict=True)) == seen
        assert b"body" == api.requests[0].body
        assert "1" == httpx.Headers(list(api.requests[0].headers))["X-A"]

    def test_absolute_target(self, server: LocalAuthorizationServer) -> None:
        """
        A target in a proxy's absolute form is matched by its path.
        """
        with LocalResourceServer(server, audiences={"/orders": ORDERS}) as api:
            wire(api.url, b"GET http://other/orders/1 HTTP/1.0\r\n\r\n")
            wire(api.url, b"GET http://other HTTP/1.0\r\n\r\n")

            assert [401, 404] == [record.status for record in api.requests]

    def test_ledger_repr(self) -> None:
        """
        The repr of a ledger entry shows no credential, in whatever header or query it stood.
        """
        record = RequestRecord(
            "GET",
            "/x?access_token=short-1&q=1",
            (
                ("Authorization", "Basic dTpw"),
                ("X-Api-Key", "short-2"),
                ("X-Forwarded", "Bearer short-3"),
                ("X-Copied", "e" * 43),
                ("Accept", "text/plain"),
            ),
            b"short-4",
            200,
        )

        text = repr(record)

        leaks = ["short", "dTpw", "eee"]
        assert [] == [leak for leak in leaks if leak in text]
        assert "/x?[redacted]&q=1" in text
        assert "text/plain" in text

    def test_tokens_seen(
        self, server: LocalAuthorizationServer, api: LocalResourceServer, http: httpx.Client
    ) -> None:
        """
        Tokens are found behind a scheme, in the query, and ours anywhere at all.
        """
        ours = [token_from(http, server, ORDERS) for _ in range(3)]

        http.get(api.url, headers={"Authorization": "DPoP foreign-1", "X-Copied": ours[0]})
        http.get(api.url + "?access_token=foreign-2")
        http.get(api.url, headers=bearer(ours[1]))
        http.post(api.url, content=ours[2])
        http.get(api.url, headers=bearer(ours[1]))

        assert ("foreign-1", ours[0], "foreign-2", ours[1], ours[2]) == api.tokens_seen()
        api.clear()
        assert () == api.tokens_seen()

    def test_repr(self, server: LocalAuthorizationServer, api: LocalResourceServer) -> None:
        """
        The repr shows the address and the audiences.
        """
        stopped = LocalResourceServer(server, audience=ORDERS)

        audiences = f"audiences={{'/': '{ORDERS}'}}"
        assert f"LocalResourceServer(url='{api.url}', {audiences})" == repr(api)
        assert f"LocalResourceServer(url=None, {audiences})" == repr(stopped)

    def test_description_is_safe(self, api: LocalResourceServer, http: httpx.Client) -> None:
        """
        The description in a challenge stays within its quotes.
        """
        response = http.get(api.url, headers=bearer('a"b\\.c.d'))

        challenge = response.headers["WWW-Authenticate"]
        assert 6 == challenge.count('"')


class TestThreads:
    def test_many_clients(self, server: LocalAuthorizationServer, http: httpx.Client) -> None:
        """
        Concurrent requests each have their answer, their record and their own token.
        """
        server.fail_next(5)
        threads = [
            threading.Thread(target=ask, args=(http, server, f"urn:r:{n}")) for n in range(20)
        ]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        statuses = sorted(record.status for record in server.token_requests)
        assert [200] * 15 + [503] * 5 == statuses
        assert 15 == len(server.issued)
        assert 20 == len({record.resources for record in server.token_requests})


authorization_server = pytest_plugin.authorization_server
resource_server = pytest_plugin.resource_server


class TestPlugin:
    def test_fixtures(
        self,
        authorization_server: LocalAuthorizationServer,
        resource_server: StartResourceServer,
        http: httpx.Client,
    ) -> None:
        """
        The fixtures give a running server, and as many APIs as wanted.
        """
        orders = resource_server(audience=ORDERS)
        shared = resource_server(audiences={"/billing": BILLING})
        token = token_from(http, authorization_server, ORDERS)

        statuses = [
            http.get(url, headers=bearer(token)).status_code
            for url in (orders.url, shared.url + "billing")
        ]

        assert [200, 401] == statuses

    def test_teardown(self) -> None:
        """
        The fixtures stop what they started.
        """
        before = threading.active_count()
        servers = pytest_plugin.authorization_server.__wrapped__()  # type: ignore[attr-defined]
        server = next(servers)
        ledger = pytest_plugin.token_ledger.__wrapped__(server)  # type: ignore[attr-defined]
        starts = pytest_plugin.resource_server.__wrapped__(server, ledger)  # type: ignore[attr-defined]
        next(starts)(audience=ORDERS)
        during = threading.active_count()

        ended = [next(starts, None), next(servers, None)]

        assert [None, None] == ended
        assert (before + 2, before) == (during, threading.active_count())

    def test_light_import(self) -> None:
        """
        Importing the plugin itself imports neither the servers nor what they stand on.
        """
        code = (
            "import importlib.util, json, sys\n"
            "spec = importlib.util.spec_from_file_location('plugin', sys.argv[1])\n"
            "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
            "print(json.dumps(sorted(sys.modules)))\n"
        )

        output = subprocess.run(
            [sys.executable, "-c", code, str(pytest_plugin.__file__)],
            capture_output=True,
            check=True,
        ).stdout

        heavy = {"resource_tokens", "http.server", "cryptography", "httpx", "jwt"}
        assert set() == heavy & set(json.loads(output))
