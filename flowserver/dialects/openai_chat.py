"""OpenAI's chat completions, which many others speak (see `profiles`), legacy completions, embeddings. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from ..errors import RelayError
from ..json_text.edits import without_member
from ..json_text.members import COUNT, Reads
from ..json_text.reducer import reduce_json
from ..names import model_name, user_name
from .api_paths import deployment_of, ends_with
from .base import KeyPaths, Quirks, RequestParams, Usage
from .common import (
    DONE,
    FALLBACKS,
    MAX_OPEN,
    BaseFormat,
    BaseMeter,
    count,
    error_text,
    has_fallbacks,
    largest,
    lower,
    reason_text,
    sse,
    unread_size,
)
from .event_template import RELEARN, EventTemplate, TemplateFinder
from .openai_common import ACCOUNT_FIELDS, HEARTBEAT, KEY_PATHS, entries, mapping, parse, read_usage, size_of

_HEAD_FIELDS = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
"""What all chunks of a stream have in common."""
_MOST_CHOICES = 128
"""OpenAI's limit in a request. Beyond it, `ending` ignores choices that have not begun."""
_MOST_SAMPLE: Final = 1 << 16
"""Bytes of a chunk that is kept. A larger one leaves the one before it in place."""
_MOST_FIELD = 256
"""Characters of a text in the head of the ending's chunks."""
_REPORT_ONLY = frozenset((*_HEAD_FIELDS, "choices", "usage", "x_groq", "latency_checkpoint", "obfuscation", "p"))
"""The fields of an event that only reports usage; `latency_checkpoint` is Azure's."""
_LIMIT_FIELDS: Final = ("max_completion_tokens", "max_tokens")
"""Old servers know the second one only."""
_OWN_LIMIT: Final = "n_predict"
"""llama.cpp's own, which takes precedence there."""
_TEXT_FIELDS: Final = ("content", "reasoning_content", "reasoning")
_TEMPLATES: Final = TemplateFinder(frozenset(_TEXT_FIELDS[1:]), padded=("obfuscation", "p"))
"""OpenAI's and Mistral's padding hides the sizes of tokens from eavesdroppers."""


_NONE: Final[frozenset[int]] = frozenset()
_FIRST: Final[frozenset[int]] = frozenset((0,))
"""No choices, and the only one that most answers have. One object for all streams: a set of its own takes 216 bytes."""


