"""The figures of an exchange so far, for log, metrics, admin pages, deadlines and the memory budget. No I/O."""

from __future__ import annotations

from typing import Final

from ..errors import EndReason, RelayError
from ..flow.read_gate import ReadGate
from ..http.messages import RequestHead, ResponseHead
from .account import Account
from .answer_hold import AnswerHold
from .context import ExchangeContext
from .deadlines import DeadlineWatch
from .event_filter import AnyFilter
from .fast_path import FastPath
from .interfaces import DownstreamStream, RoutedStream
from .record import ExchangeRecord, account_record, fill_in_hold, token_record
from .state import State

# In Python 3.11 looking up an enum member costs a call.
_WAITING: Final = State.WAITING
_ABANDONED: Final = State.ABANDONED
_FLUSHING: Final = State.FLUSHING
_SETTLING: Final = State.SETTLING
_ENDED: Final = State.ENDED


class ExchangeFigures:
    """The part of an `Exchange` that only reports."""

    __slots__ = (
        "_awaits_first",
        "_context",
        "_down",
        "_fast_path",
        "_filter",
        "_first",
        "_head",
        "_hold",
        "_slow_chunks",
        "_slow_size",
        "_state",
        "_up",
        "_upload_gate",
        "_watch",
        "account",
        "bytes_up",
        "deadlines",
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
        "waiting_since",
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
        self._state = _WAITING
        self._down = downstream
        self._up: RoutedStream | None = None
        self._fast_path: FastPath | None = None
        """None until the answer's first content, and if there is no fast path for it."""
        self.deadlines = context.deadlines
        self._watch: DeadlineWatch | None = None
        self._filter: AnyFilter | None = None
        self._head: ResponseHead | None = None
        """The answer's head until its body has begun: the first bytes may contradict the head."""
        self._first = b""
        """These first bytes, while they are too few."""
        self.waiting_since = now
        self.request = request
        self.request_id = request_id
        """The request id, the relay's or the client's."""
        self.upstream_request_id: bytes | None = None
        """The provider's own request id; None: it has sent none."""
        self.account = account
        """Tokens asked for and emitted."""
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self.request_whole = not request.has_body
        self._awaits_first = True
        """Whether the first byte or the first token is still missing: the path of every token checks only this."""
        self._hold: AnswerHold | None = None
        """None: only the provider has held the answer up, as usual."""
        self._upload_gate: ReadGate | None = None
        """None: the client was never stopped, as usual."""
        self.started_at = now
        self.first_byte_at: float | None = None
        """When the first byte of the answer's body arrived; None before."""
        self.first_token_at: float | None = None
        """When its first content arrived; None before, and if content is not counted."""
        self.heartbeats = 0
        self.ended_at: float | None = None
        self.status = 0
        """Status sent to the client; 0 before there is one."""
        self._slow_size = self._slow_chunks = 0
        """Body bytes from the provider that took the slow path, and the number of reads."""
        self.bytes_up = 0
        """Body bytes from the client."""
        self.end_reason: EndReason | None = None
        self.error: RelayError | None = None

    def __repr__(self) -> str:
        state = f"{self._state.name}{' paused' if self.is_paused else ''}"
        return f"<Exchange {self.request_id.decode()} {state} up={self.bytes_up} down={self.bytes_down}>"

    def record(self) -> ExchangeRecord:
        """The figures as they are now."""
        if self._fast_path is not None:
            self._fast_path.settle()
        up, record = self._up, ExchangeRecord()
        record.request, record.heartbeats = self.request, self.heartbeats
        record.request_id, record.upstream_request_id = self.request_id, self.upstream_request_id
        record.tunnel_seconds = None
        record.protocol, record.client = self._down.protocol, self._down.client.address
        record.upstream = up.upstream if up is not None else None
        record.attempts, record.queued = (up.attempts, up.queued) if up is not None else (0, 0.0)
        record.reused, record.state = up is not None and up.reused, self.state()
        record.status, record.end, record.error = self.status, self.end_reason, self.error
        record.started_at, record.ended_at, record.waiting_since = self.started_at, self.ended_at, self.waiting_since
        record.first_byte_at, record.first_token_at = self.first_byte_at, self.first_token_at
        record.bytes_up, record.bytes_down, record.chunks_down = self.bytes_up, self.bytes_down, self.chunks_down
        record.fast_chunks = self._fast_path.chunks if self._fast_path is not None else 0
        now = self._context.clock() if self.ended_at is None else self.ended_at
        record.writes, record.writes_full = self.writes
        fill_in_hold(record, self._hold, self._down, now)
        record.account = account_record(self.account)
        record.tokens = token_record(self.account) if self._state is _ENDED else None
        return record

    @property
    def bytes_down(self) -> int:
        """Body bytes from the provider."""
        fast_path = self._fast_path
        return self._slow_size if fast_path is None else self._slow_size + fast_path.size

    @property
    def chunks_down(self) -> int:
        """Number of reads of these bytes."""
        fast_path = self._fast_path
        return self._slow_chunks if fast_path is None else self._slow_chunks + fast_path.chunks

    @property
    def writes(self) -> tuple[int, int]:
        """Chunks written to the client, and how many of them found its transport blocked."""
        written, full = self._down.writes
        return (written if self._fast_path is None else written + self._fast_path.writes), full

    @property
    def held(self) -> int:
        """Bytes held for the client."""
        return self._down.held

    def holdings(self) -> tuple[int, int, int]:
        """Bytes held: of the answer for the client, of the request, and of the answer's unfinished events."""
        up, event_filter = self._up, self._filter
        return self._down.held, 0 if up is None else up.held, 0 if event_filter is None else event_filter.held

    @property
    def tokens(self) -> int:
        if self._fast_path is not None:
            self._fast_path.settle()
        return self.account.output

    def unacknowledged_tokens(self) -> int:
        """An estimate: the share of the passed tokens whose bytes the client has not acknowledged."""
        size = self.bytes_down
        return round(self.tokens * min(1.0, self._down.unacknowledged() / size)) if size else 0

    @property
    def is_paused(self) -> bool:
        """Whether the provider is stopped."""
        return self._hold is not None and self._hold.gate.is_shut

    @property
    def unanswered_upload(self) -> int:
        """Bytes of a request that is still being sent and has no answer yet, as announced or as they came; 0: it is
        sent, or its answer has begun."""
        if self.request_whole or self.status:
            return 0
        return max(self.request.content_length or 0, self.bytes_up)

    @property
    def upload_is_stopped(self) -> bool:
        """Whether the client is held back because the provider lags."""
        return self._upload_gate is not None and self._upload_gate.is_shut

    @property
    def upload_waits(self) -> bool:
        """Whether the client is held back because unfinished uploads hold too much."""
        return self._down.upload_waits

    @property
    def is_over(self) -> bool:
        """Whether nothing more will arrive from a provider."""
        return self._state >= _FLUSHING

    def state(self) -> str:
        """The state in one word, for /streams."""
        if self._state is _ABANDONED or self._state is _SETTLING:
            return "abandoned"
        if self._filter is not None and self._filter.is_waiting:
            return "waiting_for_tokens"
        if self.is_paused:
            return "paused"
        if self._state >= _FLUSHING:
            return "flushing"
        return "streaming" if self.first_byte_at is not None else "waiting"
