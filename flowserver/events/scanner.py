"""What finds the ends of a stream's events, whatever its format. No I/O."""

from __future__ import annotations

from typing import ClassVar, Protocol

from .large_event import LargeLine, ScannerState

Event = tuple[bytes, bytes, int]
"""Name, payload, and the offset just behind the event in the very bytes that `feed` was given; never 0."""


class Scanner(Protocol):
    """Finds the events of one stream. Between two calls it holds no more than the bytes of one event within bounds."""

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end where an event ends, so that another may be put in here."""

    @property
    def held(self) -> int:
        """Bytes of an event that has not ended."""

    @property
    def oversized(self) -> int:
        """Events larger than the bound that are no JSON. They pass without being read and `feed` does not return them.

        Of the others that are so large, `feed` returns what a `JsonReducer` keeps.
        """

    @property
    def unread_text(self) -> int:
        """Bytes of text that were passed over in events larger than the bound; all bytes of those that are no JSON."""

    @property
    def attachments(self) -> int:
        """Images, files and the like that were passed over there."""

    @property
    def broken(self) -> bool:
        """The stream is malformed: no event or boundary is found any more."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that end in `data`. Never raises."""

    def finish(self) -> list[Event]:
        """The stream is over: the event that ends with it, if that ends events here."""


class LineScanner(ScannerState[LargeLine]):
    """Holds the bytes of an event that has not ended; of one that is too large, the last byte. `max_event` does not
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
            # The last byte may be a line end, which makes one that follows a blank line.
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
    """The same, so many bytes further on."""
    return [(name, payload, end + by) for name, payload, end in events]
