"""
A refresh token that many processes present, against a server that replaces it each time and revokes
the whole grant when one is presented twice.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    OAuthError,
    SharedRefreshToken,
    TokenCache,
    TokenRequestError,
)
from resource_tokens.stores import MemoryTokenStore, StoredGrant
from resource_tokens.tokens import Secret
from tests.servers.oidc_provider import OidcProvider
from tests.servers.valkey import ValkeyServer
from tests.test_files import Away, child, line_of, tell
from tests.test_refresh_tokens import RESOURCES, SECRET
from tests.test_store_contract import KEY, backing_of

RESOURCE = RESOURCES[0]


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(params=["file", "redis"])
def outside(request: pytest.FixtureRequest) -> Any:
    """
    What a store keeps its refresh tokens in.
    """
    return backing_of(request.param, request)


def shared(outside: Any, first: str = "first", **options: Any) -> SharedRefreshToken:
    return SharedRefreshToken(first, outside.store(), **options)


def presented(grant: SharedRefreshToken) -> tuple[Secret, ...]:
    """
    Begin a request; what it carries.
    """
    grant.begin("urn:x:a")
    (sent,) = (value for _, value in grant.parameters() if isinstance(value, Secret))
    return (sent,)


def rotate(grant: SharedRefreshToken, new: str) -> str:
    """
    One whole request; what it presented.
    """
    sent = presented(grant)
    try:
        grant.accept(Secret(new), sent, "urn:x:a")
    finally:
        grant.end()
    return sent[0].reveal()


LOST = TokenRequestError("The answer was lost.", "urn:x:a")


# By itself.


def test_each_goes_on_with_what_the_one_before_has_left(outside: Any) -> None:
    """
    Rule 2: whoever it was, and whoever starts later.
    """
    one, two = shared(outside), shared(outside)

    sent = [rotate(one, "second"), rotate(two, "third"), rotate(one, "fourth")]
    sent.append(rotate(shared(outside), "fifth"))
    assert ["first", "second", "third", "fourth"] == sent
    assert "another" == rotate(shared(outside, "another"), "second")


def test_one_presents_it_at_a_time(outside: Any) -> None:
    """
    Rule 1: the other waits until it is over, in another process or in another thread of this one.
    """
    one, two = shared(outside), shared(outside)
    sent = presented(one)
    seen: list[str] = []
    waiting = [threading.Thread(target=lambda g=g: seen.append(rotate(g, "x"))) for g in (two, one)]
    for thread in waiting:
        thread.start()
    waiting[0].join(0.2)
    assert [] == seen

    one.accept(Secret("second"), sent, "urn:x:a")
    one.end()
    for thread in waiting:
        thread.join(20)
    assert ["second", "x"] == seen


def test_whoever_waits_for_too_long_presents_nothing(
    outside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Rule 1: and says so.
    """
    monkeypatch.setattr("resource_tokens.refresh_tokens._PATIENCE", 0.03)
    presented(shared(outside))

    with pytest.raises(TokenRequestError, match="other processes were presenting"):
        shared(outside).begin("urn:x:a")


def test_a_request_that_never_left_costs_nothing(outside: Any) -> None:
    """
    Rule 3: neither accepted nor failed, it was not sent. A second try of it is the same request.
    """
    one, two = shared(outside), shared(outside)
    presented(one)
    presented(one)
    one.end()
    one.end()

    assert "first" == rotate(two, "second")


def test_whoever_outlives_its_lease_lets_nobody_present_it_twice(outside: Any) -> None:
    """
    Rule 3: the others learn that it is in doubt, and go on as soon as the answer is there.
    """
    slow, quick = shared(outside), shared(outside)
    sent = presented(slow)
    outside.pass_time(31)
    with pytest.raises(TokenRequestError, match=r"was lost.*retry\(\)"):
        quick.begin("urn:x:a")
    quick.end()

    assert slow.accept(Secret("second"), sent, "urn:x:a")
    slow.end()
    assert "second" == rotate(quick, "third")


