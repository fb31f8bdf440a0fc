"""
On behalf of a user: which token goes out, and what happens where it is not known for whom.
"""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import jwt
import pytest
import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTasks
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    Resource,
    ResourceTokenAuth,
    ResourceTokensError,
    SubjectToken,
    TokenExchange,
    TokenRequestError,
)
from resource_tokens.inbound import InboundToken
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.tokens import Secret
from tests.conftest import BILLING, ORDERS, Caller, World
from tests.test_guards import changing, guarded

ME = "urn:example:me"


def user(world: World, name: str, **changes: Any) -> SubjectToken:
    """
    A user's token for this service.
    """
    return SubjectToken(
        world.server.user_token(name, audience=ME), issuer=world.server.issuer, **changes
    )


def required(world: World, **kwargs: Any) -> ResourceTokenAuth:
    """
    An auth object whose APIs are called on behalf of users only.
    """
    orders, billing = (Resource(name, subject="required") for name in (ORDERS, BILLING))
    return world.auth({world.orders.url: orders, world.billing.url: billing}, **kwargs)


def subjects_seen(api: Any) -> list[str]:
    """
    Who the tokens were about that an API was shown.
    """
    return [
        str(jwt.decode(t, options={"verify_signature": False})["sub"]) for t in api.tokens_seen()
    ]


def subject_of(token: Any) -> str:
    return str(jwt.decode(token.reveal(), options={"verify_signature": False})["sub"])


def inside(caller: Caller, view: Any, calls: list[Callable[[], Any]]) -> list[Any]:
    """
    Make calls one after the other in one block, in the caller's colour.
    """
    if caller.blocking:
        with view:
            return [call() for call in calls]

    async def block() -> list[Any]:
        with view:
            return [await call() for call in calls]

    return list(caller.call(block))


def test_a_request_is_made_on_behalf_of_its_subject(caller: Caller, world: World) -> None:
    """
    The view exchanges the user's token: the API sees a token about the user, that is for the API.
    """
    auth, alice = required(world), user(world, "alice")
    with caller.client() as client:
        answers = [
            client.get(url, auth=auth.on_behalf_of(alice)).json()
            for url in (world.orders.url, world.billing.url, world.orders.url)
        ]

    assert ["alice"] * 3 == [answer["subject"] for answer in answers]
    assert [ORDERS, BILLING, ORDERS] == [answer["audience"] for answer in answers]
    assert [(ORDERS,), (BILLING,)] == [r.resources for r in world.server.token_requests]
    assert {TokenExchange.grant_type} == {r.grant_type for r in world.server.token_requests}
    # The user's own token goes nowhere but to the authorization server.
    assert alice.token.reveal() not in world.orders.tokens_seen() + world.billing.tokens_seen()


def test_a_block_is_for_all_requests_in_it(caller: Caller, world: World) -> None:
    """
    With the plain auth object, and with several clients; after the block there is nobody.
    """
    auth = required(world)
    with caller.client(auth=auth) as client, caller.client(auth=auth) as other:
        answers = inside(
            caller,
            auth.on_behalf_of(user(world, "alice")),
            [
                partial(client.real.get, world.orders.url),
                partial(other.real.get, world.billing.url),
                partial(auth.cache.get if caller.blocking else auth.cache.aget, ORDERS),
            ],
        )
        with pytest.raises(TokenRequestError, match="called on behalf of others only"):
            client.get(world.orders.url)

    assert ["alice", "alice"] == [answer.json()["subject"] for answer in answers[:2]]
    assert answers[2].reveal() in world.orders.tokens_seen()
    assert 2 == len(world.server.token_requests)


def test_each_subject_has_tokens_of_its_own(caller: Caller, world: World) -> None:
    """
    Two users and this service itself, at one API: three tokens, each asked for once.
    """
    auth = world.auth()
    alice, bob = user(world, "alice"), user(world, "bob")
    with caller.client(auth=auth) as client:
        for _ in range(2):
            client.get(world.orders.url)
            client.get(world.orders.url, auth=auth.on_behalf_of(alice))
            client.get(world.orders.url, auth=auth.on_behalf_of(bob))

    assert ["orders-worker", "alice", "bob"] == subjects_seen(world.orders)
    assert 3 == len(world.server.token_requests)


