"""Which provider is asked, again or another one, and what of it the client's side hears."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserver.errors import EndReason, Party, RelayError, upstream_error
from flowserver.http.messages import RequestHead, ResponseHead, find
from flowserver.relay.failures import retry_after
from flowserver.relay.interfaces import UpstreamEvents
from flowserver.routing.circuit_breaker import BreakerState, CircuitBreaker
from flowserver.routing.dispatcher import Dispatcher, RetryPolicy
from flowserver.routing.routes import Route
from flowserver.routing.upstream_host import UpstreamHost

from ..support.clock import FakeClock
from ..support.recording import RecordingUpstream, RecordingUpstreamEvents, account, routing, target

UNREACHABLE = upstream_error("connect_failed", "Not there.", EndReason.CONNECT_FAILED, not_processed=True)
REFUSED = upstream_error("upstream_failed", "Refused.", EndReason.UPSTREAM_FAILED, not_processed=True)
BROKEN = upstream_error("upstream_failed", "Broke off.", EndReason.UPSTREAM_FAILED)
NO_CONNECTION = RelayError(503, "no_capacity", "All in use.", Party.RELAY, EndReason.REFUSED, not_processed=True)
TIMEOUT = upstream_error("first_byte_timeout", "Silent.", EndReason.FIRST_BYTE_TIMEOUT, status=504)


class Provider:
    """A `Connector` whose streams a test speaks for."""

    def __init__(self) -> None:
        self.requests: list[RequestHead] = []
        self.streams: list[RecordingUpstream] = []
        self.events: list[UpstreamEvents] = []

    def open(self, request: RequestHead, events: UpstreamEvents) -> RecordingUpstream:
        self.requests.append(request)
        self.streams.append(RecordingUpstream())
        self.events.append(events)
        return self.streams[-1]


class Events(RecordingUpstreamEvents):
    """As the exchange does: the end and a failure cancel the dispatch."""

    dispatcher: Dispatcher

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def on_target(self, target: UpstreamHost, now: float) -> None:
        self.targets.append(target.name)

    def on_more_tokens(self) -> None:
        raise AssertionError("there are no limits here")

    def on_upstream_end(self) -> None:
        super().on_upstream_end()
        self.dispatcher.cancel()

    def on_upstream_failed(self, error: RelayError) -> None:
        super().on_upstream_failed(error)
        self.dispatcher.cancel(error)


class Scene:
    def __init__(
        self,
        *tiers: tuple[str, ...],
        attempts: int = 3,
        time: float = 10.0,
        replay: int = 100,
        unanswered: bool = True,
        failures: int = 5,
        routes: dict[str, tuple[str, ...]] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = FakeClock()
        names = [name for tier in (tiers or (("a",),)) for name in tier]
        self.upload = Held()
        self.providers = {name: Provider() for name in names}
        self.targets = {
            name: target(
                self.providers[name], name=name, health=CircuitBreaker(failures=failures, cooldown=10.0), **settings
            )
            for name in names
        }
        found = tuple(tuple(self.targets[name] for name in tier) for tier in (tiers or (("a",),)))
        self.context = routing(
            *found,
            clock=self.clock,
            policy=RetryPolicy(attempts, time, replay, unanswered),
            routes=[Route("*", models, ((self.targets[name],),)) for name, models in routes.items()]
            if routes is not None
            else None,
        )

    def ask(
        self, body: bytes | None = None, *, whole: bool = True, path: str = "/v1/models"
    ) -> tuple[Dispatcher, Events]:
        """`path` is what the account goes by: no API that is counted."""
        events = Events()
        request = RequestHead(b"POST", b"/v1/chat", [(b"host", b"relay")], has_body=body is not None)
        events.dispatcher = dispatcher = Dispatcher(
            request, b"id-1", self.context, events, account=account(path), upload=self.upload
        )
        dispatcher.start()
        if body:
            dispatcher.send_data(body)
        if whole:
            dispatcher.send_end()
        return dispatcher, events

    def fail(self, name: str, error: RelayError) -> None:
        self.providers[name].events[-1].on_upstream_failed(error)

    def answer(self, name: str, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        self.providers[name].events[-1].on_upstream_head(ResponseHead(status, list(headers)))

    def asked(self, name: str) -> int:
        return len(self.providers[name].requests)

    @property
    def open(self) -> int:
        return sum(each.open for each in self.targets.values())


# The plain course


def test_an_answer_passes_and_the_place_is_given_back_once() -> None:
    scene = Scene()
    dispatcher, events = scene.ask(b"hello")
    assert scene.open == 1
    scene.answer("a")
    dispatcher.on_upstream_data(b"x")
    dispatcher.on_upstream_end()
    assert events.log == ["head 200", "data", "end"]
    assert scene.providers["a"].streams[0].log == ["data 5", "end", "cancel"]
    dispatcher.cancel()
    assert (scene.open, dispatcher.attempts, dispatcher.upstream) == (0, 1, "a")
    assert (scene.targets["a"].started, scene.targets["a"].answers) == (1, 1)


# Trying again


@pytest.mark.parametrize("error", [UNREACHABLE, REFUSED, NO_CONNECTION])
def test_what_was_not_begun_is_tried_elsewhere_with_its_whole_body(error: RelayError) -> None:
    scene = Scene(("a",), ("b",))
    dispatcher, events = scene.ask(b"hello", whole=False)
    dispatcher.send_data(b" world")
    scene.fail("a", error)
    assert scene.providers["b"].streams[0].body == b"hello world"
    dispatcher.send_data(b"!")
    dispatcher.send_end()
    assert scene.providers["b"].streams[0].log == ["data 11", "data 1", "end"]
    scene.answer("b")
    assert events.log == ["head 200"]
    assert events.targets == ["a", "b"]
    assert (scene.targets["a"].open, scene.targets["b"].open, scene.targets["b"].fallbacks) == (0, 1, 1)


def test_a_provider_that_broke_off_before_its_answer_leads_to_another_one_only() -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask(b"hello")
    scene.fail("a", BROKEN)
    assert scene.providers["b"].streams[0].body == b"hello"
    scene.fail("b", BROKEN)
    assert events.errors == [BROKEN]
    assert (scene.asked("a"), scene.asked("b"), scene.open) == (1, 1, 0)


@pytest.mark.parametrize(("error", "unanswered"), [(BROKEN, False), (TIMEOUT, False), (TIMEOUT, True)])
def test_what_may_have_been_begun_is_not_tried_again(error: RelayError, unanswered: bool) -> None:
    scene = Scene(("a",), ("b",), unanswered=unanswered)
    _, events = scene.ask()
    scene.fail("a", error)
    assert events.errors == [error]
    assert scene.asked("b") == 0
    assert scene.open == 0


def test_nothing_is_tried_again_behind_the_head() -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask()
    scene.answer("a")
    scene.fail("a", REFUSED)
    assert events.log == ["head 200", "failed 502"]
    assert scene.asked("b") == 0


def test_a_refused_request_is_tried_again_at_the_only_provider_and_a_refused_connect_is_not() -> None:
    scene = Scene()
    _, events = scene.ask()
    scene.fail("a", REFUSED)
    assert scene.asked("a") == 2
    assert scene.targets["a"].retries == 1
    scene.fail("a", UNREACHABLE)
    assert events.errors == [UNREACHABLE]
    assert scene.open == 0


def test_attempts_are_bounded() -> None:
    scene = Scene(("a", "b", "c"), attempts=2)
    _, events = scene.ask()
    for name in list(scene.providers):
        if scene.asked(name):
            scene.fail(name, UNREACHABLE)
    for name in list(scene.providers):
        if scene.asked(name) and not events.errors:
            scene.fail(name, UNREACHABLE)
    assert events.errors == [UNREACHABLE]
    assert sum(scene.asked(name) for name in scene.providers) == 2


def test_time_is_bounded() -> None:
    scene = Scene(("a",), ("b",), time=10.0)
    _, events = scene.ask()
    scene.clock.advance(10)
    scene.fail("a", UNREACHABLE)
    assert events.errors == [UNREACHABLE]


def test_a_body_over_the_bound_is_not_sent_twice() -> None:
    scene = Scene(("a",), ("b",), replay=100)
    dispatcher, events = scene.ask(b"x" * 60, whole=False)
    dispatcher.send_data(b"y" * 40)
    dispatcher.send_data(b"z")
    scene.fail("a", UNREACHABLE)
    assert events.errors == [UNREACHABLE]
    assert scene.asked("b") == 0
    assert not dispatcher._body.pieces


def test_a_body_is_not_kept_behind_the_head() -> None:
    scene = Scene()
    dispatcher, _ = scene.ask(b"x", whole=False)
    scene.answer("a")
    dispatcher.send_data(b"y")
    assert not dispatcher._body.pieces
    assert scene.providers["a"].streams[0].body == b"xy"


# Statuses that say: not now


@pytest.mark.parametrize("status", [429, 502, 503, 504, 529])
def test_an_unwell_provider_s_answer_sends_the_request_elsewhere(status: int) -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask(b"hello")
    scene.answer("a", status)
    assert scene.providers["a"].streams[0].log[-1] == "cancel"
    assert scene.providers["b"].streams[0].body == b"hello"
    scene.answer("b")
    assert events.log == ["head 200"]
    assert scene.targets["a"].failures == {f"status_{status}": 1}


@pytest.mark.parametrize("status", [400, 401, 404, 500, 501])
def test_other_answers_pass(status: int) -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask()
    scene.answer("a", status)
    assert events.log == [f"head {status}"]


def test_with_nobody_else_the_answer_itself_passes() -> None:
    scene = Scene()
    _, events = scene.ask()
    scene.answer("a", 503)
    assert events.log == ["head 503"]
    assert scene.asked("a") == 1


def test_the_provider_s_own_wait_is_obeyed() -> None:
    scene = Scene()
    dispatcher, events = scene.ask(b"hello")
    scene.answer("a", 429, (b"retry-after", b"3"))
    dispatcher.sweep(scene.clock.advance(2.9))
    assert scene.asked("a") == 1
    dispatcher.sweep(scene.clock.advance(0.2))
    assert scene.asked("a") == 2
    assert scene.providers["a"].streams[1].body == b"hello"
    scene.answer("a")
    assert events.log == ["head 200"]


def test_a_wait_beyond_the_time_for_retries_is_the_client_s_own() -> None:
    scene = Scene(time=10.0)
    _, events = scene.ask()
    scene.answer("a", 429, (b"retry-after", b"10"))
    assert events.log == ["head 429"]


def test_a_client_that_leaves_during_the_wait_is_not_asked_for_again() -> None:
    scene = Scene()
    dispatcher, events = scene.ask()
    scene.answer("a", 429, (b"retry-after", b"3"))
    dispatcher.cancel()
    dispatcher.sweep(scene.clock.advance(5))
    assert scene.asked("a") == 1
    assert events.log == []
    assert scene.open == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"0.5")], 0.5),
        ([(b"retry-after", b"7"), (b"retry-after-ms", b"1500")], 1.5),
        ([(b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT")], 9.0),
        ([(b"retry-after", b"Friday, 31-Dec-99 23:59:59 GMT")], 9.0),
        ([(b"retry-after", b"Fri, 31 Dec 1999 23:00:00 GMT")], 0.0),
        ([(b"retry-after", b"Fri, 99 Dec 1999 23:59:59 GMT")], None),
        ([(b"retry-after", b"soon" * 100)], None),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"1e9")], None),
        ([], None),
    ],
)
def test_waits_are_read(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    assert retry_after(ResponseHead(429, headers), lambda: 946_684_790.0) == seconds


# Routes and models


def body(model: object) -> bytes:
    return orjson.dumps({"messages": [], "model": model, "stream": True})


def test_the_body_tells_the_model_and_the_model_the_provider() -> None:
    scene = Scene(("a", "b"), routes={"a": ("gpt-*",), "b": ()})
    dispatcher, _ = scene.ask(body("gpt-4o")[:10], whole=False)
    dispatcher.send_data(body("gpt-4o")[10:])
    assert scene.asked("a") == 0
    dispatcher.send_end()
    assert scene.providers["a"].streams[0].body == body("gpt-4o")
    scene.ask(body("mistral"))
    assert scene.asked("b") == 1


@pytest.mark.parametrize("said", [b"", b"not json", b"[]", b"3", b"null", b'{"model": 3}', b'{"x": 1}', b"\xff" * 10])
def test_a_body_that_tells_no_model_goes_where_any_model_may_go(said: bytes) -> None:
    scene = Scene(("a", "b"), routes={"a": ("*",), "b": ()})
    scene.ask(said)
    assert (scene.asked("a"), scene.asked("b")) == (0, 1)
    assert scene.providers["b"].streams[0].body == said


def test_a_body_too_large_to_be_sent_again_tells_its_model_too() -> None:
    scene = Scene(("a", "b"), routes={"a": ("gpt-*",), "b": ()}, replay=50)
    large = orjson.dumps({"messages": ["x" * 500], "model": "gpt-4o"})
    dispatcher, events = scene.ask(large[:300], whole=False)
    assert (scene.asked("a"), scene.asked("b")) == (0, 0)
    dispatcher.send_data(large[300:])
    dispatcher.send_end()
    assert scene.providers["a"].streams[0].body == large
    assert events.log == []


def test_without_a_route_the_client_is_told_and_its_upload_is_not_stopped() -> None:
    scene = Scene(("a",), routes={"a": ("gpt-*",)}, replay=50)
    _, events = scene.ask(body("mistral"))
    assert events.log == ["failed 404"]
    assert "mistral" in events.errors[0].message
    dispatcher, events = scene.ask(b"x" * 51, whole=False)
    assert events.log == []
    dispatcher.send_end()
    assert events.log == ["failed 400"]


def test_a_request_without_a_body_goes_to_the_first_route_of_its_path() -> None:
    scene = Scene(("a", "b"), routes={"a": ("gpt-*",), "b": ()})
    scene.ask()
    assert (scene.asked("a"), scene.asked("b")) == (1, 0)


def test_a_model_is_renamed_for_the_provider_that_calls_it_otherwise() -> None:
    scene = Scene(("a",), models={"gpt-4o": "prod"})
    scene.ask(body("gpt-4o"))
    scene.ask(body("gpt-3"))
    renamed, same = scene.providers["a"].streams
    assert orjson.loads(renamed.body) == {"messages": [], "model": "prod", "stream": True}
    assert scene.providers["a"].requests[0].content_length == len(renamed.body)
    assert same.body == body("gpt-3")


def test_a_renamed_model_has_its_first_name_again_at_the_next_provider() -> None:
    clock = FakeClock()
    first, second = Provider(), Provider()
    tiers = (target(first, name="a", models={"gpt-4o": "prod"}),), (target(second, name="b"),)
    events = Events()
    request = RequestHead(b"POST", b"/v1/chat", [], has_body=True)
    events.dispatcher = Dispatcher(request, b"id-1", routing(*tiers, clock=clock), events, account=account())
    events.dispatcher.start()
    events.dispatcher.send_data(body("gpt-4o"))
    events.dispatcher.send_end()
    first.events[0].on_upstream_failed(UNREACHABLE)
    assert second.streams[0].body == body("gpt-4o")


def test_headers_of_the_provider_take_the_place_of_the_client_s() -> None:
    scene = Scene(headers=[(b"x-team", b"search")], api_key=b"sk")
    scene.ask()
    headers = scene.providers["a"].requests[0].headers
    assert find(headers, b"x-team") == b"search"
    assert find(headers, b"authorization") == b"Bearer sk"


# Gates


def test_a_failed_attempt_that_had_stopped_the_upload_does_not_keep_it_stopped() -> None:
    scene = Scene(("a",), ("b",))
    _, events = scene.ask(b"hello", whole=False)
    scene.providers["a"].events[0].on_upstream_full()
    scene.fail("a", UNREACHABLE)
    assert events.log == ["full", "drained"]


def test_a_body_over_the_bound_waits_for_a_place_and_goes_on_with_it() -> None:
    scene = Scene(max_concurrent=1, queue=1, replay=100)
    first, _ = scene.ask()
    second, events = scene.ask(b"x" * 100, whole=False)
    assert events.log == []
    second.send_data(b"y")
    assert events.log == ["full"]
    first.cancel()
    assert scene.providers["a"].streams[1].body == b"x" * 100 + b"y"
    assert events.log == ["full", "drained"]


class Held:
    """An `UploadCount` that a test reads."""

    def __init__(self) -> None:
        self.held = 0
        self.upload_waits = False
        self.overdue = False

    def hold_upload(self, size: int) -> None:
        self.held += size

    def end_upload(self) -> None:
        self.held = 0

    def upload_is_overdue(self, now: float) -> bool:
        return self.overdue


def test_what_is_held_of_a_body_counts_until_it_is_whole() -> None:
    scene = Scene(routes={"a": ("gpt-*",)})
    dispatcher, _ = scene.ask(body("gpt-4o")[:10], whole=False)
    assert scene.upload.held == 10
    dispatcher.send_data(body("gpt-4o")[10:])
    dispatcher.send_end()
    assert scene.upload.held == 0
    assert scene.asked("a") == 1


@pytest.mark.parametrize("ends", ["cancel", "fail", "overdue"])
def test_what_was_held_does_not_count_when_it_is_over(ends: str) -> None:
    scene = Scene(routes={"a": ("gpt-*",)})
    dispatcher, events = scene.ask(body("gpt-4o")[:10], whole=False)
    if ends == "cancel":
        dispatcher.cancel()
    elif ends == "fail":
        dispatcher.send_data(b"}}}")
        dispatcher.send_end()
    else:
        scene.upload.overdue = True
        dispatcher.sweep(scene.clock.now)
        assert [error.code for error in events.errors] == ["uploads_full"]
    assert scene.upload.held == 0


def test_a_copy_to_be_sent_again_counts_and_is_given_up_rather_than_to_wait() -> None:
    scene = Scene(("a",), ("b",), replay=1000)
    dispatcher, events = scene.ask(b"hello", whole=False)
    assert scene.upload.held == 5
    scene.upload.upload_waits = True
    dispatcher.send_data(b"x")
    assert scene.upload.held == 0
    scene.upload.upload_waits = False
    dispatcher.send_data(b"y")
    assert scene.upload.held == 0
    assert scene.providers["a"].streams[0].body == b"helloxy"
    scene.fail("a", BROKEN)
    assert events.log == ["failed 502"]
    assert scene.asked("b") == 0


def test_a_pause_of_the_answer_holds_for_the_next_attempt() -> None:
    scene = Scene(("a",), ("b",))
    dispatcher, _ = scene.ask()
    dispatcher.pause_reading()
    scene.fail("a", UNREACHABLE)
    assert scene.providers["b"].streams[0].log == ["pause", "end"]
    dispatcher.resume_reading()
    assert scene.providers["b"].streams[0].log[-1] == "resume"


# Places


def test_requests_wait_for_a_place_in_their_order() -> None:
    scene = Scene(max_concurrent=1, queue=2)
    first, _ = scene.ask(b"1")
    second, _ = scene.ask(b"2")
    third, _ = scene.ask(b"3")
    _, refused = scene.ask(b"4")
    assert refused.log == ["failed 503"]
    assert refused.errors[0].retry_after == 1
    scene.clock.advance(2)
    first.cancel()
    assert [stream.body for stream in scene.providers["a"].streams] == [b"1", b"2"]
    second.cancel()
    third.cancel()
    assert scene.open == 0
    assert scene.targets["a"].queued_seconds == 4.0


def test_who_is_asked_again_without_the_question_for_a_report_keeps_its_place() -> None:
    scene = Scene(max_concurrent=1, queue=1, failures=1)
    body = b'{"model":"m","stream":true}'
    _, events = scene.ask(body, path="/v1/chat/completions")
    _, waiting = scene.ask(b"2")
    scene.answer("a", 400)
    assert [stream.body for stream in scene.providers["a"].streams] == [
        body[:-1] + b',"stream_options":{"include_usage":true}}',
        body,
    ]
    assert scene.providers["a"].streams[0].log[-1] == "cancel"
    scene.answer("a")
    assert (events.log, waiting.log) == (["head 200"], [])
    assert (scene.open, scene.targets["a"].waiting, scene.targets["a"].retries) == (1, 1, 1)


def test_a_probe_that_is_asked_again_without_the_question_for_a_report_closes_the_breaker() -> None:
    scene = Scene(failures=1)
    scene.ask()
    scene.fail("a", UNREACHABLE)
    scene.clock.advance(10)
    scene.ask(b'{"model":"m","stream":true}', path="/v1/chat/completions")
    scene.answer("a", 400)
    assert scene.targets["a"].health.state(scene.clock()) is BreakerState.CLOSED
    scene.fail("a", BROKEN)
    assert scene.targets["a"].health.state(scene.clock()) is BreakerState.OPEN
    assert scene.open == 0


def test_who_leaves_the_queue_is_passed_over() -> None:
    scene = Scene(max_concurrent=1, queue=2)
    first, _ = scene.ask(b"1")
    second, events = scene.ask(b"2")
    scene.ask(b"3")
    second.cancel()
    first.cancel()
    assert [stream.body for stream in scene.providers["a"].streams] == [b"1", b"3"]
    second.sweep(scene.clock.advance(100))
    assert events.log == []


def test_the_wait_has_its_end() -> None:
    scene = Scene(max_concurrent=1, queue=1, queue_timeout=5.0)
    first, _ = scene.ask()
    second, events = scene.ask()
    second.sweep(scene.clock.advance(4.9))
    assert events.log == []
    second.sweep(scene.clock.advance(0.1))
    assert events.log == ["failed 503"]
    first.cancel()
    assert scene.open == 0
    assert scene.asked("a") == 1


def test_who_waited_in_vain_goes_on_to_the_next_in_the_order() -> None:
    scene = Scene(("a",), ("b",), max_concurrent=1, queue=1, queue_timeout=5.0)
    scene.ask()
    second, events = scene.ask()
    second.sweep(scene.clock.advance(5.0))
    assert events.targets == ["b"]
    scene.answer("b")
    assert events.log == ["head 200"]
    assert (scene.open, scene.targets["a"].waiting) == (2, 0)


def test_a_full_provider_is_passed_over_for_the_next_in_the_order() -> None:
    scene = Scene(("a",), ("b",), max_concurrent=1)
    scene.ask()
    scene.ask()
    assert (scene.asked("a"), scene.asked("b")) == (1, 1)


# The breaker


def test_a_broken_provider_is_left_alone_and_one_probe_brings_it_back() -> None:
    scene = Scene(failures=2)
    for _ in range(2):
        scene.ask()
        scene.fail("a", replace(UNREACHABLE))  # each a failure of its own
    _, refused = scene.ask()
    assert refused.errors[0].status == 503
    assert refused.errors[0].retry_after == 10
    scene.clock.advance(10)
    scene.ask()
    _, refused = scene.ask()
    assert refused.log == ["failed 503"]
    assert scene.asked("a") == 3
    scene.answer("a")
    scene.ask()
    assert scene.asked("a") == 4


def test_an_old_request_that_its_client_leaves_is_not_taken_for_the_probe() -> None:
    scene = Scene(failures=1)
    old, _ = scene.ask()
    scene.ask()
    scene.fail("a", UNREACHABLE)
    scene.clock.advance(10)
    scene.ask()
    old.cancel()
    _, refused = scene.ask()
    assert refused.log == ["failed 503"]


def test_a_probe_whose_client_leaves_lets_the_next_one_through() -> None:
    scene = Scene(failures=1)
    scene.ask()
    scene.fail("a", UNREACHABLE)
    scene.clock.advance(10)
    probe, _ = scene.ask()
    probe.cancel()
    scene.ask()
    assert scene.asked("a") == 3


@pytest.mark.parametrize("error", [REFUSED, NO_CONNECTION])
def test_a_provider_that_lets_go_of_a_connection_is_not_broken(error: RelayError) -> None:
    scene = Scene(attempts=1, failures=2)
    for _ in range(10):
        scene.ask()
        scene.fail("a", error)
    assert scene.targets["a"].health.state(scene.clock()) is BreakerState.CLOSED


def test_requests_that_waited_do_not_go_to_a_provider_that_broke_meanwhile() -> None:
    scene = Scene(("a",), ("b",), max_concurrent=1, queue=1, failures=1)
    scene.ask(b"1")
    waiting, events = scene.ask(b"2")
    scene.ask(b"3")
    scene.fail("a", BROKEN)
    assert scene.asked("a") == 1
    assert scene.targets["a"].open == 0
    assert scene.targets["b"].waiting == 1
    waiting.cancel()
    assert events.log == []
    assert scene.open == 1


def test_timeouts_speak_against_the_provider_and_the_relay_s_own_end_does_not() -> None:
    scene = Scene(failures=1)
    dispatcher, _ = scene.ask()
    dispatcher.cancel(upstream_error("t", "Too long.", EndReason.TOTAL_TIMEOUT))
    assert scene.targets["a"].health.state(scene.clock()) is BreakerState.CLOSED
    dispatcher, _ = scene.ask()
    dispatcher.cancel(TIMEOUT)
    assert scene.targets["a"].health.state(scene.clock()) is BreakerState.OPEN


# Any order of events


class Order(RuleBasedStateMachine):
    """Requests, answers, failures, waits and leaving clients in any order."""

    @initialize(limit=st.sampled_from([1, 2, None]), queue=st.integers(0, 3), failures=st.integers(1, 4))
    def begin(self, limit: int | None, queue: int, failures: int) -> None:
        self.scene = Scene(("a", "b"), ("c",), max_concurrent=limit, queue=queue, failures=failures, replay=10)
        self.asked: list[tuple[Dispatcher, Events]] = []

    def under_way(self) -> list[tuple[Dispatcher, RecordingUpstream]]:
        return [(dispatcher, dispatcher._attempt) for dispatcher, _ in self.asked if dispatcher._attempt is not None]  # type: ignore[misc]

    @rule(size=st.integers(0, 12), whole=st.booleans())
    def request(self, size: int, whole: bool) -> None:
        self.asked.append(self.scene.ask(b"x" * size, whole=whole))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), size=st.integers(1, 12), end=st.booleans())
    def upload(self, data: st.DataObject, size: int, end: bool) -> None:
        dispatcher, _ = data.draw(st.sampled_from(self.asked))
        if not dispatcher._whole:
            dispatcher.send_end() if end else dispatcher.send_data(b"y" * size)

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), status=st.sampled_from([200, 400, 429, 503]), after=st.sampled_from([None, b"0", b"2"]))
    def head(self, data: st.DataObject, status: int, after: bytes | None) -> None:
        dispatcher, _ = data.draw(st.sampled_from(self.under_way()))
        if not dispatcher._committed:
            headers = [] if after is None else [(b"retry-after", after)]
            dispatcher.on_upstream_head(ResponseHead(status, headers))

    @precondition(lambda self: self.under_way())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        dispatcher, _ = data.draw(st.sampled_from(self.under_way()))
        if dispatcher._committed:
            dispatcher.on_upstream_end()

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), error=st.sampled_from([UNREACHABLE, REFUSED, BROKEN, NO_CONNECTION]))
    def failure(self, data: st.DataObject, error: RelayError) -> None:
        dispatcher, _ = data.draw(st.sampled_from(self.under_way()))
        dispatcher.on_upstream_failed(error)

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), full=st.booleans())
    def gate(self, data: st.DataObject, full: bool) -> None:
        dispatcher, _ = data.draw(st.sampled_from(self.under_way()))
        if full != dispatcher._attempt_full:
            dispatcher.on_upstream_full() if full else dispatcher.on_upstream_drained()

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), error=st.sampled_from([None, TIMEOUT]))
    def leave(self, data: st.DataObject, error: RelayError | None) -> None:
        dispatcher, _ = data.draw(st.sampled_from(self.asked))
        dispatcher.cancel(error)

    @rule(seconds=st.floats(0, 8))
    def time(self, seconds: float) -> None:
        now = self.scene.clock.advance(seconds)
        for dispatcher, _ in self.asked:
            dispatcher.sweep(now)

    @invariant()
    def each_place_is_held_by_one_request_under_way(self) -> None:
        for each in self.scene.targets.values():
            held = [dispatcher for dispatcher, _ in self.asked if dispatcher._target is each]
            assert each.open == len(held)
            assert all(dispatcher._attempt is not None for dispatcher in held)
            limit = each.settings.max_concurrent
            assert limit is None or each.open <= limit
            assert each.waiting == sum(
                dispatcher._queued_at is not None and dispatcher._tried[-1] is each for dispatcher, _ in self.asked
            )
            probes = [dispatcher for dispatcher in held if dispatcher._probing]
            assert len(probes) <= 1

    @invariant()
    def streams_that_are_not_under_way_are_cancelled_or_failed(self) -> None:
        for dispatcher, events in self.asked:
            assert dispatcher.attempts <= 3
            assert len(events.errors) <= 1
            assert events.log.count("head 200") <= 1
            if dispatcher._ended:
                assert dispatcher._attempt is None
                assert not dispatcher._body.pieces
            else:
                waits = dispatcher._queued_at is not None or dispatcher._retry_at is not None
                assert (dispatcher._attempt is not None) is not waits

    @invariant()
    def an_upload_is_stopped_for_a_reason(self) -> None:
        for dispatcher, events in self.asked:
            told = [line for line in events.log if line in ("full", "drained")]
            assert told == ["full", "drained"] * (len(told) // 2) + ["full"] * (len(told) % 2)
            if not dispatcher._ended and told[-1:] == ["full"]:
                assert dispatcher._attempt_full or dispatcher._attempt is None


TestOrder = Order.TestCase
