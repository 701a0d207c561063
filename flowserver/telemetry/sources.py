"""What one process reports: its own admin pages, or answers to the parent of several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .live_objects import objects
from .live_report import LiveReport
from .live_streams import array, rows
from .live_views import View, question_of
from .metrics import Metrics
from .slices import Done, Slices

METRICS = b"metrics"
STREAMS = b"streams"
LIVE = b"live "
"""What a parent queries from its workers. The last one is followed by the views, see `live_views.question_of`."""

Common = Callable[[], dict[str, object]]
"""Returns the part of each object of the live feed that does not depend on streams."""


class OwnPages:
    """The `admin.AdminSource` of a process without a parent."""

    __slots__ = ("_clock", "_common", "_metrics", "_report", "_slices", "_unready")

    def __init__(
        self,
        metrics: Metrics,
        slices: Slices,
        report: LiveReport,
        *,
        clock: Callable[[], float],
        unready: Callable[[], str | None],
        common: Common,
    ) -> None:
        """`clock`: the exchanges' clock. For `unready` see `AdminSource`."""
        self._metrics = metrics
        self._slices = slices
        self._report = report
        self._common = common
        self._clock = clock
        self._unready = unready

    def unready(self) -> str | None:
        return self._unready()

    def metrics(self, done: Done) -> None:
        self._slices.ask(METRICS, self._metrics.scrape, done)

    def streams(self, done: Done) -> None:
        self._slices.ask(STREAMS, self._array, done)

    def live(self, views: list[View], done: Done) -> None:
        question = question_of(views)
        self._slices.ask(LIVE + question, lambda: self._objects(views, question), done)

    def _objects(self, views: list[View], question: bytes) -> Iterator[bytes]:
        told: list[bytes] = []
        for piece in self._report.lines(question):
            told.append(piece)
            yield b""
        yield from objects(views, [("", b"".join(told))], self._common())

    def _array(self) -> Iterator[bytes]:
        return array(rows(self._metrics, self._clock))


class WorkerReports:
    """A worker's answers to its parent, which makes pages from them: see `merged_pages`."""

    __slots__ = ("_clock", "_metrics", "_report", "_slices")

    def __init__(self, metrics: Metrics, slices: Slices, report: LiveReport, clock: Callable[[], float]) -> None:
        """`clock`: the exchanges' clock."""
        self._metrics = metrics
        self._slices = slices
        self._report = report
        self._clock = clock

    def tell(self, what: bytes, done: Done) -> None:
        """Make the answer to `what`: METRICS, STREAMS, or LIVE with views. It is made in slices; `done` gets its parts,
        to be sent as one."""
        if what.startswith(LIVE):
            self._slices.ask(what, lambda: self._report.lines(what.removeprefix(LIVE)), done)
        else:
            self._slices.ask(what, self._metrics.snapshot if what == METRICS else self._rows, done)

    def _rows(self) -> Iterator[bytes]:
        return rows(self._metrics, self._clock)
