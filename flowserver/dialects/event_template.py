"""Recognises events that differ from the one before in their text and padding only, as most do. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson

from .base import Template
from .byte_classes import PENDING, ByteClasses

RELEARN: Final = 8
"""Content events between two attempts to find a template: an attempt takes twice as long as parsing an event."""

_MOST_AROUND: Final = 2048
"""Bytes around the text of an event that may become a template: compiled ones are kept for all streams."""

_PLAIN = rb"[ !#-\[\]-\xff]"
"""A byte of a JSON string without escapes: no quote, backslash or control character. Naming what there is instead of
what there is not saves a third of the time."""
_PLAIN_TEXT: Final = rb"(" + _PLAIN + rb"*)"
"""The inside of a JSON string without escapes, if it is UTF-8."""
_ESCAPED_TEXT = rb"(" + _PLAIN + rb"*+(?:\\." + _PLAIN + rb"*+)*+)"
"""The same with escapes, right ones or not. Possessive: to remember where each could end takes 100 bytes a byte."""
_LETTERS: Final = rb"[0-9A-Za-z]*"
_BLANKS: Final = rb" *"

Reader = Callable[[bytes, int], re.Match[bytes] | None]


@lru_cache(maxsize=128)
def _reader(text: bytes, middle: bytes, padding: bytes, tail: bytes) -> Reader:
    """Matches a text and everything after it. Mostly the same for all streams of a provider."""
    return re.compile(text + re.escape(middle) + padding + re.escape(tail)).fullmatch


class _Rest:
    """What follows the text of an event: middle, padding, tail."""

    __slots__ = ("middle", "padding", "read", "tail")

    def __init__(self, middle: bytes, padding: bytes, tail: bytes) -> None:
        self.middle = middle
        self.padding = padding
        self.tail = tail
        self.read = _reader(_PLAIN_TEXT, middle, padding, tail)


_rest = lru_cache(maxsize=128)(_Rest)
"""Mostly the same for all streams of a provider, unlike the head, which has an id: one object of 0.3 KB for all."""


class EventTemplate:
    """The bytes around the text of an event: head, text, middle, padding (a regular expression; b"": there is none),
    tail.

    It is verified by parsing its event again with another text and another padding. So an event that matches is the
    same JSON except for these two. Matching takes a quarter of the time of parsing.
    """

    __slots__ = ("_rest", "head", "read", "reasoning")

    def __init__(self, head: bytes, middle: bytes, padding: bytes, tail: bytes, *, reasoning: bool) -> None:
        self.head = head
        self._rest = rest = _rest(middle, padding, tail)
        self.read = rest.read
        self.reasoning = reasoning
        """Whether the text is reasoning."""

    def on_the_wire(self, name: bytes = b"") -> EventTemplate:
        """The same around a whole server-sent event, which has a line with its `name`; b"": it has none."""
        head = (b"event: %b\ndata: " % name if name else b"data: ") + self.head
        return self._with(head, b"\n\n")

    def in_chunk(self) -> EventTemplate:
        """With the line end that closes a chunk."""
        return self._with(self.head, b"\r\n")

    def _with(self, head: bytes, end: bytes) -> EventTemplate:
        rest = self._rest
        return EventTemplate(head, rest.middle, rest.padding, rest.tail + end, reasoning=self.reasoning)

    def text_of(self, data: bytes) -> bytes:
        """The text in `data`; b"" if there is none, or `data` does not fit."""
        if not data.startswith(self.head):
            return b""
        read = self.read  # a call of the attribute itself would look it up the slow way
        match = read(data, len(self.head))
        if match is None:
            return self._escaped_text(data)
        return match[1] if data.isascii() or is_utf8(data) else b""

    def _escaped_text(self, data: bytes) -> bytes:
        """`text_of` a text with escapes, such as line ends, where the head fits: they are what they stand for."""
        if b"\\" not in data:
            return b""
        rest = self._rest
        match = _reader(_ESCAPED_TEXT, rest.middle, rest.padding, rest.tail)(data, len(self.head))
        text = _parse(b'"%b"' % match[1]) if match is not None else None
        return text.encode() if isinstance(text, str) else b""


class Shortcut:
    """The part of a `base.Meter` that counts events by their template, if the format has one."""

    __slots__ = (
        "_event_name",
        "_learned",
        "_payload",
        "_reported_at",
        "_wire",
        "calls",
        "citations",
        "content",
        "content_bytes",
        "content_events",
        "other_output",
        "reasoning_bytes",
    )

    answer_id: str | None = None
    has_text = True

    def __init__(self) -> None:
        self.content_bytes = 0
        self.content_events = 0
        self.reasoning_bytes = 0
        self.content = ByteClasses()
        self.calls = 0
        self.citations = 0
        self.other_output = False
        self._reported_at = -1
        """`content_bytes` when the last report was read; -1: none was, or a later event took it back."""
        self._payload: EventTemplate | None = None
        """The template of an event's data; None: see `_expect`."""
        self._event_name = b""
        """The name of these events; b"": they have none."""
        self._wire: EventTemplate | None = None
        """The same of a whole server-sent event; None: nobody asked for it."""
        self._learned = -RELEARN
        """`content_events` when a template was last looked for."""

    def _count_if_fits(self, data: bytes) -> bool:
        """Count an event if its `data` fit the template. False: it was not counted, and has to be parsed."""
        template = self._payload
        text = template.text_of(data) if template is not None else b""
        if not text:
            return False
        self.content.add(text)
        self.count_template(1, len(text))
        return True

    def _expect(self, found: EventTemplate | None, name: bytes = b"") -> None:
        """The next events have this `name` (b"": none) and data that fit `found`. None: not known, or they may have
        something else."""
        self._payload = found
        self._event_name = name
        self._wire = None

    def read_head(self, fields: Mapping[bytes, bytes]) -> None:
        """Most APIs report no tokens in the head of an answer."""

    @property
    def is_final(self) -> bool:
        return self._reported_at == self.content_bytes

    @property
    def template(self) -> Template | None:
        if self._wire is None and self._payload is not None:
            self._wire = self._payload.on_the_wire(self._event_name)
        return self._wire

    def count_template(self, events: int, content_bytes: int) -> None:
        if len(self.content.pending) > PENDING:
            self.content.settle()
        self.content_bytes += content_bytes
        self.content_events += events
        if self._payload is not None and self._payload.reasoning:
            self.reasoning_bytes += content_bytes


