"""Uploads: the client is credited as the provider takes the bytes, on the stream and on the connection."""

from __future__ import annotations

from unittest import mock

import pytest
from h2.errors import ErrorCodes

from flowserver.downstream.context import H2Settings
from flowserver.downstream.drop_budget import LINGER_RATE, SharedDrops
from flowserver.downstream.h2_leftover import LeftoverUploads
from flowserver.downstream.linger import LINGER_BYTES, LINGER_SILENCE, LINGER_TIME
from flowserver.http.h2_flood_guard import FrameGuard, H2Limits
from flowserver.http.h2_server_state import ServerState
from flowserver.relay.interfaces import DownstreamStream
from tests.support import h2_frames as frames
from tests.support.h2_dialogue import H2Client, Opened, Room
from tests.support.recording import RecordingDownstreamEvents

KB = 1024


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
def client(room: Room) -> H2Client:
    return room.client()


def _upload(client: H2Client, stream_id: int, size: int, *, pad: int | None = None) -> int:
    """As much as the windows allow, at most `size`. Returns how much that was."""
    sent = 0
    while sent < size and (space := client.peer.room(stream_id) - (0 if pad is None else pad + 1)) > 0:
        piece = min(space, size - sent, 8 * KB)
        client.peer.upload(stream_id, b"x" * piece, pad=pad)
        client.talk()
        sent += piece
    return sent


