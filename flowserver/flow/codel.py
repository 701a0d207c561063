"""Whether work waits for too long, by CoDel's rule (RFC 8289). No I/O, no clock.

Not how much waits is asked, but for how long the least of it has waited lately: a burst is over within an interval, a
queue that stands is not.
"""

from __future__ import annotations


class StandingDelay:
    """Hears of each delay that was measured."""

    __slots__ = ("_above_since", "_interval", "_target")

    def __init__(self, target: float, interval: float) -> None:
        """`target` and `interval` are seconds: the longest delay that may stand, and for how long it has to."""
        self._target = target
        self._interval = interval
        self._above_since: float | None = None
        """When the first of the delays was measured that all were above the target; None: the last was not."""

    @property
    def is_suspected(self) -> bool:
        """Whether the last delay was above the target."""
        return self._above_since is not None

    def observe(self, delay: float, now: float) -> bool:
        """Returns whether the least delay of an interval was above the target. While that `is_suspected`, delays are to
        be measured whether there is work or not: else the last of a burst would count until the next work comes."""
        if delay <= self._target:
            self._above_since = None
            return False
        if self._above_since is None:
            self._above_since = now
        return now - self._above_since >= self._interval
