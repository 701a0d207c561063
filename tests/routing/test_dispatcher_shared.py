"""Requests at several workers whose providers are shared: each scene is one worker."""

from __future__ import annotations

from flowserver.routing.context import DispatchState

from ..support.clock import FakeClock
from ..support.later import Later
from .scene import BROKEN, UNREACHABLE, Scene
from .shares import Group


class Machine:
    """Two workers; providers by their `most` places."""

    def __init__(self, *tiers: tuple[str, ...], queue: int = 0, **most: int | None) -> None:
        clock, later = FakeClock(), Later()
        self.clock = clock
        self.groups = {
            name: Group(2, most=places, queue=queue, failures=1, clock=clock, later=later)
            for name, places in most.items()
        }
        self.scenes = [
            Scene(
                *tiers,
                shares={name: group.workers[number].share for name, group in self.groups.items()},
                clock=clock,
                later=later,
                max_concurrent=1,  # what the shares say counts
                queue=queue,
                queue_timeout=3.0,
            )
            for number in range(2)
        ]

    def settle(self) -> None:
        for _ in range(5):
            for group in self.groups.values():
                group.settle()


def test_a_request_that_others_were_faster_than_goes_where_a_place_is_free() -> None:
    machine = Machine(("a", "b"), queue=5, a=1, b=1)
    asked = [scene.ask()[0] for scene in machine.scenes]
    assert len({dispatcher.upstream for dispatcher in asked}) == 1, "neither knows of the other"
    machine.settle()
    assert len({dispatcher.upstream for dispatcher in asked}) == 2
    assert [dispatcher.state for dispatcher in asked] == [DispatchState.ASKING] * 2
    assert sum(host.fallbacks for scene in machine.scenes for host in scene.hosts.values()) == 0, "nothing has failed"


def test_where_no_place_is_free_a_request_waits_for_one_of_any_worker() -> None:
    machine = Machine(queue=5, a=1)
    first, second = machine.scenes
    dispatcher, _ = first.ask()
    machine.settle()
    waiting, events = second.ask()
    machine.settle()
    assert (waiting.state, events.asked) == (DispatchState.QUEUED, [])
    dispatcher.cancel()
    machine.settle()
    assert events.asked == ["a"]
    assert (first.open, second.open) == (0, 1)


def test_a_full_queue_anywhere_refuses() -> None:
    machine = Machine(queue=1, a=1)
    first, second = machine.scenes
    first.ask()
    machine.settle()
    first.ask()
    machine.settle()
    _, events = second.ask()
    machine.settle()
    assert [error.status for error in events.errors] == [503]


def test_a_wait_ends_in_time_and_leaves_nothing_behind() -> None:
    machine = Machine(queue=5, a=1)
    first, second = machine.scenes
    running, _ = first.ask()
    machine.settle()
    waiting, events = second.ask()
    machine.settle()
    waiting.sweep(machine.clock.advance(3))
    machine.settle()
    assert [error.status for error in events.errors] == [503]
    running.cancel()
    machine.settle()
    assert (first.open, second.open) == (0, 0)
    assert first.ask()[0].state is DispatchState.QUEUED
    machine.settle()
    assert first.open == 1


def test_one_probe_of_all_workers_and_the_others_go_elsewhere() -> None:
    machine = Machine(("a",), ("b",), a=None, b=None)
    first, second = machine.scenes
    first.ask()
    first.fail("a", BROKEN)
    machine.settle()
    assert second.ask()[0].upstream == "b"
    machine.clock.advance(10)
    asked = [scene.ask()[0] for scene in machine.scenes]
    machine.settle()
    assert [dispatcher.upstream for dispatcher in asked] == ["a", "b"]
    first.answer("a")
    machine.settle()
    assert second.ask()[0].upstream == "a"


def test_a_worker_without_its_parent_goes_where_places_are_not_limited() -> None:
    machine = Machine(("a",), ("b",), queue=5, a=1, b=None)
    second = machine.scenes[1]
    for group in machine.groups.values():
        group.workers[1].share.lost()
    assert second.ask()[0].upstream == "b"
    assert second.asked("b") == 1


def test_no_figure_falls_where_a_request_chooses_again() -> None:
    """A fallback counts once it is asked. To Prometheus a counter that is less than before began anew."""
    machine = Machine(("a",), ("b", "c"), queue=5, a=None, b=1, c=1)
    asked = [scene.ask()[0] for scene in machine.scenes]
    for scene in machine.scenes:
        scene.fail("a", UNREACHABLE)
    hosts = [scene.hosts[name] for scene in machine.scenes for name in ("b", "c")]
    assert [host.fallbacks for host in hosts] == [0, 0, 0, 0], "no place is granted yet"
    machine.settle()
    assert {dispatcher.upstream for dispatcher in asked} == {"b", "c"}
    assert sorted(host.fallbacks for host in hosts) == [0, 0, 1, 1]
