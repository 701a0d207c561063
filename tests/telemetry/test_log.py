"""Log lines: one JSON object each, written elsewhere, lost rather than waited for."""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from flowserver.config.access_log import AccessLog, Logged
from flowserver.errors import LOOP, EndReason
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.exchange import Exchange
from flowserver.telemetry import line_writer
from flowserver.telemetry.log import Log, LogOptions

from ..support.clock import FakeClock
from ..support.recording import RecordingDownstream, RecordingUpstream, account, exchange_context


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def ended_exchange(clock: FakeClock, *, target: bytes = b"/v1/models?key=secret") -> Exchange:
    context = exchange_context(clock=clock)
    down = RecordingDownstream()
    down.writes = (3, 1)  # and one more
    headers = [(b"authorization", b"Bearer secret")]
    exchange = Exchange(RequestHead(b"GET", target, headers), down, context, request_id=b"id-1", account=account())
    exchange.start(RecordingUpstream())
    clock.advance(0.25)
    exchange.on_upstream_head(ResponseHead(200, []))
    exchange.on_upstream_data(b"hello")
    exchange.on_downstream_full()
    clock.advance(0.5)
    exchange.on_upstream_end()
    exchange.on_downstream_finished()
    return exchange


def test_an_exchange_is_one_line_with_all_that_counts() -> None:
    stream = io.BytesIO()
    log = Log("info", stream)
    log.access(ended_exchange(FakeClock()).record())
    log.close()
    [line] = lines(stream)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is UTC
    assert line == {
        "level": "info",
        "event": "access",
        "request_id": "id-1",
        "method": "GET",
        "path": "/v1/models",
        "protocol": "recording",
        "client": "192.0.2.7",
        "status": 200,
        "end": "complete",
        "upstream": "recording",
        "attempts": 1,
        "reused": False,
        "bytes_up": 0,
        "bytes_down": 5,
        "first_byte_ms": 250.0,
        "duration_ms": 750.0,
        "pauses": 1,
        "paused_ms": 500.0,
        "full_writes": 0.25,
        "slow": "client",
        "client_ms": 500,
    }


def test_queries_and_credentials_are_not_logged() -> None:
    stream = io.BytesIO()
    log = Log("debug", stream)
    log.access(ended_exchange(FakeClock()).record())
    log.close()
    assert b"secret" not in stream.getvalue()


def test_an_error_is_in_the_line() -> None:
    stream = io.BytesIO()
    log = Log("info", stream)
    exchange = Exchange(
        RequestHead(b"GET", b"/", []), RecordingDownstream(), exchange_context(), request_id=b"i", account=account()
    )
    exchange.refuse(LOOP)
    exchange.on_downstream_finished()
    log.access(exchange.record())
    log.close()
    [line] = lines(stream)
    assert (line["status"], line["end"], line["error"]) == (508, EndReason.REFUSED, LOOP.message)
    assert line["first_byte_ms"] is None
    assert line["full_writes"] == 0.0


def test_a_refused_request_is_a_line() -> None:
    stream = io.BytesIO()
    log = Log("info", stream)
    log.refused(LOOP, "h1")
    log.close()
    [line] = lines(stream)
    assert (line["event"], line["status"], line["error"]) == ("refused", 508, LOOP.message)


def test_a_change_of_state_is_a_line_where_all_is_told() -> None:
    for level, count in (("debug", 1), ("info", 0)):
        stream = io.BytesIO()
        log = Log(level, stream)
        log.state_changed(b"id-1", "WAITING", "STREAMING")
        log.close()
        assert log.writes("debug") is bool(count)
        found = [(line["level"], line["request_id"], line["before"], line["now"]) for line in lines(stream)]
        assert found == [("debug", "id-1", "waiting", "streaming")] * count


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.BytesIO()
    log = Log("warning", stream)
    log.write("info", "quiet")
    log.access(ended_exchange(FakeClock()).record())
    log.write("error", "loud", reason="x")
    log.close()
    assert [(line["event"], line["reason"]) for line in lines(stream)] == [("loud", "x")]


def test_every_line_that_waits_is_written_before_the_end() -> None:
    stream = io.BytesIO()
    log = Log("info", stream)
    for number in range(1000):
        log.write("info", "line", number=number)
    log.close()
    assert [line["number"] for line in lines(stream)] == list(range(1000))


class Stuck(io.BytesIO):
    """A reader of the log that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def write(self, data: Any) -> int:
        self.reached.set()
        assert self.let_go.wait(30)
        return super().write(data)


def test_a_slow_reader_loses_lines_and_stops_nobody(monkeypatch: Any) -> None:
    monkeypatch.setattr(line_writer, "MAX_WAITING", 10)
    stream = Stuck()
    log = Log("info", stream)
    log.write("info", "first")
    assert stream.reached.wait(30)
    for _ in range(15):
        log.write("info", "more")
    assert log.dropped == 5
    stream.let_go.set()
    log.close()
    assert len(lines(stream)) == 11


class Broken(io.BytesIO):
    def write(self, data: Any) -> int:
        raise BrokenPipeError


def test_a_reader_that_is_gone_loses_lines_and_stops_nobody() -> None:
    log = Log("info", Broken())
    log.write("info", "lost")
    log.close()
    assert log.dropped == 1


def _failed(clock: FakeClock) -> Exchange:
    exchange = Exchange(
        RequestHead(b"GET", b"/", []),
        RecordingDownstream(),
        exchange_context(clock=clock),
        request_id=b"i",
        account=account(),
    )
    exchange.refuse(LOOP)
    exchange.on_downstream_finished()
    return exchange


@pytest.mark.parametrize(
    ("access", "chance", "count"),
    [
        (AccessLog(Logged.ON), 0.9, 2),
        (AccessLog(Logged.ERRORS), 0.0, 1),
        (AccessLog(Logged.OFF), 0.0, 0),
        (AccessLog(Logged.ERRORS, 0.1), 0.05, 2),
        (AccessLog(Logged.ERRORS, 0.1), 0.5, 1),
    ],
)
def test_which_exchanges_have_a_line_is_configured(access: AccessLog, chance: float, count: int) -> None:
    stream = io.BytesIO()
    log = Log("info", stream, options=LogOptions(access=access, chance=lambda: chance))
    log.access(ended_exchange(FakeClock()).record())
    log.access(_failed(FakeClock()).record())
    log.close()
    assert len(lines(stream)) == count


def test_what_failed_is_a_warning() -> None:
    stream = io.BytesIO()
    log = Log("warning", stream)
    log.access(ended_exchange(FakeClock()).record())
    log.access(_failed(FakeClock()).record())
    log.close()
    assert [(line["level"], line["status"]) for line in lines(stream)] == [("warning", 508)]


def test_the_level_changes_while_it_is_written() -> None:
    stream = io.BytesIO()
    log = Log("info", stream)
    log.write("debug", "one")
    log.level = "debug"
    log.write("debug", "two")
    log.close()
    assert log.level == "debug"
    assert [line["event"] for line in lines(stream)] == ["two"]


def test_a_flood_of_refused_connections_is_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([5.0] * 25 + [6.0])
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    stream = io.BytesIO()
    log = Log("info", stream, writer=_Direct(stream))
    for _ in range(26):
        log.connection_refused("192.0.2.1", "it broke a rule")
    found = lines(stream)
    assert len(found) == 11
    assert [line.get("unwritten") for line in found] == [None] * 10 + [15]


class _Direct:
    """A `LineWriter` without a thread."""

    dropped = 0

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def put(self, line: bytes) -> None:
        self._stream.write(line)

    def close(self) -> None: ...
