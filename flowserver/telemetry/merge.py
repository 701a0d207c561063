"""The snapshots of several workers as one page of metrics. No sum falls, whatever becomes of the workers.

To Prometheus, a counter that has fallen was restarted, and its whole value is an increase. So the counts of former
workers stay in the sums, and so does a series that a worker drops or restarts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import lt

from .exposition import Family, Kind, Labels, Merge, Sample
from .snapshot import Key, Table, Tables, decoded

MAX_PAST = 10_000
"""Most series that are kept of former workers. Clients may choose their labels, so there must be a bound; a histogram
counts as one."""
AT_A_TIME = 50
"""Series per piece of work."""
WORKER = "worker"
"""The label with a worker's name."""


class _Place:
    """The figures of successive workers with the same name."""

    __slots__ = ("latest", "name", "past", "worker")

    def __init__(self, name: str) -> None:
        self.name = name
        self.worker: int | None = None
        """The worker that reported `latest`; None: none yet."""
        self.latest: Tables = {}
        self.past: Tables = {}
        """Counters and histograms that `latest` no longer has. They are kept per name and added to its own, so that the
        parts of a sum, and its rounding, stay the same when a worker is gone."""

    def settle(self, told: Tables, *, anew: bool) -> Iterator[bytes]:
        """Replace the last report by `told`. `anew`: by a new worker, which counts from zero. Yields empty pieces in
        between."""
        for table in self.latest.values():
            if table.kind is not Kind.GAUGE:
                after = told.get(table.name)
                for number, (key, figures) in enumerate(table.samples.items(), 1):
                    now = after.samples.get(key) if after is not None and not anew else None
                    if now is None or any(map(lt, now, figures)):
                        self._keep(table, key, figures)
                    if number % AT_A_TIME == 0:
                        yield b""
        self.latest = told

    def _keep(self, table: Table, key: Key, figures: list[float]) -> None:
        past = self.past.get(table.name)
        if past is None:
            past = self.past[table.name] = Table(table.kind, table.name, table.text, table.merge, table.bounds)
        past.samples[key] = _added(past.samples.get(key), figures)

    def figures(self, family: str, key: Key) -> list[float] | None:
        """The total of a series; None: there is no such series."""
        past, latest = _find(self.past, family, key), _find(self.latest, family, key)
        return past if latest is None else _added(past, latest)


class Ledger:
    """The reports of all workers, by name.

    Its operations yield empty pieces in between; one must finish before the next begins.
    """

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}

    def take(self, name: str, worker: int, snapshot: bytes) -> Iterator[bytes]:
        """Record `snapshot` of the worker `worker`, called `name`."""
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = _Place(name)
        told = yield from decoded(snapshot)
        yield from place.settle(told, anew=place.worker != worker)
        place.worker = worker

    def keep(self, workers: Iterable[int]) -> Iterator[bytes]:
        """All except `workers` are gone: drop their gauges, but keep their counts."""
        alive = frozenset(workers)
        for place in self._places.values():
            if place.worker is not None and place.worker not in alive:
                yield from place.settle({}, anew=True)
                place.worker = None
        if sum(len(table.samples) for place in self._places.values() for table in place.past.values()) > MAX_PAST:
            yield from self._forget()

    def families(self) -> Iterator[Family]:
        """All families, merged. Samples are generated while they are written."""
        tables: Tables = {}
        for place in self._places.values():
            for name, table in (*place.latest.items(), *place.past.items()):
                tables.setdefault(name, table)
        for table in tables.values():
            samples = self._each(table.name) if table.merge is Merge.EACH else self._merged(table)
            yield Family(table.kind, table.name, table.text, table.merge, samples, table.bounds)

    def _merged(self, table: Table) -> Iterator[Sample]:
        for key in self._keys(table.name):
            found = [place.figures(table.name, key) for place in self._places.values()]
            yield dict(key), _merged(table.merge, [figures for figures in found if figures is not None])

    def _each(self, family: str) -> Iterator[Sample]:
        for place in self._places.values():
            table = place.latest.get(family)
            for key, figures in table.samples.items() if table is not None else ():
                labels: Labels = dict(key)
                labels[WORKER] = place.name
                yield labels, figures

    def _keys(self, family: str) -> Iterable[Key]:
        keys: dict[Key, list[float]] = {}
        for place in self._places.values():
            for tables in (place.latest, place.past):
                if family in tables:
                    keys.update(tables[family].samples)
        return keys

    def _forget(self) -> Iterator[bytes]:
        """Drop series of former workers beyond MAX_PAST: if they appear again, they start at zero."""
        places = list(self._places.values())
        past: dict[tuple[str, Key], None] = {}
        for place in places:
            for name, table in place.past.items():
                for key in table.samples:
                    if not any(_find(other.latest, name, key) for other in places):
                        past[name, key] = None
                yield b""
        for name, key in list(past)[MAX_PAST:]:
            for place in places:
                if name in place.past:
                    place.past[name].samples.pop(key, None)


def _find(tables: Tables, family: str, key: Key) -> list[float] | None:
    table = tables.get(family)
    return None if table is None else table.samples.get(key)


def _added(first: list[float] | None, second: list[float]) -> list[float]:
    return second if first is None else [one + other for one, other in zip(first, second, strict=True)]


def _merged(merge: Merge, found: Sequence[list[float]]) -> list[float]:
    if merge is Merge.MAX:
        return max(found)
    if merge is Merge.MIN:
        return min(found)
    total = found[0]
    for figures in found[1:]:
        total = _added(total, figures)
    return total