def test_a_lost_answer_is_lost_for_all_until_one_tries_again(outside: Any) -> None:
    """
    Rule 3: `retry` is for all.
    """
    one, two = shared(outside), shared(outside)
    one.fail(LOST, presented(one))
    one.end()
    for grant in (one, two):
        with pytest.raises(TokenRequestError, match="was lost"):
            grant.begin("urn:x:a")
        grant.end()

    two.retry()
    assert "first" == rotate(two, "second")
    assert "second" == rotate(one, "third")


def test_whoever_has_lost_an_answer_can_try_again(outside: Any) -> None:
    """
    The same process.
    """
    one = shared(outside)
    one.fail(LOST, presented(one))
    one.end()
    one.retry()

    assert "first" == rotate(one, "second")


def test_a_refusal_ends_it_for_all(outside: Any) -> None:
    """
    `invalid_grant` is said to each, in the server's own words, and nobody asks again.
    """
    one, two = shared(outside), shared(outside)
    refused = OAuthError("No.", "urn:x:a", 400, "invalid_grant", "The user has left", "https://x")
    one.fail(refused, presented(one))
    one.end()

    with pytest.raises(OAuthError, match="The user has left") as caught:
        two.begin("urn:x:b")
    assert ("invalid_grant", "urn:x:b") == (caught.value.error, caught.value.resource)
    assert "https://x" == caught.value.error_uri


def test_another_refusal_does_not_cost_it(outside: Any) -> None:
    """
    The server has answered, so nothing is in doubt.
    """
    one, two = shared(outside), shared(outside)
    one.fail(OAuthError("No.", "urn:x:a", 400, "invalid_target"), presented(one))
    one.end()

    assert "first" == rotate(two, "second")


def test_a_server_that_keeps_it_is_written_to_once(outside: Any) -> None:
    """
    From then on nothing is in doubt that was presented, and a lost answer is no loss.
    """
    one, two = shared(outside), shared(outside)
    sent = presented(one)
    one.accept(None, sent, "urn:x:a")
    one.end()
    before = outside.content()
    two.fail(LOST, presented(two))
    two.end()

    assert "first" == rotate(one, "second")
    assert before != outside.content()


@pytest.mark.parametrize("method", ["lease", "load_grant", "swap_grant"])
def test_without_the_store_nothing_is_presented(outside: Any, method: str) -> None:
    """
    Rule 4: nobody knows who else presents it. What the store says is not passed on.
    """
    store = Away(outside.store())
    grant = SharedRefreshToken("first", store)
    store.away = {method}
    with pytest.raises(TokenRequestError, match="Nothing was sent") as caught:
        presented(grant)
    grant.end()
    assert "password" not in repr(caught.value)
    assert caught.value.__context__ is None

    store.away = set()
    assert "first" == rotate(grant, "second")
    assert "second" == rotate(shared(outside), "third")


def test_an_answer_of_the_store_that_was_lost_is_no_loss(outside: Any) -> None:
    """
    Rule 4: it is looked for. redis-py sends a command again after a broken connection, and the
    second one finds that nothing is as before.
    """
    store = Away(outside.store())
    grant = SharedRefreshToken("first", store)
    store.breaks = {"swap_grant"}

    assert ["first", "second"] == [rotate(grant, "second"), rotate(grant, "third")]
    assert "third" == rotate(shared(outside), "fourth")


def test_a_word_of_our_own_is_recognised_later(outside: Any) -> None:
    """
    Rule 3: the store broke off and was away then. That is in doubt for the others, and not for
    whoever has not sent anything.
    """
    store = Away(outside.store())
    one, two = SharedRefreshToken("first", store), shared(outside)
    rotate(one, "second")
    # There when it begins, and away when the answer is looked for.
    store.breaks, store.away_after = {"swap_grant"}, {"load_grant": iter([True, False])}
    with pytest.raises(TokenRequestError, match="Nothing was sent"):
        presented(one)
    one.end()
    with pytest.raises(TokenRequestError, match="was lost"):
        two.begin("urn:x:a")
    two.end()

    store.breaks, store.away_after = set(), {}
    assert ["second", "third"] == [rotate(one, "third"), rotate(two, "fourth")]


