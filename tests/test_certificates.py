"""
Tokens that are bound to a client certificate (RFC 8705 3), and who gets to see the certificate:
against node-oidc-provider, and servers that ask for one and keep what they were shown.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from resource_tokens import (
    AsyncCertificateTransport,
    AsyncEgressGuard,
    AuthorizationServer,
    CertificateTransport,
    ClientSecretBasic,
    ConfigurationError,
    EgressBlockedError,
    EgressGuard,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
    TlsClientAuth,
    TokenEvent,
    TokenRequestError,
)
from resource_tokens.cli.app import app
from resource_tokens.ledger import TokenUse, UseLedger
from tests.conftest import Caller, Clock
from tests.servers.apis import LedgerApi, Sink
from tests.servers.http2 import Http2Sink
from tests.servers.oidc_provider import OidcProvider
from tests.servers.oidc_provider.clients import TLS_NAME, registered, server_tls
from tests.servers.proofs import CertificateApi, thumbprint_of
from tests.servers.proxy import RecordingProxy
from tests.servers.tls import asking, authority
from tests.test_oidc_provider import BOTH

ORDERS = "https://orders.example.com/api"
BILLING = "urn:example:billing"
OPAQUE = "urn:example:opaque"
PLAIN = "urn:example:plain"
CLIENT = "bound tls_client_auth"


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    resources: Any = {
        ORDERS: {"scopes": ["orders:read"]},
        BILLING: {"scopes": ["invoices:read"], "alg": "ES256"},
        PLAIN: {"scopes": ["read"]},
        OPAQUE: {"scopes": ["read"], "format": "opaque"},
    }
    config: Any = {"clients": registered(), "resources": resources, "tls": server_tls()}
    with OidcProvider(config) as running:
        yield running


def write_certificate(file: Path) -> bytes:
    """
    A new certificate of the client, and its key, in one file. Returns it as DER.
    """
    issued = authority().issue_cert(TLS_NAME)
    issued.private_key_and_cert_chain_pem.write_to_path(str(file))
    loaded = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    return loaded.public_bytes(Encoding.DER)


class Fleet:
    """
    Two APIs that want the certificate, one that does not, and a sink that belongs to nobody. All of
    them ask for a certificate.
    """

    def __init__(self, provider: OidcProvider, folder: Path, stack: ExitStack) -> None:
        known: Any = {"issuer": provider.issuer, "jwks_uri": provider.jwks_uri}
        self.orders = stack.enter_context(CertificateApi(ORDERS, tls=asking(), **known))
        self.billing = stack.enter_context(CertificateApi(BILLING, tls=asking(), **known))
        self.plain = stack.enter_context(LedgerApi(PLAIN, tls=asking(), **known))
        self.sink = stack.enter_context(Sink(tls=asking()))
        self.events: list[TokenEvent] = []
        self.ca, self.file = folder / "ca.pem", folder / "client.pem"
        authority().cert_pem.write_to_path(str(self.ca))
        self.certificate = write_certificate(self.file)
        self.server = AuthorizationServer(issuer=provider.issuer, verify=str(self.ca))

    def auth(self, client_id: str = CLIENT, **options: Any) -> ResourceTokenAuth:
        resources = {
            f"{self.orders.url}/": Resource(ORDERS, sender="mtls"),
            f"{self.billing.url}/": Resource(BILLING, sender="mtls"),
            f"{self.plain.url}/": PLAIN,
        }
        return ResourceTokenAuth(
            self.server,
            TlsClientAuth(client_id, self.file),
            resources=options.pop("resources", resources),
            on_event=self.events.append,
            **options,
        )

    def transport(self, caller: Caller, **options: Any) -> Any:
        library = caller.library
        if caller.blocking:
            make = partial(library.HTTPTransport, **options)
            return CertificateTransport(make, verify=self.ca)
        make = partial(library.AsyncHTTPTransport, **options)
        return AsyncCertificateTransport(make, verify=self.ca)


@pytest.fixture
def fleet(provider: OidcProvider, tmp_path: Path) -> Iterator[Fleet]:
    provider.clear()
    with ExitStack() as stack:
        yield Fleet(provider, tmp_path, stack)


def test_the_command_line_shows_it(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    R8705-4: what a settings file says of a certificate, `resource-tokens request` does.
    """
    monkeypatch.chdir(tmp_path)
    Path("resource-tokens.toml").write_text(f"""
        [servers.login]
        issuer = "{fleet.server.issuer}"
        ca_file = "ca.pem"
        [clients.worker]
        method = "tls_client_auth"
        client_id = "{CLIENT}"
        certificate_file = "client.pem"
        [resources."{fleet.orders.url}/"]
        identifier = "{ORDERS}"
        sender = "mtls"
    """)

    done = CliRunner().invoke(app, ["request", f"{fleet.orders.url}/v1", "--cacert", "ca.pem"])

    assert 0 == done.exit_code, done.stderr
    assert [fleet.certificate] == shown_to(fleet.orders)


