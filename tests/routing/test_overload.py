"""The gate in front of a loop that has more to do than it can: who is refused, how many, and what it does to the delay.

The loop is a model (`support.busy_loop`), which serves 4,000 requests in a second.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from flowserver.flow.loop_delay import LoopDelay
from flowserver.flow.memory_budget import UNLIMITED, MemoryBudget
from flowserver.flow.readmission import LEAST
from flowserver.quota.traffic_class import BATCH, INTERACTIVE
from flowserver.routing.overload import ALERT, FULL, MOST, NO_BATCH, PATIENCE, TIGHT, OverloadGate

from ..support.busy_loop import INTERVAL, SERVED, TARGET, BusyLoop, Source
from ..support.clock import FakeClock
from ..support.later import Later
from ..support.quota import tenant

MOST_SERVED = 1 / SERVED


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def test_while_there_is_little_to_do_nobody_is_refused() -> None:
    loop = BusyLoop()
    people, work = Source(0.4 * MOST_SERVED), Source(0.4 * MOST_SERVED, BATCH)
    loop.run(5, people, work)
    assert people.refused == work.refused == 0
    assert not loop.changes
    assert 0 < loop.gate.delay < TARGET


def test_a_burst_is_no_overload() -> None:
    loop = BusyLoop()
    people = Source(0.1 * MOST_SERVED)
    people.waiting.extend([loop.clock.now] * 600)  # 150 ms
    loop.run(2, people)
    assert loop.longest_wait > 3 * TARGET
    assert people.refused == 0
    assert not loop.changes


def test_who_comes_back_at_once_with_many_is_served() -> None:
    """10,000 clients, of a server that has started again: 2.5 s of work."""
    loop = BusyLoop()
    people = Source(0.1 * MOST_SERVED, clients=20_000)
    people.waiting.extend([loop.clock.now] * 10_000)
    loop.run(4, people)
    assert people.served > 10_000
    assert people.refused == 0
    assert [change.begins for change in loop.changes] == [True, False]


@pytest.mark.parametrize("people_share", [0.2, 0.5, 0.75])
def test_batch_gives_way_to_people(people_share: float) -> None:
    """The loop can serve all the people. Batch gets what they leave, and a refusal is quick."""
    loop = BusyLoop()
    people, work = Source(people_share * MOST_SERVED), Source((1.5 - people_share) * MOST_SERVED, BATCH)
    loop.run(3, people, work)
    loop.run(5, people, work)
    assert people.refused <= 0.02 * people.served
    assert people.served >= 0.95 * 5 * people.rate
    assert people.served + work.served >= 0.7 * 5 * MOST_SERVED  # refusals take some of it
    assert _percentile(work.times, 0.5) < TARGET / 4
    assert _percentile(work.times, 0.99) < TARGET * 3 / 4
    assert [change.begins for change in loop.changes] == [True]


def test_where_people_alone_are_too_many_a_share_of_them_is_refused() -> None:
    loop = BusyLoop()
    people, work = Source(1.5 * MOST_SERVED), Source(0.5 * MOST_SERVED, BATCH)
    loop.run(PATIENCE, people, work)
    assert people.refused == 0
    loop.run(3, people, work)
    loop.run(5, people, work)
    assert work.served <= 0.02 * work.refused
    assert 0.2 < people.refused / (people.refused + people.served) < 0.8
    assert people.served >= 0.5 * 5 * MOST_SERVED
    assert _percentile(people.times, 0.99) < 2 * TARGET


def test_not_all_are_refused_whatever_comes() -> None:
    loop = BusyLoop()
    flood = Source(20 * MOST_SERVED, clients=2000)
    loop.run(PATIENCE + 5, flood)
    assert loop.gate.shares == (1.0, 0.0, MOST)
    assert flood.served > 0


def test_it_is_over_soon_after_the_load_has_gone() -> None:
    loop = BusyLoop()
    loop.run(PATIENCE + 4, Source(2 * MOST_SERVED))
    people = Source(0.3 * MOST_SERVED)
    loop.run(1 + 2 * INTERVAL, people)
    begin, end = loop.changes
    assert (begin.begins, end.begins) == (True, False)
    assert begin.delay > TARGET > end.delay
    assert end.seconds > PATIENCE + 3
    assert end.refused == sum(loop.gate.refused.values()) > 0
    assert end.most[0] == 1.0
    assert 0 < end.most[2] <= MOST
    loop.run(2, people)
    assert people.refused == 0


def test_soon_after_an_overload_the_next_one_is_noticed_at_once() -> None:
    loop = BusyLoop()
    loop.run(1, Source(2 * MOST_SERVED, BATCH))
    people = Source(0.3 * MOST_SERVED)
    loop.run(ALERT / 2, people)
    assert not loop.gate.is_overloaded
    people.waiting.extend([loop.clock.now] * 600)  # 150 ms: no overload at another time
    loop.run(INTERVAL, people)
    assert [change.begins for change in loop.changes[:3]] == [True, False, True]
    loop.run(2, people)
    assert people.refused == 0  # it is too short
    loop.run(2 * ALERT, people)
    begun = len(loop.changes)
    people.waiting.extend([loop.clock.now] * 600)
    loop.run(2, people)
    assert len(loop.changes) == begun


def test_so_it_is_where_memory_was_short() -> None:
    loop = BusyLoop()
    people = Source(0.3 * MOST_SERVED)
    loop.gate.memory_level = TIGHT
    loop.run(1, people)
    loop.gate.memory_level = 0
    people.waiting.extend([loop.clock.now] * 600)
    loop.run(INTERVAL / 2, people)
    assert loop.gate.is_overloaded


@pytest.mark.parametrize("cause", ["memory", "delay"])
def test_afterwards_batch_comes_back_at_a_rate_that_grows(cause: str) -> None:
    loop = BusyLoop()
    if cause == "memory":
        loop.gate.memory_level = NO_BATCH
        loop.run(5, Source(MOST_SERVED, BATCH))
        loop.gate.memory_level = 0
    else:
        loop.run(5, Source(1.5 * MOST_SERVED))
        loop.run(1)
        assert not loop.gate.is_overloaded
    people, work = Source(0.1 * MOST_SERVED), Source(0.8 * MOST_SERVED, BATCH)
    before = loop.gate.refused.copy()
    loop.run(0.1, work)
    assert {key for key, refused in loop.gate.refused.items() if refused > before[key]} == {(BATCH, cause)}
    served = []
    for _ in range(30):
        loop.run(1, people, work)
        served.append(work.served)
        assert people.refused == 0
    assert LEAST <= served[0] < 0.1 * work.rate
    assert all(after <= 2.5 * before + 5 for before, after in pairwise(served))
    assert served[-1] > 0.95 * work.rate


def test_it_is_over_even_if_no_request_comes_any_more() -> None:
    loop = BusyLoop()
    loop.run(PATIENCE + 4, Source(2 * MOST_SERVED))
    assert loop.gate.is_overloaded
    loop.run(2)
    assert not loop.gate.is_overloaded


def test_the_wait_for_a_turn_counts_too() -> None:
    """Requests start over several iterations of the loop, each of which is short."""
    loop = BusyLoop()
    loop.run(1, Source(1.2 * MOST_SERVED))
    assert loop.gate.is_overloaded
    assert loop.longest < TARGET


# Tenants


def test_a_tenant_within_its_share_is_not_refused() -> None:
    loop = BusyLoop()
    greedy = Source(2 * MOST_SERVED, tenant=tenant("greedy"))
    modest = Source(0.1 * MOST_SERVED, tenant=tenant("modest"))
    loop.run(3, greedy, modest)
    loop.run(5, greedy, modest)
    assert modest.refused <= 0.02 * modest.served
    assert greedy.refused > greedy.served > modest.served


def test_shares_go_by_weight() -> None:
    loop = BusyLoop()
    large = Source(2 * MOST_SERVED, tenant=tenant("large", weight=3))
    small = Source(2 * MOST_SERVED, tenant=tenant("small"))
    loop.run(5, large, small)
    loop.run(10, large, small)
    assert 2 < large.served / small.served < 4


def test_a_tenant_of_class_batch_gives_way_whatever_its_share() -> None:
    loop = BusyLoop()
    work = Source(0.5 * MOST_SERVED, BATCH, tenant=tenant("work"))
    people = Source(0.8 * MOST_SERVED, tenant=tenant("people"))
    loop.run(3, people, work)
    loop.run(5, people, work)
    assert people.refused <= 0.02 * people.served
    assert work.refused > work.served


# What refused clients are told


def test_a_refusal_says_when_to_come_back_and_not_to_all_the_same() -> None:
    loop = BusyLoop()
    loop.run(5, Source(MOST_SERVED), Source(MOST_SERVED, BATCH))
    assert {(error.status, error.code) for error in loop.errors} == {(503, "overloaded")}
    after = [error.retry_after for error in loop.errors]
    assert all(isinstance(seconds, int) and 1 <= seconds <= 10 for seconds in after)
    assert len({error.retry_after for error in loop.errors if "batch" in error.message}) > 5
    assert len({error.retry_after for error in loop.errors if "batch" not in error.message}) > 1


# Memory


def _without_time(memory: MemoryBudget = UNLIMITED, chance: float = 0.0) -> OverloadGate:
    loop_delay = LoopDelay(FakeClock(), Later(), lambda seconds, call: None)
    return OverloadGate(None, loop_delay, lambda: 0.0, memory, random=lambda: chance, changed=lambda change: None)


@pytest.mark.parametrize(("level", "refuses_batch", "refuses_people"), [
    (0, False, False),
    (1, False, False),
    (NO_BATCH, True, False),
    (FULL, True, True),
    (4, True, True),
])  # fmt: skip
def test_memory_refuses_by_its_level(level: int, refuses_batch: bool, refuses_people: bool) -> None:
    gate = _without_time()
    gate.memory_level = level
    for traffic_class, refuses in ((BATCH, refuses_batch), (INTERACTIVE, refuses_people)):
        error = gate.refusal(traffic_class, None, 1000.0)
        assert (error is not None) is refuses
        assert error is None or "is short of memory" in error.message
        assert gate.refused[traffic_class, "memory"] == sum(gate.refused.values()) == refuses
        gate.refused[traffic_class, "memory"] = 0
    assert (gate.refusal_as_batch(1.0) is not None) is refuses_batch


@pytest.mark.parametrize(("percent", "refuses"), [(79, False), (81, False), (83, True), (85, True)])
def test_below_the_level_a_growing_share_of_batch_gives_way(percent: int, *, refuses: bool) -> None:
    memory = MemoryBudget(100_000)
    memory.look(percent * 1000)
    gate = _without_time(memory, chance=0.5)
    gate.memory_level = 1
    assert (gate.refusal(BATCH, None, 1000.0) is not None) is refuses
    assert (gate.refusal(INTERACTIVE, None, 1000.0, is_large=True) is not None) is refuses
    assert (gate.refusal_as_batch(1.0) is not None) is refuses
    assert gate.refusal(INTERACTIVE, None, 1000.0) is None


@pytest.mark.parametrize(("level", "refuses"), [(0, False), (1, False), (NO_BATCH, True), (FULL, True)])
def test_large_requests_give_way_before_small_ones_where_memory_is_short(level: int, *, refuses: bool) -> None:
    gate = _without_time()
    gate.memory_level = level
    error = gate.refusal(INTERACTIVE, None, 1000.0, is_large=True)
    assert (error is not None) is refuses
    assert error is None or "large requests give way first" in error.message
    assert (gate.refusal(INTERACTIVE, None, 1000.0) is not None) is (level == FULL)


def test_without_a_target_no_delay_is_measured() -> None:
    loop = Later()
    gate = OverloadGate(
        None,
        LoopDelay(FakeClock(), loop, lambda seconds, call: None),
        lambda: 0.0,
        UNLIMITED,
        random=lambda: 0.0,
        changed=lambda change: None,
    )
    assert gate.refusal(BATCH, None, 1e9) is None
    assert loop.is_idle
