"""
One user's tokens are forgotten, and nobody else's: here, and wherever the store is shared.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.virtual import REQUEST, RESOURCE, Fate, Worker, World
from resource_tokens import (
    AccessToken,
    AuthorizationServer,
    ConfigurationError,
    OAuthError,
    Resource,
    ResourceTokensError,
    SubjectToken,
    TokenExchange,
)
from resource_tokens import _sealing as sealing
from resource_tokens._io import BlockingIO
from resource_tokens.inbound import InboundToken
from resource_tokens.oauth import token_endpoint
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.stores import Loaded
from resource_tokens.testing import LocalAuthorizationServer
from resource_tokens.tokens import CachedToken, Secret
from tests import conftest
from tests.conftest import BILLING, CLIENT_SECRET, ORDERS, Caller, Clock
from tests.servers.valkey import ValkeyServer
from tests.test_files import child, line_of, tell
from tests.test_sharing import alone, fails_in
from tests.test_store_contract import KEY, backing_of, run_refreshes
from tests.test_subjects import API, ISSUER, JAG, PARTNER_API, Bench, Chain

OTHER_API = "https://other.test/"
ALICE, BOB, NEW_ALICE = (
    SubjectToken(token, issuer=ISSUER, subject=name)
    for token, name in (("alice-1", "alice"), ("bob-1", "bob"), ("alice-2", "alice"))
)


def bench_of_two() -> Bench:
    return Bench(resources={url: Resource(url) for url in (API, OTHER_API)})


def tokens(bench: Bench) -> dict[tuple[str, str], str]:
    """
    What Alice and Bob have at the two APIs.
    """
    whose = {"alice": ALICE, "bob": BOB}
    return {
        (name, url): bench.get(subject, url)
        for name, subject in whose.items()
        for url in (API, OTHER_API)
    }


def changed(bench: Bench, before: dict[Any, str]) -> set[Any]:
    after = tokens(bench)
    return {key for key in before if before[key] != after[key]}


# In one process.


def test_a_subject_is_forgotten_by_any_of_its_tokens() -> None:
    """
    Whatever the API; other users and this service itself keep theirs.
    """
    bench = bench_of_two()
    before, own = tokens(bench), bench.auth.token_for(API)

    assert 2 == bench.auth.cache.forget(subject=NEW_ALICE)
    assert {("alice", API), ("alice", OTHER_API)} == changed(bench, before)
    assert own.same_as(bench.auth.token_for(API))
    # Of a resource.
    before = tokens(bench)
    assert 1 == bench.auth.cache.forget(API, subject=ALICE)
    assert {("alice", API)} == changed(bench, before)
    assert 0 == bench.auth.cache.forget("urn:x:another", subject=ALICE)
    assert 5 == bench.auth.cache.forget()


def test_a_view_forgets_its_own_subject(caller: Caller) -> None:
    """
    Of all resources, or of one; nobody else's, and another one if it is told so.
    """
    bench = bench_of_two()
    before, view = tokens(bench), bench.auth.on_behalf_of(ALICE).cache
    forget = view.forget if caller.blocking else view.aforget

    assert 1 == caller.call(forget, Resource(API))
    assert {("alice", API)} == changed(bench, before)
    assert 2 == caller.call(forget)
    assert 2 == caller.call(forget, subject=BOB)
    before = tokens(bench)
    # A block is about requests: what is said of a cache is said of all that it has.
    with bench.auth.on_behalf_of(ALICE):
        assert 4 == bench.auth.cache.forget()
    assert set(before) == changed(bench, before)


def test_a_subject_that_nobody_knows_is_known_by_its_token() -> None:
    """
    However it is exchanged, and whoever acts: without `issuer` and `subject` it is exactly this
    token.
    """
    actors = iter(["actor-1", "actor-2"])
    exchanges = [
        TokenExchange(),
        TokenExchange(
            subject_token_type="jwt", actor_token=lambda: next(actors), actor_token_type="jwt"
        ),
    ]
    bench = Bench(
        resources={
            url: Resource(url, exchange=exchange)
            for url, exchange in zip((API, OTHER_API), exchanges, strict=True)
        }
    )
    opaque, other = SubjectToken("opaque"), SubjectToken("opaque-2", issuer=ISSUER)
    first = [bench.get(subject, API) for subject in (opaque, other)]

    assert 0 == bench.auth.cache.forget(subject=SubjectToken("opaque-3"))
    assert 1 == bench.auth.cache.forget(subject=SubjectToken("opaque", issuer=ISSUER))
    assert first[0] != bench.get(opaque, API)
    assert first[1] == bench.get(other, API)


def test_an_inbound_token_is_taken_as_it_is() -> None:
    """
    Also one that has expired: the user has logged out.
    """
    bench = bench_of_two()
    before = tokens(bench)
    ended = datetime.fromtimestamp(bench.wall - 1, UTC)
    inbound = InboundToken(
        Secret("alice-3"), ISSUER, "alice", None, ("me",), frozenset(), ended, {}
    )

    assert 2 == bench.auth.cache.forget(subject=inbound)
    assert {("alice", API), ("alice", OTHER_API)} == changed(bench, before)


def test_the_assertion_of_a_chain_is_forgotten_too() -> None:
    """
    What one server said of the user to the next.
    """
    chain = Chain()
    alice, bob = chain.user("alice", 3600), chain.user("bob", 3600)
    for subject in (alice, bob):
        chain.answer(JAG)
        chain.get(subject, PARTNER_API)
    assert 2 == chain.auth.cache.forget(subject=alice)
    sent = len(chain.sent)

    chain.get(bob, PARTNER_API)
    assert sent == len(chain.sent)
    chain.answer(JAG)
    chain.get(alice, PARTNER_API)
    assert sent + 2 == len(chain.sent)


def test_a_refusal_of_a_subject_is_forgotten() -> None:
    """
    Once the server is put right, nobody has to wait for the memory of a refusal to fade.
    """
    bench = bench_of_two()
    for subject in (ALICE, BOB):
        bench.answers = [{"error": "invalid_grant"}]
        with pytest.raises(OAuthError):
            bench.get(subject)
    bench.auth.cache.forget(subject=ALICE)

    bench.get(ALICE)
    with pytest.raises(OAuthError):
        bench.get(BOB)
    bench.auth.cache.forget(API, subject=BOB)
    bench.get(BOB)


def test_what_is_under_way_is_not_kept() -> None:
    """
    Rule 8: a token that arrives after `forget` is for those who asked before it, and what other
    users have asked for is kept.
    """
    for forgotten, asked in ((ALICE, 2), (BOB, 1)):
        bench = bench_of_two()

        class Meanwhile(dict[str, Any]):
            def __ror__(self, other: Any) -> Any:
                bench.auth.cache.forget(subject=forgotten)  # noqa: B023 - called in this round
                return other

        bench.answers = [Meanwhile(x=1)]
        bench.get(ALICE)
        bench.get(ALICE)
        assert asked == len(bench.sent)


def test_a_forgotten_subject_token_is_let_go_of() -> None:
    """
    Rule 5 of subjects: it is kept for a few minutes, and then not even that long.
    """
    bench = bench_of_two()
    tokens(bench)
    bench.auth.cache.forget(subject=ALICE)

    assert 2 == len(bench.auth.cache.subjects._built)


TOKEN = AccessToken(Secret("own-token"), API, "Bearer", frozenset(), datetime.now(UTC))


@pytest.mark.parametrize(
    ("given", "said"), [("a-users-token", "a string"), (TOKEN, "an AccessToken"), (5, "a int")]
)
def test_what_is_no_subject_is_refused(caller: Caller, given: Any, said: str) -> None:
    """
    P9: by its kind; it can be a token, and is shown nowhere.
    """
    cache = bench_of_two().auth.cache
    with pytest.raises(ConfigurationError, match=r"^forget\(subject=\.\.\.\) ") as caught:
        caller.call(cache.forget if caller.blocking else cache.aforget, subject=given)

    assert said in str(caught.value)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(shown.format())
    library = [line for line in text.split("File ") if "resource_tokens/" in line]
    assert not [part for part in library if "a-users-token" in part and "tests/" not in part]


def test_the_journal_outlives_every_token() -> None:
    """
    Or else a token would be used again.
    """
    assert sealing.FORGOTTEN_KEPT > token_endpoint._MAX_LIFETIME


# Processes that share a store, in virtual time.


def request_of(subject: SubjectToken, resource: Resource = RESOURCE) -> TokenRequest:
    server = AuthorizationServer(issuer=ISSUER, token_endpoint=f"{ISSUER}/token")
    grant = TokenExchange().on_behalf_of(subject)
    return replace(REQUEST, server=server, grant=grant, resource=resource)


OF_ALICE, OF_BOB = request_of(ALICE), request_of(BOB)
AT_ANOTHER = request_of(ALICE, Resource("urn:x:another"))


@pytest.fixture
def fleet() -> World:
    return World()


def got(world: World, worker: Worker, request: TokenRequest = OF_ALICE) -> str:
    found: CachedToken = alone(world, lambda: worker.get(request))
    return found.token.reveal()


def forget(world: World, worker: Worker, resource: str | None = None) -> int:
    forgetting = worker.acquirer.forget(resource, worker.io, ALICE.digest())
    dropped: int = alone(world, lambda: worker.run(forgetting))
    return dropped


def test_it_reaches_everybody_within_five_seconds(fleet: World) -> None:
    """
    Rule 4: in the background where requests come, and before a token is presented where none did;
    one exchange for all, and none for other users.
    """
    one, two, idle = (fleet.worker() for _ in range(3))
    for worker in (one, two, idle):
        assert ["token-1", "token-2"] == [got(fleet, worker, r) for r in (OF_ALICE, OF_BOB)]
    for second in range(1, 20):
        for worker in (one, two):
            fleet.time.start(lambda worker=worker: worker.get(OF_BOB), float(second))  # type: ignore[misc]
    fleet.time.run(6.5)
    forgetting = one.acquirer.forget(None, BlockingIO(), ALICE.digest())
    assert 1 == one.run(forgetting)

    seen: list[tuple[float, str]] = []
    for tenth in range(66, 200):
        fleet.time.start(
            lambda: seen.append((fleet.time.now, two.get(OF_ALICE).token.reveal())), tenth / 10
        )
    fleet.time.start(lambda: seen.append((fleet.time.now, idle.get(OF_ALICE).token.reveal())), 30.0)
    fleet.time.run()
    assert 6.5 + 5.2 >= max(when for when, token in seen if token == "token-1")
    assert "token-3" == seen[-1][1] == got(fleet, one)
    assert 3 == len(fleet.issued)
    assert ["token-2"] * 3 == [got(fleet, worker, OF_BOB) for worker in (one, two, idle)]


def test_whoever_forgot_asks_once(fleet: World) -> None:
    """
    Rule 4: what is read in the journal later was known, and drops nothing again.
    """
    one, two = fleet.worker(), fleet.worker()
    assert got(fleet, one) == got(fleet, two)
    assert 1 == forget(fleet, one)
    assert "token-2" == got(fleet, one)
    fleet.store.steps.clear()
    assert "token-2" == got(fleet, one)
    assert 0 == fleet.store.steps["load"]
    fleet.time.run(6)
    got(fleet, two)
    assert ["token-2"] * 2 == [got(fleet, worker) for worker in (one, two)]
    fleet.store.steps.clear()
    for _ in range(4):
        fleet.time.run(fleet.time.now + 6)
        assert ["token-2"] * 2 == [got(fleet, worker) for worker in (one, two)]
    assert 2 == len(fleet.issued)
    assert 0 == fleet.store.steps["load"]


def test_what_comes_while_the_others_are_told_is_not_kept(fleet: World) -> None:
    """
    Rule 4: the store has the token until it is told, and what is read of that later was known.
    """
    worker = fleet.worker()
    got(fleet, worker)
    fates = [Fate(takes=2.0)]
    fleet.fate = lambda _: fates.pop() if fates else Fate()
    forgetting = worker.acquirer.forget(None, worker.io, ALICE.digest())
    fleet.time.start(lambda: worker.run(forgetting))
    begun, early = fleet.time.now, list[str]()
    fleet.time.start(lambda: early.append(worker.get(OF_ALICE).token.reveal()), begun + 0.1)
    fleet.time.run()

    assert ["token-1"] == early
    assert "token-2" == got(fleet, worker)


def test_of_one_resource(fleet: World) -> None:
    """
    Others of the same user are kept.
    """
    one, two = fleet.worker(), fleet.worker()
    for worker in (one, two):
        assert ["token-1", "token-2"] == [got(fleet, worker, r) for r in (OF_ALICE, AT_ANOTHER)]
    forget(fleet, one, RESOURCE.identifier)
    fleet.time.run(30)

    for worker in (one, two):
        assert ["token-3", "token-2"] == [got(fleet, worker, r) for r in (OF_ALICE, AT_ANOTHER)]


def test_what_was_asked_for_before_is_used_by_nobody_after(fleet: World) -> None:
    """
    Rules 4 and 8: the leader has begun before, and saves after it; it does not keep the token
    either, although it looked into the journal before the token came.
    """
    leader, other = fleet.worker(), fleet.worker()
    got(fleet, leader, OF_BOB)
    fleet.time.run(4.9)
    fleet.answer_after = 9.0
    flying: list[str] = []
    fleet.time.start(lambda: flying.append(leader.get(OF_ALICE).token.reveal()))
    fleet.time.at(5.0, lambda: fleet.store.forget(None, ALICE.digest()))
    # A look of the leader, while its request is under way.
    fleet.time.start(lambda: leader.get(OF_BOB), 6.0)
    fleet.time.run()
    fleet.answer_after = 0.2

    assert ["token-2"] == flying
    assert 0 == len([1 for cached in leader.memory.tokens() if cached.subject == ALICE.digest()])
    assert ["token-3"] * 2 == [got(fleet, worker) for worker in (other, leader)]


def test_a_look_into_the_store_tells_before_the_journal_is_read(fleet: World) -> None:
    """
    Rule 4: whoever looks for one token of the user finds that the other one is over.
    """
    one, two = fleet.worker(), fleet.worker()
    before = got(fleet, one)
    fleet.time.run(1)
    forget(fleet, two)
    one.acquirer._forced.clear()
    rejected = one.memory.tokens()[0].token

    renewed = alone(fleet, lambda: one.run(one.acquirer.renew(OF_ALICE, rejected, one.io)))
    assert before != renewed.token.reveal()
    assert got(fleet, one) == got(fleet, two)
    # It was asked for after that; nobody drops it again.
    fleet.store.steps.clear()
    fleet.time.run(20)
    assert got(fleet, one) == got(fleet, two)
    assert 2 == len(fleet.issued)
    assert 0 == fleet.store.steps["load"]


def test_a_process_reads_on_from_where_it_began(fleet: World) -> None:
    """
    Rule 4: what was forgotten before it had a token of anybody costs it no token.
    """
    fleet.store.forget(None, ALICE.digest())
    got(fleet, fleet.worker())
    worker = fleet.worker()
    fleet.store.steps.clear()
    for _ in range(3):
        assert "token-1" == got(fleet, worker)
        fleet.time.run(fleet.time.now + 6)

    assert 1 == len(fleet.issued)
    assert 1 == fleet.store.steps["load"]


@pytest.mark.parametrize("looked", [False, True])
def test_an_answer_that_comes_late_is_from_before(fleet: World, looked: bool) -> None:
    """
    Rule 4: it was given before the user was forgotten, and arrives after the journal was read.
    """
    other, worker = fleet.worker(), fleet.worker()
    assert "token-1" == got(fleet, other)
    load, sharing = fleet.store.load, worker.acquirer._sharing
    assert sharing is not None

    def slow(*what: Any) -> Loaded:
        answer = load(*what)
        fleet.store.load = load  # type: ignore[method-assign]
        fleet.store.forget(None, ALICE.digest())
        sharing.load(OF_BOB)
        if looked:
            worker.run(sharing.look(OF_BOB, BlockingIO()))
        return answer

    fleet.store.load = slow  # type: ignore[method-assign,assignment]
    assert "token-1" == got(fleet, worker)
    fleet.time.run(20)

    assert "token-2" == got(fleet, worker)


def test_a_process_that_has_asked_without_the_store_reads_all_of_it(fleet: World) -> None:
    """
    Rule 4: nobody knows who was forgotten before.
    """
    worker = fleet.worker(draw=0.0)
    fleet.fate = lambda _: Fate(raises=ConnectionError(), done=False)
    got(fleet, worker)
    fleet.store.forget(None, ALICE.digest())
    fleet.fate = lambda _: Fate()
    fleet.time.run(20)
    got(fleet, worker, OF_BOB)
    fleet.time.run(fleet.time.now + 6)
    got(fleet, worker, OF_BOB)
    fleet.time.run()

    assert "token-3" == got(fleet, worker)


def test_a_journal_that_begins_anew_is_read_from_its_beginning(fleet: World) -> None:
    """
    Rule 4: the store was emptied, or another one has taken over that knows less.
    """
    worker = fleet.worker()
    for _ in range(3):
        fleet.store.forget(None, b"somebody")
    got(fleet, worker)
    fleet.store.flush()
    fleet.store.forget(None, ALICE.digest())
    fleet.time.run(20)
    assert "token-2" == got(fleet, worker)

    fleet.store.forget(None, ALICE.digest())
    fleet.time.run(40)
    assert "token-3" == got(fleet, worker)


def test_looks_do_not_become_more_with_users(fleet: World) -> None:
    """
    One every five seconds, which reads what is new; without tokens of users there is no journal
    to read.
    """
    steps = []
    for users in (0, 1, 200):
        worker = fleet.worker()
        for number in range(users):
            got(fleet, worker, request_of(SubjectToken(f"user-{number}")))
        got(fleet, worker, REQUEST)
        fleet.store.steps.clear()
        for _ in range(5):
            fleet.time.run(fleet.time.now + 6)
            got(fleet, worker, REQUEST)
        steps.append(dict(fleet.store.steps))

    assert [{"news": 5}, {"news": 5, "journal": 5}, {"news": 5, "journal": 5}] == steps


def test_others_who_cannot_be_told_are_an_error(fleet: World) -> None:
    """
    Whoever forgets has to know; here the token is gone all the same.
    """
    worker = fleet.worker()
    got(fleet, worker)
    fails_in("forget", ConnectionError("redis://user:password@host"), fleet)

    with pytest.raises(ResourceTokensError, match="'all resources' on behalf of one subject"):
        forget(fleet, worker)
    assert 0 == len(worker.memory)


def test_nothing_is_left_of_who_was_on_the_way(fleet: World) -> None:
    """
    P10: without waiting for the collector of garbage.
    """
    worker = fleet.worker()
    gc.disable()
    try:
        for number in range(20):
            got(fleet, worker, request_of(SubjectToken(f"user-{number}")))
        assert worker.acquirer._sharing is not None
        assert 0 == len(worker.acquirer._sharing._visits)
    finally:
        gc.enable()


# Real stores.


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(params=["file", "redis"])
def outside(request: pytest.FixtureRequest) -> Any:
    return backing_of(request.param, request)


def test_forget_of_a_user_reaches_the_others(
    caller: Caller, world: conftest.World, outside: Any, clock: Clock
) -> None:
    """
    In the background after five seconds; at once where nothing was looked at for longer.
    """
    one, two, idle = (world.auth(store=outside.store(), clock=clock) for _ in range(3))
    issuer = world.server.issuer
    alice, bob = (
        SubjectToken(world.server.user_token(name, audience="me"), issuer=issuer, subject=name)
        for name in ("alice", "bob")
    )

    def token_of(auth: Any, subject: SubjectToken) -> str:
        return str(caller.token_for(auth.on_behalf_of(subject), world.orders.url).reveal())

    for auth in (one, two, idle):
        run_refreshes(auth)
        first = [token_of(auth, subject) for subject in (alice, bob)]
    cache = one.cache
    caller.call(cache.forget if caller.blocking else cache.aforget, subject=alice)

    clock.advance(5)
    token_of(two, bob)
    assert first[0] != token_of(two, alice)
    clock.advance(5)
    assert token_of(two, alice) == token_of(idle, alice) == token_of(one, alice)
    assert [first[1]] * 3 == [token_of(auth, bob) for auth in (one, two, idle)]
    assert 3 == len(world.server.token_requests)


# A line for each command: what to do, for whom ("-" is the service itself), and with what.
WORKER = """
import sys, time
from resource_tokens import AuthorizationServer, ClientSecretBasic, SubjectToken, TokenCache

