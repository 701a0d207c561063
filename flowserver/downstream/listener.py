"""The connections of listening sockets: accept, sweep, drain."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import cast

from ..flow.memory_budget import Level
from ..net import reuse_port
from .accepted import Accepted
from .context import ListenerContext
from .listening import BACKLOG

ACCEPTS, TLS_ACCEPTS = 64, 16
"""Connections of one socket that are accepted per iteration of the event loop; a TLS handshake takes as long as some
requests do. uvloop itself accepts one, so under load, with long iterations, new clients would wait for seconds."""


def _nothing() -> None: ...


class Listener:
    """One or more listening sockets whose connections share a context."""

    def __init__(self, context: ListenerContext, *, tls: ssl.SSLContext | None = None) -> None:
        self._context = context
        self.tls = tls
        """The TLS context for new connections; None: plain."""
        self._servers: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        """The listening sockets."""
        self._accepted = 0
        """Number of connections so far."""
        self._adopting = 0
        """Number of connections that are being adopted."""

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on `sockets`, which listen already, and are closed with the listener."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            # start_serving calls listen again, with this backlog.
            listens = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
            self._servers.append(await listens(self._accept, sock=listening, backlog=BACKLOG))
            self._sockets.append(listening)

    def adopt(self, connection: socket.socket, arrived: Callable[[], object] = _nothing) -> None:
        """Take a connection that was accepted elsewhere. `arrived` is called once it counts in `connections`, or has
        failed."""

        def ended() -> None:
            self._adopting -= 1
            arrived()

        self._adopting += 1
        _Adoption(self._open, connection, ended).advance()

    def _accept(self) -> asyncio.BaseProtocol:
        """A connection is accepted: accept the others that wait, and open it."""
        most = ACCEPTS if self.tls is None else TLS_ACCEPTS
        reuse_port.accept_waiting(self._sockets, self.adopt, most=most)
        return self._open()

    def _open(self) -> asyncio.BaseProtocol:
        self._accepted += 1
        memory, limit = self._context.memory, self._context.settings.max_connections
        # Answers to connections above the limits are bounded too; a TLS handshake costs more than one.
        is_hopeless = memory.is_full and (self.tls is not None or memory.level is Level.CUTTING)
        if is_hopeless or self._context.connections.exceed(limit + max(1, limit // 10)):
            return _Refusal()
        return Accepted(self._context, self.tls)

    @property
    def connections(self) -> int:
        """Number of connections, including those being adopted."""
        return len(self._context.connections) + self._adopting

    def sweep(self) -> Iterator[None]:
        """Look at all deadlines, at those of one connection in each step. A connection that fails at it is ended, so
        that those behind it have their turn the next time."""
        connections, clock = self._context.connections, self._context.clock
        for connection in list(connections):
            if connection in connections:
                try:
                    connection.sweep(clock())
                except Exception:
                    connection.abort()
                    raise
                yield

    async def leave_group(self) -> bool:
        """Stop accepting, without losing a connection, if other processes listen on the same addresses: see
        `net.reuse_port`. Returns False if there are none, and then still accepts."""
        if not await reuse_port.leave(self._sockets, self.adopt, lambda: self._accepted):
            return False
        self.stop_accepting()
        return True

    def drain(self) -> None:
        """Accept no new connections; the others end after their current answer, or their next one if they are idle."""
        self._context.drain.has_begun = True
        reuse_port.accept_waiting(self._sockets, self.adopt)
        self.stop_accepting()
        for connection in list(self._context.connections):
            connection.drain()

    async def settle(self) -> None:
        """Wait until `connections` includes all accepted ones: a protocol gets its transport an iteration later."""
        await asyncio.sleep(0)

    def end_drain(self) -> None:
        for connection in list(self._context.connections):
            connection.end_drain()

    async def close(self) -> None:
        """Close everything at once."""
        self.stop_accepting()
        for connection in list(self._context.connections):
            connection.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def stop_accepting(self) -> None:
        """Close the listening sockets. Other processes that hold them go on accepting."""
        self._sockets.clear()
        for server in self._servers:
            server.close()


class _Adoption(asyncio.BufferedProtocol):
    """The adoption of a connection, and its protocol until it is made, so that the process's load is reported without
    a gap.

    It does what a task would do, but begins at once, not in the next iteration of the event loop: under load these take
    long, and each of them delays the answer.
    """

    __slots__ = ("_connection", "_ended", "_is_over", "_open", "_steps")

    def __init__(
        self,
        open_protocol: Callable[[], asyncio.BaseProtocol],
        connection: socket.socket,
        ended: Callable[[], object],
    ) -> None:
        self._open = open_protocol
        self._connection = connection
        self._ended = ended
        self._is_over = False
        adopting = asyncio.get_running_loop().connect_accepted_socket(lambda: self, connection)
        self._steps: Coroutine[object, object, object] = adopting

    def advance(self, waited: object = None) -> None:
        """Go on until it waits, or is over."""
        try:
            waiting = cast(asyncio.Future[object], self._steps.send(None))
        except StopIteration:
            self._end()
        except Exception as error:
            self._connection.close()
            self._end()
            if not isinstance(error, OSError):  # the client has left, or no descriptor is free for the event loop
                raise
        else:
            waiting.add_done_callback(self.advance)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._open()
        cast(asyncio.Transport, transport).set_protocol(protocol)
        protocol.connection_made(transport)
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._ended()


class _Refusal(asyncio.Protocol):
    """Closes without an answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
