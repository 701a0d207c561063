"""Which provider is asked, again or another one, and what of it the client's side hears."""

from __future__ import annotations

import pytest

from flowserver.errors import RelayError
from flowserver.http.messages import ResponseHead
from flowserver.relay.failures import retry_after

from .scene import BROKEN, NO_CONNECTION, REFUSED, TIMEOUT, UNREACHABLE, Scene

# The plain course


def test_an_answer_passes_and_the_place_is_given_back_once() -> None:
    scene = Scene()
    dispatcher, events = scene.ask(b"hello")
    assert scene.open == 1
    scene.answer("a")
    stream = scene.providers["a"].streams[0]
    stream.events.on_upstream_data(b"x")
    stream.events.on_upstream_end()
    assert events.log == ["head 200", "data", "end"]
    assert scene.providers["a"].streams[0].log == ["data 5", "end", "cancel"]
    dispatcher.cancel()
    assert (scene.open, dispatcher.attempts, dispatcher.upstream) == (0, 1, "a")
    assert (scene.hosts["a"].started, scene.hosts["a"].answers) == (1, 1)


def test_its_state_shows() -> None:
    scene = Scene()
    dispatcher, _ = scene.ask(b"hello", whole=False)
    assert repr(dispatcher) == "<Dispatcher asking: <Attempt at a: asked>, 1 attempts>"
    scene.answer("a")
    assert repr(dispatcher) == "<Dispatcher answered: <Attempt at a: answered>, 1 attempts>"
    scene.leave(dispatcher)
    assert repr(dispatcher) == "<Dispatcher ended: a, 1 attempts>"


# Trying again


@pytest.mark.parametrize("error", [UNREACHABLE, REFUSED, NO_CONNECTION])
def test_what_was_not_begun_is_tried_elsewhere_with_its_whole_body(error: RelayError) -> None:
    scene = Scene(("a",), ("b",))
    dispatcher, events = scene.ask(b"hello", whole=False)
    dispatcher.send_data(b" world")
    scene.fail("a", error)
    assert scene.providers["b"].streams[0].body == b"hello world"
    dispatcher.send_data(b"!")
    dispatcher.send_end()
    assert scene.providers["b"].streams[0].log == ["data 11", "data 1", "end"]
    scene.answer("b")
    assert events.log == ["head 200"]
    assert events.asked == ["a", "b"]
    assert (scene.hosts["a"].open, scene.hosts["b"].open, scene.hosts["b"].fallbacks) == (0, 1, 1)


def test_a_provider_that_broke_off_before_its_answer_leads_to_another_one_only() -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask(b"hello")
    scene.fail("a", BROKEN)
    assert scene.providers["b"].streams[0].body == b"hello"
    scene.fail("b", BROKEN)
    assert events.errors == [BROKEN]
    assert (scene.asked("a"), scene.asked("b"), scene.open) == (1, 1, 0)


@pytest.mark.parametrize(("error", "unanswered"), [(BROKEN, False), (TIMEOUT, False), (TIMEOUT, True)])
def test_what_may_have_been_begun_is_not_tried_again(error: RelayError, unanswered: bool) -> None:
    scene = Scene(("a",), ("b",), unanswered=unanswered)
    _, events = scene.ask()
    scene.fail("a", error)
    assert events.errors == [error]
    assert scene.asked("b") == 0
    assert scene.open == 0


def test_nothing_is_tried_again_behind_the_head() -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask()
    scene.answer("a")
    scene.fail("a", REFUSED)
    assert events.log == ["head 200", "failed 502"]
    assert scene.asked("b") == 0


def test_a_refused_request_is_tried_again_at_the_only_provider_and_a_refused_connect_is_not() -> None:
    scene = Scene()
    _, events = scene.ask()
    scene.fail("a", REFUSED)
    assert scene.asked("a") == 2
    assert scene.hosts["a"].retries == 1
    scene.fail("a", UNREACHABLE)
    assert events.errors == [UNREACHABLE]
    assert scene.open == 0


