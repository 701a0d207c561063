"""Frames that go to h2's state by hand, held to h2 itself: the same words to the client, whatever follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowserver.downstream.context import H2Settings
from flowserver.http.h2_server_state import ServerState, ServerStream
from tests.support import h2_frames as frames
from tests.support.h2_dialogue import H2Client, Room

BLOCKS = {
    "good": frames.literals(frames.request_fields("POST")),
    "indexed": b"\x83\x86\x84\x41\x03a.b\x40\x01x\x01y",
    "kept": b"\x83\x86\x84\x41\x03a.b\xbe",
    "long": frames.literals([*frames.request_fields("POST"), ("content-length", "1000")]),
    "status": frames.literals([(":status", "103"), *frames.request_fields()]),
    "malformed": frames.literals([("x", "y")]),
    "refused": frames.literals(frames.request_fields("CONNECT")),
    "garbage": b"\xff\xff\xff\xff\xff\xff\xff",
    "oversized": b"\x40\x01a\x7f\xe0\x1e" + bytes(4063) + b"\xbe" * 17,
    "empty": b"",
}


def _often(usual: list[str], seldom: list[str]) -> st.SearchStrategy[str]:
    """What is seldom ends the connection most often, and with it what can be seen."""
    return st.integers(0, 11).flatmap(lambda number: st.sampled_from(usual if number else seldom))


Step = tuple[str, str, int, bool]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("head"), _often(["good", "indexed", "long"], sorted(BLOCKS)), st.just(0), st.booleans()),
        st.tuples(
            _often(["data"], ["padded"]),
            _often(["last"], ["first", "next", "even"]),
            st.sampled_from([0, 1, 500, 1000, 1000, 16_384]),
            st.integers(0, 3).map(lambda number: number == 0),
        ),
        st.tuples(
            _often(
                ["answer", "pause", "resume", "reset", "window", "settings", "break off", "priority", "head again"],
                ["push", "continuation", "beginning", "too low"],
            ),
            _often(["last"], ["first", "connection"]),
            st.sampled_from([0, 1000, 2**31 - 1]),
            st.booleans(),
        ),
    ),
    max_size=20,
)


def _frame(step: Step, last: int) -> bytes:
    """`last`: the newest stream. b"" when it is the relay's turn."""
    kind, which, size, end = step
    stream_id = {"last": last, "first": 1, "next": last + 2, "even": 2, "connection": 0}.get(which, last + 2)
    flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
    good = BLOCKS["good"]
    makers: dict[str, Callable[[], bytes]] = {
        "head": lambda: frames.frame(frames.HEADERS, flags, last + 2, BLOCKS[which]),
        "head again": lambda: frames.frame(frames.HEADERS, flags, stream_id, frames.literals([("x", "y")])),
        "too low": lambda: frames.frame(frames.HEADERS, flags, max(1, last - 2), good),
        "priority": lambda: frames.frame(frames.HEADERS, flags | 0x28, last + 2, b"\1\0\0\0\0\5" + good + b"\0"),
        "beginning": lambda: frames.frame(frames.HEADERS, 0, last + 2, good),
        "data": lambda: frames.data(stream_id, bytes(size), end=end),
        "padded": lambda: frames.data(stream_id, bytes(min(size, 1000)), end=end, pad=5),
        "reset": lambda: frames.rst_stream(stream_id),
        "window": lambda: frames.window_update(stream_id, size),
        "settings": lambda: frames.settings((frames.INITIAL_WINDOW, min(size, 9000))),
        "push": lambda: frames.frame(frames.PUSH_PROMISE, 0, 1, b"\0\0\0\2"),
        "continuation": lambda: frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, b""),
    }
    return makers[kind]() if kind in makers else b""


@dataclass
class Scene:
    """One of two rooms in which the same is said."""

    room: Room
    client: H2Client
    by_hand: bool

    def take(self, kind: str, raw: bytes) -> None:
        if raw:
            self._says(raw)
        for opened in self.room.opened[-2:]:
            if kind == "answer":
                opened.answers(b"whole")
            elif kind == "break off":
                opened.stream.break_off()
            elif kind == "pause":
                opened.stream.pause_reading()
            elif kind == "resume":
                opened.stream.resume_reading()
        self.client.turns.run()

    def _says(self, raw: bytes) -> None:
        if self.by_hand:
            self.client.says(raw)
            return
        with (
            mock.patch.object(ServerState, "begins", return_value=False),
            mock.patch.object(ServerStream, "takes_body", False),
        ):
            self.client.says(raw)

    @property
    def outcome(self) -> object:
        return (
            self.client.hears(),
            [
                (each.request.headers, each.request.target, each.events.log, each.events.body)
                for each in self.room.opened
            ],
            (self.room.totals.streams, self.room.totals.goaways),
        )


def _scene(*, by_hand: bool) -> Scene:
    room = Room(h2=H2Settings(stream_window=20_000, connection_window=66_000, ping_interval=None))
    client = room.client(greets=False)
    client.says(frames.PREFACE + frames.settings())
    return Scene(room, client, by_hand)


HEAD, PAUSE, MOST = ("head", "good", 0, False), ("pause", "last", 0, False), ("data", "last", 16_384, False)


def _probes(last: int) -> Iterator[bytes]:
    """What brings to light in which state streams and windows were left."""
    for stream_id in range(1, last + 4, 2):
        yield frames.window_update(stream_id, 1)
        yield frames.data(stream_id, b"x")
        yield frames.ping()
    yield frames.frame(frames.HEADERS, frames.END_HEADERS, last + 2, BLOCKS["good"])
    for _ in range(5):  # more than any window
        yield frames.data(last + 2, bytes(16_384))
    yield frames.frame(frames.HEADERS, frames.END_HEADERS, last + 4, BLOCKS["kept"])


def _newest(raw: bytes, last: int) -> int:
    """The newest stream once `raw` came."""
    return max([last, *(frame.stream_id for frame in frames.split(bytearray(raw)) if frame.kind == frames.HEADERS)])


@settings(max_examples=300, deadline=None)
@given(STEPS)
@example([HEAD, PAUSE, MOST, MOST])
@example([HEAD, PAUSE, MOST] * 5)
@example([("head", "garbage", 0, True)])
@example([("head", "oversized", 0, True)])
def test_what_is_received_by_hand_is_as_h2_receives_it(steps: list[Step]) -> None:
    hand, library = _scene(by_hand=True), _scene(by_hand=False)
    last = 0
    for step in steps:
        raw = _frame(step, max(1, last))
        last = _newest(raw, last)
        hand.take(step[0], raw)
        library.take(step[0], raw)
        assert hand.outcome == library.outcome
    for raw in _probes(last):
        hand.take("probe", raw)
        library.take("probe", raw)
        assert hand.outcome == library.outcome


def test_a_header_block_of_a_push_is_not_forgotten() -> None:
    scene = _scene(by_hand=True)
    scene.client.hears()
    scene.take("push", frames.frame(frames.PUSH_PROMISE, 0, 1, b"\0\0\0\2"))
    scene.take("head", frames.headers(1))
    [goaway] = frames.split(bytearray(scene.client.hears()))
    assert (goaway.kind, goaway.payload[4:8]) == (frames.GOAWAY, b"\0\0\0\1")
    assert scene.room.opened == []
