"""Windows: a shut one stops its stream and no other; a full transport stops all, and none starves."""

from __future__ import annotations

import pytest

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.h2_send_window import MAX_WINDOW
from tests.support import h2_frames as frames
from tests.support.h2_dialogue import H2Client, Room
from tests.support.h2_peer import H2Peer

KB = 1024


def _streams(room: Room, client: H2Client, count: int) -> list[int]:
    ids = [client.asks() for _ in range(count)]
    for opened in room.opened:
        opened.answers(end=False)
    client.talk()
    return ids


def test_a_stream_whose_window_is_shut_stops_itself_only() -> None:
    room = Room()
    client = room.client(peer=H2Peer(window=1000))
    first, second = _streams(room, client, 2)
    client.peer.stalled.add(first)
    for _ in range(20):
        for opened in room.opened:
            opened.stream.send_data(b"x" * 500)
        client.talk()
    assert len(client.answer(first).body) == 1000
    assert len(client.answer(second).body) == 10_000
    assert "full" in room.opened[0].events.log
    assert "full" not in room.opened[1].events.log


def test_a_stalled_stream_goes_on_in_order_when_its_window_opens() -> None:
    room = Room()
    client = room.client(peer=H2Peer(window=100))
    [stream_id] = _streams(room, client, 1)
    client.peer.stalled.add(stream_id)
    body = b"".join(b"%05d" % number for number in range(1000))
    for start in range(0, len(body), 250):
        room.opened[0].stream.send_data(body[start : start + 250])
    room.opened[0].stream.send_end()
    client.talk()
    assert client.answer(stream_id).body == body[:100]
    client.peer.release(stream_id)
    client.talk()
    assert client.answer(stream_id).body == body
    assert client.answer(stream_id).whole
    assert room.opened[0].events.log == ["end", "full", "drained", "finished"]


def test_what_waits_leaves_joined() -> None:
    """A lagging reader gets few large frames."""
    room = Room()
    client = room.client(peer=H2Peer(window=10))
    [stream_id] = _streams(room, client, 1)
    client.peer.stalled.add(stream_id)
    room.opened[0].stream.send_data(b"0123456789")
    client.talk()
    for _ in range(10):
        room.opened[0].stream.send_data(b"x" * 100)
    client.talk()
    client.peer.credit(stream_id, 5000)
    client.talk()
    assert client.answer(stream_id).sizes == [10, 1000]


def test_a_window_that_opens_by_a_byte_lets_a_byte_pass() -> None:
    room = Room()
    client = room.client(peer=H2Peer(window=0))
    [stream_id] = _streams(room, client, 1)
    client.peer.stalled.add(stream_id)
    room.opened[0].stream.send_data(b"abc")
    room.opened[0].stream.send_end()
    client.talk()
    assert client.answer(stream_id).status == 200
    for expected in (b"a", b"ab", b"abc"):
        client.peer.credit(stream_id, 1)
        client.talk()
        assert client.answer(stream_id).body == expected
    assert client.answer(stream_id).whole


def test_an_end_needs_no_window() -> None:
    room = Room()
    client = room.client(peer=H2Peer(window=0))
    [stream_id] = _streams(room, client, 1)
    room.opened[0].stream.send_end()
    client.talk()
    assert client.answer(stream_id).whole


def test_settings_may_take_a_window_below_zero_and_give_it_back() -> None:
    """RFC 9113 section 6.9.2."""
    room = Room()
    client = room.client(peer=H2Peer(window=1000))
    [stream_id] = _streams(room, client, 1)
    client.peer.stalled.add(stream_id)
    room.opened[0].stream.send_data(b"x" * 1000)
    client.talk()
    client.peer.settings(initial_window_size=100)  # the window is at -900
    client.talk()
    room.opened[0].stream.send_data(b"y" * 50)
    client.talk()
    client.peer.credit(stream_id, 900)  # at 0
    client.talk()
    assert len(client.answer(stream_id).body) == 1000
    client.peer.settings(initial_window_size=150)
    client.talk()
    assert client.answer(stream_id).body == b"x" * 1000 + b"y" * 50


def test_frames_are_as_long_as_the_client_takes_them() -> None:
    room = Room(watermarks=Watermarks(200 * KB, KB, 16))
    client = room.client(peer=H2Peer(window=1 << 20, max_frame=40 * KB))
    client.peer.credit(0, 1 << 20)
    [stream_id] = _streams(room, client, 1)
    room.opened[0].stream.send_data(b"x" * 100 * KB)
    client.talk()
    assert client.answer(stream_id).sizes == [40 * KB, 40 * KB, 20 * KB]


