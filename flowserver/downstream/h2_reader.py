"""What a client's frames are for: they open requests, bring bodies, open windows, reset.

The usual frames of a request go to h2's state by hand: its frame and event objects take 43 us for a small request.
Every other frame is h2's to read, but for those that it would end the connection for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h2.errors
import h2.events
import h2.exceptions

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
)
from ..http.h2_request_head import Malformed, check_trailers
from ..http.h2_server_state import ClientState
from .h2_stream import H2Stream

if TYPE_CHECKING:
    from .h2 import DownstreamH2

_Code = h2.errors.ErrorCodes
_NO_INCREMENT = (b"\0\0\0\0", b"\x80\0\0\0")


class FrameReader:
    """Reads for one connection, and tells it what came."""

    __slots__ = ("_connection", "_guard", "_preface", "_state", "_streams", "header_block_since", "seen_settings")
    __deletable__ = ("_connection",)

    def __init__(self, connection: DownstreamH2, guard: FrameGuard, state: ClientState) -> None:
        self._connection = connection
        self._guard = guard
        self._state = state
        self._streams = connection.streams
        self._preface = b""
        self.seen_settings = False
        self.header_block_since: float | None = None
        """When a header block began whose end is still to come."""

    def feed(self, data: bytes, now: float) -> None:
        """Bytes of one read. Raises Violation."""
        if len(self._preface) < len(PREFACE):
            data = self._receive_preface(data)
        for frame in self._guard.frames(data, now):
            self._receive(frame)
            if self._connection.is_over:
                return

    def let_go(self) -> None:
        """Nothing more is read, and no cycle is left to be collected."""
        del self._connection

    def _receive_preface(self, data: bytes) -> bytes:
        """Collect the preface. Returns what follows it; b"" until then, and when it is none."""
        missing = len(PREFACE) - len(self._preface)
        self._preface += data[:missing]
        if not PREFACE.startswith(self._preface):
            self._connection.fail(_Code.PROTOCOL_ERROR, "no_preface")
            return b""
        if len(self._preface) == len(PREFACE):
            self._state.receive_data(PREFACE)
        return data[missing:]

    def _receive(self, frame: Frame) -> None:
        if not self.seen_settings:
            if frame.kind != SETTINGS:
                self._connection.fail(_Code.PROTOCOL_ERROR, "no_settings")
                return
            self.seen_settings = True
        if self.header_block_since is not None or not self._receive_by_hand(frame):
            self._receive_by_h2(frame)

    # --- by hand ---------------------------------------------------------------------------------------------------

    def _receive_by_hand(self, frame: Frame) -> bool:
        """Whether a frame was dealt with, between header blocks."""
        kind = frame.kind
        if kind == HEADERS:
            return self._receive_head(frame)
        if kind == DATA:
            return self._receive_data(frame)
        if kind == GOAWAY and not frame.stream_id and len(frame.raw) >= 17:
            self._connection.begin_goaway("client")  # it opens no more streams; those that are open go on
            return True
        if kind == WINDOW_UPDATE and frame.stream_id in self._streams and frame.raw[9:] in _NO_INCREMENT:
            self._connection.reset_stream(
                frame.stream_id, _Code.PROTOCOL_ERROR
            )  # a stream error (RFC 9113 section 6.9)
            return True
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
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def _count_stray(self, frame: Frame) -> None:
        """Frames for streams that are over come late now and then, but not in numbers. Raises Violation."""
        if frame.kind in (DATA, RST_STREAM) or (
            frame.kind == HEADERS and frame.stream_id <= self._state.highest_inbound_stream_id
        ):
            self._guard.count_late(len(frame.raw) - 9, self._connection.clock())

    def _on_request(self, event: h2.events.RequestReceived) -> None:
        self._connection.begin_request(event.stream_id, event.headers, ended=event.stream_ended is not None)

    def _on_data(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            self._connection.drop_data(event.stream_id, event.flow_controlled_length)
        else:
            self._pass_body(stream, event.data, event.flow_controlled_length)

    def _on_trailers(self, event: h2.events.TrailersReceived) -> None:
        try:
            check_trailers(event.headers)
        except Malformed:
            self._connection.reset_stream(event.stream_id, _Code.PROTOCOL_ERROR)

    def _on_request_end(self, event: h2.events.StreamEnded) -> None:
        self._end_request(event.stream_id)

    def _on_reset(self, event: h2.events.StreamReset) -> None:
        if not event.remote_reset:  # h2's own, for what the client did
            self._guard.count_reset(self._connection.clock())
        self._connection.leftovers.remove(event.stream_id)
        self._connection.close_stream(event.stream_id, EndReason.CLIENT_GONE)

    def _on_window(self, event: h2.events.WindowUpdated) -> None:
        if not event.stream_id:
            self._connection.serve_starved()
            return
        stream = self._streams.get(event.stream_id)
        if stream is not None and stream.wants_to_send:
            self._connection.queue(stream)

    def _on_settings(self, event: h2.events.RemoteSettingsChanged) -> None:
        self._connection.recall()  # the initial window may be smaller now
        for stream in self._streams.values():  # or larger
            if stream.wants_to_send:
                self._connection.queue(stream)

    # --- both ------------------------------------------------------------------------------------------------------

    def _pass_body(self, stream: H2Stream, data: bytes, length: int) -> None:
        if not stream.receive(data, length):
            self._connection.reset_stream(stream.stream_id, _Code.PROTOCOL_ERROR)

    def _end_request(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._connection.leftovers.remove(stream_id)
        elif not stream.request_whole and not stream.receive_end():
            self._connection.reset_stream(stream_id, _Code.PROTOCOL_ERROR)

    def _fail(self, error: h2.exceptions.ProtocolError) -> None:
        self._connection.fail(error.error_code, _Code(error.error_code).name.lower(), goaway_sent=True)


_HANDLERS: dict[type, Any] = {
    h2.events.RequestReceived: FrameReader._on_request,
    h2.events.DataReceived: FrameReader._on_data,
    h2.events.TrailersReceived: FrameReader._on_trailers,
    h2.events.StreamEnded: FrameReader._on_request_end,
    h2.events.StreamReset: FrameReader._on_reset,
    h2.events.WindowUpdated: FrameReader._on_window,
    h2.events.RemoteSettingsChanged: FrameReader._on_settings,
}
