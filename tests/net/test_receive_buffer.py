"""How far ahead the other side of a real connection may be."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Iterator

import pytest

from flowserver.net.receive_buffer import WIDE, begin_narrow, bound_window, leave_to_kernel

KB = 1024
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no SO_BUF_LOCK")
BUF_LOCK, IS_LOCKED = 72, 2
"""socket(7): SO_BUF_LOCK, SOCK_RCVBUF_LOCK."""


class Pair:
    """A connection, with options set before it was made."""

    def __init__(self, size: int | None = None, *, may_grow: bool = False) -> None:
        self.ours = socket.socket()
        if size is not None:
            begin_narrow(self.ours, size, may_grow=may_grow)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.ours.connect(listening.getsockname())
            self.theirs, _ = listening.accept()
        self.theirs.setblocking(False)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    @property
    def buffer(self) -> int:
        """As it was asked for: the kernel doubles it."""
        return self.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def is_locked(self) -> bool:
        return bool(self.ours.getsockopt(socket.SOL_SOCKET, BUF_LOCK) & IS_LOCKED)

    def taken(self) -> int:
        """Bytes that our kernel takes while nobody reads."""
        sent = quiet = 0
        while quiet < 3:
            try:
                sent, quiet = sent + self.theirs.send(bytes(64 * KB)), 0
            except BlockingIOError:
                quiet += 1
                select.select([], [], [], 0.05)
        peeked = 0
        while True:  # what the other kernel holds is none of it
            waits = len(self.ours.recv(1 << 20, socket.MSG_PEEK))
            if waits == peeked:
                return peeked
            peeked = waits


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made: list[Pair] = []
    yield made
    for pair in made:
        pair.close()


def test_a_pinned_size_is_the_socket_s(pairs: list[Pair]) -> None:
    pairs.append(pair := Pair(12 * KB))
    assert pair.buffer == 12 * KB
    assert pair.taken() <= 24 * KB


@LINUX
def test_a_pinned_size_stays_and_one_that_may_grow_is_the_kernel_s(pairs: list[Pair]) -> None:
    pairs += [Pair(12 * KB), Pair(12 * KB, may_grow=True), Pair()]
    assert [pair.is_locked() for pair in pairs] == [True, False, False]


@LINUX
def test_a_first_window_that_may_grow_is_small_all_the_same(pairs: list[Pair]) -> None:
    pairs += [Pair(4 * KB, may_grow=True), Pair()]
    assert pairs[0].buffer < pairs[1].buffer


def test_a_narrow_window_takes_less_than_a_wide_one(pairs: list[Pair]) -> None:
    pairs += [Pair(4 * KB, may_grow=True), Pair(4 * KB, may_grow=True)]
    bound_window(pairs[0].ours, 8 * KB, 0)
    leave_to_kernel(pairs[1].ours)
    assert [pair.buffer for pair in pairs] == [8 * KB, WIDE]
    small, large = (pair.taken() for pair in pairs)
    assert small < large


@LINUX
def test_a_wide_window_is_the_kernel_s_again(pairs: list[Pair]) -> None:
    pairs.append(pair := Pair(4 * KB, may_grow=True))
    bound_window(pair.ours, 8 * KB, 0)
    assert pair.is_locked()
    leave_to_kernel(pair.ours)
    assert not pair.is_locked()
    bound_window(pair.ours, 8 * KB, 0)
    assert pair.is_locked()


def test_a_window_that_was_narrow_takes_any_amount_once_it_is_read(pairs: list[Pair]) -> None:
    """None of the changes leaves a connection where nothing moves."""
    pairs.append(pair := Pair(4 * KB, may_grow=True))
    pair.ours.setblocking(False)
    for size in (4 * KB, KB, 12 * KB, None, 4 * KB):
        if size is None:
            leave_to_kernel(pair.ours)
        else:
            bound_window(pair.ours, size, 0)
        left = given = 300 * KB
        while left:
            readable, writable, _ = select.select([pair.ours], [pair.theirs] if given else [], [], 10)
            assert readable or writable
            if writable:
                given -= pair.theirs.send(bytes(min(given, 16 * KB)))
            if readable:
                left -= len(pair.ours.recv(16 * KB))


def test_a_closed_socket_is_left_alone() -> None:
    closed = socket.socket()
    closed.close()
    bound_window(closed, 4 * KB, 0)
    leave_to_kernel(closed)


def test_a_socket_without_windows_is_left_alone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bound_window(ours, 4 * KB, 0)
        leave_to_kernel(ours)
        theirs.sendall(b"x")
        assert ours.recv(10) == b"x"
