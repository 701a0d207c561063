"""The memory budget of a process, and the levels as it fills. No I/O, no clock.

Used memory is the larger of resident memory and what its holders account for, plus what the kernel holds in its
sockets, plus what newly admitted requests may still come to hold. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from operator import attrgetter
from typing import Final, Generic, TypeVar

UNBOUNDED = 1 << 62
FILL_RATE: Final = 1 << 30
"""Fastest growth of memory in bytes a second: what a loopback interface and one thread can carry."""
SOONEST: Final = 0.005
LATEST: Final = 0.25
"""Least and most seconds between two checks of the memory."""


class Level(IntEnum):
    """What is done while memory is short. Each level includes those below."""

    NORMAL = 0
    TIGHT = 1
    """Less is in flight for clients, and large request bodies wait."""
    NO_BATCH = 2
    """New requests of class `batch` and large ones are refused, and connections closed that are idle for longest."""
    FULL = 3
    """All new requests and connections are refused, and connections are closed after their current answers."""
    CUTTING = 4
    """The streams that hold most and move least are ended."""


# In Python 3.11 looking up a member costs a call.
_NORMAL: Final = Level.NORMAL
_TIGHT: Final = Level.TIGHT
_NO_BATCH: Final = Level.NO_BATCH
_FULL: Final = Level.FULL
_CUTTING: Final = Level.CUTTING

MARKS: Final = {_TIGHT: 0.70, _NO_BATCH: 0.85, _FULL: 0.92, _CUTTING: 0.97}
"""The share of the budget at which each level begins."""
HYSTERESIS: Final = 0.03
"""A level ends this far below its mark."""
BATCH_BAND = 0.05
"""The share of the budget below NO_BATCH within which a growing share of batch and of large requests is refused.
Otherwise all that come when the level ends would be admitted, and fill the memory together."""
SHRINKAGE: Final = {_NORMAL: 1.0, _TIGHT: 0.5, _NO_BATCH: 0.25, _FULL: 0.1, _CUTTING: 0.1}
"""The share of the drain target at each level."""

CONNECTION = 24 * 1024
"""Bytes of a client's new connection: 14 KB over HTTP/2, and 17 KB more over TLS."""
UPLOAD: Final = 128 * 1024
"""Bytes that the kernel may come to hold of a large upload that is not read."""
STREAM: Final = 96 * 1024
"""Bytes of a stream once its client has stalled: 39 KB here, and 60 in the kernel's buffers on both sides."""


def _nothing() -> None: ...


class MemoryBudget:
    """The budget of one process. Call `spend` before anything that may grow fast, so that memory is checked in time:
    the next check is due when the allowance since the last one is spent, or after `next_look`."""

    __slots__ = ("_allowance", "_expected", "_spent", "_uploads", "level", "limit", "must_free", "target_share", "used")

    def __init__(self, limit: int = UNBOUNDED, spent: Callable[[], None] = _nothing) -> None:
        """`spent` is called when the allowance is used up; it must check the memory and call `look`."""
        self.limit = limit
        self._spent = spent
        self._allowance = 0 if limit < UNBOUNDED else UNBOUNDED
        self._expected = 0
        """Bytes that may be used once the allowance is spent."""
        self._uploads = 0
        self.level = _NORMAL
        self.used = 0
        self.must_free = False
        """Whether memory must be freed: the process is FULL by used memory, not by pending."""
        self.target_share = 1.0
        """Share of the drain target at the current level: less is in flight for clients if memory is short."""

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.level.name} {self.used} of {self.limit} bytes>"

    def spend(self, size: int) -> None:
        """`size` bytes may be held soon."""
        self._allowance -= size
        if self._allowance < 0:
            self._spent()

    def look(self, used: int, pending: int = 0, uploads: int = 0) -> bool:
        """Set the level by the `used` bytes. `pending`: how many more may be used soon; nothing is cut for these.
        `uploads`: how many more large uploads may use; only large requests are refused for these. Returns whether the
        level changes."""
        self.used = used
        self._uploads = uploads
        expected = used + pending
        self._allowance = max(self.limit // 400, min(self.limit // 50, (self.mark(_FULL) - expected) // 2))
        self._expected = expected + self._allowance
        margin = int(HYSTERESIS * self.limit)
        reached = self._reached(used, expected)
        level = reached if reached > self.level else min(self.level, self._reached(used + margin, expected + margin))
        changes, self.level = level is not self.level, level
        self.target_share = SHRINKAGE[level]
        self.must_free = level >= _FULL and used + margin >= self.mark(_FULL)
        return changes

    def _reached(self, used: int, expected: int) -> Level:
        return max(self._level_of(used), min(_FULL, self._level_of(expected)))

    def _level_of(self, used: int) -> Level:
        level = _NORMAL
        for each, share in MARKS.items():
            if used >= share * self.limit:
                level = each
        return level

    def mark(self, level: Level) -> int:
        """The bytes at which a level above NORMAL begins."""
        return int(MARKS[level] * self.limit)

    @property
    def batch_refusals(self) -> float:
        """The share of new requests of class `batch` that is refused."""
        return self._refusals(0)

    @property
    def large_refusals(self) -> float:
        """The share of new large requests that is refused."""
        return self._refusals(self._uploads)

    def _refusals(self, more: int) -> float:
        band = BATCH_BAND * self.limit
        beyond = self._expected - self._allowance + more - self.mark(_NO_BATCH) + band
        return min(1.0, max(0.0, beyond / band))

    @property
    def is_full(self) -> bool:
        """Whether nothing new is admitted."""
        return self.level >= _FULL

    def room(self, level: Level) -> int:
        """Bytes left until that level begins."""
        return max(0, self.mark(level) - self.used)

    def next_look(self) -> float:
        """Seconds until the next check: memory can't fill in less."""
        return min(LATEST, max(SOONEST, self.room(_CUTTING) / FILL_RATE))

    @property
    def excess(self) -> int:
        """Bytes that must be freed now."""
        return self.used - self.mark(_CUTTING) + int(HYSTERESIS * self.limit) if self.level is _CUTTING else 0


UNLIMITED = MemoryBudget()
"""The budget of a process without one."""

_T = TypeVar("_T")


class Holding(Generic[_T]):
    """What a stream holds, and how fast it moves."""

    __slots__ = ("drain_time", "held", "holder")

    def __init__(self, holder: _T, held: int, rate: float) -> None:
        """`rate` in bytes a second, both directions together."""
        self.holder = holder
        self.held = held
        self.drain_time = held / max(rate, 1.0)
        """Seconds until it has drained, at that rate."""


def worst_first(holdings: Iterable[Holding[_T]], excess: int, overhead: int) -> list[_T]:
    """Choose holders to end so that `excess` bytes become free: those with the longest drain time first. `overhead`:
    bytes that each of them frees in addition."""
    chosen: list[_T] = []
    for holding in sorted(holdings, key=attrgetter("drain_time"), reverse=True):
        if excess <= 0 or not holding.held:
            break
        chosen.append(holding.holder)
        excess -= holding.held + overhead
    return chosen
