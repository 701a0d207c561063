"""The window of a connection to a provider of HTTP/1.1: how it follows clients, answers and distance."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.flow.drain_rate import LEAST, upstream_bound
from flowserver.flow.window_bound import WIDEST
from flowserver.http.messages import RequestHead
from flowserver.net.receive_buffer import WIDE, can_follow
from flowserver.upstream.h1 import H1Stream, UpstreamH1
from flowserver.upstream.receive_window import (
    FIRST,
    FIRST_AFAR,
    NARROW,
    READ_SIZE,
    AdaptiveFlow,
    ReceiveWindow,
)

from ..support.clock import FakeClock
from ..support.dialogue import Provider
from ..support.pace import pace_of
from ..support.recording import RecordingUpstreamEvents
from ..support.transport import FakeSocket, FakeTransport

KB = 1024
TARGET = 0.25
RECEIVE_BUFFER = (socket.SOL_SOCKET, socket.SO_RCVBUF)
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Events(RecordingUpstreamEvents):
    """Of a client on whose way so many bytes are. As the exchange does, the end cancels the stream."""

    stream: H1Stream
    under_way = 0

    def unacknowledged(self) -> int:
        return self.under_way

    def on_upstream_end(self) -> None:
        super().on_upstream_end()
        self.stream.cancel()


class Owner:
    def on_capacity(self, connection: UpstreamH1) -> None: ...

    def on_lost(self, connection: UpstreamH1) -> None: ...


class Scene:
    """A window on its own."""

    def __init__(self, *, round_trip: float = 0.0, tls: bool = False, segment: int = 0) -> None:
        self.clock = FakeClock()
        transport = FakeTransport(asyncio.Protocol(), tls=tls)
        self.socket: FakeSocket = transport.socket
        self.socket.round_trip = round_trip
        self.socket.segment = segment
        self.socket.receive_buffer = NARROW if tls else FIRST
        self.events = Events()
        self.window = ReceiveWindow(transport, AdaptiveFlow(TARGET, self.clock))
        self.window.begin(whole=False)

    def flow(self, rate: float, seconds: float, *, reads: int = 10) -> None:
        """The provider's bytes come evenly, in so many reads a second."""
        for _ in range(round(seconds * reads)):
            self.clock.advance(1 / reads)
            self.window.passed(round(rate / reads), self.events)

    @property
    def buffer(self) -> object:
        return self.socket.options[RECEIVE_BUFFER]


@pytest.mark.parametrize("tls", [False, True])
def test_a_window_begins_narrow(*, tls: bool) -> None:
    scene = Scene(tls=tls)
    assert (scene.window.bound, scene.buffer, scene.window.is_wide) == (FIRST, FIRST, False)


def test_a_connection_made_for_a_whole_answer_has_been_wide() -> None:
    transport = FakeTransport(asyncio.Protocol())
    transport.socket.receive_buffer = 65_536
    window = ReceiveWindow(transport, AdaptiveFlow(TARGET, FakeClock()))
    assert window.has_been_wide
    window.begin(whole=False)
    assert not window.is_wide


@pytest.mark.parametrize("segment", [1448, 65_483])
def test_a_window_shrinks_no_further_than_the_sender_bears(segment: int) -> None:
    """RFC 1122 section 4.2.3.4: two segments, or where these are larger than the window, not at all."""
    scene = Scene(segment=segment)
    scene.window.keep_pace(pace_of(0))
    assert scene.window.bound >= min(2 * segment, FIRST)
    scene.window.widen()
    scene.window.keep_pace(pace_of(0))
    assert scene.window.bound >= 2 * segment


def test_an_answer_known_to_be_whole_gets_a_wide_window_and_the_next_stream_a_narrow_one() -> None:
    scene = Scene()
    scene.window.begin(whole=True)
    assert (scene.window.is_wide, scene.window.has_been_wide, scene.buffer) == (True, True, WIDE)
    scene.window.begin(whole=False)
    assert (scene.window.is_wide, scene.window.has_been_wide, scene.buffer) == (False, True, FIRST)


@pytest.mark.parametrize("rate", [1000, 10_000, 40_000])
def test_a_stream_nearby_gets_what_its_rate_needs(rate: int) -> None:
    scene = Scene()
    scene.flow(rate, 10)
    assert scene.window.bound == max(FIRST, upstream_bound(rate, 0, TARGET, NARROW))
    assert not scene.window.is_wide


