"""The messages of OTLP traces (opentelemetry-proto 1.x) in the wire format of Protocol Buffers, encoded by hand: there
are few of them, and a library would cost more than the rest of the relay.

Each function returns a field with its tag and length, so a message is the concatenation of its fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct

_FIXED64 = Struct("<Q").pack
_FIXED32 = Struct("<I").pack
_DOUBLE = Struct("<d").pack

_BYTE = [bytes((number,)) for number in range(128)]
_TEXT = [b"\x12%c\x0a%c" % (size + 2, size) for size in range(126)]
_INTEGER = [b"\x12%c\x18" % (size + 1) for size in range(11)]
"""Prefix of an integer attribute's value, by its size."""

_64_BITS = (1 << 64) - 1

SPAN_ATTRIBUTE = 0x4A
EVENT_ATTRIBUTE = 0x1A
RESOURCE_ATTRIBUTE = 0x0A
"""Tags of attributes, by their owner."""

SERVER = b"\x30\x02"
"""The kind of a span that serves a request."""


def varint(number: int) -> bytes:
    if number < 128:
        return _BYTE[number]
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


def field(tag: int, content: bytes) -> bytes:
    """A field of bytes, text or a message, with a one-byte tag."""
    return _BYTE[tag] + varint(len(content)) + content


@lru_cache(maxsize=256)
def _key(name: str) -> bytes:
    return field(0x0A, name.encode())


def text(tag: int, name: str, value: str) -> bytes:
    """A text attribute. Characters that UTF-8 can't encode are replaced."""
    key, data = _key(name), value.encode("utf-8", "replace")
    size = len(data)
    total = len(key) + size + 4
    if total < 128:
        return _BYTE[tag] + _BYTE[total] + key + _TEXT[size] + data
    return field(tag, key + field(0x12, field(0x0A, data)))


def integer(tag: int, name: str, value: int) -> bytes:
    """An integer attribute; `value` is cut to 64 bits."""
    data = varint(value & _64_BITS)
    return field(tag, _key(name) + _INTEGER[len(data)] + data)


def real(tag: int, name: str, value: float) -> bytes:
    return field(tag, _key(name) + b"\x12\x09\x21" + _DOUBLE(value))


def true(tag: int, name: str) -> bytes:
    return field(tag, _key(name) + b"\x12\x02\x10\x01")


def texts(tag: int, name: str, values: Iterable[str]) -> bytes:
    listed = b"".join(field(0x0A, field(0x0A, value.encode("utf-8", "replace"))) for value in values)
    return field(tag, _key(name) + field(0x12, field(0x2A, listed)))


def event(nanoseconds: int, name: str, attributes: bytes) -> bytes:
    """An event of a span; `attributes` have the tag EVENT_ATTRIBUTE."""
    return field(0x5A, b"\x09" + _FIXED64(nanoseconds) + _event_name(name) + attributes)


@lru_cache(maxsize=16)
def _event_name(name: str) -> bytes:
    return field(0x12, name.encode())


def left_out_events(number: int) -> bytes:
    """The number of dropped events of a span."""
    return b"\x60" + varint(number)


def failed(message: str) -> bytes:
    """The status of a span whose operation failed."""
    return field(0x7A, field(0x12, message.encode("utf-8", "replace")) + b"\x18\x02")


def ids(trace_id: bytes, span_id: bytes, parent_id: bytes | None, state: bytes) -> bytes:
    """The ids of a span. `state`: its tracestate."""
    parent = b"" if parent_id is None else b"\x22\x08" + parent_id
    return b"\x0a\x10%b\x12\x08%b%b%b" % (trace_id, span_id, field(0x1A, state) if state else b"", parent)


def times(start: int, end: int) -> bytes:
    """The times of a span, in nanoseconds since the epoch."""
    return b"\x39%b\x41%b" % (_FIXED64(start), _FIXED64(end))


def name(value: str) -> bytes:
    """Of a span."""
    return field(0x2A, value.encode("utf-8", "replace"))


def flags(trace_flags: int, *, has_parent: bool) -> bytes:
    """The flags of a span, whose parent, if any, belongs to another process."""
    return b"\x85\x01" + _FIXED32(trace_flags | (0x300 if has_parent else 0x100))


def span(fields: Iterable[bytes]) -> bytes:
    """A span as a field of its scope, as `export_request` takes it."""
    return field(0x12, b"".join(fields))


def scope(name: str, version: str) -> bytes:
    """The instrumentation scope, as a field of ScopeSpans."""
    return field(0x0A, field(0x0A, name.encode()) + field(0x12, version.encode()))


def resource(attributes: Iterable[tuple[str, str]]) -> bytes:
    """The resource, as a field of ResourceSpans."""
    return field(0x0A, b"".join(text(RESOURCE_ATTRIBUTE, key, value) for key, value in attributes))


def export_request(resource: bytes, scope: bytes, spans: Sequence[bytes]) -> bytes:
    """An ExportTraceServiceRequest."""
    return field(0x0A, resource + field(0x12, b"".join((scope, *spans))))


def rejected(reply: bytes) -> int:
    """How many spans a collector rejected, by its ExportTraceServiceResponse; 0 if it can't be read."""
    try:
        return _find_number(_find_message(reply, 0x0A), 0x08)
    except IndexError:
        return 0


def _find_message(data: bytes, wanted: int) -> bytes:
    place = 0
    while place < len(data):
        tag = data[place]
        size, place = _read_varint(data, place + 1)
        if tag & 7 == 2:
            if tag == wanted:
                return data[place : place + size]
            place += size
        elif tag & 7 != 0:
            break
    return b""


def _find_number(data: bytes, wanted: int) -> int:
    place = 0
    while place < len(data):
        tag = data[place]
        number, place = _read_varint(data, place + 1)
        if tag == wanted:
            return number
        if tag & 7 == 2:
            place += number
        elif tag & 7 != 0:
            break
    return 0


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Returns the number at `place` and where it ends. Raises IndexError."""
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return number, place
        shift += 7
