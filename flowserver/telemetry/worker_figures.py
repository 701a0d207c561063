"""The parent's figures about its workers, besides their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .exposition import Family, Labels, Merge, counters, gauge, gauges


class RestartReason(StrEnum):
    """How a worker was lost that had not been told to end."""

    SIGNAL = "signal"
    """A signal ended it."""
    EXIT = "exit"
    SILENT = "silent"
    """It did not answer, so it was killed."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker as its parent sees it, or the slot of one that will be restarted."""

    name: str
    """The label of its figures. Its replacement has the same, so that there are few series."""
    number: int | None
    """A new one for each process; None: there is no process at present."""
    is_ready: bool
    """Whether it accepts new clients: it has started, answers, and does not drain."""
    load: float
    """The load by which new connections are assigned."""


class WorkerFigures:
    """Counters of the parent, which calls `restarted`."""

    __slots__ = ("_restarts",)

    def __init__(self) -> None:
        self._restarts = dict.fromkeys(RestartReason, 0)

    def restarted(self, reason: RestartReason) -> None:
        """A worker was lost, and is being replaced."""
        self._restarts[reason] += 1

    def families(self, workers: Sequence[WorkerState], answered: Collection[int]) -> Iterator[Family]:
        """`answered`: the numbers of the workers that answered in time. Only a parent has these families."""
        text = "Configured number of workers."
        yield gauge("flow_workers", text, len(workers), Merge.SUM)
        text = "Whether the worker reported its figures within a second. If not, its last ones are shown."
        up: list[tuple[Labels, float]] = [({"worker": each.name}, float(each.number in answered)) for each in workers]
        yield gauges("flow_worker_up", text, up, Merge.SUM)
        load: list[tuple[Labels, float]] = [({"worker": each.name}, each.load) for each in workers]
        text = "Load of the worker, by which connections are assigned."
        yield gauges("flow_worker_load", text, load, Merge.SUM)
        text = "Workers that were lost and replaced. silent: killed, because it did not answer its parent."
        lost: list[tuple[Labels, float]] = [({"reason": str(each)}, count) for each, count in self._restarts.items()]
        yield counters("flow_worker_restarts", text, lost)
