"""The simulator's dialects as a client meets them: what to ask, and where the answer has what."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

PROMPT = "one two  three"
"""Of three tokens."""


@dataclass(frozen=True)
class Speaker:
    """A dialect. Events are parsed JSON; `report` and `finish` read what both kinds of answer end with."""

    name: str
    path: str
    whole_path: str
    body: Callable[[int | None], dict[str, Any]]
    """With a limit of tokens; None: none, or one that is never reached."""
    text: Callable[[dict[str, Any]], str]
    """Of an event; "" for those without content."""
    whole_text: Callable[[dict[str, Any]], str]
    report: Callable[[list[dict[str, Any]]], tuple[int, int, int]]
    """(prompt, output with reasoning, reasoning) as the last events tell."""
    finish: Callable[[list[dict[str, Any]]], str]
    stopped: str
    limited: str
    event_type: TypeAdapter[Any]
    whole_type: TypeAdapter[Any]

    def request(self, *, stream: bool = True, limit: int | None = None) -> tuple[str, bytes]:
        """Path and body."""
        streamed = {} if self.name == "gemini" else {"stream": stream}
        return self.path if stream else self.whole_path, json.dumps({**self.body(limit), **streamed}).encode()


def payloads(stream: bytes) -> list[dict[str, Any]]:
    """The data of each event; its name, where it has one, must be its type."""
    found = []
    for event in stream.replace(b"\r\n", b"\n").split(b"\n\n"):
        fields = dict(line.split(": ", 1) for line in event.decode().split("\n") if line)
        if "data" in fields and fields["data"] != "[DONE]":
            payload = json.loads(fields["data"])
            assert fields.get("event") in (None, payload.get("type"))
            found.append(payload)
    return found


def _limit(name: str, value: int | None) -> dict[str, int]:
    return {} if value is None else {name: value}


def _chat_body(limit: int | None) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": PROMPT}],
        "stream_options": {"include_usage": True},
        **_limit("max_completion_tokens", limit),
    }


def _chat_text(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def _chat_report(events: list[dict[str, Any]]) -> tuple[int, int, int]:
    usage = events[-1]["usage"]
    reasoning = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"], reasoning


def _chat_finish(events: list[dict[str, Any]]) -> str:
    return next(str(event["choices"][0]["finish_reason"]) for event in reversed(events) if event["choices"])


def _response(event: dict[str, Any]) -> dict[str, Any]:
    """The response in the last event, or the answer that is no stream."""
    response: dict[str, Any] = event.get("response", event)
    return response


def _responses_text(event: dict[str, Any]) -> str:
    return event["delta"] if event["type"] == "response.output_text.delta" else ""


def _responses_report(events: list[dict[str, Any]]) -> tuple[int, int, int]:
    usage = _response(events[-1])["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    return usage["input_tokens"], usage["output_tokens"], usage["output_tokens_details"]["reasoning_tokens"]


def _responses_finish(events: list[dict[str, Any]]) -> str:
    response = _response(events[-1])
    details = response["incomplete_details"]
    assert events[-1].get("type", f"response.{response['status']}") == f"response.{response['status']}"
    return str(response["status"] if details is None else details["reason"])


def _messages_text(event: dict[str, Any]) -> str:
    return event["delta"]["text"] if event["type"] == "content_block_delta" else ""


def _messages_ending(events: list[dict[str, Any]]) -> dict[str, Any]:
    return next(event for event in reversed(events) if "usage" in event)


def _messages_report(events: list[dict[str, Any]]) -> tuple[int, int, int]:
    usage = _messages_ending(events)["usage"]
    thinking = usage.get("output_tokens_details", {}).get("thinking_tokens", 0)
    return usage["input_tokens"], usage["output_tokens"], thinking


def _messages_finish(events: list[dict[str, Any]]) -> str:
    ending = _messages_ending(events)
    return str(ending.get("delta", ending)["stop_reason"])


def _gemini_body(limit: int | None) -> dict[str, Any]:
    config = _limit("maxOutputTokens", limit)
    return {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}], "generationConfig": config}


def _gemini_text(event: dict[str, Any]) -> str:
    return "".join(part["text"] for part in event["candidates"][0]["content"]["parts"])


def _gemini_report(events: list[dict[str, Any]]) -> tuple[int, int, int]:
    usage = events[-1]["usageMetadata"]
    thoughts = usage.get("thoughtsTokenCount", 0)
    output = usage["candidatesTokenCount"] + thoughts
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + output
    return usage["promptTokenCount"], output, thoughts


CHAT = Speaker(
    name="chat",
    path="/v1/chat/completions",
    whole_path="/v1/chat/completions",
    body=_chat_body,
    text=_chat_text,
    whole_text=lambda answer: str(answer["choices"][0]["message"]["content"]),
    report=_chat_report,
    finish=_chat_finish,
    stopped="stop",
    limited="length",
    event_type=TypeAdapter(ChatCompletionChunk),
    whole_type=TypeAdapter(ChatCompletion),
)
RESPONSES = Speaker(
    name="responses",
    path="/v1/responses",
    whole_path="/v1/responses",
    body=lambda limit: {"model": "m", "input": PROMPT, **_limit("max_output_tokens", limit)},
    text=_responses_text,
    whole_text=lambda answer: str(answer["output"][0]["content"][0]["text"]),
    report=_responses_report,
    finish=_responses_finish,
    stopped="completed",
    limited="max_output_tokens",
    event_type=TypeAdapter(ResponseStreamEvent),
    whole_type=TypeAdapter(Response),
)
MESSAGES = Speaker(
    name="messages",
    path="/v1/messages",
    whole_path="/v1/messages",
    body=lambda limit: {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
        "max_tokens": 10**9 if limit is None else limit,
    },
    text=_messages_text,
    whole_text=lambda answer: str(answer["content"][0]["text"]),
    report=_messages_report,
    finish=_messages_finish,
    stopped="end_turn",
    limited="max_tokens",
    event_type=TypeAdapter(RawMessageStreamEvent),
    whole_type=TypeAdapter(Message),
)
GEMINI = Speaker(
    name="gemini",
    path="/v1beta/models/m:streamGenerateContent?alt=sse",
    whole_path="/v1beta/models/m:generateContent",
    body=_gemini_body,
    text=_gemini_text,
    whole_text=_gemini_text,
    report=_gemini_report,
    finish=lambda events: str(events[-1]["candidates"][0]["finishReason"]),
    stopped="STOP",
    limited="MAX_TOKENS",
    event_type=TypeAdapter(GenerateContentResponse),
    whole_type=TypeAdapter(GenerateContentResponse),
)

SPEAKERS = (CHAT, RESPONSES, MESSAGES, GEMINI)
