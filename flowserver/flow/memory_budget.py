"""How much memory a process may have, and what is done as it fills. No I/O, no clock.

What counts is the larger of two figures: what the process has resident, and what its holders account for. To that come
what the kernel holds in its sockets, and what requests that were admitted a moment ago may still come to hold. Sizes
are in bytes, times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from operator import attrgetter
from typing import Generic, TypeVar

UNBOUNDED = 1 << 62
FILL_RATE = 1 << 30
"""Bytes a second by which memory may grow: what a loopback interface and one thread carry."""
SOONEST, LATEST = 0.005, 0.25
"""Seconds between two looks at the memory, at least and at most."""


class Level(IntEnum):
    """What is done while memory is short. Each does what those below do, too."""

    NORMAL = 0
    TIGHT = 1
    """Less is in flight for clients, and large request bodies wait."""
    NO_BATCH = 2
    """New requests of class `batch` and large ones are refused, and connections closed that are idle for longest."""
    FULL = 3
    """All new requests and connections are refused, and connections closed after their present answers."""
    CUTTING = 4
    """The streams that hold most and move least are ended."""


_NORMAL, _TIGHT, _NO_BATCH, _FULL, _CUTTING = Level  # in Python 3.11 to look up a member takes a call

MARKS = {_TIGHT: 0.70, _NO_BATCH: 0.85, _FULL: 0.92, _CUTTING: 0.97}
"""The share of the budget at which each level begins."""
HYSTERESIS = 0.03
"""A level ends so far below its beginning."""
SHRINKAGE = {_NORMAL: 1.0, _TIGHT: 0.5, _NO_BATCH: 0.25, _FULL: 0.1, _CUTTING: 0.1}
"""The share of the drain target that is left at each level."""

CONNECTION = 24 * 1024
"""What a client's connection has before it asks for anything: 14 KB over HTTP/2, and 17 KB more over TLS."""
STREAM = 96 * 1024
"""What a stream comes to hold once its client stalls: 39 KB here, and 60 in the kernel's buffers on both sides."""


def _nothing() -> None: ...


class MemoryBudget:
    """One process'. `spend` is told what may grow fast, so that memory is looked at in time: the next look is due when
    the allowance of the last one is spent, or after `next_look`."""

    __slots__ = ("_allowance", "_spent", "level", "limit", "must_free", "target_share", "used")

    def __init__(self, limit: int = UNBOUNDED, spent: Callable[[], None] = _nothing) -> None:
        """`spent` is called when the allowance is; it looks at the memory, and tells what it sees by `look`."""
        self.limit = limit
        self._spent = spent
        self._allowance = 0 if limit < UNBOUNDED else UNBOUNDED
        self.level = _NORMAL
        self.used = 0
        self.must_free = False
        """Whether nothing may stay that nobody uses at present: the process is FULL by what is used, not by what is
        expected."""
        self.target_share = 1.0
        """Of the drain target, by the level: less is in flight for clients where memory is short."""

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.level.name} {self.used} of {self.limit} bytes>"

    def spend(self, size: int) -> None:
        """So many bytes may be held soon."""
        self._allowance -= size
        if self._allowance < 0:
            self._spent()

    def look(self, used: int, pending: int = 0) -> bool:
        """So many bytes are used now, and so many more may be soon, for which nothing is cut. Returns whether that
        changes the level."""
        self.used = used
        expected = used + pending
        self._allowance = max(self.limit // 400, min(self.limit // 50, (self.mark(_FULL) - expected) // 2))
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
        """Where a level above NORMAL begins."""
        return int(MARKS[level] * self.limit)

    @property
    def is_full(self) -> bool:
        """Whether nothing new is taken."""
        return self.level >= _FULL

    def room(self, level: Level) -> int:
        """Bytes until that level begins."""
        return max(0, self.mark(level) - self.used)

    def next_look(self) -> float:
        """Seconds until memory is to be looked at again: it can't fill in less."""
        return min(LATEST, max(SOONEST, self.room(_CUTTING) / FILL_RATE))

    @property
    def excess(self) -> int:
        """Bytes to be freed now, so that no more has to be."""
        return self.used - self.mark(_CUTTING) + int(HYSTERESIS * self.limit) if self.level is _CUTTING else 0


UNLIMITED = MemoryBudget()
"""That of a process without one."""

_T = TypeVar("_T")


class Holding(Generic[_T]):
    """What a stream holds, and how fast it moves."""

    __slots__ = ("drain_time", "held", "holder")

    def __init__(self, holder: _T, held: int, rate: float) -> None:
        """`rate` in bytes a second, both directions together."""
        self.holder = holder
        self.held = held
        self.drain_time = held / max(rate, 1.0)
        """Seconds until it is gone, at that rate."""


def worst_first(holdings: Iterable[Holding[_T]], excess: int, overhead: int) -> list[_T]:
    """Who has to go so that `excess` bytes become free: those that hold most and move least, by the time for which what
    they hold will stay. `overhead`: what ends with each of them, beside that."""
    chosen: list[_T] = []
    for holding in sorted(holdings, key=attrgetter("drain_time"), reverse=True):
        if excess <= 0 or not holding.held:
            break
        chosen.append(holding.holder)
        excess -= holding.held + overhead
    return chosen
