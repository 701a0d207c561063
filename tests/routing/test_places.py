"""Places at a provider, and the queue for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.places import LocalPlaces

from ..support.later import Later


class Waiter:
    def __init__(self) -> None:
        self.places = 0
        self.sent_away = 0

    def on_place(self) -> None:
        self.places += 1

    def on_no_place(self) -> None:
        self.sent_away += 1

    def on_busy(self) -> None:
        raise AssertionError("places of one process are known")


def full(later: Later, limit: int = 1, queue: int = 2) -> LocalPlaces:
    made = LocalPlaces(limit, queue, later)
    for _ in range(limit):
        assert made.reserve()
    return made


@pytest.fixture
def later() -> Later:
    return Later()


def test_places_are_bounded(later: Later) -> None:
    made = full(later, 2)
    assert made.is_full
    assert not made.reserve()
    made.release()
    assert made.reserve()
    assert made.open == 2


def test_without_a_limit_there_is_always_a_place(later: Later) -> None:
    made = LocalPlaces(None, 0, later)
    assert all(made.reserve() for _ in range(10_000))


def test_who_waited_longest_is_served_first_and_the_queue_is_bounded(later: Later) -> None:
    made = full(later)
    first, second, third = Waiter(), Waiter(), Waiter()
    assert made.wait(first)
    assert made.wait(second)
    assert not made.wait(third)
    made.release()
    later.run()
    assert (first.places, second.places, made.open) == (1, 0, 1)
    made.release()
    made.release()
    later.run()
    assert (first.places, second.places, made.open, made.waiting) == (1, 1, 0, 0)


def test_releasing_a_place_starts_nothing_in_the_same_call_stack(later: Later) -> None:
    made = full(later, 2)
    first, second = Waiter(), Waiter()
    made.wait(first)
    made.wait(second)
    made.release()
    made.release()
    assert (first.places, second.places) == (0, 0)
    assert not made.reserve(), "the free places are for those who wait"
    later.run()
    assert (first.places, second.places, made.open) == (1, 1, 2)
    made.wait(first)
    made.send_waiting_away()
    assert first.sent_away == 0
    later.run()
    assert first.sent_away == 1


def test_who_leaves_the_queue_gets_no_place(later: Later) -> None:
    made = full(later)
    first, second = Waiter(), Waiter()
    made.wait(first)
    made.wait(second)
    made.leave(first)
    made.leave(first)
    made.leave(Waiter())
    made.release()
    later.run()
    assert (first.places, second.places) == (0, 1)


def test_who_leaves_between_the_release_and_the_assignment_leaves_the_place_to_the_next(later: Later) -> None:
    made = full(later)
    first, second = Waiter(), Waiter()
    made.wait(first)
    made.wait(second)
    made.release()
    made.leave(first)
    later.run()
    assert (first.places, second.places, made.open) == (0, 1, 1)


def test_nobody_overtakes_the_queue(later: Later) -> None:
    made = full(later)
    first = Waiter()
    made.wait(first)
    assert not made.reserve()


class Returning(Waiter):
    """Releases its place at once, as one does whose provider's breaker has opened."""

    def __init__(self, made: LocalPlaces) -> None:
        super().__init__()
        self._made = made

    def on_place(self) -> None:
        super().on_place()
        self._made.release()


def test_thousands_of_places_released_at_once_are_no_recursion_and_no_long_pause(later: Later) -> None:
    made = full(later, queue=5000)
    waiters = [Returning(made) for _ in range(5000)]
    assert all(made.wait(waiter) for waiter in waiters)
    made.release()
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
    waiters = [Waiter() for _ in range(100)]
    assert all(made.wait(waiter) for waiter in waiters)
    made.send_waiting_away()
    later.run()
    assert {(waiter.places, waiter.sent_away) for waiter in waiters} == {(0, 1)}
    assert (made.open, made.waiting) == (2, 0)
    made.send_waiting_away()
    late = Waiter()
    assert made.wait(late)
    made.release()
    later.run()
    assert (late.places, late.sent_away) == (1, 0)


def test_more_places_serve_those_who_wait(later: Later) -> None:
    made = full(later)
    first, second = Waiter(), Waiter()
    made.wait(first)
    made.wait(second)
    assert not made.has_room
    made.limit(2, 1)
    later.run()
    assert (first.places, second.places, made.open) == (1, 0, 2)
    made.limit(None, 1)
    later.run()
    assert (second.places, made.open) == (1, 3)


def test_its_state_shows(later: Later) -> None:
    made = full(later)
    made.wait(Waiter())
    assert repr(made) == "1 open of 1, 1 waiting (resting)"
    made.release()
    assert "1 waiting (serving)" in repr(made)


@given(st.lists(st.sampled_from(["take", "give", "wait", "leave"])), st.integers(1, 3), st.integers(0, 3))
def test_places_are_neither_lost_nor_made_up(steps: list[str], limit: int, queue: int) -> None:
    later = Later()
    made = LocalPlaces(limit, queue, later)
    held, waiters = 0, []
    for step in steps:
        if step == "take":
            held += made.reserve()
        elif step == "wait" and made.is_full:
            waiters.append(Waiter())
            if not made.wait(waiters[-1]):
                waiters.pop()
        elif step == "leave" and waiters:
            made.leave(waiters[0])
        elif step == "give" and held + sum(waiter.places for waiter in waiters):
            made.release()
            held -= 1
        later.run()
        assert made.open == held + sum(waiter.places for waiter in waiters)
        assert made.open <= limit
        assert made.waiting <= queue
        assert not made.waiting or made.is_full
        assert all(waiter.places <= 1 for waiter in waiters)