def test_a_view_goes_before_a_block(caller: Caller, world: World) -> None:
    """
    What is said with a request counts more than where it is made; an inner block more than an
    outer one, which is back after it.
    """
    auth = required(world)
    alice, bob, carol = (user(world, name) for name in ("alice", "bob", "carol"))
    with caller.client(auth=auth) as client:

        def who(**kwargs: Any) -> Any:
            return client.real.get(world.orders.url, **kwargs)

        outer = auth.on_behalf_of(alice)
        if caller.blocking:
            with outer:
                answers = [who(), who(auth=auth.on_behalf_of(bob))]
                with auth.on_behalf_of(carol):
                    answers.append(who())
                answers.append(who())
        else:

            async def blocks() -> list[Any]:
                with outer:
                    found = [await who(), await who(auth=auth.on_behalf_of(bob))]
                    with auth.on_behalf_of(carol):
                        found.append(await who())
                    return [*found, await who()]

            answers = caller.call(blocks)

    assert ["alice", "bob", "carol", "alice"] == [a.json()["subject"] for a in answers]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    "seen",
    [
        {"required": "alice", "optional": "alice"},
        {"none": "orders-worker", "optional": "alice"},
        {"optional": "alice", "none": "orders-worker"},
    ],
    ids="-".join,
)
def test_on_whose_behalf_a_redirect_is_reauthorized(
    caller: Caller, world: World, twice: bool, seen: dict[Any, str]
) -> None:
    """
    On that of the view, as if the second API had been called by it; also where two guards look.
    """
    first, second = seen
    orders = Resource(ORDERS, subject=first)
    billing = Resource(BILLING, subject=second, redirects="reauthorize")
    auth = world.auth({world.orders.url: orders, world.billing.url: billing})
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    world.billing.redirect("/landing", f"{world.billing.url}last")
    options: dict[str, Any] = {"follow_redirects": True}
    if twice:
        options["transport"] = guarded(caller, changing(caller, lambda _: None))
    with caller.client(auth=auth.on_behalf_of(user(world, "alice")), **options) as client:
        assert 200 == client.get(f"{world.orders.url}jump").status_code

    assert [*seen.values()] == subjects_seen(world.orders) + subjects_seen(world.billing)


def test_what_is_between_two_guards_sends_no_token_elsewhere(caller: Caller, world: World) -> None:
    """
    P3: what the first guard has put there for another API is not for whatever the hop is made to
    name after that.
    """

    def rename(request: Any) -> None:
        if request.url.path == "/landing":
            request.headers["Host"] = "elsewhere.example.com"

    billing = Resource(BILLING, subject="none", redirects="reauthorize")
    auth = world.auth({world.orders.url: ORDERS, world.billing.url: billing})
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    transport = guarded(caller, changing(caller, rename))
    options: dict[str, Any] = {"transport": transport, "follow_redirects": True}
    with caller.client(auth=auth.on_behalf_of(user(world, "alice")), **options) as client:
        assert 401 == client.get(f"{world.orders.url}jump").status_code

    assert () == world.billing.tokens_seen()


def test_views_can_be_narrowed(caller: Caller, world: World) -> None:
    """
    Scopes and a time to live can be asked for with a view of a subject, in either order.
    """
    auth = world.auth()
    alice = user(world, "alice")
    with caller.client() as client:
        views = [
            auth.scoped("read").on_behalf_of(alice),
            auth.on_behalf_of(alice).scoped("read").with_min_ttl(timedelta(minutes=1)),
        ]
        answers = [client.get(world.orders.url, auth=view).json() for view in views]
        token = caller.token_for(views[0], world.orders.url)

    assert [("alice", "read")] * 2 == [(a["subject"], a["scope"]) for a in answers]
    assert (token.reveal(),) == world.orders.tokens_seen()
    assert 1 == len(world.server.token_requests)


