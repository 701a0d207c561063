"""The header blocks that are written by hand, read by hpack."""

from __future__ import annotations

import hpack
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from flowserver.http.h2_frames import STATIC_NAMES, header_block

NAMES = st.one_of(
    st.sampled_from([b"content-type", b"content-length", b"set-cookie", b"x-request-id"]),
    st.from_regex(rb"[a-z0-9-]{1,200}", fullmatch=True),
)
FIELDS = st.lists(st.tuples(NAMES, st.one_of(st.binary(max_size=40), st.binary(min_size=120, max_size=400))))
STATUSES = st.integers(200, 599).map(lambda status: b"%d" % status)


@given(STATUSES, st.lists(FIELDS, min_size=1, max_size=3))
def test_a_decoder_reads_what_was_written_beside_its_table(
    status: bytes, heads: list[list[tuple[bytes, bytes]]]
) -> None:
    decoder, encoder = hpack.Decoder(), hpack.Encoder()
    for head in heads:
        fields = [(b":status", status), *head]
        by_hand = decoder.decode(header_block(fields), raw=True)
        assert [tuple(field) for field in by_hand] == fields
        between = decoder.decode(encoder.encode(fields), raw=True)
        assert [tuple(field) for field in between] == fields


def test_every_name_of_the_static_table_stands_where_hpack_has_it() -> None:
    table = [name for name, _ in HeaderTable.STATIC_TABLE]
    assert {name: table.index(name) + 1 for name in STATIC_NAMES} == STATIC_NAMES
