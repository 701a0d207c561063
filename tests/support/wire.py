"""A connection as tests want it: bytes in, bytes out, and how exactly it ended."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

PATIENCE = 15.0
"""Seconds after which a test gives up waiting; nothing here is expected to take that long."""

Headers = list[tuple[str, str]]


class End(Enum):
    """How the other side ended a connection."""

    CLOSED = "closed"
    RESET = "reset"


@dataclass
class Message:
    """A request or a response, body taken out of its framing. Header names are lower case."""

    start: str
    headers: Headers
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    """The body's chunks where it came in chunks."""

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.headers]

    def all(self, name: str) -> list[str]:
        return [value for field_name, value in self.headers if field_name == name]

    def get(self, name: str) -> str | None:
        """The only value of `name`; None when there is none."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


class Wire:
    """One end of a connection. Every wait ends after PATIENCE with TimeoutError."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.buffer = bytearray()
        """Read, but not asked for yet."""

    @classmethod
    async def connect(cls, port: int, *, host: str = "127.0.0.1", receive_buffer: int | None = None) -> Wire:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or small frames wait for delayed ACKs
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(connection, (host, port))
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    @classmethod
    async def connect_path(cls, path: str) -> Wire:
        """By a Unix socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self, size: int = 65536) -> bytes:
        """What comes next; b"" at the end. Raises ConnectionResetError."""
        if self.buffer:
            data = bytes(self.buffer[:size])
            del self.buffer[:size]
            return data
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(self.socket, size)

    async def until(self, marker: bytes) -> bytes:
        """Bytes up to and with `marker`. Raises EOFError when the connection ends before."""
        start = 0
        while (found := self.buffer.find(marker, start)) < 0:
            start = max(0, len(self.buffer) - len(marker) + 1)
            await self._more()
        return self._take(found + len(marker))

    async def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self._more()
        return self._take(size)

    async def rest(self) -> tuple[bytes, End]:
        """Everything that still comes, and how the connection ended."""
        pieces = []
        try:
            while data := await self.receive():
                pieces.append(data)
        except (ConnectionResetError, BrokenPipeError):
            return b"".join(pieces), End.RESET
        return b"".join(pieces), End.CLOSED

    async def is_quiet(self, seconds: float = 0.1) -> bool:
        """Whether nothing comes for so long, not even an end."""
        if self.buffer:
            return False
        try:
            async with asyncio.timeout(seconds):
                self.buffer += await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        except TimeoutError:
            return True
        return False

    # --- messages ---

    async def head(self) -> Message:
        """The head of a request or a response."""
        raw = (await self.until(b"\r\n\r\n")).decode("latin-1")
        start, *lines = raw[:-4].split("\r\n")
        headers = []
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon, f"no header: {line!r}"
            headers.append((name.lower(), value.strip()))
        return Message(start, headers)

    async def request(self) -> Message:
        """A request with its body."""
        message = await self.head()
        await self._read_body(message)
        return message

    async def response(self, method: str = "GET") -> Message:
        """A final response with its body; it must end as its framing says. Interim ones are left out."""
        message = await self.head()
        while message.status < 200:
            message = await self.head()
        if method == "HEAD" or message.status in (204, 304):
            return message
        if message.get("content-length") is None and message.get("transfer-encoding") is None:
            message.body, end = await self.rest()
            assert end is End.CLOSED, "a body that ends with its connection was broken off"
        else:
            await self._read_body(message)
        return message

    async def rest_of(self, head: Message) -> tuple[bytes, bool]:
        """The body behind `head`, and whether it was broken off."""
        try:
            await self._read_body(head)
        except (EOFError, ConnectionResetError):
            return b"", True
        if head.get("content-length") is None and head.get("transfer-encoding") is None:
            return b"", (await self.rest())[1] is End.RESET
        return head.body, False

    async def chunk(self) -> bytes:
        """One chunk's bytes; b"" for the last chunk, whose trailers are read too."""
        size = int((await self.until(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            while await self.until(b"\r\n") != b"\r\n":
                pass
            return b""
        data = await self.exactly(size)
        assert await self.exactly(2) == b"\r\n"
        return data

    async def _read_body(self, message: Message) -> None:
        length = message.get("content-length")
        if message.get("transfer-encoding") is not None:
            assert length is None, "both Content-Length and Transfer-Encoding"
            while data := await self.chunk():
                message.chunks.append(data)
            message.body = b"".join(message.chunks)
        elif length is not None:
            message.body = await self.exactly(int(length))

    # --- ends ---

    def half_close(self) -> None:
        """Say that nothing more will be sent (FIN), and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Hang up: FIN, or RST by the kernel when something is unread."""
        self.socket.close()

    def reset(self) -> None:
        """Hang up with RST."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def _more(self) -> None:
        async with asyncio.timeout(PATIENCE):
            data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        if not data:
            raise EOFError(f"the connection ended; unread: {bytes(self.buffer)[-200:]!r}")
        self.buffer += data


def request(
    method: str = "GET",
    target: str = "/v1/test",
    headers: Iterable[str] = (),
    *,
    body: bytes | None = None,
    version: str = "1.1",
) -> bytes:
    """A request's bytes; `headers` are whole lines. A body brings its Content-Length."""
    lines = [f"{method} {target} HTTP/{version}", "Host: relay.test", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def response(body: bytes = b"", headers: Iterable[str] = (), *, status: str = "200 OK") -> bytes:
    """A response's bytes with a Content-Length; `headers` are whole lines."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
"""The head of a streamed answer."""
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
