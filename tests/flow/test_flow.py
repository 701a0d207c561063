"""Backpressure without I/O: the buffer, the gate, the writer."""

from __future__ import annotations

import asyncio

import pytest

from flowserver.flow.bounded_buffer import BoundedWriter, ChunkQueue, Watermarks
from flowserver.flow.read_gate import PauseTotals, ReadGate, Reason

from ..support.clock import FakeClock
from ..support.transport import FakeTransport

D, U = Reason.DOWNSTREAM, Reason.UPSTREAM


class Reading:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


# Watermarks


@pytest.mark.parametrize(("high", "low", "chunks"), [(0, 0, 1), (10, 10, 1), (10, 11, 1), (10, 0, 1), (10, 5, 0)])
def test_marks_that_make_no_sense_are_refused(high: int, low: int, chunks: int) -> None:
    with pytest.raises(ValueError):
        Watermarks(high, low, chunks)


# ChunkQueue


def test_chunks_leave_joined_and_in_order() -> None:
    buffer = ChunkQueue()
    for chunk in (b"a", b"bc", b"def"):
        buffer.push(chunk)
    assert (len(buffer), buffer.size) == (3, 6)
    assert buffer.take() == b"abcdef"
    assert (len(buffer), buffer.size) == (0, 0)
    assert buffer.take() == b""


def test_a_chunk_that_waited_alone_is_not_copied() -> None:
    buffer = ChunkQueue()
    chunk = b"x" * 100
    buffer.push(chunk)
    assert buffer.take() is chunk


def test_a_cleared_buffer_holds_nothing() -> None:
    buffer = ChunkQueue()
    buffer.push(b"abc")
    buffer.clear()
    assert (len(buffer), buffer.size, buffer.take()) == (0, 0, b"")


# ReadGate


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reading() -> Reading:
    return Reading()


@pytest.fixture
def totals() -> PauseTotals:
    return PauseTotals()


@pytest.fixture
def gate(reading: Reading, clock: FakeClock, totals: PauseTotals) -> ReadGate:
    return ReadGate(reading, clock, totals)


def test_a_reason_set_twice_is_set_once(gate: ReadGate, reading: Reading) -> None:
    gate.shut(D)
    gate.shut(D)
    gate.open(D)
    gate.open(D)
    assert reading.calls == ["pause", "resume"]
    assert gate.pauses == 1


def test_a_gate_stays_shut_until_the_last_reason_goes(gate: ReadGate, reading: Reading) -> None:
    gate.shut(D)
    gate.shut(U)
    assert gate.reasons == D | U
    gate.open(D)
    assert gate.is_shut
    assert reading.calls == ["pause"]
    gate.open(U)
    assert gate.reasons == Reason(0)
    assert reading.calls == ["pause", "resume"]


def test_seconds_are_counted_by_reason(gate: ReadGate, clock: FakeClock, totals: PauseTotals) -> None:
    gate.shut(D)
    clock.advance(1)
    gate.shut(U)
    clock.advance(2)
    assert gate.paused_seconds() == 5
    gate.open(D)
    clock.advance(4)
    gate.open(U)
    assert totals.seconds == {D: 3, U: 6, Reason.QUOTA: 0}
    assert totals.pauses == {D: 1, U: 1, Reason.QUOTA: 0}
    assert gate.seconds == gate.paused_seconds() == 9


def test_closing_settles_the_accounts_and_resumes_nothing(
    gate: ReadGate, reading: Reading, clock: FakeClock, totals: PauseTotals
) -> None:
    gate.shut(D)
    clock.advance(2)
    gate.close()
    gate.close()
    assert totals.seconds[D] == 2
    assert reading.calls == ["pause"]
    assert not gate.is_shut


def test_a_closed_gate_is_never_shut_again(gate: ReadGate, reading: Reading, totals: PauseTotals) -> None:
    gate.close()
    gate.shut(D)
    assert not gate.is_shut
    assert reading.calls == []
    assert totals.pauses[D] == 0
    assert gate.paused_seconds() == 0


def test_what_holds_a_gate_can_be_seen(gate: ReadGate) -> None:
    assert repr(gate) == "<ReadGate open pauses=0>"
    gate.shut(D)
    gate.shut(U)
    assert repr(gate) == "<ReadGate shut by DOWNSTREAM|UPSTREAM pauses=1>"
    gate.close()
    assert repr(gate) == "<ReadGate closed pauses=1>"


# BoundedWriter


