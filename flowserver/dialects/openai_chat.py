"""OpenAI's chat completions, which many others speak (see `quirks`), legacy completions, embeddings. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import RelayError
from ..json_reducer import reduce_json
from .base import BEARER, Asked, Quirks, Usage
from .common import count, lower, path_of, sse, text, told
from .openai_common import HEARTBEAT, entries, mapping, parse, read_usage, size_of
from .pattern import RELEARN, Pattern, Shortcut, pattern_around

_DONE = b"[DONE]"
_HEAD_FIELDS = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
"""What all chunks of a stream have in common."""
_MOST_CHOICES = 128
"""What OpenAI takes in a request: of more that did not begin yet, `ending` ends no more."""
_LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning")
_PADDING_FIELDS = ("obfuscation", "p")
"""Of random length, against listeners who tell tokens by their sizes: OpenAI's and Mistral's."""


class ChatMeter(Shortcut):
    """Reads an event of 284 bytes that fits a pattern in 0.7 us, with parsing in 2.5."""

    _object = "chat.completion.chunk"
    _empty: ClassVar[dict[str, Any]] = {"delta": {}}
    """How a choice tells that it has no content."""

    __slots__ = (
        "_asked",
        "_closed",
        "_closing",
        "_cuttable",
        "_pattern",
        "_quirks",
        "_reported",
        "_sample",
        "_seen",
        "failed",
        "finish",
        "finished",
        "model",
        "running",
        "usage",
    )

    def __init__(self, asked: Asked, quirks: Quirks, *, cuttable: bool) -> None:
        super().__init__()
        self._asked = asked
        self._quirks = quirks
        self._cuttable = cuttable
        self.usage = Usage()
        self.running = False
        self.model: str | None = None
        self.finish: str | None = None
        self.failed: str | None = None
        self.finished = False
        self._seen: set[int] = set()
        self._closed: set[int] = set()
        self._closing: list[int] = []
        """Choices that the last event closed, where it has content: the client may not get to see it."""
        self._reported = False
        """Whether the client has the final usage report, or would not get it anyway."""
        self._sample = b""
        """A chunk of this stream, for what they have in common; b"": none yet, or not needed."""
        self._pattern: Pattern | None = None
        """`_wire` without the framing of its event."""

    def read(self, name: bytes, data: bytes) -> bool:
        pattern = self._pattern
        if pattern is not None and (units := pattern.text_size(data)):
            self.units += units
            self.pieces += 1
            if pattern.reasoning:
                self.reasoning_units += units
            return True
        if data.startswith(_DONE):
            self.finished = True
            return True
        event = parse(data)
        return event is None or self._read_event(data, event)

    def _read_event(self, data: bytes, event: dict[str, Any]) -> bool:
        if self._closing:
            self._closed.update(self._closing)
            self._closing = []
        choices = entries(event.get("choices"))
        groq = mapping(event["x_groq"]) if "x_groq" in event else {}
        units = self.units
        closing = self._read_choices(choices)
        content = self.units > units
        if content:
            self.pieces += 1
            self._closing = closing
        else:
            self._closed.update(closing)
        if choices and self._cuttable:
            self._sample = data
        self.model = text(event.get("model")) or self.model
        error = event.get("error") or groq.get("error")
        if error:
            self.failed = told(error)
        report = mapping(event.get("usage") or groq.get("usage"))
        if content:
            self.running = False
        if report:
            last = not choices or set(closing).issuperset(self._open_choices())
            self._read_report(report, content=content, last=last)
        if closing or report or error:
            # What these said of the stream may not hold after one more event, which a pattern would not see.
            self._pattern = self._wire = None
        elif content and len(choices) == 1 and self.pieces - self._learned >= RELEARN:
            self._learned = self.pieces
            found = _pattern_of(data, event, self.units - units)
            if found is not None:
                self._pattern, self._wire = found, found.on_the_wire()
        unasked = self._quirks.usage_option and not self._asked.usage
        return not (unasked and report and not choices and not error)

    def _read_choices(self, choices: list[dict[str, Any]]) -> list[int]:
        """Count their content. The ones that end here."""
        closing = []
        for choice in choices:
            index = choice.get("index")
            if type(index) is not int:
                index = 0
            self._seen.add(index)
            # Some send the whole message so far beside the delta.
            delta = choice["delta"] if "delta" in choice else choice.get("message")
            if type(delta) is dict:
                self._read_delta(delta)
            else:
                self.units += size_of(choice.get("text"))
            finish = choice.get("finish_reason")
            if finish and type(finish) is str:
                self.finish = finish
                closing.append(index)
        return closing

    def _read_delta(self, delta: dict[str, Any]) -> None:
        said = thought = reasoning = 0
        for field, value in delta.items():
            if not value or field == "role":
                pass
            elif field == "content":
                if type(value) is list:
                    said, thought = _sizes_of_parts(value)
                else:
                    said += size_of(value)
            elif field in ("reasoning_content", "reasoning"):
                reasoning = reasoning or size_of(value)  # several providers send the same in two or three fields
            elif field == "reasoning_details":
                reasoning = reasoning or _size_of_details(value)
            elif field == "tool_calls":
                said += sum(_size_of_call(call.get("function") or call.get("custom")) for call in entries(value))
            elif field == "function_call":
                said += _size_of_call(value)
            elif field == "refusal":
                said += size_of(value)
        reasoning += thought
        self.reasoning_units += reasoning
        self.units += said + reasoning

    def _read_report(self, report: dict[str, Any], *, content: bool, last: bool) -> None:
        """`last`: it comes with the end of the last choice, or behind that."""
        if not last and self._asked.choices > 1:
            return  # vLLM's running count is about one of them
        read_usage(self.usage, report, reasoning_apart=self._quirks.reasoning_apart)
        self.running = content and self._asked.choices == 1 and "completion_tokens" in report
        if last and not content:
            self._reported = True

    def read_whole(self, body: bytes) -> None:
        event = parse(body)
        if event is None:
            return
        self.finished = True
        self._read_choices(entries(event.get("choices")))
        self.pieces = 1 if self.units else 0
        self.model = text(event.get("model"))
        error, report = event.get("error"), event.get("usage")
        if "x_groq" in event:
            groq = mapping(event["x_groq"])
            error, report = error or groq.get("error"), report or groq.get("usage")
        if error:
            self.failed = told(error)
        if report := mapping(report):
            read_usage(self.usage, report, reasoning_apart=self._quirks.reasoning_apart)

    def _open_choices(self) -> list[int]:
        asked = range(min(self._asked.choices, _MOST_CHOICES))
        return sorted({*asked, *self._seen} - self._closed)

    def ending(self, output: int) -> bytes:
        if self.finished:
            return b""
        sample = parse(self._sample) or {
            "id": "",
            "object": self._object,
            "created": 0,
            "model": self._asked.model or "",
        }
        head = {field: sample[field] for field in _HEAD_FIELDS if field in sample}
        chunks: list[dict[str, Any]] = [
            {**head, "choices": [{"index": index, **self._empty, "logprobs": None, "finish_reason": "length"}]}
            for index in self._open_choices()
        ]
        if not self._reported:
            report = _report(self.usage.input or 0, output)
            if not self._quirks.usage_option and chunks:
                chunks[-1]["usage"] = report
            elif self._asked.usage:
                chunks.append({**head, "choices": [], "usage": report})
        return b"".join([*map(sse, chunks), b"data: %b\n\n" % _DONE])

    def failure(self, error: RelayError) -> bytes:
        return b"data: %b\n\n" % error.body()


class CompletionsMeter(ChatMeter):
    _object = "text_completion"
    _empty: ClassVar[dict[str, Any]] = {"text": ""}

    __slots__ = ()


class EmbeddingsMeter(ChatMeter):
    """Embeddings answer whole, with megabytes of numbers beside the usage."""

    __slots__ = ()

    def read_whole(self, body: bytes) -> None:
        super().read_whole(reduce_json(body))


def _pattern_of(data: bytes, event: dict[str, Any], content: int) -> Pattern | None:
    """The pattern of `data`, which is `event` unparsed, with one choice and `content` bytes of content. None: it has
    none, or content beside its text. Alters `event`."""
    delta = event["choices"][0].get("delta")
    for field in _TEXT_FIELDS if type(delta) is dict else ():
        if size_of(delta.get(field)) == content:
            return pattern_around(data, event, delta, field, reasoning=field != "content", padded=_PADDING_FIELDS)
    return None


def _sizes_of_parts(parts: list[Any]) -> tuple[int, int]:
    """Bytes of text and of reasoning: what Mistral sends where there is reasoning."""
    said = thought = 0
    for part in entries(parts):
        said += size_of(part.get("text"))
        thought += sum(size_of(thinking.get("text")) for thinking in entries(part.get("thinking")))
    return said, thought


def _size_of_details(details: object) -> int:
    return sum(size_of(part.get("text") or part.get("summary")) for part in entries(details))


def _size_of_call(call: object) -> int:
    called = mapping(call)
    return size_of(called.get("name")) + size_of(called.get("arguments")) + size_of(called.get("input"))


def _report(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class OpenAIChat:
    name = "openai-chat"
    key_field = BEARER
    heartbeat: bytes | None = HEARTBEAT
    bytes_per_token = 4.2

    def serves(self, target: str) -> bool:
        return path_of(target).endswith("/chat/completions")

    def asked(self, target: str, body: Mapping[str, Any]) -> Asked:
        said = body.get
        stream = said("stream") is True
        return Asked(
            model=text(said("model")),
            stream=stream,
            max_tokens=count(said("max_completion_tokens"), count(said("max_tokens"))),
            choices=count(said("n")) or 1,
            user=text(said("user")) or text(said("safety_identifier")),
            usage=not stream or mapping(said("stream_options")).get("include_usage") is True,
        )

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        each = max(1, most // (count(body.get("n")) or 1))
        fields = [field for field in _LIMIT_FIELDS if body.get(field) is not None] or [quirks.max_tokens]
        changed = [lower(body, field, each) for field in fields]
        return any(changed)

    def ask_usage(self, body: dict[str, Any], quirks: Quirks) -> bool:
        options = body.get("stream_options")
        if not quirks.usage_option or body.get("stream") is not True or not isinstance(options, dict | None):
            return False
        if options and options.get("include_usage") is True:
            return False
        body["stream_options"] = {**(options or {}), "include_usage": True}
        return True

    def meter(self, asked: Asked, quirks: Quirks, *, cuttable: bool) -> ChatMeter:
        return ChatMeter(asked, quirks, cuttable=cuttable)

    def error(self, error: RelayError) -> bytes:
        return error.body()


class OpenAICompletions(OpenAIChat):
    """The legacy API: a prompt instead of messages, a text instead of a delta."""

    name = "openai-completions"

    def serves(self, target: str) -> bool:
        path = path_of(target)
        return path.endswith("/completions") and not path.endswith("/chat/completions")

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """A request that has no bound gets none: its answer ends after 16 tokens (OpenAI, vLLM)."""
        each = max(1, most // (count(body.get("n")) or 1))
        return body.get("max_tokens") is not None and lower(body, "max_tokens", each)

    def meter(self, asked: Asked, quirks: Quirks, *, cuttable: bool) -> ChatMeter:
        return CompletionsMeter(asked, quirks, cuttable=cuttable)


class OpenAIEmbeddings(OpenAIChat):
    """No stream and no output: only the usage is read."""

    name = "openai-embeddings"
    heartbeat: bytes | None = None

    def serves(self, target: str) -> bool:
        return path_of(target).endswith("/embeddings")

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        return False

    def ask_usage(self, body: dict[str, Any], quirks: Quirks) -> bool:
        return False

    def meter(self, asked: Asked, quirks: Quirks, *, cuttable: bool) -> ChatMeter:
        return EmbeddingsMeter(asked, quirks, cuttable=cuttable)


OPENAI_CHAT = OpenAIChat()
OPENAI_COMPLETIONS = OpenAICompletions()
OPENAI_EMBEDDINGS = OpenAIEmbeddings()
