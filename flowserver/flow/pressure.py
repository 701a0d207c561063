"""The share of work to refuse, controlled by the delay of the rest. No I/O, no clock.

A PI controller, as in PIE (RFC 8033 section 4.2). Since the delay follows the load steeply (a loop whose load is 95 %
of what it can do takes 20 times its idle turn, at 99.5 % 200 times), its integral part looks at the logarithm.
"""

from __future__ import annotations

from math import log2

INTEGRAL = 1.5
"""Steps per second and per doubling of the delay beyond its set point."""
PROPORTIONAL = 16.0
"""Steps per second of delay. Simulated with 400 to 2,000 clients (tests/support/busy_loop.py): with half of it the
delay oscillates more, with twice as much the level does, if an iteration takes longer than the time between two
measurements.
"""
MOST_DOUBLINGS = 2.0
_SHORTEST, _LONGEST_LAPSE = 1e-6, 0.25


class Pressure:
    """The controller. `level` is 0 while nothing is refused. From 0 to 1 a growing share of what gives way first is
    refused, from 1 to 2 also of what comes next, and so on."""

    __slots__ = ("_ceiling", "_delay", "_easy", "_steered_at", "hard", "level")

    def __init__(self, *, easy: float, hard: float) -> None:
        """The target delays in seconds: `easy` in the first step, `hard` beyond."""
        self._easy = easy
        self.hard = hard
        self._ceiling = 16 * hard
        """Longer delays count as this: they reflect how many wait rather than the overload.
        """
        self._delay = 0.0
        self._steered_at = 0.0
        self.level = 0.0

    def begin(self, delay: float, now: float) -> None:
        self.level = 0.0
        self._delay = self._easy
        self._steered_at = now
        self.steer(delay, now, steps=1)

    def steer(self, delay: float, now: float, *, steps: int) -> None:
        """Update with a `delay` measured at `now`. `steps`: the number of steps."""
        lapse = min(_LONGEST_LAPSE, now - self._steered_at)
        self._steered_at = now
        delay = min(delay, self._ceiling)
        change = PROPORTIONAL * (delay - self._delay)
        self._delay = delay
        is_hard = self.level > 1 or (self.level == 1 and delay > self._easy)
        doublings = log2(max(delay, _SHORTEST) / (self.hard if is_hard else self._easy))
        change += INTEGRAL * lapse * max(-MOST_DOUBLINGS, min(MOST_DOUBLINGS, doublings))
        low, high = (1.0, float(steps)) if is_hard else (0.0, 1.0)
        self.level = min(high, max(low, self.level + change))

    def share(self, step: int) -> float:
        """The share that is refused in this step, counted from 0."""
        return min(1.0, max(0.0, self.level - step))
