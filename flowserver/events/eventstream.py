"""Reads the frames of application/vnd.amazon.eventstream as they pass. No I/O.

A frame, in network order: its length (4 bytes), the length of its headers (4), the CRC of these eight (4); headers;
payload; the CRC of it all (4). https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from .large_event import LargeFrame, ScannerState
from .scanner import Event, moved

_PRELUDE: Final = struct.Struct(">III")
PRELUDE_SIZE: Final = _PRELUDE.size
_LEAST: Final = 16
"""Bytes of a frame without its headers and its payload."""

_STRING = 7
_FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; values of types 6 and 7 are preceded by their length."""
_SIZED = (6, _STRING)

_MAX_KEPT = 1024
"""Longest headers whose name is remembered, in bytes; Bedrock's have 80 to 120."""


class EventStreamScanner(ScannerState[LargeFrame]):
    """A `Scanner`. An event's name is its `:event-type`; for an exception `:exception-type` and for an error
    `:error-code`, each after a "!".

    The CRC of a whole frame is left to the client. A frame's prelude is checked, since everything after depends on it:
    if it is wrong, the scanner is `broken` and reads no more.
    """

    __slots__ = ("_headers", "_name", "_need")

    def __init__(self, max_event: int) -> None:
        super().__init__(max_event)
        self._need = PRELUDE_SIZE
        """Bytes needed before the next step."""
        self._headers = b""
        self._name = b""
        """The name from the headers above: most frames repeat those of the frame before."""

    def finish(self) -> list[Event]:
        return []

    def feed(self, data: bytes) -> list[Event]:
        if self.broken:
            return []
        if self._large is not None:
            end = self._large.feed(data)
            if self._large.left:
                return []
            events = self._end_large(self._large, end)
            self.at_boundary = True
            return events + moved(self.feed(data[end:]), end)
        held = len(self._held)
        if held + len(data) < self._need:
            self._held += data
            self.at_boundary = not self._held
            return []
        if held:
            data = self._take() + data
        return self._scan(data, held)

    def _end_large(self, large: LargeFrame, end: int) -> list[Event]:
        """The frame that is too large is complete."""
        found = self._finish_large(large)
        return [(self._name_in(large.headers), found[1], end)] if found else []

    def _scan(self, data: bytes, held: int) -> list[Event]:
        """The frames from the start of `data`, of which `held` bytes were fed before."""
        events: list[Event] = []
        size = len(data)
        begin = 0
        self._need = PRELUDE_SIZE
        while size - begin >= PRELUDE_SIZE:
            lengths = read_prelude(data, begin)
            if lengths is None:
                self.broken = True
                self.at_boundary = False
                return events
            total, headers = lengths
            end = begin + total
            if total > self._max:
                large = LargeFrame(total, headers)
                large.feed(data[begin + PRELUDE_SIZE : end])
                if large.left:
                    self._large = large
                    self.at_boundary = False
                    return events
                events += self._end_large(large, end - held)
            elif end <= size:
                payload = begin + PRELUDE_SIZE + headers
                name = self._name_in(data[begin + PRELUDE_SIZE : payload])
                events.append((name, data[payload : end - 4], end - held))
            else:
                self._need = total
                break
            begin = end
        self.at_boundary = begin == size
        if begin < size:
            self._held += data[begin:]
        return events

    def _name_in(self, headers: bytes) -> bytes:
        if headers == self._headers:
            return self._name
        name = _name(read_headers(headers))
        if len(headers) <= _MAX_KEPT:
            self._headers = headers
            self._name = name
        return name


def read_prelude(data: bytes, begin: int = 0) -> tuple[int, int] | None:
    """The lengths of the frame that begins there and of its headers; None: no frame does. Reads `PRELUDE_SIZE`
    bytes."""
    total: int
    headers: int
    total, headers, crc = _PRELUDE.unpack_from(data, begin)
    return (total, headers) if total >= headers + _LEAST and crc32(data[begin : begin + 8]) == crc else None


def read_headers(data: bytes) -> dict[bytes, bytes]:
    """The string headers of one frame, up to the first malformed one."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        start = position + 1 + data[position]
        name = data[position + 1 : start]
        kind = data[start] if start < len(data) else -1
        start += 1
        if kind in _SIZED:
            size = int.from_bytes(data[start : start + 2], "big")
            start += 2
        elif kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        else:
            break
        position = start + size
        if position > len(data):
            break
        if kind == _STRING:
            found[name] = data[start:position]
    return found


def _name(headers: dict[bytes, bytes]) -> bytes:
    match headers.get(b":message-type"):
        case b"exception":
            return b"!" + headers.get(b":exception-type", b"")
        case b"error":
            return b"!" + headers.get(b":error-code", b"")
        case _:
            return headers.get(b":event-type", b"")
