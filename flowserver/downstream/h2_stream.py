"""One request and its answer on a client's HTTP/2 connection: a `DownstreamStream` with its own window."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import Protocol

from ..errors import EndReason
from ..flow.bounded_buffer import ChunkQueue, Watermarks
from ..flow.drain_rate import DrainRate
from ..flow.progress import Activity
from ..http.h2_flood_guard import FrameGuard
from ..http.h2_frames import BEGINNINGS, USUAL_SIZE, data_head, data_tail
from ..http.h2_send_window import SendWindows
from ..http.h2_server_state import ServerStream
from ..http.messages import Headers, RequestHead, ResponseHead, has_no_body
from ..net.send_queue import SendQueue
from ..relay.interfaces import Clock, DownstreamEvents, H2Totals
from ..relay.uploads import Uploads
from .clients_by_address import Client, ClientsByAddress
from .h2_upload_windows import UploadWindows
from .held_upload import HeldUpload

FRESH = 0.01
"""A request that is reset within this many seconds is useless: floods consist of these."""


class Ending(Enum):
    """How an answer ends after waiting bytes."""

    CLEAN = "clean"
    BROKEN = "broken"


class WindowTime(Protocol):
    """How long streams wait for the connection's window."""

    since: float | None
    """Since when; None: none does."""

    def seconds(self, now: float) -> float:
        """Total seconds so far with waiting streams."""


class StreamConnection(Protocol):
    """The connection, as far as its streams use it."""

    clock: Clock
    totals: H2Totals
    uploads: Uploads
    watermarks: Watermarks
    guard: FrameGuard
    windows: SendWindows
    send_queue: SendQueue
    client: Client
    """The client of the connection."""
    clients: ClientsByAddress
    upload_windows: UploadWindows
    sent: int
    """Body bytes sent in frames, of all streams."""
    flush_due: bool
    """Frames wait for the end of this iteration of the event loop."""
    is_blocked: bool
    """The transport accepts no more."""

    @property
    def streams(self) -> Collection[int]:
        """Those that are open."""

    @property
    def starved(self) -> WindowTime: ...

    @property
    def write(self) -> Callable[[bytes], None]: ...

    def queue(self, stream: H2Stream) -> None:
        """The stream has something to send."""

    def write_data(self, stream: H2Stream, data: bytes) -> bool:
        """Write a whole chunk as one frame, at once. False: it has to wait."""

    def send_headers(self, stream: H2Stream, fields: Headers) -> None: ...

    def cut_stream(self, stream_id: int, reason: EndReason) -> None:
        """Reset a stream at once, through no fault of its client."""

    def keep_pace(self, pace: DrainRate) -> Watermarks:
        """Limit the kernel to a client with this pace. Returns the stream's watermarks."""


