"""Runs a relay as a process: its listening sockets, its signals, its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from ..config.settings import Config, ConfigError
from ..telemetry.log import Log
from .listening import listening_sockets
from .relay import Relay


async def serve(config: Config, log: Log, started: Callable[[Relay], None] | None = None) -> None:
    """Run a relay until SIGTERM or SIGINT, then drain it; a second signal ends it at once. SIGHUP reads the
    configuration again; one that comes while the relay starts or ends waits.

    Raises ConfigError if it can't start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        await _serve(config, log, started)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _serve(config: Config, log: Log, started: Callable[[Relay], None] | None) -> None:
    loop = asyncio.get_running_loop()
    relay = Relay(config, log)
    stop = asyncio.Event()
    now = asyncio.Event()

    def on_signal() -> None:
        (now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        sockets = listening_sockets(config)
    except ConfigError:
        await relay.close()
        raise
    await relay.start(sockets)
    loop.add_signal_handler(signal.SIGHUP, relay.reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    if started is not None:
        started(relay)
    await stop.wait()
    drain = loop.create_task(relay.drain())
    hurry = loop.create_task(now.wait())
    await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
    drain.cancel()
    hurry.cancel()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    await relay.close()
    log.write("info", "stopped")
