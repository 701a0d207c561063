"""A header of the PROXY protocol is read the same however it is cut, and nonsense is refused or waited for."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from flowserver.http.proxy_protocol import MAX_BINARY, MAX_TEXT, ProxyHeaderError, ProxyHeaderReader

from ..support.proxy_header import LOCAL, SIGNATURE, bits, text
from .test_framing import cut

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
CUTS = st.lists(st.integers(1, 50), min_size=1, max_size=12)
WORDS = st.lists(st.sampled_from([b"TCP4", b"TCP6", b"UNKNOWN", b"127.0.0.1", b"::1", b"1", b""]), max_size=7)
NEARLY = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda rest: b"PROXY " + rest, st.binary(max_size=150)),
    st.builds(lambda words: b"PROXY " + b" ".join(words) + b"\r\n", WORDS),
    st.builds(lambda rest: SIGNATURE + rest, st.binary(max_size=300)),
    st.just(LOCAL),
)


def _read(pieces: list[bytes]) -> object:
    """What becomes of it: the source and what follows, the error, or None while it is not whole."""
    reader = ProxyHeaderReader()
    for number, piece in enumerate(pieces):
        try:
            header = reader.feed(piece)
        except ProxyHeaderError as error:
            return str(error)
        if header is not None:
            return header.source, header.rest + b"".join(pieces[number + 1 :])
    return None


@given(ADDRESSES, CUTS, st.binary(max_size=300))
def test_text_names_its_client(source: IPv4Address | IPv6Address, cuts: list[int], rest: bytes) -> None:
    header = text(str(source))
    assert len(header) <= MAX_TEXT
    assert _read(cut(header + rest, cuts)) == (source, rest)


@given(ADDRESSES, CUTS, st.binary(max_size=300), st.binary(max_size=300))
def test_bits_name_their_client(source: IPv4Address | IPv6Address, cuts: list[int], extra: bytes, rest: bytes) -> None:
    assert _read(cut(bits(str(source), extra) + rest, cuts)) == (source, rest)


@given(NEARLY, CUTS)
def test_cuts_make_no_difference_to_nonsense(data: bytes, cuts: list[int]) -> None:
    """But that an error may come before all of it is there."""
    whole, cut_up = _read([data]), _read(cut(data, cuts))
    assert isinstance(whole, str) == isinstance(cut_up, str)
    if not isinstance(whole, str):
        assert whole == cut_up


@given(NEARLY)
def test_what_is_waited_for_is_bounded(data: bytes) -> None:
    """No beginning can be gone on with for ever."""
    if _read([data]) is None:
        assert _read([data, bytes(MAX_BINARY + 16)]) is not None
