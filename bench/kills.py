"""Workers that are killed at random under load: which streams break, and how soon everything is as before.

A stream may break only with the worker that had it, which its parent logs. The load is that of `restarts`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.figures import CaseResult, Collector
from bench.processes import free_port, process_tree
from bench.provider import simulator
from bench.restart_load import Load
from bench.restarts import LogFile, Relays

NAME = "flowserver"


@dataclass(frozen=True, slots=True)
class Settings:
    """`workers`, one of which is killed `every` so many seconds on average, for `seconds`. The others as in
    `restarts`."""

    workers: int = 4
    every: float = 1.5
    seconds: float = 60
    new_per_second: float = 50
    long_streams: int = 100
    long_seconds: float = 20.0


QUICK = Settings(seconds=10, long_streams=40, long_seconds=5)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Other relays than this project's are not measured."""
    collector = Collector()
    with simulator() as provider, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        started = Relays(free_port(), provider.port, Path(folder))
        try:
            asyncio.run(_play(started, settings, collector))
        finally:
            started.close()
    title = f"{settings.workers} workers, one of which is killed every {settings.every:g} s for {settings.seconds:g} s"
    return CaseResult("kills", title, {**asdict(settings)}, collector.figures())


async def _play(relays: Relays, settings: Settings, collector: Collector) -> None:
    admin = free_port()
    log = await relays.launch({"FLOW_WORKERS": str(settings.workers), "FLOW_ADMIN_LISTEN": f"127.0.0.1:{admin}"})
    [parent] = relays.pids
    descriptors = _descriptors(parent)
    load = Load(
        relays.port,
        new_per_second=settings.new_per_second,
        long_streams=settings.long_streams,
        long_seconds=settings.long_seconds,
        kept=0,
    )
    load.start()
    await asyncio.sleep(2)
    lost = 0
    recoveries: list[float] = []
    ends = time.monotonic() + settings.seconds
    while time.monotonic() < ends:
        lost += await _kill_one(parent, log, recoveries)
        await asyncio.sleep(random.uniform(0.5, 1.5) * settings.every)
    await load.stop()
    tally = load.tally
    for kind in ("short", "long"):
        collector.add(NAME, f"{kind} streams, whole", "", tally.whole[kind])
    collector.add(NAME, "workers killed", "", len(recoveries))
    collector.add(NAME, "streams broken", "", tally.broken)
    collector.add(NAME, "streams of killed workers, by the parent's log", "", lost)
    collector.add(NAME, "connections refused", "", tally.refused)
    collector.add(NAME, "until its successor is ready, median", "ms", 1e3 * statistics.median(recoveries))
    collector.add(NAME, "until its successor is ready, longest", "ms", 1e3 * max(recoveries))
    await asyncio.sleep(0.5)
    collector.add(NAME, "descriptors of the parent, more than before", "", _descriptors(parent) - descriptors)
    processes = len(process_tree(parent))
    os.kill(parent, signal.SIGTERM)
    await asyncio.sleep(5)
    collector.add(NAME, "processes before the end", "", processes)
    collector.add(NAME, "processes left after it", "", relays.running())


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def _kill_one(parent: int, log: LogFile, recoveries: list[float]) -> int:
    """Returns how many streams it had."""
    victim = random.choice([pid for pid in process_tree(parent) if pid != parent])
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    died = await log.next("worker_died")
    await log.next("worker_ready")
    recoveries.append(time.monotonic() - began)
    return int(died["streams_lost"])
