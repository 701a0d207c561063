"""Anthropic's Messages API, also as Vertex AI and others serve it.

https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from ..errors import RelayError
from ..json_text.members import Reads
from ..names import model_name, user_name
from .api_paths import ends_with, find_model
from .base import Auth, KeyPaths, Meter, Quirks, RequestParams
from .common import (
    FALLBACKS,
    NONSENSE,
    BaseFormat,
    JsonMeter,
    count,
    error_text,
    has_fallbacks,
    json_text,
    lower,
    note_open,
    reason_text,
    sse,
    text,
    total,
)
from .event_template import RELEARN, EventTemplate, TemplateFinder
from .limit_fields import LimitFields

_VERTEX = ("/publishers/anthropic/models/",)
_STREAM = ":streamrawpredict"
_ACTIONS = (_STREAM, ":rawpredict")
"""Vertex AI's, as `find_model` takes them."""

_CONTENT = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""Kind of delta -> its field with content. Not signatures, citations and compactions: a compaction's text is not in the
answer's output tokens either."""

_DELTA = b"content_block_delta"

_TOOL_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicMeter(JsonMeter):
    __slots__ = ("_fresh", "_open", "_params", "_started")

    def __init__(self, params: RequestParams) -> None:
        super().__init__()
        self._params = params
        self._fresh: int | None = None
        """Input tokens neither read from the cache nor written to it: Anthropic's `input_tokens`."""
        self._started = False
        self._open: dict[int, None] = {}
        """Indexes of the content blocks that have not ended, in order."""

    def read(self, name: bytes, data: bytes) -> bool | bytes:
        if self._count_if_fits(data):
            return True
        content_events = self.content_events
        super().read(name, data)
        if self._announced:
            self._expect(None)  # the next content is counted together with what opened it
        elif name == _DELTA and self.content_events != content_events and content_events - self._learned >= RELEARN:
            self._learned = content_events
            self._expect(_template_of(data), _DELTA)
        return True

    def _read(self, event: Any) -> None:
        kind = event["type"]
        if kind == "content_block_delta":
            delta = event["delta"]
            field = _CONTENT.get(delta["type"])
            if field == "thinking":
                self._add_reasoning(delta[field])
            elif field:
                self._add(delta[field])
            elif delta["type"] == "citations_delta":
                self.citations += 1
        else:
            self._read_frame(kind, event)

    def _read_frame(self, kind: object, event: Any) -> None:
        """An event without content."""
        if kind == "content_block_start":
            self._open_block(event["index"], event["content_block"])
        elif kind == "content_block_stop":
            self._open.pop(event["index"], None)
        elif kind == "message_start":
            self._started = True
            self._read_message(event["message"])
        elif kind == "message_delta":
            self._note_report(self._report(event.get("usage") or {}))
            self.finish = reason_text(event["delta"].get("stop_reason"))
        elif kind == "message_stop":
            self.finished = True
        elif kind == "error":
            self.failed = error_text(event.get("error"))

    def _open_block(self, index: Any, block: Any) -> None:
        if type(index) is int:
            note_open(self._open, index)
        kind = block["type"]
        if kind in _TOOL_USES:
            self._announce(block["name"])
        elif kind != "text":
            self.other_output = True  # reasoning, which may stay hidden, or a result of the provider's own tool

    def _read_message(self, message: Any) -> None:
        self.model = model_name(message.get("model"))
        self._report(message.get("usage") or {})

    def _report(self, report: Any) -> int | None:
        """A usage report: totals so far, which replace earlier ones field by field. Returns its output, if any.

        Steps before the answer itself (a compaction, another model's advice) are reported in `iterations` only.
        """
        usage = self.usage
        self._fresh = count(report.get("input_tokens"), self._fresh)
        output = count(report.get("output_tokens"))
        usage.cached = count(report.get("cache_read_input_tokens"), usage.cached)
        usage.cache_written = count(report.get("cache_creation_input_tokens"), usage.cache_written)
        usage.input = total(self._fresh, usage.cached, usage.cache_written) if self._fresh is not None else None
        if output is not None:
            usage.output = output
        details = report.get("output_tokens_details") or {}
        usage.reasoning = count(details.get("thinking_tokens"), usage.reasoning)
        steps = report.get("iterations")
        if isinstance(steps, list) and steps and output is not None:
            output = self._add_up(steps, output)
        return output

    def _add_up(self, steps: list[Any], output: int) -> int:
        """The tokens of all steps of a request; never less than what is reported for the last one."""
        usage = self.usage
        fields = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
        sums = [sum(count(step.get(field), 0) or 0 for step in steps) for field in fields]
        fresh, read, written, generated = sums
        if fresh + read + written >= (usage.input or 0) and generated >= output:
            usage.input, usage.cached, usage.cache_written = fresh + read + written, read, written
            usage.output = output = generated
        return output

    def _read_whole(self, answer: Any) -> None:
        if answer["type"] == "error":
            self.failed = error_text(answer.get("error"))
            return
        self.finished = True
        self.finish = reason_text(answer.get("stop_reason"))
        self._read_message(answer)
        output = self._report(answer.get("usage") or {})
        for block in answer.get("content") or ():
            kind = block["type"]
            if kind == "text":
                self._add(block["text"])
            elif kind == "thinking":
                self._add_reasoning(block["thinking"])
            elif kind in _TOOL_USES:
                self._add_call(block["name"], json_text(block["input"]))
        self._note_report(output)

    def ending(self, prompt: int, output: int) -> bytes:
        """A tool call with incomplete input stays incomplete, as at the provider's own limit: client libraries parse
        what there is. Also right before `message_start`, though a stream without content needs no cut."""
        return b"".join(sse(event, event["type"]) for event in self._ending(prompt, output))

    def _ending(self, prompt: int, output: int) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if self.finished:
            return events
        if not self._started:
            events.append({"type": "message_start", "message": self._message()})
        events += [{"type": "content_block_stop", "index": index} for index in self._open]
        if self.finish is None:
            delta = {"stop_reason": "max_tokens", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": delta, "usage": self._usage(prompt, output)})
        events.append({"type": "message_stop"})
        return events

    def _message(self) -> dict[str, Any]:
        return {
            "id": "msg_0",
            "type": "message",
            "role": "assistant",
            "model": self._params.model or "",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }

    def _usage(self, prompt: int, output: int) -> dict[str, int]:
        """`input_tokens` leave out those read from the cache or written to it."""
        known = {
            "input_tokens": max(0, prompt - (self.usage.cached or 0) - (self.usage.cache_written or 0)),
            "cache_creation_input_tokens": self.usage.cache_written,
            "cache_read_input_tokens": self.usage.cached,
        }
        return {name: tokens for name, tokens in known.items() if tokens is not None} | {"output_tokens": output}

    def failure(self, error: RelayError) -> bytes:
        return sse(_error(error), "error")


_TEMPLATES = TemplateFinder(frozenset(("thinking",)), padded_with_blanks=True)
"""The padding hides the sizes of tokens from eavesdroppers."""


def _template_of(data: bytes) -> EventTemplate | None:
    """The template of an event with content; None: its content has none."""
    try:
        event = orjson.loads(data)
        delta = event["delta"]
        return _TEMPLATES.find(data, event, delta, _CONTENT[delta["type"]])
    except NONSENSE:
        return None


@lru_cache(256)
def _moment(seconds: int) -> bytes:
    """Cached: a quota ends at the same moment for everybody, and full buckets are full now."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode("ascii")


_LIMIT_FIELDS = LimitFields(
    requests=(
        b"anthropic-ratelimit-requests-limit",
        b"anthropic-ratelimit-requests-remaining",
        b"anthropic-ratelimit-requests-reset",
    ),
    tokens=(
        b"anthropic-ratelimit-tokens-limit",
        b"anthropic-ratelimit-tokens-remaining",
        b"anthropic-ratelimit-tokens-reset",
    ),
    reset=lambda now, seconds: _moment(math.ceil(now + seconds)),
    prefix=b"anthropic-ratelimit-",
    remaining=re.compile(rb"anthropic-ratelimit-((?:input-|output-)?tokens|requests)-remaining"),
)


class Anthropic(BaseFormat):
    __slots__ = ()

    name = "anthropic-messages"
    heartbeat: bytes | None = b'event: ping\ndata: {"type": "ping"}\n\n'
    key_paths: KeyPaths | None = KeyPaths(Auth.X_API_KEY, re.compile(r"/v1/(?:messages|complete)(?:[/?]|$)"))
    limit_fields = _LIMIT_FIELDS
    account_fields = frozenset((b"anthropic-workspace-id",))
    reads = Reads(
        {
            **FALLBACKS,
            "model": None,
            "stream": None,
            "max_tokens": None,
            "metadata": Reads({"user_id": None}),
            "thinking": Reads({"budget_tokens": None}),
        }
    )

    def serves(self, target: str) -> bool:
        return ends_with(target, "/v1/messages") or find_model(target, _VERTEX, _ACTIONS) is not None

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        vertex = find_model(target, _VERTEX, _ACTIONS)
        metadata = body.get("metadata")
        return RequestParams(
            model=model_name(vertex[0] if vertex else body.get("model")),
            stream=body.get("stream") is True or (vertex is not None and vertex[1] == _STREAM),
            max_tokens=count(body.get("max_tokens")),
            user=user_name(metadata.get("user_id")) if isinstance(metadata, dict) else None,
            has_fallbacks=has_fallbacks(body),
        )

    def path_model(self, target: str) -> str | None:
        vertex = find_model(target, _VERTEX, _ACTIONS)
        return text(vertex[0]) if vertex else None

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """Thinking has a budget that must stay below `max_tokens`, and is the client's choice between cost and quality.
        So if `most` is below the budget, `max_tokens` is lowered to just above the budget, and the cut does the
        rest."""
        thinking = body.get("thinking")
        budget = count(thinking.get("budget_tokens")) if isinstance(thinking, dict) else None
        return lower(body, "max_tokens", most if budget is None else max(most, budget + 1))

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        return AnthropicMeter(params)

    def error(self, error: RelayError) -> bytes:
        return orjson.dumps(_error(error))


def _error(error: RelayError) -> dict[str, Any]:
    kind = _ERROR_TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


ANTHROPIC = Anthropic()
