"""CPU per relayed event, and the time an event takes, with clients that speak HTTP/2: as `events` has it for HTTP/1.1.

The same streams lie on 1, 5 or 100 connections, and towards the provider each has a connection of its own. `direct` is
the client's HTTP/2 at the source's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Client
from bench.cores import LOAD_CORES
from bench.events import Load, collect, measure
from bench.figures import CaseResult, Collector
from bench.h2_client import H2Connection, spread
from bench.peers import Running, Wiring, side_by_side
from bench.processes import Process, free_port
from bench.source import command
from bench.stamps import scan


@dataclass(frozen=True, slots=True)
class Settings:
    """`shapes` are how many connections, and how coarse the provider's timer is, in seconds: at 0 each event leaves at
    a time of its own. `rate` is events per second and stream, `size` bytes per event, times are seconds. `others` is as
    in `in_round`."""

    shapes: tuple[tuple[int, float], ...] = ((1, 0), (5, 0), (100, 0), (5, 0.004))
    streams: int = 500
    rate: float = 50
    size: int = 250
    rounds: int = 3
    others: int | None = None
    warm_up: float = 2
    window: float = 8


QUICK = Settings(shapes=((5, 0),), rounds=1, window=3)


class H2Reader(H2Connection):
    """Appends the latency of each event, in nanoseconds, to `times`. Once `measured` is set it looks only for events
    and skips framing, because the windows are wider than anything that still arrives."""

    __slots__ = ("heard", "measured", "times")

    def __init__(self, port: int) -> None:
        self.heard: set[int] = set()
        """Streams that brought something before `measured` was set."""
        self.measured = False
        self.times: list[int] = []
        super().__init__(port)

    def on_data(self, data: bytes) -> None:
        if self.measured:
            self._tail = scan(self._tail + data if self._tail else data, self.times)
        else:
            self.receive(data)

    def on_stream_data(self, stream: int, data: bytes) -> None:
        self.heard.add(stream)
        scan(data, self.times)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    wiring = Wiring(client="h2", streams=max(1000, settings.streams))
    for connections, tick in settings.shapes:
        port = free_port()
        source = command(port, rate=settings.rate, size=settings.size, tick=tick)
        with Process(source, port, cpus=LOAD_CORES), side_by_side(relays, port, wiring) as started:
            for number in range(settings.rounds):
                for relay in started.round(number, settings.others):
                    h2_measure(relay, settings, _shape(connections, tick), connections, collector)
    return CaseResult(
        "h2_events",
        f"HTTP/2 clients: {settings.streams} streams x {settings.rate:g} events/s x {settings.size} B",
        {"streams": settings.streams, "rate": settings.rate, "size": settings.size, "window": settings.window},
        collector.figures(),
        ("Other load is what everything else on the machine took of one core meanwhile; the figures want it near 0.",),
    )


def h2_measure(relay: Running, settings: Settings, shape: str, connections: int, collector: Collector) -> float | None:
    """Measure one relay with clients of HTTP/2. `shape` says in words what it is. Returns the microseconds of CPU per
    event; None where there is no relay."""
    load = h2_load(relay, settings, connections)
    return collect(relay, load, settings.rate, shape, collector)


def h2_load(relay: Running, settings: Settings, connections: int) -> Load:
    """Read the streams over so many connections."""
    with Client[H2Reader]() as client:
        for streams in spread(settings.streams, connections):
            reader = client.add(H2Reader(relay.port))
            for _ in range(streams):
                reader.request()
        readers = list(client.connections.values())
        client.run(10, lambda: all(len(reader.heard) == len(reader.open) for reader in readers))
        client.run(settings.warm_up)
        lost = settings.streams - sum(len(reader.open & reader.heard) for reader in readers)
        times: list[int] = []
        for reader in readers:
            reader.times = times
            reader.measured = True
        clocks = measure(client, relay, settings.window)
        lost += sum(len(reader.open) for reader in readers if reader.ended)
    return Load(settings.streams, clocks, times, lost)


def _shape(connections: int, tick: float) -> str:
    where = "1 connection" if connections == 1 else f"{connections} connections"
    return f"{where}, bursts of {tick * 1e3:g} ms" if tick else where
