"""Places at a provider, and the queue for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.claim import Claim
from flowserver.routing.places import LocalPlaces

from ..support.asker import Asker
from ..support.clock import FakeClock
from ..support.later import Later


def full(later: Later, limit: int = 1, queue: int = 2) -> LocalPlaces:
    made = LocalPlaces(limit, queue, later, FakeClock())
    for _ in range(limit):
        assert made.reserve(Asker())
    return made


@pytest.fixture
def later() -> Later:
    return Later()


def test_places_are_bounded(later: Later) -> None:
    made = full(later, 2)
    assert made.is_full(Asker())
    assert not made.reserve(Asker())
    made.release(Claim())
    assert made.reserve(Asker())
    assert made.open == 2


def test_without_a_limit_there_is_always_a_place(later: Later) -> None:
    made = LocalPlaces(None, 0, later, FakeClock())
    assert all(made.reserve(Asker()) for _ in range(10_000))


def test_who_waited_longest_is_served_first_and_the_queue_is_bounded(later: Later) -> None:
    made = full(later)
    first, second, third = Asker(), Asker(), Asker()
    assert made.wait(first) is None
    assert made.wait(second) is None
    assert made.wait(third) is not None
    made.release(Claim())
    later.run()
    assert (first.places, second.places, made.open) == (1, 0, 1)
    made.release(Claim())
    made.release(Claim())
    later.run()
    assert (first.places, second.places, made.open, made.waiting) == (1, 1, 0, 0)


def test_releasing_a_place_starts_nothing_in_the_same_call_stack(later: Later) -> None:
    made = full(later, 2)
    first, second = Asker(), Asker()
    made.wait(first)
    made.wait(second)
    made.release(Claim())
    made.release(Claim())
    assert (first.places, second.places) == (0, 0)
    assert not made.reserve(Asker()), "the free places are for those who wait"
    later.run()
    assert (first.places, second.places, made.open) == (1, 1, 2)
    made.wait(first)
    made.send_waiting_away()
    assert first.sent_away == 0
    later.run()
    assert first.sent_away == 1


def test_who_leaves_the_queue_gets_no_place(later: Later) -> None:
    made = full(later)
    first, second = Asker(), Asker()
    made.wait(first)
    made.wait(second)
    made.leave(first)
    made.leave(first)
    made.leave(Asker())
    made.release(Claim())
    later.run()
    assert (first.places, second.places) == (0, 1)


def test_who_leaves_between_the_release_and_the_assignment_leaves_the_place_to_the_next(later: Later) -> None:
    made = full(later)
    first, second = Asker(), Asker()
    made.wait(first)
    made.wait(second)
    made.release(Claim())
    made.leave(first)
    later.run()
    assert (first.places, second.places, made.open) == (0, 1, 1)


def test_nobody_overtakes_the_queue(later: Later) -> None:
    made = full(later)
    first = Asker()
    made.wait(first)
    assert not made.reserve(Asker())


class Returning(Asker):
    """Releases its place at once, as one does whose provider's breaker has opened."""

    def __init__(self, made: LocalPlaces) -> None:
        super().__init__()
        self._made = made

    def on_place(self) -> None:
        super().on_place()
        self._made.release(self.claim)


def test_thousands_of_places_released_at_once_are_no_recursion_and_no_long_pause(later: Later) -> None:
    made = full(later, queue=5000)
    waiters = [Returning(made) for _ in range(5000)]
    assert all(made.wait(waiter) is None for waiter in waiters)
    made.release(Claim())
    most = 0
    while not later.is_idle:
        before = sum(waiter.places for waiter in waiters)
        later.run_once()
        most = max(most, sum(waiter.places for waiter in waiters) - before)
    assert all(waiter.places == 1 for waiter in waiters)
    assert (made.open, made.waiting) == (0, 0)
    assert 0 < most < 100


def test_who_waits_at_a_provider_whose_breaker_opens_is_sent_away_without_a_place(later: Later) -> None:
    made = full(later, 2, queue=100)
    waiters = [Asker() for _ in range(100)]
    assert all(made.wait(waiter) is None for waiter in waiters)
    made.send_waiting_away()
    later.run()
    assert {(waiter.places, waiter.sent_away) for waiter in waiters} == {(0, 1)}
    assert (made.open, made.waiting) == (2, 0)
    made.send_waiting_away()
    late = Asker()
    assert made.wait(late) is None
    made.release(Claim())
    later.run()
    assert (late.places, late.sent_away) == (1, 0)


def test_more_places_serve_those_who_wait(later: Later) -> None:
    made = full(later)
    first, second = Asker(), Asker()
    made.wait(first)
    made.wait(second)
    assert not made.has_room(Asker())
    made.limit(2, 1)
    later.run()
    assert (first.places, second.places, made.open) == (1, 0, 2)
    made.limit(None, 1)
    later.run()
    assert (second.places, made.open) == (1, 3)


def test_its_state_shows(later: Later) -> None:
    made = full(later)
    made.wait(Asker())
    assert repr(made) == "1 open of 1, 1 waiting (resting)"
    made.release(Claim())
    assert "1 waiting (serving)" in repr(made)


@given(st.lists(st.sampled_from(["take", "give", "wait", "leave"])), st.integers(1, 3), st.integers(0, 3))
def test_places_are_neither_lost_nor_made_up(steps: list[str], limit: int, queue: int) -> None:
    later = Later()
    made = LocalPlaces(limit, queue, later, FakeClock())
    held, waiters = 0, []
    for step in steps:
        if step == "take":
            held += made.reserve(Asker())
        elif step == "wait" and made.is_full(Asker()):
            waiters.append(Asker())
            if made.wait(waiters[-1]) is not None:
                waiters.pop()
        elif step == "leave" and waiters:
            made.leave(waiters[0])
        elif step == "give" and held + sum(waiter.places for waiter in waiters):
            made.release(Claim())
            held -= 1
        later.run()
        assert made.open == held + sum(waiter.places for waiter in waiters)
        assert made.open <= limit
        assert made.waiting <= queue
        assert not made.waiting or made.is_full(Asker())
        assert all(waiter.places <= 1 for waiter in waiters)
