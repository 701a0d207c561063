"""HTTP/2 as bytes: what the load client and the source send, and how they take apart what comes.

Heads are literals without indexing (RFC 7541 section 6.2.2), so that they are the same bytes each time and the encoder
keeps no state. Heads that come are not decoded: both sides know what they asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8

END_STREAM = ACK = 0x1
END_HEADERS = 0x4

ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x2, 0x3, 0x4

CANCEL = 0x8

FIRST_WINDOW = 65535
"""Bytes of every window before anything was said of it."""

WIDE = 2**31 - 1
"""The widest window that there is."""

HEAD_SIZE = 9

_HEAD = struct.Struct(">HBBBI")
_STATIC = {b":authority": 1, b":path": 4, b"authorization": 23, b"content-length": 28, b"content-type": 31}
_WHOLE = {(b":method", b"POST"): b"\x83", (b":scheme", b"http"): b"\x86", (b":status", b"200"): b"\x88"}
"""Index of a name, and the byte of a whole field, in HPACK's static table."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frame_head(len(payload), kind, flags, stream) + payload


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes in front of a payload of `length` bytes."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in values.items()))


def window_update(stream: int, size: int) -> bytes:
    """`stream` 0: the connection's window."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))


def header_block(fields: Mapping[bytes, bytes]) -> bytes:
    """Names in lower case, pseudo-header fields first."""
    return b"".join(_field(name, value) for name, value in fields.items())


def split(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yields (kind, flags, stream, start and end of the payload) of each complete frame in `data`. Bytes after the last
    one begin the next frame."""
    position, size = 0, len(data)
    while size - position >= HEAD_SIZE:
        high, low, kind, flags, stream = _HEAD.unpack_from(data, position)
        start = position + HEAD_SIZE
        position = start + (high << 8 | low)
        if position > size:
            return
        yield kind, flags, stream & WIDE, start, position


def _field(name: bytes, value: bytes) -> bytes:
    if (name, value) in _WHOLE:
        return _WHOLE[name, value]
    index = _STATIC.get(name)
    shown = b"\0" + _string(name) if index is None else _integer(index, 15)
    return shown + _string(value)


def _string(text: bytes) -> bytes:
    return _integer(len(text), 127) + text


def _integer(value: int, prefix: int) -> bytes:
    """RFC 7541 section 5.1; `prefix` is the most that the first byte holds."""
    if value < prefix:
        return bytes((value,))
    encoded = bytearray((prefix,))
    value -= prefix
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes((*encoded, value))
