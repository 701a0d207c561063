"""One request and its response between two recorded streams."""

from __future__ import annotations

import orjson
import pytest

from flowserver.errors import EndReason, Party, RelayError, bad_request, upstream_error
from flowserver.flow import PauseTotals, Reason
from flowserver.messages import RequestHead, ResponseHead
from flowserver.relay.exchange import Exchange
from flowserver.relay.target import Deadlines

from ..support.clock import FakeClock
from ..support.recording import (
    RecordingDownstream,
    RecordingObserver,
    RecordingUpstream,
    exchange_surroundings,
)

BROKEN = upstream_error("upstream_failed", "The provider broke off.", EndReason.UPSTREAM_FAILED)
OK = ResponseHead(200, [(b"content-type", b"text/event-stream")])
NO_DEADLINES = Deadlines(first_byte=None, idle=None, body=None, total=None)


class Scene:
    """An exchange that was started, and both its sides."""

    def __init__(
        self,
        *,
        has_body: bool = False,
        content_length: int | None = None,
        deadlines: Deadlines = NO_DEADLINES,
        max_body: int = 100,
        start: bool = True,
    ) -> None:
        self.clock = FakeClock()
        self.observer = RecordingObserver()
        self.pauses = PauseTotals()
        around = exchange_surroundings(
            clock=self.clock, observer=self.observer, deadlines=deadlines, pauses=self.pauses, max_body=max_body
        )
        self.down = RecordingDownstream()
        self.up = RecordingUpstream()
        request = RequestHead(b"POST", b"/v1", [], content_length=content_length, has_body=has_body)
        self.exchange = Exchange(request, self.down, around, identity=b"id-1")
        if start:
            self.exchange.start(self.up)
            if not has_body:
                self.exchange.on_downstream_end()

    def pass_time(self, seconds: float) -> None:
        self.exchange.sweep(self.clock.advance(seconds))

    @property
    def end(self) -> EndReason | None:
        return self.exchange.end_reason


# The plain course


def test_an_answer_passes_as_it_comes() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"one")
    scene.exchange.on_upstream_data(b"three")
    scene.exchange.on_upstream_end()
    assert scene.down.log == ["head 200", "data 3", "data 5", "end"]
    assert scene.up.log == ["end", "cancel"]  # which gives the connection back
    assert scene.observer.ended == []
    scene.exchange.on_downstream_finished()
    assert scene.end is EndReason.COMPLETE
    assert (scene.exchange.bytes_down, scene.exchange.chunks_down, scene.exchange.status) == (8, 2, 200)
    assert scene.observer.started == scene.observer.ended == [scene.exchange]


def test_an_upload_passes_as_it_comes() -> None:
    scene = Scene(has_body=True)
    scene.exchange.on_downstream_data(b"abc")
    scene.exchange.on_downstream_end()
    assert scene.up.log == ["data 3", "end"]
    assert scene.exchange.bytes_up == 3


def test_the_client_gets_the_request_id() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    assert (b"x-request-id", b"id-1") in scene.down.heads[0].headers


def test_interim_answers_pass_but_continue_ends_here() -> None:
    scene = Scene()
    scene.exchange.on_upstream_interim(ResponseHead(100, []))
    scene.exchange.on_upstream_interim(ResponseHead(103, []))
    assert scene.down.log == ["interim 103"]
    assert scene.exchange.status == 0


def test_states_are_told_in_one_word() -> None:
    scene = Scene()
    assert scene.exchange.state() == "waiting"
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"x")
    assert scene.exchange.state() == "streaming"
    scene.exchange.on_downstream_full()
    assert scene.exchange.state() == "paused"
    scene.exchange.on_downstream_drained()
    scene.exchange.on_upstream_end()
    assert scene.exchange.state() == "flushing"


# Backpressure


