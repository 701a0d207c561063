"""OpenAI's chat completions: the request as far as it matters, and the events of the answer. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from .dialect import BadRequest
from .events import TOKEN, TOKEN_BYTES
from .script import Script

ID = "chatcmpl-simulated"
CREATED = 1_700_000_000
"""Always the same, so that the same request has the same bytes."""

DONE = b"data: [DONE]\n\n"

_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "invalid_request_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    429: "rate_limit_error",
}


def error(status: int, message: str, param: str | None = None, code: str | None = None) -> bytes:
    """The body of an error response."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def models() -> bytes:
    """The body of `GET /v1/models`."""
    entries = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"}
        for name in ("simulated", "simulated-small")
    ]
    return orjson.dumps({"object": "list", "data": entries})


def read(body: bytes, script: Script) -> ChatReply:
    """The reply to a request; the same for the same request. Raises BadRequest."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise BadRequest(f"the body is not JSON: {problem}") from None
    if not isinstance(request, dict):
        raise BadRequest("the body must be a JSON object")
    model = request.get("model", "simulated")
    if not isinstance(model, str) or not model or not model.isprintable():
        raise BadRequest("model must be a string of printable characters", "model")
    messages = request.get("messages", [])
    if not isinstance(messages, list):
        raise BadRequest("messages must be a list", "messages")
    streamed = request.get("stream") or False
    if not isinstance(streamed, bool):
        raise BadRequest("stream must be true or false", "stream")
    options = request.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequest("stream_options must be an object", "stream_options")
    cap = _token_cap(request)
    tokens = script.events
    if cap and (tokens == 0 or cap < tokens):
        tokens, reason = cap, "length"
    else:
        reason = "stop"
    if not streamed and not tokens:
        raise BadRequest("an answer that is not streamed must end: x-simulate events=0 takes stream=true", "events")
    return ChatReply(
        model=model,
        streamed=streamed,
        include_usage=bool(options.get("include_usage")),
        tokens=tokens,
        reason=reason,
        prompt_tokens=sum(_words(message) for message in messages),
        whole_bytes=script.whole,
    )


def _token_cap(request: dict[str, Any]) -> int | None:
    cap: int | None = None
    for name in ("max_completion_tokens", "max_tokens"):
        value = request.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadRequest(f"{name} must be a whole number, 1 or more", name)
        cap = value if cap is None else min(cap, value)
    return cap


def _words(message: object) -> int:
    """The prompt tokens of a message: its words, in plain text or in the text parts of a list."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return len(content.split())
    if not isinstance(content, list):
        return 0
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return sum(len(text.split()) for text in texts if isinstance(text, str))


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The answer to one request, as bytes without HTTP framing."""

    model: str
    streamed: bool
    include_usage: bool
    tokens: int
    """Content events, one token each; 0: endless."""
    reason: str
    prompt_tokens: int
    whole_bytes: int | None

    def opening(self) -> list[bytes]:
        return [self._event([_choice({"role": "assistant", "content": "", "refusal": None})])]

    def content(self) -> tuple[bytes, bytes, bytes]:
        event = self._event([_choice({"content": "\0"})], {"obfuscation": "\1"})
        before, _, rest = event.partition(b"\\u0000")
        middle, _, end = rest.partition(b"\\u0001")
        return before + b"tok", b" " + middle, end

    def closing(self, tokens: int) -> list[bytes]:
        events = [self._event([_choice({}, self.reason)])]
        if self.include_usage:
            events.append(self._event([], {"usage": self._usage(tokens)}))
        return [*events, DONE]

    def whole(self) -> tuple[bytes, int]:
        if self.whole_bytes is None:
            text = b"".join([TOKEN % number for number in range(self.tokens)])
        else:
            count = self.whole_bytes // TOKEN_BYTES + 1
            text = b"".join([TOKEN % number for number in range(count)])[: self.whole_bytes]
        message: dict[str, Any] = {"role": "assistant", "content": "\0", "refusal": None, "annotations": []}
        body = orjson.dumps(
            {
                "id": ID,
                "object": "chat.completion",
                "created": CREATED,
                "model": self.model,
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": self.reason}],
                "usage": self._usage(self.tokens),
            }
        )
        before, _, after = body.partition(b"\\u0000")
        return b"".join([before, text, after]), len(before)

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }

    def _event(self, choices: list[dict[str, Any]], more: dict[str, Any] | None = None) -> bytes:
        usage: dict[str, Any] = {"usage": None} if self.include_usage else {}
        event = {
            "id": ID,
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": self.model,
            "choices": choices,
            **usage,
            **(more or {}),
        }
        return b"data: " + orjson.dumps(event) + b"\n\n"


def _choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}
