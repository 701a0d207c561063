"""What a case has found out, and how relays compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one relay: a value for each round, in `unit`."""

    what: str
    relay: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(frozen=True, slots=True)
class Series:
    """How one quantity of one relay goes with another one: `points` are of `x`, in words, and of the quantity in
    `unit`."""

    what: str
    relay: str
    unit: str
    x: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """All figures of a case. `settings` says what was run, `notes` what should be known beside the figures, `series` is
    for plots."""

    name: str
    title: str
    settings: dict[str, float | str]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()

    def beside(self, figure: Figure, relay: str) -> Figure | None:
        """The same quantity of another relay. Of both the first rounds are the same ones."""
        for other in self.figures:
            if other.what == figure.what and other.relay == relay != figure.relay:
                return other
        return None

    def ratio(self, figure: Figure, relay: str) -> float | None:
        """Median of the ratios to `relay`, round by round; None if there is nothing to compare."""
        other = self.beside(figure, relay)
        if other is None or not all(value > 0 for value in other.values):
            return None
        return median(a / b for a, b in zip(figure.values, other.values, strict=False))

    def excess(self, figure: Figure, relay: str) -> float | None:
        """Median of the differences to `relay`, round by round; None if there is nothing to compare."""
        other = self.beside(figure, relay)
        if other is None:
            return None
        return median(a - b for a, b in zip(figure.values, other.values, strict=False))


@dataclass(slots=True)
class Collector:
    """Gathers values over rounds."""

    _values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, relay: str, what: str, unit: str, value: float) -> None:
        self._values[what, relay, unit].append(value)

    def figures(self) -> tuple[Figure, ...]:
        """Grouped by quantity, in the order in which they first came."""
        order = list(dict.fromkeys(what for what, _, _ in self._values))
        keys = sorted(self._values, key=lambda key: order.index(key[0]))
        return tuple(Figure(what, relay, unit, tuple(self._values[what, relay, unit])) for what, relay, unit in keys)


def rotated(turns: Iterable[T], round_number: int) -> list[T]:
    """The turns in an order that starts with another one in each round, so that none always goes first."""
    every = list(turns)
    shift = round_number % len(every) if every else 0
    return every[shift:] + every[:shift]
