"""Amazon Bedrock: Converse, with one form for all models, and InvokeModel, with each model's own form inside.

Streams are binary frames (application/vnd.amazon.eventstream).
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

import re
import zlib
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from typing import Any

import orjson

from ..errors import RelayError
from ..json_text.members import Reads
from ..names import model_name
from .anthropic import AnthropicMeter
from .api_paths import find_model
from .base import Auth, KeyPaths, Meter, Quirks, RequestParams
from .common import (
    BaseFormat,
    BaseMeter,
    JsonMeter,
    count,
    error_text,
    json_text,
    largest,
    lower,
    note_open,
    reason_text,
    section,
    text,
    total,
)

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

# Models other than Anthropic's: the field with the text in a chunk of InvokeModel -> the chunk that ends the stream.
_ENDINGS: dict[str, dict[str, Any]] = {
    "completion": {"completion": "", "stop_reason": "max_tokens", "stop": None},
    "generation": {"generation": "", "stop_reason": "length"},
    "outputText": {"outputText": "", "completionReason": "LENGTH"},
    "text": {"is_finished": True, "finish_reason": "MAX_TOKENS"},
}
_FINISHES = ("stop_reason", "completionReason", "finish_reason")
_LISTS = ("choices", "outputs", "results", "generations")
"""Where models put several answers."""
_CONVERSE_EVENTS = frozenset(
    ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata")
)


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
        """Indexes of the content blocks that have not ended, in order. A text has no start event, so the block of a
        withheld first delta is in here too: one end too many is better than a block without one."""

    def read(self, name: bytes, data: bytes) -> bool | bytes:
        self._name = name
        return super().read(name, data)

    def _read(self, event: Any) -> None:
        self.read_event(self._name, event)

    def read_event(self, name: bytes, event: Any) -> None:
        """May raise anything of NONSENSE."""
        if name == b"contentBlockDelta":
            self._open_block(event["contentBlockIndex"])
            self._read_delta(event["delta"])
        elif name == b"contentBlockStart":
            self._open_block(event["contentBlockIndex"])
            if tool := event["start"].get("toolUse"):
                self._announce(tool["name"])
            elif event["start"]:
                self.other_output = True  # a picture, or a result of the provider's own tool
        elif name == b"contentBlockStop":
            self._open.pop(event["contentBlockIndex"], None)
        elif name == b"messageStart":
            self._started = True
        elif name == b"messageStop":
            self.finish = reason_text(event["stopReason"])
        elif name == b"metadata":
            self.finished = True
            self.report(event["usage"])
        elif name.startswith(b"!"):
            self.failed = _failed(name, event)

    def _open_block(self, index: Any) -> None:
        if type(index) is int:
            note_open(self._open, index)

    def _read_delta(self, delta: Any) -> None:
        """Citations and the results of the provider's own tools are not generated."""
        if content := delta.get("text"):
            self._add(content)
        elif tool := delta.get("toolUse"):
            self._add(tool["input"])
        elif reasoning := delta.get("reasoningContent"):
            self._add_reasoning(reasoning.get("text") or "")
            self.other_output = True  # also where all of it is encrypted
        elif "citation" in delta:
            self.citations += 1

    def report(self, report: Any) -> None:
        """`inputTokens` leave out the cache. In InvokeModel the name of the tokens read from it ends in Count."""
        fresh, usage = count(report.get("inputTokens")), self.usage
        usage.cached, usage.cache_written = _cache(report)
        usage.input = None if fresh is None else total(fresh, usage.cached, usage.cache_written)
        self._note_report(count(report.get("outputTokens")))

    def read_answer(self, answer: Any) -> None:
        """A whole one. May raise anything of NONSENSE."""
        self.finished = True
        self.finish = reason_text(answer.get("stopReason"))
        for block in ((answer.get("output") or {}).get("message") or {}).get("content") or ():
            if tool := block.get("toolUse"):
                self._add_call(tool["name"], json_text(tool["input"]))
            elif reasoning := block.get("reasoningContent"):
                self._add_reasoning((reasoning.get("reasoningText") or {}).get("text") or "")
            else:
                self._add(block.get("text") or "")
        self.report(answer.get("usage") or {})

    def _read_whole(self, answer: Any) -> None:
        self.read_answer(answer)

    def ending(self, prompt: int, output: int) -> bytes:
        return b"".join(encode_frame(event, name) for name, event in self.ending_events(prompt, output))

    def ending_events(self, prompt: int, output: int) -> list[tuple[str, dict[str, Any]]]:
        """Names and payloads; none if the stream has ended."""
        if self.finished:
            return []
        events: list[tuple[str, dict[str, Any]]] = [] if self._started else [("messageStart", {"role": "assistant"})]
        events += [("contentBlockStop", {"contentBlockIndex": index}) for index in self._open]
        if self.finish is None:
            events.append(("messageStop", {"stopReason": "max_tokens"}))
        cached = {
            "cacheReadInputTokens": self.usage.cached,
            "cacheWriteInputTokens": self.usage.cache_written,
        }
        known = {name: tokens for name, tokens in cached.items() if tokens}
        usage = {"inputTokens": max(0, prompt - sum(known.values())), "outputTokens": output, **known}
        usage["totalTokens"] = prompt + output
        events.append(("metadata", {"usage": usage, "metrics": {"latencyMs": 0}}))
        return events

    def failure(self, error: RelayError) -> bytes:
        return _exception(error)


