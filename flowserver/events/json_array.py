"""Finds the elements of a JSON array as it passes: Gemini's form of a stream without `alt=sse`. No I/O."""

from __future__ import annotations

from enum import Enum, auto

from ..json_text.scan import BOM, ValueEnd, find_value, is_scalar, skip_blanks, word_end
from .large_event import LargeLine, ScannerState
from .scanner import Event, moved

_COMMA, _OPEN, _CLOSE = b",[]"
_STARTS = b'"[{'
"""First bytes of values with a closing byte; a scalar ends where something else follows."""
_MAX_SCALAR = 4 << 10


class _Place(Enum):
    START = auto()
    """Before the array."""
    OPENED = auto()
    """The first element or the end comes next."""
    ELEMENT = auto()
    """An element must come next."""
    WITHIN = auto()
    """In an element."""
    BEHIND = auto()
    """After an element: a comma or the end comes next."""
    END = auto()


class JsonArrayScanner(ScannerState[LargeLine]):
    """A `Scanner`. Each element is an event without a name; numbers, booleans and nulls are ignored.

    The only boundaries are after elements and the blanks that follow them: not after a comma or a bracket of the array.
    A stream that is not an array is `broken`.
    """

    __slots__ = ("_end", "_place")

    def __init__(self, max_event: int) -> None:
        super().__init__(max_event)
        self._place = _Place.START
        self._end = ValueEnd()

    def finish(self) -> list[Event]:
        return []

    def closing(self, passed_any: bool, *, opened: bool = False) -> tuple[bytes, bytes]:
        """What to put before and after one more element that ends the array at a boundary.

        `passed_any`: whether an element has passed. `opened`: whether the bracket that opens the array has.
        """
        return b"," if passed_any else b"" if opened else b"[", b"]"

    def feed(self, data: bytes) -> list[Event]:
        if self.broken or not data:
            return []
        events: list[Event] = []
        position = 0
        if self._place is _Place.WITHIN:
            position = self._go_on(data, events)
        elif self._held:  # a scalar that may go on, or half a byte order mark
            before = self._take()
            return moved(self.feed(before + data), -len(before))
        while position < len(data) and not self.broken:
            position = self._step(data, position, events)
        self.at_boundary = self._place is _Place.BEHIND and not self.broken
        return events

    def _step(self, data: bytes, position: int, events: list[Event]) -> int:
        """Reads one token or element; returns where the next one begins."""
        at = skip_blanks(data, position)
        if at == len(data):
            return at
        byte, place = data[at], self._place
        if place is _Place.ELEMENT or (place is _Place.OPENED and byte != _CLOSE):
            return self._element(data, at, events)
        if place is _Place.START:
            return self._start(data, at)
        if place is _Place.BEHIND and byte == _COMMA:
            self._place = _Place.ELEMENT
        elif place is not _Place.END and byte == _CLOSE:
            self._place = _Place.END
        else:
            self.broken = True
        return at + 1

    def _start(self, data: bytes, at: int) -> int:
        if data[at] == _OPEN:
            self._place = _Place.OPENED
            return at + 1
        head = data[at : at + 3]
        if head == BOM:
            return at + 3
        if BOM.startswith(head):
            self._held += head
            return len(data)
        self.broken = True
        return at

    def _element(self, data: bytes, at: int, events: list[Event]) -> int:
        """Reads an element; returns the offset after it, or after `data`."""
        if data[at] not in _STARTS:
            return self._scalar(data, at)
        whole = find_value(data, at)
        if whole is not None:
            end = whole.end()
        else:
            self._end.begin(data[at])
            end = self._end.find(data, at + 1)
        if end:
            self._ended(data[at:end], end, events)
            return end
        self._place = _Place.WITHIN
        self._hold(data[at:])
        return len(data)

    def _scalar(self, data: bytes, at: int) -> int:
        end = word_end(data, at)
        if end == len(data) and end - at <= _MAX_SCALAR:
            self._held += data[at:]
        elif is_scalar(data, at, end):
            self._place = _Place.BEHIND
        else:
            self.broken = True
        return end

    def _go_on(self, data: bytes, events: list[Event]) -> int:
        """More of an element; returns the offset after it, or after `data`."""
        end = self._end.find(data, 0)
        if not end:
            self._hold(data)
            return len(data)
        if self._large is not None:
            self._place = _Place.BEHIND
            self._end_large(self._large, data[:end], end, events)
        else:
            self._ended(self._take() + data[:end], end, events)
        return end

    def _hold(self, data: bytes) -> None:
        if self._large is None:
            self._held += data
            if len(self._held) <= self._max:
                return
            self._large = LargeLine()
            data = self._take()
        self._large.feed(data)

    def _ended(self, element: bytes, end: int, events: list[Event]) -> None:
        self._place = _Place.BEHIND
        if len(element) > self._max:
            self._end_large(LargeLine(), element, end, events)
        else:
            events.append((b"", element, end))

    def _end_large(self, large: LargeLine, rest: bytes, end: int, events: list[Event]) -> None:
        large.feed(rest)
        if found := self._finish_large(large):
            events.append((*found, end))
