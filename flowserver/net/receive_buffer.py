"""The receive buffer of a provider's connection: how far a provider may send ahead (socket(7), tcp(7)).

If set before connecting, SO_RCVBUF pins the window scale, so that the window stays below 64 KB for ever. So the
kernel's lock on the buffer is removed right away (SO_BUF_LOCK, Linux 5.16): the first window is small, but the scale is
that of the largest buffer.
"""

from __future__ import annotations

import contextlib
import socket
import sys

from .sockets import round_trip

_SO_BUF_LOCK = 72
PINNED = 12 * 1024
"""Bytes of a buffer that can't grow again."""
WIDE = 128 * 1024
"""Where the kernel's own tuning starts, which doubles the window per round trip (default of net.ipv4.tcp_rmem)."""


def begin_narrow(connection: socket.socket, bound: int, *, may_grow: bool) -> None:
    """Bound the first window of a socket that is not connected yet; all of its windows, unless they `may_grow` and
    can."""
    grows = may_grow and _unlock(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, bound if grows or not may_grow else max(bound, PINNED))
    if grows:
        _unlock(connection)


def size(connection: socket.socket) -> int:
    """The buffer's size in bytes as set; the kernel doubles it for its overhead."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    except (OSError, ValueError):
        return 0


def can_follow(connection: socket.socket) -> bool:
    """Whether the window of a connection can be bounded and left to the kernel again, and its distance is known."""
    return _unlock(connection) and round_trip(connection) > 0


def bound_window(connection: socket.socket, bound: int, before: int) -> None:
    """Bound the window from now on, which was bounded to `before` bytes (0: not yet). What was granted before stays
    granted. A bound beyond WIDE is one to the kernel's own tuning."""
    with contextlib.suppress(OSError, ValueError):  # uvloop raises ValueError for a closed one
        if bound <= WIDE or before <= WIDE:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(bound, WIDE))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, bound)
        if bound > WIDE:
            _unlock(connection)


def leave_to_kernel(connection: socket.socket) -> None:
    """Let the kernel grow the window as it is used up. If that is not possible, the window stays."""
    if _unlock(connection):
        with contextlib.suppress(OSError, ValueError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WIDE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 1 << 30)
        _unlock(connection)


def _unlock(connection: socket.socket) -> bool:
    """Let the kernel tune the buffer again. Returns False if that is not possible."""
    if sys.platform != "linux":
        return False
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)
    except (OSError, ValueError):
        return False
    return True
