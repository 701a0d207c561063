"""Reads the simulator's streams to their end and checks them against the request.

Chunks are decoded here and not by the package, so that the relay does not judge itself.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(rb'"tok(\d+) ')


class EventChecker:
    """Checks the bytes of one HTTP/1.1 answer, head included, or with `check` those of a body alone. `in_order` is true
    while its content events are 0, 1, 2, ..."""

    __slots__ = ("_body_tail", "_has_head", "_tail", "done", "events", "in_order")

    def __init__(self) -> None:
        self.events = 0
        self.in_order = True
        self.done = False
        """The last chunk has come; with `check` it is the caller's to set."""
        self._has_head = False
        self._tail = b""
        self._body_tail = b""

    def feed(self, data: bytes) -> None:
        data = self._tail + data
        if not self._has_head:
            head, blank, rest = data.partition(b"\r\n\r\n")
            if not blank:
                self._tail = data
                return
            self._has_head = True
            self.in_order = head.startswith(b"HTTP/1.1 200") and b"chunked" in head.lower()
            data = rest
        self.check(self._unchunk(data))

    def is_whole(self, events: int) -> bool:
        """Did so many events come, each once and in order, and the end after them?"""
        return self.done and self.in_order and self.events == events

    def _unchunk(self, data: bytes) -> bytes:
        """The chunks that are there as a whole; what is left waits in `_tail`."""
        pieces = []
        position = 0
        while True:
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                break
            size = int(data[position:line_end], 16)
            chunk_end = line_end + 2 + size
            if chunk_end + 2 > len(data):
                break
            if size == 0:
                self.done = True
            pieces.append(data[line_end + 2 : chunk_end])
            position = chunk_end + 2
        self._tail = data[position:]
        return b"".join(pieces)

    def check(self, body: bytes) -> None:
        """Take body bytes that have no chunks around them."""
        body = self._body_tail + body
        end = body.rfind(b"\n\n") + 2
        if end < 2:
            self._body_tail = body
            return
        self._body_tail = body[end:]
        numbers = [int(number) for number in _NUMBER.findall(body, 0, end)]
        if numbers != list(range(self.events, self.events + len(numbers))):
            self.in_order = False
        self.events += len(numbers)
