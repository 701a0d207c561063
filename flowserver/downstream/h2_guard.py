"""A guard in front of h2: takes a client's bytes apart into frames and counts what a flood is made of. No I/O.

h2 buffers an over-long frame whole before it refuses it, and puts no limit on resets, pings, settings, empty frames,
window updates or priorities, each of which costs more to answer than to send. Each is a leaky bucket here: so many at
once, refilled in `PERIOD`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    FrameSplitter,
    FrameTooLong,
    data_of,
)

PERIOD = 10.0
"""Seconds in which a bucket refills."""
MAX_HEADER_BLOCK = 64 * 1024
"""Bytes of one compressed header block, all its frames together."""

SMALL = 64
"""Bytes under which a DATA frame costs more than it brings; ten of them count as one that is empty."""

ENHANCE_YOUR_CALM = 0xB
FRAME_SIZE_ERROR = 0x6


@dataclass(frozen=True, slots=True)
class H2Limits:
    """What one connection may do: so many in ten seconds, except `continuations`, which is per header block."""

    resets: int = 200
    pings: int = 100
    settings: int = 50
    priorities: int = 1000
    empty_frames: int = 100
    window_updates: int = 1000
    strays: int = 1000
    continuations: int = 8


class Violation(Exception):
    """The connection must end: with `code` in its GOAWAY, and `reason` as the metric's label."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Bucket:
    __slots__ = ("_capacity", "_level", "_now")

    def __init__(self, capacity: int) -> None:
        self._capacity = float(capacity)
        self._level = 0.0
        self._now = 0.0

    def overflows(self, now: float, *, credit: int = 0, weight: float = 1.0) -> bool:
        """Count one more; `credit` more may leak than time alone lets."""
        leaked = (now - self._now) * self._capacity / PERIOD + credit
        self._level = max(0.0, self._level - leaked) + weight
        self._now = now
        return self._level > self._capacity


class FrameGuard:
    """Splits, checks and counts. `feed`, then iterate `frames`; both raise Violation."""

    __slots__ = (
        "_block_bytes",
        "_buckets",
        "_continuations",
        "_empty",
        "_limits",
        "_resets",
        "_splitter",
        "_strays",
        "_window_updates",
        "update_credit",
    )

    def __init__(self, limits: H2Limits) -> None:
        self._limits = limits
        self._splitter = FrameSplitter()
        self._resets = _Bucket(limits.resets)
        self._window_updates = _Bucket(limits.window_updates)
        self._empty = _Bucket(limits.empty_frames)
        self._strays = _Bucket(limits.strays)
        self._buckets = {
            PING: (_Bucket(limits.pings), "ping_flood"),
            SETTINGS: (_Bucket(limits.settings), "settings_flood"),
            PRIORITY: (_Bucket(limits.priorities), "priority_flood"),
        }
        self._continuations = 0
        self._block_bytes = 0
        self.update_credit = 0
        """WINDOW_UPDATEs that frames sent since the last one explain."""

    def frames(self, data: bytes, now: float) -> Iterator[Frame]:
        """The whole frames that `data` completes. `now` in seconds. Raises Violation."""
        try:
            for frame in self._splitter.feed(data):
                self._count(frame, now)
                yield frame
        except FrameTooLong:
            raise Violation(FRAME_SIZE_ERROR, "frame_size") from None

    def count_reset(self, now: float) -> None:
        """A stream was reset, by the client or for its fault, before its end. Raises Violation."""
        if self._resets.overflows(now):
            raise Violation(ENHANCE_YOUR_CALM, "reset_flood")

    def count_stray(self, now: float) -> None:
        """A frame came that nothing is done for. Raises Violation."""
        if self._strays.overflows(now):
            raise Violation(ENHANCE_YOUR_CALM, "stray_frame_flood")

    def note_sent(self, size: int) -> None:
        """A DATA frame of `size` bytes was sent: a client that reads answers it with up to two WINDOW_UPDATEs. One that
        opens its windows by a byte at a time has no such excuse."""
        if size >= SMALL:
            self.update_credit += 2

    def _count(self, frame: Frame, now: float) -> None:
        kind, length = frame.kind, len(frame.raw) - 9
        if kind == DATA:
            if length < SMALL or frame.flags & PADDED:
                self._count_small(frame, now)
        elif kind == WINDOW_UPDATE:
            credit, self.update_credit = self.update_credit, 0
            if self._window_updates.overflows(now, credit=credit):
                raise Violation(ENHANCE_YOUR_CALM, "window_update_flood")
        elif kind in (HEADERS, CONTINUATION):
            self._count_header_frame(kind, frame.flags, length, now)
        elif kind in self._buckets:
            bucket, reason = self._buckets[kind]
            if bucket.overflows(now):
                raise Violation(ENHANCE_YOUR_CALM, reason)
        elif kind not in (RST_STREAM, PUSH_PROMISE):  # a second GOAWAY, or of a kind that is ignored (section 4.1)
            self.count_stray(now)

    def _count_small(self, frame: Frame, now: float) -> None:
        """A small upload's end may well be small, its pieces are not."""
        size = len(data_of(frame) or b"")
        is_small = size < SMALL and not frame.flags & END_STREAM
        if is_small and self._empty.overflows(now, weight=0.1 if size else 1.0):
            raise Violation(ENHANCE_YOUR_CALM, "empty_frame_flood")

    def _count_header_frame(self, kind: int, flags: int, length: int, now: float) -> None:
        if kind == HEADERS:
            self._continuations = self._block_bytes = 0
        else:
            self._continuations += 1
        self._block_bytes += length
        if self._continuations > self._limits.continuations or self._block_bytes > MAX_HEADER_BLOCK:
            raise Violation(ENHANCE_YOUR_CALM, "continuation_flood")
        if not length and not flags & END_HEADERS and self._empty.overflows(now):
            raise Violation(ENHANCE_YOUR_CALM, "empty_frame_flood")
