"""How many streams one worker carries, and what they cost as they become more.

First streams of two events a second, as of a chat that is read along; then, at fifty a second, how many before the p99
of an event's time is over 50 ms or events stay behind. `direct` shows what the bench itself can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Client, request
from bench.cores import LOAD_CORES
from bench.events import Reader, measure
from bench.figures import CaseResult, Collector, Series, rotated
from bench.peers import PEERS, PLAIN, Running, those_that
from bench.processes import Process, free_port, memory_bytes, wait_until_quiet
from bench.source import command
from bench.stats import percentile

SLOW, FAST = 2.0, 50.0
"""Events per second and stream."""

LATE = 0.05
"""Seconds: the p99 that a fast stream's reader is content with."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`slow` and `fast` are numbers of streams; times are seconds."""

    slow: tuple[int, ...] = (500, 1000, 2000, 3500, 5000)
    fast: tuple[int, ...] = (200, 400, 500, 600, 700, 800, 1000, 1200)
    size: int = 250
    warm_up: float = 2
    window: float = 4
    rounds: int = 1


QUICK = Settings(slow=(1000, 5000), fast=(400, 600, 800), warm_up=1, window=2)


@dataclass(frozen=True, slots=True)
class Load:
    """The cost of a number of streams: microseconds of CPU per event, share of a core, latencies in seconds, share of
    the events that arrived, silent streams, and KB of memory per stream. Costs and memory are None without a relay."""

    cost: float | None
    share: float | None
    p50: float
    p99: float
    came: float
    silent: int
    memory: float | None


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays` that carries the whole load."""
    collector = Collector()
    curves: list[Series] = []
    for number in range(settings.rounds):
        for name in rotated(those_that(relays, PLAIN), number):
            if PEERS[name].share < 1:
                continue
            wait_until_quiet()
            curves += _slow(name, settings, collector)
            _fast(name, settings, collector)
    return CaseResult(
        "scale",
        f"streams per worker, {SLOW:g} and {FAST:g} events/s each",
        {"size": settings.size, "window": settings.window},
        collector.figures(),
        ("Where direct is late too, it is the bench that gives out and not the relay.",),
        tuple(curves),
    )


def _slow(name: str, settings: Settings, collector: Collector) -> list[Series]:
    port = free_port()
    costs: list[tuple[float, float]] = []
    times: list[tuple[float, float]] = []
    with Process(command(port, rate=SLOW, size=settings.size), port, cpus=LOAD_CORES):
        for streams in settings.slow:
            with PEERS[name].start(port) as relay:
                load = _measure(relay, streams, SLOW, settings)
            where = f"{streams} streams of {SLOW:g} events/s"
            if load.cost is not None and load.share is not None and load.memory is not None:
                collector.add(name, f"CPU per event, {where}", "us", load.cost)
                collector.add(name, f"share of a core, {where}", "%", 100 * load.share)
                collector.add(name, f"memory per stream, {where}", "KB", load.memory)
                costs.append((streams, load.cost))
            collector.add(name, f"time of an event, {where}, p50", "ms", 1e3 * load.p50)
            collector.add(name, f"time of an event, {where}, p99", "ms", 1e3 * load.p99)
            collector.add(name, f"events that came, {where}", "%", 100 * load.came)
            collector.add(name, f"streams broken or silent, {where}", "", load.silent)
            times.append((streams, 1e3 * load.p99))
    x = f"open streams, {SLOW:g} events/s each"
    found = [Series("time of an event, p99", name, "ms", x, tuple(times))]
    return [Series("CPU per event", name, "us", x, tuple(costs)), *found] if costs else found


def _fast(name: str, settings: Settings, collector: Collector) -> None:
    """The last step that is still good."""
    port = free_port()
    most = 0
    with Process(command(port, rate=FAST, size=settings.size), port, cpus=LOAD_CORES):
        for streams in settings.fast:
            with PEERS[name].start(port) as relay:
                load = _measure(relay, streams, FAST, settings)
            if load.p99 > LATE or load.came < 0.99 or load.silent:
                break
            most = streams
    collector.add(name, f"streams of {FAST:g} events/s with p99 under {1e3 * LATE:g} ms", "", most)


def _measure(relay: Running, streams: int, rate: float, settings: Settings) -> Load:
    before = memory_bytes(relay.pid) if relay.pid is not None else 0
    with Client[Reader]() as client:
        for _ in range(streams):
            client.add(Reader(relay.port)).send(request())
        silent = client.run_until_all(lambda reader: bool(reader.times), 10)
        client.run(settings.warm_up)
        times: list[int] = []
        for reader in client.connections.values():
            reader.times = times
        clocks = measure(client, relay, settings.window)
        memory = (memory_bytes(relay.pid) - before) / 1024 / streams if relay.pid is not None else None
        lost = len(silent) + sum(reader.ended for reader in client.connections.values())
    if not times:
        raise RuntimeError(f"{relay.name}: no events arrived")
    return Load(
        cost=clocks.relay / 1e3 / len(times) if relay.pid is not None else None,
        share=clocks.relay / clocks.wall if relay.pid is not None else None,
        p50=percentile(times, 50) / 1e9,
        p99=percentile(times, 99) / 1e9,
        came=len(times) / (streams * rate * clocks.wall / 1e9),
        silent=lost,
        memory=memory,
    )
