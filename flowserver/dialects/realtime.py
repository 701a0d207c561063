"""OpenAI's Realtime API, which others speak too: events of JSON over a WebSocket. No I/O.

Each answer within the tunnel ends with an event that reports its tokens.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from .api_paths import ends_with
from .base import Usage
from .common import count
from .openai_common import mapping, parse, read_usage

NAME = "openai-realtime"
_MODELS = frozenset(("model", "deployment"))
"""Parameters of the query that name a model; the second is Azure's."""
_REPORTS = frozenset(("response.done", "conversation.item.input_audio_transcription.completed"))
_HEARD = b"conversation.item.input_audio_transcription.delta"
_TYPE = re.compile(rb'"type"\s*+:\s*+"([^"\\]{1,80})"')
_LOOKED_AT = 300
"""Bytes of an event that are searched for its type."""
_PER_AUDIO_TOKEN = 3200
"""Bytes of base64 of audio that are a token: 50 ms of 24,000 samples of 16 bits a second."""
_PER_TEXT_TOKEN = 4
_ENVELOPE = 200
"""Bytes of an event with a piece of an answer, the piece left out."""


def is_realtime(target: str) -> bool:
    """Whether a WebSocket to `target` speaks it."""
    return ends_with(target, "/realtime")


def models_in_query(target: str) -> list[str]:
    """The models that the query of `target` names, in any spelling: if there is more than one, servers may disagree."""
    return [unquote(value) for name, value in _parameters(target) if unquote(name).lower() in _MODELS]


def with_model_in_query(target: str, other: str) -> str:
    """`target` with `other` in place of the model in its query."""
    path, mark, query = target.partition("?")
    parameters = query.split("&")
    for index, (name, _) in enumerate(_parameters(target)):
        if unquote(name).lower() in _MODELS:
            parameters[index] = f"{name}={quote(other, safe='')}"
    return path + mark + "&".join(parameters)


def _parameters(target: str) -> list[tuple[str, str]]:
    query = target.partition("?")[2]
    return [(name, value) for name, _, value in (parameter.partition("=") for parameter in query.split("&"))]


class RealtimeUsage:
    """The tokens of one tunnel: as reported, and an estimate of an answer that has not ended."""

    __slots__ = ("_estimate", "_heard", "_last_input", "usage")

    def __init__(self) -> None:
        self.usage = Usage(input=0, output=0)
        """The sum of all reports."""
        self._last_input = 0
        """Input of the last answer: the next one has at least the same conversation as input."""
        self._estimate = 0.0
        """Tokens of what passed of an answer since the report of the last one."""
        self._heard = 0.0
        """Likewise of a transcript of what the client says, which is reported apart while an answer runs."""

    def __repr__(self) -> str:
        return f"<RealtimeUsage {self.input} + {self.output}>"

    @property
    def input(self) -> int:
        return (self.usage.input or 0) + self.unreported[0]

    @property
    def output(self) -> int:
        return (self.usage.output or 0) + self.unreported[1]

    @property
    def total(self) -> int:
        return self.input + self.output

    @property
    def unreported(self) -> tuple[int, int]:
        """Tokens of request and answer, by the estimate, since the last report."""
        return (self._last_input if self._estimate else 0), round(self._estimate + self._heard)

    @property
    def is_estimate(self) -> bool:
        return self._estimate > 0 or self._heard > 0

    def read(self, text: bytes, size: int) -> Usage | None:
        """An event that the provider sent; `text` may be what matters of `size` bytes. Malformed ones are ignored.
        Returns the report in it; None: there is none."""
        # First of all, as the type found below may be one that the client put into its metadata.
        if text.find(b'"usage"') >= 0 and (report := self._read_report(text)) is not None:
            return report
        found = _TYPE.search(text, 0, _LOOKED_AT)
        kind = found[1] if found is not None else b""
        if kind.endswith(b".delta"):
            per_token = _PER_AUDIO_TOKEN if kind.endswith(b"audio.delta") else _PER_TEXT_TOKEN
            tokens = max(0, size - _ENVELOPE) / per_token
            if kind == _HEARD:
                self._heard += tokens
            else:
                self._estimate += tokens
        return None

    def _read_report(self, text: bytes) -> Usage | None:
        event = parse(text)
        kind = event.get("type") if event is not None else None
        if event is None or type(kind) is not str or kind not in _REPORTS:
            return None
        report = event.get("usage") or mapping(event.get("response")).get("usage")
        if type(report) is not dict:
            return None
        new = Usage()
        read_usage(new, report)
        cached = count(mapping(report.get("input_token_details")).get("cached_tokens"))
        usage = self.usage
        usage.input = (usage.input or 0) + (new.input or 0)
        usage.output = (usage.output or 0) + (new.output or 0)
        if cached is not None:
            new.cached = cached
            usage.cached = (usage.cached or 0) + cached
        if kind == "response.done":
            self._last_input, self._estimate = new.input or 0, 0.0
        else:
            self._heard = 0.0
        return new
