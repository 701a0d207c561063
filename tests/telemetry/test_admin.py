"""The admin pages, over the relay's own HTTP/1.1."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import orjson
import pytest

from flowserver.config.addresses import Address
from flowserver.errors import EndReason
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.exchange import Exchange
from flowserver.telemetry.admin import Admin
from flowserver.telemetry.admin_hosts import AdminHosts
from flowserver.telemetry.log import Log
from flowserver.telemetry.metrics import Metrics
from flowserver.telemetry.paced_answer import PIECE
from flowserver.telemetry.slices import SLICE, Slices

from ..support.clock import FakeClock
from ..support.dialogue import Answer, Client, listener_context, understood
from ..support.live import own_pages
from ..support.recording import RecordingDownstream, RecordingUpstream, account, exchange_context


def no_timer(seconds: float, call: Callable[[], None]) -> None:
    """Nothing here waits for one."""


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = Log("error", io.BytesIO())
        self.metrics = Metrics(self.log)
        self.is_draining = False
        self.due: list[Callable[[], None]] = []
        """What is to be called in the next turn of the loop."""
        slices = Slices(self.due.append, self.clock)
        pages = own_pages(self.metrics, slices, self.clock, lambda: self.is_draining)
        admin = Admin(pages, AdminHosts(frozenset(), Address("127.0.0.1", 1)), no_timer)
        self.context = listener_context(admin.open_exchange)
        self.client = Client(self.context)

    def open_streams(self, count: int) -> list[Exchange]:
        context = exchange_context(clock=self.clock, observer=self.metrics, pauses=self.metrics.pauses, max_body=100)
        exchanges = []
        for number in range(count):
            request_id = b"id-%d" % number
            exchange = Exchange(
                RequestHead(b"GET", b"/v1/\xc3?secret", []),
                RecordingDownstream(),
                context,
                request_id=request_id,
                account=account(),
            )
            exchange.start(RecordingUpstream())
            exchange.on_upstream_head(ResponseHead(200, []))
            exchange.on_upstream_data(b"hello")
            exchanges.append(exchange)
        return exchanges

    def turn(self) -> None:
        """One turn of the loop, in which the work of 1 ms is done."""
        due = self.due.copy()
        self.due.clear()
        for call in due:
            call()

    def ask(self, path: bytes, *, method: bytes = b"GET", host: bytes = b"localhost") -> Answer:
        self.client.says(b"%b %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, path, host))
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
    context = exchange_context(clock=scene.clock, observer=scene.metrics, pauses=scene.metrics.pauses, max_body=100)
    down = RecordingDownstream()
    exchange = Exchange(
        RequestHead(b"GET", b"/v1/\xc3?secret", []), down, context, request_id=b"id-1", account=account()
    )
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
        "client": "192.0.2.7",
        "upstream": "recording",
        "state": "paused",
        "status": 200,
        "age_seconds": 2.0,
        "model": None,
        "tokens": 0,
        "unacknowledged_tokens": 0,
        "cost_usd": None,
        "budget": None,
        "tenant": None,
        "user": None,
        "session": None,
        "lease_left": None,
        "bytes_up": 0,
        "bytes_down": 5,
        "held_bytes": 5,
        "held_seconds": 2.0,
        "pauses": 1,
        "paused_seconds": 2.0,
        "slow": "client",
        "client_seconds": 2.0,
        "network_seconds": 0.0,
        "provider_seconds": 0.0,
        "relay_seconds": 0.0,
        "writes": 1,
        "writes_full": 0,
    }


def test_what_is_not_there_and_what_is_not_asked_so(scene: Scene) -> None:
    assert scene.ask(b"/nothing").status == 404
    assert scene.ask(b"/healthz", method=b"POST").status == 405
    head = scene.ask(b"/healthz", method=b"HEAD")
    assert (head.status, head.body, head.headers[b"content-length"]) == (200, b"", b"3")


@pytest.mark.parametrize("path", [b"/metrics", b"/streams", b"/nothing"])
def test_other_names_than_its_own_are_refused_with_the_remedy(scene: Scene, path: bytes) -> None:
    answer = scene.ask(path, host=b"attacker.example:9090")
    assert answer.status == 421
    assert b"FLOW_ADMIN_HOSTS" in answer.body
    assert b"attacker" not in answer.body
    assert scene.client.end == "open"


def test_probes_may_use_any_name(scene: Scene) -> None:
    for path in (b"/healthz", b"/readyz"):
        assert scene.ask(path, host=b"some-probe.example").status == 200


class Ticking(FakeClock):
    """Each look at it takes a twentieth of a slice."""

    def __call__(self) -> float:
        self.advance(SLICE / 20)
        return super().__call__()


@pytest.fixture
def busy(scene: Scene) -> Scene:
    """A scene in which work takes time."""
    clock = Ticking()
    pages = own_pages(scene.metrics, Slices(scene.due.append, clock), clock)
    admin = Admin(pages, AdminHosts(frozenset(), Address("127.0.0.1", 1)), no_timer)
    scene.context = listener_context(admin.open_exchange)
    scene.client = Client(scene.context)
    return scene


@pytest.mark.parametrize("path", [b"/metrics", b"/streams"])
def test_a_page_of_many_streams_is_made_in_many_turns(busy: Scene, path: bytes) -> None:
    busy.open_streams(1000)
    busy.client.says(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
    turns = 0
    while busy.due:
        assert busy.client.hears() == b""
        busy.turn()
        turns += 1
    assert turns > 5
    answer = understood(busy.client.hears())
    assert (answer.status, answer.whole) == (200, True)
    if path == b"/streams":
        assert len(orjson.loads(answer.body)) == 1000
    else:
        assert b"\nflow_streams_open 1000.0\n" in answer.body


def test_one_page_is_made_at_a_time_and_shared(busy: Scene) -> None:
    busy.open_streams(500)
    clients = [busy.client, *(Client(busy.context) for _ in range(4))]
    for number, client in enumerate(clients):
        client.says(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"metrics" if number % 2 else b"streams"))
        assert len(busy.due) == 1
    while busy.due:
        busy.turn()
        assert len(busy.due) <= 1
    bodies = [understood(client.hears()).body for client in clients]
    assert bodies[0] == bodies[2] == bodies[4]
    assert bodies[1] == bodies[3]


def test_streams_that_end_while_the_page_is_made_are_left_out(busy: Scene) -> None:
    exchanges = busy.open_streams(300)
    busy.client.says(b"GET /streams HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for exchange in exchanges:
        exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    while busy.due:
        busy.turn()
    assert 0 < len(orjson.loads(understood(busy.client.hears()).body)) < 300


def test_who_leaves_while_the_page_is_made_gets_nothing(busy: Scene) -> None:
    busy.open_streams(500)
    other = Client(busy.context)
    for client in (busy.client, other):
        client.says(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    busy.client.transport.lose()
    while busy.due:
        busy.turn()
    assert busy.client.hears() == b""
    assert understood(other.hears()).status == 200


class Slow(RecordingDownstream):
    """Takes a piece at a time."""

    def send_data(self, data: bytes) -> None:
        super().send_data(data)
        assert self.events is not None
        self.events.on_downstream_full()


def to_a_slow_reader(scene: Scene) -> Slow:
    stream = Slow()
    slices = Slices(scene.due.append, scene.clock)
    admin = Admin(own_pages(scene.metrics, slices, scene.clock), AdminHosts(frozenset(), None), no_timer)
    admin.open_exchange(RequestHead(b"GET", b"/streams", [(b"host", b"localhost")]), stream)
    return stream


def test_a_page_goes_out_as_its_reader_takes_it(scene: Scene) -> None:
    scene.open_streams(1000)
    stream = to_a_slow_reader(scene)
    assert stream.events is not None
    pieces = 1
    while stream.log[-1] != "end":
        assert stream.log[1:] == [f"data {PIECE}"] * pieces
        stream.events.on_downstream_drained()
        pieces += 1
    assert pieces > 3
    assert len(orjson.loads(stream.body)) == 1000
    assert stream.heads[0].content_length == len(stream.body)


def test_a_reader_that_leaves_is_sent_nothing_more(scene: Scene) -> None:
    scene.open_streams(1000)
    stream = to_a_slow_reader(scene)
    assert stream.events is not None
    stream.events.on_downstream_reset(EndReason.CLIENT_STALLED)
    stream.events.on_downstream_drained()
    assert stream.log == ["head 200", f"data {PIECE}"]


def test_head_has_the_length_of_the_page(scene: Scene) -> None:
    length = len(scene.ask(b"/streams").body)
    head = scene.ask(b"/streams", method=b"HEAD")
    assert (head.body, head.headers[b"content-length"]) == (b"", b"%d" % length)
