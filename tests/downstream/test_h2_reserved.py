"""Windows that a stream reserves for its events: nothing of them is lost, and nobody starves for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.h2_send_window import RESERVE
from tests.support.h2_dialogue import H2Client, Room
from tests.support.h2_peer import H2Peer

EVENT = b"e" * 250


def opened(streams: int, *, window: int = 65_535) -> tuple[Room, H2Client, list[Callable[[bytes], None]]]:
    """So many answers under way, and their direct writers."""
    room = Room(watermarks=Watermarks(8192, 4096, 64))
    client = room.client(peer=H2Peer(window=window, credits_connection=False))
    ways = []
    for _ in range(streams):
        client.asks()
        room.opened[-1].answers(end=False)
        client.talk()
        way = room.opened[-1].stream.direct_writer()
        assert way is not None
        ways.append(way[0])
    return room, client, ways


def windows(client: H2Client) -> tuple[int, list[int]]:
    """What the relay may send, on the connection and on each stream, when nothing is reserved."""
    connection = client.connection
    connection.release_all()
    return connection.windows.left, [stream.window.left for stream in connection.streams.values()]


def test_what_was_reserved_and_not_used_comes_back() -> None:
    _, client, (way,) = opened(1)
    for count in range(1, 50):
        way(EVENT)
        assert windows(client) == (65_535 - 250 * count, [65_535 - 250 * count])
    for _ in range(50):  # and without a look in between
        way(EVENT)
    assert windows(client) == (65_535 - 250 * 99, [65_535 - 250 * 99])


@pytest.mark.parametrize("end", ["clean", "broken", "reset"])
def test_it_comes_back_when_the_stream_ends(end: str) -> None:
    room, client, (way, _) = opened(2)
    way(EVENT)
    if end == "clean":
        room.opened[0].stream.send_end()
    elif end == "broken":
        room.opened[0].stream.break_off()
    else:
        client.peer.reset(1)
    client.talk()
    assert windows(client) == (65_535 - 250, [65_535])


def test_streams_with_nothing_reserved_do_not_starve() -> None:
    room, client, (way, _) = opened(2)
    way(EVENT)
    rest = 65_535 - 250
    room.opened[1].stream.send_data(b"x" * rest)  # more than is left beside what is reserved
    client.talk()
    assert client.answer(3).body == b"x" * rest
    way(EVENT)
    client.talk()
    assert client.answer(1).body == EVENT
    client.peer.credit(0, 1000)
    client.talk()
    assert client.answer(1).body == 2 * EVENT


def test_a_smaller_window_holds_for_what_was_reserved_too() -> None:
    _, client, (way,) = opened(1)
    way(EVENT)
    client.peer.settings(initial_window_size=300)
    client.talk()
    way(EVENT)
    client.talk()
    assert len(client.answer(1).body) == 300


def test_nothing_is_reserved_where_windows_are_scarce() -> None:
    _, client, ways = opened(20)
    assert RESERVE > 65_535 // 20
    for way in ways:
        way(EVENT)
    before = client.connection.windows.left
    assert windows(client)[0] == before == 65_535 - 20 * 250
    client.talk()
    assert [client.answer(2 * number + 1).body for number in range(20)] == [EVENT] * 20


def test_events_wait_while_the_transport_is_blocked() -> None:
    room, client, (way,) = opened(1, window=1 << 20)
    client.peer.credit(0, 1 << 20)
    client.talk()
    way(EVENT)
    client.stops_reading()
    room.opened[0].stream.send_data(b"x" * 100_000)
    client.turns.run()
    assert client.connection.is_blocked
    held = room.opened[0].stream.held
    way(EVENT)
    assert room.opened[0].stream.held == held + 250
    client.reads()
    client.talk()
    assert client.answer(1).body == EVENT + b"x" * 100_000 + EVENT


def test_what_was_written_counts() -> None:
    room, client, (way,) = opened(1)
    for _ in range(10):
        way(EVENT)
    stream = room.opened[0].stream
    assert stream.writes == (10, 0)
    client.connection.release_all()
    assert client.connection.sent == 2500
    assert client.connection.streams[1].sent == 2500