def test_a_fast_stream_nearby_stays_narrow() -> None:
    scene = Scene(round_trip=0.0002)
    scene.flow(1e7, 10, reads=1000)
    assert (scene.window.is_wide, scene.window.bound) == (False, NARROW)


def test_a_fast_stream_from_afar_gets_the_window_that_it_needs() -> None:
    scene = Scene(round_trip=0.2)
    scene.flow(1_000_000, 5, reads=100)
    assert not scene.window.has_been_wide
    assert 0.2 * 1_000_000 < scene.window.bound <= 5 * 0.2 * 1_000_000


@pytest.mark.parametrize("rate", [20_000, 50_000])
def test_a_window_from_afar_stays_as_it_began_where_that_is_enough(rate: int) -> None:
    """Bytes are measured once, however the window changes meanwhile."""
    scene = Scene(round_trip=0.1)
    scene.flow(rate, 20, reads=100)
    assert scene.window.bound == FIRST_AFAR


def test_a_window_is_bounded_at_first_since_the_client_s_kernel_may_take_what_the_client_does_not() -> None:
    scene = Scene(round_trip=0.05)
    scene.flow(1e7, TARGET, reads=1000)
    assert scene.window.bound <= 2 * FIRST_AFAR
    scene.flow(1e7, 1, reads=1000)
    assert scene.window.bound > 2 * FIRST_AFAR


def test_a_client_that_gets_faster_is_measured_by_what_passes_then() -> None:
    scene = Scene(round_trip=0.1)
    scene.window.keep_pace(pace_of(10_000))
    scene.flow(10_000, 5, reads=100)
    scene.window.keep_pace(pace_of(40_000))
    before = scene.window.bound
    scene.flow(40_000, 0.5, reads=100)
    assert scene.window.bound <= before * 1.25


def test_bytes_that_wait_for_the_client_are_no_pace() -> None:
    scene = Scene(round_trip=0.2)
    for _ in range(100):
        scene.clock.advance(0.05)
        scene.events.under_way += 5000
        scene.window.passed(5000, scene.events)
    assert (scene.window.is_wide, scene.window.bound) == (False, FIRST_AFAR)


def test_a_client_that_blocks_makes_it_as_narrow_as_its_pace_needs() -> None:
    scene = Scene(round_trip=0.2)
    scene.flow(1_000_000, 5, reads=100)
    scene.window.keep_pace(pace_of(1000))
    assert (scene.window.bound, scene.buffer) == (400 + LEAST, 400 + LEAST)
    scene.window.keep_pace(pace_of(1e9))
    assert (scene.window.bound, scene.buffer) == (WIDEST, WIDE)


def test_small_changes_are_left_out() -> None:
    scene = Scene()
    scene.window.keep_pace(pace_of(100_000))
    scene.socket.options.clear()
    for rate in (90_000, 110_000, 100_000):
        scene.window.keep_pace(pace_of(rate))
    assert not scene.socket.options


def test_a_wide_window_is_looked_at_no_more() -> None:
    scene = Scene(round_trip=0.2)
    scene.window.begin(whole=True)
    scene.socket.options.clear()
    scene.flow(1e8, 10)
    assert (scene.window.is_wide, scene.socket.options) == (True, {})


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("passed"), st.floats(0, 1), st.integers(1, 200_000)),
        st.tuples(st.just("pace"), st.floats(0, 1), st.integers(0, 10**8)),
        st.tuples(st.just("begin"), st.floats(0, 1), st.integers(0, 1)),
    ),
    max_size=40,
)


@given(STEPS, st.floats(0, 1), st.integers(0, 65_535), st.booleans())
def test_a_window_stays_within_its_bounds(
    steps: list[tuple[str, float, int]], round_trip: float, segment: int, tls: bool
) -> None:
    scene = Scene(round_trip=round_trip, segment=segment, tls=tls)
    wide = False
    for action, seconds, size in steps:
        scene.clock.advance(seconds)
        if action == "passed":
            scene.window.passed(size, scene.events)
        elif action == "pace":
            scene.window.keep_pace(pace_of(size))
        else:
            scene.window.begin(whole=bool(size))
        wide = wide or scene.window.is_wide
        assert scene.window.has_been_wide == wide
        assert LEAST <= scene.window.bound <= WIDEST
        assert scene.buffer == (WIDE if scene.window.is_wide else min(WIDE, scene.window.bound))


