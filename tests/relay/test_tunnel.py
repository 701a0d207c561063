"""A WebSocket between two recorded streams."""

from __future__ import annotations

import orjson
import pytest
from websockets.frames import Frame, Opcode

from flowserver.errors import EndReason, upstream_error
from flowserver.flow.read_gate import PauseTotals, Reason
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.quota.limits import SMALL_MONEY
from flowserver.quota.prices import Price, PriceRow, PriceTable
from flowserver.quota.tenants import TenantLimits
from flowserver.relay.provider import Deadlines
from flowserver.relay.tunnel import CLOSING_TIME, Tunnel

from ..support.clock import FakeClock
from ..support.quota import KEY, FakeLimiter, quota, tenant
from ..support.recording import (
    RecordingDownstream,
    RecordingObserver,
    RecordingUpstream,
    account,
    ask,
    exchange_context,
    target,
)

ACCEPTED = ResponseHead(
    101,
    [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (b"sec-websocket-protocol", b"realtime"),
    ],
)
DEADLINES = Deadlines(first_byte=10.0, idle=60.0, body=1.0, total=600.0)
BROKEN = upstream_error("upstream_failed", "The provider broke off.", EndReason.UPSTREAM_FAILED)


def text(data: bytes) -> bytes:
    return Frame(Opcode.TEXT, data).serialize(mask=False)


def report(tokens: int) -> bytes:
    usage = {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens}
    return text(orjson.dumps({"type": "response.done", "response": {"usage": usage}}))


