"""Finds the members that matter in a JSON object that arrives in pieces. No I/O.

No tree is built: values that do not matter are skipped, whatever their size, by the C functions that search bytes. So
a request of 32 MB costs its own bytes and some milliseconds. `edits` changes what was found, in place.

Anything that two readers could read differently is a problem: a name that matters and appears twice or in another case
(Go's reader ignores case), comments, invalid escapes in a name, anything after the object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import orjson

from .scan import BOM, STRING, WS, NotStrict, ValueEnd, container, find_string, skip_blanks, word_end

MOST_SCALAR: Final = 8192
"""Most bytes of a string or number that matters; a longer one is a problem."""
MOST_NAME = 1024
"""Most bytes of a name as written; a longer one is a problem. Some readers drop meaningless escapes, so a long name may
still be one that matters."""
_SMALL_VALUE = 256
"""Bytes of a container that may be skipped in one step."""
MOST_MEMBERS: Final = 500
"""Members of an object that is read; more are a problem. Each takes up to 20 us."""
MOST_VALUES = 2000
"""Values of an array that are counted; more are a problem."""

COUNT: Final = "count"
"""Of an array: the number of its values if these are strings, arrays or objects, else 1; of anything else: 1."""
SPAN: Final = "span"
"""Of any value: only its position, whatever its size."""


class Reads:
    """The names that matter in an object, each with what is read of it: None, a scalar; `Reads`, an object with names
    of its own; `COUNT`; `SPAN`. `aliases`: other spelling -> name; an object that has both is ambiguous."""

    __slots__ = ("_dull", "_folded", "exact", "noted")

    def __init__(self, names: Mapping[str, Reads | str | None], aliases: Mapping[str, str] | None = None) -> None:
        spellings = {name: name for name in names} | dict(aliases or {})
        self.exact = {spelling.encode(): (spelling, name, names[name]) for spelling, name in spellings.items()}
        """Spelling -> itself as a string, the name it stands for, what is read of it."""
        self._folded = {folded(spelling) for spelling in self.exact}
        self._dull: set[bytes] = set()
        """Other names seen so far; folding one takes a third of the time of reading a member."""
        self.noted: frozenset[bytes] = frozenset()

    def noting(self, names: Iterable[str]) -> Reads:
        """The same, which also notes where the values of `names` are, whatever they are, for the outermost object only.
        Nothing about these is a problem; of two with the same name the last counts."""
        reads = Reads({})
        reads.exact, reads._folded, reads._dull = self.exact, self._folded, self._dull
        reads.noted = frozenset(name.encode() for name in names)
        return reads

    def is_variant(self, name: bytes) -> bool:
        """Whether a lenient reader would take `name`, which is not in `exact`, for one that is."""
        if name in self._dull:
            return False
        if folded(name) in self._folded:
            return True
        if len(name) <= 64 and len(self._dull) < 1024:
            self._dull.add(name)
        return False


def folded(name: bytes) -> str:
    """`name` as lenient readers compare it: in one case, without invalid UTF-8, up to the first NUL."""
    return name.partition(b"\0")[0].decode(errors="ignore").upper().casefold()


@dataclass(slots=True, init=False)
class Member:
    """Where in the whole text the value of a member is."""

    start: int
    end: int
    close: int
    """Of an object: the position of its closing brace."""
    is_empty: bool
    """Of an object: whether it has no members."""

    def __init__(self, start: int, end: int, close: int = 0, is_empty: bool = False) -> None:
        self.start = start
        self.end = end
        self.close = close
        self.is_empty = is_empty


class Problem(NamedTuple):
    """Why a text can't be read. `is_ambiguous`: it is JSON, but readers may differ about it."""

    text: str
    is_ambiguous: bool = False


class _State(Enum):
    START = 0
    NAME_OR_CLOSE = 1
    """After an opening brace."""
    NAME = 2
    """After a comma."""
    COLON = 3
    """After a name whose colon has not arrived yet."""
    VALUE = 4
    AFTER = 5
    """After a value."""
    SKIPPED = 6
    """Inside a string or a container that is skipped."""
    END = 7
    """After the object: white space only."""


