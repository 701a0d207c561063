"""One request and its response, between a downstream and an upstream stream.

The provider's bytes take four calls and one write: `UpstreamH1.buffer_updated`, `Exchange.on_upstream_data`,
`EventFilter.feed`, `send_data`, `transport.write`. Everything here is synchronous; the clock is handed in.
"""

from __future__ import annotations

from typing import Final

from ..errors import DRAINED, UNREADABLE, EndReason, RelayError, body_too_large
from ..events.registry import is_blank
from ..flow.read_gate import ReadGate, Reason
from ..http.messages import Headers, RequestHead, ResponseHead, upstream_request_id
from .account import Account
from .answer_hold import AnswerHold
from .context import ExchangeContext
from .deadlines import DeadlineWatch
from .event_filter import AnyFilter, EventFilter, OpaqueFilter
from .exchange_figures import ExchangeFigures
from .failures import answer_head, error_head, named
from .fast_path import FastPath
from .interfaces import DownstreamStream, RoutedStream
from .provider import Provider
from .state import State

# In Python 3.11 looking up an enum member costs a call.
_COMPLETE: Final = EndReason.COMPLETE
_WAITING: Final = State.WAITING
_STREAMING: Final = State.STREAMING
_ABANDONED: Final = State.ABANDONED
_FLUSHING: Final = State.FLUSHING
_SETTLING: Final = State.SETTLING
_ENDED: Final = State.ENDED


