"""How a process ends: the first signal starts a graceful end, a second one ends it at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable

from ..telemetry.log import Log

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """Whether the process is to end, and whether at once."""

    __slots__ = ("_hurried", "_is_drained", "_log", "_wanted")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._wanted = asyncio.Event()
        self._hurried = asyncio.Event()
        self._is_drained = False
        """Whether an operator has asked for the end, and no signal has arrived yet."""

    def watch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in SIGNALS:
            loop.add_signal_handler(number, self.on_signal, number)

    def on_signal(self, number: signal.Signals) -> None:
        """The first signal starts the end. A second one ends everything at once, even while the relay is still serving
        (FLOW_DRAIN_DELAY)."""
        if self._is_drained:
            self._is_drained = False
        elif not self._wanted.is_set():
            self._wanted.set()
        elif not self._hurried.is_set():
            self._log.write("warning", "ending_at_once", signal=number.name, reason="a second signal")
            self._hurried.set()

    def drain(self) -> None:
        """Start the end, as a first signal does. The next signal still counts as the first: a container that is drained
        before it is stopped gets one."""
        if not self._wanted.is_set():
            self._is_drained = True
            self._wanted.set()

    def ask(self) -> None:
        """Start the end, without a signal."""
        self._wanted.set()

    async def wanted(self) -> None:
        """Wait until the process is to end."""
        await self._wanted.wait()

    async def unless_hurried(self, work: Awaitable[None]) -> None:
        """Wait for `work`, which is cancelled if the process is to end at once."""
        working, hurried = asyncio.ensure_future(work), asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((working, hurried), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            working.cancel()
            hurried.cancel()
