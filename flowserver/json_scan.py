"""Fast looks at JSON text that is not parsed: where strings, scalars and containers end. No I/O.

Python takes about 50 ns for a step and a large answer has millions of bytes, so all of this works on blocks: regular
expressions, `split` and `translate`, never byte by byte.
"""

from __future__ import annotations

import re
from itertools import accumulate
from operator import indexOf

BLANKS = b" \t\n\r"
WS = rb"[ \t\n\r]*+"
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
"""A string from quote to quote. What is in it is not checked."""
SCALAR = rb"(?:-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+|true|false|null)"

_NESTED = 64
"""Levels of containers that `VALUE` knows. Ones that are nested deeper are left to `closing`."""


def _container(levels: int) -> bytes:
    inner = b""
    for _ in range(levels):
        inner = rb'[\[{](?:[^][{}"]++|' + STRING + (rb"|" + inner if inner else b"") + rb")*+[\]}]"
    return inner


VALUE = rb"(?:" + STRING + rb"|" + SCALAR + rb"|" + _container(_NESTED) + rb")"
"""A whole value; of containers only the balance of their brackets is checked. It never backtracks: linear time."""

find_string = re.compile(STRING, re.DOTALL).match
find_value = re.compile(VALUE, re.DOTALL).match
find_word = re.compile(rb"[-+.0-9A-Za-z]*+").match
"""What a scalar is made of."""
skip_blanks = re.compile(WS).match
is_scalar = re.compile(SCALAR).fullmatch

_FIRST_WINDOW, _LAST_WINDOW = 256, 64 << 10
"""Bytes that are looked at at once, first and in the end: most values are short."""
_QUOTE = b'"'[0]
_OPENING, _CLOSING = 1, 255
_SIGNS = bytes.maketrans(b"[{]}", bytes([_OPENING, _OPENING, _CLOSING, _CLOSING]))
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def unescaped(text: bytes) -> bytes:
    r"""`text` with its escaped quotes and backslashes masked, so that each quote left is the end of a string. As long
    as `text`, which must not begin behind a backslash. `\u` and `\n` stay."""
    return text.replace(b"\\\\", b"..").replace(b'\\"', b"..") if b"\\" in text else text


def level_after(outside: bytes, level: int) -> int:
    """How many containers are open behind `outside`, text without strings, if `level` were open before it."""
    brackets = outside.translate(_SIGNS, _NO_BRACKETS)
    return level + 2 * brackets.count(_OPENING) - len(brackets)


def closing(parts: list[bytes], level: int) -> int:
    """Where `level` open containers are closed, as the offset just behind the last bracket; 0: not in here.

    `parts`: unescaped text, split at its quotes. It begins outside of strings.
    """
    outside = b"".join(parts[::2])
    brackets = outside.translate(_SIGNS, _NO_BRACKETS)
    if brackets.count(_CLOSING) < level:
        return 0
    try:
        number = indexOf(accumulate(memoryview(brackets).cast("b"), initial=level), 0)
    except ValueError:
        return 0
    place = _place_of(outside, number)
    before = 0
    for index, size in enumerate(accumulate(map(len, parts[::2]))):
        if size >= place:
            return sum(map(len, parts[: 2 * index])) + 2 * index + place - before
        before = size
    raise AssertionError("the bracket is in one of the parts")


def _place_of(outside: bytes, number: int) -> int:
    """The offset just behind the bracket of that number, counted from 1."""
    low, high = 0, len(outside)
    while high - low > 1:
        middle = (low + high) // 2
        here = len(outside[low:middle].translate(None, _NO_BRACKETS))
        if here >= number:
            high = middle
        else:
            number -= here
            low = middle
    return high


class ValueEnd:
    """Finds where a string or a container ends that comes in pieces, and looks at each byte once."""

    __slots__ = ("_escaped", "_in_string", "_level")

    def __init__(self) -> None:
        self._level = 0
        self._in_string = False
        self._escaped = False

    def begin(self, first: int) -> None:
        """A value begins with that byte: a quote or an opening bracket."""
        self._in_string = first == _QUOTE
        self._level = int(not self._in_string)
        self._escaped = False

    def find(self, data: bytes, position: int) -> int:
        """The offset behind the value, which goes on at `position`; 0: it goes on behind `data`."""
        window = _FIRST_WINDOW
        while position < len(data):
            # As if the piece began with the quote of its string, and with the backslash that was the last byte.
            lead = (b'"\\' if self._escaped else b'"') if self._in_string else b""
            text = unescaped(lead + data[position : position + window])
            parts = text.split(b'"')
            if not self._level and len(parts) > 2:
                return position + len(parts[1]) + 2 - len(lead)
            if self._level and (end := closing(parts, self._level)):
                return position + end - len(lead)
            self._level = level_after(b"".join(parts[::2]), self._level)
            self._in_string = len(parts) % 2 == 0
            self._escaped = self._in_string and text.endswith(b"\\")
            position += window
            window = min(8 * window, _LAST_WINDOW)
        return 0
