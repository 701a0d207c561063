"""Both ends of the relay's interfaces, as recordings: what was called is a list of lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flowserver.config.parsers import parse_url
from flowserver.dialects import recognise
from flowserver.dialects.estimate import Ratios
from flowserver.downstream.clients_by_address import Client
from flowserver.errors import EndReason, RelayError
from flowserver.flow.drain_rate import DrainRate
from flowserver.flow.read_gate import PauseTotals
from flowserver.flow.turns import STARTING, Turns
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.quota.identify import QuotaContext
from flowserver.quota.prices import PriceTable
from flowserver.relay.account import Account, AccountSettings
from flowserver.relay.context import Abandoned, ExchangeContext, Trace
from flowserver.relay.event_filter import AnyFilter
from flowserver.relay.exchange import Exchange
from flowserver.relay.interfaces import Clock, Connector, DownstreamEvents, Later, Observer, UpstreamEvents
from flowserver.relay.provider import Deadlines, ProviderSettings
from flowserver.relay.record import RecordedExchange
from flowserver.routing.adaptive_places import LocalAdaptation
from flowserver.routing.circuit_breaker import CircuitBreaker
from flowserver.routing.context import RetryPolicy, RoutingContext
from flowserver.routing.cooldowns import Cooldowns
from flowserver.routing.first_token import FirstTokenContext
from flowserver.routing.places import LocalPlaces, Places
from flowserver.routing.routes import FirstTokenPolicy, Route, RouteTable
from flowserver.routing.upstream_host import UpstreamHost
from flowserver.routing.withheld_answer import WithheldFigures

from .clock import FakeClock
from .timers import FakeTimers


class RecordingObserver:
    """A `relay.interfaces.Observer`."""

    def __init__(self) -> None:
        self.started: list[Exchange] = []
        self.ended: list[Exchange] = []
        self.refused: list[RelayError] = []
        self.closed: list[tuple[str | None, str]] = []
        """Connections that broke a rule, and which."""
        self.waits: list[float] = []
        """How long the oldest byte waited, of each pause."""

    def exchange_started(self, exchange: RecordedExchange) -> None:
        assert isinstance(exchange, Exchange)
        self.started.append(exchange)

    def exchange_ended(self, exchange: RecordedExchange) -> None:
        assert isinstance(exchange, Exchange)
        self.ended.append(exchange)

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def request_refused(self, error: RelayError, protocol: str) -> None:
        self.refused.append(error)

    def connection_refused(self, peer: str | None, why: str) -> None:
        self.closed.append((peer, why))

    @property
    def ends(self) -> list[EndReason | None]:
        return [exchange.end_reason for exchange in self.ended]


class Uncounted:
    """A `relay.interfaces.UploadCount` that counts nothing. The relay's own can't be inherited from once compiled."""

    upload_waits = False

    def hold_upload(self, size: int, announced: int | None) -> None: ...

    def end_upload(self) -> None: ...

    def upload_is_overdue(self, now: float) -> bool:
        return False


class RecordingDownstream(Uncounted):
    """A `relay.interfaces.DownstreamStream`."""

    protocol = "recording"
    client = Client("192.0.2.7")

    def __init__(self) -> None:
        self.log: list[str] = []
        self.body = b""
        self.heads: list[ResponseHead] = []
        self.held = 0
        self.held_since: float | None = None
        self.client_limited: float | None = None
        """What `client_seconds` tells."""
        self.rates: list[float] = []
        self.writes = (0, 0)
        self.events: DownstreamEvents | None = None

    def attach(self, events: DownstreamEvents) -> None:
        assert not self.log
        self.events = events

    def send_interim(self, head: ResponseHead) -> None:
        self.log.append(f"interim {head.status}")

    def send_head(self, head: ResponseHead) -> None:
        assert not self.heads
        self.heads.append(head)
        self.log.append(f"head {head.status}")

    def send_data(self, data: bytes) -> None:
        assert data
        assert self.heads
        self.body += data
        self.writes = (self.writes[0] + 1, self.writes[1])
        self.log.append(f"data {len(data)}")

    def client_seconds(self, now: float) -> float | None:
        return self.client_limited

    def unacknowledged(self) -> int:
        return self.held

    def direct_writer(self) -> None:
        return None

    def send_end(self) -> None:
        self.log.append("end")

    def cut(self, reason: EndReason) -> None:
        self.log.append(f"cut {reason}")

    def break_off(self) -> None:
        self.log.append("broken")

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def keep_pace(self, pace: DrainRate) -> None:
        self.rates.append(pace.rate)


class RecordingUpstream:
    """A `relay.interfaces.RoutedStream`."""

    upstream = "recording"
    times_content = False
    reused = False
    attempts = 1
    queued = 0.0
    held = 0
    drain_on_disconnect = False

    def __init__(self) -> None:
        self.log: list[str] = []
        self.body = b""
        self.is_started = False
        self.rates: list[float] = []

    def start(self) -> None:
        self.is_started = True

    def send_data(self, data: bytes) -> None:
        assert data
        self.body += data
        self.log.append(f"data {len(data)}")

    def send_end(self) -> None:
        self.log.append("end")

    def cancel(self, error: RelayError | None = None) -> None:
        self.log.append("cancel")

    def sweep(self, now: float) -> None: ...

    def on_first_content(self) -> None: ...

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def keep_pace(self, pace: DrainRate) -> None:
        self.rates.append(pace.rate)


class RecordingConnector:
    """A `relay.interfaces.Connector` whose streams are recordings."""

    def __init__(self) -> None:
        self.requests: list[RequestHead] = []
        self.streams: list[RecordingUpstream] = []
        self.events: list[UpstreamEvents] = []

    def open(self, request: RequestHead, events: UpstreamEvents) -> RecordingUpstream:
        self.requests.append(request)
        self.events.append(events)
        self.streams.append(RecordingUpstream())
        return self.streams[-1]


@dataclass
class RecordingDownstreamEvents:
    """`relay.interfaces.DownstreamEvents`, one line for each call."""

    log: list[str] = field(default_factory=list)
    body: bytes = b""
    errors: list[RelayError] = field(default_factory=list)
    tokens: int = 0

    def on_downstream_data(self, data: bytes) -> None:
        assert data
        self.body += data
        self.log.append("data")

    def on_downstream_end(self) -> None:
        self.log.append("end")

    def on_downstream_reset(self, reason: EndReason) -> None:
        self.log.append(f"reset {reason}")

    def on_downstream_failed(self, error: RelayError) -> None:
        self.errors.append(error)
        self.log.append(f"failed {error.status}")

    def on_downstream_blocked(self) -> None: ...

    def on_downstream_full(self) -> None:
        self.log.append("full")

    def on_downstream_drained(self) -> None:
        self.log.append("drained")

    def on_downstream_finished(self) -> None:
        self.log.append("finished")

    def sweep(self, now: float) -> None:
        self.log.append("sweep")

    def on_drain_timeout(self) -> None:
        self.log.append("drain timeout")


@dataclass
class RecordingUpstreamEvents:
    """`relay.interfaces.UpstreamEvents`, one line for each call."""

    log: list[str] = field(default_factory=list)
    heads: list[ResponseHead] = field(default_factory=list)
    body: bytes = b""
    errors: list[RelayError] = field(default_factory=list)

    def on_upstream_interim(self, head: ResponseHead) -> None:
        self.log.append(f"interim {head.status}")

    def on_upstream_head(self, head: ResponseHead) -> None:
        self.heads.append(head)
        self.log.append(f"head {head.status}")

    def on_upstream_data(self, data: bytes) -> None:
        assert data
        self.body += data
        self.log.append("data")

    def fast_path(self) -> None:
        return None

    def unacknowledged(self) -> int:
        return 0

    def on_upstream_end(self) -> None:
        self.log.append("end")

    def on_upstream_failed(self, error: RelayError) -> None:
        self.errors.append(error)
        self.log.append(f"failed {error.status}")

    def on_upstream_full(self) -> None:
        self.log.append("full")

    def on_upstream_drained(self) -> None:
        self.log.append("drained")


def exchange_context(
    *,
    clock: FakeClock | None = None,
    observer: Observer | None = None,
    deadlines: Deadlines | None = None,
    pauses: PauseTotals | None = None,
    max_body: int = 1 << 20,
    heartbeat: float | None = None,
    abandoned: Abandoned | None = None,
    fast_path: bool = True,
    trace: Trace | None = None,
) -> ExchangeContext:
    return ExchangeContext(
        clock=clock or FakeClock(),
        observer=observer or RecordingObserver(),
        deadlines=deadlines or Deadlines(first_byte=None, idle=None, body=None, total=None),
        pauses=pauses or PauseTotals(),
        max_body=max_body,
        heartbeat=heartbeat,
        abandoned=abandoned or Abandoned(60.0, 1 << 20),
        fast_path=fast_path,
        trace=trace,
    )


def target(
    connector: Connector | None = None,
    *,
    name: str = "api",
    url: str = "http://provider.test",
    api_key: bytes | None = None,
    deadlines: Deadlines | None = None,
    health: CircuitBreaker | None = None,
    later: Later | None = None,
    clock: Clock | None = None,
    places: Places | None = None,
    **settings: Any,
) -> UpstreamHost:
    """A provider; `settings` as in `ProviderSettings`."""
    made = ProviderSettings(name, parse_url(url), api_key=api_key, **settings)
    places = places or LocalPlaces(made.max_concurrent, made.queue or 0, later or _nobody_waits, clock or FakeClock())
    host = UpstreamHost(
        made,
        connector or RecordingConnector(),
        health=health or CircuitBreaker(failures=5, cooldown=10.0),
        cooldowns=Cooldowns(failures=5, cooldown=5.0),
        deadlines=deadlines or Deadlines(first_byte=None, idle=None, body=None, total=None),
        places=places,
    )
    if isinstance(places, LocalPlaces):
        host.adapt_by(LocalAdaptation(places))
    return host


def _nobody_waits(call: object) -> None:
    raise AssertionError("a test with a queue says when places are assigned")


def account(
    target: str = "/v1/models",
    *,
    request: RequestHead | None = None,
    ratios: Ratios | None = None,
    quota: QuotaContext | None = None,
    max_event: int = 1 << 20,
    prices: PriceTable | None = None,
) -> Account:
    """Of `request`, else of one to `target` that has a body."""
    ratios = ratios if ratios is not None else Ratios()
    request = request or RequestHead(b"POST", target.encode(), [], has_body=True)
    settings = AccountSettings(ratios, max_event=max_event, hold=8192, quota=quota, prices=prices)
    return Account(settings, recognise(request.target.decode()), request)


def read_request(account: Account, *pieces: bytes) -> RelayError | None:
    """The request's body is there, in `pieces`. An error: why it may not go on."""
    account.request.open()
    errors = [account.request.feed(piece) for piece in pieces if piece]
    account.request.finish()
    return next(filter(None, errors), None) or account.request_error()


