"""The states of the workers, and what is to be done about each. No I/O: time is an argument, in seconds."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

PING_INTERVAL = 1.0
SLOW = 2 * PING_INTERVAL
"""Seconds without an answer after which a worker gets no more connections while others answer."""
FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0
"""Seconds between a worker's death and the next try, if it does not last; each is twice the one before."""
LASTS = 1.0
"""Seconds after which a worker that was ready has lasted: the next one is started at once."""
ABORT_TIME = 1.0
"""Seconds that a stuck worker has to tell where (SIGABRT), before it is killed."""


class State(Enum):
    STARTING = auto()
    READY = auto()
    DRAINING = auto()
    """It takes no more connections, and ends after its last."""
    BACKING_OFF = auto()
    """It has no process until its delay is over."""


@dataclass(slots=True)
class Worker:
    """One of the workers; its process may change."""

    number: int
    """From 0."""
    state: State = State.BACKING_OFF
    pid: int = 0
    due: float = 0.0
    """When it is started."""
    since: float = 0.0
    """When it was started, and then when it became ready."""
    pinged: float | None = None
    """When the heartbeat was asked for that has not been answered; None: there is none."""
    aborted: float | None = None
    """When it was sent SIGABRT."""
    delay: float = 0.0
    """Seconds that it waited for its present process."""
    generation: int = 0
    """Of the configuration that it has."""
    is_told: bool = False
    """Whether it was told to read the configuration again, and has not answered."""


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a worker's process."""

    worker: Worker
    cause: str
    """For the log: the signal or the exit status."""
    is_signal: bool
    was: State
    was_stuck: bool
    """Whether it was ended since it did not answer."""
    restart_in: float | None
    """Seconds until it is started again; None: it is not."""


@dataclass(slots=True)
class Supervisor:
    """Decides for all workers. Its caller forks, signals and sends."""

    count: int
    timeout: float
    """Seconds in which a worker has to become ready, and to answer its heartbeat."""
    generation: int = 0
    """Of the configuration that holds."""
    is_ending: bool = False
    workers: list[Worker] = field(init=False)
    restarts: int = 0
    _beat: float | None = None
    """When the last heartbeat was."""

    def __post_init__(self) -> None:
        self.workers = [Worker(number) for number in range(self.count)]

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state is not State.BACKING_OFF]

    @property
    def ready(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state is State.READY]

    def responsive(self, now: float) -> list[Worker]:
        """Those that connections are given to."""
        ready = self.ready
        return [worker for worker in ready if worker.pinged is None or now - worker.pinged < SLOW] or ready

    # --- starts and ends -------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Worker]:
        """Those to be started."""
        if self.is_ending:
            return []
        return [worker for worker in self.workers if worker.state is State.BACKING_OFF and worker.due <= now]

    def next_due(self) -> float | None:
        """When `due` has the next; None: nobody waits."""
        waiting = [worker.due for worker in self.workers if worker.state is State.BACKING_OFF]
        return None if self.is_ending else min(waiting, default=None)

    def started(self, worker: Worker, pid: int, now: float) -> None:
        worker.state, worker.pid, worker.since = State.STARTING, pid, now
        worker.pinged, worker.aborted = None, None
        worker.generation, worker.is_told = self.generation, False

    def became_ready(self, worker: Worker, now: float) -> None:
        if worker.state is State.STARTING:
            worker.state, worker.since = State.READY, now

    def drains(self, worker: Worker) -> None:
        if worker.state in (State.STARTING, State.READY):
            worker.state = State.DRAINING

    def end(self) -> None:
        """No worker is started any more."""
        self.is_ending = True
        for worker in self.workers:
            self.drains(worker)

    def died(self, worker: Worker, status: int, now: float) -> Death:
        """`status` as os.waitpid gives it."""
        was, was_stuck = worker.state, worker.aborted is not None
        lasted = was is State.DRAINING or (was is State.READY and now - worker.since >= LASTS)
        worker.delay = 0.0 if lasted else min(LONGEST_DELAY, max(FIRST_DELAY, 2 * worker.delay))
        worker.state, worker.pid, worker.due, worker.is_told = State.BACKING_OFF, 0, now + worker.delay, False
        if not self.is_ending:
            self.restarts += 1
        return Death(
            worker=worker,
            cause=cause_of(status),
            is_signal=os.WIFSIGNALED(status),
            was=was,
            was_stuck=was_stuck,
            restart_in=None if self.is_ending else worker.delay,
        )

    # --- heartbeat -------------------------------------------------------------------------------------------------

    def beat(self, now: float) -> None:
        """Called once in PING_INTERVAL, first of all. If it comes late, it was the parent that did not run, and answers
        may wait to be read: that time counts for nobody."""
        if self._beat is not None and now - self._beat > SLOW:
            for worker in self.workers:
                worker.pinged = None if worker.pinged is None else now
                worker.since = max(worker.since, now) if worker.state is State.STARTING else worker.since
        self._beat = now

    def pings(self, now: float) -> list[Worker]:
        """Those to be pinged now."""
        asked = [worker for worker in self.alive if worker.pinged is None and worker.state is not State.STARTING]
        for worker in asked:
            worker.pinged = now
        return asked

    def ponged(self, worker: Worker) -> None:
        worker.pinged = None

    def stuck(self, now: float) -> Iterator[tuple[Worker, signal.Signals]]:
        """Those that have not answered for too long, and the signal that each is to get."""
        for worker in self.alive:
            if worker.aborted is not None:
                if now - worker.aborted >= ABORT_TIME:
                    yield worker, signal.SIGKILL
                continue
            since = worker.since if worker.state is State.STARTING else worker.pinged
            if since is not None and now - since >= self.timeout:
                worker.aborted = now
                yield worker, signal.SIGABRT

    # --- reload ----------------------------------------------------------------------------------------------------

    def reloads(self) -> Worker | None:
        """The next to read the configuration again; None: nobody, or another one does so."""
        if any(worker.is_told for worker in self.workers):
            return None
        late = (worker for worker in self.ready if worker.generation < self.generation)
        worker = next(late, None)
        if worker is not None:
            worker.is_told = True
        return worker

    def reloaded(self, worker: Worker) -> None:
        worker.is_told, worker.generation = False, self.generation

    @property
    def is_up_to_date(self) -> bool:
        """Whether every worker that takes connections, or will, has the present configuration."""
        current = (State.STARTING, State.READY)
        return all(worker.generation == self.generation for worker in self.workers if worker.state in current)


def cause_of(status: int) -> str:
    """A status of os.waitpid in words."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # of the real-time ones
        return f"signal {-code}"
