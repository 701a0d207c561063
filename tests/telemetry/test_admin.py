"""The admin pages, over the relay's own HTTP/1.1."""

from __future__ import annotations

import io
from collections.abc import Iterator

import orjson
import pytest

from flowserver.messages import RequestHead, ResponseHead
from flowserver.relay.context import Surroundings
from flowserver.relay.exchange import Exchange
from flowserver.relay.target import Deadlines
from flowserver.telemetry.admin import Admin
from flowserver.telemetry.log import Log
from flowserver.telemetry.metrics import Metrics

from ..support.clock import FakeClock
from ..support.dialogue import Answer, Client, downstream_surroundings, understood
from ..support.recording import RecordingDownstream, RecordingUpstream, account


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = Log("error", io.BytesIO())
        self.metrics = Metrics(self.log)
        self.is_draining = False
        admin = Admin(self.metrics, clock=self.clock, is_draining=lambda: self.is_draining)
        self.client = Client(downstream_surroundings(admin.open_exchange))

    def ask(self, path: bytes, *, method: bytes = b"GET") -> Answer:
        self.client.says(b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, path))
        answer = understood(self.client.hears(), method=method)
        assert answer.whole
        assert answer.headers[b"cache-control"] == b"no-store"
        return answer


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.log.close()


def test_it_is_healthy(scene: Scene) -> None:
    assert (scene.ask(b"/healthz").status, scene.ask(b"/healthz?x").body) == (200, b"ok\n")


def test_it_is_ready_until_it_drains(scene: Scene) -> None:
    assert scene.ask(b"/readyz").status == 200
    scene.is_draining = True
    assert scene.ask(b"/readyz").status == 503
    assert scene.ask(b"/healthz").status == 200


def test_the_connection_goes_on_from_page_to_page(scene: Scene) -> None:
    for path in (b"/healthz", b"/readyz", b"/nothing", b"/metrics"):
        assert b"connection" not in scene.ask(path).headers
    assert scene.client.end == "open"


def test_the_metrics_are_in_prometheus_s_format(scene: Scene) -> None:
    answer = scene.ask(b"/metrics")
    assert answer.headers[b"content-type"].startswith(b"text/plain; version=0.0.4")
    assert b"\nflow_streams_open 0.0\n" in answer.body


def test_live_streams_are_told(scene: Scene) -> None:
    assert orjson.loads(scene.ask(b"/streams").body) == []
    deadlines = Deadlines(first_byte=None, idle=None, body=None, total=None)
    around = Surroundings(scene.clock, scene.metrics, deadlines, scene.metrics.pauses, 100)
    down = RecordingDownstream()
    exchange = Exchange(RequestHead(b"GET", b"/v1/\xc3?secret", []), down, around, identity=b"id-1", account=account())
    exchange.start(RecordingUpstream())
    exchange.on_upstream_head(ResponseHead(200, []))
    exchange.on_upstream_data(b"hello")
    exchange.on_downstream_full()
    down.held, down.writes = 5, (1, 0)
    scene.clock.advance(2)
    [stream] = orjson.loads(scene.ask(b"/streams").body)
    assert stream == {
        "request_id": "id-1",
        "method": "GET",
        "path": "/v1/\u00c3",
        "protocol": "recording",
        "upstream": "recording",
        "state": "paused",
        "status": 200,
        "age_seconds": 2.0,
        "model": None,
        "tokens": 0,
        "budget": None,
        "tenant": None,
        "user": None,
        "session": None,
        "lease_left": None,
        "bytes_up": 0,
        "bytes_down": 5,
        "held_bytes": 5,
        "pauses": 1,
        "paused_seconds": 2.0,
        "writes": 1,
        "writes_full": 0,
    }


def test_what_is_not_there_and_what_is_not_asked_so(scene: Scene) -> None:
    assert scene.ask(b"/nothing").status == 404
    assert scene.ask(b"/healthz", method=b"POST").status == 405
    head = scene.ask(b"/healthz", method=b"HEAD")
    assert (head.status, head.body, head.headers[b"content-length"]) == (200, b"", b"3")
