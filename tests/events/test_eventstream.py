"""The scanner of Amazon event streams. (tests/property holds it to a naive reading of the frames.)"""

from __future__ import annotations

import random
import struct
import tracemalloc
from itertools import repeat
from zlib import crc32

import pytest

from flowserver.events.eventstream import EventStreamScanner, read_headers
from tests.support.corpus import Recording, each_recording
from tests.support.scanning import by_bytes, frame, frame_of, header, pieces, scan, unfinished

LARGE = 1 << 20
DELTA = {b":event-type": b"contentBlockDelta", b":content-type": b"application/json", b":message-type": b"event"}


def prelude(total: int, headers: int) -> bytes:
    lengths = struct.pack(">II", total, headers)
    return lengths + struct.pack(">I", crc32(lengths))


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        (DELTA, b"contentBlockDelta"),
        ({b":event-type": b"chunk"}, b"chunk"),
        ({b":message-type": b"event"}, b""),
        ({}, b""),
        ({b":message-type": b"exception", b":exception-type": b"throttlingException"}, b"!throttlingException"),
        ({b":message-type": b"error", b":error-code": b"Overloaded", b":error-message": b"x"}, b"!Overloaded"),
        ({b":message-type": b"error"}, b"!"),
    ],
)
def test_a_frames_name_is_in_its_headers(headers: dict[bytes, bytes], name: bytes) -> None:
    wire = frame(headers, b'{"p":"abc"}')
    expected = [(name, b'{"p":"abc"}', len(wire))]
    for stream in ([wire], by_bytes(wire)):
        scanner = EventStreamScanner(LARGE)
        assert scan(scanner, stream) == expected
        assert scanner.at_boundary


def test_the_name_follows_the_headers_of_each_frame() -> None:
    names = [b"one", b"one", b"two", b"x" * 2000, b"one", b"x" * 2000]
    scanner = EventStreamScanner(LARGE)
    assert [event[0] for event in scanner.feed(b"".join(frame({b":event-type": name}) for name in names))] == names


def test_headers_of_every_type_are_passed_over() -> None:
    sizes = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 6: 5, 8: 8, 9: 16}
    before = b"".join(header(b"h%d" % kind, b"v" * size, kind) for kind, size in sizes.items())
    assert read_headers(before + header(b":event-type", b"chunk")) == {b":event-type": b"chunk"}


@pytest.mark.parametrize(
    "rest",
    [
        header(b"odd", b"", 10),
        header(b":x", b"cut short")[:-1],
        header(b":x", b"")[:-1],
        b"\x05abc",
        b"\x03abc",
        b"\x01",
        b"\xff",
    ],
)
def test_headers_that_make_no_sense_end_there(rest: bytes) -> None:
    assert read_headers(header(b":event-type", b"chunk") + rest) == {b":event-type": b"chunk"}
    scanner = EventStreamScanner(LARGE)
    odd, good = frame_of(rest, b"{}"), frame(DELTA)
    assert scanner.feed(odd + good) == [(b"", b"{}", len(odd)), (b"contentBlockDelta", b"", len(odd + good))]


def test_ends_are_offsets_in_the_bytes_of_this_feed() -> None:
    one, two = frame(DELTA, b"one"), frame(DELTA, b"two!")
    scanner = EventStreamScanner(LARGE)
    assert [event[1:] for event in scanner.feed(one + two[:50])] == [(b"one", len(one))]
    assert not scanner.at_boundary
    assert [event[1:] for event in scanner.feed(two[50:] + one)] == [
        (b"two!", len(two) - 50),
        (b"one", len(two) - 50 + len(one)),
    ]
    assert scanner.at_boundary


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 500 Oops",
        prelude(15, 0),
        prelude(0, 0),
        prelude(100, 85),
        prelude(100, 0xFFFFFFFF),
        prelude(100, 20)[:-1] + b"?",
        b"\x00" * 12,
    ],
)
def test_nonsense_breaks_the_scanner_for_good(nonsense: bytes) -> None:
    good = frame(DELTA, b"{}")
    for fed in ([good + nonsense + good], by_bytes(good + nonsense + good)):
        scanner = EventStreamScanner(LARGE)
        assert scan(scanner, fed) == [(b"contentBlockDelta", b"{}", len(good))]
        assert scanner.broken
        assert not scanner.at_boundary
        assert scanner.feed(good) == []
        assert not scanner.at_boundary


