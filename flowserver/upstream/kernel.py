"""A provider's connection as Linux sees it: what it knows of it (struct tcp_info), and how it acknowledges."""

from __future__ import annotations

import asyncio
import contextlib
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


def acknowledge_less(transport: asyncio.BaseTransport) -> None:
    """Events come one by one: of their segments only every second is to be acknowledged, or what waits for 40 ms
    (tcp(7), TCP_QUICKACK). Else each read sends an acknowledgement, a twentieth of what an event costs. To that
    the kernel falls back by itself when it had to wait that long."""
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def is_silent(transport: asyncio.BaseTransport) -> bool:
    """Whether nothing waits to be read; True where it can't be told."""
    try:
        return fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, _NOTHING) == _NOTHING
    except OSError:
        return True
