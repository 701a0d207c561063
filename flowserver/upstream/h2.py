"""An HTTP/2 connection to a provider: many streams, each with its own window.

The shared socket is always read, a bounded piece in each iteration of the event loop; `h2_flood_guard` counts the
frames that floods are made of. A lagging client withholds only its stream's window: the connection is credited on
receipt, the stream as its bytes are consumed. DATA frames are read here and never reach h2, which takes 9.1 us to
receive and acknowledge one; it is told of their end. GOAWAY does not reach it either, since open streams continue.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import Protocol, cast

import h2.exceptions
from h2.errors import ErrorCodes
from h2.events import (
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from ..errors import EndReason, RelayError, upstream_error
from ..flow.bounded_buffer import Watermarks
from ..http.h2_client_state import ClientState
from ..http.h2_flood_guard import PROVIDER, TINY, FrameGuard, H2Limits, Violation
from ..http.h2_frames import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    RST_STREAM,
    WINDOW_UPDATE,
    Frame,
    FrameTooLong,
    data_of,
    end_of_stream,
    goaway,
    increment_of,
    window_update,
)
from ..http.messages import Headers, RequestHead
from ..net.read_pause import ReadPause
from ..net.sockets import IdleProbe, round_trip
from ..relay.interfaces import Clock, UpstreamEvents
from .h2_stream import H2Stream
from .receive_window import StreamWindow, StreamWindows

CONNECTION_WINDOW = 16 * 1024 * 1024
"""Above the sum of the stream windows, so that no stream holds up another."""
MAX_STREAMS = 1000
"""Most streams on one connection, if its provider allows so many."""
FIRST_STREAMS = 100
"""Streams before the provider's SETTINGS arrive: the least that RFC 9113 section 6.5.2 recommends. More may be
refused."""
READ_SIZE = 64 * 1024
_READ_BUFFER = memoryview(bytearray(READ_SIZE))
"""The buffer that all connections read into: data is copied out before the next read."""
WRITE_MARK = 64 * 1024
LINGER = 1.0
"""Seconds for the last bytes of a broken connection to arrive."""
LAST_STREAM_ID = 2**30
"""A connection beyond this stream id is not used for new requests."""

_ANSWERS, _TURN, _OVER = 1, 2, 4
"""Why a provider is not read: it does not read our answers to its pings and the like; one iteration of the event loop
was too short for what was read; or the connection is broken."""


class Phase(Enum):
    """Phases of a connection, in their order."""

    OPEN = "open"
    LEAVING = "leaving"
    """The provider sent a GOAWAY: it accepts no new requests, but answers those under way."""
    BROKEN = "broken"
    """Its requests have failed. A GOAWAY to the provider may still be on its way."""


class H2Owner(Protocol):
    """Owns the connection and gives it requests."""

    def on_capacity(self, connection: UpstreamH2) -> None:
        """`capacity` has changed."""

    def on_lost(self, connection: UpstreamH2) -> None:
        """It is closed."""


class UpstreamH2(asyncio.BufferedProtocol):
    """A connection to a provider, for many requests at once."""

    __slots__ = (
        "_blocked",
        "_broken_at",
        "_clock",
        "_control",
        "_flush_due",
        "_guard",
        "_h2",
        "_heard",
        "_loop",
        "_owed",
        "_owner",
        "_phase",
        "_ping_interval",
        "_ping_sent_at",
        "_quiet_since",
        "_reads",
        "_ready",
        "_scheme",
        "_settings_known",
        "_splitter",
        "_stream_windows",
        "_streams",
        "_watch",
        "_windows_opened",
        "served",
        "transport",
        "watermarks",
        "windows",
    )

    def __init__(
        self,
        owner: H2Owner,
        watermarks: Watermarks,
        *,
        stream_windows: StreamWindows,
        ping_interval: float | None,
        clock: Clock,
        limits: H2Limits = PROVIDER,
    ) -> None:
        self._owner = owner
        self.watermarks = watermarks
        self._stream_windows = stream_windows
        self._ping_interval = ping_interval
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._h2 = ClientState()
        self.windows = self._h2.send_windows
        self._guard = FrameGuard(limits)
        self._splitter = self._guard.splitter
        self._streams: dict[int, H2Stream] = {}
        self._ready: list[H2Stream] = []
        self._control: list[bytes] = []
        """Frames to send that bypass h2."""
        self._owed = 0
        """Received bytes not yet credited to the connection's window."""
        self._flush_due = False
        self._blocked = False
        self._windows_opened = False
        """Whether uploads that waited for a window may continue."""
        self._phase = Phase.OPEN
        self._broken_at = 0.0
        self._settings_known = False
        self._heard = False
        self._quiet_since = clock()
        self._ping_sent_at: float | None = None
        self.served = 0
        """Requests begun."""

    def __repr__(self) -> str:
        requests = f"streams={len(self._streams)} served={self.served}"
        waiting = f"ready={len(self._ready)} blocked={self._blocked}"
        return f"<UpstreamH2 {self._phase.value} {requests} {waiting} {self.windows}>"

    # --- for the pool ----------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Requests that it can begin now."""
        if self._phase is not Phase.OPEN or self.transport.is_closing():
            return 0
        if self._h2.highest_outbound_stream_id > LAST_STREAM_ID:
            return 0
        most = MAX_STREAMS if self._settings_known else FIRST_STREAMS
        limit = min(self._h2.remote_settings.max_concurrent_streams, most)
        return max(0, int(limit) - len(self._streams))

    @property
    def busy(self) -> int:
        """Requests under way."""
        return len(self._streams)

    is_wide = False  # each stream has its own window

    def begin(self, request: RequestHead, events: UpstreamEvents) -> H2Stream:
        """Send a request's head; `events` gets its response. Only while there is capacity."""
        state = self._h2.begin_request(_fields(request, self._scheme))
        stream = H2Stream(self, state, request, events)
        if request.awaits_whole and self._stream_windows.flow is not None:
            self._h2.increment_flow_control_window(stream.begin_wide(), stream.stream_id)
        self._streams[stream.stream_id] = stream
        self.served += 1
        self._schedule_flush()
        return stream

    def is_alive(self) -> bool:
        """Whether it can be used. The provider's FIN may wait in the kernel, not yet read."""
        return (
            self._phase is not Phase.BROKEN
            and not self.transport.is_closing()
            and self._watch.is_reusable(again=self.served > 0)
        )

    def close(self) -> None:
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """Ping a provider that has been silent for long while requests are open."""
        if self._phase is Phase.BROKEN:
            if now - self._broken_at >= LINGER:
                self.transport.abort()
        elif self._heard or self._ping_interval is None or not self._streams:
            self._heard = False
            self._quiet_since = now
            self._ping_sent_at = None
        elif self._ping_sent_at is None:
            if now - self._quiet_since >= self._ping_interval:
                self._ping_sent_at = now
                self._h2.ping(b"flowserv")
                self._schedule_flush()
        elif now - self._ping_sent_at >= self._ping_interval:
            self._fail("no longer answers (no PING came back)")

    # --- for the streams -------------------------------------------------------------------------------------------

    def queue(self, stream: H2Stream) -> None:
        if not stream.is_queued:
            stream.is_queued = True
            self._ready.append(stream)
            self._schedule_flush()

    def receive_window(self) -> StreamWindow:
        return self._stream_windows.open()

    @property
    def distance(self) -> float:
        return round_trip(self.transport.get_extra_info("socket"))

    def control(self, frame: bytes) -> None:
        self._control.append(frame)
        self._schedule_flush()

    def carries(self, stream: H2Stream) -> bool:
        """Whether `stream` is still under way."""
        return self._streams.get(stream.stream_id) is stream

    def drop(self, stream: H2Stream) -> None:
        if not self._forget(stream):
            return
        self._reset(stream, ErrorCodes.CANCEL)
        self._check_retired()
        self._owner.on_capacity(self)

    # --- asyncio.BufferedProtocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._reads = ReadPause(self.transport)
        self._watch = IdleProbe(transport, silent=False)
        self._scheme = b"http" if transport.get_extra_info("ssl_object") is None else b"https"
        self.transport.set_write_buffer_limits(high=WRITE_MARK, low=0)
        self._h2.open(stream_window=self._stream_windows.size, connection_window=CONNECTION_WINDOW)
        self._schedule_flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = True
        self._take_in(bytes(_READ_BUFFER[:nbytes]))
        if self._splitter.left <= 0 and not self._reads.reasons & _TURN:
            self._reads.pause(_TURN)
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Handle more of what was read, in the next iteration."""
        if self._phase is Phase.BROKEN or self.transport.is_closing():
            return
        self._splitter.rest()
        self._take_in(b"")
        if self._splitter.left > 0:
            self._reads.resume(_TURN)
        else:
            self._loop.call_soon(self._go_on)

    def _take_in(self, data: bytes) -> None:
        """Handle what was read, as far as one iteration allows."""
        try:
            for frame in self._guard.split(data):
                if frame.kind == DATA:
                    self._receive_data(frame)
                else:
                    self._guard.count(frame, self._clock())
                    self._receive(frame)
                if self.transport.is_closing():
                    return
        except FrameTooLong:
            self._fail("sent a frame that is too long")
        except Violation as violation:
            self._fail(f"flooded its connection ({violation.reason})", violation.code)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.on_lost(self)
        self._fail("closed the connection")
        self._h2.let_go()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._reads.resume(_ANSWERS)
        self._schedule_flush()

    # --- reading ---------------------------------------------------------------------------------------------------

    def _receive_data(self, frame: Frame) -> None:
        """The path of every token."""
        length = len(frame.raw) - 9
        self._owed += length
        if self._owed * 2 >= CONNECTION_WINDOW:
            self.control(window_update(0, self._owed))
            self._owed = 0
        if length < TINY or frame.flags & PADDED:
            self._guard.count_data(frame, self._clock())
        stream = self._streams.get(frame.stream_id)
        if stream is None:  # the relay dropped it; its bytes are credited anyway
            self._guard.count_late(length, self._clock())
            return
        data = data_of(frame)
        if data is None:
            self._fail("sent a malformed frame")
            return
        wrong = stream.receive_data(data, length)
        if wrong is not None:
            self._fail_stream(stream, wrong, ErrorCodes.PROTOCOL_ERROR)
        elif frame.flags & END_STREAM and frame.stream_id in self._streams:
            self._feed(end_of_stream(frame.stream_id))

    def _receive(self, frame: Frame) -> None:
        if frame.kind == GOAWAY and not frame.stream_id and len(frame.raw) >= 17:
            self._on_goaway(int.from_bytes(frame.raw[9:13], "big") & 0x7FFFFFFF)
            return
        if frame.kind == WINDOW_UPDATE and self._receive_window_update(frame):
            self._schedule_flush()
            return
        if frame.kind in (HEADERS, RST_STREAM) and frame.stream_id not in self._streams:
            self._guard.count_late(len(frame.raw) - 9, self._clock())
        self._feed(frame.raw)

    def _receive_window_update(self, frame: Frame) -> bool:
        """Whether the frame was handled: for the connection or for a stream under way, and well-formed."""
        increment = increment_of(frame)
        if not increment:
            return False
        if frame.stream_id:
            stream = self._streams.get(frame.stream_id)
            if stream is not None:
                self._open_stream_window(stream, increment)
            return stream is not None
        try:
            self.windows.update(increment)
        except h2.exceptions.FlowControlError as error:
            self._fail(f"broke HTTP/2: {error}")
        self._windows_opened = True
        return True

    def _open_stream_window(self, stream: H2Stream, increment: int) -> None:
        try:
            self.windows.update_stream(stream.window, increment)
        except h2.exceptions.FlowControlError:
            self._fail_stream(stream, "opened a window beyond its limit", ErrorCodes.FLOW_CONTROL_ERROR)
        else:
            if stream.wants_to_send:
                self.queue(stream)

    def _feed(self, raw: bytes) -> None:
        try:
            events = self._h2.receive_data(raw)
        except h2.exceptions.ProtocolError as error:
            self._fail(f"broke HTTP/2: {error}")
            return
        for event in events:
            self._on_event(event)
        self._schedule_flush()

    def _on_event(self, event: Event) -> None:
        match event:
            case ResponseReceived() | InformationalResponseReceived():
                self._on_head(event)
            case StreamEnded():
                self._on_end(event)
            case StreamReset():
                self._on_reset(event)
            case RemoteSettingsChanged():
                self._on_settings()
            case RequestReceived():
                self._fail("opened a stream of its own")  # and push is off

    def _on_head(self, event: ResponseReceived | InformationalResponseReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            wrong = stream.receive_head(event.headers)
            if wrong is not None:
                self._fail_stream(stream, wrong, ErrorCodes.PROTOCOL_ERROR)

    def _on_end(self, event: StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if stream.is_whole:
            stream.events.on_upstream_end()
        else:
            self._fail_stream(stream, "ended its answer before it was complete", ErrorCodes.PROTOCOL_ERROR)

    def _on_reset(self, event: StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        refused = event.error_code == ErrorCodes.REFUSED_STREAM  # RFC 9113 section 8.7: it was not begun
        self._end_stream(stream, "refused the request" if refused else "reset the request", not_processed=refused)

    def _on_settings(self) -> None:
        self._settings_known = True
        self._windows_opened = True
        self._owner.on_capacity(self)

    def _on_goaway(self, last_stream: int) -> None:
        """No new streams; those above `last_stream` were not begun (RFC 9113 section 6.8); the others continue."""
        self._phase = Phase.LEAVING
        self._owner.on_capacity(self)
        for stream in list(self._streams.values()):
            if stream.stream_id > last_stream:
                self._end_stream(stream, "is going away and did not begin the request", not_processed=True)
        self._check_retired()

    def _check_retired(self) -> None:
        if self._phase is Phase.LEAVING and not self._streams:
            self.transport.close()

    # --- writing ---------------------------------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what is queued, at the end of an iteration of the event loop."""
        self._flush_due = False
        if self._phase is Phase.BROKEN or self.transport.is_closing():
            return
        if self._windows_opened:
            self._windows_opened = False
            for stream in self._streams.values():
                if stream.wants_to_send:
                    self.queue(stream)
        # A stream's window is credited before it is reset: nothing may follow a reset (RFC 9113 section 5.1).
        out = [*self._control, self._h2.data_to_send()]
        self._control.clear()
        ready, self._ready = self._ready, []
        left = 0 if self._blocked else WRITE_MARK
        for stream in ready:
            if left <= 0:
                self._ready.append(stream)
                continue
            stream.is_queued = False
            if self.carries(stream):
                left -= self._serve(stream, out)
        if self._ready and not self._blocked:
            self._schedule_flush()
        data = b"".join(out)
        if data:
            self.transport.write(data)
            if self.transport.get_write_buffer_size() > 4 * WRITE_MARK:
                self._reads.pause(_ANSWERS)

    def _serve(self, stream: H2Stream, out: list[bytes]) -> int:
        """Append one frame of one request's body, and its end if nothing follows. Returns the frame's size."""
        connection = self._h2
        size = stream.frame(connection.max_outbound_frame_size, out)
        if self.carries(stream):  # resuming the upload may have ended it
            if stream.take_end():
                connection.end_stream(stream.stream_id)
                out.append(connection.data_to_send())
            elif size and stream.wants_to_send:
                self.queue(stream)
        if size:
            self._guard.note_sent(size, whole=not stream.wants_to_send)
        return size

    # --- failing ---------------------------------------------------------------------------------------------------

    def _fail_stream(self, stream: H2Stream, what: str, code: ErrorCodes) -> None:
        """Reset one broken stream; the others continue."""
        self._reset(stream, code)
        self._end_stream(stream, what)

    def _reset(self, stream: H2Stream, code: ErrorCodes) -> None:
        """Reset a stream unless it is over on both sides. As much as its window allows may still arrive."""
        if stream.state.closed:
            return
        self._guard.expect_late(stream.may_come)
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.reset_stream(stream.stream_id, code)
        self._schedule_flush()

    def _end_stream(self, stream: H2Stream, what: str, *, not_processed: bool = False) -> None:
        if not self._forget(stream):
            return  # it was ended by the end of another stream
        self._owner.on_capacity(self)
        stream.events.on_upstream_failed(_broken(what, not_processed=not_processed))

    def _forget(self, stream: H2Stream) -> bool:
        """The stream is over. Returns False if it was over before."""
        if self._streams.pop(stream.stream_id, None) is None:
            return False
        self.windows.close(stream.stream_id)
        return True

    def _fail(self, what: str, code: int | None = None) -> None:
        """The connection is broken, with all its streams. `code` is sent to the provider first."""
        if self._phase is Phase.BROKEN:
            return
        self._phase = Phase.BROKEN
        self._broken_at = self._clock()
        if code is None:
            self.transport.abort()
        else:
            self._say_goodbye(code)
        streams, self._streams = self._streams, {}
        error = _broken(what)  # the same error for all counts as one failure of the provider
        for stream in streams.values():
            stream.events.on_upstream_failed(error)

    def _say_goodbye(self, code: int) -> None:
        """Send a GOAWAY; `sweep` closes once it has arrived. Nothing more is read: the provider sent too much."""
        self._reads.pause(_OVER)
        self.transport.write(goaway(0, code))


def _broken(what: str, *, not_processed: bool = False) -> RelayError:
    reason = EndReason.UPSTREAM_FAILED
    return upstream_error(reason.value, f"The provider {what}.", reason, not_processed=not_processed)


def _fields(request: RequestHead, scheme: bytes) -> Headers:
    """Returns the head's fields in HTTP/2: host becomes :authority (RFC 9113 section 8.3.1)."""
    authority = b""
    fields: Headers = []
    for name, value in request.headers:
        if name == b"host":
            authority = value
        else:
            fields.append((name, value))
    if request.content_length is not None:
        fields.append((b"content-length", b"%d" % request.content_length))
    return [
        (b":method", request.method),
        (b":scheme", scheme),
        (b":authority", authority),
        (b":path", request.target),
        *fields,
    ]
