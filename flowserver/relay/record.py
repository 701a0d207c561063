"""One summary of an exchange, read by log, metrics and admin pages. No I/O.

A new figure of an exchange is a field here, filled in by `Exchange.record` or by the functions at the end. They fill in
field by field, since a call with so many keywords takes five times as long: a microsecond per exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ..dialects.base import Usage
from ..dialects.realtime import NAME as REALTIME
from ..dialects.realtime import RealtimeUsage
from ..errors import EndReason, RelayError
from ..http.messages import RequestHead
from ..quota.traffic_class import TrafficClass
from .account import Account
from .answer_hold import AnswerHold
from .limited_time import Holder
from .request_trace import RequestTrace

MOMENT: Final = 0.001
"""Seconds. A shorter time in the queue for a place is only the round trip to the parent of several workers."""


@dataclass(slots=True, init=False)
class TokenRecord:
    """The token counts of an answer, once its exchange is over."""

    provider: str
    input: int
    usage: Usage
    """The provider's own report, as far as there is one."""
    is_estimate: bool
    """Whether the tokens of request or answer are the relay's own count, at least in part."""
    is_disbelieved: bool
    """Whether the provider's last report is impossible."""
    is_unpriced: bool
    """Whether there are prices, but none for this model."""
    is_repeated: bool
    """Whether the answer was charged before and has been fetched again."""
    estimated_output: int | None
    """The estimate for a stream whose provider reported at the end; None: there is nothing to compare."""
    uncounted: Mapping[str, int]
    """Events that could not be read, by reason."""
    finish: str | None
    """The provider's finish reason."""
    failure: str | None
    """The error inside an answer of status 200; None: there was none."""


@dataclass(slots=True, init=False)
class AccountRecord:
    """The account of an exchange: its tenant, and what it has used so far."""

    dialect: str | None
    """None: the API is unknown."""
    traffic_class: TrafficClass
    model: str | None
    output: int
    """Tokens emitted."""
    cost: int | None
    """Nano-dollars; None: unknown."""
    budget: int | None
    """Most tokens of the answer; None: no bound."""
    tenant: str | None
    user: str | None
    session: str | None
    lease_left: int | None
    """None: there is no lease."""
    trace: RequestTrace | None
    """None: tracing is off."""
    refused_by: str | None
    """The key of the limit that refused the request; None: none did."""
    is_stream: bool
    """Whether the request asks for a stream, as far as it is known."""


@dataclass(slots=True, init=False)
class ExchangeRecord:
    """The state of an exchange. Times are seconds of the exchange's clock; None: it has not got that far."""

    request: RequestHead
    request_id: bytes
    upstream_request_id: bytes | None
    protocol: str
    """"h1" or "h2", on the client's side."""
    tunnel_seconds: float | None
    """Seconds for which it has been an open WebSocket; None: it is not one."""
    client: str | None
    """Its address; None: a Unix socket."""
    upstream: str | None
    """The provider that got the request last; None: none did."""
    attempts: int
    queued: float
    """Seconds for which it waited for places at providers, without a wait that is not over."""
    reused: bool
    """Whether the provider's connection had served other requests before."""
    state: str
    status: int
    """Status sent to the client; 0 before there is one."""
    end: EndReason | None
    error: RelayError | None
    started_at: float
    waiting_since: float
    """When the last provider had the whole request; before that, when the attempt began."""
    first_byte_at: float | None
    first_token_at: float | None
    ended_at: float | None
    bytes_up: int
    bytes_down: int
    chunks_down: int
    """Number of reads of `bytes_down`."""
    fast_chunks: int
    """How many of `chunks_down` took the fast path."""
    held: int
    """Bytes held for the client."""
    held_seconds: float
    """How long the client's side has not accepted them."""
    writes: int
    writes_full: int
    """How many of `writes` found the client's transport blocked."""
    heartbeats: int
    pauses: int
    """How often the provider was stopped."""
    paused_seconds: float
    limited: Mapping[Holder, float]
    """Seconds for which each held the answer up, since the first byte of the body."""
    slow: Holder | None
    """Who holds it up at present; None: it has no first byte yet, or it is over."""
    account: AccountRecord
    tokens: TokenRecord | None
    """None: the exchange is not over, or its answer is not counted."""


