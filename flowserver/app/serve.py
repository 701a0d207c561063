"""Runs a relay as a process: its listening sockets, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial

from ..config.errors import ConfigError
from ..config.settings import Config
from ..telemetry.log import Log
from . import garbage
from .ending import Ending
from .handover import Handover
from .inherited import Inherited
from .listening import listening_sockets
from .relay import Relay
from .service_manager import ServiceManager, streams_open

_WHILE_SERVING = {signal.SIGHUP, signal.SIGUSR2}
"""Signals that wait while the relay starts or ends."""


async def serve(
    config: Config, log: Log, started: Callable[[Relay], None] | None = None, given: Inherited | None = None
) -> None:
    """Run a relay until SIGTERM or SIGINT, then drain it; a second signal ends it at once. SIGHUP reads the
    configuration again. SIGUSR2 starts a new version of the program, which takes over; see `Handover`. The service
    manager is notified of each step.

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
    service = ServiceManager(os.environ, log, lambda: streams_open(len(relay.metrics.open)))
    ending = Ending(log)
    ending.watch_signals(loop)

    def on_taken_over(successor: int) -> None:
        relay.hand_over()
        service.hand_over(successor)
        ending.ask()

    try:
        sockets = listening_sockets(config, given)
    except ConfigError:
        await relay.close()
        raise
    await relay.start(sockets, given.source)
    handover = Handover(log, sockets, on_taken_over)
    relay.control.on_drain = ending.drain
    relay.control.on_reload = partial(_reload, relay, service)
    loop.add_signal_handler(signal.SIGHUP, _reload, relay, service)
    loop.add_signal_handler(signal.SIGUSR2, handover.begin)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WHILE_SERVING)
    garbage.settle()
    service.ready()
    given.ready()
    if started is not None:
        started(relay)
    await ending.wanted()
    handover.end()
    service.stopping()
    await ending.unless_hurried(_end(relay, config, log))
    signal.pthread_sigmask(signal.SIG_BLOCK, _WHILE_SERVING)
    await relay.close()
    service.close()
    log.write("info", "stopped")


def _reload(relay: Relay, service: ServiceManager) -> None:
    service.reloading()
    service.ready("" if relay.reload() else "the last reload failed, see the log")


async def _end(relay: Relay, config: Config, log: Log) -> None:
    """Give load balancers time to notice, unless another process has taken over, then drain."""
    if config.drain_delay and not relay.is_handed_over:
        relay.leave()
        log.write("info", "leaving", drain_in=config.drain_delay)
        await asyncio.sleep(config.drain_delay)
    await relay.drain()
