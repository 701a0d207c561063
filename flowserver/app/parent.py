"""The parent of several workers. It accepts clients' connections and hands them over, starts workers and replaces those
that die, and passes on the signals and commands that it gets. It serves no client.

It leaves its event loop whenever a worker is to be forked: see `workers.process`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

import uvloop

from ..config.differences import differences
from ..config.effective import effective
from ..config.environment import read_again
from ..config.errors import ConfigError
from ..config.file import load_topology
from ..config.settings import Config
from ..config.topology import Topology
from ..downstream.listening import address_of
from ..net import reuse_port
from ..routing.upstream_host import TAKEN_OUT
from ..stores.shared_server import SharedStoreServer
from ..telemetry.line_writer import PolledWriter
from ..telemetry.log import Log
from ..telemetry.sink import DescriptorSink
from ..upstream.resolver import Resolver
from ..workers.fleet import Callbacks, Fleet
from ..workers.process import HANDLED, fork
from ..workers.supervisor import PING_INTERVAL, Death, Supervisor, Worker
from . import garbage
from .clients import tls_context, watermarks
from .handover import Handover
from .inherited import Inherited
from .listening import ListeningSockets, listening_sockets
from .memory import share_of
from .open_log import open_log
from .parent_admin import ParentAdmin
from .parent_control import ParentControl
from .provider_watch import unready
from .providers import FlowLimits, build, shared_key
from .reload_result import ReloadResult
from .service_manager import ServiceManager, streams_open
from .tenancy import check_tenants, memory_store
from .worker import Seat, run_worker


def serve_with_workers(
    config: Config, count: int, given: Inherited | None = None, environ: Mapping[str, str] = os.environ
) -> None:
    """Run `count` workers until SIGTERM or SIGINT, then drain them; a second signal ends them at once. On SIGHUP they
    read the configuration again, one after the other. SIGUSR2 starts a new version of the program, which takes over;
    see `Handover`.

    `given` has the listening sockets that the process began with. Raises ConfigError if they can't start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    writer = PolledWriter(DescriptorSink(1, is_shared=True))
    log = open_log(config, writer=writer)
    loop = uvloop.new_event_loop()
    try:
        parent = loop.run_until_complete(_begun(config, count, given or Inherited(), environ, log))
        while not parent.fleet.is_over:
            parent.fleet.fork_due()
            loop.run_until_complete(parent.run(writer))
            parent.detach_if_due()
        loop.run_until_complete(parent.close())
        if parent.fleet.problems:
            raise ConfigError(parent.fleet.problems)
    finally:
        loop.close()
        log.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _begun(config: Config, count: int, given: Inherited, environ: Mapping[str, str], log: Log) -> Parent:
    topology = await read_configuration(config, environ, log)
    memory = share_of(config, count, lambda problem: log.write("warning", "memory_is_little", problem=problem))
    sockets = Sockets(listening_sockets(config, given), given)
    parent = Parent(config, environ, log, Workers(count, memory), sockets, topology)
    await parent.begin()
    garbage.settle()  # memory shared with the workers stays shared: their garbage collector does not write to it
    return parent


