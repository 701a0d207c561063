"""Collects an answer that is one JSON text; of a large one, only what matters. No I/O."""

from __future__ import annotations

import re

from ..json_text.reducer import JsonReducer
from ..json_text.scan import BLANKS, BOM, NO_BRACKETS, level_after, unescaped

# Searched for in the last few bytes of a string.
_TAIL = 12
_half_escape = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?|(?:u[0-9a-fA-F]{0,3})?)\Z"
).search
"""An incomplete escape; a surrogate pair counts as one."""
_half_character = re.compile(rb"(?:[\xc0-\xff]|[\xe0-\xff][\x80-\xbf]|[\xf0-\xff][\x80-\xbf]{2})\Z").search
_WORD = b"+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LITERALS = (b"true", b"false", b"null")
_MATCHING = bytes.maketrans(b"[{", b"]}")
_DEEPEST = 1000
"""Most open brackets that other JSON readers accept."""
_LEVELS = 30
_brackets = re.compile(rb"[][{}]").findall


class WholeBody:
    """Holds up to `limit` bytes; a larger answer is reduced as it arrives (see `JsonReducer`)."""

    __slots__ = ("_held", "_limit", "_reducer", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()  # not a list of pieces: a provider may send a few bytes at a time
        self._reducer: JsonReducer | None = None
        self.size = 0
        """Bytes so far."""

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def is_reduced(self) -> bool:
        """Whether the answer was too large to be held."""
        return self._reducer is not None

    @property
    def text_bytes(self) -> int:
        """Bytes of text in a large answer that were skipped."""
        return self._reducer.text_bytes if self._reducer is not None else 0

    @property
    def attachments(self) -> int:
        """Images, files and the like in a large answer that were skipped."""
        return self._reducer.attachments if self._reducer is not None else 0

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        if self._reducer is not None:
            self._reducer.feed_all(data)
            return
        self._held += data
        if self.size > self._limit:
            self._reduce()

    def read(self) -> bytes | None:
        """The whole answer, or what matters of it; None: it is large and not JSON."""
        if self._reducer is not None:
            return self._reducer.finish_whole()
        return bytes(self._held).removeprefix(BOM)

    def reduced(self) -> bytes | None:
        """What matters of a held answer that is not strict JSON, for example with NaN in it; None: it is not JSON at
        all, or was reduced before."""
        return None if self._reducer is not None else self._reduce().finish_whole()

    def partial(self) -> bytes | None:
        """The answer so far as JSON, with everything open closed; None: that is not possible."""
        if self._reducer is None:
            return repaired(bytes(self._held).removeprefix(BOM))
        reduced = self._reducer.finish()
        return None if self._reducer.broken else reduced

    def _reduce(self) -> JsonReducer:
        """From here on the answer is reduced, not held."""
        self._reducer = reducer = JsonReducer()
        reducer.feed_all(bytes(self._held))
        self._held.clear()
        return reducer


def repaired(text: bytes) -> bytes | None:
    """The beginning of a JSON text, completed; None: there is no object or array in it yet.

    An open string is closed, a name without a value and a number that may go on are dropped. If `text` is not JSON,
    neither is the result.
    """
    text = text.rstrip(BLANKS)
    parts = unescaped(text).split(b'"')
    stack = _open_brackets(b"".join(parts[::2]))
    if stack is None:
        return None
    if not stack:
        return text if text.endswith((b"}", b"]")) else None
    if len(parts) % 2:
        text = _without_half_member(_without_word(text, parts[-1]), parts, stack)
    elif _is_value(parts[-2], stack):
        text = _closed(text, parts[-1])
    else:
        text = text[: -len(parts[-1]) - 1].rstrip(BLANKS).removesuffix(b",")
    return text + b"".join(reversed(stack)).translate(_MATCHING)


def _open_brackets(outside: bytes) -> list[bytes] | None:
    """The brackets still open at the end of `outside`, text without strings; None: they don't match, or there are too
    many."""
    if level_after(outside, 0) > _DEEPEST:
        return None
    stack: list[bytes] = []
    for bracket in _brackets(_without_pairs(outside.translate(None, NO_BRACKETS))):
        if bracket in b"[{":
            stack.append(bracket)
        elif not stack or stack.pop() != (b"{" if bracket == b"}" else b"["):
            return None
    return stack


def _without_pairs(brackets: bytes) -> bytes:
    """Without most matching pairs: ten times as fast as a stack, since nearly all are nested only a few levels deep."""
    for _ in range(_LEVELS):
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    return brackets


def _is_value(before: bytes, stack: list[bytes]) -> bool:
    """Whether a string after `before` is a value, not a name."""
    return stack[-1] == b"[" or before.rstrip(BLANKS).endswith(b":")


def _closed(text: bytes, string: bytes) -> bytes:
    """`text` with its last string closed; `string` is that string."""
    half = _half_escape(string[-_TAIL:]) or _half_character(string[-_TAIL:])
    return (text[: -len(half[0])] if half else text) + b'"'


def _without_word(text: bytes, outside: bytes) -> bytes:
    """Without an incomplete number or literal at its end. `outside`: the text after the last string."""
    word = outside[len(outside.rstrip(_WORD)) :]
    return text if not word or word in _LITERALS else text[: -len(word)].rstrip(BLANKS)


def _without_half_member(text: bytes, parts: list[bytes], stack: list[bytes]) -> bytes:
    """Without a name or comma at its end. `parts`: the text, split at its quotes."""
    if text.endswith(b":"):
        text = text[:-1].rstrip(BLANKS)
        is_name = text.endswith(b'"')
    else:
        is_name = text.endswith(b'"') and not _is_value(parts[-3], stack)
    if is_name:
        text = text[: -len(parts[-2]) - 2].rstrip(BLANKS)
    return text.removesuffix(b",")