class Scene:
    """A tunnel that was started, and both its sides."""

    def __init__(
        self, path: str = "/v1/socket", *, http2: bool = False, limiter: FakeLimiter | None = None, price: int = 0
    ) -> None:
        """`price`: pico-dollars of an output token, of which there is a quota; 0: of tokens there is."""
        self.clock = FakeClock()
        self.observer = RecordingObserver()
        self.pauses = PauseTotals()
        context = exchange_context(
            clock=self.clock, observer=self.observer, deadlines=DEADLINES, pauses=self.pauses, max_body=10
        )
        self.down, self.up = RecordingDownstream(), RecordingUpstream()
        fields = [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="), (b"authorization", b"Bearer " + KEY)]
        request = RequestHead(b"GET", path.encode(), fields)
        request.is_tunnel = True
        request.http_version = b"2" if http2 else b"1.1"
        limits = TenantLimits(usd_per_day=10**12) if price else TenantLimits(tokens_per_minute=1_000_000)
        prices = PriceTable([PriceRow(("*",), Price(price, price, price, price, price))]) if price else None
        context_of_quota = quota(tenant(limits=limits), limiter=limiter) if limiter is not None else None
        self.account = account(request=request, quota=context_of_quota, prices=prices)
        self.tunnel = Tunnel(request, self.down, context, request_id=b"id-1", account=self.account)
        self.account.request.open()
        if limiter is not None:
            self.account.identify(request, lambda error: None)
            self.account.request_permit(request, lambda error: None, self.tunnel.on_more_tokens, providers=[target()])
        self.tunnel.start(self.up)
        ask(self.account, target())

    def open(self) -> Scene:
        self.tunnel.on_upstream_head(ACCEPTED)
        self.down.log.clear()
        return self

    def pass_time(self, seconds: float) -> None:
        self.tunnel.sweep(self.clock.advance(seconds))

    @property
    def end(self) -> EndReason | None:
        return self.tunnel.end_reason

    @property
    def close_code(self) -> int | None:
        """Of a Close frame that is the last of what the client got."""
        start = self.down.body.rfind(b"\x88")
        return int.from_bytes(self.down.body[start + 2 : start + 4], "big") if start >= 0 else None


def test_bytes_pass_in_both_directions() -> None:
    scene = Scene()
    scene.tunnel.on_upstream_head(ACCEPTED)
    [head] = scene.down.heads
    assert (head.status, head.content_length) == (101, None)
    assert (b"sec-websocket-protocol", b"realtime") in head.headers
    assert not {b"upgrade", b"connection"} & {name for name, _ in head.headers}
    for _ in range(3):
        scene.tunnel.on_downstream_data(b"more than FLOW_MAX_BODY")
        scene.tunnel.on_upstream_data(b"any")
    assert scene.up.log == ["data 23"] * 3
    assert scene.down.body == b"anyanyany"
    assert (scene.tunnel.bytes_up, scene.tunnel.bytes_down, scene.tunnel.state()) == (69, 9, "tunnel")


def test_over_http2_it_is_a_200() -> None:
    scene = Scene(http2=True)
    scene.tunnel.on_upstream_head(ACCEPTED)
    [head] = scene.down.heads
    assert head.status == scene.tunnel.status == 200
    assert b"sec-websocket-accept" not in {name for name, _ in head.headers}


@pytest.mark.parametrize("status", [200, 204, 101])
def test_a_provider_that_does_not_accept(status: int) -> None:
    scene = Scene()
    scene.tunnel.on_upstream_head(ResponseHead(status, []))
    assert scene.down.heads[0].status == 502
    assert scene.up.log == ["cancel"]


def test_a_refusal_passes_as_it_is() -> None:
    scene = Scene()
    scene.tunnel.on_upstream_head(ResponseHead(403, [], content_length=3))
    scene.tunnel.on_upstream_data(b"no!")
    scene.tunnel.on_downstream_data(b"what the client had in mind")
    scene.tunnel.on_upstream_end()
    scene.tunnel.on_downstream_finished()
    assert scene.down.log == ["head 403", "data 3", "end"]
    assert scene.end is EndReason.COMPLETE
    assert scene.tunnel.record().tunnel_seconds is None


@pytest.mark.parametrize("call", ["on_downstream_end", "data"])
def test_nothing_may_come_before_the_answer(call: str) -> None:
    scene = Scene()
    if call == "data":
        scene.tunnel.on_downstream_data(b"early")
    else:
        scene.tunnel.on_downstream_end()
    assert scene.down.heads[0].status == 400
    assert scene.up.log == ["cancel"]


def test_each_side_is_stopped_for_the_other() -> None:
    scene = Scene().open()
    scene.tunnel.on_downstream_full()
    scene.tunnel.on_downstream_drained()
    scene.tunnel.on_upstream_full()
    scene.tunnel.on_upstream_drained()
    assert scene.up.log == ["pause", "resume"]
    assert scene.down.log == ["pause", "resume"]


def test_the_provider_s_end_is_the_end() -> None:
    scene = Scene().open()
    scene.clock.advance(5)
    scene.tunnel.on_upstream_end()
    scene.tunnel.on_downstream_data(b"too late")
    assert scene.down.log == ["end"]
    assert scene.up.log == ["cancel"]
    scene.tunnel.on_downstream_finished()
    assert scene.end is EndReason.COMPLETE
    assert scene.tunnel.record().tunnel_seconds == 5


def test_the_client_s_end_passes_and_the_provider_has_some_time() -> None:
    scene = Scene().open()
    scene.tunnel.on_downstream_end()
    assert scene.up.log == ["end"]
    scene.pass_time(CLOSING_TIME / 2)
    scene.tunnel.on_upstream_data(b"last words")
    assert scene.down.log == ["data 10"]
    scene.pass_time(CLOSING_TIME)
    assert (scene.down.log[-1], scene.up.log[-1]) == ("end", "cancel")


def test_a_client_that_leaves_ends_the_provider_s_work() -> None:
    scene = Scene().open()
    scene.tunnel.on_downstream_reset(EndReason.CLIENT_GONE)
    assert scene.up.log == ["cancel"]
    assert scene.end is EndReason.CLIENT_GONE
    assert scene.observer.ended == [scene.tunnel]


# Time


def test_the_handshake_has_the_time_of_a_first_byte() -> None:
    scene = Scene()
    scene.pass_time(9)
    assert not scene.down.heads
    scene.pass_time(2)
    assert scene.down.heads[0].status == 504


def test_a_tunnel_is_idle_when_nothing_passes_in_either_direction() -> None:
    scene = Scene().open()
    for number in range(4):
        scene.pass_time(40)
        (scene.tunnel.on_downstream_data if number % 2 else scene.tunnel.on_upstream_data)(b"x")
    scene.pass_time(1)
    scene.pass_time(50)
    assert scene.tunnel.state() == "tunnel"
    scene.pass_time(11)
    assert scene.end is EndReason.IDLE_TIMEOUT
    assert scene.down.log[-1] == "broken"


def test_a_pause_for_the_client_is_not_idle() -> None:
    scene = Scene().open()
    scene.tunnel.on_downstream_full()
    scene.pass_time(1)
    scene.pass_time(100)
    assert scene.end is None


def test_the_total_time() -> None:
    scene = Scene().open()
    scene.pass_time(601)
    assert scene.end is EndReason.TOTAL_TIMEOUT


# Where frames are read


def test_a_failure_between_frames_closes_properly() -> None:
    scene = Scene("/v1/realtime").open()
    scene.tunnel.on_upstream_data(text(b"{}"))
    scene.tunnel.on_upstream_failed(BROKEN)
    assert scene.close_code == 1011
    assert scene.down.log[-1] == "end"
    scene.tunnel.on_downstream_finished()
    assert scene.end is EndReason.UPSTREAM_FAILED


@pytest.mark.parametrize("last", [text(b"{}")[:-1], Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)])
def test_within_a_frame_and_behind_a_close_frame_it_is_broken_off(last: bytes) -> None:
    scene = Scene("/v1/realtime").open()
    scene.tunnel.on_upstream_data(last)
    scene.tunnel.on_upstream_failed(BROKEN)
    assert scene.down.log[-1] == "broken"
    assert scene.end is EndReason.UPSTREAM_FAILED