async def read_configuration(
    config: Config, environ: Mapping[str, str], log: Log, before: Topology | None = None
) -> Topology:
    """Read everything that a worker will read. Raises ConfigError if a worker could not use it, or if it has lost the
    tenants of `before`."""
    topology = load_topology(config, environ)
    if before is not None:
        check_tenants(config, before, topology)
    tls_context(config)
    resolver = Resolver(log)
    build(config, topology, FlowLimits(watermarks(config)), resolver)
    resolver.close()
    return topology


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers to run, and the bytes that each may use."""

    count: int
    memory: int


@dataclass(frozen=True, slots=True)
class Sockets:
    """The listening sockets, and those that were passed to the process."""

    listening: ListeningSockets
    given: Inherited


class Phase(Enum):
    STARTING = auto()
    SERVING = auto()
    DETACHING = auto()
    """About to leave the drain to a copy of this process."""
    LEAVING = auto()
    """No longer ready, so that load balancers notice, but still serving."""
    ENDING = auto()


class Parent:
    """The parent: its fleet, its admin pages, and its signals."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        log: Log,
        workers: Workers,
        sockets: Sockets,
        topology: Topology,
    ) -> None:
        self._config = config
        self._environ = environ
        self._log = log
        self._sockets = sockets.listening
        self._given = sockets.given
        self._changes: list[str] = []
        """What the last reload changed."""
        self._topology = topology
        """As last read: a new worker gets this, even if the file has changed since."""
        self._loop = asyncio.get_running_loop()
        self._memory = workers.memory
        supervisor = Supervisor(workers.count, config.worker_timeout)
        tell = Callbacks(self._on_all_ready, self._on_reloaded, self._on_lost)
        self.fleet = Fleet(self._loop, supervisor, log, self._fork, tell)
        self._phase = Phase.STARTING
        self._control = ParentControl(self, self.fleet, log)
        self._is_drained = False
        """Whether an operator has asked for the end, and no signal has arrived yet."""
        self._is_handed_over = False
        """Whether another process listens on the same sockets."""
        self._log_level = config.log_level
        """The level at the start."""
        self._admin = ParentAdmin(
            config, log, self.fleet, self._control, is_leaving=lambda: self._is_told_to_end, unready=self._unready
        )
        self._service = ServiceManager(environ, log, self._figures)
        self._handover = Handover(log, self._sockets, self._on_taken_over)
        self._tasks: set[asyncio.Task[None]] = set()
        self._store = SharedStoreServer(memory_store(config), time.monotonic, broken=self._on_broken)
        self._unserved: list[tuple[Worker, socket.socket]] = []
        """Sockets of just forked workers, on which the store is not yet served."""

    async def begin(self) -> None:
        """Start the admin pages, and install the signal handlers; the signals stay blocked."""
        loop = self._loop
        await self._admin.start(self._sockets.admin, self._sockets.control)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_end, number)
        loop.add_signal_handler(signal.SIGHUP, self.begin_reload)
        loop.add_signal_handler(signal.SIGUSR2, self._on_upgrade)
        # uvloop reserves this signal for its own child processes, but any signal wakes it up.
        signal.signal(signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(self.fleet.reap))

    async def run(self, writer: PolledWriter) -> None:
        """Run until a worker has to be forked, or everything has ended."""
        beating = self._loop.create_task(self._beat(writer))
        while self._unserved:
            worker, sock = self._unserved.pop()
            await self._store.serve(sock, worker.number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        try:
            await self.fleet.run()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
            beating.cancel()

    async def _beat(self, writer: PolledWriter) -> None:
        while True:
            self.fleet.beat()
            self._admin.sweep()
            writer.flush()
            await asyncio.sleep(PING_INTERVAL)

    def _fork(self, worker: Worker, control: socket.socket) -> int:
        ours, theirs = socket.socketpair()
        self._unserved.append((worker, ours))
        with theirs:
            seat = Seat(
                number=worker.number,
                config=self._config,
                topology=self._topology,
                environ=self._environ,
                loads=self.fleet.loads,
                control=control,
                store=theirs,
                memory=self._memory,
                out=self._control.out,
            )
            keep = (control.fileno(), theirs.fileno())
            return fork(lambda: run_worker(seat), keep=keep, holds=(self, self._loop))

    @property
    def _is_told_to_end(self) -> bool:
        return self._phase not in (Phase.STARTING, Phase.SERVING)

    def _unready(self) -> str | None:
        out = self._control.out
        troubles = {
            spec.name: TAKEN_OUT if spec.name in out else self._store.trouble(shared_key(spec))
            for spec in self._topology.upstreams
        }
        return unready(self._config.ready, troubles)

    def _figures(self) -> str:
        return f"{streams_open(self.fleet.streams)}, {len(self.fleet.supervisor.ready)} workers"

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_all_ready(self) -> None:
        clients, admin = self._sockets.clients, self._sockets.admin
        passed = {"passed_by": self._given.source} if self._given.source else {}
        self._log.write(
            "info",
            "listening",
            listen=[str(address_of(listening)) for listening in clients],
            admin="off" if admin is None else str(self._admin.address),
            workers=[worker.pid for worker in self.fleet.supervisor.ready],
            **passed,
        )
        self.fleet.accept(clients)
        if self._phase is Phase.STARTING:
            self._phase = Phase.SERVING
        self._service.ready()
        self._given.ready()

    # --- a new configuration ---------------------------------------------------------------------------------------

    def begin_reload(self) -> None:
        """Read the configuration again, as SIGHUP asks."""
        self._service.reloading()
        self._start(self._reload())

    async def _reload(self) -> None:
        before = self._topology
        try:
            config = read_again(self._config, self._environ)
            self._topology = await read_configuration(config, self._environ, self._log, before)
        except ConfigError as error:
            self._log.write("error", "reload_failed", problems=error.problems)
            self._admin.reloaded(is_good=False)
            self._service.ready("the last reload failed, see the log")
            self._control.reloaded(ReloadResult(time.time(), problems=error.problems))
        else:
            self._config = config
            self._admin.access.token = config.admin_token
            self._changes = differences(before, self._topology)
            self.fleet.reload()

    def _on_reloaded(self) -> None:
        names, ready = [spec.name for spec in self._topology.upstreams], len(self.fleet.supervisor.ready)
        self._log.write("info", "reloaded", upstreams=names, workers=ready, changes=self._changes)
        self._admin.reloaded(is_good=not self.fleet.has_refused)
        self._service.ready()
        self._control.reloaded(ReloadResult(time.time(), changes=self._changes))

    def _on_lost(self, death: Death) -> None:
        self._admin.lost(death)

    def _on_broken(self, number: int, error: Exception) -> None:
        """A worker has sent the store an invalid message."""
        self._log.write("error", "worker_broken", worker=number, error=str(error))
        self.fleet.abort(number)

    # --- control ---------------------------------------------------------------------------------------------------

    @property
    def upstreams(self) -> list[str]:
        """The names of all providers."""
        return [spec.name for spec in self._topology.upstreams]

    def configuration(self) -> dict[str, Any]:
        """See `config.effective`; with the providers that are out."""
        changed = ("log_level",) if self._config.log_level != self._log_level else ()
        told = effective(self._config, self._topology, self._environ, changed)
        return {**told, "out": sorted(self._control.out)}

    def use_log_level(self, level: str) -> None:
        """Use this level for its own log, and for workers that it starts from now on."""
        self._log.level = level
        self._config = replace(self._config, log_level=level)

    def begin_drain(self) -> None:
        """Start the end, as a first signal does. The next signal still counts as the first: see `Ending.drain`."""
        if not self._is_told_to_end:
            self._is_drained = True
            self._begin_end(may_detach=False)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _on_upgrade(self) -> None:
        if self._phase is not Phase.STARTING:
            self._handover.begin()

    def _on_taken_over(self, successor: int) -> None:
        """Another process accepts from the same sockets, and answers for the admin pages."""
        self._phase = Phase.ENDING
        self._is_handed_over = True
        self._service.hand_over(successor)
        self._admin.drain()
        self._drain()

    def _on_end(self, number: signal.Signals) -> None:
        if self._is_drained:
            self._is_drained = False
            return
        if self._is_told_to_end:
            self._log.write("warning", "ending_at_once", signal=number.name, reason="a second signal")
            self._phase = Phase.ENDING
            self.fleet.stop()
            return
        self._begin_end(may_detach=True)

    def _begin_end(self, *, may_detach: bool) -> None:
        self._handover.end()
        self._service.stopping()
        if may_detach and self._config.detached_drain and self._given.sockets and self._phase is Phase.SERVING:
            self._phase = Phase.DETACHING
            self.fleet.leave_loop()
        else:
            self._phase = Phase.LEAVING
            self._start(self._leave())

    def detach_if_due(self) -> None:
        """End this process, and drain in a copy of it, so that a service manager that waits for its end can start the
        next one on sockets that stay open. Called while the event loop is not running: there is no thread then, and
        afterwards only the copy uses the epoll set."""
        if self._phase is Phase.DETACHING:
            self._phase = Phase.ENDING
            if os.fork():
                os._exit(0)
            self._log.write("info", "detached", pid=os.getpid())
            self.fleet.has_children = False
            self._service.leave()
            self._sockets.remove_control_file()
            self._admin.drain()
            self._drain()

    async def _leave(self) -> None:
        if self._config.drain_delay:
            self._log.write("info", "leaving", drain_in=self._config.drain_delay)
            await asyncio.sleep(self._config.drain_delay)
        if self._config.reuse_port:
            await reuse_port.leave(self._sockets.clients, self.fleet.adopt, lambda: self.fleet.accepted)
        if self._phase is Phase.LEAVING:
            self._phase = Phase.ENDING
            self._sockets.remove_files()
            self._drain()

    def _drain(self) -> None:
        self._log.write("info", "draining", streams=self.fleet.streams)
        self.fleet.drain(self._config.drain_timeout)

    async def close(self) -> None:
        """Close everything, once all workers have ended."""
        for task in self._tasks:
            task.cancel()
        self._service.close()
        if not self._is_handed_over:
            self._sockets.remove_control_file()
        await self._admin.close()
        self._store.close()
        self._sockets.close()
        if not self.fleet.problems:
            self._log.write("info", "stopped")
