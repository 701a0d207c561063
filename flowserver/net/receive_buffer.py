"""The receive buffer of a provider's connection: how far a provider may send ahead (socket(7), tcp(7)).

Set before the connection is made, SO_RCVBUF pins the window's scale, so that the window stays below 64 KB for ever. So
the kernel's lock is taken off again right away (SO_BUF_LOCK, Linux 5.16): the first window is small, and the scale is
that of the largest buffer.
"""

from __future__ import annotations

import contextlib
import socket
import sys

from .sockets import round_trip

_SO_BUF_LOCK = 72
PINNED = 12 * 1024
"""Bytes, where a buffer can't grow again."""
WIDE = 128 * 1024
"""Where the kernel's own tuning begins, which doubles what a round trip used up (net.ipv4.tcp_rmem, by default)."""


def begin_narrow(connection: socket.socket, bound: int, *, may_grow: bool) -> None:
    """Bound the first window of a socket that is not connected yet; all of its windows, unless they `may_grow` and
    can."""
    grows = may_grow and _unlock(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, bound if grows or not may_grow else max(bound, PINNED))
    if grows:
        _unlock(connection)


def size(connection: socket.socket) -> int:
    """Bytes, as they are set: the kernel takes twice as much, for what it needs besides."""
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
    with contextlib.suppress(OSError, ValueError):  # ValueError is uvloop's, of one that is closed
        if bound <= WIDE or before <= WIDE:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(bound, WIDE))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, bound)
        if bound > WIDE:
            _unlock(connection)


def leave_to_kernel(connection: socket.socket) -> None:
    """Have the kernel let the window grow as it is used up. Where it can't be asked to, the window stays."""
    if _unlock(connection):
        with contextlib.suppress(OSError, ValueError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WIDE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 1 << 30)
        _unlock(connection)


def _unlock(connection: socket.socket) -> bool:
    """Have the kernel tune the buffer again. Returns False where it can't be asked to."""
    if sys.platform != "linux":
        return False
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)
    except (OSError, ValueError):
        return False
    return True
