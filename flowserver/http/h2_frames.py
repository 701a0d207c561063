"""HTTP/2 frames (RFC 9113 section 4), split and made without h2 where h2 is too slow or can't do it. No I/O.

Both sides use it. Frames are split here before `h2_flood_guard` counts them. A provider's DATA is read here alone:
h2 takes 9.1 us to receive a DATA frame and acknowledge it. The head of an answer is written as literals, which a
decoder accepts whatever its table holds: h2 takes 53 us for one, and saves the client some 50 bytes.
"""

from __future__ import annotations

import struct
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
PRIORITIZED = 0x20
"""A HEADERS frame with priority fields."""

MAX_INCREMENT = 0x7FFFFFFF
"""Of a window: 31 bits; one more is reserved."""
NO_STREAM_YET = 0x7FFFFFFF
"""The last stream id of a GOAWAY that only warns (RFC 9113 section 6.8)."""


class Frame(NamedTuple):
    """One complete frame; `raw` includes its header."""

    kind: int
    flags: int
    stream_id: int
    raw: bytes


class FrameTooLong(Exception):
    """A frame is longer than the SETTINGS_MAX_FRAME_SIZE that we sent."""


TURN = 128
"""Frames of usual cost that one connection may handle in one turn of the event loop."""


class FrameSplitter:
    """Splits bytes into frames, a limited number per turn of the event loop: a read may hold 7,000 small ones, and
    other connections must not wait for them all. Within the limit at most one incomplete frame is held."""

    __slots__ = ("_held", "left")

    def __init__(self) -> None:
        self._held = b""
        self.left = TURN
        """What is left of the turn's `TURN`. At 0 or below no more frames come out: stop reading, and in the next turn
        call `rest`, then `feed`. A caller that handles a costly frame subtracts from it."""

    def rest(self) -> None:
        """A new turn begins."""
        self.left = TURN

    def only(self, data: bytes) -> Frame | None:
        """`data` as one complete frame, the usual form of a stream's event; None: `feed` it."""
        size = len(data)
        if self._held or not 9 <= size <= MAX_FRAME + 9 or self.left <= 0:
            return None
        high, low, kind, flags, stream_id = _HEAD(data)
        if (high << 8 | low) != size - 9:
            return None
        self.left -= 1
        return _new(Frame, (kind, flags, stream_id & 0x7FFFFFFF, data))

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes, up to the turn's limit. Raises FrameTooLong."""
        if self._held:
            data = self._held + data
        position, size = 0, len(data)
        try:
            while size - position >= 9 and self.left > 0:
                high, low, kind, flags, stream_id = _HEAD(data, position)
                length = high << 8 | low
                if length > MAX_FRAME:
                    raise FrameTooLong
                end = position + 9 + length
                if end > size:
                    break
                start, position = position, end
                self.left -= 1
                # as Frame(...), without a call in Python
                yield _new(Frame, (kind, flags, stream_id & 0x7FFFFFFF, data[start:end]))
        finally:
            self._held = data[position:]


_HEAD = struct.Struct(">HBBBL").unpack_from
_new = tuple.__new__


def data_head(size: int, stream_tail: bytes) -> bytes:
    """The header of a DATA frame of `size` bytes; `stream_tail` is `data_tail` of its stream."""
    return (BEGINNINGS[size] if size < USUAL_SIZE else (size << 8 | DATA).to_bytes(4, "big")) + stream_tail


USUAL_SIZE = 1024
BEGINNINGS = tuple((size << 8 | DATA).to_bytes(4, "big") for size in range(USUAL_SIZE))
"""Length and kind of DATA frames of usual sizes."""


def data_tail(stream_id: int) -> bytes:
    """Flags and stream of a DATA frame that does not end its stream."""
    return b"\0" + stream_id.to_bytes(4, "big")


