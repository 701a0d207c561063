"""Ollama: what is counted, and how a stream is ended."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowserver.dialects.base import Format, Meter, RequestParams, Usage
from flowserver.dialects.ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from flowserver.errors import TOO_MANY_CONNECTIONS

from ..support.corpus import Recording, each_recording
from .frames import QUIRKS, metered, reported

NOW = "2026-01-01T00:00:00Z"


def said(**message: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": NOW, "message": {"role": "assistant", **message}, "done": False}


def read(format: Format, *events: dict[str, Any]) -> Meter:
    meter = format.meter(RequestParams(model="asked"), QUIRKS, cuttable=True)
    for event in events:
        assert meter.read(b"", orjson.dumps(event))
    return meter


@each_recording("ollama-ndjson")
def test_a_recording_is_what_its_sidecar_says(recording: Recording) -> None:
    meter = metered(recording)
    found, about = reported(meter), recording.about
    expected = {name: tokens for name, tokens in about["usage"].items() if name != "total" and tokens is not None}
    assert {name: tokens for name, tokens in found.items() if tokens is not None} == expected
    assert meter.content_events == about["content_events"]
    assert (meter.reasoning_bytes > 0) == (about["content_kinds"]["reasoning"] > 0)
    assert [meter.finish] == about["finish_reasons"]
    assert [meter.model] == about["models"]
    assert meter.finished


def test_content_of_a_chat() -> None:
    meter = read(
        OLLAMA_CHAT,
        said(content="", thinking="hm"),
        said(content="grüße"),
        said(content="", tool_calls=[{"function": {"name": "add", "arguments": {"x": 2}}}]),
        said(content=""),
    )
    assert meter.content_bytes == 2 + 7 + 3 + 7
    assert meter.reasoning_bytes == 2
    assert meter.content_events == 3


def test_content_of_generate() -> None:
    meter = read(OLLAMA_GENERATE, {"response": "", "thinking": "hm"}, {"response": "hello"})
    assert (meter.content_bytes, meter.reasoning_bytes, meter.content_events) == (7, 2, 2)


def test_the_last_line_reports() -> None:
    last = said(content="") | {"done": True, "done_reason": "stop", "eval_count": 9, "prompt_eval_count": 5}
    meter = read(OLLAMA_CHAT, said(content="a"), last)
    assert meter.usage == Usage(input=5, output=9)
    assert (meter.finish, meter.finished) == ("stop", True)


def test_an_error_in_the_stream() -> None:
    meter = read(OLLAMA_CHAT)
    assert meter.failure(TOO_MANY_CONNECTIONS) == OLLAMA_CHAT.error(TOO_MANY_CONNECTIONS) + b"\n"
    meter.read(b"", OLLAMA_CHAT.error(TOO_MANY_CONNECTIONS))
    assert meter.failed == TOO_MANY_CONNECTIONS.message


@pytest.mark.parametrize(
    ("format", "content"),
    [(OLLAMA_CHAT, {"message": {"role": "assistant", "content": ""}}), (OLLAMA_GENERATE, {"response": ""})],
)
def test_a_cut(format: Format, content: dict[str, Any]) -> None:
    line = read(format, said(content="a")).ending(7, 9)
    assert line.endswith(b"}\n")
    expected = {"model": "m", "created_at": NOW, "done": True, "done_reason": "length"} | content
    expected |= {"prompt_eval_count": 7, "eval_count": 9}
    assert orjson.loads(line) == expected
    assert orjson.loads(read(format).ending(7, 9))["model"] == "asked"
    assert read(format, orjson.loads(line)).finish == "length"


def test_a_whole_answer() -> None:
    meter = OLLAMA_CHAT.meter(RequestParams(), QUIRKS, cuttable=False)
    meter.read_whole(orjson.dumps(said(content="hello") | {"done": True, "done_reason": "stop", "eval_count": 2}))
    assert (meter.content_bytes, meter.usage.output, meter.finish) == (5, 2, "stop")


def test_requests() -> None:
    assert OLLAMA_CHAT.serves("/api/chat")
    assert not OLLAMA_CHAT.serves("/api/generate")
    assert OLLAMA_GENERATE.serves("/api/generate?x")
    assert OLLAMA_CHAT.read_params("/api/chat", {"model": "m"}) == RequestParams(model="m", stream=True)
    body = {"stream": False, "options": {"num_predict": 5}}
    assert OLLAMA_CHAT.read_params("/api/chat", body) == RequestParams(max_tokens=5)


@pytest.mark.parametrize(
    ("options", "limited"),
    [(None, 7), ({}, 7), ({"num_predict": -1}, 7), ({"num_predict": 9}, 7), ({"num_predict": 3}, 3)],
)
def test_limits(options: dict[str, int] | None, limited: int) -> None:
    body = {"options": options}
    assert OLLAMA_CHAT.limit(body, 7, QUIRKS) is (limited == 7)
    assert body == {"options": {"num_predict": limited}}
