"""
Settings from a TOML file and from the environment.
"""

from __future__ import annotations

import inspect
import json
import stat
import subprocess
import sys
import textwrap
import tomllib
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resource_tokens import (
    AuthorizationServer,
    ClientAssertionFile,
    ClientSecretBasic,
    ClientSecretJwt,
    ClientSecretPost,
    ConfigurationError,
    Dialect,
    JwtBearer,
    OAuthError,
    PrivateKeyJwt,
    ProofKey,
    PublicClient,
    RefreshToken,
    Resource,
    ResourceTokenAuth,
    SharedRefreshToken,
    TlsClientAuth,
    TokenEvent,
    TokenExchange,
    TokenRequestError,
)
from resource_tokens.cli.explain import explain
from resource_tokens.files import FileTokenStore
from resource_tokens.redis import RedisTokenStore
from resource_tokens.settings import Settings, environment, model
from resource_tokens.settings.file import load, read
from resource_tokens.settings.problems import Lines, key_text
from resource_tokens.stores import MemoryTokenStore, new_key
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import BILLING, CLIENT_ID, CLIENT_SECRET, ORDERS, World
from tests.servers.keyrings import InMemory, Locked, keyring_is
from tests.servers.tls import authority

SIMPLE = """
[servers.login]
issuer = "https://login.example.com"

[clients.worker]
method = "client_secret_basic"
client_id = "orders-worker"
client_secret = { env = "ORDERS_CLIENT_SECRET" }

[resources."https://inventory.example.com/"]
"""


@pytest.fixture(name="written")
def _written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """
    Writes a settings file, in a world where the secret is known.
    """
    monkeypatch.setenv("ORDERS_CLIENT_SECRET", CLIENT_SECRET)

    def write(text: str) -> Path:
        path = tmp_path / "resource-tokens.toml"
        path.write_text(textwrap.dedent(text), "utf-8")
        return path

    return write


@pytest.fixture(name="ring")
def _ring() -> Iterator[InMemory]:
    ring = InMemory()
    with keyring_is(ring):
        yield ring


def problems_in(path: Path) -> list[str]:
    return [str(problem) for problem in read(path).problems]


def test_a_file_is_all_that_is_needed(written: Callable[[str], Path], world: World) -> None:
    """
    P1: from a file, each request carries the token of its resource, and an event says so.
    """
    path = written(f"""
        [servers.login]
        issuer = "{world.server.issuer}"

        [clients.worker]
        method = "client_secret_basic"
        client_id = "{CLIENT_ID}"
        client_secret = {{ env = "ORDERS_CLIENT_SECRET" }}

        [resources]
        "{world.orders.url}" = {{ identifier = "{ORDERS}", scopes = ["orders:read"] }}
        "{world.billing.url}" = "{BILLING}"
    """)
    events: list[TokenEvent] = []

    auth = ResourceTokenAuth.from_toml(path, on_event=events.append)
    with httpx.Client(auth=auth, trust_env=False) as client:
        answers = [client.get(api.url).json() for api in (world.orders, world.billing)]

    assert [(ORDERS, "orders:read"), (BILLING, "")] == [
        (answer["audience"], answer["scope"]) for answer in answers
    ]
    assert 2 == [event.name for event in events].count("token_issued")


EVERYTHING = """
#:schema ./schema.json
client = "worker"
unmapped = "anonymous"
discover = ["https://login.example.com"]

[store]
type = "memory"
size = 7
max_bytes = 80_000

[dialects.mine]
target = { audience = "{audience}" }
default_lifetime = 60
local_hosts = ["10.0.0.1"]

[dialects.plain]
exchange = { type = "token_exchange", requested_token_type = "access_token" }
exchange_target = { audience = "{audience}" }

[exchange]
type = "token_exchange"
subject_token_type = "jwt"
actor_token = { file = "actor" }
actor_token_type = "jwt"
issuers = ["https://users.example.com"]

[proof_key]
key = { file = "proof.pem" }

[servers.login]
issuer = "https://login.example.com"
dialect = "mine"
ca_file = "ca.pem"
proxy = "http://proxy.example.com:3128"
timeout = 2.5
trust_env = true
headers = { X-Gateway-Key = { env = "GATEWAY_KEY" } }
canary = "urn:example:canary"

[servers.other]
issuer = "https://login.example.org/"
token_endpoint = "https://login.example.org/token"
revocation_endpoint = "https://login.example.org/revoke"
dialect = "auth0"
verify = true

[servers.local]
issuer = "http://login"
uds = "login.sock"

[clients.worker]
server = "login"
method = "client_secret_basic"
client_id = "worker"
client_secret = { file = "secret" }

[clients.other]
server = "other"
method = "client_secret_post"
client_id = "other"
client_secret = { keyring = "example", username = "other" }

[resources."https://inventory.example.com/"]

[resources."https://gw.example.com/billing/"]
identifier = "urn:example:billing"
client = "other"
scopes = ["invoices:read", "invoices:write"]
max_scopes = ["invoices:read", "invoices:write", "invoices:all"]
audience = "billing"
subject = "required"
exchange.type = "jwt_bearer"
exchange.first = { type = "token_exchange", requested_token_type = "id-jag" }
sender = "dpop"
extra = { tenant = "blue" }
verify_audience = "require"
redirects = "reauthorize"
allow_http_proxy = true
audit = { url = "v1/me", method = "HEAD", wrong_scopes = ["invoices:none"] }

[resources."http://stock.internal/"]
identifier = "urn:example:stock"
allow_http = true
connect_to = "http://127.0.0.1:15001"
host_header = "stock.mesh"
"""


