"""Anthropic's Messages: what is counted, and how a stream is ended."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserver.dialects.anthropic import ANTHROPIC, AnthropicMeter
from flowserver.dialects.base import Meter, RequestParams, Usage
from flowserver.dialects.event_template import RELEARN
from flowserver.errors import LOOP, TOO_MANY_CONNECTIONS, bad_request

from ..support.corpus import Recording, each_recording
from .frames import QUIRKS, metered, reported
from .reading import sse_events
from .templates import count_by_template, unlike_others

START: dict[str, Any] = {
    "type": "message_start",
    "message": {"model": "claude-x", "usage": {"input_tokens": 20, "cache_read_input_tokens": 7, "output_tokens": 1}},
}
TEXT = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
TOOL = {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "lookup", "input": {}}}
STOP = {"type": "message_stop"}


def delta(index: int = 0, **fields: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def hello(text: str = "hello") -> dict[str, Any]:
    return delta(type="text_delta", text=text)


def stopped(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def message_delta(**usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


def read(*events: dict[str, Any], params: RequestParams = RequestParams()) -> Meter:  # noqa: B008 - frozen
    meter = ANTHROPIC.meter(params, QUIRKS, cuttable=True)
    for event in events:
        assert meter.read(event["type"].encode(), orjson.dumps(event) + b"    ")
    return meter


def ending(meter: Meter, *, prompt: int = 7) -> list[dict[str, Any]]:
    events = sse_events(meter.ending(prompt, 9))
    loaded = [orjson.loads(payload) for _, payload, _ in events]
    assert [name.decode() for name, _, _ in events] == [event["type"] for event in loaded]
    return loaded


# --- the template ---


def wire(name: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, data)


def streaming() -> AnthropicMeter:
    """A meter in a text block."""
    meter = AnthropicMeter(RequestParams())
    for name, event in ((b"message_start", START), (b"content_block_start", TEXT)):
        meter.read(name, orjson.dumps(event))
    return meter


def figures(meter: AnthropicMeter) -> tuple[Any, ...]:
    return (
        (
            meter.content_bytes,
            meter.content_events,
            meter.reasoning_bytes,
            meter.usage,
            meter.finish,
            meter.failed,
            meter.finished,
        ),
        meter.content.counts,
        meter.ending(7, 7),
    )


_texts = st.sampled_from(
    [b"a", b"two words", "\u00e9".encode(), b"", b"\x7f", b"\\n", b'\\"', b'"', b"\n", b"\xff", b"}"]
)
_events: dict[str, dict[str, Any]] = {
    "text": hello("TEXT"),
    "other block": delta(1, type="text_delta", text="TEXT"),
    "thinking": delta(type="thinking_delta", thinking="TEXT"),
    "input": delta(1, type="input_json_delta", partial_json="TEXT"),
    "signature": delta(type="signature_delta", signature="TEXT"),
    "two texts": {**hello("TEXT"), "text": "TEXT"},
    "usage": {**hello("TEXT"), "usage": {"output_tokens": 3}},
    "tool": TOOL,
    "stop": stopped(0),
    "end": message_delta(output_tokens=5),
    "error": {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
    "ping": {"type": "ping"},
}
_kinds = st.sampled_from(["text"] * 6 + list(_events))
_blanks = st.sampled_from([b"", b" ", b"      ", b"\t", b" x"])
_said = st.sampled_from([None, None, None, None, b"ping", b"content_block_stop", b""])
"""The name that an event bears; None: its own."""


@settings(max_examples=300)
@given(st.lists(st.tuples(_kinds, _texts, _blanks, _said), min_size=1, max_size=30))
def test_the_template_sees_what_parsing_sees(stream: list[tuple[str, bytes, bytes, bytes | None]]) -> None:
    """Also where the events that fit it are counted on the wire."""
    quick, fast, slow = streaming(), streaming(), streaming()
    for number, (kind, text, blanks, said) in enumerate(stream):
        event = _events[kind]
        name = event["type"].encode() if said is None else said
        data = orjson.dumps(event).replace(b"TEXT", text) + blanks
        assert quick.read(name, data)
        assert count_by_template(fast, wire(name, data)) or fast.read(name, data)
        slow.read(name, unlike_others(number, data))
        assert figures(quick) == figures(fast) == figures(slow)


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_plain_events_are_counted_by_the_template(kind: str) -> None:
    meter = streaming()
    data = orjson.dumps(_events[kind])
    meter.read(b"content_block_delta", data)
    for text, blanks in ((b"Hi", b""), (b" there", b"   "), ("\U0001f604".encode(), b" ")):
        assert count_by_template(meter, wire(b"content_block_delta", data.replace(b"TEXT", text) + blanks))
    assert (meter.content_bytes, meter.content_events) == (16, 4)
    assert meter.reasoning_bytes == (16 if kind == "thinking" else 0)


def test_a_tool_s_name_is_counted_though_there_was_a_template() -> None:
    meter = streaming()
    data = orjson.dumps(hello("a"))
    meter.read(b"content_block_delta", data)
    assert count_by_template(meter, wire(b"content_block_delta", data))
    meter.read(b"content_block_start", orjson.dumps(TOOL))
    assert not count_by_template(meter, wire(b"content_block_delta", data))
    assert meter.template is None
    meter.read(b"content_block_delta", data)
    assert meter.content_bytes == len("a" * 3 + "lookup")


def test_a_template_stays_while_events_fit_it() -> None:
    """To look for it takes twice as long as parsing an event."""
    meter = streaming()
    meter.read(b"content_block_delta", orjson.dumps(hello("a")))
    template = meter.template
    for _ in range(3 * RELEARN):
        meter.read(b"content_block_delta", orjson.dumps(hello(" and more")))
    assert meter.template is template is not None
    meter.read(b"content_block_delta", orjson.dumps(delta(1, type="text_delta", text="b")))
    assert meter.template is not template


# --- recordings ---


def served(recording: Recording) -> None:
    if recording.about["request_path"] == "/v1/complete":
        pytest.skip("Text Completions, the API before Messages, is not served")


@each_recording("anthropic-messages")
def test_usage_of_a_recording_is_what_is_billed(recording: Recording) -> None:
    served(recording)
    found = reported(metered(recording))
    assert {name: found[name] for name in recording.billed} == recording.billed


@each_recording("anthropic-messages")
def test_content_of_a_recording_is_what_its_sidecar_says(recording: Recording) -> None:
    served(recording)
    meter = metered(recording)
    kinds = recording.about["content_kinds"]
    # "other" is what a compaction writes: the answer's own tokens leave it out as well.
    assert meter.content_events == recording.about["content_events"] - kinds["other"]
    assert (meter.reasoning_bytes > 0) == (kinds["reasoning"] > 0)
    assert meter.content_bytes > 0
    assert [meter.finish] == recording.about["finish_reasons"]
    assert [meter.model] == recording.about["models"]
    # A tail is an event without its blank line, which is none: here the last one.
    assert meter.finished == (recording.about["tail_bytes"] == 0)
    assert not meter.running
    assert meter.failed is None


# --- counting ---


def test_text_thinking_and_tool_input_are_content() -> None:
    meter = read(
        START,
        hello("grüße"),
        delta(type="thinking_delta", thinking="hm"),
        TOOL,
        delta(1, type="input_json_delta", partial_json='{"a'),
    )
    assert meter.content_bytes == 7 + 2 + len("lookup") + 3
    assert meter.reasoning_bytes == 2
    assert meter.content_events == 3


@pytest.mark.parametrize(
    "event",
    [
        START,
        TEXT,
        TOOL,
        hello(""),
        delta(type="signature_delta", signature="c2ln"),
        delta(type="citations_delta", citation="cited"),
        delta(type="compaction_delta", content="summary"),
        delta(1, type="input_json_delta", partial_json=""),
        {"type": "ping"},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "web_search_tool_result", "content": []}},
        stopped(0),
        STOP,
    ],
)
def test_events_without_content(event: dict[str, Any]) -> None:
    meter = read(START, event)
    assert meter.content_bytes == meter.content_events == 0
    assert meter.failed is None


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use", "mcp_tool_use"])
def test_a_tools_name_counts_with_its_input(kind: str) -> None:
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": kind, "name": "lookup"}}
    meter = read(block)
    assert meter.content_bytes == 0
    meter.read(b"", orjson.dumps(delta(type="input_json_delta", partial_json="{}")))
    assert (meter.content_bytes, meter.content_events) == (8, 1)


def test_usage_is_replaced_field_by_field() -> None:
    """What is read from and written to the cache is input, told apart."""
    assert read(START).usage == Usage(input=27, output=1, cached=7)
    assert read(START, message_delta(output_tokens=50)).usage == Usage(input=27, output=50, cached=7)
    all_of_it = message_delta(
        input_tokens=400,
        output_tokens=50,
        cache_read_input_tokens=8,
        cache_creation_input_tokens=9,
        output_tokens_details={"thinking_tokens": 30},
    )
    assert read(START, all_of_it).usage == Usage(input=417, output=50, cached=8, cache_written=9, reasoning=30)


def test_all_steps_of_a_request_are_added_up() -> None:
    steps = [
        {"type": "compaction", "input_tokens": 100, "output_tokens": 20},
        {"type": "message", "input_tokens": 20, "cache_read_input_tokens": 7, "output_tokens": 50},
    ]
    meter = read(START, message_delta(output_tokens=50, iterations=steps))
    assert meter.usage == Usage(input=127, output=70, cached=7, cache_written=0)
    assert meter.is_final


@pytest.mark.parametrize("steps", [[], "odd", [{}], [{"input_tokens": 3, "output_tokens": 2}], [{"input_tokens": -1}]])
def test_steps_that_have_less_than_the_report_are_not_believed(steps: object) -> None:
    meter = read(START, message_delta(output_tokens=50, iterations=steps))
    assert meter.usage == Usage(input=27, output=50, cached=7)


def test_the_last_report_is_the_one_that_nothing_follows() -> None:
    said = delta(0, type="text_delta", text="hello")
    assert not read(START).is_final
    assert read(START, TEXT, said, message_delta(output_tokens=50)).is_final
    assert not read(START, TEXT, said, message_delta(output_tokens=50), said).is_final


def test_an_error_in_the_stream() -> None:
    meter = read(START, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert meter.failed == "overloaded_error: Overloaded"
    assert not meter.finished


def test_a_whole_answer() -> None:
    meter = ANTHROPIC.meter(RequestParams(), QUIRKS, cuttable=False)
    meter.read_whole(
        orjson.dumps(
            {
                "type": "message",
                "model": "claude-x",
                "content": [
                    {"type": "thinking", "thinking": "hmm", "signature": "c2ln"},
                    {"type": "text", "text": "hello"},
                    {"type": "tool_use", "name": "lookup", "input": {"a": 1}},
                ],
                "stop_reason": "tool_use",
                "usage": {"input_tokens": 5, "output_tokens": 6},
            }
        )
    )
    assert meter.usage == Usage(input=5, output=6)
    assert (meter.content_bytes, meter.reasoning_bytes) == (3 + 5 + 6 + 7, 3)
    assert (meter.model, meter.finish, meter.finished) == ("claude-x", "tool_use", True)


def test_a_whole_error() -> None:
    meter = ANTHROPIC.meter(RequestParams(), QUIRKS, cuttable=False)
    meter.read_whole(ANTHROPIC.error(LOOP))
    assert meter.failed == f"api_error: {LOOP.message}"


# --- ending ---


def test_a_cut_closes_what_is_open() -> None:
    thinking = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}}
    stream = (START, thinking, stopped(0), TOOL, delta(1, type="input_json_delta", partial_json="{"))
    events = ending(read(*stream), prompt=27)
    assert events == [
        stopped(1),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"input_tokens": 20, "cache_read_input_tokens": 7, "output_tokens": 9},
        },
        STOP,
    ]


def test_a_cut_before_anything_came_has_a_start() -> None:
    events = ending(read(params=RequestParams(model="claude-x")))
    assert [event["type"] for event in events] == ["message_start", "message_delta", "message_stop"]
    assert events[0]["message"]["model"] == "claude-x"


def test_a_cut_behind_the_reason_only_stops() -> None:
    assert ending(read(START, message_delta(output_tokens=3))) == [STOP]
    assert read(START, message_delta(output_tokens=3), STOP).ending(7, 9) == b""


def test_a_failure_is_an_error_event() -> None:
    [(name, payload, _)] = sse_events(read(START).failure(TOO_MANY_CONNECTIONS))
    assert name == b"error"
    assert payload == ANTHROPIC.error(TOO_MANY_CONNECTIONS)
    assert read(START, orjson.loads(payload)).failed is not None


# --- requests ---


@pytest.mark.parametrize(
    ("target", "serves"),
    [
        ("/v1/messages", True),
        ("/anthropic/v1/messages?beta=true", True),
        ("/v1/projects/p/locations/l/publishers/anthropic/models/claude-x@2025:streamRawPredict", True),
        ("/v1/projects/p/locations/l/publishers/google/models/gemini:streamRawPredict", False),
        ("/v1/messages/count_tokens", False),
        ("/v1/messages/batches", False),
        ("/v1/threads/t/messages", False),
        ("/v1/complete", False),
    ],
)
def test_targets(target: str, serves: bool) -> None:
    assert ANTHROPIC.serves(target) is serves


def test_what_a_request_asks() -> None:
    body = {"model": "claude-x", "stream": True, "max_tokens": 100, "metadata": {"user_id": "u1"}}
    assert ANTHROPIC.read_params("/v1/messages", body) == RequestParams(
        model="claude-x", stream=True, max_tokens=100, user="u1"
    )
    assert ANTHROPIC.read_params("/v1/messages", {}) == RequestParams()


@pytest.mark.parametrize(("method", "stream"), [("rawPredict", False), ("streamRawPredict", True)])
def test_vertex_has_the_model_in_the_path(method: str, stream: bool) -> None:
    target = f"/v1/publishers/anthropic/models/claude-x@2025:{method}"
    assert ANTHROPIC.read_params(target, {"max_tokens": 5}) == RequestParams(
        model="claude-x@2025", stream=stream, max_tokens=5
    )


@pytest.mark.parametrize(
    ("max_tokens", "budget", "most", "limited"),
    [
        (1000, None, 100, 100),
        (100, None, 100, 100),
        (50, None, 100, 50),
        (None, None, 100, 100),
        (8000, 2000, 5000, 5000),
        (8000, 2000, 100, 2001),  # the budget must be below
        (2001, 2000, 100, 2001),
        (1500, 2000, 100, 1500),  # a budget for several turns (interleaved thinking): nothing to lower
    ],
)
def test_limits(max_tokens: int | None, budget: int | None, most: int, limited: int) -> None:
    body: dict[str, Any] = {"max_tokens": max_tokens}
    if budget is not None:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    assert ANTHROPIC.limit(body, most, QUIRKS) is (limited != max_tokens)
    assert body["max_tokens"] == limited


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (502, "api_error"), (503, "overloaded_error")],
)
def test_errors(status: int, kind: str) -> None:
    error = bad_request("what to do", status=status)
    assert orjson.loads(ANTHROPIC.error(error)) == {"type": "error", "error": {"type": kind, "message": "what to do"}}
