"""A client's HTTP/2 connection: many streams, each with its own window.

h2 holds settings, stream states and receive windows (`h2_server_state`). `h2_flood_guard` counts and bounds incoming
frames, `h2_reader` dispatches them, `h2_request_head` checks heads, `h2_send_window` has the windows for sending, and
`h2_stream` makes DATA frames. GOAWAY never reaches h2, which would end the connection while streams are still running.

An event is written at once if nothing is queued before it; all else in one write at the end of the loop's iteration.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import cast

import h2.errors
import h2.exceptions

from ..errors import EndReason, RelayError
from ..flow.bounded_buffer import Watermarks
from ..flow.drain_rate import DrainRate
from ..http.h2_flood_guard import FrameGuard, Violation
from ..http.h2_frames import NO_STREAM_YET, data_head, end_of_stream, goaway
from ..http.h2_request_head import Malformed, parse_h2_head
from ..http.h2_server_state import ServerState
from ..http.messages import Headers, ResponseHead
from ..net.read_pause import ReadPause
from ..net.send_queue import UNSENT, SendQueue
from ..net.shared_read import SharedReads
from .clients_by_address import UNKNOWN, Client
from .context import ListenerContext
from .h2_leftover import LeftoverUploads
from .h2_phase import Phase
from .h2_reader import FrameReader
from .h2_starved import StarvedStreams
from .h2_stream import Ending, H2Stream
from .h2_upload_windows import UploadWindows
from .liveness import Liveness

WRITE_SIZE = 64 * 1024
"""Bytes of one write, and the transport's high mark: a connection's streams share it."""
STARTS = 4
"""Requests that start in one turn: each takes as long as many frames."""
LINGER = 1.0
"""Seconds between the two GOAWAYs, and for the last bytes of a broken connection to arrive."""

_Code = h2.errors.ErrorCodes

_ANSWERS, _TURN = 1, 2
"""Why a client is not read: it does not read our answers to its pings and the like; or one iteration of the event loop
was too short for what was read."""


class DownstreamH2(SharedReads):
    """A client's HTTP/2 connection."""

    __slots__ = (
        "_context",
        "_control",
        "_fd",
        "_h2",
        "_last_stream",
        "_liveness",
        "_loop",
        "_pending",
        "_phase",
        "_phase_since",
        "_reader",
        "_reads",
        "_ready",
        "_requests",
        "_sent_at_look",
        "_settings",
        "_transport",
        "_waits_for_turn",
        "client",
        "clients",
        "clock",
        "flush_due",
        "guard",
        "idle_since",
        "is_blocked",
        "is_over",
        "leftovers",
        "send_queue",
        "sent",
        "starved",
        "streams",
        "totals",
        "upload_windows",
        "uploads",
        "watermarks",
        "windows",
        "write",
    )

    def __init__(self, context: ListenerContext, client: Client = UNKNOWN) -> None:
        self._context = context
        self.client, self.clients = client, context.clients
        self._settings = context.settings.h2
        self.watermarks: Watermarks = context.settings.watermarks
        self.clock = context.clock
        self.totals = context.h2_totals
        self.uploads = context.uploads.below(self._settings.max_uploads)
        self._loop = asyncio.get_running_loop()
        self.guard = FrameGuard(self._settings.limits)
        self._h2 = ServerState()
        self.windows = self._h2.send_windows
        self.streams: dict[int, H2Stream] = {}
        self._reader = FrameReader(self, self.guard, self._h2)
        self._waits_for_turn = False
        """Whether it is queued for its turn to start requests."""
        self._pending: list[H2Stream] = []
        """Requests of the current read: one that is reset in the same read never starts."""
        self._ready: deque[H2Stream] = deque()
        self.starved = StarvedStreams(context.clock)
        self.sent = 0
        """Body bytes sent in frames, of all streams."""
        self._sent_at_look = self._requests = 0
        self._control: list[bytes] = []
        """Frames to send that bypass h2."""
        self.flush_due = self.is_blocked = False
        self._last_stream = NO_STREAM_YET
        """Requests above it are refused: set by the second GOAWAY."""
        now = context.clock()
        self._phase = Phase.OPEN
        self._phase_since = self.idle_since = now
        self.is_over = False
        """Whether nothing more is read or written: ENDED or FAILED."""
        self.leftovers = LeftoverUploads(self._h2, self.guard, context.drops, most=self._settings.max_streams, now=now)
        """Streams that were answered before their requests were complete."""
        self._liveness = Liveness(self._settings.ping_interval, now)

    def __repr__(self) -> str:
        waiting = f"ready={len(self._ready)} starved={len(self.starved)} blocked={self.is_blocked}"
        return f"<DownstreamH2 {self._phase.value} streams={len(self.streams)} {waiting} {self.windows}>"

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self._fd = transport.get_extra_info("socket").fileno()
        self._reads = ReadPause(self._transport)
        self.send_queue = SendQueue(self._transport, self._fd)
        self.upload_windows = UploadWindows(
            self._h2, transport, self.clock, self._schedule_flush, grow=self._settings.windows_grow
        )
        self._transport.set_write_buffer_limits(high=WRITE_SIZE, low=0)
        refusal = self._context.refusal(self.client)
        self._context.connections.add(self)
        self.totals.connections += 1
        settings = self._settings
        self._h2.open(
            max_streams=settings.max_streams,
            stream_window=settings.stream_window,
            connection_window=settings.connection_window,
        )
        if refusal is not None:
            self.fail(_Code.NO_ERROR, refusal.code)
            return
        self._schedule_flush()

    def receive(self, data: bytes) -> None:
        if self.is_over:
            return
        self._liveness.hear()
        self._take_in(data, may_start=self._context.turns.is_free)
        if self.guard.splitter.left <= 0 and not self.is_over and not self._reads.reasons & _TURN:
            self._reads.pause(_TURN)
            self._loop.call_soon(self._go_on)
        self._wait_for_turn()

    def _go_on(self) -> None:
        """Handle more frames of what was read, in the next iteration. They don't wait for other connections' requests:
        running streams need them."""
        if self.is_over or self._transport.is_closing():
            return
        self.guard.splitter.rest()
        self._take_in(b"", may_start=False)
        if self.guard.splitter.left > 0:
            self._reads.resume(_TURN)
        else:
            self._loop.call_soon(self._go_on)
        self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """Queue for a turn if there are requests to start, unless it is queued already."""
        if self._pending and not self._waits_for_turn and not self.is_over:
            self._waits_for_turn = True
            self._context.turns.wait(self)

    def take_turn(self) -> bool:
        """Start some requests. Returns whether there are more, unless further frames have to be handled first."""
        self._waits_for_turn = False
        if not self.is_over and not self._transport.is_closing() and self.guard.splitter.left > 0:
            self._take_in(b"", may_start=True)
            self._waits_for_turn = bool(self._pending) and not self.is_over and self.guard.splitter.left > 0
        return self._waits_for_turn

    def _take_in(self, data: bytes, *, may_start: bool) -> None:
        """Handle what was read, as far as one iteration allows. Requests start after all frames of a read."""
        try:
            self._reader.feed(data, self.clock())
            if may_start and self._pending and self.guard.splitter.left > 0:
                self._start_requests()
        except Violation as violation:
            self.fail(violation.code, violation.reason)
        unsent = self._h2.unsent
        if unsent > WRITE_SIZE:  # one iteration may have many reads, and reading must stop in time
            self._flush()
        elif unsent or self._phase is not Phase.OPEN:  # answers of h2's own; or no stream may be left
            self._schedule_flush()

    def eof_received(self) -> bool:
        """The client has left: HTTP/2 has no half-closed connections."""
        if self.streams and self._transport.get_write_buffer_size():
            self._transport.abort()  # a close would wait until the rest is written
        self._drop_all(EndReason.CLIENT_GONE)
        return False  # complete answers are still sent

    def connection_lost(self, exc: Exception | None) -> None:
        self._context.hangups.forget(self._fd, self._on_gone)
        self._context.connections.discard(self)
        self.totals.connections -= 1
        self._drop_all(EndReason.CLIENT_GONE)
        self._reader.let_go()
        self._h2.let_go()
        self.upload_windows.let_go()

    def pause_writing(self) -> None:
        self.is_blocked = True
        self.send_queue.blocked_since = self.clock()

    def resume_writing(self) -> None:
        self.is_blocked = False
        self.send_queue.blocked_since = None
        self._go_on_answering()
        self._schedule_flush()

    # --- for the streams -------------------------------------------------------------------------------------------

    def queue(self, stream: H2Stream) -> None:
        """The stream has something to send."""
        if not stream.is_queued:
            stream.is_queued = True
            self._ready.append(stream)
            if not self.flush_due:
                self._schedule_flush()

    def write_data(self, stream: H2Stream, data: bytes) -> bool:
        """Write a whole chunk as one frame, at once: the path of every token. False: it does not fit, or other bytes
        are queued before it."""
        size = len(data)
        windows, window = self.windows, stream.window
        if (
            self.flush_due
            or self.is_blocked
            or size > window.left
            or size > windows.left
            or size > self._h2.max_outbound_frame_size
        ):
            return False
        window.left -= size  # `SendWindows.take`, without a call
        windows.left -= size
        stream.sent += size
        self.sent = stream.sent_mark = self.sent + size
        self.guard.update_credit += 2  # `note_sent`
        self.write(data_head(size, stream.frame_tail) + data)
        return True

    def release_all(self) -> None:
        """Return what all streams have reserved."""
        for stream in self.streams.values():
            stream.release()

    def send_headers(self, stream: H2Stream, fields: Headers) -> None:
        self._h2.send_head(stream.state, fields)
        self._schedule_flush()

    def keep_pace(self, pace: DrainRate) -> Watermarks:
        settings = self._context.settings
        if settings.limits_unsent and len(self.streams) == 1:  # otherwise other streams would be limited too
            self.send_queue.limit(pace.mark(UNSENT))
        return settings.watermarks.paced(pace)

    # --- for the listener ------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        limit = self._context.settings.stall_timeout
        if limit is not None and self.send_queue.stalled_for(now, busy=bool(self.streams)) >= limit:
            self._drop_all(EndReason.CLIENT_STALLED)
            self._transport.abort()
        elif self.is_over:
            self._sweep_last_words(now)
        else:
            self._sweep_streams(now, limit)
            self.uploads.pass_turn(now)
            if self.leftovers.sweep(now):
                self._schedule_flush()
            self._sweep_connection(now)

    def drain(self) -> None:
        self.begin_goaway("drain")

    def end_drain(self) -> None:
        for stream in list(self.streams.values()):
            if stream.events is not None:
                stream.events.on_drain_timeout()
        if self._phase is Phase.LEAVING:
            self._end_goaway()
        self._flush()
        if not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """The relay ends."""
        self._drop_all(EndReason.RELAY_STOPPED)
        self._transport.abort()

    # --- for the reader --------------------------------------------------------------------------------------------

    def begin_request(self, stream_id: int, fields: Headers, *, ended: bool) -> None:
        """A request's head was received; `ended`: without a body. Raises Violation."""
        self._requests += 1
        if stream_id > self._last_stream or len(self.streams) >= self._settings.max_streams:
            self._h2.reset_stream(stream_id, _Code.REFUSED_STREAM)
            self.guard.count_reset(self.clock())
            return
        if self._requests >= self._settings.max_requests:
            self.begin_goaway("max_requests")
        try:
            head = parse_h2_head(fields, ended=ended)
        except Malformed:
            self.reset_stream(stream_id, _Code.PROTOCOL_ERROR)
            return
        if isinstance(head, RelayError):
            self._refuse(stream_id, head, ended=ended, bodiless=(b":method", b"HEAD") in fields)
            return
        stream = H2Stream(self, stream_id, head, self._h2.stream(stream_id))
        self.streams[stream_id] = stream
        self.send_queue.end_limit()
        self.totals.streams += 1
        self._pending.append(stream)

    def serve_starved(self) -> None:
        """The connection's window was opened."""
        if self.starved:
            self._ready.extendleft(self.starved.take_last_first())
            self._schedule_flush()

    def reset_stream(self, stream_id: int, code: _Code) -> None:
        """Reset a stream because of its client. Raises Violation when that happens too often."""
        self.cut_stream(stream_id, EndReason.CLIENT_ERROR, code)
        self.guard.count_reset(self.clock())

    def close_stream(self, stream_id: int, reason: EndReason | None) -> None:
        """Forget a stream; the provider's request is cancelled before the place is free."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        owed = stream.close(reason)
        stream.is_open = False
        del self.streams[stream_id]
        self.windows.close(stream_id)
        self.upload_windows.forget(stream_id)
        self.starved.discard(stream)
        self.totals.streams -= 1
        if owed:
            self._h2.acknowledge(stream.state, owed)
        if not self.streams:
            self.idle_since = self.clock()

    def drop_data(self, stream_id: int, length: int) -> None:
        """Body bytes for a stream that is over."""
        if stream_id in self.leftovers:
            self.leftovers.drop(stream_id, length, self.clock())
        else:
            self._h2.acknowledge_received_data(length, stream_id)

    def begin_goaway(self, reason: str) -> None:
        """Send the first of two GOAWAYs. Requests that cross it are still served."""
        if self._phase is Phase.OPEN:
            self.totals.goaways[reason] += 1
            self._enter(Phase.LEAVING)
            self._control.append(goaway(NO_STREAM_YET, _Code.NO_ERROR, reason))
            self._schedule_flush()

    def fail(self, code: int, reason: str, *, goaway_sent: bool = False) -> None:
        """End the connection because of the client; `goaway_sent`: h2 has made the GOAWAY."""
        if self.is_over:
            return
        self.totals.goaways[reason] += 1
        self._drop_all(EndReason.CLIENT_ERROR)
        if goaway_sent:
            out = [*self._control, self._h2.data_to_send()]
        else:
            last = goaway(self._h2.highest_inbound_stream_id, code, reason)
            out = [self._h2.data_to_send(), *self._control, last]
        self._transport.write(b"".join(out))
        self._end_writing(Phase.FAILED)

    # --- requests --------------------------------------------------------------------------------------------------

    def _start_requests(self) -> None:
        began = self.clock()
        pending, self._pending = self._pending[:STARTS], self._pending[STARTS:]
        for stream in pending:
            if stream.is_open:
                expects = stream.request.find(b"expect") is not None
                self._context.open_exchange(stream.request, stream)
                if expects and not stream.request_whole and not stream.head_sent:
                    stream.send_interim(ResponseHead(100, []))
                stream.open_body()
        self._context.turns.spend(self.clock() - began)

    # --- writing ---------------------------------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        if not self.flush_due:
            self.flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what is queued at the end of an iteration: h2's frames first, then the streams in turn."""
        self.flush_due = False
        if self.is_over or self._transport.is_closing():
            return
        out = [self._h2.data_to_send(), *self._control]  # a connection begins with SETTINGS, even during a drain
        self._control.clear()
        size = 0
        ready = self._ready
        while ready and size < WRITE_SIZE and not self.is_blocked:
            stream = ready.popleft()
            stream.is_queued = False
            if stream.is_open:
                size += self._serve(stream, out)
        data = b"".join(out)
        if data:
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > 4 * WRITE_SIZE:
                self._stop_answering()
        if ready and not self.is_blocked:
            self._schedule_flush()
        is_last = self._phase is Phase.CLOSING
        if is_last and not self.streams and not self._pending and not self.leftovers:
            self._end_writing(Phase.ENDED)

    def _serve(self, stream: H2Stream, out: list[bytes]) -> int:
        """Append one frame of one stream, and its end if nothing follows. Returns the frame's size."""
        if self.windows.left <= 0:
            self.release_all()
        is_starved = self.windows.left <= 0
        size = stream.frame(self._h2.max_outbound_frame_size, out)
        if size:
            self.sent += size
            stream.note_sent(self.sent)
            self.guard.note_sent(size, whole=not stream.held)
        if stream.ending is not None:
            self._finish(stream, out)
        elif stream.window_is_shut:
            stream.note_window_shut()
        elif not stream.wants_to_send:
            pass
        elif not is_starved:
            self.queue(stream)
        else:  # a stream that was just served queues behind the others
            stream.is_queued = True
            self.starved.add(stream)
        return size

    def _finish(self, stream: H2Stream, out: list[bytes]) -> None:
        stream_id = stream.stream_id
        if stream.ending is Ending.BROKEN:
            self._h2.reset_stream(stream_id, _Code.INTERNAL_ERROR)
        else:
            stream.state.send_end()
            out.append(end_of_stream(stream_id))
            if not stream.request_whole:
                self.leftovers.leave(stream_id, self.clock())
        self.close_stream(stream_id, None)
        if stream.ending is Ending.CLEAN and stream.events is not None:
            stream.events.on_downstream_finished()
        stream.events = None  # breaks a reference cycle
        if self._h2.unsent:
            out.append(self._h2.data_to_send())

    def _stop_answering(self) -> None:
        """The client does not read our answers, so it is not read either. A hang-up is watched for meanwhile."""
        self._reads.pause(_ANSWERS)
        self._context.hangups.watch(self._fd, self._on_gone, half_close=True)

    def _go_on_answering(self) -> None:
        if self._reads.reasons & _ANSWERS:
            self._context.hangups.forget(self._fd, self._on_gone)
            self._reads.resume(_ANSWERS)

    # --- ending ----------------------------------------------------------------------------------------------------

    def _refuse(self, stream_id: int, error: RelayError, *, ended: bool, bodiless: bool) -> None:
        """Answer a request that is not served; `bodiless` when it is a HEAD."""
        self._context.observer.request_refused(error, "h2")
        if self._h2.answer_at_once(stream_id, error, bodiless=bodiless) and not ended:
            self.leftovers.leave(stream_id, self.clock())

    def cut_stream(self, stream_id: int, reason: EndReason, code: _Code = _Code.CANCEL) -> None:
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # over on both sides already
            self._h2.reset_stream(stream_id, code)
        self.close_stream(stream_id, reason)
        self._schedule_flush()

    def _drop_all(self, reason: EndReason) -> None:
        self._pending.clear()
        streams = list(self.streams.values())
        self.streams.clear()
        self.totals.streams -= len(streams)
        for stream in streams:
            stream.is_open = False
            self.windows.close(stream.stream_id)
        for stream in streams:
            stream.close(reason)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._phase_since = self.clock()
        self.is_over = phase in (Phase.ENDED, Phase.FAILED)

    def _end_writing(self, phase: Phase) -> None:
        """Write nothing more, and drop what is read: after a close, the kernel would answer further bytes with a reset,
        which may overtake the last bytes written."""
        self._enter(phase)
        self._go_on_answering()
        self._reads.resume(_TURN)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        elif phase is Phase.FAILED:  # TLS has no half-close, and its client is not waited for
            self._transport.close()

    def _end_goaway(self) -> None:
        """Send the second GOAWAY: later requests are refused."""
        self._enter(Phase.CLOSING)
        self._last_stream = self._h2.highest_inbound_stream_id
        self._control.append(goaway(self._last_stream, _Code.NO_ERROR))
        self._schedule_flush()

    def _on_gone(self) -> None:
        """The client has left."""
        self._drop_all(EndReason.CLIENT_GONE)
        self._transport.abort()

    def _sweep_last_words(self, now: float) -> None:
        if self._transport.get_write_buffer_size() and self._phase is Phase.ENDED:
            self._phase_since = now  # the end of an answer is on its way to a slow client
        elif now - self._phase_since >= LINGER:
            self._transport.abort()

    def _sweep_streams(self, now: float, limit: float | None) -> None:
        buffered = self._transport.get_write_buffer_size()
        tokens = self._context.settings.stall_tokens
        progress = self.send_queue.progress() if tokens is not None else None
        moves, self._sent_at_look = self.sent != self._sent_at_look, self.sent
        for stream in list(self.streams.values()):
            # Not its client's fault: its last frame may still be in the transport, or it waits for its turn there.
            waits = not stream.window_is_shut and (moves or buffered > 0)
            excused = waits or buffered > self.sent - stream.sent_mark
            is_stalled = limit is not None and stream.stalled_for(now, excused=excused) >= limit
            if is_stalled or (tokens is not None and stream.stalled_tokens(progress) >= tokens):
                self.cut_stream(stream.stream_id, EndReason.CLIENT_STALLED)
            elif stream.events is not None:
                stream.events.sweep(now)

    def _sweep_connection(self, now: float) -> None:
        settings = self._context.settings
        if self._phase is Phase.LEAVING and now - self._phase_since >= LINGER:
            self._end_goaway()
        late = settings.head_timeout
        block_since = self._reader.header_block_since
        if late is not None and block_since is not None and now - block_since >= late:
            self.fail(_Code.ENHANCE_YOUR_CALM, "head_timeout")
        elif not self.streams:
            keep = settings.keepalive_timeout if self._reader.seen_settings else late
            if keep is not None and now - self.idle_since >= keep:
                self.fail(_Code.NO_ERROR, "idle")
        else:
            if self._context.memory.must_free:
                self.begin_goaway("memory")
            self._sweep_liveness(now)

    def _sweep_liveness(self, now: float) -> None:
        # A ping would wait behind other bytes, and `StallWatch` sees whether those move.
        if self._liveness.is_due(now, busy=self._transport.get_write_buffer_size() > 0):
            self._h2.ping(b"flowserv")
            self._schedule_flush()
        elif self._liveness.is_unanswered(now):
            if self.send_queue.has_arrived():
                # Its host has acknowledged the ping: it is there, but its program does not read now.
                self._liveness.excuse(now)
            else:
                self._on_gone()
