"""Reads one JSON text of any size as it arrives, and keeps little more than the few members that matter. No I/O.

An answer of many megabytes (images, embeddings, log probabilities) has its usage report somewhere at its top. The
reader looks into the top-level object and into a few known objects in it; all other values are skipped.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import orjson

from .scan import (
    BLANKS,
    BOM,
    SCALAR,
    STRING,
    VALUE,
    WS,
    ValueEnd,
    closing,
    find_string,
    is_scalar,
    level_after,
    skip_blanks,
    unescaped,
    word_end,
)

_REPORTS = frozenset({b"usage", b"usageMetadata", b"usage_metadata"})
_NAMES = _REPORTS | {
    b"amazon-bedrock-invocationMetrics",
    b"done",
    b"done_reason",
    b"error",
    b"eval_count",
    b"event_id",
    b"finishReason",
    b"finish_reason",
    b"id",
    b"incomplete_details",
    b"metrics",
    b"model",
    b"modelVersion",
    b"object",
    b"output_index",
    b"prompt_eval_count",
    b"responseId",
    b"response_id",
    b"sequence_number",
    b"status",
    b"stopReason",
    b"stop_reason",
    b"type",
}
_CONTAINERS = frozenset({b"delta", b"message", b"metadata", b"response", b"x_groq"})
_DEEPEST = 3
"""Levels of objects that are read, including the top-level one."""

_MAX_KEPT = 4 << 10
_MAX_REPORT = 16 << 10
"""Most bytes of a value that is kept, and of a usage report."""
_ROOM = 28 << 10
_REPORT_ROOM = 32 << 10
"""Most bytes of all values that are kept, and of all reports: other members can't use up a report's room."""
_MAX_LOOKED_AT = 500
"""Members that matter, in one text: each takes a few microseconds. Real answers have about twenty."""

_BLOCK = 64 << 10
_FIRST_WINDOW = 256
"""Bytes of a skipped container that are scanned first: most are short."""
_HOLD = 4 << 10
"""Most bytes of an incomplete name, scalar or the like."""
LONG = 2000
"""A string of more bytes than these is an image, a file or the like if it looks encoded: its bytes say nothing."""
_ENCODED = re.compile(rb"(?>(?:data:[^,]{0,200},)?)[A-Za-z0-9+/=_-]*+(?:\\[nr/][A-Za-z0-9+/=_-]*+)*+\Z")
"""Base64, in a URL or not, in lines or not."""
_QUOTE, _OPEN, _CLOSE, _COMMA = b'"{},'
_BRACKETS = b"[{"
_NO_TEXT = b"token"
"""The name of the strings in log probabilities, which repeat the text many times over."""

_ANY_NAME = b"|".join(re.escape(name) for name in sorted(_NAMES | _CONTAINERS))
_skip_members = re.compile(
    rb"(?>(?:" + WS + rb'"(?!(?:' + _ANY_NAME + rb')")[^"\\]*+"' + WS + rb":" + WS + VALUE + WS + rb",)*)", re.DOTALL
).match
"""Whole members that do not matter, each with its comma."""
_read_name = re.compile(rb"(" + STRING + rb")" + WS + rb":" + WS + rb"(?=.)", re.DOTALL).match
_is_name_part = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:\\?+|"' + WS + rb"(?::" + WS + rb")?+)", re.DOTALL).fullmatch
_read_scalar = re.compile(SCALAR + rb"(?=[ \t\n\r,}])").match

_Kept = dict[bytes, "bytes | _Kept"]


class _Next(Enum):
    """What may come next, outside of skipped values."""

    TEXT = auto()
    """The text itself."""
    FIRST_MEMBER = auto()
    """Or the end of an empty object."""
    MEMBER = auto()
    COMMA = auto()
    """Or the end of the object."""
    NOTHING = auto()


class JsonReducer:
    """Feed it the text in pieces of any size, cut anywhere; `finish` returns a small JSON object with what matters.

    - In the top-level object and in the objects `response`, `message`, `delta`, `x_groq` and `metadata`, to a depth of
      three: names, states, errors and usage reports. Elsewhere, in arrays and in strings nothing is believed.
    - Of members with the same name the last one counts, as for other JSON readers. A value of more than 4 KB is left
      out (a usage report: 16 KB).
    - A text that is not an object is reduced to an empty one.
    - Skipped values are only checked for balanced brackets. A name, a number or a run of blanks of more than 4 KB may
      make the text `broken`, and so do hundreds of members that matter.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_held",
        "_is_long",
        "_is_text",
        "_looked_at",
        "_next",
        "_report_room",
        "_room",
        "_root",
        "_stack",
        "_window",
        "attachments",
        "broken",
        "ended",
        "text_bytes",
    )

    def __init__(self) -> None:
        self._next = _Next.TEXT
        self._held = b""
        """Bytes that were fed but are incomplete."""
        self._root: _Kept = {}
        self._stack: list[_Kept] = []
        """The objects being read here."""
        self._depth = 0
        """Open containers of a skipped value."""
        self._window = _FIRST_WINDOW
        """Bytes of it to scan next."""
        self._is_long = False
        """Within a long string."""
        self._is_text = False
        self._escaped = False
        """After a backslash in it."""
        self._looked_at = 0
        self._room = _ROOM
        self._report_room = _REPORT_ROOM
        self.text_bytes = 0
        """Bytes of skipped string values that look like text, to estimate their tokens. An escape of six bytes counts
        as three."""
        self.attachments = 0
        """String values that do not look like text: long and without a blank."""
        self.broken = False
        """Whether this is not JSON."""
        self.ended = False
        """Whether the text is complete."""

    def feed(self, data: bytes) -> int:
        """Bytes of `data` that belong to the text: all of them, or fewer if it ends before."""
        done, size = 0, len(data)
        while done < size and not self._is_over():
            block = data[done : done + _BLOCK] if size > _BLOCK else data
            held = len(self._held)
            position = self._read(self._held + block if held else block)
            if self.ended:
                return done + position - held
            done += len(block)
        return size if self.broken else done

    def feed_all(self, data: bytes) -> None:
        """The same if only blanks may follow the text."""
        if data[self.feed(data) :].strip(BLANKS):
            self.broken = True

    def finish_whole(self) -> bytes | None:
        """As `finish`; None: this was not one complete JSON text, so it is `broken`."""
        reduced = self.finish()
        self.broken |= not self.ended
        return None if self.broken else reduced

    def finish(self) -> bytes:
        """The members that matter, as a JSON object; of a text that has not ended, the ones so far."""
        if self._next is _Next.TEXT and self._held and not self._depth:
            self.feed(b"\n")  # a number ends with what follows
        if self._held:
            parts = unescaped(self._held).split(b'"')
            self._tally(parts if len(parts) % 2 else [*parts, b""])
            self._held = b""
        return _written(self._root)

    def _read(self, buffer: bytes) -> int:
        """Read as far as possible and hold the rest; returns where that begins."""
        position, size = 0, len(buffer)
        while position < size and not self._is_over():
            if self._is_long:
                after = self._pass_string(buffer, position)
            elif self._depth:
                after = self._pass_container(buffer, position)
            else:
                after = self._structure(buffer, position)
            if after == position:
                break
            position = after
        self._held = b"" if self._is_over() else buffer[position:]
        return position

    def _is_over(self) -> bool:
        return self.ended or self.broken

    # --- the objects that are looked into ----------------------------------------------------------------------------

    def _structure(self, buffer: bytes, position: int) -> int:
        at = skip_blanks(buffer, position)
        if at == len(buffer):
            return at
        if self._next is _Next.TEXT:
            return self._begin(buffer, at)
        if self._next is not _Next.MEMBER and buffer[at] == _CLOSE:
            self._stack.pop()
            self._after_value()
            return at + 1
        if self._next is not _Next.COMMA:
            return self._member(buffer, at)
        if buffer[at] == _COMMA:
            self._next = _Next.MEMBER
            return at + 1
        return self._break(buffer)

    def _begin(self, buffer: bytes, at: int) -> int:
        if BOM.startswith(buffer[at : at + 3]):
            return at + 3 if len(buffer) >= at + 3 else at
        if buffer[at] == _OPEN:
            self._stack.append(self._root)
            self._next = _Next.FIRST_MEMBER
            return at + 1
        return self._pass_value(buffer, at, at)

    def _member(self, buffer: bytes, start: int) -> int:
        run = _skip_members(buffer, start)
        if run and run.end() > start:
            self._tally(unescaped(buffer[start : run.end()]).split(b'"'))
            self._next = _Next.MEMBER
            return run.end()
        head = _read_name(buffer, start)
        if head is None:
            waits = len(buffer) - start <= _HOLD and _is_name_part(buffer, start)
            return start if waits else self._break(buffer)
        name, at = head[1][1:-1], head.end()
        if b"\\" in name:
            return self._escaped_member(head[1], buffer, start, at)
        return self._value(name, buffer, start, at)

    def _escaped_member(self, name: bytes, buffer: bytes, start: int, at: int) -> int:
        """A member whose name has escapes: it may be one that matters."""
        try:
            decoded: str = orjson.loads(name)
        except orjson.JSONDecodeError:
            return self._break(buffer)
        after = self._value(decoded.encode(), buffer, start, at)
        if after != start:
            self._look()
        return after

    def _value(self, name: bytes, buffer: bytes, start: int, at: int) -> int:
        """The value at `at` of the member at `start`."""
        if name in _CONTAINERS:
            return self._container(name, buffer, start, at)
        if name in _NAMES:
            return self._keep(name, buffer, start, at)
        return self._pass_value(buffer, start, at)

    def _look(self) -> None:
        """Count one more member that matters."""
        self._looked_at += 1
        if self._looked_at > _MAX_LOOKED_AT:
            self.broken = True

    def _container(self, name: bytes, buffer: bytes, start: int, at: int) -> int:
        """The member of that name at `start`, whose value is at `at`, may be looked into."""
        self._stack[-1].pop(name, None)
        if buffer[at] != _OPEN or len(self._stack) == _DEEPEST:
            return self._pass_value(buffer, start, at)
        self._look()
        inner: _Kept = {}
        self._stack[-1][name] = inner
        self._stack.append(inner)
        self._next = _Next.FIRST_MEMBER
        return at + 1

    def _keep(self, name: bytes, buffer: bytes, start: int, at: int) -> int:
        """Keep this member, if it is small."""
        most = _MAX_REPORT if name in _REPORTS else _MAX_KEPT
        end = _end_of_value(buffer, at, most)
        if not end and len(buffer) - at <= most:
            return start if end is not None else self._break(buffer)
        kept = self._stack[-1]
        kept.pop(name, None)
        self._look()
        if not end:
            return self._pass_value(buffer, start, at)
        value = buffer[at:end]
        try:
            orjson.loads(value)
        except orjson.JSONDecodeError:
            return self._break(buffer)
        if self._has_room(name, end - start):
            kept[name] = value
        self._after_value()
        return end

    def _has_room(self, name: bytes, size: int) -> bool:
        if name in _REPORTS:
            self._report_room -= size
            return self._report_room >= 0
        self._room -= size
        return self._room >= 0

    def _after_value(self) -> None:
        self._next = _Next.COMMA if self._stack else _Next.NOTHING
        self.ended = not self._stack

    def _break(self, buffer: bytes) -> int:
        self.broken = True
        return len(buffer)

    # --- values that are passed over --------------------------------------------------------------------------------

    def _pass_value(self, buffer: bytes, start: int, at: int) -> int:
        """Skip the value at `at`; `start` is where its member begins, with its name."""
        first = buffer[at]
        if first in _BRACKETS:
            self._depth = 1
            self._window = _FIRST_WINDOW
            return at + 1
        if first == _QUOTE:
            return self._pass_short_string(buffer, start, at)
        if match := _read_scalar(buffer, at):
            self._after_value()
            return match.end()
        waits = at < word_end(buffer, at) == len(buffer) <= at + _HOLD
        return start if waits else self._break(buffer)

    def _pass_short_string(self, buffer: bytes, start: int, at: int) -> int:
        if match := find_string(buffer, at):
            self._tally(unescaped(buffer[start : match.end()]).split(b'"'))
            self._after_value()
            return match.end()
        if len(buffer) - at - 1 <= LONG:
            return start
        self._begin_long(unescaped(buffer[at + 1 :]))
        return len(buffer)

    def _begin_long(self, text: bytes) -> None:
        self._is_long = True
        self._is_text = _looks_like_text(text)
        self.attachments += not self._is_text
        self._add_long(text)
        self._escaped = text.endswith(b"\\")

    def _pass_string(self, buffer: bytes, position: int) -> int:
        """More of a long string."""
        lead = int(self._escaped)
        text = unescaped(b"\\" * lead + buffer[position:] if lead or position else buffer)
        end = text.find(b'"')
        self._add_long(text if end < 0 else text[:end])
        self.text_bytes -= lead and self._is_text
        if end < 0:
            self._escaped = text.endswith(b"\\")
            return len(buffer)
        self._is_long = self._escaped = False
        if not self._depth:
            self._after_value()
        return position + end + 1 - lead

    def _add_long(self, text: bytes) -> None:
        if self._is_text:
            self.text_bytes += len(text) - 3 * text.count(b"\\u")

    def _pass_container(self, buffer: bytes, position: int) -> int:
        """More of a container: up to its end, or to the last place between two values."""
        window = self._window
        while position < len(buffer):
            block = unescaped(buffer[position : position + window])
            parts = block.split(b'"')
            if end := closing(parts, self._depth):
                self._tally(block[:end].split(b'"'))
                self._depth = 0
                self._after_value()
                return position + end
            if cut := _last_break(parts, len(block)):
                self._depth = level_after(b"".join(parts[::2]), self._depth)
                self._tally(parts if cut == len(block) else block[:cut].split(b'"'))
            elif len(block) > _HOLD and (window == _BLOCK or position + window >= len(buffer)):
                return position + self._pass_odd(block, parts)
            elif position + window >= len(buffer):
                return position
            position += cut
            self._window = window = min(4 * window, _BLOCK)
        return position

    def _pass_odd(self, block: bytes, parts: list[bytes]) -> int:
        """A large block without a place to break: within a long string, or not JSON. Returns the bytes skipped."""
        open_string = parts.pop() if len(parts) % 2 == 0 else b""
        self._tally(parts)
        if len(open_string) <= LONG:
            return len(block) - (len(open_string) + 1 if open_string else 0)
        self._begin_long(open_string)
        return len(block)

    def _tally(self, parts: list[bytes]) -> None:
        """Count the string values in unescaped text, split at its quotes, that begins and ends outside of strings.

        A string followed by a colon is a name, unless it is long.
        """
        strings, behind = parts[1::2], parts[2::2]
        values = [
            string
            for string, after in zip(strings, behind, strict=True)
            if string
            and (
                (after[:1] != b":" and (after[:1] not in BLANKS or after.lstrip(BLANKS)[:1] != b":"))
                or len(string) > LONG
            )
        ]
        if not values:
            return
        text = b'"'.join(values)
        size = len(text) - len(values) + 1 - 3 * text.count(b"\\u")
        if max(map(len, values)) > LONG:
            for value in values:
                if len(value) > LONG and not _looks_like_text(value):
                    self.attachments += 1
                    size -= _text_size(value)
        if _NO_TEXT in strings:
            size -= sum(
                _text_size(string)
                for name, after, string in zip(strings, behind, strings[1:], strict=False)
                if name == _NO_TEXT and after.strip(BLANKS) == b":" and len(string) <= LONG
            )
        self.text_bytes += size