PROOF_KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


@pytest.fixture(name="everything")
def _everything(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, ring: InMemory
) -> Settings:
    monkeypatch.setenv("GATEWAY_KEY", "gateway-key")
    ring.kept["example", "other"] = "in the ring"
    path = written(EVERYTHING)
    path.with_name("secret").write_text("in the file\n")
    path.with_name("actor").write_text("an actor's token")
    path.with_name("proof.pem").write_bytes(PROOF_KEY)
    path.with_name("ca.pem").write_bytes(authority().cert_pem.bytes())
    return load(path)


def test_what_constructors_take_can_be_said(everything: Settings) -> None:
    """
    Servers, clients, resources, dialects and the store are what the same values make in Python.
    """
    folder = Path(everything.origin).parent
    dialect = Dialect(
        name="mine",
        target={"audience": "{audience}"},
        default_lifetime=timedelta(seconds=60),
        local_hosts=("10.0.0.1",),
    )
    login = AuthorizationServer(
        issuer="https://login.example.com",
        dialect=dialect,
        verify=str(folder / "ca.pem"),
        proxy="http://proxy.example.com:3128",
        timeout=timedelta(seconds=2.5),
        trust_env=True,
        headers={"X-Gateway-Key": "gateway-key"},
    )
    other = AuthorizationServer(
        issuer="https://login.example.org/",
        token_endpoint="https://login.example.org/token",
        revocation_endpoint="https://login.example.org/revoke",
        dialect="auth0",
        verify=True,
    )
    other_client = ClientSecretPost("other", "in the ring")

    assert login == everything.server
    assert ClientSecretBasic("worker", folder / "secret") == everything.client_auth
    assert {
        "https://inventory.example.com/": Resource("https://inventory.example.com/"),
        "https://gw.example.com/billing/": Resource(
            "urn:example:billing",
            scopes=["invoices:read", "invoices:write"],
            max_scopes=["invoices:read", "invoices:write", "invoices:all"],
            audience="billing",
            subject="required",
            exchange=JwtBearer(first=TokenExchange(requested_token_type="id-jag")),
            sender="dpop",
            extra={"tenant": "blue"},
            verify_audience="require",
            redirects="reauthorize",
            allow_http_proxy=True,
            server=other,
            client_auth=other_client,
        ),
        "http://stock.internal/": Resource(
            "urn:example:stock",
            allow_http=True,
            connect_to="http://127.0.0.1:15001",
            host_header="stock.mesh",
        ),
    } == everything.resources
    assert everything.exchange == TokenExchange(
        subject_token_type="jwt",
        actor_token=folder / "actor",
        actor_token_type="jwt",
        issuers=["https://users.example.com"],
    )
    assert everything.proof_key is not None
    assert ProofKey(folder / "proof.pem").thumbprint == everything.proof_key.thumbprint
    assert "anonymous" == everything.unmapped
    assert ("https://login.example.com",) == everything.discover
    assert isinstance(everything.store, MemoryTokenStore)
    assert "MemoryTokenStore(0 of 7 tokens)" == repr(everything.store)


def test_whatever_is_said_can_be_explained(everything: Settings) -> None:
    """
    P1: a request to each destination is rehearsed with stand-ins for these very servers.
    """
    explained = [explain(everything, entry.destination) for entry in everything.entries]

    assert [entry.resource.identifier for entry in everything.entries] == [
        explanation.hops[0].token_for for explanation in explained
    ]
    assert {"audience": "https://inventory.example.com/"}.items() <= dict(
        explained[0].parameters
    ).items()


def test_what_the_command_line_wants_to_know(everything: Settings) -> None:
    """
    Each destination with the names of its server and client, its canary and its audit; the files
    that hold secrets, and the lines of keys.
    """
    plain, billing, _ = everything.entries

    assert ("login", "worker") == (plain.server_name, plain.client_name)
    assert ("other", "other") == (billing.server_name, billing.client_name)
    assert ("urn:example:canary", None) == (plain.canary, billing.canary)
    assert plain.audit is None
    assert billing.audit is not None
    assert "https://gw.example.com/billing/v1/me" == billing.audit.url
    assert ("HEAD", ["invoices:none"]) == (billing.audit.method, [*billing.audit.wrong_scopes])
    secret, actor, key = everything.secret_files
    assert ("clients", "worker", "client_secret") == secret.key
    assert "secret" == secret.path.name
    line = EVERYTHING.splitlines()[(everything.lines(secret.key) or 0) - 1]
    assert 'client_secret = { file = "secret" }' == line
    assert [("exchange", "actor_token"), ("proof_key", "key")] == [actor.key, key.key]


