"""OpenAI's Responses: the request as far as it matters, and the events of the answer. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import openai
from .dialect import CREATED, Dialect, Reply
from .events import FILLER, TEXT, counter, event, token_text
from .request import flag, model, parse, plan, token_limit, words
from .script import Script

ID = "resp_simulated"
ITEM = "msg_simulated"

PLACE = {"content_index": 0, "item_id": ITEM, "output_index": 0}
"""Where the text is in the response."""

_OPENING = 4
"""Events before the first content event."""


def read(body: bytes, script: Script) -> ResponsesReply:
    """The reply to a request; the same for the same request. Raises BadRequest."""
    request = parse(body)
    limit = token_limit(request, "max_output_tokens")
    return ResponsesReply(
        plan(
            script,
            model=model(request.get("model", "simulated")),
            streamed=flag(request, "stream"),
            prompt_tokens=words(request.get("instructions"), request.get("input")),
            limit=limit,
        ),
        limit=limit,
    )


DIALECT = Dialect(read, openai.error)


@dataclass(frozen=True, slots=True)
class ResponsesReply(Reply):
    limit: int | None
    """The request's own, which the answer repeats."""

    def opening(self) -> list[bytes]:
        started = self._response("in_progress", [], usage=None)
        return _sequence(
            0,
            {"type": "response.created", "response": started},
            {"type": "response.in_progress", "response": started},
            {"type": "response.output_item.added", "item": _item("in_progress", []), "output_index": 0},
            {"type": "response.content_part.added", **PLACE, "part": _part("")},
        )

    def content(self) -> bytes:
        kind = "response.output_text.delta"
        payload = {"type": kind, **PLACE, "delta": TEXT, "logprobs": [], "obfuscation": FILLER}
        return event({**payload, "sequence_number": counter(_OPENING)}, kind)

    def closing(self, tokens: int) -> list[bytes]:
        text = token_text(tokens).decode()
        part = _part(text)
        item = _item(self._status, [part])
        ended = self._response(self._status, [item], usage=self._usage(tokens))
        return _sequence(
            _OPENING + tokens,
            {"type": "response.output_text.done", **PLACE, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **PLACE, "part": part},
            {"type": "response.output_item.done", "item": item, "output_index": 0},
            {"type": f"response.{self._status}", "response": ended},
        )

    def answer(self, text: str) -> dict[str, Any]:
        item = _item(self._status, [_part(text)])
        return self._response(self._status, [item], usage=self._usage(self.plan.tokens))

    @property
    def _status(self) -> str:
        """Of the finished response; also the name of the last event."""
        return "incomplete" if self.plan.limited else "completed"

    def _usage(self, tokens: int) -> dict[str, Any]:
        prompt, reasoning = self.plan.prompt_tokens, self.plan.reasoning
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": reasoning + tokens,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": prompt + reasoning + tokens,
        }

    def _response(self, status: str, output: list[dict[str, Any]], *, usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": ID,
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "max_output_tokens": self.limit,
            "model": self.plan.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": usage,
            "metadata": {},
        }


def _sequence(first: int, *payloads: dict[str, Any]) -> list[bytes]:
    """Events with their numbers from `first` on; an event's name is its type."""
    return [
        event({**payload, "sequence_number": number}, payload["type"]) for number, payload in enumerate(payloads, first)
    ]


def _item(status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": ITEM, "type": "message", "status": status, "content": content, "role": "assistant"}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
