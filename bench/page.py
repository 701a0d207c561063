"""What looking costs: 5,000 streams of two events a second, with viewers of the live page and with scrapes of /metrics.

The relay is one process throughout, and each way to look is measured between two spells without it, in turn.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Client, request
from bench.cores import LOAD_CORES
from bench.events import Clocks, Reader
from bench.figures import CaseResult, Collector
from bench.peers import PEERS, PLAIN, Running
from bench.processes import Process, free_port, wait_until_quiet
from bench.source import command
from bench.stats import percentile

RATE = 2.0
"""Events per second and stream."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`window`: whole seconds."""

    streams: int = 5000
    size: int = 250
    warm_up: float = 8
    window: int = 6
    rounds: int = 3


QUICK = Settings(streams=2000, warm_up=2, window=3, rounds=1)


@dataclass(frozen=True, slots=True)
class Way:
    """`targets` are opened once, as feeds; `scrape` is asked for each second."""

    name: str
    targets: tuple[str, ...] = ()
    scrape: str = ""


NOBODY = Way("nobody looks")
WAYS = (
    NOBODY,
    Way("one page, 100 rows", ("/live?limit=100",)),
    Way("four pages, 100 rows", ("/live?limit=100",) * 4),
    Way("one page, 500 rows", ("/live?limit=500",)),
    Way("a filter over all", ("/live?limit=100&filter=nobody",)),
    Way("/metrics each second", (), "/metrics"),
    Way("/streams each second", (), "/streams"),
)


class Looking(Reader):
    """A connection to the admin listener, of which only the bytes matter."""

    __slots__ = ()

    def ask(self, target: str) -> None:
        self.send(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def on_data(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Spell:
    """The relay's share of a core, latencies in seconds, and bytes a second to those who look."""

    share: float
    p50: float
    p99: float
    worst: float
    looked: float


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """This relay only: others have no such page."""
    collector = Collector()
    if "flowserver" in relays:
        wait_until_quiet()
        port = free_port()
        with (
            Process(command(port, rate=RATE, size=settings.size), port, cpus=LOAD_CORES),
            PEERS["flowserver"].start(port, PLAIN) as relay,
        ):
            _measure(relay, settings, collector)
    return CaseResult(
        "page",
        f"{settings.streams} streams of {RATE:g} events/s, looked at",
        {"size": settings.size, "window": settings.window},
        collector.figures(),
    )


def _measure(relay: Running, settings: Settings, collector: Collector) -> None:
    with Client[Reader]() as client:
        for _ in range(settings.streams):
            client.add(Reader(relay.port)).send(request())
        client.run_until_all(lambda reader: bool(reader.times), 10)
        client.run(settings.warm_up)
        readers = list(client.connections.values())
        for _ in range(settings.rounds):
            for way in WAYS:
                spell = _spell(client, readers, relay, way, settings)
                collector.add("flowserver", f"share of a core, {way.name}", "%", 100 * spell.share)
                collector.add("flowserver", f"time of an event, {way.name}, p50", "ms", 1e3 * spell.p50)
                collector.add("flowserver", f"time of an event, {way.name}, p99", "ms", 1e3 * spell.p99)
                collector.add("flowserver", f"time of an event, {way.name}, longest", "ms", 1e3 * spell.worst)
                if way is not NOBODY:
                    collector.add("flowserver", f"KB a second, {way.name}", "KB", spell.looked / 1e3)


def _spell(client: Client[Reader], readers: list[Reader], relay: Running, way: Way, settings: Settings) -> Spell:
    assert relay.admin is not None
    looking = [Looking(relay.admin) for _ in (*way.targets, *([way.scrape] if way.scrape else []))]
    for viewer in looking:
        client.add(viewer)
    for viewer, target in zip(looking, way.targets, strict=False):
        viewer.ask(target)
    client.run(1.5)
    times: list[int] = []
    for reader in readers:
        reader.times = times
    sizes = sum(viewer.received for viewer in looking)
    gc.disable()
    before = Clocks.now(relay.pid)
    for _ in range(settings.window):
        if way.scrape:
            looking[-1].ask(way.scrape)
        client.run(1.0)
    clocks = Clocks.now(relay.pid).since(before)
    gc.enable()
    looked = sum(viewer.received for viewer in looking) - sizes
    for viewer in looking:
        client.forget(viewer)
        viewer.leave(reset=True)
    return Spell(
        share=clocks.relay / clocks.wall,
        p50=percentile(times, 50) / 1e9,
        p99=percentile(times, 99) / 1e9,
        worst=max(times) / 1e9,
        looked=looked / settings.window,
    )