def test_a_full_client_stops_the_provider_until_it_is_drained() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_downstream_full()
    scene.exchange.on_downstream_full()
    scene.clock.advance(2)
    scene.exchange.on_downstream_drained()
    assert scene.up.log == ["end", "pause", "resume"]
    assert scene.exchange.paused() == (1, 2.0)
    assert scene.pauses.seconds[Reason.DOWNSTREAM] == 2.0


def test_a_full_provider_stops_the_upload_until_it_is_drained() -> None:
    scene = Scene(has_body=True)
    scene.exchange.on_upstream_full()
    scene.exchange.on_upstream_drained()
    assert scene.down.log == ["pause", "resume"]
    assert scene.pauses.pauses[Reason.UPSTREAM] == 1


def test_a_pause_that_lasts_is_settled_when_the_provider_is_done() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_downstream_full()
    scene.clock.advance(3)
    scene.exchange.on_upstream_end()
    scene.clock.advance(5)
    scene.exchange.on_downstream_drained()
    assert scene.pauses.seconds[Reason.DOWNSTREAM] == 3.0
    assert scene.up.log == ["end", "pause", "cancel"]


def test_a_client_that_fills_up_after_the_provider_is_done_pauses_nothing() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_end()
    scene.exchange.on_downstream_full()
    scene.clock.advance(3)
    scene.exchange.on_downstream_drained()
    scene.exchange.on_downstream_finished()
    assert scene.up.log == ["end", "cancel"]
    assert scene.pauses.pauses[Reason.DOWNSTREAM] == 0
    assert scene.exchange.paused() == (0, 0.0)


# Endings


def test_a_provider_that_fails_before_its_head_is_told_as_an_error() -> None:
    scene = Scene()
    scene.exchange.on_upstream_failed(BROKEN)
    assert scene.down.log[0] == "head 502"
    assert scene.down.log[-1] == "end"
    error = orjson.loads(scene.down.body)["error"]
    assert (error["code"], error["type"]) == ("upstream_failed", "upstream_error")
    assert scene.down.heads[0].content_length == len(scene.down.body)
    scene.exchange.on_downstream_finished()
    assert scene.end is EndReason.UPSTREAM_FAILED


@pytest.mark.parametrize("body", [b"", b"data: x\n\n"])
def test_a_provider_that_fails_behind_its_head_breaks_the_answer(body: bytes) -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    if body:
        scene.exchange.on_upstream_data(body)
    scene.exchange.on_upstream_failed(BROKEN)
    assert scene.down.log[-1] == "broken"
    assert "end" not in scene.down.log
    assert scene.end is EndReason.UPSTREAM_FAILED


@pytest.mark.parametrize("reason", [EndReason.CLIENT_GONE, EndReason.CLIENT_STALLED])
@pytest.mark.parametrize("when", ["connecting", "uploading", "head", "body", "paused", "flushing"])
def test_a_client_that_is_gone_ends_the_provider_s_work(reason: EndReason, when: str) -> None:
    scene = Scene(has_body=when == "uploading")
    if when in ("head", "body", "paused", "flushing"):
        scene.exchange.on_upstream_head(OK)
    if when in ("body", "paused", "flushing"):
        scene.exchange.on_upstream_data(b"x")
    if when == "paused":
        scene.exchange.on_downstream_full()
    if when == "flushing":
        scene.exchange.on_upstream_end()
    said = list(scene.down.log)
    scene.exchange.on_downstream_reset(reason)
    assert "cancel" in scene.up.log
    assert scene.end is reason
    assert scene.down.log == said
    scene.exchange.on_downstream_reset(reason)
    assert len(scene.observer.ended) == 1


def test_what_is_told_after_the_end_changes_nothing() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_failed(BROKEN)
    said = list(scene.down.log)
    scene.exchange.on_upstream_failed(BROKEN)
    scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    scene.exchange.on_downstream_finished()
    scene.exchange.on_drain_timeout()
    scene.pass_time(10_000)
    assert scene.down.log == said
    assert scene.observer.ended == [scene.exchange]
    assert scene.end is EndReason.UPSTREAM_FAILED


