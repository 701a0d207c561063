"""The fast path: what passes by it, what does not, and when it is closed."""

from __future__ import annotations

import socket

import orjson
import pytest

from flowserver.errors import EndReason
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.net.direct_receiver import DirectReceiver
from flowserver.quota.tenants import TenantLimits
from flowserver.relay.exchange import Exchange
from flowserver.upstream import h1
from flowserver.upstream.h1 import UpstreamH1
from flowserver.upstream.receive_window import FIRST, READ_SIZE, AdaptiveFlow, ReceiveWindow

from ..support.dialogue import Client, Provider, Relay, understood
from ..support.quota import KEY, FakeLimiter, quota, tenant
from ..support.streams import CHAT

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def content(text: str) -> bytes:
    return CHAT.content(text)


READS = len(CHAT.opening) + 2
"""Reads until a fast path is asked for: so many as a scene has at its beginning."""


@pytest.fixture(autouse=True)
def _asked_for_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h1, "FAST_PATH_READS", READS)


class Scene:
    """A stream whose events have begun to pass, each a read of its own."""

    def __init__(
        self, *, max_tokens: int | None = None, limiter: FakeLimiter | None = None, fast_path: bool = True
    ) -> None:
        known = (
            quota(tenant(limits=TenantLimits(tokens_per_day=10_000)), limiter=limiter) if limiter is not None else None
        )
        watermarks = Watermarks(2000, 500, 16)
        self.relay = Relay(watermarks=watermarks, max_tokens=max_tokens, quota=known, fast_path=fast_path)
        self.client: Client = self.relay.client()
        self.provider: Provider = self.relay.provider()
        body = orjson.dumps(CHAT.body)
        self.client.says(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
            % (KEY, len(body), body)
        )
        [self.exchange] = self.relay.observer.started
        self.said = b""
        self.provider.says(HEAD)
        self.say(*CHAT.opening, content("one"), content(" two"))

    def say(self, *events: bytes) -> None:
        for event in events:
            self.said += event
            self.provider.says(chunk(event))

    def end(self) -> None:
        self.say(*CHAT.closing)
        self.provider.says(b"0\r\n\r\n")

    def takes_fast_path(self) -> bool:
        return isinstance(self.provider.transport.get_protocol(), DirectReceiver)

    @property
    def counted(self) -> tuple[int, int, int, int]:
        """Events with content and the bytes of it, reads and their bytes."""
        record = self.exchange.record()
        meter = self.exchange.account.meter
        assert meter is not None
        return meter.content_events, meter.content_bytes, record.chunks_down, record.bytes_down

    @property
    def body(self) -> bytes:
        return understood(bytes(self.client.transport.sent)).body


@pytest.fixture
def scene() -> Scene:
    """On its fast path."""
    scene = Scene()
    assert scene.takes_fast_path()
    return scene


@pytest.fixture
def slow() -> Scene:
    """The same where there is no fast path."""
    scene = Scene(fast_path=False)
    assert not scene.takes_fast_path()
    return scene


def test_a_fast_path_is_opened_after_some_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h1, "FAST_PATH_READS", 6)
    scene = Scene()
    for number in range(len(CHAT.opening) + 2, 6):
        assert not scene.takes_fast_path()
        scene.say(content(f" {number}"))
    assert scene.takes_fast_path()
    assert scene.provider.transport.socket.options[socket.IPPROTO_TCP, socket.TCP_QUICKACK] == 0
    scene.say(content(" more"))
    assert scene.body == scene.said


def test_switched_off_there_is_none(slow: Scene) -> None:
    for _ in range(20):
        slow.say(content(" more"))
        assert not slow.takes_fast_path()
    assert slow.body == slow.said


def test_a_burst_at_the_beginning_only_delays_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h1, "FAST_PATH_READS", READS + 1)
    scene = Scene()
    scene.say(b"".join(content(f" {number}") for number in range(6)))
    for number in range(READS + 1):
        assert not scene.takes_fast_path()
        scene.say(content(f" one by one {number}"))
    assert scene.takes_fast_path()
    scene.say(content(" from now on"))
    assert scene.body == scene.said


def test_a_flood_gets_no_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h1, "FAST_PATH_READS", READS + 1)
    scene = Scene()
    for _ in range(20):
        scene.say(content(" two") + content(" at once"))
        assert not scene.takes_fast_path()


def test_template_events_pass_as_they_came_and_are_counted(scene: Scene) -> None:
    scene.say(content(" three"), content(" é"))
    assert scene.body == scene.said
    assert scene.counted == (4, 7 + 6 + 3, len(CHAT.opening) + 4, len(scene.said))
    assert scene.exchange.writes == (len(CHAT.opening) + 4, 0)
    scene.end()
    assert understood(bytes(scene.client.transport.sent)).whole
    assert scene.relay.observer.ends == [EndReason.COMPLETE]
    assert scene.exchange.bytes_down == len(scene.said)