class Exchange(ExchangeFigures):
    """One request and its response. See `State` for its states."""

    __slots__ = ()

    def __init__(
        self,
        request: RequestHead,
        downstream: DownstreamStream,
        context: ExchangeContext,
        *,
        request_id: bytes,
        account: Account,
    ) -> None:
        super().__init__(request, downstream, context, request_id=request_id, account=account)
        downstream.attach(self)

    def _move_to(self, state: State) -> None:
        """The one place where the state changes."""
        trace = self._context.trace
        if trace is not None:
            trace(self.request_id, self._state.name, state.name)
        self._state = state

    def _leave_provider(self) -> None:
        """Release the provider: nothing more of the answer is needed."""
        if self._state < _FLUSHING:
            self._move_to(_FLUSHING if self._state is not _ABANDONED else _SETTLING)

    # --- beginning -------------------------------------------------------------------------------------------------

    def start(self, stream: RoutedStream) -> None:
        """Send the request over `stream`."""
        self._context.observer.exchange_started(self)
        length = self.request.content_length
        if length is not None and length > self._context.max_body:
            self._fail(body_too_large(self._context.max_body))
            return
        self._up = stream
        stream.start()

    def refuse(self, error: RelayError) -> None:
        """Answer with an error, without a provider."""
        self._context.observer.exchange_started(self)
        self._fail(error)

    def answer(self, status: int, headers: Headers) -> None:
        """Answer without a body, and without a provider."""
        self._context.observer.exchange_started(self)
        self._leave_provider()
        self.status = status
        self._down.send_head(answer_head(status, [*headers, (b"x-request-id", self.request_id)]))
        self._finish()

    # --- the client's side -----------------------------------------------------------------------------------------

    def on_downstream_data(self, data: bytes) -> None:
        self.bytes_up += len(data)
        if self._up is None or self._state >= _FLUSHING:
            return  # refused, or answered before the upload was complete: the rest is not needed
        if self.bytes_up > self._context.max_body:
            self._fail(body_too_large(self._context.max_body))
        else:
            self._up.send_data(data)

    def on_downstream_end(self) -> None:
        self.request_whole = True
        self.waiting_since = self._context.clock()
        if self._up is not None:
            self._up.send_end()

    def on_downstream_reset(self, reason: EndReason) -> None:
        self._close_fast_path()
        if self._is_drained_after(reason):
            self._move_to(_ABANDONED)
            self._context.abandoned.add(self, self._context.clock(), self.bytes_down)
            if self._hold is not None:
                self._hold.open(Reason.DOWNSTREAM)
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
        if self._hold is not None:
            self._hold.drained(self.bytes_down)

    def unacknowledged(self) -> int:
        return self._down.unacknowledged()

    def on_downstream_finished(self) -> None:
        self._end(_COMPLETE)

    def on_drain_timeout(self) -> None:
        self._fail(DRAINED)

    def on_provider(self, provider: Provider, now: float) -> None:
        """The request goes to this provider, whose deadlines apply from now on."""
        self.deadlines = provider.deadlines
        self.waiting_since = now

    def _is_drained_after(self, reason: EndReason) -> bool:
        """Whether the answer is read to its end although the client has left: the route says so if its provider charges
        for all of it."""
        return (
            reason is EndReason.CLIENT_GONE
            and self._up is not None
            and self._up.drain_on_disconnect
            and self.request_whole
            and not self.is_over
        )

    # --- the provider's side ---------------------------------------------------------------------------------------

    def on_upstream_interim(self, head: ResponseHead) -> None:
        if head.status != 100:  # 100 would answer an Expect that the relay has answered itself
            self._down.send_interim(self.account.passed_head(head, self.request_id, None))

    def on_upstream_head(self, head: ResponseHead) -> None:
        """Pass the head on, unless the body's first bytes are needed to determine its format."""
        self._head = head
        self.upstream_request_id = upstream_request_id(head, self.request_id)
        if self.account.trace is None:  # a span has the client's user agent
            self.request.forget_fields()
        if not self.account.open(head):
            self._send_head(head)

    def _send_head(self, head: ResponseHead) -> None:
        self.status = head.status
        if self._state is _WAITING:
            self._move_to(_STREAMING)
        self._filter = self.account.event_filter
        passed = self.account.passed_head(head, self.request_id, self.upstream_request_id)
        if self._may_edit():
            passed.content_length = None
        self._down.send_head(passed)

    def _look(self, head: ResponseHead, data: bytes, *, is_all: bool = False) -> bytes:
        """Detect the body's format by its first bytes. Returns the bytes to process now: none while they are too few,
        except whitespace, which some providers send to show that they are working."""
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
        self._slow_size += len(data)
        self._slow_chunks += 1
        event_filter = self._filter
        if event_filter is not None:
            data = event_filter.feed(data)
        if self._awaits_first:
            self._note_first()
        if event_filter is not None and (event_filter.holds_back or not data):
            self._pass_on(event_filter, data)
            return
        self._down.send_data(data)

    def fast_path(self) -> FastPath | None:
        fast_path = self._fast_path
        if fast_path is None or not fast_path.comes_evenly(self.chunks_down):
            return None
        if self._state is not _STREAMING or not self.request_whole or self.is_paused:
            return None
        writer = self._down.direct_writer()
        return fast_path if writer is not None and fast_path.open(*writer) else None

    def _close_fast_path(self) -> None:
        if self._fast_path is not None:
            self._fast_path.close()

    def _note_first(self) -> None:
        """Record when the first byte arrived, and the first token if tokens are counted."""
        if self.first_byte_at is None:
            self.first_byte_at = self._context.clock()
            if self._hold is not None:
                self._hold.time.begin(self.first_byte_at)
        if self._filter is None or self._filter.meter is None:
            self._awaits_first = self._head is not None
        elif self._filter.meter.content_events:
            self.first_token_at = self._context.clock()
            self._awaits_first = False
            if self._context.fast_path and isinstance(self._filter, EventFilter):
                self._fast_path = FastPath(self._filter, self._slow_chunks)
        if not self._awaits_first and self._up is not None and self._up.times_content:
            self._up.on_first_content()

    def on_upstream_end(self) -> None:
        if self._head is not None and (rest := self._look(self._head, b"", is_all=True)):
            self.on_upstream_data(rest)
            if self.is_over:
                return
        if self._up is not None and self._up.times_content:
            self._up.on_first_content()  # a whole answer is read only at its end
        self._leave_provider()
        if self._filter is not None and self._filter.is_waiting:
            return  # waits for tokens
        self._finish_answer()

    def on_more_tokens(self) -> None:
        """Pass on events that waited for tokens, or end the answer if none are left."""
        event_filter = self._filter
        if event_filter is None or not event_filter.is_waiting or self._state is _ENDED:
            return
        if not self._pass_on(event_filter, event_filter.resume()):
            return
        if self._state >= _FLUSHING:
            self._finish_answer()
        elif self._hold is not None:
            self._hold.open(Reason.QUOTA)

    def _pass_on(self, event_filter: AnyFilter, data: bytes) -> bool:
        """Pass on `data` from `event_filter`, if it may edit or hold data. Returns whether more may follow now."""
        if event_filter.spent:
            self._cut_off(data)
            return False
        if data:
            self._down.send_data(data)
        if event_filter.is_waiting:
            self._close_fast_path()
            self._shut(Reason.QUOTA)
            return False
        return True

    def _shut(self, reason: Reason) -> None:
        """Stop the provider, if there still is one."""
        if self._up is not None and self._state < _FLUSHING:
            self._hold_over(self._up).shut(reason)

    def _hold_over(self, up: RoutedStream) -> AnswerHold:
        if self._hold is None:
            self._hold = AnswerHold(up, self._down, self._context, self.first_byte_at, self.account.trace)
        return self._hold

    def _finish_answer(self) -> None:
        self._close_fast_path()
        rest = self._filter.finish() if self._filter is not None else b""
        self._drop_upstream()  # this charges the place at the provider by what is known of the answer
        if rest:
            self._down.send_data(rest)
        self._finish()

    def on_upstream_failed(self, error: RelayError) -> None:
        self._fail(error)

    def on_upstream_full(self) -> None:
        if self._state is _ENDED:
            return
        if self._upload_gate is None:
            self._upload_gate = ReadGate(self._down, self._context.clock, self._context.pauses, self.account.trace)
        self._upload_gate.shut(Reason.UPSTREAM)

    def on_upstream_drained(self) -> None:
        if self._upload_gate is not None:
            self._upload_gate.open(Reason.UPSTREAM)

    def _may_edit(self) -> bool:
        """Whether the body's length may change."""
        if self._filter is None:
            return self._head is not None and self.account.meter is not None  # not known yet
        return self._filter.edits or (self._context.heartbeat is not None and self.account.heartbeat is not None)

    def _cut_off(self, last: bytes) -> None:
        """End the answer at its budget, cleanly, and cancel the provider. An unreadable answer has no clean end."""
        if isinstance(self._filter, OpaqueFilter):
            self._fail(UNREADABLE)
            return
        self._leave_provider()
        self._drop_upstream()
        last += self.account.ending()
        if last:
            self._down.send_data(last)
        self._finish()

    def _finish(self) -> None:
        self._down.send_end()
        if self._state is _SETTLING:
            self._end(EndReason.CLIENT_GONE)
        else:
            self._hold_rest()

    def _hold_rest(self) -> None:
        """Account for the rest of a complete answer, which may wait for the client's side."""
        is_whole = self._state is _FLUSHING and (self._filter is None or not self._filter.is_waiting)
        if is_whole and self._up is not None and self._down.held_since is not None:
            self._hold_over(self._up).wait_for_end()

    # --- time ------------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        if self._fast_path is not None:
            self._fast_path.settle()
        self.account.sweep(now)
        if self._up is not None and self._state < _FLUSHING:
            self._up.sweep(now)
        if self._hold is not None:
            self._hold.time.settle(now)
        if self._state >= _FLUSHING:
            self._hold_rest()
            return
        if self._state is _ABANDONED and self._context.abandoned.is_enough(self, now, self.bytes_down):
            self._drop_upstream()
            self._end(EndReason.CLIENT_GONE)
            return
        watch = self._watch
        if watch is None:
            watch = self._watch = DeadlineWatch()
        self._show_life(watch, now)
        error = watch.check(self, now)
        if error is not None:
            self._fail(error)

    def _show_life(self, watch: DeadlineWatch, now: float) -> None:
        """Send a heartbeat while the provider is silent, if the format has one."""
        limit, beat, event_filter = self._context.heartbeat, self.account.heartbeat, self._filter
        if limit is None or beat is None or event_filter is None or self._state is _ABANDONED:
            return
        silent = watch.silence(now, self.writes[0], paused=self.is_paused) >= limit
        if silent and event_filter.at_boundary and not (event_filter.meter and event_filter.meter.finished):
            self.heartbeats += 1
            self._down.send_data(beat)

    # --- ending ----------------------------------------------------------------------------------------------------

    def cut(self, error: RelayError) -> None:
        """End at once, and drop what waits for the client."""
        if not self.status:
            self._fail(error)
            return
        self._down.cut(error.end)
        self.on_downstream_reset(error.end)  # nobody else calls it if the client has left

    def _fail(self, error: RelayError) -> None:
        """End with an error: an error answer if no head has been sent, otherwise a broken end; never a clean one."""
        if self._state is _ENDED or self.error is not None:
            return
        up = self._up
        self.error = error = named(error, up.upstream if up is not None else None)
        self._leave_provider()
        self._drop_upstream(error)
        if self.status:
            if failure := self.account.failure(error):
                self._down.send_data(failure)
            self._down.break_off()
            self._end(error.end)
            return
        self.status = error.status
        body = self.account.error(error)
        head = error_head(error, self.request_id, len(body))
        head.headers = self.account.answer_fields(head.headers)
        self._down.send_head(head)
        self._down.send_data(body)
        self._finish()

    def _drop_upstream(self, error: RelayError | None = None) -> None:
        self._close_fast_path()
        if self._hold is not None:
            self._hold.gate.close()
        if self._up is not None:
            self._up.cancel(error)

    def _end(self, reason: EndReason) -> None:
        if self._state is _ENDED:
            return
        self._close_fast_path()
        self.ended_at = self._context.clock()
        self.end_reason = self._true_reason(reason)
        self._move_to(_ENDED)
        if self._hold is not None:
            self._hold.time.end(self.ended_at)
        self._context.abandoned.discard(self)
        self.account.settle(self.bytes_down)
        if self._upload_gate is not None:
            self._upload_gate.close()
        self._context.observer.exchange_ended(self)

    def _true_reason(self, reason: EndReason) -> EndReason:
        if self._state is _ABANDONED or self._state is _SETTLING:
            return EndReason.CLIENT_GONE
        if self.error is not None:
            return self.error.end
        was_cut = self.account.cut_at is not None
        return self.account.cut_reason if was_cut and reason is _COMPLETE else reason
