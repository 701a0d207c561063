"""A guard in front of h2, on both sides: splits bytes into frames and counts those that floods are made of. No I/O.

h2 buffers an over-long frame whole before it refuses it, and puts no limit on resets, pings, settings, empty frames,
window updates or priorities, each of which costs more to answer than to send. Here each has a leaky bucket, which
refills in `PERIOD`. Only useless frames are counted: neither those with more content than header, nor resets of
requests already in progress.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .h2_frames import (
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
"""A DATA frame that a window limits to fewer bytes than this does not justify a WINDOW_UPDATE."""
TINY = 9
"""Bytes of a frame's header. DATA frames with less content cost more than they bring: a hundred count as one empty."""
_LATE = 64
"""The fewest bytes that a late frame counts for."""
_MOST_LATE = 16 * 1024 * 1024
_LONG_SETTINGS = 120
"""Bytes of SETTINGS that count as one more frame: twenty settings."""
_COSTLY = 4
"""Cost of a frame that h2 reads or that begins a request, in DATA frames."""

ENHANCE_YOUR_CALM = 0xB
FRAME_SIZE_ERROR = 0x6


@dataclass(frozen=True, slots=True)
class H2Limits:
    """Limits of one connection, per ten seconds, except `continuations`, which is per header block."""

    resets: int = 200
    pings: int = 100
    settings: int = 50
    priorities: int = 1000
    empty_frames: int = 100
    window_updates: int = 1000
    strays: int = 1000
    continuations: int = 8


PROVIDER = H2Limits(
    pings=1000,  # gRPC servers measure bandwidth with them while they receive a body
    settings=100,
    priorities=100,
    empty_frames=1000,
    window_updates=1000,
    strays=1000,
)
"""Limits of a provider's connection. It can reset no more streams than were opened on it, so resets need no limit."""


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
        """Count one more. `credit` is added to what leaked over time."""
        leaked = (now - self._now) * self._capacity / PERIOD + credit
        self._level = max(0.0, self._level - leaked) + weight
        self._now = now
        return self._level > self._capacity


class FrameGuard:
    """Splits bytes into frames and counts them. Each method that counts raises Violation above its limit."""

    __slots__ = (
        "_block_bytes",
        "_buckets",
        "_continuations",
        "_empty",
        "_late",
        "_limits",
        "_resets",
        "_strays",
        "_window_updates",
        "splitter",
        "update_credit",
    )

    def __init__(self, limits: H2Limits) -> None:
        self._limits = limits
        self.splitter = FrameSplitter()
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
        self._late = 0
        self.update_credit = 0
        """WINDOW_UPDATEs that the frames sent since the last one justify."""

    def split(self, data: bytes) -> Iterable[Frame]:
        """The frames that `data` completes, up to the turn's limit; none is counted. Raises FrameTooLong."""
        only = self.splitter.only(data)  # an event nearly always arrives in a read of its own
        return self.splitter.feed(data) if only is None else (only,)

    def frames(self, data: bytes, now: float) -> Iterator[Frame]:
        """As `split`, counted. `now` is in seconds. Raises Violation."""
        try:
            for frame in self.split(data):
                self.count(frame, now)
                yield frame
        except FrameTooLong:
            raise Violation(FRAME_SIZE_ERROR, "frame_size") from None

    def count(self, frame: Frame, now: float) -> None:
        """Count a received frame. Raises Violation."""
        kind, length = frame.kind, len(frame.raw) - 9
        if kind == DATA:
            if length < TINY or frame.flags & PADDED:
                self.count_data(frame, now)
            return
        self.splitter.left -= _COSTLY
        if kind == WINDOW_UPDATE:
            credit, self.update_credit = self.update_credit, 0
            if self._window_updates.overflows(now, credit=credit):
                raise Violation(ENHANCE_YOUR_CALM, "window_update_flood")
        elif kind in (HEADERS, CONTINUATION):
            self._count_header_frame(kind, frame.flags, length, now)
        elif kind in self._buckets:
            bucket, reason = self._buckets[kind]
            if bucket.overflows(now, weight=1 + length // _LONG_SETTINGS if kind == SETTINGS else 1.0):
                raise Violation(ENHANCE_YOUR_CALM, reason)
        elif kind not in (RST_STREAM, PUSH_PROMISE):  # a second GOAWAY, or of a kind that is ignored (section 4.1)
            self.count_stray(now)

    def count_reset(self, now: float) -> None:
        """A stream was reset by the other side, or because of it, before any work was done. Raises Violation."""
        if self._resets.overflows(now):
            raise Violation(ENHANCE_YOUR_CALM, "reset_flood")

    def count_stray(self, now: float) -> None:
        """A frame was received that has no effect. Raises Violation."""
        if self._strays.overflows(now):
            raise Violation(ENHANCE_YOUR_CALM, "stray_frame_flood")

    def count_late(self, length: int, now: float) -> None:
        """A frame of `length` bytes was received for a stream that is over. Raises Violation."""
        if self._late > 0:
            self._late -= max(length, _LATE)
        else:
            self.count_stray(now)

    def expect_late(self, length: int) -> None:
        """We reset a stream: up to `length` bytes of it may still arrive."""
        self._late = min(max(self._late, 0) + length, _MOST_LATE)

    def note_sent(self, size: int, *, whole: bool = True) -> None:
        """A DATA frame of `size` bytes was sent, which a reader answers with up to two WINDOW_UPDATEs. `whole`: it was
        all that there was to send. A reader that opens its window byte by byte gets no such credit."""
        if whole or size >= SMALL:
            self.update_credit += 2

    def count_data(self, frame: Frame, now: float) -> None:
        """Count a DATA frame that is smaller than its header, or padded. Only the last one of a body may be small.
        Raises Violation."""
        size = len(data_of(frame) or b"")
        is_tiny = size < TINY and not frame.flags & END_STREAM
        if is_tiny and self._empty.overflows(now, weight=0.01 if size else 1.0):
            raise Violation(ENHANCE_YOUR_CALM, "empty_frame_flood")

    def _count_header_frame(self, kind: int, flags: int, length: int, now: float) -> None:
        self.splitter.left -= length >> 8
        if kind == HEADERS:
            self._continuations = self._block_bytes = 0
        else:
            self._continuations += 1
        self._block_bytes += length
        if self._continuations > self._limits.continuations or self._block_bytes > MAX_HEADER_BLOCK:
            raise Violation(ENHANCE_YOUR_CALM, "continuation_flood")
        if not length and not flags & END_HEADERS and self._empty.overflows(now):
            raise Violation(ENHANCE_YOUR_CALM, "empty_frame_flood")
