"""When a delay counts as standing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.flow.codel import StandingDelay

TARGET, INTERVAL = 0.02, 0.2


def _observed(delays: list[tuple[float, float]]) -> list[bool]:
    """`delays` with the seconds since the one before."""
    standing, now, found = StandingDelay(TARGET, INTERVAL), 1000.0, []
    for after, delay in delays:
        now += after
        found.append(standing.observe(delay, now))
    return found


def test_a_delay_stands_once_it_was_above_the_target_for_an_interval() -> None:
    assert _observed([(0.06, 0.021)] * 6) == [False, False, False, False, True, True]


def test_one_short_delay_says_that_nothing_stands() -> None:
    assert not any(_observed([(0.05, 0.5)] * 4 + [(0.05, TARGET)] + [(0.05, 0.5)] * 4))


def test_a_single_long_turn_is_none() -> None:
    standing = StandingDelay(TARGET, INTERVAL)
    assert not standing.observe(10.0, 1000.0)
    assert standing.is_suspected
    assert not standing.observe(0.0, 1000.0)
    assert not standing.is_suspected


@given(st.lists(st.tuples(st.floats(0.001, 0.3), st.floats(0, 0.04)), max_size=60))
def test_it_is_what_the_rule_says(delays: list[tuple[float, float]]) -> None:
    """The least delay since any moment an interval ago, or longer, is above the target."""
    found = _observed(delays)
    times = [sum(after for after, _ in delays[: number + 1]) for number in range(len(delays))]
    for number, stands in enumerate(found):
        first = number
        while first and delays[first - 1][1] > TARGET:
            first -= 1
        is_above = delays[number][1] > TARGET
        lapse = times[number] - times[first]
        if abs(lapse - INTERVAL) > 1e-9:  # else roundings decide
            assert stands == (is_above and lapse >= INTERVAL)
