"""Places at providers, the queue for them, and the breaker that closes both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowserver.errors import EndReason, RelayError, upstream_error
from flowserver.routing.circuit_breaker import BreakerState

from .scene import BROKEN, NO_CONNECTION, REFUSED, TIMEOUT, UNREACHABLE, Scene

# Places


def test_requests_wait_for_a_place_in_their_order() -> None:
    scene = Scene(max_concurrent=1, queue=2)
    first, _ = scene.ask(b"1")
    second, _ = scene.ask(b"2")
    third, _ = scene.ask(b"3")
    _, refused = scene.ask(b"4")
    assert refused.log == ["failed 503"]
    assert refused.errors[0].retry_after == 1
    scene.clock.advance(2)
    scene.leave(first)
    assert [stream.body for stream in scene.providers["a"].streams] == [b"1", b"2"]
    scene.leave(second)
    scene.leave(third)
    assert scene.open == 0
    assert scene.hosts["a"].queued_seconds == 4.0


def test_who_is_asked_again_without_the_question_for_a_report_keeps_its_place() -> None:
    scene = Scene(max_concurrent=1, queue=1, failures=1)
    body = b'{"model":"m","stream":true}'
    _, events = scene.ask(body, path="/v1/chat/completions")
    _, waiting = scene.ask(b"2")
    scene.answer("a", 400)
    assert [stream.body for stream in scene.providers["a"].streams] == [
        body[:-1] + b',"stream_options":{"include_usage":true}}',
        body,
    ]
    assert scene.providers["a"].streams[0].log[-1] == "cancel"
    scene.answer("a")
    assert (events.log, waiting.log) == (["head 200"], [])
    assert (scene.open, scene.hosts["a"].waiting, scene.hosts["a"].retries) == (1, 1, 1)


def test_a_probe_that_is_asked_again_without_the_question_for_a_report_closes_the_breaker() -> None:
    scene = Scene(failures=1)
    scene.ask()
    scene.fail("a", UNREACHABLE)
    scene.clock.advance(10)
    scene.ask(b'{"model":"m","stream":true}', path="/v1/chat/completions")
    scene.answer("a", 400)
    assert scene.hosts["a"].health.state(scene.clock()) is BreakerState.CLOSED
    scene.fail("a", BROKEN)
    assert scene.hosts["a"].health.state(scene.clock()) is BreakerState.OPEN
    assert scene.open == 0


def test_who_leaves_the_queue_is_passed_over() -> None:
    scene = Scene(max_concurrent=1, queue=2)
    first, _ = scene.ask(b"1")
    second, events = scene.ask(b"2")
    scene.ask(b"3")
    scene.leave(second)
    scene.leave(first)
    assert [stream.body for stream in scene.providers["a"].streams] == [b"1", b"3"]
    second.sweep(scene.clock.advance(100))
    assert events.log == []


def test_the_wait_has_its_end() -> None:
    scene = Scene(max_concurrent=1, queue=1, queue_timeout=5.0)
    first, _ = scene.ask()
    second, events = scene.ask()
    second.sweep(scene.clock.advance(4.9))
    assert events.log == []
    second.sweep(scene.clock.advance(0.1))
    assert events.log == ["failed 503"]
    assert (second.queued, scene.hosts["a"].queued_seconds) == (5.0, 5.0)
    scene.leave(first)
    assert scene.open == 0
    assert scene.asked("a") == 1


def test_who_waited_in_vain_goes_on_to_the_next_in_the_order() -> None:
    scene = Scene(("a",), ("b",), max_concurrent=1, queue=1, queue_timeout=5.0)
    scene.ask()
    second, events = scene.ask()
    second.sweep(scene.clock.advance(5.0))
    assert events.asked == ["b"]
    scene.answer("b")
    assert events.log == ["head 200"]
    assert (scene.open, scene.hosts["a"].waiting) == (2, 0)


def test_a_full_provider_is_passed_over_for_the_next_in_the_order() -> None:
    scene = Scene(("a",), ("b",), max_concurrent=1)
    scene.ask()
    scene.ask()
    assert (scene.asked("a"), scene.asked("b")) == (1, 1)


# The breaker


def test_a_broken_provider_is_left_alone_and_one_probe_brings_it_back() -> None:
    scene = Scene(failures=2)
    for _ in range(2):
        scene.ask()
        scene.fail("a", replace(UNREACHABLE))  # each a failure of its own
    _, refused = scene.ask()
    assert refused.errors[0].status == 503
    assert refused.errors[0].retry_after == 10
    scene.clock.advance(10)
    scene.ask()
    _, refused = scene.ask()
    assert refused.log == ["failed 503"]
    assert scene.asked("a") == 3
    scene.answer("a")
    scene.ask()
    assert scene.asked("a") == 4


def test_an_old_request_that_its_client_leaves_is_not_taken_for_the_probe() -> None:
    scene = Scene(failures=1)
    old, _ = scene.ask()
    scene.ask()
    scene.fail("a", UNREACHABLE)
    scene.clock.advance(10)
    scene.ask()
    scene.leave(old)
    _, refused = scene.ask()
    assert refused.log == ["failed 503"]


def test_a_probe_whose_client_leaves_lets_the_next_one_through() -> None:
    scene = Scene(failures=1)
    scene.ask()
    scene.fail("a", UNREACHABLE)
    scene.clock.advance(10)
    probe, _ = scene.ask()
    scene.leave(probe)
    scene.ask()
    assert scene.asked("a") == 3


@pytest.mark.parametrize("error", [REFUSED, NO_CONNECTION])
def test_a_provider_that_lets_go_of_a_connection_is_not_broken(error: RelayError) -> None:
    scene = Scene(attempts=1, failures=2)
    for _ in range(10):
        scene.ask()
        scene.fail("a", error)
    assert scene.hosts["a"].health.state(scene.clock()) is BreakerState.CLOSED


def test_requests_that_waited_do_not_go_to_a_provider_that_broke_meanwhile() -> None:
    scene = Scene(("a",), ("b",), max_concurrent=1, queue=1, failures=1)
    scene.ask(b"1")
    waiting, events = scene.ask(b"2")
    scene.fail("a", BROKEN)
    assert (scene.asked("a"), scene.asked("b")) == (1, 1)
    assert scene.hosts["a"].open == 0
    assert scene.hosts["b"].waiting == 1
    waiting.cancel()
    assert events.log == []
    assert scene.open == 1


def test_timeouts_speak_against_the_provider_and_the_relay_s_own_end_does_not() -> None:
    scene = Scene(failures=1)
    dispatcher, _ = scene.ask()
    dispatcher.cancel(upstream_error("t", "Too long.", EndReason.TOTAL_TIMEOUT))
    assert scene.hosts["a"].health.state(scene.clock()) is BreakerState.CLOSED
    dispatcher, _ = scene.ask()
    dispatcher.cancel(TIMEOUT)
    assert scene.hosts["a"].health.state(scene.clock()) is BreakerState.OPEN