def test_an_answer_before_the_upload_is_over_ends_the_upload() -> None:
    scene = Scene(has_body=True)
    scene.exchange.on_downstream_data(b"abc")
    scene.exchange.on_upstream_head(ResponseHead(401, [], content_length=0))
    scene.exchange.on_upstream_end()
    assert scene.up.log == ["data 3", "cancel"]
    scene.exchange.on_downstream_data(b"def")
    scene.exchange.on_downstream_finished()
    assert scene.up.body == b"abc"
    assert scene.end is EndReason.COMPLETE


def test_a_malformed_request_body_is_told_while_there_is_no_answer() -> None:
    scene = Scene(has_body=True)
    scene.exchange.on_downstream_failed(bad_request("The request body is malformed."))
    assert scene.down.log[0] == "head 400"
    assert scene.up.log == ["cancel"]
    scene.exchange.on_downstream_finished()
    assert scene.end is EndReason.CLIENT_ERROR


def test_going_down_before_the_head_is_told() -> None:
    scene = Scene()
    scene.exchange.on_drain_timeout()
    assert scene.down.log[0] == "head 503"
    assert (b"retry-after", b"1") in scene.down.heads[0].headers


def test_going_down_in_mid_stream_breaks_the_answer() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_drain_timeout()
    assert scene.down.log == ["head 200", "broken"]
    assert scene.end is EndReason.DRAIN


def test_a_refused_request_never_reaches_a_provider() -> None:
    scene = Scene(start=False)
    scene.exchange.refuse(RelayError(508, "loop", "Round and round.", Party.RELAY, EndReason.REFUSED))
    scene.exchange.on_downstream_data(b"abc")
    scene.exchange.on_downstream_end()
    scene.exchange.on_downstream_finished()
    assert scene.down.log[0] == "head 508"
    assert not scene.up.is_started
    assert scene.up.log == []
    assert scene.end is EndReason.REFUSED


# The size of uploads


def test_an_upload_that_announces_too_much_never_reaches_a_provider() -> None:
    scene = Scene(has_body=True, content_length=101)
    assert scene.down.log[0] == "head 413"
    assert not scene.up.is_started
    assert scene.up.log == []


def test_an_upload_that_becomes_too_large_is_ended() -> None:
    scene = Scene(has_body=True)
    scene.exchange.on_downstream_data(b"x" * 100)
    assert scene.down.log == []
    scene.exchange.on_downstream_data(b"x")
    assert scene.down.log[0] == "head 413"
    assert scene.up.log == ["data 100", "cancel"]
    scene.exchange.on_downstream_data(b"x")
    assert scene.down.log.count("head 413") == 1


# Deadlines


def test_a_provider_that_is_silent_from_the_start() -> None:
    scene = Scene(deadlines=Deadlines(first_byte=10, idle=5, body=1, total=None))
    scene.pass_time(9)
    assert scene.down.log == []
    scene.pass_time(1)
    assert scene.down.log[0] == "head 504"
    assert scene.up.log[-1] == "cancel"
    scene.exchange.on_downstream_finished()
    assert scene.end is EndReason.FIRST_BYTE_TIMEOUT


def test_the_wait_for_the_first_byte_begins_when_the_request_is_whole() -> None:
    scene = Scene(has_body=True, deadlines=Deadlines(first_byte=10, idle=None, body=60, total=None))
    scene.pass_time(30)
    scene.exchange.on_downstream_end()
    scene.pass_time(9)
    assert scene.down.log == []
    scene.pass_time(1)
    assert scene.down.log[0] == "head 504"


def test_a_head_without_a_body_is_no_first_byte() -> None:
    scene = Scene(deadlines=Deadlines(first_byte=10, idle=5, body=None, total=None))
    scene.exchange.on_upstream_head(OK)
    scene.pass_time(10)
    assert scene.down.log == ["head 200", "broken"]
    assert scene.end is EndReason.FIRST_BYTE_TIMEOUT


