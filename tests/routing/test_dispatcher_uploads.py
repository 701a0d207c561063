"""A request's body on its way to a provider: when its upload stops, and what is kept of it."""

from __future__ import annotations

import orjson
import pytest

from .scene import BROKEN, UNREACHABLE, Scene


def body(model: object) -> bytes:
    return orjson.dumps({"messages": [], "model": model, "stream": True})


def test_a_failed_attempt_that_had_stopped_the_upload_does_not_keep_it_stopped() -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask(b"hello", whole=False)
    scene.providers["a"].streams[0].stop_upload(full=True)
    scene.fail("a", UNREACHABLE)
    assert events.log == ["full", "drained"]


def test_a_body_over_the_bound_waits_for_a_place_and_goes_on_with_it() -> None:
    scene = Scene(max_concurrent=1, queue=1, replay=100)
    first, _ = scene.ask()
    second, events = scene.ask(b"x" * 100, whole=False)
    assert events.log == []
    second.send_data(b"y")
    assert events.log == ["full"]
    scene.leave(first)
    assert scene.providers["a"].streams[1].body == b"x" * 100 + b"y"
    assert events.log == ["full", "drained"]


def test_what_is_held_of_a_body_counts_until_it_is_whole() -> None:
    scene = Scene(routes={"a": ("gpt-*",)})
    dispatcher, _ = scene.ask(body("gpt-4o")[:10], whole=False)
    assert scene.upload.held == 10
    dispatcher.send_data(body("gpt-4o")[10:])
    dispatcher.send_end()
    assert scene.upload.held == 0
    assert scene.asked("a") == 1


@pytest.mark.parametrize("ends", ["cancel", "fail", "overdue"])
def test_what_was_held_does_not_count_when_it_is_over(ends: str) -> None:
    scene = Scene(routes={"a": ("gpt-*",)})
    dispatcher, events = scene.ask(body("gpt-4o")[:10], whole=False)
    if ends == "cancel":
        dispatcher.cancel()
    elif ends == "fail":
        dispatcher.send_data(b"}}}")
        dispatcher.send_end()
    else:
        scene.upload.overdue = True
        dispatcher.sweep(scene.clock.now)
        assert [error.code for error in events.errors] == ["uploads_full"]
    assert scene.upload.held == 0


def test_a_copy_to_be_sent_again_counts_and_is_given_up_rather_than_to_wait() -> None:
    scene = Scene(("a",), ("b",), replay=1000)
    dispatcher, events = scene.ask(b"hello", whole=False)
    assert scene.upload.held == 5
    scene.upload.upload_waits = True
    dispatcher.send_data(b"x")
    assert scene.upload.held == 0
    scene.upload.upload_waits = False
    dispatcher.send_data(b"y")
    assert scene.upload.held == 0
    assert scene.providers["a"].streams[0].body == b"helloxy"
    scene.fail("a", BROKEN)
    assert events.log == ["failed 502"]
    assert scene.asked("b") == 0


def test_a_pause_of_the_answer_holds_for_the_next_attempt() -> None:
    scene = Scene(("a",), ("b",))
    dispatcher, _ = scene.ask()
    dispatcher.pause_reading()
    scene.fail("a", UNREACHABLE)
    assert scene.providers["b"].streams[0].log == ["pause", "end"]
    dispatcher.resume_reading()
    assert scene.providers["b"].streams[0].log[-1] == "resume"


def test_a_body_is_not_kept_for_another_attempt_where_the_client_would_wait_for_it() -> None:
    scene = Scene(("a",), ("b",), max_concurrent=1, queue=1)
    first, _ = scene.ask()
    _, events = scene.ask(b"hello", whole=False)
    assert scene.upload.held == 5
    scene.upload.upload_waits = True
    scene.leave(first)
    assert scene.providers["a"].streams[1].body == b"hello"
    assert scene.upload.held == 0
    scene.fail("a", UNREACHABLE)
    assert events.errors == [UNREACHABLE]


def test_an_upload_that_waits_too_long_ends_the_attempt_that_is_under_way() -> None:
    scene = Scene()
    dispatcher, events = scene.ask(b"hello", whole=False)
    scene.upload.overdue = True
    dispatcher.sweep(scene.clock.now)
    assert [error.code for error in events.errors] == ["uploads_full"]
    assert scene.providers["a"].streams[0].log[-1] == "cancel"
    assert scene.open == 0
