"""Runs a relay as a process: its listening sockets, its signals, its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from ..config.settings import Config, ConfigError
from ..telemetry.log import Log
from .handover import Handover
from .inherited import Inherited
from .listening import listening_sockets
from .relay import Relay

_WHILE_SERVING = {signal.SIGHUP, signal.SIGUSR2}
"""Signals that wait while the relay starts or ends."""


async def serve(
    config: Config, log: Log, started: Callable[[Relay], None] | None = None, given: Inherited | None = None
) -> None:
    """Run a relay until SIGTERM or SIGINT, then drain it; a second signal ends it at once. SIGHUP reads the
    configuration again. SIGUSR2 starts a new version of the program, which takes over; see `Handover`.

    `given` has the listening sockets that the process began with. Raises ConfigError if it can't start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WHILE_SERVING)
    try:
        await _serve(config, log, started, given or Inherited())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _serve(config: Config, log: Log, started: Callable[[Relay], None] | None, given: Inherited) -> None:
    loop = asyncio.get_running_loop()
    relay = Relay(config, log)
    stop = asyncio.Event()
    now = asyncio.Event()

    def on_signal() -> None:
        (now if stop.is_set() else stop).set()

    def on_taken_over(successor: int) -> None:
        relay.hand_over()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        sockets = listening_sockets(config, given)
    except ConfigError:
        await relay.close()
        raise
    await relay.start(sockets, given.source)
    handover = Handover(log, sockets, on_taken_over)
    loop.add_signal_handler(signal.SIGHUP, relay.reload)
    loop.add_signal_handler(signal.SIGUSR2, handover.begin)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WHILE_SERVING)
    given.ready()
    if started is not None:
        started(relay)
    await stop.wait()
    handover.end()
    drain = loop.create_task(relay.drain())
    hurry = loop.create_task(now.wait())
    await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
    drain.cancel()
    hurry.cancel()
    signal.pthread_sigmask(signal.SIG_BLOCK, _WHILE_SERVING)
    await relay.close()
    log.write("info", "stopped")
