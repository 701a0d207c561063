"""Detects a client that accepts nothing any more."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from typing import cast


class StallWatch:
    """Measures how long nothing leaves the transport and nothing in the kernel is acknowledged."""

    __slots__ = ("_descriptor", "_mark", "_since", "_transport")

    def __init__(self, transport: asyncio.WriteTransport, descriptor: int) -> None:
        self._transport = transport
        self._descriptor = descriptor
        self._mark: tuple[int, int] | None = None
        self._since = 0.0

    def look(self, now: float) -> float:
        """Returns the seconds without progress, to the precision of these calls; 0 while the transport is empty."""
        waiting = self._transport.get_write_buffer_size()
        mark = (waiting, unacknowledged(self._descriptor)) if waiting else None
        if mark is None or mark != self._mark:
            self._mark = mark
            self._since = now
        return now - self._since


def unacknowledged(descriptor: int) -> int:
    """Returns the unacknowledged bytes in the kernel's send queue (SIOCOUTQ); -1 if they are unknown."""
    try:
        return cast(int, struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return -1
