"""OpenAI's Responses API. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from ..errors import RelayError
from ..json_text.members import Reads
from ..names import model_name, user_name
from .api_paths import api_path, deployment_of, ends_with
from .base import KeyPaths, Quirks, RequestParams
from .common import (
    FALLBACKS,
    BaseFormat,
    BaseMeter,
    count,
    error_text,
    has_fallbacks,
    lower,
    reason_text,
    sse,
    text,
    unread_size,
)
from .openai_common import ACCOUNT_FIELDS, HEARTBEAT, KEY_PATHS, entries, mapping, parse, read_usage
from .openai_items import Items

LEAST_LIMIT = 16
"""The least `max_output_tokens` that the API accepts."""

_MOST_CREATED = 128 << 10
"""Bytes of the first event that are kept; it repeats the request's instructions and tools."""
_MOST_ID = 256
"""Characters of a response's id in the ending."""

_TYPE = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z_.]*)"')
"""An event's name is its type, and its data begins with the type too."""
_DELTAS = {
    b"response.%b.delta" % kind: f"response.{kind.decode()}"
    for kind in (
        b"output_text",
        b"refusal",
        b"reasoning_text",
        b"reasoning_summary_text",
        b"function_call_arguments",
        b"mcp_call_arguments",
        b"custom_tool_call_input",
        b"code_interpreter_call_code",
    )
}
"""Events with content, and their types without ".delta"."""
_REASONING = frozenset(("response.reasoning_text", "response.reasoning_summary_text"))
_OPENING = b"response.output_item.added"
_ENDS = frozenset((b"response.completed", b"response.incomplete", b"response.failed"))
_READ = _ENDS | {b"response.created", _OPENING, b"error"}
"""Other events that matter even if nothing is kept."""
_UNREAD = re.compile(rb"response\.(?:in_progress|queued|.*(?:_call\.|partial|annotation|audio).*)")
"""Events that change nothing here: some have 100 KB, so they are not even parsed."""


