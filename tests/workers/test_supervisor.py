"""What the supervisor decides, with time and deaths made up."""

from __future__ import annotations

import signal

import pytest

from flowserver.workers.supervisor import (
    ABORT_TIME,
    FIRST_DELAY,
    LASTS,
    LONGEST_DELAY,
    SLOW,
    Death,
    State,
    Supervisor,
    Worker,
    cause_of,
)

KILLED = int(signal.SIGKILL)
FAILED = 1 << 8


class Scene:
    """A supervisor whose workers have been started at 0."""

    def __init__(self, count: int = 2, *, ready: bool = True) -> None:
        self.supervisor = Supervisor(count, timeout=30)
        self.now = 0.0
        self.pids = 100
        self.start()
        for worker in self.supervisor.workers if ready else ():
            self.supervisor.became_ready(worker, self.now)

    def start(self) -> list[Worker]:
        """Fork those that are due."""
        due = self.supervisor.due(self.now)
        for worker in due:
            self.pids += 1
            self.supervisor.started(worker, self.pids, self.now)
        return due

    def dies(self, worker: Worker, status: int = KILLED) -> Death:
        return self.supervisor.died(worker, status, self.now)

    def beats(self, seconds: int, *, answering: list[Worker]) -> list[tuple[int, signal.Signals]]:
        """A heartbeat a second. Returns who got which signal."""
        sent = []
        for _ in range(seconds):
            self.now += 1
            self.supervisor.beat(self.now)
            sent += [(worker.number, number) for worker, number in self.supervisor.stuck(self.now)]
            for worker in self.supervisor.pings(self.now):
                if worker in answering:
                    self.supervisor.ponged(worker)
        return sent


def test_all_are_started_at_once() -> None:
    scene = Scene(3, ready=False)
    assert [worker.state for worker in scene.supervisor.workers] == [State.STARTING] * 3
    assert scene.start() == []
    assert scene.supervisor.next_due() is None


def test_a_worker_that_lasted_is_replaced_at_once() -> None:
    scene = Scene()
    first = scene.supervisor.workers[0]
    scene.now = LASTS
    death = scene.dies(first)
    assert (death.cause, death.was, death.restart_in) == ("SIGKILL", State.READY, 0.0)
    assert scene.start() == [first]
    assert first.state is State.STARTING
    assert scene.supervisor.restarts == 1


@pytest.mark.parametrize("becomes_ready", [True, False])
def test_workers_that_do_not_last_are_started_ever_more_rarely(becomes_ready: bool) -> None:
    scene = Scene(1, ready=becomes_ready)
    [worker] = scene.supervisor.workers
    delays = []
    for _ in range(12):
        death = scene.dies(worker, FAILED)
        assert death.restart_in is not None
        assert scene.start() == []
        delays.append(death.restart_in)
        due = scene.supervisor.next_due()
        assert due is not None
        scene.now = due
        assert scene.start() == [worker]
        if becomes_ready:
            scene.supervisor.became_ready(worker, scene.now)
    assert delays[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY
    scene.supervisor.became_ready(worker, scene.now)
    scene.now += LASTS
    assert scene.dies(worker).restart_in == 0.0


def test_a_death_of_one_leaves_the_others_alone() -> None:
    scene = Scene(3)
    first, second, third = scene.supervisor.workers
    scene.dies(second)
    assert scene.supervisor.ready == [first, third]
    assert scene.supervisor.alive == [first, third]


def test_a_stuck_worker_is_asked_where_and_then_killed() -> None:
    scene = Scene()
    first, second = scene.supervisor.workers
    sent = scene.beats(30, answering=[first])
    assert sent == []
    assert scene.beats(1, answering=[first]) == [(1, signal.SIGABRT)]
    assert scene.beats(round(ABORT_TIME), answering=[first]) == [(1, signal.SIGKILL)]
    assert scene.dies(second).was is State.READY


def test_a_worker_that_never_becomes_ready_is_killed() -> None:
    scene = Scene(1, ready=False)
    assert scene.beats(29, answering=[]) == []
    assert scene.beats(1, answering=[]) == [(0, signal.SIGABRT)]


def test_a_parent_that_did_not_run_itself_blames_nobody() -> None:
    """It was stopped for a minute, and answers wait to be read."""
    scene = Scene()
    scene.beats(3, answering=[])
    scene.now += 60
    assert scene.beats(3, answering=[]) == []
    assert len(scene.beats(40, answering=[])) >= 2, "they are stuck after all"


def test_slow_workers_get_no_connections_while_others_answer() -> None:
    scene = Scene()
    first, second = scene.supervisor.workers
    scene.supervisor.pings(0.0)
    assert scene.supervisor.responsive(SLOW / 2) == [first, second]
    scene.supervisor.ponged(second)
    assert scene.supervisor.responsive(SLOW) == [second]
    scene.supervisor.pings(SLOW)
    assert scene.supervisor.responsive(3 * SLOW) == [first, second], "somebody has to take them"


def test_workers_read_the_configuration_again_one_by_one() -> None:
    scene = Scene(3)
    first, second, third = scene.supervisor.workers
    supervisor = scene.supervisor
    supervisor.generation += 1
    assert supervisor.reloads() is first
    assert supervisor.reloads() is None, "the first has not answered"
    supervisor.reloaded(first)
    assert supervisor.reloads() is second
    scene.dies(second)
    assert supervisor.reloads() is third, "the dead do not keep the others waiting"
    supervisor.reloaded(third)
    assert supervisor.is_up_to_date
    scene.now += 1
    assert scene.start() == [second]
    supervisor.became_ready(second, scene.now)
    assert supervisor.reloads() is None, "it was forked with the new one"


def test_a_worker_that_was_starting_meanwhile_reads_it_when_it_is_ready() -> None:
    scene = Scene(1, ready=False)
    [worker] = scene.supervisor.workers
    scene.supervisor.generation += 1
    assert scene.supervisor.reloads() is None
    assert not scene.supervisor.is_up_to_date
    scene.supervisor.became_ready(worker, 1.0)
    assert scene.supervisor.reloads() is worker


def test_at_the_end_nobody_is_started() -> None:
    scene = Scene()
    first, second = scene.supervisor.workers
    scene.dies(second)
    scene.supervisor.end()
    scene.now += 100
    assert scene.start() == []
    assert scene.supervisor.next_due() is None
    assert scene.supervisor.ready == []
    assert first.state is State.DRAINING
    death = scene.dies(first, 0)
    assert (death.was, death.restart_in, death.cause) == (State.DRAINING, None, "exit status 0")
    assert scene.supervisor.alive == []


def test_one_that_drains_for_itself_is_replaced_when_it_has_ended() -> None:
    scene = Scene()
    first = scene.supervisor.workers[0]
    scene.supervisor.drains(first)
    assert first not in scene.supervisor.ready
    assert scene.start() == []
    assert scene.dies(first, 0).restart_in == 0.0
    assert scene.start() == [first]


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "exit status 0"), (3 << 8, "exit status 3"), (int(signal.SIGSEGV), "SIGSEGV"), (45, "signal 45")],
)
def test_causes_in_words(status: int, text: str) -> None:
    assert cause_of(status) == text
