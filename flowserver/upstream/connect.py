"""Turns a dialled transport into an HTTP/1.1 or HTTP/2 connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from ..errors import EndReason, RelayError, upstream_error
from ..net.receive_buffer import leave_to_kernel
from ..net.shared_read import READ_BUFFER
from .dialer import DialError, Prepare
from .h1 import UpstreamH1
from .h2 import UpstreamH2
from .pool import Connected, Failed
from .receive_window import KernelBuffers

Make = Callable[[bool], UpstreamH1 | UpstreamH2]
"""A connection for one protocol: True for HTTP/2."""


class Dials(Protocol):
    """Makes connections: a `Dialer`."""

    async def dial(self, factory: Callable[[], ConnectAttempt], prepare: Prepare) -> ConnectAttempt:
        """Returns a connected protocol made by `factory`. `prepare` sets options of sockets before they connect. Raises
        DialError."""


class ConnectAttempt(asyncio.BufferedProtocol):
    """Protocol of a dialled transport. Holds what the provider sends first, as HTTP/2 servers do, until the connection
    takes over. It has no `data_received`, which uvloop's transports would keep, and with it this object, to their end.
    """

    __slots__ = ("_early", "_lost", "transport")

    def __init__(self) -> None:
        self._early = bytearray()
        self._lost = False
        self.transport: asyncio.Transport

    def __repr__(self) -> str:
        return f"<ConnectAttempt {'lost' if self.is_lost else 'open'} early={len(self._early)}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._early += READ_BUFFER[:nbytes]

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True

    @property
    def is_lost(self) -> bool:
        """Whether the provider has closed the connection in the meantime."""
        return self._lost or self.transport.is_closing()

    @property
    def chosen(self) -> bool | None:
        """Whether ALPN chose HTTP/2; None without TLS."""
        tls = self.transport.get_extra_info("ssl_object")
        return None if tls is None else bool(tls.selected_alpn_protocol() == "h2")

    def become(self, make: Make, *, multiplexed: bool) -> UpstreamH1 | UpstreamH2:
        """Hand the transport over to a connection made by `make`."""
        connection = make(multiplexed)
        if multiplexed:
            leave_to_kernel(self.transport.get_extra_info("socket"))  # its streams' windows bound what is read ahead
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        early = memoryview(bytes(self._early))
        while early:
            buffer = connection.get_buffer(-1)
            size = min(len(buffer), len(early))
            buffer[:size] = early[:size]
            early = early[size:]
            connection.buffer_updated(size)
        return connection


class ConnectAttempts:
    """A `pool.Dial`: each call starts a task that connects.

    `multiplexed`: True requires HTTP/2 (with prior knowledge on a plain port), False HTTP/1.1; None leaves it to ALPN.
    """

    __slots__ = ("_buffers", "_dialer", "_make", "_multiplexed")

    def __init__(self, dialer: Dials, make: Make, *, multiplexed: bool | None, buffers: KernelBuffers) -> None:
        self._dialer = dialer
        self._make = make
        self._multiplexed = multiplexed
        self._buffers = buffers

    def __call__(self, connected: Connected, failed: Failed, whole: bool) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._connect(connected, failed, whole))

    async def _connect(self, connected: Connected, failed: Failed, whole: bool) -> None:
        try:
            attempt = await self._dialer.dial(ConnectAttempt, partial(self._buffers.prepare, whole=whole))
        except DialError as failure:
            failed(failure.error)
            return
        spoken = attempt.chosen if attempt.chosen is not None else bool(self._multiplexed)
        if attempt.is_lost:
            failed(_refusal("closed at once"))
        elif self._multiplexed and not spoken:
            attempt.transport.abort()
            failed(_refusal("does not speak HTTP/2, which its configuration requires"))
        else:
            connection = attempt.become(self._make, multiplexed=spoken)
            if connection.is_alive():
                connected(connection)
            else:  # otherwise its loss would go unnoticed
                attempt.transport.abort()
                failed(_refusal("closed at once"))


def _refusal(what: str) -> RelayError:
    reason = EndReason.CONNECT_FAILED
    return upstream_error(reason.value, f"The provider {what}.", reason, not_processed=True)
