"""From a dialled transport to a connection that carries requests: what the provider speaks is known by then."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

from ..errors import EndReason, upstream_error
from .dial import Dialer, DialError
from .h1 import UpstreamH1
from .h2 import UpstreamH2
from .pool import Connected, Failed

_READ_BUFFER = memoryview(bytearray(16 * 1024))
H2_RECEIVE_BUFFER = 512 * 1024
"""SO_RCVBUF of an HTTP/2 connection: its streams' windows bound what is read ahead, not the kernel's buffer."""

Make = Callable[[bool], UpstreamH1 | UpstreamH2]
"""A connection for one protocol: True for HTTP/2."""


class Arrival(asyncio.BufferedProtocol):
    """Holds what a provider says first (HTTP/2 servers begin to speak) until its protocol takes over."""

    __slots__ = ("_early", "_lost", "transport")

    def __init__(self) -> None:
        self._early = bytearray()
        self._lost = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._early += _READ_BUFFER[:nbytes]

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True

    def become(self, make: Make, *, prior_knowledge: bool) -> UpstreamH1 | UpstreamH2 | None:
        """The connection; None when the provider closed meanwhile."""
        if self._lost or self.transport.is_closing():
            return None
        tls = self.transport.get_extra_info("ssl_object")
        multiplexed = prior_knowledge or (tls is not None and tls.selected_alpn_protocol() == "h2")
        connection = make(multiplexed)
        if multiplexed:
            with contextlib.suppress(OSError):
                raw = self.transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, H2_RECEIVE_BUFFER)
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


class Arrivals:
    """A `pool.Dial`: each call is a task that connects."""

    __slots__ = ("_dialer", "_make", "_prior_knowledge")

    def __init__(self, dialer: Dialer, make: Make, *, prior_knowledge: bool) -> None:
        self._dialer = dialer
        self._make = make
        self._prior_knowledge = prior_knowledge

    def __call__(self, connected: Connected, failed: Failed) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._arrive(connected, failed))

    async def _arrive(self, connected: Connected, failed: Failed) -> None:
        try:
            arrival = await self._dialer.dial(Arrival)
        except DialError as failure:
            failed(failure.error)
            return
        connection = arrival.become(self._make, prior_knowledge=self._prior_knowledge)
        # A connection that is not alive would tell nobody that it is lost.
        if connection is None or not connection.is_alive():
            arrival.transport.abort()
            reason = EndReason.CONNECT_FAILED
            failed(upstream_error(reason.value, "The provider closed at once.", reason, untouched=True))
        else:
            connected(connection)
