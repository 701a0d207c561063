"""Dispatches a client's frames: requests, bodies, window updates, resets.

The usual frames of a request are applied to h2's state directly, since h2's frame and event objects take 43 us for a
small request. h2 reads all other frames, except those for which it would end the connection.
"""

from __future__ import annotations

from typing import Protocol

import h2.exceptions
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from ..errors import EndReason
from ..http.h2_flood_guard import FrameGuard
from ..http.h2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITIZED,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    increment_of,
)
from ..http.h2_request_head import Malformed, check_trailers
from ..http.h2_server_state import ServerState
from ..http.messages import Headers
from ..relay.interfaces import Clock
from .h2_leftover import LeftoverUploads
from .h2_stream import H2Stream


class FrameReceiver(Protocol):
    """The connection, which receives the meaning of the frames. Its methods may raise Violation if the client
    floods."""

    clock: Clock
    streams: dict[int, H2Stream]
    """Open streams by id."""
    leftovers: LeftoverUploads

    @property
    def is_over(self) -> bool:
        """Whether further frames are ignored."""

    def begin_request(self, stream_id: int, fields: Headers, *, ended: bool) -> None:
        """A request's head was received; `ended`: without a body."""

    def drop_data(self, stream_id: int, length: int) -> None:
        """Body bytes were received for a stream that is over."""

    def close_stream(self, stream_id: int, reason: EndReason | None) -> None: ...

    def reset_stream(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream because of its client."""

    def queue(self, stream: H2Stream) -> None:
        """The stream may be able to send now."""

    def serve_starved(self) -> None:
        """The connection's window was opened."""

    def release_all(self) -> None:
        """Return what streams have reserved of their windows."""

    def begin_goaway(self, reason: str) -> None: ...

    def fail(self, code: int, reason: str, *, goaway_sent: bool = False) -> None:
        """End the connection because of the client."""


class FrameReader:
    """Reads the frames of one connection and calls its methods."""

    __slots__ = ("_connection", "_guard", "_preface", "_state", "_streams", "header_block_since", "seen_settings")
    __deletable__ = ("_connection",)

    def __init__(self, connection: FrameReceiver, guard: FrameGuard, state: ServerState) -> None:
        self._connection = connection
        self._guard = guard
        self._state = state
        self._streams = connection.streams
        self._preface = b""
        self.seen_settings = False
        self.header_block_since: float | None = None
        """When an unfinished header block began."""

    def feed(self, data: bytes, now: float) -> None:
        """Handle the bytes of one read. Raises Violation."""
        if len(self._preface) < len(PREFACE):
            data = self._receive_preface(data)
        for frame in self._guard.frames(data, now):
            self._receive(frame)
            if self._connection.is_over:
                return

    def let_go(self) -> None:
        """Nothing more is read. Breaks a reference cycle."""
        del self._connection

    def _receive_preface(self, data: bytes) -> bytes:
        """Collect the preface. Returns the bytes after it; b"" until then, and if it is wrong."""
        missing = len(PREFACE) - len(self._preface)
        self._preface += data[:missing]
        if not PREFACE.startswith(self._preface):
            self._connection.fail(ErrorCodes.PROTOCOL_ERROR, "no_preface")
            return b""
        if len(self._preface) == len(PREFACE):
            self._state.receive_data(PREFACE)
        return data[missing:]

    def _receive(self, frame: Frame) -> None:
        if not self.seen_settings:
            if frame.kind != SETTINGS:
                self._connection.fail(ErrorCodes.PROTOCOL_ERROR, "no_settings")
                return
            self.seen_settings = True
        if self.header_block_since is not None or not self._receive_by_hand(frame):
            self._receive_by_h2(frame)

    # --- by hand ---------------------------------------------------------------------------------------------------

    def _receive_by_hand(self, frame: Frame) -> bool:
        """Whether the frame was handled. Only to be called between header blocks."""
        kind = frame.kind
        if kind == HEADERS:
            return self._receive_head(frame)
        if kind == DATA:
            return self._receive_data(frame)
        if kind == GOAWAY and not frame.stream_id and len(frame.raw) >= 17:
            self._connection.begin_goaway("client")  # the client opens no more streams; open ones continue
            return True
        if kind == WINDOW_UPDATE:
            return self._receive_window_update(frame)
        return False

    def _receive_head(self, frame: Frame) -> bool:
        _, flags, stream_id, raw = frame
        if flags & (END_HEADERS | PADDED | PRIORITIZED) != END_HEADERS or not self._state.begins(stream_id):
            return False
        ended = flags & END_STREAM != 0
        try:
            fields = self._state.receive_head(stream_id, raw[9:], ended=ended)
        except h2.exceptions.ProtocolError as error:
            self._fail(error)
        else:
            self._connection.begin_request(stream_id, fields, ended=ended)
        return True

    def _receive_data(self, frame: Frame) -> bool:
        _, flags, stream_id, raw = frame
        stream = self._streams.get(stream_id)
        if stream is None or flags & PADDED or not stream.state.takes_body:
            return False
        data = raw[9:]
        ended = flags & END_STREAM != 0
        try:
            self._state.receive_body(stream.state, len(data), ended=ended)
        except h2.exceptions.ProtocolError as error:
            self._fail(error)
        else:
            self._pass_body(stream, data, len(data))
            if ended:
                self._end_request(stream_id)
        return True

    def _receive_window_update(self, frame: Frame) -> bool:
        increment = increment_of(frame)
        if increment is None:
            return False
        if frame.stream_id:
            stream = self._streams.get(frame.stream_id)
            if stream is not None:
                self._open_stream_window(stream, increment)
            return stream is not None
        if increment:
            self._open_window(increment)
        return increment > 0

    def _open_window(self, increment: int) -> None:
        try:
            self._state.update_window(increment)
        except h2.exceptions.FlowControlError as error:
            self._fail(error)
        else:
            self._connection.serve_starved()

    def _open_stream_window(self, stream: H2Stream, increment: int) -> None:
        if not increment:  # a stream error (RFC 9113 section 6.9)
            self._connection.reset_stream(stream.stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        try:
            self._state.send_windows.update_stream(stream.window, increment)
        except h2.exceptions.FlowControlError:
            self._connection.reset_stream(stream.stream_id, ErrorCodes.FLOW_CONTROL_ERROR)
        else:
            if stream.wants_to_send:
                self._connection.queue(stream)

    # --- by h2 -----------------------------------------------------------------------------------------------------

    def _receive_by_h2(self, frame: Frame) -> None:
        now = self._connection.clock
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            if frame.stream_id not in self._connection.leftovers:
                self._count_stray(frame)
        elif frame.kind == RST_STREAM and stream.is_fresh:
            self._guard.count_reset(now())
        if frame.kind in (HEADERS, CONTINUATION, PUSH_PROMISE):
            self.header_block_since = None if frame.flags & END_HEADERS else self.header_block_since or now()
        try:
            events = self._state.receive_data(frame.raw)
        except h2.exceptions.ProtocolError as error:
            self._fail(error)
            return
        for event in events:
            self._on_event(event)

    def _count_stray(self, frame: Frame) -> None:
        """Count a frame for a stream that is over: a few may cross its end, not many. Raises Violation."""
        if frame.kind in (DATA, RST_STREAM) or (
            frame.kind == HEADERS and frame.stream_id <= self._state.highest_inbound_stream_id
        ):
            self._guard.count_late(len(frame.raw) - 9, self._connection.clock())

    def _on_event(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._connection.begin_request(event.stream_id, event.headers, ended=event.stream_ended is not None)
            case DataReceived():
                self._on_data(event)
            case TrailersReceived():
                self._on_trailers(event)
            case StreamEnded():
                self._end_request(event.stream_id)
            case StreamReset():
                self._on_reset(event)
            case RemoteSettingsChanged():
                self._on_settings()

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            self._connection.drop_data(event.stream_id, event.flow_controlled_length)
        else:
            self._pass_body(stream, event.data, event.flow_controlled_length)

    def _on_trailers(self, event: TrailersReceived) -> None:
        try:
            check_trailers(event.headers)
        except Malformed:
            self._connection.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _on_reset(self, event: StreamReset) -> None:
        if not event.remote_reset:  # h2's own, because of the client
            self._guard.count_reset(self._connection.clock())
        self._connection.leftovers.remove(event.stream_id)
        self._connection.close_stream(event.stream_id, EndReason.CLIENT_GONE)

    def _on_settings(self) -> None:
        self._connection.release_all()  # the initial window may be smaller now
        for stream in self._streams.values():  # or larger
            if stream.wants_to_send:
                self._connection.queue(stream)

    # --- both ------------------------------------------------------------------------------------------------------

    def _pass_body(self, stream: H2Stream, data: bytes, length: int) -> None:
        if not stream.receive(data, length):
            self._connection.reset_stream(stream.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _end_request(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._connection.leftovers.remove(stream_id)
        elif not stream.request_whole and not stream.receive_end():
            self._connection.reset_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _fail(self, error: h2.exceptions.ProtocolError) -> None:
        self._connection.fail(error.error_code, ErrorCodes(error.error_code).name.lower(), goaway_sent=True)
