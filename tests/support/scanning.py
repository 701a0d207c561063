"""What the tests of scanners share: feeding in pieces, and frames of an Amazon event stream."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from itertools import repeat
from zlib import crc32

from flowserver.events.scanner import Event, Scanner


def pieces(stream: bytes, sizes: Iterable[int]) -> list[bytes]:
    """`stream` in pieces of these sizes; what is left is the last one."""
    cut: list[bytes] = []
    position = 0
    for size in sizes:
        if position >= len(stream):
            break
        cut.append(stream[position : position + size])
        position += size
    return [*cut, stream[position:]] if position < len(stream) else cut


def by_bytes(stream: bytes) -> list[bytes]:
    return pieces(stream, repeat(1))


def scan(scanner: Scanner, fed: Iterable[bytes]) -> list[Event]:
    """All events, their ends counted from the stream's start."""
    events: list[Event] = []
    before = 0
    for data in fed:
        last = 0
        for name, payload, end in scanner.feed(data):
            assert last < end <= len(data)
            last = end
            events.append((name, payload, before + end))
        before += len(data)
    return events


def unfinished(scanner: Scanner) -> bool:
    """Whether more of an event is to come."""
    return not (scanner.at_boundary or scanner.broken)


def header(name: bytes, value: bytes, kind: int = 7) -> bytes:
    """One header as a string, or as `kind` with its value in the form of the wire."""
    sized = struct.pack(">H", len(value)) if kind in (6, 7) else b""
    return bytes([len(name)]) + name + bytes([kind]) + sized + value


def frame_of(headers: bytes, payload: bytes = b"") -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def frame(headers: Mapping[bytes, bytes], payload: bytes = b"") -> bytes:
    """A frame whose headers are all strings."""
    return frame_of(b"".join(header(*each) for each in headers.items()), payload)
