"""How a connection ends: GOAWAY in two steps, deadlines, clients that are stalled or do not read."""

from __future__ import annotations

import pytest

from flowserver.downstream.context import H2Settings
from flowserver.downstream.h2 import LINGER
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.h2_flood_guard import H2Limits
from tests.support import h2_frames as frames
from tests.support.h2_dialogue import H2Client, Room
from tests.support.h2_peer import Goaway, H2Peer

WARNING = 0x7FFFFFFF


def _finished(room: Room, client: H2Client) -> bool:
    """Whether the relay has closed, once it had its time."""
    room.sweep(client, 2 * LINGER + 0.1)
    return client.transport.is_closing()


# --- GOAWAY ---


def test_a_drain_warns_and_then_refuses_and_closes_when_all_is_answered() -> None:
    room = Room()
    client = room.client()
    early = client.asks()
    client.connection.drain()
    client.talk()
    assert client.peer.goaways == [Goaway(WARNING, frames.NO_ERROR, "drain")]
    late = client.asks()  # it was on its way
    room.sweep(client, LINGER)
    assert client.peer.goaways[1:] == [Goaway(late, frames.NO_ERROR, "")]
    refused = client.peer.new_id()
    client.talk(frames.headers(refused))
    assert client.answer(refused).reset == frames.REFUSED_STREAM
    for opened in room.opened:
        assert client.end == "open"
        opened.answers(b"whole")
        client.talk()
    assert [client.answer(number).body for number in (early, late)] == [b"whole"] * 2
    assert client.end == "half-closed"
    assert _finished(room, client)


def test_a_drain_of_an_idle_connection_closes_it() -> None:
    room = Room()
    client = room.client()
    client.connection.drain()
    room.sweep(client, LINGER)
    assert len(client.peer.goaways) == 2
    assert client.end == "half-closed"


def test_the_last_bytes_of_an_answer_have_all_the_time_they_need() -> None:
    room = Room()
    client = room.client()
    stream_id = client.asks()
    client.connection.drain()
    room.sweep(client, LINGER)
    client.stops_reading()
    room.opened[0].answers(b"x" * 5000)
    client.turns.run()
    for _ in range(20):
        client.connection.sweep(room.clock.advance(1.0))
        client.reads(100)
    assert not client.transport.is_closing()
    client.reads()
    client.peer.hear(client.hears())
    assert client.answer(stream_id).body == b"x" * 5000
    assert _finished(room, client)


def test_over_tls_a_drained_connection_waits_for_its_client_to_close() -> None:
    """There is no half-close in TLS."""
    room = Room()
    client = room.client(tls=True)
    client.connection.drain()
    room.sweep(client, LINGER)
    assert client.end == "open"
    assert _finished(room, client)


def test_a_client_s_goaway_lets_its_streams_go_on() -> None:
    room = Room()
    client = room.client()
    stream_id = client.asks("POST", end=False)
    client.talk(frames.goaway())
    client.peer.upload(stream_id, b"more", end=True)
    client.talk()
    room.opened[0].answers(b"x" * 100_000)
    room.sweep(client, LINGER)
    assert room.opened[0].events.body == b"more"
    assert client.answer(stream_id).body == b"x" * 100_000
    assert client.end == "half-closed"


def test_a_connection_ends_after_its_requests() -> None:
    room = Room(h2=H2Settings(max_requests=3, ping_interval=None))
    client = room.client()
    for number in range(1, 4):
        client.asks()
        room.opened[-1].answers()
        client.talk()
        assert len(client.peer.goaways) == (number == 3)
    client.asks()  # before the second GOAWAY it is served
    room.opened[3].answers()
    room.sweep(client, LINGER)
    assert client.peer.goaways == [
        Goaway(WARNING, frames.NO_ERROR, "max_requests"),
        Goaway(7, frames.NO_ERROR, ""),
    ]
    assert client.end == "half-closed"


def test_goaways_are_counted_by_reason() -> None:
    room = Room()
    first, second = room.client(), room.client()
    first.connection.drain()
    first.connection.drain()
    second.talk(frames.ping() * 200)
    assert dict(room.totals.goaways) == {"drain": 1, "ping_flood": 1}


def test_the_end_of_the_drain_time_breaks_off_what_is_left() -> None:
    room = Room()
    client = room.client()
    client.asks()
    client.connection.drain()
    client.connection.end_drain()
    assert room.opened[0].events.log == ["end", "drain timeout"]
    assert client.transport.is_closing()


