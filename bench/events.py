"""CPU per relayed event, and the time an event takes through the relay.

Many streams of paced events, each event a chunk and a send() of its own, as providers send them. The relays take turns,
round after round. An event's time is from the provider's send() to the client's recv(); that of `direct` is the
provider's, the kernel's and the client's own part of it.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Client, Connection, request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, rotated
from bench.peers import PEERS, Running
from bench.processes import Process, cpu_ns, free_port, machine_cpu_ns, wait_until_quiet
from bench.source import STAMP, STAMP_DIGITS, command
from bench.stats import percentile


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` is events per second and stream, `size` bytes per event, times are seconds. `ticks` are how coarse the
    provider's timer is: at 0 each event leaves at a time of its own, else all that a tick holds leave in a burst."""

    streams: int = 500
    rate: float = 50
    size: int = 250
    ticks: tuple[float, ...] = (0, 0.004)
    rounds: int = 3
    warm_up: float = 2
    window: float = 8


QUICK = Settings(rounds=1, warm_up=1, window=3)


class Reader(Connection):
    """Takes the time of each event. `times` is shared by all readers; None while nothing is measured."""

    __slots__ = ("_tail", "events", "times")

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.events = 0
        self.times: list[int] | None = None
        self._tail = b""

    def on_data(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._tail:
            data = self._tail + data
        position = data.find(STAMP)
        while position >= 0:
            start = position + len(STAMP)
            if start + STAMP_DIGITS > len(data):
                break
            self.events += 1
            if self.times is not None:
                self.times.append(now - int(data[start : start + STAMP_DIGITS]))
            position = data.find(STAMP, start)
        # A stamp may be cut in two by the end of a read.
        if position >= 0:
            self._tail = data[position:]
        else:
            cut = data.rfind(b'"', -len(STAMP))
            self._tail = data[cut:] if cut >= 0 and STAMP.startswith(data[cut:]) else b""


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    for tick in settings.ticks:
        port = free_port()
        source = command(port, rate=settings.rate, size=settings.size, tick=tick)
        with Process(source, port, cpus=LOAD_CORES):
            for number in range(settings.rounds):
                for name in rotated(relays, number):
                    wait_until_quiet()
                    with PEERS[name].start(port) as relay:
                        _measure(relay, settings, tick, collector)
    return CaseResult(
        "events",
        f"{settings.streams} streams x {settings.rate:g} events/s x {settings.size} B",
        {"streams": settings.streams, "rate": settings.rate, "size": settings.size, "window": settings.window},
        collector.figures(),
        ("Other load is what everything else on the machine took of one core meanwhile; the figures want it near 0.",),
    )


def _measure(relay: Running, settings: Settings, tick: float, collector: Collector) -> None:
    with Client[Reader]() as client:
        for _ in range(settings.streams):
            client.add(Reader(relay.port)).send(request())
        silent = client.run_until_all(lambda reader: reader.events > 0, 10)
        client.run(settings.warm_up)
        times: list[int] = []
        for reader in client.connections.values():
            reader.times = times
        gc.disable()
        before = _Clocks.now(relay.pid)
        client.run(settings.window)
        after = _Clocks.now(relay.pid)
        gc.enable()
        broken = sum(reader.ended for reader in client.connections.values())
    seconds = (after.wall - before.wall) / 1e9
    expected = settings.streams * settings.rate * seconds
    pattern = f"bursts of {tick * 1e3:g} ms" if tick else "evenly"
    if relay.pid is not None:
        collector.add(relay.name, f"CPU per event, {pattern}", "us", (after.relay - before.relay) / 1e3 / len(times))
    collector.add(relay.name, f"time of an event, {pattern}, p50", "ms", percentile(times, 50) / 1e6)
    collector.add(relay.name, f"time of an event, {pattern}, p99", "ms", percentile(times, 99) / 1e6)
    collector.add(relay.name, f"events that came, {pattern}", "%", 100 * len(times) / expected)
    collector.add(relay.name, f"streams broken or silent, {pattern}", "", broken + len(silent))
    others = max(0, after.others - before.others)
    collector.add(relay.name, f"other load, {pattern}", "%", 100 * others / 1e9 / seconds)


@dataclass(frozen=True, slots=True)
class _Clocks:
    """Nanoseconds: the wall clock, the relay's CPU, and the CPU of everything that is not part of the bench."""

    wall: int
    relay: int
    others: int

    @staticmethod
    def now(relay: int | None) -> _Clocks:
        own = cpu_ns(os.getpid())
        of_relay = cpu_ns(relay) if relay is not None else 0
        return _Clocks(time.monotonic_ns(), of_relay, machine_cpu_ns() - own)
