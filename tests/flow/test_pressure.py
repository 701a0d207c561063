"""How the level follows the delay. What that does to a loop is in tests/routing/test_overload.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.flow.pressure import Pressure

EASY, HARD = 0.005, 0.01


def _after(seconds: float, delay: float, *, level: float = 0.0, steps: int = 3) -> Pressure:
    """The pressure after a delay that is the same for so long, from `level` on."""
    pressure = Pressure(easy=EASY, hard=HARD)
    pressure.begin(EASY, 0.0)
    pressure.level = level
    for number in range(round(seconds / 0.02)):
        pressure.steer(delay, 0.02 * (number + 1), steps=steps)
    return pressure


@pytest.mark.parametrize("steps", [2, 3])
def test_a_delay_that_stays_raises_it_to_the_last_step(steps: int) -> None:
    assert _after(5, 0.1, steps=steps).level == steps


def test_it_is_back_at_nothing_within_a_second() -> None:
    assert _after(1, 0.0, level=2.9).level == 0


def test_at_the_first_set_point_it_stays() -> None:
    assert _after(5, EASY, level=0.5).level == 0.5


def test_at_the_second_one_it_stays_too() -> None:
    assert abs(_after(5, HARD, level=1.5).level - 1.5) < 0.1


def test_between_the_two_only_what_gives_way_first_is_refused() -> None:
    between = (EASY + HARD) / 2
    assert _after(5, between, level=0.5).level == 1
    assert _after(5, between, level=2.5).level == 1


def test_a_delay_that_grows_counts_at_once() -> None:
    pressure = _after(1, EASY, level=0.2)
    pressure.steer(0.05, 1.02, steps=3)
    assert pressure.level > 0.5


def test_the_share_of_each_step() -> None:
    pressure = Pressure(easy=EASY, hard=HARD)
    pressure.level = 1.25
    assert [pressure.share(step) for step in range(3)] == [1.0, 0.25, 0.0]


@given(st.lists(st.tuples(st.floats(0.0001, 5), st.floats(0, 100), st.sampled_from([2, 3])), max_size=100))
def test_it_is_never_beyond_its_bounds(delays: list[tuple[float, float, int]]) -> None:
    pressure, now = Pressure(easy=EASY, hard=HARD), 0.0
    pressure.begin(1.0, now)
    for after, delay, steps in delays:
        now += after
        before = pressure.level
        pressure.steer(delay, now, steps=steps)
        assert 0 <= pressure.level <= steps
        assert abs(pressure.level - before) <= 3