class H2Stream(HeldUpload):
    """Holds chunks until the connection's next write takes them, as far as the stream's window allows.

    A closed window stops only its own stream: the buffer fills, the gate closes, the provider waits.
    """

    protocol = "h2"

    __slots__ = (
        "_began_at",
        "_bodiless",
        "_body_left",
        "_buffer",
        "_connection",
        "_early",
        "_ending",
        "_full",
        "_reading",
        "_reserve_left",
        "_reserved",
        "_shut_seconds",
        "_stall_mark",
        "_stall_since",
        "_stalled",
        "_uncredited",
        "_watermarks",
        "_window_shut_at",
        "_withheld",
        "_writes",
        "_writes_full",
        "client",
        "events",
        "frame_tail",
        "head_sent",
        "is_open",
        "is_queued",
        "request",
        "request_whole",
        "sent",
        "sent_mark",
        "state",
        "stream_id",
        "window",
    )

    def __init__(self, connection: StreamConnection, stream_id: int, request: RequestHead, state: ServerStream) -> None:
        super().__init__(connection.uploads)
        self._connection = connection
        self._began_at = connection.clock()
        self._watermarks: Watermarks = connection.watermarks
        self.state = state
        """h2's own state of the stream."""
        self.stream_id = stream_id
        self.window = connection.windows.open(stream_id)
        self.request = request
        client = connection.client
        self.client = connection.clients.requested(client, request) if client.is_trusted else client
        self.request_whole = not request.has_body
        self.events: DownstreamEvents | None = None
        """None until the exchange is opened."""
        self.head_sent = False
        self.is_open = True
        """Whether the connection still has it."""
        self.is_queued = False
        """Whether it is in the connection's queue of streams to serve."""
        self.sent = 0
        """Body bytes sent in frames."""
        self.sent_mark = connection.sent
        """The connection's `sent` when this stream last sent."""
        self._buffer = ChunkQueue()
        self._early: list[tuple[bytes, int]] = []
        self._body_left = request.content_length
        self.frame_tail = data_tail(stream_id)
        """The end of its DATA frames' headers."""
        self._reserved = 0
        """Bytes of the windows in the last reservation."""
        self._reserve_left = 0
        """How many of these are not used yet."""
        self._bodiless = False
        self._ending: Ending | None = None
        self._full = False
        self._reading = True
        self._uncredited = 0
        """Bytes of the body for which neither window was opened, because the provider lags."""
        self._withheld = 0
        """Bytes for which only the connection's window was opened, because unfinished uploads hold too much. The upload
        that may proceed needs the connection's window, too."""
        self._window_shut_at: float | None = None
        self._shut_seconds = 0.0
        """How long its window was closed in earlier stalls."""
        self._stall_mark = -1
        self._stall_since = 0.0
        self._stalled: Activity | None = None
        """Progress of tokens while the client accepts nothing; None: not requested yet."""
        self._writes = 0
        self._writes_full = 0

    def __repr__(self) -> str:
        ending = "open" if self._ending is None else self._ending.value
        phase = ending if self.is_open else "closed"
        request = f"{self.stream_id} {self.request.method.decode('latin-1')}"
        progress = f"head_sent={self.head_sent} sent={self.sent} held={self.held} window={self.window.left}"
        return f"<H2Stream {request} {phase} {progress} reading={self._reading}>"

    # --- relay.interfaces.DownstreamStream ---

    def attach(self, events: DownstreamEvents) -> None:
        self.events = events

    def send_interim(self, head: ResponseHead) -> None:
        if self.is_open and not self.head_sent:
            self._connection.send_headers(self, _fields(head))

    def send_head(self, head: ResponseHead) -> None:
        if self.is_open:
            self.head_sent = True
            self._bodiless = has_no_body(self.request.method, head.status)
            self._connection.send_headers(self, _fields(head))

    def send_data(self, data: bytes) -> None:
        if not self.is_open or self._bodiless:
            return
        self._writes += 1
        if self._reserved:
            self.release()
        if not self._buffer.size and self._connection.write_data(self, data):
            return
        self._buffer.push(data)
        if self._window_shut_at is not None or self._connection.is_blocked:
            self._writes_full += 1
        if self._window_shut_at is None:  # else WINDOW_UPDATE brings it back to the queue
            self._connection.queue(self)
        if not self._full and self._watermarks.are_reached(self._buffer.size, len(self._buffer)):
            self._full = True
            if self.events is not None:
                self.events.on_downstream_full()

    def _pass_on(self, data: bytes) -> None:
        """`send_data` for a stream that is known to be open: the path of every token. It uses the stream's reservation
        of its windows and touches nothing else of the stream: each further object is a cache miss."""
        size = len(data)
        connection = self._connection
        left = self._reserve_left - size
        if left < 0 or connection.flush_due or connection.is_blocked or size >= USUAL_SIZE:
            self._pass_on_slowly(data)
            return
        self._reserve_left = left
        self._writes += 1
        connection.sent += size
        connection.guard.update_credit += 2  # `FrameGuard.note_sent`, a call of which would be 2 % of an event
        write = connection.write  # calling the attribute directly would use the slow look-up
        write(BEGINNINGS[size] + self.frame_tail + data)

    def _pass_on_slowly(self, data: bytes) -> None:
        self.release()
        self.send_data(data)
        if not self._buffer.size and self.is_open:
            self._reserve_left = self._reserved = self._connection.windows.reserve(self.window)

    def release(self) -> None:
        """Return the unused part of its reservation."""
        used = self._reserved - self._reserve_left
        if used:
            self.sent += used
            self.sent_mark = self._connection.sent
        if self._reserve_left:
            self._connection.windows.release(self.window, self._reserve_left)
        self._reserve_left = self._reserved = 0

    def direct_writer(self) -> tuple[Callable[[bytes], None], bool] | None:
        return (self._pass_on, False) if self.is_open and not self._bodiless else None

    def send_end(self) -> None:
        self._end(Ending.CLEAN)

    def break_off(self) -> None:
        self._end(Ending.BROKEN)

    def cut(self, reason: EndReason) -> None:
        if self.is_open:
            self._connection.cut_stream(self.stream_id, reason)

    def pause_reading(self) -> None:
        """Withhold the window: the client may send what it has been granted, but no more."""
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        if self._uncredited and self.is_open:
            length, self._uncredited = self._uncredited, 0
            self._credit(length)

    def stop_upload(self) -> None:
        """`_credit` looks at `upload_waits`."""

    def go_on_uploading(self) -> None:
        if self._withheld and self.is_open:
            self._connection.upload_windows.credit_stream(self.state, self._withheld)
            self._withheld = 0

    @property
    def held(self) -> int:
        return self._buffer.size

    @property
    def held_since(self) -> float | None:
        if not self._buffer.size:
            return None
        connection = self._connection
        all_times = (self._window_shut_at, connection.send_queue.blocked_since, connection.starved.since)
        times = [time for time in all_times if time is not None]
        if times:
            return min(times)
        return connection.clock() if self._buffer.size > self.window.left else None

    def client_seconds(self, now: float) -> float | None:
        """The time that a window of the stream, the connection or TCP was closed."""
        connection = self._connection
        by_tcp = connection.send_queue.receive_limited()
        if by_tcp is None:
            return None
        shut = 0.0 if self._window_shut_at is None else now - self._window_shut_at
        return by_tcp + connection.starved.seconds(now) + self._shut_seconds + shut

    def unacknowledged(self) -> int:
        """Bytes after its last frame in transport and kernel belong to others; of the rest an equal share among the
        open streams counts."""
        connection = self._connection
        if not self.is_open:
            return 0
        behind = connection.sent - self.sent_mark if not self._reserved else 0
        share = max(0, connection.send_queue.unacknowledged() - behind) // len(connection.streams)
        return self._buffer.size + min(share, self.sent + self._reserved - self._reserve_left)

    def keep_pace(self, pace: DrainRate) -> None:
        self._watermarks = self._connection.keep_pace(pace)

    @property
    def writes(self) -> tuple[int, int]:
        return self._writes, self._writes_full

    # --- the connection's side: uploads ---

    def receive(self, data: bytes, length: int) -> bool:
        """Body bytes were received; `length` is their cost in the windows, with padding. False: more than announced."""
        if self._body_left is not None:
            self._body_left -= len(data)
            if self._body_left < 0:
                self._uncredited += length
                return False
        if self.events is None:
            self._early.append((data, length))
        else:
            self._deliver(data, length)
        return True

    def receive_end(self) -> bool:
        """The request is complete. False: less than announced was received."""
        if self._body_left:
            return False
        self.request_whole = True
        if self.events is not None:
            self.events.on_downstream_end()
        return True

    def open_body(self) -> None:
        """The exchange is open: pass it the body bytes received before."""
        early, self._early = self._early, []
        for data, length in early:
            self._deliver(data, length)
        if self.request_whole and self.events is not None:
            self.events.on_downstream_end()

    def close(self, reason: EndReason | None) -> int:
        """The stream is over; `reason` None if it ended well. Returns the bytes not yet credited to the connection."""
        self.note_window_open()
        self.release()
        if self.client is not self._connection.client:
            self._connection.clients.leave(self.client)
        self._buffer.clear()
        owed = self._uncredited + sum(length for _, length in self._early)
        self._uncredited = 0
        self._early.clear()
        if reason is not None and self.events is not None:
            self.events.on_downstream_reset(reason)
            self.events = None  # breaks a reference cycle
        return owed

    def _deliver(self, data: bytes, length: int) -> None:
        if data and self.events is not None:
            self.events.on_downstream_data(data)
        if self._reading and self.is_open:
            self._credit(length)
        else:
            self._uncredited += length

    def _credit(self, length: int) -> None:
        """The client may send `length` more bytes: on this stream only if it may hold more."""
        if self.upload_waits:
            self._withheld += length
            self._connection.upload_windows.credit_connection(length)
        else:
            self._connection.upload_windows.credit(self.state, length)

    @property
    def is_fresh(self) -> bool:
        """Whether it has caused no work yet: no head was sent, and it is only a moment old."""
        return not self.head_sent and self._connection.clock() - self._began_at < FRESH

    # --- the connection's side: answers ---

    @property
    def wants_to_send(self) -> bool:
        return bool(self._buffer.size) or self._ending is not None

    @property
    def ending(self) -> Ending | None:
        """How the answer ends now; None while something waits or may follow."""
        return self._ending if not self._buffer.size else None

    def frame(self, limit: int, out: list[bytes]) -> int:
        """Append a DATA frame of at most `limit` bytes to `out`, as the windows allow. Returns its payload's size.

        h2 takes 5.1 us for a frame, this 0.6.
        """
        size = self._connection.windows.take(self.window, min(self._buffer.size, limit))
        if not size:
            return 0
        data = self._buffer.take(size)
        self.sent += size
        out.append(data_head(size, self.frame_tail))
        out.append(data)
        if self._full and self._buffer.size <= self._watermarks.low:
            self._full = False
            if self.events is not None:
                self.events.on_downstream_drained()
        return size

    @property
    def window_is_shut(self) -> bool:
        return self._buffer.size > 0 and self.window.left <= 0

    def note_window_shut(self) -> None:
        if self._window_shut_at is None:
            self._window_shut_at = self._connection.clock()
            self._connection.totals.stalls += 1

    def note_window_open(self) -> None:
        if self._window_shut_at is not None:
            seconds = self._connection.clock() - self._window_shut_at
            self._connection.totals.stall_seconds += seconds
            self._shut_seconds += seconds
            self._window_shut_at = None

    def note_sent(self, total: int) -> None:
        """A frame was sent; the connection has sent `total` bytes now."""
        self.sent_mark = total
        self.note_window_open()

    def stalled_for(self, now: float, *, excused: bool) -> float:
        """Returns the seconds for which the client has accepted nothing of what waits, to the precision of these calls.
        `excused`: it is not the client's fault at present."""
        if excused or not self.wants_to_send or self.sent != self._stall_mark:
            self._stall_mark = self.sent
            self._stall_since = now
        return now - self._stall_since

    def stalled_tokens(self, progress: tuple[int, int] | None) -> float:
        """Tokens that arrived since the client last accepted anything, to the precision of these calls. `progress` is
        the connection's, see `SendQueue`."""
        if self.events is None:
            return 0
        if self._stalled is None:
            self._stalled = Activity()
        return self._stalled.still_for(self.events.tokens, self._progress(progress))

    def _progress(self, progress: tuple[int, int] | None) -> tuple[int, int] | None:
        """The connection's progress; if windows hold bytes here and all frames have arrived, progress is the opening of
        a window."""
        connection = self._connection
        queue, windows = connection.send_queue, connection.windows
        is_shut = self._buffer.size > 0 and min(self.window.left, windows.left) <= 0
        if not is_shut or queue.unacknowledged() > connection.sent - self.sent_mark:
            return progress
        return (self.sent if self.window.left <= 0 else connection.sent), -1

    def _end(self, ending: Ending) -> None:
        if self.is_open and self._ending is None:
            self._ending = ending
            self._connection.queue(self)


def _fields(head: ResponseHead) -> Headers:
    fields = [(b":status", b"%d" % head.status), *head.headers]
    if head.content_length is not None:
        fields.append((b"content-length", b"%d" % head.content_length))
    return fields
