"""One request and its response between two recorded streams."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowserver.errors import OUT_OF_MEMORY, EndReason, Party, RelayError, bad_request, upstream_error
from flowserver.flow.read_gate import PauseTotals, Reason
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.quota.tenants import TenantLimits
from flowserver.relay.context import Abandoned, Trace
from flowserver.relay.exchange import Exchange
from flowserver.relay.interfaces import UpstreamEvents
from flowserver.relay.limited_time import Holder
from flowserver.relay.provider import Deadlines
from flowserver.routing.dispatcher import Dispatcher

from ..support.accounts import count_of
from ..support.clock import FakeClock
from ..support.quota import KEY, FakeLimiter, asking, quota, tenant
from ..support.recording import (
    RecordingConnector,
    RecordingDownstream,
    RecordingObserver,
    RecordingUpstream,
    account,
    ask,
    exchange_context,
    read_request,
    routing,
    target,
)
from ..support.streams import CHAT, COHERE, CONVERSE, GEMINI, MESSAGES, OLLAMA_CHAT, RESPONSES, STREAMS, Stream

BROKEN = upstream_error("upstream_failed", "It broke off.", EndReason.UPSTREAM_FAILED)
OK = ResponseHead(200, [(b"content-type", b"text/event-stream")])
NO_DEADLINES = Deadlines(first_byte=None, idle=None, body=None, total=None)


def paused(exchange: Exchange) -> tuple[int, float]:
    """How often, and for how many seconds."""
    record = exchange.record()
    return record.pauses, record.paused_seconds


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
        stream: Stream | None = None,
        budget: int | None = None,
        heartbeat: float | None = None,
        drain_on_disconnect: bool = False,
        abandoned: Abandoned | None = None,
        trace: Trace | None = None,
        **provider: Any,
    ) -> None:
        """`stream`: what is asked and how it is answered, by a provider with these settings."""
        self.clock = FakeClock()
        self.observer = RecordingObserver()
        self.pauses = PauseTotals()
        context = exchange_context(
            clock=self.clock,
            observer=self.observer,
            deadlines=deadlines,
            pauses=self.pauses,
            max_body=max_body,
            heartbeat=heartbeat,
            abandoned=abandoned,
            trace=trace,
        )
        self.abandoned = context.abandoned
        self.down = RecordingDownstream()
        self.up = RecordingUpstream()
        self.up.drain_on_disconnect = drain_on_disconnect
        self.account = account() if stream is None else account(stream.target)
        if stream is not None:
            body = orjson.dumps(stream.body)
            read_request(self.account, body)
            self.account.bound(budget)
            ask(self.account, target(**provider), body)
        request = RequestHead(b"POST", b"/v1", [], content_length=content_length, has_body=has_body)
        self.exchange = Exchange(request, self.down, context, request_id=b"id-1", account=self.account)
        if start:
            self.exchange.start(self.up)
            if not has_body:
                self.exchange.on_downstream_end()

    def pass_time(self, seconds: float) -> None:
        self.exchange.sweep(self.clock.advance(seconds))

    def hear(self, *events: bytes) -> None:
        """The provider sends these, each by itself, until it is told to stop."""
        for event in events:
            if "cancel" not in self.up.log:
                self.exchange.on_upstream_data(event)

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


def test_an_upload_counts_as_unanswered_until_it_is_sent_or_its_answer_begins() -> None:
    announced, chunked = Scene(has_body=True, content_length=50), Scene(has_body=True)
    assert (announced.exchange.unanswered_upload, chunked.exchange.unanswered_upload) == (50, 0)
    chunked.exchange.on_downstream_data(b"abc")
    assert chunked.exchange.unanswered_upload == 3
    chunked.exchange.on_upstream_head(OK)  # as a tunnel's, which is never whole
    announced.exchange.on_downstream_end()
    assert (announced.exchange.unanswered_upload, chunked.exchange.unanswered_upload) == (0, 0)


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
    assert repr(scene.exchange) == "<Exchange id-1 WAITING up=0 down=0>"
    assert scene.exchange.state() == "waiting"
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"x")
    assert scene.exchange.state() == "streaming"
    scene.exchange.on_downstream_full()
    assert scene.exchange.state() == "paused"
    assert repr(scene.exchange) == "<Exchange id-1 STREAMING paused up=0 down=1>"
    scene.exchange.on_downstream_drained()
    scene.exchange.on_upstream_end()
    assert scene.exchange.state() == "flushing"


WHOLE = ["STREAMING", "FLUSHING", "ENDED"]


@pytest.mark.parametrize(
    ("course", "states"),
    [
        ("whole", WHOLE),
        ("cut", WHOLE),
        ("failed before the head", ["FLUSHING", "ENDED"]),
        ("failed behind the head", WHOLE),
        ("left", ["STREAMING", "ENDED"]),
        ("read on", ["STREAMING", "ABANDONED", "SETTLING", "ENDED"]),
    ],
)
def test_each_change_of_state_is_traced(course: str, states: list[str]) -> None:
    changes: list[tuple[str, str]] = []
    scene = Scene(
        stream=MESSAGES,
        drain_on_disconnect=course == "read on",
        budget=1 if course == "cut" else None,
        trace=lambda request_id, before, now: changes.append((before, now)),
    )
    if course != "failed before the head":
        scene.exchange.on_upstream_head(MESSAGES.head)
    if course == "cut":
        scene.hear(*[MESSAGES.content("and more")] * 2)
    elif course.startswith("failed"):
        scene.exchange.on_upstream_failed(BROKEN)
    elif course in ("left", "read on"):
        scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    scene.exchange.on_upstream_end()
    scene.exchange.on_downstream_finished()
    assert [now for _, now in changes] == states
    assert [before for before, _ in changes] == ["WAITING", *states[:-1]]


# Backpressure


def test_a_full_client_stops_the_provider_until_it_is_drained() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_downstream_full()
    scene.exchange.on_downstream_full()
    scene.clock.advance(2)
    scene.exchange.on_downstream_drained()
    assert scene.up.log == ["end", "pause", "resume"]
    assert paused(scene.exchange) == (1, 2.0)
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
    assert paused(scene.exchange) == (0, 0.0)


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
    assert scene.end is EndReason.RELAY_STOPPED


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


# Editing

LENGTH = [(b"content-type", b"text/event-stream")]


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"stream": CHAT}, None),  # a report may be left out
        ({"stream": CHAT, "asks_usage": False}, 500),
        ({"stream": CHAT, "asks_usage": False, "budget": 5}, None),
        ({"stream": CHAT, "asks_usage": False, "heartbeat": 5.0}, None),
        ({"stream": GEMINI, "heartbeat": 5.0}, 500),
        ({"stream": None, "heartbeat": 5.0}, 500),
    ],
)
def test_a_length_is_kept_where_the_body_stays_as_it_is(options: dict[str, Any], length: int | None) -> None:
    scene = Scene(**options)
    scene.exchange.on_upstream_head(ResponseHead(200, list(LENGTH), content_length=500))
    assert scene.down.heads[0].content_length == length


@pytest.mark.parametrize(
    "head",
    [
        ResponseHead(200, [(b"content-type", b"application/json")], content_length=500),
        ResponseHead(200, [(b"content-type", b"application/x-ndjson")], content_length=500),
        ResponseHead(404, [(b"content-type", b"text/event-stream")], content_length=500),
        ResponseHead(
            200, [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")], content_length=500
        ),
    ],
)
def test_a_length_is_kept_where_nothing_can_be_put_in(head: ResponseHead) -> None:
    scene = Scene(stream=CHAT, asks_usage=False, heartbeat=5.0)
    scene.exchange.on_upstream_head(head)
    scene.hear(b"{")
    assert scene.down.heads[0].content_length == 500


def test_what_the_client_did_not_ask_for_is_left_out() -> None:
    scene = Scene(stream=CHAT)
    scene.exchange.on_upstream_head(CHAT.head)
    scene.hear(*CHAT.events(["a", "b"], 2))
    scene.exchange.on_upstream_end()
    assert scene.down.body == b"".join([*CHAT.opening, CHAT.content("a"), CHAT.content("b"), *CHAT.closing])
    scene.exchange.on_downstream_finished()
    assert (scene.end, scene.account.output) == (EndReason.COMPLETE, 2)


def test_what_was_held_passes_when_the_answer_is_whole() -> None:
    scene = Scene(stream=CHAT)
    scene.exchange.on_upstream_head(CHAT.head)
    scene.hear(CHAT.content("a")[:-1])
    assert scene.down.log == ["head 200"]
    scene.exchange.on_upstream_end()
    assert scene.down.body == CHAT.content("a")[:-1]
    assert scene.down.log[-1] == "end"


def test_the_first_token_is_the_first_content() -> None:
    scene = Scene(stream=MESSAGES)
    scene.exchange.on_upstream_head(MESSAGES.head)
    scene.clock.advance(1)
    scene.hear(*MESSAGES.opening)
    scene.clock.advance(2)
    scene.hear(MESSAGES.content("a"))
    scene.clock.advance(4)
    scene.hear(MESSAGES.content("b"))
    assert scene.exchange.first_byte_at == scene.exchange.started_at + 1
    assert scene.exchange.first_token_at == scene.exchange.started_at + 3


# Signs of life

BEATING = [CHAT, RESPONSES, MESSAGES, COHERE]


def beat_of(stream: Stream) -> bytes:
    beat = account(stream.target).format
    assert beat is not None
    assert beat.heartbeat is not None
    return beat.heartbeat


@pytest.mark.parametrize("stream", BEATING, ids=lambda stream: stream.name)
def test_a_silent_provider_s_client_gets_signs_of_life(stream: Stream) -> None:
    scene = Scene(stream=stream, heartbeat=5.0)
    beat = beat_of(stream)
    scene.exchange.on_upstream_head(stream.head)
    scene.pass_time(1)
    scene.pass_time(4)
    assert scene.down.body == b""
    scene.pass_time(1)
    assert scene.down.body == beat
    scene.pass_time(1)
    scene.pass_time(5)
    scene.hear(stream.content("a"))
    assert scene.down.body == beat + beat + stream.content("a")
    assert scene.exchange.heartbeats == 2


def test_signs_of_life_come_again_and_again() -> None:
    scene = Scene(stream=MESSAGES, heartbeat=5.0)
    scene.exchange.on_upstream_head(MESSAGES.head)
    for _ in range(30):
        scene.pass_time(1)
    assert 4 <= scene.exchange.heartbeats <= 6
    assert scene.down.body == beat_of(MESSAGES) * scene.exchange.heartbeats


def test_a_provider_that_speaks_needs_no_sign_of_life() -> None:
    scene = Scene(stream=MESSAGES, heartbeat=5.0)
    scene.exchange.on_upstream_head(MESSAGES.head)
    for _ in range(10):
        scene.hear(MESSAGES.content("a"))
        scene.pass_time(4)
    assert scene.exchange.heartbeats == 0


@pytest.mark.parametrize("stream", [GEMINI, OLLAMA_CHAT, CONVERSE], ids=lambda stream: stream.name)
def test_formats_without_a_sign_of_life_get_none(stream: Stream) -> None:
    scene = Scene(stream=stream, heartbeat=5.0)
    scene.exchange.on_upstream_head(stream.head)
    scene.hear(stream.content("a"))
    for _ in range(5):
        scene.pass_time(10)
    assert scene.down.body == stream.content("a")
    assert scene.exchange.heartbeats == 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, b"application/json"), (200, b"application/x-ndjson"), (200, b"text/plain"), (500, b"text/event-stream")],
)
def test_only_server_sent_events_get_signs_of_life(status: int, kind: bytes) -> None:
    scene = Scene(stream=CHAT, heartbeat=5.0)
    scene.exchange.on_upstream_head(ResponseHead(status, [(b"content-type", kind)]))
    for _ in range(5):
        scene.pass_time(10)
    assert scene.down.body == b""
    assert scene.exchange.heartbeats == 0


def test_there_is_no_sign_of_life_before_the_head_nor_when_it_is_off() -> None:
    for scene in (Scene(stream=CHAT, heartbeat=5.0), Scene(stream=CHAT)):
        for _ in range(5):
            scene.pass_time(10)
        assert scene.down.log == []
    scene.exchange.on_upstream_head(CHAT.head)
    for _ in range(5):
        scene.pass_time(10)
    assert scene.down.log == ["head 200"]


def test_a_sign_of_life_is_never_put_into_an_event() -> None:
    scene = Scene(stream=CHAT, heartbeat=5.0, asks_usage=False)
    scene.exchange.on_upstream_head(CHAT.head)
    event = CHAT.content("a")
    scene.hear(event[:10])
    for _ in range(5):
        scene.pass_time(10)
    assert scene.down.body == event[:10]
    scene.hear(event[10:])
    scene.pass_time(1)
    scene.pass_time(5)
    assert scene.down.body == event + beat_of(CHAT)


def test_a_sign_of_life_goes_before_an_event_that_is_held() -> None:
    scene = Scene(stream=CHAT, heartbeat=5.0)
    scene.exchange.on_upstream_head(CHAT.head)
    event = CHAT.content("a")
    scene.hear(event[:10])
    scene.pass_time(1)
    scene.pass_time(5)
    scene.hear(event[10:])
    assert scene.down.body == beat_of(CHAT) + event


def test_a_client_that_lags_gets_no_sign_of_life() -> None:
    scene = Scene(stream=MESSAGES, heartbeat=5.0)
    scene.exchange.on_upstream_head(MESSAGES.head)
    scene.hear(MESSAGES.content("a"))
    scene.exchange.on_downstream_full()
    for _ in range(5):
        scene.pass_time(10)
    assert scene.exchange.heartbeats == 0
    scene.exchange.on_downstream_drained()
    scene.pass_time(1)
    scene.pass_time(4)
    assert scene.exchange.heartbeats == 0
    scene.pass_time(1)
    assert scene.exchange.heartbeats == 1


@pytest.mark.parametrize("over", ["last event", "end", "failure", "cut", "client gone"])
def test_nothing_follows_an_end(over: str) -> None:
    scene = Scene(stream=MESSAGES, heartbeat=5.0, budget=1 if over == "cut" else None)
    scene.exchange.on_upstream_head(MESSAGES.head)
    scene.hear(*MESSAGES.opening)
    if over == "last event":
        scene.hear(*MESSAGES.closing)
    elif over == "end":
        scene.exchange.on_upstream_end()
    elif over == "failure":
        scene.exchange.on_upstream_failed(BROKEN)
    elif over == "cut":
        scene.hear(MESSAGES.content("a"), MESSAGES.content("b"))
        assert scene.down.log[-1] == "end"
    else:
        scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    said = list(scene.down.log)
    for _ in range(5):
        scene.pass_time(10)
    assert scene.down.log == said
    assert scene.exchange.heartbeats == 0


def test_signs_of_life_do_not_make_a_silent_provider_alive() -> None:
    deadlines = Deadlines(first_byte=None, idle=20, body=None, total=None)
    scene = Scene(stream=MESSAGES, heartbeat=5.0, deadlines=deadlines)
    scene.exchange.on_upstream_head(MESSAGES.head)
    scene.hear(MESSAGES.content("a"))
    for _ in range(22):
        scene.pass_time(1)
    assert scene.exchange.heartbeats >= 2
    assert scene.end is EndReason.IDLE_TIMEOUT


# Answers that are read on without a client


def abandon(stream: Stream = MESSAGES, **options: Any) -> Scene:
    """A client left after one token."""
    scene = Scene(stream=stream, drain_on_disconnect=True, **options)
    scene.exchange.on_upstream_head(stream.head)
    scene.hear(*stream.opening, stream.content("a"))
    scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    return scene


def gone(scene: Scene) -> None:
    """It is over, and was told once."""
    assert scene.end is EndReason.CLIENT_GONE
    assert scene.observer.ended == [scene.exchange]
    assert scene.abandoned.exchanges == {}
    assert scene.up.log[-1] == "cancel"  # which gives the connection back
    assert "cancel" not in scene.up.log[:-1]


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_an_abandoned_answer_is_counted_to_its_end(stream: Stream) -> None:
    scene = abandon(stream)
    assert scene.exchange.state() == "abandoned"
    assert list(scene.abandoned.exchanges) == [scene.exchange]
    assert scene.observer.ended == []
    assert scene.up.log == ["end"]
    scene.hear(*[stream.content("b")] * 3, *stream.report(77))
    scene.exchange.on_upstream_end()
    gone(scene)
    assert (scene.account.output, count_of(scene.account).is_estimate) == (77, False)


def test_an_abandoned_answer_is_read_however_little_its_client_took() -> None:
    scene = Scene(stream=MESSAGES, drain_on_disconnect=True)
    scene.exchange.on_upstream_head(MESSAGES.head)
    scene.hear(MESSAGES.content("a"))
    scene.exchange.on_downstream_full()
    assert scene.up.log[-1] == "pause"
    scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    assert scene.up.log[-1] == "resume"


def test_an_abandoned_answer_has_its_time() -> None:
    scene = abandon(abandoned=Abandoned(30.0, 10_000))
    scene.clock.advance(29)
    list(scene.abandoned.sweep(scene.clock))
    assert scene.end is None
    scene.clock.advance(1)
    list(scene.abandoned.sweep(scene.clock))
    gone(scene)
    assert count_of(scene.account).is_estimate


def test_an_abandoned_answer_has_its_size_from_then_on() -> None:
    scene = abandon(abandoned=Abandoned(30.0, 100))
    assert scene.exchange.bytes_down > 100
    scene.hear(b"x" * 99)
    scene.pass_time(1)
    assert scene.end is None
    scene.hear(b"x")
    scene.pass_time(1)
    gone(scene)


def test_a_provider_that_fails_after_its_client_left() -> None:
    scene = abandon()
    scene.exchange.on_upstream_failed(BROKEN)
    gone(scene)
    assert scene.exchange.error is BROKEN
    assert count_of(scene.account).is_estimate


def test_deadlines_hold_after_the_client_left() -> None:
    scene = abandon(deadlines=Deadlines(first_byte=None, idle=5, body=None, total=None))
    scene.pass_time(1)
    scene.pass_time(5)
    gone(scene)


def test_going_down_ends_abandoned_answers() -> None:
    scene = abandon()
    scene.abandoned.close()
    gone(scene)


def test_a_budget_ends_an_abandoned_answer() -> None:
    scene = abandon(budget=3)
    scene.hear(*[MESSAGES.content("and more")] * 10)
    gone(scene)
    assert scene.account.cut_at == scene.account.output == 3


def test_nobody_is_shown_signs_of_life_who_is_gone() -> None:
    scene = abandon(heartbeat=5.0)
    for _ in range(5):
        scene.pass_time(10)
    assert scene.exchange.heartbeats == 0


@pytest.mark.parametrize("case", ["not wanted", "stalled", "no answer yet", "upload under way", "flushing"])
def test_other_answers_are_not_read_on(case: str) -> None:
    scene = Scene(stream=MESSAGES, drain_on_disconnect=case not in ("not wanted", "no answer yet"), has_body=True)
    if case != "upload under way":
        scene.exchange.on_downstream_end()
    if case != "no answer yet":
        scene.exchange.on_upstream_head(MESSAGES.head)
    if case == "flushing":
        scene.exchange.on_upstream_end()
    reason = EndReason.CLIENT_STALLED if case == "stalled" else EndReason.CLIENT_GONE
    scene.exchange.on_downstream_reset(reason)
    assert scene.end is reason
    assert scene.up.log[-1] == "cancel"
    assert scene.abandoned.exchanges == {}


# The cut


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_a_budget_ends_the_answer_as_the_format_does(stream: Stream) -> None:
    scene = Scene(stream=stream, budget=5)
    scene.exchange.on_upstream_head(stream.head)
    texts = [f"word {number} " for number in range(30)]
    scene.hear(*map(stream.content, texts))
    assert scene.down.log[-1] == "end"
    assert scene.up.log[-1] == "cancel"
    assert scene.exchange.chunks_down < 30
    passed = b"".join(stream.content(text) for text in texts[: scene.exchange.chunks_down - 1])
    assert scene.down.body.startswith(passed)
    assert scene.down.body != passed
    assert stream.content(texts[scene.exchange.chunks_down - 1]) not in scene.down.body
    assert scene.observer.ended == []
    scene.exchange.on_downstream_finished()
    assert (scene.end, scene.account.output) == (EndReason.BUDGET, 5)
    assert scene.exchange.error is None


def test_a_client_that_leaves_during_the_last_flush_of_a_cut_is_gone() -> None:
    scene = Scene(stream=MESSAGES, budget=1)
    scene.exchange.on_upstream_head(MESSAGES.head)
    scene.hear(*[MESSAGES.content("and more")] * 2)
    assert scene.down.log[-1] == "end"
    scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    assert scene.end is EndReason.CLIENT_GONE
    assert scene.observer.ended == [scene.exchange]


# Failures in mid-stream


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_a_failure_in_mid_stream_is_told_before_the_end_that_is_none(stream: Stream) -> None:
    scene = Scene(stream=stream)
    scene.exchange.on_upstream_head(stream.head)
    scene.hear(*stream.opening, stream.content("a"))
    passed = scene.down.body
    scene.exchange.on_upstream_failed(BROKEN)
    assert scene.down.body.startswith(passed)
    assert BROKEN.message.encode() in scene.down.body[len(passed) :]
    assert scene.down.log[-1] == "broken"
    assert "end" not in scene.down.log
    assert scene.end is EndReason.UPSTREAM_FAILED


@pytest.mark.parametrize("passed", ["half an event", "all events"])
def test_a_failure_that_nothing_can_tell_just_breaks_the_answer(passed: str) -> None:
    scene = Scene(stream=CHAT, asks_usage=False)
    scene.exchange.on_upstream_head(CHAT.head)
    if passed == "half an event":
        scene.hear(CHAT.content("a")[:10])
    else:
        scene.hear(CHAT.content("a"), *CHAT.closing)
    before = scene.down.body
    scene.exchange.on_upstream_failed(BROKEN)
    assert scene.down.body == before
    assert scene.down.log[-1] == "broken"


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_an_error_before_the_head_has_the_format_s_body(stream: Stream) -> None:
    scene = Scene(stream=stream)
    scene.exchange.on_upstream_failed(BROKEN)
    assert scene.down.body == scene.account.error(BROKEN)
    assert scene.down.heads[0].content_length == len(scene.down.body)


# Tenants


class Limited:
    """An exchange of a tenant with a quota, over a dispatch and a provider that a test speaks for. The lease is 100
    tokens; from the answer's head on, the limiter answers when it is told to."""

    def __init__(
        self,
        *,
        left: int = 1_000_000,
        key: bytes | None = KEY,
        delayed: bool = False,
        stream: Stream = MESSAGES,
        models: tuple[str, ...] = (),
    ) -> None:
        self.limiter = FakeLimiter(left=left, delayed=delayed)
        self.observer = RecordingObserver()
        self.down = RecordingDownstream()
        self.connector = RecordingConnector()
        self.stream = stream
        acme = tenant(limits=TenantLimits(tokens_per_day=10_000), models=models)
        request = asking(key=key, target=stream.target.encode())
        self.account = account(stream.target, quota=quota(acme, limiter=self.limiter))
        context = exchange_context(observer=self.observer, heartbeat=5.0)
        deadlines = Deadlines(first_byte=20, idle=20, body=None, total=None)
        self.exchange = Exchange(request, self.down, context, request_id=b"id-1", account=self.account)
        asked = routing((target(self.connector, deadlines=deadlines),))
        dispatcher = Dispatcher(request, asked, self.exchange, request_id=b"id-1", account=self.account)
        self.exchange.start(dispatcher)
        self.exchange.on_downstream_data(orjson.dumps(stream.body))
        self.exchange.on_downstream_end()

    @property
    def up(self) -> RecordingUpstream:
        return self.connector.streams[0]

    @property
    def provider(self) -> UpstreamEvents:
        return self.connector.events[0]

    def answer(self, *fields: tuple[bytes, bytes]) -> None:
        self.limiter.delayed = True
        self.provider.on_upstream_head(ResponseHead(200, [*self.stream.head.headers, *fields]))

    def hear(self, *events: bytes) -> None:
        for event in events:
            if not self.exchange.is_over:
                self.exchange.on_upstream_data(event)

    def emit_until_it_waits(self) -> list[bytes]:
        """The events that came, the last of which waits."""
        came: list[bytes] = []
        for number in range(500):
            came.append(self.stream.content(f"word {number} "))
            self.hear(came[-1])
            if self.exchange.state() == "waiting_for_tokens":
                return came
        raise AssertionError("it never waited")


