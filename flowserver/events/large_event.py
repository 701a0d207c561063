"""Reads events that are too large to be held, as they arrive: their names, and what matters of their payload. No
I/O."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Generic, TypeVar

from ..json_text.reducer import JsonReducer

_MAX_NAME = 4 << 10
"""Most bytes of a line whose field is not known yet, and of an event's name."""
_MAX_HEADERS = 16 << 10
"""Most bytes of a frame's headers; Bedrock's have 80 to 120."""
_PRELUDE = 12


class LargeLine:
    """A line of JSON lines, or a bare payload."""

    __slots__ = ("_broke_off", "_reducer", "_size")

    def __init__(self) -> None:
        self._reducer = JsonReducer()
        self._size = 0
        """Bytes of its payload."""
        self._broke_off = False
        """Whether it has ended early, as valid JSON so far."""

    @property
    def unread_text(self) -> int:
        """Bytes of text that were skipped; of a payload that is not JSON, all bytes."""
        return self._size if self._is_no_json else self._reducer.text_bytes

    @property
    def attachments(self) -> int:
        return self._reducer.attachments

    @property
    def broken(self) -> bool:
        """Whether its payload can't be read as JSON."""
        return self._is_no_json or self._broke_off

    @property
    def _is_no_json(self) -> bool:
        return self._reducer.broken

    def feed(self, data: bytes) -> int:
        self._feed_payload(data)
        return len(data)

    def _feed_payload(self, data: bytes) -> None:
        self._size += len(data)
        self._reducer.feed_all(data)

    def finish(self) -> tuple[bytes, bytes] | None:
        """Name and reduced payload; None: it has none, or is broken."""
        reducer = self._reducer
        payload = reducer.finish()
        self._broke_off = not (reducer.ended or reducer.broken)
        return None if self.broken else (b"", payload)


Reader = TypeVar("Reader", bound=LargeLine)


class ScannerState(Generic[Reader]):
    """State of all scanners: the event that has not ended, and counts of those too large to be held."""

    __slots__ = ("_attachments", "_held", "_large", "_max", "_oversized", "_unread_text", "at_boundary", "broken")

    def __init__(self, max_event: int) -> None:
        """`max_event`: most bytes of an event that is held."""
        self._max = max_event
        self._held = bytearray()
        self._large: Reader | None = None
        """Reads the current event if it is too large."""
        self._oversized = 0
        self._unread_text = 0
        self._attachments = 0
        # Flags last, beside those of subclasses: see CONTRIBUTING.md, "The compiled build".
        self.at_boundary = True
        self.broken = False

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def oversized(self) -> int:
        return self._oversized + (self._large is not None and self._large.broken)

    @property
    def unread_text(self) -> int:
        return self._unread_text + (self._large.unread_text if self._large is not None else 0)

    @property
    def attachments(self) -> int:
        return self._attachments + (self._large.attachments if self._large is not None else 0)

    def _take(self) -> bytes:
        """Returns the held bytes and drops them."""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _finish_large(self, large: Reader) -> tuple[bytes, bytes] | None:
        """Counts a large event that has ended. Returns its name and payload; None: it has no payload, or one that is
        not JSON."""
        found = large.finish()
        self._oversized += large.broken
        self._unread_text += large.unread_text
        self._attachments += large.attachments
        self._large = None
        return found


class LargeFrame(LargeLine):
    """A frame of an Amazon event stream without its prelude: headers, payload and their CRC."""

    __slots__ = ("_headers_left", "_readable", "headers", "left")

    _CRC = 4

    def __init__(self, total: int, headers: int) -> None:
        """`total`, `headers`: bytes of the frame and of its headers, from its prelude."""
        super().__init__()
        self.left = total - _PRELUDE
        """Bytes to come."""
        self._headers_left = headers
        self._readable = headers <= _MAX_HEADERS
        self.headers = b""

    @property
    def _is_no_json(self) -> bool:
        return self._reducer.broken or not self._readable

    def feed(self, data: bytes) -> int:
        """Bytes of `data` that belong to the frame."""
        size = min(len(data), self.left)
        taken = min(size, self._headers_left)
        self._headers_left -= taken
        if self._readable:
            self.headers += data[:taken]
        payload_end = min(size, max(taken, self.left - self._CRC))
        self._feed_payload(data[taken:payload_end])
        self.left -= size
        return size

    def finish(self) -> tuple[bytes, bytes] | None:
        return super().finish() if self._readable else None


class _Line(Enum):
    """The kind of a line that has not ended."""

    UNKNOWN = auto()
    DATA = auto()
    OTHER = auto()


class LargeEvent(LargeLine):
    """A server-sent event: its lines, with any line ends. Blank lines are ignored."""

    __slots__ = ("_has_data", "_held", "_line", "_name")

    def __init__(self) -> None:
        super().__init__()
        self._name = b""
        self._has_data = False
        self._line = _Line.UNKNOWN
        self._held = b""
        """The beginning of a line whose field is not known yet."""

    def feed(self, data: bytes) -> int:
        size = len(data)
        if self._line is not _Line.UNKNOWN:
            end = _line_end(data)
            if self._line is _Line.DATA:
                self._feed_payload(data[:end])
            if end == size:
                return size
            data = data[end:]
            self._line = _Line.UNKNOWN
        lines = (self._held + data).splitlines(keepends=True)
        last = lines.pop() if lines and lines[-1][-1:] not in b"\r\n" else b""
        self._read(lines)
        self._held = b""
        if last:
            self._begin(last)
        return size

    def finish(self) -> tuple[bytes, bytes] | None:
        self._read([self._held])
        found = super().finish() if self._has_data else None
        return None if found is None else (self._name, found[1])

    def _read(self, lines: list[bytes]) -> None:
        """Whole lines."""
        name, values = read_fields(line.rstrip(b"\r\n") for line in lines)
        if name is not None:
            self._name = name[:_MAX_NAME]
        if values:
            self._add(b"\n".join(values))

    def _begin(self, line: bytes) -> None:
        """The beginning of a line."""
        if line[:5] == b"data:" and len(line) > 5:
            self._line = _Line.DATA
            self._add(line[5:].removeprefix(b" "))
        elif len(line) <= _MAX_NAME:
            self._held = line
        else:
            self._line = _Line.OTHER
            self._read([line])

    def _add(self, value: bytes) -> None:
        self._feed_payload(b"\n" + value if self._has_data else value)
        self._has_data = True


def read_fields(lines: Iterable[bytes]) -> tuple[bytes | None, list[bytes]]:
    """The name in lines of a server-sent event, None if there is none, and the values of its data lines."""
    name = None
    values = []
    for line in lines:
        field, _, value = line.partition(b":")
        if field == b"data":
            values.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name, values


def _line_end(data: bytes) -> int:
    """Where the first line of `data` ends, before its line end."""
    feed = data.find(b"\n")
    carriage = data.find(b"\r", 0, feed) if feed >= 0 else data.find(b"\r")
    return carriage if carriage >= 0 else feed if feed >= 0 else len(data)
