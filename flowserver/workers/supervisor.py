"""The states of the workers, and the action due for each. No I/O: time is an argument, in seconds."""

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
"""Longest delay in seconds before a short-lived worker is restarted; each delay is twice the previous one."""
LASTS = 1.0
"""A worker that was ready for this many seconds is replaced at once."""
ABORT_TIME = 1.0
"""Seconds that a stuck worker has to show its stack (SIGABRT), before it is killed."""


class State(Enum):
    STARTING = auto()
    READY = auto()
    DRAINING = auto()
    """It accepts no more connections, and ends after its last one."""
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
    """When it must be started."""
    since: float = 0.0
    """When it was started, or became ready."""
    pinged: float | None = None
    """When the unanswered ping was sent; None: there is none."""
    aborted: float | None = None
    """When it was sent SIGABRT."""
    delay: float = 0.0
    """Delay in seconds before its current process."""
    generation: int = 0
    """Of its configuration."""
    is_told: bool = False
    """Whether it was told to reload, and has not answered."""


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a worker's process."""

    worker: Worker
    cause: str
    """For the log: the signal or the exit status."""
    is_signal: bool
    was: State
    was_stuck: bool
    """Whether it was killed because it did not answer."""
    restart_in: float | None
    """Seconds until it is restarted; None: it is not."""


@dataclass(slots=True)
class Supervisor:
    """Decides for all workers. Its caller forks, signals and sends."""

    count: int
    timeout: float
    """Seconds within which a worker must become ready, and answer a ping."""
    generation: int = 0
    """Of the current configuration."""
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
        """The workers that may get connections."""
        ready = self.ready
        return [worker for worker in ready if worker.pinged is None or now - worker.pinged < SLOW] or ready

    # --- starts and ends -------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Worker]:
        """The workers to be started now."""
        if self.is_ending:
            return []
        return [worker for worker in self.workers if worker.state is State.BACKING_OFF and worker.due <= now]

    def next_due(self) -> float | None:
        """When the next worker is due; None: none is."""
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
        """Start no more workers."""
        self.is_ending = True
        for worker in self.workers:
            self.drains(worker)

    def died(self, worker: Worker, status: int, now: float) -> Death:
        """A worker's process has ended; `status` is from os.waitpid."""
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
        """Called first, once per PING_INTERVAL. If it is late, the parent did not run, and answers may wait to be read:
        that time counts against no worker."""
        if self._beat is not None and now - self._beat > SLOW:
            for worker in self.workers:
                worker.pinged = None if worker.pinged is None else now
                worker.since = max(worker.since, now) if worker.state is State.STARTING else worker.since
        self._beat = now

    def pings(self, now: float) -> list[Worker]:
        """The workers to ping now."""
        asked = [worker for worker in self.alive if worker.pinged is None and worker.state is not State.STARTING]
        for worker in asked:
            worker.pinged = now
        return asked

    def ponged(self, worker: Worker) -> None:
        worker.pinged = None

    def stuck(self, now: float) -> Iterator[tuple[Worker, signal.Signals]]:
        """The workers that have not answered for too long, with the signal to send to each."""
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
        """The next worker to reload; None: none, or another one is reloading."""
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
        """Whether every worker that accepts connections, or will, has the current configuration."""
        current = (State.STARTING, State.READY)
        return all(worker.generation == self.generation for worker in self.workers if worker.state in current)


def cause_of(status: int) -> str:
    """A text for a status of os.waitpid."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
