"""
Forks and signals: nothing that one of them interrupts is left locked.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resource_tokens._locks import SafeLock
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.tokens import CachedToken, Freshness, TokenKey
from tests.test_tokens import TOKEN

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")


def exit_status_of_a_child(work: Callable[[], bool]) -> int:
    """
    Run `work` in a forked child, which has ten seconds for it.
    """
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_fork
def test_a_child_is_not_locked_out_by_its_parents_threads() -> None:
    """
    T19: the thread that holds the lock is not in the child, and would never let go.
    """
    lock, held, go = SafeLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            go.wait(30)

    def enter() -> bool:
        with lock:
            return True

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    status = exit_status_of_a_child(enter)
    go.set()
    thread.join()

    assert 0 == status
    assert enter()


@needs_fork
def test_children_of_a_busy_parent_use_their_tokens() -> None:
    """
    T19: forked while other threads read and write the store, as in a preforking server.
    """
    store, stop = MemoryTokenStore(maxsize=4), threading.Event()
    cached = CachedToken(TOKEN, Freshness(0, 1, 2, 0))
    keys = [TokenKey.of([str(n)]) for n in range(8)]

    def use() -> None:
        while not stop.is_set():
            for key in keys:
                store.save(key, cached)
                store.load(key)

    def work() -> bool:
        store.save(keys[0], cached)
        return store.load(keys[0]) == cached

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = [exit_status_of_a_child(work) for _ in range(20)]
    stop.set()
    for thread in threads:
        thread.join()

    assert [0] * 20 == statuses


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this platform has no user signals")
def test_a_signal_handler_may_use_what_it_interrupted() -> None:
    """
    A handler runs in the thread that holds the lock, in the middle of what it does.
    """
    store = MemoryTokenStore()
    cached = CachedToken(TOKEN, Freshness(0, 1, 2, 0))
    key = TokenKey.of(["a"])
    handled: list[Any] = []

    def handler(*_: object) -> None:
        with store._tokens._lock:
            store.save(key, cached)
            handled.append(store.load(key))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with store._tokens._lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert [cached] == handled
