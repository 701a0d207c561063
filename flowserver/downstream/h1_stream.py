"""One request and its answer on a client's HTTP/1.1 connection. Chunks of a streamed answer are framed here."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import ClassVar, Final, Protocol

from ..errors import EndReason
from ..flow.bounded_buffer import BoundedWriter, Watermarks
from ..flow.drain_rate import DrainRate
from ..flow.progress import Activity
from ..http.h1_chunked import encode_chunk
from ..http.h1_server import Message
from ..http.messages import RequestHead, ResponseHead
from ..net.send_queue import SendQueue
from ..relay.interfaces import DownstreamEvents
from ..relay.uploads import Uploads
from .clients_by_address import Client, ClientsByAddress
from .held_upload import HeldUpload

_GATE, _ROOM = 1, 2
"""Why a body is not read: its provider lags; unfinished uploads hold too much."""


class _Ending(Enum):
    """How the response ends, once known."""

    CLEAN = 0
    BROKEN = 1


# In Python 3.11 looking up an enum member costs a call.
_CLEAN: Final = _Ending.CLEAN
_BROKEN: Final = _Ending.BROKEN


class StreamConnection(Protocol):
    """The connection, as far as its streams use it."""

    stream: H1Stream | None
    """The request that is being served."""
    write: Callable[[bytes], None]
    send_queue: SendQueue
    client: Client
    """The client of the connection."""

    @property
    def uploads(self) -> Uploads: ...

    @property
    def clients(self) -> ClientsByAddress: ...

    @property
    def is_last_response(self) -> bool:
        """Whether the connection ends with the current response."""

    def hold(self, head: bytes) -> None:
        """Keep a head until the next write, which follows in the same event, or the stream's end."""

    def writer(self, write: Callable[[bytes], None], events: DownstreamEvents) -> BoundedWriter:
        """A writer for a stream whose chunks have to wait."""

    def held(self, writer: BoundedWriter | None) -> int:
        """Bytes that wait in `writer`, if there is one, and in the transport."""

    def keep_pace(self, pace: DrainRate) -> Watermarks:
        """Limit transport and kernel to a client with this pace. Returns the watermarks for the writer."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def cut(self, reason: EndReason) -> None:
        """End the request and the connection at once, with a reset."""

    def on_response_done(self, stream: H1Stream) -> None:
        """The response was passed to the transport."""

    def on_broken_off(self, *, reset: bool) -> None:
        """Close without a proper end; `reset` if a plain close would look like one."""


class H1Stream(HeldUpload):
    """One request and its answer on a connection: a `relay.interfaces.DownstreamStream`."""

    protocol: ClassVar[str] = "h1"

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_connection",
        "_ending",
        "_stalled",
        "_stops",
        "_writer",
        "_writes",
        "client",
        "events",
        "message",
        "request",
        "request_whole",
    )
    __deletable__ = ("events",)

    def __init__(self, connection: StreamConnection, message: Message, request: RequestHead) -> None:
        super().__init__(connection.uploads)
        self._connection = connection
        self._stops = 0
        """Why its body is not read: `_GATE`, `_ROOM`."""
        self.message = message
        self.request = request
        client = connection.client
        self.client = connection.clients.requested(client, request) if client.is_trusted else client
        self.events: DownstreamEvents
        self._writer: BoundedWriter | None = None
        """None: the transport has accepted everything at once so far, as usual."""
        self._writes = 0
        """Chunks that bypassed the writer."""
        self._stalled: Activity | None = None
        """Progress of tokens while the client accepts nothing; None: not requested yet."""
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self.request_whole = False
        self._chunked = False
        self._bodiless = False
        self._ending: _Ending | None = None
        """None: more may follow."""

    def __repr__(self) -> str:
        upload = "whole" if self.request_whole else "paused" if self._stops else "open"
        response = self._ending.name if self._ending is not None else "body" if self.head_sent else "head"
        state = f"upload={upload} response={response} held={self.held}" if self._is_open else "over"
        return f"<H1Stream {self.request.method.decode()} {state}>"

    def attach(self, events: DownstreamEvents) -> None:
        self.events = events

    # --- relay.interfaces.DownstreamStream ---

    def send_interim(self, head: ResponseHead) -> None:
        if self._is_open and not self.head_sent:
            interim = self.message.interim(head)
            if interim:
                self._connection.write(interim)

    def send_head(self, head: ResponseHead) -> None:
        connection, message = self._connection, self.message
        if connection.stream is not self:
            return
        goes_on = self.request_whole or (message.may_skip and head.status != 408)  # RFC 9110 section 15.5.9
        closes = connection.is_last_response or not goes_on
        raw = message.head(head, closes=closes)
        self._bodiless, self._chunked = message.bodiless, message.chunked
        if head.body_follows and not self._bodiless and not self._chunked:
            connection.hold(raw)
        else:
            connection.write(raw)

    def send_data(self, data: bytes) -> None:
        connection, writer = self._connection, self._writer
        if connection.stream is not self or self._bodiless:
            return
        if writer is not None and writer.blocked:
            writer.send(data)
        else:  # the path of every token
            self._writes += 1
            write = connection.write  # calling the attribute directly would use the slow look-up
            write(encode_chunk(data) if self._chunked else self.message.body(data))

    def direct_writer(self) -> tuple[Callable[[bytes], None], bool] | None:
        blocked = self._writer is not None and self._writer.blocked
        may = self._is_open and self._chunked and not self._bodiless and not blocked
        return (self._connection.write, True) if may else None

    def send_end(self) -> None:
        self._end(_CLEAN)

    def break_off(self) -> None:
        self._end(_BROKEN)

    def cut(self, reason: EndReason) -> None:
        if self._is_open:
            self._connection.cut(reason)

    def pause_reading(self) -> None:
        self._stop_reading(_GATE)

    def resume_reading(self) -> None:
        self._go_on_reading(_GATE)

    def stop_upload(self) -> None:
        self._stop_reading(_ROOM)

    def go_on_uploading(self) -> None:
        self._go_on_reading(_ROOM)

    @property
    def held(self) -> int:
        return self._connection.held(self._writer) if self._is_open else 0

    @property
    def held_since(self) -> float | None:
        return self._connection.send_queue.blocked_since if self._is_open else None

    def client_seconds(self, now: float) -> float | None:
        return self._connection.send_queue.receive_limited()

    def unacknowledged(self) -> int:
        if not self._is_open:
            return 0
        waiting = self._writer.waiting if self._writer is not None else 0
        return waiting + self._connection.send_queue.unacknowledged()

    def keep_pace(self, pace: DrainRate) -> None:
        if self._is_open and self._writer is not None:
            self._writer.keep_pace(self._connection.keep_pace(pace))

    @property
    def writes(self) -> tuple[int, int]:
        writer = self._writer
        return (self._writes, 0) if writer is None else (self._writes + writer.writes, writer.writes_full)

    # --- the connection's side ---

    @property
    def head_sent(self) -> bool:
        return self.message.head_sent

    def stalled_tokens(self) -> float:
        """Tokens that arrived since the client last acknowledged anything, to the precision of these calls."""
        if self._stalled is None:
            self._stalled = Activity()
        return self._stalled.still_for(self.events.tokens, self._connection.send_queue.progress())

    def let_go(self) -> None:
        """The stream is over: see `BoundedWriter.release`."""
        if self._writer is not None:
            self._writer.release()
        if self.client is not self._connection.client:
            self._connection.clients.leave(self.client)
        del self.events

    def block(self) -> None:
        self.events.on_downstream_blocked()
        if self._writer is None:
            self._writer = self._connection.writer(self._write, self.events)
        self._writer.block()

    def unblock(self) -> None:
        if self._writer is not None:
            self._writer.unblock()
        if self._ending is not None and not self._waits and self._is_open:
            self._finish()

    def _stop_reading(self, reason: int) -> None:
        self._stops |= reason
        if self._is_open:
            self._connection.pause_reading()

    def _go_on_reading(self, reason: int) -> None:
        self._stops &= ~reason
        if not self._stops and self._is_open:
            self._connection.resume_reading()

    @property
    def _is_open(self) -> bool:
        return self._connection.stream is self

    def _end(self, ending: _Ending) -> None:
        if not self._is_open or self._ending is not None:
            return
        self._ending = ending
        if not self._waits:
            self._finish()

    def _finish(self) -> None:
        if self._ending is _BROKEN:
            self._connection.on_broken_off(reset=self.head_sent and not self._chunked)
            return
        end = self.message.end()
        if end:
            self._connection.write(end)
        self._connection.on_response_done(self)

    def _write(self, data: bytes) -> None:
        self._connection.write(encode_chunk(data) if self._chunked else self.message.body(data))

    @property
    def _waits(self) -> bool:
        """Whether chunks wait for the transport."""
        return self._writer is not None and bool(self._writer.waiting)
