"""What an account makes of a request and of its answer, in each format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from flowserver.dialects.estimate import Ratios
from flowserver.dialects.profiles import QUIRKS
from flowserver.errors import EndReason, RelayError, upstream_error
from flowserver.http.messages import RequestHead, ResponseHead, find
from flowserver.quota.lease import Verdict
from flowserver.quota.limits import Cause
from flowserver.quota.refusals import NO_KEY
from flowserver.quota.tenants import ModelLimits, TenantLimits
from flowserver.relay.event_filter import AnyFilter, BodyCollector, EventFilter, OpaqueFilter
from flowserver.relay.token_count import Account

from ..dialects.frames import split
from ..support.quota import FakeLimiter, asking, quota, tenant
from ..support.recording import account, ask, open_answer, read_request, target
from ..support.streams import (
    CHAT,
    COHERE,
    COMPLETIONS,
    CONVERSE,
    GEMINI,
    INPUT,
    INVOKE,
    MESSAGES,
    OLLAMA_CHAT,
    STREAMS,
    Stream,
)

BROKEN = upstream_error("upstream_failed", "The provider broke off.", EndReason.UPSTREAM_FAILED)
TEXTS = [f"word {number} " for number in range(30)]

streams = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
on_demand = pytest.mark.parametrize("stream", [CHAT, COMPLETIONS], ids=lambda stream: stream.name)


def asked(stream: Stream, *, budget: int | None = None, ratios: Ratios | None = None, **settings: Any) -> Account:
    """The account of a request that was sent to a provider with `settings`."""
    made = account(stream.target, ratios=ratios)
    body = orjson.dumps(stream.body)
    read_request(made, body)
    made.bound(budget)
    ask(made, target(**settings), body)
    return made


def opened(stream: Stream, **options: Any) -> tuple[Account, EventFilter]:
    made = asked(stream, **options)
    event_filter = open_answer(made, stream.head)
    assert isinstance(event_filter, EventFilter)
    return made, event_filter


def feed(event_filter: AnyFilter, events: Iterable[bytes]) -> bytes:
    return b"".join([event_filter.feed(event) for event in events])


def sent(path: str, body: dict[str, Any] | bytes, *, budget: int | None = None, **settings: Any) -> Any:
    """What a provider gets of `body`; None: just that."""
    made = account(path)
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    read_request(made, raw)
    made.bound(budget)
    changed = ask(made, target(**settings), raw)
    return None if changed is None else orjson.loads(changed)


# The request


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_is_asked_for_where_it_comes_on_demand(path: str) -> None:
    body = {"model": "m", "stream": True, "stream_options": {"other": 1}}
    assert sent(path, body) == body | {"stream_options": {"other": 1, "include_usage": True}}
    assert sent(path, {"stream": True})["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        ({"stream": True, "stream_options": {"include_usage": True}}, {}),
        ({"stream": False}, {}),
        ({}, {}),
        ({"stream": True}, {"asks_usage": False}),
        ({"stream": True}, {"quirks": QUIRKS["mistral"]}),
        ({"stream": True, "stream_options": "odd"}, {}),
    ],
)
def test_usage_is_not_asked_for_in_vain(body: dict[str, Any], settings: dict[str, Any]) -> None:
    assert sent("/v1/chat/completions", body, **settings) is None


@pytest.mark.parametrize(
    "stream", [stream for stream in STREAMS if stream not in (CHAT, COMPLETIONS)], ids=lambda stream: stream.name
)
def test_where_usage_comes_anyway_a_request_stays_as_it_came(stream: Stream) -> None:
    assert sent(stream.target, stream.body) is None


CLAMPED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/chat/completions", {}, {"max_tokens": 50}),
    ("/v1/chat/completions", {"max_completion_tokens": 90}, {"max_completion_tokens": 50}),
    ("/v1/chat/completions", {"n": 5, "max_tokens": 90}, {"n": 5, "max_tokens": 10}),
    ("/v1/completions", {"max_tokens": 90}, {"max_tokens": 50}),
    ("/v1/responses", {}, {"max_output_tokens": 50}),
    ("/v1/messages", {"max_tokens": 90}, {"max_tokens": 50}),
    ("/v1beta/models/m:generateContent", {}, {"generationConfig": {"maxOutputTokens": 50}}),
    (
        "/v1beta/models/m:generateContent",
        {"generation_config": {"max_output_tokens": 90, "seed": 1}},
        {"generation_config": {"max_output_tokens": 50, "seed": 1}},
    ),
    ("/v2/chat", {"max_tokens": 90}, {"max_tokens": 50}),
    ("/api/chat", {"options": {"num_predict": -1, "seed": 1}}, {"options": {"num_predict": 50, "seed": 1}}),
    ("/api/generate", {}, {"options": {"num_predict": 50}}),
    (CONVERSE.target, {}, {"inferenceConfig": {"maxTokens": 50}}),
    (CONVERSE.target, {"inferenceConfig": {"maxTokens": 90}}, {"inferenceConfig": {"maxTokens": 50}}),
    (INVOKE.target, {"max_tokens": 90}, {"max_tokens": 50}),
]


@pytest.mark.parametrize(("path", "body", "expected"), CLAMPED)
def test_a_request_is_bounded_to_its_budget(path: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    model = {} if path.startswith("/model/") else {"model": "m"}
    assert sent(path, model | body, budget=50) == model | expected
    assert sent(path, model | expected, budget=50) is None
    assert sent(path, model | expected, budget=50_000) is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INVOKE.target, {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/other", {"max_tokens": 90}),
    ],
)
def test_what_cannot_be_bounded_stays_as_it_came(path: str, body: dict[str, Any]) -> None:
    assert sent(path, body, budget=50) is None


SIGNED = [
    (b"authorization", b"AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature=y"),
    (b"authorization", b"AWS4-ECDSA-P256-SHA256 Credential=x, SignedHeaders=host, Signature=y"),
]


@pytest.mark.parametrize("field", SIGNED, ids=["v4", "v4a"])
@pytest.mark.parametrize("stream", [CONVERSE, INVOKE], ids=lambda stream: stream.name)
def test_a_signed_request_is_never_changed(stream: Stream, field: tuple[bytes, bytes]) -> None:
    made = account(request=RequestHead(b"POST", stream.target.encode(), [field], has_body=True))
    body = b'{"max_tokens": 90, "inferenceConfig": {"maxTokens": 90}}'
    read_request(made, body)
    made.bound(50)
    assert ask(made, target(), body) is None


def test_the_smaller_of_two_bounds_holds() -> None:
    made = account("/v1/messages")
    for most in (None, 70, 50, None, 60):
        made.bound(most)
    assert made.budget == 50


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/other"])
def test_a_model_gets_the_provider_s_name(path: str) -> None:
    body = {"model": "small", "max_tokens": 5}
    assert sent(path, body, models={"small": "tiny-2"}) == body | {"model": "tiny-2"}
    assert sent(path, body, models={"other": "tiny-2"}) is None


@pytest.mark.parametrize("stream", [GEMINI, CONVERSE], ids=lambda stream: stream.name)
def test_a_model_that_is_not_in_the_body_leaves_it_alone(stream: Stream) -> None:
    """A signature over the body would not hold for another spelling of the same."""
    assert sent(stream.target, b'{ "messages": [] }', models={"m": "tiny-2"}) is None


def test_each_provider_is_asked_in_its_own_way() -> None:
    made = account(CHAT.target)
    body = orjson.dumps(CHAT.body | {"model": "small"})
    read_request(made, body)
    first = orjson.loads(ask(made, target(models={"small": "tiny-2"}), body) or b"")
    assert (first["model"], first["stream_options"]) == ("tiny-2", {"include_usage": True})
    second = ask(made, target(name="other", asks_usage=False), body)
    assert second is None
    event_filter = open_answer(made, CHAT.head)
    assert isinstance(event_filter, EventFilter)
    assert not event_filter.edits
    assert made.upstream is not None
    assert made.upstream.name == "other"


NONSENSE = pytest.mark.parametrize("body", [b"", b"nonsense", b'{"model": "m"', b"[]", b'"text"', b"1", b"\xff"])


@NONSENSE
def test_a_request_that_makes_no_sense_is_the_provider_s_to_refuse(body: bytes) -> None:
    made = account(CHAT.target)
    assert read_request(made, body) is None
    made.bound(50)
    assert ask(made, target(models={"m": "tiny-2"}), body) is None
    event_filter = open_answer(made, CHAT.head)
    assert isinstance(event_filter, EventFilter)
    made.bound(None)
    assert made.budget == 50


@NONSENSE
def test_who_has_limits_is_told_that_a_request_makes_no_sense(body: bytes) -> None:
    made = account(CHAT.target, quota=quota(tenant(**ACME)))
    made.identify(asking(), lambda _: None)
    error = read_request(made, body)
    assert error is not None
    assert (error.status, error.code) == (400, "unreadable_body")


DEEP = b'{"model": "m", "stream": true, "messages": ' + b"[" * 500 + b"]" * 500 + b"}"


def test_a_request_of_any_depth_is_changed_like_any_other() -> None:
    made = account(CHAT.target)
    assert read_request(made, DEEP) is None
    made.bound(50)
    changed = ask(made, target(models={"m": "tiny-2"}), DEEP)
    more = b',"stream_options":{"include_usage":true},"max_tokens":50}'
    assert changed == DEEP.replace(b'"m"', b'"tiny-2"')[:-1] + more


def test_nothing_else_of_a_request_is_touched() -> None:
    body = b' {"x": 1.10, "model" : "m",\t"max_tokens": 9e1, "y": "\\ud800", "big": 123456789012345678901234567890}\n'
    made = account(CHAT.target)
    assert read_request(made, *(body[at : at + 7] for at in range(0, len(body), 7))) is None
    made.bound(50)
    changed = ask(made, target(models={"m": "tiny-2"}), body)
    assert changed == body.replace(b'"m"', b'"tiny-2"').replace(b"9e1", b"50")


@pytest.mark.parametrize("model", [1, None, ["m"], {}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/other"])
def test_a_model_that_is_no_text_is_none(path: str, model: object) -> None:
    made = account(path)
    body = orjson.dumps({"model": model})
    read_request(made, body)
    assert made.params.model is None
    assert ask(made, target(models={"m": "tiny-2"}), body) is None


def test_an_unknown_format_has_a_model_and_no_count() -> None:
    made = account("/v1/other")
    read_request(made, b'{"model": "m"}')
    ask(made, target())
    assert made.model == "m"
    assert open_answer(made, CHAT.head) is None
    assert (made.output, made.is_estimate, made.usage.input, made.uncounted) == (0, False, None, {})
    assert made.error(BROKEN) == BROKEN.body()
    assert made.ending() == b""
    made.settle()
    assert made.estimated is None


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/messages", (b"x-api-key", b"key")),
        (GEMINI.target, (b"x-goog-api-key", b"key")),
        ("/v1/chat/completions", (b"authorization", b"Bearer key")),
        ("/v2/chat", (b"authorization", b"Bearer key")),
        (CONVERSE.target, (b"authorization", b"Bearer key")),
        ("/v1/models", (b"authorization", b"Bearer key")),
    ],
)
def test_a_key_goes_where_its_api_takes_it(path: str, field: tuple[bytes, bytes]) -> None:
    assert account(path).credential(target(api_key=b"key")) == field
    assert account(path).credential(target()) is None


# How an answer is read


@pytest.mark.parametrize(
    "kind",
    [
        b"text/event-stream",
        b"Text/Event-Stream; charset=utf-8",
        b"application/x-ndjson",
        b"application/jsonl;a=b",
        b"application/vnd.amazon.eventstream",
    ],
)
def test_streams_are_told_by_their_type(kind: bytes) -> None:
    assert isinstance(open_answer(asked(CHAT), ResponseHead(200, [(b"content-type", kind)])), EventFilter)


JSON_TYPES = [b"application/json", b"application/json; charset=utf-8", b"APPLICATION/JSON", b"text/plain", b""]


@pytest.mark.parametrize("kind", JSON_TYPES)
def test_whole_answers_are_told_by_their_beginning(kind: bytes) -> None:
    head = ResponseHead(200, [(b"content-type", kind), (b"content-encoding", b"identity")])
    assert isinstance(open_answer(asked(CHAT), head, b'{"id": 1'), BodyCollector)


@pytest.mark.parametrize("kind", JSON_TYPES)
def test_a_stream_that_is_called_something_else_is_told_by_its_beginning(kind: bytes) -> None:
    head = ResponseHead(200, [(b"content-type", kind)])
    assert isinstance(open_answer(asked(CHAT), head, b"data: {"), EventFilter)


def test_too_few_bytes_tell_nothing() -> None:
    head = ResponseHead(200, [])
    made = asked(CHAT)
    assert made.open(head)
    assert not made.look(head, b" ")
    assert not made.look(head, b" da")
    assert made.event_filter is None
    assert made.look(head, b" da", is_all=True)
    assert isinstance(made.event_filter, OpaqueFilter)


@pytest.mark.parametrize(
    "head",
    [
        ResponseHead(404, [(b"content-type", b"application/json")]),
        ResponseHead(500, [(b"content-type", b"text/event-stream")]),
    ],
)
def test_an_error_of_the_provider_passes_unread(head: ResponseHead) -> None:
    made = asked(CHAT, budget=5)
    assert open_answer(made, head) is None
    assert made.look(head, b"data: {")
    assert made.event_filter is None
    assert made.meter is None
    assert made.failure(BROKEN) == b""
    assert made.output == 0


UNREADABLE: list[tuple[ResponseHead, bytes | None]] = [
    (ResponseHead(200, []), b"\x89PNG"),
    (ResponseHead(200, [(b"content-type", b"text/html")]), b"<html>"),
    (ResponseHead(200, [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]), None),
    (ResponseHead(200, [(b"content-type", b"application/json"), (b"content-encoding", b"br")]), None),
]


@pytest.mark.parametrize(("head", "first"), UNREADABLE)
def test_what_cannot_be_read_counts_by_its_bytes(head: ResponseHead, first: bytes | None) -> None:
    made = asked(CHAT, budget=5)
    event_filter = open_answer(made, head, first)
    assert isinstance(event_filter, OpaqueFilter)
    data = bytes(range(200))
    assert event_filter.feed(data) is data
    assert not event_filter.spent
    assert (made.output, made.is_estimate, made.uncounted) == (50, True, {"unreadable": 1})
    assert made.failure(BROKEN) == b""


def test_nothing_is_read_before_a_provider_was_asked() -> None:
    assert open_answer(account(CHAT.target), CHAT.head) is None


@pytest.mark.parametrize(
    ("options", "edits"), [({}, True), ({"asks_usage": False}, False), ({"asks_usage": False, "budget": 5}, True)]
)
def test_a_stream_is_edited_where_something_may_be_left_out(options: dict[str, Any], edits: bool) -> None:
    assert opened(CHAT, **options)[1].edits is edits


# Counting


@streams
def test_a_stream_is_estimated_until_its_report_comes(stream: Stream) -> None:
    made, event_filter = opened(stream)
    assert (made.output, made.is_estimate) == (0, True)
    feed(event_filter, stream.opening)
    before = made.output
    for text in TEXTS:
        event_filter.feed(stream.content(text))
        assert made.is_estimate
        assert made.output >= before
        before = made.output
    assert 20 <= made.output <= 120
    feed(event_filter, stream.report(77))
    assert (made.output, made.is_estimate) == (77, False)
    assert made.usage.input == 7
    assert made.meter is not None
    assert made.meter.finished
    assert made.meter.content_events == 30
    assert made.model == ("m" if stream in (CONVERSE, COHERE) else "m-1")  # which do not name it


@streams
def test_a_stream_without_a_report_stays_an_estimate(stream: Stream) -> None:
    if stream in (MESSAGES, INVOKE):
        pytest.skip("reports from the start on")
    made, event_filter = opened(stream)
    feed(event_filter, [*stream.opening, *map(stream.content, TEXTS), *stream.closing])
    assert made.is_estimate
    assert made.output >= 20
    made.settle()
    assert made.estimated is None


@streams
def test_a_stream_that_broke_off_stays_an_estimate(stream: Stream) -> None:
    ratios = Ratios()
    made, event_filter = opened(stream, ratios=ratios)
    feed(event_filter, [*stream.opening, *map(stream.content, TEXTS)])
    made.settle()
    assert made.is_estimate
    assert made.estimated is None
    assert len(ratios) == 0


@on_demand
def test_the_report_that_the_relay_asked_for_is_withheld(stream: Stream) -> None:
    made, event_filter = opened(stream)
    passed = feed(event_filter, stream.events(TEXTS, 77))
    assert passed == b"".join([*stream.opening, *map(stream.content, TEXTS), *stream.closing])
    assert made.output == 77


@on_demand
def test_the_report_that_the_client_asked_for_passes(stream: Stream) -> None:
    made = account(stream.target)
    body = orjson.dumps(stream.body | {"stream_options": {"include_usage": True}})
    read_request(made, body)
    assert ask(made, target(), body) is None
    event_filter = open_answer(made, stream.head)
    assert event_filter is not None
    events = stream.events(TEXTS, 77)
    assert feed(event_filter, events) == b"".join(events)
    assert made.output == 77


WHOLE: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": "m-1",
            "choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16},
        },
    ),
    ("/v1/embeddings", {"model": "m-1", "data": [], "usage": {"prompt_tokens": 7, "total_tokens": 7}}),
    (
        "/v1/responses",
        {"model": "m-1", "status": "completed", "output": [], "usage": {"input_tokens": 7, "output_tokens": 9}},
    ),
    (
        "/v1/messages",
        {
            "type": "message",
            "model": "m-1",
            "content": [{"type": "text", "text": "hello"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 7, "output_tokens": 9},
        },
    ),
    (
        "/v1beta/models/m:generateContent",
        {
            "modelVersion": "m-1",
            "candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 9},
        },
    ),
]


@pytest.mark.parametrize(("path", "answer"), WHOLE)
def test_a_whole_answer_counts_as_it_reports(path: str, answer: dict[str, Any]) -> None:
    ratios = Ratios()
    made = account(path, ratios=ratios)
    read_request(made, b'{"model": "m"}')
    ask(made, target())
    body = orjson.dumps(answer)
    event_filter = open_answer(made, ResponseHead(200, [(b"content-type", b"application/json")]), body[:1])
    assert isinstance(event_filter, BodyCollector)
    assert feed(event_filter, [body[:20], body[20:]]) == body
    assert event_filter.finish() == b""
    made.settle()
    assert made.usage.input == 7
    assert made.output == (0 if path == "/v1/embeddings" else 9)
    assert made.model == "m-1"
    assert (made.is_estimate, made.estimated, len(ratios)) == (False, None, 0)
    assert made.failure(BROKEN) == b""


def test_what_could_not_be_looked_into_is_told() -> None:
    made, event_filter = opened(MESSAGES)
    assert made.uncounted == {}
    feed(event_filter, [b"data: " + b"x" * (1 << 20) + b"\n\n"])
    assert made.uncounted == {"large_event": 1}


@streams
def test_a_stream_that_is_over_is_learned_from(stream: Stream) -> None:
    """It reports ten bytes for each token, more than anyone would guess."""
    ratios = Ratios()
    errors = []
    for _ in range(20):
        made, event_filter = opened(stream, ratios=ratios)
        feed(event_filter, stream.events(["some sixty bytes of text, which are a lot for one event here "] * 100, 600))
        assert made.output == 600
        made.settle()
        assert made.estimated is not None
        errors.append(made.estimated - 600)
    assert 0 <= errors[-1] < errors[0] / 3
    assert len(ratios) == 1


# The budget


@streams
def test_a_stream_is_spent_behind_its_budget(stream: Stream) -> None:
    made, event_filter = opened(stream, budget=10, quirks=QUIRKS["openai"])
    events = [*stream.opening, *map(stream.content, TEXTS)]
    passed = [event for event in events if (event, event_filter.feed(event))[1] == event and not event_filter.spent]
    assert event_filter.spent
    assert made.verdict() is Verdict.END
    ending = made.ending()
    assert made.cut_at == made.output == 10
    assert made.is_estimate
    reread = account(stream.target)
    read_request(reread, orjson.dumps(stream.body))
    ask(reread, target(asks_usage=False), orjson.dumps(stream.body))
    again = open_answer(reread, stream.head)
    assert again is not None
    feed(again, [*passed, ending])
    assert reread.meter is not None
    assert (reread.meter.finish, reread.meter.finished) == (stream.limited, True)
    made.settle()
    assert made.estimated is None


@streams
def test_a_stream_within_its_budget_is_not_spent(stream: Stream) -> None:
    made, event_filter = opened(stream, budget=1000)
    feed(event_filter, stream.events(TEXTS, 77))
    assert not event_filter.spent
    assert made.verdict() is Verdict.PASS
    assert made.cut_at is None


def test_a_report_beyond_the_budget_comes_too_late_to_cut() -> None:
    made, event_filter = opened(MESSAGES, budget=70)
    events = MESSAGES.events(TEXTS[:3], 77)
    assert feed(event_filter, events) == b"".join(events)
    assert not event_filter.spent
    assert made.output == 77


# Failures


@streams
def test_an_error_is_told_in_the_format_s_own_words(stream: Stream) -> None:
    assert BROKEN.message in str(orjson.loads(account(stream.target).error(BROKEN)))


def test_error_bodies_differ_by_format() -> None:
    assert orjson.loads(account("/v1/messages").error(BROKEN))["type"] == "error"
    assert orjson.loads(account(GEMINI.target).error(BROKEN))["error"]["code"] == 502
    assert orjson.loads(account("/v2/chat").error(BROKEN)) == {"message": BROKEN.message}
    assert orjson.loads(account("/api/chat").error(BROKEN)) == {"error": BROKEN.message}
    assert "__type" in orjson.loads(account(CONVERSE.target).error(BROKEN))
    assert account(CHAT.target).error(BROKEN) == BROKEN.body()


@streams
def test_a_failure_is_told_between_two_events_only(stream: Stream) -> None:
    """Where nothing is edited, so that the beginning of an event has passed."""
    made, event_filter = opened(stream, asks_usage=False)
    first, second = map(stream.content, TEXTS[:2])
    feed(event_filter, [*stream.opening, first])
    told = made.failure(BROKEN)
    assert BROKEN.message.encode() in told
    if stream is not GEMINI:  # which tells it in no event
        assert len(split(told, stream.extension)) == 1
    assert event_filter.feed(second[:20]) == second[:20]
    assert made.failure(BROKEN) == b""
    event_filter.feed(second[20:])
    assert made.failure(BROKEN) == told or stream.name == "openai-responses"  # which numbers its events
    feed(event_filter, stream.report(5))
    assert made.failure(BROKEN) == b""


def test_a_failure_is_told_where_the_beginning_of_an_event_was_held_back() -> None:
    made, event_filter = opened(OLLAMA_CHAT, budget=1000)
    first, second = map(OLLAMA_CHAT.content, TEXTS[:2])
    assert feed(event_filter, [first, second[:20]]) == first
    assert made.failure(BROKEN) == orjson.dumps({"error": BROKEN.message}) + b"\n"


# Whose it is, and what it may use

ACME: dict[str, Any] = {"limits": TenantLimits(tokens_per_day=10_000)}


class Permitted:
    """A request of a tenant, and how it was decided."""

    def __init__(
        self,
        stream: Stream = CHAT,
        *headers: tuple[bytes, bytes],
        limiter: FakeLimiter | None = None,
        body: dict[str, Any] | None = None,
        budget: int | None = None,
        **acme: Any,
    ) -> None:
        self.limiter = limiter or FakeLimiter()
        self.account = account(stream.target, quota=quota(tenant(**(acme or ACME)), limiter=self.limiter))
        self.account.bound(budget)
        self.outcomes: list[RelayError | None] = []
        self.stream = stream
        self.body = orjson.dumps(stream.body | (body or {}))
        request = asking(*headers, target=stream.target.encode())
        self.account.identify(request, self.outcomes.append)
        if self.outcomes == [None]:
            self.outcomes.clear()
            read_request(self.account, self.body)
            self.account.request_permit(request, self.outcomes.append, lambda: None)

    @property
    def code(self) -> str | None:
        """Of the refusal; None: it may start."""
        [outcome] = self.outcomes
        return outcome.code if outcome is not None else None

    def ask(self) -> Any:
        """What a provider gets of the body."""
        changed = ask(self.account, target(), self.body)
        return orjson.loads(self.body if changed is None else changed)

    def open(self) -> AnyFilter:
        self.ask()
        event_filter = open_answer(self.account, self.stream.head)
        assert event_filter is not None
        return event_filter


@pytest.mark.parametrize(
    ("acme", "code"),
    [
        ({"models": ("gpt-*",)}, "model_not_found"),
        ({"models": ("m",)}, None),
        ({"paths": ("/v1/embeddings",)}, "permission_denied"),
        ({"paths": ("/v1/chat/*",)}, None),
    ],
)
def test_a_tenant_uses_the_models_and_paths_that_are_its_own(acme: dict[str, Any], code: str | None) -> None:
    made = Permitted(**acme)
    assert made.code == code
    assert made.limiter.log == []


def test_a_request_without_a_known_key_is_nobodys() -> None:
    made = account(CHAT.target, quota=quota(tenant()))
    outcomes: list[RelayError | None] = []
    made.identify(asking(key=None), outcomes.append)
    assert outcomes == [NO_KEY]
    assert made.tenant is None


def test_where_there_are_no_tenants_everybody_may_start() -> None:
    made = account(CHAT.target)
    outcomes: list[RelayError | None] = []
    made.identify(asking(key=None), outcomes.append)
    made.request_permit(asking(), outcomes.append, lambda: None)
    assert outcomes == [None, None]
    assert made.lease is None
    fields = [(b"x-ratelimit-limit-requests", b"1")]
    assert made.answer_fields(fields) == fields


def test_users_sessions_and_models_have_limits_of_their_own() -> None:
    each = TenantLimits(tokens_per_day=10, tokens_per_session=5)
    acme: dict[str, Any] = {"user": each, "model_limits": (ModelLimits(("m*",), TenantLimits(tokens_per_day=20)),)}
    headers = ((b"x-flow-user", b"ann"), (b"x-flow-session", b"s1"))
    made = Permitted(CHAT, *headers, **acme)
    keys = [limit.key for limit in made.limiter.limits]
    assert [key.partition("}")[2] for key in keys] == [
        ":user:ann:session:s1:tokens_per_session",
        ":user:ann:tokens_per_day",
        ":model:m*:tokens_per_day",
    ]
    assert (made.account.user, made.account.session) == ("ann", "s1")


def test_each_stream_has_an_id_of_its_own_that_names_its_tenant() -> None:
    limiter = FakeLimiter()
    for _ in range(2):
        Permitted(limiter=limiter)
    assert len(limiter.ids) == 2
    assert all(each.startswith("{acme}:") for each in limiter.ids)


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Cause.RATE, "rate_limit_exceeded"),
        (Cause.CONCURRENCY, "concurrency_limit_exceeded"),
        (Cause.QUOTA, "insufficient_quota"),
        (Cause.UNAVAILABLE, "limits_unavailable"),
    ],
)
def test_who_is_refused_is_told_why(cause: Cause, code: str) -> None:
    limiter = FakeLimiter()
    limiter.refuses = cause
    made = Permitted(limiter=limiter)
    assert made.code == code
    made.account.settle()
    assert limiter.settled == []


def test_what_is_left_of_a_quota_bounds_the_request() -> None:
    made = Permitted(limiter=FakeLimiter(left=500))
    assert made.ask()["max_tokens"] == made.account.budget == 500 - made.account.input


@pytest.mark.parametrize("own", [None, 40])
def test_more_than_any_model_may_have_bounds_only_who_asks_for_more(own: int | None) -> None:
    """A provider takes a bound that its model can't have for an error."""
    made = Permitted(body={"max_tokens": own}, limiter=FakeLimiter(left=50_000))
    assert made.ask().get("max_tokens") == own


