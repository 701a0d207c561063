"""Google's generateContent and streamGenerateContent, of the Gemini API and of Vertex AI.

https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson

from ..errors import RelayError
from ..json_text.members import Reads
from ..names import model_name
from .api_paths import find_model
from .base import Auth, KeyPaths, Meter, Quirks, RequestParams
from .common import BaseFormat, JsonMeter, count, error_text, json_text, lower, reason_text, section, sse, text, total

_MODELS = ("/models/", "/tunedmodels/", "/endpoints/")
_STREAM = ":streamgeneratecontent"
_ACTIONS = (_STREAM, ":generatecontent")
"""As `find_model` takes them."""

# Protobuf JSON: every field may be spelled in two ways.
_CONFIG = ("generationConfig", "generation_config")
_MOST = ("maxOutputTokens", "max_output_tokens")
_CHOICES = ("candidateCount", "candidate_count")

_MOST_CHOICES = 128
"""Sixteen times what the API takes: the ending of an answer with more leaves the others open."""

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GeminiMeter(JsonMeter):
    """Gemini's events have usage reports, but no exact running counts: Vertex AI sends none before the end, others
    count per step of an answer, or lag behind the content."""

    __slots__ = ("_params",)

    def __init__(self, params: RequestParams) -> None:
        super().__init__()
        self._params = params

    def _read(self, event: Any) -> None:
        if "error" in event:
            self.failed = error_text(event["error"])
            return
        self.model = model_name(event.get("modelVersion")) or self.model
        if refusal := text((event.get("promptFeedback") or {}).get("blockReason")):
            self._finish(refusal)
        candidates = event.get("candidates")
        for candidate in candidates or ():
            # A number where the client requested enums as numbers.
            if (reason := candidate.get("finishReason")) and isinstance(reason, str | int):
                self._finish(str(reason))
            searches = (candidate.get("groundingMetadata") or {}).get("webSearchQueries") or ()
            self.citations = max(self.citations, len(searches))
            for part in (candidate.get("content") or {}).get("parts") or ():
                self._read_part(part)
        # Without candidates it covers everything before, or is what is kept of an event too large to be read whole.
        self._report(event.get("usageMetadata") or {}, is_last=self.finished or candidates is None)

    def _finish(self, reason: str) -> None:
        self.finish = reason_text(reason)
        self.finished = True

    def _report(self, report: Any, *, is_last: bool) -> None:
        """A usage report: it replaces the one before. What the provider's own tools read is a separate count, billed as
        input. A report with or after the end is the last."""
        usage = self.usage
        prompt, tools = count(report.get("promptTokenCount")), count(report.get("toolUsePromptTokenCount"))
        usage.input = total(prompt, tools) if prompt is not None else usage.input
        usage.cached = count(report.get("cachedContentTokenCount"), usage.cached)
        shown = count(report.get("candidatesTokenCount"))
        thoughts = count(report.get("thoughtsTokenCount"))
        if shown is not None or thoughts is not None:
            usage.output = (shown or 0) + (thoughts or 0)
            usage.reasoning = thoughts
        elif prompt is not None and count(report.get("totalTokenCount")) == usage.input:
            usage.output = 0  # fields of no tokens are left out
        if is_last and prompt is not None:
            self._note_report(usage.output)

    def _read_part(self, part: Any) -> None:
        """Results of code that the provider ran are not generated, and not counted."""
        if content := part.get("text"):
            if part.get("thought"):
                self._add_reasoning(content)
            else:
                self._add(content)
        elif call := part.get("functionCall"):
            self._add_call(call["name"], json_text(call.get("args") or {}))
        elif code := part.get("executableCode"):
            self._add_call("", code["code"])
        elif "inlineData" in part or "thoughtSignature" in part:
            self.other_output = True

    def _read_whole(self, answer: Any) -> None:
        """One response, or an array of them: a stream that was not requested as server-sent events."""
        for event in answer if isinstance(answer, list) else [answer]:
            self._read(event)

    def ending(self, prompt: int, output: int) -> bytes:
        """Ends every candidate, even one that has ended: its end may be in a withheld event with content. With an empty
        text, because client libraries drop turns without parts from a chat's history."""
        content = {"parts": [{"text": ""}], "role": "model"}
        choices = min(self._params.choices, _MOST_CHOICES)
        candidates = [{"content": content, "finishReason": "MAX_TOKENS", "index": index} for index in range(choices)]
        event = {"candidates": candidates, "usageMetadata": self._usage(prompt, output)}
        return sse(event | {"modelVersion": self.model} if self.model else event)

    def _usage(self, prompt: int, output: int) -> dict[str, int]:
        thoughts = min(self.usage.reasoning or 0, output)
        usage = {
            "promptTokenCount": prompt,
            "candidatesTokenCount": output - thoughts,
            "totalTokenCount": prompt + output,
        }
        return usage | {"thoughtsTokenCount": thoughts} if thoughts else usage

    def failure(self, error: RelayError) -> bytes:
        """Like Google: the bare error, which is not a server-sent event. The official libraries raise it."""
        return _error(error) + b"\n\n"


