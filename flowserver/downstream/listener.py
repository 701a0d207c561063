"""The connections of listening sockets: accept, sweep, drain."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable

from .context import ListenerContext
from .detect import Handshake, ProtocolDetector
from .listening import BACKLOG


class Listener:
    """One or more listening sockets whose connections share a context."""

    def __init__(self, context: ListenerContext, *, tls: ssl.SSLContext | None = None) -> None:
        self._context = context
        self.tls = tls
        """For new connections; None: plain."""
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Accept the connections of `sockets`, which listen already, and are closed with the listener."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            # It listens anew, with the backlog that it is told.
            self._servers.append(await loop.create_server(self._open, sock=listening, backlog=BACKLOG))

    def _open(self) -> asyncio.BaseProtocol:
        limit = self._context.settings.max_connections
        if len(self._context.connections) >= limit + max(1, limit // 10):
            return _Refusal()  # the answers to those above the limit are bounded too
        return ProtocolDetector(self._context) if self.tls is None else Handshake(self._context, self.tls).transport

    @property
    def connections(self) -> int:
        return len(self._context.connections)

    def sweep(self, now: float) -> None:
        """Look at all deadlines."""
        for connection in list(self._context.connections):
            connection.sweep(now)

    def drain(self) -> None:
        """Take no new connection, close idle ones; the others end with their present answer."""
        self._stop_accepting()
        for connection in list(self._context.connections):
            connection.drain()

    def end_drain(self) -> None:
        for connection in list(self._context.connections):
            connection.end_drain()

    async def close(self) -> None:
        """Close everything at once."""
        self._stop_accepting()
        for connection in list(self._context.connections):
            connection.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def _stop_accepting(self) -> None:
        for server in self._servers:
            server.close()


class _Refusal(asyncio.Protocol):
    """Closes without a word."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
