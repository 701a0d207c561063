"""The first content of an answer is noticed, by an independent reading of recorded streams, and nothing before it."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from flowserver.dialects import recognise
from flowserver.dialects.base import RequestParams
from flowserver.dialects.profiles import GENERIC
from flowserver.http.messages import ResponseHead
from flowserver.relay.content_watch import ContentWatch
from tests.support.corpus import Recording, each_recording
from tests.support.replay import content_type, is_served, path_of

SSE, NDJSON, JSON = b"text/event-stream", b"application/x-ndjson", b"application/json"


def watch(path: str | None, media_type: bytes = SSE, *, stream: bool = True, **fields: bytes) -> ContentWatch:
    known = recognise(path) if path is not None else None
    assert (known is None) is (path is None)
    made = ContentWatch(known, RequestParams(stream=stream), GENERIC)
    named = [(name.replace("_", "-").encode(), value) for name, value in fields.items()]
    made.open(ResponseHead(200, [(b"content-type", media_type), *named]))
    return made


def sse(*events: object) -> list[bytes]:
    return [b"data: %b\n\n" % (event if isinstance(event, bytes) else json.dumps(event).encode()) for event in events]


def first_at(made: ContentWatch, pieces: list[bytes]) -> int | None:
    """The piece at which content is noticed."""
    return next((number for number, piece in enumerate(pieces) if made.feed(piece)), None)


# An independent reading: events as (end, payload), and whether one shows output


def events_of(recording: Recording) -> Iterator[tuple[int, dict[str, Any]]]:
    body = recording.body
    if recording.path.suffix == ".eventstream":
        start = 0
        while start < len(body):
            size, fields = struct.unpack_from(">II", body, start)
            payload = json.loads(body[start + 12 + fields : start + size - 4] or b"{}")
            name = re.search(rb":event-type\x07..([A-Za-z]+)", body[start : start + 12 + fields])
            if "bytes" in payload:
                payload = json.loads(base64.b64decode(payload["bytes"]))
            start += size
            yield start, {**payload, "event": name[1].decode() if name else ""}
    elif recording.path.suffix == ".jsonarray":
        text, decoder = body.decode(), json.JSONDecoder()
        at = text.index("{")
        while at >= 0:
            event, at = decoder.raw_decode(text, at)
            yield len(text[:at].encode()), event
            at = text.find("{", at)
    elif recording.path.suffix == ".ndjson":
        end = 0
        for line in body.splitlines(keepends=True):
            end += len(line)
            if line.strip():
                yield end, json.loads(line)
    else:
        start = 0
        for blank in re.finditer(rb"\r?\n\r?\n", body):
            lines = body[start : blank.end()]
            start = blank.end()
            data = b"\n".join(re.findall(rb"^data: ?(.*?)\r?$", lines, re.MULTILINE))
            if data:
                yield start, {"type": "done"} if data.startswith(b"[DONE]") else json.loads(data)


OUTPUT = {
    "content",
    "text",
    "reasoning_content",
    "reasoning",
    "thinking",
    "partial_json",
    "arguments",
    "transcript",
    "refusal",
    "response",
    "completion",
    "generation",
    "outputText",
    "tool_plan",
    "input",
    "name",
    "code",
    "thoughtSignature",
    "delta",
    "data",
    "finish_reason",
    "finishReason",
    "stop_reason",
    "done_reason",
}
BEFORE = {"message_start", "response.created", "response.in_progress", "response.queued", "message-start", "ping"}


def shows(event: dict[str, Any]) -> bool:
    """Whether anything in it is a text where formats have their output, or opens what is no text."""
    kind = event.get("type")
    if kind in BEFORE or event.get("event") == "messageStart":
        return False
    if kind == "content_block_start":
        return bool(event["content_block"]["type"] != "text" or event["content_block"].get("text"))
    if kind == "response.output_item.added":
        return bool(event["item"]["type"] != "message")
    if kind == "content_block_delta" and event["delta"]["type"] == "citations_delta":
        return True
    if kind == "response.content_part.added":
        return False
    if kind in ("done", "error"):
        return True
    return _has_output(event)


def _has_output(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_has_output, value))
    if not isinstance(value, dict):
        return False
    return any(
        (name in OUTPUT and isinstance(inner, str) and inner != "") or _has_output(inner)
        for name, inner in value.items()
    )


@each_recording()
def test_recorded_streams(recording: Recording) -> None:
    media_type = content_type(recording).encode()
    if not is_served(recording):
        assert first_at(watch(None, media_type), [b" ", b"\n", recording.body]) == 2
        return
    expected = next((end for end, event in events_of(recording) if shows(event)), None)
    made = watch(path_of(recording), media_type)
    body = recording.body
    if expected is None:
        assert not made.feed(body)
        return
    noticed = next((at + 1 for at in range(len(body)) if made.feed(body[at : at + 1])), None)
    # CR ends a line of server-sent events, whether LF follows or not.
    assert noticed == expected - body[:expected].endswith(b"\r\n"), body[:noticed]
    once = watch(path_of(recording), media_type)
    assert not once.feed(body[: noticed - 1])
    assert once.feed(body[noticed - 1 :])


# Each format, by the events that it begins with


CHAT, RESPONSES, ANTHROPIC = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI, COHERE, OLLAMA = "/v1beta/models/g:streamGenerateContent?alt=sse", "/v2/chat", "/api/chat"


def delta(**fields: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


def named(kind: str, **fields: object) -> dict[str, Any]:
    return {"type": kind, **fields}


def block(kind: str, **fields: object) -> dict[str, Any]:
    return named("content_block_start", index=0, content_block={"type": kind, **fields})


def item(kind: str, **fields: object) -> dict[str, Any]:
    return named("response.output_item.added", output_index=0, item={"type": kind, **fields})


def parts(*given: dict[str, Any]) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(given)}}]}


LONG = "i" * 100_000
BEGINNINGS: dict[str, tuple[str, list[bytes]]] = {
    "chat": (
        CHAT,
        [b": OPENROUTER PROCESSING\n\n", *sse(delta(role="assistant", content=""), delta(), delta(content="a"))],
    ),
    "chat-reasoning": (CHAT, sse(delta(role="assistant", content=None), delta(reasoning_content="a"))),
    "chat-encrypted": (CHAT, sse(delta(role="assistant"), delta(reasoning_details=[{"type": "x", "data": "a"}]))),
    "chat-call": (CHAT, sse(delta(role="assistant"), delta(tool_calls=[{"function": {"name": "f", "arguments": ""}}]))),
    "chat-sound": (CHAT, sse(delta(role="assistant"), delta(audio={"data": "UklG"}))),
    "chat-filter": (
        CHAT,
        sse({"choices": [], "prompt_filter_results": [{}]}, delta(role="assistant"), delta(refusal="n")),
    ),
    "chat-usage": (CHAT, sse({**delta(role="assistant"), "usage": {"prompt_tokens": 3}}, delta(content="a"))),
    "chat-error": (CHAT, sse(delta(role="assistant"), {"error": {"message": "overloaded"}})),
    "chat-ends": (CHAT, sse(delta(role="assistant"), {"choices": [{"delta": {}, "finish_reason": "stop"}]})),
    "chat-nonsense": (CHAT, sse(delta(role="assistant"), b"{")),
    "completions": ("/v1/completions", sse({"choices": [{"text": ""}]}, {"choices": [{"text": "a"}]})),
    "responses": (
        RESPONSES,
        sse(
            named("response.created", response={"instructions": LONG}),
            named("response.in_progress", response={"instructions": LONG}),
            item("message"),
            named("response.content_part.added", part={"type": "output_text", "text": ""}),
            named("response.output_text.delta", delta="a"),
        ),
    ),
    "responses-reasoning": (RESPONSES, sse(named("response.created", response={}), item("reasoning"))),
    "responses-call": (
        RESPONSES,
        sse(named("response.created", response={}), item("function_call", call_id="c", name="f")),
    ),
    "anthropic": (
        ANTHROPIC,
        sse(named("message_start", message={"usage": {}}), block("text", text=""), named("ping"))
        + sse(named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})),
    ),
    "anthropic-hidden": (ANTHROPIC, sse(named("message_start", message={}), block("redacted_thinking", data="a"))),
    "anthropic-call": (ANTHROPIC, sse(named("message_start", message={}), block("tool_use", name="f", input={}))),
    "anthropic-overloaded": (ANTHROPIC, sse(named("error", error={"type": "overloaded_error"}))),
    "gemini": (GEMINI, sse(parts(), parts({"text": ""}), parts({"text": "a"}))),
    "gemini-picture": (GEMINI, sse(parts({"text": ""}), parts({"inlineData": {"data": "a"}}))),
    "cohere": (
        COHERE,
        sse(
            named("message-start", delta={}),
            named("content-start", index=0, delta={"message": {"content": {"type": "text", "text": ""}}}),
            named("content-delta", index=0, delta={"message": {"content": {"text": "a"}}}),
        ),
    ),
    "images": ("/v1/images/generations", sse(named("image_generation.partial_image", b64_json="a"))),
    "transcription": (
        "/v1/audio/transcriptions",
        sse(named("transcript.text.delta", delta=""), named("transcript.text.delta", delta="a")),
    ),
}


@pytest.mark.parametrize(("path", "pieces"), BEGINNINGS.values(), ids=BEGINNINGS.keys())
def test_the_last_of_these_is_the_first_content(path: str, pieces: list[bytes]) -> None:
    assert first_at(watch(path), pieces) == len(pieces) - 1


def test_ollama_s_lines() -> None:
    lines = [b'{"message":{"content":""},"done":false}\n', b'{"message":{"thinking":"a"},"done":false}\n']
    assert first_at(watch(OLLAMA, NDJSON), lines) == 1


def test_a_stream_by_its_first_bytes() -> None:
    pieces = [b"", b"data", *sse(delta(role="assistant"))]
    pieces[-1] = pieces[-1].removeprefix(b"data")
    assert first_at(watch(CHAT, b"text/plain"), [*pieces, *sse(delta(content="a"))]) == 3


@pytest.mark.parametrize("path", [None, CHAT, ANTHROPIC])
def test_a_whole_answer_has_content_with_its_first_byte_that_is_not_blank(path: str | None) -> None:
    assert first_at(watch(path, JSON, stream=False), [b"\n", b"  ", b"{"]) == 2


def test_what_is_compressed_or_not_known_has_content_with_its_first_byte() -> None:
    assert first_at(watch(CHAT, SSE, content_encoding=b"gzip"), [b"\x1f"]) == 0
    assert first_at(watch(None, SSE), [b":"]) == 0
