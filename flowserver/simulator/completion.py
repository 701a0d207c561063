"""A model's answer: events at a set rate or as fast as they are read, whole bodies, and the faults of a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .answer import Answer, AnswerConnection
from .dialect import BadRequest, Dialect, Reply
from .events import LAST_CHUNK, TOKEN_BYTES, NumberedEvents, chunk
from .records import StreamRecord
from .script import Script

BATCH_BYTES = 16 * 1024
"""Bytes of one write if a stream has no rate: many events, each still a chunk of its own."""

BATCHES_PER_TURN = 4
"""Batches written before other connections have their turn, if the socket accepts them all."""

MAX_BODY = 256 << 20
"""Bytes of a request."""

# What comes after the last content event.
FINISH, SILENCE, ABORT, FIN = "finish", "silence", "abort", "fin"


def _ending(script: Script, tokens: int) -> tuple[int, str]:
    """What happens after how many content events; a fault at the very end comes before the end."""
    endings = [
        (script.abort_after, ABORT),
        (script.fin_after, FIN),
        (script.silence_after, SILENCE),
        (tokens, FINISH),
    ]
    return min(((after, what) for after, what in endings if after is not None), key=lambda ending: ending[0])


class Completion(Answer):
    """Answers a request in a dialect, by its script. No task: the ticker, timers and the transport drive it."""

    __slots__ = (
        "_at_last",
        "_batch",
        "_body",
        "_chunked",
        "_clock",
        "_dialect",
        "_due",
        "_events",
        "_gone",
        "_held",
        "_interval",
        "_last",
        "_number",
        "_rate",
        "_received",
        "_reply",
        "_script",
        "_timer",
        "_writing",
    )

    record: StreamRecord

    def __init__(self, connection: AnswerConnection, record: StreamRecord, script: Script, dialect: Dialect) -> None:
        super().__init__(connection, record)
        self._script = script
        self._dialect = dialect
        self._received: list[bytes] = []
        self._timer: asyncio.Handle | None = None
        self._gone = False
        self._writing = False
        """Content may be written now: after the opening, before the end."""
        self._held = False
        """A paced event came due while the transport was paused."""
        self._last = 0
        """Content events of this stream in total."""
        self._at_last = FINISH
        self._interval = 0.0
        """Milliseconds between two events; 0: no pace."""
        self._due = 0.0
        self._number = 0
        """Of the next content event."""
        self._body = memoryview(b"")
        """What is left of a body that is not streamed."""
        self._chunked = not script.length and not connection.close_delimited

    def on_data(self, data: bytes) -> None:
        self._received.append(data)
        if self.record.body_bytes > MAX_BODY:
            self.connection.reset()

    def on_end(self) -> None:
        script = self._script
        body = b"".join(self._received)
        self._received.clear()
        try:
            reply = self._dialect.read(body, script)
        except BadRequest as problem:
            self._refuse(400, str(problem), problem.param)
            return
        self._reply: Reply = reply
        self._last, self._at_last = _ending(script, reply.plan.tokens)
        self._later(script.delay, self._head)

    def on_gone(self) -> None:
        self._gone = True
        self._stop()

    def on_paused(self) -> None:
        if self.record.state == "streaming":
            self.record.state = "paused"

    def on_writable(self) -> None:
        if self.record.state == "paused":
            self.record.state = "streaming"
        if not self._writing:
            return
        if self._body:
            self._pump_body()
        elif not self._interval:
            if self._timer is None:
                self._pump()
        elif self._held:
            self._held = False
            before = self._number
            ticker = self.connection.ticker
            due = self.fire(ticker.now())
            self.record.late += self._number - before
            if due:
                ticker.add(self, due)

    def fire(self, now: float) -> float:
        """Writes the events that are due, each by itself; the next due time, 0 when there is none."""
        if self._gone:
            return 0.0
        connection, record = self.connection, self.record
        events = self._events
        due = self._due
        while due <= now:
            if connection.paused:
                self._held = True
                self._due = due
                return 0.0
            connection.write(events.one(self._number))
            self._number += 1
            record.events += 1
            record.bytes_written += events.size
            due += self._interval
            if self._number == self._last:
                self._conclude()
                return 0.0
        self._due = due
        return due

    def _refuse(self, status: int, message: str, param: str | None = None) -> None:
        body = self._dialect.error(status, message, param)
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        if self._script.retry_after is not None:
            headers.append(("retry-after", f"{self._script.retry_after:g}"))
        self.begin(status, headers)
        self.connection.write(body)
        self.count(body)
        self.connection.finish()

    def _head(self) -> None:
        script, reply = self._script, self._reply
        if script.status != 200:
            self._refuse(script.status, f"simulated status {script.status}")
            return
        if not reply.plan.streamed:
            self._head_of_whole()
            return
        self._events = events = NumberedEvents(reply.content(), size=script.size, chunked=self._chunked)
        headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")]
        if self._chunked:
            headers.append(("transfer-encoding", "chunked"))
        elif script.length:
            around = [*reply.opening(), *reply.closing(reply.plan.tokens)]
            length = sum(map(len, around)) + events.total(reply.plan.tokens)
            headers.append(("content-length", str(length)))
        self.begin(200, headers)
        self._later(script.first, self._open)

    def _open(self) -> None:
        self.record.reasoning = self._reply.plan.reasoning
        for event in self._reply.opening():
            self._write_event(event)
        if not self._last:
            self._conclude()
            return
        self._writing = True
        if self._script.rate:
            self._interval = 1000.0 / self._script.rate
            ticker = self.connection.ticker
            self._due = ticker.now() + ticker.phase() * self._interval
            ticker.add(self, self._due)
        else:
            self._batch = max(1, BATCH_BYTES // self._events.size)
            self._pump()

    def _pump(self) -> None:
        """Writes until the transport is paused, in turns, so that a fast reader does not starve the others."""
        self._timer = None
        connection, record = self.connection, self.record
        for _ in range(BATCHES_PER_TURN):
            if connection.paused:
                return
            count = min(self._batch, self._last - self._number)
            data, size = self._events.run(self._number, count)
            self._number += count
            record.events += count
            record.bytes_written += size
            connection.write(data)
            if self._number == self._last:
                self._conclude()
                return
        if not connection.paused:
            self._timer = connection.loop.call_soon(self._pump)

    def _head_of_whole(self) -> None:
        body, text = self._reply.whole()
        headers = [("content-type", "application/json")]
        if not self.connection.close_delimited:
            headers.append(("content-length", str(len(body))))
        self.begin(200, headers)
        self.record.reasoning = self._reply.plan.reasoning
        if self._at_last == FINISH:
            self.record.events = self._reply.plan.tokens
        else:
            body = body[: min(len(body) - 1, text + self._last * TOKEN_BYTES)]
            self.record.events = self._last
        self._body = memoryview(body)
        self._later(self._script.first, self._pump_body)

    def _pump_body(self) -> None:
        self._timer = None
        self._writing = True
        for _ in range(BATCHES_PER_TURN):
            if self.connection.paused:
                return
            piece = bytes(self._body[:BATCH_BYTES])
            self._body = self._body[BATCH_BYTES:]
            self.count(piece)
            self.connection.write(piece)
            if not self._body:
                self._conclude()
                return
        if not self.connection.paused and self._timer is None:
            self._timer = self.connection.loop.call_soon(self._pump_body)

    def _conclude(self) -> None:
        """The last content is written: do what the script says next."""
        self._writing = False
        connection = self.connection
        if self._at_last == SILENCE:
            self.record.state = "silent"
        elif self._at_last == ABORT:
            connection.reset()
        elif self._at_last == FIN:
            connection.cut()
        else:
            if self._reply.plan.streamed:
                for event in self._reply.closing(self._number):
                    self._write_event(event)
                if self._chunked:
                    connection.write(LAST_CHUNK)
            connection.finish()

    def _write_event(self, event: bytes) -> None:
        self.count(event)
        self.connection.write(chunk(event) if self._chunked else event)

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = None
        if seconds:
            self._timer = self.connection.loop.call_later(seconds, then)
        else:
            then()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