def test_one_connection_too_many_is_told_so() -> None:
    room = Room()
    for _ in range(10):
        room.client()
    client = room.client()
    assert client.peer.goaways == [Goaway(0, frames.NO_ERROR, "too_many_connections")]
    assert client.end == "half-closed"


# --- deadlines ---


def test_an_idle_connection_is_ended_after_its_time() -> None:
    room = Room(keepalive_timeout=10.0)
    client = room.client()
    client.asks()
    room.sweep(client, 30.0)
    assert client.peer.goaways == []
    room.opened[0].answers()
    client.talk()
    room.sweep(client, 9.0)
    assert client.peer.goaways == []
    room.sweep(client, 1.0)
    assert client.peer.goaways == [Goaway(1, frames.NO_ERROR, "idle")]


def test_pings_do_not_keep_an_idle_connection() -> None:
    room = Room(keepalive_timeout=10.0)
    client = room.client()
    for _ in range(11):
        client.peer.ping()
        room.sweep(client, 1.0)
    assert [goaway.reason for goaway in client.peer.goaways] == ["idle"]


def test_a_client_that_says_nothing_at_all_is_ended_by_the_head_timeout() -> None:
    room = Room(keepalive_timeout=60.0, head_timeout=5.0)
    client = room.client(greets=False)
    client.says(frames.PREFACE)
    client.connection.sweep(room.clock.advance(5.0))
    assert client.end == "half-closed"


def test_a_head_without_its_end_is_ended_by_the_head_timeout() -> None:
    room = Room(head_timeout=5.0)
    client = room.client()
    client.asks()
    client.talk(frames.headers(client.peer.new_id(), flags=0))
    room.sweep(client, 4.0)
    client.says(frames.frame(frames.CONTINUATION, 0, 3, b""))
    room.sweep(client, 1.0)
    assert [goaway.reason for goaway in client.peer.goaways] == ["head_timeout"]


@pytest.mark.parametrize("late", [frames.headers(1), frames.headers(1, [("x-sum", "1")], end=False)])
def test_a_whole_head_that_was_no_use_starts_no_head_timeout(late: bytes) -> None:
    room = Room(head_timeout=5.0)
    client = room.client()
    client.asks()
    client.talk(late)
    client.asks("POST", end=False)
    room.sweep(client, 60.0)
    assert client.peer.goaways == []


def test_exchanges_are_looked_at() -> None:
    room = Room()
    client = room.client()
    client.asks()
    room.sweep(client, 2.0)
    assert room.opened[0].events.log == ["end", "sweep", "sweep"]


# --- stalls ---


def test_a_client_that_takes_nothing_from_the_transport_is_ended() -> None:
    room = Room(stall_timeout=10.0)
    client = room.client()
    client.asks()
    client.stops_reading()
    room.opened[0].answers(b"x" * 1000, end=False)
    client.turns.run()
    for _ in range(12):
        client.connection.sweep(room.clock.advance(1.0))
    assert client.end == "reset"
    assert room.opened[0].events.log[-1] == "reset client_stalled"


def test_events_that_trickle_in_for_a_stalled_client_do_not_keep_it() -> None:
    room = Room(stall_timeout=10.0)
    client = room.client()
    client.asks()
    client.stops_reading()
    room.opened[0].answers(b"x", end=False)
    for _ in range(12):
        room.opened[0].stream.send_data(b"event")
        client.turns.run()
        client.connection.sweep(room.clock.advance(1.0))
    assert client.end == "reset"
    assert room.opened[0].events.log[-1] == "reset client_stalled"


def test_a_window_that_stays_shut_ends_its_stream_only() -> None:
    room = Room(stall_timeout=10.0)
    client = room.client(peer=H2Peer(window=100))
    stalled, live = client.asks(), client.asks()
    client.peer.stalled.add(stalled)
    room.opened[0].answers(b"x" * 200, end=False)
    room.opened[1].answers(end=False)
    for _ in range(12):
        room.opened[1].stream.send_data(b"y" * 100)
        room.sweep(client, 1.0)
    assert client.answer(stalled).reset == frames.CANCEL
    assert room.opened[0].events.log[-1] == "reset client_stalled"
    assert len(client.answer(live).body) == 1200


def test_a_stream_without_anything_to_send_is_not_stalled() -> None:
    room = Room(stall_timeout=10.0)
    client = room.client(peer=H2Peer(window=0))
    stream_id = client.asks()
    room.opened[0].answers(end=False)
    room.sweep(client, 60.0)
    assert not client.answer(stream_id).ended


