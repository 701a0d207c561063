"""OpenAI's chat completions: the bytes of its events and of its whole answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

CREATED = 1_700_000_000
_ID = "chatcmpl-simulated"
_MARK = "@number@"


class RequestError(Exception):
    """The body is no chat-completions request."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The fields that matter. `max_tokens` None: no limit."""

    model: str
    stream: bool
    max_tokens: int | None
    include_usage: bool
    prompt_tokens: int


def parse_request(body: bytes) -> ChatRequest:
    """Raises RequestError."""
    try:
        data = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise RequestError("the body is no JSON object")
    limit = data.get("max_completion_tokens", data.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise RequestError("max_tokens must be a whole number from 1 on")
    options = data.get("stream_options")
    return ChatRequest(
        model=str(data.get("model", "simulated")),
        stream=bool(data.get("stream", False)),
        max_tokens=limit,
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        prompt_tokens=_prompt_tokens(data.get("messages")),
    )


def _prompt_tokens(messages: Any) -> int:
    """A token for each begun four bytes of text."""
    if not isinstance(messages, list):
        return 0
    texts = (message.get("content") for message in messages if isinstance(message, dict))
    return sum((len(text.encode()) + 3) // 4 for text in texts if isinstance(text, str))


class Events:
    """The events of one stream. Content events number themselves: the text of the n-th begins with tok and n."""

    __slots__ = ("_after", "_before", "_request")

    def __init__(self, request: ChatRequest, size: int) -> None:
        self._request = request
        before = _event(request, {"content": _MARK}, None)
        head, _, tail = before.partition(_MARK.encode())
        self._before = head + b"tok"
        plain = len(self._before) + 6 + 1 + len(tail)
        padding = b"x" * max(0, size - plain - 1)
        self._after = b" " + (padding + b" " if padding else b"") + tail

    def first(self) -> bytes:
        return _event(self._request, {"role": "assistant", "content": ""}, None)

    def content(self, number: int) -> bytes:
        return b"%b%06d%b" % (self._before, number, self._after)

    def last(self, count: int, finish_reason: str) -> bytes:
        """Everything behind the content: the finish, the usage when asked for, and [DONE]."""
        parts = [_event(self._request, {}, finish_reason)]
        if self._request.include_usage:
            chunk = _chunk(self._request) | {"choices": [], "usage": usage(self._request, count)}
            parts.append(b"data: " + orjson.dumps(chunk) + b"\n\n")
        return b"".join((*parts, b"data: [DONE]\n\n"))


def whole(request: ChatRequest, size: int) -> bytes:
    """A whole answer whose content has `size` bytes; 0: a sentence."""
    text = "tok000000 " + "x" * (size - 10) if size > 10 else "This answer was simulated."
    words = len(text.split())
    count = words if request.max_tokens is None else min(words, request.max_tokens)
    return orjson.dumps(
        {
            "id": _ID,
            "object": "chat.completion",
            "created": CREATED,
            "model": request.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop" if count == words else "length",
                }
            ],
            "usage": usage(request, count),
        }
    )


def usage(request: ChatRequest, count: int) -> dict[str, int]:
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": count,
        "total_tokens": request.prompt_tokens + count,
    }


def error(message: str, kind: str = "invalid_request_error", code: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "code": code, "param": None}})


def _chunk(request: ChatRequest) -> dict[str, Any]:
    return {"id": _ID, "object": "chat.completion.chunk", "created": CREATED, "model": request.model}


def _event(request: ChatRequest, delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + orjson.dumps(_chunk(request) | {"choices": [choice]}) + b"\n\n"