_KEY_PATHS = KeyPaths(
    Auth.X_GOOG_API_KEY,
    re.compile(
        r"/v1(?:beta|alpha)(?:[/?]|$)"
        r"|/(?:models|tunedmodels)/[^/?]+:(?:generate|streamgenerate|count|embed|batch|asyncbatch|predict)[a-z]*(?:\?|$)"
    ),
)


class Gemini(BaseFormat):
    __slots__ = ()

    name = "gemini"
    heartbeat: bytes | None = None
    """Google's own library takes a comment line for the start of an error."""
    key_paths: KeyPaths | None = _KEY_PATHS
    account_fields = frozenset((b"x-goog-user-project",))
    reads = Reads(
        {
            "model": None,
            "generationConfig": Reads(
                {"maxOutputTokens": None, "candidateCount": None},
                {"max_output_tokens": "maxOutputTokens", "candidate_count": "candidateCount"},
            ),
        },
        {"generation_config": "generationConfig"},
    )

    def serves(self, target: str) -> bool:
        return find_model(target, _MODELS, _ACTIONS) is not None

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        """`stream`: as server-sent events. Without `alt=sse` the answer is one JSON array, which can't be cut."""
        found = find_model(target, _MODELS, _ACTIONS)
        config: dict[str, Any] = next((body[name] for name in _CONFIG if isinstance(body.get(name), dict)), {})
        choices = _first(config, _CHOICES) or 1
        return RequestParams(
            model=model_name(found[0]) if found else None,
            stream=found is not None and found[1] == _STREAM and _wants_sse(target),
            max_tokens=_first(config, _MOST),
            choices=choices,
            answers=choices,
        )

    def path_model(self, target: str) -> str | None:
        found = find_model(target, _MODELS, _ACTIONS)
        return text(found[0]) if found else None

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        changed = False
        for name in [name for name in _CONFIG if name in body] or _CONFIG[:1]:
            config = section(body, name)
            if config is not None:
                each = max(1, most // (_first(config, _CHOICES) or 1))
                for field in [field for field in _MOST if field in config] or _MOST[:1]:
                    changed |= lower(config, field, each)
        return changed

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        return GeminiMeter(params)

    def error(self, error: RelayError) -> bytes:
        return _error(error)


def _wants_sse(target: str) -> bool:
    query = target.partition("?")[2]
    return any(name in ("alt", "$alt") and value == "sse" for name, value in parse_qsl(query))


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((value for name in names if (value := count(fields.get(name))) is not None), None)


def _error(error: RelayError) -> bytes:
    status = _STATUSES.get(error.status, "INVALID_ARGUMENT" if error.status < 500 else "INTERNAL")
    return orjson.dumps({"error": {"code": error.status, "message": error.message, "status": status}})


GEMINI = Gemini()
