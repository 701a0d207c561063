"""What one process tells: its own admin pages, or answers to the parent of several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .live_streams import array, rows
from .metrics import Metrics
from .slices import Done, Slices

METRICS = b"metrics"
STREAMS = b"streams"
"""What a parent asks its workers for."""


class OwnPages:
    """An `admin.AdminSource` of a process without a parent."""

    __slots__ = ("_clock", "_is_draining", "_metrics", "_short", "_slices")

    def __init__(
        self,
        metrics: Metrics,
        slices: Slices,
        *,
        clock: Callable[[], float],
        is_draining: Callable[[], bool],
        short: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`clock`: that of the exchanges. `short`: what there is too little of to be ready."""
        self._metrics = metrics
        self._slices = slices
        self._clock = clock
        self._is_draining = is_draining
        self._short = short

    def unready(self) -> str | None:
        return "draining" if self._is_draining() else self._short()

    def metrics(self, done: Done) -> None:
        self._slices.ask(METRICS, self._metrics.scrape, done)

    def streams(self, done: Done) -> None:
        self._slices.ask(STREAMS, self._array, done)

    def _array(self) -> Iterator[bytes]:
        return array(rows(self._metrics, self._clock))


class WorkerReports:
    """What a worker answers its parent, which makes pages of it: see `merged_pages`."""

    __slots__ = ("_clock", "_metrics", "_slices")

    def __init__(self, metrics: Metrics, slices: Slices, clock: Callable[[], float]) -> None:
        """`clock`: that of the exchanges."""
        self._metrics = metrics
        self._slices = slices
        self._clock = clock

    def tell(self, what: bytes, done: Done) -> None:
        """`what` is METRICS or STREAMS. Made in slices of the loop; `done` gets it in parts, to be sent as one."""
        self._slices.ask(what, self._metrics.snapshot if what == METRICS else self._rows, done)

    def _rows(self) -> Iterator[bytes]:
        return rows(self._metrics, self._clock)