def waiting(**options: Any) -> tuple[Limited, list[bytes]]:
    scene = Limited(**options)
    scene.answer()
    return scene, scene.emit_until_it_waits()


def test_the_relays_own_key_does_not_reach_the_provider() -> None:
    scene = Limited()
    [request] = scene.connector.requests
    assert not [name for name, value in request.headers if KEY in value]
    assert not [name for name, _ in request.headers if name in (b"authorization", b"x-api-key")]


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"key": None}, 401, "missing_api_key"),
        ({"key": b"wrong"}, 401, "invalid_api_key"),
        ({"models": ("gpt-*",)}, 404, "model_not_found"),
    ],
)
def test_who_may_not_start_reaches_no_provider(options: dict[str, Any], status: int, code: str) -> None:
    scene = Limited(stream=CHAT, **options)
    assert scene.down.heads[0].status == status
    assert orjson.loads(scene.down.body)["error"]["code"] == code
    assert scene.connector.requests == []
    scene.exchange.on_downstream_finished()
    assert scene.exchange.end_reason is EndReason.LIMITED
    assert scene.limiter.log == []


def test_a_request_goes_out_when_the_limiter_has_let_it() -> None:
    scene = Limited(delayed=True)
    assert scene.connector.requests == []
    assert scene.exchange.state() == "waiting"
    scene.limiter.answer()
    assert len(scene.connector.requests) == 1


