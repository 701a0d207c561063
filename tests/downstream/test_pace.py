"""What transport and kernel hold for a slow client, and that the next answer begins as the first did."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from flowserver.flow.bounded_buffer import HIGH, LOW, Watermarks
from flowserver.flow.drain_rate import LEAST, DrainRate
from flowserver.net.send_queue import UNSENT

from ..support.dialogue import Client, Provider, Relay, understood
from ..support.h1_client import GET, STREAM
from ..support.h2_dialogue import Room

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="needs TCP_NOTSENT_LOWAT")
PIECE = 64


def slow() -> DrainRate:
    pace = DrainRate(0.25, 0.0)
    pace.measure(10.0, 1000)
    pace.unevenness = 0.0
    return pace


class Scene:
    """A client that takes little of its answer."""

    def __init__(self, *, limits_unsent: bool = True, watermarks: Watermarks | None = None) -> None:
        self.relay = Relay(watermarks=watermarks or Watermarks(), limits_unsent=limits_unsent, fast_path=False)
        self.client: Client = self.relay.client()
        self.provider: Provider = self.relay.provider()
        self.said = 0

    def begin(self) -> None:
        self.client.hears()
        self.said = 0
        self.client.says(GET)
        self.provider.says(STREAM)

    def say(self) -> None:
        self.provider.says(b"%x\r\n%b\r\n" % (PIECE, b"x" * PIECE))
        self.said += PIECE

    def end(self) -> None:
        self.client.reads()
        self.provider.says(b"0\r\n\r\n")
        assert len(understood(self.client.hears()).body) == self.said

    def block(self) -> int:
        """The client reads no more. Returns the bytes that its transport takes before it says stop."""
        self.client.stops_reading()
        before = self.said
        while not self.client.transport.is_blocked:
            self.say()
            assert self.said < 1 << 20
        return self.said - before

    def fill(self) -> int:
        """The same until the provider is held up."""
        taken = self.block()
        while self.provider.transport.reading:
            self.say()
            taken += PIECE
        return taken

    def slow_down(self) -> None:
        """A client that takes next to nothing for a long time, by turns."""
        for _ in range(12):
            self.fill()
            self.relay.clock.advance(60)
            self.client.reads()

    @property
    def unsent(self) -> object:
        return self.client.transport.socket.options.get((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))


def test_a_client_of_whom_nothing_is_known_has_the_usual_limits() -> None:
    scene = Scene()
    scene.begin()
    assert LOW - 8 * PIECE < scene.block() <= LOW + PIECE
    assert scene.unsent is None


def test_a_slow_client_gets_less() -> None:
    scene = Scene()
    scene.begin()
    scene.slow_down()
    assert cast(int, scene.unsent) < UNSENT / 2
    assert scene.block() < LOW
    assert scene.fill() < 2 * LOW


def test_the_next_answer_begins_with_the_usual_limits() -> None:
    scene = Scene()
    scene.begin()
    usual = scene.fill()
    scene.end()
    scene.begin()
    scene.slow_down()
    assert scene.fill() < usual / 2
    scene.end()
    assert scene.unsent == UNSENT
    scene.begin()
    assert scene.fill() == usual
    scene.end()


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_a_client_that_is_fast_again_gets_more_again(rounds: int) -> None:
    scene = Scene()
    scene.begin()
    scene.slow_down()
    narrow = scene.fill()
    for _ in range(rounds):
        scene.client.reads()
        for _ in range(50 * rounds):
            scene.say()
        scene.relay.clock.advance(0.001)
        scene.fill()
        scene.relay.clock.advance(0.25)
        scene.client.reads()
    assert scene.fill() > narrow
    scene.end()


def test_what_is_pinned_stays() -> None:
    scene = Scene(limits_unsent=False, watermarks=Watermarks(HIGH, LOW, 1000))
    scene.begin()
    first = scene.fill()
    scene.client.reads()
    scene.slow_down()
    assert scene.fill() == first
    assert scene.unsent is None
    scene.end()


def test_over_http2_the_kernel_holds_less_for_slow_clients_until_another_stream_begins() -> None:
    room = Room(limits_unsent=True)
    client = room.client()
    client.asks()
    options = client.transport.socket.options
    notsent = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert notsent not in options
    room.opened[0].stream.keep_pace(slow())
    assert options[notsent] == 1
    client.asks()
    assert options[notsent] == UNSENT
    room.opened[0].stream.keep_pace(slow())  # the other one would be limited too
    assert options[notsent] == UNSENT


def test_over_http2_what_is_pinned_stays() -> None:
    room = Room(limits_unsent=False)
    client = room.client()
    client.asks()
    client.transport.socket.options.clear()
    room.opened[0].stream.keep_pace(slow())
    client.asks()
    assert client.transport.socket.options == {}


def test_over_http2_the_pace_is_that_of_one_stream() -> None:
    room = Room(watermarks=Watermarks())
    client = room.client()
    client.peer.stalled |= {1, 3}
    ids = [client.asks(), client.asks()]
    for opened in room.opened:
        opened.answers(end=False)
    client.talk()
    room.opened[0].stream.keep_pace(slow())
    held = []
    for opened in room.opened:
        while "full" not in opened.events.log:
            opened.stream.send_data(b"x" * 1000)
            client.talk()
        held.append(opened.stream.held)
    assert ids == [1, 3]
    assert held[0] <= 2 * LEAST + 1000 < held[1] <= HIGH + 1000
