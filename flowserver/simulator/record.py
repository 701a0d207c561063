"""What the simulator remembers of each stream."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

KEPT = 10_000
"""Ended streams and request heads that are remembered."""


class Record:
    """One stream. Times are of CLOCK_MONOTONIC, comparable between the processes of a machine; None: not yet."""

    __slots__ = (
        "buffered",
        "bytes_written",
        "cancelled",
        "ended",
        "events",
        "first_byte",
        "name",
        "request",
        "started",
        "state",
    )

    def __init__(self, name: str, request: dict[str, Any], buffered: Callable[[], int]) -> None:
        self.name = name
        self.request = request
        self.buffered = buffered
        """Bytes that the transport holds and the kernel has not taken."""
        self.state = "waiting"
        """waiting, streaming, paused, silent, done, cancelled, aborted"""
        self.events = 0
        self.bytes_written = 0
        self.started = time.monotonic()
        self.first_byte: float | None = None
        self.ended: float | None = None
        self.cancelled: float | None = None

    @property
    def is_open(self) -> bool:
        return self.ended is None

    @property
    def bytes_accepted(self) -> int:
        """Body bytes that the socket has taken."""
        return max(0, self.bytes_written - self.buffered())

    def end(self, state: str) -> None:
        if self.ended is None:
            held = self.buffered()
            self.buffered = lambda: held
            self.state = state
            self.ended = time.monotonic()
            if state == "cancelled":
                self.cancelled = self.ended

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "state": self.state,
            "events": self.events,
            "bytes_written": self.bytes_written,
            "bytes_accepted": self.bytes_accepted,
            "started": self.started,
            "first_byte": self.first_byte,
            "ended": self.ended,
            "cancelled": self.cancelled,
            "request": self.request,
        }


class Records:
    """All streams and request heads, the ended ones bounded."""

    def __init__(self) -> None:
        self._open: set[Record] = set()
        self._ended: deque[Record] = deque(maxlen=KEPT)
        self.requests: deque[tuple[str, str, dict[str, str]]] = deque(maxlen=KEPT)
        """(method, target, headers) of every request that was read."""
        self._events = 0
        self._written = 0
        self._accepted = 0
        self.connections = 0
        self.connections_open = 0
        self.requests_total = 0

    def add(self, record: Record) -> None:
        self._open.add(record)

    def end(self, record: Record, state: str) -> None:
        if record.is_open:
            record.end(state)
            self._open.discard(record)
            self._ended.append(record)
            self._events += record.events
            self._written += record.bytes_written
            self._accepted += record.bytes_accepted

    def forget_ended(self) -> None:
        self._ended.clear()

    @property
    def streams(self) -> list[dict[str, Any]]:
        """In the order of their beginning."""
        records = sorted((*self._ended, *self._open), key=lambda record: record.started)
        return [record.as_json() for record in records]

    def totals(self) -> dict[str, int]:
        return {
            "open": len(self._open),
            "events": self._events + sum(record.events for record in self._open),
            "bytes_written": self._written + sum(record.bytes_written for record in self._open),
            "bytes_accepted": self._accepted + sum(record.bytes_accepted for record in self._open),
            "requests": self.requests_total,
            "connections": self.connections,
            "connections_open": self.connections_open,
        }
