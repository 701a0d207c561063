"""Under any interleaving of reads and drains a stream holds a bounded number of bytes, and pauses meet resumes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.flow.read_gate import PauseTotals, ReadGate, Reason
from flowserver.upstream.receive_window import READ_SIZE

from ..support.clock import FakeClock
from ..support.dialogue import Client, Provider, Relay, understood
from ..support.transport import MAX_READ

MARKS = Watermarks(high=20_000, low=3_000, chunks=16)
FRAMING = 16
"""Bytes that one read can grow by: a chunk's size line and two line ends."""
HEAD = 300
"""More than the heads that the relay writes here."""


class Answers(RuleBasedStateMachine):
    """A provider that streams and a client that reads when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = Relay(watermarks=MARKS)
        self.client: Client = self.relay.client()
        self.provider: Provider = self.relay.provider()
        self.client.says(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.provider.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.client.stops_reading()
        self.sent = bytearray()
        self.is_over = False
        [self.exchange] = self.relay.observer.started

    @precondition(lambda self: not self.is_over)
    @rule(size=st.integers(1, 3 * READ_SIZE), count=st.integers(1, 4))
    def provider_streams(self, size: int, count: int) -> None:
        body = bytes([65 + len(self.sent) % 26]) * size
        for _ in range(count):
            self.sent += body
            self.provider.says(b"%x\r\n%b\r\n" % (size, body))

    @rule(size=st.integers(0, 3 * MARKS.high))
    def client_reads_some(self, size: int) -> None:
        self.client.reads(size)

    @rule(reads=st.integers(1, 5))
    def relay_reads(self, reads: int) -> None:
        self.provider.transport.deliver(reads)

    @precondition(lambda self: not self.is_over)
    @rule()
    def provider_ends(self) -> None:
        self.is_over = True
        self.provider.says(b"0\r\n\r\n")

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.client.connection.sweep(self.relay.clock.advance(seconds))

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        assert self.exchange.held <= MARKS.high + READ_SIZE + FRAMING + HEAD

    @invariant()
    def a_shut_gate_is_a_paused_transport(self) -> None:
        if self.exchange.state() in ("paused", "streaming", "waiting"):
            assert self.exchange.is_paused is not self.provider.transport.is_reading()

    @invariant()
    def nothing_rests_without_a_reason(self) -> None:
        """Bytes stay with the provider only while the client lags."""
        if not self.client.transport.buffer:
            assert self.provider.transport.is_reading()

    def teardown(self) -> None:
        self.client.reads()
        self.provider.transport.deliver()
        if not self.is_over:
            self.provider.says(b"0\r\n\r\n")
        answer = understood(self.client.hears())
        assert answer.whole
        assert answer.body == self.sent
        assert self.exchange.held == 0
        calls = self.provider.transport.calls
        assert calls == ["pause_reading", "resume_reading"] * (len(calls) // 2)
        assert self.exchange.record().paused_seconds == sum(self.relay.pauses.seconds.values())


class Uploads(RuleBasedStateMachine):
    """A client that uploads and a provider that reads when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = Relay(watermarks=MARKS, max_body=1 << 40)
        self.client: Client = self.relay.client()
        self.provider: Provider = self.relay.provider()
        self.provider.stops_reading()
        self.client.says(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.sent = 0

    @rule(size=st.integers(1, 2 * MAX_READ))
    def client_uploads(self, size: int) -> None:
        self.sent += size
        self.client.says(b"%x\r\n%b\r\n" % (size, b"#" * size))

    @rule(size=st.integers(0, 3 * MAX_READ))
    def provider_reads_some(self, size: int) -> None:
        self.provider.reads(size)

    @rule(reads=st.integers(1, 5))
    def relay_reads(self, reads: int) -> None:
        self.client.transport.deliver(reads)

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        assert self.provider.connection.held <= MARKS.high + MAX_READ + FRAMING + HEAD

    def teardown(self) -> None:
        self.provider.reads()
        self.client.transport.deliver()
        self.client.says(b"0\r\n\r\n")
        assert self.provider.hears().count(b"#") == self.sent
        self.provider.says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert understood(self.client.hears()).whole
        calls = self.client.transport.calls
        assert calls == ["pause_reading", "resume_reading"] * (len(calls) // 2)
        assert self.relay.hangups.watched == {}


TestAnswers = Answers.TestCase
TestUploads = Uploads.TestCase


# Gates

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["shut", "open", "wait"]), st.sampled_from(list(Reason)))
    | st.just(("close", Reason.UPSTREAM)),
    max_size=40,
)


class Reading:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


@given(OPERATIONS)
def test_pauses_meet_resumes_under_any_operations(operations: list[tuple[str, Reason]]) -> None:
    reading, clock, totals = Reading(), FakeClock(), PauseTotals()
    gate = ReadGate(reading, clock, totals)
    shut: dict[Reason, float] = {}
    is_closed = False
    seconds = dict.fromkeys(Reason, 0.0)
    for operation, reason in operations:
        if operation == "wait":
            clock.advance(1)
        elif operation == "shut":
            gate.shut(reason)
            if not is_closed:
                shut.setdefault(reason, clock.now)
        else:
            ended = list(shut) if operation == "close" else [reason] if reason in shut else []
            for each in ended:
                seconds[each] += clock.now - shut.pop(each)
            is_closed = is_closed or operation == "close"
            gate.close() if operation == "close" else gate.open(reason)
        assert set(gate.reasons) == set(shut)
        if not is_closed:
            assert (reading.calls[-1:] == ["pause"]) is bool(shut)
    pairs, rest = divmod(len(reading.calls), 2)
    assert reading.calls == ["pause", "resume"] * pairs + ["pause"] * rest
    assert gate.pauses == pairs + rest
    gate.close()
    for each in shut:
        seconds[each] += clock.now - shut[each]
    assert totals.seconds == seconds
    assert gate.seconds == gate.paused_seconds() == sum(seconds.values())
