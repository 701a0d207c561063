"""The parent of several workers. It accepts clients' connections and hands them over, starts workers and replaces those
that die, and tells them what it is told itself. It serves no client.

It leaves its event loop whenever a worker is to be forked: see `workers.process`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Mapping

import uvloop

from ..config.file import Topology, load_topology
from ..config.settings import Config, ConfigError
from ..downstream.listening import address_of
from ..stores.shared_server import SharedStoreServer
from ..telemetry.line_writer import PolledWriter
from ..telemetry.log import Log
from ..telemetry.sink import DescriptorSink
from ..upstream.resolver import Resolver
from ..workers.fleet import Callbacks, Fleet
from ..workers.process import HANDLED, fork
from ..workers.supervisor import PING_INTERVAL, Death, Supervisor, Worker
from .clients import tls_context, watermarks
from .listening import ListeningSockets, listening_sockets
from .parent_admin import ParentAdmin
from .providers import build
from .tenancy import check_tenants, memory_store
from .worker import Seat, run_worker


def serve_with_workers(config: Config, count: int, environ: Mapping[str, str] = os.environ) -> None:
    """Run `count` workers until SIGTERM or SIGINT, then drain them; a second signal ends them at once. SIGHUP makes
    them read the configuration again, one after the other.

    Raises ConfigError if they can't start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    writer = PolledWriter(DescriptorSink(1, is_shared=True))
    log = Log(config.log_level, writer=writer)
    loop = uvloop.new_event_loop()
    try:
        parent = loop.run_until_complete(_begun(config, count, environ, log))
        while not parent.fleet.is_over:
            parent.fleet.fork_due()
            loop.run_until_complete(parent.run(writer))
        loop.run_until_complete(parent.close())
        if parent.fleet.problems:
            raise ConfigError(parent.fleet.problems)
    finally:
        loop.close()
        log.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _begun(config: Config, count: int, environ: Mapping[str, str], log: Log) -> Parent:
    topology = await read_configuration(config, environ, log)
    sockets = listening_sockets(config)
    parent = Parent(config, environ, log, count, sockets, topology)
    await parent.begin()
    gc.collect()
    gc.freeze()  # what is shared with the workers stays so: their collector does not write into it
    return parent


async def read_configuration(
    config: Config, environ: Mapping[str, str], log: Log, before: Topology | None = None
) -> Topology:
    """Read all that a worker will. Raises ConfigError if it could not use it, or if it has lost the tenants of
    `before`."""
    topology = load_topology(config, environ)
    if before is not None:
        check_tenants(config, before, topology)
    tls_context(config)
    resolver = Resolver(log)
    build(config, topology, watermarks(config), resolver)
    resolver.close()
    return topology


class Parent:
    """Its fleet, its admin pages, and its signals."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        log: Log,
        count: int,
        sockets: ListeningSockets,
        topology: Topology,
    ) -> None:
        self._config = config
        self._environ = environ
        self._log = log
        self._sockets = sockets
        self._topology = topology
        """As it was read last: what a new worker gets, whatever the file says by then."""
        self._loop = asyncio.get_running_loop()
        supervisor = Supervisor(count, config.worker_timeout)
        tell = Callbacks(self._on_all_ready, self._on_reloaded, self._on_lost)
        self.fleet = Fleet(self._loop, supervisor, log, self._fork, tell)
        self._admin = ParentAdmin(config, log, self.fleet)
        self._store = SharedStoreServer(memory_store(config), time.monotonic, broken=self._on_broken)
        self._unserved: list[tuple[Worker, socket.socket]] = []
        """Sockets of workers that were just forked, at which the store is to be served."""

    async def begin(self) -> None:
        """Start the admin pages, and take the signals over, which stay blocked."""
        loop = self._loop
        if self._sockets.admin is not None:
            await self._admin.start(self._sockets.admin)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_end)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        # uvloop keeps this signal for processes of its own, but wakes up by any.
        signal.signal(signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(self.fleet.reap))

    async def run(self, writer: PolledWriter) -> None:
        """Until a worker is to be forked, or all is over."""
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
            seat = Seat(worker.number, self._config, self._topology, self._environ, self.fleet.loads, control, theirs)
            keep = (control.fileno(), theirs.fileno())
            return fork(lambda: run_worker(seat), keep=keep, holds=(self, self._loop))

    def _on_all_ready(self) -> None:
        clients, admin = self._sockets.clients, self._sockets.admin
        self._log.write(
            "info",
            "listening",
            listen=[str(address_of(listening)) for listening in clients],
            admin="off" if admin is None else str(self._admin.address),
            workers=[worker.pid for worker in self.fleet.supervisor.ready],
        )
        self.fleet.accept(clients)

    def _on_reload(self) -> None:
        self._reloading = self._loop.create_task(self._reload())

    async def _reload(self) -> None:
        try:
            self._topology = await read_configuration(self._config, self._environ, self._log, self._topology)
        except ConfigError as error:
            self._log.write("error", "reload_failed", problems=error.problems)
        else:
            self.fleet.reload()

    def _on_reloaded(self) -> None:
        names = [spec.name for spec in self._topology.upstreams]
        self._log.write("info", "reloaded", upstreams=names, workers=len(self.fleet.supervisor.ready))

    def _on_lost(self, death: Death) -> None:
        self._admin.lost(death)

    def _on_broken(self, number: int, error: Exception) -> None:
        """A worker sends the store nonsense."""
        self._log.write("error", "worker_broken", worker=number, error=str(error))
        self.fleet.abort(number)

    def _on_end(self) -> None:
        if self.fleet.supervisor.is_ending:
            self.fleet.stop()
            return
        self._log.write("info", "draining", streams=self.fleet.streams)
        self.fleet.drain(self._config.drain_timeout)

    async def close(self) -> None:
        """All workers have ended."""
        await self._admin.close()
        self._store.close()
        self._sockets.close()
        if not self.fleet.problems:
            self._log.write("info", "stopped")
