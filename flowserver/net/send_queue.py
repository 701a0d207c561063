"""What is in flight to a client, from the transport and Linux (struct tcp_info)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from typing import cast

from .sockets import is_local, kernel_memory, tcp_info

_LENGTH = 184
"""Up to tcpi_rwnd_limited: since Linux 4.10."""


UNSENT = 16 * 1024
"""Unsent bytes that the kernel may hold (TCP_NOTSENT_LOWAT) for a client of unknown pace."""


def limit_unsent(connection: socket.socket, most: int) -> None:
    """Limit the unsent bytes that the kernel accepts for a connection, or for those that a listening socket accepts, so
    that a stalled reader's queue is bounded. On a Unix socket nothing is in flight, so its whole queue is bounded;
    connections accepted by such a socket do not inherit this."""
    with contextlib.suppress(OSError, ValueError):  # uvloop raises ValueError for a closed one
        if is_local(connection):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, most)
        elif hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, most)


class SendQueue:
    """The send queue of one connection. Each figure of the kernel costs a system call, so none is queried per chunk."""

    __slots__ = ("_descriptor", "_mark", "_most", "_since", "_transport", "blocked_since")

    def __init__(self, transport: asyncio.WriteTransport, descriptor: int) -> None:
        self._transport = transport
        self._descriptor = descriptor
        self._most: int | None = None
        """Unsent bytes that the kernel may hold; None: the default."""
        self._mark: tuple[int, int] | None = None
        self._since = 0.0
        self.blocked_since: float | None = None
        """Since when the transport has been blocked, set by its protocol; None: it is not."""

    def stalled_for(self, now: float, *, busy: bool) -> float:
        """Returns the seconds for which the client acknowledged nothing of what waits for it, to the precision of these
        calls; 0 while nothing waits. `busy`: what the kernel holds counts too, as more is to follow."""
        mark = self.progress(kernel=busy)
        if mark is None or mark != self._mark:
            self._mark = mark
            self._since = now
        return now - self._since

    def progress(self, *, kernel: bool = True) -> tuple[int, int] | None:
        """A value that changes when the client acknowledges more; None: nothing waits. `kernel`: bytes held only by the
        kernel also count as waiting."""
        waiting = self._transport.get_write_buffer_size()
        if not waiting and not (kernel and self.in_kernel() > 0):
            return None
        info = tcp_info(self._transport, _LENGTH)
        # tcpi_bytes_acked. What waits may grow meanwhile, which is not progress.
        return (waiting, self.in_kernel()) if info is None else (int.from_bytes(info[120:128], sys.byteorder), 0)

    def in_kernel(self) -> int:
        """Unacknowledged bytes in the kernel (SIOCOUTQ); -1 if unknown. For a Unix socket these are the bytes that the
        client has not read, plus the kernel's overhead: four times as much for small events."""
        if self._transport.is_closing():  # its descriptor may be another connection's
            return -1
        try:
            queued = fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
        except OSError:
            return -1
        return cast(int, struct.unpack("i", queued)[0])

    def has_arrived(self) -> bool:
        """Whether the client's machine has received everything, whether or not the client reads it."""
        return self.in_kernel() == 0 or is_local(self._transport.get_extra_info("socket"))

    def unacknowledged(self) -> int:
        """Bytes that wait here and in the kernel, as far as is known."""
        return self._transport.get_write_buffer_size() + max(0, self.in_kernel())

    def limit(self, most: int) -> None:
        """Limit the kernel's unsent bytes to `most`. Small changes are skipped."""
        before = UNSENT if self._most is None else self._most
        if not before * 3 < most * 4 < before * 5:
            self._most = most
            limit_unsent(self._transport.get_extra_info("socket"), most)

    def end_limit(self) -> None:
        """Remove the limit for the next answer."""
        if self._most is not None:
            self._most = None
            limit_unsent(self._transport.get_extra_info("socket"), UNSENT)

    def kernel_memory(self) -> int:
        """Bytes of the connection's kernel buffers, in both directions."""
        return kernel_memory(self._transport)

    def receive_limited(self) -> float | None:
        """Returns the seconds so far for which the client's receive window kept bytes from leaving; None if the kernel
        can't tell."""
        info = tcp_info(self._transport, _LENGTH)
        return None if info is None else int.from_bytes(info[176:184], sys.byteorder) / 1e6  # tcpi_rwnd_limited
