"""How wide the window of an answer is to be, whatever kind of window it is."""

from __future__ import annotations

import pytest

from flowserver.flow.drain_rate import LEAST
from flowserver.flow.window_bound import EARLY, WIDEST, WindowBound

from ..support.clock import FakeClock
from ..support.pace import pace_of

KB = 1024
TARGET = 0.25
SHARE = 12 * KB
AFAR = 0.05


def nothing() -> int:
    return 0


class Window:
    """One that grows as it is told to."""

    def __init__(self, bound: int) -> None:
        self.clock = FakeClock()
        self.rule = WindowBound(self.clock, TARGET, SHARE)
        self.bound = bound

    def pass_(self, size: int, after: float, distance: float = AFAR) -> int | None:
        """So many bytes come at once, and it is looked at."""
        self.clock.advance(after)
        self.rule.passed(size)
        wanted = self.rule.wanted(self.bound, distance, nothing)
        self.bound = max(self.bound, wanted or 0)
        return wanted


def test_the_first_bytes_are_no_rate() -> None:
    window = Window(4 * KB)
    assert not window.rule.passed(1_000_000)
    assert window.rule.passed(1000)
    window.clock.advance(1)
    assert window.rule.wanted(4 * KB, 0.0, nothing) == LEAST


def test_a_window_that_a_round_trip_uses_up_doubles() -> None:
    window = Window(4 * KB)
    window.pass_(1, 0.0)
    window.clock.advance(TARGET)
    window.pass_(1, 0.0)
    for _ in range(3):
        before = window.bound
        window.pass_(window.bound, 1.5 * AFAR)
        assert window.bound >= 2 * before


def test_a_stream_s_window_is_bounded_in_its_first_moment() -> None:
    window = Window(16 * KB)
    window.pass_(1, 0.0)
    for _ in range(3):
        window.pass_(10_000_000, 1.5 * AFAR)
    assert window.bound == EARLY
    window.pass_(100_000_000, TARGET)
    assert window.bound == WIDEST


def test_the_window_of_a_whole_answer_is_not() -> None:
    window = Window(128 * KB)
    window.pass_(1, 0.0)
    window.pass_(128 * KB, 1.5 * AFAR)
    assert window.bound >= 256 * KB


def test_each_answer_has_a_first_moment() -> None:
    window = Window(16 * KB)
    window.pass_(1, 0.0)
    window.clock.advance(10)
    window.rule.expect()
    window.pass_(1, 0.0)
    assert window.pass_(10_000_000, 1.5 * AFAR) == EARLY


@pytest.mark.parametrize(("rate", "bound"), [(0, LEAST), (10_000, 1000 + 625), (10**9, WIDEST)])
def test_a_client_that_blocks_is_followed(rate: int, bound: int) -> None:
    assert Window(16 * KB).rule.follow(pace_of(rate), AFAR) == bound


def test_a_slow_client_s_bursts_are_no_rate() -> None:
    window = Window(LEAST)
    window.pass_(1, 0.0)
    window.rule.follow(pace_of(1000), AFAR)
    assert window.pass_(20_000, TARGET * 0.9) is None
    assert window.pass_(0, TARGET * 0.2) is not None
