"""Messages between the parent and one worker over a Unix socket, including connections that the parent hands over.

A message is a length (4 bytes), a kind (1 byte) and a payload. Descriptors are sent with the bytes (SCM_RIGHTS): those
of a message go with its first byte, and the kernel ends a read after bytes that carry some (unix(7)).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import orjson

_HEAD = struct.Struct("<IB")
_INT = array.array("i").itemsize
MAX_SOCKETS = 64
"""Most connections of one message; the kernel allows 253."""
_ANCILLARY = socket.CMSG_SPACE(MAX_SOCKETS * _INT)
READ = 1 << 18
READS = 8
"""Bytes of one read, and reads per iteration of the event loop."""
PIECE = 1 << 16
"""Bytes of one write, so that the reader's event loop is not held up."""


class Kind(IntEnum):
    """Sent by the parent: ADOPT, RELOAD, DRAIN, STOP, PING and ASK; by a worker: the others."""

    READY = 1
    """The worker serves. JSON."""
    ADOPT = 2
    """Accepted connections for the worker, as descriptors; the payload is their number."""
    RELOAD = 3
    RELOADED = 4
    """JSON: the list of problems, empty if there are none."""
    LEAVING = 5
    """The worker was told to end by somebody else, and asks to be drained. No connections follow the DRAIN."""
    DRAIN = 6
    STOP = 7
    """End at once."""
    PING = 8
    PONG = 9
    ASK = 10
    """A number (4 bytes), and the query."""
    ANSWER = 11
    """The number of an ASK (4 bytes), a zero byte, and the answer; only the number if it failed."""
    FAILED = 12
    """JSON: the problems that prevent the worker's start."""


@dataclass(slots=True)
class Message:
    kind: Kind
    payload: bytes = b""
    descriptors: list[int] = field(default_factory=list)
    """Owned by the receiver, who closes them."""

    def json(self) -> Any:
        return orjson.loads(self.payload)


class MessageReader:
    """Turns bytes and descriptors into messages. No I/O."""

    __slots__ = ("_buffer", "_descriptors")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def feed(self, data: bytes, descriptors: Sequence[int] = ()) -> list[Message]:
        """Returns the messages that are complete. Raises ValueError for an unknown kind."""
        self._buffer += data
        self._descriptors += descriptors
        messages = []
        while len(self._buffer) >= _HEAD.size:
            length, kind = _HEAD.unpack_from(self._buffer)
            end = _HEAD.size + length
            if len(self._buffer) < end:
                break
            message = Message(Kind(kind), bytes(self._buffer[_HEAD.size : end]))
            del self._buffer[:end]
            if message.kind is Kind.ADOPT:
                message.descriptors, self._descriptors = self._descriptors, []
            messages.append(message)
        return messages


def framed(kind: Kind, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload), kind) + payload


class Channel:
    """One end of the socket. No callbacks are called once it is closed."""

    __slots__ = ("_loop", "_lost", "_message", "_out", "_reader", "_roomy", "_socket")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_message: Callable[[Message], None],
        on_lost: Callable[[list[socket.socket]], None],
        on_roomy: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_lost`: the other end is closed, or its process is gone; called with the connections that were not sent.
        `on_roomy`: it is no longer `is_full`."""
        self._socket = sock
        self._message, self._lost, self._roomy = on_message, on_lost, on_roomy
        self._loop = loop
        self._reader = MessageReader()
        self._out: deque[tuple[memoryview, list[socket.socket]]] = deque()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self.receive)

    @property
    def is_full(self) -> bool:
        """Whether messages wait for the other end to read."""
        return bool(self._out)

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() < 0

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        self._send(framed(kind, payload), [])

    def send_json(self, kind: Kind, value: Any) -> None:
        self.send(kind, orjson.dumps(value))

    def give(self, connections: list[socket.socket]) -> None:
        """Hand over up to MAX_SOCKETS connections, which are closed here once sent."""
        self._send(framed(Kind.ADOPT, orjson.dumps(len(connections))), connections)

    def receive(self) -> None:
        """Read what is available."""
        for _ in range(READS):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(READ, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            if not data:
                self._lost(self.close())
                return
            for message in self._reader.feed(data, _descriptors(ancillary)):
                self._message(message)
                if self.is_closed:
                    return

    def close(self) -> list[socket.socket]:
        """Returns the connections that were not sent."""
        if self.is_closed:
            return []
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        left = [connection for _, connections in self._out for connection in connections]
        self._out.clear()
        return left

    def _send(self, data: bytes, connections: list[socket.socket]) -> None:
        if self.is_closed:
            for connection in connections:
                connection.close()
            return
        was_full = self.is_full
        self._out.append((memoryview(data), connections))
        if not was_full:
            self._flush()
            if self._out:
                self._loop.add_writer(self._socket.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        self._flush()
        if not self._out:
            self._loop.remove_writer(self._socket.fileno())
            self._roomy()

    def _flush(self) -> None:
        while self._out:
            data, connections = self._out[0]
            try:
                sent = self._write(data[:PIECE], connections)
            except BlockingIOError:
                return
            except OSError:
                # The reader notices that the other end is gone; the unsent connections are given to others then.
                return
            for connection in connections:
                connection.close()
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], [])

    def _write(self, data: memoryview, connections: list[socket.socket]) -> int:
        if not connections:
            return self._socket.send(data)
        numbers = array.array("i", [connection.fileno() for connection in connections])
        return self._socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % _INT])
    return found.tolist()


def as_sockets(message: Message) -> list[socket.socket]:
    """The connections of an ADOPT. Descriptors that turn out not to be sockets are closed."""
    sockets = []
    for descriptor in message.descriptors:
        try:
            sockets.append(socket.socket(fileno=descriptor))
        except OSError:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    return sockets