def goaway(last_stream_id: int, code: int, debug: str = "") -> bytes:
    """A GOAWAY frame (RFC 9113 section 6.8). Made here, since h2 ends the connection once it sends one."""
    payload = last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + debug.encode("ascii", "replace")
    return len(payload).to_bytes(3, "big") + bytes((GOAWAY, 0)) + b"\0\0\0\0" + payload


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame (RFC 9113 section 6.9); stream 0 is the connection."""
    return b"\0\0\x04" + bytes((WINDOW_UPDATE, 0)) + stream_id.to_bytes(4, "big") + increment.to_bytes(4, "big")


def increment_of(frame: Frame) -> int | None:
    """The increment of a WINDOW_UPDATE frame; None where its length is wrong. 0 is malformed too (section 6.9)."""
    raw = frame.raw
    return int.from_bytes(raw[9:], "big") & MAX_INCREMENT if len(raw) == 13 else None


def headers(stream_id: int, block: bytes) -> bytes:
    """A HEADERS frame with a complete header block that does not end its stream."""
    return len(block).to_bytes(3, "big") + bytes((HEADERS, END_HEADERS)) + stream_id.to_bytes(4, "big") + block


def header_block(fields: list[tuple[bytes, bytes]]) -> bytes:
    """`fields` as HPACK literals without indexing (RFC 7541 section 6.2.2), but for a usual :status."""
    block = bytearray()
    for name, value in fields:
        usual = _USUAL.get(value) if name == b":status" else None
        if usual is not None:
            block += usual
            continue
        block += _NAMES.get(name) or _name(name)
        size = len(value)
        if size < 127:
            block.append(size)
        else:
            block += _integer(size, 127)
        block += value
    return bytes(block)


def _name(name: bytes) -> bytes:
    """How the literal of a field begins. Kept for the next ones: providers send the same names again and again."""
    index = STATIC_NAMES.get(name)
    begins = b"\0" + _integer(len(name), 127) + name if index is None else _integer(index, 15)
    if len(name) <= _LONGEST_NAME and len(_NAMES) < _MOST_NAMES:
        _NAMES[name] = begins
    return begins


_NAMES: dict[bytes, bytes] = {}
"""What `_name` returned. Names come from outside, so both their number and their size are bounded."""
_MOST_NAMES, _LONGEST_NAME = 1024, 64


def _integer(value: int, most: int) -> bytes:
    """RFC 7541 section 5.1; `most` is what the first byte can hold."""
    if value < most:
        return bytes((value,))
    encoded = bytearray((most,))
    value -= most
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


STATIC_NAMES = {
    b":status": 8,
    **{
        name: index
        for index, name in enumerate(
            b"accept-ranges accept access-control-allow-origin age allow authorization cache-control"
            b" content-disposition content-encoding content-language content-length content-location content-range"
            b" content-type cookie date etag expect expires from host if-match if-modified-since if-none-match if-range"
            b" if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization"
            b" range referer refresh retry-after server set-cookie strict-transport-security transfer-encoding"
            b" user-agent vary via www-authenticate".split(),
            18,
        )
    },
}
"""Name of an answer's field -> its first place in HPACK's static table (RFC 7541 appendix A)."""
_USUAL = {
    value: bytes((index | 0x80,))
    for index, value in enumerate((b"200", b"204", b"206", b"304", b"400", b"404", b"500"), 8)
}
"""Status -> its field there."""


def last_data(stream_id: int, data: bytes) -> bytes:
    """A DATA frame that ends its stream."""
    return len(data).to_bytes(3, "big") + bytes((DATA, END_STREAM)) + stream_id.to_bytes(4, "big") + data


def end_of_stream(stream_id: int) -> bytes:
    """An empty DATA frame that ends its stream."""
    return last_data(stream_id, b"")


def data_of(frame: Frame) -> bytes | None:
    """The content of a DATA frame without its padding (RFC 9113 section 6.1); None when the padding is malformed."""
    raw = frame.raw
    if not frame.flags & PADDED:
        return raw[9:]
    if len(raw) < 10 or raw[9] > len(raw) - 10:
        return None
    return raw[10 : len(raw) - raw[9]]
