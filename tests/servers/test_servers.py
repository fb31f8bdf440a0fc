"""
The test servers keep their word. Nothing of the library is involved.
"""

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import httpx
import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.servers.apis import Answer, LedgerApi, Seen, Sink
from tests.servers.npm import find_node, installed_packages
from tests.servers.oidc_provider import Config, OidcProvider

ORDERS = "urn:example:orders"
BILLING = "urn:example:billing"
NASTY = "p:a%s+s w&o=r/d?\"'\\~"
CONFIG: Config = {
    "clients": [
        {"client_id": "worker", "client_secret": "secret"},
        {"client_id": "nasty:id %+", "client_secret": NASTY},
        {
            "client_id": "poster",
            "client_secret": NASTY,
            "token_endpoint_auth_method": "client_secret_post",
        },
    ],
    "resources": {
        ORDERS: {"scopes": ["orders:read", "orders:write"]},
        BILLING: {"scopes": ["invoices:read"], "alg": "ES256"},
        "urn:example:short": {"scopes": [], "ttl": 1, "audience": ORDERS},
        "urn:example:opaque": {"scopes": ["o"], "format": "opaque"},
    },
}


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[OidcProvider]:
    """
    One server for all tests: starting it is what takes the time.
    """
    with OidcProvider(CONFIG) as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: OidcProvider) -> OidcProvider:
    """
    The server, with an empty ledger.
    """
    shared_provider.clear()
    return shared_provider


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """
    A plain client that ignores the environment's proxies.
    """
    with httpx.Client(trust_env=False) as client:
        yield client


def basic(client_id: str, secret: str, encode: Callable[[str], str] = quote_plus) -> dict[str, str]:
    """
    The header of RFC 6749 2.3.1.
    """
    credentials = f"{encode(client_id)}:{encode(secret)}".encode()
    return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}


def request_token(http: httpx.Client, provider: OidcProvider, **parameters: Any) -> httpx.Response:
    """
    A client credentials request by the plain client.
    """
    return http.post(
        provider.token_endpoint,
        data={"grant_type": "client_credentials", **parameters},
        headers=basic("worker", "secret"),
    )


def bearer(token: str) -> dict[str, str]:
    """
    The header of RFC 6750 2.1.
    """
    return {"Authorization": f"Bearer {token}"}


def api_for(provider: OidcProvider, audience: str) -> LedgerApi:
    """
    An API that trusts this provider.
    """
    return LedgerApi(audience, issuer=provider.issuer, jwks_uri=provider.jwks_uri)


def eventually(condition: Callable[[], bool], timeout: float = 10) -> bool:
    """
    Whether the condition comes true before the deadline.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_listening(port: int) -> bool:
    """
    Whether anyone accepts connections there.
    """
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def send_raw(port: int, request: bytes) -> bytes:
    """
    Send these bytes, close the sending side, and return what comes back until the end.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


class Issuer:
    """
    An authorization server without the server: a key and what it signs.
    """

    def __init__(self, kid: str = "one") -> None:
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(ECAlgorithm.to_jwk(self._key.public_key()))
        self.jwk: dict[str, Any] = {**public, "kid": kid}

    def token(self, **claims: Any) -> str:
        """
        A token for orders that is good for a minute, but for these claims.
        """
        now = int(time.time())
        defaults = {"iss": "urn:issuer", "aud": ORDERS, "sub": "worker", "iat": now}
        return jwt.encode(
            {**defaults, "exp": now + 60, **claims},
            self._key,
            algorithm="ES256",
            headers={"kid": self.kid, "typ": "at+jwt"},
        )


@pytest.fixture
def issuer() -> Issuer:
    """
    A fresh issuer.
    """
    return Issuer()


@pytest.fixture
def orders(issuer: Issuer) -> Iterator[LedgerApi]:
    """
    An API for orders that knows the issuer's key.
    """
    with LedgerApi(ORDERS, issuer="urn:issuer", keys=[issuer.jwk]) as api:
        yield api


