"""An answer that can't be read, to a tenant whose tokens are counted by its bytes."""

from __future__ import annotations

import orjson
import pytest

from flowserver.errors import EndReason
from flowserver.http.messages import ResponseHead
from flowserver.quota.tenants import TenantLimits
from flowserver.relay.exchange import Exchange
from flowserver.relay.limited_time import Holder

from ..support.quota import FakeLimiter, asking, quota, tenant
from ..support.recording import RecordingDownstream, RecordingUpstream, account, ask, exchange_context, target
from ..support.streams import CHAT

COMPRESSED = ResponseHead(200, [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")])
READ = bytes(100)


class Scene:
    """The answer has begun, and the limiter answers when it is told to. Its lease is 100 tokens."""

    def __init__(self, left: int = 1_000_000) -> None:
        self.limiter = FakeLimiter(left=left)
        self.up, self.down = RecordingUpstream(), RecordingDownstream()
        made = account(
            CHAT.target, quota=quota(tenant(limits=TenantLimits(tokens_per_day=10_000)), limiter=self.limiter)
        )
        request = asking(target=CHAT.target.encode())
        self.exchange = Exchange(request, self.down, exchange_context(), request_id=b"1", account=made)
        made.identify(request, lambda error: None)
        body = orjson.dumps({"model": "m"})
        made.request.open()
        made.request.feed(body)
        made.request.finish()
        made.request_permit(request, lambda error: None, self.exchange.on_more_tokens, providers=())
        ask(made, target(), body)
        self.exchange.start(self.up)
        self.exchange.on_downstream_end()
        self.exchange.on_upstream_head(COMPRESSED)
        self.limiter.delayed = True

    def hear_until_it_waits(self) -> int:
        """Reads that came, the last of which waits."""
        for number in range(1, 100):
            self.exchange.on_upstream_data(READ)
            if self.exchange.state() == "waiting_for_tokens":
                return number
        raise AssertionError("it never waited")


def test_it_waits_for_tokens_like_any_other() -> None:
    scene = Scene()
    reads = scene.hear_until_it_waits()
    assert scene.down.body == READ * (reads - 1)
    assert scene.exchange.record().slow is Holder.RELAY
    assert scene.up.log[-1] == "pause"
    scene.exchange.on_upstream_data(b"late")
    assert scene.down.body == READ * (reads - 1)
    scene.limiter.answer()
    assert scene.down.body == READ * reads + b"late"
    assert scene.up.log[-1] == "resume"


def test_its_end_comes_behind_what_waited() -> None:
    scene = Scene()
    reads = scene.hear_until_it_waits()
    scene.exchange.on_upstream_end()
    assert "end" not in scene.down.log
    scene.limiter.answer()
    assert scene.down.body == READ * reads
    assert scene.down.log[-1] == "end"


@pytest.mark.parametrize("whole", [False, True])
def test_it_is_broken_off_where_no_tokens_come(whole: bool) -> None:
    """Whether or not the provider was done by then."""
    scene = Scene()
    reads = scene.hear_until_it_waits()
    if whole:
        scene.exchange.on_upstream_end()
    scene.limiter.left = 0
    scene.limiter.answer()
    assert scene.down.body == READ * (reads - 1)
    assert (scene.down.log[-1], scene.down.log.count("end")) == ("broken", 0)
    assert scene.exchange.end_reason is not EndReason.COMPLETE
    assert len(scene.limiter.settled) == 1


def test_a_client_that_leaves_while_it_waits() -> None:
    scene = Scene()
    scene.hear_until_it_waits()
    said = list(scene.down.log)
    scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    while scene.limiter.waiting:
        scene.limiter.answer()
    assert scene.down.log == said
    assert len(scene.limiter.settled) == 1
