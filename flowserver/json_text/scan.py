"""Finds where strings, scalars and containers of a JSON text end, without parsing it. No I/O.

A step of Python takes about 50 ns and a large answer has millions of bytes, so nothing here goes byte by byte: regular
expressions, `split` and `translate` work on blocks.
"""

from __future__ import annotations

import re
import sys
from itertools import accumulate
from operator import indexOf
from typing import Final

BOM: Final = b"\xef\xbb\xbf"
BLANKS: Final = b" \t\n\r"
WS = rb"[ \t\n\r]*+"
_IN_STRING = rb"[\x00-!#-\[\]-\xff]*+"
"""Anything but quotes and backslashes. Spelt this way it is a table to `re`, which takes half the time."""
STRING = rb'(?>"[^"]*+"(?<!\\")|"' + _IN_STRING + rb"(?:\\." + _IN_STRING + rb')*+")'
"""A string from quote to quote. Its content is not checked. One whose first quote ends it has no escaped quote before
that, and looking for one byte takes a fifth of the time."""
SCALAR = rb"(?:-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+|true|false|null)"

_NESTED = 64
"""Levels of containers that `VALUE` matches. Deeper ones are left to `closing`."""


def container(levels: int, outside: bytes = rb'[^][{}"]') -> bytes:
    """A regular expression for containers of at most `levels` levels. `outside`: a byte that is neither a bracket nor
    in a string."""
    inner = b""
    for _ in range(levels):
        inner = rb"[\[{](?>(?:" + outside + rb"++|" + STRING + (rb"|" + inner if inner else b"") + rb")*)[\]}]"
    return inner


VALUE = rb"(?:" + STRING + rb"|" + SCALAR + rb"|" + container(_NESTED) + rb")"
"""A whole value; of containers only the balance of their brackets is checked. It never backtracks: linear time."""

find_string = re.compile(STRING, re.DOTALL).match
find_value = re.compile(VALUE, re.DOTALL).match
is_scalar = re.compile(SCALAR).fullmatch

_blanks: Final = re.compile(WS).match
_word = re.compile(rb"[-+.0-9A-Za-z]*+").match
_string_rest = re.compile(_IN_STRING + rb"(?:\\." + _IN_STRING + rb")*+", re.DOTALL).match

_FIRST_WINDOW, _LAST_WINDOW = 256, 64 << 10
"""Bytes that are scanned in one step: few at first, since most values are short."""
_QUOTE, _BACKSLASH = b'"\\'
_NOT_STRICT = (b"/", b"#", b"'", b"\\")
"""Only allowed in strings in strict JSON. To lenient readers they begin comments or strings."""
_OPENING, _CLOSING = 1, 255
_SIGNS = bytes.maketrans(b"[{]}", bytes([_OPENING, _OPENING, _CLOSING, _CLOSING]))
NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def skip_blanks(data: bytes, position: int) -> int:
    """The offset of the first byte from `position` on that is not blank."""
    blanks = _blanks(data, position)
    assert blanks is not None
    return blanks.end()


def word_end(data: bytes, position: int, limit: int = sys.maxsize) -> int:
    """The offset after the word at `position` (letters and digits, as in scalars), or `limit` if it is longer."""
    word = _word(data, position, limit)
    assert word is not None
    return word.end()


def unescaped(text: bytes) -> bytes:
    r"""`text` with escaped quotes and backslashes masked, so that each quote left begins or ends a string. The length
    stays. `text` must not begin after a backslash. `\u` and `\n` stay."""
    return text.replace(b"\\\\", b"\\.").replace(b'\\"', b"\\.") if b"\\" in text else text


def level_after(outside: bytes, level: int) -> int:
    """How many containers are open after `outside`, text without strings, if `level` were open before it."""
    brackets = outside.translate(_SIGNS, NO_BRACKETS)
    return level + 2 * brackets.count(_OPENING) - len(brackets)


def closing(parts: list[bytes], level: int) -> int:
    """Where `level` open containers are closed, as the offset just after the last bracket; 0: not in here.

    `parts`: unescaped text, split at its quotes. It begins outside of strings.
    """
    outside = b"".join(parts[::2])
    brackets = outside.translate(_SIGNS, NO_BRACKETS)
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
    """The offset just after the bracket of that number, counted from 1."""
    low, high = 0, len(outside)
    while high - low > 1:
        middle = (low + high) // 2
        here = len(outside[low:middle].translate(None, NO_BRACKETS))
        if here >= number:
            high = middle
        else:
            number -= here
            low = middle
    return high


class NotStrict(Exception):
    """There is a byte outside of strings that strict JSON only allows inside."""


class ValueEnd:
    """Finds the end of a string or a container that arrives in pieces."""

    __slots__ = ("_escaped", "_in_string", "_level", "_strict")

    def __init__(self, *, strict: bool = False) -> None:
        """`strict`: whether to look for comments and the like."""
        self._strict = strict
        self._level = 0
        self._in_string = False
        self._escaped = False

    def begin(self, first: int) -> None:
        """A value begins with that byte: a quote or an opening bracket."""
        self._in_string = first == _QUOTE
        self._level = int(not self._in_string)
        self._escaped = False

    def find(self, data: bytes, position: int) -> int:
        """The offset after the value, which continues at `position`; 0: it does not end in `data`. Raises NotStrict."""
        window = _FIRST_WINDOW
        while position < len(data):
            if self._in_string:
                position = self._find_quote(data, position)
                if not position or not self._level:
                    return position
                continue
            parts = unescaped(data[position : position + window]).split(b'"')
            outside = b"".join(parts[::2])
            if self._strict and any(byte in outside for byte in _NOT_STRICT):
                raise NotStrict
            if end := closing(parts, self._level):
                return position + end
            self._level = level_after(outside, self._level)
            position = min(position + window, len(data))
            if len(parts) % 2 == 0:
                self._in_string = True
                position -= len(parts[-1])
            window = min(8 * window, _LAST_WINDOW)
        return 0

    def _find_quote(self, data: bytes, position: int) -> int:
        """The offset after the string that `position` is in; 0: it does not end in `data`."""
        position += self._escaped
        self._escaped = False
        end = data.find(b'"', position)
        if data[end - 1 if end >= 0 else -1] == _BACKSLASH:  # else nothing escapes the quote
            rest = _string_rest(data, position)
            assert rest is not None
            end = rest.end()
            if data[end : end + 1] != b'"':
                self._escaped = end < len(data)
                return 0
        if end < 0:
            return 0
        self._in_string = False
        return end + 1