class ResponsesMeter(BaseMeter):
    """Events that open and close have no content: a tool's name is counted with its first arguments."""

    __slots__ = (
        "_created",
        "_items",
        "_params",
        "_sequence",
        "answer_id",
    )

    def __init__(self, params: RequestParams, *, cuttable: bool) -> None:
        super().__init__()
        self._params = params
        self.answer_id: str | None = None
        self._sequence = -1
        """The number of the last event."""
        self._created = b""
        """The stream's first event, in short if it is long; b"": not arrived yet, or not needed."""
        self._items = Items() if cuttable else None

    def read(self, name: bytes, data: bytes) -> bool:
        if not name and (start := _TYPE.match(data)):
            name = start[1]
        kind = _DELTAS.get(name)
        if name and not kind and (_UNREAD.fullmatch(name) or (self._items is None and name not in _READ)):
            self._sequence += 1
            return True
        event = parse(data)
        if event is None:
            self.unread += unread_size(data)
            return True
        if not name:
            name = (text(event.get("type")) or "").encode()
            kind = _DELTAS.get(name)
        self._sequence = count(event.get("sequence_number"), self._sequence + 1) or 0
        if kind:
            self._read_delta(kind, event)
        else:
            self._read_other(name, event, data)
        return True

    def _read_delta(self, kind: str, event: dict[str, Any]) -> None:
        delta = event.get("delta")
        if not delta or type(delta) is not str:
            return
        written = delta.encode()
        self.content_events += 1
        if kind in _REASONING:
            self.reasoning_bytes += len(written)
        else:
            written = self._with_announced(written)
        self._add(written)
        if self._items is not None:
            self._items.delta(kind, event, delta)

    def _add(self, written: bytes) -> int:
        """Generated content. Its size."""
        self.content_bytes += len(written)
        self.content.add(written)
        return len(written)

    def _read_other(self, name: bytes, event: dict[str, Any], data: bytes) -> None:
        if name == _OPENING:
            item = mapping(event.get("item"))
            if str(item.get("type")).endswith("_call"):
                self._announce((text(item.get("name")) or "") if "call_id" in item else "")
            elif item.get("type") != "message":
                self.other_output = True  # reasoning, which may stay hidden
        elif name == b"error":
            # By the documentation its fields are in the event itself; in reality, in an object.
            self.failed = error_text(event.get("error") or event.get("message") or event.get("code"))
        elif name == b"response.created":
            response = mapping(event.get("response"))
            self.model = model_name(response.get("model"))
            self.answer_id = model_name(response.get("id"))
            if self._items is not None:
                self._created = data if len(data) <= _MOST_CREATED else orjson.dumps({"response": _brief(response)})
        elif name in _ENDS:
            self._read_response(mapping(event.get("response")))
        if self._items is not None:
            self._items.change(name.decode(errors="replace"), event, data)

    def _read_response(self, response: dict[str, Any]) -> None:
        """The final state of the response."""
        self.model = model_name(response.get("model")) or self.model
        details = mapping(response.get("incomplete_details"))
        self.finish = reason_text(details.get("reason")) or reason_text(response.get("status"))
        if response.get("error"):
            self.failed = error_text(response["error"])
        self.answer_id = model_name(response.get("id")) or self.answer_id
        if report := mapping(response.get("usage")):
            self._note_report(read_usage(self.usage, report))
        self.finished = True

    def read_whole(self, body: bytes) -> bool:
        response = parse(body)
        if response is None:
            return False
        for item in entries(response.get("output")):
            self._read_item(item)
        self.content_events += self.content_bytes > 0
        self._read_response(response)
        return True

    def _read_item(self, item: dict[str, Any]) -> None:
        kind = item.get("type")
        texts = [item.get(field) for field in ("arguments", "input", "code")]
        for part in (*entries(item.get("content")), *entries(item.get("summary"))):
            texts += part.get("text"), part.get("refusal")
        if "call_id" in item and kind != "reasoning":
            texts.append(item.get("name"))
        self.calls += str(kind).endswith("_call")
        content_bytes = self._add(b"".join((text(each) or "").encode() for each in texts))
        if kind == "reasoning":
            self.reasoning_bytes += content_bytes

    def ending(self, prompt: int, output: int) -> bytes:
        if self.finished:
            return b""
        try:
            return self._ending(prompt, output, self._items)
        except TypeError:  # nested deeper than can be written, though it could be read
            return self._ending(prompt, output, None)

    def _ending(self, prompt: int, output: int, kept: Items | None) -> bytes:
        """`kept` None: without anything nested by the provider."""
        response = mapping((parse(self._created) or {}).get("response"))
        events: list[dict[str, Any]] = []
        if not response:
            # The client library expects it first.
            response = _brief({"model": self._params.model})
            events.append({"type": "response.created", "response": response})
        elif kept is None:
            response = _brief(response)
        closing, items = kept.ending() if kept is not None else ([], [])
        ended = {
            **response,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": items,
            "usage": self._report(prompt, output),
        }
        events += [*closing, {"type": "response.incomplete", "response": ended}]
        return b"".join(
            [
                sse({**event, "sequence_number": number}, event["type"])
                for number, event in enumerate(events, self._sequence + 1)
            ]
        )

    def _report(self, prompt: int, output: int) -> dict[str, Any]:
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.usage.cached or 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": self.usage.reasoning or 0},
            "total_tokens": prompt + output,
        }

    def failure(self, error: RelayError) -> bytes:
        event = {"type": "error", "code": error.code, "message": error.message, "param": None}
        return sse({**event, "sequence_number": self._sequence + 1}, "error")


def _brief(response: dict[str, Any]) -> dict[str, Any]:
    """What a client library needs of a response that has just begun."""
    return {
        "id": (text(response.get("id")) or "")[:_MOST_ID],
        "object": "response",
        "created_at": count(response.get("created_at")) or 0,
        "status": "in_progress",
        "output": [],
        "model": model_name(response.get("model")) or "",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


_STORED = re.compile(r".*/responses/[^/]+", re.IGNORECASE)


class OpenAIResponses(BaseFormat):
    name = "openai-responses"
    heartbeat: bytes | None = HEARTBEAT
    key_paths: KeyPaths | None = KEY_PATHS
    account_fields = ACCOUNT_FIELDS
    reads = Reads(
        {
            **dict.fromkeys(("model", "stream", "max_output_tokens", "user", "safety_identifier", "background")),
            **FALLBACKS,
        }
    )

    def serves(self, target: str) -> bool:
        return ends_with(target, "/responses", "/responses/compact")

    def stores(self, target: str) -> bool:
        """A response that ran in the background, or an earlier one."""
        return _STORED.fullmatch(api_path(target)) is not None

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        return RequestParams(
            model=model_name(deployment_of(target) or body.get("model")),
            stream=body.get("stream") is True,
            max_tokens=count(body.get("max_output_tokens")),
            user=user_name(body.get("user")) or user_name(body.get("safety_identifier")),
            has_fallbacks=has_fallbacks(body),
        )

    def path_model(self, target: str) -> str | None:
        return deployment_of(target)

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """Not below what the API accepts: the cut does the rest."""
        return lower(body, "max_output_tokens", max(most, LEAST_LIMIT))

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> ResponsesMeter:
        return ResponsesMeter(params, cuttable=cuttable)

    def error(self, error: RelayError) -> bytes:
        return error.body()


OPENAI_RESPONSES = OpenAIResponses()