def test_a_client_that_leaves_before_the_decision_gives_back_what_it_brings() -> None:
    scene = Limited(delayed=True)
    scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    scene.limiter.answer()
    assert scene.limiter.settled == [0]
    assert scene.connector.requests == []
    assert scene.down.log == []


def test_a_providers_limits_are_replaced_by_the_tenants() -> None:
    scene = Limited()
    scene.answer((b"anthropic-ratelimit-tokens-remaining", b"5"), (b"x-other", b"1"))
    headers = scene.down.heads[0].headers
    assert (b"anthropic-ratelimit-tokens-remaining", b"5") not in headers
    assert (b"anthropic-ratelimit-tokens-limit", b"10000") in headers
    assert (b"x-other", b"1") in headers


def test_a_stream_that_waits_for_tokens_stops_its_provider_until_they_come() -> None:
    scene, came = waiting()
    assert scene.up.log[-1] == "pause"
    assert scene.exchange.record().slow is Holder.RELAY
    assert scene.down.body == b"".join(came[:-1])
    scene.hear(MESSAGES.content("late"))
    assert scene.down.body == b"".join(came[:-1])
    scene.limiter.answer()
    assert scene.down.body == b"".join(came) + MESSAGES.content("late")
    assert scene.up.log[-1] == "resume"
    assert scene.exchange.state() == "streaming"
    assert scene.exchange.record().pauses == 1