def test_a_provider_that_falls_silent() -> None:
    scene = Scene(deadlines=Deadlines(first_byte=None, idle=5, body=None, total=None))
    scene.exchange.on_upstream_head(OK)
    for _ in range(20):
        scene.exchange.on_upstream_data(b"x")
        scene.pass_time(4)
    scene.pass_time(4)
    assert scene.observer.ended == []
    scene.pass_time(1)
    assert scene.end is EndReason.IDLE_TIMEOUT
    assert scene.down.log[-1] == "broken"


def test_silence_does_not_count_while_the_relay_itself_stops_the_provider() -> None:
    scene = Scene(deadlines=Deadlines(first_byte=None, idle=5, body=None, total=None))
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"x")
    scene.pass_time(1)
    scene.exchange.on_downstream_full()
    for _ in range(20):
        scene.pass_time(4)
    scene.exchange.on_downstream_drained()
    scene.pass_time(4)
    scene.pass_time(4)
    assert scene.observer.ended == []
    scene.pass_time(1)
    assert scene.end is EndReason.IDLE_TIMEOUT


def test_an_upload_of_as_many_bytes_as_the_answer_does_not_count_as_silence() -> None:
    scene = Scene(has_body=True, deadlines=Deadlines(first_byte=None, idle=5, body=60, total=None))
    scene.exchange.on_downstream_data(b"abc")
    scene.pass_time(1)
    scene.exchange.on_downstream_end()
    scene.clock.advance(100)
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"xyz")
    scene.pass_time(1)
    assert scene.end is None


def test_an_upload_that_stops() -> None:
    scene = Scene(has_body=True, deadlines=Deadlines(first_byte=1, idle=1, body=5, total=None))
    for _ in range(5):
        scene.exchange.on_downstream_data(b"x")
        scene.pass_time(4)
    scene.pass_time(4)
    assert scene.down.log == []
    scene.pass_time(1)
    assert scene.down.log[0] == "head 408"
    scene.exchange.on_downstream_finished()
    assert scene.end is EndReason.BODY_TIMEOUT


def test_an_upload_that_the_relay_holds_back_has_not_stopped() -> None:
    scene = Scene(has_body=True, deadlines=Deadlines(first_byte=1000, idle=None, body=5, total=None))
    scene.exchange.on_upstream_full()
    for _ in range(20):
        scene.pass_time(4)
    scene.exchange.on_upstream_drained()
    scene.pass_time(4)
    assert scene.down.log == ["pause", "resume"]


def test_a_provider_that_takes_no_more_of_the_upload() -> None:
    scene = Scene(has_body=True, deadlines=Deadlines(first_byte=10, idle=None, body=5, total=None))
    scene.exchange.on_downstream_data(b"x")
    scene.exchange.on_upstream_full()
    scene.pass_time(1)
    scene.pass_time(10)
    assert scene.down.log[:2] == ["pause", "head 504"]
    scene.exchange.on_downstream_finished()
    assert scene.end is EndReason.FIRST_BYTE_TIMEOUT


def test_a_whole_exchange_that_takes_too_long() -> None:
    scene = Scene(deadlines=Deadlines(first_byte=None, idle=None, body=None, total=60))
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"x")
    scene.pass_time(60)
    assert scene.end is EndReason.TOTAL_TIMEOUT
    assert scene.down.log[-1] == "broken"


def test_no_deadline_ends_an_answer_that_is_whole() -> None:
    scene = Scene(deadlines=Deadlines(first_byte=1, idle=1, body=1, total=1))
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_end()
    scene.pass_time(1000)
    assert scene.down.log == ["head 200", "end"]


def test_deadlines_that_are_off_never_come() -> None:
    for has_body in (False, True):
        scene = Scene(has_body=has_body)
        scene.pass_time(1e9)
        scene.pass_time(1e9)
        assert scene.down.log == []
