"""
The fixtures of the kit.
"""

from __future__ import annotations

import importlib
import json
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import anyio.from_thread
import pytest

from resource_tokens.conformance.bench import Bench, Candidate, Factory
from resource_tokens.conformance.setting import Setting, UnsupportedError, resource_tokens_factory
from resource_tokens.pytest_plugin import StartResourceServer
from resource_tokens.testing import LocalAuthorizationServer, TokenLedger

_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
COLOURS = [
    pytest.param((library, colour), id=f"{library}-{colour}")
    for library in ("httpx", "httpx2")
    for colour in ("sync", "asyncio", "trio")
]


@pytest.fixture(scope="session")
def factory(pytestconfig: pytest.Config) -> Factory:
    """
    What `--auth` names.
    """
    named = pytestconfig.getoption("resource_tokens_conformance", default=None)
    if named is None:
        return resource_tokens_factory
    module, _, name = named.partition(":")
    if not name:
        raise pytest.UsageError("--auth is MODULE:FACTORY, such as my_tests.peers:make_client")
    # As with `python -m pytest`: the factory is in the program's own tests.
    sys.path.insert(0, str(pytestconfig.invocation_params.dir))
    found: Factory = getattr(importlib.import_module(module), name)
    return found


@pytest.fixture
def authorization_server() -> Iterator[LocalAuthorizationServer]:
    """
    An authorization server with two clients. Secrets of plain letters, an issuer with a path and
    an authorization endpoint in the metadata, which some want, keep out what is not tested here.
    """
    clients = {"alice": "alice-secret", "bob": "bob-secret"}
    with LocalAuthorizationServer(clients=clients, path="/as") as server:
        metadata = {
            "issuer": server.issuer,
            "authorization_endpoint": f"{server.issuer}/authorize",
            "token_endpoint": server.token_endpoint,
            "response_types_supported": ["code"],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        }
        server.respond(
            "/.well-known/oauth-authorization-server/as",
            headers={"Content-Type": "application/json"},
            body=json.dumps(metadata).encode(),
        )
        yield server


@pytest.fixture
def bench(
    authorization_server: LocalAuthorizationServer,
    resource_server: StartResourceServer,
    token_ledger: TokenLedger,
) -> Bench:
    """
    Fresh servers.
    """
    return Bench(authorization_server, resource_server, token_ledger)


@pytest.fixture(params=COLOURS)
def candidate(
    request: pytest.FixtureRequest, factory: Factory, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Candidate]:
    """
    The plugin under test in each library and colour that there are.
    """
    named, colour = request.param
    library: ModuleType = pytest.importorskip(named)
    server = bench.authorization_server
    # What is on loopback is not reached by a proxy.
    monkeypatch.setenv("NO_PROXY", "*")

    def setting(**changes: Any) -> Setting:
        usual = {"client_id": "alice", "client_secret": "alice-secret"}
        return Setting(
            library=library,
            colour=colour,
            resources=bench.resources,
            issuer=server.issuer,
            token_endpoint=server.token_endpoint,
            options={"verify": _TLS, "trust_env": False},
            **(usual | changes),
        )

    with ExitStack() as stack:
        portal = None
        if colour != "sync":
            pytest.importorskip(colour)
            portal = stack.enter_context(anyio.from_thread.start_blocking_portal(backend=colour))
        made = Candidate(factory, setting, portal)
        try:
            made.client()
        except UnsupportedError as why:
            pytest.skip(f"not supported: {why}")
        yield made
        made.close()


@pytest.fixture
def warm(candidate: Candidate, bench: Bench) -> Any:
    """
    A client that has shown a token of billing to billing: whoever cannot do that holds no claim.
    """
    clients = candidate.made[0]
    outcome = candidate.get(clients, bench.billing, f"{bench.billing}v1")
    assert outcome == 200, f"no token arrived where it belongs: {outcome!r}"
    bench.ledger.assert_no_leaks()
    return clients