def test_a_client_that_is_full_keeps_the_provider_stopped_when_tokens_come() -> None:
    scene, _ = waiting()
    scene.exchange.on_downstream_full()
    scene.limiter.answer()
    assert scene.up.log[-1] == "pause"
    scene.exchange.on_downstream_drained()
    assert scene.up.log[-1] == "resume"


def test_the_end_comes_behind_events_that_waited() -> None:
    scene, came = waiting()
    report = MESSAGES.report(120)
    scene.hear(*report)
    scene.provider.on_upstream_end()
    assert "end" not in scene.down.log
    assert scene.observer.ended == []
    scene.limiter.answer()
    assert scene.down.body == b"".join([*came, *report])
    assert scene.down.log[-1] == "end"
    scene.exchange.on_downstream_finished()
    assert scene.exchange.end_reason is EndReason.COMPLETE
    assert scene.limiter.settled == [scene.account.input + 120]


def test_a_provider_that_breaks_off_while_events_wait_breaks_the_answer() -> None:
    scene, came = waiting()
    scene.provider.on_upstream_failed(BROKEN)
    assert scene.down.log[-1] == "broken"
    said = list(scene.down.log)
    scene.limiter.answer()
    assert scene.down.log == said
    assert came[-1] not in scene.down.body
    assert scene.exchange.end_reason is EndReason.UPSTREAM_FAILED


