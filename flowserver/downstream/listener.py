"""Listening sockets and the registry of their connections: accept, sweep, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl

from ..config.addresses import Address
from ..net.send_queue import limit_unsent
from .context import ListenerContext
from .detect import Handshake, ProtocolDetector

BACKLOG = 4096
"""Connections that may wait until they are accepted. What comes beyond is dropped by the kernel, and tried again by its
client after a second."""


_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
"""Errors of a system without IPv6."""


class ListenError(Exception):
    """An address can't be listened on; the text says which, and why."""


class Listener:
    """One or more addresses whose connections share a context."""

    def __init__(
        self, context: ListenerContext, *, notsent_lowat: int | None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._context = context
        self.tls = tls
        """For new connections; None: plain."""
        self._notsent_lowat = notsent_lowat
        self._servers: list[asyncio.Server] = []

    async def start(self, addresses: tuple[Address, ...]) -> list[Address]:
        """Listen. Returns the addresses with their real ports. Raises ListenError."""
        loop = asyncio.get_running_loop()
        bound = []
        for address in addresses:
            try:
                listening = self._bind(address)
            except (OSError, UnicodeError) as error:  # the latter: no name of a host
                raise ListenError(f"can't listen on {address}: {getattr(error, 'strerror', None) or error}") from None
            host, port = listening.getsockname()[:2]
            # It listens anew, with the backlog that it is told.
            server = await loop.create_server(self._open, sock=listening, backlog=BACKLOG)
            self._servers.append(server)
            bound.append(Address(host, port))
        return bound

    def _open(self) -> asyncio.BaseProtocol:
        limit = self._context.settings.max_connections
        if len(self._context.connections) >= limit + max(1, limit // 10):
            return _Refusal()  # the answers to those above the limit are bounded too
        return ProtocolDetector(self._context) if self.tls is None else Handshake(self._context, self.tls).transport

    def _bind(self, address: Address) -> socket.socket:
        if address.host:
            return self._listen(socket.AF_INET6 if ":" in address.host else socket.AF_INET, address)
        try:
            return self._listen(socket.AF_INET6, Address("::", address.port), both=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
        return self._listen(socket.AF_INET, Address("0.0.0.0", address.port))

    def _listen(self, family: socket.AddressFamily, address: Address, *, both: bool = False) -> socket.socket:
        """`both`: an IPv6 socket takes IPv4 clients too, whatever the system's default is."""
        with contextlib.ExitStack() as undo:
            listening = socket.socket(family, socket.SOCK_STREAM)
            undo.callback(listening.close)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if both:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if self._notsent_lowat is not None:
                limit_unsent(listening, self._notsent_lowat)
            listening.bind((address.host, address.port))
            listening.listen(BACKLOG)
            listening.setblocking(False)
            undo.pop_all()
        return listening

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