class TestOidcProvider:
    """
    The authorization server.
    """

    @pytest.mark.parametrize(("own", "other"), [(ORDERS, BILLING), (BILLING, ORDERS)])
    def test_token_is_good_at_its_own_api_only(
        self, provider: OidcProvider, http: httpx.Client, own: str, other: str
    ) -> None:
        """
        A token for A is accepted at A and refused at B, whichever algorithm signs it.
        """
        token = request_token(http, provider, resource=own).json()["access_token"]

        with api_for(provider, own) as a, api_for(provider, other) as b:
            accepted = http.get(f"{a.url}/x", headers=bearer(token))
            refused = http.get(f"{b.url}/x", headers=bearer(token))

        assert {"aud": own, "scope": None, "sub": "worker", "path": "/x"} == accepted.json()
        assert 401 == refused.status_code
        assert 'Bearer error="invalid_token"' == refused.headers["WWW-Authenticate"]

    def test_unknown_resource(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        A resource that is not configured, byte for byte, is `invalid_target`.
        """
        response = request_token(http, provider, resource=ORDERS.upper())

        assert (400, "invalid_target") == (response.status_code, response.json()["error"])

    def test_several_resources(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        Two known resources in one request are `invalid_target` too.
        """
        response = request_token(http, provider, resource=[ORDERS, BILLING])

        assert (400, "invalid_target") == (response.status_code, response.json()["error"])
        assert [ORDERS, BILLING] == provider.ledger()[0]["form"]["resource"]

    def test_no_resource(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        Without a resource the token is opaque, and no API takes it.
        """
        token = request_token(http, provider).json()["access_token"]

        with api_for(provider, ORDERS) as api:
            response = http.get(api.url, headers=bearer(token))

        assert "." not in token
        assert 401 == response.status_code

    def test_unknown_scopes_are_dropped(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        The scopes of the answer are those that the resource knows.
        """
        response = request_token(
            http, provider, resource=ORDERS, scope="orders:read invoices:read ORDERS:write"
        )

        assert "orders:read" == response.json()["scope"]

    def test_ledger(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        The ledger shows requests in order with all but the secrets, until it is cleared.
        """
        request_token(http, provider, resource=ORDERS, scope="orders:read", extra="1")
        http.post(
            provider.token_endpoint,
            data={"grant_type": "x", "client_id": "poster", "client_secret": "wrong"},
            headers={"Accept": "text/html"},
        )
        entries = provider.ledger()
        provider.clear()

        assert [
            {
                "issuer": provider.issuer,
                "form": {
                    "grant_type": ["client_credentials"],
                    "resource": [ORDERS],
                    "scope": ["orders:read"],
                    "extra": ["1"],
                },
                "method": "client_secret_basic",
                "assertion": None,
                "proof": None,
                "client_id": "worker",
                "status": 200,
                "error": None,
                "error_description": None,
            },
            {
                "issuer": provider.issuer,
                "form": {"grant_type": ["x"], "client_id": ["poster"]},
                "method": "client_secret_post",
                "assertion": None,
                "proof": None,
                "client_id": "poster",
                "status": 401,
                "error": "invalid_client",
                "error_description": "client authentication failed",
            },
        ] == entries
        assert [] == provider.ledger()

    def test_ledger_of_concurrent_requests(
        self, provider: OidcProvider, http: httpx.Client
    ) -> None:
        """
        Requests at the same time are all there, each with its own answer.
        """

        def ask(number: int) -> int:
            known = number % 2 == 0
            resource = ORDERS if known else "urn:example:unknown"
            return request_token(http, provider, resource=resource, n=number).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(ask, range(40)))

        by_number = {int(entry["form"]["n"][0]): entry for entry in provider.ledger()}
        assert [200, 400] * 20 == statuses
        assert statuses == [by_number[number]["status"] for number in range(40)]

    def test_nasty_credentials_in_basic(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        An id and a secret full of reserved characters work when form-urlencoded before Basic.
        """
        response = http.post(
            provider.token_endpoint,
            data={"grant_type": "client_credentials", "resource": ORDERS},
            headers=basic("nasty:id %+", NASTY),
        )

        assert 200 == response.status_code
        assert "nasty:id %+" == provider.ledger()[0]["client_id"]

    def test_raw_basic_is_refused(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        The same credentials as they are, not form-urlencoded, are refused.
        """
        response = http.post(
            provider.token_endpoint,
            data={"grant_type": "client_credentials", "resource": ORDERS},
            headers=basic("nasty:id %+", NASTY, encode=str),
        )

        assert (400, "invalid_request") == (response.status_code, response.json()["error"])

    def test_nasty_secret_in_the_form(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        `client_secret_post` works, and its secret stays out of the ledger.
        """
        response = http.post(
            provider.token_endpoint,
            data={
                "grant_type": "client_credentials",
                "client_id": "poster",
                "client_secret": NASTY,
            },
        )

        (entry,) = provider.ledger()
        assert 200 == response.status_code
        assert {"grant_type", "client_id"} == set(entry["form"])

    def test_expired_token(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        A token lives as long as its resource's `ttl`; its `aud` is the configured one.
        """
        answer = request_token(http, provider, resource="urn:example:short").json()

        with api_for(provider, ORDERS) as api:

            def status() -> int:
                return http.get(api.url, headers=bearer(answer["access_token"])).status_code

            assert 1 == answer["expires_in"]
            assert eventually(lambda: status() == 401)

    def test_introspection_and_revocation(self, provider: OidcProvider, http: httpx.Client) -> None:
        """
        An opaque token can be introspected until it is revoked.
        """
        answer = request_token(http, provider, resource="urn:example:opaque", scope="o").json()

        def post(endpoint: str) -> httpx.Response:
            form = {"token": answer["access_token"]}
            return http.post(endpoint, data=form, headers=basic("worker", "secret"))

        before = post(provider.introspection_endpoint).json()
        post(provider.revocation_endpoint).raise_for_status()
        after = post(provider.introspection_endpoint).json()

        assert (True, "urn:example:opaque", "o") == (
            before["active"],
            before["aud"],
            before["scope"],
        )
        assert {"active": False} == after

    def test_stop(self) -> None:
        """
        Nothing is left after `stop`, and a second one is harmless.
        """
        provider = OidcProvider({"clients": [], "resources": {}})
        port = urlsplit(provider.issuer).port
        assert port is not None
        assert is_listening(port)

        provider.stop()
        provider.stop()

        assert not provider.running
        assert not is_listening(port)
        with pytest.raises(ProcessLookupError):
            os.kill(provider.pid, 0)

    def test_does_not_outlive_its_parent(self) -> None:
        """
        A parent that is killed takes the server with it.
        """
        script = (
            "import sys; from tests.servers.oidc_provider import OidcProvider;"
            "provider = OidcProvider({'clients': [], 'resources': {}});"
            "print(provider.issuer, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            port = urlsplit(parent.stdout.readline().strip()).port
            assert port is not None
            assert is_listening(port)

            parent.kill()
            parent.wait()

            assert eventually(lambda: not is_listening(port))

    @pytest.mark.parametrize("secret", ["é", "€", "\t", "\x7f"])
    def test_start_fails_with_the_reason(self, secret: str) -> None:
        """
        What the server refuses, such as secrets beyond printable ASCII, is in the error.
        """
        config: Config = {
            "clients": [{"client_id": "c", "client_secret": secret}],
            "resources": {},
        }

        with pytest.raises(RuntimeError, match="invalid client_secret value"):
            OidcProvider(config)

    def test_node_without_one_on_path(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """
        Where PATH has no Node, the one from the wheel is taken; the packages are installed once.
        """
        monkeypatch.setenv("PATH", str(tmp_path))

        node = find_node()

        assert Path(node.node).is_file()
        packages = installed_packages(node, Path(__file__).with_name("oidc_provider"))
        assert (packages / "node_modules" / "oidc-provider").is_dir()


class TestLedgerApi:
    """
    The API that verifies.
    """

    def test_good_token(self, orders: LedgerApi, issuer: Issuer, http: httpx.Client) -> None:
        """
        A good token gets 200, and the ledger has the request with its status.
        """
        token = issuer.token(scope="orders:read")

        response = http.post(f"{orders.url}/v1?q=%2f", headers=bearer(token), content=b"hello")

        (seen,) = orders.seen
        assert "orders:read" == response.json()["scope"]
        assert ("POST", "/v1?q=%2f", "/v1", b"hello", 200) == (
            seen.method,
            seen.target,
            seen.path,
            seen.body,
            seen.status,
        )
        assert [f"Bearer {token}"] == seen.header("authorization")
        assert [token] == orders.tokens_seen()

    @pytest.mark.parametrize(
        "claims",
        [
            {"aud": BILLING},
            {"aud": f"{ORDERS}/"},
            {"iss": "urn:other"},
            {"exp": 1},
            {"exp": None},
            {"aud": None},
        ],
    )
    def test_bad_claims(
        self, orders: LedgerApi, issuer: Issuer, http: httpx.Client, claims: dict[str, Any]
    ) -> None:
        """
        Another audience, another issuer, an expiry in the past or a missing claim is refused.
        """
        response = http.get(orders.url, headers=bearer(issuer.token(**claims)))

        assert 401 == response.status_code
        assert 'Bearer error="invalid_token"' == response.headers["WWW-Authenticate"]

    @pytest.mark.parametrize("kid", ["one", "two"])
    def test_forged_signature(self, orders: LedgerApi, http: httpx.Client, kid: str) -> None:
        """
        A token that another key has signed is refused, also under the right key's name.
        """
        response = http.get(orders.url, headers=bearer(Issuer(kid).token()))

        assert 401 == response.status_code

    def test_no_token(self, orders: LedgerApi, http: httpx.Client) -> None:
        """
        Without a token the challenge names no error.
        """
        response = http.get(orders.url)

        assert 401 == response.status_code
        assert "Bearer" == response.headers["WWW-Authenticate"]

    def test_two_authorization_headers(
        self, orders: LedgerApi, issuer: Issuer, http: httpx.Client
    ) -> None:
        """
        Two credentials in one request are a bad request, and both tokens are seen.
        """
        tokens = [issuer.token(), issuer.token(sub="other")]

        response = http.get(
            orders.url, headers=[("Authorization", f"Bearer {token}") for token in tokens]
        )

        assert 400 == response.status_code
        assert tokens == orders.tokens_seen()

    def test_keys_are_fetched_once_and_for_an_unknown_kid(self, http: httpx.Client) -> None:
        """
        The JWKS is fetched once, and again when a token names a key that is not in it.
        """
        old, new = Issuer("old"), Issuer("new")
        with (
            Sink() as jwks,
            LedgerApi(ORDERS, issuer="urn:issuer", jwks_uri=f"{jwks.url}/jwks") as api,
        ):

            def call(issuer: Issuer) -> int:
                return http.get(api.url, headers=bearer(issuer.token())).status_code

            jwks.answer("/jwks", 200, body=json.dumps({"keys": [old.jwk]}).encode())
            before = [call(old), call(old), len(jwks.seen)]
            jwks.answer("/jwks", 200, body=json.dumps({"keys": [new.jwk]}).encode())
            after = [call(new), call(new), len(jwks.seen)]

        assert [200, 200, 1] == before
        assert [200, 200, 2] == after

    def test_audiences_by_path(self, issuer: Issuer, http: httpx.Client) -> None:
        """
        One server can be several APIs; each prefix ends at a slash and has its own ledger view.
        """
        token = issuer.token(aud=BILLING)
        with LedgerApi(
            audiences={"/orders": ORDERS, "/billing": BILLING},
            issuer="urn:issuer",
            keys=[issuer.jwk],
        ) as api:
            statuses = {
                path: http.get(f"{api.url}{path}", headers=bearer(token)).status_code
                for path in ("/billing", "/billing/1?a=b", "/billingX", "/orders/1", "/")
            }

            assert {
                "/billing": 200,
                "/billing/1?a=b": 200,
                "/billingX": 404,
                "/orders/1": 401,
                "/": 404,
            } == statuses
            assert ["/billing", "/billing/1?a=b"] == [s.target for s in api.seen_under("/billing")]
            assert 5 == len(api.seen)

    def test_revoke(self, orders: LedgerApi, issuer: Issuer, http: httpx.Client) -> None:
        """
        A revoked token is refused; others are not.
        """
        revoked, other = issuer.token(), issuer.token(sub="other")

        orders.revoke(revoked)

        assert 401 == http.get(orders.url, headers=bearer(revoked)).status_code
        assert 200 == http.get(orders.url, headers=bearer(other)).status_code

    def test_revoke_all(self, orders: LedgerApi, issuer: Issuer, http: httpx.Client) -> None:
        """
        After revoking all, what was presented or is older is refused, and a new token is good.
        """
        presented = issuer.token()
        older = issuer.token(iat=int(time.time()) - 5)
        http.get(orders.url, headers=bearer(presented))

        orders.revoke_all_issued_before_now()

        assert 401 == http.get(orders.url, headers=bearer(presented)).status_code
        assert 401 == http.get(orders.url, headers=bearer(older)).status_code
        assert 200 == http.get(orders.url, headers=bearer(issuer.token(sub="x"))).status_code

    def test_tls(self, issuer: Issuer) -> None:
        """
        With a context it serves https, and survives a client that does not trust it.
        """
        ca = trustme.CA()
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(server_context)
        client_context = ssl.create_default_context()
        with LedgerApi(ORDERS, issuer="urn:issuer", keys=[issuer.jwk], tls=server_context) as api:
            with (
                httpx.Client(trust_env=False) as distrustful,
                pytest.raises(httpx.ConnectError),
            ):
                distrustful.get(api.url)
            ca.configure_trust(client_context)
            with httpx.Client(trust_env=False, verify=client_context) as http:
                response = http.get(api.url, headers=bearer(issuer.token()))

        assert api.url.startswith("https://")
        assert 200 == response.status_code
        assert 1 == len(api.seen)

    def test_either_audience_or_audiences(self) -> None:
        """
        An API without an audience would let everyone in, so it cannot be made.
        """
        with pytest.raises(ValueError, match="audience"):
            LedgerApi(issuer="urn:issuer")


class TestSink:
    """
    What both kinds of server have: the ledger and the scripts.
    """

    def test_records_the_wire(self) -> None:
        """
        Target and headers are recorded as they came: order, case, repetition, nothing normalised.
        """
        with Sink() as sink:
            send_raw(
                sink.port,
                b"GET //a/..%2f../b;c?x=%20#f HTTP/1.1\r\nB: 1\r\na:2 \r\nB: 3\r\nno colon\r\n\r\n",
            )

        (seen,) = sink.seen
        assert "//a/..%2f../b;c?x=%20#f" == seen.target
        assert (("B", "1"), ("a", "2"), ("B", "3"), ("no colon", "")) == seen.headers
        assert ["1", "3"] == seen.header("b")

    @pytest.mark.parametrize(
        ("method", "target", "path"),
        [
            ("GET", "http://other.example/a/b?c/d", "/a/b"),
            ("GET", "http://[other", ""),
            ("CONNECT", "other.example:443", ""),
        ],
    )
    def test_targets_of_a_proxy(self, method: str, target: str, path: str) -> None:
        """
        As a forward proxy sees it: the target is recorded whole, `path` is the path in it.
        """
        with Sink() as sink:
            send_raw(sink.port, f"{method} {target} HTTP/1.1\r\n\r\n".encode())

        (seen,) = sink.seen
        assert (target, path, 200) == (seen.target, seen.path, seen.status)

    @pytest.mark.parametrize(
        ("request_bytes", "expected"),
        [
            (
                b"POST /x HTTP/1.1\r\nAuthorization: Bearer abc\r\nContent-Length: 9\r\n\r\nhal",
                Seen(
                    "POST",
                    "/x",
                    (("Authorization", "Bearer abc"), ("Content-Length", "9")),
                    b"hal",
                ),
            ),
            (
                b"GET /x HTTP/1.1\r\nAuthorization: Bearer ab",
                Seen("GET", "/x", (("Authorization", "Bearer ab"),), b""),
            ),
            (b"GET /x?access_token=a", Seen("", "GET /x?access_token=a", (), b"")),
            (b"\x16\x03\x01\n", Seen("", "\x16\x03\x01", (), b"")),
        ],
    )
    def test_records_what_breaks_off(self, request_bytes: bytes, expected: Seen) -> None:
        """
        Of a request that ends early or is no HTTP, what came is recorded, without a status.
        """
        with Sink() as sink:
            answer = send_raw(sink.port, request_bytes)

            assert eventually(lambda: sink.seen != [])

        assert b"" == answer
        assert [expected] == sink.seen

    def test_chunked_body_and_keep_alive(self, http: httpx.Client) -> None:
        """
        Bodies without a length are read, and the connection serves the next request.
        """
        with Sink() as sink:
            http.post(sink.url, content=iter([b"ab", b"cd"]))
            http.head(sink.url)
            http.get(sink.url)

            assert [b"abcd", b"", b""] == [seen.body for seen in sink.seen]
            assert 1 == sink.connections

    def test_connection_without_a_request(self) -> None:
        """
        A connection on which nothing was sent counts as one and leaves no entry.
        """
        with Sink() as sink:
            send_raw(sink.port, b"")

            assert ([], 1) == (sink.seen, sink.connections)

    def test_tokens_seen(self, issuer: Issuer, http: httpx.Client) -> None:
        """
        Tokens are found in any header, in the target and in bodies, once each.
        """
        token = issuer.token()
        proof = jwt.encode({}, "k" * 32, algorithm="HS256", headers={"typ": "dpop+jwt"})
        with Sink() as sink:
            http.get(f"{sink.url}/?access_token=opaque-1", headers={"X-Copy": token})
            http.get(f"{sink.url}/?h=Bearer%20opaque-2", headers=bearer(token))
            http.get(sink.url, headers={"Authorization": "DPoP opaque-3", "DPoP": proof})
            http.post(sink.url, json={"access_token": "opaque-4"})
            http.post(sink.url, json={"no": "token", "type": "Bearer"})

        assert ["opaque-1", token, "opaque-2", "opaque-3", "opaque-4"] == sink.tokens_seen()
        assert 2 == len(sink.seen_with(token))
        assert 1 == len(sink.seen_with(proof))

    def test_redirect(self, http: httpx.Client) -> None:
        """
        A scripted redirect sends the client on, for that path alone.
        """
        with Sink() as sink, Sink() as other:
            sink.redirect("/jump", to=f"{other.url}/landed", status=308)
            response = http.post(f"{sink.url}/jump?q", content=b"x", follow_redirects=True)
            http.get(f"{sink.url}/jumper", follow_redirects=True)

        assert {"path": "/landed"} == response.json()
        assert [308, 200] == [seen.status for seen in sink.seen]
        assert [("POST", b"x")] == [(seen.method, seen.body) for seen in other.seen]

    def test_answer_a_number_of_times(self, http: httpx.Client) -> None:
        """
        A forced answer can wear off; the newest script comes first.
        """
        with Sink() as sink:
            sink.answer("/a", 418, headers=[("X", "y")], body=b"tea")
            sink.answer("/a", 503, times=2)
            statuses = [http.get(f"{sink.url}/a").status_code for _ in range(4)]

        assert [503, 503, 418, 418] == statuses

    def test_behave(self, http: httpx.Client) -> None:
        """
        A callable decides the answer, declines by None, hangs up, or shows its traceback.
        """

        def script(request: Seen) -> Answer | None:
            match request.path:
                case "/json":
                    return Answer.from_json(201, {"method": request.method})
                case "/hang-up":
                    raise ConnectionAbortedError
                case "/bug":
                    raise ZeroDivisionError
                case _:
                    return None

        with Sink() as sink:
            sink.behave(script)

            assert {"method": "PUT"} == http.put(f"{sink.url}/json").json()
            assert 200 == http.get(f"{sink.url}/other").status_code
            assert "ZeroDivisionError" in http.get(f"{sink.url}/bug").text
            with pytest.raises(httpx.RemoteProtocolError):
                http.get(f"{sink.url}/hang-up")
            assert [201, 200, 500, None] == [seen.status for seen in sink.seen]

    def test_many_threads(self) -> None:
        """
        The ledger loses nothing when many clients write at once.
        """
        with Sink() as sink:

            def visit(number: int) -> None:
                with httpx.Client(trust_env=False) as client:
                    for step in range(5):
                        client.get(f"{sink.url}/{number}/{step}").raise_for_status()

            with ThreadPoolExecutor(20) as pool:
                list(pool.map(visit, range(20)))

            assert 100 == len({seen.target for seen in sink.seen})

            sink.clear()
            assert [] == sink.seen

    def test_stop(self, http: httpx.Client) -> None:
        """
        `stop` ends the open connections too, and a second one is harmless.
        """
        sink = Sink()
        http.get(sink.url)

        sink.stop()
        sink.stop()

        assert not is_listening(sink.port)
        with pytest.raises(httpx.TransportError):
            http.get(sink.url)
