"""A request that waits for its turn before it is sent: the event loop has started enough others in this iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from flowserver.flow.loop_delay import LoopDelay
from flowserver.flow.memory_budget import UNLIMITED
from flowserver.flow.turns import STARTING, Turns
from flowserver.quota.traffic_class import BATCH, INTERACTIVE, TrafficClass
from flowserver.routing.context import DispatchState
from flowserver.routing.overload import NO_BATCH, OverloadGate

from ..support.later import Later
from .scene import Scene


class Busy(Scene):
    """Others have used up this iteration."""

    def __init__(self, *, replay: int = 100) -> None:
        super().__init__(replay=replay)
        self._soon: list[Callable[[], None]] = []
        turns = Turns(STARTING, self.clock, self._soon.append)
        loop_delay = LoopDelay(self.clock, Later(), lambda seconds, call: None)
        self.gate = OverloadGate(
            None, loop_delay, lambda: 0.0, UNLIMITED, random=lambda: 0.0, changed=lambda change: None
        )
        self.context = replace(self.context, turns=turns, overload=self.gate)
        turns.spend(STARTING)

    def iterate(self) -> None:
        calls = self._soon[:]
        self._soon.clear()
        for call in calls:
            call()


def test_it_is_sent_when_it_is_its_turn() -> None:
    scene = Busy()
    _, events = scene.ask(b"hello")
    assert scene.asked("a") == 0
    scene.iterate()
    assert scene.providers["a"].streams[0].log == ["data 5", "end"]
    scene.answer("a")
    assert events.log == ["head 200"]
    assert scene.asked("a") == 1
    scene.ask(b"hello")  # the next one does not wait
    assert scene.asked("a") == 2


def test_they_are_sent_in_order() -> None:
    scene = Busy()
    for body in (b"1", b"22", b"333"):
        scene.ask(body)
    scene.iterate()
    assert [stream.log[0] for stream in scene.providers["a"].streams] == ["data 1", "data 2", "data 3"]


def test_meanwhile_its_body_is_kept_and_bounded() -> None:
    scene = Busy(replay=10)
    dispatcher, events = scene.ask(b"hello", whole=False)
    dispatcher.send_data(b" world, how are you?")
    assert events.log == ["full"]
    scene.iterate()
    assert events.log == ["full", "drained"]
    dispatcher.send_data(b"!")
    dispatcher.send_end()
    assert scene.providers["a"].streams[0].body == b"hello world, how are you?!"


def test_one_whose_client_leaves_meanwhile_is_never_sent() -> None:
    scene = Busy()
    dispatcher, events = scene.ask(b"hello")
    scene.leave(dispatcher)
    scene.iterate()
    assert scene.asked("a") == 0
    assert events.upload.held == 0
    assert dispatcher.state is DispatchState.ENDED


@pytest.mark.parametrize(("traffic_class", "is_early"), [(BATCH, True), (INTERACTIVE, False)])
def test_batch_is_refused_before_it_waits(traffic_class: TrafficClass, is_early: bool) -> None:
    scene = Busy()
    scene.gate.memory_level = NO_BATCH
    _, events = scene.ask(b"hello", traffic_class=traffic_class)
    assert [error.code for error in events.errors] == ["overloaded"] * is_early
    scene.iterate()
    assert scene.asked("a") == (0 if is_early else 1)


def test_what_is_found_meanwhile_counts() -> None:
    scene = Busy()
    _, events = scene.ask(b"hello", traffic_class=BATCH)
    assert not events.errors
    scene.gate.memory_level = NO_BATCH
    scene.iterate()
    assert [error.code for error in events.errors] == ["overloaded"]
    assert scene.asked("a") == 0


def test_one_that_fails_at_its_turn_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Busy()
    _, events = scene.ask(b"hello")

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scene.providers["a"], "open", fails)
    with pytest.raises(ZeroDivisionError):
        scene.iterate()
    assert [error.code for error in events.errors] == ["relay_fault"]
    assert scene.open == 0
