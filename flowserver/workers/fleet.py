"""The parent's workers: their processes, their channels, and the connections given to them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Protocol

from .channel import Channel, Kind, Message
from .load import CONNECTIONS, STREAMS, LoadTable
from .spread import Acceptor, Spread, Taker
from .supervisor import Death, State, Supervisor, Worker

KILL_AFTER = 1.0
"""Seconds within which workers must end at a STOP."""
DRAIN_MARGIN = 5.0
"""Seconds that a worker has beyond the drain time to end."""

Answered = Callable[[bytes | None], None]
"""Is called with a worker's answer; None: there will be none."""


class FleetLog(Protocol):
    def write(self, level: str, event: str, **fields: Any) -> None: ...


class Spawn(Protocol):
    def __call__(self, worker: Worker, control: socket.socket) -> int:
        """Fork a worker's process, which gets `control`. Returns its pid."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """The fleet's callbacks to its owner."""

    all_ready: Callable[[], None]
    """All initial workers are ready or have died at least once, and some are ready; called once."""
    reloaded: Callable[[], None]
    """All workers have the current configuration."""
    lost: Callable[[Death], None]
    """A worker has ended without being told to, and is replaced."""


class Fleet:
    """The parent's workers. Call `fork_due`, outside of the event loop, and `run`, in it, alternately until it
    `is_over`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, supervisor: Supervisor, log: FleetLog, spawn: Spawn, tell: Callbacks
    ) -> None:
        self.supervisor = supervisor
        self.loads = LoadTable(supervisor.count)
        self.problems: list[str] = []
        """Why the initial workers did not start; empty if they did."""
        self._loop = loop
        self._log = log
        self._spawn = spawn
        self._tell = tell
        self._spread = Spread(self.loads)
        self._acceptor: Acceptor | None = None
        self._channels: dict[int, Channel] = {}
        self._asked: dict[int, dict[int, Answered]] = {}
        """By worker and number of the query."""
        self._questions = count(1)
        self._has_begun = False
        self._is_reloading = False
        self.has_refused = False
        """Whether a worker could not use the last configuration."""
        self.has_children = True
        """Whether the workers are children of this process. If not, the end of a channel means the end of a worker."""
        self._wake = asyncio.Event()

    # --- processes -------------------------------------------------------------------------------------------------

    def fork_due(self) -> None:
        """Fork the workers that are due. Call this outside of the event loop."""
        for worker in self.supervisor.due(time.monotonic()):
            self._spread.reset(worker.number)
            ours, theirs = socket.socketpair()
            with theirs:
                pid = self._spawn(worker, theirs)
            self.supervisor.started(worker, pid, time.monotonic())
            self._channels[worker.number] = Channel(
                self._loop,
                ours,
                partial(self._on_message, worker),
                partial(self._on_lost, worker),
            )

    async def run(self) -> None:
        """Run until a worker has to be forked, or everything has ended."""
        due = self.supervisor.next_due()
        timer = None if due is None else self._loop.call_later(max(0.0, due - time.monotonic()), self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        if timer is not None:
            timer.cancel()

    def leave_loop(self) -> None:
        """Make `run` return."""
        self._wake.set()

    @property
    def is_over(self) -> bool:
        """Whether it was told to end, and all processes have ended."""
        return self.supervisor.is_ending and not self.supervisor.alive

    def reap(self) -> None:
        """On SIGCHLD: collect the processes that have ended."""
        for worker in self.supervisor.alive if self.has_children else ():
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._on_death(worker, status)
        if self.is_over:
            self._wake.set()

    def _on_death(self, worker: Worker, status: int) -> None:
        channel = self._channels.pop(worker.number, None)
        if channel is not None:
            channel.receive()  # its last messages
            self._give_to_others(channel.close())
        for answered in self._asked.pop(worker.number, {}).values():
            answered(None)
        pid, streams = worker.pid, self.loads.read(worker.number, STREAMS)
        death = self.supervisor.died(worker, status, time.monotonic())
        self._spread.reset(worker.number)
        self._report(death, pid, streams)
        if not self._has_begun and self.problems:
            self.stop()
        self._begin_if_all_ready()
        self._reload_next()
        self._wake.set()

    def _report(self, death: Death, pid: int, streams: int) -> None:
        fields: dict[str, Any] = {"worker": death.worker.number, "pid": pid, "cause": death.cause}
        if death.was is State.DRAINING and not streams:
            self._log.write("info", "worker_ended", **fields)
        else:
            self._log.write("error", "worker_died", **fields, streams_lost=streams, restart_in=death.restart_in)
        if death.was is not State.DRAINING:
            self._tell.lost(death)

    def _on_lost(self, worker: Worker, unsent: list[socket.socket]) -> None:
        """The worker's process is ending; `reap` does the rest."""
        self._channels.pop(worker.number, None)
        self._give_to_others(unsent)
        if not self.has_children:
            self._on_death(worker, 0)
            if self.is_over:
                self._wake.set()

    # --- connections -----------------------------------------------------------------------------------------------

    def accept(self, sockets: tuple[socket.socket, ...]) -> None:
        """Start accepting on `sockets`, which the fleet owns from then on."""
        self._acceptor = Acceptor(self._loop, sockets, self._spread, self._takers, self._on_exhausted)

    def _takers(self) -> dict[int, Taker]:
        responsive = self.supervisor.responsive(time.monotonic())
        channels = ((worker.number, self._channels.get(worker.number)) for worker in responsive)
        return {number: channel for number, channel in channels if channel is not None}

    def adopt(self, connection: socket.socket) -> None:
        """Give a worker a connection that was accepted elsewhere."""
        self._give_to_others([connection])

    @property
    def accepted(self) -> int:
        """Number of connections so far."""
        return 0 if self._acceptor is None else self._acceptor.accepted

    def _give_to_others(self, connections: list[socket.socket]) -> None:
        if self._acceptor is not None:
            self._acceptor.take(connections)

    def _on_exhausted(self, error: OSError) -> None:
        self._log.write("error", "accept_failed", reason=error.strerror)

    def load(self, worker: int) -> float:
        """The load by which connections are assigned."""
        return self._spread.load(worker)

    @property
    def streams(self) -> int:
        """Open streams of all workers."""
        return self.loads.total(STREAMS)

    @property
    def connections(self) -> int:
        return self.loads.total(CONNECTIONS)

    # --- messages --------------------------------------------------------------------------------------------------

    def _on_message(self, worker: Worker, message: Message) -> None:
        match message.kind:
            case Kind.READY:
                self._on_ready(worker)
            case Kind.PONG:
                self.supervisor.ponged(worker)
            case Kind.RELOADED:
                self._on_reloaded(worker, message.json())
            case Kind.LEAVING:
                self.supervisor.drains(worker)
                self._send(worker, Kind.DRAIN)
            case Kind.ANSWER:
                self._on_answer(worker, message.payload)
            case Kind.FAILED:
                self._on_failed(worker, message.json())

    def _send(self, worker: Worker, kind: Kind, payload: bytes = b"") -> bool:
        channel = self._channels.get(worker.number)
        if channel is not None:
            channel.send(kind, payload)
        return channel is not None

    def _on_ready(self, worker: Worker) -> None:
        self.supervisor.became_ready(worker, time.monotonic())
        if self._has_begun:
            self._log.write("info", "worker_ready", worker=worker.number, pid=worker.pid)
        self._begin_if_all_ready()
        self._reload_next()

    def _on_failed(self, worker: Worker, problems: list[str]) -> None:
        if self._has_begun:
            self._log.write("error", "worker_failed", worker=worker.number, problems=problems)
        else:
            self.problems = self.problems or problems

    def _begin_if_all_ready(self) -> None:
        supervisor = self.supervisor
        starting = any(worker.state is State.STARTING for worker in supervisor.workers)
        if not self._has_begun and supervisor.ready and not starting and not supervisor.is_ending:
            self._has_begun = True
            self._tell.all_ready()

    # --- heartbeat, questions --------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Call this once per PING_INTERVAL."""
        now = time.monotonic()
        self.supervisor.beat(now)
        self._spread.settle()
        for worker, number in self.supervisor.stuck(now):
            if number is signal.SIGABRT:
                self._log.write("error", "worker_stuck", worker=worker.number, pid=worker.pid)
            os.kill(worker.pid, number)
        for worker in self.supervisor.pings(now):
            self._send(worker, Kind.PING)

    def abort(self, worker: int) -> None:
        """Kill a worker that has failed; it is replaced."""
        pid = self.supervisor.workers[worker].pid
        if pid:
            os.kill(pid, signal.SIGABRT)

    def ask(self, worker: int, what: bytes, answered: Answered) -> None:
        """Send a query to a worker. `answered` is called once, with None if the worker ends first."""
        question = next(self._questions)
        self._asked.setdefault(worker, {})[question] = answered
        if not self._send(self.supervisor.workers[worker], Kind.ASK, question.to_bytes(4) + what):
            self._asked[worker].pop(question)
            answered(None)

    def _on_answer(self, worker: Worker, payload: bytes) -> None:
        answered = self._asked.get(worker.number, {}).pop(int.from_bytes(payload[:4]), None)
        if answered is not None:
            answered(payload[5:] if len(payload) > 4 else None)

    # --- reload, end -----------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Make the workers read the configuration again, one after the other."""
        self.supervisor.generation += 1
        self._is_reloading = True
        self.has_refused = False
        self._reload_next()

    def _reload_next(self) -> None:
        worker = self.supervisor.reloads()
        if worker is not None:
            self._send(worker, Kind.RELOAD)
        elif self._is_reloading and self.supervisor.is_up_to_date:
            self._is_reloading = False
            self._tell.reloaded()

    def _on_reloaded(self, worker: Worker, problems: list[str]) -> None:
        if problems:
            self.has_refused = True
            self._log.write("error", "reload_failed", worker=worker.number, problems=problems)
        self.supervisor.reloaded(worker)
        self._reload_next()

    def drain(self, seconds: float) -> None:
        """Stop listening; workers end with their last connection, within `seconds` and a margin."""
        if self._acceptor is not None:
            self._acceptor.close()
        self._end(Kind.DRAIN, seconds + DRAIN_MARGIN)

    def stop(self) -> None:
        """End everything at once."""
        if self._acceptor is not None:
            self._acceptor.close()
        self._end(Kind.STOP, KILL_AFTER)

    def _end(self, kind: Kind, seconds: float) -> None:
        self.supervisor.end()
        for worker in self.supervisor.alive:
            self._send(worker, kind)
        self._loop.call_later(seconds, self._kill)
        if self.is_over:
            self._wake.set()

    def _kill(self) -> None:
        for worker in self.supervisor.alive:
            self._log.write("error", "worker_killed", worker=worker.number, pid=worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
