"""Scanners find what a naive reading of the whole stream finds, however the stream is cut into reads.

One freedom: a blank line of CR LF that two reads share ends an event with its carriage return, one byte early.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.events.eventstream import EventStreamScanner
from flowserver.events.ndjson import NdjsonScanner
from flowserver.events.scanner import Event, Scanner
from flowserver.events.sse import SseScanner
from flowserver.json_text.reducer import JsonReducer
from tests.support.scanning import by_bytes, frame, pieces, scan


@dataclass
class Reading:
    """What a stream came to."""

    events: list[Event] = field(default_factory=list)
    """Their ends are counted from the stream's start."""
    at_boundary: bool = True
    oversized: int = 0
    broken: bool = False

    def add_large(self, name: bytes, payload: bytes, end: int) -> None:
        """An event beyond the bound: reduced, where it is JSON."""
        reducer = JsonReducer()
        reducer.feed_all(payload)
        reduced = reducer.finish_whole()
        if reduced is None:
            self.oversized += 1
        else:
            self.events.append((name, reduced, end))


def line_at(stream: bytes, at: int) -> tuple[bytes, int] | None:
    """The line that begins at `at` and where the next one begins; None: it has not ended."""
    for i in range(at, len(stream)):
        if stream[i : i + 2] == b"\r\n":
            return stream[at:i], i + 2
        if stream[i : i + 1] in (b"\r", b"\n"):
            return stream[at:i], i + 1
    return None


def read_sse(stream: bytes, max_event: int) -> Reading:
    """The standard, section 9.2.6, step by step."""
    reading = Reading()
    at = 3 if stream.startswith(b"\xef\xbb\xbf") else 0
    begin, data, name = at, b"", b""
    while (found := line_at(stream, at)) is not None:
        line, after = found
        if line == b"":
            if at - begin > max_event and data != b"":
                reading.add_large(name, data[:-1], after)
            elif data != b"":
                reading.events.append((name, data[:-1], after))
            begin, data, name = after, b"", b""
        elif line[0:1] != b":":
            key, _, value = line.partition(b":")
            if value[0:1] == b" ":
                value = value[1:]
            if key == b"event":
                name = value
            elif key == b"data":
                data += value + b"\n"
        at = after
    reading.at_boundary = begin == len(stream)
    return reading


def read_ndjson(stream: bytes, max_event: int) -> Reading:
    reading = Reading()
    begin = 0
    for i, byte in enumerate(stream):
        if byte == 0x0A:
            line = stream[begin:i]
            begin = i + 1
            if len(line) > max_event:
                reading.add_large(b"", line, begin)
            elif line not in (b"", b"\r"):
                reading.events.append((b"", line[:-1] if line.endswith(b"\r") else line, begin))
    reading.at_boundary = begin == len(stream)
    return reading


def read_frames(stream: bytes, max_event: int) -> Reading:
    """Frames whose headers, if any, are one string: the event's type."""
    reading = Reading()
    begin = 0
    while len(stream) - begin >= 12:
        total, headers, crc = struct.unpack(">III", stream[begin : begin + 12])
        if crc != crc32(stream[begin : begin + 8]) or total < 16 + headers:
            reading.broken = True
            break
        if total > len(stream) - begin:
            break
        whole = stream[begin : begin + total]
        name = whole[12 : 12 + headers].removeprefix(b"\x0b:event-type\x07")[2:]
        if total > max_event:
            reading.add_large(name, whole[12 + headers : -4], begin + total)
        else:
            reading.events.append((name, whole[12 + headers : -4], begin + total))
        begin += total
    reading.at_boundary = begin == len(stream) and not reading.broken
    return reading


def nearly(found: list[Event], read: list[Event], stream: bytes, cuts: set[int]) -> bool:
    """Whether these are the same events, but for ends within a CR LF that was cut there."""

    def same(one: Event, other: Event) -> bool:
        end = one[2]
        return one[:2] == other[:2] and (
            end == other[2] or (end == other[2] - 1 and end in cuts and stream[end - 1 : end + 1] == b"\r\n")
        )

    return len(found) == len(read) and all(map(same, found, read))


def check(
    make: Callable[[int], Scanner], reader: Callable[[bytes, int], Reading], fed: list[bytes], bound: int
) -> None:
    """Holds a scanner to the reading of what it was fed, after each feed."""
    scanner = make(bound)
    stream = b""
    cuts: set[int] = set()
    found: list[Event] = []
    for data in fed:
        before = len(stream)
        stream += data
        cuts.add(len(stream))
        found += [(name, payload, before + end) for name, payload, end in scan(scanner, [data])]
        read = reader(stream, bound)
        assert nearly(found, read.events, stream, cuts)
        assert (scanner.at_boundary, scanner.broken) == (read.at_boundary, read.broken)
        # One that has not ended may be known for no JSON.
        assert scanner.oversized - read.oversized in ((0,) if read.at_boundary else (0, 1))


BOUNDS = st.one_of(st.integers(4, 40), st.just(10_000))
SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=12)
BOM = b"\xef\xbb\xbf"

