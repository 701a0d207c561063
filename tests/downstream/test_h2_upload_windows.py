"""Windows of uploads that grow with the client's distance: h2's books stay right, and growth has its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from h2.exceptions import FlowControlError
from h2.windows import LARGEST_FLOW_CONTROL_WINDOW
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserver.downstream.context import H2Settings
from flowserver.downstream.h2_upload_windows import WIDEST, UploadWindows
from flowserver.downstream.linger import LINGER_SILENCE
from flowserver.http.h2_server_state import ServerState, ServerStream
from tests.support import h2_frames as frames
from tests.support.clock import FakeClock
from tests.support.h2_dialogue import H2Client, Room
from tests.support.transport import FakeTransport

KB = 1024
STREAM, CONNECTION = 64 * KB, 1024 * KB


class Books:
    """h2's state of a connection, without its bytes, and what its client was granted."""

    def __init__(self, *, round_trip: float, grow: bool = True) -> None:
        self.clock = FakeClock()
        self.state = ServerState()
        self.state.open(max_streams=250, stream_window=STREAM, connection_window=CONNECTION)
        self.state.receive_data(frames.PREFACE + frames.settings())
        self.connection_left = CONNECTION
        self.lefts: dict[int, int] = {}
        self.state.data_to_send()
        transport = FakeTransport(asyncio.Protocol())
        transport.socket.round_trip = round_trip
        self.windows = UploadWindows(self.state, transport, self.clock, self._hear, grow=grow)

    def begin(self, stream_id: int) -> ServerStream:
        raw = bytearray(frames.headers(stream_id, end=False))
        [head] = frames.split(raw)
        self.state.receive_head(stream_id, head.payload, ended=False)
        self.lefts[stream_id] = STREAM
        return self.state.stream(stream_id)

    def room(self, stream_id: int) -> int:
        return min(self.lefts[stream_id], self.connection_left)

    def send(self, stream: ServerStream, size: int) -> None:
        """So many bytes come, and are consumed later."""
        self.state.receive_body(stream, size, ended=False)
        self.lefts[stream.stream_id] -= size
        self.connection_left -= size

    def pass_(self, stream: ServerStream, size: int) -> None:
        """So many bytes come, and are consumed at once."""
        self.send(stream, size)
        self.windows.credit(stream, size)

    def run(self, stream: ServerStream, round_trips: int) -> None:
        """A client that uses its window to the last byte, once in a second."""
        for _ in range(round_trips):
            left = self.room(stream.stream_id)
            self.clock.advance(1.0)
            while left:
                piece = min(left, max(16 * KB, self.lefts[stream.stream_id] // 4))
                self.pass_(stream, piece)
                left -= piece

    def end(self, stream: ServerStream) -> None:
        self.state.receive_body(stream, 0, ended=True)
        self.windows.forget(stream.stream_id)

    def _hear(self) -> None:
        for frame in frames.split(bytearray(self.state.data_to_send())):
            if frame.kind == frames.WINDOW_UPDATE:
                size = int.from_bytes(frame.payload, "big")
                assert size
                if frame.stream_id:
                    self.lefts[frame.stream_id] += size
                else:
                    self.connection_left += size


@pytest.mark.parametrize("round_trip", [0.0, 0.0009])
def test_a_client_nearby_keeps_its_windows(round_trip: float) -> None:
    books = Books(round_trip=round_trip)
    stream = books.begin(1)
    books.run(stream, 20)
    assert (stream.window_size, books.lefts[1] <= STREAM) == (STREAM, True)


def test_a_window_grows_with_the_distance_up_to_its_greatest_size() -> None:
    sizes = []
    for round_trip in (0.001, 0.01, 0.1, 0.5, 0.9, 1.0):
        books = Books(round_trip=round_trip)
        stream = books.begin(1)
        books.run(stream, 30)
        sizes.append(stream.window_size)
    assert sizes == sorted(sizes)
    assert sizes[0] == STREAM
    assert sizes[-1] == WIDEST


def test_a_trickle_needs_no_wider_window_however_far_it_comes() -> None:
    books = Books(round_trip=0.5)
    stream = books.begin(1)
    for _ in range(1000):
        books.clock.advance(0.5)
        books.pass_(stream, 10 * KB)
    assert stream.window_size == STREAM


def test_what_is_pinned_does_not_grow() -> None:
    books = Books(round_trip=1.0, grow=False)
    stream = books.begin(1)
    books.run(stream, 20)
    assert (stream.window_size, books.connection_left <= CONNECTION) == (STREAM, True)


def test_a_client_uses_all_of_a_window_that_has_grown_and_not_a_byte_more() -> None:
    books = Books(round_trip=1.0)
    stream = books.begin(1)
    books.run(stream, 20)
    room = books.room(1)
    assert room > CONNECTION > STREAM
    books.send(stream, room)
    assert books.room(1) == 0
    with pytest.raises(FlowControlError):
        books.send(stream, 1)


def test_the_connection_s_window_grows_with_those_of_its_streams() -> None:
    books = Books(round_trip=1.0)
    streams = [books.begin(2 * number + 1) for number in range(4)]
    for stream in streams:
        books.run(stream, 20)
    for _ in range(3):  # whoever is first leaves something to the others
        for stream in streams:
            assert books.room(stream.stream_id) > STREAM
            books.run(stream, 1)
    for stream in streams:
        books.send(stream, books.room(stream.stream_id))
    assert books.connection_left >= 0


def test_uploads_one_after_the_other_do_not_add_up_in_the_connection_s_window() -> None:
    """What an upload brought goes with it, or a client of many uploads might send any amount at once."""
    books = Books(round_trip=1.0)
    for number in range(12):
        stream = books.begin(2 * number + 1)
        books.run(stream, 20)
        books.end(stream)
    assert books.connection_left <= CONNECTION + 2 * WIDEST


def test_no_window_exceeds_what_http2_allows() -> None:
    """RFC 9113 section 6.9.1: above that the client has to end the connection."""
    books = Books(round_trip=1.0)
    for number in range(700):  # of the thousand requests that a connection may have
        stream = books.begin(2 * number + 1)
        books.run(stream, 20)
        books.end(stream)
        assert books.connection_left <= LARGEST_FLOW_CONTROL_WINDOW, number


def test_the_books_of_streams_that_are_over_are_closed() -> None:
    books = Books(round_trip=1.0)
    for number in range(50):
        stream = books.begin(2 * number + 1)
        books.run(stream, 2)
        books.end(stream)
    assert repr(books.windows) == "<UploadWindows uploads=0>"


def test_nothing_is_credited_for_nothing() -> None:
    books = Books(round_trip=1.0)
    books.windows.credit(books.begin(1), 0)
    assert repr(books.windows) == "<UploadWindows uploads=0>"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "credit", "credit connection", "credit stream", "time"]),
        st.integers(0, 2),
        st.floats(0, 1),
    ),
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.sampled_from([0.0, 0.05, 0.5, 2.0]), st.booleans())
def test_h2_and_the_client_agree_on_every_window(
    steps: list[tuple[str, int, float]], round_trip: float, grows: bool
) -> None:
    books = Books(round_trip=round_trip, grow=grows)
    streams = [books.begin(1), books.begin(3), books.begin(5)]
    owed, withheld = [0, 0, 0], [0, 0, 0]
    for action, which, share in steps:
        stream = streams[which]
        if action == "send":
            size = round(share * books.room(stream.stream_id))
            books.send(stream, size)
            owed[which] += size
        elif action == "credit":
            size, owed[which] = owed[which], 0
            books.windows.credit(stream, size)
        elif action == "credit connection":  # the stream's own window is opened later
            size, owed[which] = owed[which], 0
            withheld[which] += size
            books.windows.credit_connection(size)
        elif action == "credit stream":
            size, withheld[which] = withheld[which], 0
            books.windows.credit_stream(stream, size)
        else:
            books.clock.advance(share)
        for each in streams:
            assert books.lefts[each.stream_id] == each.may_come <= each.window_size <= max(WIDEST, STREAM)
    for which, stream in enumerate(streams):
        books.windows.credit(stream, owed[which])
        books.windows.credit_stream(stream, withheld[which])
    for stream in streams:
        assert books.room(stream.stream_id) > 0, "nobody goes on"


