"""Figures: right while a stream runs, and the same once it has ended."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.process_collector import ProcessCollector

from flowserver.errors import LOOP, TOO_MANY_CONNECTIONS, EndReason
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.exchange import Exchange
from flowserver.telemetry.log import Log
from flowserver.telemetry.metrics import Metrics

from ..support.clock import FakeClock
from ..support.recording import RecordingDownstream, RecordingUpstream, account, exchange_context


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = Log("error", io.BytesIO())
        self.metrics = Metrics(self.log)
        self.context = exchange_context(
            clock=self.clock, observer=self.metrics, pauses=self.metrics.pauses, max_body=100
        )

    def start(self) -> tuple[Exchange, RecordingDownstream]:
        down = RecordingDownstream()
        exchange = Exchange(RequestHead(b"GET", b"/", []), down, self.context, request_id=b"i", account=account())
        exchange.start(RecordingUpstream())
        return exchange, down

    def figures(self) -> dict[str, float]:
        return figures_of(self.metrics.text())


def figures_of(text: bytes) -> dict[str, float]:
    pairs = [line.rsplit(" ", 1) for line in text.decode().splitlines() if line.startswith("flow_")]
    return {name: float(value) for name, value in pairs}


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.log.close()


def test_a_stream_is_seen_while_it_runs_and_counts_the_same_when_it_has_ended(scene: Scene) -> None:
    exchange, down = scene.start()
    exchange.on_downstream_data(b"abc")
    exchange.on_upstream_head(ResponseHead(200, []))
    exchange.on_upstream_data(b"hello")
    exchange.on_upstream_data(b"world")
    down.writes, down.held = (2, 1), 7
    running = scene.figures()
    assert running["flow_streams_open"] == 1
    assert running["flow_held_bytes"] == 7
    down.held = 0
    exchange.on_upstream_end()
    exchange.on_downstream_finished()
    ended = scene.figures()
    assert ended["flow_streams_open"] == 0
    for name, value in {
        'flow_body_bytes_total{direction="up"}': 3,
        'flow_body_bytes_total{direction="down"}': 10,
        "flow_chunks_total": 2,
        "flow_writes_total": 2,
        "flow_writes_full_total": 1,
    }.items():
        assert running[name] == ended[name] == value
    assert ended['flow_exchanges_total{end="complete"}'] == 1
    assert ended['flow_responses_total{status="200"}'] == 1


def test_every_end_has_its_figure_from_the_start(scene: Scene) -> None:
    figures = scene.figures()
    assert all(figures[f'flow_exchanges_total{{end="{reason}"}}'] == 0 for reason in EndReason)


def test_pauses_are_counted_by_reason(scene: Scene) -> None:
    exchange, _ = scene.start()
    exchange.on_downstream_full()
    exchange.on_upstream_full()
    assert scene.figures()["flow_streams_paused"] == 1
    scene.clock.advance(2)
    exchange.on_downstream_drained()
    scene.clock.advance(1)
    exchange.on_upstream_drained()
    figures = scene.figures()
    assert figures["flow_streams_paused"] == 0
    assert figures['flow_pauses_total{reason="downstream"}'] == 1
    assert figures['flow_paused_seconds_total{reason="downstream"}'] == 2
    assert figures['flow_paused_seconds_total{reason="upstream"}'] == 3


def test_the_seconds_of_answers_are_counted_by_who_held_them(scene: Scene) -> None:
    exchange, down = scene.start()
    exchange.on_upstream_head(ResponseHead(200, []))
    exchange.on_upstream_data(b"x")
    scene.clock.advance(1)
    down.client_limited = 0.0
    exchange.on_downstream_full()
    scene.clock.advance(5)
    down.client_limited = 3.0
    expected = {"client": 3, "network": 2, "provider": 1, "relay": 0}
    running = scene.figures()
    exchange.on_downstream_drained()
    exchange.on_upstream_end()
    exchange.on_downstream_finished()
    ended = scene.figures()
    for party, seconds in expected.items():
        name = f'flow_limited_seconds_total{{by="{party}"}}'
        assert running[name] == ended[name] == seconds
    assert running["flow_held_seconds_count"] == 0
    assert ended['flow_held_seconds_bucket{le="2.5"}'] == 0
    assert ended['flow_held_seconds_bucket{le="5.0"}'] == 1
    assert ended["flow_held_seconds_sum"] == 5


def test_the_first_byte_falls_into_its_buckets(scene: Scene) -> None:
    exchange, _ = scene.start()
    scene.clock.advance(0.2)
    exchange.on_upstream_head(ResponseHead(200, []))
    exchange.on_upstream_data(b"x")
    exchange.on_upstream_end()
    exchange.on_downstream_finished()
    figures = scene.figures()
    assert figures['flow_first_byte_seconds_bucket{le="0.1"}'] == 0
    assert figures['flow_first_byte_seconds_bucket{le="0.25"}'] == 1
    assert figures['flow_first_byte_seconds_bucket{le="+Inf"}'] == 1
    assert figures["flow_first_byte_seconds_count"] == 1
    assert figures["flow_first_byte_seconds_sum"] == pytest.approx(0.2)


def test_refused_requests_are_counted_by_their_code(scene: Scene) -> None:
    scene.metrics.request_refused(TOO_MANY_CONNECTIONS, "h1")
    scene.metrics.request_refused(TOO_MANY_CONNECTIONS, "h1")
    exchange, _ = scene.start()
    exchange.refuse(LOOP)
    exchange.on_downstream_finished()
    figures = scene.figures()
    assert figures['flow_refused_total{code="too_many_connections"}'] == 2
    assert figures['flow_exchanges_total{end="refused"}'] == 1


def test_the_loop_s_lag_is_observed(scene: Scene) -> None:
    scene.metrics.observe_lag(0.003)
    assert scene.figures()['flow_event_loop_lag_seconds_bucket{le="0.005"}'] == 1


class Figures:
    name = "api"
    connects = 3
    reuses = 5
    open_connections = 3
    idle_connections = 2


def test_pools_are_told_apart(scene: Scene) -> None:
    scene.metrics.pools = [Figures()]
    figures = scene.figures()
    assert figures['flow_upstream_connects_total{upstream="api"}'] == 3
    assert figures['flow_upstream_reuses_total{upstream="api"}'] == 5
    assert figures['flow_upstream_connections{state="busy",upstream="api"}'] == 1
    assert figures['flow_upstream_connections{state="idle",upstream="api"}'] == 2


def test_the_process_itself_is_measured(scene: Scene) -> None:
    """As prometheus_client measures it."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    ours = {family.name: family for family in text_string_to_metric_families(scene.metrics.text().decode())}
    for family in registry.collect():
        found = ours[family.name]
        assert found.type == family.type
        assert found.samples[0].name == family.samples[0].name
        assert found.samples[0].value == pytest.approx(family.samples[0].value, rel=0.2)
    assert any(name.startswith("python_gc") for name in ours)