def decisions(uses: list[TokenUse]) -> list[tuple[str, str, str]]:
    return [(use.decision, use.destination, use.detail) for use in uses]


def shown_to(api: Sink) -> list[bytes | None]:
    return [seen.certificate for seen in api.seen]


def test_the_certificate_goes_with_its_tokens_and_to_nobody_else(
    caller: Caller, fleet: Fleet, provider: OidcProvider
) -> None:
    """
    L8, R8705-2, R8705-4, P3, R9700-2: the APIs of such a resource see the certificate that the
    token says; one of another kind, a stranger, and whoever is led to by a redirect see none.
    """
    auth = fleet.auth(unmapped="anonymous")
    fleet.orders.redirect("/away", to=f"{fleet.sink.url}/landing")
    fleet.orders.redirect("/across", to=f"{fleet.billing.url}/landing")
    fleet.orders.redirect("/within", to=f"{fleet.orders.url}/landing")
    fleet.sink.redirect("/back", to=f"{fleet.orders.url}/led")
    with caller.client(
        auth=auth, transport=fleet.transport(caller), follow_redirects=True
    ) as client:
        good = [
            client.get(f"{fleet.orders.url}/v1"),
            client.get(f"{fleet.billing.url}/v1"),
            client.get(f"{fleet.plain.url}/v1"),
            client.get(f"{fleet.orders.url}/within"),
        ]
        client.get(f"{fleet.orders.url}/away")
        client.get(f"{fleet.orders.url}/across")
        client.get(f"{fleet.sink.url}/back")
        client.get(f"{fleet.orders.url}/alone", auth=None)

    own = fleet.certificate
    assert [200] * 4 == [answer.status_code for answer in good]
    assert [own] * 5 + [None] * 2 == shown_to(fleet.orders)
    assert [own, None] == shown_to(fleet.billing)
    assert [None] == shown_to(fleet.plain)
    assert {None} == set(shown_to(fleet.sink))
    assert [200, 401] == [seen.status for seen in fleet.billing.seen]
    assert {("tls_client_auth", 200)} == {(e["method"], e["status"]) for e in provider.ledger()}


@BOTH
def test_without_the_certificate_nothing_is_sent(caller: Caller, fleet: Fleet) -> None:
    """
    R8705-2, P4: a client that is not set up for it is stopped before a byte is sent; so is one
    whose own context has the very certificate, since nobody can see that from here.
    """
    uses: list[TokenUse] = []
    with (
        caller.client(auth=fleet.auth(ledger=UseLedger(uses.append))) as client,
        pytest.raises(EgressBlockedError, match="CertificateTransport") as caught,
    ):
        client.get(f"{fleet.orders.url}/v1")

    assert [] == fleet.orders.seen
    assert [("blocked", f"{fleet.orders.url}/v1", str(caught.value))] == decisions(uses)
    assert ["metadata_discovered", "token_issued", "egress_blocked"] == [
        event.name for event in fleet.events
    ]


@BOTH
def test_a_token_that_is_not_bound_is_refused(caller: Caller, fleet: Fleet) -> None:
    """
    X7, R8705-4: there is no type for it, but a JWT says so.
    """
    auth = fleet.auth("tls_client_auth")
    with pytest.raises(TokenRequestError, match="tls_client_certificate_bound_access_tokens"):
        caller.token_for(auth, f"{fleet.orders.url}/")


@BOTH
def test_an_opaque_token_is_believed_to_be_bound(
    caller: Caller, fleet: Fleet, provider: OidcProvider
) -> None:
    """
    R8705-4: only its API can know.
    """
    auth = fleet.auth()
    token = caller.token(auth.cache, Resource(OPAQUE, sender="mtls"))

    said = provider.introspected(token.reveal(), "agent", "a secret of forty-two characters, or so")
    assert thumbprint_of(fleet.certificate) == said["cnf"]["x5t#S256"]
    assert "Bearer" == token.token_type


