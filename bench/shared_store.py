"""What it adds to a request that its limits are kept in the parent process, not in its own: how long it waits to be
admitted, and the CPU of both processes.

This process is the worker. Requests come one by one, at a steady rate, as on a relay that is not saturated; each is
admitted and settles. With the limits in this process and in the parent's they take turns within each round.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count

import uvloop

from bench.cores import LOAD_CORES, RELAY_CORES
from bench.figures import CaseResult, Collector, rotated
from bench.processes import cpu_ns, python_module, repository, wait_until_quiet
from bench.stats import percentile
from flowserver.quota.limits import Decision, Limit, Quota, RequestBucket, Slots
from flowserver.routing.circuit_breaker import CircuitBreaker
from flowserver.stores.failover import FailoverStore, Policy
from flowserver.stores.limiter import StoreLimiter
from flowserver.stores.memory import MemoryStore
from flowserver.stores.shared_server import SharedStoreServer
from flowserver.stores.shared_state import connect

OWN, PARENT = "in this process", "in the parent"
LIFE = 5.0
"""Seconds of a lease."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` requests a second, `requests` in each round."""

    rate: int = 1000
    requests: int = 3000
    rounds: int = 11


QUICK = Settings(rounds=3)

LIMITS: tuple[Limit, ...] = (
    RequestBucket("{bench}:requests", 1_000_000_000, 1_000_000_000),
    Slots("{bench}:concurrent", 1_000_000),
    Quota("{bench}:tokens_per_day", 10_000_000_000, ttl=86_400),
    RequestBucket("{bench}:user:someone:requests", 1_000_000_000, 1_000_000_000),
)
"""Of all kinds that ask the store, none of which is ever reached."""

_numbers = count()


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver's store alone; `relays` are not asked."""
    collector = Collector()
    ours, theirs = socket.socketpair()
    command = python_module("bench.shared_store", str(theirs.fileno()))
    parent = subprocess.Popen(command, cwd=repository(), pass_fds=(theirs.fileno(),), start_new_session=True)
    theirs.close()
    os.sched_setaffinity(parent.pid, RELAY_CORES)
    try:
        wait_until_quiet()
        uvloop.run(_measure(ours, parent.pid, settings, collector))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    return CaseResult(
        "shared_store",
        f"limits of a request, kept in the parent process: {settings.rate} requests/s, {len(LIMITS)} limits each",
        {"rate": settings.rate, "requests": settings.requests},
        collector.figures(),
        (f"worker and parent each have a core: {sorted(LOAD_CORES)} and {sorted(RELAY_CORES)}",),
    )


async def _measure(sock: socket.socket, parent: int, settings: Settings, collector: Collector) -> None:
    shared = await connect(sock)
    memory = MemoryStore(time.time, ttl=LIFE, remember=LIFE)
    breaker = CircuitBreaker(failures=3, cooldown=1.0)
    store = FailoverStore(shared.store, memory, policy=Policy.CLOSED, breaker=breaker, clock=time.monotonic)
    limiters = {
        OWN: StoreLimiter(memory, lease=256, life=LIFE, is_local=True),
        PARENT: StoreLimiter(store, lease=256, life=LIFE, is_local=False),
    }
    for limiter in limiters.values():
        await _round(limiter, settings)  # so much is forgotten from now on as is added
    for number in range(settings.rounds):
        cpu = {}
        for kind in rotated(limiters, number):
            before, parent_before = time.process_time(), cpu_ns(parent)
            waits = await _round(limiters[kind], settings)
            cpu[kind] = (time.process_time() - before) / settings.requests * 1e6
            collector.add(kind, "wait to be admitted, p50", "us", percentile(waits, 50) * 1e6)
            collector.add(kind, "wait to be admitted, p99", "us", percentile(waits, 99) * 1e6)
            if kind == PARENT:
                taken = (cpu_ns(parent) - parent_before) / 1e3 / settings.requests
                collector.add(PARENT, "CPU of the parent for one request", "us", taken)
        collector.add(PARENT, "CPU added to the worker for one request", "us", cpu[PARENT] - cpu[OWN])
    await shared.close()


async def _round(limiter: StoreLimiter, settings: Settings) -> list[float]:
    """Seconds that each request waited to be admitted."""
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    started = loop.time()

    def begin() -> None:
        stream_id, asked = f"{{bench}}:{next(_numbers)}", time.perf_counter()

        def done(decision: Decision) -> None:
            assert decision.admitted, decision
            waits.append(time.perf_counter() - asked)
            limiter.settle(stream_id, 20)
            if len(waits) == settings.requests:
                over.set_result(None)

        limiter.admit(stream_id, LIMITS, need=2, want=2 + limiter.lease, done=done)

    for number in range(settings.requests):
        loop.call_at(started + number / settings.rate, begin)
    await over
    await asyncio.sleep(0.05)  # until the last have settled
    return waits


async def _serve(descriptor: int) -> None:
    """The parent: serves until it is killed."""
    store = MemoryStore(time.time, ttl=LIFE, remember=LIFE)
    server = SharedStoreServer(store, time.monotonic, broken=_report)
    with closing(server):
        await server.serve(socket.socket(fileno=descriptor), 0)
        await asyncio.get_running_loop().create_future()


def _report(worker: int, error: Exception) -> None:
    print(f"worker {worker}: {error}", file=sys.stderr)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