def test_descriptors_are_counted_in_pieces_where_the_system_does_not_count_them(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = process_figure(scene, "process_open_fds")
    real = os.stat
    monkeypatch.setattr("flowserver.telemetry.process.os.stat", lambda path: SimpleNamespace(st_size=0))
    assert process_figure(scene, "process_open_fds") == pytest.approx(before, abs=2)
    monkeypatch.setattr("flowserver.telemetry.process.os.stat", real)
    monkeypatch.setattr("flowserver.telemetry.process._stat", list)
    assert b"process_" not in scene.metrics.text()


def process_figure(scene: Scene, name: str) -> float:
    [line] = [line for line in scene.metrics.text().decode().splitlines() if line.startswith(name)]
    return float(line.split()[1])


COUNTERS = (
    *(f'flow_limited_seconds_total{{by="{party}"}}' for party in ("client", "network", "provider", "relay")),
    'flow_body_bytes_total{direction="down"}',
    'flow_body_bytes_total{direction="up"}',
    "flow_chunks_total",
    "flow_fast_path_chunks_total",
    "flow_writes_total",
    "flow_writes_full_total",
)


@pytest.mark.parametrize("seed", range(5))
def test_no_counter_goes_back_however_much_happens_during_a_scrape(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    live = [scene.start() for _ in range(100)]

    def go_on() -> None:
        for _ in range(20):
            exchange, down = chance.choice(live)
            what = chance.random()
            if what < 0.3:
                live.append(scene.start())
            elif what < 0.6 and len(live) > 1:
                live.remove((exchange, down))
                exchange.on_downstream_reset(EndReason.CLIENT_GONE)
                down.writes = (0, 0)  # what is counted later is another request's
            else:
                exchange.on_downstream_data(b"abc")
                if not exchange.status:
                    exchange.on_upstream_head(ResponseHead(200, []))
                exchange.on_upstream_data(b"hello")
                down.writes = (down.writes[0], down.writes[1] + 1)
                (exchange.on_downstream_full if what < 0.8 else exchange.on_downstream_drained)()
            scene.clock.advance(chance.random())
            for _, side in live:
                side.client_limited = (side.client_limited or 0.0) + chance.random()

    before = scene.figures()
    for _ in range(10):
        text = b""
        for piece in scene.metrics.scrape():
            text += piece
            if not piece or chance.random() < 0.01:
                go_on()
        now = figures_of(text)
        assert [name for name in COUNTERS if now[name] < before[name]] == []
        assert 0 < now["flow_streams_open"] <= now['flow_exchanges_total{end="client_gone"}'] + len(live)
        before = now
    quiet = scene.figures()
    assert quiet["flow_streams_open"] == len(live)
    assert [name for name in COUNTERS if quiet[name] < before[name]] == []
    assert scene.figures() == quiet


def test_no_total_falls_by_a_rounding(scene: Scene) -> None:
    """Which Prometheus would take for a restart."""
    chance = random.Random(0)
    live = []
    for _ in range(50):
        exchange, down = scene.start()
        exchange.on_upstream_head(ResponseHead(200, []))
        exchange.on_upstream_data(b"x")
        down.client_limited = 0.0
        exchange.on_downstream_full()
        live.append((exchange, down))
    scene.clock.advance(1)
    for _, down in live:
        down.client_limited = chance.random()
    before = scene.figures()
    for exchange, _ in live:
        exchange.on_downstream_reset(EndReason.CLIENT_GONE)
        now = scene.figures()
        assert [name for name in COUNTERS if "limited" in name and now[name] != before[name]] == []


def test_a_scrape_that_is_given_up_leaves_nothing(scene: Scene) -> None:
    scene.start()
    scrape = scene.metrics.scrape()
    next(scrape)
    scrape.close()
    exchange, _ = scene.start()
    exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    assert scene.figures()["flow_streams_open"] == 1


def test_no_piece_of_a_scrape_takes_long(scene: Scene) -> None:
    for _ in range(500):
        scene.start()
    pieces = list(scene.metrics.scrape())
    assert sum(not piece for piece in pieces) >= 20
    assert max(piece.count(b"\n") for piece in pieces) <= 2