@pytest.mark.parametrize("whole", [False, True])
def test_a_client_that_leaves_while_events_wait(whole: bool) -> None:
    scene, _ = waiting()
    if whole:
        scene.provider.on_upstream_end()
    said = list(scene.down.log)
    scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    assert scene.exchange.end_reason is EndReason.CLIENT_GONE
    assert scene.up.log[-1] == "cancel"
    while scene.limiter.waiting:
        scene.limiter.answer()
    assert scene.down.log == said
    assert len(scene.limiter.settled) == len(scene.observer.ended) == 1


@pytest.mark.parametrize("whole", [False, True])
def test_a_stream_whose_quota_is_used_up_is_cut(whole: bool) -> None:
    """Whether or not the provider was done by then."""
    scene = Limited(left=1000)
    scene.limiter.left = 0
    scene.answer()
    came = scene.emit_until_it_waits()
    if whole:
        scene.provider.on_upstream_end()
    scene.limiter.answer()
    assert came[-1] not in scene.down.body
    assert b"max_tokens" in scene.down.body
    assert scene.down.log[-1] == "end"
    assert scene.down.log.count("end") == 1
    assert scene.up.log[-1] == "cancel"
    scene.exchange.on_downstream_finished()
    assert scene.exchange.end_reason is EndReason.QUOTA
    [used] = scene.limiter.settled
    assert used == scene.account.input + scene.account.output <= 100 + scene.account.input


