"""The crash that flowserver was written against: clients slower than the model.

Slow clients ask for answers that the provider sends as fast as it is let, and read them at a slow, steady pace. Beside
them healthy clients read paced streams. Played against a naive relay, one that knows drain() and nothing else (both in
`incident_relays`), and flowserver: what each holds in memory, what it pulls from the provider for nobody, and how long
the healthy clients wait for their next event, over time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.background import in_background
from bench.client import READ_SIZE, Client, Connection, request
from bench.cores import RELAY_CORES
from bench.figures import CaseResult, Collector, Series
from bench.peers import PEERS, Running
from bench.processes import Process, free_port, memory_bytes, python_module, wait_until_quiet
from bench.provider import Provider, simulator
from bench.stats import percentile

RELAYS = ("naive", "drain", "flowserver")

TURN = 0.1
"""Seconds between two reads of a slow client."""

INTERVAL = 0.1
"""Seconds between two events of a healthy stream."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`pace` is what a slow client reads, in bytes per second; `window` is what its kernel takes ahead. A relay whose
    memory reaches `most` bytes is ended: out of memory, on a machine of that size. The slow clients come one after the
    other within `ramp`. Times are seconds."""

    slow: int = 200
    pace: int = 20_000
    window: int = 64 * 1024
    healthy: int = 20
    ramp: float = 3
    seconds: float = 15
    most: int = 1_000_000_000
    sample: float = 0.25


QUICK = Settings(slow=100, ramp=1, seconds=4, most=500_000_000)


class Slow(Connection):
    """Reads at a pace."""

    __slots__ = ("_pace", "_since")

    def __init__(self, port: int, pace: int, window: int) -> None:
        """`pace` in bytes per second, `window` is the receive buffer in bytes."""
        super().__init__(port, receive_buffer=window)
        self._pace = pace
        self._since = time.monotonic()

    def room(self) -> int:
        """A turn's worth, or nothing: no read of a few bytes."""
        due = int(self._pace * (time.monotonic() - self._since)) - self.received
        return min(READ_SIZE, due) if due >= self._pace * TURN / 2 else 0


class Healthy(Connection):
    """Takes the seconds that its events were late: longer apart than the provider sent them."""

    __slots__ = ("_last", "late")

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.late: list[float] = []
        self._last = time.monotonic()

    def on_data(self, data: bytes) -> None:
        now = time.monotonic()
        self.late.append(max(0.0, now - self._last - INTERVAL))
        self._last = now

    def waiting(self, now: float) -> float:
        """Seconds that its next event is late by now."""
        return max(0.0, now - self._last - INTERVAL)


@dataclass(slots=True)
class Sampler:
    """Looks at the relay and the provider from a thread of its own."""

    relay: Running
    provider: Provider
    settings: Settings
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, MB)"""
    pulled: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, MB) that the provider's kernel has taken for slow clients."""
    is_over: bool = False
    """The relay has all the memory that it may have."""

    def run(self, stop: threading.Event) -> None:
        """For `in_background`."""
        started = time.monotonic()
        while not stop.wait(self.settings.sample):
            assert self.relay.pid is not None
            size = memory_bytes(self.relay.pid)
            self.memory.append((time.monotonic() - started, size / 1e6))
            if size >= self.settings.most:
                self.is_over = True
                return
            streams = self.provider.streams().items()
            pulled = sum(stream["bytes_accepted"] for name, stream in streams if name.startswith("slow-"))
            self.pulled.append((time.monotonic() - started, pulled / 1e6))


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Plays it against the three of RELAYS; `relays` are others and not asked."""
    collector = Collector()
    series: list[Series] = []
    for name in RELAYS:
        with simulator() as provider:
            wait_until_quiet()
            with _start(name, provider.port) as relay:
                series += _play(relay, provider, settings, collector)
    return CaseResult(
        "incident",
        f"{settings.slow} clients read {settings.pace / 1e3:g} KB/s of an unlimited provider",
        {"slow": settings.slow, "pace": settings.pace, "window": settings.window, "seconds": settings.seconds},
        collector.figures(),
        (
            f"A relay is ended when it has {settings.most / 1e6:g} MB: out of memory.",
            "Pulled is what the provider's kernel took for slow clients; read is what those clients got of it.",
        ),
        tuple(series),
    )


@contextmanager
def _start(name: str, upstream: int) -> Iterator[Running]:
    if name in PEERS:
        with PEERS[name].start(upstream) as relay:
            yield relay
        return
    port = free_port()
    command = python_module("bench.incident_relays", name, "--port", str(port), "--upstream", str(upstream))
    with Process(command, port, cpus=RELAY_CORES) as process:
        yield Running(name, port, process.pid)


def _play(relay: Running, provider: Provider, settings: Settings, collector: Collector) -> list[Series]:
    with Client[Connection]() as client:
        healthy = [Healthy(relay.port) for _ in range(settings.healthy)]
        for stream in healthy:
            client.add(stream).send(request(f"events=0 rate={1 / INTERVAL:g}"))
        client.run(2)
        for stream in healthy:
            stream.late.clear()
        slow: list[Slow] = []
        sampler = Sampler(relay, provider, settings)
        late: list[tuple[float, float]] = []
        started = time.monotonic()
        with in_background(sampler.run):
            while (now := time.monotonic() - started) < settings.seconds and not sampler.is_over:
                while len(slow) < min(settings.slow, settings.slow * now / settings.ramp):
                    slow.append(_slow(client, relay, len(slow), settings))
                client.run(TURN)
                for connection in slow:
                    client.watch(connection)
                late.append((now, 1e3 * max(stream.waiting(time.monotonic()) for stream in healthy)))
        read = sum(connection.received for connection in slow) / 1e6
        waits = [wait for stream in healthy for wait in stream.late] or [settings.seconds]
    pulled = sampler.pulled[-1][1] if sampler.pulled else 0.0
    collector.add(relay.name, "memory, most", "MB", max(size for _, size in sampler.memory))
    collector.add(relay.name, "pulled from the provider", "MB", pulled)
    collector.add(relay.name, "read by slow clients", "MB", read)
    collector.add(relay.name, "healthy clients: an event is late, p99", "ms", 1e3 * percentile(waits, 99))
    collector.add(relay.name, "healthy clients: an event is late, most", "ms", 1e3 * max(waits))
    collector.add(relay.name, "out of memory after", "s", sampler.memory[-1][0] if sampler.is_over else 0)
    x = "seconds"
    return [
        Series("memory of the relay", relay.name, "MB", x, tuple(sampler.memory)),
        Series("pulled from the provider", relay.name, "MB", x, tuple(sampler.pulled)),
        Series("healthy clients wait too long by", relay.name, "ms", x, tuple(_highest(late, settings.sample))),
    ]


def _slow(client: Client[Connection], relay: Running, number: int, settings: Settings) -> Slow:
    connection = Slow(relay.port, settings.pace, settings.window)
    client.add(connection).send(request(f"id=slow-{number} events=0 rate=0 size=1000"))
    return connection


def _highest(points: Sequence[tuple[float, float]], step: float) -> list[tuple[float, float]]:
    """The highest of each `step` of time."""
    highest: dict[int, float] = {}
    for moment, value in points:
        highest[int(moment / step)] = max(value, highest.get(int(moment / step), 0.0))
    return [(number * step, value) for number, value in highest.items()]
