"""What a parent tells of its workers, beside what they tell themselves."""

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
    """A worker as its parent sees it, or the place of one that is to be started again."""

    name: str
    """The label of its figures. Whoever takes its place has the same, so that series are few."""
    number: int | None
    """Another one for each process that was started; None: there is none at present."""
    is_ready: bool
    """Takes new clients: it has started, answers, and does not drain."""
    load: float
    """By which new connections are handed out."""


class WorkerFigures:
    """Counts for the parent, which calls `restarted`."""

    __slots__ = ("_restarts",)

    def __init__(self) -> None:
        self._restarts = dict.fromkeys(RestartReason, 0)

    def restarted(self, reason: RestartReason) -> None:
        """A worker was lost, and another one is to take its place."""
        self._restarts[reason] += 1

    def families(self, workers: Sequence[WorkerState], answered: Collection[int]) -> Iterator[Family]:
        """`answered`: the numbers of those that told their own figures in time. Sums of one: only a parent has
        these."""
        text = "Workers that there should be."
        yield gauge("flow_workers", text, len(workers), Merge.SUM)
        text = "Whether the worker told its figures within a second. If not, its last ones are shown."
        up: list[tuple[Labels, float]] = [({"worker": each.name}, float(each.number in answered)) for each in workers]
        yield gauges("flow_worker_up", text, up, Merge.SUM)
        load: list[tuple[Labels, float]] = [({"worker": each.name}, each.load) for each in workers]
        text = "What the worker has to do, as it is weighed when connections are handed out."
        yield gauges("flow_worker_load", text, load, Merge.SUM)
        text = "Workers lost and replaced. silent: killed, as it did not answer its parent."
        lost: list[tuple[Labels, float]] = [({"reason": str(each)}, count) for each, count in self._restarts.items()]
        yield counters("flow_worker_restarts", text, lost)
