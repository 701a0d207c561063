"""The fast path of template events, from the provider's transport to the client's. No I/O.

Most events of a stream differ from the one before in their text and padding only, and providers send each as a chunk
of its own. While that lasts the provider's transport calls a `FastPath`, which sees that a read is one chunk with one
such event, counts it and writes it on: one call in place of eight, and one object in place of ten, each of which is a
cache miss when hundreds of streams take turns. Everything else takes the slow path, through connection, exchange and
event filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..dialects.base import Template
from ..dialects.event_template import is_utf8
from ..http.h1_chunked import SIZE_LINES, take_chunks
from .event_filter import EventFilter

BURST = 2048
"""Bytes of a read that hold more than one event. Reads are to be small then, and those of a fast path are not."""

MUCH = 4096
"""Bytes that pass together before the owner is told."""
_OFTEN = 63
"""Events between two reports to the owner, less one: a bit mask."""
_SHUT = -1
_LONGEST = len(SIZE_LINES)


class FastPathOwner(Protocol):
    """The provider's connection, whose transport calls the fast path in its place."""

    def receive(self, data: bytes) -> bool:
        """The slow path. Returns whether a chunk begins next, if anything does."""

    def passed(self, size: int) -> None:
        """So many bytes of the body have passed since this was last called."""

    def leave_fast_path(self) -> None:
        """Take the transport back."""


class FastPath:
    """The fast path of one answer. It is opened and closed as often as the stream allows.

    What passes is counted by `settle`, before anything else of the answer is counted.
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
        "_read",
        "_room",
        "_start",
        "_template",
        "_together",
        "_told",
        "_write",
        "chunks",
        "size",
        "writes",
    )

    def __init__(self, event_filter: EventFilter, chunks: int) -> None:
        """`event_filter` has seen the answer's first content, in the last of so many chunks."""
        self._filter = event_filter
        self._content = event_filter.meter.content.pending
        self._lead = chunks - event_filter.meter.content_events
        """How many more chunks than events with content there were when this was last asked to open."""
        self._owner: FastPathOwner | None = None
        """None: it is closed."""
        self._template: Template | None = None
        """The form of the events that may pass; None: it was never open."""
        self._write: Callable[[bytes], None] = _drop
        self._framed = False
        """Whether `_write` takes whole chunks."""
        self._room = self._granted = _SHUT
        """Bytes of content that may still pass, and that might when events were last counted."""
        self._events = 0
        """Events that passed and are not counted yet."""
        self._together = 0
        """Of these, the ones that came in one read with another one before them."""
        self._told = 0
        """Of `size`, what the owner was told of."""
        self.size = 0
        """Body bytes that have passed, framing left out."""
        self.chunks = 0
        """Reads they came in."""
        self.writes = 0
        """Of these, the ones that went to the client as whole chunks."""

    # --- opening and closing ---------------------------------------------------------------------------------------

    def comes_evenly(self, chunks: int) -> bool:
        """Whether each of the answer's chunks brought an event with content since this was last asked. Of a burst,
        reads are to be small."""
        lead, before = chunks - self._filter.meter.content_events, self._lead
        self._lead = lead
        return lead >= before

    def open(self, write: Callable[[bytes], None], framed: bool) -> bool:
        """Have events pass to `write`. Returns False where none may now; else `enter` follows."""
        if not self._grant():
            return False
        self._write, self._framed = write, framed
        return True

    def enter(self, owner: FastPathOwner) -> None:
        """The transport of `owner` calls `receive` from now on."""
        self._owner = owner

    def close(self) -> None:
        """Have no events pass any more. Safe to repeat."""
        owner = self._owner
        if owner is not None:
            self.settle()
            self._owner = None
            self._room = self._granted = _SHUT
            self._write = _drop  # the client's stream holds the exchange, which holds this: no cycle is to be left
            owner.leave_fast_path()

    @property
    def is_open(self) -> bool:
        return self._owner is not None

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<FastPath {state} size={self.size} uncounted={self._events} room={self._room}>"

    def _grant(self) -> bool:
        """Let as much content pass as the filter would. Returns False where it lets nothing pass unseen."""
        room = self._filter.room
        template = self._filter.meter.template
        if room is None or template is None:
            return False
        self._room = self._granted = room
        if template is not self._template:
            self._template = template
            chunk = template.in_chunk()
            self._head, self._start, self._read = chunk.head, len(chunk.head), chunk.read
        return True

    # --- counting --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Count what has passed."""
        events = self._events
        if not events:
            return
        chunks = events - self._together
        self.chunks += chunks
        if self._framed:
            self.writes += chunks
        self._filter.count_template(events, self._granted - self._room)
        self._granted = self._room
        self._events = self._together = 0
        self._tell()

    # --- passing ---------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """One read of the transport."""
        # Everything in one function, and little beside this object is looked at: with cold caches a call, or an object
        # of one stream, costs more than its work.
        size = len(data)
        if size < _LONGEST:
            line = SIZE_LINES[size]
            head = len(line)
            start = head + self._start
            if data[:start] == line + self._head:  # two `startswith` take longer
                read = self._read  # a call of the attribute itself would look it up the slow way
                match = read(data, start)
                if match is not None and (data.isascii() or is_utf8(data)):
                    content = match.end(1) - start
                    room = self._room - content
                    if content and room >= 0:
                        self._room = room
                        said = self._content  # to add to the attribute itself would store it again
                        said += match[1]
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
        """Tell the owner how much has passed."""
        size, self._told = self.size - self._told, self.size
        if self._owner is not None:
            self._owner.passed(size)

    def _pass_together(self, data: bytes) -> bool:
        """Pass chunks with one template event each; False where these are not. They come together where somebody was
        slow, provider, network or the relay itself, which had better not become slower then."""
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
        """Have a read take the slow path."""
        owner = self._owner
        if owner is None:
            return  # closed while the transport had this read in its hands
        if len(data) >= BURST:
            self.close()
        else:
            self.settle()
            self._room = self._granted = _SHUT
        if owner.receive(data) and self._owner is not None:
            self._grant()


def _drop(data: bytes) -> None:
    """Takes the place of a writer while there is none."""