def _looks_like_text(string: bytes) -> bool:
    """Whether a long string may be text, by how it begins."""
    return _ENCODED.match(string[:LONG]) is None


def _text_size(string: bytes) -> int:
    return len(string) - 3 * string.count(b"\\u")


def _last_break(parts: list[bytes], size: int) -> int:
    """The offset after the last comma or bracket outside of strings in `parts` of a text of that size; 0: none.

    A break there never separates a name from its value. There are at most two strings between one and the next.
    """
    last = len(parts) - 1
    last -= last % 2
    end = size - (len(parts[-1]) + 1 if last < len(parts) - 1 else 0)
    for index in range(last, max(-1, last - 6), -2):
        part = parts[index]
        end -= len(part)
        if place := max(map(part.rfind, (b",", b"{", b"[", b"}", b"]"))) + 1:
            return end + place
        if index:
            end -= len(parts[index - 1]) + 2
    return 0


def _end_of_value(buffer: bytes, at: int, most: int) -> int | None:
    """Where the value at `at` ends; 0: not within `buffer`, or within `most` bytes; None: this is not a value."""
    first = buffer[at]
    if first == _QUOTE:
        match = find_string(buffer, at, at + most)
        return match.end() if match else 0
    if first in _BRACKETS:
        value = ValueEnd()
        value.begin(first)
        end = value.find(buffer[at + 1 : at + most], 0)
        return at + 1 + end if end else 0
    end = word_end(buffer, at, at + most + 1)
    if end == at:
        return None
    if end < len(buffer) and end - at <= most:
        return end if is_scalar(buffer, at, end) else None
    return 0


def _written(kept: _Kept) -> bytes:
    members = [
        b'"%b":%b' % (name, value if isinstance(value, bytes) else _written(value)) for name, value in kept.items()
    ]
    return b"{%b}" % b",".join(members)


def reduce_json(data: bytes) -> bytes:
    """The members that matter of a complete JSON text; an empty object if it is not JSON."""
    reducer = JsonReducer()
    reducer.feed_all(data)
    return reducer.finish_whole() or b"{}"
