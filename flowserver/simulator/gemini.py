"""Gemini's generateContent and streamGenerateContent: the request as far as it matters, and the answer. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from .dialect import BadRequest, Dialect, Reply
from .events import TEXT, Count, counter, event, padded
from .request import items, model, parse, plan, section, token_limit, words
from .script import Script

_PATH = re.compile(r"/v1(?:beta)?/models/([^/]+):(generateContent|streamGenerateContent)")

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def error(status: int, message: str, param: str | None = None) -> bytes:
    """The body of an error response. The message alone says which field is wrong."""
    return orjson.dumps({"error": {"code": status, "message": message, "status": _STATUSES.get(status, "UNKNOWN")}})


def dialect(path: str, query: str) -> Dialect | None:
    """For a request to `path`, which says what other APIs have in the body; None: not a path of Gemini's."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    name, streamed = unquote(match[1]), match[2] == "streamGenerateContent"
    events = parse_qs(query).get("alt") == ["sse"]

    def read(body: bytes, script: Script) -> GeminiReply:
        if streamed and not events:
            raise BadRequest("a stream takes alt=sse", "alt")
        request = parse(body)
        return GeminiReply(
            plan(
                script,
                model=model(name),
                streamed=streamed,
                prompt_tokens=words(request.get("systemInstruction"), items(request, "contents")),
                limit=token_limit(section(request, "generationConfig"), "maxOutputTokens"),
            )
        )

    return Dialect(read, error)


@dataclass(frozen=True, slots=True)
class GeminiReply(Reply):
    def opening(self) -> list[bytes]:
        return []

    def content(self) -> bytes:
        before = self.plan.prompt_tokens + self.plan.reasoning
        return padded(_event(self._response(TEXT, None, self._report(counter(1), counter(before + 1)))))

    def closing(self, tokens: int) -> list[bytes]:
        return [_event(self._response("", self._reason, self._usage(tokens)))]

    def answer(self, text: str) -> dict[str, Any]:
        return self._response(text, self._reason, self._usage(self.plan.tokens))

    @property
    def _reason(self) -> str:
        return "MAX_TOKENS" if self.plan.limited else "STOP"

    def _usage(self, tokens: int) -> dict[str, Any]:
        return self._report(tokens, self.plan.prompt_tokens + self.plan.reasoning + tokens)

    def _report(self, candidates: Count, total: Count) -> dict[str, Any]:
        """The text's tokens are apart from those of the reasoning; only the total has both."""
        report: dict[str, Any] = {
            "promptTokenCount": self.plan.prompt_tokens,
            "candidatesTokenCount": candidates,
            "totalTokenCount": total,
        }
        if self.plan.reasoning:
            report["thoughtsTokenCount"] = self.plan.reasoning
        return report

    def _response(self, text: str, reason: str | None, usage: dict[str, Any]) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}}
        if reason is not None:
            candidate["finishReason"] = reason
        return {
            "candidates": [{**candidate, "index": 0}],
            "usageMetadata": usage,
            "modelVersion": self.plan.model,
            "responseId": "simulated",
        }


def _event(payload: dict[str, Any]) -> bytes:
    """Gemini ends its lines with CR LF."""
    return event(payload).replace(b"\n", b"\r\n")
