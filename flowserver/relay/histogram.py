"""A histogram of plain numbers, converted to Prometheus' format on demand. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

WAIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds for times of waiting for answers, in seconds."""


class Histogram:
    """Counts values by the smallest bound that they do not exceed."""

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
        """The number of values in each bucket, including those beyond the last bound, and their sum; a consistent
        snapshot."""
        return [*self._counts, self.sum]

    def add(self, other: Histogram) -> None:
        """Count all values of `other`, which has the same bounds."""
        *counts, total = other.figures()
        self._counts = [one + int(another) for one, another in zip(self._counts, counts, strict=True)]
        self.sum += total


def joined(found: Iterable[Histogram], bounds: tuple[float, ...]) -> Histogram:
    """A histogram with the values of all in `found`, which have these `bounds`; if there is only one, that one
    itself."""
    several = list(found)
    if len(several) == 1:
        return several[0]
    total = Histogram(bounds)
    for each in several:
        total.add(each)
    return total
