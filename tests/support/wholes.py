"""A whole answer of each format, as its provider would send it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from .streams import INPUT, RequestParams


@dataclass(frozen=True)
class Whole(RequestParams):
    """What is asked and how it is answered, at once."""

    content: Callable[[str], dict[str, Any]]
    """The members of an answer with this text."""
    report: Callable[[int], dict[str, Any]]
    """The members that report so many tokens."""

    def answer(self, text: str, output: int, **more: Any) -> bytes:
        """With the report last."""
        return orjson.dumps(self.content(text) | more | self.report(output))


def _usage(prompt: str, output: str) -> Callable[[int], dict[str, Any]]:
    return lambda tokens: {"usage": {prompt: INPUT, output: tokens, "total_tokens": INPUT + tokens}}


_openai = _usage("prompt_tokens", "completion_tokens")
_newer = _usage("input_tokens", "output_tokens")

CHAT = Whole(
    "openai-chat",
    "/v1/chat/completions",
    {"model": "m", "messages": []},
    lambda text: {
        "id": "c1",
        "object": "chat.completion",
        "model": "m-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    },
    _openai,
)
COMPLETIONS = Whole(
    "openai-completions",
    "/v1/completions",
    {"model": "m", "prompt": "", "max_tokens": 100_000},
    lambda text: {"id": "c1", "model": "m-1", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]},
    _openai,
)
EMBEDDINGS = Whole(
    "openai-embeddings",
    "/v1/embeddings",
    {"model": "m", "input": "x"},
    lambda text: {"object": "list", "model": "m-1", "data": [{"index": 0, "embedding": [0.125] * max(1, len(text))}]},
    lambda tokens: {"usage": {"prompt_tokens": INPUT, "total_tokens": INPUT}},
)
RESPONSES = Whole(
    "openai-responses",
    "/v1/responses",
    {"model": "m", "input": ""},
    lambda text: {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "m-1",
        "output": [{"type": "message", "id": "i1", "content": [{"type": "output_text", "text": text}]}],
    },
    _newer,
)
TRANSCRIPTIONS = Whole(
    "openai-transcriptions", "/v1/audio/transcriptions", {"model": "m"}, lambda text: {"text": text}, _newer
)
IMAGES = Whole(
    "openai-images",
    "/v1/images/generations",
    {"model": "m", "prompt": "a cat"},
    lambda text: {"created": 1, "data": [{"b64_json": b64encode(text.encode()).decode()}]},
    _newer,
)
MESSAGES = Whole(
    "anthropic-messages",
    "/v1/messages",
    {"model": "m", "max_tokens": 100_000, "messages": []},
    lambda text: {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m-1",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
    },
    lambda tokens: {"usage": {"input_tokens": INPUT, "output_tokens": tokens}},
)
GEMINI = Whole(
    "gemini",
    "/v1beta/models/m:generateContent",
    {"contents": []},
    lambda text: {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "modelVersion": "m-1",
    },
    lambda tokens: {
        "usageMetadata": {
            "promptTokenCount": INPUT,
            "candidatesTokenCount": tokens,
            "totalTokenCount": INPUT + tokens,
        }
    },
)
COHERE = Whole(
    "cohere",
    "/v2/chat",
    {"model": "m", "messages": []},
    lambda text: {
        "id": "1",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": text}]},
    },
    lambda tokens: {"usage": {"tokens": {"input_tokens": INPUT, "output_tokens": tokens}}},
)
OLLAMA_CHAT = Whole(
    "ollama-chat",
    "/api/chat",
    {"model": "m", "messages": [], "stream": False},
    lambda text: {"model": "m-1", "message": {"role": "assistant", "content": text}, "done": True},
    lambda tokens: {"done_reason": "stop", "prompt_eval_count": INPUT, "eval_count": tokens},
)
OLLAMA_GENERATE = Whole(
    "ollama-generate",
    "/api/generate",
    {"model": "m", "prompt": "", "stream": False},
    lambda text: {"model": "m-1", "response": text, "done": True},
    lambda tokens: {"done_reason": "stop", "prompt_eval_count": INPUT, "eval_count": tokens},
)
CONVERSE = Whole(
    "bedrock-converse",
    "/model/m/converse",
    {"messages": []},
    lambda text: {
        "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
        "stopReason": "end_turn",
        "metrics": {"latencyMs": 1},
    },
    lambda tokens: {"usage": {"inputTokens": INPUT, "outputTokens": tokens, "totalTokens": INPUT + tokens}},
)
INVOKE = Whole(
    "bedrock-invoke",
    "/model/anthropic.m/invoke",
    {"anthropic_version": "1", "max_tokens": 100_000, "messages": []},
    MESSAGES.content,
    MESSAGES.report,
)

WHOLES = (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    TRANSCRIPTIONS,
    IMAGES,
    MESSAGES,
    GEMINI,
    COHERE,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    CONVERSE,
    INVOKE,
)
"""Of all formats."""
NO_OUTPUT = (EMBEDDINGS,)
"""Whose answers have no tokens of their own."""
