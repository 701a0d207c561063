"""Chunked framing: what is taken, what is refused. (tests/property holds both ways to h11.)"""

from __future__ import annotations

import pytest

from flowserver.http.h1_chunked import MAX_SIZE_LINE, ChunkDecoder, FramingError, encode_chunk


@pytest.mark.parametrize(("size", "line"), [(1, b"1"), (10, b"a"), (16, b"10"), (70_000, b"11170")])
def test_a_chunk_is_its_size_in_hex_and_its_bytes(size: int, line: bytes) -> None:
    data = b"x" * size
    assert encode_chunk(data) == line + b"\r\n" + data + b"\r\n"


def test_one_read_that_is_one_chunk() -> None:
    assert ChunkDecoder().feed(b"5\r\nhello\r\n") == b"hello"


def test_several_chunks_in_one_read_are_joined() -> None:
    assert ChunkDecoder().feed(b"5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n") == b"hello, world"


@pytest.mark.parametrize(
    "wire",
    [
        b"5\r\nhello\r\n",
        b"05\r\nhello\r\n",
        b"5;name=value\r\nhello\r\n",
        b"5  ;name\r\nhello\r\n",
        b"5 \t\r\nhello\r\n",
        b"5\r\n\r\n0\r\n\r\n",  # its bytes look like an end
        b"A\r\n0123456789\r\n",
        b"a\r\n0123456789\r\n",
    ],
)
def test_a_chunk_byte_by_byte_is_the_chunk_at_once(wire: bytes) -> None:
    at_once, by_bytes = ChunkDecoder(), ChunkDecoder()
    whole = at_once.feed(wire)
    assert b"".join(by_bytes.feed(wire[i : i + 1]) for i in range(len(wire))) == whole
    assert whole
    assert not at_once.ended
    assert not by_bytes.ended


def test_the_last_chunk_and_all_behind_it_is_left_to_h11() -> None:
    decoder = ChunkDecoder()
    assert decoder.feed(b"2\r\nhi\r\n0;x\r\nTrailer: y\r\n\r\nHTTP/1.1 ") == b"hi"
    assert decoder.ended
    assert decoder.rest == b"0;x\r\nTrailer: y\r\n\r\nHTTP/1.1 "


def test_a_split_last_chunk_is_left_whole() -> None:
    decoder = ChunkDecoder()
    assert decoder.feed(b"2\r\nhi\r\n0") == b"hi"
    assert decoder.rest == b""
    assert decoder.feed(b"0\r") == b""
    assert decoder.feed(b"\n\r") == b""
    assert decoder.ended
    assert decoder.rest == b"00\r\n\r"


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\nhello\r\n",
        b"g\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\rhello\r\n\n",
        b"5;\x00\r\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;" + b"x" * MAX_SIZE_LINE + b"\r\nhello\r\n",
        b"5" * (MAX_SIZE_LINE + 1),
        b"10000000000000000\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhello\n",
        b"5\r\nhello\rX",
        b"5\r\nhell\r\n\r\n",
    ],
)
def test_malformed_framing_is_refused_however_it_is_split(wire: bytes) -> None:
    with pytest.raises(FramingError):
        ChunkDecoder().feed(wire)
    decoder = ChunkDecoder()
    with pytest.raises(FramingError):
        b"".join(decoder.feed(wire[i : i + 1]) for i in range(len(wire)))


@pytest.mark.parametrize("wire", [b"1\r", b"1\n", b"a", b"1\r\n", b"1\r\nx", b"1\r\nx\r"])
def test_a_chunk_that_is_not_all_there_is_no_error(wire: bytes) -> None:
    decoder = ChunkDecoder()
    if wire == b"1\n":
        with pytest.raises(FramingError):
            decoder.feed(wire)
    else:
        assert decoder.feed(wire) in (b"", b"x")
        assert not decoder.ended
