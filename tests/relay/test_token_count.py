"""How an answer is read and counted, in each format."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowserver.dialects.estimate import Ratios
from flowserver.dialects.profiles import QUIRKS
from flowserver.errors import EndReason, upstream_error
from flowserver.http.messages import ResponseHead
from flowserver.relay.event_filter import BodyCollector, EventFilter, OpaqueFilter

from ..dialects.frames import split
from ..support.accounts import count_of, feed, opened, requested
from ..support.recording import account, ask, open_answer, read_request, target
from ..support.streams import (
    CHAT,
    COHERE,
    COMPLETIONS,
    CONVERSE,
    GEMINI,
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
    assert isinstance(open_answer(requested(CHAT), ResponseHead(200, [(b"content-type", kind)])), EventFilter)


JSON_TYPES = [b"application/json", b"application/json; charset=utf-8", b"APPLICATION/JSON", b"text/plain", b""]


@pytest.mark.parametrize("kind", JSON_TYPES)
def test_whole_answers_are_told_by_their_beginning(kind: bytes) -> None:
    head = ResponseHead(200, [(b"content-type", kind), (b"content-encoding", b"identity")])
    assert isinstance(open_answer(requested(CHAT), head, b'{"id": 1'), BodyCollector)


@pytest.mark.parametrize("kind", JSON_TYPES)
def test_a_stream_that_is_called_something_else_is_told_by_its_beginning(kind: bytes) -> None:
    head = ResponseHead(200, [(b"content-type", kind)])
    assert isinstance(open_answer(requested(CHAT), head, b"data: {"), EventFilter)


def test_too_few_bytes_tell_nothing() -> None:
    head = ResponseHead(200, [])
    made = requested(CHAT)
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
    made = requested(CHAT, budget=5)
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
    made = requested(CHAT, budget=5)
    event_filter = open_answer(made, head, first)
    assert isinstance(event_filter, OpaqueFilter)
    data = bytes(range(200))
    assert event_filter.feed(data) is data
    assert not event_filter.spent
    assert (made.output, count_of(made).is_estimate, count_of(made).uncounted) == (50, True, {"unreadable": 1})
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
    assert (made.output, count_of(made).is_estimate) == (0, True)
    feed(event_filter, stream.opening)
    before = made.output
    for text in TEXTS:
        event_filter.feed(stream.content(text))
        assert count_of(made).is_estimate
        assert made.output >= before
        before = made.output
    assert 20 <= made.output <= 120
    feed(event_filter, stream.report(77))
    made.settle()
    assert (made.output, count_of(made).is_estimate) == (77, False)
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
    assert count_of(made).is_estimate
    assert made.output >= 20
    made.settle()
    assert count_of(made).estimated is None


@streams
def test_a_stream_that_broke_off_stays_an_estimate(stream: Stream) -> None:
    ratios = Ratios()
    made, event_filter = opened(stream, ratios=ratios)
    feed(event_filter, [*stream.opening, *map(stream.content, TEXTS)])
    made.settle()
    assert count_of(made).is_estimate
    assert count_of(made).estimated is None
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
    assert (count_of(made).is_estimate, count_of(made).estimated, len(ratios)) == (False, None, 0)
    assert made.failure(BROKEN) == b""


def test_what_could_not_be_looked_into_is_told() -> None:
    made, event_filter = opened(MESSAGES)
    assert count_of(made).uncounted == {}
    feed(event_filter, [b"data: " + b"x" * (1 << 20) + b"\n\n"])
    assert count_of(made).uncounted == {"large_event": 1}


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
        estimated = count_of(made).estimated
        assert estimated is not None
        errors.append(estimated - 600)
    assert 0 <= errors[-1] < errors[0] / 3
    assert len(ratios) == 1


# The budget


@streams
def test_a_stream_is_spent_behind_its_budget(stream: Stream) -> None:
    made, event_filter = opened(stream, budget=10, quirks=QUIRKS["openai"])
    events = [*stream.opening, *map(stream.content, TEXTS)]
    passed = [event for event in events if (event, event_filter.feed(event))[1] == event and not event_filter.spent]
    assert event_filter.spent
    ending = made.ending()
    assert made.cut_at == made.output == 10
    assert count_of(made).is_estimate
    reread = account(stream.target)
    read_request(reread, orjson.dumps(stream.body))
    ask(reread, target(asks_usage=False), orjson.dumps(stream.body))
    again = open_answer(reread, stream.head)
    assert again is not None
    feed(again, [*passed, ending])
    assert reread.meter is not None
    assert (reread.meter.finish, reread.meter.finished) == (stream.limited, True)
    made.settle()
    assert count_of(made).estimated is None


@streams
def test_a_stream_within_its_budget_is_not_spent(stream: Stream) -> None:
    made, event_filter = opened(stream, budget=1000)
    feed(event_filter, stream.events(TEXTS, 77))
    assert not event_filter.spent
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


@pytest.mark.parametrize("size", [10_000, 100_000])
def test_an_answer_of_another_apis_shape_is_counted_by_its_bytes(size: int) -> None:
    made = requested(MESSAGES)
    head = ResponseHead(200, [(b"content-type", b"text/event-stream")])
    made.open(head)
    event = b'data: {"type":"x","choices":[{"delta":{"content":"word "}}]}\n\n'
    assert isinstance(made.event_filter, EventFilter)
    for _ in range(size // len(event)):
        made.event_filter.feed(event)
    made.settle(size)
    assert count_of(made).is_estimate
    assert made.output == min(1000, max(0, size - 16_384) // 4)  # no more than the request allows
    assert ("foreign" in count_of(made).uncounted) == (size > 16_384)