def test_a_body_comes_piece_by_piece_and_ends(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    for piece in (b"one", b"two", b"three"):
        client.peer.upload(stream_id, piece)
        client.talk()
    client.peer.upload(stream_id, b"!", end=True)
    client.talk()
    assert room.opened[0].events.body == b"onetwothree!"
    assert room.opened[0].events.log == ["data"] * 4 + ["end"]


def test_a_body_in_the_read_of_its_head_is_not_lost(room: Room, client: H2Client) -> None:
    client.asks("POST", body=b"x" * 40_000)
    assert room.opened[0].events.body == b"x" * 40_000
    assert room.opened[0].events.log[-1] == "end"


def test_a_body_may_be_of_any_size_while_it_is_taken(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    assert _upload(client, stream_id, 3 << 20) == 3 << 20
    assert len(room.opened[0].events.body) == 3 << 20


def test_padding_costs_windows_and_is_given_back(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    assert _upload(client, stream_id, 1 << 20, pad=255) == 1 << 20
    assert room.opened[0].events.body == b"x" * (1 << 20)


def test_padding_alone_is_no_data(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    client.peer.upload(stream_id, b"", pad=100)
    client.talk()
    assert room.opened[0].events.log == []


def test_a_held_back_upload_takes_its_window_and_no_more(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    room.opened[0].stream.pause_reading()
    assert _upload(client, stream_id, 1 << 20) == 64 * KB
    room.opened[0].stream.resume_reading()
    client.talk()
    assert _upload(client, stream_id, 1 << 20) == 1 << 20


def test_a_held_back_upload_leaves_the_others_alone(room: Room, client: H2Client) -> None:
    slow, fast = client.asks("POST", end=False), client.asks("POST", end=False)
    room.opened[0].stream.pause_reading()
    assert _upload(client, slow, 1 << 20) == 64 * KB
    assert _upload(client, fast, 1 << 20) == 1 << 20


def test_held_back_uploads_are_bounded_together() -> None:
    room = Room(h2=H2Settings(connection_window=256 * KB, ping_interval=None))
    client = room.client()
    ids = [client.asks("POST", end=False) for _ in range(50)]
    for opened in room.opened:
        opened.stream.pause_reading()
    assert sum(_upload(client, stream_id, 1 << 20) for stream_id in ids) == 256 * KB


@pytest.mark.parametrize("ends", ["answered", "reset by the client", "broken off", "blamed"])
def test_what_a_dead_upload_held_is_given_back_to_the_connection(ends: str) -> None:
    room = Room(h2=H2Settings(connection_window=128 * KB, ping_interval=None))
    client = room.client()
    for _ in range(20):
        stream_id = client.asks("POST", end=False)
        opened = room.opened[-1]
        opened.stream.pause_reading()
        assert _upload(client, stream_id, 1 << 20) == 64 * KB
        _end(client, opened, stream_id, ends)
        opened.stream.resume_reading()
        client.talk()
    live = client.asks("POST", end=False)
    assert _upload(client, live, 1 << 20) == 1 << 20


def _end(client: H2Client, opened: Opened, stream_id: int, how: str) -> None:
    if how == "answered":
        opened.answers(b"enough")
    elif how == "reset by the client":
        client.peer.reset(stream_id)
    elif how == "broken off":
        opened.answers(end=False)
        opened.stream.break_off()
    else:
        client.peer.raw(frames.window_update(stream_id, 0))
    client.talk()


def test_data_for_a_dead_stream_is_credited_to_the_connection(room: Room, client: H2Client) -> None:
    """It was on its way when the stream ended (RFC 9113 section 5.1)."""
    for _ in range(100):
        stream_id = client.asks("POST", end=False)
        client.peer.upload(stream_id, b"x" * 50_000)
        late = client.peer.take()
        room.opened[-1].answers(b"no, thank you")
        client.turns.run()
        client.says(late)
        client.peer.hear(client.hears())
        assert client.answer(stream_id).whole
        client.peer.reset(stream_id)
        client.talk()
    assert client.peer.goaways == []
    assert client.peer.room(client.asks("POST", end=False)) >= 32 * KB


def _answered_early(room: Room, client: H2Client, **options: object) -> int:
    stream_id = client.asks("POST", end=False, **options)
    client.peer.upload(stream_id, b"some")
    client.talk()
    room.opened[-1].answers(b"refused", status=413)
    client.talk()
    answer = client.answer(stream_id)
    assert (answer.status, answer.body, answer.whole, answer.rest_refused) == (413, b"refused", True, None)
    return stream_id


@pytest.mark.parametrize("ends", ["data", "trailers", "reset"])
def test_what_follows_an_early_answer_is_dropped(room: Room, client: H2Client, ends: str) -> None:
    """A reset at once would destroy the answer for some clients: they send everything before they read."""
    stream_id = _answered_early(room, client)
    for _ in range(100):
        client.peer.upload(stream_id, b"x" * 32 * KB)
        client.talk()
    if ends == "data":
        client.peer.upload(stream_id, b"x", end=True)
    elif ends == "trailers":
        client.peer.trailers(stream_id, [("x-sum", "1")])
    else:
        client.peer.reset(stream_id)
    client.talk()
    assert room.opened[0].events.log == ["data", "finished"]
    room.sweep(client, LINGER_TIME + 1)
    assert client.answer(stream_id).rest_refused is None
    assert client.peer.goaways == []
    assert client.peer.room(client.asks("POST", end=False)) >= 32 * KB


def test_an_early_answer_while_the_client_was_held_back(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    room.opened[0].stream.pause_reading()
    client.peer.upload(stream_id, b"x" * client.peer.room(stream_id))
    client.talk()
    assert client.peer.room(stream_id) == 0
    room.opened[0].answers(b"refused", status=413)
    client.talk()
    assert client.peer.room(stream_id) > 0


@pytest.mark.parametrize(("pause", "seconds"), [(1.0, LINGER_TIME), (LINGER_SILENCE, LINGER_SILENCE)])
def test_an_upload_that_does_not_end_is_reset_in_time(
    room: Room, client: H2Client, pause: float, seconds: float
) -> None:
    stream_id = _answered_early(room, client)
    passed = 0.0
    while passed < seconds:
        assert client.answer(stream_id).rest_refused is None
        client.peer.upload(stream_id, b"x")
        client.talk()
        room.sweep(client, pause)
        passed += pause
    assert client.answer(stream_id).rest_refused == frames.NO_ERROR  # RFC 9113 section 8.1


def test_what_is_dropped_in_a_second_is_bounded(room: Room, client: H2Client) -> None:
    stream_id = _answered_early(room, client)
    for _ in range(2):
        dropped = 0
        while (size := min(client.peer.room(stream_id), 64 * KB)) > 0:
            client.peer.upload(stream_id, b"x" * size)
            client.talk()
            dropped += size
        assert LINGER_RATE - 256 * KB < dropped < LINGER_RATE + 256 * KB
        room.sweep(client, 1.0)
    other = client.asks("POST", end=False)  # its own window is another stream's, and the connection's was opened
    assert client.peer.room(other) >= 32 * KB


def test_what_is_dropped_in_all_is_bounded() -> None:
    state = mock.create_autospec(ServerState, instance=True)
    state.stream.return_value.may_come = 64 * KB
    rests = LeftoverUploads(state, FrameGuard(H2Limits()), SharedDrops(), most=1, now=0.0)
    rests.leave(1, 0.0)
    rests.leave(3, 0.0)
    assert 3 not in rests
    state.reset_stream.assert_called_once_with(3, ErrorCodes.NO_ERROR)
    rests.drop(1, LINGER_BYTES - 1, 0.0)
    state.credit_stream.assert_not_called()
    assert 1 in rests
    rests.drop(1, 1, 0.0)
    assert 1 not in rests
    state.reset_stream.assert_called_with(1, ErrorCodes.NO_ERROR)


def test_a_drain_waits_for_the_rest_of_an_upload(room: Room, client: H2Client) -> None:
    stream_id = _answered_early(room, client)
    client.connection.drain()
    room.sweep(client, 2.0)
    assert client.end == "open"
    client.peer.upload(stream_id, b"x", end=True)
    client.talk()
    assert client.end == "half-closed"


def test_trailers_end_a_body_and_are_dropped(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    client.peer.upload(stream_id, b"body")
    client.peer.trailers(stream_id, [("x-sum", "1")])
    client.talk()
    assert room.opened[0].events.log == ["data", "end"]


@pytest.mark.parametrize("length", [0, 5])
def test_a_body_of_its_announced_length_passes(room: Room, client: H2Client, length: int) -> None:
    client.asks("POST", headers=[("content-length", str(length))], body=b"x" * length)
    assert room.opened[0].events.body == b"x" * length
    assert room.opened[0].events.log[-1] == "end"


def test_more_than_announced_never_reaches_the_exchange(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", headers=[("content-length", "5")], end=False)
    client.peer.upload(stream_id, b"hello")
    client.peer.upload(stream_id, b"GET / HTTP/1.1\r\n\r\n")
    client.talk()
    assert room.opened[0].events.body == b"hello"
    assert room.opened[0].events.log == ["data", "reset client_error"]


@pytest.mark.parametrize("size", [9, 12, 63])
def test_an_upload_in_small_pieces_is_no_flood(room: Room, client: H2Client, size: int) -> None:
    stream_id = client.asks("POST", end=False)
    for _ in range(200):
        client.says(frames.data(stream_id, b"x" * size) * 100)
    client.says(frames.data(stream_id, end=True))
    assert len(room.opened[0].events.body) == 20_000 * size
    assert room.opened[0].events.log[-1] == "end"
    assert client.end == "open"


def test_small_pieces_that_come_behind_an_early_answer_are_no_flood(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    room.opened[0].answers(b"refused", status=413)
    client.turns.run()
    for _ in range(20):
        client.says(frames.data(stream_id, b"x" * 12) * 50)
    assert client.end == "open"


def test_a_read_of_small_pieces_takes_turns(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", end=False)
    pieces = [b"%012d" % number for number in range(700)]
    client.transport.arrive(b"".join(frames.data(stream_id, piece) for piece in pieces))
    assert len(room.opened[0].events.body) <= 12 * 128
    assert not client.transport.reading
    client.turns.run()
    assert room.opened[0].events.body == b"".join(pieces)
    assert client.transport.reading


# --- unfinished ones that are held whole ---


class Holding(RecordingDownstreamEvents):
    """As an exchange does that needs the whole body."""

    stream: DownstreamStream

    def on_downstream_data(self, data: bytes) -> None:
        super().on_downstream_data(data)
        self.stream.hold_upload(len(data), None)


def _holding(bound: int, count: int) -> tuple[Room, H2Client, list[int]]:
    """So many uploads that have begun on one connection, which may hold `bound` bytes."""
    room = Room(h2=H2Settings(ping_interval=None, max_uploads=bound))
    client = room.client()
    ids = [client.asks("POST", end=False) for _ in range(count)]
    for opened in room.opened:
        opened.events = events = Holding()
        events.stream = opened.stream
        opened.stream.attach(events)
    return room, client, ids


def _upload_in_turn(client: H2Client, ids: list[int]) -> None:
    """Some of each, until nothing more is taken of any."""
    while sum(_upload(client, stream_id, 8 * KB) for stream_id in ids):
        pass


def test_uploads_of_a_connection_hold_so_much_and_the_first_goes_on() -> None:
    room, client, ids = _holding(1024 * KB, 50)
    _upload(client, ids[0], KB)
    _upload_in_turn(client, ids[1:])
    assert sum(len(opened.events.body) for opened in room.opened) <= 1024 * KB + 50 * 64 * KB
    assert client.peer.room(ids[0]) >= 32 * KB  # the connection's window is open
    assert _upload(client, ids[0], 4 << 20) == 4 << 20


def test_uploads_of_other_connections_are_not_held_up() -> None:
    room, client, ids = _holding(256 * KB, 10)
    _upload(client, ids[0], KB)
    _upload_in_turn(client, ids[1:])
    other = room.client()
    stream_id = other.asks("POST", end=False)
    assert _upload(other, stream_id, 1 << 20) == 1 << 20


@pytest.mark.parametrize("ends", ["is whole", "leaves"])
def test_uploads_go_on_in_their_order_when_others_end(ends: str) -> None:
    room, client, ids = _holding(256 * KB, 8)
    for number, stream_id in enumerate(ids):
        _upload(client, stream_id, 1)
        _upload_in_turn(client, ids[number + 1 :])
        assert _upload(client, stream_id, 1 << 20) == 1 << 20
        if ends == "is whole":
            client.peer.upload(stream_id, b"", end=True)
            room.opened[number].stream.end_upload()
        else:
            client.peer.reset(stream_id)
            room.opened[number].stream.end_upload()
        room.turns.run()
        client.talk()
    assert room.context.uploads.held == 0


def test_an_upload_that_its_provider_stops_meanwhile_goes_on_with_both() -> None:
    room, client, ids = _holding(64 * KB, 2)
    _upload(client, ids[0], KB)
    second = room.opened[1].stream
    _upload(client, ids[1], 40 * KB)
    second.pause_reading()
    _upload_in_turn(client, ids[1:])
    assert second.upload_waits
    second.resume_reading()
    client.talk()
    assert client.peer.room(ids[1]) == 0
    room.opened[0].stream.end_upload()
    room.turns.run()
    client.talk()
    assert client.peer.room(ids[1]) == 64 * KB
    second.end_upload()
