"""A provider's connection as Linux sees it: what waits there, what it sent (struct tcp_info), how it acknowledges."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import sys

_HANG_UP = getattr(select, "POLLRDHUP", 0)  # Linux'; others tell of an end by POLLHUP alone, which needs no asking


class IdleProbe:
    """Looks at a connection before it is used."""

    __slots__ = ("_poll", "_silent", "_transport")

    def __init__(self, transport: asyncio.BaseTransport, *, silent: bool) -> None:
        """`silent`: whether bytes that wait to be read speak against it, too."""
        self._transport = transport
        self._silent = silent
        self._poll: select.poll | None = None

    def is_reusable(self, *, again: bool) -> bool:
        """False when the provider's FIN is there, read or not, or what else it was to look for; True where it can't be
        told. `again`: it is used again, so that the poll is kept for the next time, which takes 0.3 us then; most
        connections with a stream are used once, and have no memory for it."""
        poll = self._poll
        if poll is None:
            poll = select.poll()
            watched = _HANG_UP | (select.POLLIN if self._silent else 0)
            poll.register(self._transport.get_extra_info("socket").fileno(), watched)
            if again:
                self._poll = poll
        events = poll.poll(0)
        return not events or events[0][1] == select.POLLNVAL


def unacknowledged(transport: asyncio.BaseTransport) -> int | None:
    """Bytes that our kernel was given and the provider's has not taken, also when the connection was reset since; None
    when it can't be told."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 216)
    except OSError:
        return None
    if len(info) < 216:  # before Linux 4.19
        return None
    # tcpi_bytes_acked, which counts the SYN; tcpi_bytes_sent; tcpi_bytes_retrans; tcpi_notsent_bytes
    acknowledged, sent, again = (int.from_bytes(info[at : at + 8], sys.byteorder) for at in (120, 200, 208))
    return sent - again + int.from_bytes(info[144:148], sys.byteorder) - (acknowledged - 1)


def acknowledge_less(transport: asyncio.BaseTransport) -> None:
    """Events come one by one: of their segments only every second is to be acknowledged, or what waits for 40 ms
    (tcp(7), TCP_QUICKACK). Else each read sends an acknowledgement, a twentieth of what an event costs. To that
    the kernel falls back by itself when it had to wait that long."""
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
