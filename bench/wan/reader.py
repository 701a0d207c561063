"""A client that reads at a pace of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable

from bench.client import READ_SIZE, Client, Connection

TURN = 0.002
"""Seconds between two reads of one client, at least."""

LEAST = 512
"""Bytes of a read, at least: fewer would only keep the kernel busy."""

CATCH_UP = 0.1
"""Seconds for which nothing came that a reader makes up for: it is to be no faster than its pace."""


class Body:
    """Counts the bytes of one chunked HTTP/1.1 answer that are body: some relays join chunks, so that the bytes on the
    wire tell less."""

    __slots__ = ("_has_head", "_left", "_line", "size")

    def __init__(self) -> None:
        self.size = 0
        self._has_head = False
        self._left = 0
        """Of the chunk that has begun."""
        self._line = b""
        """What has come of the head, or of a chunk's line."""

    def feed(self, data: bytes) -> None:
        if not self._has_head:
            self._line, blank, data = (self._line + data).partition(b"\r\n\r\n")
            if not blank:
                return
            self._has_head = True
            self._line = b""
        position = 0
        while position < len(data):
            if self._left:
                taken = min(self._left, len(data) - position)
                self.size += taken
                self._left -= taken
                position += taken
            else:
                position = self._read_line(data, position)

    def _read_line(self, data: bytes, position: int) -> int:
        """A chunk's size, or the line's end after a chunk. Returns where it ends."""
        end = data.find(b"\n", position) + 1 or len(data)
        self._line += data[position:end]
        if self._line.endswith(b"\n"):
            if digits := self._line.strip():
                self._left = int(digits, 16)
            self._line = b""
        return end


class Reader(Connection):
    """Reads `rate` bytes per second where there are so many; None: whatever comes, 0: nothing."""

    __slots__ = ("_due_since", "_started", "body", "rate")

    def __init__(self, port: int, *, host: str, rate: float | None = None, receive_buffer: int | None = None) -> None:
        super().__init__(port, host=host, receive_buffer=receive_buffer)
        self.rate = rate
        self.body = Body()
        self._started = self._due_since = time.monotonic()

    def start(self, rate: float) -> None:
        """Read at another pace from now on. To be called before anything is read."""
        self.rate = rate
        self._started = self._due_since = time.monotonic()

    def share_read(self) -> float:
        """Of what its pace allows, until now."""
        return self.received / ((self.rate or 0) * (time.monotonic() - self._started))

    def room(self) -> int:
        if self.rate is None:
            return READ_SIZE
        due = int(self.rate * (time.monotonic() - self._due_since)) - self.received
        most = max(2 * LEAST, int(self.rate * CATCH_UP))
        if self.rate and due > most:
            self._due_since += (due - most) / self.rate
            due = most
        return min(READ_SIZE, due) if due >= max(LEAST, self.rate * TURN) else 0

    def on_data(self, data: bytes) -> None:
        self.body.feed(data)


def read_for(client: Client[Reader], readers: Iterable[Reader], seconds: float, turn: float = TURN) -> None:
    """Let them read; each gets its chance every `turn` seconds."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        client.run(min(turn, left))
        for reader in readers:
            client.watch(reader)
