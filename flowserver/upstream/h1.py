"""HTTP/1.1 towards the provider: a connection, and a stream for each of its requests.

`http.h1_client` encodes requests and decodes responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol, cast

from ..errors import EndReason, RelayError, upstream_error
from ..flow.bounded_buffer import BoundedWriter, Watermarks
from ..flow.drain_rate import DrainRate
from ..http.h1_chunked import FramingError, encode_chunk
from ..http.h1_client import ResponseBody, ResponseError, ResponseReader, encode_request_head
from ..http.messages import RequestHead
from ..net import receive_buffer
from ..net.direct_receiver import DirectReceiver
from ..net.sockets import IdleProbe, acknowledge_less, unacknowledged
from ..relay.fast_path import FastPath
from ..relay.interfaces import UpstreamEvents
from .receive_window import NARROW, READ_BUFFER, AdaptiveFlow, ReceiveWindow

_SAFE = (b"GET", b"HEAD", b"OPTIONS")

_FEW_RECORDS = 4 << 20
"""A write of at most this many bytes makes so few TLS records (RFC 8446 section 5.2: 16 KiB each, plus some 30 bytes)
that their overhead is less than the size of the first one."""

FAST_PATH_READS = 6
"""Reads on the slow path between two attempts to open a fast path."""


class _Upload(Enum):
    """How much of the request has been sent."""

    SENDING = 0
    ENDING = 1
    """Its end waits behind body bytes that wait for the transport."""
    SENT = 2


# In Python 3.11 looking up an enum member costs a call.
_SENDING: Final = _Upload.SENDING
_ENDING: Final = _Upload.ENDING
_SENT: Final = _Upload.SENT


class ConnectionOwner(Protocol):
    """Keeps a connection between its requests."""

    def on_capacity(self, connection: UpstreamH1) -> None:
        """It can serve another request."""

    def on_lost(self, connection: UpstreamH1) -> None:
        """The connection is closed."""


class H1Stream:
    """One request and its response on a connection: a `pool.PooledStream`."""

    __slots__ = (
        "_connection",
        "_is_tunnel",
        "_sends_chunks",
        "_unsent",
        "_upload",
        "_writer",
        "body",
        "events",
        "is_answered",
        "on_data",
        "reader",
        "reused",
        "writes",
        "written",
    )

    def __init__(self, connection: UpstreamH1, request: RequestHead, events: UpstreamEvents) -> None:
        self._connection = connection
        self.events: UpstreamEvents | None = events
        """None: the stream is over."""
        self.on_data = events.on_upstream_data
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self.is_answered = False
        """Whether the response is complete."""
        self.reused = connection.served > 0
        self._sends_chunks = request.has_body and request.content_length is None
        self._is_tunnel = request.is_tunnel
        self._upload = _SENDING
        self._unsent = encode_request_head(request)
        """The head, while it waits for the first body bytes of the same event."""
        self._writer: BoundedWriter | None = None
        """The writer of the request's body; None: the transport has accepted everything at once so far, as usual."""
        self.writes = 0
        self.written = 0
        """Bytes of the request passed to the transport, and the number of writes."""
        self.reader: ResponseReader | None = ResponseReader(request.method, switches=request.is_tunnel)
        """Reads the head of the response; None: it has."""
        self.body: ResponseBody | None = None
        """Reads the body of the response; None before its head."""

    def __repr__(self) -> str:
        response = "whole" if self.is_answered else "head" if self.body is None else "body"
        state = "over" if self.events is None else f"upload={self._upload.name} response={response}"
        return f"<H1Stream {state}>"

    # --- relay.interfaces.UpstreamStream ---------------------------------------------------------------------------

    def send_data(self, data: bytes) -> None:
        events = self.events
        if events is None:
            return
        if self._writer is not None or self._connection.blocked:
            self._bounded_writer(events).send(data)
        else:
            self._write_framed(data)

    def send_end(self) -> None:
        if self.events is None:
            return
        if self._writer is not None and self._writer.waiting:
            self._upload = _ENDING
        else:
            self._write_end()

    def cancel(self, error: RelayError | None = None) -> None:
        """The request is over: keep the connection if that is safe, else close it, which cancels the request."""
        if self.events is None:
            return
        body = self.body
        keeps = self._upload is _SENT and self.is_answered and body is not None and body.keeps_alive
        self._close()
        self._connection.release(keeps=keeps)

    def pause_reading(self) -> None:
        if self.events is not None:
            self._connection.pause_reading()

    def resume_reading(self) -> None:
        if self.events is not None:
            self._connection.resume_reading()

    def keep_pace(self, pace: DrainRate) -> None:
        if self.events is not None and self._connection.window is not None:
            self._connection.window.keep_pace(pace)

    @property
    def is_full(self) -> bool:
        return self._writer is not None and self._writer.full

    @property
    def waiting(self) -> int:
        """Bytes of the request that wait for the transport."""
        return self._writer.waiting if self._writer is not None else 0

    # --- the connection's side: writing ----------------------------------------------------------------------------

    def send_head(self) -> None:
        self._write_with_head(b"")

    def block(self) -> None:
        """The transport is above its mark."""
        if self.events is not None:
            self._bounded_writer(self.events).block()

    def unblock(self) -> None:
        """The transport has room again."""
        writer = self._writer
        if writer is None:
            return
        writer.unblock()
        if self._upload is _ENDING and not writer.waiting and self.events is not None:
            self._write_end()

    def _bounded_writer(self, events: UpstreamEvents) -> BoundedWriter:
        if self._writer is None:
            self._writer = self._connection.writer(self._write_framed, events)
        return self._writer

    def _write_end(self) -> None:
        self._upload = _SENT
        if self._unsent:
            self.send_head()
        if self._sends_chunks:
            self._write(b"0\r\n\r\n")
        elif self._is_tunnel and self._connection.transport.can_write_eof():
            self._connection.transport.write_eof()

    def _write_framed(self, data: bytes) -> None:
        framed = encode_chunk(data) if self._sends_chunks else data
        if self._unsent:
            self._write_with_head(framed)
        else:
            self._write(framed)

    def _write_with_head(self, data: bytes) -> None:
        head, self._unsent = self._unsent, b""
        self._write(head + data)

    def _write(self, data: bytes) -> None:
        self.writes += 1
        self.written += len(data)
        self._connection.transport.write(data)

    # --- the connection's side: reading ----------------------------------------------------------------------------

    def receive_head(self, reader: ResponseReader, data: bytes) -> None:
        """Pass on the heads in `data`, then the part of the body that came with them."""
        events = self.events
        assert events is not None
        try:
            head = reader.feed(data)
            while head is not None and head.status < 200 and head.status != 101:  # 101 begins a tunnel
                events.on_upstream_interim(head)
                if self.events is None:
                    return
                head = reader.feed(b"")
            if head is None:
                return
            body, first = reader.begin_body(head)
        except ResponseError as error:
            self.fail(str(error))
            return
        self.body = body
        self.reader = None
        window = self._connection.window
        if window is not None and head.content_length is not None and head.content_length > NARROW:
            window.widen()  # a stream never has a length
        events.on_upstream_head(head)
        if self.events is None:  # cancelled as a consequence of the head
            return
        if first:
            self._connection.feed(first)
        elif body.ended:
            self.receive_end(body)

    def receive_end(self, body: ResponseBody) -> None:
        """All bytes of the body have arrived: read what follows them."""
        try:
            is_whole = body.read_end()
        except ResponseError as error:
            self.fail(str(error))
            return
        if is_whole and not self.is_answered:
            self.end()

    def end(self) -> None:
        """The response is complete."""
        self.is_answered = True
        if self.events is not None:
            self.events.on_upstream_end()

    def fail(self, what: str, *, not_processed: bool = False) -> None:
        """Fail the request; `what`: what the provider did. The connection can't be used any more."""
        events = self.events
        if events is None:
            return
        self._close()
        self._connection.release(keeps=False)
        reason = EndReason.UPSTREAM_FAILED
        events.on_upstream_failed(
            upstream_error(reason.value, f"The provider {what}.", reason, not_processed=not_processed)
        )

    def _close(self) -> None:
        """Drop references, so that no reference cycle is left."""
        self.events = self._writer = None
        self.on_data = _ignore