def _copy_counts(source: BaseMeter, target: BaseMeter) -> None:
    """Let `target` go on from what `source` has counted."""
    target.content_bytes, target.reasoning_bytes = source.content_bytes, source.reasoning_bytes
    target.content, target.calls, target.citations = source.content, source.calls, source.citations
    target.usage, target.finish, target.finished = source.usage, source.finish, source.finished
    target.other_output = source.other_output


class InvokeMeter(AnthropicMeter):
    """InvokeModelWithResponseStream: frames with chunks of the model's own form. Anthropic's are the events of its
    Messages API, Nova's those of Converse, each in an object under its name. Of other models the text is read, and what
    Bedrock itself counts."""

    __slots__ = ("_converse", "_field", "_name", "_reported")

    def __init__(self, params: RequestParams) -> None:
        super().__init__(params)
        self._name = b""
        self._converse: ConverseMeter | None = None
        """For a model that sends Converse's events; None: none so far."""
        self._field: str | None = None
        """The field in which another model puts its text; None: not seen yet."""
        self._reported: tuple[int | None, int | None] = (None, None)
        """Input and output tokens in the head of an answer that is not a stream."""

    def read_head(self, fields: Mapping[bytes, bytes]) -> None:
        known = [fields.get(b"x-amzn-bedrock-%b-token-count" % kind, b"") for kind in (b"input", b"output")]
        prompt, output = [count(value.decode("latin-1")) for value in known]
        self._reported = prompt, output

    def read(self, name: bytes, data: bytes) -> bool | bytes:
        self._name = name
        return super().read(name, data)

    def _read(self, event: Any) -> None:
        if self._name.startswith(b"!"):
            self.failed = _failed(self._name, event)
            return
        chunk = orjson.loads(a2b_base64(event["bytes"]))
        if "type" in chunk:
            super()._read(chunk)
        elif not _CONVERSE_EVENTS.isdisjoint(chunk):
            self._read_converse(chunk)
        else:
            self._read_foreign(chunk)
        if metrics := chunk.get(_METRICS):
            self._read_metrics(metrics)

    def _read_metrics(self, metrics: Any) -> None:
        """The billed tokens, which may differ from the model's own report."""
        self.finished = True
        usage, fresh = self.usage, count(metrics.get("inputTokenCount"))
        if fresh is not None:
            read, written = _cache(metrics)
            usage.cached = usage.cached if read is None else read
            usage.cache_written = usage.cache_written if written is None else written
            usage.input = total(fresh, usage.cached, usage.cache_written)
        output = count(metrics.get("outputTokenCount"))
        if output is not None:
            self._note_report(output)

    def _read_converse(self, chunk: Any) -> None:
        inner = self._converse = self._converse or ConverseMeter()
        _copy_counts(self, inner)  # a model may mix its own form with this one
        for name, event in chunk.items():
            if name != _METRICS:
                inner.read_event(name.encode(), event)
        self._take_over(inner)

    def _take_over(self, inner: ConverseMeter) -> None:
        _copy_counts(inner, self)
        self.unread, inner.unread = self.unread + inner.unread, 0
        if inner.is_final:
            self._note_report(inner.usage.output)

    def _read_foreign(self, chunk: Any) -> None:
        self.finish = next((reason for name in _FINISHES if (reason := reason_text(chunk.get(name)))), self.finish)
        field = next((name for name in _ENDINGS if name in chunk), None)
        if field:
            self._field = field
            self._add(chunk[field])
            return
        for name in _LISTS:
            for entry in chunk.get(name) or ():
                self._read_entry(entry)

    def _read_entry(self, entry: Any) -> None:
        """One answer of several, in any of the forms that models have."""
        part = entry.get("delta") or entry.get("message") or entry
        self._add("".join(part.get(field) or "" for field in ("content", "text", "outputText", "reasoning_content")))
        self.finish = next((reason for name in _FINISHES if (reason := reason_text(entry.get(name)))), self.finish)

    def _read_whole(self, answer: Any) -> None:
        if "type" in answer:
            super()._read_whole(answer)
        elif "output" in answer or "stopReason" in answer:
            inner = ConverseMeter()
            _copy_counts(self, inner)  # a model may mix its own form with this one
            inner.read_answer(answer)
            self._take_over(inner)
        else:
            self.finished = True
            self._read_foreign(answer)
            self._read_own_counts(answer)
        prompt, output = self._reported
        if prompt is not None and output is not None and not self.is_final:
            self.usage.input = prompt
            self._note_report(output)

    def _read_own_counts(self, answer: Any) -> None:
        """Llama's, Titan's, and those of models that answer as OpenAI does."""
        usage = answer.get("usage") or answer
        names = ("prompt_token_count", "inputTextTokenCount", "prompt_tokens")
        prompt = next((tokens for name in names if (tokens := count(usage.get(name))) is not None), None)
        output = count(usage.get("generation_token_count"), count(usage.get("completion_tokens")))
        if output is None and (parts := [count(entry.get("tokenCount")) for entry in answer.get("results") or ()]):
            output = total(*parts)
        if prompt is not None and output is not None:
            self.usage.input = prompt
            self._note_report(output)

    def _ending(self, prompt: int, output: int) -> list[dict[str, Any]]:
        if self._converse is not None:
            events = [{name: event} for name, event in self._converse.ending_events(prompt, output)]
        elif self._field:
            events = [_ENDINGS[self._field]]
        elif self._started or "anthropic" in (self._params.model or ""):
            events = super()._ending(prompt, output)
        else:
            events = []
        if events:
            events[-1] = events[-1] | {_METRICS: {"inputTokenCount": prompt, "outputTokenCount": output}}
        return events

    def ending(self, prompt: int, output: int) -> bytes:
        """Also after the last chunk if that may have had content and been withheld; b"" if the model's form is not
        known yet."""
        return b"".join(
            encode_frame({"bytes": b2a_base64(orjson.dumps(event), newline=False).decode()}, "chunk")
            for event in self._ending(prompt, output)
        )

    def failure(self, error: RelayError) -> bytes:
        return _exception(error)


