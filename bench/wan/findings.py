"""What the parts have found: figures, curves over rounds, and how sizes and distances are called."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from bench.figures import Collector, Series


@dataclass(slots=True)
class Findings:
    """Of one run."""

    figures: Collector = field(default_factory=Collector)
    _points: dict[tuple[str, str, str, str], dict[float, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def point(self, relay: str, what: str, unit: str, x: str, at: tuple[float, float]) -> None:
        """One point of a curve; those of further rounds have the same `x`."""
        self._points[what, relay, unit, x][at[0]].append(at[1])

    def series(self) -> tuple[Series, ...]:
        """Curves of medians."""
        return tuple(
            Series(what, relay, unit, x, tuple((place, median(values)) for place, values in sorted(points.items())))
            for (what, relay, unit, x), points in self._points.items()
        )


def size_in_words(size: float) -> str:
    """20000 -> 20 KB."""
    for unit, least in (("MB", 1e6), ("KB", 1e3)):
        if size >= least:
            return f"{size / least:g} {unit}"
    return f"{size:g} B"


def trip_in_words(round_trip: float) -> str:
    """0.05 -> at 50 ms."""
    return f"at {round_trip * 1e3:g} ms"
