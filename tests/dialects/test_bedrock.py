"""Bedrock: what is counted, and how a stream is ended, in frames."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from copy import deepcopy
from typing import Any

import orjson
import pytest

from flowserver.dialects.base import Format, Meter, RequestParams, Usage
from flowserver.dialects.bedrock import BEDROCK_CONVERSE, BEDROCK_INVOKE, encode_frame
from flowserver.errors import LOOP, TOO_MANY_CONNECTIONS, bad_request

from ..support.corpus import Recording, each_recording
from .frames import QUIRKS, metered, reported, split_frames

METRICS = "amazon-bedrock-invocationMetrics"


def converse(*events: tuple[str, dict[str, Any]]) -> Meter:
    meter = BEDROCK_CONVERSE.meter(RequestParams(), QUIRKS, cuttable=True)
    for name, event in events:
        assert meter.read(name.encode(), orjson.dumps(event))
    return meter


def invoke(*chunks: dict[str, Any], model: str | None = None) -> Meter:
    meter = BEDROCK_INVOKE.meter(RequestParams(model=model), QUIRKS, cuttable=True)
    for chunk in chunks:
        assert meter.read(b"chunk", orjson.dumps({"bytes": b64encode(orjson.dumps(chunk)).decode()}))
    return meter


def said(index: int = 0, **delta: Any) -> tuple[str, dict[str, Any]]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": delta, "p": "abcdef"}


def ending(meter: Meter) -> list[tuple[str, Any]]:
    return [(name.decode(), orjson.loads(payload)) for name, payload, _ in split_frames(meter.ending(7, 9))]


def chunks(meter: Meter) -> list[dict[str, Any]]:
    frames = ending(meter)
    assert {name for name, _ in frames} <= {"chunk"}
    return [orjson.loads(b64decode(payload["bytes"])) for _, payload in frames]


TOOL = "contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": {"name": "lookup", "toolUseId": "t"}}}
STARTED = "messageStart", {"role": "assistant"}
METADATA = "metadata", {"usage": {"inputTokens": 5, "outputTokens": 6, "cacheReadInputTokens": 7}}


# --- recordings ---


@each_recording("bedrock")
def test_usage_of_a_recording_is_what_its_sidecar_says(recording: Recording) -> None:
    found = reported(metered(recording))
    expected = {name: tokens for name, tokens in recording.about["usage"].items() if name != "total"}
    # Zeros for the cache, in Anthropic's first event, are in no sidecar here.
    assert {name: tokens for name, tokens in found.items() if tokens} == expected


@each_recording("bedrock")
def test_content_of_a_recording_is_what_its_sidecar_says(recording: Recording) -> None:
    meter = metered(recording)
    assert meter.content_events == recording.about["content_events"]
    assert (meter.reasoning_bytes > 0) == (recording.about["content_kinds"]["reasoning"] > 0)
    assert meter.finish == recording.about["finish_reasons"][0]
    assert meter.finished


@each_recording("bedrock")
def test_frames_are_encoded_as_recorded(recording: Recording) -> None:
    for name, payload, frame in split_frames(recording.body):
        assert encode_frame(orjson.loads(payload), name.decode()) == frame


# --- Converse ---


def test_content_of_converse() -> None:
    meter = converse(
        STARTED,
        said(reasoningContent={"text": "hm"}),
        said(reasoningContent={"signature": "c2ln"}),
        said(text="grüße"),
        TOOL,
        said(1, toolUse={"input": "{}"}),
        said(2, toolResult=[{"text": "found"}]),
        said(3, citation={"title": "facts"}),
    )
    assert meter.content_bytes == 2 + 7 + len("lookup") + 2
    assert meter.reasoning_bytes == 2
    assert meter.content_events == 3


def test_the_last_event_reports() -> None:
    meter = converse(STARTED, ("messageStop", {"stopReason": "end_turn"}), METADATA)
    assert meter.usage == Usage(input=12, output=6, cached=7)
    assert (meter.finish, meter.finished) == ("end_turn", True)
    assert meter.ending(7, 9) == b""


def test_a_cut_of_converse() -> None:
    usage = {"inputTokens": 7, "outputTokens": 9, "totalTokens": 16}
    metadata = "metadata", {"usage": usage, "metrics": {"latencyMs": 0}}
    stop = "messageStop", {"stopReason": "max_tokens"}
    end = "contentBlockStop", {"contentBlockIndex": 0}
    assert ending(converse()) == [STARTED, stop, metadata]
    assert ending(converse(STARTED, said(text="a"))) == [end, stop, metadata]
    assert ending(converse(STARTED, said(text="a"), end)) == [stop, metadata]
    assert ending(converse(STARTED, TOOL))[0] == ("contentBlockStop", {"contentBlockIndex": 1})
    assert ending(converse(STARTED, ("messageStop", {"stopReason": "end_turn"}))) == [metadata]


def test_a_whole_answer_of_converse() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "hm"}}},
        {"text": "hello"},
        {"toolUse": {"name": "lookup", "input": {}}},
    ]
    answer = {"output": {"message": {"content": content}}, "stopReason": "tool_use", "usage": METADATA[1]["usage"]}
    meter = BEDROCK_CONVERSE.meter(RequestParams(), QUIRKS, cuttable=False)
    meter.read_whole(orjson.dumps(answer))
    assert (meter.content_bytes, meter.reasoning_bytes, meter.finish) == (2 + 5 + 6 + 2, 2, "tool_use")
    assert meter.usage.output == 6


# --- InvokeModel ---

MESSAGE = {"type": "message_start", "message": {"model": "claude-x", "usage": {"input_tokens": 5, "output_tokens": 1}}}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
HELLO = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}


def test_anthropic_inside() -> None:
    meter = invoke(MESSAGE, BLOCK, HELLO)
    assert (meter.content_bytes, meter.content_events, meter.model) == (5, 1, "claude-x")
    cut = chunks(meter)
    assert [event["type"] for event in cut] == ["content_block_stop", "message_delta", "message_stop"]
    assert cut[1]["delta"]["stop_reason"] == "max_tokens"
    assert cut[2][METRICS] == {"inputTokenCount": 7, "outputTokenCount": 9}


def test_metrics_are_the_last_word() -> None:
    delta = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 134}}
    stop = {"type": "message_stop", METRICS: {"inputTokenCount": 5, "outputTokenCount": 90}}
    meter = invoke(MESSAGE, delta, stop)
    assert meter.usage == Usage(input=5, output=90)
    assert meter.finished
    assert meter.ending(7, 9) == b""


@pytest.mark.parametrize(
    ("chunk", "end"),
    [
        ({"completion": "hello", "stop_reason": None}, {"completion": "", "stop_reason": "max_tokens", "stop": None}),
        ({"generation": "hello"}, {"generation": "", "stop_reason": "length"}),
        ({"outputText": "hello", "index": 0}, {"outputText": "", "completionReason": "LENGTH"}),
        ({"text": "hello", "is_finished": False}, {"is_finished": True, "finish_reason": "MAX_TOKENS"}),
    ],
)
def test_other_models_inside(chunk: dict[str, Any], end: dict[str, Any]) -> None:
    meter = invoke(chunk)
    assert (meter.content_bytes, meter.content_events, meter.finish) == (5, 1, None)
    assert chunks(meter) == [end | {METRICS: {"inputTokenCount": 7, "outputTokenCount": 9}}]
    assert invoke(end).finish is not None


def test_a_cut_before_anything_came() -> None:
    started, delta, stop = chunks(invoke(model="us.anthropic.claude-x"))
    assert started["message"]["model"] == "us.anthropic.claude-x"
    assert delta["delta"]["stop_reason"] == "max_tokens"
    assert stop["type"] == "message_stop"
    assert invoke(model="amazon.titan").ending(7, 9) == b""


def test_whole_answers_of_invoke() -> None:
    for body in ({"type": "message", "content": [{"type": "text", "text": "hello"}]}, {"generation": "hello"}):
        meter = BEDROCK_INVOKE.meter(RequestParams(), QUIRKS, cuttable=False)
        meter.read_whole(orjson.dumps(body))
        assert (meter.content_bytes, meter.finished) == (5, True)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0), (1, 0, 1, 0)])
def test_an_own_form_mixed_with_that_of_converse_is_counted_whole(order: tuple[int, ...]) -> None:
    mixed = ({"outputText": "hello"}, {"contentBlockDelta": said(text="hello")[1]})
    meter = invoke(*(mixed[each] for each in order))
    assert meter.content_bytes == 5 * len(order)


# --- both ---


@pytest.mark.parametrize("format", [BEDROCK_CONVERSE, BEDROCK_INVOKE])
def test_a_failure_is_an_exception(format: Any) -> None:
    meter = format.meter(RequestParams(), QUIRKS, cuttable=True)
    [(name, payload, _)] = split_frames(meter.failure(TOO_MANY_CONNECTIONS))
    assert name == b"!serviceUnavailableException"
    assert meter.read(name, payload)
    assert meter.failed == f"serviceUnavailableException: {TOO_MANY_CONNECTIONS.message}"[:200]
    [(name, _, _)] = split_frames(meter.failure(LOOP))
    assert name == b"!modelStreamErrorException"


def test_a_frame() -> None:
    frame = encode_frame({"a": 1}, "messageStop")
    assert len(frame) == int.from_bytes(frame[:4], "big")
    assert zlib.crc32(frame[:8]) == int.from_bytes(frame[8:12], "big")
    assert zlib.crc32(frame[:-4]) == int.from_bytes(frame[-4:], "big")
    assert split_frames(frame) == [(b"messageStop", b'{"a":1}', frame)]


@pytest.mark.parametrize(
    ("method", "format", "stream"),
    [
        ("converse", BEDROCK_CONVERSE, False),
        ("converse-stream", BEDROCK_CONVERSE, True),
        ("invoke", BEDROCK_INVOKE, False),
        ("invoke-with-response-stream", BEDROCK_INVOKE, True),
    ],
)
def test_targets(method: str, format: Any, stream: bool) -> None:
    target = f"/model/us.anthropic.claude-x-v1%3A0/{method}"
    assert format.serves(target)
    assert not (BEDROCK_INVOKE if format is BEDROCK_CONVERSE else BEDROCK_CONVERSE).serves(target)
    assert format.read_params(target, {}) == RequestParams(model="us.anthropic.claude-x-v1:0", stream=stream)


def test_requests() -> None:
    assert not BEDROCK_CONVERSE.serves("/model/m/count-tokens")
    body: dict[str, Any] = {"inferenceConfig": {"maxTokens": 50}}
    assert BEDROCK_CONVERSE.read_params("/model/m/converse", body).max_tokens == 50
    assert BEDROCK_INVOKE.read_params("/model/m/invoke", {"max_tokens": 60}).max_tokens == 60
    assert not BEDROCK_CONVERSE.limit(body, 50, QUIRKS)
    assert BEDROCK_CONVERSE.limit(body, 5, QUIRKS)
    assert body == {"inferenceConfig": {"maxTokens": 5}}


@pytest.mark.parametrize(
    ("format", "before", "after"),
    [
        (BEDROCK_CONVERSE, {}, {"inferenceConfig": {"maxTokens": 5}}),
        (BEDROCK_CONVERSE, {"inferenceConfig": {"topP": 1}}, {"inferenceConfig": {"topP": 1, "maxTokens": 5}}),
        (BEDROCK_CONVERSE, {"inferenceConfig": 3}, {"inferenceConfig": 3}),
        (BEDROCK_INVOKE, {}, {}),
        (BEDROCK_INVOKE, {"max_gen_len": 9}, {"max_gen_len": 5}),
        (BEDROCK_INVOKE, {"max_tokens_to_sample": 9}, {"max_tokens_to_sample": 5}),
        (
            BEDROCK_INVOKE,
            {"textGenerationConfig": {"maxTokenCount": 9}},
            {"textGenerationConfig": {"maxTokenCount": 5}},
        ),
        (BEDROCK_INVOKE, {"inferenceConfig": {"max_new_tokens": 9}}, {"inferenceConfig": {"max_new_tokens": 5}}),
    ],
)
def test_the_bound_is_lowered_where_the_model_has_it(
    format: Format, before: dict[str, Any], after: dict[str, Any]
) -> None:
    body = deepcopy(before)
    assert format.limit(body, 5, QUIRKS) == (before != after)
    assert body == after


@pytest.mark.parametrize(("status", "kind"), [(429, "ThrottlingException"), (502, "InternalServerException")])
def test_errors(status: int, kind: str) -> None:
    found = orjson.loads(BEDROCK_CONVERSE.error(bad_request("what to do", status=status)))
    assert found == {"__type": kind, "message": "what to do"}