# On a connection


def _client(*, round_trip: float = 0.5, **options: object) -> tuple[Room, H2Client]:
    room = Room(h2=H2Settings(ping_interval=None, windows_grow=True, **options))  # type: ignore[arg-type]
    client = room.client()
    client.transport.socket.round_trip = round_trip
    return room, client


def _upload(room: Room, client: H2Client, stream_id: int, round_trips: int) -> int:
    """All that the windows allow, each round trip."""
    sent = 0
    for _ in range(round_trips):
        room.clock.advance(0.5)
        left = client.peer.room(stream_id)
        while left:
            piece = min(left, 8 * KB)
            client.peer.upload(stream_id, b"x" * piece)
            client.talk()
            left -= piece
            sent += piece
    return sent


def test_a_far_client_s_upload_is_whole_and_its_window_wide() -> None:
    room, client = _client()
    stream_id = client.asks("POST", end=False)
    sent = _upload(room, client, stream_id, 6)
    assert client.peer.room(stream_id) > 2 * STREAM
    assert len(room.opened[0].events.body) == sent
    assert client.peer.goaways == []


def test_another_stream_begins_with_the_usual_window() -> None:
    room, client = _client()
    _upload(room, client, client.asks("POST", end=False), 6)
    assert client.peer.room(client.asks("POST", end=False)) == STREAM