@pytest.mark.parametrize("subject", ["optional", "required", "none"])
def test_what_a_resource_wants(caller: Caller, world: World, subject: Any) -> None:
    """
    With a subject and without: optional takes whoever is there, required refuses nobody, and none
    is this service itself in any case. Nothing is sent where it is refused.
    """
    auth = world.auth({world.orders.url: Resource(ORDERS, subject=subject)})
    with caller.client(auth=auth) as client:
        if subject == "required":
            with pytest.raises(TokenRequestError, match=r"on_behalf_of\(inbound\)") as caught:
                client.get(world.orders.url)
            assert (ORDERS, None) == (caught.value.resource, caught.value.status)
            assert ["subject_missing"] == world.event_names()
            assert () == world.server.token_requests + world.orders.requests
        else:
            client.get(world.orders.url)
        client.get(world.orders.url, auth=auth.on_behalf_of(user(world, "alice")))

    expected = {"optional": ["orders-worker", "alice"], "required": ["alice"]}
    assert expected.get(subject, ["orders-worker"]) == subjects_seen(world.orders)


def test_prefetching_leaves_out_what_needs_somebody(caller: Caller, world: World) -> None:
    """
    At the start of a program nobody is there yet; on behalf of somebody all are fetched.
    """
    auth = world.auth(
        {world.orders.url: Resource(ORDERS, subject="required"), world.billing.url: BILLING}
    )

    def prefetch(view: ResourceTokenAuth) -> None:
        caller.call(view.prefetch if caller.blocking else view.aprefetch)

    prefetch(auth)
    prefetch(auth.on_behalf_of(user(world, "alice")))

    asked = sorted((r.grant_type, *r.resources) for r in world.server.token_requests)
    assert [
        ("client_credentials", BILLING),
        (TokenExchange.grant_type, BILLING),
        (TokenExchange.grant_type, ORDERS),
    ] == asked


# Where a block does not reach.


def test_threads_of_a_pool_are_not_in_the_block(world: World) -> None:
    """
    A thread has no copy of the context: where a subject is demanded, its request is refused. With
    the view, or with a copy of the context while the block lasts, it is on behalf of the user.
    """
    auth = required(world)
    with ThreadPoolExecutor(1) as pool:
        with auth.on_behalf_of(user(world, "alice")) as view:
            lost = pool.submit(auth.token_for, world.orders.url)
            given = pool.submit(view.token_for, world.orders.url)
            copied = pool.submit(copy_context().run, auth.token_for, world.orders.url)
            # Waited for in the block, which it does not outlive.
            token = copied.result()
        with pytest.raises(TokenRequestError, match="nobody is in reach"):
            lost.result()
        assert given.result() == token

    assert 1 == len(world.server.token_requests)


def test_a_copied_context_ends_with_the_block(world: World) -> None:
    """
    A job that was begun in the block and runs after it is refused, also where a subject is
    optional: it must not do as this service what the user asked for.
    """
    auth = world.auth({world.orders.url: Resource(ORDERS), world.billing.url: BILLING})
    with auth.on_behalf_of(user(world, "alice")):
        later = copy_context()

    with pytest.raises(TokenRequestError, match=r"has ended.*auth=auth\.on_behalf_of"):
        later.run(auth.token_for, world.orders.url)
    assert ["subject_missing"] == world.event_names()
    assert () == world.server.token_requests
    # Outside it, and in another block, all is as ever.
    assert "orders-worker" == subject_of(auth.token_for(world.orders.url))
    with auth.on_behalf_of(user(world, "bob")):
        assert "bob" == subject_of(auth.token_for(world.orders.url))


def test_an_inner_block_that_has_ended_does_not_uncover_the_outer_one(world: World) -> None:
    """
    A copy from the inner block is not taken to be in the outer one, which is still open.
    """
    auth = required(world)
    with auth.on_behalf_of(user(world, "alice")):
        with auth.on_behalf_of(user(world, "bob")):
            later = copy_context()
        with pytest.raises(TokenRequestError, match="has ended"):
            later.run(auth.token_for, world.orders.url)


