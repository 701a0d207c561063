"""A provider that several workers share: its places, breaker and cooldowns are one."""

from __future__ import annotations

import pytest

from flowserver.errors import EndReason, upstream_error
from flowserver.routing.circuit_breaker import BreakerState
from flowserver.routing.claim import Claim

from ..support.asker import Asker
from .shares import Group, Probing, Request, Worker

BROKEN = upstream_error("upstream_failed", "Broke off.", EndReason.UPSTREAM_FAILED)


def full(group: Group) -> list[Request]:
    """Requests that have all places, at one worker after the other."""
    held: list[Request] = []
    while True:
        request = Request(group.workers[len(held) % len(group.workers)]).ask()
        group.settle()
        if not request.has_place:
            request.leave()
            group.settle()
            return held
        held.append(request)


class Tokens:
    """What a request was served."""

    def __init__(self) -> None:
        self.input = 1
        self.output = 0


def queued(group: Group, worker: Worker, claim: Claim | None = None) -> Request:
    """A request that waits: it asks again when it has found the places taken."""
    request = Request(worker, claim=claim).ask()
    group.settle()
    if request.heard == ["busy"]:
        request.heard.clear()
        request.ask()
        group.settle()
    assert not request.heard
    return request


# Places


def test_places_are_bounded_over_all_workers() -> None:
    group = Group(3, most=4)
    assert len(full(group)) == 4
    assert sum(worker.places.open for worker in group.workers) == 4


def test_without_a_limit_nobody_is_asked() -> None:
    group = Group(2)
    worker = group.workers[0]
    assert all(worker.places.reserve(Asker()) for _ in range(1000))
    assert not worker.wire.up
    for _ in range(1000):
        worker.places.release(None)
    assert not worker.wire.up
    assert worker.places.open == 0


def test_who_asked_first_is_served_first_whatever_its_worker() -> None:
    group = Group(2, most=1, queue=10)
    [held] = full(group)
    heard: list[str] = []
    waiting = [Request(group.workers[number % 2], str(number), heard) for number in range(4)]
    for request in waiting:
        request.ask()
        group.settle()
    for request in [held, *waiting]:
        request.end()
        group.settle()
    assert heard == ["0 place", "1 place", "2 place", "3 place"]


def test_tenants_take_turns_over_all_workers() -> None:
    group = Group(2, most=1, queue=20)
    heard: list[str] = []
    crowd = [Request(group.workers[0], "many", heard, Claim("many", served=Tokens(), bound=0)) for _ in range(10)]
    few = [Request(group.workers[1], "few", heard, Claim("few", served=Tokens(), bound=0)) for _ in range(3)]
    for request in [*crowd, *few]:
        request.ask()
        group.settle()
        if request.heard == ["busy"]:
            request.heard.clear()
            request.ask()
            group.settle()
    heard.clear()
    for _ in range(8):
        next(request for request in [*crowd, *few] if request.has_place).end()
        group.settle()
    assert sorted(heard[:6]) == 3 * ["few place"] + 3 * ["many place"]
    assert heard[6:] == 2 * ["many place"]


def test_what_passes_in_one_worker_is_charged_for_all() -> None:
    group = Group(2, most=2, queue=20)
    tokens = Tokens()
    first = Request(group.workers[0], claim=Claim("a", served=tokens)).ask()
    second = Request(group.workers[1], claim=Claim("b", served=Tokens())).ask()
    group.settle()
    waiting = [
        queued(group, group.workers[number], Claim(name, served=Tokens())) for number, name in ((0, "a"), (1, "b"))
    ]
    tokens.output = 1000
    first.worker.places.charge(first.claim)
    group.settle()
    second.end()
    group.settle()
    assert [request.heard for request in waiting] == [[], ["place"]], "though the other has waited longer"


def test_batch_waits_for_a_place_that_is_kept_for_interactive_requests() -> None:
    group = Group(2, most=4, queue=10)
    Request(group.workers[0]).ask()
    group.settle()
    batch = [Request(group.workers[1], claim=Claim(is_batch=True)) for _ in range(4)]
    for request in batch:
        request.ask()
        group.settle()
    assert [request.heard for request in batch] == [["place"], ["busy"], [], []]
    assert group.workers[1].places.is_full(batch[0])
    assert not group.workers[1].places.is_full(Asker())
    other = Request(group.workers[1]).ask()
    group.settle()
    assert other.has_place


