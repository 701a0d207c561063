"""HTTP/1.1 towards the provider: a connection, and the stream of its current request.

Requests are written and plain answers read here, chunks by `framing`; what an answer may be beside that is read by h11.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Protocol, cast

import h11

from ..errors import EndReason, RelayError, upstream_error
from ..flow.bounded_buffer import BoundedWriter, Watermarks
from ..http.h1_chunked import ChunkDecoder, FramingError, encode_chunk
from ..http.h1_fields import BARE_LINE_FEED, FIELDS, IS_LENGTH, VALUE, head_for_h11, write_fields
from ..http.h1_response_head import MAX_HEADERS, AnswerHeads
from ..http.messages import Headers, RequestHead, ResponseHead, has_no_body
from ..net.direct_receiver import DirectReceiver
from ..net.sockets import IdleProbe, acknowledge_less, unacknowledged
from ..relay.fast_path import FastPath
from ..relay.interfaces import UpstreamEvents

MAX_HEAD = 64 * 1024
MAX_INTERIM = 10
"""1xx responses before the final one; a provider that sends more is broken."""

_SAFE = (b"GET", b"HEAD", b"OPTIONS")
_FIELD_VALUE = re.compile(VALUE)

READ_SIZE = 8 * 1024
"""Most bytes of one read. Small, since it is what a stream holds beyond its high mark, and since the kernel takes a
whole write where it has room for a byte: 16 KiB reads made a stalled client pull 8 KiB more. An event has 0.3 KiB."""
_READ_BUFFER = memoryview(bytearray(READ_SIZE))
"""Where all connections read to: what came is copied out before the next read."""

_FEW_RECORDS = 4 << 20
"""Bytes of one write that are so few TLS records (RFC 8446 section 5.2: of 16 KiB, and some 30 bytes more each) that
what they take beside their content is less than the first of them."""

FAST_PATH_READS = 6
"""Reads by the slow path between two attempts to open a fast path."""


class ConnectionOwner(Protocol):
    """Who keeps a connection between its requests."""

    def on_capacity(self, connection: UpstreamH1) -> None:
        """It can serve another request."""

    def on_lost(self, connection: UpstreamH1) -> None:
        """It is closed."""


class UpstreamH1(asyncio.BufferedProtocol):
    """A connection to a provider; it serves one request at a time."""

    __slots__ = (
        "_began",
        "_blocked",
        "_decoder",
        "_end_waits",
        "_ended",
        "_events",
        "_fast_path",
        "_h11",
        "_head",
        "_heads",
        "_interim",
        "_is_tls",
        "_keeps",
        "_left",
        "_method",
        "_on_data",
        "_owner",
        "_reading",
        "_receive",
        "_request_whole",
        "_sends_chunks",
        "_tail",
        "_transport",
        "_unsent",
        "_until_fast_path",
        "_watch",
        "_watermarks",
        "_writer",
        "_writes",
        "_written",
        "served",
    )

    def __init__(self, owner: ConnectionOwner, watermarks: Watermarks) -> None:
        self._owner = owner
        self._watermarks = watermarks
        self._events: UpstreamEvents | None = None
        self._on_data: Callable[[bytes], None] | None = None
        """`_events.on_upstream_data`; None: nobody is served. The path of every token looks at no more than this."""
        self._heads = AnswerHeads()
        self._h11: h11.Connection | None = None
        """Reads the present answer; None: it is plain, or its head is not there yet."""
        self._blocked = False
        self._reading = True
        self._receive: Callable[[bytes], None] = self._receive_head
        self._decoder: ChunkDecoder | None = None
        self._writer: BoundedWriter | None = None
        """Of the present request's body; None: the transport took all of it at once so far, which is usual."""
        self._fast_path: FastPath | None = None
        """What the transport hands its reads to in place of this; None: they come here."""
        self._end_waits = False
        self.served = 0
        """Requests begun on this connection."""

    # --- for the stream --------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Requests that it can take now: one, or none."""
        return 0 if self._events is not None or self._transport.is_closing() else 1

    @property
    def busy(self) -> int:
        """Requests under way."""
        return 0 if self._events is None else 1

    def sweep(self, now: float) -> None:
        """Nothing here goes by the clock."""

    def _open_fast_path(self) -> None:
        """Lend the transport to a fast path, where there may be one."""
        decoder, events = self._decoder, self._events
        if (
            decoder is None
            or events is None
            or not decoder.at_boundary
            or not self._reading
            or self._fast_path is not None
        ):
            return
        fast_path = events.fast_path()
        if fast_path is not None:
            self._fast_path = fast_path
            fast_path.enter(self)
            self._transport.set_protocol(cast(asyncio.Protocol, DirectReceiver(fast_path.receive, self)))
            acknowledge_less(self._transport)

    # --- relay.fast_path.FastPathOwner ------------------------------------------------------------

    def receive(self, data: bytes) -> bool:
        self._feed(data)
        decoder = self._decoder
        return decoder is not None and decoder.at_boundary

    def leave_fast_path(self) -> None:
        self._fast_path = None
        if not self._transport.is_closing():
            self._transport.set_protocol(self)

    def begin(self, request: RequestHead, events: UpstreamEvents) -> UpstreamH1:
        """Send the head of the next request; `events` hears of its response."""
        self.served += 1
        self._events = events
        self._on_data = events.on_upstream_data
        self._h11 = None
        self._request_whole = False
        self._until_fast_path = FAST_PATH_READS
        """Reads of chunks until a fast path is asked for."""
        self._sends_chunks = request.has_body and request.content_length is None
        self._began = self._ended = False
        self._keeps = True
        self._left: int | None = 0
        self._tail = b""
        self._method = request.method
        self._interim = 0
        self._head = b""
        self._decoder = None
        self._end_waits = False
        self._receive = self._receive_head
        self._writer = None
        self._unsent = b""
        self._written = 0
        """Bytes of the request that the transport was given, by so many calls."""
        self._writes = 0
        head = self._request_head(request)
        if request.body_follows:
            self._unsent = head
        else:
            self._write(head)
        return self

    def send_data(self, data: bytes) -> None:
        if self._events is None:
            return  # it failed meanwhile
        if self._blocked or self._writer is not None:
            self._the_writer().send(data)
        else:
            self._write_framed(data)

    def send_end(self) -> None:
        if self._events is None:
            return
        if self._writer is not None and self._writer.waiting:
            self._end_waits = True
        else:
            self._write_end()

    @property
    def is_full(self) -> bool:
        """Whether the upload is stopped at the high mark."""
        return self._writer is not None and self._writer.full

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def reused(self) -> bool:
        return self.served > 1

    def cancel(self, error: RelayError | None = None) -> None:
        """The request is over: keep the connection where that is safe, else close it, which cancels the request."""
        if self._events is None:
            return
        self._events = self._on_data = self._writer = None
        if self._request_whole and self._ended and self._keeps and not self._transport.is_closing():
            self.resume_reading()  # or a close by the provider would go unnoticed
            self._owner.on_capacity(self)
        else:
            self._transport.abort()

    def close(self) -> None:
        self._transport.abort()

    def is_alive(self) -> bool:
        """Whether an idle connection can be used. The provider's FIN, or bytes that would be taken for the next answer,
        may wait in the kernel, not yet read. With TLS what waits may be of its own, such as session tickets."""
        return not self._transport.is_closing() and self._watch.is_reusable(again=self.served > 0)

    # --- asyncio.BufferedProtocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        self._watch = IdleProbe(transport, silent=not self._is_tls)
        self._watermarks.limit_transport(self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._feed(_READ_BUFFER[:nbytes].tobytes())

    def eof_received(self) -> bool:
        if self._events is None:
            return False
        if self._began and not self._ended and self._left is None and self._decoder is None:
            # The end of a body that ends with the connection; `connection_lost` tells of any other.
            self._transport.close()  # first, or `cancel` would keep it
            self._end()
        elif not self._began and not self._head and self._is_untaken():
            self._fail("closed a kept connection before it took the request", not_processed=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.on_lost(self)
        if self._events is not None and not self._ended:
            what = "broke off in the middle of its answer" if self._began else "closed the connection without an answer"
            # RFC 9110 section 9.2.2: these may be sent again, even if the provider took them.
            again = not self._began and not self._head and self.served > 1 and self._method in _SAFE
            self._fail(what, not_processed=again)
        self._writer = None
        self._receive = _ignore  # instead of its own method, a cycle that would be left to be collected

    def pause_writing(self) -> None:
        self._blocked = True
        if self._events is not None:
            self._the_writer().block()

    def resume_writing(self) -> None:
        self._blocked = False
        writer = self._writer
        if self._events is not None and writer is not None:
            writer.unblock()
            if self._end_waits and not writer.waiting:
                self._end_waits = False
                self._write_end()

    def _the_writer(self) -> BoundedWriter:
        if self._writer is None:
            assert self._events is not None
            self._writer = BoundedWriter(
                self._transport,
                self._watermarks,
                write=self._write_framed,
                on_full=self._events.on_upstream_full,
                on_drained=self._events.on_upstream_drained,
                blocked=self._blocked,
            )
        return self._writer

    # --- reading ---------------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        on_data = self._on_data
        if on_data is None:
            self._transport.abort()  # bytes that nobody asked for: this connection can't be trusted
            return
        decoder = self._decoder
        if decoder is None or decoder.ended:
            self._receive(data)
            return
        try:  # the path of every token
            body = decoder.feed(data)
        except FramingError as error:
            self._fail(f"sent a malformed answer: {error}")
            return
        if body:
            on_data(body)
        if decoder.rest and self._on_data is on_data:
            self._receive(decoder.rest)
        self._until_fast_path -= 1
        if not self._until_fast_path:
            self._until_fast_path = FAST_PATH_READS
            self._open_fast_path()

    def _receive_head(self, data: bytes) -> None:
        self._head = head = self._head + data if self._head else data
        while True:
            end = head.find(b"\r\n\r\n")
            if not b"HTTP/1.".startswith(head[:7]):
                self._fail("sent something that is no HTTP/1.1")
            elif (end if end >= 0 else len(head)) > MAX_HEAD:
                self._fail(f"sent a head of more than {MAX_HEAD} bytes")
            elif end >= 0:
                raw = head[: end + 4]
                self._head = head = head[end + 4 :]
                if self._parse_head(raw):
                    continue
            elif _has_bare_line_feed(head, len(data)):  # its end would be waited for in vain
                self._fail("sent a head with bare line feeds")
            return

    def _parse_head(self, raw: bytes) -> bool:
        """Whether another head is to follow this one."""
        head, plain = self._heads.read(raw)
        if head is None or not plain or self._h11 is not None:
            head = self._read_by_h11(raw, head.headers if head is not None else None)
            if head is None:
                return False
        if head.status >= 200:
            self._on_head(head)
            return False
        self._interim += 1
        if self._interim > MAX_INTERIM or head.status == 101:
            self._fail("sent too many interim responses or changed the protocol")
        elif self._events is not None:
            self._events.on_upstream_interim(head)
        return self._events is not None

    def _read_by_h11(self, raw: bytes, headers: Headers | None) -> ResponseHead | None:
        """What is not plain. `headers` are its fields where they are in strict form; None: folded lines and the like,
        which are h11's too. None is returned when the answer has failed."""
        if headers is None and raw.count(b"\n") != raw.count(b"\r\n"):  # h11 would see its end elsewhere
            self._fail("sent a head with bare line feeds")
            return None
        if self._h11 is None:
            self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
            # Of the request it needs to know the method only.
            self._h11.send(h11.Request(method=self._method, target=b"/", headers=[(b"host", b"")], _parsed=True))
            self._h11.send(h11.EndOfMessage())
        try:
            line_end = raw.find(b"\r\n") + 2
            self._h11.receive_data(raw if headers is None else head_for_h11(raw[:line_end], headers))
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            self._fail(f"sent a malformed answer: {error}")
            return None
        assert isinstance(event, h11.InformationalResponse | h11.Response)
        fields = list(event.headers) if headers is None else headers
        if len(fields) > MAX_HEADERS:
            self._fail(f"sent more than {MAX_HEADERS} headers")
        elif headers is None and not all(map(_FIELD_VALUE.fullmatch, [event.reason, *(value for _, value in fields)])):
            self._fail("sent control characters in its head")
        else:
            return ResponseHead(event.status_code, fields, reason=event.reason)
        return None

    def _on_head(self, head: ResponseHead) -> None:
        """Decide who reads the body, then pass on the head and what came of the body with it."""
        fields = head.fields
        chunked = b"transfer-encoding" in fields
        length = fields.get(b"content-length")
        if chunked and length is not None:
            self._fail("sent both Transfer-Encoding and Content-Length")
            return
        if length is not None and not IS_LENGTH(length):
            length = length.partition(b",")[0].strip()  # h11 takes equal ones for one
            if not IS_LENGTH(length):
                self._fail("sent a Content-Length that is none")
                return
        left = head.content_length = int(length) if length is not None else None
        if has_no_body(self._method, head.status):
            left, chunked = 0, False
        self._left = left
        self._decoder = ChunkDecoder() if chunked else None
        self._began = True
        events = self._events
        assert events is not None
        head.body_follows = bool(left and self._head)
        events.on_upstream_head(head)
        self._receive = receive = self._receive_plain if self._h11 is None else self._receive_by_h11
        if self._events is events:  # not cancelled by what the head brought about
            rest, self._head = self._head, b""
            if self._decoder is None:
                receive(rest)  # as if it had come by itself
            elif rest:
                self._feed(rest)

    def _receive_plain(self, data: bytes) -> None:
        """Body bytes of whole answers, and the end of chunked ones."""
        if self._decoder is not None:
            self._receive_trailers(data)
            return
        events, left = self._events, self._left
        assert events is not None
        if left is None:
            if data:
                events.on_upstream_data(data)
            return
        if len(data) > left:  # bytes that nobody asked for: this connection can't be trusted
            self._keeps = False
            data = data[:left]
        self._left = left = left - len(data)
        if data:
            events.on_upstream_data(data)
        if not left and self._events is events:
            self._end()

    def _receive_trailers(self, data: bytes) -> None:
        """The last chunk's size line, trailers, which are dropped, and a blank line (RFC 9112 section 7.1.2)."""
        self._tail = tail = self._tail + data
        end = tail.find(b"\r\n\r\n")
        if end < 0:
            if len(tail) > MAX_HEAD:
                self._fail(f"sent trailers of more than {MAX_HEAD} bytes")
            elif _has_bare_line_feed(tail, len(data)):
                self._fail("sent trailers with bare line feeds")
        elif FIELDS.fullmatch(tail, tail.find(b"\n") + 1, end + 4) is None:
            self._fail("sent a malformed trailer")
        else:
            self._keeps = self._keeps and end + 4 == len(tail)
            self._end()

    def _receive_by_h11(self, data: bytes) -> None:
        events, connection = self._events, self._h11
        assert events is not None
        assert connection is not None
        try:
            if data:
                connection.receive_data(data)
            while self._events is events:
                event = connection.next_event()
                if isinstance(event, h11.Data):
                    events.on_upstream_data(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self._keeps = connection.their_state is h11.DONE and not connection.trailing_data[0]
                    self._end()
                    return
                else:
                    return
        except h11.RemoteProtocolError as error:
            self._fail(f"sent a malformed answer: {error}")

    def _end(self) -> None:
        self._ended = True
        self._receive = self._receive_surplus
        if self._events is not None:
            self._events.on_upstream_end()

    def _receive_surplus(self, data: bytes) -> None:
        """Bytes that nobody asked for, while the end of the answer still waits."""
        self._keeps = False

    def _is_untaken(self) -> bool:
        """Whether nothing of the present request was acknowledged: it crossed the provider's close on the way. Those
        before it were, since they were answered."""
        if self.served == 1:
            return False  # a provider closed it with the request before its eyes
        if self._is_tls and (self._writes > 1 or self._written > _FEW_RECORDS):
            return False  # can't be told
        missing = unacknowledged(self._transport)
        given = self._written - self._transport.get_write_buffer_size()
        return missing is not None and missing >= given > 0

    def _fail(self, what: str, *, not_processed: bool = False) -> None:
        events, self._events, self._on_data = self._events, None, None
        self._transport.abort()
        if events is not None:
            reason = EndReason.UPSTREAM_FAILED
            error = upstream_error(reason.value, f"The provider {what}.", reason, not_processed=not_processed)
            events.on_upstream_failed(error)

    def _request_head(self, request: RequestHead) -> bytes:
        """The head, its framing derived anew (RFC 9112 section 6). The other fields, checked when they came in, pass
        beside h11."""
        framing = b""
        if request.content_length is not None:
            framing = b"content-length: %d\r\n" % request.content_length
        elif request.has_body:
            framing = b"transfer-encoding: chunked\r\n"
        fields = write_fields(request.headers)
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (request.method, request.target, fields, framing)

    def _write_end(self) -> None:
        self._request_whole = True
        if self._unsent:
            self._write_with_head(b"")
        if self._sends_chunks:
            self._write(b"0\r\n\r\n")

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
        self._writes += 1
        self._written += len(data)
        self._transport.write(data)


def _ignore(data: bytes) -> None:
    """Nothing is read from a connection that is lost."""


def _has_bare_line_feed(data: bytes, fresh: int) -> bool:
    """Whether one is among the last `fresh` bytes of `data`; those before were looked at."""
    return BARE_LINE_FEED.search(data, max(0, len(data) - fresh)) is not None
