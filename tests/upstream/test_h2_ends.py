"""How a request or its connection to a provider of HTTP/2 ends before its time."""

from __future__ import annotations

import pytest

from flowserver.errors import EndReason

from ..support import h2_frames as frames
from ..support.h2_upstream import H2Events, H2Provider, RecordingOwner, ask, response


def test_a_cancelled_request_is_reset_and_nothing_is_called_back() -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    stream.cancel()
    stream.cancel()
    provider.talk()
    assert provider.requests[1].reset == frames.CANCEL
    assert provider.requests[1].behind_reset == []
    provider.talk(response(1) + frames.data(1, b"late", end=True))
    assert events.log == []
    assert provider.end == "open"
    _, events = ask(provider)
    provider.head(3, end=True)
    assert events.log == ["head 200", "end"]


@pytest.mark.parametrize("status", ["100", "103", "200"])
@pytest.mark.parametrize("end", [False, True])
def test_a_head_that_crosses_a_reset_breaks_nobody_else(status: str, end: bool) -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    _, other = ask(provider)
    stream.cancel()
    provider.talk()
    provider.talk(frames.headers(1, [(":status", status), ("x-late", "yes")], end=end))
    provider.head(3, end=True)
    assert (events.log, other.log) == ([], ["head 200", "end"])
    assert provider.end == "open"


@pytest.mark.parametrize(("code", "not_processed"), [(frames.REFUSED_STREAM, True), (frames.INTERNAL_ERROR, False)])
def test_a_reset_by_the_provider_breaks_the_stream_and_tells_whether_it_was_begun(
    code: int, not_processed: bool
) -> None:
    provider = H2Provider()
    _, events = ask(provider)
    _, other = ask(provider)
    provider.talk(frames.rst_stream(1, code))
    assert [(error.not_processed, error.end) for error in events.errors] == [(not_processed, EndReason.UPSTREAM_FAILED)]
    assert other.log == []
    assert provider.connection.busy == 1


def test_a_reset_without_an_error_behind_the_end_is_no_failure() -> None:
    provider = H2Provider()
    _, events = ask(provider, b"POST", has_body=True)
    provider.talk(response(1, end=True) + frames.rst_stream(1, frames.NO_ERROR))
    assert events.log == ["head 200", "end"]
    assert provider.end == "open"


def test_goaway_lets_old_streams_end_refuses_later_ones_and_then_closes() -> None:
    owner = RecordingOwner()
    provider = H2Provider(owner)
    _, old = ask(provider)
    _, late = ask(provider)
    provider.talk(frames.goaway(1))
    assert late.errors[0].not_processed
    assert old.log == []
    assert provider.connection.capacity == 0
    assert provider.end == "open"
    provider.talk(response(1) + frames.data(1, b"hello", end=True))
    assert old.log == ["head 200", "data", "end"]
    assert provider.end == "closed"


def test_a_goaway_that_only_warns_is_followed_by_the_one_that_counts() -> None:
    provider = H2Provider()
    _, first = ask(provider)
    _, second = ask(provider)
    provider.talk(frames.goaway(0x7FFFFFFF))
    assert (first.log, second.log) == ([], [])
    provider.talk(frames.goaway(1))
    assert (first.log, second.log) == ([], ["failed 502"])


def test_goaway_on_an_idle_connection_closes_it() -> None:
    provider = H2Provider()
    provider.talk(frames.goaway(0))
    assert provider.end == "closed"


def test_goaway_that_ends_one_stream_whose_end_ends_another() -> None:
    provider = H2Provider()
    stream, first = ask(provider)
    second, told = ask(provider)

    class Ending(H2Events):
        def on_upstream_failed(self, error: object) -> None:
            second.cancel()

    stream.events = Ending()
    provider.talk(frames.goaway(0))
    assert (first.log, told.log) == ([], [])
    assert provider.connection.busy == 0


def test_a_lost_connection_fails_all_its_streams_and_is_told() -> None:
    owner = RecordingOwner()
    provider = H2Provider(owner)
    told = [ask(provider)[1] for _ in range(3)]
    provider.resets()
    assert [events.log for events in told] == [["failed 502"]] * 3
    assert owner.lost == 1
    assert provider.connection.capacity == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 100,
        frames.frame(frames.DATA, 0, 1, b"", length=16_385),
        frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
        frames.frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x88"),
        frames.frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, b"\0\0\0\x02\x82"),
        frames.frame(frames.SETTINGS, 0, 0, b"12345"),
        frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
        frames.frame(frames.DATA, frames.PADDED, 1, b"\x09x"),
        frames.frame(frames.DATA, frames.PADDED, 1, b""),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""),
        frames.frame(frames.GOAWAY, 0, 0, b"1234"),
    ],
)
def test_garbage_ends_the_connection_and_never_cleanly(garbage: bytes) -> None:
    provider = H2Provider()
    told = [ask(provider)[1] for _ in range(2)]
    provider.talk(garbage)
    assert provider.end == "reset"
    assert [events.log for events in told] == [["failed 502"]] * 2
    assert not any(events.errors[0].not_processed for events in told)