def ask(account: Account, target: UpstreamHost, body: bytes = b"", *, repeatable: bool = True) -> bytes | None:
    """What `target` gets in place of `body`; None: just that."""
    changed = account.ask(target, [body], repeatable=repeatable)
    if changed is None:
        return None
    pieces, longer = changed
    after = b"".join(pieces)
    assert len(after) == len(body) + longer
    return after


def open_answer(account: Account, head: ResponseHead, first: bytes | None = None) -> AnyFilter | None:
    """The answer's filter. `first` has its first bytes, where they say what it is; they are still to be fed."""
    looks = account.open(head)
    assert looks is (first is not None)
    if first is not None:
        assert account.look(head, first)
    return account.event_filter


def routing(
    *tiers: tuple[UpstreamHost, ...],
    clock: FakeClock | None = None,
    policy: RetryPolicy | None = None,
    routes: list[Route] | None = None,
    pseudonym: bytes = b"flowserver-1",
    timers: FakeTimers | None = None,
    first_token: FirstTokenPolicy | None = None,
) -> RoutingContext:
    """One route for everything over `tiers`, or `routes`."""
    clock = clock or FakeClock()
    return RoutingContext(
        RouteTable(routes if routes is not None else [Route("*", (), tiers, first_token=first_token)]),
        policy or RetryPolicy(attempts=3, time=10.0, replay=1000, unanswered=True),
        clock,
        lambda: 0.0,
        pseudonym,
        FirstTokenContext(clock, timers or FakeTimers(clock), WithheldFigures()),
        Turns(STARTING, clock, _nobody_waits),
    )
