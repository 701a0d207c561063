"""Metrics: plain integers while the bytes pass, converted to metric families on demand."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from ..config.parsers import GenAiNames
from ..errors import EndReason, RelayError
from ..flow.read_gate import PauseTotals, Reason
from ..quota.money import usd_number
from ..quota.traffic_class import BATCH, TrafficClass
from ..relay.histogram import WAIT_BUCKETS, Histogram
from ..relay.interfaces import H2Totals
from ..relay.record import MOMENT, ExchangeRecord, RecordedExchange
from ..relay.uploads import Uploads
from ..routing.circuit_breaker import CircuitBreaker
from ..routing.overload import GIVE_WAY, OverloadGate
from ..routing.upstream_host import UpstreamHost
from ..routing.withheld_answer import WithheldFigures
from .build_info import build_info
from .exposition import Family, Labels, Merge, counter, counters, gauge, gauges, histograms, written
from .labels import TenantLabels
from .log import Log
from .memory import MemoryFigures
from .process import ProcessFigures, garbage_collection
from .quotas import Part, QuotaFigures
from .reload_figures import ReloadFigures
from .requests import RequestMetrics
from .snapshot import encoded
from .tokens import TokenMetrics
from .totals import NANO, Census, Totals
from .traces import SpanTracer

HELD_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
QUEUE_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class PoolFigures(Protocol):
    """The figures of a pool of provider connections."""

    name: str
    connects: int
    reuses: int

    @property
    def open_connections(self) -> int: ...

    @property
    def idle_connections(self) -> int: ...


class DnsFigures(Protocol):
    """The figures of look-ups of a provider's name."""

    lookups: int
    failures: int

    @property
    def seconds(self) -> float: ...


class FailoverFigures(Protocol):
    """The figures of the time in which the store did not answer; see `stores.failover`."""

    failures: int
    requests: int
    refused: int
    tokens: int
    money: int
    unsettled: int


class StoreFigures(Protocol):
    """The figures of the limit store."""

    @property
    def breaker(self) -> CircuitBreaker | None: ...

    @property
    def failover(self) -> FailoverFigures | None: ...


LAST_ENDS = 50
"""Number of ended exchanges that are remembered."""


