"""The base of all answers, and the answers that are not streams of events."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Protocol

import orjson

from .events import LAST_CHUNK, chunk
from .pacing import Ticker
from .records import SocketState, StreamRecord

ECHO = 1
"""Reason to read no more of a request: the client does not take the echo."""


class AnswerConnection(SocketState, Protocol):
    """The client's connection, as far as an answer uses it."""

    loop: asyncio.AbstractEventLoop
    ticker: Ticker
    paused: bool
    """Nothing should be written now."""
    head_only: bool
    """The request is a HEAD."""
    close_delimited: bool
    """The answer ends with the connection."""

    def clock(self) -> float:
        """CLOCK_MONOTONIC in seconds."""

    def write_head(self, status: int, headers: list[tuple[str, str]]) -> None: ...

    def write(self, data: bytes) -> None:
        """Never refuses; `paused` and on_paused say when to stop."""

    def finish(self) -> None:
        """The answer is completely written."""

    def cut(self) -> None:
        """Closes in the middle of the answer, after what was written."""

    def reset(self) -> None:
        """Resets the connection in the middle of the answer, after the kernel took what was written."""

    def hold_reading(self, reason: int) -> None: ...

    def release_reading(self, reason: int) -> None: ...


class Answer:
    """Answers one request on `connection`, which calls these methods. `record` is None if it is not a stream."""

    __slots__ = ("connection", "record")

    def __init__(self, connection: AnswerConnection, record: StreamRecord | None = None) -> None:
        self.connection = connection
        self.record = record

    def on_start(self) -> None:
        """The request's head has arrived."""

    def on_data(self, data: bytes) -> None:
        """A part of the request's body."""

    def on_end(self) -> None:
        """The request is complete."""

    def on_paused(self) -> None:
        """The transport's buffer is full."""

    def on_writable(self) -> None:
        """The transport accepts more again."""

    def on_gone(self) -> None:
        """The client left before the answer was complete. Nothing can be written any more."""

    def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Writes the head. The body's framing is among the headers."""
        connection = self.connection
        if self.record is not None:
            self.record.state = "paused" if connection.paused else "streaming"
            self.record.first_byte = connection.clock()
            headers = [*headers, ("x-request-id", self.record.id)]
        connection.write_head(status, headers)

    def count(self, data: bytes) -> None:
        """`data`, body bytes without framing, has been written."""
        if self.record is not None:
            self.record.bytes_written += len(data)


AnswerOf = Callable[[AnswerConnection], Answer]
"""Makes the answer to one request."""


class Plain(Answer):
    """A status and a body that are known from the start; sent when the request is complete."""

    __slots__ = ("_body", "_headers", "_status")

    def __init__(
        self,
        connection: AnswerConnection,
        status: int,
        body: bytes,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        record: StreamRecord | None = None,
    ) -> None:
        super().__init__(connection, record)
        self._status = status
        self._body = body
        self._headers = headers

    def on_end(self) -> None:
        length = ("content-length", str(len(self._body)))
        self.begin(self._status, [("content-type", "application/json"), length, *self._headers])
        if self._body and not self.connection.head_only:
            self.connection.write(self._body)
            self.count(self._body)
        self.connection.finish()


class Sink(Answer):
    """Reads the whole body; answers with its length and its SHA-256."""

    __slots__ = ("_bytes", "_digest")

    def __init__(self, connection: AnswerConnection, record: StreamRecord) -> None:
        super().__init__(connection, record)
        self._bytes = 0
        self._digest = hashlib.sha256()

    def on_data(self, data: bytes) -> None:
        self._bytes += len(data)
        self._digest.update(data)

    def on_end(self) -> None:
        body = orjson.dumps({"bytes": self._bytes, "sha256": self._digest.hexdigest()})
        self.begin(200, [("content-type", "application/json"), ("content-length", str(len(body)))])
        self.connection.write(body)
        self.count(body)
        self.connection.finish()


class Echo(Answer):
    """Sends the body back as it arrives, and reads no faster than the client reads the echo."""

    __slots__ = ("_chunked", "_type")

    def __init__(self, connection: AnswerConnection, record: StreamRecord) -> None:
        super().__init__(connection, record)
        self._chunked = not connection.close_delimited
        self._type = record.head.headers.get("content-type", "application/octet-stream")

    def on_start(self) -> None:
        framing = [("transfer-encoding", "chunked")] if self._chunked else []
        self.begin(200, [("content-type", self._type), *framing])

    def on_data(self, data: bytes) -> None:
        self.count(data)
        self.connection.write(chunk(data) if self._chunked else data)

    def on_end(self) -> None:
        if self._chunked:
            self.connection.write(LAST_CHUNK)
        self.connection.finish()

    def on_paused(self) -> None:
        self.connection.hold_reading(ECHO)

    def on_writable(self) -> None:
        self.connection.release_reading(ECHO)
