"""Requests and providers that fail their checks or are ejected."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

from flowserver.routing.candidates import is_dispensable
from flowserver.routing.outliers import OutlierPolicy, Outliers
from flowserver.routing.routes import RouteTable

from .scene import BROKEN, TIMEOUT, UNREACHABLE, Scene

POLICY = OutlierPolicy(
    interval=10.0,
    min_requests=1,
    max_errors=0.1,
    max_slowness=2.0,
    slow_intervals=1,
    ejection=30.0,
    max_ejected=0.5,
)


def _fail_check(scene: Scene, name: str) -> None:
    health = scene.hosts[name].checks
    health.begin(failures=1, successes=1)
    health.note("no answer within 2 s")


def _with_outliers(*names: str) -> tuple[Scene, Outliers]:
    scene = Scene(names)
    [route] = scene.context.routes.routes
    outliers = Outliers(POLICY, route.tiers, scene.clock())
    drawn = cycle((0.25, 0.25, 0.75, 0.75))
    routes = RouteTable([replace(route, outliers=outliers)])
    scene.context = replace(scene.context, routes=routes, random=lambda: next(drawn))
    return scene, outliers


def test_one_that_fails_its_checks_is_not_asked() -> None:
    scene = Scene(("a", "b"))
    _fail_check(scene, "a")
    for _ in range(10):
        scene.ask()
    assert (scene.asked("a"), scene.asked("b")) == (0, 10)


def test_the_next_tier_is_asked_in_place_of_it() -> None:
    scene = Scene(("a",), ("b",))
    _fail_check(scene, "a")
    _, events = scene.ask()
    assert events.asked == ["b"]


def test_it_is_asked_where_nobody_else_is_left() -> None:
    scene = Scene(("a",), ("b",), failures=1)
    _fail_check(scene, "a")
    scene.ask()
    scene.fail("b", UNREACHABLE)
    _, events = scene.ask()
    assert events.asked == ["a"], "the breaker of the other one is open"


def test_it_is_not_asked_while_another_one_is_healthy_though_it_failed_this_request() -> None:
    scene = Scene(("a",), ("b",))
    _fail_check(scene, "a")
    _, events = scene.ask()
    scene.fail("b", UNREACHABLE)
    assert events.asked == ["b"]
    assert events.errors == [UNREACHABLE]


def test_the_answer_says_why_nobody_may_be_asked() -> None:
    scene = Scene(("a",), ("b",), failures=1)
    for name in ("a", "b"):
        scene.hosts[name].health.failed(scene.clock(), probe=False)
    _fail_check(scene, "a")
    _, events = scene.ask()
    [error] = events.errors
    assert error.message == (
        "No provider for this request is available now: a failed its check once: no answer within 2 s; b failed its "
        "last requests."
    )


def test_it_is_dispensable_where_each_of_its_routes_has_another_one() -> None:
    scene = Scene(("a", "b"))
    a, b = scene.hosts.values()
    routes = scene.context.routes.routes
    assert is_dispensable(a, routes, scene.clock())
    _fail_check(scene, "b")
    assert not is_dispensable(a, routes, scene.clock())
    assert is_dispensable(b, routes, scene.clock())


def test_outliers_hear_of_answers_and_failures() -> None:
    scene, outliers = _with_outliers("a", "b")
    for _ in range(12):
        scene.ask()
    streams = {name: provider.streams for name, provider in scene.providers.items()}
    assert min(map(len, streams.values())) > 2
    for number, stream in enumerate(streams["a"]):
        if number == 0:
            stream.answer(500)
        elif number == 1:
            stream.answer()
            stream.fail(BROKEN)
        else:
            stream.answer()
    for stream in streams["b"]:
        stream.answer()
    [change] = outliers.sweep(scene.clock.advance(10.0))
    count = len(streams["a"])
    assert change.cause == f"{2 / count:.0%} of its {count} requests failed, 0% of the others'"
    for _ in range(5):
        scene.ask()
    assert len(streams["a"]) == count
    list(outliers.sweep(scene.clock.advance(30.0)))
    for _ in range(12):
        scene.ask()
    assert len(streams["a"]) > count


def test_a_timeout_that_the_relay_finds_counts() -> None:
    scene, outliers = _with_outliers("a", "b")
    asked = [scene.ask() for _ in range(12)]
    for dispatcher, events in asked:
        if events.asked == ["a"]:
            dispatcher.cancel(TIMEOUT)
    for stream in scene.providers["b"].streams:
        stream.answer()
    [change] = outliers.sweep(scene.clock.advance(10.0))
    assert change.cause == "100% of its 6 requests failed, 0% of the others'"


def test_outliers_hear_when_the_body_of_a_good_answer_begins() -> None:
    scene, outliers = _with_outliers("a", "b")
    for _ in range(12):
        scene.ask()
    for name, delay in (("b", 0.5), ("a", 4.0)):
        scene.clock.advance(delay)
        for stream in scene.providers[name].streams:
            stream.answer()
            stream.events.on_upstream_data(b"one")
            stream.events.on_upstream_data(b"two")
    [change] = outliers.sweep(scene.clock.advance(10.0))
    assert change.cause == "its answers begin after 4.50 s, the others' after 0.50 s"