def _grown(length: Callable[[int], int]) -> tuple[Room, H2Client, int]:
    """An upload whose window has grown, held back, and `length` of its room sent beyond h2's own client."""
    room, client = _client()
    stream_id = client.asks("POST", end=False)
    _upload(room, client, stream_id, 6)
    room.opened[0].stream.pause_reading()
    left = length(client.peer.room(stream_id))
    while left:
        piece = min(left, 16_384)
        client.says(frames.data(stream_id, b"x" * piece))
        left -= piece
    return room, client, stream_id


def test_the_last_byte_of_a_grown_window_is_taken() -> None:
    room, client, _ = _grown(lambda size: size)
    assert client.end == "open"
    client.peer.hear(client.hears())
    assert (client.peer.goaways, room.opened[0].events.log[-1]) == ([], "data")


def test_one_byte_beyond_a_grown_window_ends_the_connection() -> None:
    _, client, _ = _grown(lambda size: size + 1)
    client.peer.hear(client.hears())
    assert [goaway.code for goaway in client.peer.goaways] == [frames.FLOW_CONTROL_ERROR]


def test_what_may_come_behind_the_reset_of_a_grown_upload_is_no_flood() -> None:
    room, client = _client(round_trip=1.0)
    stream_id = client.asks("POST", end=False)
    _upload(room, client, stream_id, 6)
    left = client.peer.room(stream_id)
    assert left > 2 * STREAM
    room.opened[0].answers(b"no", status=413)
    client.turns.run()
    room.clock.advance(LINGER_SILENCE)
    client.connection.sweep(room.clock.now)
    client.turns.run()
    for _ in range(left // 64):  # it had not heard of the reset
        client.says(frames.data(stream_id, b"x" * 64))
    client.peer.hear(client.hears())
    assert client.peer.answers[stream_id].rest_refused == frames.NO_ERROR
    assert client.peer.goaways == []


def test_an_upload_that_was_answered_early_goes_on_in_its_grown_window() -> None:
    room, client = _client()
    stream_id = client.asks("POST", end=False)
    _upload(room, client, stream_id, 6)
    room.opened[0].answers(b"no", status=413)
    client.talk()
    for _ in range(20):
        client.peer.upload(stream_id, b"x" * min(32 * KB, client.peer.room(stream_id)))
        client.talk()
    client.peer.upload(stream_id, b"", end=True)
    client.talk()
    assert client.answer(stream_id).whole
    assert client.peer.goaways == []
    assert client.peer.room(client.asks("POST", end=False)) == STREAM
