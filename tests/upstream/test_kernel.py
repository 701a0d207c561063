"""What the kernel tells of a connection that was not read."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from flowserver.upstream.kernel import acknowledge_less, bytes_acknowledged, is_established, is_silent


class Transport(asyncio.BaseTransport):
    def __init__(self, connection: socket.socket) -> None:
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


def test_a_fin_that_waits_is_seen(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert is_established(Transport(ours))
    theirs.close()
    _wait(ours)
    assert not is_established(Transport(ours))
    assert is_silent(Transport(ours))


def test_bytes_that_wait_are_seen(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert is_silent(Transport(ours))
    theirs.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    _wait(ours)
    assert not is_silent(Transport(ours))
    assert is_established(Transport(ours))


def test_bytes_taken_are_counted(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    before = bytes_acknowledged(Transport(ours))
    assert before is not None
    ours.sendall(bytes(1000))
    _wait(theirs)
    theirs.recv(2000)
    theirs.sendall(b"x")  # its segment carries the acknowledgement
    _wait(ours)
    assert bytes_acknowledged(Transport(ours)) == before + 1000


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
