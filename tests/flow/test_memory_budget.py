"""The levels of a process' memory, and who has to go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.flow.drain_rate import LEAST, DrainRate
from flowserver.flow.memory_budget import (
    HYSTERESIS,
    LATEST,
    MARKS,
    SOONEST,
    UNBOUNDED,
    UNLIMITED,
    Holding,
    Level,
    MemoryBudget,
    worst_first,
)

LIMIT = 1_000_000
PERCENT = LIMIT // 100
USED = st.integers(0, 2 * LIMIT)


@pytest.mark.parametrize(
    ("percent", "level"),
    [
        (0, Level.NORMAL),
        (69, Level.NORMAL),
        (70, Level.TIGHT),
        (84, Level.TIGHT),
        (85, Level.NO_BATCH),
        (92, Level.FULL),
        (97, Level.CUTTING),
        (150, Level.CUTTING),
    ],
)
def test_levels_begin_at_their_marks(percent: int, level: Level) -> None:
    budget = MemoryBudget(LIMIT)
    assert budget.look(percent * PERCENT) is (level is not Level.NORMAL)
    assert budget.level is level


@pytest.mark.parametrize("level", MARKS)
def test_a_level_ends_below_its_beginning(level: Level) -> None:
    budget = MemoryBudget(LIMIT)
    budget.look(budget.mark(level))
    assert not budget.look(budget.mark(level) - int(HYSTERESIS * LIMIT) + PERCENT)
    assert budget.level is level
    assert budget.look(budget.mark(level) - int(HYSTERESIS * LIMIT) - 1)
    assert budget.level < level


@given(st.lists(st.tuples(USED, USED), min_size=1))
def test_a_level_is_what_is_used_or_a_little_above(looks: list[tuple[int, int]]) -> None:
    budget = MemoryBudget(LIMIT)
    for used, pending in looks:
        before = budget.level
        assert budget.look(used, pending) is (budget.level is not before)
        least, most = MemoryBudget(LIMIT), MemoryBudget(LIMIT)
        least.look(used, pending)
        most.look(used + int(HYSTERESIS * LIMIT), pending)
        assert least.level <= budget.level <= max(most.level, least.level)
        assert budget.level <= before or budget.level is least.level


@pytest.mark.parametrize(
    ("used", "pending", "share"), [(79, 0, 0), (80, 0, 0), (81, 0, 0.2), (80, 4, 0.8), (85, 0, 1), (99, 9, 1)]
)
def test_requests_of_class_batch_give_way_by_and_by(used: int, pending: int, share: float) -> None:
    budget = MemoryBudget(LIMIT)
    budget.look(used * PERCENT, pending * PERCENT)
    assert budget.batch_refusals == pytest.approx(share)


def test_large_requests_give_way_to_what_uploads_may_still_come_to_hold() -> None:
    budget = MemoryBudget(LIMIT)
    assert budget.look(72 * PERCENT, uploads=12 * PERCENT)
    assert budget.level is Level.TIGHT, "others need not"
    assert budget.batch_refusals == 0
    assert budget.large_refusals == pytest.approx(0.8)
    budget.look(72 * PERCENT)
    assert budget.large_refusals == 0
    assert UNLIMITED.large_refusals == 0


def test_what_is_spent_counts_at_once() -> None:
    budget = MemoryBudget(LIMIT)
    assert budget.batch_refusals == 0
    budget.look(82 * PERCENT)
    budget.spend(PERCENT)
    assert budget.batch_refusals == pytest.approx(0.6)
    budget.look(82 * PERCENT)
    assert budget.batch_refusals == pytest.approx(0.4)
    UNLIMITED.spend(LIMIT)
    assert UNLIMITED.batch_refusals == 0


@given(USED, USED)
def test_nothing_is_cut_or_closed_for_what_is_only_expected(used: int, pending: int) -> None:
    budget = MemoryBudget(LIMIT)
    budget.look(used, pending)
    assert (budget.level is Level.CUTTING) is (used >= 0.97 * LIMIT)
    assert budget.must_free is (used >= 0.89 * LIMIT and budget.is_full)


def test_what_is_expected_is_refused() -> None:
    budget = MemoryBudget(LIMIT)
    budget.look(50 * PERCENT, 60 * PERCENT)
    assert budget.level is Level.FULL
    assert budget.is_full
    assert not budget.must_free


def test_a_look_is_due_when_the_allowance_is_spent() -> None:
    looks: list[int] = []
    budget = MemoryBudget(LIMIT, lambda: looks.append(budget.used))
    budget.spend(1)
    assert len(looks) == 1, "nobody has looked yet"
    budget.look(0)
    for _ in range(20):
        budget.spend(PERCENT // 10)
    assert len(looks) == 1
    budget.spend(PERCENT // 10)
    assert len(looks) == 2


def test_the_fuller_it_is_the_sooner_it_is_looked_at_again() -> None:
    budget = MemoryBudget(1 << 28)
    times = []
    for percent in (0, 80, 90, 96, 97, 110):
        budget.look((1 << 28) * percent // 100)
        times.append(budget.next_look())
    assert times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(LATEST, rel=0.1)
    assert times[-1] == SOONEST


def test_without_a_bound_nothing_is_ever_looked_at() -> None:
    for _ in range(100):
        UNLIMITED.spend(1 << 40)
    assert UNLIMITED.limit == UNBOUNDED
    assert UNLIMITED.level is Level.NORMAL
    assert not UNLIMITED.must_free


def test_no_more_is_freed_than_needed() -> None:
    budget = MemoryBudget(LIMIT)
    budget.look(96 * PERCENT)
    assert budget.excess == 0
    budget.look(98 * PERCENT)
    assert budget.excess == 4 * PERCENT


def test_those_go_first_whose_bytes_stay_longest() -> None:
    stalled, slow, fast = Holding("stalled", 20, 0.0), Holding("slow", 90, 10.0), Holding("fast", 90, 1e6)
    holdings = [Holding("empty", 0, 0.0), fast, slow, stalled]
    assert worst_first(holdings, 1, 0) == ["stalled"]
    assert worst_first(holdings, 21, 0) == ["stalled", "slow"]
    assert worst_first(holdings, 21, 10) == ["stalled"]
    assert worst_first(holdings, 1 << 40, 0) == ["stalled", "slow", "fast"], "who holds nothing is of no use"
    assert worst_first(holdings, 0, 0) == []


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1e6)), max_size=30), st.integers(-5, 100_000))
def test_just_enough_are_chosen(streams: list[tuple[int, float]], excess: int) -> None:
    chosen = worst_first([Holding(held, held, rate) for held, rate in streams], excess, 0)
    everything = sum(held for held, _ in streams)
    assert sum(chosen) >= min(excess, everything)
    assert not chosen or sum(chosen[:-1]) < excess


@pytest.mark.parametrize("level", [Level.TIGHT, Level.NO_BATCH, Level.FULL])
def test_less_is_in_flight_while_memory_is_short(level: Level) -> None:
    budget = MemoryBudget(LIMIT)
    pace = DrainRate(0.25, 0.0, budget)
    pace.measure(1.0, 100_000)
    before = pace.waiting(8192)
    budget.look(budget.mark(level))
    assert LEAST <= pace.waiting(8192) <= before // 2 + LEAST
    budget.look(0)
    assert pace.waiting(8192) == before
