"""How wide the window of an answer is to be: what its provider may send ahead of the client. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from .drain_rate import NEARBY, DrainRate, PaceMeter, upstream_bound
from .memory_budget import UNLIMITED, MemoryBudget

EARLY = 48 * 1024
"""The most in the first moment of a stream, while a client's kernel may take what the client does not. A window that is
wider already is that of a whole answer."""
WIDEST = 4 * 1024 * 1024
"""The most at any time."""


class WindowBound:
    """Of the windows of one answer after the other. It grows by the rate at which bytes pass, and follows the pace of a
    client that blocks."""

    __slots__ = ("_began_at", "_clock", "_least_time", "_memory", "_meter", "_passed", "_share", "_target")

    def __init__(self, clock: Callable[[], float], target: float, share: int, memory: MemoryBudget = UNLIMITED) -> None:
        """`target` in seconds, see `drain_rate`. `share`: the bytes that may wait for a client, besides what is on its
        way. `memory`: as in `DrainRate`."""
        self._clock = clock
        self._memory = memory
        self._target = target
        self._share = share
        self._meter = PaceMeter(clock())
        self.begin()

    def begin(self) -> None:
        """Another answer is expected."""
        self._began_at: float | None = None
        """When the first of its body came; None: nothing did."""
        self._passed = 0
        """Bytes since the last look."""
        self._least_time = 0.0
        """The least time over which a rate is measured: a slow client takes bytes in bursts."""

    def passed(self, size: int) -> bool:
        """So many bytes came. False: they are the first ones. Rates are told from these on."""
        if self._began_at is None:
            self._began_at = self._clock()
            self._meter.begin(self._began_at)
            return False
        self._passed += size
        return True

    def wanted(self, bound: int, distance: float, unacknowledged: Callable[[], int]) -> int | None:
        """Returns how wide the window should be that is `bound` wide now, with a provider `distance` seconds away and
        back. `unacknowledged` is the `PaceMeter`'s. None: it is too early to tell."""
        now = self._clock()
        passed, self._passed = self._passed, 0
        rate = self._meter.measure(now, passed, max(distance, self._least_time), unacknowledged)
        if rate is None:
            return None
        wanted = upstream_bound(rate, distance, self._target, self._share)
        if distance >= NEARBY and 2 * rate * distance >= bound:  # it was used up within two round trips
            wanted = max(wanted, 2 * bound)
        is_early = self._began_at is not None and now - self._began_at < self._target
        return min(wanted, EARLY if is_early and bound <= EARLY else int(self._memory.target_share * WIDEST))

    def follow(self, pace: DrainRate, distance: float) -> int:
        """Returns the same for a client that is the bottleneck, and has this pace."""
        self._least_time = self._target
        self._passed = 0
        self._meter.begin(self._clock())  # what passed before tells nothing of this pace
        return min(
            WIDEST, max(upstream_bound(pace.rate, distance, self._target, self._share), pace.waiting(self._share))
        )