class Metrics:
    """The metrics of one process: a `relay.interfaces.Observer`, with output in Prometheus' format or as a snapshot.

    Open exchanges count their own bytes; a scrape adds them to the totals of ended ones, so that a long stream is
    visible while it runs, and the path of a chunk touches nothing shared.
    """

    def __init__(
        self,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
        *,
        genai: GenAiNames = GenAiNames.OLD,
        reloads: ReloadFigures | None = None,
    ) -> None:
        """`reloads` None: the parent reports them."""
        self._log = log
        self._clock = clock
        self.open: set[RecordedExchange] = set()
        self.pauses = PauseTotals()
        self.h2 = H2Totals()
        self.upstreams: Sequence[UpstreamHost] = ()
        self.pools: Sequence[PoolFigures] = ()
        self.names: Sequence[tuple[str, DnsFigures]] = ()
        """Providers whose names are looked up."""
        self.store: StoreFigures | None = None
        self.quotas: QuotaFigures | None = None
        self.uploads: Uploads | None = None
        self.withheld = WithheldFigures()
        self.overload: OverloadGate | None = None
        self.memory: MemoryFigures | None = None
        self.tracer: SpanTracer | None = None
        """None: tracing is off."""
        self.reloads = reloads
        self.clients_refused: Mapping[str, int] = {}
        """Refused connections and requests by reason, counted by the client listener."""
        self.connections = 0
        """Open client connections, set by the listener's sweep."""
        self.streams_changed: Callable[[int], None] | None = None
        """Called with the number of open exchanges when it changes."""
        self.last_ends: deque[ExchangeRecord] = deque(maxlen=LAST_ENDS)
        """The newest is last."""
        self.ended_tokens = 0
        """Tokens that ended exchanges have emitted."""
        self._statuses: dict[int, int] = {}
        self._refused: Counter[str] = Counter()
        self._ended_totals = Totals()
        self._under_way: list[Census] = []
        self._first_byte = Histogram(WAIT_BUCKETS)
        self._held = Histogram(HELD_BUCKETS)
        self._queue_waits: defaultdict[tuple[str, TrafficClass], Histogram] = defaultdict(_queue_histogram)
        """By provider and class."""
        self._lag = Histogram(LAG_BUCKETS)
        self.last_lag = 0.0
        """Seconds by which the last sweep was late."""
        self._tenants = TenantLabels()
        self._requests = RequestMetrics()
        self.tokens = TokenMetrics(genai)
        self.process = ProcessFigures()

    @property
    def ends(self) -> dict[EndReason, int]:
        """Exchanges that ended, by reason."""
        return self._requests.ends()

    def name_models(self, models: Iterable[str]) -> None:
        """Set the models that the configuration names: they always have series of their own."""
        self.tokens.name_models(models)

    def know_profiles(self, profiles: Mapping[str, str]) -> None:
        """Set the profiles of providers, by name."""
        self.tokens.know_profiles(profiles)

    # --- relay.interfaces.Observer ---

    def exchange_started(self, exchange: RecordedExchange) -> None:
        self.open.add(exchange)
        if self.streams_changed is not None:
            self.streams_changed(len(self.open))

    def exchange_ended(self, exchange: RecordedExchange) -> None:
        self.open.discard(exchange)
        if self.streams_changed is not None:
            self.streams_changed(len(self.open))
        record = exchange.record()
        assert record.end is not None
        self._ended_totals.add(record)
        self.ended_tokens += record.account.output
        self.last_ends.append(record)
        for census in self._under_way:
            census.exchange_ended(exchange, record)
        self._statuses[record.status] = self._statuses.get(record.status, 0) + 1
        if record.first_byte_at is not None:
            self._first_byte.observe(record.first_byte_at - record.started_at)
        if record.queued >= MOMENT:
            self._queue_waits[record.upstream or "", record.account.traffic_class].observe(record.queued)
        tenant = record.account.tenant
        tenant = self._tenants.label(tenant) if tenant else ""
        self._requests.exchange_ended(record, record.end, tenant)
        self.tokens.exchange_ended(record, tenant)
        self._log.access(record)
        trace = record.account.trace
        if trace is not None and trace.is_sampled and self.tracer is not None:
            self.tracer.exchange_ended(record, trace)

    def waited(self, seconds: float) -> None:
        self._held.observe(seconds)

    def request_refused(self, error: RelayError, protocol: str) -> None:
        self._refused[error.code] += 1
        self._log.refused(error, protocol)

    def connection_refused(self, peer: str | None, why: str) -> None:
        self._log.connection_refused(peer, why)

    # --- the loop ---

    def observe_lag(self, seconds: float) -> None:
        """Record how late the sweep was, because the event loop was busy."""
        self._lag.observe(seconds)
        self.last_lag = seconds

    # --- what is told ---

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return b"".join(self.scrape())

    def scrape(self) -> Generator[bytes, None, None]:
        """The text format in pieces, each of which takes little time. The relay may continue in between: no counter is
        less than in an earlier scrape."""
        return self._told(written)

    def snapshot(self) -> Generator[bytes, None, None]:
        """The same in the format of `snapshot.decoded`, for a parent of several workers."""
        return self._told(encoded)

    def _told(self, form: Callable[[Family], Iterator[bytes]]) -> Generator[bytes, None, None]:
        census = Census(self._ended_totals, self.open)
        self._under_way.append(census)
        try:
            yield from census.look()
        finally:
            self._under_way.remove(census)
        used: list[Part] = []
        if self.quotas is not None:
            used = yield from self.quotas.look(census.tenants)
        for family in self._families(census, used):
            yield from form(family)
        for family in (*(yield from self.process.collect()), *garbage_collection()):
            yield from form(family)

    def _families(self, census: Census, used: Sequence[Part]) -> Iterator[Family]:
        totals = census.totals
        yield build_info()
        if self.reloads is not None:
            yield from self.reloads.families()
        yield gauge("flow_streams_open", "Exchanges in progress.", census.open, Merge.SUM)
        yield gauge("flow_streams_paused", "Exchanges whose provider is paused now.", census.paused, Merge.SUM)
        yield gauge("flow_held_bytes", "Bytes held for clients in user space now.", census.held, Merge.SUM)
        yield gauge("flow_connections_open", "Client connections.", self.connections, Merge.SUM)
        yield from self._traffic(totals)
        if self.memory is not None:
            yield from self.memory.families()
        yield from self._pauses()
        yield from self._limited(totals)
        yield from self._ended()
        yield from self._requests.collect([host.name for host in self.upstreams])
        if self.quotas is not None:
            text = "Part of a tenant's quota that is used or leased; 1: all of it. models: of model_limits; empty: all."
            yield gauges("flow_limit_used_ratio", text, used, Merge.MAX)
        yield from self._overload()
        yield from self._h2()
        yield from self._upstreams()
        yield gauge(
            "flow_streams_without_tokens",
            "Exchanges that wait for their next lease.",
            census.without_tokens,
            Merge.SUM,
        )
        yield from self._limits()
        yield from self.tokens.collect()
        yield gauge("flow_live_tokens", "Tokens that open streams have emitted so far.", census.tokens, Merge.SUM)
        yield counter("flow_heartbeats", "Heartbeats sent while providers were silent.", totals.heartbeats)
        text = "Time from the request's head to the first byte of the answer's body."
        yield histograms("flow_first_byte_seconds", text, WAIT_BUCKETS, [({}, self._first_byte)])
        text = "Delay of the once-a-second sweep."
        yield histograms("flow_event_loop_lag_seconds", text, LAG_BUCKETS, [({}, self._lag)])
        text = "Delay of the last sweep, so that a worker whose event loop is busy stands out."
        yield gauge("flow_event_loop_lag_last_seconds", text, self.last_lag, Merge.EACH)
        yield counter("flow_log_dropped", "Log lines lost to a reader that is slow or gone.", self._log.dropped)
        if self.tracer is not None:
            yield from self.tracer.families()

    def _traffic(self, totals: Totals) -> Iterator[Family]:
        directions = (("down", totals.bytes_down), ("up", totals.bytes_up))
        yield counters("flow_body_bytes", "Body bytes relayed.", _labelled("direction", directions))
        if self.uploads is not None:
            yield gauge("flow_uploads_held_bytes", "Bytes that unfinished uploads hold.", self.uploads.held, Merge.SUM)
            text = "Uploads that had to wait because all uploads together held too much."
            yield counter("flow_uploads_waits", text, self.uploads.waits)
        yield counter("flow_chunks", "Reads of body bytes from providers.", totals.chunks)
        yield counter("flow_fast_path_chunks", "How many of these reads took the fast path.", totals.fast_chunks)
        yield counter("flow_writes", "Chunks written towards clients.", totals.writes)
        text = "Chunks that found the client's buffer full and had to wait."
        yield counter("flow_writes_full", text, totals.writes_full)
        yield from totals.tunnels.families()

    def _pauses(self) -> Iterator[Family]:
        names = [(reason, (reason.name or "").lower()) for reason in Reason]
        pauses = [(name, self.pauses.pauses[reason]) for reason, name in names]
        yield counters("flow_pauses", "How often reading was paused.", _labelled("reason", pauses))
        seconds = [(name, self.pauses.seconds[reason]) for reason, name in names]
        text = "Seconds for which reading was paused, of pauses that are over."
        yield counters("flow_paused_seconds", text, _labelled("reason", seconds))

    def _limited(self, totals: Totals) -> Iterator[Family]:
        text = "Seconds of answers since their first bytes, by who held them up. network: the path to the client."
        limited = [({"by": str(holder)}, nanoseconds / NANO) for holder, nanoseconds in totals.limited.items()]
        yield counters("flow_limited_seconds", text, limited)
        text = "How long the oldest byte held for a client had waited, at the end of each pause."
        yield histograms("flow_held_seconds", text, HELD_BUCKETS, [({}, self._held)])

    def _ended(self) -> Iterator[Family]:
        yield counters("flow_exchanges", "Exchanges that ended.", _labelled("end", self.ends.items()))
        statuses = [(str(status), count) for status, count in sorted(self._statuses.items())]
        yield counters("flow_responses", "Answers by status.", _labelled("status", statuses))
        refused = _labelled("code", sorted(self._refused.items()))
        yield counters("flow_refused", "Requests refused before they became an exchange, by code.", refused)
        text = "Clients refused: too much from one address, no PROXY protocol header, a failed TLS handshake."
        yield counters("flow_clients_refused", text, _labelled("reason", self.clients_refused.items()))

    def _overload(self) -> Iterator[Family]:
        gate = self.overload
        if gate is None:
            return
        text = "How long new input waits for the event loop, or requests for their turn, as last measured."
        yield gauge("flow_overload_delay_seconds", text, gate.delay, Merge.EACH)
        text = "Share of requests refused now: of class batch, of tenants above their share, of all."
        shares = _labelled("of", zip(GIVE_WAY, gate.shares, strict=True))
        yield gauges("flow_overload_refusal_share", text, shares, Merge.EACH)
        refused: list[tuple[Labels, float]] = [
            ({"class": str(traffic_class), "reason": reason}, count)
            for (traffic_class, reason), count in gate.refused.items()
        ]
        text = "Requests refused because the relay was overloaded or short of memory."
        yield counters("flow_overload_refused", text, refused)

    def _h2(self) -> Iterator[Family]:
        figures = self.h2
        yield gauge("flow_h2_connections", "Clients' HTTP/2 connections.", figures.connections, Merge.SUM)
        yield gauge("flow_h2_streams", "Streams open on clients' HTTP/2 connections.", figures.streams, Merge.SUM)
        yield counter("flow_h2_window_stalls", "How often a stream with bytes had a closed window.", figures.stalls)
        text = "Seconds for which windows were closed while bytes waited, of stalls that are over."
        yield counter("flow_h2_window_stall_seconds", text, figures.stall_seconds)
        goaways = _labelled("reason", sorted(figures.goaways.items()))
        yield counters("flow_h2_goaways", "GOAWAYs sent to clients.", goaways)

    def _limits(self) -> Iterator[Family]:
        breaker, failover = (self.store.breaker, self.store.failover) if self.store is not None else (None, None)
        if breaker is None or failover is None:
            return
        state = breaker.state(self._clock()).value
        yield gauge(
            "flow_store_breaker", "Breaker of the shared limit store: 0 closed, 1 half-open, 2 open.", state, Merge.MAX
        )
        yield counter("flow_store_failures", "Calls that the shared limit store did not answer.", failover.failures)
        text = "Requests admitted by this process's own limits while the shared store did not answer."
        yield counter("flow_store_passed", text, failover.requests)
        yield counter("flow_store_refused", "Requests refused while the shared store did not answer.", failover.refused)
        yield counter(
            "flow_store_tokens",
            "Tokens that streams used without a lease while the shared store did not answer.",
            failover.tokens,
        )
        text = "Dollars that streams used without a lease in that time."
        yield counter("flow_store_usd", text, usd_number(failover.money))
        yield counter("flow_store_unsettled", "Streams whose end did not reach the shared store.", failover.unsettled)

    def _upstreams(self) -> Iterator[Family]:
        connects = _labelled("upstream", [(pool.name, pool.connects) for pool in self.pools])
        yield counters("flow_upstream_connects", "Connections made to providers.", connects)
        reuses = _labelled("upstream", [(pool.name, pool.reuses) for pool in self.pools])
        yield counters("flow_upstream_reuses", "Requests on reused connections.", reuses)
        connections: list[tuple[Labels, float]] = []
        for pool in self.pools:
            idle = pool.idle_connections
            connections.append(({"upstream": pool.name, "state": "idle"}, idle))
            connections.append(({"upstream": pool.name, "state": "busy"}, pool.open_connections - idle))
        yield gauges("flow_upstream_connections", "Provider connections.", connections, Merge.SUM)
        yield from self._dns()
        now = self._clock()
        for make, name, text, figure in _UPSTREAM_FIGURES:
            yield make(name, text, _labelled("upstream", [(host.name, figure(host, now)) for host in self.upstreams]))
        heads = [({"upstream": host.name}, host.head_times) for host in self.upstreams]
        text = "Time from the beginning of a request to the head of its answer, for answers passed on."
        yield histograms("flow_upstream_head_seconds", text, WAIT_BUCKETS, heads)
        yield from self._queues()
        for name, text, label, counts in _UPSTREAM_COUNTS:
            samples = [
                ({"upstream": host.name, label: value}, count)
                for host in self.upstreams
                for value, count in sorted(counts(host).items())
            ]
            yield counters(name, text, samples)
        extra: list[tuple[Labels, float]] = [
            ({"upstream": host.name, "reason": reason.value}, tokens)
            for host in self.upstreams
            for reason, tokens in host.extra_tokens.items()
        ]
        text = "Estimated input tokens of additional attempts, which no tenant is charged for."
        yield counters("flow_extra_input_tokens", text, extra)
        text = "Bytes of answers that are withheld until their first content."
        yield gauge("flow_withheld_bytes", text, self.withheld.held, Merge.SUM)
        yield from self._adaptive()
        remaining = [
            ({"upstream": host.name, "kind": kind}, left)
            for host in self.upstreams
            for kind, left in sorted(host.remaining.items())
        ]
        affinity = [
            ({"upstream": host.name, "result": result}, count)
            for host in self.upstreams
            for result, count in sorted(host.affinity.items())
        ]
        text = "Requests that preferred the provider by affinity, by outcome: preferred, or why not."
        yield counters("flow_upstream_affinity", text, affinity)
        text = "What is left of the provider's rate limits, according to its last answer."
        yield gauges("flow_upstream_ratelimit_remaining", text, remaining, Merge.MIN)

    def _queues(self) -> Iterator[Family]:
        waiting = [
            ({"upstream": host.name, "class": str(each)}, host.places.waiting_of(is_batch=each is BATCH))
            for host in self.upstreams
            for each in TrafficClass
        ]
        yield gauges("flow_upstream_waiting", "Requests that wait for a place.", waiting, Merge.SUM)
        for host in self.upstreams:
            for each in TrafficClass:
                self._queue_waits[host.name, each]  # shown with 0 from the start
        waits = [({"upstream": name, "class": str(each)}, found) for (name, each), found in self._queue_waits.items()]
        text = "How long requests that had to wait for a place waited, whether they got one or not."
        yield histograms("flow_upstream_queue_wait_seconds", text, QUEUE_BUCKETS, waits)

    def _dns(self) -> Iterator[Family]:
        lookups = _labelled("upstream", [(name, figures.lookups) for name, figures in self.names])
        yield counters("flow_upstream_dns_lookups", "Look-ups of the provider's name.", lookups)
        failures = _labelled("upstream", [(name, figures.failures) for name, figures in self.names])
        text = "Look-ups that failed, or did not end within FLOW_CONNECT_TIMEOUT."
        yield counters("flow_upstream_dns_failures", text, failures)
        seconds = _labelled("upstream", [(name, figures.seconds) for name, figures in self.names])
        yield counters("flow_upstream_dns_seconds", "Seconds of look-ups, including the one under way.", seconds)

    def _adaptive(self) -> Iterator[Family]:
        """Families of the providers with a learned limit, which is the same in all workers."""
        adaptive = [(host.name, host.adaptive) for host in self.upstreams if host.adaptive is not None]
        text = 'Learned limit of concurrent requests, with max_concurrent = "auto".'
        limits = _labelled("upstream", [(name, learned.limit) for name, learned in adaptive])
        yield gauges("flow_upstream_limit", text, limits, Merge.MAX)
        decreases = [
            ({"upstream": name, "cause": cause}, count)
            for name, learned in adaptive
            for cause, count in sorted(learned.decreases.items())
        ]
        yield counters("flow_upstream_limit_decreases", "Decreases of the learned limit, by cause.", decreases)


