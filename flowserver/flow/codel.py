"""Detects a standing queue, by CoDel's rule (RFC 8289). No I/O, no clock.

The criterion is not the length of the queue, but the shortest recent delay: a burst is over within an interval, a
standing queue is not.
"""

from __future__ import annotations


class StandingDelay:
    """Judges each measured delay."""

    __slots__ = ("_above_since", "_interval", "_target")

    def __init__(self, target: float, interval: float) -> None:
        """`target` and `interval` in seconds: the highest acceptable delay, and for how long it must be exceeded."""
        self._target = target
        self._interval = interval
        self._above_since: float | None = None
        """Since when all delays have been above the target; None: the last was not."""

    @property
    def is_suspected(self) -> bool:
        """Whether the last delay was above the target."""
        return self._above_since is not None

    def observe(self, delay: float, now: float) -> bool:
        """Returns whether the shortest delay of an interval was above the target. While that `is_suspected`, measure
        delays even without work: else the last delay of a burst would count until the next work arrives."""
        if delay <= self._target:
            self._above_since = None
            return False
        if self._above_since is None:
            self._above_since = now
        return now - self._above_since >= self._interval
