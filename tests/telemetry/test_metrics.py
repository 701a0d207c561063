"""Figures: right while a stream runs, and the same once it has ended."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from flowserver.errors import LOOP, TOO_MANY_CONNECTIONS, EndReason
from flowserver.messages import RequestHead, ResponseHead
from flowserver.relay.context import Surroundings
from flowserver.relay.exchange import Exchange
from flowserver.relay.target import Deadlines
from flowserver.telemetry.log import Log
from flowserver.telemetry.metrics import Metrics

from ..support.clock import FakeClock
from ..support.recording import RecordingDownstream, RecordingUpstream, account


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = Log("error", io.BytesIO())
        self.metrics = Metrics(self.log)
        deadlines = Deadlines(first_byte=None, idle=None, body=None, total=None)
        self.around = Surroundings(self.clock, self.metrics, deadlines, self.metrics.pauses, 100)

    def start(self) -> tuple[Exchange, RecordingDownstream]:
        down = RecordingDownstream()
        exchange = Exchange(RequestHead(b"GET", b"/", []), down, self.around, identity=b"i", account=account())
        exchange.start(RecordingUpstream())
        return exchange, down

    def figures(self) -> dict[str, float]:
        lines = self.metrics.text().decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("flow_")]
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
    assert b"process_resident_memory_bytes" in scene.metrics.text()