def test_streams_that_wait_for_a_slow_client_s_transport_are_not_stalled() -> None:
    room = Room(stall_timeout=10.0, watermarks=Watermarks(64 * 1024, 1024, 1000))
    client = room.client(peer=H2Peer(window=1 << 20))
    client.peer.credit(0, 1 << 24)
    ids = [client.asks() for _ in range(5)]
    client.stops_reading()
    for opened in room.opened:
        opened.answers(b"x" * 32 * 1024, end=False)
    client.turns.run()
    for _ in range(60):
        client.reads(1024)
        client.connection.sweep(room.clock.advance(1.0))
        client.turns.run()
    client.reads()
    client.talk()
    assert [len(client.answer(stream_id).body) for stream_id in ids] == [32 * 1024] * 5


def test_a_window_is_not_stalled_while_what_it_let_pass_is_on_its_way() -> None:
    room = Room(stall_timeout=10.0)
    client = room.client(peer=H2Peer(window=5000))
    stream_id = client.asks()
    client.peer.stalled.add(stream_id)
    client.stops_reading()
    room.opened[0].answers(b"x" * 6000, end=False)
    client.turns.run()
    for _ in range(50):
        client.reads(100)
        client.connection.sweep(room.clock.advance(1.0))
    assert "reset client_stalled" not in room.opened[0].events.log
    client.reads()
    room.sweep(client, 12.0)
    assert client.answer(stream_id).reset == frames.CANCEL


def test_streams_that_wait_for_their_turn_in_the_connection_s_window_are_not_stalled() -> None:
    room = Room(stall_timeout=10.0, watermarks=Watermarks(64 * 1024, 1024, 1000))
    client = room.client(peer=H2Peer(window=1 << 20, credits_connection=False))
    for _ in range(20):
        client.asks()
    for opened in room.opened:
        opened.answers(b"x" * 60 * 1024, end=False)
    client.talk()
    for _ in range(60):
        client.peer.credit(0, 1000)
        room.sweep(client, 1.0)
    assert not any("reset client_stalled" in opened.events.log for opened in room.opened)


def test_a_connection_window_that_stays_shut_ends_its_streams() -> None:
    room = Room(stall_timeout=10.0, watermarks=Watermarks(200 * 1024, 1024, 1000))
    client = room.client(peer=H2Peer(window=1 << 20, credits_connection=False))
    stream_id = client.asks()
    room.opened[0].answers(b"x" * 100_000, end=False)
    client.talk()
    room.sweep(client, 12.0)
    assert client.answer(stream_id).reset == frames.CANCEL


# --- a client that does not read what it makes us say ---


def _pile_up(client: H2Client) -> None:
    """Requests that are refused, until the relay reads no more."""
    client.stops_reading()
    for _ in range(3000):
        if not client.transport.is_reading():
            return
        client.says(frames.headers(client.peer.new_id(), frames.request_fields(path="/" + "x" * 8192)))
    raise AssertionError("it reads on")


def _rich_client() -> tuple[Room, H2Client]:
    room = Room(h2=H2Settings(max_requests=100_000, ping_interval=None))
    client = room.client()
    client.peer.credit(0, 1 << 24)
    client.asks()
    return room, client


def test_reading_stops_while_answers_to_frames_pile_up() -> None:
    room, client = _rich_client()
    _pile_up(client)
    assert len(client.transport.buffer) < 512 * 1024
    client.reads()
    assert client.transport.is_reading()
    assert room.hangups.watched == {}


def test_reading_stops_in_time_when_a_turn_has_many_reads() -> None:
    """uvloop reads up to 32 times in a row."""
    room = Room(h2=H2Settings(limits=H2Limits(pings=10**9), ping_interval=None))
    client = room.client()
    client.stops_reading()
    for _ in range(100):
        if client.transport.is_reading():
            client.transport.arrive(frames.ping() * 500)
    assert not client.transport.is_reading()
    assert len(client.transport.buffer) < 512 * 1024
    client.reads()
    client.transport.deliver()
    client.turns.run()
    assert client.transport.is_reading()


def test_a_client_that_hangs_up_while_it_is_not_read_is_noticed() -> None:
    room, client = _rich_client()
    _pile_up(client)
    room.hangups.hang_up()
    assert room.opened[0].events.log == ["end", "reset client_gone"]
    assert client.end == "reset"
