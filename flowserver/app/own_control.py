"""Control of a relay that runs in a single process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from ..telemetry.control_pages import Executed
from ..telemetry.log import Log
from .operations import Operations
from .reload_result import ReloadResult


class OwnControl:
    """A `control_pages.Controlled`. Whoever runs the relay's process sets `on_drain` and `on_reload`."""

    __slots__ = ("_configuration", "_log", "last", "on_drain", "on_reload", "operations")

    def __init__(
        self,
        operations: Operations,
        log: Log,
        *,
        configuration: Callable[[], dict[str, Any]],
        on_reload: Callable[[], object],
    ) -> None:
        self.operations = operations
        self._log = log
        self._configuration = configuration
        self.last = ReloadResult()
        self.on_reload = on_reload
        """Reads the configuration again, and stores the result in `last`."""
        self.on_drain: Callable[[], None] | None = None
        """Ends the process, as a first SIGTERM does; None: the relay is not a process's only purpose."""

    @property
    def upstreams(self) -> Collection[str]:
        return self.operations.upstreams

    @property
    def streams(self) -> int:
        return self.operations.streams

    def execute(self, command: list[str], done: Callable[[Executed], None]) -> None:
        done(Executed(self.operations.execute(command)))

    def drain(self) -> bool:
        if self.on_drain is None:
            return False
        asyncio.get_running_loop().call_soon(self.on_drain)  # after the answer
        return True

    def reload(self, done: Callable[[], None]) -> None:
        self.on_reload()
        done()

    def last_reload(self) -> dict[str, Any]:
        return self.last.table()

    def configuration(self) -> dict[str, Any]:
        return self._configuration()

    def told(self, action: str, argument: str, by: str) -> None:
        log_control(self._log, action, argument, by)


def log_control(log: Log, action: str, argument: str, by: str) -> None:
    """Log what an operator does, as a warning."""
    log.write("warning", "control", action=action, **({"argument": argument} if argument else {}), by=by)
