"""Places at a provider, and the queue for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.upstream_host import UpstreamHost

from ..support.recording import target


class Waiter:
    def __init__(self) -> None:
        self.places = 0
        self.sent_away = 0

    def on_place(self) -> None:
        self.places += 1

    def on_no_place(self) -> None:
        self.sent_away += 1


def full(limit: int = 1, queue: int = 2) -> UpstreamHost:
    made = target(max_concurrent=limit, queue=queue)
    for _ in range(limit):
        assert made.take_place()
    return made


def test_places_are_bounded() -> None:
    made = full(2)
    assert made.is_full
    assert not made.take_place()
    made.give_back()
    assert made.take_place()
    assert made.open == 2


def test_without_a_limit_there_is_always_a_place() -> None:
    made = target()
    assert all(made.take_place() for _ in range(10_000))


def test_who_waited_longest_is_served_first_and_the_queue_is_bounded() -> None:
    made = full()
    first, second, third = Waiter(), Waiter(), Waiter()
    assert made.wait(first)
    assert made.wait(second)
    assert not made.wait(third)
    made.give_back()
    assert (first.places, second.places, made.open) == (1, 0, 1)
    made.give_back()
    made.give_back()
    assert (first.places, second.places, made.open, made.waiting) == (1, 1, 0, 0)


def test_who_leaves_the_queue_gets_no_place() -> None:
    made = full()
    first, second = Waiter(), Waiter()
    made.wait(first)
    made.wait(second)
    made.leave(first)
    made.leave(first)
    made.leave(Waiter())
    made.give_back()
    assert (first.places, second.places) == (0, 1)


def test_nobody_overtakes_the_queue() -> None:
    made = full()
    first = Waiter()
    made.wait(first)
    assert not made.take_place()


class Returning(Waiter):
    """Gives its place back at once, as one does that finds its provider left alone."""

    def __init__(self, made: UpstreamHost) -> None:
        super().__init__()
        self._made = made

    def on_place(self) -> None:
        super().on_place()
        self._made.give_back()


@pytest.mark.parametrize("deferred", [False, True])
def test_thousands_of_places_given_back_at_once_are_no_recursion(deferred: bool) -> None:
    turns: list[Callable[[], None]] = []
    made = target(later=turns.append if deferred else None, max_concurrent=1, queue=5000)
    assert made.take_place()
    waiters = [Returning(made) for _ in range(5000)]
    assert all(made.wait(waiter) for waiter in waiters)
    made.give_back()
    most = 0
    while turns:
        before = sum(waiter.places for waiter in waiters)
        turns.pop()()
        most = max(most, sum(waiter.places for waiter in waiters) - before)
    assert all(waiter.places == 1 for waiter in waiters)
    assert (made.open, made.waiting) == (0, 0)
    assert not deferred or 0 < most < 100


def test_who_waits_at_a_provider_that_is_left_alone_is_sent_away_without_a_place() -> None:
    made = full(2, queue=100)
    waiters = [Waiter() for _ in range(100)]
    assert all(made.wait(waiter) for waiter in waiters)
    made.left_alone()
    assert {(waiter.places, waiter.sent_away) for waiter in waiters} == {(0, 1)}
    assert (made.open, made.waiting) == (2, 0)
    made.left_alone()
    late = Waiter()
    assert made.wait(late)
    made.give_back()
    assert (late.places, late.sent_away) == (1, 0)


def test_credentials_do_not_show() -> None:
    made = target(api_key=b"sk-secret", headers=[(b"api-key", b"sk-secret")])
    assert "sk-secret" not in repr(made.settings)


@given(st.lists(st.sampled_from(["take", "give", "wait", "leave"])), st.integers(1, 3), st.integers(0, 3))
def test_places_are_neither_lost_nor_made_up(steps: list[str], limit: int, queue: int) -> None:
    made = target(max_concurrent=limit, queue=queue)
    held, waiters = 0, []
    for step in steps:
        if step == "take":
            held += made.take_place()
        elif step == "wait" and made.is_full:
            waiters.append(Waiter())
            if not made.wait(waiters[-1]):
                waiters.pop()
        elif step == "leave" and waiters:
            made.leave(waiters[0])
        elif step == "give" and held + sum(waiter.places for waiter in waiters):
            made.give_back()
            held -= 1
        assert made.open == held + sum(waiter.places for waiter in waiters)
        assert made.open <= limit
        assert made.waiting <= queue
        assert not made.waiting or made.is_full
        assert all(waiter.places <= 1 for waiter in waiters)