def test_frames_have_16_kib_at_most_when_the_client_says_nothing() -> None:
    room = Room(watermarks=Watermarks(200 * KB, KB, 16))
    client = room.client()
    [stream_id] = _streams(room, client, 1)
    room.opened[0].stream.send_data(b"x" * 40_000)
    client.talk()
    assert client.answer(stream_id).sizes == [16_384, 16_384, 7232]


def test_one_turn_is_one_write() -> None:
    room = Room()
    client = room.client()
    _streams(room, client, 10)
    writes = _count_writes(client)
    for opened in room.opened:
        opened.stream.send_data(b"x")
        opened.stream.send_data(b"y")
        opened.stream.send_end()
    client.turns.run()
    assert len(writes) == 1


def _count_writes(client: H2Client) -> list[int]:
    sizes: list[int] = []
    write = client.transport.write

    def counted(data: bytes | bytearray | memoryview) -> None:
        sizes.append(len(data))
        write(data)

    client.transport.write = counted  # type: ignore[method-assign]
    return sizes


def test_a_full_transport_stops_all_streams_and_they_go_on_in_turn() -> None:
    room = Room(watermarks=Watermarks(64 * KB, KB, 1000))
    client = room.client(peer=H2Peer(window=1 << 20))
    client.peer.credit(0, 1 << 24)
    ids = _streams(room, client, 8)
    client.stops_reading()
    for _ in range(4):
        for opened in room.opened:
            opened.stream.send_data(b"x" * 16 * KB)
        client.turns.run()
    waiting = len(client.transport.buffer)
    assert waiting <= 160 * KB
    order: list[int] = []
    while len(order) < 32:
        client.reads(len(client.transport.buffer))
        client.talk()
        order = [frame.stream_id for frame in client.peer.frames if frame.kind == frames.DATA and frame.payload]
    for position in range(0, 32, 8):  # each has its frame before one has another
        assert sorted(order[position : position + 8]) == ids


def test_the_buffer_of_a_full_transport_is_bounded() -> None:
    room = Room(watermarks=Watermarks(8 * KB, 4 * KB, 16))
    client = room.client(peer=H2Peer(window=1 << 20))
    client.peer.credit(0, 1 << 24)
    _streams(room, client, 50)
    client.stops_reading()
    for _ in range(20):
        for opened in room.opened:
            if "full" not in opened.events.log:
                opened.stream.send_data(b"x" * 4 * KB)
        client.turns.run()
    assert all("full" in opened.events.log for opened in room.opened)
    assert all(opened.stream.held <= 12 * KB for opened in room.opened)
    assert len(client.transport.buffer) <= 160 * KB


@pytest.mark.parametrize("grant", [100, 1000, 16 * KB])
def test_a_small_connection_window_serves_all_streams_in_turn(grant: int) -> None:
    room = Room(watermarks=Watermarks(64 * KB, KB, 1000))
    client = room.client(peer=H2Peer(window=1 << 20, credits_connection=False))
    ids = _streams(room, client, 5)
    for _ in range(10):
        for opened in room.opened:
            opened.stream.send_data(b"x" * 16 * KB)
    client.talk()
    before = {stream_id: len(client.answer(stream_id).body) for stream_id in ids}
    assert sum(before.values()) == 65_535
    for _ in range(20):
        client.peer.credit(0, grant)
        client.talk()
    gained = [len(client.answer(stream_id).body) - before[stream_id] for stream_id in ids]
    assert sum(gained) == 20 * grant
    assert max(gained) - min(gained) <= 16 * KB
    assert min(gained) > 0


def test_a_reset_stream_leaves_the_line_for_the_connection_s_window() -> None:
    room = Room(watermarks=Watermarks(64 * KB, KB, 1000))
    client = room.client(peer=H2Peer(window=1 << 20, credits_connection=False))
    first, second, third = _streams(room, client, 3)
    for opened in room.opened:
        opened.stream.send_data(b"x" * 40 * KB)
    client.talk()
    client.peer.reset(second)
    client.talk()
    assert len(client.connection.starved) == 2  # or resets would pile up there
    before = len(client.answer(second).body)
    client.peer.credit(0, 1 << 20)
    client.talk()
    assert [len(client.answer(stream_id).body) for stream_id in (first, third)] == [40 * KB] * 2
    assert len(client.answer(second).body) == before


def test_windows_and_transport_shut_together_open_in_any_order() -> None:
    for opens_window_first in (True, False):
        room = Room(watermarks=Watermarks(200 * KB, KB, 1000))
        client = room.client(peer=H2Peer(window=100 * KB, credits_connection=False))
        [stream_id] = _streams(room, client, 1)
        client.stops_reading()
        room.opened[0].stream.send_data(b"x" * 150 * KB)
        client.turns.run()
        client.peer.credit(0, 1 << 20)
        client.peer.credit(stream_id, 1 << 20)
        grants = client.peer.take()
        if opens_window_first:
            client.says(grants)
            client.reads()
        else:
            client.reads()
            client.turns.run()
            client.says(grants)
        client.turns.run()
        client.peer.hear(client.hears())
        assert len(client.answer(stream_id).body) == 150 * KB


