"""The decoder of header blocks, held to hpack's: the same fields and the same table, or the same failure."""

from __future__ import annotations

from collections.abc import Callable

import hpack
from hpack.huffman_table import decode_huffman
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowserver.http.hpack_decoder import HpackDecoder, read_huffman

NAMES = st.one_of(
    st.sampled_from([b":path", b":method", b"content-type", b"authorization", b"cookie", b"x-request-id"]),
    st.binary(max_size=20),
    st.binary(min_size=100, max_size=300),
)
VALUES = st.one_of(
    st.sampled_from([b"POST", b"application/json", b""]),
    st.text("abc XYZ019-_./", max_size=40).map(str.encode),
    st.binary(max_size=40),
    st.binary(min_size=100, max_size=400),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=8)
TABLE_SIZES = st.lists(st.sampled_from([0, 1, 40, 100, 1000, 4096, 4097, 100_000]), max_size=2)
MUTATIONS = st.lists(st.tuples(st.sampled_from(["set", "cut", "insert"]), st.integers(0, 400), st.integers(0, 255)))


def _outcome(decoder: hpack.Decoder, block: bytes) -> object:
    try:
        fields = [tuple(field) for field in decoder.decode(block, raw=True)]
    except hpack.HPACKError as error:
        return type(error)
    table = decoder.header_table
    return fields, list(table.dynamic_entries), table.maxsize, repr(table)


def _agree(blocks: list[bytes], *, allowed: int = 4096, list_size: int = 65_536) -> None:
    """Up to the first failure, which ends a connection."""
    ours, theirs = HpackDecoder(list_size), hpack.Decoder(list_size)
    ours.max_allowed_table_size = theirs.max_allowed_table_size = allowed
    for block in blocks:
        expected = _outcome(theirs, block)
        assert _outcome(ours, block) == expected
        if isinstance(expected, type):
            return


def _changed(block: bytes, mutations: list[tuple[str, int, int]]) -> bytes:
    for what, place, byte in mutations:
        place = place % (len(block) + 1)
        rest = block[place:] if what == "insert" else block[place + 1 :]
        block = block[:place] + (b"" if what == "cut" else bytes((byte,))) + rest
    return block


@settings(max_examples=300, deadline=None)
@given(
    heads=st.lists(st.tuples(TABLE_SIZES, FIELDS, st.booleans(), MUTATIONS), min_size=1, max_size=5),
    allowed=st.sampled_from([0, 100, 4096, 65_536]),
    list_size=st.sampled_from([0, 100, 65_536]),
)
def test_written_blocks_are_read_as_hpack_reads_them(
    heads: list[tuple[list[int], list[tuple[bytes, bytes, bool]], bool, list[tuple[str, int, int]]]],
    allowed: int,
    list_size: int,
) -> None:
    encoder = hpack.Encoder()
    whole, changed = [], []
    for sizes, fields, huffman, mutations in heads:
        for size in sizes:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=huffman)
        whole.append(block)
        changed.append(_changed(block, mutations))
    _agree(whole, allowed=max(allowed, 100_000))
    _agree(whole, allowed=allowed, list_size=list_size)
    _agree(changed, allowed=allowed)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
@example([b"\x80"])
@example([b"\xff\x80\x80\x80\x80\x00", b"\xff\x80\x80\x80\x80\x80\x00"])
@example([b"\x3f\xe1\x1f", b"\x3f\xe2\x1f"])
@example([b"\x20\x82\x20"])
@example([b"\x41\x7f\x00"])
@example([b"\x40\x7f"])
@example([b"\xbe", b"\x40\x01a\x01b\xbe\xbf"])
def test_any_bytes_are_read_as_hpack_reads_them(blocks: list[bytes]) -> None:
    _agree(blocks)


def _read(decode: Callable[[bytes], bytes], string: bytes) -> bytes | None:
    try:
        return decode(string)
    except hpack.HPACKDecodingError:
        return None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=100))
def test_huffman_strings_are_read_as_hpack_reads_them(raw: bytes) -> None:
    coded = hpack.Encoder().huffman_coder.encode(raw)
    assert read_huffman(coded) == raw
    for string in (raw, coded + b"\xff", coded[:-1], coded[:-1] + b"\0", coded + raw):
        assert _read(read_huffman, string) == _read(decode_huffman, string)


def test_every_pair_of_bytes_is_a_huffman_string_here_as_there() -> None:
    for number in range(1 << 16):
        string = number.to_bytes(2, "big")
        assert _read(read_huffman, string) == _read(decode_huffman, string)


def test_text_is_left_to_hpack() -> None:
    block = hpack.Encoder().encode([("x-name", "value")])
    assert HpackDecoder().decode(block) == [("x-name", "value")]
