"""The fast path of template events, from the provider's transport to the client's. No I/O.

Most events of a stream differ from the previous one only in their text and padding, and providers send each in a chunk
of its own. While that lasts the provider's transport calls a `FastPath`, which checks that a read is one chunk with one
such event, counts it and writes it on: one call instead of eight, and one object instead of ten, each of which is a
cache miss when hundreds of streams take turns. Everything else takes the slow path, through connection, exchange and
event filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ..dialects.event_template import EventTemplate
from ..http.h1_chunked import SIZE_LINES, take_chunks
from .event_filter import EventFilter

BURST: Final = 2048
"""A read of this many bytes contains more than one event. The receive buffer must be small then, but the fast path's is
not."""

MUCH: Final = 4096
"""Bytes that pass before they are reported to the owner."""
_OFTEN: Final = 63
"""Events between two reports to the owner, less one: a bit mask."""
_SHUT: Final = -1
_LONGEST: Final = len(SIZE_LINES)


class FastPathOwner(Protocol):
    """The provider's connection, whose place as the transport's protocol the fast path takes."""

    def receive(self, data: bytes) -> bool:
        """Take the slow path. Returns whether the next byte, if any, begins a chunk."""

    def passed(self, size: int) -> None:
        """`size` bytes of the body have passed since the last call."""

    def leave_fast_path(self) -> None:
        """Take the transport back."""


class FastPath:
    """The fast path of one answer. It may be opened and closed repeatedly.

    `settle` counts what has passed, before anything else of the answer is counted.
    """

    __slots__ = (
        "_content",
        "_events",
        "_filter",
        "_framed",
        "_granted",
        "_head",
        "_lead",
        "_owner",
        "_rest",
        "_room",
        "_start",
        "_template",
        "_together",
        "_told",
        "_write",
        "chunks",
        "size",
    )

    def __init__(self, event_filter: EventFilter, chunks: int) -> None:
        """`event_filter` has seen the answer's first content, in the last of `chunks` chunks."""
        self._filter = event_filter
        self._content = event_filter.meter.content.pending
        self._lead = chunks - event_filter.meter.content_events
        """Surplus of chunks over events with content, at the last attempt to open."""
        self._owner: FastPathOwner | None = None
        """None: it is closed."""
        self._template: EventTemplate | None = None
        """The form of the events that may pass; None: it was never open."""
        self._write: Callable[[bytes], None] = _drop
        self._framed = False
        """Whether `_write` takes whole chunks: always or never, by the client's protocol."""
        self._room = self._granted = _SHUT
        """Bytes of content that may still pass, and the same when events were last counted."""
        self._events = 0
        """Events that have passed and are not counted yet."""
        self._together = 0
        """How many of these followed another event in the same read."""
        self._told = 0
        """The part of `size` that was reported to the owner."""
        self.size = 0
        """Body bytes that have passed, without framing."""
        self.chunks = 0
        """Number of reads of these bytes."""

    # --- opening and closing ---------------------------------------------------------------------------------------

    def comes_evenly(self, chunks: int) -> bool:
        """Whether each chunk since the last call brought an event with content. In a burst, reads must be small."""
        lead, before = chunks - self._filter.meter.content_events, self._lead
        self._lead = lead
        return lead >= before

    def open(self, write: Callable[[bytes], None], framed: bool) -> bool:
        """Start passing events to `write`. Returns False if none may pass now; otherwise call `enter` next."""
        if not self._grant():
            return False
        self._write, self._framed = write, framed
        return True

    def enter(self, owner: FastPathOwner) -> None:
        """The transport of `owner` calls `receive` from now on."""
        self._owner = owner

    def close(self) -> None:
        """Stop passing events. Safe to repeat."""
        owner = self._owner
        if owner is not None:
            self.settle()
            self._owner = None
            self._room = self._granted = _SHUT
            self._write = _drop  # breaks the reference cycle: the client's stream holds the exchange, which holds this
            owner.leave_fast_path()

    @property
    def is_open(self) -> bool:
        return self._owner is not None

    @property
    def writes(self) -> int:
        """How many of the reads went to the client as whole chunks."""
        return self.chunks if self._framed else 0

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<FastPath {state} size={self.size} uncounted={self._events} room={self._room}>"

    def _grant(self) -> bool:
        """Allow as much content as the filter would. Returns False if the filter must see everything."""
        room = self._filter.room
        template = self._filter.meter.template
        if room is None or template is None:
            return False
        self._room = self._granted = room
        if template is not self._template:
            self._template = template
            chunk = template.in_chunk()
            self._head, self._start, self._rest = chunk.head, len(chunk.head), chunk.rest
        return True

    # --- counting --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Count what has passed."""
        events = self._events
        if not events:
            return
        self.chunks += events - self._together
        self._filter.count_template(events, self._granted - self._room)
        self._granted = self._room
        self._events = self._together = 0
        self._tell()

    # --- passing ---------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """One read of the transport."""
        # Everything is in one function that touches little besides this object and what all streams share: with cold
        # caches, a call or another object of the stream costs more than the work itself.
        size = len(data)
        if size < _LONGEST:
            line = SIZE_LINES[size]
            head = len(line)
            start = head + self._start
            if data[:start] == line + self._head:  # two `startswith` take longer
                text = self._rest.plain_text(data, start)
                if text:
                    room = self._room - len(text)
                    if room >= 0:
                        self._room = room
                        said = self._content  # adding to the attribute directly would store it again
                        said += text
                        self.size += size - head - 2
                        self._events = events = self._events + 1
                        write = self._write
                        write(data if self._framed else data[head:-2])
                        if not events & _OFTEN:
                            self._tell()
                        return
        if size >= BURST or not self._pass_together(data):
            self._detour(data)

    def _tell(self) -> None:
        """Report to the owner how much has passed."""
        size, self._told = self.size - self._told, self.size
        if self._owner is not None:
            self._owner.passed(size)

    def _pass_together(self, data: bytes) -> bool:
        """Pass chunks with one template event each; returns False if they are not. Several in one read mean that the
        provider, the network or the relay was slow; the relay should not become slower then."""
        template = self._template
        events: list[bytes] = []
        if template is None or take_chunks(data, 0, events) != len(data):
            return False
        texts = bytearray()
        for event in events:
            text = template.text_of(event)
            if not text:
                return False
            texts += text
        content_bytes = len(texts)
        if content_bytes > self._room:
            return False
        self._content += texts
        passing = b"".join(events)
        self._room -= content_bytes
        self.size += len(passing)
        self._events += len(events)
        self._together += len(events) - 1
        self._write(data if self._framed else passing)
        if self.size - self._told >= MUCH:
            self._tell()
        return True

    def _detour(self, data: bytes) -> None:
        """Send a read through the slow path."""
        owner = self._owner
        if owner is None:
            return  # closed while the transport was delivering this read
        if len(data) >= BURST:
            self.close()
        else:
            self.settle()
            self._room = self._granted = _SHUT
        if owner.receive(data) and self._owner is not None:
            self._grant()


def _drop(data: bytes) -> None:
    """Stands in for the writer while there is none."""
