"""A WebSocket between a client and a provider (RFC 6455, RFC 8441): an exchange whose two directions stay open. No I/O.

The handshake is routed like any request. Once the provider has accepted it, all bytes pass unchanged, in both
directions and with the bounds of an answer and an upload. Frames are read only if they report tokens: those of the
provider, of a known API.
"""

from __future__ import annotations

from ..errors import EndReason, Party, RelayError, bad_request, upstream_error
from ..events.websocket import FrameError, MessageReader
from ..flow.progress import Activity
from ..flow.read_gate import Reason
from ..http.messages import RequestHead, ResponseHead, upstream_request_id
from ..http.websocket import ACCEPT, close_frame, is_accepted
from ..quota.lease import Verdict
from .account import Account
from .context import ExchangeContext
from .exchange import Exchange
from .failures import named
from .interfaces import DownstreamStream
from .record import ExchangeRecord
from .state import State

_WAITING, _STREAMING, _, _FLUSHING, _, _ENDED = State
CLOSING_TIME = 3.0
"""Seconds within which a provider must end its direction once the client has ended the other one."""
_GOING_AWAY, _POLICY_VIOLATION, _INTERNAL_ERROR = 1001, 1008, 1011
"""Codes of Close frames (RFC 6455 section 7.4.1)."""
_CODES = {
    EndReason.RELAY_STOPPED: _GOING_AWAY,
    EndReason.IDLE_TIMEOUT: _GOING_AWAY,
    EndReason.TOTAL_TIMEOUT: _GOING_AWAY,
    EndReason.QUOTA: _POLICY_VIOLATION,
    EndReason.BUDGET: _POLICY_VIOLATION,
}

_EARLY = bad_request("Bytes of a WebSocket arrived before its handshake was answered.")
_OVER_QUOTA = RelayError(429, "insufficient_quota", "The quota is used up.", Party.CLIENT, EndReason.QUOTA)
_OVER_BUDGET = RelayError(
    429, "token_budget", "The WebSocket has used up its token budget.", Party.CLIENT, EndReason.BUDGET
)