def test_who_asks_for_more_than_is_left_gets_what_is_left() -> None:
    made = Permitted(body={"max_tokens": 90_000}, limiter=FakeLimiter(left=50_000))
    assert made.ask()["max_tokens"] == 50_000 - made.account.input


def test_a_bound_of_its_own_that_is_smaller_stays() -> None:
    assert Permitted(limiter=FakeLimiter(left=500), budget=40).account.budget == 40
    streams_bound = TenantLimits(tokens_per_stream=30, tokens_per_day=10_000)
    assert Permitted(limiter=FakeLimiter(left=500), budget=40, limits=streams_bound).account.budget == 30


def test_a_limit_that_is_no_quota_bounds_no_request() -> None:
    limits = TenantLimits(requests_per_minute=5, tokens_per_minute=500, concurrent=2)
    made = Permitted(limiter=FakeLimiter(left=500), limits=limits)
    assert made.code is None
    assert made.account.budget is None


def test_admission_needs_what_the_request_is_estimated_at() -> None:
    messages = [{"role": "user", "content": "word " * 800}]
    made = Permitted(body={"messages": messages})
    assert made.limiter.log == [("admit", made.account.input)]
    assert 800 <= made.account.input <= 1200


def test_what_is_charged_is_what_the_provider_reports() -> None:
    made = Permitted(MESSAGES)
    feed(made.open(), MESSAGES.events(TEXTS, 77))
    made.account.settle()
    made.account.settle()
    assert made.limiter.settled == [INPUT + 77]


