"""A WebSocket between a client and a provider (RFC 6455, RFC 8441): an exchange whose two directions stay open. No I/O.

The handshake finds its provider as any request does. Once the provider has answered it with 101, all bytes pass as they
are, in both directions and with the bounds of an answer and an upload.
"""

from __future__ import annotations

from ..errors import EndReason, RelayError, bad_request, upstream_error
from ..flow.progress import Activity
from ..http.messages import RequestHead, ResponseHead, upstream_request_id
from ..http.websocket import ACCEPT, is_accepted
from .account import Account
from .context import ExchangeContext
from .exchange import Exchange
from .failures import timeout
from .interfaces import DownstreamStream
from .state import State

_WAITING, _STREAMING, _, _FLUSHING, _, _ENDED = State
CLOSING_TIME = 3.0
"""Seconds that a provider has to end its direction once the client has ended the other one."""

_EARLY = bad_request("Bytes of a WebSocket came before its handshake was answered.")


class Tunnel(Exchange):
    """`State` tells of the provider's direction, as for other exchanges: STREAMING is an open tunnel, or an answer that
    refuses the handshake."""

    __slots__ = ("_closing_since", "_is_open", "_moves")

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
        self._is_open = False
        """Whether the handshake is over, and bytes pass in both directions."""
        self._closing_since: float | None = None
        """When the client ended its direction; None: it is open."""
        self._moves: Activity | None = None
        """None: not looked at yet."""

    # --- the client's side -----------------------------------------------------------------------------------------

    def on_downstream_data(self, data: bytes) -> None:
        if self._state is _WAITING:
            self._fail(_EARLY)
        elif self._is_open and self._up is not None and self._state is _STREAMING:
            self.bytes_up += len(data)
            self._up.send_data(data)

    def on_downstream_end(self) -> None:
        if self._is_open and self._up is not None and self._state is _STREAMING:
            self._closing_since = self._context.clock()
            self._up.send_end()
        elif self._state is _WAITING:
            self._fail(_EARLY)

    def _is_drained_after(self, reason: EndReason) -> bool:
        return False

    # --- the provider's side ---------------------------------------------------------------------------------------

    def on_upstream_head(self, head: ResponseHead) -> None:
        self.upstream_request_id = upstream_request_id(head, self.request_id)
        self.account.open(head)
        if head.status != 101 and not 200 <= head.status < 300:
            self._send_head(head)
        elif is_accepted(self.request, head):
            self._open(head)
        else:
            self._fail(_not_accepted())

    def _open(self, head: ResponseHead) -> None:
        passed = self.account.passed_head(head, self.request_id, self.upstream_request_id)
        passed.content_length = None
        if self.request.http_version == b"2":  # RFC 8441 section 5
            passed.status = 200
            passed.headers = [field for field in passed.headers if field[0] != ACCEPT]
        self.status = passed.status
        self._is_open = True
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
        self._down.send_data(data)

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
            self._leave_provider()
            self._finish_answer()
            return
        error = self._overdue(now)
        if error is not None:
            self._fail(error)

    def _overdue(self, now: float) -> RelayError | None:
        limits = self.deadlines
        if limits.total is not None and now - self.started_at >= limits.total:
            return timeout("The WebSocket took", limits.total, "FLOW_TOTAL_TIMEOUT", EndReason.TOTAL_TIMEOUT)
        if self._state is _WAITING:
            if limits.first_byte is None or now - self.waiting_since < limits.first_byte:
                return None
            reason = EndReason.FIRST_BYTE_TIMEOUT
            return timeout("The provider sent nothing for", limits.first_byte, "FLOW_FIRST_BYTE_TIMEOUT", reason)
        if self._moves is None:
            self._moves = Activity()
        still = self._moves.still_for(now, self.bytes_up, self.bytes_down, self.is_paused)
        if limits.idle is None or self.is_paused or still < limits.idle:  # a client that stalls has its own time
            return None
        return timeout(
            "Nothing passed through the WebSocket for", limits.idle, "FLOW_IDLE_TIMEOUT", EndReason.IDLE_TIMEOUT
        )

    def state(self) -> str:
        """One word for /streams."""
        return "tunnel" if self._is_open and self._state is _STREAMING and not self.is_paused else super().state()


def _not_accepted() -> RelayError:
    reason = EndReason.UPSTREAM_FAILED
    return upstream_error(reason.value, "The provider did not accept the handshake of the WebSocket.", reason)