def test_the_same_bytes_go_on_that_came(scene: Scene) -> None:
    scene.client.hears()
    said = chunk(content(" three"))
    scene.provider.says(said)
    assert scene.client.hears() == said


@pytest.mark.parametrize(
    "event",
    [
        content(""),
        b": ping\n\n",
        content("a") + content("b"),
        content("x" * 5000),
        b"data: no JSON\n\n",
        b"data: the beginning of an event\n",
    ],
)
def test_others_take_the_slow_path_and_the_fast_path_stays(scene: Scene, slow: Scene, event: bytes) -> None:
    scene.say(event)
    assert scene.takes_fast_path() is (len(event) < 2048)
    scene.say(content(" on"), content(" and on"))
    assert scene.body == scene.said
    slow.say(event, content(" on"), content(" and on"))
    assert scene.counted == slow.counted


@pytest.mark.parametrize(
    "events", [[content('"quoted"')], [content("line\n")], [content(" two"), content(" é")], [content(" more")] * 7]
)
def test_events_with_escapes_or_in_one_read_take_no_detour(
    scene: Scene, slow: Scene, events: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UpstreamH1, "receive", None)
    for each in (scene, slow):
        each.said += b"".join(events)
        each.provider.says(b"".join(map(chunk, events)))
        each.say(content(" on"))
        assert each.body == each.said
    assert scene.counted == slow.counted
    assert scene.exchange.writes == slow.exchange.writes


@pytest.mark.parametrize("other", [b": ping\n\n", b"data: [DONE]\n\n", content("")])
def test_a_read_with_a_template_event_and_another_one(scene: Scene, slow: Scene, other: bytes) -> None:
    for each in (scene, slow):
        each.said += content(" three") + other
        each.provider.says(chunk(content(" three")) + chunk(other))
        each.say(content(" on"))
        assert each.body == each.said
    assert scene.counted == slow.counted


@pytest.mark.parametrize("size", [1, 3, 50])
def test_a_chunk_in_pieces_passes_whole(scene: Scene, size: int) -> None:
    said = chunk(content(" three"))
    scene.said += content(" three")
    for start in range(0, len(said), size):
        scene.provider.says(said[start : start + size])
    scene.say(content(" four"))
    assert scene.body == scene.said
    assert scene.counted[:2] == (4, 18)


@pytest.mark.parametrize("line", [b"0%x\r\n", b"%X\r\n", b"%x;a=b\r\n", b"%x \r\n"])
def test_a_size_line_in_another_form_is_the_connection_s_to_read(scene: Scene, line: bytes) -> None:
    event = content(" padded so that its size has a letter in it.....")
    scene.said += event
    scene.provider.says(line % len(event) + event + b"\r\n")
    scene.say(content(" four"))
    assert scene.body == scene.said


def test_a_chunk_of_a_wrong_size_breaks_the_answer(scene: Scene) -> None:
    event = content(" three")
    scene.provider.says(b"%x\r\n%b\r\n" % (len(event) + 1, event) + b"zz")
    assert scene.relay.observer.ends == [EndReason.UPSTREAM_FAILED]
    assert scene.provider.end == "reset"


def test_bytes_that_are_no_text_are_not_counted_at_a_look(scene: Scene) -> None:
    scene.say(content("xyz").replace(b"xyz", b"\xff\xfe"))
    assert scene.body == scene.said
    assert scene.counted[0] == 2


def test_a_client_that_blocks_closes_the_fast_path(scene: Scene) -> None:
    scene.client.stops_reading()
    while not scene.client.transport.is_blocked:
        scene.say(content(" more"))
    assert not scene.takes_fast_path()
    scene.client.reads()
    scene.say(*[content(" and more")] * READS)
    assert scene.takes_fast_path()
    assert scene.body == scene.said


def test_a_stalled_client_stops_its_provider_though_there_was_a_fast_path(scene: Scene) -> None:
    scene.client.stops_reading()
    for _ in range(200):
        scene.say(content(" more"))
    assert not scene.provider.transport.is_reading()
    assert scene.exchange.held < 2000 + READ_SIZE
    assert not scene.takes_fast_path()
    scene.client.reads()
    scene.provider.transport.deliver()
    assert scene.body == scene.said


def test_a_burst_closes_the_fast_path_since_reads_are_to_be_small(scene: Scene) -> None:
    burst = b"".join(chunk(content(" more")) for _ in range(30))
    scene.said += content(" more") * 30
    scene.provider.says(burst)
    assert not scene.takes_fast_path()
    scene.say(content(" more") * 2)
    assert not scene.takes_fast_path(), "its events come in bursts"
    assert scene.body == scene.said


def test_a_client_that_leaves_is_charged_for_what_passed(scene: Scene) -> None:
    scene.say(content(" three"))
    scene.client.resets()
    assert scene.provider.end == "reset"
    meter = scene.exchange.account.meter
    assert meter is not None
    assert meter.content_events == 3
    assert scene.exchange.bytes_down == len(scene.said)