def test_without_a_report_what_was_estimated_is_charged() -> None:
    made = Permitted(CHAT, body={"messages": [{"role": "user", "content": "word " * 80}]})
    feed(made.open(), [*CHAT.opening, *map(CHAT.content, TEXTS)])
    estimated = made.account.output
    assert estimated > 0
    made.account.settle()
    assert made.limiter.settled == [made.account.input + estimated]
    assert 80 <= made.account.input <= 120


def test_a_request_without_an_answer_is_not_charged() -> None:
    made = Permitted()
    made.account.settle()
    assert made.limiter.settled == [0]


def test_an_answer_that_cannot_be_read_is_charged_by_its_bytes() -> None:
    made = Permitted(CHAT, body={"messages": [{"role": "user", "content": "word " * 80}]})
    made.ask()
    fields = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]
    event_filter = open_answer(made.account, ResponseHead(200, fields))
    assert event_filter is not None
    event_filter.feed(bytes(400))
    made.account.settle()
    assert made.limiter.settled == [made.account.input + 100]
    assert 80 <= made.account.input <= 120


def test_an_error_of_the_provider_is_not_charged() -> None:
    made = Permitted(CHAT, body={"messages": [{"role": "user", "content": "word " * 80}]})
    made.ask()
    assert open_answer(made.account, ResponseHead(500, [(b"content-type", b"application/json")])) is None
    made.account.settle()
    assert made.limiter.settled == [0]


