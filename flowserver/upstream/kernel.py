"""What the kernel knows of a provider's connection before it was read, by Linux's struct tcp_info."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios

_ESTABLISHED = 1
"""The state, its first byte."""
_NOTHING = bytes(4)
_TELLS = hasattr(socket, "TCP_INFO")


def look(transport: asyncio.BaseTransport) -> tuple[bool, int | None]:
    """Both of the next two, by one call."""
    if not _TELLS:
        return True, None
    try:
        info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    except OSError:
        return False, None
    acknowledged = int.from_bytes(info[120:128], sys.byteorder) if len(info) >= 128 else None
    return info[0] == _ESTABLISHED, acknowledged


def is_established(transport: asyncio.BaseTransport) -> bool:
    """False when the provider's FIN is there, read or not; True where it can't be told."""
    return look(transport)[0]


def bytes_acknowledged(transport: asyncio.BaseTransport) -> int | None:
    """tcpi_bytes_acked: what the provider's kernel has taken; None when it can't be told."""
    return look(transport)[1]


def is_silent(transport: asyncio.BaseTransport) -> bool:
    """Whether nothing waits to be read; True where it can't be told."""
    try:
        return fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, _NOTHING) == _NOTHING
    except OSError:
        return True
