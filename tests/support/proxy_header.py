"""Headers of the PROXY protocol, as a proxy sends them."""

from __future__ import annotations

from ipaddress import ip_address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def binary(command: int, family: int, payload: bytes = b"") -> bytes:
    """A header of version 2."""
    return SIGNATURE + bytes((command, family)) + len(payload).to_bytes(2, "big") + payload


LOCAL = binary(0x20, 0x00)
"""A proxy that speaks for itself."""


def text(source: str) -> bytes:
    """A header of version 1 for a client at `source`."""
    other = "::1" if ":" in source else "127.0.0.1"
    return f"PROXY TCP{6 if ':' in source else 4} {source} {other} 40000 443\r\n".encode()


def bits(source: str, extra: bytes = b"") -> bytes:
    """A header of version 2 for a client at `source`, with further fields."""
    packed = ip_address(source).packed
    ports = (40000).to_bytes(2, "big") + (443).to_bytes(2, "big")
    return binary(0x21, 0x11 if len(packed) == 4 else 0x21, packed + bytes(len(packed)) + ports + extra)