def test_a_whole_answer_is_charged_too() -> None:
    made = Permitted(CHAT)
    made.ask()
    event_filter = open_answer(made.account, ResponseHead(200, [(b"content-type", b"application/json")]), b"{")
    assert event_filter is not None
    body = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 31}}
    event_filter.feed(orjson.dumps(body))
    event_filter.finish()
    made.account.settle()
    assert made.limiter.settled == [42]


def test_a_providers_own_limits_are_not_the_tenants() -> None:
    provider = [(b"x-ratelimit-remaining-tokens", b"1"), (b"anthropic-ratelimit-requests-limit", b"2"), (b"x", b"y")]
    made = Permitted(CHAT).account.answer_fields(provider)
    assert made[0] == (b"x", b"y")
    assert (b"x-ratelimit-limit-tokens", b"10000") in made
    assert (b"x-ratelimit-remaining-tokens", b"1") not in made
    assert not [name for name, _ in made if name.startswith(b"anthropic")]
    other = Permitted(MESSAGES).account.answer_fields(provider)
    assert (b"anthropic-ratelimit-tokens-limit", b"10000") in other
    assert not [name for name, _ in other if name.startswith(b"x-ratelimit")]


def test_a_providers_cookies_go_to_who_shows_it_a_key_of_its_own() -> None:
    head = ResponseHead(200, [(b"set-cookie", b"a=b")])
    tenants, own, shared = Permitted(CHAT), asked(CHAT), asked(CHAT, api_key=b"sk")
    tenants.ask()
    passed = [made.passed_head(head, b"id-1", None).headers for made in (tenants.account, own, shared)]
    assert [find(headers, b"set-cookie") for headers in passed] == [None, b"a=b", None]