def test_no_sign_of_life_and_no_deadline_comes_between_a_wait_and_its_end() -> None:
    """Time stands still for the provider: it is the relay that holds things up."""
    scene, came = waiting()
    for now in range(2000, 2100, 10):
        scene.exchange.sweep(now)
    assert scene.down.body == b"".join(came[:-1])
    assert scene.exchange.end_reason is None
    while scene.limiter.waiting:
        scene.limiter.answer()
    for now in range(2100, 2200, 10):
        scene.exchange.sweep(now)
    assert scene.exchange.end_reason is EndReason.IDLE_TIMEOUT


def test_a_stream_of_a_limiter_that_answers_at_once_never_waits() -> None:
    scene = Limited()
    scene.answer()
    scene.limiter.delayed = False
    events = [MESSAGES.content(f"word {number} ") for number in range(300)]
    for event in events:
        scene.hear(event)
        assert scene.exchange.state() == "streaming"
    assert scene.down.body == b"".join(events)
    assert "pause" not in scene.up.log


def test_a_stream_that_is_cut_ends_at_once_and_so_does_its_provider() -> None:
    scene = Scene()
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"data: {}\n\n")
    scene.exchange.cut(OUT_OF_MEMORY)
    assert scene.down.log[-1] == "cut memory"
    assert scene.up.log[-1] == "cancel"
    assert scene.end is EndReason.MEMORY


def test_a_request_that_is_cut_before_its_answer_is_told_why() -> None:
    scene = Scene(has_body=True)
    scene.exchange.on_downstream_data(b"some")
    scene.exchange.cut(OUT_OF_MEMORY)
    assert scene.down.heads[0].status == 503
    assert b"FLOW_MEMORY" in scene.down.body
    assert scene.up.log[-1] == "cancel"
    scene.exchange.on_downstream_finished()
    assert scene.end is EndReason.MEMORY
