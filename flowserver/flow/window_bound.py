"""How wide the window of an answer should be: what its provider may send ahead of the client. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .drain_rate import NEARBY, DrainRate, PaceMeter, upstream_bound
from .memory_budget import UNLIMITED, MemoryBudget

EARLY: Final = 48 * 1024
"""Widest window at the start of a stream, while the client's kernel may accept what the client does not read. A wider
one is that of a whole answer."""
WIDEST: Final = 4 * 1024 * 1024
"""The widest window at any time."""


class WindowBound(PaceMeter):
    """The bound for the windows of successive answers. It grows with the rate at which bytes pass, and follows the pace
    of a client that blocks. (One object with the meter of this rate: two take 64 bytes more per stream.)"""

    __slots__ = ("_began_at", "_clock", "_has_begun", "_least_time", "_memory", "_recent", "_share", "_target")

    def __init__(self, clock: Callable[[], float], target: float, share: int, memory: MemoryBudget = UNLIMITED) -> None:
        """`target` in seconds, see `drain_rate`. `share`: bytes that may wait for a client, besides what is in flight.
        For `memory` see `DrainRate`."""
        super().__init__(clock())
        self._clock = clock
        self._memory = memory
        self._target = target
        self._share = share
        self._has_begun = False
        """Whether the first byte of the answer's body has arrived."""
        self._began_at = 0.0
        """When it did."""
        self._recent = 0
        """Bytes since the last check."""
        self._least_time = 0.0
        """The least time over which a rate is measured: a slow client reads in bursts."""

    def expect(self) -> None:
        """A new answer begins."""
        self._has_begun = False
        self._recent = 0
        self._least_time = 0.0

    def passed(self, size: int) -> bool:
        """`size` bytes arrived. False: they are the first ones, from which rates are measured."""
        if not self._has_begun:
            self._has_begun = True
            self._began_at = now = self._clock()
            self.begin(now)
            return False
        self._recent += size
        return True

    def wanted(self, bound: int, distance: float, unacknowledged: Callable[[], int]) -> int | None:
        """Returns the desired width of a window of `bound` bytes, with a round trip of `distance` seconds to the
        provider. For `unacknowledged` see `PaceMeter`. None: it is too early to tell."""
        now = self._clock()
        passed, self._recent = self._recent, 0
        rate = self.measure(now, passed, max(distance, self._least_time), unacknowledged)
        if rate is None:
            return None
        wanted = upstream_bound(rate, distance, self._target, self._share)
        if distance >= NEARBY and 2 * rate * distance >= bound:  # it was used up within two round trips
            wanted = max(wanted, 2 * bound)
        is_early = self._has_begun and now - self._began_at < self._target
        return min(wanted, EARLY if is_early and bound <= EARLY else int(self._memory.target_share * WIDEST))

    def follow(self, pace: DrainRate, distance: float) -> int:
        """Returns the same for a client that is the bottleneck, with this pace."""
        self._least_time = self._target
        self._recent = 0
        self.begin(self._clock())  # earlier bytes say nothing about this pace
        return min(
            WIDEST, max(upstream_bound(pace.rate, distance, self._target, self._share), pace.waiting(self._share))
        )
