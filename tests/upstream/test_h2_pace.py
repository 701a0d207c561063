"""A provider of HTTP/2 is as far ahead as the client's pace and its own distance need."""

from __future__ import annotations

import pytest

from flowserver.flow.drain_rate import LEAST
from flowserver.flow.window_bound import WIDEST
from flowserver.http.messages import RequestHead
from flowserver.upstream.h2_stream import H2Stream
from flowserver.upstream.receive_window import STREAM_WINDOW, WHOLE_WINDOW, AdaptiveFlow

from ..support import h2_frames as frames
from ..support.clock import FakeClock
from ..support.h2_upstream import H2Events, H2Provider
from ..support.pace import pace_of


class Scene:
    """A connection whose streams' windows adapt, unless a size is given."""

    def __init__(self, *, round_trip: float = 0.0, pinned: int | None = None) -> None:
        self.clock = FakeClock()
        flow = AdaptiveFlow(0.25, self.clock) if pinned is None else None
        self.provider = H2Provider(stream_window=pinned or STREAM_WINDOW, flow=flow, clock=self.clock)
        self.provider.transport.socket.round_trip = round_trip

    def ask(self, *, whole: bool = False) -> tuple[H2Stream, H2Events]:
        events = H2Events()
        head = RequestHead(b"GET", b"/v1", [(b"host", b"api.test")], has_body=False)
        head.awaits_whole = whole
        events.stream = stream = self.provider.connection.begin(head, events)
        stream.send_end()
        self.provider.talk()
        self.provider.head(stream.stream_id)
        return stream, events

    def send(self, stream_id: int, size: int) -> int:
        """As much as the window allows, at most `size`. Returns how much that was."""
        sent = 0
        while sent < size and (room := min(self.provider.room(stream_id), 16_384, size - sent)) > 0:
            self.provider.body(stream_id, b"x" * room)
            sent += room
        return sent


def test_a_stream_begins_with_a_small_window() -> None:
    scene = Scene()
    stream, _ = scene.ask()
    stream.pause_reading()
    assert scene.send(1, 1 << 20) == STREAM_WINDOW


@pytest.mark.parametrize("pinned", [65_535, 1 << 20])
def test_a_window_that_is_pinned_is_used_as_it_is(pinned: int) -> None:
    scene = Scene(pinned=pinned, round_trip=0.2)
    for whole in (False, True):
        stream, events = scene.ask(whole=whole)
        stream.pause_reading()
        assert scene.send(stream.stream_id, 1 << 22) == pinned
        stream.keep_pace(pace_of(10))
        scene.clock.advance(1)
        stream.resume_reading()
        scene.provider.talk()
        assert scene.provider.room(stream.stream_id) == pinned
        assert len(events.body) == pinned


def test_an_answer_known_to_be_whole_has_a_wide_window_and_no_other_stream_has() -> None:
    scene = Scene()
    whole, events = scene.ask(whole=True)
    stream, _ = scene.ask()
    assert scene.provider.room(whole.stream_id) == WHOLE_WINDOW
    assert scene.provider.room(stream.stream_id) == STREAM_WINDOW
    whole.pause_reading()
    assert scene.send(whole.stream_id, 1 << 20) == WHOLE_WINDOW
    assert len(events.body) == WHOLE_WINDOW


def test_one_byte_more_than_a_wide_window_breaks_the_stream() -> None:
    scene = Scene()
    stream, events = scene.ask(whole=True)
    stream.pause_reading()
    scene.send(1, 1 << 20)
    scene.provider.transport.arrive(frames.data(1, b"x"))
    assert events.log[-1] == "failed 502"


def test_a_far_provider_gets_a_wider_window_and_one_nearby_does_not() -> None:
    rooms = []
    for round_trip in (0.0, 0.0005, 0.1):
        scene = Scene(round_trip=round_trip)
        scene.ask()
        for _ in range(20):
            scene.clock.advance(0.1)
            scene.send(1, STREAM_WINDOW)
        rooms.append(scene.provider.room(1))
    assert rooms[0] <= rooms[1] <= STREAM_WINDOW < rooms[2]


def test_a_window_has_a_greatest_size() -> None:
    scene = Scene(round_trip=1.0)
    stream, events = scene.ask()
    for _ in range(12):
        scene.clock.advance(1.0)
        scene.send(1, scene.provider.room(1))
    stream.pause_reading()
    assert scene.send(1, WIDEST * 2) <= WIDEST
    assert events.errors == []


def test_a_slow_client_s_stream_gets_little_once_it_has_used_what_it_was_granted() -> None:
    scene = Scene(round_trip=0.2)
    stream, _ = scene.ask()
    stream.pause_reading()
    assert scene.send(1, 1 << 20) == STREAM_WINDOW
    stream.keep_pace(pace_of(1000))
    stream.resume_reading()
    scene.provider.talk()
    assert scene.provider.room(1) == LEAST + 400
    stream.pause_reading()
    assert scene.send(1, 1 << 20) == LEAST + 400


@pytest.mark.parametrize("rate", [0, 1, 1000, 1e5, 1e9])
def test_whatever_the_pace_the_answer_is_whole(rate: float) -> None:
    scene = Scene(round_trip=0.05)
    stream, events = scene.ask()
    left = 1 << 20
    for step in range(20_000):
        if not left:
            break
        sent = scene.send(1, min(left, 5000))
        assert sent, "nobody goes on"
        left -= sent
        scene.clock.advance(0.01)
        if step % 3 == 0:
            stream.pause_reading()
            stream.keep_pace(pace_of(rate))
            stream.resume_reading()
            scene.provider.talk()
    scene.provider.body(1, end=True)
    assert len(events.body) == 1 << 20
    assert events.log[-1] == "end"


def test_the_pace_of_one_stream_is_no_other_s() -> None:
    scene = Scene()
    slow, _ = scene.ask()
    other, _ = scene.ask()
    slow.keep_pace(pace_of(0))
    scene.send(slow.stream_id, STREAM_WINDOW)
    scene.send(other.stream_id, STREAM_WINDOW)
    assert scene.provider.room(slow.stream_id) <= LEAST
    assert scene.provider.room(other.stream_id) == STREAM_WINDOW


@pytest.mark.parametrize("whole", [True, False])
def test_what_may_still_come_of_a_cancelled_stream_is_no_flood(*, whole: bool) -> None:
    scene = Scene()
    stream, _ = scene.ask(whole=whole)
    room = scene.provider.room(1)
    stream.cancel()
    size = 64  # the least that counts
    for _ in range(room // size):
        scene.provider.says(frames.data(1, b"x" * size))
    assert scene.provider.connection.is_alive()


def test_more_than_could_still_come_of_a_cancelled_stream_counts() -> None:
    scene = Scene()
    stream, _ = scene.ask()
    stream.pause_reading()
    assert scene.send(1, 1 << 20) == STREAM_WINDOW
    stream.cancel()
    for _ in range(1100):
        scene.provider.says(frames.data(1, b"x"))
    assert not scene.provider.connection.is_alive()
