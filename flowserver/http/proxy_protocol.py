"""The PROXY protocol's header, in which a proxy in front names the client of a connection. No I/O.

Source: haproxy's doc/proxy-protocol.txt, sections 2.1 (version 1, a line of text) and 2.2 (version 2, binary). It comes
first on a connection, unencrypted even before TLS.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

_TEXT = b"PROXY "
_BINARY = b"\r\n\r\n\x00\r\nQUIT\n"
_BINARY_HEAD = len(_BINARY) + 4
"""Bytes until the length is known."""
MAX_TEXT = 107
"""Most bytes of a version 1 header, with its line end: enough for all of them, as the specification says."""
MAX_BINARY = 4096
"""Most bytes of a version 2 header. With certificates some exceed a thousand."""
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_LOCAL, _PROXY = 0x20, 0x21
"""Version and command: the proxy speaks for itself, as in a health check; or for a client."""
_SIZES = {0x11: 12, 0x21: 36, 0x31: 216}
"""Bytes of the addresses over TCP/IPv4, TCP/IPv6 and a Unix socket."""
_UNSUPPORTED = frozenset((0x00, 0x12, 0x22, 0x32))
"""Families without an address that means anything for a stream: unspecified, and datagrams."""


class ProxyHeaderError(Exception):
    """The bytes are not such a header; the text says why."""


class ProxyHeader:
    """A complete header."""

    __slots__ = ("rest", "source")

    def __init__(self, source: IPv4Address | IPv6Address | None, rest: bytes) -> None:
        self.source = source
        """The client's address; None: the header names none, so the connection's own address applies."""
        self.rest = rest
        """What followed the header."""


class ProxyHeaderReader:
    """Reads the header of one connection, in whatever pieces it arrives."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has arrived yet."""
        return not self._data

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Returns the header once it is complete. Raises ProxyHeaderError. Do not call it after either."""
        self._data += data
        if _begins(self._data, _BINARY):
            return _read_binary(self._data)
        if _begins(self._data, _TEXT):
            return _read_text(self._data)
        raise ProxyHeaderError("it does not begin with a header of the PROXY protocol")


def _begins(data: bytes, signature: bytes) -> bool:
    """Whether `data` may be the beginning of a header that begins with `signature`."""
    return data.startswith(signature[: len(data)])


# --- version 1 -------------------------------------------------------------------------------------------------------


def _read_text(data: bytes) -> ProxyHeader | None:
    line, end, rest = data[:MAX_TEXT].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_TEXT:
            raise ProxyHeaderError(f"its header has no end within {MAX_TEXT} bytes")
        return None
    return ProxyHeader(_text_source(line), rest + data[MAX_TEXT:])


def _text_source(line: bytes) -> IPv4Address | IPv6Address | None:
    """The address in `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`."""
    try:
        _, protocol, *fields = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyHeaderError("its header is not ASCII text") from None
    if protocol == "UNKNOWN":  # the rest of the line is to be ignored
        return None
    if protocol not in ("TCP4", "TCP6"):
        raise ProxyHeaderError("its header names neither TCP4, TCP6 nor UNKNOWN")
    if len(fields) != 4 or not all(_PORT.fullmatch(port) and int(port) < 65536 for port in fields[2:]):
        raise ProxyHeaderError("its header does not have two addresses and two ports")
    try:
        source, _ = [IPv4Address(field) if protocol == "TCP4" else _ipv6(field) for field in fields[:2]]
    except AddressValueError:
        raise ProxyHeaderError(f"its header has an address that is not {protocol}") from None
    return source


def _ipv6(text: str) -> IPv6Address:
    if "%" in text:  # a zone, which means nothing on another machine
        raise AddressValueError(text)
    return IPv6Address(text)


# --- version 2 -------------------------------------------------------------------------------------------------------


def _read_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _BINARY_HEAD:
        return None
    command, family = data[12], data[13]
    end = _BINARY_HEAD + int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("its header has an unknown version or command")
    if end > MAX_BINARY:
        raise ProxyHeaderError(f"its header has {end} bytes; the maximum is {MAX_BINARY}")
    if command == _PROXY:
        _check_family(family, end - _BINARY_HEAD)
    if len(data) < end:
        return None
    source = _binary_source(family, data[_BINARY_HEAD:end]) if command == _PROXY else None
    return ProxyHeader(source, data[end:])


def _check_family(family: int, size: int) -> None:
    if family not in _SIZES and family not in _UNSUPPORTED:
        raise ProxyHeaderError("its header has an unknown address family")
    if size < _SIZES.get(family, 0):
        raise ProxyHeaderError("its header is too short for its addresses")


def _binary_source(family: int, addresses: bytes) -> IPv4Address | IPv6Address | None:
    """What follows the addresses (TLVs) is ignored."""
    if family == 0x11:
        return IPv4Address(addresses[:4])
    return IPv6Address(addresses[:16]) if family == 0x21 else None
