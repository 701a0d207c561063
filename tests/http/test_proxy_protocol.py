"""The PROXY protocol's header: what is one, what it says, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from flowserver.http.proxy_protocol import MAX_BINARY, MAX_TEXT, ProxyHeaderError, ProxyHeaderReader

from ..support.proxy_header import LOCAL, SIGNATURE, binary

V6 = ip_address("2001:db8::1").packed


def _read(data: bytes) -> tuple[str | None, bytes]:
    """The address and the rest of what is whole."""
    header = ProxyHeaderReader().feed(data)
    assert header is not None, "it is not whole"
    return None if header.source is None else str(header.source), header.rest


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", "192.0.2.1"),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
        (b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", "2001:db8::1"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
        (binary(0x21, 0x11, bytes((192, 0, 2, 1, 192, 0, 2, 2, 220, 4, 1, 187))), "192.0.2.1"),
        (binary(0x21, 0x21, V6 + bytes(20)), "2001:db8::1"),
        (binary(0x21, 0x31, bytes(216)), None),
        (binary(0x21, 0x00), None),
        (binary(0x21, 0x12, bytes(12)), None),
        (LOCAL, None),
        (binary(0x20, 0x77, b"whatever a health check sends"), None),
        (binary(0x21, 0x11, bytes((10, 0, 0, 7)) + bytes(8) + b"\x04\x00\x03abc"), "10.0.0.7"),
    ],
)
def test_a_header_names_a_client_or_nobody(data: bytes, source: str | None) -> None:
    assert _read(data) == (source, b"")
    assert _read(data + b"GET /") == (source, b"GET /")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"PROXX", b"\r\n\r\n\r", b"\x16\x03\x01", b"proxy TCP4"])
def test_what_is_no_header_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError, match="does not begin"):
        ProxyHeaderReader().feed(data)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324", "two addresses and two ports"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 ", "two addresses and two ports"),
        (b"PROXY TCP4  192.0.2.1 192.0.2.2 56324 443", "two addresses and two ports"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443", "two addresses and two ports"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 0443 443", "two addresses and two ports"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 443", "two addresses and two ports"),
        (b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2", "address"),
        (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2", "address"),
        (b"PROXY TCP4 ::1 ::1 1 2", "not TCP4"),
        (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2", "not TCP6"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2", "not TCP6"),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2", "neither"),
        (b"PROXY \xff", "ASCII"),
        (b"PROXY ", "neither"),
    ],
)
def test_a_line_that_is_malformed_is_refused(line: bytes, why: str) -> None:
    with pytest.raises(ProxyHeaderError, match=why):
        ProxyHeaderReader().feed(line + b"\r\n")


def test_a_line_is_bounded() -> None:
    longest = b"PROXY UNKNOWN ".ljust(MAX_TEXT - 2, b"x") + b"\r\n"
    assert _read(longest + b"rest") == (None, b"rest")
    reader = ProxyHeaderReader()
    assert reader.feed(longest[:-2] + b"x") is None
    with pytest.raises(ProxyHeaderError, match="within 107 bytes"):
        reader.feed(b"\r\n")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (binary(0x22, 0x11, bytes(12)), "version or command"),
        (binary(0x11, 0x11, bytes(12)), "version or command"),
        (binary(0x21, 0x41, bytes(12)), "family"),
        (binary(0x21, 0x11, bytes(11)), "too short"),
        (binary(0x21, 0x21, bytes(35)), "too short"),
        (binary(0x21, 0x31, bytes(215)), "too short"),
        (SIGNATURE + b"\x21\x11\xff\xff", "the maximum is 4096"),
        (SIGNATURE + b"\x20\x00\x0f\xf1", "the maximum is 4096"),
    ],
)
def test_a_binary_header_that_is_malformed_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ProxyHeaderError, match=why):
        ProxyHeaderReader().feed(data)


def test_a_binary_header_is_bounded() -> None:
    assert _read(binary(0x20, 0x00, bytes(MAX_BINARY - 16)) + b"rest") == (None, b"rest")