def test_a_full_queue_has_room_for_a_tenant_below_its_share() -> None:
    group = Group(2, most=1, queue=4)
    full(group)
    crowd = [queued(group, group.workers[0], Claim("many", served=Tokens())) for _ in range(4)]
    refused = Request(group.workers[0], claim=Claim("many", served=Tokens())).ask()
    group.settle()
    assert refused.heard == ["no place"]
    assert refused.refusal is not None
    assert (refused.refusal.waiting, refused.refusal.is_own) == (4, True)
    queued(group, group.workers[1], Claim("few", served=Tokens()))
    assert [request.heard for request in crowd] == [[], [], [], ["no place"]]


def test_the_queue_is_bounded_over_all_workers() -> None:
    group = Group(2, most=1, queue=3)
    full(group)
    waiting = [Request(group.workers[number % 2]) for number in range(5)]
    for request in waiting:
        request.ask()
        group.settle()
    assert [request.heard for request in waiting] == [[], [], [], ["no place"], ["no place"]]


def test_one_that_found_a_place_taken_may_go_elsewhere_and_comes_back_as_one_that_waits() -> None:
    group = Group(2, most=1, queue=1)
    first, second = Request(group.workers[0]).ask(), Request(group.workers[1])
    places = second.worker.places
    assert not places.is_full(Asker()), "it has not heard of the other worker's request"
    second.ask()
    group.settle()
    assert (first.heard, second.heard) == (["place"], ["busy"])
    assert (places.is_full(Asker()), places.has_room(Asker())) == (True, True)
    second.ask()
    group.settle()
    first.end()
    group.settle()
    assert second.heard == ["busy", "place"]


def test_a_worker_that_was_told_it_is_full_is_told_when_it_no_longer_is() -> None:
    group = Group(2, most=1)
    held = Request(group.workers[0]).ask()
    Request(group.workers[1]).ask()
    group.settle()
    told = [group.workers[1].places.is_full(Asker())]
    held.end()
    group.settle()
    told.append(group.workers[1].places.is_full(Asker()))
    assert told == [True, False]


def test_one_that_leaves_waits_no_more() -> None:
    group = Group(2, most=1, queue=2)
    [held] = full(group)
    first, second = (queued(group, worker) for worker in group.workers)
    first.leave()
    first.leave()
    group.settle()
    held.end()
    group.settle()
    assert (first.heard, second.heard) == ([], ["place"])


def test_a_place_that_comes_for_one_that_left_goes_on_to_the_next() -> None:
    group = Group(2, most=1, queue=2)
    [held] = full(group)
    first, second = (queued(group, worker) for worker in group.workers)
    held.end()
    group.deliver_up(held.worker)  # the place is granted, and on its way
    first.leave()
    group.settle()
    assert (first.heard, second.heard) == ([], ["place"])
    assert [worker.places.open for worker in group.workers] == [0, 1]


def test_what_a_dead_worker_had_comes_back_at_once() -> None:
    group = Group(2, most=4, queue=10)
    dying, other = group.workers
    held = [Request(dying).ask() for _ in range(4)]
    group.settle()
    waiting = [queued(group, worker) for worker in (dying, other, dying, other)]
    assert all(request.has_place for request in held)
    group.kill(dying)
    group.settle()
    assert [request.has_place for request in waiting] == [False, True, False, True]
    assert len(full(group)) == 2


def test_more_places_serve_those_who_wait_and_fewer_let_nobody_in() -> None:
    group = Group(2, most=2, queue=10)
    held = full(group)
    waiting = [queued(group, worker) for worker in group.workers]
    group.workers[0].places.limit(3, 10)
    group.settle()
    assert [request.has_place for request in waiting] == [True, False]
    group.workers[0].places.limit(1, 10)
    held[0].end()
    held[1].end()
    group.settle()
    assert not waiting[1].has_place
    waiting[0].end()
    group.settle()
    assert waiting[1].has_place