# What is an object of Python, and what a file says in another way.
UNSAYABLE: dict[str, set[str]] = {
    "AuthorizationServer": {"transport"},
    "Dialect": {"name"},
    "Resource": {"server", "client_auth"},
    "ResourceTokenAuth": {
        "server",
        "client_auth",
        "on_event",
        "ledger",
        "telemetry",
        "clock",
        "wall_clock",
    },
    "FileTokenStore": {"clock", "wall_clock"},
    "ResourceMap": {"resources"},
    "SharedRefreshToken": {"store"},
    "RefreshToken": {"on_rotation"},
    "ClientAssertionFile": {"path"},
    "PrivateKeyJwt": {"certificate"},
    "TlsClientAuth": {"certificate", "key", "self_signed"},
}
TABLES: list[tuple[Any, Any]] = [
    (AuthorizationServer, model.ServerTable),
    (Dialect, model.DialectTable),
    (Resource, model.ResourceTable),
    (ResourceTokenAuth, model.SettingsFile),
    (RefreshToken, model.RefreshTokenTable),
    (ClientSecretBasic, model.ClientSecretTable),
    (ClientSecretPost, model.ClientSecretTable),
    (ClientSecretJwt, model.ClientSecretJwtTable),
    (PrivateKeyJwt, model.PrivateKeyJwtTable),
    (ClientAssertionFile, model.ClientAssertionFileTable),
    (TlsClientAuth, model.TlsClientTable),
    (PublicClient, model.PublicClientTable),
    (RedisTokenStore, model.RedisStoreTable),
    (FileTokenStore, model.FileStoreTable),
    (SharedRefreshToken, model.RefreshTokenTable),
    (TokenExchange, model.TokenExchangeTable),
    (JwtBearer, model.JwtBearerTable),
    (ProofKey, model.ProofKeyTable),
]


@pytest.mark.parametrize(("constructor", "table"), TABLES, ids=lambda kind: kind.__name__)
def test_no_argument_is_forgotten(constructor: Any, table: Any) -> None:
    """
    A constructor that comes to take more is either said in the file, or listed here.
    """
    arguments = set(inspect.signature(constructor).parameters)

    missing = arguments - set(table.model_fields) - UNSAYABLE.get(constructor.__name__, set())

    assert set() == missing


def client_table(text: str) -> str:
    return f"""
[servers.login]
issuer = "https://login.example.com"
[clients.worker]
client_id = "worker"
{text}
[resources."https://inventory.example.com/"]
"""


def test_every_client_authentication(written: Callable[[str], Path], tmp_path: Path) -> None:
    """
    Each method makes what its class makes, of files beside the settings file.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    encodings = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain = key.private_bytes(*encodings, serialization.NoEncryption())
    locked = key.private_bytes(*encodings, serialization.BestAvailableEncryption(b"pass"))
    (tmp_path / "key.pem").write_bytes(plain)
    (tmp_path / "locked.pem").write_bytes(locked)
    (tmp_path / "password").write_text("pass")
    (tmp_path / "cert.pem").write_bytes(certificate_for(key))
    (tmp_path / "both.pem").write_bytes(plain + certificate_for(key))
    (tmp_path / "secret").write_text("s" * 32)

    def made(text: str) -> Any:
        return load(written(client_table(text))).client_auth

    assert ClientSecretJwt(
        "worker",
        tmp_path / "secret",
        "HS256",
        audience="token_endpoint",
        lifetime=timedelta(seconds=30),
    ) == made(
        'method = "client_secret_jwt"\nclient_secret = { file = "secret" }\nalgorithm = "HS256"\n'
        'audience = "token_endpoint"\nlifetime = 30'
    )
    assert PrivateKeyJwt(
        "worker",
        tmp_path / "locked.pem",
        key_id="1",
        password=tmp_path / "password",
        certificate=tmp_path / "cert.pem",
        typ="JWT",
        allow_shared_key=True,
    ) == made(
        'method = "private_key_jwt"\nkey = { file = "locked.pem" }\nkey_id = "1"\ntyp = "JWT"\n'
        'password = { file = "password" }\ncertificate_file = "cert.pem"\nallow_shared_key = true'
    )
    assert TlsClientAuth("worker", tmp_path / "cert.pem", tmp_path / "key.pem") == made(
        'method = "tls_client_auth"\ncertificate_file = "cert.pem"\nkey_file = "key.pem"'
    )
    assert TlsClientAuth("worker", tmp_path / "both.pem", self_signed=True) == made(
        'method = "self_signed_tls_client_auth"\ncertificate_file = "both.pem"'
    )
    assertion = made('method = "client_assertion_file"\nassertion = { file = "token" }')
    assert ClientAssertionFile(tmp_path / "token", client_id="worker").token == assertion.token
    spiffe = made(
        'method = "client_assertion_file"\nassertion = { env = "SVID" }\naudience = "urn:x"\n'
        'assertion_type = "jwt-spiffe"'
    )
    assert ("spiffe_jwt", "urn:x") == (spiffe.method, spiffe.audience)


def certificate_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "worker")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_public_client_has_a_refresh_token(
    written: Callable[[str], Path], tmp_path: Path
) -> None:
    """
    Method `none` with the refresh token grant; the new refresh token takes the place of the old
    one in its file, for its owner only, before it is used.
    """
    with LocalAuthorizationServer() as server:
        for count in (2, 3):
            answer = {"access_token": f"at-{count}", "token_type": "Bearer", "expires_in": 3600}
            server.answer_next(200, json.dumps(answer | {"refresh_token": f"rt-{count}"}).encode())
        place = tmp_path / "tokens" / "refresh"
        place.parent.mkdir()
        place.write_text("rt-1\n")
        (tmp_path / "link").symlink_to(place)
        path = written(f"""
            [servers.login]
            issuer = "{server.issuer}"
            [clients.app]
            method = "none"
            client_id = "app"
            [grant]
            type = "refresh_token"
            refresh_token = {{ file = "link" }}
            scopes = ["a", "b"]
            [resources."https://a.example.com/"]
            scopes = ["a"]
            [resources."https://b.example.com/"]
        """)

        auth = ResourceTokenAuth.from_toml(path)
        tokens = [auth.token_for(f"https://{host}.example.com/").reveal() for host in "ab"]
        bodies = [record.body.decode() for record in server.requests if record.method == "POST"]

    assert ["at-2", "at-3"] == tokens
    assert "rt-3" == place.read_text()
    assert stat.S_IRUSR | stat.S_IWUSR == stat.S_IMODE(place.stat().st_mode)
    assert [place] == list(place.parent.iterdir())
    assert (tmp_path / "link").is_symlink()
    assert ["refresh_token=rt-1" in bodies[0], "refresh_token=rt-2" in bodies[1]] == [True, True]


def refreshing(reference: str, issuer: str = "https://login.example.com") -> str:
    return f"""
