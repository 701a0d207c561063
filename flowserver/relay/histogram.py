"""A histogram of plain numbers, turned into Prometheus' form when it is asked for. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

WAIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds for which answers are waited for."""


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

    def add(self, other: Histogram) -> None:
        """Count all values of `other`, which has the same bounds."""
        *counts, total = other.figures()
        self._counts = [one + int(another) for one, another in zip(self._counts, counts, strict=True)]
        self.sum += total


def joined(found: Iterable[Histogram], bounds: tuple[float, ...]) -> Histogram:
    """All values of histograms with these `bounds`; the only one itself."""
    several = list(found)
    if len(several) == 1:
        return several[0]
    total = Histogram(bounds)
    for each in several:
        total.add(each)
    return total
