"""Windows towards a provider of HTTP/2: what is withheld, credited and kept to."""

from __future__ import annotations

import pytest

from flowserver.errors import EndReason
from flowserver.http.h2_send_window import MAX_WINDOW
from flowserver.upstream.h2 import CONNECTION_WINDOW

from ..support import h2_frames as frames
from ..support.h2_upstream import H2Events, H2Provider, ask, response

WINDOW = 65_536


def test_a_paused_stream_gets_no_window_and_its_bytes_are_bounded() -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    _, other = ask(provider)
    provider.head(1)
    provider.head(3)
    stream.pause_reading()
    sent = 0
    while (room := min(provider.room(1), 10_000)) > 0:
        provider.body(1, b"x" * room)
        sent += room
    assert sent == WINDOW
    for _ in range(100):
        provider.body(3, b"y" * 10_000)
    assert len(other.body) == 1_000_000
    stream.resume_reading()
    provider.talk()
    assert provider.room(1) == WINDOW
    provider.body(1, b"z", end=True)
    assert events.body == b"x" * WINDOW + b"z"


def test_a_stream_is_credited_as_it_is_consumed() -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.head(1)
    for _ in range(300):
        provider.body(1, b"x" * 1000)
        assert provider.room(1) >= WINDOW // 2 - 1000
    assert len(events.body) == 300_000


def test_the_connection_is_credited_on_receipt_and_for_dropped_streams_too() -> None:
    provider = H2Provider()
    for number in range(CONNECTION_WINDOW // WINDOW):
        stream, _ = ask(provider)
        stream.cancel()
        for _ in range(WINDOW // 16_384):  # the provider has not heard of the reset yet
            provider.transport.arrive(frames.data(2 * number + 1, b"x" * 16_384))
        provider.turns.run()
    told = [*provider.frames, *provider.heard_frames()]
    credits = [frame for frame in told if frame.kind == frames.WINDOW_UPDATE and not frame.stream_id]
    opened = CONNECTION_WINDOW - 65_535
    assert sum(int.from_bytes(frame.payload, "big") for frame in credits) == opened + CONNECTION_WINDOW


def test_more_than_the_window_breaks_the_stream() -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    provider.talk(response(1))
    stream.pause_reading()
    for _ in range(WINDOW // 16_384):
        provider.transport.arrive(frames.data(1, b"x" * 16_384))
    assert "failed 502" not in events.log
    provider.transport.arrive(frames.data(1, b"x"))
    assert events.log[-1] == "failed 502"
    assert events.body == b"x" * WINDOW
    assert provider.end == "open"


def test_nothing_follows_a_reset() -> None:
    provider = H2Provider()

    class Leaving(H2Events):
        def on_upstream_data(self, data: bytes) -> None:
            super().on_upstream_data(data)
            if len(self.body) >= WINDOW // 2:  # where the window would be credited
                self.stream.cancel()

    stream, _ = ask(provider)
    events = Leaving()
    events.stream = stream
    stream.events = events
    provider.head(1)
    provider.server.send_data(1, b"x" * 16_384)
    provider.server.send_data(1, b"x" * 16_384)
    provider.server.send_data(1, b"x" * 16_384)
    provider.talk()
    stream.resume_reading()
    provider.talk()
    assert provider.requests[1].reset == frames.CANCEL
    assert provider.requests[1].behind_reset == []


def test_a_window_that_is_opened_too_far_breaks_its_stream_alone() -> None:
    provider = H2Provider()
    _, events = ask(provider, b"POST", has_body=True)
    _, other = ask(provider)
    provider.talk(frames.window_update(1, MAX_WINDOW))
    assert [error.end for error in events.errors] == [EndReason.UPSTREAM_FAILED]
    assert provider.requests[1].reset == frames.FLOW_CONTROL_ERROR
    assert (other.log, provider.end) == ([], "open")


@pytest.mark.parametrize(
    "raw",
    [
        frames.window_update(0, MAX_WINDOW),
        frames.window_update(1, MAX_WINDOW - 65_535) + frames.settings((frames.INITIAL_WINDOW, 65_536)),
    ],
    ids=["update", "settings"],
)
def test_a_connection_whose_windows_are_opened_too_far_is_broken(raw: bytes) -> None:
    provider = H2Provider()
    told = [ask(provider)[1] for _ in range(2)]
    provider.talk(raw)
    assert [events.log for events in told] == [["failed 502"]] * 2
    assert provider.end == "reset"


def test_a_stream_that_ended_has_no_window_to_overflow() -> None:
    provider = H2Provider()
    ask(provider)
    provider.talk(frames.window_update(1, MAX_WINDOW - 65_535))
    provider.head(1, end=True)
    _, events = ask(provider)
    provider.change(initial_window_size=70_000)
    provider.head(3, end=True)
    assert (events.log, provider.end) == (["head 200", "end"], "open")
