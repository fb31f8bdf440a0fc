"""
The decision "cached, wait or fetch", in virtual time with an authorization server made of values.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from resource_tokens import (
    AudienceMismatchError,
    AuthorizationServer,
    ClientSecretBasic,
    OAuthError,
    Resource,
    TokenEvent,
    TokenRequestError,
)
from resource_tokens._acquire import Acquirer
from resource_tokens._ask import Surroundings, in_daemon_thread
from resource_tokens._io import SendError, run_to_end
from resource_tokens.egress import Bindings
from resource_tokens.events import Events
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest, retry_after
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.tokens import AccessToken
from tests.conftest import Clock
from tests.test_tokens import asked

ENDPOINT = AuthorizationServer(token_endpoint="https://login.example.com/token")


@dataclass
class Scripted:
    """
    An I/O that never suspends: it answers from a script, and from a counter when that is empty.
    """

    clock: Clock
    blocking: bool = True
    lifetime: float = 3600
    script: list[Any] = field(default_factory=list)
    sent: list[HTTPRequest] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    async def send(
        self, request: HTTPRequest, _server: AuthorizationServer, limit: float
    ) -> HTTPAnswer:
        self.sent.append(request)
        self.limits.append(limit)
        step: Any = self.script.pop(0) if self.script else {}
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step = step()
        status, headers = step.pop("status", 200), step.pop("headers", {})
        body = {
            "access_token": f"token-{len(self.sent)}",
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        }
        return HTTPAnswer(status, headers, json.dumps(body | step).encode())

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)

    async def run(self, work: Callable[[], Any], limit: float, *, shielded: bool = False) -> Any:
        raise AssertionError(f"no store here, for {limit} s or {shielded}: {work}")

    async def wait(self, future: Future[Any], _limit: float) -> None:
        assert future.done(), "nothing to wait for in one thread"


class Bench:
    """
    An acquirer in a world that stands still.
    """

    def __init__(self, *, draw: float = 0.0) -> None:
        self.clock = Clock()
        self.io = Scripted(self.clock)
        self.events: list[TokenEvent] = []
        self.spawned: list[Callable[[], None]] = []
        self.store = MemoryTokenStore()
        self.spawn_error: BaseException | None = None
        self.wall = 1e9
        surroundings = Surroundings(self.clock, lambda: self.wall, lambda: draw, self._spawn)
        self.acquirer = Acquirer(
            self.store, Bindings(), Events(self.events.append), surroundings, frozenset()
        )
        # A refresh ahead uses the acquirer's own I/O.
        self.acquirer._background = self.io  # type: ignore[assignment]

    def _spawn(self, work: Callable[[], None]) -> None:
        if self.spawn_error is not None:
            raise self.spawn_error
        self.spawned.append(work)

    def refresh(self) -> None:
        while self.spawned:
            self.spawned.pop(0)()

    def get(self, request: TokenRequest | None = None, min_ttl: float = 0.0) -> AccessToken:
        return run_to_end(self.acquirer.acquire(request or REQUEST, self.io, min_ttl)).token

    def renew(self, rejected: AccessToken) -> AccessToken | None:
        renewed = run_to_end(self.acquirer.renew(REQUEST, rejected, self.io))
        return None if renewed is None else renewed.token

    def forget(self, resource: str | None) -> int:
        return run_to_end(self.acquirer.forget(resource, self.io))

    def names(self) -> list[str]:
        return [event.name for event in self.events]


REQUEST = asked(server=ENDPOINT)
REFUSED = {"status": 401, "error": "invalid_client"}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_fresh_token_is_served_without_asking(bench: Bench) -> None:
    """
    Rule 1: one request, and the same token until the soft window.
    """
    first = bench.get()
    bench.clock.advance(3299)

    assert first == bench.get()
    assert 1 == len(bench.io.sent)
    assert [] == bench.spawned


def test_the_soft_window_refreshes_once_behind_the_callers_back(bench: Bench) -> None:
    """
    Rule 2: however many callers come, one refresh is started, and they all get the old token.
    """
    first = bench.get()
    bench.clock.advance(3300)

    assert [first] * 3 == [bench.get() for _ in range(3)]
    assert 1 == len(bench.spawned)
    assert 1 == len(bench.io.sent)
    bench.refresh()
    assert first != bench.get()
    assert ["token_issued", "token_refreshed"] == bench.names()


def test_the_hard_margin_is_never_crossed(bench: Bench) -> None:
    """
    Rule 1, P7, T13: with the server down, an error and never an old token.
    """
    bench.get()
    bench.clock.advance(3570)
    bench.io.script = [SendError("connection refused")] * 3

    with pytest.raises(TokenRequestError, match="connection refused"):
        bench.get()


def test_a_failed_refresh_ahead_keeps_the_token_and_backs_off() -> None:
    """
    Rule 6, P7, T6: 1, 2, 4 ... seconds between tries, and the token stays in service.
    """
    bench = Bench(draw=1.0)
    bench.io.lifetime = 86400
    first = bench.get()
    bench.clock.advance(86400 - 360)
    tries = []
    for second in range(50):
        bench.io.script = [SendError("no route")]
        assert first == bench.get()
        if bench.spawned:
            tries.append(second)
            bench.refresh()
        bench.clock.advance(1)

    assert [0, 1, 3, 7, 15, 31] == tries
    assert ["token_request_failed"] * 6 == bench.names()[1:]
    bench.io.script = []
    bench.clock.advance(30)
    bench.get()
    bench.refresh()
    assert first != bench.get()


def test_backoff_is_bounded_and_reset_by_a_success() -> None:
    """
    Rule 6: never more than 30 s; after a success it starts over.
    """
    bench = Bench(draw=1.0)
    for _ in range(12):
        bench.io.script = [SendError("no")] * 3
        with pytest.raises(TokenRequestError):
            bench.get()
    cool_down = bench.acquirer._cool_downs[REQUEST.key]

    assert 30.0 == cool_down.until - bench.clock()
    bench.get()
    assert REQUEST.key not in bench.acquirer._cool_downs


def test_a_refusal_is_remembered_and_not_hammered(bench: Bench) -> None:
    """
    Rule 6: within a second nobody asks again; each caller gets an error of its own.
    """
    bench.io.script = [dict(REFUSED)]
    with pytest.raises(OAuthError) as first:
        bench.get()
    with pytest.raises(OAuthError) as second:
        bench.get()

    assert 1 == len(bench.io.sent)
    assert first.value is not second.value
    assert first.value.args == second.value.args
    bench.clock.advance(1.01)
    assert "token-2" == bench.get().reveal()


def test_refusals_are_remembered_longer_each_time_up_to_a_minute() -> None:
    """
    Rule 6: 1 to 5 s at first, doubling to 60 s.
    """
    bench = Bench(draw=1.0)
    remembered = []
    for _ in range(6):
        bench.io.script = [dict(REFUSED)]
        with pytest.raises(OAuthError):
            bench.get()
        remembered.append(bench.acquirer._cool_downs[REQUEST.key].until - bench.clock())
        bench.clock.advance(remembered[-1] + 0.01)

    assert [5, 10, 20, 40, 60, 60] == pytest.approx(remembered)


def test_trouble_that_may_pass_is_not_remembered_for_callers(bench: Bench) -> None:
    """
    An outage is no verdict: whoever has no token asks again.
    """
    bench.io.script = [SendError("no route")] * 3
    bench.io.script += [{"status": 400, "error": "temporarily_unavailable"}]
    for _ in range(2):
        with pytest.raises(TokenRequestError):
            bench.get()

    assert "token-5" == bench.get().reveal()


def test_a_refusal_of_a_refresh_never_replaces_a_live_token(bench: Bench) -> None:
    """
    Rule 6, T6: the token is good until its hard margin, whatever the server thinks by now.
    """
    first = bench.get()
    bench.clock.advance(3400)
    bench.io.script = [dict(REFUSED)]
    bench.get()
    bench.refresh()

    assert first == bench.get()
    bench.clock.advance(165)
    assert first == bench.get()
    bench.refresh()
    bench.clock.advance(10)
    assert first != bench.get()


def test_a_mismatch_is_an_event_and_remembered(bench: Bench) -> None:
    """
    P11: a token for something else is dropped, said, and not asked for again at once.
    """
    bench.io.script = [{"resource": "urn:x:other"}]
    for _ in range(2):
        with pytest.raises(AudienceMismatchError):
            bench.get()

    assert ["audience_mismatch"] == bench.names()
    assert 1 == len(bench.io.sent)
    assert 0 == len(bench.store)


def test_one_token_for_two_resources_is_refused(bench: Bench) -> None:
    """
    Section 9: the same string for another resource means that the server ignores `resource`.
    """
    same = {"access_token": "the-same"}
    bench.io.script = [dict(same), dict(same), dict(same)]
    other = asked(server=ENDPOINT, resource=Resource("urn:x:b"))
    bench.get()

    with pytest.raises(AudienceMismatchError, match="same token") as caught:
        bench.get(other)
    assert "the-same" not in repr(caught.value.args)
    assert ("urn:x:a", "urn:x:b") == caught.value.audience
    # The same resource with other scopes may get the same token.
    assert "the-same" == bench.get(asked(server=ENDPOINT, scopes=frozenset())).reveal()


def test_remarks_become_events(bench: Bench) -> None:
    """
    P11: what the answer lacked or added is said.
    """
    bench.io.script = [{"expires_in": None, "scope": "a c"}]
    bench.get()

    assert [
        "token_issued",
        "expires_in_missing",
        "scope_narrowed",
        "scope_widened",
    ] == bench.names()
    assert {"urn:x:a"} == {event.resource for event in bench.events}


def test_a_rejected_token_is_renewed_once_in_ten_seconds(bench: Bench) -> None:
    """
    Rule 7, P8: once per key; a token that was renewed since is handed out instead.
    """
    first = bench.get()
    second = bench.renew(first)
    assert second is not None
    assert first != second

    assert second == bench.renew(first)
    assert bench.renew(second) is None
    assert 2 == len(bench.io.sent)
    bench.clock.advance(10.01)
    assert bench.renew(second) not in (None, first, second)


def test_a_rejected_token_that_is_no_longer_kept_is_renewed(bench: Bench) -> None:
    """
    Rule 7: an entry that was dropped meanwhile is no reason to give up.
    """
    first = bench.get()
    bench.store.forget(lambda _: True)

    assert bench.renew(first) not in (None, first)


def test_a_server_that_returns_the_rejected_token_again_ends_it(bench: Bench) -> None:
    """
    P8: the same token would be rejected again.
    """
    bench.io.script = [{"access_token": "same"}, {"access_token": "same"}]

    assert bench.renew(bench.get()) is None


def test_the_same_string_with_another_expiry_is_the_same_token(bench: Bench) -> None:
    """
    P8: servers that cache say the same token again, with less time left.
    """
    bench.io.script = [{"access_token": "same"}, {"access_token": "same", "expires_in": 100}]
    first = bench.get()
    bench.wall += 5

    assert bench.renew(first) is None


def test_an_expired_token_in_the_store_is_no_renewal(bench: Bench) -> None:
    """
    Rule 1: what another request left there is handed out only while it is good.
    """
    first = bench.get()
    second = bench.renew(first)
    bench.clock.advance(4000)
    third = bench.renew(first)

    assert third not in (None, first, second)


def test_a_token_that_expired_on_its_way_is_refused(bench: Bench) -> None:
    """
    T12, T13: one typed error, and neither a loop nor an expired token.
    """

    def slow() -> dict[str, Any]:
        bench.clock.advance(2)
        return {"expires_in": 1}

    bench.io.script = [slow, {"expires_in": 1e-300}]
    for _ in range(2):
        with pytest.raises(TokenRequestError, match=r"expired when it arrived|expires_in"):
            bench.get()

    assert 2 == len(bench.io.sent)


def test_a_refresh_that_cannot_start_leaves_no_flight(bench: Bench) -> None:
    """
    Rule 2: whatever keeps a thread from starting, the token at hand is served.
    """
    first = bench.get()
    bench.clock.advance(3400)
    bench.spawn_error = MemoryError()
    assert first == bench.get()
    bench.spawn_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench.get()

    assert bench.acquirer._flights._flights == {}


def test_a_remembered_refusal_holds_on_to_no_frames(bench: Bench) -> None:
    """
    P9: the request that failed is not kept alive by the memory of its failure.
    """
    bench.io.script = [dict(REFUSED)]
    with pytest.raises(OAuthError):
        bench.get()
    with pytest.raises(OAuthError) as caught:
        bench.get()

    assert bench.acquirer._cool_downs[REQUEST.key].error.__traceback__ is None
    assert caught.value.__cause__ is None


def test_an_acquirer_is_not_misled_by_a_renewal_that_came_to_nothing(bench: Bench) -> None:
    """
    Both fly under one key: whoever waited for the other looks again.
    """
    first = bench.get()
    outcomes: list[Any] = [None]
    once = bench.acquirer._flights.once

    async def joined(*arguments: Any) -> Any:
        return outcomes.pop() if outcomes else await once(*arguments)

    bench.store.forget(lambda _: True)
    bench.acquirer._flights.once = joined  # type: ignore[method-assign,assignment]

    assert first != bench.get()


def test_a_failed_renewal_costs_nothing(bench: Bench) -> None:
    """
    P8: the token stays where it was.
    """
    first = bench.get()
    bench.io.script = [SendError("down")] * 3

    assert bench.renew(first) is None
    assert first == bench.get()


def test_without_threads_the_next_caller_after_the_margin_fetches(bench: Bench) -> None:
    """
    Rule 2: at the end of a process, or where there are no threads, nothing gets stuck.
    """
    first = bench.get()
    bench.spawn_error = RuntimeError("can't start new thread")
    bench.clock.advance(3400)

    assert first == bench.get()
    bench.clock.advance(200)
    assert first != bench.get()


def test_a_refresh_that_was_overtaken_is_not_repeated(bench: Bench) -> None:
    """
    Rule 4: the leader looks again before it asks, in the background too.
    """
    first = bench.get()
    bench.clock.advance(3400)
    bench.get()
    overtaking = bench.spawned.pop()
    bench.renew(first)
    bench.acquirer._flights._flights.clear()
    overtaking()

    assert 2 == len(bench.io.sent)


def test_the_clock_starts_before_the_request_is_sent(bench: Bench) -> None:
    """
    R6749-13: a slow answer shortens the life that is left, never lengthens it.
    """

    def slow() -> dict[str, Any]:
        bench.clock.advance(100)
        return {}

    bench.io.script = [slow]
    bench.get()
    cached = bench.store.load(REQUEST.key)

    assert cached is not None
    assert 1000.0 + 3570 == cached.freshness.hard_at


def test_tokens_are_bounded(bench: Bench) -> None:
    """
    P10: the least recently used token goes first.
    """
    small = MemoryTokenStore(maxsize=2)
    cached = bench.acquirer
    requests = [asked(server=ENDPOINT, resource=Resource(f"urn:x:{n}")) for n in range(3)]
    entries = [run_to_end(cached.acquire(request, bench.io)) for request in requests]
    for request, entry in zip(requests[:2], entries[:2], strict=True):
        small.save(request.key, entry)
    small.load(requests[0].key)
    small.save(requests[2].key, entries[2])

    assert small.load(requests[1].key) is None
    assert entries[0] == small.load(requests[0].key)
    assert "MemoryTokenStore(2 of 2 tokens)" == repr(small)


def test_a_spawned_refresh_keeps_no_process_alive() -> None:
    """
    Rule 2: the thread is a daemon.
    """
    seen: list[bool] = []
    done = threading.Event()

    def work() -> None:
        seen.append(threading.current_thread().daemon)
        done.set()

    in_daemon_thread(work)

    assert done.wait(10)
    assert [True] == seen


def test_credentials_of_two_clients_do_not_share(bench: Bench) -> None:
    """
    C5: a wrong secret never gets the token of the right one.
    """
    right = bench.get()
    wrong = bench.get(asked(server=ENDPOINT, client_auth=ClientSecretBasic("id", "other")))

    assert right != wrong


def test_a_request_that_failed_on_the_way_is_sent_again_while_somebody_waits() -> None:
    """
    Asking 2: network errors and 5xx, with backoff, within the server's timeout.
    """
    bench = Bench(draw=1.0)
    bench.io.script = [SendError("reset"), {"status": 502}]

    assert "token-3" == bench.get().reveal()
    assert [0.25, 0.5] == bench.io.slept
    assert [10.0, 9.75, 9.25] == bench.io.limits
    assert ["token_request_retried", "token_request_retried", "token_issued"] == bench.names()


def test_a_request_that_keeps_failing_is_given_up(bench: Bench) -> None:
    """
    Asking 2, P10: three tries, and one error that says what happened.
    """
    bench.io.script = [SendError("connection refused")] * 9

    with pytest.raises(TokenRequestError, match="connection refused") as caught:
        bench.get()
    assert 3 == len(bench.io.sent)
    assert "urn:x:a" == caught.value.resource


def test_no_try_begins_after_the_time_is_up(bench: Bench) -> None:
    """
    Asking 2: the time for one request is the time for all its tries.
    """

    def slow() -> dict[str, Any]:
        bench.clock.advance(10)
        return {"status": 504}

    bench.io.script = [slow, slow]

    with pytest.raises(TokenRequestError, match="504"):
        bench.get()
    assert 1 == len(bench.io.sent)


@pytest.mark.parametrize(
    "step", [SendError("certificate", passing=False), {"status": 400}, {"status": 404}]
)
def test_what_another_try_does_not_change_is_not_tried_again(bench: Bench, step: Any) -> None:
    """
    Asking 2: a certificate that is not trusted, a refusal, a wrong address.
    """
    bench.io.script = [step]

    with pytest.raises(TokenRequestError):
        bench.get()
    assert 1 == len(bench.io.sent)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_by_all_requests_of_the_client(status: int) -> None:
    """
    Asking 3: in seconds; one that fits into the time is waited for, another is said at once.
    """
    bench = Bench(draw=1.0)
    other = asked(server=ENDPOINT, resource=Resource("urn:x:b"))
    stranger = asked(server=ENDPOINT, client_auth=ClientSecretBasic("other", "secret"))
    bench.io.script = [{"status": status, "headers": {"retry-after": "120"}}]

    with pytest.raises(TokenRequestError):
        bench.get()
    with pytest.raises(TokenRequestError, match=r"stay away for another 132 s \(Retry-After\)"):
        bench.get(other)
    assert 1 == len(bench.io.sent)
    bench.get(stranger)
    assert 2 == len(bench.io.sent)
    bench.clock.advance(127)
    bench.get(other)
    assert [5.0] == bench.io.slept


def test_a_short_retry_after_is_waited_for(bench: Bench) -> None:
    """
    Asking 3: the caller gets its token, two seconds later.
    """
    bench.io.script = [{"status": 503, "headers": {"retry-after": "2"}}]

    assert "token-2" == bench.get().reveal()
    assert [0.0, 2.0] == bench.io.slept


def test_retry_after_is_bounded(bench: Bench) -> None:
    """
    Asking 3, P10: no server silences a client for ever.
    """
    bench.io.script = [{"status": 503, "headers": {"retry-after": "9999999999"}}]
    with pytest.raises(TokenRequestError):
        bench.get()
    bench.clock.advance(3600)

    assert "token-2" == bench.get().reveal()


def test_retry_after_stops_refreshes_ahead(bench: Bench) -> None:
    """
    Rule 6, asking 3: the token at hand is served, and the server is left alone.
    """
    first = bench.get()
    bench.clock.advance(3400)
    bench.io.script = [{"status": 503, "headers": {"retry-after": "60"}}]
    bench.get()
    bench.refresh()
    for _ in range(59):
        bench.clock.advance(1)
        assert first == bench.get()
        bench.refresh()

    assert 2 == len(bench.io.sent)
    bench.clock.advance(2)
    bench.get()
    bench.refresh()
    assert 3 == len(bench.io.sent)
    assert first != bench.get()


def test_a_refresh_ahead_that_was_queued_before_retry_after_does_not_ask(bench: Bench) -> None:
    """
    Asking 3: it looks again when its turn has come.
    """
    other = asked(server=ENDPOINT, resource=Resource("urn:x:b"))
    bench.get()
    bench.get(other)
    bench.clock.advance(3400)
    bench.io.script = [{"status": 503, "headers": {"retry-after": "60"}}]
    bench.get()
    bench.get(other)
    bench.refresh()

    assert 3 == len(bench.io.sent)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": "Tue, 24 Nov 2026 10:00:30 GMT"}, 1795514430.0 - 1e9),
        (
            {
                "retry-after": "Tue, 24 Nov 2026 10:00:30 GMT",
                "date": "Tue, 24 Nov 2026 10:00:00 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Tue, 24 Nov 1998 10:00:30 GMT"}, 0.0),
        (
            {"retry-after": "Tue, 24 Nov 2026 10:00:30 -0000", "date": "nonsense"},
            1795514430.0 - 1e9,
        ),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "99999999999"}, None),
        ({"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    """
    RFC 9110 10.2.3; a date is taken by the server's own clock where it says what time it is.
    """
    assert seconds == retry_after(HTTPAnswer(503, headers, b""), 1e9)


def test_a_token_that_lives_long_enough_is_served(bench: Bench) -> None:
    """
    Section 9: `min_ttl` asks for a new token only if the one at hand does not last.
    """
    first = bench.get()
    bench.clock.advance(3000)

    assert first == bench.get(min_ttl=500)
    second = bench.get(min_ttl=600)
    assert first != second
    assert second == bench.get()


def test_a_min_ttl_that_no_token_reaches_is_an_error(bench: Bench) -> None:
    """
    Section 9: said before anything is sent, once it is known how long the tokens live.
    """
    for _ in range(3):
        with pytest.raises(TokenRequestError, match="3570 s, and min_ttl asks for 4000 s"):
            bench.get(min_ttl=4000)

    assert 1 == len(bench.io.sent)


def test_a_machine_that_was_frozen_does_not_present_an_old_token(bench: Bench) -> None:
    """
    P7: a steady clock that stood still for an hour is overruled by the wall clock.
    """
    first = bench.get()
    bench.wall += 3600

    assert first != bench.get()


def test_a_wall_clock_that_is_set_back_lengthens_no_life(bench: Bench) -> None:
    """
    P7: the later of the two clocks counts.
    """
    first = bench.get()
    bench.wall -= 86400
    bench.clock.advance(3000)
    assert first == bench.get()
    bench.clock.advance(600)

    assert first != bench.get()


def test_what_was_asked_for_before_forget_is_not_kept(bench: Bench) -> None:
    """
    Rule 8: a token that arrives after `forget` is for those who asked before it.
    """

    def forgotten_meanwhile() -> dict[str, Any]:
        assert 0 == bench.forget("urn:x:a")
        return {}

    bench.io.script = [forgotten_meanwhile]
    first = bench.get()

    assert 0 == len(bench.store)
    assert first != bench.get()
    assert 1 == bench.forget(None)


def test_forget_of_another_resource_changes_nothing(bench: Bench) -> None:
    """
    Rule 8: each resource for itself.
    """

    def another_is_forgotten() -> dict[str, Any]:
        bench.forget("urn:x:b")
        return {}

    bench.io.script = [another_is_forgotten]

    assert bench.get() == bench.get()


def test_after_forget_nobody_waits_for_a_flight_from_before(bench: Bench) -> None:
    """
    Rule 8: whoever comes later has a flight of its own.
    """
    tokens: list[AccessToken] = []

    def forget_and_ask() -> dict[str, Any]:
        bench.forget(None)
        tokens.append(bench.get())
        return {"access_token": "from-before"}

    bench.io.script = [forget_and_ask]
    tokens.append(bench.get())

    assert ["token-2", "from-before"] == [token.reveal() for token in tokens]
    assert tokens[0] == bench.get()


def test_four_requests_at_a_time_go_to_one_server(bench: Bench) -> None:
    """
    Asking 1, P10: the fifth refresh ahead starts when one of the four has ended; a caller who
    waits goes before those that nobody waits for.
    """
    requests = [asked(server=ENDPOINT, resource=Resource(f"urn:x:{n}")) for n in range(7)]
    for request in requests:
        bench.get(request)
    bench.clock.advance(3400)
    for request in requests:
        bench.get(request)
        bench.get(request)

    assert 4 == len(bench.spawned)
    hurried = bench.acquirer._asker.turn(REQUEST)
    bench.spawned.pop(0)()
    assert hurried.future.done()
    assert 3 == len(bench.spawned)
    hurried.give_back()
    assert 4 == len(bench.spawned)
    bench.refresh()
    assert 14 == len(bench.io.sent)


def test_a_caller_whose_turn_does_not_come_gets_an_error(bench: Bench) -> None:
    """
    Asking 1, P10: nobody waits for ever.
    """
    for _ in range(4):
        bench.acquirer._asker._turns.ask(ENDPOINT, 4, 41.0, hurried=False)

    async def in_vain(_future: Future[Any], limit: float) -> None:
        assert 41.0 == limit

    bench.io.wait = in_vain  # type: ignore[method-assign,assignment]
    with pytest.raises(TokenRequestError, match=r"other requests to .* under way all the time"):
        bench.get()
    assert [] == bench.io.sent


def test_a_thread_that_has_a_turn_does_not_wait_for_another(bench: Bench) -> None:
    """
    Asking 1: a blocking call in an event loop whose tasks have all the turns.
    """
    for _ in range(4):
        bench.acquirer._asker._turns.ask(ENDPOINT, 4, 41.0)

    assert "token-1" == bench.get().reveal()