def _cache(report: Any) -> tuple[int | None, int | None]:
    """Input tokens read from the cache, and written to it."""
    read, written = (
        count(report.get(f"cache{what}InputTokens"), count(report.get(f"cache{what}InputTokenCount")))
        for what in ("Read", "Write")
    )
    return read, written


def _failed(name: bytes, event: Any) -> str:
    return error_text({"type": name[1:].decode(errors="replace"), "message": event.get("message")})


_CONVERSE_BOUNDS = {"inferenceConfig": ("maxTokens",)}
_INVOKE_BOUNDS = {
    "": ("max_tokens", "max_tokens_to_sample", "max_gen_len", "maxTokens"),
    "inferenceConfig": ("maxTokens", "max_new_tokens"),
    "textGenerationConfig": ("maxTokenCount",),
}
"""The fields that bound an answer, by the object in the request that has them ("": the request itself). InvokeModel
has one for each kind of model."""


def _limits(body: Mapping[str, Any], bounds: Mapping[str, tuple[str, ...]]) -> list[tuple[Any, str]]:
    """Each limit in a request: the object that has it, and its name there."""
    found: list[tuple[Any, str]] = []
    for config, names in bounds.items():
        held = body.get(config) if config else body
        if isinstance(held, dict):
            found += [(held, name) for name in names if held.get(name) is not None]
    return found


_KEY_PATHS = KeyPaths(Auth.BEARER, re.compile(r"/model/[^/?]+/(?:converse|invoke)[a-z-]*(?:[/?]|$)"))


class Bedrock(BaseFormat):
    """`converse`: Converse and ConverseStream, else InvokeModel and InvokeModelWithResponseStream."""

    __slots__ = ("_bounds", "_converse", "_ends", "name")

    key_paths: KeyPaths | None = _KEY_PATHS
    account_fields = frozenset((b"x-amzn-account-id",))
    reads = Reads(
        {
            "model": None,
            **dict.fromkeys(_INVOKE_BOUNDS[""]),
            **{config: Reads(dict.fromkeys(names)) for config, names in _INVOKE_BOUNDS.items() if config},
        }
    )

    def __init__(self, name: str, *, converse: bool) -> None:
        self.name = name
        self._converse = converse
        self._ends = _CONVERSE if converse else _INVOKE
        self._bounds = _CONVERSE_BOUNDS if converse else _INVOKE_BOUNDS

    def serves(self, target: str) -> bool:
        return find_model(target, _MODELS, self._ends) is not None

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        found = find_model(target, _MODELS, self._ends)
        most = [where[field] for where, field in _limits(body, self._bounds)]
        return RequestParams(
            model=model_name(found[0]) if found else None,
            stream=found is not None and found[1].endswith("-stream"),
            max_tokens=largest(most),
        )

    def path_model(self, target: str) -> str | None:
        found = find_model(target, _MODELS, self._ends)
        return text(found[0]) if found else None

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """InvokeModel: only if the request has a limit itself, in its model's own field."""
        changed = [lower(where, field, most) for where, field in _limits(body, self._bounds)]
        if not changed and self._converse and (config := section(body, "inferenceConfig")) is not None:
            return lower(config, "maxTokens", most)
        return any(changed)

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> Meter:
        return ConverseMeter() if self._converse else InvokeMeter(params)

    def error(self, error: RelayError) -> bytes:
        """With the type, which Amazon has in a header, where its libraries look next."""
        kind = _ERROR_TYPES.get(error.status, "InternalServerException")
        return orjson.dumps({"__type": kind, "message": error.message})


BEDROCK_CONVERSE = Bedrock("bedrock-converse", converse=True)
BEDROCK_INVOKE = Bedrock("bedrock-invoke", converse=False)
