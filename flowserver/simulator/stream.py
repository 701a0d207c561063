"""Answers that take their time: event streams, and whole answers with a delay."""

from __future__ import annotations

import socket
import struct
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from . import chat
from .record import Record
from .script import Script

if TYPE_CHECKING:
    from .server import Connection

BATCH = 16 * 1024
"""Bytes of one write at unlimited speed; each event in it is a chunk of its own all the same."""


class Answer:
    """What is common: delay, interim responses, writing in pieces, the ways to end."""

    __slots__ = ("_chunked", "_connection", "_record", "_request", "_script", "_stopped")

    def __init__(self, connection: Connection, record: Record, script: Script, request: chat.ChatRequest) -> None:
        self._connection = connection
        self._record = record
        self._script = script
        self._request = request
        self._chunked = False
        self._stopped = False

    def start(self) -> None:
        if self._script.delay:
            self._connection.pacer.at(self._connection.pacer.now() + self._script.delay, self._begin)
        else:
            self._begin(0)

    def stop(self) -> None:
        """The connection is gone."""
        self._stopped = True

    def resume(self) -> None:
        """The socket takes bytes again."""

    def _begin(self, due: float) -> None:
        if not self._stopped:
            for _ in range(self._script.interim):
                self._connection.transport.write(b"HTTP/1.1 103 Early Hints\r\nlink: </hint>\r\n\r\n")
            self._answer()

    def _answer(self) -> None:
        raise NotImplementedError

    def _write_head(self, status: int, kind: bytes, length: int | None) -> None:
        lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()), b"content-type: " + kind]
        if self._script.close:
            lines.append(b"connection: close")
        elif length is not None:
            lines.append(b"content-length: %d" % length)
        else:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        if self._script.retry_after:
            lines.append(b"retry-after: %g" % self._script.retry_after)
        self._write_raw(b"\r\n".join(lines) + b"\r\n\r\n")

    def _write(self, body: bytes) -> None:
        """Body bytes that are framed already."""
        if self._record.first_byte is None:
            self._record.first_byte = time.monotonic()
        self._record.bytes_written += len(body)
        self._write_raw(body)

    def _write_raw(self, data: bytes) -> None:
        write = self._connection.transport.write
        size = self._script.split
        if not size:
            write(data)
            return
        for position in range(0, len(data), size):
            write(data[position : position + size])

    def _finish(self) -> None:
        self._stopped = True
        if self._chunked:
            self._write_raw(b"0\r\n\r\n")
        self._connection.on_answered(keep=not self._script.close)

    def _break(self, *, reset: bool) -> None:
        """End the connection and not the answer."""
        self._stopped = True
        self._connection.on_broken("aborted")
        transport = self._connection.transport
        if reset:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()


class WholeAnswer(Answer):
    """One JSON body, or an error."""

    __slots__ = ()

    def _answer(self) -> None:
        status = self._script.status
        if status == 200:
            body = chat.whole(self._request, self._script.whole)
        else:
            body = chat.error(f"simulated {status}", "simulated_error", code=str(status))
        self._write_head(status, b"application/json", len(body))
        self._write(body)
        self._finish()


class EventStream(Answer):
    """Server-sent events, each a chunk of its own; paced, or as fast as the socket takes them."""

    __slots__ = ("_events", "_halted", "_limit", "_number", "_reason", "_waiting")

    def __init__(self, connection: Connection, record: Record, script: Script, request: chat.ChatRequest) -> None:
        super().__init__(connection, record, script, request)
        self._events = chat.Events(request, script.size)
        limits = [limit for limit in (script.events or None, request.max_tokens) if limit is not None]
        self._limit = min(limits) if limits else None
        self._reason = "length" if request.max_tokens is not None and self._limit == request.max_tokens else "stop"
        self._number = 0
        self._waiting = False
        """A paced event is due, but the socket takes none."""
        self._halted = False
        """Silent for good."""

    def resume(self) -> None:
        if self._stopped or self._halted or self._record.first_byte is None:
            return
        self._record.state = "streaming"
        if self._script.rate:
            if self._waiting:
                self._waiting = False
                following = self._step(self._connection.pacer.now())
                if following is not None:
                    self._connection.pacer.at(following, self._step)
        else:
            self._pump()

    def _answer(self) -> None:
        length = self._length() if self._script.length else None
        self._write_head(200, b"text/event-stream", length)
        if self._script.first:
            self._connection.pacer.at(self._connection.pacer.now() + self._script.first, self._open)
        else:
            self._open(self._connection.pacer.now())

    def _open(self, due: float) -> None:
        if self._stopped:
            return
        self._record.state = "streaming"
        self._write(self._frame(self._events.first()))
        if self._script.rate:
            self._connection.pacer.at(due + 1 / self._script.rate, self._step)
        else:
            self._pump()

    def _step(self, due: float) -> float | None:
        """One paced event; returns when the next is due."""
        if self._stopped or self._ends_here():
            return None
        if self._connection.paused:
            self._waiting = True
            self._record.state = "paused"
            return None
        self._write(self._frame(self._events.content(self._number)))
        self._number += 1
        self._record.events = self._number
        if self._ends_here():
            return None
        return due + 1 / self._script.rate

    def _pump(self) -> None:
        """As many events as the socket takes."""
        while not self._stopped and not self._connection.paused:
            batch: list[bytes] = []
            size = 0
            while size < BATCH and not self._is_last(self._number):
                piece = self._frame(self._events.content(self._number))
                batch.append(piece)
                size += len(piece)
                self._number += 1
            if batch:
                self._record.events = self._number
                self._write(b"".join(batch))
            if self._ends_here():
                return
        if not self._stopped:
            self._record.state = "paused"

    def _is_last(self, number: int) -> bool:
        """Whether nothing follows after `number` content events."""
        script = self._script
        stops = (self._limit, script.silence_after, script.abort_after, script.fin_after)
        return any(stop is not None and number >= stop for stop in stops)

    def _ends_here(self) -> bool:
        """End, break off or fall silent if it is time."""
        if not self._is_last(self._number):
            return False
        script, number = self._script, self._number
        if script.abort_after is not None and number >= script.abort_after:
            self._break(reset=True)
        elif script.fin_after is not None and number >= script.fin_after:
            self._break(reset=False)
        elif script.silence_after is not None and number >= script.silence_after:
            self._halted = True
            self._record.state = "silent"
        else:
            self._write(self._frame(self._events.last(number, self._reason)))
            self._finish()
        return True

    def _frame(self, event: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event

    def _length(self) -> int:
        """Bytes of the whole stream, which is finite."""
        limit = self._limit or 0
        content = sum(len(self._events.content(number)) for number in range(limit))
        return len(self._events.first()) + content + len(self._events.last(limit, self._reason))
