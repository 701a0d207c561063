"""One request and its response, between a downstream and an upstream stream.

The provider's bytes take four calls and one write: `UpstreamH1.buffer_updated`, `Exchange.on_upstream_data`,
`EventFilter.feed`, `send_data`, `transport.write`. Everything here is synchronous; the clock is handed in.
"""

from __future__ import annotations

from ..errors import DRAINED, UNREADABLE, EndReason, Party, RelayError, body_too_large
from ..events.registry import is_blank
from ..flow.progress import Activity
from ..flow.read_gate import ReadGate, Reason
from ..http.messages import Headers, RequestHead, ResponseHead, upstream_request_id
from .context import ExchangeContext
from .event_filter import AnyFilter, EventFilter, OpaqueFilter
from .failures import answer_head, error_head, named, timeout
from .fast_path import BURST, FastPath
from .interfaces import DownstreamStream, RoutedStream
from .provider import Deadlines, Provider
from .token_count import Account

_COMPLETE = EndReason.COMPLETE
"""In Python 3.11 to look up a member of an enumeration takes a call."""


class Exchange:
    """States: waiting for the head, streaming, flushing (the provider is done, the client is not), abandoned (the
    client is gone, the provider is not), ended."""

    __slots__ = (
        "_abandoned",
        "_activity",
        "_awaits_first",
        "_context",
        "_cut",
        "_deadlines",
        "_down",
        "_fast_path",
        "_fast_path_writes",
        "_filter",
        "_first",
        "_head",
        "_lead",
        "_quiet",
        "_response_whole",
        "_up",
        "_upload_gate",
        "_waiting_since",
        "account",
        "answer_gate",
        "bytes_down",
        "bytes_up",
        "chunks_down",
        "end_reason",
        "ended_at",
        "error",
        "first_byte_at",
        "first_token_at",
        "heartbeats",
        "request",
        "request_id",
        "request_whole",
        "started_at",
        "status",
        "upstream_request_id",
    )

    def __init__(
        self,
        request: RequestHead,
        downstream: DownstreamStream,
        context: ExchangeContext,
        *,
        request_id: bytes,
        account: Account,
    ) -> None:
        now = context.clock()
        self._context = context
        self._down = downstream
        self._up: RoutedStream | None = None
        self._fast_path: FastPath | None = None
        self._fast_path_writes = 0
        """Chunks that were written to the client by fast paths."""
        self._lead = 0
        """How many more reads than events with content there were when a fast path was last asked for, or content
        began."""
        self._deadlines = context.deadlines
        self._activity: Activity | None = None
        self._quiet: Activity | None = None
        self._filter: AnyFilter | None = None
        self._head: ResponseHead | None = None
        """The answer's head until its body has begun: its first bytes may show that it is not what it is called."""
        self._first = b""
        """These bytes, while they are too few."""
        self._cut = False
        self._abandoned: tuple[float, int] | None = None
        """When the client left whose answer is read on, and how many bytes had come by then; None: not so."""
        self._waiting_since = now
        self._response_whole = False
        self.request = request
        self.request_id = request_id
        """The request id, ours or the client's."""
        self.upstream_request_id: bytes | None = None
        """The provider's own; None: it has not told one."""
        self.account = account
        """Tokens asked for and emitted."""
        self.request_whole = not request.has_body
        self.answer_gate: ReadGate | None = None
        """None: the provider was never stopped, which is usual."""
        self._upload_gate: ReadGate | None = None
        """None: the client was never stopped, which is usual."""
        self.started_at = now
        self.first_byte_at: float | None = None
        """When the first byte of the answer's body came; None before."""
        self._awaits_first = True
        """Whether one of these two is still to come: the path of every token looks at no more than this."""
        self.first_token_at: float | None = None
        """When its first content came; None before, and where content is not counted."""
        self.heartbeats = 0
        self.ended_at: float | None = None
        self.status = 0
        """Status sent to the client; 0 before there is one."""
        self.bytes_down = 0
        """Body bytes from the provider."""
        self.chunks_down = 0
        """Reads they came in."""
        self.bytes_up = 0
        """Body bytes from the client."""
        self.end_reason: EndReason | None = None
        self.error: RelayError | None = None
        downstream.attach(self)

    # --- beginning -------------------------------------------------------------------------------------------------

    def start(self, stream: RoutedStream) -> None:
        """Ask for an answer over `stream`."""
        self._context.observer.exchange_started(self)
        length = self.request.content_length
        if length is not None and length > self._context.max_body:
            self._fail(body_too_large(self._context.max_body))
            return
        self._up = stream
        stream.start()

    def refuse(self, error: RelayError) -> None:
        """Answer without asking a provider."""
        self._context.observer.exchange_started(self)
        self._fail(error)

    def answer(self, status: int, headers: Headers) -> None:
        """Answer without a body, and without asking a provider."""
        self._context.observer.exchange_started(self)
        self._response_whole = True
        self.status = status
        self._down.send_head(answer_head(status, [*headers, (b"x-request-id", self.request_id)]))
        self._finish()

    # --- the client's side -----------------------------------------------------------------------------------------

    def on_downstream_data(self, data: bytes) -> None:
        self.bytes_up += len(data)
        if self._up is None or self._response_whole:
            return  # refused, or answered before the upload was over: the rest is of no use
        if self.bytes_up > self._context.max_body:
            self._fail(body_too_large(self._context.max_body))
        else:
            self._up.send_data(data)

    def on_downstream_end(self) -> None:
        self.request_whole = True
        self._waiting_since = self._context.clock()
        if self._up is not None:
            self._up.send_end()

    def on_downstream_reset(self, reason: EndReason) -> None:
        self._close_fast_path()
        if self._reads_on(reason):
            self._abandoned = (self._context.clock(), self.bytes_down)
            self._context.abandoned.exchanges.add(self)
            self.on_downstream_drained()
            return
        self._drop_upstream()
        self._end(reason)

    def on_downstream_failed(self, error: RelayError) -> None:
        self._fail(error)

    def on_downstream_blocked(self) -> None:
        self._close_fast_path()

    def on_downstream_full(self) -> None:
        self._close_fast_path()
        self._shut(Reason.DOWNSTREAM)

    def on_downstream_drained(self) -> None:
        if self.answer_gate is not None:
            self.answer_gate.open(Reason.DOWNSTREAM)

    def on_downstream_finished(self) -> None:
        self._end(_COMPLETE)

    def on_drain_timeout(self) -> None:
        self._fail(DRAINED)

    def on_provider(self, provider: Provider, now: float) -> None:
        """This provider is asked now; its deadlines hold, from now on."""
        self._deadlines = provider.deadlines
        self._waiting_since = now

    def _reads_on(self, reason: EndReason) -> bool:
        """Whether the answer is read to its end though nobody gets it: where the provider charges for all of it, by the
        route's choice."""
        return (
            reason is EndReason.CLIENT_GONE
            and self._up is not None
            and self._up.drain_on_disconnect
            and self.request_whole
            and not self.is_over
        )

    # --- the provider's side ---------------------------------------------------------------------------------------

    def on_upstream_interim(self, head: ResponseHead) -> None:
        if head.status != 100:  # that one answers an Expect that ended here
            self._down.send_interim(self.account.passed_head(head, self.request_id, None))

    def on_upstream_head(self, head: ResponseHead) -> None:
        """Where it does not say what the body is, it waits for the body's first bytes."""
        self._head = head
        self.upstream_request_id = upstream_request_id(head, self.request_id)
        if not self.account.open(head):
            self._send_head(head)

    def _send_head(self, head: ResponseHead) -> None:
        self.status = head.status
        self._filter = self.account.event_filter
        passed = self.account.passed_head(head, self.request_id, self.upstream_request_id)
        if self._may_edit():
            passed.content_length = None
        self._down.send_head(passed)

    def _look(self, head: ResponseHead, data: bytes, *, is_all: bool = False) -> bytes:
        """The body's first bytes show what it is. Returns what is to be read now: nothing while they are too few, but
        for the blanks with which some providers show that they are at work."""
        self._first += data
        if self.account.look(head, self._first, is_all=is_all):
            self._head = None
        elif not is_blank(self._first):
            return b""
        data, self._first = self._first, b""
        if not self.status:
            head.body_follows = bool(data)
            self._send_head(head)
        self._filter = self.account.event_filter if self._head is None else None
        return data

    def on_upstream_data(self, data: bytes) -> None:
        if self._head is not None:
            data = self._look(self._head, data)
            if not data:
                return
        if self._fast_path is not None:
            self.bring_up_to_date()
            if len(data) >= BURST:
                self._close_fast_path()
        self.bytes_down += len(data)
        self.chunks_down += 1
        event_filter = self._filter
        if event_filter is not None:
            data = event_filter.feed(data)
        if self._awaits_first:
            self._note_first()
        if event_filter is not None and (event_filter.holds_back or not data):
            self._pass_on(event_filter, data)
            return
        self._down.send_data(data)

    # --- the fast path of ordinary events: see `fast_path` ---

    def fast_path(self) -> FastPath | None:
        """Only where events came one by one since this was last asked: of a burst, reads are to be small."""
        event_filter = self._filter
        if self._fast_path is not None or self._awaits_first or not isinstance(event_filter, EventFilter):
            return None
        lead, before = self.chunks_down - event_filter.meter.content_events, self._lead
        self._lead = lead
        if not self.request_whole or self._abandoned is not None or lead < before:
            return None
        room, template, way = self._fast_path_room(), event_filter.meter.template, self._down.direct_writer()
        if room is None or template is None or way is None:
            return None
        write, framed = way
        content = event_filter.meter.content.pending
        self._fast_path = FastPath(
            template, room, content=content, write=write, framed=framed, renew=self._fast_path_room
        )
        return self._fast_path

    def _fast_path_room(self) -> int | None:
        event_filter = self._filter
        gate = self.answer_gate
        if not isinstance(event_filter, EventFilter) or (gate is not None and gate.is_shut):
            return None
        room, fast_path = event_filter.room, self._fast_path
        if room is not None and fast_path is not None and event_filter.meter.template is not fast_path.template:
            assert event_filter.meter.template is not None
            fast_path.follow(event_filter.meter.template)
        return room

    def bring_up_to_date(self) -> None:
        """Take account of what passed by the fast path. To be called before figures are read, too."""
        fast_path = self._fast_path
        if fast_path is None or not fast_path.events:
            return
        self.bytes_down += fast_path.size
        reads = fast_path.events - fast_path.together
        self.chunks_down += reads
        if fast_path.framed:
            self._fast_path_writes += reads
        assert isinstance(self._filter, EventFilter)
        self._filter.count_template(fast_path.events, fast_path.content_bytes)
        fast_path.taken()

    def _close_fast_path(self) -> None:
        fast_path = self._fast_path
        if fast_path is not None:
            self.bring_up_to_date()
            self._fast_path = None
            fast_path.close()

    def _note_first(self) -> None:
        """The first byte, and the first token where tokens are counted."""
        if self.first_byte_at is None:
            self.first_byte_at = self._context.clock()
        if self._filter is None or self._filter.meter is None:
            self._awaits_first = self._head is not None
        elif content_events := self._filter.meter.content_events:
            self._lead = self.chunks_down - content_events
            self.first_token_at = self._context.clock()
            self._awaits_first = False

    def on_upstream_end(self) -> None:
        if self._head is not None and (rest := self._look(self._head, b"", is_all=True)):
            self.on_upstream_data(rest)
            if self.is_over:
                return
        self._response_whole = True
        if self._filter is not None and self._filter.is_waiting:
            return  # for tokens: what came passes when they are there
        self._finish_answer()

    def on_more_tokens(self) -> None:
        """Events that waited for tokens may pass now, or it turned out that there are none."""
        event_filter = self._filter
        if event_filter is None or self.ended_at is not None or self.error is not None or self._cut:
            return
        self._pass_on(event_filter, event_filter.resume())
        if event_filter.is_waiting or self._cut:
            return
        if self._response_whole:
            self._finish_answer()
        elif self.answer_gate is not None:
            self.answer_gate.open(Reason.QUOTA)

    def _pass_on(self, event_filter: AnyFilter, data: bytes) -> None:
        """What a tap let through, where that is not simply what it got."""
        if event_filter.spent:
            self._cut_off(data)
            return
        if data:
            self._down.send_data(data)
        if event_filter.is_waiting:
            self._close_fast_path()
            self._shut(Reason.QUOTA)

    def _shut(self, reason: Reason) -> None:
        """Stop the provider, if there is one still."""
        if self._up is None or self.is_over or self.error is not None:
            return
        if self.answer_gate is None:
            self.answer_gate = ReadGate(self._up, self._context.clock, self._context.pauses)
        self.answer_gate.shut(reason)

    def _finish_answer(self) -> None:
        self._drop_upstream()
        if self._filter is not None:
            rest = self._filter.finish()
            if rest:
                self._down.send_data(rest)
        self._finish()

    def on_upstream_failed(self, error: RelayError) -> None:
        self._fail(error)

    def on_upstream_full(self) -> None:
        if self.ended_at is not None:
            return
        if self._upload_gate is None:
            self._upload_gate = ReadGate(self._down, self._context.clock, self._context.pauses)
        self._upload_gate.shut(Reason.UPSTREAM)

    def on_upstream_drained(self) -> None:
        if self._upload_gate is not None:
            self._upload_gate.open(Reason.UPSTREAM)

    def _may_edit(self) -> bool:
        """Whether the body may become longer or shorter than the provider's."""
        if self._filter is None:
            return self._head is not None and self.account.meter is not None  # not known yet
        return self._filter.edits or (self._context.heartbeat is not None and self.account.heartbeat is not None)

    def _cut_off(self, last: bytes) -> None:
        """The budget is reached: a clean end here, and the provider's work is over. What can't be read has no clean
        end."""
        if isinstance(self._filter, OpaqueFilter):
            self._fail(UNREADABLE)
            return
        self._cut = True
        self._response_whole = True
        self._drop_upstream()
        last += self.account.ending()
        if last:
            self._down.send_data(last)
        self._finish()

    def _finish(self) -> None:
        self._down.send_end()
        if self._abandoned is not None:
            self._end(EndReason.CLIENT_GONE)

    # --- time ------------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Look at the deadlines: each has its own reason, and stands still while the relay itself holds things up."""
        self.bring_up_to_date()
        self.account.sweep(now)
        if self.ended_at is not None or self._response_whole:
            return
        if self._up is not None:
            self._up.sweep(now)
            if self.is_over:
                return
        if self._abandoned is not None and self._was_long_enough(now, *self._abandoned):
            self._drop_upstream()
            self._end(EndReason.CLIENT_GONE)
            return
        self._sweep_silence(now)
        limits = self._deadlines
        if limits.total is not None and now - self.started_at >= limits.total:
            self._fail(timeout("The answer took", limits.total, "FLOW_TOTAL_TIMEOUT", EndReason.TOTAL_TIMEOUT))
        elif not self.request_whole:
            self._sweep_upload(now, limits)
        elif self.first_byte_at is None:
            if limits.first_byte is not None and now - self._waiting_since >= limits.first_byte:
                reason = EndReason.FIRST_BYTE_TIMEOUT
                self._fail(
                    timeout("The provider sent nothing for", limits.first_byte, "FLOW_FIRST_BYTE_TIMEOUT", reason)
                )
        elif limits.idle is not None:
            paused = self.answer_gate is not None and self.answer_gate.is_shut
            still = self._still_for(now, "down", self.bytes_down, paused)
            if not paused and still >= limits.idle:
                reason = EndReason.IDLE_TIMEOUT
                self._fail(timeout("The provider fell silent for", limits.idle, "FLOW_IDLE_TIMEOUT", reason))

    def _still_for(self, now: float, *mark: object) -> float:
        if self._activity is None:  # most exchanges are over before the first look
            self._activity = Activity()
        return self._activity.still_for(now, *mark)

    def _was_long_enough(self, now: float, since: float, size: int) -> bool:
        limits = self._context.abandoned
        return now - since >= limits.time or self.bytes_down - size >= limits.size

    def _sweep_silence(self, now: float) -> None:
        """Show the client of a silent provider that the connection lives, where its format has something for that."""
        limit, beat, event_filter = self._context.heartbeat, self.account.heartbeat, self._filter
        if limit is None or beat is None or event_filter is None or self._abandoned is not None:
            return
        paused = self.answer_gate is not None and self.answer_gate.is_shut
        if self._quiet is None:
            self._quiet = Activity()
        still = self._quiet.still_for(now, self.writes[0], paused)
        if (
            still >= limit
            and not paused
            and event_filter.at_boundary
            and not (event_filter.meter and event_filter.meter.finished)
        ):
            self.heartbeats += 1
            self._down.send_data(beat)

    def _sweep_upload(self, now: float, limits: Deadlines) -> None:
        held_back = self.upload_is_stopped
        still = self._still_for(now, "up", self.bytes_up, self.bytes_down, held_back, self._down.upload_waits)
        if held_back:
            if limits.first_byte is not None and still >= limits.first_byte:
                what = "The provider took no more of the request for"
                reason = EndReason.FIRST_BYTE_TIMEOUT
                self._fail(timeout(what, limits.first_byte, "FLOW_FIRST_BYTE_TIMEOUT", reason))
        elif limits.body is not None and still >= limits.body:
            message = f"The request body stopped for {limits.body:g} s (FLOW_BODY_TIMEOUT). Send it without pauses."
            self._fail(RelayError(408, "body_timeout", message, Party.CLIENT, EndReason.BODY_TIMEOUT))

    # --- ending ----------------------------------------------------------------------------------------------------

    def paused(self) -> tuple[int, float]:
        """How often and for how many seconds the provider was stopped."""
        gate = self.answer_gate
        return (gate.pauses, gate.paused_seconds()) if gate is not None else (0, 0.0)

    @property
    def upload_is_stopped(self) -> bool:
        """Whether the client is held back since the provider lags."""
        return self._upload_gate is not None and self._upload_gate.is_shut

    @property
    def held(self) -> int:
        """Bytes held for the client."""
        return self._down.held

    @property
    def writes(self) -> tuple[int, int]:
        """Chunks written to the client, and how many of them found its transport blocked."""
        written, full = self._down.writes
        return written + self._fast_path_writes, full

    @property
    def protocol(self) -> str:
        return self._down.protocol

    @property
    def upstream(self) -> str | None:
        return self._up.upstream if self._up is not None else None

    @property
    def attempts(self) -> int:
        return self._up.attempts if self._up is not None else 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come from a provider."""
        return self.ended_at is not None or self._response_whole

    @property
    def upstream_reused(self) -> bool:
        return self._up is not None and self._up.reused

    def state(self) -> str:
        """One word for /streams."""
        if self._abandoned is not None:
            return "abandoned"
        if self._filter is not None and self._filter.is_waiting:
            return "waiting_for_tokens"
        if self.answer_gate is not None and self.answer_gate.is_shut:
            return "paused"
        if self._response_whole:
            return "flushing"
        return "streaming" if self.first_byte_at is not None else "waiting"

    def _fail(self, error: RelayError) -> None:
        """An error answer while there is no head yet, a broken end after it; never a clean one."""
        if self.ended_at is not None or self.error is not None:
            return
        self.error = named(error, self.upstream)
        self._drop_upstream(error)
        error = self.error
        if self.status:
            failure = self.account.failure(error)
            if failure:
                self._down.send_data(failure)
            self._down.break_off()
            self._end(error.end)
            return
        self._response_whole = True
        self.status = error.status
        body = self.account.error(error)
        head = error_head(error, self.request_id, len(body))
        head.headers = self.account.answer_fields(head.headers)
        self._down.send_head(head)
        self._down.send_data(body)
        self._finish()

    def _drop_upstream(self, error: RelayError | None = None) -> None:
        self._close_fast_path()
        if self.answer_gate is not None:
            self.answer_gate.close()
        if self._up is not None:
            self._up.cancel(error)

    def _end(self, reason: EndReason) -> None:
        if self.ended_at is not None:
            return
        self._close_fast_path()
        self.ended_at = self._context.clock()
        self.end_reason = self._true_reason(reason)
        self._context.abandoned.exchanges.discard(self)
        self.account.settle(self.bytes_down)
        if self._upload_gate is not None:
            self._upload_gate.close()
        self._context.observer.exchange_ended(self)

    def _true_reason(self, reason: EndReason) -> EndReason:
        if self._abandoned is not None:
            return EndReason.CLIENT_GONE
        if self.error is not None:
            return self.error.end
        return self.account.cut_reason if self._cut and reason is _COMPLETE else reason
