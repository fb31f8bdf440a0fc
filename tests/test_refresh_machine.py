"""
The life of a token under everything that can happen to it, in virtual time.

Hypothesis plays a process: callers in threads and in tasks of an event loop, refreshes ahead, an
authorization server with its moods, clocks that stand still or jump. Whatever asks for I/O stops
there and goes on when it is its turn, so each interleaving is a choice that can be repeated.

The rules that must hold are those of the module `_acquire`. They are checked where they can be
seen from outside: when a request is sent, when a caller is served, and when the store changes.

    REFRESH_MACHINE_EXAMPLES=5000 pytest tests/test_refresh_machine.py --hypothesis-show-statistics
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import formatdate
from types import coroutine
from typing import Any, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from resource_tokens import (
    AudienceMismatchError,
    AuthorizationServer,
    Resource,
    TokenEvent,
    TokenRequestError,
)
from resource_tokens._acquire import Acquirer
from resource_tokens._ask import Surroundings
from resource_tokens._io import IO, SendError, run_to_end
from resource_tokens.egress import Bindings
from resource_tokens.events import Events
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.tokens import AccessToken, CachedToken, TokenKey
from tests.test_tokens import asked

Colour = Literal["task", "thread"]
Purpose = Literal["get", "renew", "ahead"]

TIMEOUT = 10.0
AT_A_TIME = 4
# What numbers of seconds since 1970 are rounded by.
MOMENT = 1e-6
LONGEST_PAUSE = 3600.0
FORCED_INTERVAL = 10.0
FIRST, SECOND = (
    AuthorizationServer(issuer=origin, token_endpoint=f"{origin}/token")
    for origin in ("https://first.example.com", "https://second.example.com")
)
# More than requests at a time for one server, and more than the store holds.
REQUESTS = [
    asked(server=SECOND if n == 7 else FIRST, resource=Resource(f"urn:x:{n}"), scopes=frozenset())
    for n in range(8)
]
STORED = 6

REFUSALS = {"invalid_client": 401, "invalid_target": 400, "unauthorized_client": 400}
TOKENS = ["token 3600", "token 300", "token 60", "token 2", "token none"]
FAILURES = [
    *REFUSALS,
    "mismatch",
    "network",
    "never sent",
    "html",
    "500",
    "503",
    "429 after 5",
    "503 after 120",
    "429 after date",
    "429 after 9999999999",
    "503 after soon",
]


class Cancelled(BaseException):
    """
    What an event loop throws into a task that is cancelled, and Ctrl-C into a thread.
    """


@dataclass
class Start:
    """
    A thread or task that has not run yet.
    """


@dataclass(eq=False)
class Sending:
    """
    A request on its way.
    """

    message: HTTPRequest = field(repr=False)
    server: AuthorizationServer
    ends_at: float
    mono: float
    wall: float
    true: float
    number: int


@dataclass
class Waiting:
    """
    A wait for somebody else: a flight, or a turn.
    """

    future: Future[Any]
    ends_at: float


@dataclass
class Sleeping:
    """
    A pause before another try.
    """

    ends_at: float


Pending = Start | Sending | Waiting | Sleeping


@dataclass
class Issue:
    """
    A token as the server issued it.
    """

    request: TokenRequest
    sending: Sending
    lifetime: float

    @property
    def margin(self) -> float:
        return min(30.0, 0.1 * self.lifetime)


class Actor:
    """
    A caller, or a refresh ahead. It runs until it asks for I/O, and goes on when it is told to.
    """

    def __init__(self, world: World, purpose: Purpose, request: TokenRequest) -> None:
        self.world = world
        self.purpose = purpose
        self.request = request
        self.rejected: AccessToken | None = None
        self.min_ttl = 0.0
        self.started = world.mono
        self.number = world.count()
        self.pending: Pending | None = Start()
        self.first_sent: float | None = None
        self.informed = False
        self.late = False
        self.outcome: CachedToken | None = None
        self.error: BaseException | None = None

    def run(self, value: Any = None, error: BaseException | None = None) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def resume(self, value: Any = None, error: BaseException | None = None) -> None:
        """
        Let it run to where it asks for I/O again, or to its end.
        """
        before = self.pending
        # A wait that ended in an error has told this one all there is to know.
        if isinstance(before, Waiting) and error is None and before.future.done():
            ended = before.future
            self.informed |= not ended.cancelled() and ended.exception() is not None
        self.pending = None
        self.run(value, error)
        self.world.ran(self)

    @property
    def sending(self) -> Sending | None:
        return self.pending if isinstance(self.pending, Sending) else None

    @property
    def due_at(self) -> float:
        """
        When it can go on by itself.
        """
        pending = self.pending
        if pending is None or isinstance(pending, Start):
            return 0.0
        if isinstance(pending, Waiting) and pending.future.done():
            return 0.0
        return pending.ends_at

    def go_on(self) -> None:
        """
        Its time has come.
        """
        if self.sending is None:
            self.resume()
        else:
            self.world.answer(self, "network")

    def ended(self, outcome: CachedToken | None, error: BaseException | None) -> None:
        self.outcome, self.error = outcome, error


@coroutine
def suspend(pending: Pending) -> Generator[Pending, Any, Any]:
    return (yield pending)


class Task(Actor):
    """
    A task: all of them run in one thread, as in an event loop.
    """

    def __init__(
        self,
        world: World,
        purpose: Purpose,
        request: TokenRequest,
        work: Callable[[], Coroutine[Any, Any, CachedToken | None]],
    ) -> None:
        super().__init__(world, purpose, request)
        self._begin = work
        self._work: Coroutine[Any, Any, CachedToken | None] | None = None

    def run(self, value: Any = None, error: BaseException | None = None) -> None:
        if self._work is None:
            self._work = self._begin()
        try:
            if error is None:
                self.pending = self._work.send(value)
            else:
                self.pending = self._work.throw(error)
        except StopIteration as end:
            self.ended(end.value, None)
        except (TokenRequestError, AudienceMismatchError, Cancelled) as ending:
            self.ended(None, ending)

    def close(self) -> None:
        if self._work is not None:
            self._work.close()


class Thread(Actor):
    """
    A thread of its own, of which only one runs at a time.
    """

    def __init__(
        self,
        world: World,
        purpose: Purpose,
        request: TokenRequest,
        work: Callable[[], CachedToken | None],
    ) -> None:
        super().__init__(world, purpose, request)
        self._work = work
        self._go, self._stopped = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._stopped.acquire()
        self._given: tuple[Any, BaseException | None] = (None, None)
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)

    def run(self, value: Any = None, error: BaseException | None = None) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._given = (value, error)
        self._go.release()
        assert self._stopped.acquire(timeout=30), "a lock was held across I/O"
        if self._broken is not None:
            raise self._broken

    def stop_for(self, pending: Pending) -> Any:
        """
        Called in the thread: stop here until there is an answer.
        """
        self.pending = pending
        self._stopped.release()
        self._go.acquire()
        value, error = self._given
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        if self._thread.is_alive():
            self.run(error=Cancelled())
            self._thread.join(30)

    def _live(self) -> None:
        self._go.acquire()
        self.world.threads[threading.get_ident()] = self
        try:
            if self._given[1] is None:
                self.ended(self._work(), None)
            else:
                self.ended(None, self._given[1])
        except (TokenRequestError, AudienceMismatchError, Cancelled) as ending:
            self.ended(None, ending)
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            self._broken = error
        finally:
            del self.world.threads[threading.get_ident()]
            self._stopped.release()


class StoppingIO:
    """
    An I/O at which everybody stops, in either colour.
    """

    def __init__(self, world: World, *, blocking: bool) -> None:
        self.blocking = blocking
        self._world = world

    async def send(
        self, request: HTTPRequest, server: AuthorizationServer, limit: float
    ) -> HTTPAnswer:
        world = self._world
        sending = Sending(
            request,
            server,
            world.mono + limit,
            world.mono,
            world.wall,
            world.true,
            world.count(),
        )
        answer: HTTPAnswer = await self._stop(sending)
        return answer

    async def wait(self, future: Future[Any], limit: float) -> None:
        if not future.done():
            await self._stop(Waiting(future, self._world.mono + limit))

    async def sleep(self, seconds: float) -> None:
        await self._stop(Sleeping(self._world.mono + seconds))

    async def run(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is shared")

    async def _stop(self, pending: Pending) -> Any:
        if self.blocking:
            return self._world.threads[threading.get_ident()].stop_for(pending)
        return await suspend(pending)


class WatchedStore(MemoryTokenStore):
    """
    The real store, which tells the world before and after what it changes.
    """

    def __init__(self, world: World) -> None:
        super().__init__(STORED)
        self._world = world

    def save(self, key: TokenKey, cached: CachedToken) -> None:
        self._world.saving(key, cached)
        super().save(key, cached)
        self._world.expected = self.contents()

    def forget(self, matches: Callable[[CachedToken], bool]) -> int:
        before = self.contents()
        dropped = super().forget(matches)
        for key in before.keys() - self.contents().keys():
            self._world.dropping(before[key])
        self._world.expected = self.contents()
        return dropped

    def peek(self, key: TokenKey) -> CachedToken | None:
        """
        What is there, without counting as a use.
        """
        return self._tokens._values.get(key)

    def contents(self) -> dict[TokenKey, CachedToken]:
        return dict(self._tokens._values)


class World:
    """
    Clocks, callers, the server's memory, and the rules.
    """

    def __init__(self, draw: float) -> None:
        self.true = 0.0
        self.mono = 1000.0
        self.wall = 1.7e9
        # When a clock was touched, and when the wall clock was set back.
        self.disturbed_at = -1e9
        self.disturbed = 0
        self.draw = draw
        self.threads: dict[int, Thread] = {}
        self.actors: list[Actor] = []
        self.served: list[tuple[TokenRequest, AccessToken]] = []
        self.issues: dict[str, Issue] = {}
        self.events: list[TokenEvent] = []
        self.expected: dict[TokenKey, CachedToken] = {}
        self.threads_available = True
        self.forgetting = False
        self._numbers = 0
        self.forgotten: dict[str | None, int] = {}
        self.set_back = 0
        self.forced: dict[TokenKey, list[Actor]] = {}
        self.scheduled: dict[TokenKey, float] = {}
        self.left_alone: dict[AuthorizationServer, float] = {}
        self.failures: dict[TokenKey, int] = {}
        self.refused_until: dict[TokenKey, float] = {}
        self.backing_off_until: dict[TokenKey, float] = {}
        self.store = WatchedStore(self)
        surroundings = Surroundings(
            lambda: self.mono, lambda: self.wall, lambda: self.draw, self.spawn
        )
        self.acquirer = Acquirer(
            self.store, Bindings(), Events(self.events.append), surroundings, frozenset()
        )
        self.task_io = StoppingIO(self, blocking=False)
        self.thread_io = StoppingIO(self, blocking=True)
        # A refresh ahead uses the acquirer's own I/O.
        self.acquirer._background = self.thread_io  # type: ignore[assignment]

    def count(self) -> int:
        """
        The next number, to tell before from after within one moment.
        """
        self._numbers += 1
        return self._numbers

    # What callers do.

    def call(self, request: TokenRequest, colour: Colour, min_ttl: float) -> None:
        current = self.store.peek(request.key)
        good = current is not None and self.left(current.token) > min_ttl + MOMENT
        caller = self.begin(
            "get", request, colour, lambda io: self.acquirer.acquire(request, io, min_ttl), min_ttl
        )
        if good:
            # P7: nobody waits while the token is good.
            assert caller.outcome is current

    def reject(self, request: TokenRequest, rejected: AccessToken, colour: Colour) -> None:
        self.begin(
            "renew",
            request,
            colour,
            lambda io: self.acquirer.renew(request, rejected, io),
            rejected=rejected,
        )

    def begin(  # noqa: PLR0917
        self,
        purpose: Purpose,
        request: TokenRequest,
        colour: Colour,
        work: Callable[[IO], Coroutine[Any, Any, CachedToken | None]],
        min_ttl: float = 0.0,
        rejected: AccessToken | None = None,
    ) -> Actor:
        caller: Actor
        if colour == "task":
            caller = Task(self, purpose, request, lambda: work(self.task_io))
        else:
            caller = Thread(self, purpose, request, lambda: run_to_end(work(self.thread_io)))
        caller.min_ttl, caller.rejected = min_ttl, rejected
        self.actors.append(caller)
        caller.resume()
        return caller

    def spawn(self, work: Callable[[], None]) -> None:
        if not self.threads_available:
            raise RuntimeError("can't start new thread")
        # The work does not say what it is for until it sends.
        self.actors.append(Thread(self, "ahead", REQUESTS[0], work))

    def forget(self, request: TokenRequest | None) -> None:
        resource = None if request is None else request.resource.identifier
        self.forgetting = True
        run_to_end(self.acquirer.forget(resource, self.thread_io))
        self.forgetting = False
        self.forgotten[resource] = self.count()
        for each in REQUESTS if request is None else [request]:
            self.refused_until.pop(each.key, None)
            self.backing_off_until.pop(each.key, None)
            self.failures.pop(each.key, None)
            assert self.store.peek(each.key) is None

    def due(self) -> list[Actor]:
        now = self.mono
        return [actor for actor in self.actors if actor.due_at <= now]

    def sending(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.sending is not None]

    def let_time_pass(self, seconds: float) -> None:
        """
        Everybody goes on in the moment in which they can.
        """
        ends_at = self.mono + seconds
        while self.actors:
            first = min(self.actors, key=lambda actor: actor.due_at)
            if first.due_at > ends_at:
                break
            self._move_clocks(first.due_at - self.mono)
            first.go_on()
        self._move_clocks(ends_at - self.mono)

    def skip_time(self, seconds: float) -> None:
        """
        Nobody does anything for a while, as on a machine with too much to do.
        """
        self._move_clocks(seconds)
        for actor in self.due():
            actor.late = True

    def _move_clocks(self, seconds: float) -> None:
        if seconds > 0:
            self.true += seconds
            self.mono += seconds
            self.wall += seconds

    def disturb(self, frozen: bool, seconds: float) -> None:
        """
        The machine is frozen and thawed, or its wall clock is set.
        """
        self.disturbed_at, self.disturbed = self.mono, self.count()
        self.wall += seconds
        if frozen and seconds > 0:
            self.true += seconds
        if seconds < 0:
            self.set_back = self.count()

    # What the server does.

    def answer(self, actor: Actor, what: str) -> None:
        sending = actor.sending
        assert sending is not None
        if sending.ends_at <= self.mono:
            what = "network"
        if actor.purpose == "ahead" and not what.startswith("token"):
            # At least as long as after a first failure.
            self.backing_off_until[actor.request.key] = self.mono + self.draw
        outcome = self._outcome(actor, sending, what)
        if isinstance(outcome, SendError):
            actor.resume(error=outcome)
        else:
            actor.resume(outcome)

    def _outcome(self, actor: Actor, sending: Sending, what: str) -> HTTPAnswer | SendError:
        request = request_in(sending.message)
        # A failure of another kind takes the place of a refusal that is remembered.
        self.refused_until.pop(request.key, None)
        match what.split():
            case ["token", lifetime]:
                members: dict[str, Any] = {
                    "access_token": f"token-{len(self.issues)}",
                    "token_type": "Bearer",
                }
                if lifetime != "none":
                    members["expires_in"] = int(lifetime)
                seconds = 300.0 if lifetime == "none" else float(lifetime)
                self.issues[members["access_token"]] = Issue(request, sending, seconds)
                if self.mono - sending.mono < seconds - min(30.0, 0.1 * seconds):
                    self._succeeded(actor, request)
                return json_answer(200, members)
            case [error] if error in REFUSALS:
                self._refused(actor, request)
                return json_answer(REFUSALS[error], {"error": error})
            case ["mismatch"]:
                self._refused(actor, request)
                members = {"access_token": "x", "token_type": "Bearer", "resource": "urn:x:no"}
                return json_answer(200, members)
            case ["network"]:
                return SendError("connection reset")
            case ["never", "sent"]:
                return SendError("connection refused", sent=False)
            case ["html"]:
                return HTTPAnswer(200, {"content-type": "text/html"}, b"<html>Welcome!</html>")
            case [status]:
                return json_answer(int(status), {"error": "temporarily_unavailable"})
            case [status, "after", when]:
                seconds = {"date": 30.0, "soon": 0.0}.get(when) or float(
                    when if when.isdigit() else 0
                )
                if when == "date":
                    # In whole seconds, as HTTP writes dates.
                    seconds = float(int(self.wall + 30)) - sending.wall
                    when = formatdate(int(self.wall + 30), usegmt=True)
                self._asked_to_be_left_alone(sending, seconds)
                return json_answer(
                    int(status), {"error": "temporarily_unavailable"}, {"retry-after": when}
                )
        raise AssertionError(what)

    def _asked_to_be_left_alone(self, sending: Sending, seconds: float) -> None:
        until = self.mono + min(seconds, LONGEST_PAUSE)
        self.left_alone[sending.server] = max(self.left_alone.get(sending.server, 0.0), until)

    def _succeeded(self, actor: Actor, request: TokenRequest) -> None:
        self.failures.pop(request.key, None)
        self.backing_off_until.pop(request.key, None)
        if actor.purpose == "ahead":
            self.scheduled[request.key] = self.mono

    def _refused(self, actor: Actor, request: TokenRequest) -> None:
        number = self.failures[request.key] = self.failures.get(request.key, 0) + 1
        # What was asked for before `forget` binds nobody after it.
        if self._forgotten_at(request) < actor.number:
            remembered = min((1 + 4 * self.draw) * 2.0 ** min(number - 1, 10), 60.0)
            self.refused_until[request.key] = self.mono + remembered

    # The rules.

    def ran(self, actor: Actor) -> None:
        """
        Somebody has run: what is to be seen of it must be as the rules say.
        """
        # A failure, whatever it was, takes nothing out of the store.
        assert self.expected == self.store.contents()
        if actor.sending is not None:
            self._sent(actor, actor.sending)
        if actor.pending is None:
            self.actors.remove(actor)
            if isinstance(actor.error, TokenRequestError | AudienceMismatchError):
                assert actor.request.resource.identifier == actor.error.resource
                assert actor.request.resource.identifier in str(actor.error)
            if actor.outcome is not None:
                self._shown(actor, actor.outcome)

    def _sent(self, actor: Actor, sending: Sending) -> None:
        request = request_in(sending.message)
        if actor.purpose == "ahead":
            actor.request = request
        assert actor.request.key == request.key
        # After a failure there is no second wave: who waited was told.
        assert not actor.informed
        assert self.left_alone.get(sending.server, 0.0) <= self.mono
        alive = [
            other
            for other in self.actors
            if other.sending is not None and other.sending.ends_at > self.mono
        ]
        at_server = [other for other in alive if other.request.server is sending.server]
        # Who is late by minutes is taken for somebody that nobody runs any more.
        assert sum(not other.late for other in at_server) <= AT_A_TIME
        for other in alive:
            if other is not actor and other.request.key == request.key:
                self._may_both_send(actor, other)
        first = actor.first_sent is None
        if first:
            actor.first_sent = self.mono
        if first and actor.purpose == "renew":
            self._forced(actor)
        # What was refused after `forget` does not stop who came before it.
        bound = self._forgotten_at(request) < actor.number and not actor.late
        if first and actor.purpose == "get" and bound:
            current = self.store.peek(request.key)
            # The leader has looked again: nobody asks for what is there.
            assert (
                current is None
                or self.left(current.token) <= actor.min_ttl + MOMENT
                or self.disturbed > actor.number
            )
            assert self.refused_until.get(request.key, 0.0) <= self.mono
        if first and actor.purpose == "ahead" and bound:
            self._ahead(request)

    def _may_both_send(self, one: Actor, other: Actor) -> None:
        """
        Two requests for one key: only if `forget` came between, or one had been given up.
        """
        forgotten = self._forgotten_at(one.request) > min(one.number, other.number)
        given_up = one.late or other.late
        assert forgotten or given_up

    def _forced(self, actor: Actor) -> None:
        """
        A 401 renews the current token only, and a key once in ten seconds.
        """
        request = actor.request
        current = self.store.peek(request.key)
        assert actor.rejected is not None
        assert (
            actor.late
            or current is None
            or self.left(current.token) <= 0
            or current.token.same_as(actor.rejected)
            or max(self._forgotten_at(request), self.disturbed) > actor.number
        )
        earlier = self.forced.setdefault(request.key, [])
        for other in earlier:
            # Each was decided between its start and its request, which may have had to wait.
            assert other.first_sent is not None
            apart = max(self.mono - other.started, other.first_sent - actor.started)
            assert apart >= FORCED_INTERVAL
        earlier.append(actor)

    def _ahead(self, request: TokenRequest) -> None:
        current = self.store.peek(request.key)
        assert self.backing_off_until.get(request.key, 0.0) <= self.mono
        assert self.refused_until.get(request.key, 0.0) <= self.mono
        if current is not None and self.disturbed_at < self.mono - 3600:
            issue = self.issues[current.token.reveal()]
            if issue.lifetime >= 20:
                assert self.mono - self.scheduled.get(request.key, -1e9) >= 10

    def saving(self, key: TokenKey, cached: CachedToken) -> None:
        """
        A token is stored where it belongs, with an expiry that the server would agree to.
        """
        issue = self.issues[cached.token.reveal()]
        assert issue.request.key == key

    def dropping(self, cached: CachedToken) -> None:
        """
        A token is dropped because it was asked for before `forget`, and for no other reason.
        """
        issue = self.issues[cached.token.reveal()]
        assert self.forgetting or issue.sending.number < self._forgotten_at(issue.request)

    def _shown(self, actor: Actor, cached: CachedToken) -> None:
        """
        A token was handed to a caller.
        """
        token = cached.token
        issue = self.issues[token.reveal()]
        assert issue.request.key == actor.request.key
        assert actor.request.resource.identifier == token.resource
        assert self.left(token) > actor.min_ttl - MOMENT
        if actor.rejected is not None:
            assert not token.same_as(actor.rejected)
        assert issue.sending.number > self._forgotten_before(actor)
        self.served = [*self.served[-9:], (actor.request, token)]

    def left(self, token: AccessToken) -> float:
        """
        How long a token may be shown, by the better of the two clocks: no machine can know that
        its steady clock stood still and its wall clock was set back.
        """
        issue = self.issues[token.reveal()]
        age = max(self.mono - issue.sending.mono, self.wall - issue.sending.wall)
        if self.set_back < issue.sending.number:
            assert age >= self.true - issue.sending.true - MOMENT
        return issue.lifetime - issue.margin - age

    def _forgotten_at(self, request: TokenRequest) -> int:
        resource = request.resource.identifier
        return max(self.forgotten.get(None, 0), self.forgotten.get(resource, 0))

    def _forgotten_before(self, actor: Actor) -> int:
        at = [
            number
            for resource, number in self.forgotten.items()
            if resource in (None, actor.request.resource.identifier) and number < actor.number
        ]
        return max(at, default=0)


def request_in(message: HTTPRequest) -> TokenRequest:
    resource = message.body.decode().partition("urn%3Ax%3A")[2][:1]
    return REQUESTS[int(resource)]


def json_answer(
    status: int, members: dict[str, Any], headers: dict[str, str] | None = None
) -> HTTPAnswer:
    return HTTPAnswer(status, headers or {}, json.dumps(members).encode())


ANY = st.integers(0, 999)
CROWDED = 10
COLOURS = st.sampled_from(["task", "thread"])
# Much happens to few.
SECONDS = st.sampled_from([0.3, 1.0, 5.0, 11.0, 46.0, 90.0, 240.0, 3300.0])
NUMBERS = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 1, *range(len(REQUESTS))])


class RefreshMachine(RuleBasedStateMachine):
    """
    What can happen, in any order.
    """

    @initialize(draw=st.sampled_from([0.0, 0.5, 1.0]))
    def begin(self, draw: float) -> None:
        self.world = World(draw)

    @precondition(lambda self: len(self.world.actors) < CROWDED)
    @rule(
        number=NUMBERS,
        crowd=st.lists(COLOURS, min_size=1, max_size=3),
        min_ttl=st.sampled_from([0.0, 0.0, 0.0, 100.0]),
        threads=st.sampled_from([True, True, True, False]),
    )
    def callers_come(self, number: int, crowd: list[Colour], min_ttl: float, threads: bool) -> None:
        self.world.threads_available = threads
        for colour in crowd:
            self.world.call(REQUESTS[number], colour, min_ttl)

    @precondition(lambda self: len(self.world.actors) < CROWDED)
    @rule(colour=COLOURS)
    def a_batch_begins(self, colour: Colour) -> None:
        for request in REQUESTS:
            self.world.call(request, colour, 0.0)

    @precondition(lambda self: self.world.served and len(self.world.actors) < CROWDED)
    @rule(which=ANY, crowd=st.lists(COLOURS, min_size=1, max_size=3))
    def a_token_is_rejected(self, which: int, crowd: list[Colour]) -> None:
        request, token = self.world.served[which % len(self.world.served)]
        for colour in crowd:
            self.world.reject(request, token, colour)

    @precondition(lambda self: self.world.served and len(self.world.actors) < CROWDED)
    @rule(colour=COLOURS)
    def an_old_token_is_rejected(self, colour: Colour) -> None:
        self.world.reject(*self.world.served[0], colour)

    @precondition(lambda self: self.world.due())
    @rule(which=ANY)
    def somebody_goes_on(self, which: int) -> None:
        due = self.world.due()
        due[which % len(due)].go_on()

    @precondition(lambda self: self.world.sending())
    @rule(which=ANY, what=st.sampled_from(TOKENS))
    def the_server_issues(self, which: int, what: str) -> None:
        sending = self.world.sending()
        self.world.answer(sending[which % len(sending)], what)

    @precondition(lambda self: self.world.sending())
    @rule(which=ANY, what=st.sampled_from(FAILURES))
    def the_server_fails(self, which: int, what: str) -> None:
        sending = self.world.sending()
        self.world.answer(sending[which % len(sending)], what)

    @precondition(lambda self: self.world.actors)
    @rule(which=ANY)
    def somebody_is_cancelled(self, which: int) -> None:
        actor = self.world.actors[which % len(self.world.actors)]
        actor.resume(error=Cancelled())
        assert isinstance(actor.error, Cancelled)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.world.let_time_pass(seconds)

    @rule(seconds=SECONDS)
    def everybody_is_late(self, seconds: float) -> None:
        self.world.skip_time(seconds)

    @rule(frozen=st.booleans(), seconds=st.sampled_from([-3600.0, -2.0, 5.0, 3600.0]))
    def a_clock_is_disturbed(self, frozen: bool, seconds: float) -> None:
        self.world.disturb(frozen, seconds)

    @rule(number=st.integers(0, len(REQUESTS)))
    def tokens_are_forgotten(self, number: int) -> None:
        self.world.forget(REQUESTS[number] if number < len(REQUESTS) else None)

    def teardown(self) -> None:
        """
        Nobody waits for ever: with a server that is well again, everybody comes to an end.
        """
        world: World | None = getattr(self, "world", None)
        if world is None:
            return
        try:
            self._drain(world)
            world.let_time_pass(LONGEST_PAUSE * 1.1 + 61)
            for request in REQUESTS:
                world.call(request, "task", 0.0)
                self._drain(world)
                assert world.store.peek(request.key) is not None
            assert world.acquirer._flights._flights == {}
            assert world.acquirer._asker._turns._queues == {}
        finally:
            for actor in list(world.actors):
                actor.close()

    def _drain(self, world: World) -> None:
        for _ in range(1000):
            if not world.actors:
                return
            sending, due = world.sending(), world.due()
            if due:
                due[0].go_on()
            elif sending:
                world.answer(sending[0], "token 3600")
            else:
                world.let_time_pass(min(actor.due_at for actor in world.actors) - world.mono)
        raise AssertionError(f"somebody waits for ever: {[a.pending for a in world.actors]}")


TestRefreshMachine = RefreshMachine.TestCase
TestRefreshMachine.settings = settings(
    max_examples=int(os.environ.get("REFRESH_MACHINE_EXAMPLES", "300")),
    stateful_step_count=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_a_renewal_that_has_expired_meanwhile_is_none() -> None:
    """
    Rule 1: a machine that was frozen while it waited presents no token from before.
    """
    world = World(0.0)
    world.call(REQUESTS[0], "task", 0.0)
    world.answer(world.sending()[0], "token 3600")
    world.reject(*world.served[0], "task")
    world.disturb(frozen=True, seconds=3600.0)
    (renewing,) = world.sending()
    world.answer(renewing, "token 300")

    assert (None, None) == (renewing.outcome, renewing.error)


def test_a_server_that_is_too_slow_for_min_ttl_is_not_asked_for_ever() -> None:
    """
    P10: what arrives too late for this caller arrives too late the next time as well.
    """
    world = World(0.0)
    world.call(REQUESTS[0], "task", 100.0)
    (caller,) = world.actors
    tokens = []
    while caller.sending is not None:
        tokens.append(len(world.issues))
        world.let_time_pass(9.0)
        world.answer(caller, "token 120")

    assert [0, 1] == tokens
    assert isinstance(caller.error, TokenRequestError)
    assert "min_ttl" in str(caller.error)


def test_a_refresh_ahead_that_had_to_wait_looks_again() -> None:
    """
    Rule 4: it was refused to somebody else meanwhile, so it is not asked for once more.
    """
    world = World(0.5)
    world.call(REQUESTS[0], "task", 0.0)
    world.answer(world.sending()[0], "token 3600")
    world.let_time_pass(3300.0)
    world.call(REQUESTS[0], "task", 0.0)
    world.reject(*world.served[0], "task")
    world.answer(world.sending()[0], "invalid_client")
    (ahead,) = world.actors
    ahead.go_on()

    assert [] == world.actors


def test_a_rejected_token_that_was_replaced_is_not_renewed_again() -> None:
    """
    P8, T7: whoever was rejected with the old token gets the new one, without a request.
    """
    world = World(0.0)
    world.call(REQUESTS[0], "task", 0.0)
    world.answer(world.sending()[0], "token 3600")
    world.reject(*world.served[0], "task")
    world.answer(world.sending()[0], "token 3600")
    world.let_time_pass(20.0)
    world.reject(*world.served[0], "task")

    assert [] == world.actors
    assert world.served[1] == world.served[2]


def test_a_refresh_ahead_leaves_it_to_who_is_at_it() -> None:
    """
    P6: a renewal after a 401 is under way when it is started.
    """
    world = World(0.5)
    world.call(REQUESTS[0], "task", 0.0)
    world.answer(world.sending()[0], "token 3600")
    world.let_time_pass(3300.0)
    world.call(REQUESTS[0], "task", 0.0)
    world.reject(*world.served[0], "task")
    ahead = next(actor for actor in world.actors if actor.purpose == "ahead")
    ahead.go_on()

    assert 1 == len(world.sending())
    world.answer(world.sending()[0], "token 3600")
    assert [] == world.actors


def test_who_waited_for_a_cancelled_leader_looks_again() -> None:
    """
    P6, T2: a third caller may have been quicker, and has brought a token for all.
    """
    world = World(0.0)
    for _ in range(2):
        world.call(REQUESTS[0], "task", 0.0)
    leader, waiter = world.actors
    leader.resume(error=Cancelled())
    world.call(REQUESTS[0], "thread", 0.0)
    world.answer(world.sending()[0], "token 3600")
    waiter.go_on()

    assert [] == world.actors
    assert 1 == len(world.issues)


def test_whoever_waited_for_a_turn_looks_again() -> None:
    """
    Rule 4: a waiter from before `forget` leads when its leader is cancelled, and asks after it like
    everybody else. Who comes later flies on their own, behind it in the queue, and finds its token.
    """
    world = World(0.0)
    for request in (*REQUESTS[:4], REQUESTS[4], REQUESTS[4]):
        world.call(request, "task", 0.0)
    leader, waiter = world.actors[4:]
    world.forget(REQUESTS[4])
    leader.resume(error=Cancelled())
    waiter.go_on()
    world.call(REQUESTS[4], "task", 0.0)
    later = world.actors[-1]
    for sending in world.sending()[:2]:
        world.answer(sending, "token 3600")
    waiter.go_on()
    world.answer(waiter, "token 3600")
    later.go_on()

    assert later.outcome is waiter.outcome is not None
    assert 3 == len(world.issues)


def test_a_pause_that_is_made_longer_is_kept() -> None:
    """
    T15: whoever sleeps until one `Retry-After` is over looks for the next one.
    """
    world = World(0.0)
    for request in REQUESTS[:2]:
        world.call(request, "task", 0.0)
    first, second = world.actors
    world.answer(first, "429 after 5")
    world.answer(second, "503 after 120")
    world.let_time_pass(5.0)

    assert [] == world.sending()
    assert "Retry-After" in str(first.error)
