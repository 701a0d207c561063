"""Amazon Bedrock: Converse, with one form for all models, and InvokeModel, with each model's own form inside.

Streams are binary frames (application/vnd.amazon.eventstream).
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

import zlib
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from typing import Any

import orjson

from ..errors import RelayError
from ..names import model_name
from .anthropic import AnthropicMeter
from .api_paths import find_model
from .base import BEARER, Asked, Meter, Quirks
from .common import JsonMeter, UsageAlways, count, json_size, note_open, reason_text, size, text, told

_MODELS = ("/model/",)
_CONVERSE = ("/converse", "/converse-stream")
_INVOKE = ("/invoke", "/invoke-with-response-stream")
"""As `find_model` takes them."""

_ERROR_TYPES = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}

_METRICS = "amazon-bedrock-invocationMetrics"

# Models that are not Anthropic's: the field with the text in a chunk of InvokeModel -> the chunk that ends the stream.
_ENDINGS: dict[str, dict[str, Any]] = {
    "completion": {"completion": "", "stop_reason": "max_tokens", "stop": None},
    "generation": {"generation": "", "stop_reason": "length"},
    "outputText": {"outputText": "", "completionReason": "LENGTH"},
    "text": {"is_finished": True, "finish_reason": "MAX_TOKENS"},
}
_FINISHES = ("stop_reason", "completionReason", "finish_reason")


def encode_frame(payload: Mapping[str, Any], name: str, kind: str = "event") -> bytes:
    """A frame of an AWS event stream, with JSON inside. `kind`: "event" or "exception"."""
    fields = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(_encode_header(field, value) for field, value in fields.items())
    body = orjson.dumps(payload)
    lengths = (len(headers) + len(body) + 16).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = lengths + zlib.crc32(lengths).to_bytes(4, "big") + headers + body
    return message + zlib.crc32(message).to_bytes(4, "big")


def _encode_header(name: str, value: str) -> bytes:
    # 7: the value is a text.
    return bytes([len(name)]) + name.encode() + b"\x07" + len(value).to_bytes(2, "big") + value.encode()


def _exception(error: RelayError) -> bytes:
    kind = _ERROR_TYPES.get(error.status, "ModelStreamErrorException")
    return encode_frame({"message": error.message}, kind[0].lower() + kind[1:], "exception")


class ConverseMeter(JsonMeter):
    __slots__ = ("_name", "_open", "_started")

    def __init__(self) -> None:
        super().__init__()
        self._name = b""
        self._started = False
        self._open: dict[int, None] = {}
        """Indexes of the content blocks that have no end yet, in their order. A text has no start, so the block of a
        withheld first delta is in here too: better an end too many than a block without."""

    def read(self, name: bytes, data: bytes) -> bool:
        self._name = name
        return super().read(name, data)

    def _read(self, event: Any) -> None:
        name = self._name
        if name == b"contentBlockDelta":
            self._open_block(event["contentBlockIndex"])
            self._read_delta(event["delta"])
        elif name == b"contentBlockStart":
            self._open_block(event["contentBlockIndex"])
            if tool := event["start"].get("toolUse"):
                self._announced += size(tool["name"])
        elif name == b"contentBlockStop":
            self._open.pop(event["contentBlockIndex"], None)
        elif name == b"messageStart":
            self._started = True
        elif name == b"messageStop":
            self.finish = reason_text(event["stopReason"])
        elif name == b"metadata":
            self.finished = True
            self._report(event["usage"])
        elif name.startswith(b"!"):
            self.failed = _failed(name, event)

    def _open_block(self, index: Any) -> None:
        if type(index) is int:
            note_open(self._open, index)

    def _read_delta(self, delta: Any) -> None:
        """Results of tools that run at the provider, and citations, are not generated."""
        if content := delta.get("text"):
            self._add(size(content))
        elif tool := delta.get("toolUse"):
            self._add(size(tool["input"]))
        elif reasoning := delta.get("reasoningContent"):
            self._add_reasoning(size(reasoning.get("text") or ""))

    def _report(self, report: Any) -> None:
        self.usage.input = count(report.get("inputTokens"))
        self.usage.output = count(report.get("outputTokens"))
        self.usage.cached = count(report.get("cacheReadInputTokens"))
        self.usage.cache_written = count(report.get("cacheWriteInputTokens"))

    def _read_whole(self, answer: Any) -> None:
        self.finished = True
        self.finish = reason_text(answer.get("stopReason"))
        self._report(answer.get("usage") or {})
        for block in answer["output"]["message"]["content"]:
            if tool := block.get("toolUse"):
                self._add(size(tool["name"]) + json_size(tool["input"]))
            elif reasoning := block.get("reasoningContent"):
                self._add_reasoning(size((reasoning.get("reasoningText") or {}).get("text") or ""))
            else:
                self._add(size(block.get("text") or ""))

    def ending(self, output: int) -> bytes:
        if self.finished:
            return b""
        frames = [] if self._started else [encode_frame({"role": "assistant"}, "messageStart")]
        frames += [encode_frame({"contentBlockIndex": index}, "contentBlockStop") for index in self._open]
        if self.finish is None:
            frames.append(encode_frame({"stopReason": "max_tokens"}, "messageStop"))
        prompt = self.usage.input or 0
        usage = {"inputTokens": prompt, "outputTokens": output, "totalTokens": prompt + output}
        frames.append(encode_frame({"usage": usage, "metrics": {"latencyMs": 0}}, "metadata"))
        return b"".join(frames)

    def failure(self, error: RelayError) -> bytes:
        return _exception(error)


class InvokeMeter(AnthropicMeter):
    """InvokeModelWithResponseStream: frames with chunks of the model's own form. Anthropic's are the events of its
    Messages API; of other models' only the text is known."""

    __slots__ = ("_field", "_name")

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._name = b""
        self._field: str | None = None
        """Where the model, not one of Anthropic's, puts its text; None: nothing of the kind was seen."""

    def read(self, name: bytes, data: bytes) -> bool:
        self._name = name
        return super().read(name, data)

    def _read(self, event: Any) -> None:
        if self._name.startswith(b"!"):
            self.failed = _failed(self._name, event)
            return
        chunk = orjson.loads(a2b_base64(event["bytes"]))
        if metrics := chunk.get(_METRICS):
            self.finished = True
        if "type" in chunk:
            super()._read(chunk)
        else:
            self._read_foreign(chunk)
        if metrics:
            # What is billed: it may differ from what the model itself reports.
            self.usage.input = count(metrics.get("inputTokenCount"), self.usage.input)
            self.usage.output = count(metrics.get("outputTokenCount"), self.usage.output)
            self.usage.cached = count(metrics.get("cacheReadInputTokenCount"), self.usage.cached)
            self.usage.cache_written = count(metrics.get("cacheWriteInputTokenCount"), self.usage.cache_written)

    def _read_foreign(self, chunk: Any) -> None:
        self.finish = next((reason for name in _FINISHES if (reason := reason_text(chunk.get(name)))), None)
        field = next((name for name in _ENDINGS if name in chunk), None)
        if field:
            self._field = field
            self._add(size(chunk[field]))

    def _read_whole(self, answer: Any) -> None:
        if "type" in answer:
            super()._read_whole(answer)
        else:
            self.finished = True
            self._read_foreign(answer)

    def _ending(self, output: int) -> list[dict[str, Any]]:
        if self._field:
            events = [_ENDINGS[self._field]]
        elif self._started or "anthropic" in (self._asked.model or ""):
            events = super()._ending(output)
        else:
            events = []
        if events:
            metrics = {"inputTokenCount": self.usage.input or 0, "outputTokenCount": output}
            events[-1] = events[-1] | {_METRICS: metrics}
        return events

    def ending(self, output: int) -> bytes:
        """Also after the last chunk where it may have had content and been withheld; b"" where nothing told the model's
        form yet."""
        return b"".join(
            encode_frame({"bytes": b2a_base64(orjson.dumps(event), newline=False).decode()}, "chunk")
            for event in self._ending(output)
        )

    def failure(self, error: RelayError) -> bytes:
        return _exception(error)