def test_requests_that_began_without_a_limit_count_once_there_is_one() -> None:
    group = Group(2)
    early = [Request(worker).ask() for worker in group.workers for _ in range(2)]
    for worker in group.workers:
        worker.places.limit(5, 0)
    group.settle()
    assert len(full(group)) == 1
    for request in early:
        request.end()
    group.settle()
    assert len(full(group)) == 4


def test_a_limit_that_ends_lets_all_in() -> None:
    group = Group(2, most=1, queue=5)
    held = full(group)
    waiting = [queued(group, worker) for worker in group.workers]
    for worker in group.workers:
        worker.places.limit(None, 5)
    group.settle()
    assert all(request.has_place for request in waiting)
    for request in [*held, *waiting]:
        request.end()
    for worker in group.workers:
        worker.places.limit(2, 0)
    group.settle()
    assert len(full(group)) == 2


def test_without_the_parent_limited_places_are_no_more() -> None:
    group = Group(2, most=1, queue=100)
    full(group)
    worker = group.workers[1]
    waiting = [Request(worker).ask() for _ in range(70)]
    worker.share.lost()
    group.later.run()
    assert {tuple(request.heard) for request in waiting} == {("no place",)}
    assert worker.places.is_full(Asker())
    assert not worker.places.has_room(Asker())
    assert Request(worker).ask().heard == ["no room"]


def test_without_the_parent_unlimited_places_go_on() -> None:
    group = Group(1)
    worker = group.workers[0]
    worker.share.lost()
    assert worker.places.reserve(Asker())
    fail(worker, group, 3)
    assert not worker.health.allows(group.clock())
    group.clock.advance(10)
    assert worker.places.reserve(Asker())
    assert worker.health.admits(group.clock())
    assert worker.health.started(group.clock()), "it probes by itself"
    assert not worker.health.allows(group.clock())


# The breaker


def fail(worker: Worker, group: Group, times: int = 1) -> None:
    for _ in range(times):
        worker.health.failed(group.clock(), probe=False)


def opened(group: Group) -> Group:
    for number in range(3):
        fail(group.workers[number % len(group.workers)], group)
        group.settle()
    assert states(group) == {BreakerState.OPEN}
    return group


def states(group: Group) -> set[BreakerState]:
    return {worker.health.state(group.clock()) for worker in group.workers}


def test_failures_count_over_all_workers() -> None:
    group = Group(3, failures=3)
    for worker in group.workers[:2]:
        fail(worker, group)
        group.settle()
    assert states(group) == {BreakerState.CLOSED}
    fail(group.workers[2], group)
    group.settle()
    assert states(group) == {BreakerState.OPEN}
    # Counted once: where it was the last straw.
    assert [worker.health.opened for worker in group.workers] == [0, 0, 1]


def test_a_success_anywhere_ends_the_row() -> None:
    group = Group(3, failures=3)
    fail(group.workers[0], group, 2)
    group.settle()
    group.workers[1].health.succeeded()
    group.settle()
    fail(group.workers[2], group)
    group.settle()
    assert states(group) == {BreakerState.CLOSED}


def test_a_success_that_tells_nothing_new_is_not_told() -> None:
    group = Group(2)
    group.workers[0].health.succeeded()
    assert not group.workers[0].wire.up


def test_late_failures_are_not_told() -> None:
    group = opened(Group(2))
    fail(group.workers[0], group, 100)
    assert not group.workers[0].wire.up


def test_failures_of_one_cause_are_one() -> None:
    group = Group(2, failures=2)
    for _ in range(5):
        group.workers[0].health.failed(group.clock(), probe=False, cause=BROKEN)
    group.settle()
    assert states(group) == {BreakerState.CLOSED}


def test_those_who_wait_are_sent_away_when_the_breaker_opens_elsewhere() -> None:
    group = Group(2, most=1, queue=5)
    full(group)
    waiting = queued(group, group.workers[1])
    fail(group.workers[0], group, 3)
    group.settle()
    assert waiting.heard == ["no place"]


