"""Workers without processes: what their parent knows of them, and what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowserver.telemetry.merged_pages import Answered
from flowserver.telemetry.worker_figures import WorkerState


class FakeWorkers:
    """A `telemetry.merged_pages.Workers`. `answers` has what workers say at once, by number and question; what else is
    asked waits in `asked`."""

    def __init__(self, *states: WorkerState) -> None:
        self.is_draining = False
        self.all: list[WorkerState] = list(states)
        self.answers: dict[int, Callable[[bytes], bytes | None]] = {}
        self.asked: list[tuple[int, bytes, Answered]] = []

    def states(self) -> Sequence[WorkerState]:
        return self.all

    def ask(self, number: int, what: bytes, answered: Answered) -> None:
        if number in self.answers:
            answered(self.answers[number](what))
        else:
            self.asked.append((number, what, answered))


def worker(name: str, number: int | None, *, is_ready: bool = True, load: float = 0.0) -> WorkerState:
    return WorkerState(name, number, is_ready, load)
