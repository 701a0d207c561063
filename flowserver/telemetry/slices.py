"""Long work, done in slices on the event loop, so that relaying waits for one slice at most."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

SLICE = 0.001
"""Seconds of work in one iteration of the event loop."""

Done = Callable[[list[bytes] | None], None]
"""Is called with the result; None: the work failed."""


def advance(steps: Iterator[object], seconds: float, clock: Callable[[], float]) -> bool:
    """Do steps for so long, at least one. Returns whether all are done."""
    until = clock() + seconds
    return all(clock() < until for _ in steps)


class _Job:
    __slots__ = ("done", "name", "pieces", "result")

    def __init__(self, name: bytes, pieces: Iterator[bytes], done: Done) -> None:
        self.name = name
        self.pieces = pieces
        self.done = [done]
        self.result: list[bytes] = []
        """The joined output of each slice."""

    def advance(self, clock: Callable[[], float]) -> bool:
        """Do one slice. Returns whether it is done."""
        until, found = clock() + SLICE, []
        is_done = True
        for piece in self.pieces:
            found.append(piece)
            if clock() >= until:
                is_done = False
                break
        self.result.append(b"".join(found))
        return is_done

    def end(self, result: list[bytes] | None) -> None:
        for done in self.done:
            done(result)


class Slices:
    """Does one job after the other. A request for a job that is under way or queued shares its result, which is never
    older than that of an earlier job."""

    __slots__ = ("_call_soon", "_clock", "_is_due", "_jobs")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], clock: Callable[[], float]) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._jobs: deque[_Job] = deque()
        self._is_due = False
        """Whether a slice is under way or scheduled."""

    def ask(self, name: bytes, work: Callable[[], Iterator[bytes]], done: Done) -> None:
        """Do the job `name`, or join it. Its first slice is done at once, unless another job is under way."""
        for job in self._jobs:
            if job.name == name:
                job.done.append(done)
                return
        self._jobs.append(_Job(name, work(), done))
        if not self._is_due:
            self._step()

    def _step(self) -> None:
        self._is_due = True
        job = self._jobs[0]
        is_over = has_failed = True
        try:
            is_over = job.advance(self._clock)
            has_failed = False
        finally:
            if is_over:
                self._jobs.popleft()
                job.end(None if has_failed else job.result)
            self._is_due = bool(self._jobs)
            if self._jobs:
                self._call_soon(self._step)