class ChatMeter(BaseMeter):
    """Reads an event of 284 bytes that fits its template in 0.7 us, with parsing in 2.5."""

    _object: ClassVar[str] = "chat.completion.chunk"
    _empty: ClassVar[dict[str, Any]] = {"delta": {}}
    """A choice without content."""

    __slots__ = (
        "_by_choice",
        "_closed",
        "_closing",
        "_cuttable",
        "_params",
        "_quirks",
        "_reported",
        "_sample",
        "_seen",
    )

    def __init__(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> None:
        super().__init__()
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self._cuttable = cuttable
        self._reported = False
        """Whether the client has the final usage report, or would not get it anyway."""
        self._params = params
        self._quirks = quirks
        self._seen = _NONE
        """Indexes of choices that have begun, `MAX_OPEN` at most; of others no end is noted or made."""
        self._closed = _NONE
        self._closing = _NONE
        """Choices closed by the last event, if that has content: it may be withheld from the client."""
        self._by_choice: dict[int, int] | None = None
        """Output tokens of each choice; None: they are not reported one by one, or the total was."""
        self._sample = b""
        """A chunk of this stream, for the fields that all have in common; b"": none yet, or not needed."""

    def read(self, name: bytes, data: bytes) -> bool | bytes:
        if self._count_if_fits(data):
            return True
        if data.startswith(DONE):
            self.finished = True
            return True
        event = parse(data)
        if event is None:
            self.unread += unread_size(data)
            return True
        return self._read_event(data, event)

    def _read_event(self, data: bytes, event: dict[str, Any]) -> bool | bytes:
        if self._closing:
            self._closed |= self._closing
            self._closing = _NONE
        choices = entries(event.get("choices"))
        groq = mapping(event["x_groq"]) if "x_groq" in event else {}
        content_bytes = self.content_bytes
        late = self._are_closed(choices)
        closing = self._read_choices(choices)
        content = self.content_bytes > content_bytes
        if content:
            self.content_events += 1
            self._closing = closing
            self.running = False
        elif closing:
            self._closed |= closing
        if choices and self._cuttable and len(data) <= _MOST_SAMPLE:
            self._sample = data
        self.model = model_name(event.get("model")) or self.model
        error = event.get("error") or groq.get("error")
        if error:
            self.failed = error_text(error)
        report = mapping(event.get("usage") or groq.get("usage"))
        if report:
            self._read_report(report, choices, content=content, late=late)
        elif self._by_choice and closing:
            self._add_up_choices(closing)
        if closing or report or error:
            # What these say about the stream may change with the next event, which a template would not notice.
            self._expect(None)
        elif content and len(choices) == 1 and self.content_events - self._learned >= RELEARN:
            self._learn(data, event, self.content_bytes - content_bytes)
        if not report or error or self._params.usage or not self._quirks.usage_option or (choices and not late):
            return True
        return _without_report(data, event)

    def _learn(self, data: bytes, event: dict[str, Any], content: int) -> None:
        """Look for the template of an event with `content` bytes of content."""
        self._learned = self.content_events
        found = _template_of(data, event, content)
        if found is not None:
            self._expect(found)

    def _read_choices(self, choices: list[dict[str, Any]]) -> frozenset[int]:
        """Count their content. Returns the ones that end here."""
        closing = _NONE
        for choice in choices:
            index = _index(choice)
            if index not in self._seen:
                self._begin_choice(index)
            # Some send the whole message so far along with the delta.
            delta = choice["delta"] if "delta" in choice else choice.get("message")
            if type(delta) is dict:
                self._read_delta(delta)
            else:
                self.content_bytes += self._size(choice.get("text"))
            if "usage" in choice and (report := mapping(choice["usage"])):
                self._note_of_choice(choice, report)
            finish = choice.get("finish_reason")
            if finish and type(finish) is str:
                self.finish = reason_text(finish)
                if index in self._seen:
                    closing |= {index}
        return closing

    def _begin_choice(self, index: int) -> None:
        seen = self._seen
        if not seen and not index:
            self._seen = _FIRST
        elif len(seen) < MAX_OPEN:
            self._seen = seen | {index}

    def _read_delta(self, delta: dict[str, Any]) -> None:
        shown = thought = reasoning = 0
        for field, value in delta.items():
            if not value or field == "role":
                pass
            elif field == "content":
                if type(value) is list:
                    shown, thought = self._sizes_of_parts(value)
                else:
                    shown += self._size(value)
            elif field in ("reasoning_content", "reasoning"):
                reasoning = reasoning or self._size(value)  # several providers send the same in two or three fields
            elif field == "reasoning_details":
                reasoning = reasoning or self._size_of_details(value)
            elif field == "tool_calls":
                shown += sum(self._size_of_call(call.get("function") or call.get("custom")) for call in entries(value))
            elif field == "function_call":
                shown += self._size_of_call(value)
            elif field == "refusal":
                shown += self._size(value)
            elif field in ("audio", "images"):
                self.other_output = True
        reasoning += thought
        self.reasoning_bytes += reasoning
        self.content_bytes += shown + reasoning

    def _size(self, value: object) -> int:
        """Bytes of a text that is content, which it records; 0 for anything else."""
        if type(value) is not str:
            return 0
        written = value.encode()
        self.content.add(written)
        return len(written)

    def _sizes_of_parts(self, parts: list[Any]) -> tuple[int, int]:
        """Bytes of text and of reasoning: what Mistral sends where there is reasoning."""
        shown = thought = 0
        for part in entries(parts):
            shown += self._size(part.get("text"))
            thought += sum(self._size(thinking.get("text")) for thinking in entries(part.get("thinking")))
        return shown, thought

    def _size_of_details(self, details: object) -> int:
        self.other_output = True  # also where all of it is encrypted
        return sum(self._size(part.get("text") or part.get("summary")) for part in entries(details))

    def _size_of_call(self, call: object) -> int:
        called = mapping(call)
        name = self._size(called.get("name"))
        self.calls += name > 0
        return name + self._size(called.get("arguments")) + self._size(called.get("input"))

    def _are_closed(self, choices: list[dict[str, Any]]) -> bool:
        """Whether all of `choices` had ended before: then a report on them is a report on the whole answer."""
        closed = self._closed
        return bool(closed) and all(_index(choice) in closed for choice in choices)

    def _read_report(self, report: dict[str, Any], choices: list[dict[str, Any]], *, content: bool, late: bool) -> None:
        """`late`: it comes after the end of its choices, if it has any."""
        several = self._params.choices > 1
        if choices and several and not late:
            # Of one choice: vLLM's running count.
            self._note_of_choice(choices[0], report)
            self._add_up_choices(self._closing)
            return
        output = read_usage(self.usage, report, reasoning_apart=self._quirks.reasoning_apart)
        self._by_choice = None
        last = not choices or late or not self._open_choices(self._closing)
        self.running = content and not several and output is not None
        if last:
            self._note_report(output)
        if last and not content:
            self._reported = True

    def _note_of_choice(self, choice: dict[str, Any], report: dict[str, Any]) -> None:
        """A report on one choice of several."""
        own = Usage()
        output = read_usage(own, report, reasoning_apart=self._quirks.reasoning_apart)
        if self._by_choice is None:
            self._by_choice = {}
        if output is not None and len(self._by_choice) < MAX_OPEN:
            self._by_choice[_index(choice)] = output
            self.usage.input = own.input if own.input is not None else self.usage.input

    def _add_up_choices(self, closing: frozenset[int]) -> None:
        """Once every choice has ended with a report of its own, their sum is the report, if there is no other."""
        ended, reported = self._closed | closing, self._by_choice or {}
        if not self._open_choices(closing) and ended and ended.issubset(reported):
            self._note_report(sum(reported.values()))

    def read_whole(self, body: bytes) -> bool:
        event = parse(body)
        if event is None:
            return False
        self.finished = True
        closing = self._read_choices(entries(event.get("choices")))
        self.content_events = 1 if self.content_bytes else 0
        self.model = model_name(event.get("model"))
        if self._by_choice:
            self._add_up_choices(closing)
        error, report = event.get("error"), event.get("usage")
        if "x_groq" in event:
            groq = mapping(event["x_groq"])
            error, report = error or groq.get("error"), report or groq.get("usage")
        if error:
            self.failed = error_text(error)
        if report := mapping(report):
            self._note_report(read_usage(self.usage, report, reasoning_apart=self._quirks.reasoning_apart))
        return True

    def _open_choices(self, closing: frozenset[int] = _NONE) -> list[int]:
        indexes = range(min(self._params.choices, _MOST_CHOICES))
        return sorted({*indexes, *self._seen} - self._closed - closing)

    def ending(self, prompt: int, output: int) -> bytes:
        if self.finished:
            return b""
        sample = parse(self._sample) or {
            "id": "",
            "object": self._object,
            "created": 0,
            "model": self._params.model or "",
        }
        head = {field: _brief(sample[field]) for field in _HEAD_FIELDS if field in sample}
        chunks: list[dict[str, Any]] = [
            {**head, "choices": [{"index": index, **self._empty, "logprobs": None, "finish_reason": "length"}]}
            for index in self._open_choices()
        ]
        if not (self._reported and self.is_final):
            report = _report(prompt, output)
            if not self._quirks.usage_option and chunks:
                chunks[-1]["usage"] = report
            elif self._params.usage:
                chunks.append({**head, "choices": [], "usage": report})
        return b"".join([*map(sse, chunks), b"data: %b\n\n" % DONE])

    def failure(self, error: RelayError) -> bytes:
        return b"data: %b\n\n" % error.body()


class CompletionsMeter(ChatMeter):
    _object: ClassVar[str] = "text_completion"
    _empty: ClassVar[dict[str, Any]] = {"text": ""}

    __slots__ = ()


class EmbeddingsMeter(ChatMeter):
    """Embeddings are whole answers: the usage, and megabytes of numbers."""

    has_text = False

    __slots__ = ()

    def read_whole(self, body: bytes) -> bool:
        return super().read_whole(reduce_json(body))


def _index(choice: dict[str, Any]) -> int:
    """A choice without an index that makes sense is the first: some providers send none, or null."""
    index = choice.get("index")
    return index if type(index) is int else 0


def _without_report(data: bytes, event: dict[str, Any]) -> bool | bytes:
    """What a client that did not ask for usage gets of an event with usage, which comes after the end of its choices,
    if any: the rest of it."""
    return False if _REPORT_ONLY.issuperset(event) else without_member(data, "usage") or False


def _template_of(data: bytes, event: dict[str, Any], content: int) -> EventTemplate | None:
    """The template of `data`, which is `event` unparsed, with one choice and `content` bytes of content. None: it has
    none, or content besides its text. Alters `event`."""
    delta = event["choices"][0].get("delta")
    for field in _TEXT_FIELDS if type(delta) is dict else ():
        if size_of(delta.get(field)) == content:
            return _TEMPLATES.find(data, event, delta, field)
    return None


def _brief(value: Any) -> Any:
    """A field of a chunk's head, without what no such field has: lists, objects, endless texts."""
    if isinstance(value, str):
        return value[:_MOST_FIELD]
    return None if isinstance(value, dict | list) else value


def _report(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


_READS: dict[str, Reads | str | None] = {
    **dict.fromkeys(("model", "stream", *_LIMIT_FIELDS, _OWN_LIMIT, "n", "user", "safety_identifier")),
    "stream_options": Reads({"include_usage": None}),
    **FALLBACKS,
}


def _most(body: Mapping[str, Any]) -> int | None:
    """The limit of each answer, whichever field its provider uses; None: one of them is not a count."""
    bounds = [body[field] for field in _LIMIT_FIELDS if body.get(field) is not None]
    if not bounds:
        return None
    own = body.get(_OWN_LIMIT)
    return largest(bounds if own is None else [*bounds, own])


class OpenAIChat(BaseFormat):
    name = "openai-chat"
    heartbeat: bytes | None = HEARTBEAT
    reads = Reads(_READS)
    key_paths: KeyPaths | None = KEY_PATHS
    account_fields = ACCOUNT_FIELDS

    def serves(self, target: str) -> bool:
        return ends_with(target, "/chat/completions")

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        get = body.get
        stream = get("stream") is True
        choices = count(get("n")) or 1
        return RequestParams(
            model=model_name(deployment_of(target) or get("model")),
            stream=stream,
            max_tokens=_most(body),
            choices=choices,
            answers=choices,
            user=user_name(get("user")) or user_name(get("safety_identifier")),
            has_fallbacks=has_fallbacks(body),
            usage=not stream or mapping(get("stream_options")).get("include_usage") is True,
        )

    def path_model(self, target: str) -> str | None:
        return deployment_of(target)

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        each = max(1, most // (count(body.get("n")) or 1))
        fields = [field for field in _LIMIT_FIELDS if body.get(field) is not None] or [quirks.max_tokens]
        own = [_OWN_LIMIT] if body.get(_OWN_LIMIT) is not None else []
        changed = [lower(body, field, each, least=1) for field in (*fields, *own)]  # 0 is no bound to Ollama
        return any(changed)

    def ask_usage(self, body: dict[str, Any], quirks: Quirks) -> bool:
        options = body.get("stream_options")
        if not quirks.usage_option or body.get("stream") is not True or not isinstance(options, dict | None):
            return False
        if options and options.get("include_usage") is True:
            return False
        body["stream_options"] = {**(options or {}), "include_usage": True}
        return True

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> ChatMeter:
        return ChatMeter(params, quirks, cuttable=cuttable)

    def error(self, error: RelayError) -> bytes:
        return error.body()


_OWN_BOUND = 16
"""The API's default limit, in tokens."""


def _prompts(body: Mapping[str, Any]) -> int:
    return count(body.get("prompt")) or 1


def _answers(body: Mapping[str, Any]) -> int:
    return max(count(body.get("n")) or 1, count(body.get("best_of")) or 1) * _prompts(body)


class OpenAICompletions(OpenAIChat):
    """The legacy API: a prompt instead of messages, a text instead of a delta."""

    name = "openai-completions"
    reads = Reads({**_READS, "prompt": COUNT, "best_of": None})

    def serves(self, target: str) -> bool:
        return ends_with(target, "/completions") and not ends_with(target, "/chat/completions")

    def read_params(self, target: str, body: Mapping[str, Any]) -> RequestParams:
        """`n` answers for each prompt, the best of `best_of` that are generated."""
        params = super().read_params(target, body)
        return replace(params, choices=params.choices * _prompts(body), answers=_answers(body))

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        """A request without a limit gets none above the API's own default: 16 tokens (OpenAI, vLLM)."""
        each = max(1, most // _answers(body))
        fields = [field for field in (*_LIMIT_FIELDS, _OWN_LIMIT) if body.get(field) is not None]
        if fields[:1] in ([], [_OWN_LIMIT]) and each < _OWN_BOUND:
            fields.append("max_tokens")
        changed = [lower(body, field, each) for field in fields]
        return any(changed)

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> ChatMeter:
        return CompletionsMeter(params, quirks, cuttable=cuttable)


class OpenAIEmbeddings(OpenAIChat):
    """No stream and no output: only the usage is read."""

    name = "openai-embeddings"
    heartbeat: bytes | None = None

    def serves(self, target: str) -> bool:
        return ends_with(target, "/embeddings")

    def limit(self, body: dict[str, Any], most: int, quirks: Quirks) -> bool:
        return False

    def ask_usage(self, body: dict[str, Any], quirks: Quirks) -> bool:
        return False

    def meter(self, params: RequestParams, quirks: Quirks, *, cuttable: bool) -> ChatMeter:
        return EmbeddingsMeter(params, quirks, cuttable=cuttable)


OPENAI_CHAT = OpenAIChat()
OPENAI_COMPLETIONS = OpenAICompletions()
OPENAI_EMBEDDINGS = OpenAIEmbeddings()
