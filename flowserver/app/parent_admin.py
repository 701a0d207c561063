"""The admin pages of a parent."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence

from ..config.addresses import Address
from ..config.settings import Config
from ..downstream.context import ListenerContext
from ..downstream.listener import Listener
from ..downstream.listening import address_of
from ..flow.memory_budget import Level
from ..net.hangup import EpollHangups
from ..relay.uploads import Uploads
from ..telemetry.admin import Admin
from ..telemetry.admin_hosts import AdminHosts
from ..telemetry.live_objects import common
from ..telemetry.log import Log
from ..telemetry.merged_pages import MergedPages
from ..telemetry.metrics import Metrics
from ..telemetry.slices import Slices
from ..telemetry.worker_figures import RestartReason, WorkerState
from ..workers.fleet import Answered, Fleet
from ..workers.load import PRESSURE
from ..workers.supervisor import Death, State
from .clients import connection_settings, watermarks

MAX_CONNECTIONS = 256


class _Workers:
    """`merged_pages.Workers`. A process is known by its pid, its place by its number."""

    def __init__(self, fleet: Fleet, is_leaving: Callable[[], bool], ready_memory: str | None) -> None:
        self._fleet = fleet
        self._unready = len(Level) if ready_memory is None else Level[ready_memory.upper()].value
        """The level of memory from which a worker is not ready."""
        self._is_leaving = is_leaving

    @property
    def is_draining(self) -> bool:
        return self._is_leaving()

    def states(self) -> Sequence[WorkerState]:
        supervisor = self._fleet.supervisor
        responsive = supervisor.responsive(time.monotonic())
        return [
            WorkerState(
                name=str(worker.number),
                number=worker.pid or None,
                is_ready=worker.state is State.READY
                and worker in responsive
                and self._fleet.loads.read(worker.number, PRESSURE) < self._unready,
                load=self._fleet.load(worker.number),
            )
            for worker in supervisor.workers
        ]

    def ask(self, number: int, what: bytes, answered: Answered) -> None:
        for worker in self._fleet.supervisor.alive:
            if worker.pid == number:
                self._fleet.ask(worker.number, what, answered)
                return
        answered(None)


class ParentAdmin:
    """Answers while all workers are busy."""

    def __init__(
        self,
        config: Config,
        log: Log,
        fleet: Fleet,
        *,
        is_leaving: Callable[[], bool],
        unready: Callable[[], str | None],
    ) -> None:
        """`is_leaving`: whether it is to be said that it is not ready any more; `unready` as in `MergedPages`."""
        loop = asyncio.get_running_loop()
        self.address: Address | None = None
        self._metrics = Metrics(log)
        self._hangups = EpollHangups(loop)
        slices = Slices(loop.call_soon, time.monotonic)
        self._pages = MergedPages(
            _Workers(fleet, is_leaving, config.ready_memory),
            self._metrics,
            slices,
            loop.call_later,
            unready=unready,
            common=lambda: common(self._metrics.process, is_draining=is_leaving()),
        )
        self._admin = admin = Admin(self._pages, AdminHosts(config.admin_hosts, config.admin_listen), loop.call_later)
        context = ListenerContext(
            settings=connection_settings(config, watermarks(config), MAX_CONNECTIONS, is_public=False),
            open_exchange=admin.open_exchange,
            observer=self._metrics,
            clock=time.monotonic,
            hangups=self._hangups,
            uploads=Uploads(
                config.max_uploads, clock=time.monotonic, later=loop.call_soon, busy_timeout=config.body_timeout
            ),
        )
        self._listener = Listener(context)

    async def start(self, listening: socket.socket) -> None:
        self.address = address_of(listening)
        await self._listener.start([listening])

    def lost(self, death: Death) -> None:
        """A worker was lost, and is replaced."""
        reason = RestartReason.SIGNAL if death.is_signal else RestartReason.EXIT
        self._pages.figures.restarted(RestartReason.SILENT if death.was_stuck else reason)

    def drain(self) -> None:
        """Stop accepting: another process answers."""
        self._admin.drain()
        self._listener.drain()

    def sweep(self) -> None:
        self._listener.sweep(time.monotonic())

    async def close(self) -> None:
        await self._listener.close()
        self._hangups.close()