LINE_ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])
VALUES = st.one_of(
    st.sampled_from(
        [b"", b" ", b"x", b" x", b"  x", b':{"a": "b"}', b'{"id":', b'"i", "b":[[', b"]]}", "å∂€😀".encode()]
    ),
    st.sampled_from([b'{"usage":{"a":1},"b":"text text"}', b'{"b":["usage"],"id":7}']),
    st.text(max_size=8).map(str.encode),
    st.binary(max_size=8),
)
FIELDS = st.builds(
    bytes.__add__,
    st.sampled_from(
        [b"data:", b"data: ", b"data", b"event: ", b"event:", b"id: ", b"retry:", b":", b": ", b"other: ", b""]
    ),
    VALUES,
)
LINES = st.builds(bytes.__add__, FIELDS, LINE_ENDS)
USUAL = st.builds(
    lambda shape, value: shape.replace(b"?", value),
    st.sampled_from([b"data: ?\n\n", b"event: e\ndata: ?\n\n", b"data: ?\r\n\r\n", b"event: ?\r\ndata: x\r\n\r\n"]),
    st.one_of(st.binary(max_size=6), st.just(b"x" * 20)),
)
SSE_PARTS = st.lists(st.one_of(LINES, LINE_ENDS, USUAL, st.just(BOM)), max_size=20)
SSE = st.builds(lambda bom, parts: bom + b"".join(parts), st.sampled_from([b"", BOM, BOM[:2], BOM + BOM]), SSE_PARTS)
ODD_BYTES = st.lists(st.sampled_from([b"\r", b"\n", b":", b" ", b"data", b"event", b"x", b"\0", b"\xff", BOM[:1]])).map(
    b"".join
)

JSON_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [b'{"id":"abc","c":[1]}\n', b'{"id":', b'"d"}', b"{}\n", b'{"a":1}\r\n', b"\n", b"\r", b"\r\n", b"x"]
        ),
        st.binary(max_size=12),
    )
).map(b"".join)

FRAMES = st.builds(
    lambda name, payload: frame({} if name is None else {b":event-type": name}, payload),
    st.one_of(st.none(), st.sampled_from([b"", b"chunk", b"metadata"])),
    st.one_of(st.binary(max_size=40), st.just(b'{"id": "abc", "content": ["some text"]}')),
)
FRAME_STREAMS = st.builds(
    lambda frames, rest: b"".join(frames) + rest,
    st.lists(FRAMES, max_size=8),
    st.one_of(st.binary(max_size=20), FRAMES.map(lambda whole: whole[:-1])),
)


@given(st.one_of(SSE, ODD_BYTES), SIZES, BOUNDS)
def test_server_sent_events_in_any_pieces(stream: bytes, sizes: list[int], bound: int) -> None:
    check(SseScanner, read_sse, pieces(stream, cycle(sizes)), bound)


@given(SSE_PARTS, BOUNDS)
def test_server_sent_events_in_pieces_of_their_own(parts: list[bytes], bound: int) -> None:
    """Lines and events one by one, as providers send them."""
    check(SseScanner, read_sse, parts, bound)


@given(st.one_of(SSE, ODD_BYTES), BOUNDS)
def test_server_sent_events_at_once_and_by_bytes(stream: bytes, bound: int) -> None:
    check(SseScanner, read_sse, [stream], bound)
    check(SseScanner, read_sse, by_bytes(stream), bound)


@given(JSON_LINES, SIZES, BOUNDS)
def test_json_lines_in_any_pieces(stream: bytes, sizes: list[int], bound: int) -> None:
    check(NdjsonScanner, read_ndjson, pieces(stream, cycle(sizes)), bound)
    check(NdjsonScanner, read_ndjson, [stream], bound)


@given(FRAME_STREAMS, SIZES, st.one_of(st.integers(4, 80), st.just(10_000)))
def test_frames_in_any_pieces(stream: bytes, sizes: list[int], bound: int) -> None:
    check(EventStreamScanner, read_frames, pieces(stream, cycle(sizes)), bound)
    check(EventStreamScanner, read_frames, [stream], bound)


@given(FRAMES, st.integers(0, 11), st.integers(1, 255))
def test_a_flipped_bit_in_a_prelude_is_seen(whole: bytes, place: int, bits: int) -> None:
    wrong = bytearray(whole)
    wrong[place] ^= bits
    scanner = EventStreamScanner(10_000)
    assert scanner.feed(bytes(wrong)) == []
    assert scanner.broken


@pytest.mark.parametrize(
    ("make", "streams"), [(SseScanner, SSE), (NdjsonScanner, JSON_LINES), (EventStreamScanner, FRAME_STREAMS)]
)
@given(data=st.data())
def test_the_pieces_between_ends_are_the_stream_and_each_is_its_event(
    make: Callable[[int], Scanner], streams: st.SearchStrategy[bytes], data: st.DataObject
) -> None:
    stream = data.draw(streams)
    events = scan(make(10_000), pieces(stream, cycle(data.draw(SIZES))))
    ends = [0, *(end for _, _, end in events)]
    between = pieces(stream, [end - begin for begin, end in pairwise(ends)])
    assert b"".join(between) == stream
    for (name, payload, _), piece in zip(events, between, strict=False):
        # A mark is one at a stream's start only.
        again = make(10_000)
        start = b"\n" if make is SseScanner and piece is not between[0] else b""
        assert [event[:2] for event in scan(again, [start + piece])] == [(name, payload)]
        assert again.at_boundary