class RecordedExchange(Protocol):
    """An exchange, as seen by observers."""

    def record(self) -> ExchangeRecord:
        """The figures as they are now."""

    def unacknowledged_tokens(self) -> int:
        """Returns the estimated tokens that were passed on but that the client has not acknowledged. Costs a system
        call."""


class HoldingClient(Protocol):
    """The client's side of an answer: the part that tells what is held for it."""

    @property
    def held(self) -> int: ...

    @property
    def held_since(self) -> float | None: ...


def fill_in_hold(record: ExchangeRecord, hold: AnswerHold | None, down: HoldingClient, now: float) -> None:
    """Fill in what is held, and who has held the answer up; `hold` None: only its provider."""
    record.held, held_since = down.held, down.held_since
    first = record.first_byte_at
    if hold is None:
        record.pauses, record.paused_seconds = 0, 0.0
        record.held_seconds = 0.0 if held_since is None else now - held_since
        record.limited = {Holder.PROVIDER: 0.0 if first is None else now - first}
        record.slow = None if first is None or record.ended_at is not None else Holder.PROVIDER
        return
    limited = hold.time
    limited.settle(now)
    record.pauses, record.paused_seconds = hold.gate.pauses, hold.gate.paused_seconds()
    since = limited.held_since if limited.held_since is not None else held_since
    record.held_seconds = 0.0 if since is None else now - since
    record.limited = limited.seconds.copy()
    record.slow = None if first is None or record.ended_at is not None else limited.holder


def account_record(account: Account) -> AccountRecord:
    """The current record of `account`."""
    quota = account.quota
    record = AccountRecord()
    record.dialect = account.format.name if account.format is not None else None
    if account.realtime is not None:
        record.dialect = REALTIME
    record.traffic_class = account.traffic_class
    record.model = account.model
    record.output = account.output
    record.cost = account.cost
    record.budget = account.budget
    record.trace = account.trace
    if account.trace is not None:
        account.trace.asked_for = account.params
    record.tenant = record.user = record.session = record.lease_left = record.refused_by = None
    record.is_stream = account.request.params.stream
    if quota is not None:
        record.tenant = quota.tenant.name if quota.tenant is not None else None
        record.user, record.session = quota.user, quota.session
        lease = quota.lease
        if lease is not None:
            record.lease_left = lease.left
        record.refused_by = quota.refused_by
    return record


def token_record(account: Account) -> TokenRecord | None:
    """The token counts of an answer that is over; None: nothing was counted."""
    count = account.count
    if account.realtime is not None:
        return _realtime_record(account, account.realtime)
    if count is None:
        return None
    meter = count.meter
    record = TokenRecord()
    record.provider = count.upstream
    record.input = count.input
    record.usage = meter.usage
    record.is_estimate = count.is_estimate
    record.is_disbelieved = count.is_disbelieved
    record.is_unpriced = count.is_unpriced
    record.is_repeated = account.is_repeated
    record.estimated_output = count.estimated
    record.uncounted = count.uncounted
    record.finish = meter.finish
    record.failure = meter.failed
    return record


def _realtime_record(account: Account, counted: RealtimeUsage) -> TokenRecord | None:
    """The record of a WebSocket; None: it reached no provider."""
    upstream = account.upstream
    if upstream is None:
        return None
    record = TokenRecord()
    record.provider = upstream.settings.name
    record.input, record.usage, record.is_estimate = counted.input, counted.usage, counted.is_estimate
    record.is_disbelieved = record.is_repeated = False
    cost = account.realtime_cost
    record.is_unpriced = cost is not None and cost.tariff is None
    record.estimated_output = record.finish = record.failure = None
    record.uncounted = {}
    return record
