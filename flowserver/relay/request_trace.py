"""What is recorded of a request for its trace: its attempts and its pauses. No I/O.

It exists only while tracing is on. Anything that costs CPU is recorded only if the request is sampled.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..dialects.base import RequestParams
from ..errors import RelayError
from ..flow.read_gate import Reason
from ..http.messages import Headers, RequestHead
from ..http.trace_context import TRACEPARENT, TRACESTATE, TraceParent
from .provider import Provider

MOST_PAUSES = 32
"""Most pauses that are recorded of one request; further ones are only counted."""


class Pause(NamedTuple):
    """A time for which one reason paused a side of the exchange, in seconds of the exchange's clock."""

    reason: Reason
    since: float
    until: float


class AttemptTrace:
    """One attempt at a provider. Times are of the exchange's clock; None: it has not got that far."""

    __slots__ = ("began_at", "ended_at", "error", "head_at", "is_hedge", "is_passed_on", "provider", "status")

    def __init__(self, provider: Provider, began_at: float, *, is_hedge: bool) -> None:
        self.provider = provider
        self.began_at = began_at
        self.is_hedge = is_hedge
        self.status: int | None = None
        self.head_at: float | None = None
        self.ended_at: float | None = None
        self.is_passed_on = False
        """Whether its answer went to the client."""
        self.error: RelayError | None = None
        """What the provider did wrong; None: nothing."""

    def answered(self, status: int, now: float) -> None:
        self.status, self.head_at = status, now

    def ended(self, now: float, *, is_passed_on: bool) -> None:
        self.ended_at, self.is_passed_on = now, is_passed_on

    @property
    def outcome(self) -> str:
        """One word: `answered`, `refused` (its error answer led to another attempt), `cancelled`, or the end reason of
        its failure."""
        if self.error is not None:
            return self.error.end.value
        if self.is_passed_on:
            return "answered"
        return "refused" if self.status is not None and self.status >= 400 else "cancelled"


class RequestTrace:
    """The position of one request in its trace; see `Account.trace`."""

    __slots__ = ("asked_for", "attempts", "context", "parent", "pauses", "pauses_left_out", "state")

    def __init__(self, context: TraceParent, parent: TraceParent | None, state: bytes) -> None:
        self.context = context
        """The relay's own span, which is the provider's parent."""
        self.parent = parent
        """The parent span; None: the trace begins here."""
        self.state = state
        """The tracestate; empty: none."""
        self.attempts: list[AttemptTrace] = []
        self.pauses: list[Pause] = []
        self.pauses_left_out = 0
        self.asked_for = RequestParams()
        """Set at the end."""

    @property
    def is_sampled(self) -> bool:
        return self.context.is_sampled

    def carry(self, fields: Headers) -> Headers:
        """The request's fields for a provider, so that its spans become children of the relay's."""
        dropped = (TRACEPARENT,) if self.parent is not None else (TRACEPARENT, TRACESTATE)
        carried = [field for field in fields if field[0] not in dropped]
        carried.append((TRACEPARENT, self.context.field()))
        return carried

    def begin_attempt(self, provider: Provider, now: float, *, is_hedge: bool) -> AttemptTrace | None:
        """Record an attempt; None: the request is not sampled."""
        if not self.is_sampled:
            return None
        attempt = AttemptTrace(provider, now, is_hedge=is_hedge)
        self.attempts.append(attempt)
        return attempt

    # --- flow.read_gate.PauseLog ---

    def paused(self, reason: Reason, since: float, until: float) -> None:
        if not self.is_sampled:
            return
        if len(self.pauses) < MOST_PAUSES:
            self.pauses.append(Pause(reason, since, until))
        else:
            self.pauses_left_out += 1


class Tracer(Protocol):
    """Begins the traces of requests."""

    def begin(self, request: RequestHead) -> RequestTrace: ...
