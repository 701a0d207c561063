"""How fast a client reads its answer, and how far ahead of it a provider may be. No I/O, no clock.

What is in flight is bounded by time, not by a number of bytes: a provider may be ahead of a slower client by what the
client reads in the target time (`FLOW_DRAIN_TARGET`), plus what is in flight from the provider. A client that keeps up
gets what its provider sends. Rates are in bytes a second, times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .memory_budget import UNLIMITED, MemoryBudget

LEAST: Final = 512
"""Least bytes that may wait at each place: a few events."""
SPAN: Final = 8
"""Target times over which a client's evenness is measured: kernels acknowledge in lumps, which shorter spans would
show."""
MOMENT: Final = 0.01
"""Least seconds for measuring a rate: buffers fill in less."""
NEARBY: Final = 0.001
"""Round trips shorter than this need no wider window: 12 KiB in a millisecond are 12 MB/s."""


class DrainRate:
    """The rate at which a client acknowledges its answer, smoothed over the target time, and how uneven it is."""

    __slots__ = (
        "_acknowledged",
        "_memory",
        "_since",
        "_span_acknowledged",
        "_span_rate",
        "_span_since",
        "_target",
        "rate",
        "unevenness",
    )

    def __init__(self, target: float, now: float, memory: MemoryBudget = UNLIMITED) -> None:
        """`memory` limits the share of the target that there is room for."""
        self._target = target
        self._memory = memory
        self._since = self._span_since = now
        self._acknowledged = self._span_acknowledged = 0
        self._span_rate = 0.0
        """The rate of the last complete span, see SPAN."""
        self.rate = 0.0
        self.unevenness = 0.5
        """How much the rates of successive spans differ: from 0, steady, to 1, bursty. The initial value means
        unknown."""

    def __repr__(self) -> str:
        return f"<DrainRate {self.rate:.0f} bytes/s unevenness={self.unevenness:.2f}>"

    def measure(self, now: float, acknowledged: int) -> None:
        """`acknowledged` bytes in total by `now`. Bytes acknowledged within a moment are measured with what follows."""
        elapsed = now - self._since
        if elapsed <= 0:
            return
        latest = max(0, acknowledged - self._acknowledged) / elapsed
        weight = min(1.0, elapsed / self._target)
        self.rate = latest if not self.rate else (1 - weight) * self.rate + weight * latest
        self._since = now
        self._acknowledged = max(self._acknowledged, acknowledged)
        if now - self._span_since >= SPAN * self._target:
            self._end_span(now)

    def _end_span(self, now: float) -> None:
        rate = (self._acknowledged - self._span_acknowledged) / (now - self._span_since)
        most = max(rate, self._span_rate)
        if self._span_rate:
            difference = max(0.0, 2 * abs(rate - self._span_rate) / most - 1)  # lumps account for up to a half
            self.unevenness += (difference - self.unevenness) / 2
        self._span_rate, self._span_since, self._span_acknowledged = rate, now, self._acknowledged

    def waiting(self, most: int) -> int:
        """Bytes that may wait for the client at one place: its `waiting_bound`, plus a part of `most` that grows with
        its unevenness. A steady client needs no reserve."""
        share = self._memory.target_share
        most = min(most, max(LEAST, int(share * most)))
        steady = waiting_bound(self.rate, share * self._target, most)
        return steady + int(self.unevenness * (most - steady))

    def mark(self, most: int) -> int:
        """The watermark at which a place accepts no more: one read earlier, since a write is accepted whole."""
        return max(1, min(most, self.waiting(most + LEAST) - LEAST))


class PaceMeter:
    """Measures the rate at which a receiver reads through a window."""

    __slots__ = ("_passed", "_since", "_unacknowledged")

    def __init__(self, now: float) -> None:
        self._since = now
        self._passed = 0
        """Bytes since then."""
        self._unacknowledged = 0
        """Bytes that were in flight to the receiver then."""

    def begin(self, now: float) -> None:
        self._since = now
        self._passed = self._unacknowledged = 0

    def measure(self, now: float, passed: int, least: float, unacknowledged: Callable[[], int]) -> float | None:
        """Returns the rate since the last measurement, with `passed` further bytes. `unacknowledged` returns the bytes
        in flight to the receiver. None: less than `least` seconds have passed, such as a round trip, and bursts would
        look like rates."""
        self._passed += passed
        elapsed = now - self._since
        if elapsed < max(least, MOMENT):
            return None
        under_way = unacknowledged()
        rate = max(0, self._passed - (under_way - self._unacknowledged)) / elapsed
        self._since, self._passed, self._unacknowledged = now, 0, under_way
        return rate


def upstream_bound(rate: float, round_trip: float, target: float, most: int) -> int:
    """Bytes that a provider may send ahead of a client that reads at `rate`, at a distance of `round_trip`: twice what
    is in flight, so that a stream limited by its window gets a wider one; plus the client's share of the target, `most`
    at most."""
    on_its_way = 0 if round_trip < NEARBY else int(2 * rate * round_trip)
    return on_its_way + waiting_bound(rate, target, most)


def waiting_bound(rate: float, target: float, most: int) -> int:
    """Bytes that may wait for such a client at each of the four places: the provider's connection, the relay's memory,
    the client's transport and its kernel buffer."""
    return min(most, max(LEAST, int(rate * target / 4)))