@BOTH
def test_a_certificate_that_is_replaced_is_shown_with_the_next_token(
    caller: Caller, fleet: Fleet, clock: Clock
) -> None:
    """
    R8705-3: on connections of its own. The old token goes with the old certificate until then.
    """
    auth = fleet.auth(clock=clock)
    with caller.client(auth=auth, transport=fleet.transport(caller)) as client:
        client.get(f"{fleet.orders.url}/v1")
        replaced = write_certificate(fleet.file)
        client.get(f"{fleet.orders.url}/v1")
        clock.advance(6)
        client.get(f"{fleet.orders.url}/v1")

    assert [200] * 3 == [seen.status for seen in fleet.orders.seen]
    assert [fleet.certificate, fleet.certificate, replaced] == shown_to(fleet.orders)
    assert 2 == len(fleet.orders.tokens_seen())


@BOTH
def test_a_certificate_that_is_gone_is_not_replaced_by_another(
    caller: Caller, fleet: Fleet, clock: Clock
) -> None:
    """
    P4: the token is bound to one that no connection can show any more.
    """
    uses: list[TokenUse] = []
    auth = fleet.auth(clock=clock, ledger=UseLedger(uses.append))
    caller.token_for(auth, f"{fleet.orders.url}/")
    with caller.client(auth=auth, transport=fleet.transport(caller)) as client:
        replaced = write_certificate(fleet.file)
        with pytest.raises(EgressBlockedError, match="not in the files any more") as caught:
            client.get(f"{fleet.orders.url}/v1")
        assert [] == fleet.orders.seen
        blocked = ("blocked", f"{fleet.orders.url}/v1", str(caught.value))
        assert [("handed_over", "", ""), blocked] == decisions(uses)
        assert "egress_blocked" == fleet.events[-1].name
        clock.advance(6)
        assert 200 == client.get(f"{fleet.orders.url}/v1").status_code
        fleet.file.write_text("half a certificate")
        assert 200 == client.get(f"{fleet.orders.url}/v1").status_code

    assert [replaced] * 2 == shown_to(fleet.orders)
    fleet.file.unlink()
    with (
        caller.client(auth=auth, transport=fleet.transport(caller)) as fresh,
        pytest.raises(EgressBlockedError, match="not in the files any more"),
    ):
        fresh.get(f"{fleet.orders.url}/v1")


@BOTH
def test_a_tunnel_hides_the_certificate(caller: Caller, fleet: Fleet) -> None:
    """
    P3: a proxy is asked to connect, and sees no certificate; `make` takes all options of httpx's.
    """
    with RecordingProxy(lambda _, port: port) as proxy:
        transport = fleet.transport(caller, proxy=proxy.url)
        with caller.client(auth=fleet.auth(), transport=transport) as client:
            assert 200 == client.get(f"{fleet.orders.url}/v1").status_code

    assert [fleet.certificate] == shown_to(fleet.orders)
    assert ["connect"] == [passage.kind for passage in proxy.passages]
    assert all(TLS_NAME.encode() not in passage.sent for passage in proxy.passages)


@BOTH
def test_http2_shows_it_too(caller: Caller, fleet: Fleet) -> None:
    """
    R8705-2: by the other of httpcore's two ways to send headers.
    """
    with Http2Sink(asking()) as api:
        auth = fleet.auth(resources={f"{api.url}/": Resource(ORDERS, sender="mtls")})
        with caller.client(auth=auth, transport=fleet.transport(caller, http2=True)) as client:
            answer = client.get(f"{api.url}/v1")

    assert ("HTTP/2", 1) == (answer.http_version, len(api.seen))


@BOTH
def test_around_a_mock_goes_the_guard(caller: Caller, fleet: Fleet) -> None:
    """
    P3: whatever `make` makes is handed requests with the mark of their certificate, and only such.
    """
    library = caller.library
    answers = library.MockTransport(lambda _: library.Response(200))
    guard: Any = EgressGuard if caller.blocking else AsyncEgressGuard
    kind: Any = CertificateTransport if caller.blocking else AsyncCertificateTransport

    def make(*, verify: Any) -> Any:
        assert verify is not None
        return guard(answers)

    with caller.client(auth=fleet.auth(), transport=kind(make)) as client:
        response = client.get(f"{fleet.orders.url}/v1")
        assert 200 == response.status_code
        assert "resource_tokens.certificate" not in response.request.extensions
    with (
        caller.client(auth=fleet.auth(), transport=guard(answers)) as client,
        pytest.raises(EgressBlockedError, match="CertificateTransport"),
    ):
        client.get(f"{fleet.orders.url}/v1")


