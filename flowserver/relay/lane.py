"""The short way of ordinary events, from the provider's transport to the client's. No I/O.

Most events of a stream differ from the one before in their text and padding only, and providers send each as a chunk of
its own. While that lasts the provider's transport has a lane for its protocol, which sees that a read is one chunk with
one such event, counts it and writes it on: one call in place of eight, and one object in place of ten, each of which is
a cache miss when hundreds of streams take turns. Whatever else is read takes the long way, through connection, exchange
and tap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..dialects.base import Ordinary
from ..dialects.pattern import is_utf8
from ..framing import SIZE_LINES

ANY = 1 << 62
"""Room where nothing bounds it."""

BURST = 2048
"""Bytes of a read that are more than one event: reads are to be small then, and a lane's are not."""

_SHUT = -1


class Carrier(Protocol):
    """The provider's connection, whose transport has the lane for its protocol."""

    def receive(self, data: bytes) -> bool:
        """The long way. Whether a chunk begins next, if anything does."""

    def leave_lane(self) -> None:
        """Take the transport back."""

    def connection_lost(self, exc: Exception | None) -> None: ...

    def eof_received(self) -> bool: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Lane:
    """Of one answer. The transport calls it as it would call an asyncio.Protocol.

    `write` takes whole chunks where `framed`, else what is in them. `room`: bytes of content that may pass before the
    answer's budget is to be asked. `renew` is called after each read that took the long way: it says the room anew, or
    None where ordinary events may not pass now, and calls `follow` where they look different from then on.
    """

    __slots__ = (
        "_carrier",
        "_head",
        "_read",
        "_renew",
        "_room",
        "_start",
        "_write",
        "events",
        "framed",
        "ordinary",
        "size",
        "units",
    )

    def __init__(
        self,
        ordinary: Ordinary,
        room: int,
        *,
        write: Callable[[bytes], None],
        framed: bool,
        renew: Callable[[], int | None],
    ) -> None:
        self.events = 0
        """Events that passed and were not taken account of yet."""
        self.size = 0
        """Their bytes, framing left out."""
        self.units = 0
        """The bytes of their content."""
        self._room = room
        self._write = write
        self.framed = framed
        self._renew = renew
        self._carrier: Carrier | None = None
        self.follow(ordinary)

    def follow(self, ordinary: Ordinary) -> None:
        """What ordinary events look like from now on. The ones that passed were taken account of."""
        self.ordinary = ordinary
        chunk = ordinary.in_chunk()
        self._head, self._start, self._read = chunk.head, len(chunk.head), chunk.read

    def enter(self, carrier: Carrier) -> None:
        """The transport is told to call this lane."""
        self._carrier = carrier

    def close(self) -> None:
        """No event passes any more, and the transport goes back to its connection. Safe to be repeated."""
        self._room = _SHUT
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.leave_lane()

    def taken(self) -> None:
        """What passed was taken account of."""
        self._room -= self.units
        self.events = self.size = self.units = 0

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        # Everything in one function: with cold caches a call, or an object that is looked at, costs more than its work.
        size = len(data)
        if size < _LONGEST:
            line = SIZE_LINES[size]
            start = len(line)
            if data.startswith(line) and data.startswith(self._head, start):
                start += self._start
                read = self._read  # a call of the attribute itself would look it up the slow way
                match = read(data, start)
                if match is not None and (data.isascii() or is_utf8(data)):
                    content = match.end(1) - start
                    units = self.units + content
                    if content and units <= self._room:
                        self.units = units
                        self.size += size - len(line) - 2
                        self.events += 1
                        write = self._write
                        write(data if self.framed else data[len(line) : -2])
                        return
        self._detour(data)

    def _detour(self, data: bytes) -> None:
        carrier = self._carrier
        if carrier is None:
            return  # closed while the transport had this read in its hands
        self._room = _SHUT
        if not carrier.receive(data) or self._carrier is None:
            return
        room = self._renew()
        if room is not None:
            self._room = room

    def connection_lost(self, exc: Exception | None) -> None:
        if self._carrier is not None:
            self._carrier.connection_lost(exc)

    def eof_received(self) -> bool:
        return self._carrier is not None and self._carrier.eof_received()

    def pause_writing(self) -> None:
        if self._carrier is not None:
            self._carrier.pause_writing()

    def resume_writing(self) -> None:
        if self._carrier is not None:
            self._carrier.resume_writing()


_LONGEST = len(SIZE_LINES)