def test_stalls_are_counted_with_their_time() -> None:
    room = Room()
    client = room.client(peer=H2Peer(window=100))
    [stream_id] = _streams(room, client, 1)
    client.peer.stalled.add(stream_id)
    room.opened[0].stream.send_data(b"x" * 200)
    client.talk()
    assert room.totals.stalls == 1
    room.clock.advance(7.0)
    client.peer.release(stream_id)
    client.talk()
    assert room.totals.stall_seconds == 7.0
    assert room.opened[0].stream.writes == (1, 0)


def _client_seconds(room: Room) -> float:
    seconds = room.opened[0].stream.client_seconds(room.clock.now)
    assert seconds is not None
    return seconds


def test_a_stream_s_shut_window_is_time_of_the_client() -> None:
    room = Room()
    client = room.client(peer=H2Peer(window=100))
    [stream_id] = _streams(room, client, 1)
    client.peer.stalled.add(stream_id)
    room.clock.advance(1.0)
    room.opened[0].stream.send_data(b"x" * 200)
    client.talk()
    room.clock.advance(7.0)
    assert _client_seconds(room) == 7.0
    client.peer.release(stream_id)
    client.talk()
    room.clock.advance(5.0)
    assert _client_seconds(room) == 7.0


def test_a_connection_s_shut_window_is_time_of_the_client() -> None:
    room = Room(watermarks=Watermarks(200 * KB, KB, 1000))
    client = room.client(peer=H2Peer(window=1 << 20, credits_connection=False))
    _streams(room, client, 1)
    room.opened[0].stream.send_data(b"x" * 100 * KB)
    client.talk()
    began = room.clock.now
    assert room.opened[0].stream.held_since == began
    room.clock.advance(7.0)
    assert _client_seconds(room) == 7.0
    client.peer.credit(0, 1 << 20)
    client.talk()
    room.clock.advance(5.0)
    assert _client_seconds(room) == 7.0
    assert room.opened[0].stream.held_since is None


def test_a_blocked_transport_is_not_by_itself_the_client_s() -> None:
    room = Room(watermarks=Watermarks(8 * KB, KB, 16))
    client = room.client(peer=H2Peer(window=1 << 20))
    client.peer.credit(0, 1 << 20)
    _streams(room, client, 2)
    client.stops_reading()
    for _ in range(20):
        room.opened[0].stream.send_data(b"x" * 8 * KB)
        client.turns.run()
    room.clock.advance(7.0)
    assert _client_seconds(room) == 0.0
    assert room.opened[0].stream.held_since == room.clock.now - 7.0
    idle = room.opened[1].stream
    assert (idle.held_since, idle.unacknowledged()) == (None, 0)  # nothing of what waits is its own
    assert room.opened[0].stream.unacknowledged() > 8 * KB


def test_totals_come_back_to_zero() -> None:
    room = Room()
    client = room.client(peer=H2Peer(window=10))
    _streams(room, client, 5)
    assert (room.totals.connections, room.totals.streams) == (1, 5)
    room.opened[0].stream.send_end()
    client.peer.reset(3)
    room.opened[2].stream.break_off()
    client.talk(frames.window_update(7, 0))
    assert room.totals.streams == 1
    client.transport.lose()
    assert (room.totals.connections, room.totals.streams) == (0, 0)


def test_a_window_that_is_opened_too_far_resets_its_stream_alone() -> None:
    room = Room()
    client = room.client()
    first, second = _streams(room, client, 2)
    client.talk(frames.window_update(first, MAX_WINDOW))
    assert room.opened[0].events.log == ["end", "reset client_error"]
    assert client.answer(first).reset == frames.FLOW_CONTROL_ERROR
    assert room.opened[1].events.log == ["end"]
    assert client.answer(second).reset is None


@pytest.mark.parametrize("by", ["update", "settings"])
def test_a_connection_whose_windows_are_opened_too_far_is_ended(by: str) -> None:
    room = Room()
    client = room.client()
    [stream_id] = _streams(room, client, 1)
    if by == "update":
        client.talk(frames.window_update(0, MAX_WINDOW))
    else:
        grown = frames.window_update(stream_id, MAX_WINDOW - 65_535)
        client.talk(grown + frames.settings((frames.INITIAL_WINDOW, 65_536)))
    assert client.peer.goaways[-1].code == frames.FLOW_CONTROL_ERROR
    assert dict(room.totals.goaways) == {"flow_control_error": 1}
