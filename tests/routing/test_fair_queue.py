"""A queue in which tenants take turns by the tokens that they were served."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from flowserver.routing.fair_queue import MOST_RESTING, FairQueue

Queue = FairQueue[str]


def joined(queue: Queue, *waiters: str, weight: int = 1, expected: int = 10) -> None:
    """Their names begin with their tenant's."""
    for waiter in waiters:
        queue.join(waiter, waiter[0], weight, expected)


def order(queue: Queue) -> str:
    """Whoever waits, in the order of grants."""
    found = []
    while (taken := queue.take()) is not None:
        found.append(taken[0])
    return " ".join(found)


def test_one_tenant_is_served_in_order_of_arrival() -> None:
    queue = Queue()
    joined(queue, "a1", "a2", "a3", "a4")
    queue.leave("a2")
    assert order(queue) == "a1 a3 a4"


def test_tenants_take_turns_however_many_each_has_waiting() -> None:
    queue = Queue()
    joined(queue, "a1", "a2", "a3", "a4", "b1", "b2")
    assert order(queue) == "a1 b1 a2 b2 a3 a4"


def test_a_tenant_with_large_requests_gets_fewer_of_them() -> None:
    queue = Queue()
    joined(queue, "a1", "a2", "a3", expected=30)
    joined(queue, "b1", "b2", "b3", "b4", "b5", "b6", expected=10)
    assert order(queue) == "a1 b1 b2 b3 a2 b4 b5 b6 a3"


def test_a_weight_is_a_multiple() -> None:
    queue = Queue()
    joined(queue, *(f"a{number}" for number in range(30)), weight=1)
    joined(queue, *(f"b{number}" for number in range(30)), weight=3)
    first = order(queue).split()[:20]
    assert sum(each[0] == "b" for each in first) == 15


def test_what_it_really_took_counts_and_not_what_was_expected() -> None:
    queue = Queue()
    joined(queue, "a1", "a2", "a3", "b1", "b2", "b3", "b4")
    assert [queue.take(), queue.take()] == [("a1", "a", 10), ("b1", "b", 10)]
    queue.charge("a", 20)
    assert order(queue) == "b2 b3 a2 b4 a3"
    queue = Queue()
    joined(queue, "a1", "a2", "a3", "b1", "b2", "b3", expected=100)
    assert [queue.take(), queue.take()] == [("a1", "a", 100), ("b1", "b", 100)]
    queue.charge("b", -99)
    assert order(queue) == "b2 a2 b3 a3"


def test_idleness_earns_nothing() -> None:
    queue = Queue()
    joined(queue, *(f"a{number}" for number in range(10)))
    for _ in range(6):
        queue.take()
    joined(queue, "b1", "b2", "b3", "b4")
    assert order(queue) == "a6 b1 a7 b2 a8 b3 a9 b4"


def test_a_newcomer_begins_where_the_last_that_got_a_place_is_while_nobody_waits() -> None:
    queue = Queue()
    queue.grant("a", 1, 1000)
    queue.grant("a", 1, 1000)
    joined(queue, "b1", "b2")
    joined(queue, "a1", "a2")
    assert order(queue) == "b1 a1 b2 a2"


def test_who_was_served_beyond_others_does_not_lose_that_by_a_moment_of_rest() -> None:
    queue = Queue()
    joined(queue, "b1", "b2", "b3", "b4", "b5", "a1")
    assert [taken and taken[0] for taken in (queue.take(), queue.take())] == ["b1", "a1"]
    queue.charge("a", 20)
    queue.release("a")
    joined(queue, "a2")
    assert order(queue) == "b2 b3 a2 b4 b5"


def test_the_youngest_of_the_fullest_goes_first() -> None:
    queue = Queue()
    joined(queue, "a1", "b1", "b2", "b3", "c1", "c2")
    assert queue.fullest is not None
    assert queue.fullest.name == "b"
    assert queue.remove_youngest(queue.fullest) == "b3"
    joined(queue, "c3", "c4", weight=4)
    joined(queue, "a2", "a3")
    assert queue.fullest.name == "a"
    assert queue.remove_youngest(queue.fullest) == "a3"
    assert "a3" not in queue
    assert len(queue) == 8


def test_nothing_is_kept_of_those_that_are_idle_once_all_are() -> None:
    queue = Queue()
    for number in range(100):
        queue.grant(str(number), 1, number)
    for number in range(100):
        queue.release(str(number))
    assert (queue.known, queue.held) == (0, 0)


def test_of_idle_tenants_only_those_that_were_served_beyond_others_are_kept_and_not_too_many() -> None:
    queue = Queue()
    joined(queue, "a1", "a2")
    queue.take()
    for number in range(5000):
        queue.grant(f"t{number}", 1, 1 + number % 2 * 1000)
        queue.release(f"t{number}")
    assert queue.known <= MOST_RESTING + 1


@pytest.mark.parametrize("tenants", [1, 10_000])
def test_the_cost_of_a_request_does_not_grow_with_the_queue(tenants: int) -> None:
    def cost(waiting: int) -> float:
        draw = random.Random(1)
        queue = FairQueue[int]()
        for number in range(waiting):
            queue.join(number, str(number % tenants), 1, 10)
        return min(_seconds(lambda: _cycle(queue, draw, tenants)) for _ in range(5))

    few, many = cost(100), cost(10_000)
    assert many < 8 * few


def _cycle(queue: FairQueue[int], draw: random.Random, tenants: int) -> None:
    for _ in range(1000):
        taken = queue.take()
        assert taken is not None
        number, tenant, _ = taken
        queue.charge(tenant, draw.randrange(-9, 100))
        queue.release(tenant)
        queue.join(number, str(draw.randrange(tenants)), 1, 10)
        assert queue.fullest is not None


def _seconds(call: Callable[[], None]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before
