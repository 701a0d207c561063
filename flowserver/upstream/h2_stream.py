"""One request and its answer on an HTTP/2 connection to a provider, with its own window."""

from __future__ import annotations

import re
from typing import Protocol

from ..errors import RelayError
from ..flow.bounded_buffer import ChunkQueue, Watermarks
from ..flow.drain_rate import DrainRate
from ..http.h2_client_state import ClientStream
from ..http.h2_frames import data_head, data_tail, window_update
from ..http.h2_send_window import SendWindows
from ..http.messages import Headers, RequestHead, ResponseHead, has_no_body
from ..relay.interfaces import UpstreamEvents
from .receive_window import WHOLE_WINDOW, StreamWindow

MAX_HEADERS = 200
MAX_INTERIM = 10
"""1xx responses before the final one; a provider that sends more is broken."""

_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class StreamConnection(Protocol):
    """The connection, as far as its streams use it."""

    watermarks: Watermarks
    windows: SendWindows
    served: int
    """Requests begun."""

    def receive_window(self) -> StreamWindow:
        """The window of a new stream."""

    @property
    def distance(self) -> float:
        """Round trip to the provider in seconds; 0 if unknown. Costs a system call."""

    def queue(self, stream: H2Stream) -> None:
        """The stream has something to send."""

    def control(self, frame: bytes) -> None:
        """Send a frame that bypasses h2."""

    def carries(self, stream: H2Stream) -> bool:
        """Whether `stream` is still under way."""

    def drop(self, stream: H2Stream) -> None:
        """Reset the stream unless it is over."""


class H2Stream:
    """A `relay.interfaces.UpstreamStream`. Chunks of an upload wait here until the connection's next write."""

    __slots__ = (
        "_bodiless",
        "_body_left",
        "_buffer",
        "_connection",
        "_end_waits",
        "_frame_tail",
        "_full",
        "_interim",
        "_reading",
        "_receive_window",
        "events",
        "head_received",
        "is_queued",
        "request_ended",
        "reused",
        "state",
        "stream_id",
        "window",
    )

    def __init__(
        self, connection: StreamConnection, state: ClientStream, request: RequestHead, events: UpstreamEvents
    ) -> None:
        self._connection = connection
        self.state = state
        self.stream_id: int = state.stream_id
        self.window = connection.windows.open(self.stream_id)
        self.events = events
        self.head_received = False
        self.request_ended = False
        self.is_queued = False
        self._bodiless = request.method == b"HEAD"
        self._body_left: int | None = None
        """Missing bytes of an announced length; None if none was announced."""
        self._buffer = ChunkQueue()
        self._end_waits = False
        self._frame_tail = data_tail(self.stream_id)
        self._full = False
        self._interim = 0
        self._reading = True
        self._receive_window = connection.receive_window()
        self.reused = connection.served > 0

    def __repr__(self) -> str:
        phase = "open" if self._connection.carries(self) else "over"
        progress = f"request_ended={self.request_ended} head_received={self.head_received}"
        held = f"held={self._buffer.size} window={self.window.left} reading={self._reading}"
        return f"<H2Stream {self.stream_id} {phase} {progress} {held}>"

    # --- relay.interfaces.UpstreamStream ---

    def send_data(self, data: bytes) -> None:
        self._buffer.push(data)
        self._connection.queue(self)
        if not self._full and self._connection.watermarks.are_reached(self._buffer.size, len(self._buffer)):
            self._full = True
            self.events.on_upstream_full()

    def send_end(self) -> None:
        self._end_waits = True
        self._connection.queue(self)

    @property
    def is_full(self) -> bool:
        return self._full

    def pause_reading(self) -> None:
        """Withhold the window: the provider may send what it has been granted, but no more."""
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._credit()

    def keep_pace(self, pace: DrainRate) -> None:
        self._receive_window.keep_pace(pace, self._distance())

    def cancel(self, error: RelayError | None = None) -> None:
        """Reset the request unless it ended on both sides, which cancels the provider's work."""
        self._connection.drop(self)

    # --- the connection's side: the request's body ---

    @property
    def wants_to_send(self) -> bool:
        return bool(self._buffer.size) or self._end_waits

    def frame(self, limit: int, out: list[bytes]) -> int:
        """Append a DATA frame of at most `limit` bytes, as the windows allow. Returns its payload's size."""
        size = self._connection.windows.take(self.window, min(self._buffer.size, limit))
        if size:
            out.append(data_head(size, self._frame_tail))
            out.append(self._buffer.take(size))
            if self._full and self._buffer.size <= self._connection.watermarks.low:
                self._full = False
                self.events.on_upstream_drained()
        return size

    def take_end(self) -> bool:
        """Whether to send the request's end now. True once."""
        if not self._end_waits or self._buffer.size:
            return False
        self._end_waits = False
        self.request_ended = True
        return True

    # --- the connection's side: the answer ---

    def receive_head(self, headers: Headers) -> str | None:
        """Pass a head on. Returns what is wrong with it; None if it is well-formed."""
        status, fields = _split(headers)
        if status is None:
            return "sent a malformed head"
        if 100 <= status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM or status == 101:
                return "sent too many interim responses or changed the protocol"
            self.events.on_upstream_interim(ResponseHead(status, fields))
            return None
        lengths = [value for name, value in fields if name == b"content-length"]
        if len(lengths) > 1 or not all(re.fullmatch(rb"[0-9]{1,15}", value) for value in lengths):
            return "sent a malformed content-length"
        length = int(lengths[0]) if lengths else None
        self.head_received = True
        self._bodiless = self._bodiless or has_no_body(b"", status)
        self._body_left = None if self._bodiless else length
        self.events.on_upstream_head(ResponseHead(status, fields, content_length=length))
        return None

    def receive_data(self, data: bytes, length: int) -> str | None:
        """Pass body bytes on; `length` is their cost in the window. Returns what is wrong; None if nothing is."""
        if not self._receive_window.take(length):
            return "sent more than its window"
        if not self.head_received or (self._bodiless and data):
            return "sent a body where none is allowed"
        if self._body_left is not None:
            self._body_left -= len(data)
            if self._body_left < 0:
                return "sent more than its content-length"
        if data:
            self.events.on_upstream_data(data)
        if self._reading:
            self._credit()
        return None

    def begin_wide(self) -> int:
        """Its answer is known not to be a stream. Returns the bytes that the provider may send beyond the usual
        window."""
        return self._receive_window.widen(WHOLE_WINDOW)

    @property
    def may_come(self) -> int:
        """Bytes that the provider may still send without another credit."""
        return self._receive_window.left

    @property
    def is_whole(self) -> bool:
        """Whether the answer may end here."""
        return self.head_received and not self._body_left

    def _credit(self) -> None:
        """Open the window again for consumed bytes."""
        if self._receive_window.is_half_used and self._connection.carries(self):
            size = self._receive_window.credit(self._distance(), self.events)
            self._connection.control(window_update(self.stream_id, size))

    def _distance(self) -> float:
        return self._connection.distance if self._receive_window.follows else 0.0


def _split(headers: Headers) -> tuple[int | None, Headers]:
    """Status and fields; status None if the head is malformed (RFC 9113 section 8.2)."""
    status = None
    fields: Headers = []
    for name, value in headers:
        if not _FIELD_VALUE.fullmatch(value):
            return None, []
        if name == b":status" and status is None and not fields and re.fullmatch(rb"[1-5][0-9]{2}", value):
            status = int(value)
        elif _FIELD_NAME.fullmatch(name):
            fields.append((name, value))
        else:
            return None, []
    return (status, fields) if len(fields) <= MAX_HEADERS else (None, [])
