"""What Linux knows about a connection: waiting input, acknowledged output (struct tcp_info)."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import sys
from typing import Final

_HANG_UP = getattr(select, "POLLRDHUP", 0)  # Linux only; elsewhere an end is reported by POLLHUP, which is always on


_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_UNKNOWN: Final = 0xFFFFFFFF
"""A time that the kernel has not measured."""


_MEMORY_INFO: Final = 55
"""SO_MEMINFO of linux/asm-generic/socket.h."""


class IdleProbe:
    """Checks an idle connection before it is used again."""

    __slots__ = ("_poll", "_silent", "_transport")

    def __init__(self, transport: asyncio.BaseTransport, *, silent: bool) -> None:
        """`silent`: it must not have sent anything either."""
        self._transport = transport
        self._silent = silent
        self._poll: select.poll | None = None

    def is_reusable(self, *, again: bool) -> bool:
        """False if the provider has closed, or sent something although it must be silent; True if the kernel can't
        tell.

        `again` keeps the poll object for the next call, which then takes 0.3 us. Most connections of streams are used
        only once, and save its memory.
        """
        poll = self._poll
        if poll is None:
            poll = select.poll()
            watched = _HANG_UP | (select.POLLIN if self._silent else 0)
            poll.register(self._transport.get_extra_info("socket").fileno(), watched)
            if again:
                self._poll = poll
        events = poll.poll(0)
        return not events or events[0][1] == select.POLLNVAL


def is_local(connection: socket.socket) -> bool:
    """Whether it is a Unix socket, with which nothing is ever in flight."""
    return connection.family == socket.AF_UNIX


def tcp_info(transport: asyncio.BaseTransport, length: int) -> bytes | None:
    """The first `length` bytes of struct tcp_info (linux/tcp.h). None: it is not TCP, or closed, or the kernel has
    fewer."""
    return _info(transport.get_extra_info("socket"), length)


def _info(connection: socket.socket, length: int) -> bytes | None:
    if _TCP_INFO is None:
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, length)
    except (OSError, ValueError):  # ValueError is uvloop's, of one that is closed
        return None
    return info if len(info) == length else None


def kernel_memory(transport: asyncio.BaseTransport) -> int:
    """Bytes of a connection's kernel buffers, as a cgroup counts them; 0 if unknown."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        info = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, _MEMORY_INFO, 36)
    except (OSError, ValueError, AttributeError):  # ValueError is uvloop's, of one that is closed
        return 0
    # SK_MEMINFO_RMEM_ALLOC, _FWD_ALLOC, _WMEM_QUEUED, _BACKLOG (linux/sock_diag.h)
    return sum(int.from_bytes(info[at : at + 4], sys.byteorder) for at in (0, 16, 20, 28) if len(info) >= at + 4)


def unacknowledged(transport: asyncio.BaseTransport) -> int | None:
    """Bytes that our kernel has accepted and the provider's has not acknowledged, also after a reset; None if the
    kernel can't tell."""
    info = tcp_info(transport, 216)  # all of it since Linux 4.19
    if info is None:
        return None
    # tcpi_bytes_acked, which counts the SYN; tcpi_bytes_sent; tcpi_bytes_retrans; tcpi_notsent_bytes
    acknowledged, sent, again = (int.from_bytes(info[at : at + 8], sys.byteorder) for at in (120, 200, 208))
    return sent - again + int.from_bytes(info[144:148], sys.byteorder) - (acknowledged - 1)


def round_trip(connection: socket.socket) -> float:
    """The shortest measured round trip in seconds (tcpi_min_rtt); 0 if the kernel can't tell."""
    microseconds = _tcp_figure(connection, 148)
    return microseconds / 1e6 if microseconds != _UNKNOWN else 0.0


def largest_segment(connection: socket.socket) -> int:
    """Bytes that the other side may send as one segment (tcpi_advmss); 0 if the kernel can't tell."""
    return _tcp_figure(connection, 84)


def _tcp_figure(connection: socket.socket, offset: int) -> int:
    """A field of struct tcp_info; 0 if the kernel can't tell."""
    info = _info(connection, offset + 4)
    return 0 if info is None else int.from_bytes(info[offset:], sys.byteorder)


def acknowledge_less(transport: asyncio.BaseTransport) -> None:
    """Switch to delayed acknowledgements, for events that arrive one by one: of every second segment, or after 40 ms
    (tcp(7), TCP_QUICKACK). Otherwise each read sends an acknowledgement, a twentieth of an event's cost. The kernel
    switches back by itself after a wait of 40 ms."""
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
