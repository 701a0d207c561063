"""A short cut for chat chunks: most differ from the one before in their text and their padding only. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .common import is_utf8
from .openai_common import parse, size_of

_TEXT_FIELDS = ("content", "reasoning_content", "reasoning")
_PADDING_FIELDS = ("obfuscation", "p")
"""Of random length, against listeners who tell tokens by their sizes: OpenAI's and Mistral's."""
_PLAIN_TEXT = rb'([^"\\\x00-\x1f]*)'
"""The inside of a JSON string without escapes, if it is UTF-8."""


@lru_cache(maxsize=64)
def _reader(middle: bytes, tail: bytes, *, padded: bool) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """Matches a text and all that is behind it. The same for all streams of a provider, mostly."""
    padding = rb"[0-9A-Za-z]*" if padded else b""
    return re.compile(_PLAIN_TEXT + re.escape(middle) + padding + re.escape(tail)).fullmatch


class Pattern:
    """The bytes around the text of a chunk: head, text, middle, and where there is padding also padding, tail.

    Proven with the chunk it was taken from, by parsing that with another text and another padding. So an event that
    fits is the same JSON but for these two, whatever they are. To see that takes a quarter of the time of parsing.
    """

    __slots__ = ("_middle", "_padded", "_tail", "head", "read", "reasoning", "start")

    def __init__(self, head: bytes, middle: bytes, tail: bytes, *, padded: bool, reasoning: bool) -> None:
        self.head = head
        self.start = len(head)
        self._middle = middle
        self._tail = tail
        self._padded = padded
        self.read = _reader(middle, tail, padded=padded)
        self.reasoning = reasoning
        """Whether the text is reasoning."""

    def on_the_wire(self) -> Pattern:
        """The same around a whole server-sent event."""
        head, tail = b"data: " + self.head, self._tail + b"\n\n"
        return Pattern(head, self._middle, tail, padded=self._padded, reasoning=self.reasoning)

    def in_chunk(self) -> Pattern:
        """With the line end that closes a chunk."""
        return Pattern(self.head, self._middle, self._tail + b"\r\n", padded=self._padded, reasoning=self.reasoning)

    def text_size(self, data: bytes) -> int:
        """Bytes of the text in `data`; 0 if there is none, or `data` does not fit."""
        if not data.startswith(self.head):
            return 0
        read = self.read  # a call of the attribute itself would look it up the slow way
        match = read(data, self.start)
        if match is None or not (data.isascii() or is_utf8(data)):
            return 0
        return match.end(1) - self.start


def pattern_of(data: bytes, event: dict[str, Any], content: int) -> Pattern | None:
    """The pattern of `data`, which is `event` unparsed, with one choice and `content` bytes of content. None: it has
    none, or content beside its text. Alters `event`.
    """
    delta = event["choices"][0].get("delta")
    for field in _TEXT_FIELDS if type(delta) is dict else ():
        if size_of(delta.get(field)) == content:
            return _around(data, event, delta, field)
    return None


def _around(data: bytes, event: dict[str, Any], delta: dict[str, Any], field: str) -> Pattern | None:
    head, text, rest = _split(data, field, delta[field])
    middle, padding, tail = rest, b"", b""
    altered = head + b"x" + text + rest
    delta[field] = "x" + delta[field]
    for name in _PADDING_FIELDS:
        if type(event.get(name)) is str and (split := _split(rest, name, event[name])) and split[0]:
            middle, padding, tail = split
            altered = head + b"x" + text + middle + b"x" + padding + tail
            event[name] = "x" + event[name]
            break
    proven = bool(head) and parse(altered) == event
    return Pattern(head, middle, tail, padded=bool(tail), reasoning=field != "content") if proven else None


def _split(data: bytes, field: str, value: str) -> tuple[bytes, bytes, bytes]:
    """`data` before, in, and behind the first place that reads `field` with this value; nothing before: nowhere."""
    text = value.encode()
    before, found, behind = data.partition(b'"%b":"%b"' % (field.encode(), text))
    return (before + found[: -len(text) - 1], text, b'"' + behind) if found else (b"", text, b"")