def _failed(name: bytes, event: Any) -> str:
    return told({"type": name[1:].decode(errors="replace"), "message": event.get("message")})


class Bedrock(UsageAlways):
    """`converse` tells Converse and ConverseStream from InvokeModel and InvokeModelWithResponseStream."""

    __slots__ = ("_converse", "_ends", "name")

    key_field = BEARER
    heartbeat: bytes | None = None
    bytes_per_token = 3.0

    def __init__(self, name: str, *, converse: bool) -> None:
        self.name = name
        self._converse = converse
        self._ends = _CONVERSE if converse else _INVOKE

    def serves(self, target: str) -> bool:
        return find_model(target, _MODELS, self._ends) is not None

    def asked(self, target: str, body: Mapping[str, Any]) -> Asked:
        found = find_model(target, _MODELS, self._ends)
        config = body.get("inferenceConfig")
        most = config.get("maxTokens") if isinstance(config, dict) else body.get("max_tokens")
        return Asked(
            model=model_name(found[0]) if found else None,
            stream=found is not None and found[1].endswith("-stream"),
            max_tokens=count(most),
        )

    def path_model(self, target: str) -> str | None:
        found = find_model(target, _MODELS, self._ends)
        return text(found[0]) if found else None

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """Never: requests are signed over their body."""
        return False

    def meter(self, asked: Asked, quirks: Quirks, *, cuttable: bool) -> Meter:
        return ConverseMeter() if self._converse else InvokeMeter(asked)

    def error(self, error: RelayError) -> bytes:
        """With the type, which Amazon has in a header, where its libraries look next."""
        kind = _ERROR_TYPES.get(error.status, "InternalServerException")
        return orjson.dumps({"__type": kind, "message": error.message})


BEDROCK_CONVERSE = Bedrock("bedrock-converse", converse=True)
BEDROCK_INVOKE = Bedrock("bedrock-invoke", converse=False)
