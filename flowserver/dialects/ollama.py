"""Ollama's own API, which streams one JSON object a line: https://github.com/ollama/ollama/blob/main/docs/api.md"""

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
from .common import BaseFormat, JsonMeter, count, error_text, json_text, lower, reason_text, section, text

_MOST_CREATED = 64
"""Characters of a time; the longest has 35."""


class OllamaMeter(JsonMeter):
    __slots__ = ("_chat", "_created", "_params")

    def __init__(self, params: RequestParams, *, chat: bool) -> None:
        super().__init__()
        self._params = params
        self._chat = chat
        self._created: str | None = None
        """The latest `created_at`: the ending needs one, and there is no clock here."""

    def _read(self, event: Any) -> None:
        if "error" in event:
            self.failed = error_text(event["error"])
            return
        self.model = model_name(event.get("model"))
        self._created = (text(event.get("created_at")) or "")[:_MOST_CREATED] or None
        done = event.get("done") is True
        if done:
            self._end(event)
        if self._chat:
            self._read_message(event.get("message") or {})
        else:
            self._add_reasoning(event.get("thinking") or "")
            self._add(event.get("response") or "")
        if done:
            self._note_report(count(event.get("eval_count")))

    def _end(self, event: Any) -> None:
        self.finished = True
        self.finish = reason_text(event.get("done_reason"))
        # Missing if the whole prompt was in the cache.
        self.usage.input = count(event.get("prompt_eval_count"))

    def _read_message(self, message: Any) -> None:
        self._add_reasoning(message.get("thinking") or "")
        self._add(message.get("content") or "")
        for call in message.get("tool_calls") or ():
            function = call["function"]
            self._add_call(function["name"], json_text(function.get("arguments") or {}))

    def _read_whole(self, answer: Any) -> None:
        self._read(answer)

    def ending(self, prompt: int, output: int) -> bytes:
        """Also after the last line, because that may have had content and been withheld."""
        content = {"message": {"role": "assistant", "content": ""}} if self._chat else {"response": ""}
        last: dict[str, Any] = {
            "model": self.model or self._params.model or "",
            # What Go's encoding makes of "no time".
            "created_at": self._created or "0001-01-01T00:00:00Z",
            **content,
            "done": True,
            "done_reason": "length",
            "prompt_eval_count": prompt,
            "eval_count": output,
        }
        return orjson.dumps(last) + b"\n"

    def failure(self, error: RelayError) -> bytes:
        return _error(error) + b"\n"


class Ollama(BaseFormat):
    """`chat`: /api/chat, with its messages, else /api/generate."""

    __slots__ = ("_chat", "name")

    streams_lines = True
    key_paths: KeyPaths | None = KeyPaths(Auth.BEARER, re.compile(r"/api/(?:chat|generate|embed|tags)(?:[/?]|$)"))
    reads = Reads({"model": None, "stream": None, "options": Reads({"num_predict": None})})

    def __init__(self, name: str, *, chat: bool) -> None:
        self.name = name
        self._chat = chat

    def serves(self, target: str) -> bool:
        return ends_with(target, "/api/chat" if self._chat else "/api/generate")

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        options = body.get("options")
        return RequestParams(
            model=model_name(body.get("model")),
            stream=body.get("stream") is not False,
            max_tokens=count(options.get("num_predict")) if isinstance(options, dict) else None,
        )

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """A `num_predict` of 0 or less means no limit."""
        options = section(body, "options")
        return options is not None and lower(options, "num_predict", most, least=1)

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        return OllamaMeter(params, chat=self._chat)

    def error(self, error: RelayError) -> bytes:
        return _error(error)


def _error(error: RelayError) -> bytes:
    return orjson.dumps({"error": error.message})


OLLAMA_CHAT = Ollama("ollama-chat", chat=True)
OLLAMA_GENERATE = Ollama("ollama-generate", chat=False)
