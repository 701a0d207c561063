"""A short stream of each format, event by event, as its provider would send it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from flowserver.http.messages import ResponseHead

from .scanning import frame

SSE = b"text/event-stream"
LINES = b"application/x-ndjson"
FRAMES = b"application/vnd.amazon.eventstream"

INPUT = 7
"""Tokens of the request, as every answer here reports."""


@dataclass(frozen=True)
class RequestParams:
    """A request, in one of the formats."""

    name: str
    """Of the format."""
    target: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Stream(RequestParams):
    """What is asked and how it is answered, as a stream."""

    kind: bytes
    """Content type of the answer."""
    opening: tuple[bytes, ...]
    content: Callable[[str], bytes]
    """One event with this text."""
    closing: tuple[bytes, ...]
    """What follows the content, without a report of its own."""
    report: Callable[[int], tuple[bytes, ...]]
    """What follows the content and reports so many tokens."""
    limited: str
    """How an answer that reached its limit says so."""

    @property
    def head(self) -> ResponseHead:
        return ResponseHead(200, [(b"content-type", self.kind)])

    @property
    def extension(self) -> str:
        """The framing, as recordings name it."""
        return {SSE: ".sse", LINES: ".ndjson", FRAMES: ".eventstream"}[self.kind]

    def events(self, texts: list[str], output: int) -> list[bytes]:
        """The whole stream, of one event for each text."""
        return [*self.opening, *map(self.content, texts), *self.report(output)]


def _data(event: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(event)


def _named(event: dict[str, Any]) -> bytes:
    return b"event: %b\n" % event["type"].encode() + _data(event)


def _line(event: dict[str, Any]) -> bytes:
    return orjson.dumps(event) + b"\n"


def _frame(name: str, event: dict[str, Any]) -> bytes:
    headers = {b":event-type": name.encode(), b":content-type": b"application/json", b":message-type": b"event"}
    return frame(headers, orjson.dumps(event))


def _inside(event: dict[str, Any]) -> bytes:
    return _frame("chunk", {"bytes": b64encode(orjson.dumps(event)).decode()})


DONE = b"data: [DONE]\n\n"


def _chat_chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _data(
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": [choice]} | more
    )


def chat_report(output: int) -> bytes:
    """The event that a client gets on demand only."""
    usage = {"prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output}
    return _chat_chunk({}, choices=[], usage=usage)


CHAT = Stream(
    "openai-chat",
    "/v1/chat/completions",
    {"model": "m", "stream": True, "messages": []},
    SSE,
    (_chat_chunk({"role": "assistant", "content": ""}),),
    lambda text: _chat_chunk({"content": text}),
    (_chat_chunk({}, "stop"), DONE),
    lambda output: (_chat_chunk({}, "stop"), chat_report(output), DONE),
    "length",
)


def _text_chunk(text: str, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return _data({"id": "c1", "object": "text_completion", "created": 1, "model": "m-1", "choices": [choice]} | more)


def _text_report(output: int) -> bytes:
    usage = {"prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output}
    return _text_chunk("", choices=[], usage=usage)


COMPLETIONS = Stream(
    "openai-completions",
    "/v1/completions",
    {"model": "m", "stream": True, "prompt": "", "max_tokens": 1000},
    SSE,
    (),
    _text_chunk,
    (_text_chunk("", "stop"), DONE),
    lambda output: (_text_chunk("", "stop"), _text_report(output), DONE),
    "length",
)

_RESPONSE = {"id": "r1", "object": "response", "created_at": 1, "status": "in_progress", "model": "m-1", "output": []}
_ITEM = {"type": "message", "id": "i1", "status": "in_progress", "role": "assistant", "content": []}
_PART = {"type": "output_text", "text": "", "annotations": []}


def _responses_end(usage: dict[str, Any] | None) -> tuple[bytes, ...]:
    response = _RESPONSE | {"status": "completed", "usage": usage}
    return (_named({"type": "response.completed", "response": response}),)


RESPONSES = Stream(
    "openai-responses",
    "/v1/responses",
    {"model": "m", "stream": True, "input": ""},
    SSE,
    (
        _named({"type": "response.created", "response": _RESPONSE, "sequence_number": 0}),
        _named({"type": "response.output_item.added", "output_index": 0, "item": _ITEM, "sequence_number": 1}),
        _named(
            {
                "type": "response.content_part.added",
                "item_id": "i1",
                "output_index": 0,
                "content_index": 0,
                "part": _PART,
            }
        ),
    ),
    lambda text: _named(
        {"type": "response.output_text.delta", "item_id": "i1", "output_index": 0, "content_index": 0, "delta": text}
    ),
    _responses_end(None),
    lambda output: _responses_end({"input_tokens": INPUT, "output_tokens": output, "total_tokens": INPUT + output}),
    "max_output_tokens",
)

_MESSAGE: dict[str, Any] = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "m-1",
    "content": [],
    "stop_reason": None,
}
_MESSAGE_USAGE = {"input_tokens": INPUT, "output_tokens": 1}


def _message_opening() -> tuple[dict[str, Any], ...]:
    return (
        {"type": "message_start", "message": _MESSAGE | {"usage": _MESSAGE_USAGE}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    )


def _message_text(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def _message_closing(usage: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return (
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": usage},
        {"type": "message_stop"},
    )


MESSAGES = Stream(
    "anthropic-messages",
    "/v1/messages",
    {"model": "m", "stream": True, "max_tokens": 1000, "messages": []},
    SSE,
    tuple(map(_named, _message_opening())),
    lambda text: _named(_message_text(text)),
    tuple(map(_named, _message_closing({}))),
    lambda output: tuple(map(_named, _message_closing({"output_tokens": output}))),
    "max_tokens",
)


def _gemini_event(text: str, **more: Any) -> bytes:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0} | more.pop("candidate", {})
    return _data({"candidates": [candidate], "modelVersion": "m-1"} | more)


def _gemini_report(output: int) -> tuple[bytes, ...]:
    usage = {"promptTokenCount": INPUT, "candidatesTokenCount": output, "totalTokenCount": INPUT + output}
    return (_gemini_event("", candidate={"finishReason": "STOP"}, usageMetadata=usage),)


GEMINI = Stream(
    "gemini",
    "/v1beta/models/m:streamGenerateContent?alt=sse",
    {"contents": []},
    SSE,
    (),
    _gemini_event,
    (_gemini_event("", candidate={"finishReason": "STOP"}),),
    _gemini_report,
    "MAX_TOKENS",
)


def _cohere_closing(usage: dict[str, Any]) -> tuple[bytes, ...]:
    return (
        _named({"type": "content-end", "index": 0}),
        _named({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}}),
        DONE,
    )


COHERE = Stream(
    "cohere",
    "/v2/chat",
    {"model": "m", "stream": True, "messages": []},
    SSE,
    (
        _named({"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant", "content": []}}}),
        _named({"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
    ),
    lambda text: _named({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}}),
    _cohere_closing({}),
    lambda output: _cohere_closing({"tokens": {"input_tokens": INPUT, "output_tokens": output}}),
    "MAX_TOKENS",
)


def _ollama_line(text: str, *, chat: bool, **more: Any) -> bytes:
    content = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
    return _line({"model": "m-1", "created_at": "2026-01-01T00:00:00Z", **content, "done": False} | more)


def _ollama(name: str, target: str, body: dict[str, Any], *, chat: bool) -> Stream:
    last = {"done": True, "done_reason": "stop"}
    return Stream(
        name,
        target,
        {"model": "m"} | body,
        LINES,
        (),
        lambda text: _ollama_line(text, chat=chat),
        (_ollama_line("", chat=chat, **last),),
        lambda output: (_ollama_line("", chat=chat, **last, prompt_eval_count=INPUT, eval_count=output),),
        "length",
    )


OLLAMA_CHAT = _ollama("ollama-chat", "/api/chat", {"messages": []}, chat=True)
OLLAMA_GENERATE = _ollama("ollama-generate", "/api/generate", {"prompt": ""}, chat=False)

_CONVERSE_END = (
    _frame("contentBlockStop", {"contentBlockIndex": 0}),
    _frame("messageStop", {"stopReason": "end_turn"}),
)


def _converse_report(output: int) -> tuple[bytes, ...]:
    usage = {"inputTokens": INPUT, "outputTokens": output, "totalTokens": INPUT + output}
    return (*_CONVERSE_END, _frame("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))


CONVERSE = Stream(
    "bedrock-converse",
    "/model/m/converse-stream",
    {"messages": []},
    FRAMES,
    (_frame("messageStart", {"role": "assistant"}),),
    lambda text: _frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}),
    _CONVERSE_END,
    _converse_report,
    "max_tokens",
)


def _invoke_report(output: int) -> tuple[bytes, ...]:
    *before, last = _message_closing({"output_tokens": output})
    metrics = {"inputTokenCount": INPUT, "outputTokenCount": output}
    return (*map(_inside, before), _inside(last | {"amazon-bedrock-invocationMetrics": metrics}))


INVOKE = Stream(
    "bedrock-invoke",
    "/model/anthropic.m/invoke-with-response-stream",
    {"anthropic_version": "1", "max_tokens": 1000, "messages": []},
    FRAMES,
    tuple(map(_inside, _message_opening())),
    lambda text: _inside(_message_text(text)),
    tuple(map(_inside, _message_closing({}))),
    _invoke_report,
    "max_tokens",
)

STREAMS = (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    MESSAGES,
    GEMINI,
    COHERE,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    CONVERSE,
    INVOKE,
)
"""Of all formats that stream."""
