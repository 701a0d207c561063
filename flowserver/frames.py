"""Frames of HTTP/2 (RFC 9113 section 4) beside h2: taken apart before it sees them, made where it can't or is slow.

No I/O. Both sides use it: a client's frames are counted on the way (`downstream.h2_guard`), a provider's DATA is read
here alone, since h2 takes 9.1 us to receive a DATA frame and acknowledge it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113 section 3.4."""
MAX_FRAME = 16 * 1024
"""Our SETTINGS_MAX_FRAME_SIZE: the default, and the least there is (RFC 9113 section 6.5.2)."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8

NO_STREAM_YET = 0x7FFFFFFF
"""The last stream id of a GOAWAY that only warns (RFC 9113 section 6.8)."""


class Frame(NamedTuple):
    """One whole frame; `raw` has its header too."""

    kind: int
    flags: int
    stream_id: int
    raw: bytes


class FrameTooLong(Exception):
    """A frame is announced that is longer than we said we take."""


class FrameSplitter:
    """Takes bytes apart into frames; at most one incomplete frame is held."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The whole frames that `data` completes; to be iterated to its end. Raises FrameTooLong."""
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while len(buffer) - position >= 9:
                length = int.from_bytes(buffer[position : position + 3], "big")
                if length > MAX_FRAME:
                    raise FrameTooLong
                end = position + 9 + length
                if end > len(buffer):
                    break
                kind, flags = buffer[position + 3], buffer[position + 4]
                stream_id = int.from_bytes(buffer[position + 5 : position + 9], "big") & 0x7FFFFFFF
                raw = bytes(buffer[position:end])
                position = end
                yield Frame(kind, flags, stream_id, raw)
        finally:
            del buffer[:position]


def data_head(size: int, stream_tail: bytes) -> bytes:
    """The header of a DATA frame of `size` bytes; `stream_tail` is `data_tail` of its stream."""
    return (size << 8 | DATA).to_bytes(4, "big") + stream_tail


def data_tail(stream_id: int) -> bytes:
    """Flags and stream of a DATA frame that does not end its stream."""
    return b"\0" + stream_id.to_bytes(4, "big")


def goaway(last_stream_id: int, code: int, debug: str = "") -> bytes:
    """A GOAWAY frame (RFC 9113 section 6.8). Made here, since h2 takes one it sends for the end of the connection."""
    payload = last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + debug.encode("ascii", "replace")
    return len(payload).to_bytes(3, "big") + bytes((GOAWAY, 0)) + b"\0\0\0\0" + payload


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame (RFC 9113 section 6.9); stream 0 is the connection."""
    return b"\0\0\x04" + bytes((WINDOW_UPDATE, 0)) + stream_id.to_bytes(4, "big") + increment.to_bytes(4, "big")


def end_of_stream(stream_id: int) -> bytes:
    """An empty DATA frame that ends its stream."""
    return b"\0\0\0" + bytes((DATA, END_STREAM)) + stream_id.to_bytes(4, "big")


def data_of(frame: Frame) -> bytes | None:
    """The content of a DATA frame without its padding (RFC 9113 section 6.1); None when the padding is malformed."""
    raw = frame.raw
    if not frame.flags & PADDED:
        return raw[9:]
    if len(raw) < 10 or raw[9] > len(raw) - 10:
        return None
    return raw[10 : len(raw) - raw[9]]
