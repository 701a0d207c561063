"""Metrics: plain integers while the bytes pass, turned into Prometheus' format when they are asked for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from copy import copy
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector

from ..errors import EndReason, RelayError
from ..flow import PauseTotals, Reason
from ..relay.exchange import Exchange
from ..relay.health import Health
from ..relay.ports import H2Totals
from ..relay.target import Target
from ..relay.uploads import Uploads
from .exposition import Family, written
from .histogram import Histogram
from .log import Log
from .process import ProcessFigures
from .tokens import TokenMetrics

FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class PoolFigures(Protocol):
    """What a pool of provider connections tells about itself."""

    name: str
    connects: int
    reuses: int

    @property
    def open_connections(self) -> int: ...

    @property
    def idle_connections(self) -> int: ...


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=histogram.buckets(), sum_value=histogram.sum)


class DnsFigures(Protocol):
    """What the look-ups of a provider's name cost."""

    lookups: int
    failures: int

    @property
    def seconds(self) -> float: ...


class PassedFigures(Protocol):
    """What happened while the store did not answer; see `limits.guarded`."""

    failures: int
    requests: int
    refused: int
    tokens: int
    unsettled: int


class StoreFigures(Protocol):
    """What the limits' store tells about itself."""

    @property
    def breaker(self) -> Health | None: ...

    @property
    def passed(self) -> PassedFigures | None: ...


class _Totals:
    """What exchanges add up to."""

    __slots__ = ("bytes_down", "bytes_up", "chunks", "heartbeats", "writes", "writes_full")

    def __init__(self) -> None:
        self.bytes_up = 0
        self.bytes_down = 0
        self.chunks = 0
        self.writes = 0
        self.writes_full = 0
        self.heartbeats = 0

    def add(self, exchange: Exchange) -> None:
        writes, full = exchange.writes
        self.writes += writes
        self.writes_full += full
        self.bytes_up += exchange.bytes_up
        self.bytes_down += exchange.bytes_down
        self.chunks += exchange.chunks_down
        self.heartbeats += exchange.heartbeats


AT_A_TIME = 20
"""Exchanges that are looked at in one piece of work."""


class _Snapshot:
    """What ended and open exchanges add up to, found while the relay goes on.

    Each exchange of the beginning counts once: with what it has when its turn comes, or with what it ended with before.
    So no total is less than one of an earlier snapshot.
    """

    __slots__ = ("_left", "held", "open", "paused", "tokens", "totals", "without_tokens")

    def __init__(self, ended: _Totals, live: set[Exchange]) -> None:
        self.totals = copy(ended)
        self._left = live.copy()
        self.open = 0
        self.paused = 0
        self.without_tokens = 0
        self.held = 0
        self.tokens = 0

    def look(self) -> Iterator[bytes]:
        """Look at those that are open. Gives nothing, in between."""
        while self._left:
            for _ in range(min(AT_A_TIME, len(self._left))):
                self._add(self._left.pop())
            yield b""

    def exchange_ended(self, exchange: Exchange) -> None:
        if exchange in self._left:
            self._left.discard(exchange)
            self.totals.add(exchange)

    def _add(self, exchange: Exchange) -> None:
        exchange.bring_up_to_date()
        self.totals.add(exchange)
        state = exchange.state()
        self.open += 1
        self.paused += state == "paused"
        self.without_tokens += state == "waiting_for_tokens"
        self.held += exchange.held
        self.tokens += exchange.account.output


