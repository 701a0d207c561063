"""A client that acknowledges nothing is cut once so many tokens have come for it."""

from __future__ import annotations

from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.interfaces import DownstreamStream
from tests.support import h2_frames as frames
from tests.support.clock import FakeClock
from tests.support.dialogue import Client, listener_context
from tests.support.h2_dialogue import H2Client, Room
from tests.support.h2_peer import H2Peer
from tests.support.recording import RecordingDownstreamEvents

LIMIT = 50
EVENT = b"x" * 100


class H1Scene:
    """One answer under way to a client of HTTP/1.1."""

    def __init__(self) -> None:
        self._clock = FakeClock()
        context = listener_context(self._open, stall_tokens=LIMIT, clock=self._clock)
        self.client = Client(context)
        self.client.says(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.stream.send_head(ResponseHead(200, []))

    def _open(self, request: RequestHead, stream: DownstreamStream) -> None:
        self.stream, self.events = stream, RecordingDownstreamEvents()
        stream.attach(self.events)

    def passes(self, tokens: int) -> None:
        self.stream.send_data(EVENT)
        self.events.tokens += tokens
        self.client.connection.sweep(self._clock.advance(1.0))

    def is_cut(self) -> bool:
        return self.events.log[-1] == "reset client_stalled"


def test_a_client_that_takes_nothing_is_cut_at_so_many_tokens() -> None:
    scene = H1Scene()
    scene.passes(1000)
    scene.client.stops_reading()
    scene.passes(10)
    scene.passes(LIMIT - 1)
    assert not scene.is_cut()
    scene.passes(1)
    assert scene.is_cut()
    assert scene.client.end == "reset"


def test_a_client_that_takes_a_little_is_not() -> None:
    scene = H1Scene()
    scene.client.stops_reading()
    for _ in range(10):
        scene.passes(LIMIT - 1)
        scene.client.reads(1)
    assert not scene.is_cut()


def test_time_alone_cuts_nobody() -> None:
    scene = H1Scene()
    scene.client.stops_reading()
    for _ in range(100):
        scene.passes(0)
    assert not scene.is_cut()


def _two_streams(*, window: int) -> tuple[Room, H2Client, list[int]]:
    room = Room(stall_tokens=LIMIT)
    client = room.client(peer=H2Peer(window=window))
    ids = [client.asks(), client.asks()]
    for opened in room.opened:
        opened.answers(end=False)
    client.talk()
    return room, client, ids


def _is_cut(room: Room, number: int) -> bool:
    return "reset client_stalled" in room.opened[number].events.log


def _passes(room: Room, client: H2Client, tokens: int, *, reads: bool = True) -> None:
    for opened in room.opened:
        opened.stream.send_data(EVENT)
        opened.events.tokens += tokens
    client.turns.run()
    if reads:
        client.talk()
    client.connection.sweep(room.clock.advance(1.0))
    if reads:
        client.talk()


def test_a_stream_whose_window_stays_shut_is_cut_alone() -> None:
    room, client, [stalled, live] = _two_streams(window=150)
    client.peer.stalled.add(stalled)
    for _ in range(6):
        _passes(room, client, 10)
    assert not client.answer(stalled).ended
    _passes(room, client, 10)
    assert client.answer(stalled).reset == frames.CANCEL
    assert _is_cut(room, 0)
    for _ in range(20):
        _passes(room, client, 10)
    assert not _is_cut(room, 1)
    assert len(client.answer(live).body) == 2700


def test_streams_that_wait_for_their_turn_in_the_connection_s_window_are_not_cut() -> None:
    room = Room(stall_tokens=LIMIT)
    client = room.client(peer=H2Peer(window=1 << 20, credits_connection=False))
    for _ in range(20):
        client.asks()
    for opened in room.opened:
        opened.answers(b"x" * 60 * 1024, end=False)
    client.talk()
    for _ in range(60):
        for opened in room.opened:
            opened.events.tokens += 10
        client.peer.credit(0, 1000)
        room.sweep(client, 1.0)
    assert not any(_is_cut(room, number) for number in range(20))


def test_streams_of_a_client_that_reads_no_frames_are_cut_by_their_own_tokens() -> None:
    room, client, _ = _two_streams(window=1 << 20)
    client.stops_reading()
    for number in range(6):
        _passes(room, client, 1, reads=False)
        room.opened[0].events.tokens += 10 * (number > 0)
    assert [_is_cut(room, number) for number in range(2)] == [False, False]
    _passes(room, client, 1, reads=False)
    assert [_is_cut(room, number) for number in range(2)] == [True, False]
