"""A client of HTTP/2 on a socket, over TLS where wanted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

from .h2_peer import H2Answer, H2Peer
from .wire import PATIENCE, End, Wire


class TlsWire(Wire):
    """A `Wire` through TLS."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(connection)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")

    async def shake_hands(self) -> None:
        """Raises ssl.SSLError, or EOFError when the other side ends it."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                await super().send(self._out.read())
                return

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await super().send(self._out.read())

    async def receive(self, size: int = 65536) -> bytes:
        return await super().receive(size) if self.buffer else await self._decrypted(size)

    async def _more(self) -> None:
        data = await self._decrypted()
        if not data:
            raise EOFError(f"the connection ended; unread: {bytes(self.buffer)[-200:]!r}")
        self.buffer += data

    async def _decrypted(self, size: int = 65536) -> bytes:
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                try:
                    await self._exchange()
                except EOFError:
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    async def _exchange(self) -> None:
        if self._out.pending:
            await super().send(self._out.read())
        async with asyncio.timeout(PATIENCE):  # past the buffer, which holds what was decrypted
            data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        if not data:
            raise EOFError("the connection ended")
        self._in.write(data)


class H2Wire:
    """A client that greeted. `until` reads and answers until something has come."""

    def __init__(self, wire: Wire, peer: H2Peer) -> None:
        self.wire = wire
        self.peer = peer
        self.end: End | None = None
        """How the relay ended the connection; None: it has not."""

    async def flush(self) -> None:
        if data := self.peer.take():
            await self.wire.send(data)

    async def raw(self, data: bytes) -> None:
        self.peer.raw(data)
        await self.flush()

    async def until(self, condition: Callable[[], object], *, within: float = PATIENCE) -> None:
        """Raises EOFError when the connection ends first."""
        await self.flush()
        async with asyncio.timeout(within):
            while not condition():
                if self.end is not None:
                    raise EOFError(f"the connection ended ({self.end}), {self.peer.goaways}")
                await self.step()

    async def step(self) -> None:
        """Read once, and answer."""
        try:
            data = await self.wire.receive()
        except (ConnectionResetError, BrokenPipeError):
            self.end = End.RESET
            return
        if not data:
            self.end = End.CLOSED
            return
        self.peer.hear(data)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await self.flush()

    async def answer(self, stream_id: int) -> H2Answer:
        """The whole answer, or its reset."""
        await self.until(lambda: self.peer.answers[stream_id].ended)
        return self.peer.answers[stream_id]

    async def get(self, path: str = "/v1/test", **options: str) -> H2Answer:
        """A request without a body; `options` are headers."""
        headers = [(name.replace("_", "-"), value) for name, value in options.items()]
        return await self.answer(self.peer.request(path=path, headers=headers))

    async def ended(self) -> End:
        """Read until the relay ends the connection."""
        await self.flush()
        async with asyncio.timeout(PATIENCE):
            while self.end is None:
                await self.step()
        return self.end

    def close(self) -> None:
        self.wire.close()


async def connect(
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    peer: H2Peer | None = None,
    receive_buffer: int | None = None,
) -> H2Wire:
    """A client with prior knowledge, or one that agrees on h2 by ALPN."""
    wire = await Wire.connect(port, receive_buffer=receive_buffer)
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a window's update is not to wait
    if tls is not None:
        wire = await secure(wire, tls)
        assert wire.tls.selected_alpn_protocol() == "h2"
    client = H2Wire(wire, peer or H2Peer())
    await client.flush()
    return client


async def secure(wire: Wire, context: ssl.SSLContext) -> TlsWire:
    """TLS on a connection that stands."""
    secured = TlsWire(wire.socket, context)
    try:
        await secured.shake_hands()
    except BaseException:
        wire.close()
        raise
    return secured
