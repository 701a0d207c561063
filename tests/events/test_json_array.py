"""The scanner of arrays. (tests/property holds it to a parser.)"""

from __future__ import annotations

import tracemalloc

import pytest

from flowserver.events.json_array import JsonArrayScanner
from tests.support.memory import counts_allocations
from tests.support.scanning import by_bytes, scan

LARGE = 1 << 20


def test_ends_are_offsets_in_the_bytes_of_this_feed() -> None:
    scanner = JsonArrayScanner(LARGE)
    assert scanner.feed(b'[{"a": "]"},\n{"b') == [(b"", b'{"a": "]"}', 11)]
    assert not scanner.at_boundary
    assert scanner.feed(b'": 1}\n,\n{}') == [(b"", b'{"b": 1}', 5), (b"", b"{}", 10)]
    assert scanner.at_boundary


def test_a_boundary_is_behind_an_element_and_its_blanks() -> None:
    scanner = JsonArrayScanner(LARGE)
    at = [scanner.at_boundary]
    for byte in by_bytes(b"[{} \n, [] ] \n"):
        scanner.feed(byte)
        at.append(scanner.at_boundary)
    assert "".join("+" if each else "-" for each in at) == "+--+++---++---"
    assert not scanner.broken


@pytest.mark.parametrize(
    "stream",
    [
        b'{"a": 1}',
        b"data: {}\n\n",
        b"x",
        b"[{} {}]",
        b"[,{}]",
        b"[{},]",
        b"[{}]]",
        b"[{}]{}",
        b"[nul]",
        b"[1.]",
        b"[}]",
    ],
)
def test_what_is_no_array_breaks_the_scanner_for_good(stream: bytes) -> None:
    for fed in ([stream, b" "], by_bytes(stream + b" ")):
        scanner = JsonArrayScanner(LARGE)
        scan(scanner, fed)
        assert scanner.broken
        assert not scanner.at_boundary
        assert scanner.feed(b"[{}") == []


def test_scalars_pass_without_an_event() -> None:
    for fed in ([b'\xef\xbb\xbf[1, null ,"x",{}]'], by_bytes(b'\xef\xbb\xbf[1, null ,"x",{}]')):
        scanner = JsonArrayScanner(LARGE)
        assert [event[1] for event in scan(scanner, fed)] == [b'"x"', b"{}"]
        assert not scanner.broken


@counts_allocations
def test_an_endless_element_takes_no_memory_and_is_read() -> None:
    scanner = JsonArrayScanner(10_000)
    scanner.feed(b'[{"candidates": [{"text": "')
    tracemalloc.start()
    try:
        for _ in range(2_000):
            assert scanner.feed(b"some text " * 400) == []
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3_000
    assert most < 100_000
    assert scanner.unread_text > 7_900_000
    event = scanner.feed(b'"}], "usageMetadata": {"promptTokenCount": 1}}')
    assert event == [(b"", b'{"usageMetadata":{"promptTokenCount": 1}}', 46)]
    assert (scanner.oversized, scanner.attachments, scanner.unread_text) == (0, 0, 8_000_000)
    assert scanner.at_boundary
