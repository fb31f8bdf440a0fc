"""
The refresh token grant, from the caller to the wire: one at a time, stored before it is used, never
presented blindly.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    OAuthError,
    RefreshToken,
    Resource,
    TokenCache,
    TokenRequestError,
)
from resource_tokens._io import SendError
from resource_tokens.oauth.token_endpoint import TokenRequest
from tests.conftest import Caller
from tests.servers.oidc_provider import OidcProvider
from tests.test_acquire import ENDPOINT, Bench
from tests.test_tokens import asked


def with_grant(grant: RefreshToken, resource: str = "urn:x:a") -> TokenRequest:
    return asked(server=ENDPOINT, grant=grant, resource=Resource(resource))


def presented(bench: Bench) -> list[str]:
    """
    The refresh tokens that were sent.
    """
    bodies = [dict(part.split("=") for part in r.body.decode().split("&")) for r in bench.io.sent]
    return [body["refresh_token"] for body in bodies]


def test_a_rotated_refresh_token_is_stored_before_anything_is_used() -> None:
    """
    R6749-17: the next request presents the new one, for another resource as well (R8707-8).
    """
    bench, stored = Bench(), list[str]()
    grant = RefreshToken("first", on_rotation=stored.append)
    bench.io.script = [{"refresh_token": "second"}, {"refresh_token": "third"}]

    bench.get(with_grant(grant))
    bench.get(with_grant(grant, "urn:x:b"))
    assert ["first", "second"] == presented(bench)
    assert ["second", "third"] == stored
    assert 2 == bench.names().count("refresh_token_rotated")


def test_a_request_whose_answer_was_lost_is_not_made_again() -> None:
    """
    Asking 2: neither in the same call nor in the next; one that never left is.
    """
    bench = Bench()
    grant = RefreshToken("first")
    bench.io.script = [SendError("refused", sent=False), SendError("reset", sent=True)]

    for _ in range(2):
        with pytest.raises(TokenRequestError):
            bench.get(with_grant(grant))
    assert ["first", "first"] == presented(bench)
    grant.retry()
    bench.get(with_grant(grant))
    assert ["first"] * 3 == presented(bench)


def test_an_interrupted_request_is_one_whose_answer_was_lost() -> None:
    """
    Asking 5: whoever presses Ctrl-C does not know what the server did.
    """
    bench = Bench()
    grant = RefreshToken("first")

    async def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    send, bench.io.send = bench.io.send, interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        bench.get(with_grant(grant))
    bench.io.send = send  # type: ignore[method-assign]
    with pytest.raises(TokenRequestError, match="lost"):
        bench.get(with_grant(grant))
    assert [] == bench.io.sent


def test_a_grant_that_has_ended_asks_no_more() -> None:
    """
    RFC 6749 5.2: `invalid_grant` is the end, for all resources.
    """
    bench = Bench()
    grant = RefreshToken("first")
    bench.io.script = [{"status": 400, "error": "invalid_grant"}]

    for resource in ("urn:x:a", "urn:x:b"):
        with pytest.raises(OAuthError) as caught:
            bench.get(with_grant(grant, resource))
        assert "invalid_grant" == caught.value.error
    assert 1 == len(bench.io.sent)


def test_a_token_that_is_refused_does_not_cost_the_refresh_token() -> None:
    """
    The answer is not believed, but the refresh token in it has replaced the old one.
    """
    bench, stored = Bench(), list[str]()
    grant = RefreshToken("first", on_rotation=stored.append)
    bench.io.script = [{"refresh_token": "second", "token_type": "mac"}]

    with pytest.raises(TokenRequestError, match="token_type"):
        bench.get(with_grant(grant))
    assert ["second"] == stored


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    client: Any = {
        "client_id": "portal",
        "client_secret": SECRET,
        "grant_types": ["refresh_token", "authorization_code"],
    }
    resources: Any = {name: {"scopes": ["read"]} for name in RESOURCES}
    with OidcProvider({"clients": [client], "resources": resources}) as running:
        yield running


def test_many_resources_share_one_refresh_token(caller: Caller, provider: OidcProvider) -> None:
    """
    R8707-8: all at the same time, against a server that replaces the refresh token each
    time and revokes the grant when one is presented twice.
    """
    first = provider.refresh_token("portal", dict.fromkeys(RESOURCES, "read"))
    stored: list[str] = []
    provider.clear()
    cache = TokenCache(
        AuthorizationServer(issuer=provider.issuer),
        ClientSecretBasic("portal", SECRET),
        grant=RefreshToken(first, on_rotation=stored.append),
    )

    tokens = caller.token_together(cache, [Resource(name, scopes="read") for name in RESOURCES])

    assert [] == [token for token in tokens if isinstance(token, Exception)]
    assert sorted(RESOURCES) == sorted(token.resource for token in tokens)
    ledger = provider.ledger()
    assert [200] * len(RESOURCES) == [entry["status"] for entry in ledger]
    assert [first, *stored[:-1]] == [entry["form"]["refresh_token"][0] for entry in ledger]
    assert len(RESOURCES) == len(set(stored))


def test_a_caller_that_gives_up_does_not_lose_the_refresh_token(provider: OidcProvider) -> None:
    """
    Rule 9: the request goes on when its caller is cancelled, and the next one has its outcome.
    """
    first = provider.refresh_token("portal", dict.fromkeys(RESOURCES, "read"))
    rotated = threading.Event()
    cache = TokenCache(
        AuthorizationServer(issuer=provider.issuer),
        ClientSecretBasic("portal", SECRET),
        grant=RefreshToken(first, on_rotation=lambda _: rotated.set()),
    )

    async def give_up() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(cache.aget, RESOURCES[0])
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    provider.clear()
    anyio.run(give_up)
    assert rotated.wait(20)

    assert RESOURCES[0] == cache.get(RESOURCES[0]).resource
    assert RESOURCES[1] == cache.get(RESOURCES[1]).resource
    assert {200} == {entry["status"] for entry in provider.ledger()}


SECRET = "a secret of forty-two characters, or so"
RESOURCES = [f"https://r{number}.example.com/" for number in range(6)]
