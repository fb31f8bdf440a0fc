"""
At most one piece of work per key: leaders, waiters, cancellation, threads and forks.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from resource_tokens import OAuthError
from resource_tokens._io import AsyncIO, BlockingIO, run_to_end
from resource_tokens._single_flight import Flight, SingleFlight

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Once:
    """
    Work that is let go by the test, and counts how often it was started.
    """

    def __init__(self) -> None:
        self.started = 0
        self.go = anyio.Event()

    async def __call__(self) -> int:
        self.started += 1
        number = self.started
        await self.go.wait()
        return number


async def settle() -> None:
    """
    Let every task that can run do so.
    """
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


@BACKENDS
def test_a_cancelled_leader_harms_nobody(backend: str) -> None:
    """
    P6, T2: one of the waiters takes over; the work is done once more and no waiter fails.
    """

    async def scenario() -> tuple[list[int], int]:
        flights, io, work = SingleFlight(), AsyncIO(), Once()
        results: list[int] = []

        async def wait() -> None:
            results.append(await flights.once("key", io, work, 60.0))

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as leading:
                    leading.start_soon(flights.once, "key", io, work, 60.0)
                    await settle()
                    for _ in range(5):
                        group.start_soon(wait)
                    await settle()
                    scope.cancel()
            await settle()
            work.go.set()
        return results, work.started

    results, started = anyio.run(scenario, backend=backend)

    assert [2] * 5 == results
    assert 2 == started


@BACKENDS
def test_a_cancelled_waiter_harms_nobody(backend: str) -> None:
    """
    P6: its time limit is its own; the flight goes on for the others.
    """

    async def scenario() -> tuple[list[int], int]:
        flights, io, work = SingleFlight(), AsyncIO(), Once()
        results: list[int] = []

        async def wait() -> None:
            results.append(await flights.once("key", io, work, 60.0))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await settle()
            with anyio.move_on_after(0):
                await wait()
            group.start_soon(wait)
            await settle()
            work.go.set()
        return results, work.started

    assert ([1, 1], 1) == anyio.run(scenario, backend=backend)


def test_an_interrupted_leader_in_a_thread_hands_over() -> None:
    """
    P6: Ctrl-C in one thread is no answer to the others.
    """
    flights, io = SingleFlight(), BlockingIO()
    leading, waiting = threading.Event(), threading.Event()
    results: list[str] = []

    async def interrupted() -> str:
        leading.set()
        assert waiting.wait(10)
        raise KeyboardInterrupt

    async def quick() -> str:
        return "done"

    def lead() -> None:
        with pytest.raises(KeyboardInterrupt):
            run_to_end(flights.once("key", io, interrupted, 60.0))

    class Watched(BlockingIO):
        async def wait(self, future: Future[Any], limit: float) -> None:
            waiting.set()
            await super().wait(future, limit)

    def follow() -> None:
        assert leading.wait(10)
        results.append(run_to_end(flights.once("key", Watched(), quick, 60.0)))

    threads = [threading.Thread(target=lead), threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert ["done"] == results


def test_errors_reach_waiters_as_their_own_instances() -> None:
    """
    P6: with the leader's as the cause, and all of its fields.
    """

    async def scenario() -> list[BaseException]:
        flights, io, go = SingleFlight(), AsyncIO(), anyio.Event()
        errors: list[BaseException] = []

        async def refused() -> None:
            await go.wait()
            raise OAuthError("no", "urn:x:a", 401, "invalid_client", "words", None)

        async def wait() -> None:
            try:
                await flights.once("key", io, refused, 60.0)
            except OAuthError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)
            await settle()
            go.set()
        return errors

    first, *others = anyio.run(scenario)

    assert 2 == len(others)
    for error in others:
        assert isinstance(error, OAuthError)
        assert error is not first
        assert error.__cause__ is first
        assert ("invalid_client", "words", 401) == (
            error.error,
            error.error_description,
            error.status,
        )


def test_foreign_errors_reach_waiters_as_they_are() -> None:
    """
    What is not ours may not be copied from its arguments.
    """

    async def scenario() -> list[BaseException]:
        flights, io, go = SingleFlight(), AsyncIO(), anyio.Event()
        errors: list[BaseException] = []

        async def broken() -> None:
            await go.wait()
            raise UnicodeDecodeError("utf-8", b"x", 0, 1, "no")

        async def wait() -> None:
            try:
                await flights.once("key", io, broken, 60.0)
            except UnicodeDecodeError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(wait)
            await settle()
            go.set()
        return errors

    first, second = anyio.run(scenario)
    assert first is second


def test_a_waiter_whose_loop_is_gone_is_not_woken() -> None:
    """
    T18: the leader ends its flight although a loop that waited was closed meanwhile.
    """
    flights = SingleFlight()
    flight = Flight()
    flight.thread = 0
    assert flights.join("key", flight) is flight

    async def give_up() -> None:
        with anyio.move_on_after(0.01):
            await AsyncIO().wait(flight.future, 60.0)

    asyncio.run(give_up())
    trio.run(give_up)

    async def land() -> str:
        return "landed"

    assert "landed" == run_to_end(flights.lead("key", flight, land))
    assert "landed" == flight.future.result(0)


def test_a_key_is_free_again_after_its_flight() -> None:
    """
    A flight's end leaves nothing behind.
    """
    flights, io = SingleFlight(), BlockingIO()
    numbers = iter(range(3))

    async def work() -> int:
        return next(numbers)

    assert [0, 1, 2] == [run_to_end(flights.once("key", io, work, 60.0)) for _ in range(3)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_flights() -> None:
    """
    T19: the leader is not in the child.
    """
    flights, io = SingleFlight(), BlockingIO()
    flight = Flight()
    flight.thread = 0
    flights.join("key", flight)

    async def work() -> str:
        return "done in the child"

    pid = os.fork()
    if pid == 0:  # pragma: no cover - runs in the child, where nothing is measured
        done = run_to_end(flights.once("key", io, work, 60.0)) == "done in the child"
        os._exit(0 if done else 1)
    _, status = os.waitpid(pid, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    flights.abandon("key", flight)
    assert flight.future.cancelled()


def test_a_blocking_step_that_suspends_is_an_error() -> None:
    """
    Section 6: a blocking call that awaits something real could never be finished.
    """

    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="event loop"):
        run_to_end(suspends())


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_nobody_waits_for_ever(colour: str) -> None:
    """
    P10: a leader that is stuck, in a loop that nobody runs any more, is given up after a while.
    """
    flights, stuck = SingleFlight(), Flight()
    stuck.thread = 0
    flights.join("key", stuck)

    async def work() -> str:
        return "done"

    if colour == "sync":
        done = run_to_end(flights.once("key", BlockingIO(), work, 0.05))
    else:
        done = anyio.run(flights.once, "key", AsyncIO(), work, 0.05, backend=colour)

    assert "done" == done
    assert "done" == run_to_end(flights.once("key", BlockingIO(), work, 0.0))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_between_join_and_lead_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """
    Rule 4: whatever interrupts a leader, its flight ends.
    """
    flights = SingleFlight()

    def interrupted(*_: object) -> None:
        raise error

    async def work() -> str:
        return "done"

    with monkeypatch.context() as patched:
        patched.setattr(flights, "lead", interrupted)
        with pytest.raises(error):
            run_to_end(flights.once("key", BlockingIO(), work, 60.0))

    assert flights._flights == {}
    assert "done" == run_to_end(flights.once("key", BlockingIO(), work, 60.0))
