"""Events of OpenAI's chat, and what a meter makes of them."""

from __future__ import annotations

import json
from typing import Any

from flowserver.dialects.base import Quirks, RequestParams
from flowserver.dialects.openai_chat import OPENAI_CHAT, ChatMeter
from flowserver.dialects.profiles import GENERIC
from tests.dialects.reading import sse_events

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m-1"}
UNASKED = RequestParams(stream=True, usage=False)


def meter(params: RequestParams = RequestParams(), quirks: Quirks = GENERIC) -> ChatMeter:  # noqa: B008 - frozen
    return OPENAI_CHAT.meter(params, quirks, cuttable=True)


def choice(delta: object = None, *, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {} if delta is None else delta, "finish_reason": finish}


def chunk(*choices: object, **more: object) -> bytes:
    return json.dumps({**HEAD, "choices": choices, **more}, separators=(",", ":"), ensure_ascii=False).encode()


def say(text: str, **more: object) -> bytes:
    return chunk(choice({"content": text}), **more)


def report(read: int, written: int, **more: object) -> dict[str, object]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written, **more}


def sent(ending: bytes) -> list[Any]:
    """The ending's events, the last one without its [DONE]."""
    payloads = [data for _, data, _ in sse_events(ending)]
    assert b"".join(raw for _, _, raw in sse_events(ending)) == ending
    assert payloads[-1] == b"[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


def counted(answer: ChatMeter) -> tuple[int, int, int]:
    return answer.content_bytes, answer.reasoning_bytes, answer.content_events