class UpstreamH1(asyncio.BufferedProtocol):
    """A connection to a provider; it serves one request at a time."""

    __slots__ = (
        "_fast_path",
        "_flow",
        "_is_tls",
        "_owner",
        "_probe",
        "_reading",
        "_stream",
        "_until_fast_path",
        "_watermarks",
        "blocked",
        "served",
        "transport",
        "window",
    )

    def __init__(self, owner: ConnectionOwner, watermarks: Watermarks, flow: AdaptiveFlow | None = None) -> None:
        """`flow`: how its receive window follows the clients; None: it is fixed."""
        self._owner = owner
        self._watermarks = watermarks
        self._flow = flow
        self.window: ReceiveWindow | None = None
        self._stream: H1Stream | None = None
        """The request under way; None: the connection is idle."""
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self._reading = True
        self._is_tls = False
        self.blocked = False
        """Whether the transport is above its mark."""
        self._fast_path: FastPath | None = None
        """The transport's protocol in place of this one; None: this is."""
        self._until_fast_path = FAST_PATH_READS
        """Reads of a body until the next attempt to open a fast path."""
        self.served = 0
        """Requests begun on this connection."""
        self._probe: IdleProbe | None = None
        """None: it has not been idle, as most connections of streams."""
        self.transport: asyncio.Transport

    def __repr__(self) -> str:
        state = "closing" if self.transport.is_closing() else "paused" if not self._reading else "open"
        return f"<UpstreamH1 {state} served={self.served} held={self.held} stream={self._stream}>"

    @property
    def held(self) -> int:
        """Bytes of the request under way that wait here and in the transport."""
        waiting = self._stream.waiting if self._stream is not None else 0
        return waiting + self.transport.get_write_buffer_size()

    # --- pool.PooledConnection -------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Requests that it can accept now: one, or none."""
        return 0 if self._stream is not None or self.transport.is_closing() else 1

    @property
    def busy(self) -> int:
        """Requests under way."""
        return 0 if self._stream is None else 1

    @property
    def is_wide(self) -> bool:
        """Whether the provider may be far ahead, whatever is done now."""
        return self.window is not None and self.window.has_been_wide

    def begin(self, request: RequestHead, events: UpstreamEvents) -> H1Stream:
        """Send the head of the next request; `events` gets its response."""
        if self.window is not None:
            self.window.begin(whole=request.awaits_whole)
        self._stream = stream = H1Stream(self, request, events)
        self.served += 1
        self._until_fast_path = FAST_PATH_READS
        if not request.body_follows:
            stream.send_head()
        return stream

    def is_alive(self) -> bool:
        """Whether an idle connection can be used. The provider's FIN, or bytes that would be taken for the next
        response, may wait in the kernel, not yet read. With TLS, waiting bytes may belong to TLS itself, such as
        session tickets."""
        probe = self._probe
        if probe is None:
            probe = IdleProbe(self.transport, silent=not self._is_tls)
            if self.served:
                self._probe = probe
        return not self.transport.is_closing() and probe.is_reusable(again=self.served > 0)

    def sweep(self, now: float) -> None:
        """There are no deadlines here."""

    def close(self) -> None:
        self.transport.abort()

    # --- for the stream --------------------------------------------------------------------------------------------

    def release(self, *, keeps: bool) -> None:
        """The stream is over; `keeps`: the connection can serve another request."""
        self._stream = None
        if keeps and not self.transport.is_closing():
            self.resume_reading()  # otherwise a close by the provider would go unnoticed
            self._owner.on_capacity(self)
        else:
            self.transport.abort()

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def writer(self, write: Callable[[bytes], None], events: UpstreamEvents) -> BoundedWriter:
        return BoundedWriter(
            self.transport,
            self._watermarks,
            write=write,
            on_full=events.on_upstream_full,
            on_drained=events.on_upstream_drained,
            blocked=self.blocked,
        )

    # --- asyncio.BufferedProtocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        self._watermarks.limit_transport(self.transport)
        if self._flow is not None and receive_buffer.can_follow(transport.get_extra_info("socket")):
            self.window = ReceiveWindow(transport, self._flow)

    def get_buffer(self, sizehint: int) -> memoryview:
        return READ_BUFFER if self.window is None else self.window.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.feed(READ_BUFFER[:nbytes].tobytes())

    def eof_received(self) -> bool:
        stream = self._stream
        if stream is None:
            return False
        reader, body = stream.reader, stream.body
        if reader is not None:
            if reader.is_empty and self._is_untaken(stream):
                stream.fail("closed a kept connection before it took the request", not_processed=True)
        elif body is not None and body.until_close and not stream.is_answered:
            # `connection_lost` reports any other end
            self.transport.close()  # first, because otherwise `cancel` would keep it
            stream.end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.on_lost(self)
        stream = self._stream
        if stream is None or stream.is_answered:
            return
        reader = stream.reader
        if reader is None:
            stream.fail("broke off in the middle of its answer")
        else:
            # RFC 9110 section 9.2.2: these may be sent again, even if the provider took them.
            again = reader.is_empty and stream.reused and reader.method in _SAFE
            stream.fail("closed the connection without an answer", not_processed=again)

    def pause_writing(self) -> None:
        self.blocked = True
        if self._stream is not None:
            self._stream.block()

    def resume_writing(self) -> None:
        self.blocked = False
        if self._stream is not None:
            self._stream.unblock()

    # --- reading ---------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the provider: the path of every token."""
        stream = self._stream
        if stream is None:
            self.transport.abort()  # unsolicited bytes: this connection can't be trusted
            return
        body = stream.body
        if body is None:
            if stream.reader is not None:
                stream.receive_head(stream.reader, data)
            return
        try:
            piece = body.feed(data)
        except FramingError as error:
            stream.fail(f"sent a malformed answer: {error}")
            return
        except ResponseError as error:
            stream.fail(str(error))
            return
        window = self.window
        if window is not None and stream.events is not None:
            window.passed(len(data), stream.events)
        if piece:
            on_data = stream.on_data  # calling the attribute directly would use the slow look-up
            on_data(piece)
        if body.ended and self._stream is stream:
            stream.receive_end(body)
        self._until_fast_path -= 1
        if not self._until_fast_path:
            self._until_fast_path = FAST_PATH_READS
            self._open_fast_path()

    def _open_fast_path(self) -> None:
        """Hand the transport to a fast path, if one can be opened."""
        stream = self._stream
        if stream is None or stream.events is None or self._fast_path is not None or not self._reading:
            return
        if stream.body is None or not stream.body.at_boundary:
            return
        fast_path = stream.events.fast_path()
        if fast_path is not None:
            self._fast_path = fast_path
            fast_path.enter(self)
            self.transport.set_protocol(cast(asyncio.Protocol, DirectReceiver(fast_path.receive, self)))
            acknowledge_less(self.transport)

    # --- relay.fast_path.FastPathOwner -----------------------------------------------------------------------------

    def receive(self, data: bytes) -> bool:
        self.feed(data)
        body = self._stream.body if self._stream is not None else None
        return body is not None and body.at_boundary

    def passed(self, size: int) -> None:
        stream, window = self._stream, self.window
        if window is not None and stream is not None and stream.events is not None:
            window.passed(size, stream.events)

    def leave_fast_path(self) -> None:
        self._fast_path = None
        if not self.transport.is_closing():
            self.transport.set_protocol(self)

    # --- ends ------------------------------------------------------------------------------------------------------

    def _is_untaken(self, stream: H1Stream) -> bool:
        """Whether nothing of the current request was acknowledged: it crossed the provider's close. Earlier requests
        were acknowledged, since they were answered."""
        if not stream.reused:
            return False  # the provider closed it after receiving the request
        if self._is_tls and (stream.writes > 1 or stream.written > _FEW_RECORDS):
            return False  # unknown
        missing = unacknowledged(self.transport)
        given = stream.written - self.transport.get_write_buffer_size()
        return missing is not None and missing >= given > 0


def _ignore(data: bytes) -> None:
    """Drops the data of a stream that is over."""
