"""A client's pace, and what may be in flight for it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from flowserver.flow.bounded_buffer import BoundedWriter, Watermarks
from flowserver.flow.drain_rate import LEAST, MOMENT, NEARBY, DrainRate, PaceMeter, upstream_bound, waiting_bound

from ..support.transport import FakeTransport

TARGET = 0.25
KB = 1024


def _nothing() -> int:
    return 0


def steady(rate: float, *, seconds: float = 10.0) -> DrainRate:
    """A client that has taken `rate` bytes a second for a while."""
    pace = DrainRate(TARGET, 0.0)
    for tenth in range(1, round(seconds * 10) + 1):
        pace.measure(tenth / 10, round(rate * tenth / 10))
    pace.unevenness = 0.0
    return pace


# DrainRate


def test_the_first_rate_is_that_of_all_so_far() -> None:
    pace = DrainRate(TARGET, 10.0)
    pace.measure(12.0, 5000)
    assert (pace.rate, pace.unevenness) == (2500.0, 0.5)  # of how even it is nothing is known


def test_a_steady_client_is_even() -> None:
    pace = steady(4000)
    assert pace.rate == pytest.approx(4000)
    assert pace.unevenness == pytest.approx(0, abs=1e-9)


def test_a_client_that_comes_and_goes_is_uneven() -> None:
    pace = DrainRate(TARGET, 0.0)
    taken = 0
    for second in range(1, 101):
        taken += 8000 if second % 10 < 5 else 0
        pace.measure(float(second), taken)
    assert 0.3 < pace.unevenness <= 1


def test_after_the_target_time_only_the_latest_rate_counts() -> None:
    pace = steady(100_000)
    pace.measure(10.0 + TARGET, 1_000_000 + 1000)
    assert pace.rate == pytest.approx(1000 / TARGET)


def test_a_client_that_stops_for_a_while_starts_anew() -> None:
    pace = steady(100_000)
    pace.measure(20.0, 1_000_000)
    assert pace.rate == 0
    pace.measure(20.1, 1_000_100)
    assert pace.rate == pytest.approx(1000)


def test_what_came_while_the_clock_stood_still_is_measured_with_what_follows() -> None:
    pace = DrainRate(TARGET, 5.0)
    for acknowledged in (100, 700, 900):
        pace.measure(5.0, acknowledged)
    assert pace.rate == 0
    pace.measure(6.0, 1000)
    assert pace.rate == 1000


def test_a_clock_that_goes_back_changes_nothing() -> None:
    pace = steady(4000)
    before = repr(pace)
    pace.measure(1.0, 1_000_000)
    assert repr(pace) == before


def test_bytes_that_seem_to_return_are_counted_once() -> None:
    """What the kernel tells of bytes on their way is not of the same moment as what has passed."""
    pace = DrainRate(TARGET, 0.0)
    pace.measure(1.0, 1000)
    pace.measure(2.0, 400)
    assert pace.rate == 0
    pace.measure(3.0, 1000)
    assert pace.rate == 0
    pace.measure(4.0, 1500)
    assert pace.rate == 500


def test_a_pace_can_be_seen() -> None:
    assert repr(steady(4000)) == "<DrainRate 4000 bytes/s unevenness=0.00>"


# the bounds


@pytest.mark.parametrize(
    ("rate", "bound"), [(0, LEAST), (5e3, LEAST), (32 * KB, 2 * KB), (64 * KB, 4 * KB), (1e12, 12 * KB)]
)
def test_a_client_gets_a_quarter_of_what_it_takes_in_the_target_time_at_each_place(rate: float, bound: int) -> None:
    assert waiting_bound(rate, TARGET, 12 * KB) == bound


@pytest.mark.parametrize("most", [1, 100, LEAST - 1, LEAST])
def test_a_maximum_below_the_least_holds(most: int) -> None:
    assert waiting_bound(0, TARGET, most) == waiting_bound(1e9, TARGET, most) == most


def test_what_is_on_its_way_comes_on_top_twice() -> None:
    assert upstream_bound(100_000, 0.1, TARGET, 12 * KB) == 20_000 + 6250
    assert upstream_bound(0, 0.1, TARGET, 12 * KB) == LEAST


def test_a_provider_nearby_needs_nothing_for_the_way() -> None:
    assert upstream_bound(1e7, NEARBY * 0.99, TARGET, 12 * KB) == 12 * KB
    assert upstream_bound(1e7, NEARBY, TARGET, 12 * KB) == 12 * KB + 20_000


def test_only_an_uneven_client_has_a_reserve() -> None:
    pace = steady(32 * KB)
    assert pace.waiting(8 * KB) == 2 * KB
    pace.unevenness = 0.5
    assert pace.waiting(8 * KB) == 5 * KB
    pace.unevenness = 1.0
    assert pace.waiting(8 * KB) == 8 * KB


def test_who_comes_and_goes_is_told_over_spans_of_time() -> None:
    """Lumps within a span are no unevenness; a span in which nothing came is."""
    pace = DrainRate(TARGET, 0.0)
    assert pace.unevenness == 0.5
    taken = 0
    for second in range(1, 41):
        taken += 5000
        pace.measure(float(second), taken)
        pace.measure(second + 0.001, taken)
    assert pace.unevenness < 0.1
    pace.measure(44.0, taken)
    assert pace.unevenness > 0.4


# PaceMeter


def test_a_burst_is_no_rate() -> None:
    meter = PaceMeter(0.0)
    assert meter.measure(MOMENT / 2, 1_000_000, 0.0, _nothing) is None
    assert meter.measure(1.0, 0, 0.0, _nothing) == 1_000_000


def test_less_than_a_round_trip_tells_nothing() -> None:
    meter = PaceMeter(0.0)
    assert meter.measure(0.25, 1000, 0.5, _nothing) is None
    assert meter.measure(0.5, 1000, 0.5, _nothing) == 4000


def test_the_other_side_is_not_asked_before_there_is_a_rate() -> None:
    """That takes a system call."""
    meter = PaceMeter(0.0)

    def fails() -> int:
        raise AssertionError("asked too early")

    assert meter.measure(MOMENT / 2, 1000, 0.0, fails) is None


def test_what_has_not_arrived_was_not_taken() -> None:
    meter = PaceMeter(0.0)
    assert meter.measure(1.0, 5000, 0.0, lambda: 4000) == 1000
    assert meter.measure(2.0, 0, 0.0, lambda: 1000) == 3000
    assert meter.measure(3.0, 0, 0.0, lambda: 0) == 1000


def test_more_on_its_way_than_has_passed_is_no_rate_below_none() -> None:
    assert PaceMeter(0.0).measure(1.0, 100, 0.0, lambda: 5000) == 0


def test_a_meter_that_begins_again_knows_nothing_of_before() -> None:
    meter = PaceMeter(0.0)
    assert meter.measure(1.0, 5000, 0.0, lambda: 4000) == 1000
    assert meter.measure(1.001, 9000, 0.0, _nothing) is None
    meter.begin(10.0)
    assert meter.measure(11.0, 500, 0.0, lambda: 100) == 400


# Watermarks


def test_marks_that_are_not_given_are_the_usual_ones() -> None:
    assert repr(Watermarks()) == "<Watermarks high=8192 low=4096 chunks=16>"


@pytest.mark.parametrize(
    ("high", "low", "marks"),
    [
        (16 * KB, None, (16 * KB, 4 * KB)),
        (4 * KB, None, (4 * KB, 2 * KB)),
        (2, None, (2, 1)),
        (None, KB, (8 * KB, KB)),
        (None, 8 * KB, (16 * KB, 8 * KB)),
        (None, 1, (8 * KB, 1)),
    ],
)
def test_a_mark_that_is_given_moves_the_other_one(high: int | None, low: int | None, marks: tuple[int, int]) -> None:
    watermarks = Watermarks(high, low)
    assert (watermarks.high, watermarks.low) == marks


def test_marks_that_are_given_are_kept_whatever_the_pace() -> None:
    marks = Watermarks(9000, 500, 3)
    for rate in (0, 1000, 1e9):
        paced = marks.paced(steady(rate))
        assert (paced.high, paced.low, paced.chunks) == (9000, 500, 3)


def test_a_slow_client_gets_less_and_its_bytes_alone_count() -> None:
    paced = Watermarks().paced(steady(1000))
    assert (paced.high, paced.low) == (2, 1)  # one read waits, since it is taken whole
    assert not paced.are_reached(1, 1_000_000)
    assert paced.are_reached(2, 1)


def test_the_least_may_be_held_of_a_client_that_takes_nothing() -> None:
    paced = Watermarks().paced(DrainRate(TARGET, 0.0))
    assert 0 < paced.low < paced.high


def test_a_client_that_takes_all_has_no_more_than_the_usual_marks() -> None:
    pace = steady(1e9)
    pace.unevenness = 1.0
    usual = Watermarks()
    paced = usual.paced(pace)
    assert paced.low == usual.low
    assert paced.high <= usual.high


def test_paces_do_not_add_up() -> None:
    """Each is taken of the marks that were configured."""
    marks = Watermarks()
    slow = marks.paced(steady(1000))
    assert marks.paced(steady(1e9)).low == marks.low > slow.low


def test_a_writer_uses_new_marks_from_now_on() -> None:
    calls: list[str] = []

    def nothing(data: bytes) -> None: ...

    transport = FakeTransport(asyncio.Protocol())
    writer = BoundedWriter(
        transport,
        Watermarks(1000, 100, 16),
        write=nothing,
        on_full=lambda: calls.append("full"),
        on_drained=lambda: calls.append("drained"),
        blocked=True,
    )
    writer.send(b"x" * 300)
    assert calls == []
    writer.keep_pace(Watermarks(400, 50, 16))
    writer.send(b"x" * 99)
    assert calls == []
    writer.send(b"x")
    assert calls == ["full"]


def test_wider_bounds_are_for_faster_clients() -> None:
    rates = [0, 1000, 5000, 20_000, 50_000, 100_000, 1e6]
    marks = [Watermarks().paced(steady(rate)).low for rate in rates]
    assert all(slower <= faster for slower, faster in pairwise(marks))
