"""Lets what was kept out come back at a rate that grows. No I/O, no clock.

When what was short is free again, whoever was kept out would come in at once, and be the next shortage: a wave, with
another one to follow when all who came in together leave together.
"""

from __future__ import annotations

from math import exp

LEAST = 20.0
"""Per second: the rate is never lower."""
GROWTH = 1.25
"""The rate is this many times what came in lately."""
LATELY = 1.0
"""Time constant of that average, in seconds."""
AT_ONCE, FEW = 0.1, 5.0
"""How many may come in together: so many seconds' worth, and never fewer than a few."""


class Readmission:
    """A token bucket whose rate follows what comes in."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self) -> None:
        self._at = 0.0
        self._rate = 0.0
        """Of what came in, per second."""
        self._tokens = 0.0

    def admits(self, now: float, *, is_limited: bool) -> bool:
        """Whether one more may come in now; if so, it is counted. `is_limited`: whether there was a shortage lately."""
        lapse = max(0.0, now - self._at)
        self._at = now
        self._rate *= exp(-lapse / LATELY)
        allowed = max(LEAST, GROWTH * self._rate)
        self._tokens = min(max(FEW, AT_ONCE * allowed), self._tokens + lapse * allowed)
        if is_limited and self._tokens < 1:
            return False
        self._tokens = max(0.0, self._tokens - 1)
        self._rate += 1 / LATELY
        return True