[servers.login]
issuer = "{issuer}"
[clients.app]
method = "none"
client_id = "app"
[grant]
type = "refresh_token"
refresh_token = {reference}
[resources."https://a.example.com/"]
"""


def test_a_refresh_token_in_the_keyring(written: Callable[[str], Path], ring: InMemory) -> None:
    """
    It is replaced there.
    """
    ring.kept["example", "me"] = "rt-1"
    with LocalAuthorizationServer() as server:
        answer = {"access_token": "at", "token_type": "Bearer", "refresh_token": "rt-2"}
        server.answer_next(200, json.dumps(answer).encode())
        entry = '{ keyring = "example", username = "me" }'

        auth = ResourceTokenAuth.from_toml(written(refreshing(entry, server.issuer)))
        auth.token_for("https://a.example.com/")

    assert {("example", "me"): "rt-2"} == ring.kept


def test_a_refresh_token_in_a_variable_must_be_one_that_stays(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A variable cannot be written, so what is replaced is not kept there.
    """
    monkeypatch.setenv("REFRESH_TOKEN", "rt-1")

    [problem] = problems_in(written(refreshing('{ env = "REFRESH_TOKEN" }')))
    kept = load(written(refreshing('{ env = "REFRESH_TOKEN" }\nreusable = true')))

    assert "line 7, grant: a refresh token that the server replaces has to be stored" in problem
    assert isinstance(kept.grant, RefreshToken)


def test_secrets_of_the_whole_file_that_lead_nowhere(written: Callable[[str], Path]) -> None:
    """
    A grant, an exchange, a proof key and a store are not made without theirs, and each is told.
    """
    nowhere = '{ env = "NOT_SET" }'
    text = f"""
        exchange = {{ type = "token_exchange", actor_token = {nowhere}, actor_token_type = "jwt" }}
        grant = {{ type = "refresh_token", refresh_token = {nowhere}, reusable = true }}
        proof_key = {{ key = {nowhere} }}
        store = {{ type = "file", keys = [{nowhere}] }}
    """

    assert [
        "line 2, exchange.actor_token: the environment variable NOT_SET is not set.",
        "line 3, grant.refresh_token: the environment variable NOT_SET is not set.",
        "line 4, proof_key.key: the environment variable NOT_SET is not set.",
        "line 5, store.keys[0]: the environment variable NOT_SET is not set.",
    ] == problems_in(written(text + textwrap.indent(SIMPLE, "        ")))


def test_the_on_behalf_of_flow(written: Callable[[str], Path]) -> None:
    """
    Of Entra ID, which takes a JWT as a grant.
    """
    flow = 'exchange = { type = "jwt_bearer", requested_token_use = "on_behalf_of" }\n'

    assert JwtBearer(requested_token_use="on_behalf_of") == load(written(flow + SIMPLE)).exchange


def test_a_refresh_token_that_cannot_be_stored_leaves_nothing_behind(
    written: Callable[[str], Path], tmp_path: Path
) -> None:
    """
    Where its file cannot be replaced, the call fails, and no copy of it lies around.
    """
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "refresh").write_text("rt-1")
    with LocalAuthorizationServer() as server:
        answer = {"access_token": "at", "token_type": "Bearer", "refresh_token": "rt-2"}
        server.answer_next(200, json.dumps(answer).encode())
        auth = ResourceTokenAuth.from_toml(
            written(refreshing('{ file = "tokens/refresh" }', server.issuer))
        )
        # A folder cannot be replaced by a file, whoever asks for it.
        (folder / "refresh").unlink()
        (folder / "refresh").mkdir()
        with pytest.raises(TokenRequestError, match="on_rotation raised IsADirectoryError"):
            auth.token_for("https://a.example.com/")

    assert [folder / "refresh"] == list(folder.iterdir())


