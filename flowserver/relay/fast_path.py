"""The fast path of template events, from the provider's transport to the client's. No I/O.

Most events of a stream differ from the one before in their text and padding only, and providers send each as a chunk
of its own. While that lasts the provider's transport has a fast path for its protocol, which sees that a read is one
chunk with one such event, counts it and writes it on: one call in place of eight, and one object in place of ten, each
of which is a cache miss when hundreds of streams take turns. Whatever else is read takes the slow path, through
connection, exchange and event filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..dialects.base import Template
from ..dialects.event_template import is_utf8
from ..http.h1_chunked import SIZE_LINES, take_chunks

BURST = 2048
"""Bytes of a read that are more than one event: reads are to be small then, and a fast path's are not."""

_SHUT = -1


class FastPathOwner(Protocol):
    """The provider's connection, whose transport has the fast path for its protocol."""

    def receive(self, data: bytes) -> bool:
        """The slow path. Whether a chunk begins next, if anything does."""

    def leave_fast_path(self) -> None:
        """Take the transport back."""

    def connection_lost(self, exc: Exception | None) -> None: ...

    def eof_received(self) -> bool: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class FastPath:
    """Of one answer. The transport calls it as it would call an asyncio.Protocol.

    `content` gets the texts of the events. `write` takes whole chunks where `framed`, else what is in them. `room`:
    bytes of content that may pass before the answer's budget is to be asked. `renew` is called after each read that
    took the slow path: it says the room anew, or None where ordinary events may not pass now, and calls `follow` where
    they look different from then on.
    """

    __slots__ = (
        "_content",
        "_granted",
        "_head",
        "_owner",
        "_read",
        "_renew",
        "_room",
        "_start",
        "_write",
        "events",
        "framed",
        "size",
        "template",
        "together",
    )

    def __init__(
        self,
        template: Template,
        room: int,
        *,
        content: bytearray,
        write: Callable[[bytes], None],
        framed: bool,
        renew: Callable[[], int | None],
    ) -> None:
        self.events = 0
        """Events that passed and were not taken account of yet."""
        self.together = 0
        """Of these, the ones that came in one read with another one before them."""
        self.size = 0
        """Their bytes, framing left out."""
        self._room = self._granted = room
        self._content = content
        self._write = write
        self.framed = framed
        self._renew = renew
        self._owner: FastPathOwner | None = None
        self.follow(template)

    def follow(self, template: Template) -> None:
        """What ordinary events look like from now on. The ones that passed were taken account of."""
        self.template = template
        chunk = template.in_chunk()
        self._head, self._start, self._read = chunk.head, len(chunk.head), chunk.read

    def enter(self, owner: FastPathOwner) -> None:
        """The transport is told to call this fast path."""
        self._owner = owner

    def close(self) -> None:
        """No event passes any more, and the transport goes back to its connection. Safe to be repeated."""
        self._set_room(_SHUT)
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.leave_fast_path()

    def taken(self) -> None:
        """What passed was taken account of."""
        self._granted = self._room
        self.events = self.together = self.size = 0

    def _set_room(self, room: int) -> None:
        self._granted += room - self._room
        self._room = room

    @property
    def content_bytes(self) -> int:
        """The bytes of their content."""
        return self._granted - self._room

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
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
                        self.events += 1
                        write = self._write
                        write(data if self.framed else data[head:-2])
                        return
        if size >= BURST or not self._pass_together(data):
            self._detour(data)

    def _pass_together(self, data: bytes) -> bool:
        """Whether these are chunks with an ordinary event each, which have passed. They come together where somebody
        was slow, provider, network or the relay itself, which had better not become slower then."""
        events: list[bytes] = []
        if take_chunks(data, 0, events) != len(data):
            return False
        texts = bytearray()
        for event in events:
            text = self.template.text_of(event)
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
        self.events += len(events)
        self.together += len(events) - 1
        self._write(data if self.framed else passing)
        return True

    def _detour(self, data: bytes) -> None:
        owner = self._owner
        if owner is None:
            return  # closed while the transport had this read in its hands
        self._set_room(_SHUT)
        if not owner.receive(data) or self._owner is None:
            return
        room = self._renew()
        if room is not None:
            self._set_room(room)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._owner is not None:
            self._owner.connection_lost(exc)

    def eof_received(self) -> bool:
        return self._owner is not None and self._owner.eof_received()

    def pause_writing(self) -> None:
        if self._owner is not None:
            self._owner.pause_writing()

    def resume_writing(self) -> None:
        if self._owner is not None:
            self._owner.resume_writing()


_LONGEST = len(SIZE_LINES)
