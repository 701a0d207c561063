"""A histogram of plain numbers, turned into Prometheus' form when it is asked for."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """Counts values by the bounds that they do not exceed."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Values observed."""
        return sum(self._counts)

    def figures(self) -> list[float]:
        """The values in each bucket, those beyond the last bound too, and their sum; all of one moment."""
        return [*self._counts, self.sum]
