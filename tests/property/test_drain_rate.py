"""Whatever a client does, its pace is one that was measured, and what may be in flight for it has bounds."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.flow.drain_rate import LEAST, MOMENT, DrainRate, PaceMeter, upstream_bound, waiting_bound

RATES = st.floats(0, 1e12)
ROUND_TRIPS = st.floats(0, 10)
TARGETS = st.floats(0.001, 3600)
MOST = st.integers(1, 1 << 30)
STEPS = st.lists(st.tuples(st.one_of(st.just(0.0), st.floats(1e-6, 100)), st.integers(0, 10**9)), max_size=40)
"""Seconds that pass, and bytes that are taken meanwhile."""


def paced(target: float, steps: list[tuple[float, int]]) -> DrainRate:
    pace = DrainRate(target, 0.0)
    now, taken = 0.0, 0
    for seconds, size in steps:
        now, taken = now + seconds, taken + size
        pace.measure(now, taken)
    return pace


@given(RATES, RATES, ROUND_TRIPS, ROUND_TRIPS, TARGETS, MOST)
def test_bounds_grow_with_rate_and_distance_and_keep_to_least_and_most(
    rate: float, other: float, near: float, far: float, target: float, most: int
) -> None:
    slow, fast = sorted((rate, other))
    near, far = sorted((near, far))
    assert min(LEAST, most) <= waiting_bound(slow, target, most) <= waiting_bound(fast, target, most) <= most
    bound = upstream_bound(slow, near, target, most)
    assert bound >= waiting_bound(slow, target, most)
    assert bound <= upstream_bound(fast, near, target, most)
    assert bound <= upstream_bound(slow, far, target, most)
    assert bound - 2 * slow * near <= most


@given(TARGETS, STEPS)
@example(1.0, [(0.25, 536_870_914), (9.0, 59)])  # a sum of differences lost the small rate behind the great one
def test_a_pace_lies_between_the_least_and_the_greatest_rate_measured(
    target: float, steps: list[tuple[float, int]]
) -> None:
    pace = DrainRate(target, 0.0)
    now, taken, before, measured = 0.0, 0, 0, []
    for seconds, size in steps:
        earlier, now, taken = now, now + seconds, taken + size
        if now > earlier:
            measured.append((taken - before) / (now - earlier))
            before = taken
        pace.measure(now, taken)
        assert 0 <= pace.unevenness <= 1
    if measured:
        assert min(measured) * (1 - 1e-9) <= pace.rate <= max(measured) * (1 + 1e-9)
    else:
        assert pace.rate == 0


@given(TARGETS, STEPS, st.integers(0, 1 << 30), RATES)
def test_a_reserve_has_its_bound(target: float, steps: list[tuple[float, int]], most: int, rate: float) -> None:
    pace = paced(target, steps)
    assert 0 <= pace.waiting(most) <= most
    assert min(1, most) <= pace.mark(most) <= max(1, most)


MARKS = st.one_of(st.none(), st.integers(1, 1 << 20))


@given(MARKS, MARKS, st.one_of(st.none(), st.integers(1, 1000)), TARGETS, STEPS)
def test_paced_marks_make_sense_and_keep_what_is_given(
    high: int | None, low: int | None, chunks: int | None, target: float, steps: list[tuple[float, int]]
) -> None:
    if high is not None and high <= (low or 1):
        return
    marks = Watermarks(high, low, chunks)
    now = marks.paced(paced(target, steps))
    assert 0 < now.low < now.high
    assert now.low <= marks.low
    assert now.chunks == (chunks or now.chunks) >= 1
    assert high in (None, now.high)
    assert low in (None, now.low)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 10**6), ROUND_TRIPS, st.integers(0, 10**6)), min_size=1, max_size=40
    )
)
def test_the_rates_of_a_meter_are_all_that_was_taken(steps: list[tuple[float, int, float, int]]) -> None:
    """Only what is under way can be missing, and no rate is told of less than a moment or a round trip."""
    meter = PaceMeter(0.0)
    now = since = taken = 0.0
    passed = waiting = under_way = 0
    for seconds, size, round_trip, left in steps:
        now += seconds
        waiting += size
        left = min(left, under_way + waiting)
        rate = meter.measure(now, size, round_trip, partial(int, left))
        assert (rate is None) == (now - since < max(round_trip, MOMENT))
        if rate is not None:
            taken += rate * (now - since)
            passed, waiting, since, under_way = passed + waiting, 0, now, left
            assert taken == pytest.approx(passed - under_way, abs=1e-3, rel=1e-9)