def test_tasks_in_the_block_and_tasks_that_outlive_it(world: World) -> None:
    """
    What `asyncio.gather` does in the block is on behalf of the user. A task that goes on after it
    is refused, whatever the resource wants; given the view, it is not.
    """
    auth = world.auth()

    async def main() -> tuple[list[Any], list[Any]]:
        end = asyncio.Event()

        async def job(auth: ResourceTokenAuth) -> Any:
            await end.wait()
            return await auth.atoken_for(world.orders.url)

        with auth.on_behalf_of(user(world, "alice")) as view:
            together = await asyncio.gather(
                *(auth.atoken_for(url) for url in (world.orders.url, world.billing.url) * 2)
            )
            jobs = [asyncio.create_task(job(auth)), asyncio.create_task(job(view))]
        end.set()
        return together, await asyncio.gather(*jobs, return_exceptions=True)

    together, (refused, given) = asyncio.run(main())

    assert {"alice"} == {subject_of(token) for token in together}
    assert isinstance(refused, TokenRequestError)
    assert "has ended" in str(refused)
    assert given == together[0]


def test_a_nursery_of_trio(world: World) -> None:
    """
    The same on trio: its tasks take a copy of the context of whoever starts them.
    """
    auth = world.auth()
    found: dict[str, Any] = {}

    async def job(name: str, after: trio.Event) -> None:
        await after.wait()
        try:
            found[name] = subject_of(await auth.atoken_for(world.orders.url))
        except TokenRequestError as error:
            found[name] = str(error)

    async def main() -> None:
        now, end = trio.Event(), trio.Event()
        now.set()
        async with trio.open_nursery() as outer:
            with auth.on_behalf_of(user(world, "alice")):
                async with trio.open_nursery() as inner:
                    inner.start_soon(job, "inner", now)
                    # Of an outer nursery, but begun here.
                    outer.start_soon(job, "outer", now)
                    outer.start_soon(job, "later", end)
                while "outer" not in found:
                    await trio.lowlevel.checkpoint()
            end.set()

    trio.run(main)

    assert ("alice", "alice") == (found["inner"], found["outer"])
    assert "has ended" in found["later"]


def test_two_tasks_with_two_users_at_the_same_time(world: World) -> None:
    """
    Each is in its own block, though they take turns in one thread and share one auth object.
    """
    auth = required(world)

    async def one(name: str) -> set[str]:
        seen = set()
        with auth.on_behalf_of(user(world, name)):
            for url in (world.orders.url, world.billing.url) * 3:
                seen.add(subject_of(await auth.atoken_for(url)))
                await asyncio.sleep(0)
        return seen

    async def main() -> list[set[str]]:
        return list(await asyncio.gather(one("alice"), one("bob"), one("carol")))

    assert [{"alice"}, {"bob"}, {"carol"}] == asyncio.run(main())


def test_background_tasks_of_starlette(world: World) -> None:
    """
    They run when the response has been sent, after the block of the endpoint. Where a subject is
    demanded they are refused, unless they were given the view.
    """
    auth = required(world)
    done: list[str] = []

    async def job(auth: ResourceTokenAuth) -> None:
        try:
            done.append(subject_of(await auth.atoken_for(world.orders.url)))
        except TokenRequestError as error:
            done.append(str(error))

    def in_a_thread() -> None:
        with pytest.raises(TokenRequestError, match="nobody is in reach"):
            auth.token_for(world.orders.url)
        done.append("refused")

    async def endpoint(_: Request) -> Response:
        tasks = BackgroundTasks()
        with auth.on_behalf_of(user(world, "alice")) as view:
            found = subject_of(await auth.atoken_for(world.orders.url))
            tasks.add_task(job, auth)
            tasks.add_task(in_a_thread)
            tasks.add_task(job, view)
        return PlainTextResponse(found, background=tasks)

    app = Starlette(routes=[Route("/", endpoint)])

    async def main() -> str:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as client:
            return (await client.get("http://me.test/")).text

    assert "alice" == asyncio.run(main())
    assert ["nobody is in reach" in done[0], *done[1:]] == [True, "refused", "alice"]


def test_a_block_that_is_left_in_another_context_says_so(world: World) -> None:
    """
    As in a generator that a framework runs in threads, each step in a copy of the context: what
    was done in between was done for nobody, and that is not kept quiet.
    """
    auth = required(world)

    def dependency() -> Iterator[None]:
        with auth.on_behalf_of(user(world, "alice")):
            yield

    running = dependency()
    copy_context().run(next, running)
    with pytest.raises(TokenRequestError, match="nobody is in reach"):
        auth.token_for(world.orders.url)

    with pytest.raises(ResourceTokensError, match="left in another context"):
        copy_context().run(next, running, None)


