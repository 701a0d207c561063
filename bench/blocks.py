"""`python -m bench.blocks FILE`: runs `flowserver serve` and measures the longest turn of its event loop.

SIGUSR1 writes the longest turn to FILE, in milliseconds, and starts a new measurement.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import uvloop

from flowserver.app.relay import Relay
from flowserver.app.serve import serve
from flowserver.config.environment import load
from flowserver.telemetry.log import Log

TICK = 0.0005
"""Seconds between two ticks: a turn is measured by how late the next one comes."""


class Watch:
    """Measures the running loop."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._worst = 0.0
        self._due = 0.0

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._tell)
        self._due = time.perf_counter() + TICK
        loop.call_later(TICK, self._look)

    def _look(self) -> None:
        now = time.perf_counter()
        self._worst = max(self._worst, now - self._due)
        self._due = now + TICK
        asyncio.get_running_loop().call_later(TICK, self._look)

    def _tell(self) -> None:
        temporary = self._file + ".new"
        with open(temporary, "w") as file:
            file.write(f"{self._worst * 1e3:.3f}")
        os.replace(temporary, self._file)
        self._worst = 0.0


async def _serve(file: str) -> None:
    config = load(os.environ)

    def started(relay: Relay) -> None:
        Watch(file).start()

    await serve(config, Log(config.log_level), started)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