class Metrics:
    """The figures of one worker: a `relay.ports.Observer`, written in Prometheus' format.

    Open exchanges count their own bytes; a scrape adds them to the totals of the ended ones, so that a long stream is
    seen while it runs and the path of a chunk touches nothing shared.
    """

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self.open: set[Exchange] = set()
        self.pauses = PauseTotals()
        self.h2 = H2Totals()
        self.targets: Sequence[Target] = ()
        self.pools: Sequence[PoolFigures] = ()
        self.names: Sequence[tuple[str, DnsFigures]] = ()
        """The providers whose names are looked up."""
        self.store: StoreFigures | None = None
        self.uploads: Uploads | None = None
        self.connections = 0
        """Client connections, written by the listener's sweep."""
        self._ends = dict.fromkeys(EndReason, 0)
        self._statuses: dict[int, int] = {}
        self._refused: Counter[str] = Counter()
        self._ended_totals = _Totals()
        self._snapshots: list[_Snapshot] = []
        """Under way."""
        self._first_byte = Histogram(FIRST_BYTE_BUCKETS)
        self._lag = Histogram(LAG_BUCKETS)
        self._tokens = TokenMetrics()
        self._process = ProcessFigures()
        self._collector = CollectorRegistry()
        GCCollector(registry=self._collector)

    def name_models(self, models: Iterable[str]) -> None:
        """The models that the configuration names: they always have figures of their own."""
        self._tokens.name_models(models)

    # --- relay.ports.Observer ---

    def exchange_started(self, exchange: Exchange) -> None:
        self.open.add(exchange)

    def exchange_ended(self, exchange: Exchange) -> None:
        self.open.discard(exchange)
        assert exchange.end_reason is not None
        self._ended_totals.add(exchange)
        for snapshot in self._snapshots:
            snapshot.exchange_ended(exchange)
        self._ends[exchange.end_reason] += 1
        self._statuses[exchange.status] = self._statuses.get(exchange.status, 0) + 1
        if exchange.first_byte_at is not None:
            self._first_byte.observe(exchange.first_byte_at - exchange.started_at)
        self._tokens.exchange_ended(exchange)
        self._log.access(exchange)

    def request_refused(self, error: RelayError, protocol: str) -> None:
        self._refused[error.code] += 1
        self._log.refused(error, protocol)

    # --- the loop ---

    def observe_lag(self, seconds: float) -> None:
        """How late the sweep came: how long the event loop was busy with something else."""
        self._lag.observe(seconds)

    # --- Prometheus ---

    def text(self) -> bytes:
        """All of it."""
        return b"".join(self.scrape())

    def scrape(self) -> Generator[bytes, None, None]:
        """The text format in pieces, each of which takes little time. The relay may go on in between: no counter is
        less than in an earlier scrape."""
        snapshot = _Snapshot(self._ended_totals, self.open)
        self._snapshots.append(snapshot)
        try:
            yield from snapshot.look()
        finally:
            self._snapshots.remove(snapshot)
        for family in self._families(snapshot):
            yield from written(family)
        for family in (*(yield from self._process.collect()), *self._collector.collect()):
            yield from written(family)

    def _families(self, snapshot: _Snapshot) -> Iterator[Family]:
        yield GaugeMetricFamily("flow_streams_open", "Exchanges in progress.", value=snapshot.open)
        text = "Exchanges whose provider is stopped now."
        yield GaugeMetricFamily("flow_streams_paused", text, value=snapshot.paused)
        text = "Bytes held for clients in user space now."
        yield GaugeMetricFamily("flow_held_bytes", text, value=snapshot.held)
        yield GaugeMetricFamily("flow_connections_open", "Client connections.", value=self.connections)
        yield from self._traffic(snapshot.totals)
        yield from self._pauses()
        yield from self._ended()
        yield from self._h2()
        yield from self._upstreams()
        text = "Exchanges that wait for their next lease."
        yield GaugeMetricFamily("flow_streams_without_tokens", text, value=snapshot.without_tokens)
        yield from self._limits()
        yield from self._tokens.collect()
        text = "Tokens that open streams have emitted so far."
        yield GaugeMetricFamily("flow_live_tokens", text, value=snapshot.tokens)
        text = "Signs of life sent for silent providers."
        yield CounterMetricFamily("flow_heartbeats", text, value=snapshot.totals.heartbeats)
        text = "From the request's head to the first byte of the answer's body."
        yield _histogram("flow_first_byte_seconds", text, self._first_byte)
        yield _histogram("flow_event_loop_lag_seconds", "How late the once-a-second sweep came.", self._lag)
        text = "Log lines lost to a reader that is slow or gone."
        yield CounterMetricFamily("flow_log_dropped", text, value=self._log.dropped)

    def _traffic(self, totals: _Totals) -> Iterator[Metric]:
        family = CounterMetricFamily("flow_body_bytes", "Body bytes relayed.", labels=["direction"])
        family.add_metric(["down"], totals.bytes_down)
        family.add_metric(["up"], totals.bytes_up)
        yield family
        if self.uploads is not None:
            text = "Bytes that unfinished uploads hold."
            yield GaugeMetricFamily("flow_uploads_held_bytes", text, value=self.uploads.held)
            text = "Uploads that had to wait, since those of all held too much."
            yield CounterMetricFamily("flow_uploads_waits", text, value=self.uploads.waits)
        text = "Reads that brought body bytes from providers."
        yield CounterMetricFamily("flow_chunks", text, value=totals.chunks)
        yield CounterMetricFamily("flow_writes", "Chunks written towards clients.", value=totals.writes)
        text = "Chunks that found the client's buffer full and had to wait."
        yield CounterMetricFamily("flow_writes_full", text, value=totals.writes_full)

    def _pauses(self) -> Iterator[Metric]:
        pauses = CounterMetricFamily("flow_pauses", "Times reading was stopped.", labels=["reason"])
        text = "Seconds for which reading was stopped, of pauses that are over."
        seconds = CounterMetricFamily("flow_paused_seconds", text, labels=["reason"])
        for reason in Reason:
            label = [(reason.name or "").lower()]
            pauses.add_metric(label, self.pauses.pauses[reason])
            seconds.add_metric(label, self.pauses.seconds[reason])
        yield pauses
        yield seconds

    def _ended(self) -> Iterator[Metric]:
        ends = CounterMetricFamily("flow_exchanges", "Exchanges that ended.", labels=["end"])
        for reason in EndReason:
            ends.add_metric([reason.value], self._ends[reason])
        yield ends
        statuses = CounterMetricFamily("flow_responses", "Answers by status.", labels=["status"])
        for status, count in sorted(self._statuses.items()):
            statuses.add_metric([str(status)], count)
        yield statuses
        refused = CounterMetricFamily("flow_refused", "Requests refused as malformed or too many.", labels=["code"])
        for code, count in sorted(self._refused.items()):
            refused.add_metric([code], count)
        yield refused

    def _h2(self) -> Iterator[Metric]:
        figures = self.h2
        yield GaugeMetricFamily("flow_h2_connections", "Clients' HTTP/2 connections.", value=figures.connections)
        yield GaugeMetricFamily("flow_h2_streams", "Streams open on them.", value=figures.streams)
        text = "Times a stream had bytes and its window was shut."
        yield CounterMetricFamily("flow_h2_window_stalls", text, value=figures.stalls)
        text = "Seconds for which windows were shut on waiting bytes, of stalls that are over."
        yield CounterMetricFamily("flow_h2_window_stall_seconds", text, value=figures.stall_seconds)
        goaways = CounterMetricFamily("flow_h2_goaways", "GOAWAYs sent to clients.", labels=["reason"])
        for reason, count in sorted(figures.goaways.items()):
            goaways.add_metric([reason], count)
        yield goaways

    def _limits(self) -> Iterator[Metric]:
        breaker, passed = (self.store.breaker, self.store.passed) if self.store is not None else (None, None)
        if breaker is None or passed is None:
            return
        state = breaker.state(self._clock()).value
        yield GaugeMetricFamily("flow_store_breaker", "Redis: 0 in use, 1 tried, 2 left alone.", value=state)
        for name, text, value in (
            ("flow_store_failures", "Calls that Redis did not answer.", passed.failures),
            ("flow_store_passed", "Requests that passed by this process' own limits meanwhile.", passed.requests),
            ("flow_store_refused", "Requests refused meanwhile.", passed.refused),
            ("flow_store_tokens", "Tokens that streams used meanwhile and nothing granted.", passed.tokens),
            ("flow_store_unsettled", "Streams whose end Redis did not hear of.", passed.unsettled),
        ):
            yield CounterMetricFamily(name, text, value=value)

    def _upstreams(self) -> Iterator[Metric]:
        connects = CounterMetricFamily("flow_upstream_connects", "Provider connections made.", labels=["upstream"])
        reuses = CounterMetricFamily("flow_upstream_reuses", "Requests on kept connections.", labels=["upstream"])
        connections = GaugeMetricFamily(
            "flow_upstream_connections", "Provider connections.", labels=["upstream", "state"]
        )
        for pool in self.pools:
            connects.add_metric([pool.name], pool.connects)
            reuses.add_metric([pool.name], pool.reuses)
            idle = pool.idle_connections
            connections.add_metric([pool.name, "idle"], idle)
            connections.add_metric([pool.name, "busy"], pool.open_connections - idle)
        yield from (connects, reuses, connections)
        yield from self._dns()
        now = self._clock()
        for kind, name, text, figure in _TARGET_FIGURES:
            family = kind(name, text, labels=["upstream"])
            for target in self.targets:
                family.add_metric([target.name], figure(target, now))
            yield family
        failures = CounterMetricFamily(
            "flow_upstream_failures", "Failed attempts by reason.", labels=["upstream", "reason"]
        )
        for target in self.targets:
            for reason, count in sorted(target.failures.items()):
                failures.add_metric([target.name, reason], count)
        yield failures
        remaining = GaugeMetricFamily(
            "flow_upstream_ratelimit_remaining",
            "What the provider's rate limits leave, as its last answer told.",
            labels=["upstream", "kind"],
        )
        for target in self.targets:
            for what, left in sorted(target.remaining.items()):
                remaining.add_metric([target.name, what], left)
        yield remaining

    def _dns(self) -> Iterator[Metric]:
        lookups = CounterMetricFamily(
            "flow_upstream_dns_lookups", "Look-ups of the provider's name.", labels=["upstream"]
        )
        text = "Look-ups that failed, or did not end within FLOW_CONNECT_TIMEOUT."
        failures = CounterMetricFamily("flow_upstream_dns_failures", text, labels=["upstream"])
        text = "Seconds of look-ups, the one under way included."
        seconds = CounterMetricFamily("flow_upstream_dns_seconds", text, labels=["upstream"])
        for name, figures in self.names:
            lookups.add_metric([name], figures.lookups)
            failures.add_metric([name], figures.failures)
            seconds.add_metric([name], figures.seconds)
        yield from (lookups, failures, seconds)


