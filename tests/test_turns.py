"""
At most so many at a time.
"""

from __future__ import annotations

import os
import threading

import pytest

from resource_tokens._turns import Turn, Turns
from tests.conftest import Clock


@pytest.fixture
def turns(clock: Clock) -> Turns:
    return Turns(clock)


def come(turns: list[Turn]) -> list[bool]:
    return [turn.future.done() for turn in turns]


def test_so_many_at_a_time_and_the_next_in_order(turns: Turns) -> None:
    """
    Rules 1 and 2: first come, first served.
    """
    asked = [turns.ask("k", 2, 10.0) for _ in range(4)]
    assert [True, True, False, False] == come(asked)

    asked[0].give_back()
    assert [True, True, True, False] == come(asked)
    asked[0].give_back()
    assert [True, True, True, False] == come(asked)
    asked[1].give_back()
    assert [True, True, True, True] == come(asked)


def test_each_key_has_turns_of_its_own(turns: Turns) -> None:
    """
    P10: a server that hangs holds up nobody but its own clients.
    """
    asked = [turns.ask(key, 1, 10.0) for key in ("a", "b", "a")]

    assert [True, True, False] == come(asked)


def test_who_is_waited_for_goes_first(turns: Turns) -> None:
    """
    Rule 2: a refresh ahead stands back.
    """
    first = turns.ask("k", 1, 10.0)
    unhurried = turns.ask("k", 1, 10.0, hurried=False)
    hurried = turns.ask("k", 1, 10.0)

    first.give_back()
    assert [False, True] == come([unhurried, hurried])
    hurried.give_back()
    assert unhurried.future.done()


def test_who_leaves_the_queue_is_passed_over(turns: Turns) -> None:
    """
    Rule 1: a caller that was cancelled takes nobody's turn.
    """
    with turns.ask("k", 1, 10.0):
        with turns.ask("k", 1, 10.0) as gone:
            assert not gone.future.done()
        last = turns.ask("k", 1, 10.0)

    assert [False, True] == come([gone, last])


def test_a_turn_that_is_never_given_back_ends(turns: Turns, clock: Clock) -> None:
    """
    Rule 3: what holds it may be gone.
    """
    lost = turns.ask("k", 1, 10.0)
    waiting = turns.ask("k", 1, 10.0)
    clock.advance(10.0)
    third = turns.ask("k", 1, 10.0)

    assert [True, True, False] == come([lost, waiting, third])
    lost.give_back()
    assert not third.future.done()


def test_nothing_is_left_of_a_key_that_is_not_used(turns: Turns) -> None:
    """
    P10: what was given back takes no memory.
    """
    for key in range(1000):
        turns.ask(key, 1, 10.0).give_back()

    assert {} == turns._queues


def test_whose_turn_it_is(turns: Turns) -> None:
    """
    A thread knows of its own turns: those it asked for in a hurry.
    """
    assert not turns.held_by_this_thread("k")
    turn = turns.ask("k", 2, 10.0, hurried=False)
    assert not turns.held_by_this_thread("k")
    seen: list[bool] = []
    with turns.ask("k", 2, 10.0):
        assert turns.held_by_this_thread("k")
        thread = threading.Thread(target=lambda: seen.append(turns.held_by_this_thread("k")))
        thread.start()
        thread.join()

    assert [False] == seen
    turn.give_back()


def test_a_forked_child_has_all_turns(turns: Turns) -> None:
    """
    Rule 4: the parent's are not there to be given back.
    """
    parents = turns.ask("k", 1, 10.0)
    pid = os.fork()
    if pid == 0:
        ok = turns.ask("k", 1, 10.0).future.done()
        parents.give_back()
        ok = ok and not turns.ask("k", 1, 10.0).future.done()
        os._exit(0 if ok else 1)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