def test_nothing_is_held_of_large_headers() -> None:
    wire = frame({b":event-type": b"x" * 60_000})
    tracemalloc.start()
    try:
        scanner = EventStreamScanner(LARGE)
        assert len(scanner.feed(wire)) == 1
        assert tracemalloc.get_traced_memory()[0] < 2_000
    finally:
        tracemalloc.stop()


def test_a_broken_scanner_holds_nothing() -> None:
    tracemalloc.start()
    try:
        scanner = EventStreamScanner(LARGE)
        scanner.feed(frame(DELTA, b"x" * 100_000) + prelude(0, 0))
        for _ in range(100):
            scanner.feed(b"x" * 10_000)
        assert tracemalloc.get_traced_memory()[0] < 2_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("split", [1, 7, 50, 1000])
def test_a_frame_beyond_the_bound_is_passed_over(split: int) -> None:
    within, beyond = frame(DELTA, b"x" * 50), frame(DELTA, b"x" * 51)
    scanner = EventStreamScanner(len(within))
    stream = within + beyond + beyond + within
    assert [event[1:] for event in scan(scanner, pieces(stream, repeat(split)))] == [
        (b"x" * 50, len(within)),
        (b"x" * 50, len(stream)),
    ]
    assert scanner.oversized == 2
    assert scanner.at_boundary


def test_a_large_frame_is_not_held() -> None:
    scanner = EventStreamScanner(10_000)
    tracemalloc.start()
    try:
        scanner.feed(prelude(100_000_000, 0))
        for _ in range(9_999):
            assert scanner.feed(bytes(10_000)) == []
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000
    assert most < 30_000
    assert unfinished(scanner)
    wire = frame(DELTA, b"{}")
    rest = bytes(100_000_000 - 12 - 9_999 * 10_000)
    assert scanner.feed(rest + wire) == [(b"contentBlockDelta", b"{}", len(rest + wire))]
    assert scanner.at_boundary
    assert scanner.oversized == 1


@pytest.mark.parametrize("split", [1, 50, 1_000, 1 << 20])
def test_a_large_frame_is_reduced(split: int) -> None:
    payload = b'{"usage": {"outputTokens": 7}, "p": "%b"}' % (b"some text " * 300)
    small, large = frame(DELTA, b"{}"), frame(DELTA | {b":event-type": b"metadata"}, payload)
    stream = small + large + large + small
    scanner = EventStreamScanner(1_000)
    events = scan(scanner, pieces(stream, repeat(split)))
    reduced = (b"metadata", b'{"usage":{"outputTokens": 7}}')
    assert [event[:2] for event in events] == [
        (b"contentBlockDelta", b"{}"),
        reduced,
        reduced,
        (b"contentBlockDelta", b"{}"),
    ]
    assert [event[2] for event in events][1:3] == [len(small + large), len(small + large + large)]
    assert (scanner.oversized, scanner.unread_text, scanner.at_boundary) == (0, 6_000, True)


def test_a_frame_whose_headers_are_too_large_is_not_read() -> None:
    scanner = EventStreamScanner(1_000)
    assert scanner.feed(frame({b":event-type": b"x" * 20_000}, b"{}")) == []
    assert scanner.oversized == 1
    assert scanner.at_boundary


def test_many_frames_beyond_the_bound_in_one_piece() -> None:
    scanner = EventStreamScanner(4)
    assert len(scanner.feed(frame({}, b"{}") * 3_000)) == 3_000


def test_nothing_fed_is_nothing() -> None:
    scanner = EventStreamScanner(LARGE)
    assert scanner.feed(b"") == []
    assert scanner.at_boundary
    scanner.feed(frame(DELTA)[:30])
    assert scanner.feed(b"") == []
    assert unfinished(scanner)


@each_recording("bedrock")
def test_recorded_streams_have_the_events_that_were_counted(recording: Recording) -> None:
    chance = random.Random(recording.name)
    for most in (60, 5_000, len(recording.body)):
        scanner = EventStreamScanner(LARGE)
        sizes = (chance.randint(1, most) for _ in recording.body)
        events = scan(scanner, pieces(recording.body, sizes))
        assert len(events) == recording.about["events"]
        assert all(name for name, _, _ in events)
        assert scanner.at_boundary
        assert (scanner.broken, scanner.oversized) == (False, 0)
