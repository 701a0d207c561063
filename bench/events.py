"""CPU per relayed event, and the time an event takes through the relay.

Many streams of paced events, each event a chunk and a send() of its own, as providers send them. The relays run side by
side and take turns, round after round. An event's time is from the provider's send() to the client's recv(); that of
`direct` is the provider's, the kernel's and the client's own part of it.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import C, Client, Connection, request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector
from bench.peers import Running, side_by_side
from bench.processes import Process, cpu_ns, free_port, machine_cpu_ns
from bench.source import command
from bench.stamps import scan
from bench.stats import percentile


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how often.

    `rate` is events per second and stream, `size` bytes per event; times are in seconds. `ticks` are resolutions of the
    provider's timer: with 0 each event leaves on its own, otherwise all events of a tick leave in one burst. `others`
    is as in `in_round`.
    """

    streams: int = 500
    rate: float = 50
    size: int = 250
    ticks: tuple[float, ...] = (0, 0.004)
    rounds: int = 3
    others: int | None = None
    warm_up: float = 2
    window: float = 8


QUICK = Settings(rounds=1, warm_up=1, window=3)
FLOOD = Settings(streams=20, rate=5000, ticks=(0,), rounds=11, others=2, warm_up=1, window=2)
QUICK_FLOOD = Settings(streams=20, rate=5000, ticks=(0,), rounds=3, others=1, warm_up=1, window=1)


class Reader(Connection):
    """Takes the nanoseconds of each event into `times`, which all readers share while they are measured."""

    __slots__ = ("_tail", "times")

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.times: list[int] = []
        self._tail = b""

    def on_data(self, data: bytes) -> None:
        self._tail = scan(self._tail + data if self._tail else data, self.times)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, `settings.rounds` times."""
    return _run("events", relays, settings)


def flood(relays: Sequence[str], settings: Settings) -> CaseResult:
    """The same of streams that have more events than get through: their cost is what counts."""
    return _run("flood", relays, settings)


def _run(name: str, relays: Sequence[str], settings: Settings) -> CaseResult:
    collector = Collector()
    for tick in settings.ticks:
        port = free_port()
        source = command(port, rate=settings.rate, size=settings.size, tick=tick)
        shape = f"bursts of {tick * 1e3:g} ms" if tick else "evenly"
        with Process(source, port, cpus=LOAD_CORES), side_by_side(relays, port) as started:
            for number in range(settings.rounds):
                for relay in started.round(number, settings.others):
                    h1_measure(relay, settings, shape, collector)
    return CaseResult(
        name,
        f"{settings.streams} streams x {settings.rate:g} events/s x {settings.size} B",
        {"streams": settings.streams, "rate": settings.rate, "size": settings.size, "window": settings.window},
        collector.figures(),
        ("Other load is what everything else on the machine took of one core meanwhile; the figures want it near 0.",),
    )


def h1_measure(
    relay: Running, settings: Settings, shape: str, collector: Collector, asked: bytes = request()
) -> float | None:
    """Measure one relay with clients of HTTP/1.1, which send `asked`. `shape` says in words what it is. Returns the
    microseconds of CPU per event; None where there is no relay."""
    load = h1_load(relay, settings, asked)
    return collect(relay, load, settings.rate, shape, collector)


@dataclass(frozen=True, slots=True)
class Load:
    """What some streams brought: the latency of each event in nanoseconds, and streams that were silent or broke."""

    streams: int
    clocks: Clocks
    times: list[int]
    lost: int


def h1_load(relay: Running, settings: Settings, asked: bytes = request()) -> Load:
    """Read as many streams over HTTP/1.1 as the settings and the relay's share say."""
    streams = max(1, round(settings.streams * relay.share))
    with Client[Reader]() as client:
        for _ in range(streams):
            client.add(Reader(relay.port)).send(asked)
        silent = client.run_until_all(lambda reader: bool(reader.times), 10)
        client.run(settings.warm_up)
        times: list[int] = []
        for reader in client.connections.values():
            reader.times = times
        clocks = measure(client, relay, settings.window)
        broken = sum(reader.ended for reader in client.connections.values())
    return Load(streams, clocks, times, broken + len(silent))


def measure(client: Client[C], relay: Running, seconds: float) -> Clocks:
    """Read for so long. Returns what went by."""
    gc.disable()
    before = Clocks.now(relay.pid)
    client.run(seconds)
    after = Clocks.now(relay.pid)
    gc.enable()
    return after.since(before)


def collect(relay: Running, load: Load, rate: float, shape: str, collector: Collector) -> float | None:
    """Add the figures of one window to `collector`. Returns the microseconds of CPU per event.

    `rate` is the expected events per second and stream; `shape` is part of the figures' names.
    """
    if not load.times:
        raise RuntimeError(f"{relay.name}: no events arrived")
    clocks, times = load.clocks, load.times
    expected = load.streams * rate * clocks.wall / 1e9
    cost = clocks.relay / 1e3 / len(times) if relay.pid is not None else None
    if cost is not None:
        collector.add(relay.name, f"CPU per event, {shape}", "us", cost)
    collector.add(relay.name, f"time of an event, {shape}, p50", "ms", percentile(times, 50) / 1e6)
    collector.add(relay.name, f"time of an event, {shape}, p99", "ms", percentile(times, 99) / 1e6)
    collector.add(relay.name, f"events that came, {shape}", "%", 100 * len(times) / expected)
    collector.add(relay.name, f"streams broken or silent, {shape}", "", load.lost)
    collector.add(relay.name, f"other load, {shape}", "%", 100 * max(0, clocks.others) / clocks.wall)
    return cost


@dataclass(frozen=True, slots=True)
class Clocks:
    """Nanoseconds: the wall clock, the relay's CPU, and the CPU of everything that is not part of the bench."""

    wall: int
    relay: int
    others: int

    def since(self, before: Clocks) -> Clocks:
        return Clocks(self.wall - before.wall, self.relay - before.relay, self.others - before.others)

    @staticmethod
    def now(relay: int | None) -> Clocks:
        own = cpu_ns(os.getpid())
        of_relay = cpu_ns(relay) if relay is not None else 0
        return Clocks(time.monotonic_ns(), of_relay, machine_cpu_ns() - own)