@pytest.mark.parametrize("most", [None, 5])
def test_one_request_of_all_workers_probes(most: int | None) -> None:
    group = opened(Group(3, most=most))
    group.clock.advance(10)
    assert all(worker.health.allows(group.clock()) for worker in group.workers)
    asked = [Probing(worker, group.clock).ask() for worker in group.workers for _ in range(3)]
    group.settle()
    assert [request.heard for request in asked].count(["place"]) == 1
    assert [request.heard for request in asked].count(["no place"]) == 8
    [probe] = [request for request in asked if request.has_place]
    assert isinstance(probe, Probing)
    assert probe.is_probe
    assert not any(worker.health.allows(group.clock()) for worker in group.workers)
    probe.worker.health.succeeded()
    group.settle()
    assert states(group) == {BreakerState.CLOSED}


def test_a_probe_that_fails_opens_for_all() -> None:
    group = opened(Group(2))
    group.clock.advance(10)
    Probing(group.workers[0], group.clock).ask()
    group.settle()
    group.workers[0].health.failed(group.clock(), probe=True)
    group.settle()
    assert states(group) == {BreakerState.OPEN}
    group.clock.advance(10)
    assert states(group) == {BreakerState.HALF_OPEN}


@pytest.mark.parametrize("how", ["abandoned", "killed", "left", "not begun"])
def test_a_probe_that_tells_nothing_leaves_it_to_the_next(how: str) -> None:
    group = opened(Group(2))
    group.clock.advance(10)
    first, other = group.workers
    request = Request(first)
    if how != "not begun":
        request.acts = lambda: None if how == "left" else _start(first, group)
    request.ask()
    if how == "left":
        group.deliver_up(first)  # the leave is on its way
        request.leave()
    group.settle()
    if how == "abandoned":
        first.health.abandoned(probe=True)
    elif how == "killed":
        group.kill(first)
    group.settle()
    probe = Probing(other, group.clock)
    probe.ask()
    group.settle()
    assert probe.is_probe


def _start(worker: Worker, group: Group) -> None:
    assert worker.health.started(group.clock())


def test_a_worker_that_joins_later_knows_what_the_others_know() -> None:
    group = opened(Group(2))
    group.workers[0].cooldowns.limited(group.clock(), ("key", b"\xff"), 5.0)
    group.settle()
    late = group.add()
    group.settle()
    assert states(group) == {BreakerState.OPEN}
    assert not late.cooldowns.allows(group.clock(), ("key", b"\xff"))
    assert late.health.opened == 0


# Cooldowns


@pytest.mark.parametrize("subject", [("key", b"\xff\x00"), ("model", "gpt-4o"), ("model", None), ("model", "\ud800")])
def test_what_one_worker_was_refused_the_others_leave_alone(subject: tuple[str, bytes | str | None]) -> None:
    group = Group(2)
    first, other = group.workers
    first.cooldowns.limited(group.clock(), subject, 5.0)
    group.settle()
    assert not other.cooldowns.allows(group.clock(), subject)
    assert not first.cooldowns.allows(group.clock(), subject)
    group.clock.advance(5)
    assert other.cooldowns.allows(group.clock(), subject)
    first.cooldowns.limited(group.clock(), subject, 5.0)
    group.settle()
    other.cooldowns.served(subject)
    group.settle()
    assert first.cooldowns.allows(group.clock(), subject)
    assert not first.cooldowns


def test_refusals_of_a_model_count_over_all_workers() -> None:
    group = Group(3, failures=3)
    for worker in group.workers:
        assert worker.cooldowns.allows(group.clock(), ("model", "m"))
        worker.cooldowns.failed(group.clock(), ("model", "m"), None)
        group.settle()
    for worker in group.workers:
        assert not worker.cooldowns.allows(group.clock(), ("model", "m"))
        assert worker.cooldowns.allows(group.clock(), ("model", "n"))


def test_what_was_never_refused_is_not_told() -> None:
    group = Group(2)
    group.workers[0].cooldowns.served(("model", "m"), ("key", b""))
    group.workers[0].cooldowns.limited(group.clock(), ("key", b""), None)
    assert not group.workers[0].wire.up


def test_an_unknown_event_is_an_error() -> None:
    group = Group(1)
    with pytest.raises(ValueError):
        group.parent.hear(group.workers[0].member, "nonsense")
