"""What is kept of a request's body for another attempt."""

from __future__ import annotations

import pytest

from flowserver.routing.replay_buffer import ReplayBuffer, ReplayState

from .scene import Held


@pytest.fixture
def upload() -> Held:
    return Held()


def made(upload: Held, *, content_length: int | None = None) -> ReplayBuffer:
    return ReplayBuffer(10, content_length, upload)


def body(buffer: ReplayBuffer) -> bytes:
    return b"".join(buffer.pieces)


def test_up_to_the_bound_a_body_can_be_sent_again(upload: Held) -> None:
    buffer = made(upload)
    buffer.hold(b"12345")
    buffer.taken()
    buffer.copy(b"67890")
    buffer.taken()
    assert buffer.is_replayable
    assert (body(buffer), upload.held) == (b"1234567890", 10)
    buffer.copy(b"x")
    assert buffer.state is ReplayState.RELEASED
    assert (body(buffer), upload.held) == (b"", 0)
    buffer.copy(b"y")
    assert body(buffer) == b""


def test_a_body_over_the_bound_is_kept_for_one_attempt(upload: Held) -> None:
    buffer = made(upload)
    buffer.hold(b"x" * 11)
    buffer.hold(b"y")
    assert (buffer.state, body(buffer), upload.held) == (ReplayState.ONCE, b"x" * 11 + b"y", 12)
    buffer.taken()
    assert (buffer.state, body(buffer), upload.held) == (ReplayState.RELEASED, b"", 0)


@pytest.mark.parametrize("waits", ["before the attempt", "during it"])
def test_no_client_waits_for_a_copy_of_what_was_sent(upload: Held, waits: str) -> None:
    buffer = made(upload)
    buffer.hold(b"1")
    upload.upload_waits = waits == "before the attempt"
    buffer.taken()
    upload.upload_waits = True
    buffer.copy(b"2")
    assert buffer.state is ReplayState.RELEASED
    assert upload.held == 0


def test_a_body_counts_as_an_upload_until_it_is_whole(upload: Held) -> None:
    buffer = made(upload)
    buffer.hold(b"1")
    buffer.finish()
    assert (body(buffer), upload.held, buffer.is_replayable, buffer.is_whole) == (b"1", 0, True, True)


def test_a_body_that_comes_at_once_is_no_upload(upload: Held) -> None:
    buffer = made(upload, content_length=5)
    buffer.hold(b"12345")
    assert upload.held == 0


def test_its_state_shows(upload: Held) -> None:
    buffer = made(upload)
    buffer.hold(b"123")
    assert repr(buffer) == "<ReplayBuffer replayable: 3 bytes, limit 10>"
    buffer.finish()
    buffer.release()
    assert repr(buffer) == "<ReplayBuffer released: 3 bytes in all, limit 10>"
