"""One connection of a client: heads through h11, the rest by hand."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol, cast

import h11

from .answer import Answer, AnswerOf
from .openai import error
from .pacing import Ticker
from .records import StreamRecord
from .script import Script

HIGH_WATER = 32 * 1024
LOW_WATER = 8 * 1024
"""Bytes in the transport's buffer at which writing stops and goes on."""

MAX_HEAD = 128 * 1024
"""Bytes of a request's head."""

MAX_AHEAD = 64 * 1024
"""Bytes of further requests that a client may send before its answer is complete."""

# Reasons to pause reading a request, in addition to answer.ECHO.
LATE = 2
SLOW = 4

_HARD_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER: close sends a RST."""

_REASONS = {status.value: status.phrase for status in HTTPStatus}

EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </hint>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Owner(Protocol):
    """Whose connections these are."""

    closing: bool

    def opened(self, connection: Connection, sock: socket.socket | None) -> None: ...

    def closed(self, connection: Connection) -> None: ...

    def watch(self, connection: Connection) -> None:
        """The connection is full: check how much it holds until `unwatch`."""

    def unwatch(self, connection: Connection) -> None: ...

    def settled(self, record: StreamRecord) -> None:
        """The stream has ended."""

    def route(self, method: str, target: str, headers: dict[str, str]) -> tuple[Script, AnswerOf]:
        """How a request is answered."""


class Connection(asyncio.Protocol):
    """Reads requests, one after another, and gives each to its answer."""

    __slots__ = (
        "_advancing",
        "_ahead",
        "_answer",
        "_attached",
        "_body_ended",
        "_closing",
        "_drips",
        "_head_written",
        "_held",
        "_http10",
        "_lost",
        "_outbox",
        "_owner",
        "_parser",
        "_read_from",
        "_script",
        "_then",
        "_timers",
        "_transport",
        "_transport_paused",
        "_unsent_seen",
        "close_delimited",
        "head_only",
        "loop",
        "paused",
        "ticker",
    )

    _transport: asyncio.Transport

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, ticker: Ticker) -> None:
        self._owner = owner
        self.loop = loop
        self.ticker = ticker
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._attached: StreamRecord | None = None
        """The record of the last stream on this connection."""
        self._unsent_seen = 0
        self._held = 0
        self._lost = False
        self._closing = False
        self._advancing = False
        self._transport_paused = False
        self.paused = False
        """Nothing should be written: the transport is full, or a split answer is still being written."""
        self._then: Callable[[], None] | None = None
        """Called once the kernel has everything that was written."""
        self._reset_for_request()

    def _reset_for_request(self) -> None:
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._answer: Answer | None = None
        self._body_ended = False
        self._head_written = False
        self._http10 = False
        self._ahead = 0
        self._script = Script()
        self._outbox = bytearray()
        self._drips = False
        self._read_from = 0.0
        """Event loop's time from which the next part of a slowly read body may come."""
        self.head_only = False
        self.close_delimited = False

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self._owner.opened(self, transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._body_ended:
            self._ahead += len(data)
            if self._ahead > MAX_AHEAD:
                self._transport.abort()
                return
        self._parser.receive_data(data)
        self._advance()

    def eof_received(self) -> None:
        if self._answer is not None:
            self._client_gone()
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client_gone()
        self._detach()
        self._owner.unwatch(self)
        self._lost = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._owner.closed(self)

    def pause_writing(self) -> None:
        self._transport_paused = self.paused = True
        self._owner.watch(self)
        if self._answer is not None:
            self._answer.on_paused()

    def resume_writing(self) -> None:
        self._transport_paused = False
        self._owner.unwatch(self)
        self._unsent_seen = 0
        if self._outbox:
            self._drip_soon()
            return
        self._writable()

    # What answers use.

    def clock(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def write_head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self._head_written = True
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", f"date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if self._must_close():
            lines.append("connection: close")
        self.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def write(self, data: bytes) -> None:
        """Takes it in any case; `paused` and on_paused say when to stop."""
        if self._script.split:
            self._outbox += data
            self.paused = True
            self._drip_soon()
        else:
            self._transport.write(data)

    def finish(self) -> None:
        """The answer is wholly written."""
        self._when_flushed(self._complete)

    def cut(self) -> None:
        """Closes in the middle of the answer, after what was written."""
        self._when_flushed(self._cut)

    def reset(self) -> None:
        """Resets the connection in the middle of the answer, after the kernel took what was written."""
        self._when_flushed(self._reset)

    def hold_reading(self, reason: int) -> None:
        if not self._held:
            self._transport.pause_reading()
        self._held |= reason

    def release_reading(self, reason: int) -> None:
        if self._held and not self._held & ~reason and not self._lost:
            self._transport.resume_reading()
        self._held &= ~reason

    # What the record and the simulator use.

    def unsent(self) -> int:
        return 0 if self._lost else self._transport.get_write_buffer_size() + len(self._outbox)

    def unacknowledged(self) -> int:
        sock = None if self._lost else self._transport.get_extra_info("socket")
        if sock is None:
            return 0
        try:
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except OSError:
            return 0
        return int(struct.unpack("i", answer)[0])

    def look(self) -> None:
        """Remember what is unsent: event loops drop it before they report a lost connection."""
        self._unsent_seen = self.unsent()

    def abort(self) -> None:
        self._transport.abort()

    # Reading.

    def _advance(self) -> None:
        if self._advancing:
            return
        self._advancing = True
        try:
            while not self._closing:
                event = self._parser.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                if isinstance(event, h11.Request):
                    self._on_request(event)
                elif isinstance(event, h11.Data):
                    self._on_data(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self._body_ended = True
                    if self._answer is not None:
                        self._answer.on_end()
                else:
                    return
        except h11.RemoteProtocolError as problem:
            self._malformed(problem)
        finally:
            self._advancing = False

    def _on_request(self, request: h11.Request) -> None:
        self.head_only = request.method == b"HEAD"
        self._http10 = request.http_version < b"1.1"
        headers: dict[str, str] = {}
        for raw_name, raw_value in request.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        method, target = request.method.decode("latin-1"), request.target.decode("latin-1")
        script, answer_of = self._owner.route(method, target, headers)
        self._script = script
        self.close_delimited = script.close or self._http10
        self._detach()
        self._answer = answer = answer_of(self)
        self._attached = answer.record
        if self._parser.they_are_waiting_for_100_continue:
            self._transport.write(CONTINUE)
        if not self._http10:
            for _ in range(script.interim):
                self.write(EARLY_HINTS)
        if script.read_after:
            self._read_later(LATE, script.read_after)
        answer.on_start()

    def _on_data(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        if answer.record is not None:
            answer.record.body_bytes += len(data)
        answer.on_data(data)
        rate = self._script.read_rate
        if rate and not self._closing:
            now = self.loop.time()
            self._read_from = max(self._read_from, now) + len(data) / rate
            self._read_later(SLOW, self._read_from - now)

    def _read_later(self, reason: int, seconds: float) -> None:
        self.hold_reading(reason)
        if reason in self._timers:
            self._timers[reason].cancel()
        self._timers[reason] = self.loop.call_later(seconds, self.release_reading, reason)

    def _malformed(self, problem: h11.RemoteProtocolError) -> None:
        self._closing = True
        if self._head_written:
            self._client_gone()
            self._transport.abort()
            return
        self._client_gone()
        self._script = Script()
        self._outbox.clear()
        body = error(400, f"malformed request: {problem}")
        self.write_head(400, [("content-type", "application/json"), ("content-length", str(len(body)))])
        self._transport.write(body)
        self._transport.close()

    # Writing and ending.

    def _drip_soon(self) -> None:
        if not self._drips and not self._transport_paused:
            self._drips = True
            self.loop.call_soon(self._drip)

    def _drip(self) -> None:
        """Writes one piece of a split answer. The next one waits for the next turn, or both would leave as one."""
        self._drips = False
        if self._lost or self._transport_paused or not self._outbox:
            return
        piece = bytes(self._outbox[: self._script.split])
        del self._outbox[: self._script.split]
        self._transport.write(piece)
        if self._outbox:
            self._drip_soon()
        elif not self._transport_paused:
            self._writable()

    def _writable(self) -> None:
        self.paused = False
        if self._then is not None:
            then, self._then = self._then, None
            self._when_flushed(then)
        elif self._answer is not None:
            self._answer.on_writable()

    def _when_flushed(self, then: Callable[[], None]) -> None:
        """Call `then` once the kernel has everything that was written, maybe at once."""
        if self._lost:
            return
        if not self._outbox:
            if not self._transport.get_write_buffer_size():
                self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
                then()
                return
            # resume_writing is to come when the buffer is empty; it is paused by this call already, or before it.
            self._then = then
            self._transport.set_write_buffer_limits(high=1, low=0)
            return
        self._then = then

    def _must_close(self) -> bool:
        return (
            self.close_delimited
            or not self._body_ended
            or self._parser.their_state is not h11.DONE
            or self._owner.closing
        )

    def _complete(self) -> None:
        self._settle("done")
        if self._must_close():
            self._closing = True
            self._answer = None
            self._transport.close()
            return
        rest, _ = self._parser.trailing_data
        self._reset_for_request()
        if rest:
            self._parser.receive_data(rest)
            self._advance()

    def _cut(self) -> None:
        self._settle("aborted")
        self._closing = True
        self._transport.close()

    def _reset(self) -> None:
        self._settle("aborted")
        self._closing = True
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HARD_CLOSE)
        self._transport.abort()

    def _client_gone(self) -> None:
        answer = self._answer
        if answer is None:
            return
        record = answer.record
        if record is not None and record.open:
            record.cancelled = time.monotonic()
            self._settle("cancelled")
        self._answer = None
        self._then = None
        answer.on_gone()

    def _settle(self, state: str) -> None:
        record = self._record
        if record is not None and record.open:
            record.state = state
            record.ended = time.monotonic()
            self._owner.settled(record)

    def _detach(self) -> None:
        """The last record no longer asks this connection: it serves another request or is lost."""
        if self._attached is not None:
            self._attached.detach(max(self.unsent(), self._unsent_seen), self.unacknowledged())
            self._attached = None

    @property
    def _record(self) -> StreamRecord | None:
        return None if self._answer is None else self._answer.record
