"""Floods of a provider of HTTP/2, and what only looks like one."""

from __future__ import annotations

import pytest

from flowserver.errors import EndReason
from flowserver.http.h2_frames import TURN

from ..support import h2_frames as frames
from ..support.clock import FakeClock
from ..support.h2_upstream import H2Provider, ask, response

MANY = 20_000
HEAD = frames.headers(1, [(":status", "200")], end=False)
OVER = HEAD + frames.data(1, b"", end=True)
FLOODS = {
    "settings": frames.settings((frames.INITIAL_WINDOW, 100)) * MANY,
    "empty-settings": frames.settings() * MANY,
    "unknown-settings": frames.settings(*((code, 1) for code in range(100, 2800))),
    "settings-answers": frames.settings(ack=True) * MANY,
    "pings": frames.ping() * MANY,
    "ping-answers": frames.ping(ack=True) * MANY,
    "resets-of-a-dead-stream": frames.rst_stream(1) * MANY,
    "resets-of-an-ended-stream": OVER + frames.rst_stream(1) * MANY,
    "window-updates": frames.window_update(1, 1) * MANY,
    "connection-window-updates": frames.window_update(0, 1) * MANY,
    "priority": frames.priority(1) * MANY,
    "unknown-frames": frames.frame(0x42, 0, 1) * MANY,
    "empty-data": HEAD + frames.data(1) * MANY,
    "padded-empty-data": HEAD + frames.data(1, pad=0) * MANY,
    "data-on-a-dead-stream": frames.rst_stream(1) + frames.data(1, b"x" * 100) * MANY,
    "goaways": frames.goaway(0x7FFFFFFF) * MANY,
    "heads-on-a-dead-stream": frames.rst_stream(1) + HEAD * MANY,
    "continuations": frames.headers(1, [(":status", "200")], flags=0, end=False)
    + frames.frame(frames.CONTINUATION, 0, 1, b"\0\1x\1y") * MANY,
    "empty-continuations": frames.headers(1, [(":status", "200")], flags=0, end=False)
    + frames.frame(frames.CONTINUATION, 0, 1) * MANY,
    "huge-head": frames.frame(frames.HEADERS, 0, 1, b"\x88")
    + frames.frame(frames.CONTINUATION, 0, 1, b"x" * 16_384) * 65,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_ends_the_connection_by_name_and_fails_its_streams(flood: bytes) -> None:
    clock = FakeClock()
    provider = H2Provider(clock=clock)
    told = [ask(provider)[1] for _ in range(2)]
    provider.says(flood)
    assert told[1].log == ["failed 502"]
    assert told[1].errors[0].end is EndReason.UPSTREAM_FAILED
    assert "flooded" in told[1].errors[0].message
    assert not told[1].errors[0].not_processed
    assert provider.connection.capacity == 0
    assert not provider.connection.is_alive()
    *_, last = provider.heard_frames()
    assert (last.kind, last.payload[4:8]) == (frames.GOAWAY, frames.ENHANCE_YOUR_CALM.to_bytes(4, "big"))
    assert not provider.transport.reading
    assert provider.end == "open"
    provider.connection.sweep(clock.advance(1))
    assert provider.end == "reset"


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_is_dealt_with_a_little_in_each_turn(flood: bytes) -> None:
    """What others wait for is one turn; the socket is not read meanwhile."""
    provider = H2Provider()
    ask(provider)
    read = 0
    provider.transport.arrive(flood, reads=1)
    while provider.transport.calls[-1:] == ["pause_reading"] and provider.connection.capacity:
        before = len(provider.transport.sent) + len(provider.transport.buffer)
        provider.turns.run(1)
        assert len(provider.transport.sent) + len(provider.transport.buffer) - before <= TURN * 17
        read += 1
        assert read < MANY
    assert provider.transport.unread >= len(flood) - 3 * 64 * 1024


def test_what_honest_providers_do_is_no_flood() -> None:
    clock = FakeClock()
    provider = H2Provider(clock=clock)
    _, events = ask(provider)
    provider.head(1)
    for number in range(30_000):
        clock.advance(0.001)
        provider.body(1, b"tok ")
        if number % 100 == 0:
            provider.talk(frames.ping() + frames.data(1) + frames.frame(0x42, 0, 0))
    assert len(events.body) == 4 * 30_000
    assert provider.end == "open"


def test_frames_that_come_behind_many_cancels_are_no_flood() -> None:
    provider = H2Provider()
    for number in range(500):
        stream, _ = ask(provider)
        stream.cancel()
        late = frames.headers(2 * number + 1, [(":status", "200")], end=False)
        late += frames.data(2 * number + 1, b"x" * 100) * 10
        provider.transport.arrive(late)
        provider.turns.run()
    assert provider.end == "open"
    assert provider.connection.capacity


def test_frames_that_come_behind_a_stream_that_was_broken_are_no_flood() -> None:
    provider = H2Provider()
    _, broken = ask(provider)
    _, other = ask(provider)
    provider.head(3)
    said = response(1, ("content-length", "1")) + frames.data(1, b"x" * 40) * 1500  # its window allows them
    provider.transport.arrive(said)
    provider.turns.run()
    assert broken.log == ["head 200", "failed 502"]
    assert other.log == ["head 200"]
    assert provider.connection.capacity


def test_window_updates_for_many_tiny_requests_are_no_flood() -> None:
    provider = H2Provider()
    for number in range(1000):
        stream, _ = ask(provider, b"POST", has_body=True)
        stream.send_data(b"x")
        stream.send_end()
        provider.talk()
        stream_id = 2 * number + 1
        updates = frames.window_update(stream_id, 1) + frames.window_update(0, 1)
        provider.talk(updates + frames.headers(stream_id, [(":status", "200")]))
    assert provider.connection.capacity


def test_an_upload_s_window_updates_are_no_flood() -> None:
    provider = H2Provider()
    stream, _ = ask(provider, b"POST", has_body=True)
    for _ in range(3000):
        stream.send_data(b"x" * 100)
        provider.talk(frames.window_update(0, 100) + frames.window_update(1, 100))
    stream.send_end()
    provider.talk()
    assert len(provider.requests[1].body) == 300_000
    assert provider.end == "open"


def test_a_read_of_small_frames_keeps_its_order_over_many_turns() -> None:
    provider = H2Provider(stream_window=1_000_000)
    _, events = ask(provider)
    _, other = ask(provider)
    said = HEAD + response(3)
    for number in range(3000):
        said += frames.data(1 + 2 * (number % 2), b"%05d" % number)
    provider.transport.arrive(said + frames.data(1, b"", end=True))
    assert len(events.body) <= 5 * TURN
    assert provider.turns.run() >= 3000 // TURN - 1
    assert events.body == b"".join(b"%05d" % number for number in range(0, 3000, 2))
    assert other.body == b"".join(b"%05d" % number for number in range(1, 3000, 2))
    assert events.log[-1] == "end"
    assert provider.transport.reading
