"""Scanners of server-sent events and of JSON lines. (tests/property holds them to a naive reading of the rules.)"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from itertools import repeat

import pytest

from flowserver.events.eventstream import EventStreamScanner
from flowserver.events.ndjson import NdjsonScanner
from flowserver.events.scanner import Scanner
from flowserver.events.sse import SseScanner
from tests.support.corpus import Recording, each_recording
from tests.support.memory import counts_allocations
from tests.support.scanning import by_bytes, frame, pieces, scan, unfinished

LARGE = 1 << 20
SCANNERS = pytest.mark.parametrize("make", [SseScanner, NdjsonScanner])
Make = Callable[[int], Scanner]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'data: {"a":1}\n\n', [(b"", b'{"a":1}')]),
        (b"data: one\r\n\r\n", [(b"", b"one")]),
        (b"data: one\r\r", [(b"", b"one")]),
        (b"data: one\n\ndata: two\n\n", [(b"", b"one"), (b"", b"two")]),
        (b"event: ping\ndata: {}\n\n", [(b"ping", b"{}")]),
        (b"event: ping\r\ndata: {}\r\n\r\n", [(b"ping", b"{}")]),
        (b"data: {}\nevent: late\n\n", [(b"late", b"{}")]),
        (b"event: first\nevent: last\ndata\n\n", [(b"last", b"")]),
        (b"event: first\nevent\ndata: x\n\n", [(b"", b"x")]),
        (b"event: lost\n\ndata: x\n\n", [(b"", b"x")]),
        (b"data: a\ndata: b\n\n", [(b"", b"a\nb")]),
        (b"data: a\rdata\r\ndata:b\n\n", [(b"", b"a\n\nb")]),
        (b"data:x\n\ndata:  x\n\ndata:\tx\n\n", [(b"", b"x"), (b"", b" x"), (b"", b"\tx")]),
        (b"data: a:b: c\n\n", [(b"", b"a:b: c")]),
        (b"data: a\rb: c\n\n", [(b"", b"a")]),
        (b"data: a\rb: c\r\n\r\n", [(b"", b"a")]),
        (b"event: a\rdata: b\ndata: c\n\n", [(b"a", b"b\nc")]),
        (b": hello\n\ndata: x\n\n", [(b"", b"x")]),
        (b": hello\ndata: x\n:\n\n", [(b"", b"x")]),
        (b"id: 7\nretry: 10\ndata: x\nDATA: y\n data: z\ndatax: z\n\n", [(b"", b"x")]),
        (b"\xef\xbb\xbfdata: x\n\n", [(b"", b"x")]),
        (b"\xef\xbb\xbf\ndata: x\n\n", [(b"", b"x")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\ndata: y\n\n", [(b"", b"y")]),
        (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [(b"", b"x")]),
        (b"\xef\xbbdata: x\n\ndata: y\n\n", [(b"", b"y")]),
        (b"\n\n\r\n\r\rdata: x\n\n\n\n\ndata: y\r\n\r\n\r\n", [(b"", b"x"), (b"", b"y")]),
        (b"data: \xff\x00\x0b\x0c\x85\xe2\x80\xa8\n\n", [(b"", b"\xff\x00\x0b\x0c\x85\xe2\x80\xa8")]),
        (b"data: [DONE]\n", []),
        (b"data: [DONE]", []),
    ],
)
def test_events_are_the_standards_however_they_are_split(stream: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    at_once, by_one = SseScanner(LARGE), SseScanner(LARGE)
    assert [event[:2] for event in scan(at_once, [stream])] == expected
    assert [event[:2] for event in scan(by_one, by_bytes(stream))] == expected
    assert at_once.at_boundary is by_one.at_boundary is not stream.startswith(b"data: [DONE]")


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: x\n\n", (b"", b"x")),
        (b"data: x\r\n\r\n", (b"", b"x")),
        (b"data: a\rb\r\n\r\n", (b"", b"a")),
        (b"data: a\rdata: b\n\n", (b"", b"a\nb")),
        (b"event: e\ndata: x\n\n", (b"e", b"x")),
        (b"event: a\revent: b\ndata: x\n\n", (b"b", b"x")),
        (b"event: e\ndata: a\rb\n\n", (b"e", b"a")),
        (b"event: e\ndata: a\ndata: b\n\n", (b"e", b"a\nb")),
    ],
)
def test_one_event_in_one_piece(stream: bytes, expected: tuple[bytes, bytes]) -> None:
    scanner = SseScanner(LARGE)
    for _ in range(3):
        assert scanner.feed(stream) == [(*expected, len(stream))]
        assert scanner.at_boundary


@pytest.mark.parametrize(
    "stream", [b"data: x\n\n", b"data: x\r\n\r\n", b"data: x\r\r", b"event: e\ndata: x\n\n", b":\n\n"]
)
def test_a_boundary_is_behind_the_blank_line_only(stream: bytes) -> None:
    scanner = SseScanner(LARGE)
    for _ in range(2):
        at = []
        for byte in by_bytes(stream):
            scanner.feed(byte)
            at.append(scanner.at_boundary)
        if stream.endswith(b"\r\n"):
            # A blank line may end with its carriage return; the line feed that follows changes nothing.
            assert at.pop()
        assert at == [False] * (len(at) - 1) + [True]


def test_ends_are_offsets_in_the_bytes_of_this_feed() -> None:
    scanner = SseScanner(LARGE)
    assert scanner.feed(b"data: one\n\n: c\n\ndata: two\n\ndata: thr") == [(b"", b"one", 11), (b"", b"two", 27)]
    assert not scanner.at_boundary
    assert scanner.feed(b"ee\n") == []
    assert scanner.feed(b"\ndata: four\n\n") == [(b"", b"three", 1), (b"", b"four", 13)]
    assert scanner.at_boundary


def test_ends_behind_a_byte_order_mark_count_its_bytes() -> None:
    assert SseScanner(LARGE).feed(b"\xef\xbb\xbfdata: x\n\n") == [(b"", b"x", 12)]
    scanner = SseScanner(LARGE)
    assert scanner.feed(b"\xef") == []
    assert not scanner.at_boundary
    assert scanner.feed(b"\xbb\xbfdata: x\n\n") == [(b"", b"x", 11)]


def test_the_line_feed_of_a_split_crlf_is_no_blank_line() -> None:
    scanner = SseScanner(LARGE)
    assert scanner.feed(b"data: one\r") == []
    assert scanner.feed(b"\ndata: two\r\n\r") == [(b"", b"one\ntwo", 13)]
    assert scanner.at_boundary
    assert scanner.feed(b"\n") == []
    assert scanner.at_boundary
    assert scanner.feed(b"data: three\r\n\r") == [(b"", b"three", 14)]
    assert scanner.feed(b"\ndata: four\n\n") == [(b"", b"four", 13)]


@pytest.mark.parametrize(
    ("lines", "blank"),
    [
        (b"data: %b\n", b"\n"),
        (b"data: %b\r\n", b"\r\n"),
        (b"data: %b\r", b"\r"),
        (b"event: e\ndata: %b\n", b"\n"),
        (b": c\r\ndata: %b\n", b"\n"),
    ],
)
@pytest.mark.parametrize("split", [1, 7, 1000])
def test_the_bound_counts_all_but_the_blank_line(lines: bytes, blank: bytes, split: int) -> None:
    within, beyond = lines % (b"x" * 50), lines % (b"x" * 51)
    scanner = SseScanner(len(within))
    stream = within + blank * 2 + beyond + blank * 2 + within + blank
    assert [payload for _, payload, _ in scan(scanner, pieces(stream, repeat(split)))] == [b"x" * 50] * 2
    assert scanner.oversized == 1
    assert scanner.at_boundary


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'{"a":1}\n', [(b"", b'{"a":1}', 8)]),
        (b'{"a":1}\r\n', [(b"", b'{"a":1}', 9)]),
        (b"1\n2\r\n3\n", [(b"", b"1", 2), (b"", b"2", 5), (b"", b"3", 7)]),
        (b"\n\r\n1\n\n", [(b"", b"1", 5)]),
        (b"1\r2\r\r\n", [(b"", b"1\r2\r", 6)]),
        (b"\n", []),
        (b"\r\n", []),
        (b"data: x", []),
    ],
)
def test_json_lines(stream: bytes, expected: list[tuple[bytes, bytes, int]]) -> None:
    at_once, by_one = NdjsonScanner(LARGE), NdjsonScanner(LARGE)
    assert at_once.feed(stream) == scan(by_one, by_bytes(stream)) == expected
    assert at_once.at_boundary is by_one.at_boundary is stream.endswith(b"\n")


def test_json_lines_beyond_the_bound() -> None:
    for split in (1, 4, 100):
        scanner = NdjsonScanner(5)
        assert scan(scanner, pieces(b"12345\nnumber\n[1,2,3,4]]\r\n1\n", repeat(split))) == [
            (b"", b"12345", 6),
            (b"", b"1", 27),
        ]
        assert scanner.oversized == 2
        assert scanner.at_boundary


@counts_allocations
@SCANNERS
def test_an_endless_event_takes_no_memory_and_its_end_is_a_boundary(make: Make) -> None:
    bound, piece = 10_000, b"data: " + b"x" * 4_000
    scanner = make(bound)
    tracemalloc.start()
    try:
        for _ in range(2_000):
            assert scanner.feed(piece) == []
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000
    assert most < 5 * (bound + len(piece))
    assert unfinished(scanner)
    assert scanner.oversized == 1
    assert [end for _, _, end in scanner.feed(b"\n\ndata: x\n")] == ([] if make is SseScanner else [10])
    assert [end for _, _, end in scanner.feed(b"\n")] == ([1] if make is SseScanner else [])
    assert scanner.at_boundary
    assert scanner.oversized == 1


LARGE_EVENT = b'{"type": "done", "text": "%b", "response": {"usage": {"a": 1}}}' % (b"some text " * 20_000)
REDUCED_EVENT = b'{"type":"done","response":{"usage":{"a": 1}}}'


@pytest.mark.parametrize(
    "stream",
    [
        b"event: e\ndata: %b\n\n",
        b"data: %b\nevent: e\n\n",
        b"id: 1\r\nevent: lost\r\ndata:\r\ndata:%b\r\nevent:e\r\n\r\n",
        b": %b\revent: e\rdata: {}\r\r".replace(b"{}", b"%b").replace(b"%b", b"comment " * 2_000, 1),
    ],
)
@pytest.mark.parametrize("split", [1_000, 4_097, 1 << 20])
def test_a_large_event_is_reduced(stream: bytes, split: int) -> None:
    stream %= LARGE_EVENT
    scanner = SseScanner(10_000)
    rest = b"data: x\n\n"
    events = scan(scanner, pieces(stream + rest, repeat(split)))
    assert events == [(b"e", REDUCED_EVENT, len(stream)), (b"", b"x", len(stream + rest))]
    assert (scanner.oversized, scanner.unread_text, scanner.attachments) == (0, 200_000, 0)
    assert scanner.at_boundary


def test_a_large_events_lines_are_joined() -> None:
    lines = LARGE_EVENT.replace(b", ", b",\ndata: ").replace(b"text s", b"text\\u0020s")
    for split in (1, 1_000, 1 << 20):
        scanner = SseScanner(10_000)
        events = scan(scanner, pieces(b"data: %b\n\n" % lines, repeat(split)))
        assert [event[1] for event in events] == [REDUCED_EVENT]


def test_a_large_line_is_reduced() -> None:
    for split in (1_000, 1 << 20):
        scanner = NdjsonScanner(10_000)
        events = scan(scanner, pieces(LARGE_EVENT + b"\r\n{}\n", repeat(split)))
        assert events == [(b"", REDUCED_EVENT, len(LARGE_EVENT) + 2), (b"", b"{}", len(LARGE_EVENT) + 5)]
        assert (scanner.oversized, scanner.unread_text) == (0, 200_000)


@SCANNERS
def test_a_large_event_that_breaks_off_is_oversized(make: Make) -> None:
    scanner = make(1_000)
    start = b"data: " if make is SseScanner else b""
    assert scanner.feed(start + LARGE_EVENT[:-1] + b"\n\n") == []
    assert scanner.oversized == 1
    assert scanner.at_boundary


@SCANNERS
@pytest.mark.parametrize("split", [1, 700, 1 << 20])
def test_a_large_event_that_is_no_json_is_unread_text_as_a_whole(make: Make, split: int) -> None:
    scanner = make(1_000)
    head = b"data: " if make is SseScanner else b""
    for payload in (b"word " * 1_000, b'{"a": ' + b"word " * 1_000, b'{"a": 1}' + b" word" * 1_000):
        before = scanner.unread_text
        scan(scanner, pieces(head + payload + b"\n\n", repeat(split)))
        assert scanner.unread_text - before == len(payload)
    assert scanner.oversized == 3


@SCANNERS
def test_of_a_large_event_of_json_that_breaks_off_only_text_is_unread(make: Make) -> None:
    scanner = make(1_000)
    head = b"data: " if make is SseScanner else b""
    scanner.feed(head + b'{"a": "' + b"word " * 500 + b'", "b": "' + b"x" * 5_000 + b"\n\n")
    assert (scanner.oversized, scanner.unread_text, scanner.attachments) == (1, 2_500, 1)


@SCANNERS
def test_an_endless_event_of_json_takes_no_memory(make: Make) -> None:
    scanner = make(10_000)
    scanner.feed((b"data: " if make is SseScanner else b"") + b'{"id": "x", "output": [{"data": "')
    tracemalloc.start()
    try:
        for _ in range(2_000):
            assert scanner.feed(b"x" * 4_000) == []
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3_000
    assert most < 100_000
    assert unfinished(scanner)
    assert [event[1] for event in scanner.feed(b'"}]}\n\n')] == [b'{"id":"x"}']
    assert (scanner.oversized, scanner.attachments) == (0, 1)


def test_endless_comments_take_no_memory() -> None:
    scanner = SseScanner(10_000)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            assert scanner.feed(b": still here\n") == []
        assert tracemalloc.get_traced_memory()[0] < 1_000
    finally:
        tracemalloc.stop()
    assert not scanner.at_boundary
    assert scanner.feed(b"\ndata: x\n\n") == [(b"", b"x", 10)]


@pytest.mark.parametrize(
    ("make", "start"),
    [
        (SseScanner, b"data: " + b"x" * 500_000),
        (SseScanner, b"data: x\n" * 60_000),
        (NdjsonScanner, b"x" * 500_000),
        (EventStreamScanner, frame({}, b"x" * 600_000)[:500_000]),
    ],
)
def test_a_byte_more_of_a_large_event_does_not_move_the_others(make: Make, start: bytes) -> None:
    """Else large events in small pieces would take time that grows with the square of their size."""
    scanner = make(LARGE)
    scanner.feed(start)
    moved = 0
    tracemalloc.start()
    try:
        for _ in range(1_000):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            assert scanner.feed(b"x") == []
            moved += tracemalloc.get_traced_memory()[1] - before > 10_000
    finally:
        tracemalloc.stop()
    assert moved <= 1  # the buffer itself may have to grow
    assert unfinished(scanner)


@SCANNERS
def test_what_is_held_is_let_go_with_its_event(make: Make) -> None:
    scanner = make(LARGE)
    tracemalloc.start()
    try:
        scanner.feed(b"data: " + b"x" * 500_000)
        assert tracemalloc.get_traced_memory()[0] > 400_000
        scanner.feed(b"\n\n")
        assert tracemalloc.get_traced_memory()[0] < 1_000
    finally:
        tracemalloc.stop()


@SCANNERS
def test_nothing_fed_is_nothing(make: Make) -> None:
    scanner = make(LARGE)
    assert scanner.feed(b"") == []
    assert scanner.at_boundary
    scanner.feed(b"data: x")
    assert scanner.feed(b"") == []
    assert unfinished(scanner)
    assert not scanner.broken


@each_recording()
def test_recorded_streams_have_the_events_that_were_counted(recording: Recording) -> None:
    makes: dict[str, Make] = {".sse": SseScanner, ".ndjson": NdjsonScanner}
    if recording.path.suffix not in makes:
        pytest.skip("another framing")
    chance = random.Random(recording.name)
    for most in (60, 5_000, len(recording.body)):
        scanner = makes[recording.path.suffix](LARGE)
        sizes = (chance.randint(1, most) for _ in recording.body)
        events = scan(scanner, pieces(recording.body, sizes))
        assert len(events) == recording.about["events"]
        assert scanner.at_boundary is not bool(recording.about["tail_bytes"])
        assert scanner.oversized == 0