def test_an_error_in_such_a_block_is_not_hidden(world: World) -> None:
    """
    The error of the block is what is raised.
    """
    auth = required(world)
    view = auth.on_behalf_of(user(world, "alice"))
    copy_context().run(view.__enter__)

    view.__exit__(ValueError, ValueError(), None)
    # And nothing happens to one that was not entered.
    view.__exit__(None, None, None)


@pytest.mark.parametrize(
    "make",
    [
        lambda view: view.scoped("a"),
        lambda view: view.with_min_ttl(timedelta(seconds=5)),
        lambda view: view.__enter__(),
    ],
    ids=["scopes", "a time to live", "entered already"],
)
def test_a_block_is_for_a_subject_and_nothing_else(world: World, make: Any) -> None:
    """
    Whatever would silently not apply to the requests of the block is refused.
    """
    with pytest.raises(ConfigurationError, match="A block is for one subject"):
        make(world.auth().on_behalf_of(user(world, "alice"))).__enter__()


# What is given.


@pytest.mark.parametrize(
    ("given", "words"),
    [("eyJ-a-token", "SubjectToken"), (None, "nobody would be acted for"), (3, "given a int")],
)
def test_what_is_no_subject_is_refused(world: World, given: Any, words: str) -> None:
    """
    With what to give instead, and without the token in the message or in our frames of the error.
    """
    auth = world.auth()
    for view in (auth, auth.cache):
        with pytest.raises(ConfigurationError, match=words) as caught:
            view.on_behalf_of(given)

        ours = [e for e in caught.traceback if "resource_tokens" in str(e.path)]
        assert ours
        assert "eyJ-a-token" not in repr([e.locals for e in ours])
        assert "eyJ-a-token" not in str(caught.value)


def test_a_token_of_our_own_is_no_subject(caller: Caller, world: World) -> None:
    """
    X6: it would say that this service is the user.
    """
    auth = world.auth()
    token = caller.token(auth.cache, ORDERS)

    with pytest.raises(ConfigurationError, match="calls others with"):
        auth.on_behalf_of(token)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"token": ""}, "is empty"),
        ({"token": "Bearer abc"}, "what follows `Bearer `"),
        ({"token": None}, "no string"),
        ({"expires_at": datetime(2030, 1, 1)}, "timezone"),  # noqa: DTZ001 - it is the point
        ({"expires_at": 1e9}, "timezone"),
        ({"issuer": ""}, "issuer= is a text"),
        ({"subject": 5}, "subject= is a text"),
    ],
)
def test_what_is_no_subject_token_is_refused(arguments: dict[str, Any], words: str) -> None:
    """
    At construction.
    """
    with pytest.raises(ConfigurationError, match=words) as caught:
        SubjectToken(**{"token": "eyJ-a-token", **arguments})

    assert "eyJ-a-token" not in repr(caught.traceback[-1].locals)


def test_a_subject_token_is_a_value_that_keeps_its_secret() -> None:
    """
    P9: equal if all of it is; neither printed nor pickled.
    """
    one, same = (SubjectToken("secret-text", issuer="https://i") for _ in range(2))

    assert one == same != SubjectToken("secret-text")
    assert {one} == {same}
    assert "secret-text" not in repr(one)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(one)


def test_an_inbound_token_is_a_subject(world: World) -> None:
    """
    What the inbound check hands over is exchanged, with all that is known of it.
    """
    expires_at = datetime.now(UTC) + timedelta(minutes=10)
    inbound = InboundToken(
        Secret(world.server.user_token("alice", audience=ME)),
        world.server.issuer,
        "alice",
        "browser",
        (ME,),
        frozenset(),
        expires_at,
        {},
    )
    token = world.auth().on_behalf_of(inbound).token_for(world.orders.url)

    assert "alice" == subject_of(token)
    assert expires_at.timestamp() == pytest.approx(token.expires_at.timestamp())


# Many at a time.


