"""HTTP/2 towards the client: a connection of many streams, each with its own window.

h2 owns the connection's state: settings, HPACK, stream states, windows. Around it: a guard counts and bounds what comes
(`h2_guard`), heads are checked (`h2_head`), DATA frames are written by hand (`h2_stream`). GOAWAY never reaches h2,
which would take it for the end of the connection while streams are to go on.

What one turn of the event loop produces leaves in one write.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, cast

import h2.errors
import h2.events
import h2.exceptions

from ..errors import EndReason, RelayError
from ..flow import Marks
from ..frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    NO_STREAM_YET,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    goaway,
)
from ..messages import Headers, ResponseHead, find
from .h2_guard import FrameGuard, Violation
from .h2_head import Malformed, check_trailers, parse_h2_head
from .h2_state import ClientState
from .h2_stream import H2Stream
from .liveness import Liveness
from .stall import StallWatch, unacknowledged
from .surroundings import SharedReads, Surroundings

WRITE_SIZE = 64 * 1024
"""Bytes of one write, and the transport's high mark: a connection's streams share it."""
LINGER = 1.0
"""Seconds between the two GOAWAYs, and for the last words of a broken connection to arrive."""

_Code = h2.errors.ErrorCodes


class DownstreamH2(SharedReads):
    """A client's HTTP/2 connection."""

    __slots__ = (
        "_around",
        "_blocked",
        "_control",
        "_failed",
        "_fd",
        "_flush_due",
        "_goaway_at",
        "_guard",
        "_h2",
        "_header_block_since",
        "_idle_since",
        "_last_stream",
        "_lingering_since",
        "_liveness",
        "_loop",
        "_pending",
        "_preface",
        "_reading",
        "_ready",
        "_requests",
        "_seen_settings",
        "_sent_at_look",
        "_settings",
        "_stall",
        "_starved",
        "_streams",
        "_transport",
        "clock",
        "marks",
        "sent",
        "totals",
        "write",
    )

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._settings = around.settings.h2
        self.marks: Marks = around.settings.marks
        self.clock = around.clock
        self.totals = around.h2_totals
        self._loop = asyncio.get_running_loop()
        self._guard = FrameGuard(self._settings.limits)
        self._h2 = ClientState()
        self._streams: dict[int, H2Stream] = {}
        self._pending: list[H2Stream] = []
        """Requests of the present read: one that is reset in the same read never starts."""
        self._ready: deque[H2Stream] = deque()
        self._starved: dict[H2Stream, None] = {}
        """Those whose turn came while the connection's window was shut, in their order."""
        self.sent = 0
        """Body bytes that went into frames, of all streams."""
        self._sent_at_look = 0
        self._control: list[bytes] = []
        """Frames that h2 does not know of."""
        self._flush_due = False
        self._blocked = False
        self._reading = True
        self._preface = b""
        self._seen_settings = False
        self._requests = 0
        self._last_stream = NO_STREAM_YET
        """Requests above it are refused: set by the second GOAWAY."""
        self._goaway_at: float | None = None
        """When the first GOAWAY was sent."""
        self._lingering_since: float | None = None
        """When the last bytes were written, which are still to arrive."""
        self._failed = False
        now = around.clock()
        self._idle_since = now
        self._liveness = Liveness(self._settings.ping_interval, now)
        self._header_block_since: float | None = None

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self._fd = transport.get_extra_info("socket").fileno()
        self._stall = StallWatch(self._transport, self._fd)
        self._transport.set_write_buffer_limits(high=WRITE_SIZE, low=0)
        too_many = len(self._around.connections) >= self._around.settings.max_connections
        self._around.connections.add(self)
        self.totals.connections += 1
        settings = self._settings
        self._h2.open(
            max_streams=settings.max_streams,
            stream_window=settings.stream_window,
            connection_window=settings.connection_window,
        )
        if too_many:
            self._fail(_Code.NO_ERROR, "too_many_connections")
            return
        self._schedule_flush()

    def data_received(self, data: bytes) -> None:
        if self._lingering_since is not None:
            return
        self._liveness.hear()
        if len(self._preface) < len(PREFACE):
            data = self._receive_preface(data)
        try:
            for frame in self._guard.frames(data, self.clock()):
                self._receive(frame)
                if self.is_over:
                    return
            self._start_requests()
        except Violation as violation:
            self._fail(violation.code, violation.reason)
        if self._h2.unsent > WRITE_SIZE:  # one turn may bring many reads, and reading is to stop in time
            self._flush()
        else:
            self._schedule_flush()

    def eof_received(self) -> bool:
        return False  # HTTP/2 knows no half-closed client

    def connection_lost(self, exc: Exception | None) -> None:
        self._around.hangups.forget(self._fd, self._on_hangup)
        self._around.connections.discard(self)
        self.totals.connections -= 1
        self._drop_all(EndReason.CLIENT_GONE)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._resume_reading()
        self._schedule_flush()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is written, and the last words are still to arrive."""
        return self._lingering_since is not None

    # --- for the streams -------------------------------------------------------------------------------------------

    @property
    def is_blocked(self) -> bool:
        """Whether the transport takes nothing more: all streams wait."""
        return self._blocked

    def has(self, stream: H2Stream) -> bool:
        return self._streams.get(stream.stream_id) is stream

    def queue(self, stream: H2Stream) -> None:
        """The stream has something to send."""
        if not stream.is_queued:
            stream.is_queued = True
            self._ready.append(stream)
            if not self._flush_due:
                self._schedule_flush()

    def take_turn(self, size: int) -> bool:
        """Whether a frame of `size` bytes may be written at once, out of the connection's window: nothing waits."""
        connection = self._h2
        if self._flush_due or self._blocked:
            return False
        if size > connection.outbound_flow_control_window or size > connection.max_outbound_frame_size:
            return False
        connection.outbound_flow_control_window -= size
        self.sent += size
        self._guard.note_sent(size)
        return True

    def send_headers(self, stream: H2Stream, fields: Headers) -> None:
        self._h2.send_head(stream.stream_id, stream.state, fields)
        self._schedule_flush()

    def credit(self, stream: H2Stream, length: int) -> None:
        """The client may send `length` more bytes, on the stream and on the connection."""
        if length:
            self._h2.acknowledge_received_data(length, stream.stream_id)
            self._schedule_flush()

    # --- for the listener ------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        limit = self._around.settings.stall_timeout
        if limit is not None and self._stall.look(now) >= limit:
            self._drop_all(EndReason.CLIENT_STALLED)
            self._transport.abort()
        elif self._lingering_since is not None:
            self._sweep_last_words(now, self._lingering_since)
        else:
            self._sweep_streams(now, limit)
            self._sweep_connection(now)

    def drain(self) -> None:
        if not self.is_over:
            self._begin_goaway("drain")

    def end_drain(self) -> None:
        for stream in list(self._streams.values()):
            if stream.events is not None:
                stream.events.on_drain_timeout()
        self._flush()
        if not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # --- reading ---------------------------------------------------------------------------------------------------

    def _receive_preface(self, data: bytes) -> bytes:
        """Collect the preface. Returns what follows it; b"" until then, and when it is none."""
        missing = len(PREFACE) - len(self._preface)
        self._preface += data[:missing]
        if not PREFACE.startswith(self._preface):
            self._fail(_Code.PROTOCOL_ERROR, "no_preface")
            return b""
        if len(self._preface) == len(PREFACE):
            self._h2.receive_data(PREFACE)
        return data[missing:]

    def _receive(self, frame: Frame) -> None:
        if not self._seen_settings:
            if frame.kind != SETTINGS:
                self._fail(_Code.PROTOCOL_ERROR, "no_settings")
                return
            self._seen_settings = True
        if self._header_block_since is None and self._is_ours(frame):
            return
        if frame.stream_id not in self._streams:
            self._count_stray(frame)
        elif frame.kind == RST_STREAM:
            self._guard.count_reset(self.clock())
        if frame.kind in (HEADERS, CONTINUATION):
            self._header_block_since = None if frame.flags & END_HEADERS else self._header_block_since or self.clock()
        try:
            events = self._h2.receive_data(frame.raw)
        except h2.exceptions.ProtocolError as error:
            self._fail(error.error_code, _Code(error.error_code).name.lower(), told=True)
            return
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def _is_ours(self, frame: Frame) -> bool:
        """Whether a frame was dealt with here, since h2 would end the connection for it."""
        if frame.kind == GOAWAY and not frame.stream_id and len(frame.raw) >= 17:
            self._begin_goaway("client")  # it opens no more streams; those that are open go on
            return True
        if frame.kind == WINDOW_UPDATE and frame.stream_id in self._streams and frame.raw[9:] in _NO_INCREMENT:
            self._blame(frame.stream_id, _Code.PROTOCOL_ERROR)  # a stream error (RFC 9113 section 6.9)
            return True
        return False

    def _count_stray(self, frame: Frame) -> None:
        """Frames for streams that are over come late now and then, but not in numbers. Raises Violation."""
        if frame.kind in (DATA, RST_STREAM) or (
            frame.kind == HEADERS and frame.stream_id <= self._h2.highest_inbound_stream_id
        ):
            self._guard.count_stray(self.clock())

    def _on_request(self, event: h2.events.RequestReceived) -> None:
        stream_id = event.stream_id
        self._requests += 1
        if stream_id > self._last_stream or len(self._streams) >= self._settings.max_streams:
            self._h2.reset_stream(stream_id, _Code.REFUSED_STREAM)
            self._guard.count_reset(self.clock())
            return
        if self._requests >= self._settings.max_requests:
            self._begin_goaway("max_requests")
        ended = event.stream_ended is not None
        try:
            head = parse_h2_head(event.headers, ended=ended)
        except Malformed:
            self._blame(stream_id, _Code.PROTOCOL_ERROR)
            return
        if isinstance(head, RelayError):
            self._refuse(stream_id, head, ended=ended, bodiless=(b":method", b"HEAD") in event.headers)
            return
        stream = H2Stream(self, stream_id, head, self._h2.streams[stream_id])
        self._streams[stream_id] = stream
        self.totals.streams += 1
        self._pending.append(stream)

    def _start_requests(self) -> None:
        pending, self._pending = self._pending, []
        for stream in pending:
            if self.has(stream):
                self._around.open_exchange(stream.request, stream)
                expects = find(stream.request.headers, b"expect") is not None
                if expects and not stream.request_whole and not stream.head_sent:
                    stream.send_interim(ResponseHead(100, []))
                stream.open_body()

    def _on_data(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        length = event.flow_controlled_length
        if stream is None:
            self._h2.acknowledge_received_data(length, event.stream_id)
        elif not stream.receive(event.data, length):
            self._blame(stream.stream_id, _Code.PROTOCOL_ERROR)

    def _on_trailers(self, event: h2.events.TrailersReceived) -> None:
        try:
            check_trailers(event.headers)
        except Malformed:
            self._blame(event.stream_id, _Code.PROTOCOL_ERROR)

    def _on_request_end(self, event: h2.events.StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None and not stream.request_whole and not stream.receive_end():
            self._blame(stream.stream_id, _Code.PROTOCOL_ERROR)

    def _on_reset(self, event: h2.events.StreamReset) -> None:
        if not event.remote_reset:  # h2's own, for what the client did
            self._guard.count_reset(self.clock())
        self._close_stream(event.stream_id, EndReason.CLIENT_GONE)

    def _on_window(self, event: h2.events.WindowUpdated) -> None:
        if event.stream_id:
            stream = self._streams.get(event.stream_id)
            if stream is not None and stream.wants_to_send:
                self.queue(stream)
        elif self._starved:
            self._ready.extendleft(reversed(self._starved))
            self._starved.clear()
            self._schedule_flush()

    def _on_settings(self, event: h2.events.RemoteSettingsChanged) -> None:
        for stream in self._streams.values():  # the initial window may have grown
            if stream.wants_to_send:
                self.queue(stream)

    # --- writing ---------------------------------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what one turn of the event loop brought: h2's frames first, then the streams in turn."""
        self._flush_due = False
        if self.is_over or self._transport.is_closing():
            return
        out = [*self._control, self._h2.data_to_send()]
        self._control.clear()
        size = 0
        ready = self._ready
        while ready and size < WRITE_SIZE and not self._blocked:
            stream = ready.popleft()
            stream.is_queued = False
            if self.has(stream):
                size += self._serve(stream, out)
        data = b"".join(out)
        if data:
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > 4 * WRITE_SIZE:
                self._pause_reading()  # our answers to control frames pile up unread
        if ready and not self._blocked:
            self._schedule_flush()
        if self._last_stream != NO_STREAM_YET and not self._streams and not self._pending:
            self._end_writing()

    def _serve(self, stream: H2Stream, out: list[bytes]) -> int:
        """One frame of one stream, and its end if nothing follows. Returns its size."""
        connection = self._h2
        limit = min(connection.outbound_flow_control_window, connection.max_outbound_frame_size)
        size = stream.frame(limit, out)
        if size:
            connection.outbound_flow_control_window -= size
            self.sent += size
            stream.note_sent(self.sent)
            self._guard.note_sent(size)
        if stream.ending is not None:
            self._finish(stream, out)
        elif stream.window_is_shut:
            stream.note_window_shut()
        elif not stream.wants_to_send:
            pass
        elif limit > 0:
            self.queue(stream)
        else:  # one that was served just now goes behind those that were not
            stream.is_queued = True
            self._starved[stream] = None
        return size

    def _finish(self, stream: H2Stream, out: list[bytes]) -> None:
        stream_id = stream.stream_id
        if stream.ending == "broken":
            self._h2.reset_stream(stream_id, _Code.INTERNAL_ERROR)
        else:
            self._h2.send_end(stream_id, stream.state)
            if not stream.request_whole:  # answered before the upload was over (RFC 9113 section 8.1)
                self._h2.reset_stream(stream_id, _Code.NO_ERROR)
        self._close_stream(stream_id, None)
        if stream.ending != "broken" and stream.events is not None:
            stream.events.on_downstream_finished()
            stream.events = None  # or a cycle would be left to be collected
        out.append(self._h2.data_to_send())

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()
            self._around.hangups.watch(self._fd, self._on_hangup)

    def _resume_reading(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._around.hangups.forget(self._fd, self._on_hangup)
            self._transport.resume_reading()

    # --- ending ----------------------------------------------------------------------------------------------------

    def _refuse(self, stream_id: int, error: RelayError, *, ended: bool, bodiless: bool) -> None:
        """Answer a request that is not served; `bodiless` when it is a HEAD."""
        self._around.observer.request_refused(error, "h2")
        self._h2.answer_at_once(stream_id, error, ended=ended, bodiless=bodiless)

    def _blame(self, stream_id: int, code: _Code) -> None:
        """Reset a stream for what its client did. Raises Violation when that happens too often."""
        self._reset(stream_id, code, EndReason.CLIENT_ERROR)
        self._guard.count_reset(self.clock())

    def _reset(self, stream_id: int, code: _Code, reason: EndReason) -> None:
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # over on both sides already
            self._h2.reset_stream(stream_id, code)
        self._close_stream(stream_id, reason)
        self._schedule_flush()

    def _close_stream(self, stream_id: int, reason: EndReason | None) -> None:
        """Forget a stream; its provider's request is cancelled before its place is free."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        owed = stream.close(reason)
        del self._streams[stream_id]
        self._starved.pop(stream, None)
        self.totals.streams -= 1
        if owed:
            self._h2.acknowledge_received_data(owed, stream_id)
        if not self._streams:
            self._idle_since = self.clock()

    def _drop_all(self, reason: EndReason) -> None:
        self._pending.clear()
        streams, self._streams = self._streams, {}
        self.totals.streams -= len(streams)
        for stream in streams.values():
            stream.close(reason)

    def _fail(self, code: int, reason: str, *, told: bool = False) -> None:
        """End the connection for what the client did; `told`: h2 has its GOAWAY ready."""
        if self.is_over:
            return
        self.totals.goaways[reason] += 1
        self._failed = True
        self._drop_all(EndReason.CLIENT_ERROR)
        out = self._h2.data_to_send()
        if not told:
            out += goaway(self._h2.highest_inbound_stream_id, code, reason)
        self._transport.write(b"".join(self._control) + out)
        self._end_writing()

    def _end_writing(self) -> None:
        """Say nothing more, and go on reading without a look: a close would answer what still comes with a reset, which
        may overtake the last words."""
        self._lingering_since = self.clock()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        elif self._failed:  # TLS has no half-close; its client is not to be waited for
            self._transport.close()

    def _begin_goaway(self, reason: str) -> None:
        """The first of two: no new streams, please. Those under way when it arrives are still served."""
        if self._goaway_at is None:
            self.totals.goaways[reason] += 1
            self._goaway_at = self.clock()
            self._control.append(goaway(NO_STREAM_YET, _Code.NO_ERROR, reason))
            self._schedule_flush()

    def _end_goaway(self) -> None:
        """The second: what comes now is refused."""
        self._last_stream = self._h2.highest_inbound_stream_id
        self._control.append(goaway(self._last_stream, _Code.NO_ERROR))
        self._schedule_flush()

    def _on_hangup(self) -> None:
        self._drop_all(EndReason.CLIENT_GONE)
        self._transport.abort()

    def _sweep_last_words(self, now: float, since: float) -> None:
        if self._transport.get_write_buffer_size() and not self._failed:
            self._lingering_since = now  # the end of an answer is on its way to a slow client
        elif now - since >= LINGER:
            self._transport.abort()

    def _sweep_streams(self, now: float, limit: float | None) -> None:
        buffered = self._transport.get_write_buffer_size()
        moves, self._sent_at_look = self.sent != self._sent_at_look, self.sent
        for stream in list(self._streams.values()):
            # Not its client's fault: what it sent last may be in the transport still, or it waits for its turn there.
            waits = not stream.window_is_shut and (moves or buffered > 0)
            excused = waits or buffered > self.sent - stream.sent_mark
            if limit is not None and stream.stalled_for(now, excused=excused) >= limit:
                self._reset(stream.stream_id, _Code.CANCEL, EndReason.CLIENT_STALLED)
            elif stream.events is not None:
                stream.events.sweep(now)

    def _sweep_connection(self, now: float) -> None:
        settings = self._around.settings
        if self._goaway_at is not None and self._last_stream == NO_STREAM_YET and now - self._goaway_at >= LINGER:
            self._end_goaway()
        late = settings.head_timeout
        if late is not None and self._header_block_since is not None and now - self._header_block_since >= late:
            self._fail(_Code.ENHANCE_YOUR_CALM, "head_timeout")
        elif not self._streams:
            keep = settings.keepalive_timeout if self._seen_settings else late
            if keep is not None and now - self._idle_since >= keep:
                self._fail(_Code.NO_ERROR, "idle")
        else:
            self._sweep_liveness(now)

    def _sweep_liveness(self, now: float) -> None:
        # A ping would stand behind what waits; whether that moves is `StallWatch`'s to see.
        if self._liveness.is_due(now, busy=self._transport.get_write_buffer_size() > 0):
            self._h2.ping(b"flowserv")
            self._schedule_flush()
        elif self._liveness.is_unanswered(now):
            if unacknowledged(self._fd) == 0:
                self._liveness.excuse(now)  # its host has the ping: it is there, and its program does not read now
            else:
                self._drop_all(EndReason.CLIENT_GONE)
                self._transport.abort()


_NO_INCREMENT = (b"\0\0\0\0", b"\x80\0\0\0")
_HANDLERS: dict[type, Any] = {
    h2.events.RequestReceived: DownstreamH2._on_request,
    h2.events.DataReceived: DownstreamH2._on_data,
    h2.events.TrailersReceived: DownstreamH2._on_trailers,
    h2.events.StreamEnded: DownstreamH2._on_request_end,
    h2.events.StreamReset: DownstreamH2._on_reset,
    h2.events.WindowUpdated: DownstreamH2._on_window,
    h2.events.RemoteSettingsChanged: DownstreamH2._on_settings,
}
