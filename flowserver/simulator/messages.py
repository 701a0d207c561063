"""Anthropic's Messages: the request as far as it matters, and the events of the answer. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from .dialect import BadRequest, Dialect, Reply
from .events import TEXT, event, padded
from .request import flag, items, model, parse, plan, token_limit, words
from .script import Script

ID = "msg_simulated"

_KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error(status: int, message: str, param: str | None = None) -> bytes:
    """The body of an error response. The message alone says which field is wrong."""
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    problem = {"type": kind, "message": message}
    return orjson.dumps({"type": "error", "error": problem, "request_id": "req_simulated"})


def read(body: bytes, script: Script) -> MessagesReply:
    """The reply to a request; the same for the same request. Raises BadRequest."""
    request = parse(body)
    limit = token_limit(request, "max_tokens")
    if limit is None:
        raise BadRequest("max_tokens: Field required", "max_tokens")
    return MessagesReply(
        plan(
            script,
            model=model(request.get("model", "simulated")),
            streamed=flag(request, "stream"),
            prompt_tokens=words(request.get("system"), items(request, "messages")),
            limit=limit,
        )
    )


DIALECT = Dialect(read, error)


@dataclass(frozen=True, slots=True)
class MessagesReply(Reply):
    def opening(self) -> list[bytes]:
        # The real one reports a token or two here, too: it begins when the first ones are there.
        started = self._message([], stop_reason=None, usage=self._usage(1))
        block = {"type": "text", "text": ""}
        return [
            _event({"type": "message_start", "message": started}),
            _event({"type": "content_block_start", "index": 0, "content_block": block}),
            _event({"type": "ping"}),
        ]

    def content(self) -> bytes:
        delta = {"type": "text_delta", "text": TEXT}
        return padded(_event({"type": "content_block_delta", "index": 0, "delta": delta}))

    def closing(self, tokens: int) -> list[bytes]:
        delta = {"stop_reason": self._reason, "stop_sequence": None}
        return [
            _event({"type": "content_block_stop", "index": 0}),
            _event({"type": "message_delta", "delta": delta, "usage": self._final_usage(tokens)}),
            _event({"type": "message_stop"}),
        ]

    def answer(self, text: str) -> dict[str, Any]:
        content = [{"type": "text", "text": text}]
        return self._message(content, stop_reason=self._reason, usage=self._final_usage(self.plan.tokens))

    @property
    def _reason(self) -> str:
        return "max_tokens" if self.plan.limited else "end_turn"

    def _final_usage(self, tokens: int) -> dict[str, Any]:
        """After `tokens` of text: these and the thinking before them."""
        thinking = self.plan.reasoning
        details = {"output_tokens_details": {"thinking_tokens": thinking}} if thinking else {}
        return {**self._usage(thinking + tokens), **details}

    def _usage(self, output: int) -> dict[str, Any]:
        return {
            "input_tokens": self.plan.prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output,
        }

    def _message(
        self, content: list[dict[str, Any]], *, stop_reason: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": ID,
            "type": "message",
            "role": "assistant",
            "model": self.plan.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }


def _event(payload: dict[str, Any]) -> bytes:
    """An event's name is its type."""
    return event(payload, payload["type"])
