"""Cohere's chat: what is counted, and how a stream is ended."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowserver.dialects.base import Meter, RequestParams, Usage
from flowserver.dialects.cohere import COHERE
from flowserver.errors import TOO_MANY_CONNECTIONS

from ..support.corpus import Recording, each_recording
from .frames import QUIRKS, metered, reported
from .reading import sse_events

START = {"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant"}}}
USAGE = {
    "billed_units": {"input_tokens": 2, "output_tokens": 3},
    "tokens": {"input_tokens": 20, "output_tokens": 30, "reasoning_tokens": 5},
    "cached_tokens": 16,
}


def said(kind: str, index: int = 0, **message: Any) -> dict[str, Any]:
    return {"type": kind, "index": index, "delta": {"message": message}}


def end(**delta: Any) -> dict[str, Any]:
    return {"type": "message-end", "delta": delta}


CONTENT = said("content-start", content={"type": "text", "text": ""})
TOOL = said("tool-call-start", tool_calls={"id": "t", "function": {"name": "lookup", "arguments": ""}})


def read(*events: dict[str, Any]) -> Meter:
    meter = COHERE.meter(RequestParams(), QUIRKS, cuttable=True)
    for event in events:
        assert meter.read(event["type"].encode(), orjson.dumps(event))
    return meter


def ending(meter: Meter) -> list[dict[str, Any]]:
    *events, done = sse_events(meter.ending(7, 9))
    assert done[1] == b"[DONE]"
    loaded = [orjson.loads(payload) for _, payload, _ in events]
    assert [name.decode() for name, _, _ in events] == [event["type"] for event in loaded]
    return loaded


def served(recording: Recording) -> None:
    if recording.about["request_path"] == "/v1/chat":
        pytest.skip("version 1 of the API is another format, which is not served")


@each_recording("cohere")
def test_usage_of_a_recording_is_what_its_sidecar_says(recording: Recording) -> None:
    served(recording)
    found, raw = reported(metered(recording)), recording.about["usage_raw"]
    # The sidecar's own summary leaves out what is not in every format's report.
    assert found == {
        "input_tokens": recording.about["usage"]["input_tokens"],
        "output_tokens": recording.about["usage"]["output_tokens"],
        "cache_read_input_tokens": raw.get("cached_tokens"),
        "cache_creation_input_tokens": None,
        "reasoning_tokens": raw["tokens"].get("reasoning_tokens"),
    }


@each_recording("cohere")
def test_content_of_a_recording_is_what_its_sidecar_says(recording: Recording) -> None:
    served(recording)
    meter = metered(recording)
    assert meter.content_events == recording.about["content_events"]
    assert (meter.reasoning_bytes > 0) == (recording.about["content_kinds"]["reasoning"] > 0)
    assert [meter.finish] == recording.about["finish_reasons"]
    assert meter.finished


def test_content() -> None:
    meter = read(
        START,
        said("tool-plan-delta", tool_plan="I look"),
        TOOL,
        said("tool-call-delta", tool_calls={"function": {"arguments": "{}"}}),
        CONTENT,
        said("content-delta", content={"thinking": "hm"}),
        said("content-delta", content={"text": "grüße"}),
        said("content-delta", content={"text": ""}),
        said("citation-start", citations={"text": "cited"}),
    )
    assert meter.content_bytes == 6 + len("lookup") + 2 + 2 + 7
    assert meter.reasoning_bytes == 2
    assert meter.content_events == 4


def test_usage_is_in_tokens_not_in_what_is_billed() -> None:
    meter = read(START, end(finish_reason="COMPLETE", usage=USAGE))
    assert meter.usage == Usage(input=20, output=30, cached=16, reasoning=5)
    assert (meter.finish, meter.finished, meter.failed) == ("COMPLETE", True, None)


def test_a_cut_closes_what_is_open() -> None:
    over = {"type": "content-end", "index": 0}
    tokens = {"input_tokens": 7, "output_tokens": 9}
    last = end(finish_reason="MAX_TOKENS", usage={"billed_units": tokens, "tokens": tokens})
    assert ending(read(START, CONTENT)) == [over, last]
    assert ending(read(START, CONTENT, over)) == [last]
    assert ending(read(START, CONTENT, over, TOOL)) == [{"type": "tool-call-end", "index": 0}, last]
    assert [event["type"] for event in ending(read())] == ["message-start", "message-end"]
    assert read(START, end(finish_reason="COMPLETE", usage=USAGE)).ending(7, 9) == b""


def test_a_failure_is_read_as_one() -> None:
    meter = read(START)
    [(name, payload, _)] = sse_events(meter.failure(TOO_MANY_CONNECTIONS))
    assert name == b"message-end"
    assert read(START, orjson.loads(payload)).failed == TOO_MANY_CONNECTIONS.message


def test_a_whole_answer() -> None:
    meter = COHERE.meter(RequestParams(), QUIRKS, cuttable=False)
    message = {
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "hello"}],
        "tool_plan": "I look",
        "tool_calls": [{"function": {"name": "lookup", "arguments": "{}"}}],
    }
    meter.read_whole(orjson.dumps({"message": message, "finish_reason": "TOOL_CALL", "usage": USAGE}))
    assert (meter.content_bytes, meter.reasoning_bytes) == (2 + 5 + 6 + 8, 2)
    assert meter.usage.output == 30
    assert meter.finish == "TOOL_CALL"


def test_requests() -> None:
    assert COHERE.serves("/v2/chat?x=1")
    assert not COHERE.serves("/v1/chat")
    body: dict[str, Any] = {"model": "command-x", "stream": True, "max_tokens": 100}
    assert COHERE.read_params("/v2/chat", body) == RequestParams(model="command-x", stream=True, max_tokens=100)
    assert not COHERE.limit(body, 100, QUIRKS)
    assert COHERE.limit(body, 60, QUIRKS)
    assert body["max_tokens"] == 60
    assert orjson.loads(COHERE.error(TOO_MANY_CONNECTIONS)) == {"message": TOO_MANY_CONNECTIONS.message}
