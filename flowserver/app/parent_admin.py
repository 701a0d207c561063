"""The admin pages of a parent."""

from __future__ import annotations

import asyncio
import socket
import time

from ..config.addresses import Address
from ..config.settings import Config
from ..downstream.context import ListenerContext
from ..downstream.listener import Listener
from ..downstream.listening import address_of
from ..net.hangup import EpollHangups
from ..relay.uploads import Uploads
from ..telemetry.admin import Admin
from ..telemetry.admin_hosts import AdminHosts
from ..telemetry.log import Log
from ..telemetry.metrics import Metrics
from ..workers.fleet import Fleet
from .clients import connection_settings, watermarks

MAX_CONNECTIONS = 256


class ParentAdmin:
    """Answers while all workers are busy."""

    def __init__(self, config: Config, log: Log, fleet: Fleet) -> None:
        loop = asyncio.get_running_loop()
        self.address: Address | None = None
        self._metrics = Metrics(log)
        self._hangups = EpollHangups(loop)
        admin = Admin(
            self._metrics,
            AdminHosts(config.admin_hosts, config.admin_listen),
            clock=time.monotonic,
            call_soon=loop.call_soon,
            is_draining=lambda: fleet.supervisor.is_ending or not fleet.supervisor.ready,
        )
        context = ListenerContext(
            settings=connection_settings(config, watermarks(config), MAX_CONNECTIONS),
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

    def sweep(self) -> None:
        self._listener.sweep(time.monotonic())

    async def close(self) -> None:
        await self._listener.close()
        self._hangups.close()
