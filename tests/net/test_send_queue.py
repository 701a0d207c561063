"""What the transport and the kernel know of bytes on their way to a client."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Iterator

import pytest

from flowserver.net.send_queue import UNSENT, SendQueue

from ..support.transport import FakeTransport

NOTSENT = pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="needs TCP_NOTSENT_LOWAT")


class Transport(asyncio.Transport):
    """A transport that holds so many bytes."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__({"socket": connection})
        self.held = 0
        self.closing = False

    def get_write_buffer_size(self) -> int:
        return self.held

    def is_closing(self) -> bool:
        return self.closing


class Scene:
    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.ours, self.theirs = ours, theirs
        self.transport = Transport(ours)
        self.queue = SendQueue(self.transport, ours.fileno())

    def send(self, data: bytes) -> int:
        """How many bytes the kernel took."""
        try:
            return self.ours.send(data)
        except BlockingIOError:
            return 0

    @property
    def lowat(self) -> int:
        return self.ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)

    def fill(self) -> int:
        """Send until the client's kernel takes no more, and ours neither."""
        sent = quiet = 0
        while quiet < 3:
            taken = self.send(bytes(65_536))
            sent, quiet = sent + taken, 0 if taken else quiet + 1
            select.select([], [], [], 0.05)
        return sent


@pytest.fixture
def scene() -> Iterator[Scene]:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    ours.setblocking(False)
    with ours, theirs:
        yield Scene(ours, theirs)


def test_nothing_on_its_way_is_no_stall(scene: Scene) -> None:
    assert [scene.queue.stalled_for(now, busy=True) for now in (0.0, 100.0)] == [0.0, 0.0]
    assert scene.queue.progress() is None
    assert scene.queue.unacknowledged() == 0


def test_what_the_kernel_alone_holds_is_a_stall_while_more_is_to_follow(scene: Scene) -> None:
    scene.fill()
    assert [scene.queue.stalled_for(now, busy=True) for now in (0.0, 10.0, 20.0)] == [0.0, 10.0, 20.0]
    assert scene.queue.stalled_for(30.0, busy=False) == 0.0  # the rest of an answer that is over


def test_more_that_waits_is_no_progress(scene: Scene) -> None:
    scene.fill()
    for now in range(5):
        assert scene.queue.stalled_for(float(now), busy=False) == max(0, now - 1)
        scene.transport.held += 100


def test_a_read_of_the_client_is_progress(scene: Scene) -> None:
    scene.fill()
    scene.transport.held = 100
    assert scene.queue.stalled_for(0.0, busy=True) == 0.0
    assert scene.queue.stalled_for(10.0, busy=True) == 10.0
    while select.select([scene.theirs], [], [], 0.2)[0]:
        scene.theirs.recv(65_536)
    assert scene.queue.stalled_for(20.0, busy=True) == 0.0


def test_unacknowledged_bytes_are_those_of_transport_and_kernel(scene: Scene) -> None:
    sent = scene.fill()
    scene.transport.held = 1000
    scene.theirs.setblocking(False)
    assert 1000 < scene.queue.unacknowledged() <= sent + 1000
    assert scene.queue.unacknowledged() == scene.queue.in_kernel() + 1000


def test_the_time_of_a_shut_receive_window_grows(scene: Scene) -> None:
    before = scene.queue.receive_limited()
    assert before == 0.0
    scene.fill()
    first, began = scene.queue.receive_limited(), time.monotonic()
    time.sleep(0.3)
    second, passed = scene.queue.receive_limited(), time.monotonic() - began
    assert first is not None
    assert second is not None
    assert second - first == pytest.approx(passed, abs=0.1)


def test_what_is_no_tcp_can_t_be_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        scene = Scene(ours, theirs)
        ours.setblocking(False)
        assert scene.queue.receive_limited() is None
        scene.fill()
        assert [scene.queue.stalled_for(now, busy=True) for now in (0.0, 10.0)] == [0.0, 10.0]
        theirs.recv(65_536)
        assert scene.queue.stalled_for(20.0, busy=True) == 0.0


def test_a_closed_connection_can_t_be_told(scene: Scene) -> None:
    scene.fill()
    scene.transport.closing = True
    assert (scene.queue.in_kernel(), scene.queue.unacknowledged()) == (-1, 0)
    scene.ours.close()
    assert scene.queue.receive_limited() is None


def test_a_socket_that_the_kernel_does_not_know_holds_nothing() -> None:
    transport = FakeTransport(asyncio.Protocol())
    queue = SendQueue(transport, transport.socket.fileno())
    assert (queue.in_kernel(), queue.unacknowledged(), queue.progress()) == (-1, 0, None)


# How much the kernel may hold unsent


@NOTSENT
def test_a_limit_is_the_kernel_s_until_it_ends(scene: Scene) -> None:
    scene.queue.limit(2000)
    assert scene.lowat == 2000
    scene.queue.limit(8000)
    assert scene.lowat == 8000
    scene.queue.end_limit()
    assert scene.lowat == UNSENT


@NOTSENT
@pytest.mark.parametrize("last", [1000, 13_000, 14_000, UNSENT, 20_000])
def test_whatever_the_limit_was_it_ends(scene: Scene, last: int) -> None:
    scene.queue.limit(1000)
    scene.queue.limit(last)
    scene.queue.end_limit()
    assert scene.lowat == UNSENT


@NOTSENT
def test_a_limit_that_was_never_set_does_not_end(scene: Scene) -> None:
    before = scene.lowat
    scene.queue.end_limit()
    assert scene.lowat == before


@NOTSENT
def test_small_changes_are_left_out_and_do_not_add_up(scene: Scene) -> None:
    scene.queue.limit(8000)
    for most in (7000, 9000, 6500, 9999):
        scene.queue.limit(most)
        assert scene.lowat == 8000
    for step in range(1, 9):
        scene.queue.limit(8000 - step * 500)
    assert scene.lowat <= 6000


def test_a_connection_that_is_gone_has_no_limit(scene: Scene) -> None:
    scene.ours.close()
    scene.queue.limit(2000)
    scene.queue.end_limit()