class Connection(asyncio.Protocol):
    """A writer on a transport, with marks 100/20 and at most 4 chunks waiting."""

    writer: BoundedWriter

    def __init__(self, *, blocked: bool = False) -> None:
        self.calls: list[str] = []
        watermarks = Watermarks(high=100, low=20, chunks=4)
        self.transport = FakeTransport(self)
        watermarks.limit_transport(self.transport)
        self.writer = BoundedWriter(
            self.transport,
            watermarks,
            write=self.transport.write,
            on_full=lambda: self.calls.append("full"),
            on_drained=lambda: self.calls.append("drained"),
            blocked=blocked,
        )

    def pause_writing(self) -> None:
        self.calls.append("block")
        self.writer.block()

    def resume_writing(self) -> None:
        self.calls.append("unblock")
        self.writer.unblock()


def test_a_chunk_passes_at_once_while_the_transport_takes_it() -> None:
    connection = Connection()
    connection.writer.send(b"abc")
    assert connection.transport.sent == b"abc"
    assert (connection.writer.writes, connection.writer.writes_full, connection.writer.held) == (1, 0, 0)


def test_the_transport_says_stop_above_the_low_mark_and_go_when_it_is_empty() -> None:
    connection = Connection()
    connection.transport.block()
    connection.writer.send(b"x" * 20)
    assert connection.calls == []
    connection.writer.send(b"x")
    assert connection.calls == ["block"]
    connection.transport.drain(20)
    assert connection.calls == ["block"]
    connection.transport.drain(1)
    assert connection.calls == ["block", "unblock"]


def test_chunks_wait_while_it_is_blocked_and_leave_in_one_write() -> None:
    connection = Connection()
    connection.transport.block()
    connection.writer.send(b"x" * 21)
    connection.writer.send(b"a")
    connection.writer.send(b"b")
    assert (connection.writer.waiting, connection.writer.held) == (2, 23)
    assert (connection.writer.writes, connection.writer.writes_full) == (3, 2)
    connection.transport.drain()
    assert connection.transport.sent == b"x" * 21 + b"ab"
    assert connection.calls == ["block", "unblock"]


def test_full_is_said_once_and_so_is_drained() -> None:
    connection = Connection()
    connection.transport.block()
    connection.writer.send(b"x" * 21)
    connection.writer.send(b"x" * 79)
    assert connection.calls == ["block", "full"]
    connection.writer.send(b"x")
    assert connection.calls == ["block", "full"]
    connection.transport.drain()
    assert connection.calls == ["block", "full", "unblock", "drained"]


def test_one_write_beyond_the_high_mark_is_full_from_inside_that_write() -> None:
    connection = Connection()
    connection.transport.block()
    connection.writer.send(b"x" * 100)
    assert connection.calls == ["block", "full"]


def test_many_small_chunks_are_full_before_the_high_mark() -> None:
    connection = Connection()
    connection.transport.block()
    connection.writer.send(b"x" * 21)
    for _ in range(3):
        connection.writer.send(b"y")
    assert "full" not in connection.calls
    connection.writer.send(b"y")
    assert connection.calls == ["block", "full"]


def test_it_stays_full_when_what_waited_blocks_the_transport_again() -> None:
    connection = Connection()
    connection.transport.block()
    connection.writer.send(b"x" * 21)
    connection.writer.send(b"y" * 90)
    connection.transport.drain(21)
    assert connection.calls == ["block", "full", "unblock", "block"]
    assert (connection.writer.waiting, connection.writer.full) == (0, True)
    connection.transport.drain()
    assert connection.calls[-2:] == ["unblock", "drained"]
    assert connection.transport.sent == b"x" * 21 + b"y" * 90


def test_on_a_transport_that_is_blocked_already_the_first_chunk_waits() -> None:
    connection = Connection(blocked=True)
    connection.writer.send(b"abc")
    assert connection.transport.sent == b""
    connection.writer.unblock()
    assert connection.transport.sent == b"abc"


def test_a_cleared_writer_writes_nothing_more() -> None:
    connection = Connection(blocked=True)
    connection.writer.send(b"abc")
    connection.writer.clear()
    connection.writer.unblock()
    assert connection.transport.sent == b""


def test_what_a_writer_holds_can_be_seen() -> None:
    connection = Connection()
    assert repr(connection.writer) == "<BoundedWriter open waiting=0 writes=0>"
    connection.transport.block()
    connection.writer.send(b"x" * 21)
    assert repr(connection.writer) == "<BoundedWriter blocked waiting=0 writes=1>"
    connection.writer.send(b"y" * 90)
    assert repr(connection.writer) == "<BoundedWriter full waiting=90 writes=2>"
    queue = ChunkQueue()
    queue.push(b"abc")
    assert (repr(queue), repr(Watermarks(9, 5, 1))) == (
        "<ChunkQueue chunks=1 size=3>",
        "<Watermarks high=9 low=5 chunks=1>",
    )
