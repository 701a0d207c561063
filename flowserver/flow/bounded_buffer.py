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
    """What `Watermarks` asks of a transport."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


HIGH, LOW, CHUNKS = 8 * 1024, 4 * 1024, 16
"""The marks for a client of whom nothing is known."""


class Watermarks:
    """Water marks of one stream: `high` and `low` in bytes, `chunks` the most chunks that may wait.

    A mark that is not given follows the client's pace: see `paced`.
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
        """Those for a client of this pace."""
        high_is_pinned, low_is_pinned, chunks_are_pinned = self._pinned
        low = self.low if low_is_pinned else pace.mark(self.low)
        high = self.high if high_is_pinned else pace.mark(self.high)
        return Watermarks(max(high, low + 1), low, self.chunks if chunks_are_pinned else _ANY)

    def __repr__(self) -> str:
        return f"<Watermarks high={self.high} low={self.low} chunks={self.chunks}>"

    def limit_transport(self, transport: LimitedTransport) -> None:
        """Have the transport say stop above the low mark, and go when it is empty.

        The kernel still has its own unsent bytes then, so the wire does not run dry. Always to be called: uvloop's
        default low mark is 16 bytes.
        """
        transport.set_write_buffer_limits(high=self.low, low=0)


_ANY = 1 << 30
"""Chunks: their bytes alone count."""
ONE_WRITE = 1 << 18
"""Bytes that are joined for one write: a large request that waited whole would be copied whole, in one turn."""


class ChunkQueue:
    """Chunks that wait for a reader. They leave joined: a lagging reader gets few large writes."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytes] | tuple[()] = ()
        """A deque once something waited, which is seldom: there are three buffers to a request."""
        self.size = 0
        """Bytes that wait."""

    def __len__(self) -> int:
        """Chunks that wait."""
        return len(self._chunks)

    def __repr__(self) -> str:
        return f"<ChunkQueue chunks={len(self)} size={self.size}>"

    def push(self, data: bytes) -> None:
        if not isinstance(self._chunks, deque):
            self._chunks = deque()
        self._chunks.append(data)
        self.size += len(data)

    def take(self, limit: int | None = None) -> bytes:
        """Take what waits, in order, joined: at most `limit` bytes (None: all), b"" when nothing does."""
        chunks = self._chunks
        if not isinstance(chunks, deque):
            return b""
        if limit is not None and limit < self.size:
            return self._take_some(chunks, limit)
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.clear()  # the deque of a stream that waited once would take 760 bytes to its end
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
    """What a `BoundedWriter` asks of its transport."""

    def get_write_buffer_size(self) -> int: ...


def _nothing(*_: object) -> None: ...


class BoundedWriter:
    """A stream's body on its way into one transport.

    While the transport takes bytes, each chunk is handed to `write` at once. While it is blocked (between its
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
        """Chunks that came."""
        self.writes_full = 0
        """Of these, the ones that found the transport blocked and had to wait."""

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
            write = self._write  # a call of the attribute itself would look it up the slow way
            write(data)

    def block(self) -> None:
        """The transport is above its high mark."""
        self.blocked = True
        self._check_full()

    def keep_pace(self, watermarks: Watermarks) -> None:
        """Use these marks from now on."""
        self._watermarks = watermarks

    def unblock(self) -> None:
        """The transport is below its low mark: what waited goes on, and the source with it."""
        self.blocked = False
        while self._buffer.size and not self.blocked:  # a write may block again at once
            self._write(self._buffer.take(ONE_WRITE))
        if self.full and not self.blocked:
            self.full = False
            self._on_drained()

    def clear(self) -> None:
        """Forget what waits: the stream is aborted."""
        self._buffer.clear()

    def release(self) -> None:
        """The stream is over. Lets go of those it called, which hold it too: the collector of cycles is to have nothing
        to do for a request."""
        self._write = self._on_full = self._on_drained = _nothing

    def _check_full(self) -> None:
        if not self.full and self._watermarks.are_reached(self.held, len(self._buffer)):
            self.full = True
            self._on_full()
