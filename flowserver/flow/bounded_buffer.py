"""A bounded buffer with two marks. No I/O.

The chain (client to provider): the client's transport is above its mark -> chunks wait in the `ChunkQueue` of a
`BoundedWriter` -> at the high mark the writer is full -> the exchange shuts the `ReadGate` of the provider's stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from .drain_rate import DrainRate


class LimitedTransport(Protocol):
    """The part of a transport that `Watermarks` needs."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


HIGH, LOW, CHUNKS = 8 * 1024, 4 * 1024, 16
"""The default watermarks, for a client of unknown pace."""


class Watermarks:
    """Water marks of one stream: `high` and `low` in bytes, `chunks` the most chunks that may wait.

    A watermark that is not given follows the client's pace: see `paced`.
    """

    __slots__ = ("_pinned", "chunks", "high", "low")

    def __init__(self, high: int | None = None, low: int | None = None, chunks: int | None = None) -> None:
        """Raises ValueError unless 0 < low < high, and a chunk may wait."""
        self._pinned = (high is not None, low is not None, chunks is not None)
        self.low = low if low is not None else LOW if high is None else max(1, min(LOW, high // 2))
        self.high = high if high is not None else max(HIGH, 2 * self.low)
        self.chunks = CHUNKS if chunks is None else chunks
        if not 0 < self.low < self.high:
            raise ValueError(f"water marks need 0 < low < high, got low={low} high={high}")
        if self.chunks < 1:
            raise ValueError(f"at least one chunk must be allowed to wait, got {chunks}")

    def are_reached(self, size: int, chunks: int) -> bool:
        """Whether the source must stop: `size` bytes are held, and `chunks` pieces wait."""
        return chunks >= self.chunks or size >= self.high

    def paced(self, pace: DrainRate) -> Watermarks:
        """The watermarks for a client with this pace."""
        high_is_pinned, low_is_pinned, chunks_are_pinned = self._pinned
        low = self.low if low_is_pinned else pace.mark(self.low)
        high = self.high if high_is_pinned else pace.mark(self.high)
        return Watermarks(max(high, low + 1), low, self.chunks if chunks_are_pinned else _ANY)

    def __repr__(self) -> str:
        return f"<Watermarks high={self.high} low={self.low} chunks={self.chunks}>"

    def limit_transport(self, transport: LimitedTransport) -> None:
        """Make the transport pause above the low watermark, and resume when it is empty.

        The kernel still has unsent bytes then, so the wire does not run dry. Always call this: uvloop's default low
        mark is 16 bytes.
        """
        transport.set_write_buffer_limits(high=self.low, low=0)


_ANY = 1 << 30
"""Any number of chunks: only their bytes count."""
ONE_WRITE = 1 << 18
"""Most bytes that are joined for one write: a large request that waits would otherwise be copied at once."""


class ChunkQueue:
    """Chunks that wait for a reader. They are joined: a lagging reader gets few large writes."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytes] | tuple[()] = ()
        """A deque once something has waited, which is rare: a request has three of these buffers."""
        self.size = 0
        """Waiting bytes."""

    def __len__(self) -> int:
        """Number of waiting chunks."""
        return len(self._chunks)

    def __repr__(self) -> str:
        return f"<ChunkQueue chunks={len(self)} size={self.size}>"

    def push(self, data: bytes) -> None:
        if not isinstance(self._chunks, deque):
            self._chunks = deque()
        self._chunks.append(data)
        self.size += len(data)

    def take(self, limit: int | None = None) -> bytes:
        """Take waiting bytes, in order and joined: at most `limit` bytes (None: all); b"" if nothing waits."""
        chunks = self._chunks
        if not isinstance(chunks, deque):
            return b""
        if limit is not None and limit < self.size:
            return self._take_some(chunks, limit)
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.clear()  # else a stream that waited once would keep a deque of 760 bytes to its end
        return data

    def _take_some(self, chunks: deque[bytes], limit: int) -> bytes:
        taken = []
        left = limit
        while left:
            chunk = chunks.popleft()
            if len(chunk) > left:
                chunks.appendleft(chunk[left:])
                chunk = chunk[:left]
            taken.append(chunk)
            left -= len(chunk)
        self.size -= limit
        return b"".join(taken)

    def clear(self) -> None:
        self._chunks = ()
        self.size = 0


class WriteTransport(Protocol):
    """The part of a transport that a `BoundedWriter` needs."""

    def get_write_buffer_size(self) -> int: ...


def _nothing(*_: object) -> None: ...


class BoundedWriter:
    """Writes a stream's body to a transport, within bounds.

    While the transport accepts bytes, each chunk is passed to `write` at once. While it is blocked (between its
    pause_writing and resume_writing) chunks wait. `on_full` is called once when what is held (in the transport and
    here) reaches the high mark or too many chunks wait, `on_drained` once when the transport has taken them. Held bytes
    are therefore at most the high mark and one read. The transport's own mark is the low one (`limit_transport`).

    `write` may call back into `block` before it returns (uvloop does).
    """

    __slots__ = (
        "_buffer",
        "_on_drained",
        "_on_full",
        "_transport",
        "_watermarks",
        "_write",
        "blocked",
        "full",
        "writes",
        "writes_full",
    )

    def __init__(
        self,
        transport: WriteTransport,
        watermarks: Watermarks,
        *,
        write: Callable[[bytes], None],
        on_full: Callable[[], None],
        on_drained: Callable[[], None],
        blocked: bool = False,
    ) -> None:
        self._transport = transport
        self._watermarks = watermarks
        self._write = write
        self._on_full = on_full
        self._on_drained = on_drained
        self._buffer = ChunkQueue()
        self.blocked = blocked
        self.full = False
        self.writes = 0
        """Number of chunks."""
        self.writes_full = 0
        """How many of these found the transport blocked and had to wait."""

    def __repr__(self) -> str:
        state = "full" if self.full else "blocked" if self.blocked else "open"
        return f"<BoundedWriter {state} waiting={self.waiting} writes={self.writes}>"

    @property
    def waiting(self) -> int:
        """Bytes that wait here."""
        return self._buffer.size

    @property
    def held(self) -> int:
        """Bytes that wait here and in the transport."""
        return self._buffer.size + self._transport.get_write_buffer_size()

    def send(self, data: bytes) -> None:
        self.writes += 1
        if self.blocked:
            self.writes_full += 1
            self._buffer.push(data)
            self._check_full()
        else:
            write = self._write  # calling the attribute directly would use the slow look-up
            write(data)

    def block(self) -> None:
        """The transport is above its high mark."""
        self.blocked = True
        self._check_full()

    def keep_pace(self, watermarks: Watermarks) -> None:
        """Use these watermarks from now on."""
        self._watermarks = watermarks

    def unblock(self) -> None:
        """The transport is below its low mark: write what waited, and resume the source."""
        self.blocked = False
        while self._buffer.size and not self.blocked:  # a write may block again at once
            self._write(self._buffer.take(ONE_WRITE))
        if self.full and not self.blocked:
            self.full = False
            self._on_drained()

    def clear(self) -> None:
        """Drop what waits: the stream is aborted."""
        self._buffer.clear()

    def release(self) -> None:
        """The stream is over. Drops the callbacks, which refer back to this, so that no reference cycle is left."""
        self._write = self._on_full = self._on_drained = _nothing

    def _check_full(self) -> None:
        if not self.full and self._watermarks.are_reached(self.held, len(self._buffer)):
            self.full = True
            self._on_full()
