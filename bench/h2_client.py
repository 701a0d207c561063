"""The load client's side of HTTP/2, for `bench.client.Client`: frames by hand, no library in the measured path."""

from __future__ import annotations

import struct
from functools import cache

from bench.client import BODY, READ_SIZE, Connection
from bench.frames import (
    ACK,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WIDE,
    frame,
    header_block,
    settings,
    split,
    window_update,
)

CREDIT_STEP = 1 << 20
"""Bytes received after which the connection's window is opened again by as many."""


class H2Connection(Connection):
    """A connection with many streams, whose behaviour subclasses define. `window` is the initial window of each stream,
    in bytes; only `credit` opens it again. The connection's own window is kept wide."""

    __slots__ = ("_next", "_settled", "_tail", "_uncredited", "goaway", "open", "resets")

    def __init__(self, port: int, *, window: int = WIDE) -> None:
        super().__init__(port)
        self.open: set[int] = set()
        """Streams that have not come to their end."""
        self.resets = 0
        """Streams that the relay reset."""
        self.goaway: tuple[int, int] | None = None
        """(last stream, error code) of the relay's last GOAWAY."""
        self._next = 1
        self._settled = False
        self._tail = b""
        self._uncredited = 0
        self.socket.setblocking(True)
        wanted = settings({ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: window})
        self.socket.sendall(PREFACE + wanted + window_update(0, WIDE - FIRST_WINDOW))
        while not self._settled:
            data = self.socket.recv(READ_SIZE)
            if not data:
                raise RuntimeError("the relay closed the connection before its SETTINGS")
            self.receive(data)
        self.socket.setblocking(False)

    def request(self, simulate: str = "", *, stream: bool = True) -> int:
        """Send one, as `bench.client.request` makes it. Returns its stream."""
        number = self._next
        self._next += 2
        self.open.add(number)
        self.send(request(number, simulate, stream=stream))
        return number

    def credit(self, stream: int, size: int) -> None:
        """Let `size` more bytes come."""
        self.send(window_update(stream, size))

    def on_data(self, data: bytes) -> None:
        self.receive(data)

    def on_stream_data(self, stream: int, data: bytes) -> None:
        """What one DATA frame brought."""

    def on_stream_end(self, stream: int, *, whole: bool) -> None:
        """A clean end, or a reset by the relay."""

    def receive(self, data: bytes) -> None:
        """Take frames apart."""
        if self._tail:
            data = self._tail + data
        position = 0
        for kind, flags, stream, start, position in split(data):
            if kind == DATA:
                self._uncredited += position - start
                self.on_stream_data(stream, data[start:position])
                if flags & END_STREAM:
                    self._end(stream, whole=True)
            elif kind == HEADERS and flags & END_STREAM:
                self._end(stream, whole=True)
            elif kind != HEADERS:
                self._control(kind, flags, stream, data[start:position])
        self._tail = data[position:]
        if self._uncredited >= CREDIT_STEP:
            self.send(window_update(0, self._uncredited))
            self._uncredited = 0

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == RST_STREAM:
            self.resets += 1
            self._end(stream, whole=False)
        elif kind == GOAWAY:
            last, code = struct.unpack_from(">II", payload)
            self.goaway = (last & WIDE, code)
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self._settled = True
            self.send(frame(kind, ACK, 0, payload if kind == PING else b""))

    def _end(self, stream: int, *, whole: bool) -> None:
        self.open.discard(stream)
        self.on_stream_end(stream, whole=whole)


def request(number: int, simulate: str = "", *, stream: bool = True) -> bytes:
    """The frames of a chat-completions request on the stream `number`."""
    block, body = _request(simulate, stream)
    return frame(HEADERS, END_HEADERS, number, block) + frame(DATA, END_STREAM, number, body)


@cache
def _request(simulate: str, stream: bool) -> tuple[bytes, bytes]:
    body = BODY if stream else BODY.replace(b"true", b"false")
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/v1/chat/completions",
        b":authority": b"bench",
        b"content-type": b"application/json",
        b"authorization": b"Bearer bench",
        b"x-simulate": simulate.encode(),
        b"content-length": b"%d" % len(body),
    }
    return header_block(fields), body


def spread(total: int, connections: int) -> list[int]:
    """How many of `total` streams each of so many connections has: as even as can be."""
    return [total // connections + (number < total % connections) for number in range(connections)]