@dataclass(frozen=True, slots=True)
class TemplateFinder:
    """Finds the templates of one format's events."""

    reasoning: frozenset[str]
    """The fields whose text is reasoning."""
    padded: tuple[str, ...] = ()
    """The fields of an event that may have padding of a random length."""
    padded_with_blanks: bool = False
    """Whether blanks after an event are such padding."""

    def find(self, data: bytes, event: dict[str, Any], holder: dict[str, Any], field: str) -> EventTemplate | None:
        """The template of `data`, which is `event` unparsed, around the text of `field` in `holder`, an object in it;
        None: it has none. Alters `event`."""
        head, text, rest = _split(data, field, holder[field])
        if len(head) + len(rest) > _MOST_AROUND:
            return None
        holder[field] = "x" + holder[field]
        middle, padding, tail, altered = self._padding(rest, event)
        try:
            proven = bool(head) and _parse(head + b"x" + text + altered) == event
        except RecursionError:  # nested almost as deep as orjson reads
            return None
        return EventTemplate(head, middle, padding, tail, reasoning=field in self.reasoning) if proven else None

    def _padding(self, rest: bytes, event: dict[str, Any]) -> tuple[bytes, bytes, bytes, bytes]:
        """What follows the text as (middle, padding, tail), and with other padding, which is put into `event` too."""
        for name in self.padded:
            if type(event.get(name)) is str and (split := _split(rest, name, event[name])) and split[0]:
                middle, there, tail = split
                event[name] = "x" + event[name]
                return middle, _LETTERS, tail, middle + b"x" + there + tail
        if self.padded_with_blanks:
            return rest.rstrip(b" "), _BLANKS, b"", rest
        return rest, b"", b"", rest


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except ValueError:
        return None


def _split(data: bytes, field: str, value: str) -> tuple[bytes, bytes, bytes]:
    """`data` before, in and after the first `field` with this value; if the first part is empty, there is none."""
    text = value.encode()
    before, found, behind = data.partition(b'"%b":"%b"' % (field.encode(), text))
    return (before + found[: -len(text) - 1], text, b'"' + behind) if found else (b"", text, b"")