class Counting:
    """
    Authorization servers in this process: each token says what was asked for, and nothing else.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.asked = 0
        self.now = 1e9
        self.auth = ResourceTokenAuth(
            AuthorizationServer(
                token_endpoint="https://login.example.com/token",
                transport=httpx2.MockTransport(self._answer),
            ),
            ClientSecretBasic("middle", "s"),
            resources=APIS,
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
            **kwargs,
        )

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        form = dict(parse_qsl(request.content.decode()))
        who = form.get("subject_token", "this-service")
        token = f"{who}|{form['resource']}|{self.asked}"
        members = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
        return httpx2.Response(200, json=members)


APIS = ["https://a.example.com/", "https://b.example.com/", "https://c.example.com/"]


def whose(token: Any) -> tuple[str, str]:
    who, resource, _ = token.reveal().split("|")
    return who, resource


def test_ten_thousand_interleavings_of_two_users() -> None:
    """
    Two tasks that hand over to each other at random, in blocks, in blocks in blocks and with views,
    while tokens expire and are forgotten under them: each token is of who asks, for what is asked.
    """
    bench, dice = Counting(), random.Random(9)
    auth, wrong, turns = bench.auth, [], [0]

    async def pause() -> None:
        for _ in range(dice.randrange(3)):
            turns[0] += 1
            await asyncio.sleep(0)

    async def look(expected: str, given: ResourceTokenAuth) -> None:
        url = dice.choice(APIS)
        found = whose(await given.atoken_for(url))
        if found != (expected, url):
            wrong.append((expected, found))

    async def one(name: str, other: str, steps: int) -> None:
        mine = auth.on_behalf_of(SubjectToken(name))
        for step in range(steps):
            if step % 40 == 0:
                auth.cache.forget()
            if step % 25 == 0:
                bench.now += 1000
            await pause()
            if dice.random() < 0.3:
                await look("this-service", auth)
            with auth.on_behalf_of(SubjectToken(name)):
                await pause()
                await look(name, auth)
                await pause()
                if dice.random() < 0.3:
                    with auth.on_behalf_of(SubjectToken(other)):
                        await pause()
                        await look(other, auth)
                    await look(name, auth)
            await pause()
            await look(name, mine)

    async def main() -> None:
        await asyncio.gather(one("alice", "carol", 2_500), one("bob", "carol", 2_500))

    asyncio.run(main())

    assert [] == wrong
    assert turns[0] > 10_000
    assert bench.asked > 100


def test_two_users_in_many_threads() -> None:
    """
    The same with threads that really take turns, on one auth object.
    """
    bench = Counting()

    def work(number: int) -> set[tuple[str, str]]:
        name = ("alice", "bob")[number % 2]
        found = set()
        for step in range(250):
            if step % 50 == number:
                bench.auth.cache.forget()
            with bench.auth.on_behalf_of(SubjectToken(name)) as view:
                found.add((name, whose(bench.auth.token_for(APIS[step % 3]))[0]))
                found.add((name, whose(view.token_for(APIS[step % 2]))[0]))
        return found

    with ThreadPoolExecutor(8) as pool:
        found = set().union(*pool.map(work, range(8)))

    assert {("alice", "alice"), ("bob", "bob")} == found


def test_five_thousand_users_of_three_apis() -> None:
    """
    P2, P6, P10: one exchange for each user and API however often it is asked for at the same time;
    and with room for a tenth of the tokens, no more than that is ever kept.
    """
    users, room = 5_000, 1_500
    small = MemoryTokenStore(maxsize=room)
    bench = Counting(store=small)

    async def user(number: int) -> None:
        name = f"user-{number}"
        with bench.auth.on_behalf_of(SubjectToken(name)):
            asked = [bench.auth.atoken_for(url) for url in (*APIS, *APIS)]
            found = [whose(token) for token in await asyncio.gather(*asked)]
        assert [(name, url) for url in (*APIS, *APIS)] == found

    async def main() -> None:
        # As many at a time as there is room for: who waits longer finds its token gone.
        for first in range(0, users, 250):
            await asyncio.gather(*(user(first + number) for number in range(250)))

    asyncio.run(main())

    assert 3 * users == bench.asked
    assert room == len(small)
    cache = bench.auth.cache
    assert len(cache.bindings._bound) <= 2 * room
    assert len(cache.bindings._shown) <= 2 * room
    assert len(cache.subjects._built) <= 3 * users
