"""What the kernel knows of a provider's connection before it was read, by Linux's struct tcp_info."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios

_ESTABLISHED = 1
"""The state, its first byte."""


def is_established(transport: asyncio.BaseTransport) -> bool:
    """False when the provider's FIN is there, read or not; True where it can't be told."""
    if not hasattr(socket, "TCP_INFO"):
        return True
    connection = transport.get_extra_info("socket")
    return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED)


def is_silent(transport: asyncio.BaseTransport) -> bool:
    """Whether nothing waits to be read; True where it can't be told."""
    with contextlib.suppress(OSError):
        return not any(fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4)))
    return True


def bytes_acknowledged(transport: asyncio.BaseTransport) -> int | None:
    """tcpi_bytes_acked: what the provider's kernel has taken; None when it can't be told."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        if len(info) >= 128:
            return int.from_bytes(info[120:128], sys.byteorder)
    return None
