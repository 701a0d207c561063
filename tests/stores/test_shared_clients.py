"""What clients have open over several workers, of which each tells the parent and hears it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.downstream.clients_by_address import ClientsByAddress
from flowserver.stores.shared_clients import ClientShare, ClientTally, TallyPart

MOST = 3


class Worker:
    def __init__(self, group: Group) -> None:
        self.events: deque[Callable[[], None]] = group.events
        self.part = TallyPart(self._to_worker)
        self.tally = group.tally
        self.share = ClientShare(self._to_parent, MOST)

    def _to_worker(self, *event: int) -> None:
        self.events.append(partial(self.share.hear, *event))  # type: ignore[arg-type]

    def _to_parent(self, *event: int) -> None:
        self.events.append(partial(self.tally.hear, self.part, *event))  # type: ignore[arg-type]


class Group:
    """Messages are delivered in order, when `settle` is called."""

    def __init__(self, workers: int) -> None:
        self.events: deque[Callable[[], None]] = deque()
        self.tally = ClientTally()
        self.workers = [Worker(self) for _ in range(workers)]
        self.settle()

    def settle(self) -> None:
        while self.events:
            self.events.popleft()()


def test_a_client_is_full_everywhere_once_it_has_as_much_as_it_may() -> None:
    group = Group(3)
    for worker in group.workers:
        assert not any(each.share.is_full(7) for each in group.workers)
        worker.share.enter(7)
        group.settle()
    assert all(each.share.is_full(7) and not each.share.is_full(8) for each in group.workers)
    group.workers[1].share.leave(7)
    group.settle()
    assert not any(each.share.is_full(7) for each in group.workers)


def test_a_worker_that_joins_later_hears_who_is_full_and_one_that_is_gone_frees_its_own() -> None:
    group = Group(2)
    for _ in range(MOST):
        group.workers[0].share.enter(7)
    group.settle()
    late = Worker(group)
    group.settle()
    assert late.share.is_full(7)
    group.tally.leave(group.workers[0].part)
    group.settle()
    assert not late.share.is_full(7)
    assert repr(group.tally) == "<ClientTally most=3 clients=0 workers=2>"


def test_without_the_parent_a_worker_counts_alone() -> None:
    group = Group(1)
    for _ in range(MOST):
        group.workers[0].share.enter(7)
    group.settle()
    group.workers[0].share.lost()
    assert not group.workers[0].share.is_full(7)


@pytest.mark.parametrize(("event", "given"), [("leave", 7), ("raise", 7)])
def test_nonsense_is_refused(event: str, given: int) -> None:
    group = Group(1)
    with pytest.raises(ValueError, match="no such event"):
        group.tally.hear(group.workers[0].part, event, given)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=60))
def test_who_is_full_is_known_by_all(steps: list[tuple[int, int, bool]]) -> None:
    group = Group(3)
    open_: list[Counter[int]] = [Counter() for _ in group.workers]
    for number, key, enters in steps:
        if enters:
            group.workers[number].share.enter(key)
            open_[number][key] += 1
        elif open_[number][key]:
            group.workers[number].share.leave(key)
            open_[number][key] -= 1
    group.settle()
    total = sum(open_, Counter())
    for worker in group.workers:
        assert [worker.share.is_full(key) for key in range(4)] == [total[key] >= MOST for key in range(4)]


def test_a_listener_refuses_those_who_are_full_elsewhere() -> None:
    group = Group(2)
    one, other = (ClientsByAddress(MOST, elsewhere=worker.share) for worker in group.workers)
    opened = []
    for _ in range(MOST):
        client = one.connected("192.0.2.1")
        assert not client.is_over_limit
        one.enter(client)
        opened.append(client)
    group.settle()
    assert other.connected("192.0.2.1").is_over_limit
    assert not other.connected("192.0.2.2").is_over_limit
    one.leave(opened.pop())
    group.settle()
    assert not other.connected("192.0.2.1").is_over_limit
