"""WebSockets at both ends of a relay, by the `websockets` library: over HTTP/1.1, and a client over HTTP/2."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as WebSocketProtocol
from websockets.protocol import Side, State

from .h2_lab import h2_client
from .h2_peer import H2Answer
from .h2_wire import H2Wire
from .lab import Lab

Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


class WebSocketProvider:
    """A server; `requests` are the handshakes that it saw, `ends` the close codes."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.connections: list[ServerConnection] = []
        self.url = ""

    async def start(self, lab: Lab, *, tls: ssl.SSLContext | None = None, **options: Any) -> WebSocketProvider:
        server = await serve(self._serve, "127.0.0.1", 0, ssl=tls, max_size=None, **options)
        port = next(iter(server.sockets)).getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://localhost:{port}"
        lab.on_exit(server.close)
        return self

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        await self._handler(connection)

    def header(self, name: str) -> str | None:
        """Of the last handshake."""
        request = self.connections[-1].request
        assert request is not None
        return request.headers.get(name)

    @property
    def target(self) -> str:
        request = self.connections[-1].request
        assert request is not None
        return request.path


async def provider(lab: Lab, handler: Handler = echo, **options: Any) -> WebSocketProvider:
    return await WebSocketProvider(handler).start(lab, **options)


def client(port: int, path: str = "/v1/socket", **options: Any) -> connect:
    """To be entered, or awaited."""
    scheme = "ws" if options.get("ssl") is None else "wss"
    return connect(f"{scheme}://localhost:{port}{path}", max_size=None, proxy=None, **options)


def response_done(number: int, *, input_tokens: int, output_tokens: int, padding: int = 0) -> str:
    """An event of OpenAI's Realtime API."""
    usage = {
        "total_tokens": input_tokens + output_tokens,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "input_token_details": {"text_tokens": input_tokens, "audio_tokens": 0, "cached_tokens": input_tokens // 2},
        "output_token_details": {"text_tokens": output_tokens, "audio_tokens": 0},
    }
    content = [{"type": "output_text", "text": "x" * padding}]
    response = {"id": f"resp_{number}", "status": "completed", "output": [{"content": content}], "usage": usage}
    return orjson.dumps({"type": "response.done", "event_id": f"event_{number}", "response": response}).decode()


class H2WebSocket:
    """A client of RFC 8441."""

    def __init__(self, wire: H2Wire, stream_id: int) -> None:
        self.wire = wire
        self.stream_id = stream_id
        self._protocol = WebSocketProtocol(Side.CLIENT, state=State.OPEN, max_size=None)
        self._read = 0
        self.messages: list[Frame] = []

    @classmethod
    async def open(
        cls, lab: Lab, port: int, path: str = "/v1/socket", *headers: tuple[str, str], tls: ssl.SSLContext | None = None
    ) -> H2WebSocket:
        wire = await h2_client(lab, port, tls=tls)
        fields = [(":protocol", "websocket"), ("sec-websocket-version", "13"), *headers]
        stream_id = wire.peer.request("CONNECT", path, fields, end=False)
        self = cls(wire, stream_id)
        await wire.until(lambda: self.answer.status or self.answer.ended)
        return self

    @property
    def answer(self) -> H2Answer:
        return self.wire.peer.answers[self.stream_id]

    async def send(self, text: str) -> None:
        self._protocol.send_text(text.encode())
        await self.flush()

    async def close(self, code: int = 1000) -> None:
        self._protocol.send_close(code)
        await self.flush()

    async def flush(self) -> None:
        for data in self._protocol.data_to_send():
            while data:
                await self.wire.until(lambda: self.wire.peer.room(self.stream_id) > 0)
                room = self.wire.peer.room(self.stream_id)
                self.wire.peer.upload(self.stream_id, data[:room])
                data = data[room:]
        await self.wire.flush()

    async def receive(self) -> Frame:
        """The next frame."""
        while not self.messages:
            await self.wire.until(lambda: len(self.answer.body) > self._read or self.answer.ended)
            data = self.answer.body[self._read :]
            if not data:
                raise EOFError(f"it ended: {self.answer}")
            self._read += len(data)
            self._protocol.receive_data(data)
            self.messages += [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        return self.messages.pop(0)

    async def text(self) -> str:
        """The next message, in however many fragments."""
        pieces = []
        while True:
            frame = await self.receive()
            if frame.opcode in (Opcode.TEXT, Opcode.CONT):
                pieces.append(bytes(frame.data))
                if frame.fin:
                    return b"".join(pieces).decode()


def slow_socket(port: int, receive_buffer: int) -> socket.socket:
    """Connected, with a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    return connection


async def closed(connection: ClientConnection | ServerConnection) -> int | None:
    """The code by which it was closed."""
    async with asyncio.timeout(10):
        await connection.wait_closed()
    return connection.close_code
