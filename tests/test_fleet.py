"""
Many processes and one server: cold together, with one of them killed, and as the usual frameworks
start them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import pytest

from resource_tokens._sharing import _MARGIN
from resource_tokens.stores import new_key
from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer
from tests.servers.fleet import Place, Report, work
from tests.servers.valkey import ValkeyServer, free_port, until

ROOT = Path(__file__).parent.parent
PROCESSES, TASKS, RESOURCES = 32, 50, 20
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.servers.warm_fleet"])


class Holding(LocalAuthorizationServer):
    """
    An authorization server that can keep its first token request waiting.

    Attributes:
        reached: Whether it has come.
        go_on: Set to answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def _token_answer(self, request: Any) -> Any:
        first = not self.reached.is_set()
        self.reached.set()
        if first:
            self.go_on.wait(60)
        return super()._token_answer(request)


@pytest.fixture
def server() -> Iterator[Holding]:
    with Holding() as running:
        yield running


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def place(server: Holding, valkey: ValkeyServer) -> Place:
    """
    Twenty resources that nobody has a token of.
    """
    resources = {
        f"https://api-{number}.example.com/": f"urn:x:{number}" for number in range(RESOURCES)
    }
    return Place(server.token_endpoint, valkey.url, new_key(), resources)


class Process:
    """
    One of the fleet, ready to ask.
    """

    def __init__(self, place: Place, tasks: int = TASKS) -> None:
        self._ours, theirs = FORKS.Pipe()
        self._process = FORKS.Process(target=work, args=(theirs, place, tasks), daemon=True)
        self._process.start()
        theirs.close()
        assert "ready" == self._received(self._ours)

    def go(self) -> None:
        self._ours.send("go")

    def kill(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def report(self) -> Report:
        report: Report = self._received(self._ours)
        self._process.join()
        return report

    @staticmethod
    def _received(connection: Connection) -> Any:
        assert connection.poll(60), "nothing was heard of it for a minute"
        return connection.recv()


def check(reports: list[Report]) -> None:
    """
    Every task of every process got the one token of its resource.
    """
    assert [] == [failure for report in reports for failure in report.failures]
    assert {TASKS} == {len(report.waits) for report in reports}
    tokens: dict[str, set[str]] = {}
    for report in reports:
        for url, digests in report.tokens.items():
            tokens.setdefault(url, set()).update(digests)
    assert Counter({1: RESOURCES}) == Counter(len(digests) for digests in tokens.values())


def test_a_cold_fleet_asks_once_for_each_token(server: Holding, place: Place) -> None:
    """
    P6: 32 processes with 50 tasks each, at the same time, and 20 resources: 20 token requests.
    """
    fleet = [Process(place) for _ in range(PROCESSES)]
    for process in fleet:
        process.go()
    reports = [process.report() for process in fleet]

    check(reports)
    assert RESOURCES == len(server.token_requests)


def test_a_leader_that_is_killed_costs_one_token_request(
    server: Holding, valkey: ValkeyServer, place: Place
) -> None:
    """
    SIGKILL while its token request is under way: nobody waits longer than its lease lasts, and one
    of the others asks in its place.
    """
    place = replace(place, timeout=5.0)
    lease = place.timeout + _MARGIN
    leader = Process(place, 1)
    fleet = [Process(place) for _ in range(PROCESSES - 1)]
    server.go_on.clear()
    leader.go()
    assert server.reached.wait(60)
    with closing(valkey.client()) as client:
        (name,) = client.keys("*:lease")
        # The others come when the lease has been there for a while, and still is.
        until(lambda: client.pttl(name) < 1000 * (lease - 2))
        for process in fleet:
            process.go()
        until(lambda: client.dbsize() > RESOURCES / 2)
        assert client.exists(name)
        leader.kill()
    server.go_on.set()
    reports = [process.report() for process in fleet]

    check(reports)
    assert max(max(report.waits) for report in reports) <= lease
    assert RESOURCES + 1 == len(server.token_requests)


# Frameworks.


@pytest.fixture
def apis(server: Holding, valkey: ValkeyServer) -> Iterator[Place]:
    """
    Two APIs that look at the tokens.
    """
    with ExitStack() as stack:
        audiences = {f"/{name}": f"urn:example:{name}" for name in ("orders", "billing")}
        api = stack.enter_context(LocalResourceServer(server, audiences=audiences))
        resources = {f"{api.url}{name}/": f"urn:example:{name}" for name in ("orders", "billing")}
        yield Place(server.token_endpoint, valkey.url, new_key(), resources)


@contextmanager
def running(place: Place, module: str, *arguments: str, **environment: str) -> Iterator[None]:
    """
    A framework's command, until it is not needed any more.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**place.environment(), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def answered_by_two(url: str) -> list[int]:
    """
    Ask until two processes have answered; the statuses that the API behind has said.
    """
    pids: set[int] = set()
    statuses: list[int] = []

    def answered() -> bool:
        try:
            answer = httpx.get(url, trust_env=False, timeout=30).json()
        except httpx.ConnectError:
            return False
        pids.add(answer["pid"])
        statuses.append(answer["status"])
        return len(pids) == 2

    until(answered)
    return statuses


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_gunicorn(server: Holding, apis: Place, preload: bool) -> None:
    """
    Two workers, forked before or after the app is there, and has used its connection to the store.
    """
    port = free_port()
    arguments = ["tests.servers.fleet:app", "--bind", f"127.0.0.1:{port}", "--workers", "2"]
    environment = {"FLEET_PRELOAD": "1"} if preload else {}
    with running(apis, "gunicorn", *arguments, *["--preload"] * preload, **environment):
        statuses = answered_by_two(f"http://127.0.0.1:{port}/billing")

    assert {200} == set(statuses)
    assert 1 + preload == len(server.token_requests)


def test_uvicorn(server: Holding, apis: Place) -> None:
    """
    Two workers, which are started anew and not forked.
    """
    port = free_port()
    arguments = ["tests.servers.fleet:asgi", "--port", str(port), "--workers", "2"]
    with running(apis, "uvicorn", *arguments):
        statuses = answered_by_two(f"http://127.0.0.1:{port}/billing")

    assert {200} == set(statuses)
    assert 1 == len(server.token_requests)


def test_celery(server: Holding, apis: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Two processes of its prefork pool, and a broker on the same server.
    """
    monkeypatch.setenv("FLEET_PLACE", apis.environment()["FLEET_PLACE"])
    from tests.servers.celery_app import app

    arguments = ["-A", "tests.servers.celery_app", "worker", "--concurrency", "2"]
    arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    pids, statuses = set[int](), set[int]()

    def answered() -> bool:
        for result in [app.send_task("call", ["/billing"]) for _ in range(4)]:
            answer = result.get(timeout=60)
            pids.add(answer["pid"])
            statuses.add(answer["status"])
        return len(pids) == 2

    with running(apis, "celery", *arguments):
        until(answered)
    app.close()
    assert {200} == statuses
    assert 1 == len(server.token_requests)


def test_a_fork_in_the_middle_of_everything(server: Holding, apis: Place) -> None:
    """
    While threads of the parent use the store: its children open connections of their own, and
    share what is there.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.servers.fleet"],
        cwd=ROOT,
        env={**apis.environment(), "FLEET_PRELOAD": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]

    assert [200] * 4 == [answer["status"] for answer in answers]
    assert 4 == len({answer["pid"] for answer in answers})
    assert 2 == len(server.token_requests)