def test_another_thread_that_is_at_it_is_another_process(outside: Any) -> None:
    """
    Rule 3: one object, two threads, and a lease that has ended in between.
    """
    grant = shared(outside)
    sent = presented(grant)
    outside.pass_time(31)
    caught: list[Exception] = []

    def begin() -> None:
        try:
            grant.begin("urn:x:a")
        except TokenRequestError as error:
            caught.append(error)
        finally:
            grant.end()

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join(20)
    assert "was lost" in str(caught[0])

    grant.accept(Secret("second"), sent, "urn:x:a")
    grant.end()
    assert "second" == rotate(shared(outside), "third")


def test_with_a_server_that_allows_reuse_the_store_may_be_away(outside: Any) -> None:
    """
    Rule 4: only a new one that cannot be stored is an error.
    """
    store = Away(outside.store())
    grant = SharedRefreshToken("first", store, reusable=True)
    store.away = {"lease", "load_grant", "swap_grant"}
    sent = presented(grant)
    assert not grant.accept(None, sent, "urn:x:a")
    grant.end()

    with pytest.raises(TokenRequestError, match="could not be stored"):
        rotate(grant, "second")
    store.away = set()
    assert "second" == rotate(grant, "third")


def test_what_could_not_be_stored_is_stored_before_the_next_request(outside: Any) -> None:
    """
    Rule 2: until then the others know that the one they have is in doubt.
    """
    store = Away(outside.store())
    one, two = SharedRefreshToken("first", store), shared(outside)
    sent = presented(one)
    store.away = {"swap_grant"}
    with pytest.raises(TokenRequestError, match="kept in memory"):
        one.accept(Secret("second"), sent, "urn:x:a")
    one.end()
    with pytest.raises(TokenRequestError, match="was lost"):
        two.begin("urn:x:a")
    two.end()

    store.away = set()
    assert "second" == rotate(one, "third")
    assert "third" == rotate(two, "fourth")


def test_what_others_have_done_meanwhile_counts(outside: Any) -> None:
    """
    Rule 4: somebody has tried again while the answer of the first was on its way.
    """
    slow, other = shared(outside), shared(outside)
    sent = presented(slow)
    outside.pass_time(31)
    other.retry()
    rotate(other, "of the other")

    with pytest.raises(TokenRequestError, match="could not be stored"):
        slow.accept(Secret("second"), sent, "urn:x:a")
    slow.end()
    assert "of the other" == rotate(slow, "third")


def test_a_store_that_was_emptied_gets_it_back_from_whoever_knows(outside: Any) -> None:
    """
    A process that has presented it before goes on with what it knows.
    """
    one = shared(outside)
    rotate(one, "second")
    emptied = backing_like(outside)
    one._shared = emptied.store()

    assert "second" == rotate(one, "third")
    assert "third" == rotate(shared(emptied), "fourth")


def backing_like(outside: Any) -> Any:
    """
    Another one of the same kind, with nothing in it.
    """
    if hasattr(outside, "file"):
        return type(outside)(outside.file.parent / "another")
    return type(outside)(outside._server)


def test_a_forked_child_has_no_lease_of_its_parent(outside: Any) -> None:
    """
    Rule 1: it waits like everybody else.
    """
    grant = shared(outside)
    presented(grant)
    holder = grant._holder
    assert holder is not None
    grant._holder = (holder[0] - 1, holder[1])
    grant.end()

    outside.pass_time(31)
    with pytest.raises(TokenRequestError, match="was lost"):
        shared(outside).begin("urn:x:a")


@pytest.mark.parametrize("store", [None, MemoryTokenStore(), "redis://localhost"])
def test_what_keeps_no_refresh_tokens_is_refused(store: Any) -> None:
    """
    At construction.
    """
    with pytest.raises(ConfigurationError, match="RedisTokenStore or a FileTokenStore"):
        SharedRefreshToken("first", store)


def test_what_is_stored_does_not_print_itself() -> None:
    """
    P9.
    """
    assert "first" not in repr(StoredGrant(Secret("first")))


# Many processes.


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    client: Any = {
        "client_id": "portal",
        "client_secret": SECRET,
        "grant_types": ["refresh_token", "authorization_code"],
    }
    resources: Any = {name: {"scopes": ["read"], "format": "opaque"} for name in RESOURCES}
    with OidcProvider({"clients": [client], "resources": resources}) as running:
        yield running


