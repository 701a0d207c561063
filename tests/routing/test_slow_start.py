"""A provider that comes back gets its load little by little."""

from __future__ import annotations

import pytest

from flowserver.routing.routes import choose
from flowserver.routing.slow_start import LEAST, SlowStart

from ..support.clock import FakeClock
from .scene import UNREACHABLE, Scene


def test_one_that_was_never_away_has_all_of_its_weight() -> None:
    assert SlowStart().ramp(5.0, 30.0, is_away=False) == 1.0


def test_the_weight_grows_evenly_from_a_tenth() -> None:
    start = SlowStart()
    assert start.ramp(0.0, 30.0, is_away=True) == LEAST
    ramp = [start.ramp(second, 30.0, is_away=False) for second in (100.0, 110.0, 120.0, 130.0, 140.0)]
    assert ramp == pytest.approx([0.1, 0.4, 0.7, 1.0, 1.0])


def test_it_begins_anew_when_it_is_away_again() -> None:
    start = SlowStart()
    start.ramp(0.0, 30.0, is_away=True)
    start.ramp(1.0, 30.0, is_away=False)
    start.ramp(20.0, 30.0, is_away=True)
    assert start.ramp(21.0, 30.0, is_away=False) == LEAST


def test_off_means_all_at_once() -> None:
    start = SlowStart()
    assert [start.ramp(now, None, is_away=away) for now, away in ((0.0, True), (1.0, False))] == [1.0, 1.0]


def test_a_reload_that_switches_it_off_ends_it() -> None:
    start = SlowStart()
    start.ramp(0.0, 30.0, is_away=True)
    start.ramp(1.0, 30.0, is_away=False)
    assert start.ramp(2.0, None, is_away=False) == 1.0
    assert start.ramp(3.0, 30.0, is_away=False) == 1.0


def test_the_choice_goes_by_the_weight_that_it_has() -> None:
    scene = Scene(("a", "b"))
    scene.hosts["a"].ramp = 0.25
    points = [number / 1000 for number in range(1000)]
    drawn = [choose(list(scene.hosts.values()), iter([point, point]).__next__).name for point in points]
    assert drawn.count("a") == pytest.approx(200, abs=1)


def test_a_breaker_that_waits_for_its_probe_has_all_of_its_weight() -> None:
    scene = Scene(("a", "b"), failures=1, clock=FakeClock())
    host = scene.hosts["a"]
    host.ramp = LEAST
    assert host.weight == LEAST
    host.health.failed(scene.clock(), probe=False, cause=UNREACHABLE)
    assert host.weight == 1