class Tunnel(Exchange):
    """A WebSocket. `State` describes the provider's direction, as in other exchanges: STREAMING is an open tunnel, or
    an answer that refuses the handshake."""

    __slots__ = ("_closing_since", "_moves", "_reader", "_waits", "opened_at")

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
        self.opened_at: float | None = None
        """When the handshake was complete; None: it is not, or was refused."""
        self._reader = MessageReader() if account.realtime is not None else None
        """None: the frames are not read."""
        self._waits = False
        """Whether the provider is stopped for lack of tokens."""
        self._closing_since: float | None = None
        """When the client ended its direction; None: it is open."""
        self._moves: Activity | None = None
        """None: not checked yet."""

    @property
    def _is_open(self) -> bool:
        return self.opened_at is not None and self._state is _STREAMING

    # --- the client's side -----------------------------------------------------------------------------------------

    def on_downstream_data(self, data: bytes) -> None:
        if self._state is _WAITING:
            self._fail(_EARLY)
        elif self._is_open and self._up is not None:
            self.bytes_up += len(data)
            self._up.send_data(data)

    def on_downstream_end(self) -> None:
        if self._state is _WAITING:
            self._fail(_EARLY)
        elif self._is_open and self._up is not None:
            self._closing_since = self._context.clock()
            self._up.send_end()

    def _is_drained_after(self, reason: EndReason) -> bool:
        return False

    # --- the provider's side ---------------------------------------------------------------------------------------

    def on_upstream_head(self, head: ResponseHead) -> None:
        self.upstream_request_id = upstream_request_id(head, self.request_id)
        self.account.open(head)
        if head.status != 101 and not 200 <= head.status < 300:
            self._send_head(head)
        elif head.status == 101 and is_accepted(self.request, head):
            self._open(head)
        else:
            self._fail(_provider_failed("did not accept the handshake of the WebSocket"))

    def _open(self, head: ResponseHead) -> None:
        passed = self.account.passed_head(head, self.request_id, self.upstream_request_id)
        passed.content_length = None
        if self.request.http_version == b"2":  # RFC 8441 section 5
            passed.status = 200
            passed.headers = [field for field in passed.headers if field[0] != ACCEPT]
        self.status = passed.status
        self.opened_at = self._context.clock()
        self._move_to(_STREAMING)
        self._down.send_head(passed)

    def on_upstream_data(self, data: bytes) -> None:
        self._slow_size += len(data)
        self._slow_chunks += 1
        if self._awaits_first:
            self._awaits_first = False
            self.first_byte_at = self._context.clock()
            if self._hold is not None:
                self._hold.time.begin(self.first_byte_at)
        if self._reader is not None and self._is_open:
            self._read(self._reader, data)
        else:
            self._down.send_data(data)

    def _read(self, reader: MessageReader, data: bytes) -> None:
        """Pass on `data`, up to the end of the message whose report exceeds the limit."""
        try:
            messages = reader.feed(data)
        except FrameError as failure:
            self._fail(_provider_failed(str(failure)))
            return
        for end, text, size in messages:
            error = self._count(text, size)
            if error is not None:
                self._down.send_data(data[:end])
                self._close(error)
                return
        self._down.send_data(data)

    def _count(self, text: bytes, size: int) -> RelayError | None:
        """Count an event of the provider. Returns an error if the tunnel must end after it."""
        self.account.read_event(text, size)
        return self._token_error()

    def _token_error(self) -> RelayError | None:
        """Why the tunnel must end now, by its usage; None: it may continue, at once or after a pause."""
        account = self.account
        if account.budget is not None and account.output >= account.budget:
            return _OVER_BUDGET
        verdict = account.verdict()
        if verdict is Verdict.END:
            return _OVER_QUOTA
        if verdict is Verdict.WAIT and not self._waits:
            self._waits = True
            self._shut(Reason.QUOTA)
        return None

    def on_more_tokens(self) -> None:
        if not self._waits or not self._is_open:
            return
        self._waits = False
        error = self._token_error()
        if error is not None:
            self._fail(error)
        elif not self._waits and self._hold is not None:
            self._hold.open(Reason.QUOTA)

    def on_upstream_end(self) -> None:
        self._leave_provider()
        self._finish_answer()

    # --- time ------------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        self.account.sweep(now)
        if self._hold is not None:
            self._hold.time.settle(now)
        if self._state >= _FLUSHING:
            self._hold_rest()
            return
        if self._up is not None:
            self._up.sweep(now)
        if self._closing_since is not None and now - self._closing_since >= CLOSING_TIME:
            self.on_upstream_end()
            return
        error = self._overdue(now)
        if error is not None:
            self._fail(error)

    def _overdue(self, now: float) -> RelayError | None:
        limits = self.deadlines
        if limits.total is not None and now - self.started_at >= limits.total:
            return _timeout("The WebSocket took", limits.total, "FLOW_TOTAL_TIMEOUT", EndReason.TOTAL_TIMEOUT)
        if self._state is _WAITING:
            waited, limit = now - self.waiting_since, limits.first_byte
            if limit is None or waited < limit:
                return None
            reason = EndReason.FIRST_BYTE_TIMEOUT
            text = f"The provider did not answer the handshake for {limit:g} s (FLOW_FIRST_BYTE_TIMEOUT)."
            return upstream_error(reason.value, text, reason, status=504)
        if self._moves is None:
            self._moves = Activity()
        still = self._moves.still_for(now, self.bytes_up, self.bytes_down, self.is_paused)
        if limits.idle is None or self.is_paused or still < limits.idle:  # a stalled client has its own timeout
            return None
        return _timeout("Nothing has passed for", limits.idle, "FLOW_IDLE_TIMEOUT", EndReason.IDLE_TIMEOUT)

    # --- ending ----------------------------------------------------------------------------------------------------

    def _fail(self, error: RelayError) -> None:
        reader = self._reader
        may_close = reader is not None and reader.at_boundary and not reader.closed
        if may_close and self._is_open and self.error is None:
            self._close(error)
        else:
            super()._fail(error)

    def _close(self, error: RelayError) -> None:
        """End with a Close frame that states the reason. Call this between two frames of the provider."""
        self.error = error = named(error, self._up.upstream if self._up is not None else None)
        self._leave_provider()
        self._drop_upstream(error)
        self._down.send_data(close_frame(_CODES.get(error.end, _INTERNAL_ERROR), error.message))
        self._finish()

    # --- figures ---------------------------------------------------------------------------------------------------

    def record(self) -> ExchangeRecord:
        record = super().record()
        if self.opened_at is not None:
            now = self._context.clock() if self.ended_at is None else self.ended_at
            record.tunnel_seconds = now - self.opened_at
        return record

    def holdings(self) -> tuple[int, int, int]:
        answer, request, _ = super().holdings()
        return answer, request, 0 if self._reader is None else self._reader.held

    def state(self) -> str:
        """The state in one word, for /streams."""
        if self._waits:
            return "waiting_for_tokens"
        return "tunnel" if self._is_open and not self.is_paused else super().state()


def _provider_failed(what: str) -> RelayError:
    reason = EndReason.UPSTREAM_FAILED
    return upstream_error(reason.value, f"The provider {what}.", reason)


def _timeout(what: str, seconds: float, setting: str, end: EndReason) -> RelayError:
    """The error for a timeout of an open tunnel, which is nobody's fault."""
    return RelayError(504, end.value, f"{what} {seconds:g} s ({setting}).", Party.CLIENT, end)