WORKER = """
import json, os, signal, sys
import httpx
from resource_tokens import (
    AuthorizationServer, ClientSecretBasic, Resource, ResourceTokensError, SharedRefreshToken,
    TokenCache,
)
where, key, issuer, secret, first, killed = sys.argv[1:]
if where.startswith("redis:"):
    from resource_tokens.redis import RedisTokenStore
    store = RedisTokenStore(where, keys=[key])
else:
    from resource_tokens.files import FileTokenStore
    store = FileTokenStore(where, keys=[key])

class Dying(httpx.HTTPTransport):
    def handle_request(self, request):
        form = request.method == "POST"
        if form and killed == "before it asks":
            os.kill(os.getpid(), signal.SIGKILL)
        response = super().handle_request(request)
        if form and killed == "before it saves":
            os.kill(os.getpid(), signal.SIGKILL)
        return response

server = AuthorizationServer(issuer=issuer, transport=Dying() if killed else None)
cache = TokenCache(
    server, ClientSecretBasic("portal", secret), grant=SharedRefreshToken(first, store)
)
print("ready", flush=True)
for line in sys.stdin:
    got = []
    for name in json.loads(line):
        try:
            got.append(cache.get(Resource(name, scopes="read")).reveal())
        except ResourceTokensError as error:
            got.append(repr(error))
    print(json.dumps(got), flush=True)
"""


def where(outside: Any) -> str:
    if hasattr(outside, "file"):
        return str(outside.file.parent)
    return str(outside._server.url)


def cache_of(provider: OidcProvider, grant: SharedRefreshToken) -> TokenCache:
    return TokenCache(
        AuthorizationServer(issuer=provider.issuer),
        ClientSecretBasic("portal", SECRET),
        grant=grant,
    )


def test_many_processes_present_each_refresh_token_once(
    outside: Any, provider: OidcProvider
) -> None:
    """
    Rules 1 and 2: all of them at once, for several resources each. A single one that was presented
    twice would cost every token.
    """
    first = provider.refresh_token("portal", dict.fromkeys(RESOURCES, "read"))
    provider.clear()
    arguments = (where(outside), KEY, provider.issuer, SECRET, first, "")
    with ExitStack() as stack:
        workers = [stack.enter_context(child(WORKER, *arguments)) for _ in range(4)]
        assert ["ready"] * 4 == [line_of(worker) for worker in workers]
        for worker in workers:
            tell(worker, json.dumps(RESOURCES[:3]))
        tokens = [token for worker in workers for token in json.loads(line_of(worker))]

    ledger = provider.ledger()
    sent = [entry["form"]["refresh_token"][0] for entry in ledger]
    assert [200] * 12 == [entry["status"] for entry in ledger]
    assert (first, 12) == (sent[0], len(set(sent)))
    assert all(provider.introspected(token, "portal", SECRET)["active"] for token in tokens)


@pytest.mark.parametrize("killed", ["before it asks", "before it saves"])
def test_a_process_that_is_killed_says_so_to_all(
    outside: Any, provider: OidcProvider, killed: str
) -> None:
    """
    Rule 3: nobody presents the refresh token that the dead one may have spent, until one is told
    to. If it was spent, the server notices reuse: that is what a crash between answer and save
    costs, and all know.
    """
    first = provider.refresh_token("portal", dict.fromkeys(RESOURCES, "read"))
    provider.clear()
    with child(WORKER, where(outside), KEY, provider.issuer, SECRET, first, killed) as worker:
        assert "ready" == line_of(worker)
        tell(worker, json.dumps([RESOURCE]))
        assert -signal.SIGKILL == worker.wait(20)
    outside.pass_time(31)
    one, two = (cache_of(provider, shared(outside, first)) for _ in range(2))
    for cache in (one, two):
        with pytest.raises(TokenRequestError, match="was lost"):
            cache.get(RESOURCE, ["read"])
    spent = killed == "before it saves"
    assert int(spent) == len(provider.ledger())

    grant = one._grant
    assert isinstance(grant, SharedRefreshToken)
    grant.retry()
    for cache in (one, two):
        if spent:
            with pytest.raises(OAuthError, match="invalid_grant"):
                cache.get(RESOURCE, ["read"])
        else:
            assert RESOURCE == cache.get(RESOURCE, ["read"]).resource
    assert 2 == len(provider.ledger())