def test_a_connection_that_is_lost_while_its_fast_path_closes_is_forgotten(scene: Scene) -> None:
    scene.provider.says(b"no chunk\r\n")
    scene.provider.transport.lose()
    assert scene.relay.observer.ends == [EndReason.UPSTREAM_FAILED]
    assert scene.relay.pool.open_connections == 0


def test_its_state_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h1, "FAST_PATH_READS", 1000)
    scene = Scene()
    fast_path = scene.exchange.fast_path()
    assert fast_path is not None
    assert repr(fast_path).startswith("<FastPath closed size=0 ")
    fast_path.enter(scene.provider.connection)
    fast_path.receive(chunk(content(" three")))
    assert repr(fast_path).startswith(f"<FastPath open size={len(content(' three'))} uncounted=1 ")


def test_a_provider_that_breaks_off_breaks_the_answer(scene: Scene) -> None:
    scene.say(content(" three"))
    scene.provider.resets()
    assert scene.relay.observer.ends == [EndReason.UPSTREAM_FAILED]
    assert not understood(bytes(scene.client.transport.sent)).whole


def test_a_provider_that_closes_breaks_the_answer(scene: Scene) -> None:
    scene.say(content(" three"))
    scene.provider.shuts()
    scene.provider.transport.lose()
    assert scene.relay.observer.ends == [EndReason.UPSTREAM_FAILED]
    assert scene.relay.pool.open_connections == 0


def test_the_connection_is_kept_for_the_next_request(scene: Scene) -> None:
    scene.end()
    connection = scene.provider.transport.get_protocol()
    assert isinstance(connection, UpstreamH1)
    assert scene.relay.pool.idle_connections == 1
    scene.client.says(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    scene.provider.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert scene.client.hears().endswith(b"hi")


def test_a_silent_provider_is_noticed(scene: Scene) -> None:
    """What passes by the fast path is life, though the exchange hears of it now and then only."""
    exchange: Exchange = scene.exchange
    for _ in range(5):
        scene.relay.sweep(1)
        scene.say(content(" on"))
    assert exchange.ended_at is None


def test_events_of_a_budget_pass_until_it_is_spent() -> None:
    scene = Scene(max_tokens=60)
    assert scene.takes_fast_path()
    plain = Scene(max_tokens=60, fast_path=False)
    for _ in range(100):
        for each in (scene, plain):
            if each.exchange.ended_at is None:
                each.say(content(" more"))
    assert scene.body == plain.body
    assert scene.relay.observer.ends == [EndReason.BUDGET]
    assert scene.exchange.account.cut_at == plain.exchange.account.cut_at == 60


def test_a_lease_is_extended_in_time() -> None:
    limiter = FakeLimiter(left=150, lease=20)
    scene = Scene(limiter=limiter)
    assert scene.takes_fast_path()
    for _ in range(300):
        if scene.exchange.ended_at is None:
            scene.say(content(" more"))
            scene.relay.sweep(0.01)
    assert scene.relay.observer.ends == [EndReason.QUOTA]
    assert limiter.left == 0
    assert limiter.settled == [150]


def test_an_event_that_waits_for_tokens_closes_the_fast_path() -> None:
    limiter = FakeLimiter(left=1000, lease=20)
    scene = Scene(limiter=limiter)
    assert scene.takes_fast_path()
    limiter.delayed = True
    while not limiter.waiting or scene.provider.transport.is_reading():
        scene.say(content(" more"))
    assert not scene.takes_fast_path()
    limiter.answer()
    assert scene.provider.transport.is_reading()
    scene.say(*[content(" more")] * READS)
    assert scene.takes_fast_path()


# What the connection's window is told


def _far(scene: Scene) -> ReceiveWindow:
    """The provider is so far away that its window has to grow."""
    scene.provider.transport.socket.round_trip = 0.2
    flow = AdaptiveFlow(0.25, scene.relay.clock)
    scene.provider.connection.window = window = ReceiveWindow(scene.provider.transport, flow)
    return window


def _is_grown(window: ReceiveWindow) -> bool:
    return window.is_wide or window.bound > FIRST


def test_a_window_hears_of_what_passes(scene: Scene) -> None:
    window = _far(scene)
    for number in range(640):
        scene.relay.clock.advance(0.01)
        scene.say(content(f" {number}"))
    assert scene.takes_fast_path()
    assert _is_grown(window)


def test_a_window_hears_of_events_that_come_together(scene: Scene) -> None:
    """As they do where the window is what holds them up."""
    window = _far(scene)
    for number in range(320):
        scene.relay.clock.advance(0.02)
        scene.provider.says(chunk(content(f" {number}")) + chunk(content(" more")))
    assert scene.takes_fast_path()
    assert _is_grown(window)


def test_a_window_hears_of_what_passes_however_often_it_is_counted(scene: Scene) -> None:
    window = _far(scene)
    for number in range(640):
        scene.relay.clock.advance(0.01)
        scene.say(content(f" {number}"))
        if number % 20 == 0:
            scene.exchange.record()
    assert scene.takes_fast_path()
    assert _is_grown(window)
