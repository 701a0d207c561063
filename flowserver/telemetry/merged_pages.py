"""The admin pages of several workers, in their parent: it queries all of them, and merges the answers that arrive in
time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Protocol

from .exposition import written
from .live_objects import objects
from .live_streams import array, rows_of
from .live_views import View, question_of
from .merge import Ledger
from .metrics import Metrics
from .slices import Done, Slices
from .snapshot import encoded
from .sources import LIVE, METRICS, STREAMS, Common
from .worker_figures import WorkerFigures, WorkerState

ANSWER_TIME = 1.0
"""Seconds to wait for workers. Shorter than any scraper waits."""
PARENT = "parent"
"""The parent's name in the label `worker`."""
_PARENT_NUMBER = -1
"""A number that no worker has."""

Answered = Callable[[bytes | None], None]
"""Is called with a worker's answer; None: there will be none."""
CallLater = Callable[[float, Callable[[], None]], object]


class Workers(Protocol):
    """The workers, as their parent sees them."""

    @property
    def is_draining(self) -> bool:
        """Whether the parent is shutting down."""

    def states(self) -> Sequence[WorkerState]:
        """One state for each worker that should exist."""

    def ask(self, number: int, what: bytes, answered: Answered) -> None:
        """Query the worker `number` for METRICS, STREAMS or LIVE. `answered` is called once, possibly before this
        returns; with None if the worker ends first."""


class _Round:
    """One query to all workers."""

    __slots__ = ("answers", "is_over", "make", "missing", "names", "what", "who")

    def __init__(self, what: bytes, make: Callable[[_Round], Iterator[bytes]], workers: Sequence[WorkerState]) -> None:
        """`make` makes a page from the answers."""
        self.what = what
        self.make = make
        self.names = {worker.number: worker.name for worker in workers if worker.number is not None}
        """The names of the queried workers."""
        self.missing = set(self.names)
        self.answers: dict[int, bytes] = {}
        self.is_over = False
        self.who: list[Done] = []
        """Callbacks that wait for the page."""


class MergedPages:
    """The `admin.AdminSource` of a parent. Requests that arrive while a page is being made share it.

    A worker that does not answer in time appears in the metrics with its last figures, and is missing from the streams.
    """

    __slots__ = (
        "_call_later",
        "_common",
        "_late",
        "_ledger",
        "_metrics",
        "_rounds",
        "_slices",
        "_unready",
        "_workers",
        "figures",
    )

    def __init__(
        self,
        workers: Workers,
        metrics: Metrics,
        slices: Slices,
        call_later: CallLater,
        *,
        common: Common,
        unready: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`metrics` are the parent's own; `unready` returns why providers make the relay unready (None: they do
        not)."""
        self._common = common
        self.figures = WorkerFigures()
        self._workers = workers
        self._metrics = metrics
        self._slices = slices
        self._call_later = call_later
        self._unready = unready
        self._ledger = Ledger()
        self._rounds: dict[bytes, _Round] = {}
        """Queries under way, by kind."""
        self._late: dict[int, tuple[str, bytes]] = {}
        """Names and metrics of workers that answered too late for a page."""

    def unready(self) -> str | None:
        """The parent is ready if any worker is: it hands new clients to that one."""
        if self._workers.is_draining:
            return "draining"
        if not any(worker.is_ready for worker in self._workers.states()):
            return "no worker is ready"
        return self._unready()

    def metrics(self, done: Done) -> None:
        self._ask(METRICS, self._metrics_page, done)

    def streams(self, done: Done) -> None:
        self._ask(STREAMS, self._streams_page, done)

    def live(self, views: list[View], done: Done) -> None:
        """Make objects with the streams of the workers that answer in time."""
        self._ask(LIVE + question_of(views), lambda asked: self._objects(views, asked), done)

    def _ask(self, what: bytes, make: Callable[[_Round], Iterator[bytes]], done: Done) -> None:
        known = self._rounds.get(what)
        if known is not None:
            known.who.append(done)
            return
        asked = self._rounds[what] = _Round(what, make, self._workers.states())
        asked.who.append(done)
        for number in asked.names:
            self._workers.ask(number, what, partial(self._hear, asked, number))
        if asked.missing:
            self._call_later(ANSWER_TIME, partial(self._end, asked))
        else:
            self._end(asked)

    def _hear(self, asked: _Round, number: int, answer: bytes | None) -> None:
        asked.missing.discard(number)
        if answer is not None and not asked.is_over:
            asked.answers[number] = answer
        elif answer is not None and asked.what == METRICS:
            self._late[number] = asked.names[number], answer
        if not asked.missing:
            self._end(asked)

    def _end(self, asked: _Round) -> None:
        """All have answered, or the time is over."""
        if asked.is_over:
            return
        asked.is_over = True

        def made(parts: list[bytes] | None) -> None:
            del self._rounds[asked.what]
            for done in asked.who:
                done(parts)

        self._slices.ask(asked.what, lambda: asked.make(asked), made)

    def _metrics_page(self, asked: _Round) -> Iterator[bytes]:
        told, self._late = self._late, {}
        told.update({number: (asked.names[number], answer) for number, answer in asked.answers.items()})
        for number, (name, answer) in told.items():
            yield from self._ledger.take(name, number, answer)
        own: list[bytes] = yield from self._own(asked)
        yield from self._ledger.take(PARENT, _PARENT_NUMBER, b"".join(own))
        alive = [worker.number for worker in self._workers.states() if worker.number is not None]
        yield from self._ledger.keep([*alive, _PARENT_NUMBER])
        for family in self._ledger.families():
            yield from written(family)

    def _own(self, asked: _Round) -> Generator[bytes, None, list[bytes]]:
        """The parent's own metrics. Yields empty pieces in between."""
        lines: list[bytes] = []
        for family in self.figures.families(self._workers.states(), asked.answers.keys()):
            lines += encoded(family)
        for line in self._metrics.snapshot():
            lines.append(line)
            yield b""
        return lines

    def _objects(self, views: list[View], asked: _Round) -> Iterator[bytes]:
        reports = sorted((asked.names[number], answer) for number, answer in asked.answers.items())
        return objects(views, reports, self._common())

    def _streams_page(self, asked: _Round) -> Iterator[bytes]:
        return array(self._rows(asked))

    def _rows(self, asked: _Round) -> Iterator[bytes]:
        for number, answer in asked.answers.items():
            yield from rows_of(asked.names[number], answer)
