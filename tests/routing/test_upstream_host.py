"""Places at a provider, and the queue for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.upstream_host import UpstreamHost

from ..support.later import Later
from ..support.recording import target


class Waiter:
    def __init__(self) -> None:
        self.places = 0
        self.sent_away = 0

    def on_place(self) -> None:
        self.places += 1

    def on_no_place(self) -> None:
        self.sent_away += 1


def full(later: Later, limit: int = 1, queue: int = 2) -> UpstreamHost:
    made = target(max_concurrent=limit, queue=queue, later=later)
    for _ in range(limit):
        assert made.reserve_place()
    return made


@pytest.fixture
def later() -> Later:
    return Later()


def test_places_are_bounded(later: Later) -> None:
    made = full(later, 2)
    assert made.is_full
    assert not made.reserve_place()
    made.release_place()
    assert made.reserve_place()
    assert made.open == 2


def test_without_a_limit_there_is_always_a_place() -> None:
    made = target()
    assert all(made.reserve_place() for _ in range(10_000))


def test_who_waited_longest_is_served_first_and_the_queue_is_bounded(later: Later) -> None:
    made = full(later)
    first, second, third = Waiter(), Waiter(), Waiter()
    assert made.wait(first)
    assert made.wait(second)
    assert not made.wait(third)
    made.release_place()
    later.run()
    assert (first.places, second.places, made.open) == (1, 0, 1)
    made.release_place()
    made.release_place()
    later.run()
    assert (first.places, second.places, made.open, made.waiting) == (1, 1, 0, 0)


def test_releasing_a_place_starts_nothing_in_the_same_call_stack(later: Later) -> None:
    made = full(later, 2)
    first, second = Waiter(), Waiter()
    made.wait(first)
    made.wait(second)
    made.release_place()
    made.release_place()
    assert (first.places, second.places) == (0, 0)
    assert not made.reserve_place(), "the free places are for those who wait"
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
    made.release_place()
    later.run()
    assert (first.places, second.places) == (0, 1)


def test_who_leaves_between_the_release_and_the_assignment_leaves_the_place_to_the_next(later: Later) -> None:
    made = full(later)
    first, second = Waiter(), Waiter()
    made.wait(first)
    made.wait(second)
    made.release_place()
    made.leave(first)
    later.run()
    assert (first.places, second.places, made.open) == (0, 1, 1)


def test_nobody_overtakes_the_queue(later: Later) -> None:
    made = full(later)
    first = Waiter()
    made.wait(first)
    assert not made.reserve_place()


class Returning(Waiter):
    """Releases its place at once, as one does whose provider's breaker has opened."""

    def __init__(self, made: UpstreamHost) -> None:
        super().__init__()
        self._made = made

    def on_place(self) -> None:
        super().on_place()
        self._made.release_place()


def test_thousands_of_places_released_at_once_are_no_recursion_and_no_long_pause(later: Later) -> None:
    made = full(later, queue=5000)
    waiters = [Returning(made) for _ in range(5000)]
    assert all(made.wait(waiter) for waiter in waiters)
    made.release_place()
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
    made.release_place()
    later.run()
    assert (late.places, late.sent_away) == (1, 0)


def test_its_state_shows(later: Later) -> None:
    made = full(later)
    made.wait(Waiter())
    assert repr(made) == "<UpstreamHost api: 1 open of 1, 1 waiting (resting), <CircuitBreaker closed: 0 failures>>"
    made.release_place()
    assert "1 waiting (serving)" in repr(made)


def test_credentials_do_not_show() -> None:
    made = target(api_key=b"sk-secret", headers=[(b"api-key", b"sk-secret")])
    assert "sk-secret" not in repr(made.settings)


@given(st.lists(st.sampled_from(["take", "give", "wait", "leave"])), st.integers(1, 3), st.integers(0, 3))
def test_places_are_neither_lost_nor_made_up(steps: list[str], limit: int, queue: int) -> None:
    later = Later()
    made = target(max_concurrent=limit, queue=queue, later=later)
    held, waiters = 0, []
    for step in steps:
        if step == "take":
            held += made.reserve_place()
        elif step == "wait" and made.is_full:
            waiters.append(Waiter())
            if not made.wait(waiters[-1]):
                waiters.pop()
        elif step == "leave" and waiters:
            made.leave(waiters[0])
        elif step == "give" and held + sum(waiter.places for waiter in waiters):
            made.release_place()
            held -= 1
        later.run()
        assert made.open == held + sum(waiter.places for waiter in waiters)
        assert made.open <= limit
        assert made.waiting <= queue
        assert not made.waiting or made.is_full
        assert all(waiter.places <= 1 for waiter in waiters)
