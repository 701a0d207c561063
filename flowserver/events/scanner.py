"""The interface of what finds a stream's events, in any format. No I/O."""

from __future__ import annotations

from typing import ClassVar, Protocol

from .large_event import LargeLine, ScannerState

Event = tuple[bytes, bytes, int]
"""Name, payload, and the offset just after the event in the bytes last passed to `feed`; never 0."""


class Scanner(Protocol):
    """Finds the events of one stream. Between two calls it holds at most the bytes of one event of limited size."""

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end with an event, so that another may be inserted here."""

    @property
    def held(self) -> int:
        """Bytes of an event that has not ended."""

    @property
    def oversized(self) -> int:
        """Events larger than the limit that are not JSON. They pass unread, and `feed` does not return them.

        Of JSON events larger than the limit, `feed` returns what a `JsonReducer` keeps.
        """

    @property
    def unread_text(self) -> int:
        """Bytes of text that were skipped in events larger than the limit; all bytes of those that are not JSON."""

    @property
    def attachments(self) -> int:
        """Images, files and the like that were skipped there."""

    @property
    def broken(self) -> bool:
        """Whether the stream is malformed: no more events or boundaries are found."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that end in `data`. Never raises."""

    def finish(self) -> list[Event]:
        """The stream is over. Returns the event that ends with it, if events may end so in this format."""


class LineScanner(ScannerState[LargeLine]):
    """Holds the bytes of an event that has not ended; if it is too large, only the last byte. `max_event` does not
    include the blank line or the line feed that closes an event."""

    __slots__ = ()
    _reader: ClassVar[type[LargeLine]] = LargeLine

    def finish(self) -> list[Event]:
        return []

    def _hold(self, data: bytes) -> None:
        """More of an event that has not ended."""
        self._held += data
        if self._large is None and len(self._held) > self._max:
            self._large = self._reader()
            data = bytes(self._held)
        if self._large is not None:
            self._large.feed(data)
            # The last byte may be a line end: another one right after it makes a blank line.
            self._held = self._held[-1:]
        self.at_boundary = not self._held

    def _end_large(self, rest: bytes, end: int) -> list[Event]:
        """The event that is too large ends with `rest`."""
        large = self._large or self._reader()
        large.feed(rest)
        found = self._finish_large(large)
        self._held.clear()
        return [(*found, end)] if found else []


def moved(events: list[Event], by: int) -> list[Event]:
    """The same events with `by` added to their offsets."""
    return [(name, payload, end + by) for name, payload, end in events]