# In Python 3.11 to look up a member of an enumeration takes a call.
_START: Final = _State.START
_NAME_OR_CLOSE: Final = _State.NAME_OR_CLOSE
_NAME: Final = _State.NAME
_COLON: Final = _State.COLON
_VALUE: Final = _State.VALUE
_AFTER: Final = _State.AFTER
_SKIPPED: Final = _State.SKIPPED
_END: Final = _State.END


_SCALAR = rb"[-+.0-9A-Za-z]{1,%d}+" % MOST_SCALAR
_CONTAINER = container(13, rb"""[^][{}"/#'\\]""")
"""Without bytes that strict JSON does not allow there, and that others could take for a comment or a string (see
`ValueEnd`)."""
_NAMED = re.compile(rb"%b(%b)%b:%b" % (WS, STRING, WS, WS), re.DOTALL).match
_MEMBER: Final = re.compile(
    rb'%b"([^"\\]{,%d}+)"%b:%b(%b|%b|%b)%b([,}])' % (WS, MOST_NAME, WS, WS, STRING, _SCALAR, _CONTAINER, WS),
    re.DOTALL,
).match
"""A whole member whose name has no escapes, as nearly all are."""
_PLAIN_VALUE = re.compile(rb"%b(%b|%b(?=[ \t\r\n,}\]]))" % (WS, STRING, _SCALAR), re.DOTALL).match
_SMALL = re.compile(_CONTAINER, re.DOTALL).match

_OPEN: Final = b"{"
_CLOSE: Final = b"}"
_QUOTE: Final = b'"'
_UTF32_MARK: Final = b"\xff\xfe\0\0"
_BEYOND: Final = "something follows the object"
_TOO_MANY: Final = f"an object has more than {MOST_MEMBERS} members"
_LONG_NAME = f"a name is longer than {MOST_NAME} bytes"


class _Frame:
    """A container that is read member by member. `reads` None: an array whose values are counted. `count`: its members
    or values so far."""

    __slots__ = ("count", "path", "reads", "seen", "start", "values")

    def __init__(self, path: tuple[str, ...], reads: Reads | None, start: int) -> None:
        self.path = path
        self.reads = reads
        self.start = start
        self.values: dict[str, Any] = {}
        self.seen: set[str] = set()
        self.count = 0


class _Malformed(Exception):
    pass


NOTHING_NOTED: Final[dict[bytes, Member]] = {}
"""Shared, and never changed: a dictionary of its own would take 64 bytes of each request."""


