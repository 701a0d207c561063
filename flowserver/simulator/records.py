"""What the simulator records about each stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

KEPT = 10_000
"""Finished streams that are remembered."""

OPEN_STATES = frozenset({"waiting", "streaming", "silent", "paused"})


class SocketState(Protocol):
    """The connection of a stream, as a record needs it."""

    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        ...

    def unacknowledged(self) -> int:
        """Bytes that the kernel has taken and the other side's kernel has not."""
        ...


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a client asked for."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case; values of a repeated name joined by ", "."""


class StreamRecord:
    """One request to a provider's path and what became of it. Times: CLOCK_MONOTONIC in seconds, None: not yet."""

    __slots__ = (
        "_unacknowledged",
        "_unsent",
        "_wire",
        "body_bytes",
        "bytes_written",
        "cancelled",
        "ended",
        "events",
        "first_byte",
        "head",
        "id",
        "late",
        "number",
        "reasoning",
        "started",
        "state",
    )

    def __init__(self, number: int, name: str, *, head: RequestHead, started: float, wire: SocketState) -> None:
        self.number = number
        self.id = name
        self.state = "waiting"
        """waiting, streaming, paused, silent; then done, cancelled (by the client) or aborted (by the script)."""
        self.events = 0
        """Content events written, one token each; all tokens of an answer that is not streamed."""
        self.reasoning = 0
        """Tokens emitted before them that no event shows."""
        self.late = 0
        """Events of a paced stream that were held back because the socket took no more."""
        self.bytes_written = 0
        """Body bytes without HTTP framing that were handed to the transport."""
        self.started = started
        """The request's head had arrived."""
        self.first_byte: float | None = None
        """The response's head was written."""
        self.ended: float | None = None
        """The kernel took the last byte, or the stream was cancelled or aborted."""
        self.cancelled: float | None = None
        """The client's disconnect was noticed."""
        self.head = head
        self.body_bytes = 0
        """Of the request, read so far."""
        self._wire: SocketState | None = wire
        self._unsent = 0
        self._unacknowledged = 0

    @property
    def tokens(self) -> int:
        """Emitted so far, as a usage report would count them."""
        return self.reasoning + self.events

    @property
    def bytes_accepted(self) -> int:
        """Body bytes that the kernel took: what is still in the transport, framing included, does not count."""
        return max(0, self.bytes_written - (self._unsent if self._wire is None else self._wire.unsent()))

    @property
    def bytes_acknowledged(self) -> int:
        """Body bytes that the other side's kernel took: neither in the transport nor in the own kernel's queue."""
        if self._wire is None:
            return max(0, self.bytes_written - self._unsent - self._unacknowledged)
        return max(0, self.bytes_written - self._wire.unsent() - self._wire.unacknowledged())

    @property
    def request(self) -> dict[str, Any]:
        head = self.head
        return {"method": head.method, "path": head.path, "headers": head.headers, "body_bytes": self.body_bytes}

    @property
    def open(self) -> bool:
        return self.state in OPEN_STATES

    def detach(self, unsent: int, unacknowledged: int) -> None:
        """The connection is gone or serves another request; what it had left is in the arguments."""
        self._wire = None
        self._unsent = unsent
        self._unacknowledged = unacknowledged

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": self.state,
            "events": self.events,
            "reasoning": self.reasoning,
            "tokens": self.tokens,
            "late": self.late,
            "bytes_written": self.bytes_written,
            "bytes_accepted": self.bytes_accepted,
            "bytes_acknowledged": self.bytes_acknowledged,
            "started": self.started,
            "first_byte": self.first_byte,
            "ended": self.ended,
            "cancelled": self.cancelled,
            "request": self.request,
        }


class Records:
    """The streams in the order of their start: all open ones, and the `kept` that finished last."""

    __slots__ = ("_finished", "_kept", "_records", "_retired", "connections", "connections_open", "requests_total")

    def __init__(self, kept: int = KEPT) -> None:
        self._records: dict[int, StreamRecord] = {}
        self._finished: deque[StreamRecord] = deque()
        self._kept = kept
        self.requests_total = 0
        """Without those to /simulator/."""
        self.connections = 0
        self.connections_open = 0
        self._retired = {"events": 0, "tokens": 0, "bytes_written": 0, "bytes_accepted": 0}

    def __iter__(self) -> Iterator[StreamRecord]:
        return iter(self._records.values())

    def add(self, record: StreamRecord) -> None:
        self._records[record.number] = record

    def finished(self, record: StreamRecord) -> None:
        """To be called once when a stream has come to its end."""
        self._finished.append(record)
        if len(self._finished) > self._kept:
            self._forget(self._finished.popleft())

    def forget_finished(self) -> int:
        """Forgets the finished ones; returns how many. The totals keep them."""
        count = len(self._finished)
        while self._finished:
            self._forget(self._finished.popleft())
        return count

    def totals(self) -> dict[str, int]:
        """Open streams and connections now; the rest since the start, also of forgotten streams."""
        totals = {"open": len(self._records) - len(self._finished), **self._retired}
        for record in self._records.values():
            for name in self._retired:
                totals[name] += getattr(record, name)
        totals["requests"] = self.requests_total
        totals["connections"] = self.connections
        totals["connections_open"] = self.connections_open
        return totals

    def _forget(self, record: StreamRecord) -> None:
        del self._records[record.number]
        for name in self._retired:
            self._retired[name] += getattr(record, name)
