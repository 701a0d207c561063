"""What every format promises: one suite for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserver.dialects import FORMATS, recognise
from flowserver.dialects.base import Format, Meter, RequestParams
from flowserver.errors import DRAINED, LOOP, TOO_MANY_CONNECTIONS, EndReason, bad_request, upstream_error

from ..support.corpus import Recording, recordings
from .frames import QUIRKS, meter_for, split, target_of
from .reading import sse_events

each_format = pytest.mark.parametrize("format", FORMATS.values(), ids=list(FORMATS))

patient = settings(deadline=None)
"""A busy machine is no failure."""

KINDS = ("anthropic-messages", "gemini", "cohere", "ollama-ndjson", "bedrock")

ERRORS = [
    bad_request("Say what you want."),
    upstream_error("upstream_reset", "The provider broke off.", EndReason.UPSTREAM_FAILED),
    TOO_MANY_CONNECTIONS,
    DRAINED,
    LOOP,
]

TARGETS = {
    "anthropic-messages": "/v1/messages",
    "gemini": "/v1beta/models/m:streamGenerateContent?alt=sse",
    "cohere": "/v2/chat",
    "ollama-chat": "/api/chat",
    "ollama-generate": "/api/generate",
    "bedrock-converse": "/model/m/converse-stream",
    "bedrock-invoke": "/model/m/invoke-with-response-stream",
    "openai-chat": "/v1/chat/completions",
    "openai-completions": "/v1/completions",
    "openai-responses": "/v1/responses",
    "openai-embeddings": "/v1/embeddings",
    "openai-transcriptions": "/v1/audio/transcriptions",
    "openai-images": "/v1/images/generations",
}


def words(lines: str) -> list[str]:
    return lines.split()


# Words of all formats, so that made-up events come far enough into the meters to be a danger.
KEYS = words("""
type index delta text thinking partial_json content_block name input message usage model content stop_reason role
error input_tokens output_tokens output_tokens_details candidates finishReason parts functionCall args executableCode
code usageMetadata candidatesTokenCount thoughtsTokenCount promptFeedback blockReason tool_calls function arguments
tool_plan finish_reason tokens done done_reason eval_count response contentBlockIndex start toolUse reasoningContent
stopReason outputTokens output bytes completion choices reasoning_content prompt_tokens completion_tokens id created
response item item_id part output_index content_index sequence_number status incomplete_details
amazon-bedrock-invocationMetrics
""")
WORDS = words("""
content_block_delta text_delta thinking_delta input_json_delta content_block_start tool_use content_block_stop
message_start message_delta message_stop error content-delta content-start content-end tool-call-start tool-call-delta
tool-call-end message-start message-end response.created response.output_item.added response.output_text.delta
response.content_part.added response.function_call_arguments.delta response.completed message function_call
""")
NAMES = words("""
contentBlockStart contentBlockDelta contentBlockStop messageStart messageStop metadata chunk !internalServerException
""")

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(WORDS),
)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(KEYS), anything, max_size=6)
names = st.sampled_from([b"", b"x", *(name.encode() for name in [*WORDS, *NAMES])])


def meter_of(format: Format) -> Meter:
    return format.meter(RequestParams(model="m", stream=True), QUIRKS, cuttable=True)


def framed(data: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """The events in what a meter wrote, whatever its framing; all of its bytes must be in them."""
    if data.startswith((b"data:", b"event:")):
        extension = ".sse"
    elif data.startswith(b"{"):
        extension = ".ndjson"
    else:
        extension = ".eventstream"
    events = split(data, extension)
    assert b"".join(raw for _, _, raw in events) == data
    return events


def check(meter: Meter) -> None:
    """It is in a state that makes sense, and can still end."""
    assert 0 <= meter.reasoning_bytes <= meter.content_bytes
    assert 0 <= meter.content_events <= max(meter.content_bytes, 0)
    usage = meter.usage
    for tokens in (usage.input, usage.output, usage.cached, usage.cache_written, usage.reasoning):
        assert tokens is None or tokens >= 0
        assert type(tokens) is not bool
    assert all(value is None or isinstance(value, str) for value in (meter.model, meter.finish, meter.failed))
    for _, payload, _ in framed(meter.ending(7, 5)):
        assert payload == b"[DONE]" or type(orjson.loads(payload)) is dict


# --- finding a format ---


def test_names_are_keys() -> None:
    assert {name: format.name for name, format in FORMATS.items()} == {name: name for name in FORMATS}
    assert FORMATS.keys() <= TARGETS.keys()


@each_format
def test_exactly_one_format_serves_a_target(format: Format) -> None:
    target = TARGETS[format.name]
    assert [other.name for other in FORMATS.values() if other.serves(target)] == [format.name]
    assert recognise(target) is format


@pytest.mark.parametrize(
    "target", ["/", "/v1/models", "/v1/files", "*", "", "/v1/messages/count_tokens", "//?a=/v2/chat"]
)
def test_other_targets_are_not_recognised(target: str) -> None:
    assert recognise(target) is None


@patient
@given(st.text())
def test_recognising_never_fails(target: str) -> None:
    recognise(target)


# --- formats ---


@each_format
def test_formats_hold_no_state(format: Format) -> None:
    one, other = meter_of(format), meter_of(format)
    before = other.ending(7, 3)
    for name in NAMES:
        one.read(name.encode(), b'{"type":"message_start","index":4,"contentBlockIndex":4,"message":{}}')
    assert other.ending(7, 3) == before
    assert (other.content_bytes, other.usage) == (meter_of(format).content_bytes, meter_of(format).usage)


@each_format
def test_a_heartbeat_is_no_event_with_content(format: Format) -> None:
    beat = format.heartbeat
    if beat is None or beat.startswith(b":"):
        assert beat is None or (beat.endswith(b"\n") and beat.count(b"\n") == 1)
        return
    [(name, payload, raw)] = sse_events(beat)
    meter = meter_of(format)
    assert raw == beat
    assert meter.read(name, payload)
    assert (meter.content_bytes, meter.finished, meter.failed) == (0, False, None)


@each_format
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_errors_are_json_and_say_what_happened(format: Format, error: Any) -> None:
    assert type(orjson.loads(format.error(error))) is dict
    assert error.message.encode() in format.error(error)
    failure = meter_of(format).failure(error)
    assert not failure or error.message.encode() in failure


@each_format
@patient
@given(body=objects, most=st.integers(1, 1_000_000))
def test_requests_of_any_shape_are_read_and_limited(format: Format, body: dict[str, Any], most: int) -> None:
    target = TARGETS[format.name]
    params = format.read_params(target, body)
    assert params.choices >= 1
    before = orjson.dumps(body)
    changed = format.limit(body, most, QUIRKS)
    assert changed == (orjson.dumps(body) != before)
    assert not format.limit(body, most, QUIRKS)
    limited = format.read_params(target, body).max_tokens
    assert not changed or limited is None or limited * params.choices <= max(most, params.choices, 16)
    before = orjson.dumps(body)
    assert format.ask_usage(body, QUIRKS) == (orjson.dumps(body) != before)


# --- meters, whatever they are shown ---


@each_format
def test_an_answer_of_nothing_can_end(format: Format) -> None:
    meter = meter_of(format)
    check(meter)
    assert (meter.content_bytes, meter.content_events, meter.finished, meter.running) == (0, 0, False, False)


@each_format
@patient
@given(events=st.lists(st.tuples(names, st.binary(max_size=40)), max_size=4))
def test_bytes_of_any_kind(format: Format, events: list[tuple[bytes, bytes]]) -> None:
    meter = meter_of(format)
    for name, data in events:
        meter.read(name, data)
        meter.read_whole(data)
    check(meter)


@each_format
@patient
@given(events=st.lists(st.tuples(names, anything), max_size=6))
def test_json_of_any_shape(format: Format, events: list[tuple[bytes, Any]]) -> None:
    meter, whole = meter_of(format), meter_of(format)
    for name, event in events:
        meter.read(name, orjson.dumps(event))
        whole.read_whole(orjson.dumps(event))
    check(meter)
    check(whole)


@each_format
@pytest.mark.parametrize("depth", [200, 300, 900, 100_000])
def test_json_of_any_depth(format: Format, depth: int) -> None:
    meter = meter_of(format)
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = opening * depth + b"1" + closing * depth
        for event in (
            deep,
            b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":%b}}]}}]}' % deep,
            b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":%b}}]}}' % deep,
            b'{"type":"message","content":[{"type":"tool_use","name":"f","input":%b}]}' % deep,
            b'{"error":%b}' % deep,
            b'{"type":"error","error":%b}' % deep,
        ):
            meter.read(b"", event)
            meter.read_whole(event)
    check(meter)


def nested_in_calls(depth: int, call: Callable[[], object]) -> object:
    return call() if depth == 0 else nested_in_calls(depth - 1, call)


@pytest.mark.parametrize("depth", [500, 900, 970, 985])
@pytest.mark.parametrize(
    ("format", "name", "start"),
    [
        ("openai-chat", b"", b'{"choices":[{"delta":{"content":"x"}}]'),
        (
            "anthropic-messages",
            b"content_block_delta",
            b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}',
        ),
    ],
    ids=["chat", "messages"],
)
def test_content_beside_deep_values_is_counted(format: str, name: bytes, start: bytes, depth: int) -> None:
    """Also where little is left of the stack, as in a relay."""
    meter = meter_of(FORMATS[format])
    data = b'%b,"x":%b%b}' % (start, b"[" * depth, b"]" * depth)
    nested_in_calls(60, lambda: meter.read(name, data))
    assert (meter.content_bytes, meter.content_events) == (1, 1)


@pytest.mark.parametrize("index", [[], {}, "0", 0.5, None, True])
def test_a_choice_with_an_odd_index_is_the_first(index: object) -> None:
    meter = meter_of(FORMATS["openai-chat"])
    meter.read(b"", orjson.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    meter.read(b"", orjson.dumps({"choices": [{"index": index, "delta": {}}], "usage": usage}))
    assert (meter.usage.output, meter.is_final) == (2, True)


def paths(event: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in `event`."""
    if path:
        yield path
    children = event.items() if isinstance(event, dict) else enumerate(event) if isinstance(event, list) else ()
    for key, value in children:
        yield from paths(value, (*path, key))


def small(kind: str) -> list[Recording]:
    found = recordings(kind)
    return [one for one in found if len(one.body) < 20_000 and one.path.suffix != ".jsonarray" and recognised(one)]


def recognised(recording: Recording) -> bool:
    return recognise(target_of(recording)) is not None


@pytest.mark.parametrize("kind", KINDS)
@patient
@given(data=st.data())
def test_recorded_events_with_a_wrong_value(kind: str, data: st.DataObject) -> None:
    found = small(kind)
    if not found:
        pytest.skip("FLOW_CORPUS does not name a folder of recordings")
    recording = data.draw(st.sampled_from(found))
    meter = meter_for(recording)
    events = split(recording.body, recording.path.suffix)
    wrong = data.draw(st.integers(0, len(events) - 1))
    for index, (name, payload, _) in enumerate(events):
        if index == wrong and payload != b"[DONE]":
            payload = spoiled(payload, data)
        meter.read(name, payload)
        check(meter)


def spoiled(payload: bytes, data: st.DataObject) -> bytes:
    event = orjson.loads(payload)
    *way, last = data.draw(st.sampled_from(list(paths(event))))
    place = event
    for step in way:
        place = place[step]
    place[last] = data.draw(anything)
    return orjson.dumps(event)