class JsonMembers:
    """`feed` the text as it arrives, then `finish`. Once there is a `problem`, nothing more is read."""

    __slots__ = (
        "_end",
        "_frames",
        "_held",
        "_most_scalar",
        "_noting",
        "_offset",
        "_pending",
        "_reads",
        "_start",
        "_state",
        "members",
        "noted",
        "problem",
        "values",
    )

    def __init__(self, reads: Reads, *, most_scalar: int = MOST_SCALAR) -> None:
        self._reads = reads
        self._most_scalar = most_scalar
        self._state = _START
        self._offset = 0
        """Offset in the whole text of the bytes being read."""
        self._held = b""
        """The beginning of a name or of a value that matters."""
        self._frames: list[_Frame] = []
        self._pending: tuple[str, str, Reads | str | None] | None = None
        """The member whose value comes next; None: it does not matter."""
        self._noting: bytes | None = None
        """The name in `Reads.noted` whose value comes next or is being read."""
        self._start = 0
        """Where the skipped value begins."""
        self._end = ValueEnd(strict=True)
        """Finds its end."""
        self.problem: Problem | None = None
        self.values: dict[str, Any] = {}
        """What matters, by the names as spelt: scalars as orjson reads them, objects as dicts of what matters in them,
        counts, 1 for a `SPAN`; None, False, 0 or [] for a value that should be an object but is not."""
        self.members: dict[tuple[str, ...], Member] = {}
        """The position of each, by its path as spelt. `()` is the whole object."""
        self.noted: dict[bytes, Member] = {} if reads.noted else NOTHING_NOTED
        """The values of the names in `Reads.noted`."""

    @property
    def ended(self) -> bool:
        """Whether the object is complete."""
        return self._state is _END

    def feed(self, data: bytes) -> None:
        if self.problem is not None or not data:
            return
        if self._held:
            data = self._held + data
            self._held = b""
        try:
            position = self._read(data)
        except _Malformed as malformed:
            self.problem = Problem(str(malformed))
            return
        if position < len(data):
            self._held = data[position:]
        self._offset += position

    def finish(self) -> None:
        if self.problem is None and self._state is not _END:
            if self._state is _START:
                self.problem = Problem(_what_begins(self._held) if self._held else "it is empty")
            else:
                self.problem = Problem("it ends in the middle")
        self._held = b""

    # --- states ---

    def _read(self, data: bytes) -> int:
        """Reads as far as it can; returns where the rest begins, which is held."""
        position, size = 0, len(data)
        while position < size and self.problem is None:
            before, state = position, self._state
            if state is _NAME or state is _NAME_OR_CLOSE:
                position = self._name(data, position)
            elif state is _VALUE:
                position = self._value(data, position)
            elif state is _AFTER:
                position = self._after(data, position)
            elif state is _SKIPPED:
                position = self._skip(data, position)
            elif state is _COLON:
                position = self._colon(data, position)
            elif state is _START:
                position = self._begin(data, position)
            else:
                position = skip_blanks(data, position)
                if position < size:
                    raise _Malformed(_BEYOND)
            if position == before and self._state is state:
                break  # more has to come before this is decided
        return position

    def _begin(self, data: bytes, position: int) -> int:
        position = skip_blanks(data, position)
        if position == len(data):
            return position
        if data[position : position + 1] != _OPEN:
            if len(data) - position < len(_UTF32_MARK):
                return position
            raise _Malformed(_what_begins(data[position:]))
        self._frames.append(_Frame((), self._reads, self._offset + position))
        self._state = _NAME_OR_CLOSE
        return position + 1

    def _name(self, data: bytes, position: int) -> int:
        if (passed := self._plain_members(data, position)) > position:
            return passed
        match = _NAMED(data, position)
        if match is None:
            return self._odd_name(data, position)
        self._named(match[1][1:-1])
        self._state = _VALUE
        return match.end()

    def _plain_members(self, data: bytes, position: int) -> int:
        """Reads each whole member in one step instead of four, where possible; returns where it stopped."""
        frame = self._frames[-1]
        reads = frame.reads
        assert reads is not None
        while (match := _MEMBER(data, position)) is not None:
            raw = match[1]
            pending = reads.exact.get(raw)
            if pending is not None:
                is_container = data[match.start(2)] in b"{["
                if pending[1] in frame.seen or (is_container and pending[2] is not SPAN):
                    break
                frame.seen.add(pending[1])
                self._pending = pending
                self._scalar(match.start(2), match[2])
            elif reads.is_variant(raw):
                break
            if raw in reads.noted:
                self.noted[raw] = Member(self._offset + match.start(2), self._offset + match.end(2))
            frame.count += 1
            if frame.count > MOST_MEMBERS:
                raise _Malformed(_TOO_MANY)
            position = match.end()
            if data[position - 1 : position] == _CLOSE:
                self._close(position - 1)
                return position
            self._state = _NAME
        return position

    def _odd_name(self, data: bytes, position: int) -> int:
        """The end of the object, an incomplete name, or one whose colon has not arrived yet."""
        position = skip_blanks(data, position)
        first = data[position : position + 1]
        if first == _CLOSE and self._state is _NAME_OR_CLOSE:
            return self._close(position) + 1
        if not first:
            return position
        if first != _QUOTE:
            raise _Malformed("a name in double quotes is expected")
        match = find_string(data, position)
        if match is not None:
            self._named(match[0][1:-1])
            self._state = _COLON
            return match.end()
        if len(data) - position > MOST_NAME + 1:
            raise _Malformed(_LONG_NAME)
        return position

    def _named(self, raw: bytes) -> None:
        """A member begins with this name, as written."""
        frame = self._frames[-1]
        reads = frame.reads
        assert reads is not None
        frame.count += 1
        if frame.count > MOST_MEMBERS:
            raise _Malformed(_TOO_MANY)
        if len(raw) > MOST_NAME:
            raise _Malformed(_LONG_NAME)
        if b"\\" in raw:
            raw = _unescaped(raw)
        if raw in reads.noted:
            self._noting = raw
        self._pending = pending = reads.exact.get(raw)
        if pending is None:
            if reads.is_variant(raw):
                self._ambiguous(f"the name {_shown(raw)} can be taken for one that matters")
            return
        if pending[1] in frame.seen:
            self._ambiguous(f"the name {_shown(raw)} appears more than once")
        frame.seen.add(pending[1])

    def _colon(self, data: bytes, position: int) -> int:
        position = skip_blanks(data, position)
        if position < len(data):
            if data[position : position + 1] != b":":
                raise _Malformed("a colon is expected after a name")
            self._state = _VALUE
            position += 1
        return position

    def _value(self, data: bytes, position: int) -> int:
        match = _PLAIN_VALUE(data, position)
        if match is not None:
            self._scalar(match.start(1), match[1])
            return match.end(1)
        position = skip_blanks(data, position)
        first = data[position : position + 1]
        frame, pending = self._frames[-1], self._pending
        if first in (_OPEN, b"["):
            return self._container(data, position, first)
        if first == b"]" and frame.reads is None and not frame.count:
            return self._close(position) + 1
        if first == _QUOTE and (pending is None or pending[2] is COUNT or pending[2] is SPAN):
            if pending is not None:
                frame.values[pending[0]] = 1
            elif frame.reads is None:
                frame.count += 1
            if pending is None or pending[2] is COUNT:
                self._pending = None
            return self._begin_skipped(data, position)
        end = len(data) if first == _QUOTE else word_end(data, position)
        is_long = end - position > self._most_scalar
        if end < len(data) and not is_long:
            raise _Malformed("a value is expected")
        if is_long:
            name = f"the value of {pending[0]!r}" if pending is not None else "a number"
            raise _Malformed(f"{name} is longer than {self._most_scalar} bytes")
        return position

    def _scalar(self, position: int, raw: bytes) -> None:
        """A text, a number or a word stands at `position`."""
        frame, pending = self._frames[-1], self._pending
        self._state = _AFTER
        self._note(self._offset + position, self._offset + position + len(raw))
        if frame.reads is None:
            if raw[:1] == _QUOTE:
                frame.count += 1
            else:
                self._skip_rest(frame)
        if pending is None:
            return
        spelling, _, reads = pending
        start = self._offset + position
        if reads is COUNT or reads is SPAN:
            frame.values[spelling] = 1
            if reads is SPAN:
                self.members[(*frame.path, spelling)] = Member(start, start + len(raw))
            return
        if len(raw) > self._most_scalar:
            raise _Malformed(f"the value of {spelling!r} is longer than {self._most_scalar} bytes")
        try:
            frame.values[spelling] = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise _Malformed(f"the value of {spelling!r} is not valid JSON") from None
        self.members[(*frame.path, spelling)] = Member(start, start + len(raw))

    def _skip_rest(self, frame: _Frame) -> None:
        """An array with a number in it counts as one value: mostly token ids, maybe a million of them."""
        self._frames.pop()
        above = self._frames[-1]
        spelling = frame.path[-1]
        above.values[spelling] = 1
        self._pending = (spelling, spelling, None)
        self._start = frame.start
        self._end.begin(b"["[0])
        self._state = _SKIPPED

    def _container(self, data: bytes, position: int, first: bytes) -> int:
        frame, pending = self._frames[-1], self._pending
        if frame.reads is None:
            frame.count += 1
        elif pending is not None:
            spelling, _, reads = pending
            if (isinstance(reads, Reads) and first == _OPEN) or (reads is COUNT and first == b"["):
                inner = reads if isinstance(reads, Reads) else None
                self._frames.append(_Frame((*frame.path, spelling), inner, self._offset + position))
                self._state = _VALUE if inner is None else _NAME_OR_CLOSE
                self._pending = None
                return position + 1
            frame.values[spelling] = 1 if reads is COUNT or reads is SPAN else []
        match = _SMALL(data, position, position + _SMALL_VALUE)
        if match is None:
            return self._begin_skipped(data, position)
        self._start = self._offset + position
        return self._skipped(match.end())

    def _after(self, data: bytes, position: int) -> int:
        position = skip_blanks(data, position)
        byte = data[position : position + 1]
        is_object = self._frames[-1].reads is not None
        if byte == b",":
            self._state = _NAME if is_object else _VALUE
            if not is_object and self._frames[-1].count >= MOST_VALUES:
                raise _Malformed(f"an array has more than {MOST_VALUES} values")
            return position + 1
        if byte == (_CLOSE if is_object else b"]"):
            return self._close(position) + 1
        if byte:
            raise _Malformed("a comma or a closing bracket is expected after a value")
        return position

    def _close(self, position: int) -> int:
        """The current container ends at `position`."""
        frame = self._frames.pop()
        close = self._offset + position
        if not self._frames:
            self.values = frame.values
            self.members[()] = Member(frame.start, close + 1, close, not frame.count)
            self._state = _END
            return position
        self._note(frame.start, close + 1)
        above = self._frames[-1].values
        above[frame.path[-1]] = frame.values if frame.reads is not None else max(1, frame.count)
        self.members[frame.path] = Member(frame.start, close + 1, close, not frame.count)
        self._state = _AFTER
        return position

    # --- what is skipped ---

    def _begin_skipped(self, data: bytes, position: int) -> int:
        """Begin to skip a string or a container."""
        self._start = self._offset + position
        self._end.begin(data[position])
        self._state = _SKIPPED
        return position + 1

    def _skip(self, data: bytes, position: int) -> int:
        try:
            end = self._end.find(data, position)
        except NotStrict:
            raise _Malformed("it has a comment, a stray backslash or a string that is not in double quotes") from None
        return self._skipped(end) if end else len(data)

    def _skipped(self, end: int) -> int:
        """The skipped value that began at `_start` ends. A container in place of something else that matters can be
        replaced."""
        self._state = _AFTER
        self._note(self._start, self._offset + end)
        if self._pending is not None and (frame := self._frames[-1]).reads is not None:
            self.members[(*frame.path, self._pending[0])] = Member(self._start, self._offset + end)
        return end

    def _note(self, start: int, end: int) -> None:
        """A value from `start` to `end` is over, in the outermost object or inside one of its values."""
        name = self._noting
        if name is not None and len(self._frames) == 1:
            self.noted[name] = Member(start, end)
            self._noting = None

    def _ambiguous(self, text: str) -> None:
        self.problem = Problem(text, is_ambiguous=True)


def _unescaped(raw: bytes) -> bytes:
    """A name without its escapes. Lone surrogates stay, as bytes that are not UTF-8."""
    try:
        name: str = json.loads(f'"{raw.decode(errors="ignore")}"', strict=False)
    except json.JSONDecodeError:
        raise _Malformed("a name has an invalid escape") from None
    return name.encode(errors="surrogatepass")


def _shown(name: bytes) -> str:
    return repr(name[:64].decode(errors="replace"))


def _what_begins(start: bytes) -> str:
    if start.startswith(BOM):
        return "it begins with a byte order mark; send UTF-8 without one"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        return "it is UTF-16 or UTF-32; send UTF-8"
    return "a JSON object is expected"