class Skipping:
    ahead = 0.0
    def __call__(self):
        return time.monotonic() + self.ahead

clock = Skipping()
server, secret, place, key = sys.argv[1:]
if place.startswith("redis:"):
    from resource_tokens.redis import RedisTokenStore
    store = RedisTokenStore(place, keys=[key])
else:
    from resource_tokens.files import FileTokenStore
    store = FileTokenStore(place, keys=key)
cache = TokenCache(
    AuthorizationServer(issuer=server),
    ClientSecretBasic("orders-worker", secret),
    store=store,
    clock=clock,
)
for line in sys.stdin:
    command, name, argument = line.strip().split(" ")
    if command == "wait":
        clock.ahead += float(argument)
        print(flush=True)
        continue
    token, _, resource = argument.partition("|")
    subject = None if name == "-" else SubjectToken(token, issuer=server, subject=name)
    view = cache if subject is None else cache.on_behalf_of(subject)
    if command == "get":
        print(view.get(resource).reveal(), flush=True)
    elif command == "forget":
        print(cache.forget(resource or None, subject=subject), flush=True)
    elif command == "revoke":
        print(cache.revoke_all(), flush=True)
"""


@pytest.mark.parametrize("kind", ["file", "redis"])
@pytest.mark.parametrize("resource", ["", ORDERS])
def test_it_reaches_another_process_within_ten_seconds(
    server: LocalAuthorizationServer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    resource: str,
) -> None:
    """
    That is the stated time, as of all that is forgotten. The token of the user there is another
    one, of the same user.
    """
    place: object = tmp_path / "state"
    if kind == "redis":
        place = request.getfixturevalue("valkey").url
    users = {
        name: server.user_token(name, audience="me", lifetime=timedelta(hours=1))
        for name in ("alice", "bob")
    }
    newer = server.user_token("alice", audience="me", lifetime=timedelta(hours=2))
    arguments = (server.issuer, CLIENT_SECRET, place, KEY)
    with child(WORKER, *arguments) as one, child(WORKER, *arguments) as two:

        def told(process: Any, command: str, name: str = "-", argument: str = "") -> str:
            tell(process, f"{command} {name} {argument}")
            return line_of(process)

        def of_all(process: Any) -> list[str]:
            return [
                told(process, "get", name, f"{users[name]}|{api}")
                for name in users
                for api in (ORDERS, BILLING)
            ]

        first = of_all(one)
        assert first == of_all(two)
        assert ("1" if resource else "2") == told(one, "forget", "alice", f"{newer}|{resource}")
        told(two, "wait", argument="10")
        second = of_all(two)

        same = [before == after for before, after in zip(first, second, strict=True)]
        assert [False, bool(resource), True, True] == same
        assert second == of_all(one)
    assert 4 + (1 if resource else 2) == len(server.token_requests)