@pytest.mark.parametrize("stream", [CHAT, MESSAGES], ids=lambda stream: stream.name)
@pytest.mark.parametrize(
    ("left", "budget", "reason"),
    [(60, None, EndReason.QUOTA), (60, 20, EndReason.BUDGET), (100_000, 20, EndReason.BUDGET)],
)
def test_a_cut_is_by_the_quota_or_by_a_budget(stream: Stream, left: int, budget: int | None, reason: EndReason) -> None:
    """One provider reports its request's tokens at the beginning, the other at the end."""
    made = Permitted(stream, limiter=FakeLimiter(left=left), budget=budget)
    event_filter = made.open()
    for event in [*stream.opening, *map(stream.content, TEXTS * 3)]:
        event_filter.feed(event)
        if event_filter.spent:
            break
    assert event_filter.spent
    made.account.ending()
    assert made.account.cut_reason is reason
    assert made.account.input + made.account.output <= left


def test_a_cut_where_others_took_what_was_left_is_by_the_quota() -> None:
    limiter = FakeLimiter(left=1000)
    made = Permitted(MESSAGES, limiter=limiter)
    limiter.left = 0
    event_filter = made.open()
    for event in [*MESSAGES.opening, *map(MESSAGES.content, TEXTS * 10)]:
        event_filter.feed(event)
        if event_filter.spent:
            break
    made.account.ending()
    assert event_filter.spent
    assert made.account.cut_reason is EndReason.QUOTA
    assert made.account.lease is not None
    assert made.account.input + made.account.output <= made.account.lease.granted
    made.account.settle()
    assert limiter.settled == [made.account.input + made.account.output]


@pytest.mark.parametrize("size", [10_000, 100_000])
def test_an_answer_of_another_apis_shape_is_counted_by_its_bytes(size: int) -> None:
    made = asked(MESSAGES)
    head = ResponseHead(200, [(b"content-type", b"text/event-stream")])
    made.open(head)
    event = b'data: {"type":"x","choices":[{"delta":{"content":"word "}}]}\n\n'
    assert isinstance(made.event_filter, EventFilter)
    for _ in range(size // len(event)):
        made.event_filter.feed(event)
    made.settle(size)
    assert made.is_estimate
    assert made.output == min(1000, max(0, size - 16_384) // 4)  # no more than the request allows
    assert ("foreign" in made.uncounted) == (size > 16_384)
