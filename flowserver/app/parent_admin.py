"""The admin pages of a parent."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from itertools import chain

from ..config.addresses import Address
from ..config.settings import Config
from ..downstream.context import ListenerContext
from ..downstream.listener import Listener
from ..downstream.listening import address_of
from ..flow.memory_budget import Level
from ..flow.turns import READING, Turns
from ..net.hangup import EpollHangups
from ..relay.uploads import Uploads
from ..telemetry.admin import Admin
from ..telemetry.admin_access import AdminAccess
from ..telemetry.admin_hosts import NO_BROWSER, AdminHosts
from ..telemetry.control_pages import ControlPages
from ..telemetry.live_objects import common
from ..telemetry.log import Log
from ..telemetry.merged_pages import MergedPages
from ..telemetry.metrics import Metrics
from ..telemetry.reload_figures import ReloadFigures
from ..telemetry.slices import Slices
from ..telemetry.worker_figures import RestartReason, WorkerState
from ..workers.fleet import Answered, Fleet
from ..workers.load import PRESSURE
from ..workers.supervisor import Death, State
from .clients import connection_settings, watermarks
from .parent_control import ParentControl

MAX_CONNECTIONS = 256


class _Workers:
    """A `merged_pages.Workers`. A process is identified by its pid, its slot by its number."""

    def __init__(self, fleet: Fleet, is_leaving: Callable[[], bool], ready_memory: str | None) -> None:
        self._fleet = fleet
        self._unready = len(Level) if ready_memory is None else Level[ready_memory.upper()].value
        """The memory level from which a worker is not ready."""
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
    """The admin pages of the parent, which answer even while all workers are busy."""

    def __init__(
        self,
        config: Config,
        log: Log,
        fleet: Fleet,
        control: ParentControl,
        *,
        is_leaving: Callable[[], bool],
        unready: Callable[[], str | None],
    ) -> None:
        """`is_leaving`: whether to report that it is not ready any more; for `unready` see `MergedPages`."""
        loop = asyncio.get_running_loop()
        self.address: Address | None = None
        self._reloads = ReloadFigures(time.time())
        self._metrics = Metrics(log, genai=config.metrics_genai, reloads=self._reloads)
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
        self.access = AdminAccess(config.admin_token)
        hosts = AdminHosts(config.admin_hosts, config.admin_listen)
        self._admin = Admin(self._pages, hosts, loop.call_later, ControlPages(control, self.access))
        self._control = Admin(self._pages, NO_BROWSER, loop.call_later, ControlPages(control, None))
        self._listener, self._control_listener = (
            Listener(self._context(config, pages)) for pages in (self._admin, self._control)
        )

    def _context(self, config: Config, pages: Admin) -> ListenerContext:
        loop = asyncio.get_running_loop()
        return ListenerContext(
            settings=connection_settings(config, watermarks(config), MAX_CONNECTIONS, is_public=False),
            open_exchange=pages.open_exchange,
            observer=self._metrics,
            clock=time.monotonic,
            hangups=self._hangups,
            uploads=Uploads(
                config.max_uploads, clock=time.monotonic, later=loop.call_soon, busy_timeout=config.body_timeout
            ),
            turns=Turns(READING, time.monotonic, loop.call_soon),
        )

    async def start(self, listening: socket.socket | None, control: socket.socket | None) -> None:
        """Start listening. None: there are no admin pages, or no control socket."""
        if listening is not None:
            self.address = address_of(listening)
            await self._listener.start([listening])
        if control is not None:
            await self._control_listener.start([control])

    def lost(self, death: Death) -> None:
        """A worker has died, and is replaced."""
        reason = RestartReason.SIGNAL if death.is_signal else RestartReason.EXIT
        self._pages.figures.restarted(RestartReason.SILENT if death.was_stuck else reason)

    def reloaded(self, *, is_good: bool) -> None:
        """The configuration was read again; see `ReloadFigures.ended`."""
        self._reloads.ended(time.time(), is_good=is_good)

    def drain(self) -> None:
        """Stop accepting: another process answers."""
        self._admin.drain()
        self._control.drain()
        self._listener.drain()
        self._control_listener.drain()

    def sweep(self) -> None:
        for _ in chain(self._listener.sweep(), self._control_listener.sweep()):
            pass

    async def close(self) -> None:
        await self._listener.close()
        await self._control_listener.close()
        self._hangups.close()