def test_a_drain_says_so() -> None:
    scene = Scene("/v1/realtime").open()
    scene.tunnel.on_drain_timeout()
    assert scene.close_code == 1001
    assert scene.up.log == ["cancel"]


def test_frames_that_break_the_rules_do_not_pass() -> None:
    scene = Scene("/v1/realtime").open()
    scene.tunnel.on_upstream_data(b"\xc1\x01x")
    assert scene.down.body == b""
    assert scene.end is EndReason.UPSTREAM_FAILED


def test_a_budget_ends_it_behind_the_report() -> None:
    scene = Scene("/v1/realtime").open()
    scene.account.bound(100)
    scene.tunnel.on_upstream_data(report(60))
    assert scene.tunnel.state() == "tunnel"
    last = report(41)
    scene.tunnel.on_upstream_data(last + text(b"{}"))
    assert scene.down.body.find(last) > 0
    assert scene.down.body.count(text(b"{}")) == 0
    assert scene.close_code == 1008
    scene.tunnel.on_downstream_finished()
    assert scene.end is EndReason.BUDGET


def test_tokens_are_drawn_from_the_lease_and_charged() -> None:
    limiter = FakeLimiter(left=250, lease=100)
    scene = Scene("/v1/realtime", limiter=limiter).open()
    scene.tunnel.on_upstream_data(report(90))
    scene.tunnel.on_upstream_data(report(90))
    assert scene.tunnel.state() == "tunnel"
    scene.tunnel.on_upstream_data(report(90))
    assert scene.close_code == 1008
    scene.tunnel.on_downstream_finished()
    assert scene.end is EndReason.QUOTA
    assert limiter.settled == [270]


@pytest.mark.parametrize("left", [0, 1000])
def test_it_waits_for_a_late_lease(left: int) -> None:
    limiter = FakeLimiter(left=1000, lease=100, delayed=True)
    scene = Scene("/v1/realtime", limiter=limiter)
    limiter.answer()
    scene.open()
    limiter.left = left
    scene.tunnel.on_upstream_data(report(150))
    assert scene.up.log == ["pause"]
    assert scene.tunnel.state() == "waiting_for_tokens"
    assert scene.pauses.pauses[Reason.QUOTA] == 1
    while limiter.waiting:
        limiter.answer()
    if left:
        assert scene.up.log == ["pause", "resume"]
        assert scene.tunnel.state() == "tunnel"
    else:
        assert scene.close_code == 1008


def test_money_is_drawn_from_a_lease_of_its_own_and_charged() -> None:
    """A nano-dollar for each token: a lease is `SMALL_MONEY`, and a first token is paid in advance."""
    limiter = FakeLimiter(left=5 * SMALL_MONEY // 2, lease=100)
    scene = Scene("/v1/realtime", limiter=limiter, price=1000).open()
    scene.tunnel.on_upstream_data(report(SMALL_MONEY))
    scene.tunnel.on_upstream_data(report(SMALL_MONEY))
    assert scene.tunnel.state() == "tunnel"
    scene.tunnel.on_upstream_data(report(SMALL_MONEY))
    assert scene.close_code == 1008
    scene.tunnel.on_downstream_finished()
    assert scene.end is EndReason.QUOTA
    assert limiter.log[0] == ("admit", 1)
    assert limiter.settled[-1] == 3 * SMALL_MONEY


@pytest.mark.parametrize("left", [0, 10 * SMALL_MONEY])
def test_it_waits_for_late_money(left: int) -> None:
    limiter = FakeLimiter(left=10 * SMALL_MONEY, lease=100, delayed=True)
    scene = Scene("/v1/realtime", limiter=limiter, price=1000)
    limiter.answer()
    scene.open()
    limiter.left = left
    scene.tunnel.on_upstream_data(report(2 * SMALL_MONEY))
    assert scene.up.log == ["pause"]
    assert scene.tunnel.state() == "waiting_for_tokens"
    while limiter.waiting:
        limiter.answer()
    if left:
        assert scene.up.log == ["pause", "resume"]
        assert scene.tunnel.state() == "tunnel"
    else:
        assert scene.close_code == 1008