_TARGET_FIGURES: tuple[
    tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], str, str, Callable[[Target, float], float]], ...
] = (
    (GaugeMetricFamily, "flow_upstream_open", "Requests under way.", lambda target, now: target.open),
    (GaugeMetricFamily, "flow_upstream_waiting", "Requests that wait for a place.", lambda target, now: target.waiting),
    (
        GaugeMetricFamily,
        "flow_upstream_breaker",
        "0 closed, 1 half-open, 2 open.",
        lambda target, now: target.health.state(now).value,
    ),
    (CounterMetricFamily, "flow_upstream_requests", "Requests begun.", lambda target, now: target.started),
    (CounterMetricFamily, "flow_upstream_answers", "Answers passed on.", lambda target, now: target.answers),
    (
        CounterMetricFamily,
        "flow_upstream_head_seconds",
        "Seconds from the beginning of requests to the heads of their answers.",
        lambda target, now: target.head_seconds,
    ),
    (
        CounterMetricFamily,
        "flow_upstream_queue_seconds",
        "Seconds that requests waited for a place.",
        lambda target, now: target.queued_seconds,
    ),
    (CounterMetricFamily, "flow_upstream_retries", "Requests sent again here.", lambda target, now: target.retries),
    (
        CounterMetricFamily,
        "flow_upstream_fallbacks",
        "Requests sent here after another provider had failed them.",
        lambda target, now: target.fallbacks,
    ),
    (
        CounterMetricFamily,
        "flow_upstream_breaker_opened",
        "Times the breaker opened.",
        lambda target, now: target.health.opened,
    ),
)
