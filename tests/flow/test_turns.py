"""Requests start in slices of an iteration, the connection that has waited longest first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowserver.flow.turns import Turns

from ..support.clock import FakeClock

SLICE = 0.004


class Connection:
    """Has so many requests to start, which take `seconds` each; one at a turn."""

    def __init__(
        self, name: str, clock: FakeClock, started: list[str], *, requests: int = 1, seconds: float = 0
    ) -> None:
        self._name, self._clock, self._started = name, clock, started
        self._left, self._seconds = requests, seconds
        self.is_broken = self.is_aborted = False

    def take_turn(self) -> bool:
        if self.is_broken:
            raise RuntimeError(self._name)
        self._started.append(self._name)
        self._clock.advance(self._seconds)
        self._left -= 1
        return self._left > 0

    def abort(self) -> None:
        self.is_aborted = True


class Loop:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.started: list[str] = []
        self._soon: list[Callable[[], None]] = []
        self.later = self._soon.append
        self.turns = Turns(SLICE, self.clock, self.later)

    def connection(self, name: str, *, requests: int = 1, seconds: float = 0) -> Connection:
        return Connection(name, self.clock, self.started, requests=requests, seconds=seconds)

    def iterate(self) -> list[str]:
        """What starts in one iteration."""
        self.started.clear()
        calls = self._soon[:]
        self._soon.clear()
        for call in calls:
            call()
        return self.started[:]


def test_it_is_free_until_a_slice_is_used() -> None:
    turns = Loop().turns
    assert turns.is_free
    turns.spend(0.9 * SLICE)
    assert turns.is_free
    turns.spend(0.2 * SLICE)
    assert not turns.is_free


def test_a_new_slice_begins_with_the_next_iteration() -> None:
    loop = Loop()
    loop.turns.spend(2 * SLICE)
    loop.turns.wait(loop.connection("a"))
    assert not loop.started
    assert loop.iterate() == ["a"]
    assert loop.turns.is_free
    assert loop.iterate() == []


def test_connections_take_turns_and_the_first_is_first() -> None:
    loop = Loop()
    for name in "abc":
        loop.turns.wait(loop.connection(name, requests=2, seconds=0.6 * SLICE))
    assert not loop.turns.is_free
    assert [loop.iterate() for _ in range(4)] == [["a", "b"], ["c", "a"], ["b", "c"], []]


def test_what_is_left_of_the_last_slice_is_for_the_same_iteration() -> None:
    loop = Loop()
    loop.turns.wait(loop.connection("a", seconds=0.6 * SLICE))
    loop.iterate()
    assert loop.turns.is_free
    loop.turns.spend(0.5 * SLICE)
    assert not loop.turns.is_free


def test_one_takes_its_turn_however_long_the_others_took() -> None:
    loop = Loop()
    for name in "ab":
        loop.turns.wait(loop.connection(name, seconds=5 * SLICE))
    assert [loop.iterate(), loop.iterate()] == [["a"], ["b"]]


def test_the_longest_wait_is_until_the_last_request_has_started() -> None:
    loop = Loop()
    assert loop.turns.take_longest_wait() == 0
    loop.turns.wait(loop.connection("a", requests=3, seconds=SLICE))
    loop.clock.advance(1)
    for _ in range(3):
        loop.iterate()
    assert loop.turns.take_longest_wait() == pytest.approx(1 + 3 * SLICE)
    assert loop.turns.take_longest_wait() == 0


def test_one_that_makes_another_wait_does_not_double_the_slice() -> None:
    loop = Loop()
    other = loop.connection("b", requests=4, seconds=0.6 * SLICE)

    class Asking(Connection):
        def take_turn(self) -> bool:
            loop.turns.wait(other)
            return super().take_turn()

    loop.turns.wait(Asking("a", loop.clock, loop.started, requests=1, seconds=SLICE))
    assert [loop.iterate() for _ in range(4)] == [["a"], ["b", "b"], ["b", "b"], []]


def test_one_that_fails_is_ended_and_the_others_go_on() -> None:
    loop = Loop()
    broken = loop.connection("a")
    broken.is_broken = True
    loop.turns.wait(broken)
    loop.turns.wait(loop.connection("b"))
    with pytest.raises(RuntimeError):
        loop.iterate()
    assert broken.is_aborted
    assert loop.iterate() == ["b"]
    assert loop.turns.is_free


def test_the_time_of_turns_within_is_not_counted_twice() -> None:
    loop = Loop()
    starting = Turns(SLICE, loop.clock, loop.later, within=loop.turns)
    starting.spend(0.9 * SLICE)
    loop.turns.spend(SLICE)
    assert loop.turns.is_free
    assert starting.is_free
    loop.turns.spend(0.95 * SLICE)
    assert not loop.turns.is_free


def test_nor_is_it_in_a_turn() -> None:
    loop = Loop()
    starting = Turns(10 * SLICE, loop.clock, loop.later, within=loop.turns)

    class Starting(Connection):
        def take_turn(self) -> bool:
            goes_on = super().take_turn()
            starting.spend(0.9 * SLICE)
            return goes_on

    for name in "abcdef":
        loop.turns.wait(Starting(name, loop.clock, loop.started, seconds=SLICE))
    assert loop.iterate() == list("abcdef")


def test_a_wait_within_is_known_outside() -> None:
    loop = Loop()
    starting = Turns(SLICE, loop.clock, loop.later, within=loop.turns)
    assert loop.turns.waited_at < loop.clock.now
    starting.wait(loop.connection("a"))
    assert loop.turns.waited_at == loop.clock.now
