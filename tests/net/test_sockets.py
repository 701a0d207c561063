"""What the kernel tells of a connection that was not read."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from flowserver.net.sockets import IdleProbe, acknowledge_less, largest_segment, round_trip, unacknowledged

from ..support.transport import FakeSocket


class Transport(asyncio.BaseTransport):
    def __init__(self, connection: socket.socket | FakeSocket) -> None:
        super().__init__({"socket": connection})


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    with ours, theirs:
        yield ours, theirs


def _wait(connection: socket.socket) -> None:
    assert select.select([connection], [], [], 10)[0]


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("silent", [True, False])
def test_a_fin_that_waits_is_seen(pair: tuple[socket.socket, socket.socket], *, silent: bool, again: bool) -> None:
    ours, theirs = pair
    watch = IdleProbe(Transport(ours), silent=silent)
    assert watch.is_reusable(again=again)
    theirs.close()
    _wait(ours)
    assert not watch.is_reusable(again=again)


@pytest.mark.parametrize("silent", [True, False])
def test_a_reset_is_seen(pair: tuple[socket.socket, socket.socket], *, silent: bool) -> None:
    ours, theirs = pair
    watch = IdleProbe(Transport(ours), silent=silent)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    _wait(ours)
    assert not watch.is_reusable(again=True)


def test_bytes_that_wait_are_seen_where_they_matter(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    plain, tls = IdleProbe(Transport(ours), silent=True), IdleProbe(Transport(ours), silent=False)
    assert plain.is_reusable(again=True)
    theirs.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    _wait(ours)
    assert not plain.is_reusable(again=True)
    assert tls.is_reusable(again=True)
    ours.recv(1000)
    assert plain.is_reusable(again=True)


def test_what_can_t_be_told_is_well() -> None:
    assert IdleProbe(Transport(FakeSocket()), silent=True).is_reusable(again=True)


def test_bytes_taken_are_told_from_those_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert unacknowledged(Transport(ours)) == 0
    ours.sendall(bytes(1000))
    _wait(theirs)
    theirs.recv(2000)
    theirs.sendall(b"x")  # its segment carries the acknowledgement
    _wait(ours)
    assert unacknowledged(Transport(ours)) == 0


@pytest.mark.parametrize("size", [300, 2_000_000])
def test_bytes_that_a_closed_socket_got_count_as_not_taken(
    pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    """Also those that did not leave our kernel."""
    ours, theirs = pair
    ours.sendall(bytes(1000))
    _wait(theirs)
    theirs.recv(2000)
    theirs.close()
    _wait(ours)
    ours.setblocking(False)
    given = ours.send(bytes(size))
    select.select([], [], [], 0.2)
    assert unacknowledged(Transport(ours)) == given


def _segments_sent(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 140)
    return int.from_bytes(info[136:140], sys.byteorder)


def _acknowledgements(ours: socket.socket, theirs: socket.socket, events: int) -> int:
    before = _segments_sent(ours)
    for _ in range(events):
        theirs.sendall(bytes(250))
        _wait(ours)
        ours.recv(1000)
    return _segments_sent(ours) - before


def test_events_one_by_one_are_acknowledged_by_twos(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert _acknowledgements(ours, theirs, 40) >= 38
    acknowledge_less(Transport(ours))
    assert _acknowledgements(ours, theirs, 40) <= 25


def test_the_least_round_trip_is_told_once_there_was_one(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.sendall(b"x")
    _wait(theirs)
    theirs.recv(10)
    theirs.sendall(b"y")
    _wait(ours)
    assert 0 < round_trip(ours) < 10


def test_a_round_trip_that_was_not_measured_is_not_taken_for_a_long_one() -> None:
    with socket.socket() as unconnected:
        assert round_trip(unconnected) == 0


def test_the_largest_segment_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    assert all(500 < largest_segment(each) < 70_000 for each in pair)


def test_of_other_sockets_nothing_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert (round_trip(ours), largest_segment(ours)) == (0, 0)
    assert (round_trip(ours), largest_segment(ours)) == (0, 0)
