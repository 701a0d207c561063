"""One summary of an exchange, read by log, metrics and admin pages. No I/O.

A new figure of an exchange is a field here, filled in by `Exchange.record` or by the functions at the end. They fill in
field by field, since a call with so many keywords takes five times as long: a microsecond of each exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

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

MOMENT = 0.001
"""Seconds. A shorter time in the queue for a place is that of asking the parent of several workers for a free one."""


@dataclass(slots=True, init=False)
class TokenRecord:
    """What was counted of an answer, once its exchange is over."""

    provider: str
    input: int
    usage: Usage
    """The provider's own report, as far as there is one."""
    is_estimate: bool
    """Whether the tokens of request or answer are the relay's own count, at least in part."""
    is_disbelieved: bool
    """Whether the provider's last report makes no sense."""
    is_unpriced: bool
    """Whether there are prices, and none for this model."""
    is_repeated: bool
    """Whether the answer was charged before and has been fetched again."""
    estimated_output: int | None
    """The estimate for a stream whose provider reported in the end; None: there is nothing to compare."""
    uncounted: Mapping[str, int]
    """Events that could not be read, by reason."""
    finish: str | None
    """Why the answer ended, in the provider's words."""
    failure: str | None
    """The error inside an answer of status 200; None: there was none."""


@dataclass(slots=True, init=False)
class AccountRecord:
    """Whose exchange it is, and what it has used so far."""

    dialect: str | None
    """None: the request is to no API that is known."""
    traffic_class: TrafficClass
    model: str | None
    output: int
    """Tokens emitted."""
    cost: int | None
    """Nano-dollars; None: it is not known."""
    budget: int | None
    """Tokens that the answer may have; None: no bound."""
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
    """An exchange as it stands. Times are seconds of the exchange's clock; None: it has not come to that."""

    request: RequestHead
    request_id: bytes
    upstream_request_id: bytes | None
    protocol: str
    """"h1" or "h2", on the client's side."""
    tunnel_seconds: float | None
    """For which it has been an open WebSocket; None: it is none."""
    client: str | None
    """Its address; None: it has none, over a Unix socket."""
    upstream: str | None
    """The provider asked last; None: the request went to nobody."""
    attempts: int
    queued: float
    """Seconds for which it waited for places at providers, as far as that is over."""
    reused: bool
    """Whether the provider's connection had served other requests before."""
    state: str
    status: int
    """Status sent to the client; 0 before there is one."""
    end: EndReason | None
    error: RelayError | None
    started_at: float
    waiting_since: float
    """When the provider asked last had the whole request; before that, when it was asked."""
    first_byte_at: float | None
    first_token_at: float | None
    ended_at: float | None
    bytes_up: int
    bytes_down: int
    chunks_down: int
    """Reads that brought `bytes_down`."""
    fast_chunks: int
    """Of `chunks_down`, the ones that took the fast path."""
    held: int
    """Bytes held for the client."""
    held_seconds: float
    """For how long the client's side has not taken them."""
    writes: int
    writes_full: int
    """Of `writes`, the ones that found the client's transport blocked."""
    heartbeats: int
    pauses: int
    """How often the provider was stopped."""
    paused_seconds: float
    limited: Mapping[Holder, float]
    """For how many seconds each held the answer, of the time since the first byte of the body."""
    slow: Holder | None
    """Who holds it at present; None: it has no first byte yet, or it is over."""
    account: AccountRecord
    tokens: TokenRecord | None
    """None: the exchange is not over, or its answer is not counted."""


class RecordedExchange(Protocol):
    """An exchange as its observers see it."""

    def record(self) -> ExchangeRecord:
        """The figures as they are now."""

    def unacknowledged_tokens(self) -> int:
        """Returns the estimated tokens that were passed on and that the client has not acknowledged. Costs a system
        call."""


class HoldingClient(Protocol):
    """The client's side of an answer, as far as it tells what is held for it."""

    @property
    def held(self) -> int: ...

    @property
    def held_since(self) -> float | None: ...


def fill_in_hold(record: ExchangeRecord, hold: AnswerHold | None, down: HoldingClient, now: float) -> None:
    """What is held, and who held the answer until now; `hold` None: its provider alone."""
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
    """What `account` knows by now."""
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
    """What `account` counted of an answer that is over; None: nothing was counted."""
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
    """Of a WebSocket; None: it reached no provider."""
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
