"""Recognises events that differ from the one before in their text and padding only, as most do. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson

from .byte_classes import PENDING, ByteClasses

RELEARN: Final = 8
"""Content events between two attempts to find a template: an attempt takes twice as long as parsing an event."""

_MOST_AROUND: Final = 2048
"""Bytes around the text of an event that may become a template: they are kept for other streams."""


def _only(allowed: Iterable[int]) -> bytes:
    """A table that translates bytes to themselves, except those that are not allowed."""
    return bytes(byte if byte in allowed else byte ^ 1 for byte in range(256))


# Of a JSON string without escapes: no quote, backslash or control character.
_PLAIN: Final = _only(set(range(0x20, 0x100)) - set(b'"\\'))
_PLAIN_ASCII: Final = _only(set(range(0x20, 0x80)) - set(b'"\\'))
_LETTERS: Final = _only(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_BLANKS: Final = _only(b" ")


class Rest:
    """What follows the text of an event: middle, padding, tail; or the tail alone, if there is no padding."""

    __slots__ = ("_before", "_mark", "middle", "padding", "tail")

    def __init__(self, middle: bytes, padding: bytes, tail: bytes) -> None:
        self.middle = middle
        self._before, self._mark = middle[:-1], middle[-1:]
        """The middle, with its last byte apart: it is the last of its kind, since padding has none."""
        self.padding = padding
        """A table that leaves padding as it is; b"": there is none."""
        self.tail = tail

    def plain_text(self, data: bytes, start: int) -> bytes:
        """`data` between `start` and this rest, if it is the inside of a JSON string without escapes; b"" otherwise."""
        text = self.text(data, start)
        if text.translate(_PLAIN_ASCII) == text or (text.translate(_PLAIN) == text and _is_utf8(text)):
            return text
        return b""

    def text(self, data: bytes, start: int) -> bytes:
        """`data` between `start` and this rest, whatever it is; b"" if this rest is not at the end of `data`."""
        tail = self.tail
        end = len(data) - len(tail)
        if data[end:] != tail:
            return b""
        text = data[start:end]
        padding = self.padding
        if padding:
            text, _, padded = text.rpartition(self._mark)
            before = self._before
            end = len(text) - len(before)
            if text[end:] != before or padded.translate(padding) != padded:
                return b""
            text = text[:end]
        return text


_rest = lru_cache(maxsize=128)(Rest)
"""Mostly the same for all streams of a provider, unlike the head, which has an id: one object of 0.3 KB for all."""


class EventTemplate:
    """The bytes around the text of an event: head, text, and what follows it.

    It is verified by parsing its event again with another text and another padding. So an event that matches is the
    same JSON except for these two. Matching takes a fifth of the time of parsing.
    """

    __slots__ = ("head", "reasoning", "rest")

    def __init__(self, head: bytes, middle: bytes, padding: bytes, tail: bytes, *, reasoning: bool) -> None:
        self.head = head
        self.rest = _rest(middle, padding, tail) if padding else _rest(b"", b"", middle + tail)
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
        rest = self.rest
        return EventTemplate(head, rest.middle, rest.padding, rest.tail + end, reasoning=self.reasoning)

    def text_of(self, data: bytes) -> bytes:
        """The text in `data`, one whole event; b"" if there is none, or `data` is not such an event."""
        head = self.head
        if not data.startswith(head):
            return b""
        return self.rest.plain_text(data, len(head)) or self._escaped_text(data)

    def _escaped_text(self, data: bytes) -> bytes:
        """`text_of` a text with escapes, such as line ends, where the head fits: they are what they stand for."""
        if b"\\" not in data:
            return b""
        text = _parse(b'"%b"' % self.rest.text(data, len(self.head)))
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
        self.other_output = False  # beside the other flag: see CONTRIBUTING.md, "The compiled build"
        self.content_bytes = 0
        self.content_events = 0
        self.reasoning_bytes = 0
        self.content = ByteClasses()
        self.calls = 0
        self.citations = 0
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
    def template(self) -> EventTemplate | None:
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


def _is_utf8(data: bytes) -> bool:
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