def test_attempts_are_bounded() -> None:
    scene = Scene(("a", "b", "c"), attempts=2)
    _, events = scene.ask()
    for name in list(scene.providers):
        if scene.asked(name):
            scene.fail(name, UNREACHABLE)
    for name in list(scene.providers):
        if scene.asked(name) and not events.errors:
            scene.fail(name, UNREACHABLE)
    assert events.errors == [UNREACHABLE]
    assert sum(scene.asked(name) for name in scene.providers) == 2


def test_time_is_bounded() -> None:
    scene = Scene(("a",), ("b",), time=10.0)
    _, events = scene.ask()
    scene.clock.advance(10)
    scene.fail("a", UNREACHABLE)
    assert events.errors == [UNREACHABLE]


def test_a_body_over_the_bound_is_not_sent_twice() -> None:
    scene = Scene(("a",), ("b",), replay=100)
    dispatcher, events = scene.ask(b"x" * 60, whole=False)
    dispatcher.send_data(b"y" * 40)
    dispatcher.send_data(b"z")
    scene.fail("a", UNREACHABLE)
    assert events.errors == [UNREACHABLE]
    assert scene.asked("b") == 0
    assert scene.upload.held == 0


def test_a_body_is_not_kept_behind_the_head() -> None:
    scene = Scene()
    dispatcher, _ = scene.ask(b"x", whole=False)
    scene.answer("a")
    dispatcher.send_data(b"y")
    assert scene.upload.held == 0
    assert scene.providers["a"].streams[0].body == b"xy"


# Statuses that say: not now


@pytest.mark.parametrize("status", [429, 502, 503, 504, 529])
def test_an_unhealthy_provider_s_answer_sends_the_request_elsewhere(status: int) -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask(b"hello")
    scene.answer("a", status)
    assert scene.providers["a"].streams[0].log[-1] == "cancel"
    assert scene.providers["b"].streams[0].body == b"hello"
    scene.answer("b")
    assert events.log == ["head 200"]
    assert scene.hosts["a"].failures == {f"status_{status}": 1}


@pytest.mark.parametrize("status", [400, 401, 404, 500, 501])
def test_other_answers_pass(status: int) -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask()
    scene.answer("a", status)
    assert events.log == [f"head {status}"]


def test_with_nobody_else_the_answer_itself_passes() -> None:
    scene = Scene()
    _, events = scene.ask()
    scene.answer("a", 503)
    assert events.log == ["head 503"]
    assert scene.asked("a") == 1


def test_the_provider_s_own_wait_is_obeyed() -> None:
    scene = Scene()
    dispatcher, events = scene.ask(b"hello")
    scene.answer("a", 429, (b"retry-after", b"3"))
    dispatcher.sweep(scene.clock.advance(2.9))
    assert scene.asked("a") == 1
    dispatcher.sweep(scene.clock.advance(0.2))
    assert scene.asked("a") == 2
    assert scene.providers["a"].streams[1].body == b"hello"
    scene.answer("a")
    assert events.log == ["head 200"]


def test_a_wait_beyond_the_time_for_retries_is_the_client_s_own() -> None:
    scene = Scene(time=10.0)
    _, events = scene.ask()
    scene.answer("a", 429, (b"retry-after", b"10"))
    assert events.log == ["head 429"]


def test_a_client_that_leaves_during_the_wait_is_not_asked_for_again() -> None:
    scene = Scene()
    dispatcher, events = scene.ask()
    scene.answer("a", 429, (b"retry-after", b"3"))
    dispatcher.cancel()
    dispatcher.sweep(scene.clock.advance(5))
    assert scene.asked("a") == 1
    assert events.log == []
    assert scene.open == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"0.5")], 0.5),
        ([(b"retry-after", b"7"), (b"retry-after-ms", b"1500")], 1.5),
        ([(b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT")], 9.0),
        ([(b"retry-after", b"Friday, 31-Dec-99 23:59:59 GMT")], 9.0),
        ([(b"retry-after", b"Fri, 31 Dec 1999 23:00:00 GMT")], 0.0),
        ([(b"retry-after", b"Fri, 99 Dec 1999 23:59:59 GMT")], None),
        ([(b"retry-after", b"soon" * 100)], None),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"1e9")], None),
        ([], None),
    ],
)
def test_waits_are_read(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    assert retry_after(ResponseHead(429, headers), lambda: 946_684_790.0) == seconds