def _queue_histogram() -> Histogram:
    return Histogram(QUEUE_BUCKETS)


def _labelled(label: str, values: Iterable[tuple[str, float]]) -> list[tuple[Labels, float]]:
    """Samples by the value of their only label."""
    return [({label: value}, figure) for value, figure in values]


_Make = Callable[[str, str, Iterable[tuple[Labels, float]]], Family]
_summed: _Make = partial(gauges, merge=Merge.SUM)
_highest: _Make = partial(gauges, merge=Merge.MAX)
_lowest: _Make = partial(gauges, merge=Merge.MIN)
_UPSTREAM_FIGURES: tuple[tuple[_Make, str, str, Callable[[UpstreamHost, float], float]], ...] = (
    (_summed, "flow_upstream_open", "Requests under way.", lambda host, now: host.open),
    (
        _highest,
        "flow_upstream_breaker",
        "Circuit breaker: 0 closed, 1 half-open, 2 open.",
        lambda host, now: host.health.state(now).value,
    ),
    (
        _lowest,
        "flow_upstream_healthy",
        "Whether the provider passes its active checks, or has none.",
        lambda host, now: float(host.checks.cause is None),
    ),
    (
        _highest,
        "flow_upstream_out",
        "Whether the operator has taken the provider out.",
        lambda host, now: float(host.is_out),
    ),
    (
        _highest,
        "flow_upstream_ejected",
        "Routes from which outlier detection has ejected the provider.",
        lambda host, now: host.ejected,
    ),
    (
        _lowest,
        "flow_upstream_slow_start",
        "Part of its weight that the provider has; below 1 during a slow start.",
        lambda host, now: host.ramp,
    ),
    (counters, "flow_upstream_requests", "Requests begun.", lambda host, now: host.started),
    (counters, "flow_upstream_answers", "Answers passed on.", lambda host, now: host.answers),
    (
        counters,
        "flow_upstream_queue_seconds",
        "Seconds that requests waited for a place.",
        lambda host, now: host.queued_seconds,
    ),
    (counters, "flow_upstream_retries", "Requests sent to the same provider again.", lambda host, now: host.retries),
    (
        counters,
        "flow_upstream_fallbacks",
        "Requests sent to this provider after another one had failed.",
        lambda host, now: host.fallbacks,
    ),
    (
        counters,
        "flow_first_token_timeouts",
        "Attempts cancelled because they showed no content within the route's first_token_timeout.",
        lambda host, now: host.first_token_timeouts,
    ),
    (
        counters,
        "flow_hedges",
        "Hedges sent to this provider because another attempt was slow.",
        lambda host, now: host.hedges,
    ),
    (
        counters,
        "flow_hedges_won",
        "Hedges whose answers were passed on.",
        lambda host, now: host.hedges_won,
    ),
    (
        counters,
        "flow_upstream_breaker_opened",
        "How often the circuit breaker opened.",
        lambda host, now: host.health.opened,
    ),
)
_UPSTREAM_COUNTS: tuple[tuple[str, str, str, Callable[[UpstreamHost], Counter[str]]], ...] = (
    ("flow_upstream_failures", "Failed attempts by reason.", "reason", lambda host: host.failures),
    ("flow_upstream_checks", "Active health checks by result.", "result", lambda host: host.check_results),
    ("flow_upstream_ejections", "Ejections of outliers by cause.", "cause", lambda host: host.ejections),
)
