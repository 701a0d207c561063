"""Frames of HTTP/2 by hand, as no library would send them (RFC 9113 section 6)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hpack import Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME_SIZE = range(1, 6)

Fields = Iterable[tuple[str | bytes, str | bytes]]


class Raw(NamedTuple):
    """A frame as it came."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """`length` announces another size than the payload has."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def split(buffer: bytearray) -> Iterator[Raw]:
    """Take the whole frames out of `buffer`."""
    while len(buffer) >= 9:
        size = int.from_bytes(buffer[:3], "big")
        if len(buffer) < 9 + size:
            return
        raw = bytes(buffer[: 9 + size])
        del buffer[: 9 + size]
        yield Raw(raw[3], raw[4], int.from_bytes(raw[5:9], "big") & 0x7FFFFFFF, raw[9:])


def block(fields: Fields) -> bytes:
    """A header block that leaves the decoder's table as it was."""
    encoder = Encoder()
    encoder.header_table_size = 0
    data = bytes(encoder.encode([(_bytes(name), _bytes(value)) for name, value in fields], huffman=False))
    return data.removeprefix(b"\x20")  # the table's new size, which is the encoder's business alone


def literals(fields: Fields) -> bytes:
    """A header block of literals without indexing: any bytes at all as name and value (RFC 7541 section 6.2.2)."""
    return b"".join(b"\0" + _string(_bytes(name)) + _string(_bytes(value)) for name, value in fields)


def request_fields(
    method: str | bytes = "GET", path: str | bytes = "/v1/test", headers: Fields = (), *, authority: str = "relay.test"
) -> list[tuple[str | bytes, str | bytes]]:
    return [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *headers]


def headers(stream_id: int, fields: Fields | None = None, *, end: bool = True, flags: int = END_HEADERS) -> bytes:
    """A HEADERS frame; `fields` None: a plain GET."""
    payload = literals(request_fields() if fields is None else fields)
    return frame(HEADERS, flags | (END_STREAM if end else 0), stream_id, payload)


def data(stream_id: int, payload: bytes = b"", *, end: bool = False, pad: int | None = None) -> bytes:
    flags = END_STREAM if end else 0
    if pad is not None:
        return frame(DATA, flags | PADDED, stream_id, bytes((pad,)) + payload + bytes(pad))
    return frame(DATA, flags, stream_id, payload)


def rst_stream(stream_id: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream_id, struct.pack("!I", code))


def settings(*pairs: tuple[int, int], ack: bool = False) -> bytes:
    return frame(SETTINGS, ACK if ack else 0, 0, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last: int = 0, code: int = NO_ERROR) -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack("!II", last, code))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, struct.pack("!I", increment))


def priority(stream_id: int, depends_on: int = 0, weight: int = 15) -> bytes:
    return frame(PRIORITY, 0, stream_id, struct.pack("!IB", depends_on, weight))


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _string(text: bytes) -> bytes:
    """Without Huffman coding; the length with a prefix of 7 bits (RFC 7541 section 5.1)."""
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    prefix, rest = b"\x7f", size - 127
    while rest >= 128:
        prefix += bytes((rest % 128 + 128,))
        rest //= 128
    return prefix + bytes((rest,)) + text