@BOTH
def test_where_nobody_looks_a_refusal_says_so(caller: Caller, fleet: Fleet) -> None:
    """
    P11: through a transport that is neither.
    """
    library = caller.library
    refusing = library.MockTransport(lambda _: library.Response(401))
    with (
        caller.client(auth=fleet.auth(), transport=refusing) as client,
        pytest.raises(EgressBlockedError, match="without its certificate"),
    ):
        client.get(f"{fleet.orders.url}/v1")


@BOTH
def test_a_hop_that_is_blocked_sees_no_certificate(caller: Caller, fleet: Fleet) -> None:
    """
    P3: a request that is stopped is stopped on a connection without one.
    """
    with (
        caller.client(auth=fleet.auth(), transport=fleet.transport(caller)) as client,
        pytest.raises(EgressBlockedError, match="its Host header names"),
    ):
        client.get(f"{fleet.orders.url}/v1", headers={"Host": "other.example.com"})

    assert [] == fleet.orders.seen


class Counting(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """
    Answers 200, and knows whether it was closed.
    """

    def __init__(self, *, verify: Any) -> None:
        self.verify = verify
        self.closed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, request=request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.close()


@pytest.mark.parametrize(
    "caller", [(httpx, "sync"), (httpx, "trio")], ids=["sync", "trio"], indirect=True
)
def test_connections_of_certificates_long_gone_are_closed(
    caller: Caller, fleet: Fleet, clock: Clock
) -> None:
    """
    P10: sixteen certificates at once; the one that was used least recently goes first.
    """
    made: list[Counting] = []

    def make(*, verify: Any) -> Counting:
        made.append(Counting(verify=verify))
        return made[-1]

    kind: Any = CertificateTransport if caller.blocking else AsyncCertificateTransport
    with caller.client(auth=fleet.auth(clock=clock), transport=kind(make)) as client:
        for _ in range(18):
            client.get(f"{fleet.orders.url}/v1")
            write_certificate(fleet.file)
            clock.advance(6)
        assert [0, 1, 1, *[0] * 16] == [each.closed for each in made]

    assert [1] * 19 == [each.closed for each in made]


def test_threads_that_come_first_together_share_the_connections(fleet: Fleet) -> None:
    """
    P6: of two transports for one certificate the second is closed at once.
    """
    made: list[Counting] = []
    together = threading.Barrier(2)

    def make(*, verify: Any) -> Counting:
        mine = Counting(verify=verify)
        made.append(mine)
        if len(made) > 1:
            together.wait(10)
        return mine

    with httpx.Client(auth=fleet.auth(), transport=CertificateTransport(make)) as client:
        client.auth.token_for(f"{fleet.orders.url}/")  # type: ignore[union-attr]
        threads = [
            threading.Thread(target=client.get, args=(f"{fleet.orders.url}/v1",)) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.get(f"{fleet.orders.url}/v1")
        assert [0, 1] == sorted(each.closed for each in made[1:])


def test_a_client_without_a_certificate_cannot_ask_for_such_tokens(fleet: Fleet) -> None:
    """
    Said at construction: the certificate is that of the client authentication.
    """
    with pytest.raises(ConfigurationError, match="TlsClientAuth"):
        ResourceTokenAuth(
            fleet.server,
            ClientSecretBasic("client", "secret"),
            {f"{fleet.orders.url}/": Resource(ORDERS, sender="mtls")},
        )


def test_where_no_certificate_can_be_shown() -> None:
    """
    Said at construction: plain http, a sidecar's own connection, a redirect from elsewhere.
    """
    with pytest.raises(ConfigurationError, match="plain http"):
        ResourceMap({"http://127.0.0.1:8000/": Resource(ORDERS, sender="mtls")})
    with pytest.raises(ConfigurationError, match="connect_to"):
        Resource(ORDERS, sender="mtls", connect_to="http://127.0.0.1:15001")
    with pytest.raises(ConfigurationError, match="reauthorize"):
        Resource(ORDERS, sender="mtls", redirects="reauthorize")


def test_the_certificate_is_part_of_what_a_token_is_kept_under(fleet: Fleet) -> None:
    """
    P2, R8705-3: and so is that it is bound.
    """
    first = fleet.auth().cache
    key, plain = (
        first._request_for(resource).key
        for resource in (Resource(ORDERS, sender="mtls"), Resource(ORDERS))
    )
    write_certificate(fleet.file)
    other = fleet.auth().cache._request_for(Resource(ORDERS, sender="mtls")).key

    assert 3 == len({key, plain, other})
