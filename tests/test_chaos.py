"""
Between the client and node-oidc-provider stands a proxy that spoils what passes.

Whatever it does to a token request: one clear error, no secret in it, no token taken out of
service, none presented that has expired, and everything as before when the fault is over.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import httpx
import httpx2
import pytest

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ResourceTokenAuth,
    TokenEvent,
    TokenRequestError,
)
from tests.conftest import Caller, Clock
from tests.servers.apis import Answer, LedgerApi
from tests.servers.chaos import (
    ChaosProxy,
    Delay,
    Fault,
    Garbage,
    Instead,
    Pass,
    Refuse,
    Reset,
    Silence,
    StackTrace,
    Trickle,
    Truncate,
)
from tests.servers.oidc_provider import OidcProvider
from tests.servers.tls import serving, trusting

ORDERS, BILLING = "urn:example:orders", "urn:example:billing"
SECRET = "a chaotic secret, and not a short one"
PAIR = b64encode(f"worker:{quote_plus(SECRET)}".encode()).decode()
LIFETIME = 3600
SHORT = timedelta(milliseconds=400)

WAIT_7_S = (("Retry-After", "7"),)
BUSY = b'{"error": "temporarily_unavailable"}'
# What is done, and how often a caller who waits tries: again where that may help, and not where
# the time is up or the server has asked for peace.
FAULTS: dict[str, tuple[Fault, range]] = {
    "refused": (Refuse(), range(1, 4)),
    "reset": (Reset(), range(1, 4)),
    "reset in the headers": (Reset("headers"), range(1, 4)),
    "reset in the body": (Reset("body"), range(1, 4)),
    "half the headers": (Truncate("headers"), range(1, 4)),
    "half the body": (Truncate("body"), range(1, 4)),
    "no answer": (Silence(), range(1, 2)),
    "a byte at a time": (Trickle(), range(1, 2)),
    "no protocol": (Garbage(), range(1, 4)),
    "an HTML page": (
        Instead(Answer(200, (("Content-Type", "text/html"),), b"<!doctype html><title>Sign in")),
        range(1, 2),
    ),
    "a stack trace": (StackTrace(), range(1, 4)),
    "429": (Instead(Answer(429, WAIT_7_S, BUSY)), range(1, 2)),
    "503": (Instead(Answer(503, WAIT_7_S, BUSY)), range(1, 2)),
}
EVERY_FAULT = pytest.mark.parametrize("fault", FAULTS)


def callers(*which: tuple[Any, str]) -> pytest.MarkDecorator:
    """
    Not all six colours, where the fault meets a thread of the library's own.
    """
    names = [f"{library.__name__}-{colour}" for library, colour in which]
    return pytest.mark.parametrize("caller", which, ids=names, indirect=True)


A_FEW = callers((httpx, "sync"), (httpx, "trio"), (httpx2, "asyncio"))


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    resources: Any = {
        name: {"scopes": ["read"], "alg": "ES256", "ttl": LIFETIME} for name in (ORDERS, BILLING)
    }
    clients: Any = [{"client_id": "worker", "client_secret": SECRET}]
    with OidcProvider({"clients": clients, "resources": resources}) as running:
        yield running


@pytest.fixture(scope="module")
def api(provider: OidcProvider) -> Iterator[LedgerApi]:
    known: Any = {"issuer": provider.issuer, "jwks_uri": provider.jwks_uri}
    with LedgerApi(audiences={"/orders": ORDERS, "/billing": BILLING}, **known) as running:
        yield running


class Skipping(Clock):
    """
    A clock that runs, as the time for a token request does, and skips ahead when it is told to.
    """

    def __call__(self) -> float:
        return self.now + time.monotonic()


@pytest.fixture
def clock() -> Clock:
    return Skipping()


class Scene:
    """
    A client, the API it calls, and the proxy on its way to the authorization server.
    """

    def __init__(
        self, provider: OidcProvider, api: LedgerApi, chaos: ChaosProxy, clock: Clock
    ) -> None:
        self.provider, self.api, self.chaos, self.clock = provider, api, chaos, clock
        self.issued_at: dict[str, float] = {}
        self._changed = threading.Condition()
        self._events: list[TokenEvent] = []

    @property
    def orders(self) -> str:
        return f"{self.api.url}/orders/7"

    @property
    def billing(self) -> str:
        return f"{self.api.url}/billing/7"

    def auth(self, **options: Any) -> ResourceTokenAuth:
        """
        An auth object whose token requests go through the proxy.
        """
        options.setdefault("token_endpoint", f"{self.chaos.url}/token")
        options.setdefault("timeout", SHORT)
        self._auth = ResourceTokenAuth(
            AuthorizationServer(issuer=self.provider.issuer, **options),
            ClientSecretBasic("worker", SECRET),
            resources={f"{self.api.url}/orders": ORDERS, f"{self.api.url}/billing": BILLING},
            on_event=self._hear,
            clock=self.clock,
        )
        return self._auth

    def event_names(self) -> list[str]:
        with self._changed:
            return [event.name for event in self._events]

    def await_event(self, name: str) -> None:
        """
        Wait for the end of what runs in the background, and forget what was heard.
        """
        with self._changed:
            heard = self._changed.wait_for(
                lambda: name in [event.name for event in self._events], timeout=20
            )
            assert heard, f"no {name} among {self._events}"
            self._events.clear()
        self.await_refreshes()

    def await_refreshes(self) -> None:
        """
        Wait for every thread that refreshes.
        """
        for thread in threading.enumerate():
            if thread.name == "resource_tokens refresh":
                thread.join(20)

    def _hear(self, event: TokenEvent) -> None:
        if event.name in ("token_issued", "token_refreshed"):
            # It is in the cache when this is said.
            token = self._auth.cache.get(event.resource)
            self.issued_at[token.reveal()] = self.clock()
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()


@pytest.fixture
def scene(
    provider: OidcProvider,
    api: LedgerApi,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Scene]:
    provider.clear()
    api.clear()
    with (
        ChaosProxy(int(provider.issuer.rpartition(":")[2])) as chaos,
        caplog.at_level(logging.DEBUG),
    ):
        yield Scene(provider, api, chaos, clock)
    written = "\n".join(f"{r.getMessage()} {r.args!r}" for r in caplog.get_records("call"))
    assert [] == secrets_in(written, api)


def secrets_in(text: str, api: LedgerApi) -> list[str]:
    return [secret for secret in (SECRET, PAIR, *api.tokens_seen()) if secret in text]


def assert_clear(error: BaseException, scene: Scene) -> None:
    """
    The right class, the resource, the next step, and no secret: not in the error, and not in what
    a reporter of errors shows of the frames it came through.
    """
    assert type(error) in (TokenRequestError, *TokenRequestError.__subclasses__())
    assert ORDERS == getattr(error, "resource", None)
    assert ORDERS in str(error)
    assert any(step in str(error) for step in ("Check ", "Try again", "See ", "Ask "))
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = f"{error!s} {error!r} {error.args!r} {''.join(told.format())}"
    assert [] == secrets_in(shown, scene.api)


@EVERY_FAULT
def test_a_fault_is_one_clear_error_and_passes(caller: Caller, scene: Scene, fault: str) -> None:
    """
    P4, P9, T14: without a token to present the call fails, after no more tries than are allowed;
    nothing reaches the API. When the fault is over, so is the failure.
    """
    scene.chaos.otherwise, tries = FAULTS[fault]
    with caller.client(auth=scene.auth()) as client:
        with pytest.raises(TokenRequestError) as caught:
            client.get(scene.orders)

        assert_clear(caught.value, scene)
        assert [] == scene.api.seen
        assert len(scene.chaos.passages) in tries
        scene.chaos.heal()
        scene.clock.advance(8)
        assert 200 == client.get(scene.orders).status_code


@EVERY_FAULT
@A_FEW
def test_a_live_token_stays_in_service(caller: Caller, scene: Scene, fault: str) -> None:
    """
    P7, T6, T13: a refresh ahead that fails costs nobody a request and one token request; the
    token is presented until its hard margin, never after, and recovery needs no restart.
    """
    with caller.client(auth=scene.auth()) as client:
        client.get(scene.orders)
        scene.clock.advance(LIFETIME - 290)
        scene.chaos.clear()
        scene.chaos.otherwise = FAULTS[fault][0]
        during = client.get(scene.orders)
        scene.await_event("token_request_failed")
        asked = len(scene.chaos.passages)

        scene.chaos.otherwise = Refuse()
        scene.clock.advance(270)
        with pytest.raises(TokenRequestError):
            client.get(scene.orders)
        presented = len(scene.api.seen)

        scene.chaos.heal()
        scene.clock.advance(8)
        after = client.get(scene.orders)

    assert (200, 200) == (during.status_code, after.status_code)
    assert 1 == asked
    assert 2 == presented
    assert 2 == len(scene.api.tokens_seen())
    assert [200, 200, 200] == [seen.status for seen in scene.api.seen]


@EVERY_FAULT
@callers((httpx2, "sync"), (httpx, "asyncio"))
def test_a_refresh_ahead_recovers_behind_the_callers_back(
    caller: Caller, scene: Scene, fault: str
) -> None:
    """
    P7: nobody waits and nobody fails from the first fault to the new token.
    """
    with caller.client(auth=scene.auth()) as client:
        client.get(scene.orders)
        scene.clock.advance(LIFETIME - 290)
        scene.chaos.script(FAULTS[fault][0])
        client.get(scene.orders)
        scene.await_event("token_request_failed")
        scene.clock.advance(8)
        client.get(scene.orders)
        scene.await_event("token_refreshed")
        client.get(scene.orders)

    assert [200] * 4 == [seen.status for seen in scene.api.seen]
    first, second = scene.api.tokens_seen()
    assert [first] * 3 + [second] == [t for seen in scene.api.seen for t in set(seen.tokens())]


def test_trouble_on_the_way_is_tried_again(caller: Caller, scene: Scene) -> None:
    """
    P7: within the time for a token request, and each try is an event. The caller sees none of it.
    """
    scene.chaos.script(Reset(), Truncate("body"))
    with caller.client(auth=scene.auth(timeout=timedelta(seconds=20))) as client:
        response = client.get(scene.orders)

    assert 200 == response.status_code
    assert 3 == len(scene.chaos.passages)
    assert ["token_request_retried"] * 2 + ["token_issued"] == scene.event_names()


def test_an_answer_may_take_its_time(caller: Caller, scene: Scene) -> None:
    """
    P10: slow is no fault until the time is up.
    """
    scene.chaos.otherwise = Delay(0.1)
    with caller.client(auth=scene.auth(timeout=timedelta(seconds=20))) as client:
        response = client.get(scene.orders)

    assert 200 == response.status_code
    assert 1 == len(scene.chaos.passages)


@pytest.mark.parametrize("fault", ["no answer", "reset", "503"])
def test_a_crowd_fails_and_recovers_together(caller: Caller, scene: Scene, fault: str) -> None:
    """
    P6, T3: thirty callers cost the tries of one and no second wave; each has an error of its own.
    """
    scene.chaos.otherwise, tries = FAULTS[fault]
    cache = scene.auth(timeout=timedelta(seconds=1)).cache
    # The last one may come when the first has failed, and then asks for itself.
    errors = caller.token_together(cache, [ORDERS] * 30)
    asked = len(scene.chaos.passages)
    scene.chaos.heal()
    scene.chaos.clear()
    scene.clock.advance(8)
    tokens = caller.token_together(cache, [ORDERS] * 30)

    assert 30 == len({id(error) for error in errors})
    for error in errors:
        assert_clear(error, scene)
    assert asked in tries
    assert 1 == len({token.reveal() for token in tokens})
    assert 1 == len(scene.chaos.passages)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_left_alone(caller: Caller, scene: Scene, status: int) -> None:
    """
    T15: `Retry-After` goes for all requests of this client, whatever they are for, until it is
    over; who waits is told so at once.
    """
    scene.chaos.script(Instead(Answer(status, WAIT_7_S, BUSY)))
    with caller.client(auth=scene.auth()) as client:
        for url in (scene.orders, scene.billing, scene.orders):
            with pytest.raises(TokenRequestError):
                client.get(url)
            scene.clock.advance(2)
        asked = len(scene.chaos.passages)
        scene.clock.advance(2)
        answers = [client.get(url).status_code for url in (scene.orders, scene.billing)]

    assert 1 == asked
    assert [200, 200] == answers
    assert 3 == len(scene.chaos.passages)


@pytest.mark.parametrize(
    "fault", [name for name in FAULTS if name not in ("429", "503", "an HTML page")]
)
@A_FEW
def test_discovery_fails_as_clearly(caller: Caller, scene: Scene, fault: str) -> None:
    """
    T14: the metadata of an issuer comes over the same wire.
    """
    scene.chaos.otherwise = FAULTS[fault][0]
    # As a forward proxy it is on the way to the issuer's own addresses.
    auth = scene.auth(token_endpoint=None, proxy=scene.chaos.url)
    with caller.client(auth=auth) as client:
        with pytest.raises(TokenRequestError) as caught:
            client.get(scene.orders)

        assert_clear(caught.value, scene)
        assert {"GET"} >= {p.target.partition(" ")[0] for p in scene.chaos.passages if p.request}
        scene.chaos.heal()
        scene.clock.advance(8)
        assert 200 == client.get(scene.orders).status_code


@pytest.mark.parametrize(
    "fault",
    [Garbage(), Reset("at once"), Reset(), Truncate("headers"), Truncate("body"), Silence()],
)
@A_FEW
def test_trouble_with_tls_is_trouble_like_any_other(
    caller: Caller,
    provider: OidcProvider,
    api: LedgerApi,
    clock: Clock,
    fault: Fault,
) -> None:
    """
    P9, T14: in the handshake and inside of it.
    """
    api.clear()
    port = int(provider.issuer.rpartition(":")[2])
    with ChaosProxy(port, tls=serving()) as chaos:
        scene = Scene(provider, api, chaos, clock)
        chaos.otherwise = fault
        auth = scene.auth(verify=trusting(), timeout=timedelta(seconds=1))
        with caller.client(auth=auth) as client:
            with pytest.raises(TokenRequestError) as caught:
                client.get(scene.orders)

            assert_clear(caught.value, scene)
            chaos.heal()
            assert 200 == client.get(scene.orders).status_code


def test_nobody_listens(caller: Caller, scene: Scene) -> None:
    """
    T14: connection refused, and later not.
    """
    with ChaosProxy(1) as stopped:
        gone = f"{stopped.url}/token"
    with (
        caller.client(auth=scene.auth(token_endpoint=gone)) as client,
        pytest.raises(TokenRequestError) as caught,
    ):
        client.get(scene.orders)
    with caller.client(auth=scene.auth()) as client:
        assert 200 == client.get(scene.orders).status_code

    assert_clear(caught.value, scene)


@callers((httpx, "sync"), (httpx2, "trio"))
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_costs_only_those_who_have_no_token(
    caller: Caller, scene: Scene, seed: int
) -> None:
    """
    P4, P7: days of virtual time with nine faults for each answer. A call fails only when no token
    is left to present, and no token is presented that has expired.
    """
    chance = random.Random(seed)
    quick = [fault for fault, _ in FAULTS.values() if not isinstance(fault, Silence | Trickle)]
    auth = scene.auth()
    with caller.client(auth=auth) as client:
        for _ in range(60):
            scene.chaos.otherwise = Pass() if chance.random() < 0.3 else chance.choice(quick)
            scene.chaos.clear()
            now = scene.clock()
            try:
                status = client.get(scene.orders).status_code
            except TokenRequestError:
                # Nothing was left: the last one was in its hard margin, or got there meanwhile.
                age = scene.clock() - max(scene.issued_at.values(), default=-1e9)
                assert age >= LIFETIME - 30
                assert len(scene.chaos.passages) <= 3
            else:
                (token,) = set(scene.api.seen[-1].tokens())
                assert (200, True) == (status, now - scene.issued_at[token] < LIFETIME - 30)
            scene.await_refreshes()
            scene.clock.advance(chance.choice([40, 400, 1700]))

    assert 2 < len(scene.issued_at)
