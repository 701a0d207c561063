"""An HTTP/2 connection some of whose requests have to wait for their turn: its running streams don't."""

from __future__ import annotations

import pytest

from flowserver.downstream.h2_stream import FRESH
from flowserver.flow.turns import READING

from ..support import h2_frames as frames
from ..support.h2_dialogue import H2Client, Room


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
def client(room: Room) -> H2Client:
    """Has a running stream, of number 1. Others have used up this iteration of the event loop."""
    client = room.client()
    client.asks()
    room.opened[0].answers(end=False)
    client.talk()
    room.context.turns.spend(READING)
    return client


def test_requests_wait_and_start_in_order(room: Room, client: H2Client) -> None:
    for number in (3, 5, 7):
        client.transport.arrive(frames.headers(number))
    assert len(room.opened) == 1
    client.turns.run()
    assert [opened.stream.stream_id for opened in room.opened] == [1, 3, 5, 7]  # type: ignore[attr-defined]


def test_meanwhile_the_connection_is_read(room: Room, client: H2Client) -> None:
    room.context.turns.wait(_Endless())
    client.transport.arrive(frames.headers(3))
    for _ in range(100):  # more than one iteration handles
        client.transport.arrive(frames.window_update(0, 4) + frames.window_update(1, 4))
    client.transport.arrive(frames.rst_stream(1))
    for _ in range(10):
        client.turns.run(1)
        client.transport.deliver()
    assert client.transport.reading
    assert "reset client_gone" in room.opened[0].events.log


def test_requests_that_are_reset_meanwhile_never_start_and_are_no_flood(room: Room, client: H2Client) -> None:
    room.context.turns.wait(_Endless())
    for number in range(3, 803, 2):
        client.transport.arrive(frames.headers(number))
        room.clock.advance(2 * FRESH)
        client.transport.arrive(frames.rst_stream(number))
        client.turns.run(1)
    client.peer.hear(client.hears())
    assert len(room.opened) == 1
    assert not client.peer.goaways


def test_those_of_a_client_that_leaves_meanwhile_never_start(room: Room, client: H2Client) -> None:
    client.transport.arrive(frames.headers(3))
    client.resets()
    client.turns.run()
    assert len(room.opened) == 1


def test_those_of_a_connection_that_fails_meanwhile_never_start(room: Room, client: H2Client) -> None:
    client.transport.arrive(frames.headers(3))
    client.says(frames.headers(2))  # no number of a client's
    client.talk()
    assert len(room.opened) == 1
    assert client.peer.goaways


class _Endless:
    """Another connection that always has a request to start."""

    def take_turn(self) -> bool:
        return True

    def abort(self) -> None: ...
