"""
At most one piece of work per key, across threads and event loops.

1. Whoever finds no flight under a key leads it; whoever finds one waits for it.
2. Joining is one atomic dictionary operation. No lock exists that could be held across I/O, or
   left held in a forked child.
3. A flight ends in exactly one of three ways: landed (waiters get the value), refused (waiters
   get an error of their own), or abandoned (the leader was cancelled: one of the waiters leads).
4. It is taken out by its own leader only: after it landed or was refused, so that nobody misses
   the outcome, and before it is abandoned, so that whoever wakes finds the place free.
5. Nobody waits for ever. After a limit a waiter takes the flight out and does the work itself.
6. A blocking caller never waits for a flight that its own thread leads: that thread could not
   finish it. It does the work itself.
7. After a fork the parent's flights mean nothing in the child: their leaders are not there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from resource_tokens.exceptions import ResourceTokensError

__all__ = ["Flight", "SingleFlight", "Waiter", "outcome"]

T = TypeVar("T")


class Waiter(Protocol):
    """
    How one colour of caller waits.
    """

    blocking: bool

    async def wait(self, future: Future[Any], limit: float) -> None:
        """
        Return when the future is done, however it ended, or after `limit` seconds.
        """


class Flight:
    """
    One piece of work under way.

    Attributes:
        thread: The thread that does the work.
    """

    __slots__ = ("future", "thread")

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.thread = threading.get_ident()


class SingleFlight:
    """
    The flights of one cache.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._pid = os.getpid()

    def join(self, key: Hashable, mine: Flight) -> Flight:
        """
        The flight under a key, which is `mine` if there was none. Whoever hands in a flight
        sees to it that it ends, whatever interrupts them.
        """
        if self._pid != os.getpid():
            self._flights = {}
            self._pid = os.getpid()
        return self._flights.setdefault(key, mine)

    async def once(
        self, key: Hashable, waiter: Waiter, work: Callable[[], Awaitable[Any]], limit: float
    ) -> Any:
        """
        The outcome of `work` under a key: done here, or by whoever is already at it.

        Args:
            key: What the work is for.
            waiter: How to wait.
            work: What to do.
            limit: Seconds to wait for somebody else before doing it oneself. A leader can be
                stuck in an event loop that nobody runs any more.

        Raises:
            ResourceTokensError: What `work` raised; a copy of it for each waiter, with the
                original as its cause.
        """
        while True:
            mine = Flight()
            try:
                flight = self.join(key, mine)
                if flight is mine:
                    return await self.lead(key, mine, work)
            except BaseException:
                self.abandon(key, mine)
                raise
            if waiter.blocking and flight.thread == threading.get_ident():
                return await work()
            await waiter.wait(flight.future, limit)
            if not flight.future.done():
                self._remove(key, flight)
            elif not flight.future.cancelled():
                return outcome(flight.future)

    async def lead(self, key: Hashable, flight: Flight, work: Callable[[], Awaitable[Any]]) -> Any:
        """
        Do the work of a flight that the caller leads, and end it.
        """
        try:
            value = await work()
        except Exception as error:
            flight.future.set_exception(error)
            raise
        except BaseException:
            # Cancelled, interrupted or closed: nothing is known about the work, so nobody is told
            # that it failed.
            self.abandon(key, flight)
            raise
        else:
            flight.future.set_result(value)
            return value
        finally:
            self._remove(key, flight)
            # An interruption between the lines above.
            flight.future.cancel()

    def abandon(self, key: Hashable, flight: Flight) -> None:
        """
        Give up a flight that the caller leads; one of its waiters takes over. Nothing happens to
        one that has ended.
        """
        # Taken out first, or a waiter that wakes would find it again.
        self._remove(key, flight)
        flight.future.cancel()

    def _remove(self, key: Hashable, flight: Flight) -> None:
        # After a fork the dictionary can be a new one.
        if self._flights.get(key) is flight:
            del self._flights[key]


def outcome(future: Future[T]) -> T:
    """
    The outcome of somebody else's work that has ended, an error as one of the caller's own.
    """
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, ResourceTokensError):
        # Raising one instance in many threads would mix their tracebacks.
        raise type(error)(*error.args) from error
    raise error
