"""What may be read only to be dropped: by one connection, and by all of them."""

from __future__ import annotations

from flowserver.downstream.drop_budget import LINGER_RATE, TOTAL_RATE, DropBudget, SharedDrops


def test_one_connection_has_its_part_of_each_second() -> None:
    budget = DropBudget(SharedDrops(), 10.0)
    assert budget.drop(LINGER_RATE - 1)
    assert not budget.drop(1)
    budget.refill(10.5)
    assert budget.has_room
    assert not budget.drop(LINGER_RATE // 2)


def test_all_have_theirs() -> None:
    shared = SharedDrops()
    budgets = [DropBudget(shared, 10.0) for _ in range(2 * TOTAL_RATE // LINGER_RATE)]
    for budget in budgets[: TOTAL_RATE // LINGER_RATE]:
        budget.drop(LINGER_RATE)
    assert not any(budget.has_room for budget in budgets)
    budgets[-1].refill(10.5)
    assert budgets[-1].has_room


def test_one_that_sends_on_and_on_does_not_stop_the_others_for_long() -> None:
    shared = SharedDrops()
    endless, other = DropBudget(shared, 10.0), DropBudget(shared, 10.0)
    for _ in range(1000):
        endless.drop(LINGER_RATE)
    other.refill(11.0)
    other.refill(11.5)
    assert other.has_room
    assert not endless.has_room
