"""What dispatchers do while memory is short: requests are refused, and bodies are not kept for another attempt."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import ANY

import pytest

from flowserver.flow.loop_delay import LoopDelay
from flowserver.flow.memory_budget import UNLIMITED, Level, MemoryBudget
from flowserver.quota.traffic_class import BATCH, INTERACTIVE, TrafficClass
from flowserver.routing.overload import OverloadGate
from flowserver.routing.routes import Route, RouteTable

from ..support.later import Later
from .scene import REFUSED, Scene

LIMIT = 1000


def gate_without_target() -> OverloadGate:
    """Time refuses nobody."""
    delay = LoopDelay(lambda: 0.0, Later(), lambda *_: None)
    return OverloadGate(None, delay, lambda: 0.0, UNLIMITED, random=lambda: 0.5, changed=lambda _: None)


def under(level: Level, *tiers: tuple[str, ...], traffic_class: TrafficClass = INTERACTIVE) -> Scene:
    """A scene whose memory is at this level, with a route of this class."""
    scene = Scene(*(tiers or (("a",),)))
    memory, gate = MemoryBudget(LIMIT), gate_without_target()
    if level:
        memory.look(memory.mark(level))
    gate.memory_level = memory.level
    hosts = tuple(tuple(scene.hosts[name] for name in tier) for tier in tiers or (("a",),))
    routes = RouteTable([Route("*", (), hosts, traffic_class=traffic_class)])
    scene.context = replace(scene.context, routes=routes, memory=memory, overload=gate)
    return scene


@pytest.mark.parametrize(
    ("level", "traffic_class", "refused"),
    [
        (Level.TIGHT, BATCH, False),
        (Level.NO_BATCH, INTERACTIVE, False),
        (Level.NO_BATCH, BATCH, True),
        (Level.FULL, INTERACTIVE, True),
        (Level.CUTTING, BATCH, True),
    ],
)
def test_requests_are_refused_by_level_and_class(level: Level, traffic_class: TrafficClass, refused: bool) -> None:
    scene = under(level, traffic_class=traffic_class)
    _, events = scene.ask()
    assert [(error.status, error.code, error.retry_after) for error in events.errors] == [
        (503, "overloaded", ANY)
    ] * refused
    assert scene.asked("a") == (not refused)


def test_where_memory_is_short_a_body_is_not_kept_for_another_attempt() -> None:
    scene = under(Level.TIGHT, ("a",), ("b",))
    dispatcher, events = scene.ask(b"x" * 50)
    assert dispatcher.held == 50
    dispatcher.sweep(scene.clock.now)
    assert dispatcher.held == 0
    scene.fail("a", REFUSED)
    assert [error.code for error in events.errors] == ["upstream_failed"]
    assert scene.asked("b") == 0


def test_what_no_provider_has_yet_is_kept() -> None:
    scene = under(Level.TIGHT)
    scene.hosts["a"].places.limit(1, 5)
    first, _ = scene.ask()
    second, _ = scene.ask(b"x" * 50)
    second.sweep(scene.clock.now)
    assert second.held == 50
    scene.leave(first)
    assert scene.providers["a"].streams[1].body == b"x" * 50


def test_a_body_that_its_provider_does_not_take_counts() -> None:
    scene = Scene(replay=10, routes={"a": ("gpt-*",)})
    body = b'{"model": "gpt-4o", "messages": []}'
    dispatcher, _ = scene.ask(body)
    assert dispatcher.held == 0
    scene.providers["a"].streams[0].stop_upload(full=True)
    assert dispatcher.held == len(body)
    scene.providers["a"].streams[0].stop_upload(full=False)
    assert dispatcher.held == 0