# On a connection


class Talk:
    """A connection with a window that follows its clients, and a request under way."""

    def __init__(self, *, round_trip: float = 0.00005, adapts: bool = True) -> None:
        self.clock = FakeClock()
        flow = AdaptiveFlow(TARGET, self.clock) if adapts else None
        self.connection = UpstreamH1(Owner(), Watermarks(), flow)
        transport = FakeTransport(self.connection)
        transport.socket.round_trip = round_trip
        self.provider = Provider(self.connection, transport)
        self.events = self.ask()

    def ask(self, *, whole: bool = False) -> Events:
        events = Events()
        head = RequestHead(b"GET", b"/v1", [(b"host", b"api.test")], has_body=False)
        head.awaits_whole = whole
        events.stream = self.connection.begin(head, events)
        events.stream.send_end()
        self.events = events
        return events

    @property
    def socket(self) -> FakeSocket:
        return self.provider.transport.socket

    @property
    def read_size(self) -> int:
        return len(self.connection.get_buffer(-1))


def test_without_adaptation_the_socket_is_left_alone() -> None:
    talk = Talk(adapts=False)
    talk.provider.says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x" * 500_000)
    talk.events.stream.keep_pace(pace_of(100))
    talk.provider.says(b"x" * 500_000)
    talk.ask(whole=True)
    assert talk.socket.options == {}
    assert (talk.connection.is_wide, talk.read_size) == (False, READ_SIZE)


@pytest.mark.parametrize(("length", "wide"), [(NARROW, False), (NARROW + 1, True)])
def test_an_answer_of_a_great_length_gets_a_wide_window(length: int, *, wide: bool) -> None:
    talk = Talk()
    talk.provider.says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
    assert talk.connection.is_wide is wide


def test_an_answer_without_a_length_keeps_its_narrow_window() -> None:
    talk = Talk()
    talk.provider.says(STREAM)
    assert not talk.connection.is_wide
    assert talk.socket.options[RECEIVE_BUFFER] == FIRST


def test_a_window_follows_only_where_the_distance_is_known() -> None:
    scene = Scene()
    assert not can_follow(cast(socket.socket, scene.socket))
    scene.socket.round_trip = 0.01
    assert can_follow(cast(socket.socket, scene.socket))


def test_of_a_slow_client_s_provider_little_is_read_at_once_until_its_next_request() -> None:
    talk = Talk()
    talk.provider.says(STREAM)
    talk.events.stream.keep_pace(pace_of(1000))
    assert talk.read_size == LEAST
    talk.provider.says(b"5\r\nhello\r\n0\r\n\r\n")
    assert talk.events.body == b"hello"
    talk.ask()
    assert talk.read_size == READ_SIZE


def test_of_a_fast_client_s_provider_much_is_read_at_once() -> None:
    talk = Talk(round_trip=0.2)
    talk.provider.says(STREAM)
    talk.events.stream.keep_pace(pace_of(1e8))
    assert talk.read_size == READ_SIZE


@pytest.mark.parametrize("rate", [0, 1, 1000, 1e5, 1e9])
def test_whatever_the_pace_the_answer_is_whole(rate: float) -> None:
    talk = Talk(round_trip=0.05)
    talk.provider.says(STREAM)
    body = b"".join(b"%08d" % number for number in range(20_000))
    for start in range(0, len(body), 4000):
        piece = body[start : start + 4000]
        talk.provider.says(b"%x\r\n%b\r\n" % (len(piece), piece))
        talk.clock.advance(0.01)
        talk.events.stream.keep_pace(pace_of(rate * (1 + start % 3)))
    talk.provider.says(b"0\r\n\r\n")
    assert talk.events.body == body
    assert talk.events.log[-1] == "end"


def test_a_stream_that_is_over_changes_nothing() -> None:
    talk = Talk()
    stream = talk.events.stream
    talk.provider.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    talk.socket.options.clear()
    stream.keep_pace(pace_of(1e9))
    assert (talk.socket.options, talk.read_size) == ({}, READ_SIZE)
