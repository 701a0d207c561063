"""Cohere's chat, version 2: https://docs.cohere.com/v2/docs/streaming"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from ..errors import RelayError
from ..json_text.members import Reads
from ..names import model_name
from .api_paths import ends_with
from .base import Auth, KeyPaths, Meter, Quirks, RequestParams
from .common import BaseFormat, JsonMeter, count, error_text, lower, note_open, reason_text, sse

_ENDS = {"content-start": "content-end", "tool-call-start": "tool-call-end"}


class CohereMeter(JsonMeter):
    __slots__ = ("_open", "_started")

    def __init__(self) -> None:
        super().__init__()
        self._started = False
        self._open: dict[tuple[str, int], None] = {}
        """What has not ended yet, in order: the type of its end event, and its index."""

    def _read(self, event: Any) -> None:
        kind = event["type"]
        if kind == "content-delta":
            self._add_content(event["delta"]["message"]["content"])
        elif kind == "tool-call-delta":
            self._add(event["delta"]["message"]["tool_calls"]["function"]["arguments"])
        elif kind == "tool-plan-delta":
            self._add(event["delta"]["message"]["tool_plan"])
        elif kind in _ENDS:
            self._open_part(_ENDS[kind], event)
        elif kind in _ENDS.values():
            self._open.pop((kind, event["index"]), None)
        elif kind == "citation-start":
            self.citations += 1
        elif kind == "message-start":
            self._started = True
        elif kind == "message-end":
            self.finished = True
            self._end(event["delta"])

    def _add_content(self, content: Any) -> None:
        if thinking := content.get("thinking"):
            self._add_reasoning(thinking)
        else:
            self._add(content["text"])

    def _open_part(self, end: str, event: Any) -> None:
        if type(event["index"]) is int:
            note_open(self._open, (end, event["index"]))
        if end == "tool-call-end":
            self._announce(event["delta"]["message"]["tool_calls"]["function"]["name"])

    def _end(self, delta: Any) -> None:
        self.finish = reason_text(delta.get("finish_reason"))
        if self.finish == "ERROR":
            self.failed = error_text(delta.get("error"))
        self._report(delta.get("usage") or {})

    def _report(self, report: Any) -> None:
        """The model's own tokens: fewer are billed, but token limits refer to these."""
        tokens = report.get("tokens") or {}
        self.usage.input = count(tokens.get("input_tokens"))
        self.usage.reasoning = count(tokens.get("reasoning_tokens"))
        self.usage.cached = count(report.get("cached_tokens"))
        self._note_report(count(tokens.get("output_tokens")))

    def _read_whole(self, answer: Any) -> None:
        self.finished = True
        message = answer.get("message") or {}
        for part in message.get("content") or ():
            self._add_content(part)
        self._add(message.get("tool_plan") or "")
        for call in message.get("tool_calls") or ():
            self._add_call(call["function"]["name"], call["function"]["arguments"])
        self._end(answer)

    def ending(self, prompt: int, output: int) -> bytes:
        if self.finished:
            return b""
        events: list[dict[str, Any]] = []
        if not self._started:
            message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
            events.append({"type": "message-start", "id": "0", "delta": {"message": message}})
        events += [{"type": end, "index": index} for end, index in self._open]
        tokens = {"input_tokens": prompt, "output_tokens": output}
        delta = {"finish_reason": "MAX_TOKENS", "usage": {"billed_units": tokens, "tokens": tokens}}
        events.append({"type": "message-end", "delta": delta})
        return b"".join(sse(event, event["type"]) for event in events) + b"data: [DONE]\n\n"

    def failure(self, error: RelayError) -> bytes:
        delta = {"error": error.message, "finish_reason": "ERROR"}
        return sse({"type": "message-end", "delta": delta}, "message-end")


class Cohere(BaseFormat):
    __slots__ = ()

    name = "cohere"
    heartbeat: bytes | None = b": ping\n"
    key_paths: KeyPaths | None = KeyPaths(Auth.BEARER, re.compile(r"/(?:rerank|v2/chat)(?:[/?]|$)"))
    reads = Reads({"model": None, "stream": None, "max_tokens": None})

    def serves(self, target: str) -> bool:
        return ends_with(target, "/v2/chat")

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        return RequestParams(
            model=model_name(body.get("model")),
            stream=body.get("stream") is True,
            max_tokens=count(body.get("max_tokens")),
        )

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        return lower(body, "max_tokens", most)

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        return CohereMeter()

    def error(self, error: RelayError) -> bytes:
        return orjson.dumps({"message": error.message})


COHERE = Cohere()
