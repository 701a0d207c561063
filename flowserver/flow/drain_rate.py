"""How fast a client takes its answer, and how far ahead of it a provider may be. No I/O, no clock.

What is in flight is bounded by time, not by a number of bytes: a client that is slower than its provider gets as much
ahead as it takes in the target time (`FLOW_DRAIN_TARGET`), and what is on the way from the provider besides. A client
that keeps up gets what its provider sends. Rates are in bytes a second, times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from .memory_budget import UNLIMITED, MemoryBudget

LEAST = 512
"""Bytes that may wait at each place in any case: some events."""
SPAN = 8
"""Target times over which a client's evenness is told: kernels acknowledge in lumps, which shorter ones would show."""
MOMENT = 0.01
"""Seconds over which a rate can be told: buffers fill in less."""
NEARBY = 0.001
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
        """`memory` says what share of the target there is room for."""
        self._target = target
        self._memory = memory
        self._since = self._span_since = now
        self._acknowledged = self._span_acknowledged = 0
        self._span_rate = 0.0
        """That of the last whole span, see SPAN."""
        self.rate = 0.0
        self.unevenness = 0.5
        """How far the rates of successive spans differ: from 0, it is steady, to 1, it comes and goes. At first it is
        not known."""

    def __repr__(self) -> str:
        return f"<DrainRate {self.rate:.0f} bytes/s unevenness={self.unevenness:.2f}>"

    def measure(self, now: float, acknowledged: int) -> None:
        """So many bytes in all were acknowledged by `now`. What came in no time is measured with what follows."""
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
            difference = max(0.0, 2 * abs(rate - self._span_rate) / most - 1)  # lumps make up to a half
            self.unevenness += (difference - self.unevenness) / 2
        self._span_rate, self._span_since, self._span_acknowledged = rate, now, self._acknowledged

    def waiting(self, most: int) -> int:
        """Bytes that may wait for the client at one place: its `waiting_bound`, and the more of `most` the less even it
        is. A steady client needs no reserve."""
        share = self._memory.target_share
        most = min(most, max(LEAST, int(share * most)))
        steady = waiting_bound(self.rate, share * self._target, most)
        return steady + int(self.unevenness * (most - steady))

    def mark(self, most: int) -> int:
        """At how many of them a place takes no more: a read before, since what is written then is taken whole."""
        return max(1, min(most, self.waiting(most + LEAST) - LEAST))


class PaceMeter:
    """Measures at what rate a receiver takes what a window lets through."""

    __slots__ = ("_passed", "_since", "_unacknowledged")

    def __init__(self, now: float) -> None:
        self.begin(now)

    def begin(self, now: float) -> None:
        self._since = now
        self._passed = 0
        """Bytes since then."""
        self._unacknowledged = 0
        """Bytes that were on their way to the receiver then."""

    def measure(self, now: float, passed: int, least: float, unacknowledged: Callable[[], int]) -> float | None:
        """Returns the rate since this was last told, with `passed` further bytes. `unacknowledged` tells the bytes that
        are on their way to the receiver. None: that is less than `least` seconds ago, such as a round trip, and bursts
        would pass for rates."""
        self._passed += passed
        elapsed = now - self._since
        if elapsed < max(least, MOMENT):
            return None
        under_way = unacknowledged()
        rate = max(0, self._passed - (under_way - self._unacknowledged)) / elapsed
        self._since, self._passed, self._unacknowledged = now, 0, under_way
        return rate


def upstream_bound(rate: float, round_trip: float, target: float, most: int) -> int:
    """Bytes that a provider may send ahead of a client that takes `rate`, at a distance of `round_trip`: what is on its
    way, twice, so that a stream that a window holds up gets a wider one; and the client's share of the target, `most`
    at most."""
    on_its_way = 0 if round_trip < NEARBY else int(2 * rate * round_trip)
    return on_its_way + waiting_bound(rate, target, most)


def waiting_bound(rate: float, target: float, most: int) -> int:
    """Bytes that may wait for such a client at each of the four places on the way: the provider's connection, the
    relay's memory, the client's transport and its kernel."""
    return min(most, max(LEAST, int(rate * target / 4)))
