"""Lets what was kept out come back at a rate that grows. No I/O, no clock.

When what was short is free again, whoever was kept out would come in at once, and be the next shortage: a wave, with
another one to follow when all who came in together leave together.
"""

from __future__ import annotations

from math import exp

LEAST = 20.0
"""Per second: so many come in in any case."""
GROWTH = 1.25
"""More than came in of late may come in by this factor ..."""
MEMORY = 1.0
"""... of late: within some seconds."""
AT_ONCE, FEW = 0.1, 5.0
"""Seconds' worth that may come in together, and how many may in any case."""


class Readmission:
    """A token bucket whose rate follows what comes in."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self) -> None:
        self._at = 0.0
        self._rate = 0.0
        """Of what came in, per second."""
        self._tokens = 0.0

    def admits(self, now: float, *, is_limited: bool) -> bool:
        """Whether one more may come in now, which it does then. `is_limited`: whether there was a shortage of late."""
        lapse = max(0.0, now - self._at)
        self._at = now
        self._rate *= exp(-lapse / MEMORY)
        allowed = max(LEAST, GROWTH * self._rate)
        self._tokens = min(max(FEW, AT_ONCE * allowed), self._tokens + lapse * allowed)
        if is_limited and self._tokens < 1:
            return False
        self._tokens = max(0.0, self._tokens - 1)
        self._rate += 1 / MEMORY
        return True
