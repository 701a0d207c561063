"""The load client: many HTTP/1.1 connections on one epoll set, as cheap as Python allows.

It lives in the bench's own process. What a connection does with its bytes is up to subclasses of `Connection`.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Generic, TypeVar

READ_SIZE = 65536
"""Bytes asked for in one recv()."""

BODY = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"Go on."}]}'


def request(simulate: str = "", *, stream: bool = True, path: str = "/v1/chat/completions") -> bytes:
    """A chat-completions request; `simulate` is the simulator's script. With another path it is a request that the
    relay does not recognise, and does not count."""
    body = BODY if stream else BODY.replace(b"true", b"false")
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer bench\r\nx-simulate: {simulate}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """A client connection. `received` counts the bytes read, including heads and framing; `ended` is true once the
    relay has closed or reset it."""

    __slots__ = ("ended", "received", "socket")

    def __init__(self, port: int, *, host: str = "127.0.0.1", receive_buffer: int | None = None) -> None:
        """`receive_buffer` is SO_RCVBUF in bytes, None: the kernel's own choice."""
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.received = 0
        self.ended = False

    def send(self, data: bytes) -> None:
        """Send a request. Requests are small and the socket's buffer takes them."""
        self.socket.setblocking(True)
        self.socket.sendall(data)
        self.socket.setblocking(False)

    def room(self) -> int:
        """Bytes that may be read now; 0 stops reading this connection until `Client.watch` is called again."""
        return READ_SIZE

    def on_data(self, data: bytes) -> None:
        """Bytes as they came from the socket."""

    def leave(self, *, reset: bool) -> None:
        """Close with a RST, or else with a FIN. The kernel sends a RST in either case if received bytes are unread."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


C = TypeVar("C", bound=Connection)


class Client(Generic[C]):
    """Reads many connections. A context manager that closes them all."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.connections: dict[int, C] = {}
        self._watched: set[int] = set()

    def __enter__(self) -> Client[C]:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections.values():
            connection.leave(reset=True)
        self._epoll.close()

    def add(self, connection: C) -> C:
        self.connections[connection.socket.fileno()] = connection
        self.watch(connection)
        return connection

    def watch(self, connection: C) -> None:
        """Read it, or read it again after it had no room."""
        descriptor = connection.socket.fileno()
        if descriptor not in self._watched and not connection.ended:
            self._watched.add(descriptor)
            self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, connection: C) -> None:
        """Read it no more; closing it is left to the caller."""
        descriptor = connection.socket.fileno()
        self._unwatch(descriptor)
        del self.connections[descriptor]

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Read for so long, or until `until` holds; it is asked after each round of reads. True if it came to hold."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if until is not None and until():
                return True
            if left <= 0:
                return False
            self._turn(min(left, 0.05))

    def run_until_all(self, holds: Callable[[C], bool], seconds: float) -> list[C]:
        """Read until `holds` of every connection or the time is over. Returns those of which it does not."""
        waiting: list[C] = list(self.connections.values())

        def done() -> bool:
            while waiting and holds(waiting[-1]):
                waiting.pop()
            return not waiting

        self.run(seconds, done)
        return [connection for connection in self.connections.values() if not holds(connection)]

    def _turn(self, timeout: float) -> None:
        connections = self.connections
        for descriptor, _ in self._epoll.poll(timeout):
            connection = connections[descriptor]
            room = connection.room()
            if not room:
                self._unwatch(descriptor)
                continue
            try:
                data = connection.socket.recv(room)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                connection.received += len(data)
                connection.on_data(data)
            else:
                connection.ended = True
                self._unwatch(descriptor)

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.remove(descriptor)
            self._epoll.unregister(descriptor)


def drain(connection: Connection) -> None:
    """Read whatever has come."""
    try:
        while data := connection.socket.recv(READ_SIZE):
            connection.received += len(data)
    except OSError:
        pass
