"""How fast places at a provider change hands, and how many of them interactive requests need. No I/O."""

from __future__ import annotations

WINDOW = 30.0
"""Seconds. What interactive traffic needed is remembered for one to two windows: long enough for thousands of requests
of a busy relay, short enough that batch gets the places soon after."""
_MEMORY = 1 - 1 / 64
"""Factor by which a release reduces the weight of earlier ones."""


class Turnover:
    """The time for which a place is held, by Little's law: the total time that places were held, per released place. So
    places that are held for long count before they are released."""

    __slots__ = ("_at", "_held", "_open", "_released")

    def __init__(self) -> None:
        self._at: float | None = None
        self._open = 0
        self._held = 0.0
        self._released = 0.0

    def changed(self, open_places: int, now: float) -> None:
        """From `now` on, `open_places` are held."""
        if self._at is not None:
            self._held += self._open * max(0.0, now - self._at)
        if open_places < self._open:
            self._held *= _MEMORY
            self._released = self._released * _MEMORY + 1
        self._at, self._open = now, open_places

    def hold_time(self, now: float) -> float | None:
        """Mean time in seconds; None: no place was released yet."""
        if not self._released or self._at is None:
            return None
        return (self._held + self._open * max(0.0, now - self._at)) / self._released


class RecentPeak:
    """The highest value of the last one to two `WINDOW`s."""

    __slots__ = ("_began", "_last", "_now")

    def __init__(self) -> None:
        self._began = 0.0
        self._now = 0
        self._last = 0

    def note(self, figure: int, now: float) -> None:
        self._turn(now)
        self._now = max(self._now, figure)

    def at(self, now: float) -> int:
        self._turn(now)
        return max(self._now, self._last)

    def _turn(self, now: float) -> None:
        passed = now - self._began
        if passed >= WINDOW:
            self._last = self._now if passed < 2 * WINDOW else 0
            self._now = 0
            self._began = now