def test_a_shared_store(written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Redis, with its keys by reference, and its URL too where it has a password in it.
    """
    monkeypatch.setenv("KEY", new_key())
    monkeypatch.setenv("REDIS_URL", "rediss://me:secret@redis.example.com/0")
    store = '[store]\ntype = "redis"\nkeys = [{ env = "KEY" }]\nprefix = "orders"\n'

    by_reference = load(written(f'{SIMPLE}{store}url = {{ env = "REDIS_URL" }}'))
    plain = load(written(f'{SIMPLE}{store}url = "rediss://redis.example.com/0"'))
    literal = problems_in(written(f'{SIMPLE}{store}url = "rediss://me:secret@redis/0"'))
    keyless = problems_in(
        written(f'{SIMPLE}[store]\ntype = "redis"\nkeys = []\nurl = "rediss://redis/0"')
    )

    assert "RedisTokenStore(prefix='orders')" == repr(by_reference.store) == repr(plain.store)
    assert [
        (
            "line 15, store.url: the URL has credentials in it. Put it elsewhere and refer to it: "
            '{ env = "URL" }, { file = "path" } or { keyring = "service", username = "name" }.'
        )
    ] == literal
    assert ["line 13, store.keys: found an array; expected one entry at least."] == [
        problem.partition(" What")[0] for problem in keyless
    ]


def test_a_store_in_a_file(written: Callable[[str], Path], tmp_path: Path) -> None:
    """
    With its key in a file, and the refresh token of several processes kept in it.
    """
    (tmp_path / "key").write_text(new_key())
    (tmp_path / "key").chmod(0o600)
    store = '[store]\ntype = "file"\nfolder = "state"\nkeys = [{ file = "key" }]\nmaxsize = 9\n'
    grant = '[grant]\ntype = "refresh_token"\nrefresh_token = { file = "rt" }\nshared = true\n'
    (tmp_path / "rt").write_text("rt-1")

    shared = load(written(SIMPLE + store + grant))
    [storeless] = problems_in(written(SIMPLE + grant))

    assert isinstance(shared.store, FileTokenStore)
    assert isinstance(shared.grant, SharedRefreshToken)
    assert ["rt", "key"] == sorted((s.path.name for s in shared.secret_files), reverse=True)
    assert "give a store that keeps refresh tokens" in storeless


def test_a_store_in_memory_is_bounded_in_bytes(written: Callable[[str], Path]) -> None:
    """
    P10: what is no bound for a token is told by the store itself.
    """
    [problem] = problems_in(written(f'{SIMPLE}[store]\ntype = "memory"\nmax_bytes = 5'))

    assert "store: MemoryTokenStore: max_bytes=5 is less than" in problem


def test_the_client_credentials_grant_can_be_named(written: Callable[[str], Path]) -> None:
    """
    The default, said aloud.
    """
    named = load(written(f'{SIMPLE}[grant]\ntype = "client_credentials"\n[store]\ntype = "memory"'))

    assert "ClientCredentials()" == repr(named.grant)
    assert named.store is None


WRONG = """
client = "workr"
unmapped = "no"
colour = "blue"

[servers.login]
issuer = "http://login.example.com"
tmeout = 3
dialect = "auth"

[servers.other]
issuer = 5
timeout = 0
headers = { Key = "literal" }

[servers.third]
issuer = "https://third.example.com"
verify = true
ca_file = "nowhere.pem"

[clients.worker]
server = "logn"
method = "client_secret_basic"
client_id = "orders"
client_secret = "hunter2-hunter2"

[clients.two]
method = "client_secret_post"
client_id = ""
client_secret = { env = "NOT_SET" }

[clients.three]
server = "third"
method = "private_key_jwt"
client_id = "three"
key = { file = "nowhere.key" }

[clients.four]
server = "third"
method = "client_secret"

[clients.five]
server = "third"
method = "client_assertion_file"
client_id = "five"
assertion = { keyring = "a", username = "b" }

[resources]
"http://gw.example.com/billing/" = "urn:example:billing"
"https://gw.example.com/orders/" = { identifier = "urn:example:orders", scopes = [
    "a",
    5,
] }
"https://*.com/" = { client = "two" }
"https://x.example.com/" = { clent = "two" }
"https://y.example.com/" = { client = "three", audit = { url = "https://elsewhere.example.com/" } }
"https://z.example.com/" = { client = "tree" }

[grant]
type = "refresh_tokens"

[store]
type = "redis"
"""


def test_everything_that_is_wrong_is_said_at_once(written: Callable[[str], Path]) -> None:
    """
    Each problem with its line and key, what was found and what was expected; and what depends on
    something broken is not blamed.
    """
    path = written(WRONG)

    with pytest.raises(ConfigurationError) as caught:
        ResourceTokenAuth.from_toml(path)

    title, *lines = str(caught.value).split("\n")
    starts = [
        "line 2, client: there is no client 'workr'. Did you mean `worker`?",
        "line 3, unmapped: found 'no'; expected 'raise' or 'anonymous'.",
        "line 4, colour: unknown key. Known here: `client`, `clients`,",
        "line 6, servers.login: The issuer 'http://login.example.com' is not https.",
        "line 8, servers.login.tmeout: unknown key. Did you mean `timeout`?",
        "line 9, servers.login.dialect: there is no dialect 'auth'. Did you mean `auth0`?",
        "line 12, servers.other.issuer: found 5; expected a string. The issuer identifier,",
        "line 13, servers.other.timeout: found 0; expected greater than 0.",
        "line 14, servers.other.headers.Key: the secret itself stands in the file,",
        "line 19, servers.third.ca_file: `verify` says something else.",
        "line 19, servers.third.ca_file: there is no file",
        "line 22, clients.worker.server: there is no server 'logn'. Did you mean `login`?",
        (
            "line 25, clients.worker.client_secret: the secret itself stands in the file, and "
            "files are copied, committed and backed up. Put it elsewhere and refer to it: "
            '{ env = "WORKER_CLIENT_SECRET" }, { file = "path" } or { keyring = "service", '
            'username = "name" }.'
        ),
        "line 27, clients.two: says no `server`, and there are several: `login`, `other`,",
        "line 29, clients.two.client_id: found a string; expected a text that is not empty.",
        "line 32, clients.three: The key of 'three' in",
        "line 38, clients.four: found `method = 'client_secret'`; expected a table whose `method`",
        "line 42, clients.five: `assertion` is replaced by whoever signs it",
        'line 49, resources."http://gw.example.com/billing/": The destination',
        'line 50, resources."https://gw.example.com/orders/".scopes[1]: found 5; expected a',
        'line 54, resources."https://*.com/": The destination',
        'line 55, resources."https://x.example.com/".clent: unknown key. Did you mean `client`?',
        'line 56, resources."https://y.example.com/".audit.url: this leads to',
        "line 57, resources.\"https://z.example.com/\".client: there is no client 'tree'. Did",
        "line 59, grant: found `type = 'refresh_tokens'`; expected a table whose `type` is one of",
        "line 62, store.url: is missing. Where it is:",
        "line 62, store.keys: is missing. What entries are sealed with;",
    ]
    assert f"{len(starts)} problems in {path}:" == title
    for start, line in zip(starts, lines, strict=True):
        assert line.startswith(f"  {start}")


def test_a_literal_secret_is_nowhere_in_the_error(written: Callable[[str], Path]) -> None:
    """
    P9: neither in its text nor in the variables of our frames that reporters of errors show.
    """
    path = written(WRONG)

    with pytest.raises(ConfigurationError) as caught:
        ResourceTokenAuth.from_toml(path)

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    for frame in frames.stack:
        if "resource_tokens/" not in frame.filename:
            frame.locals = None
    assert "hunter2" not in "".join(frames.format())
    assert CLIENT_SECRET not in "".join(frames.format())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("client = [", "line 1: is no TOML: Invalid value, at the end."),
        ("a = 1\nb = hunter2\n", "line 2: is no TOML: Invalid value, in column 5."),
        ("a = 1\na = 2\n", "line 2: is no TOML: Cannot overwrite a value, in column 6."),
    ],
)
def test_what_is_no_toml(written: Callable[[str], Path], text: str, problem: str) -> None:
    """
    The place is said, and not what stands there.
    """
    assert [problem] == problems_in(written(text))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """
    A file that is not there, a folder, one that is no text, and one that is no settings file.
    """
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")

    assert ["cannot be read: No such file or directory."] == problems_in(tmp_path / "nowhere")
    assert ["cannot be read: Is a directory."] == problems_in(tmp_path)
    assert ["is not UTF-8, as TOML asks for."] == problems_in(binary)
    binary.write_bytes(b"#" * (256 * 1024 + 1))
    assert ["is larger than 256 KiB."] == problems_in(binary)
    with pytest.raises(ConfigurationError, match=r"1 problem in .*nowhere:\n  cannot be read"):
        load(tmp_path / "nowhere")


def test_an_empty_file(written: Callable[[str], Path]) -> None:
    """
    What must be there is named.
    """
    assert [
        "servers: is missing. The authorization servers, by a name of your own.",
        "clients: is missing. The clients, by a name of your own, each known to one server.",
        (
            "resources: is missing. The resources by their destination, a URL prefix. A string is "
            "the identifier."
        ),
    ] == problems_in(written(""))


def test_several_clients_and_none_is_named(written: Callable[[str], Path]) -> None:
    """
    Which client asks for a resource is said for the resource or for the file.
    """
    second = '[clients.second]\nmethod = "none"\nclient_id = "second"\n'
    named = f'{second}[resources."https://b.example.com/"]\nclient = "worker"\n'

    assert [
        (
            'line 10, resources."https://inventory.example.com/": says no `client`, and there are '
            "several: `worker`, `second`. Name one here, or for the whole file."
        )
    ] == problems_in(written(SIMPLE + named))


def test_parts_that_do_not_go_together(written: Callable[[str], Path]) -> None:
    """
    What only the whole shows: a destination that is mapped twice.
    """
    [problem] = problems_in(written(f'{SIMPLE}[resources."https://INVENTORY.example.com/"]'))

    assert problem.startswith("line 10, resources: The destination")
    assert "is mapped twice" in problem


@pytest.mark.parametrize("url", ["%2e%2e/x", "https://exa mple/", "https://[/"])
def test_a_request_that_leads_nowhere(written: Callable[[str], Path], url: str) -> None:
    """
    Where an audit would ask is known to belong to the destination, and to be read in one way.
    """
    gateway = f'[resources."https://gw.example.com/a/"]\naudit = {{ url = "{url}" }}\n'

    [problem] = problems_in(written(SIMPLE + gateway))

    assert 'line 12, resources."https://gw.example.com/a/".audit.url: this leads to' in problem


def test_an_issuer_that_nobody_knows(written: Callable[[str], Path]) -> None:
    """
    What only the whole auth object shows is said without a line.
    """
    [problem] = problems_in(written(f'discover = ["https://login.example.org"]{SIMPLE}'))

    assert problem.startswith("discover=['https://login.example.org']: no credential is configured")


def test_every_resource_names_its_client(
    written: Callable[[str], Path], everything: Settings
) -> None:
    """
    Then the file needs none of its own.
    """
    one = EVERYTHING.replace('client = "worker"\n', "", 1).replace(
        '[resources."https://inventory.example.com/"]',
        '[resources."https://inventory.example.com/"]\nclient = "worker"',
    )
    one = one.replace('identifier = "urn:example:stock"', 'identifier = "urn:x"\nclient="worker"')

    settings = load(written(one))

    assert everything.server == settings.server
    assert [entry.client_name for entry in everything.entries] == [
        entry.client_name for entry in settings.entries
    ]


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ('{ env = "NOT_SET" }', "the environment variable NOT_SET is not set."),
        ('{ env = "not a name" }', "found a string; expected the name of an environment variable."),
        ("{ env = 5 }", "found 5; expected a string. The name of the variable."),
        ('{ file = "nowhere" }', "No such file or directory"),
        ('{ keyring = "example", username = "nobody" }', "the keyring has no secret of 'nobody'"),
        ('{ keyring = "example" }', "is missing. The name of the user in the keyring."),
        ("{ }", "found a table; expected a reference to a secret."),
        ("5", "found 5; expected a reference to a secret."),
        ("2026-11-26", "found a date; expected a reference to a secret."),
        ('{ env = "PATH", file = "b" }', "file: does not go together with the other keys"),
    ],
)
@pytest.mark.usefixtures("ring")
def test_references_that_lead_nowhere(
    written: Callable[[str], Path], reference: str, why: str
) -> None:
    """
    Each says which it is, and none shows what it holds.
    """
    [problem] = problems_in(
        written(client_table(f'method = "client_secret_post"\nclient_secret = {reference}'))
    )

    assert why in problem
    assert "line " in problem


def test_a_locked_keyring(written: Callable[[str], Path]) -> None:
    """
    It is told from one that has no such secret.
    """
    reference = '{ keyring = "example", username = "me" }'
    path = written(client_table(f'method = "client_secret_post"\nclient_secret = {reference}'))

    with keyring_is(Locked()):
        [problem] = problems_in(path)

    assert problem.endswith("has no secret of 'me' at 'example' that can be read (KeyringLocked).")


def test_the_schema_is_up_to_date_and_shipped() -> None:
    """
    Editors complete the file by what the model says. After a change of the model, write
    `json.dumps(json_schema(), indent=2)` and a line break to `settings/schema.json`.
    """
    shipped = Path(model.__file__).with_name("schema.json").read_text("utf-8")

    assert shipped == json.dumps(model.json_schema(), indent=2) + "\n"


@pytest.mark.parametrize(("text", "valid"), [(SIMPLE, True), (EVERYTHING, True), (WRONG, False)])
def test_the_schema_judges_as_the_model_does(text: str, valid: bool) -> None:
    """
    An editor that knows the schema marks what the library refuses.
    """
    schema = model.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)

    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(tomllib.loads(text)))

    assert valid == (errors == [])


def test_lines_of_keys() -> None:
    """
    A key is on the line where its statement begins, and a table on that of its header.
    """
    text = textwrap.dedent('''
        a = 1
        b = """
        [c]
        d = 2
        """
        e.f = [
            1,
            # a comment
            { g = 3 },
        ]

        [h."i.j"]  # a comment
        k = { l = 4 }
        [[m]]
        n = 1
        [[m]]
        n = 2
    ''')
    lines = Lines(text)

    assert {
        ("a",): 2,
        ("b",): 3,
        ("e", "f"): 7,
        ("e", "f", 1, "g"): 7,
        ("h", "i.j"): 13,
        ("h", "i.j", "k", "l"): 14,
        ("h", "i.j", "missing"): 13,
        ("m", 0, "n"): 16,
        ("m", 1, "n"): 18,
        ("c",): None,
        ("a", "b"): 2,
        (): None,
    } == {
        key: lines(key)
        for key in [
            ("a",),
            ("b",),
            ("e", "f"),
            ("e", "f", 1, "g"),
            ("h", "i.j"),
            ("h", "i.j", "k", "l"),
            ("h", "i.j", "missing"),
            ("m", 0, "n"),
            ("m", 1, "n"),
            ("c",),
            ("a", "b"),
            (),
        ]
    }


def test_a_key_on_the_first_line() -> None:
    """
    There is nothing before it.
    """
    assert 1 == Lines("a = 1")(("a",))


def test_keys_are_written_as_in_toml() -> None:
    """
    Quoted where they need it, and without what a terminal would obey.
    """
    assert 'a."b c".d[2]' == key_text(("a", "b c", "d", 2))
    assert r'"a\"\\?[31m"' == key_text(('a"\\\x1b[31m',))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    at=st.integers(0, len(EVERYTHING)),
    length=st.integers(0, 12),
    put=st.sampled_from(
        ["", '"', "{", "}", "[", "]", "=", "5", "true", '"\\u0000"', "#", "\n", "://"]
    ),
)
def test_whatever_stands_in_a_file(
    written: Callable[[str], Path], at: int, length: int, put: str
) -> None:
    """
    A damaged file gives settings or problems, and never another error.
    """
    settings, problems = read(written(EVERYTHING[:at] + put + EVERYTHING[at + length :]))

    assert (settings is None) == bool(problems)


ENVIRONMENT = {
    "RESOURCE_TOKENS_ISSUER": "https://login.example.com",
    "RESOURCE_TOKENS_CLIENT_ID": "orders-worker",
    "RESOURCE_TOKENS_CLIENT_SECRET": CLIENT_SECRET,
    "RESOURCE_TOKENS_RESOURCES": "https://a.example.com/ https://b.example.com/",
}


@pytest.fixture(name="environ")
def _environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(**variables: str) -> None:
        for name, value in {**ENVIRONMENT, **variables}.items():
            monkeypatch.setenv(name, value)

    return put


def test_the_environment_is_enough(environ: Callable[..., None], world: World) -> None:
    """
    P1: one server, one client and a list of APIs come from variables, and a token from the server.
    """
    environ(
        RESOURCE_TOKENS_ISSUER=world.server.issuer,
        RESOURCE_TOKENS_RESOURCES=f"{world.orders.url} {world.billing.url}",
        RESOURCE_TOKENS_SCOPES="a b",
    )
    events: list[TokenEvent] = []

    auth = ResourceTokenAuth.from_env(on_event=events.append)
    token = auth.token_for(world.billing.url)

    assert world.billing.url == token.resource
    assert {"a", "b"} == token.scopes
    assert [world.orders.url, world.billing.url] == [url for url, _ in auth.resources]
    assert 1 == [event.name for event in events].count("token_issued")


def test_a_secret_file_by_the_environment(
    environ: Callable[..., None], tmp_path: Path, world: World
) -> None:
    """
    The file is named, and is known to hold a secret.
    """
    place = tmp_path / "secret"
    place.write_text(CLIENT_SECRET)
    environ(
        RESOURCE_TOKENS_ISSUER="",
        RESOURCE_TOKENS_TOKEN_ENDPOINT=world.server.token_endpoint,
        RESOURCE_TOKENS_DIALECT="rfc8707",
        RESOURCE_TOKENS_CLIENT_SECRET="",
        RESOURCE_TOKENS_CLIENT_SECRET_FILE=str(place),
        RESOURCE_TOKENS_RESOURCES=world.orders.url,
    )

    loaded = environment.load()

    assert world.orders.url == loaded.auth().token_for(world.orders.url).resource
    assert [place] == [secret.path for secret in loaded.secret_files]
    assert loaded.lines(("client",)) is None


def test_the_environment_names_a_file(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Then nothing else is said by variables.
    """
    path = written(SIMPLE)
    monkeypatch.setenv("RESOURCE_TOKENS_CONFIG", str(path))

    from_file = environment.load()
    monkeypatch.setenv("RESOURCE_TOKENS_ISSUER", "https://login.example.com")

    assert str(path) == from_file.origin
    with pytest.raises(ConfigurationError, match="these say something too: RESOURCE_TOKENS_ISSUER"):
        environment.load()


def test_an_environment_that_says_too_little_or_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    All of it is said at once, by the names of the variables and never by what they hold.
    """
    monkeypatch.setenv("RESOURCE_TOKENS_CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.setenv("RESOURCE_TOKENS_CLIENT_SECRET_FILE", "/secret")
    monkeypatch.setenv("RESOURCE_TOKENS_ISUER", "https://login.example.com")

    with pytest.raises(ConfigurationError) as caught:
        ResourceTokenAuth.from_env()

    first, *lines = str(caught.value).split("\n  ")
    assert "The environment does not say what to use:" == first
    starts = [
        "RESOURCE_TOKENS_ISUER is set, and no variable",
        "RESOURCE_TOKENS_ISSUER or RESOURCE_TOKENS_TOKEN_ENDPOINT is not set.",
        "RESOURCE_TOKENS_CLIENT_ID is not set.",
        "RESOURCE_TOKENS_RESOURCES is not set.",
        "RESOURCE_TOKENS_CLIENT_SECRET and RESOURCE_TOKENS_CLIENT_SECRET_FILE: give one.",
    ]
    assert starts == [line[: len(start)] for line, start in zip(lines, starts, strict=True)]
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in frames.stack if "resource_tokens/" in frame.filename]
    assert ours
    assert CLIENT_SECRET not in repr([frame.locals for frame in ours])


WITHOUT = """
import importlib.util, sys
for name in {absent!r}:
    sys.modules[name] = None
"""


def outcome_without(*absent: str, code: str) -> str:
    command = [sys.executable, "-c", WITHOUT.format(absent=absent) + code]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_what_to_install_is_said(written: Callable[[str], Path]) -> None:
    """
    The extras are optional, and their absence has a remedy.
    """
    simple = written(SIMPLE)
    code = f"from resource_tokens import *; ResourceTokenAuth.from_toml({str(simple)!r})"
    without_pydantic = outcome_without("pydantic", code=code)
    simple.write_text(
        client_table(
            'method = "client_secret_post"\nclient_secret = { keyring = "a", username = "b" }'
        )
        + '[store]\ntype = "redis"\nurl = "redis://127.0.0.1"\nkeys = [{ env = "PATH" }]\n'
    )
    without_others = outcome_without("keyring", "redis", code=code)

    assert "pip install 'resource-tokens[settings]'" in without_pydantic
    assert "pip install 'resource-tokens[keyring]'" in without_others
    assert "pip install 'resource-tokens[redis]'" in without_others


def test_the_environment_needs_no_extra() -> None:
    """
    Variables are read without pydantic.
    """
    code = (
        f"import os; os.environ.update({ENVIRONMENT!r})\n"
        "from resource_tokens import *; ResourceTokenAuth.from_env()"
    )

    assert "" == outcome_without("pydantic", "keyring", "redis", code=code)


def test_no_secret_in_what_is_read(written: Callable[[str], Path], everything: Settings) -> None:
    """
    P9: settings show none.
    """
    shown = repr(everything) + repr(read(written(SIMPLE)))

    assert [] == [s for s in ("in the ring", "gateway-key", CLIENT_SECRET) if s in shown]


def test_a_wrong_secret_is_the_servers_word(written: Callable[[str], Path]) -> None:
    """
    Settings that can be used need not be right: the server says so.
    """
    with LocalAuthorizationServer() as server:
        auth = ResourceTokenAuth.from_toml(
            written(SIMPLE.replace("https://login.example.com", server.issuer))
        )
        with pytest.raises(OAuthError, match="invalid_client"):
            auth.token_for("https://inventory.example.com/")
