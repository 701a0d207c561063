"""Streams of HTTP/2 whose clients stop crediting them: what is pulled for them, and what it does to their neighbours.

A client stalls a stream by withholding its WINDOW_UPDATE while it reads the connection. In the first part one stream
of a connection stalls beside paced ones; in the second all streams of 1, 10 or 100 connections do. The provider sends
to them as fast as it can and never gets to its end. Over-read is what the provider's socket accepted less the window,
which the client has read; `direct` is a client of HTTP/1.1 that stops reading, and shows what the kernel's buffers at
the two ends take without any relay. Then the streams are credited, and every event must come once and in order.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.chunks import EventChecker
from bench.client import Client, request
from bench.figures import CaseResult, Collector, rotated
from bench.h2_client import H2Connection, spread
from bench.peers import PEERS, Running, Wiring
from bench.processes import memory_bytes, wait_until_quiet
from bench.provider import Provider, simulator
from bench.stall import Staller, when_settled
from bench.stats import percentile

WINDOW = 65535
"""Bytes of a stream."""

WARM_UP = 20
"""Streams that are opened and closed before the relay's memory is taken."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`paced` streams of `rate` events/s are beside the one that stalls, and are watched for `window` seconds;
    `stalled` streams lie on so many connections as `shapes` has. `events` of `size` bytes are more than all buffers
    take."""

    paced: int = 49
    rate: float = 50
    window: float = 5
    stalled: int = 100
    shapes: tuple[int, ...] = (1, 10, 100)
    events: int = 12_000
    size: int = 1000
    rounds: int = 3


QUICK = Settings(window=1.5, stalled=20, shapes=(10,), rounds=1)


class Stalls(H2Connection):
    """Credits its streams, except those in `withheld`, whenever half of their window is used. Streams in `checkers` are
    checked; of the others it counts the events and records the seconds between them."""

    __slots__ = ("_last", "_owed", "checkers", "events", "gaps", "received_on", "withheld")

    def __init__(self, port: int) -> None:
        super().__init__(port, window=WINDOW)
        self.withheld: set[int] = set()
        self.checkers: dict[int, EventChecker] = {}
        self.events = 0
        self.gaps: list[float] = []
        self.received_on: defaultdict[int, int] = defaultdict(int)
        """Stream -> bytes."""
        self._owed: defaultdict[int, int] = defaultdict(int)
        self._last: dict[int, float] = {}

    def stall(self, simulate: str) -> int:
        """Open a stream that is never credited. Returns its number."""
        stream = self.request(simulate)
        self.withheld.add(stream)
        self.checkers[stream] = EventChecker()
        return stream

    def go_on(self) -> None:
        """Credit all that were withheld."""
        for stream in self.withheld:
            if self._owed[stream]:
                self.credit(stream, self._owed.pop(stream))
        self.withheld.clear()

    @property
    def is_full(self) -> bool:
        """Is every window of those withheld used up?"""
        return all(self.received_on[stream] >= WINDOW for stream in self.withheld)

    def whole(self, events: int) -> int:
        """How many of the streams that stalled came to their end, with so many events, each once and in order."""
        return sum(checker.is_whole(events) for checker in self.checkers.values())

    def on_stream_data(self, stream: int, data: bytes) -> None:
        self.received_on[stream] += len(data)
        self._owed[stream] += len(data)
        if self._owed[stream] * 2 >= WINDOW and stream not in self.withheld:
            self.credit(stream, self._owed.pop(stream))
        checker = self.checkers.get(stream)
        if checker is not None:
            checker.check(data)
            return
        now = time.monotonic()
        self.events += data.count(b"\n\n")
        if stream in self._last:
            self.gaps.append(now - self._last[stream])
        self._last[stream] = now

    def on_stream_end(self, stream: int, *, whole: bool) -> None:
        if stream in self.checkers:
            self.checkers[stream].done = whole


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Both parts for each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    wiring = Wiring(client="h2", streams=1000)
    with simulator() as provider:
        for number in range(settings.rounds):
            for name in rotated(relays, number):
                wait_until_quiet()
                if not PEERS[name].supports(wiring):
                    with PEERS[name].start(provider.port) as relay:
                        _stall_without_h2(relay, provider, settings, collector)
                    continue
                with PEERS[name].start(provider.port, wiring) as relay:
                    _stall_one(relay, provider, settings, collector)
                for connections in settings.shapes:
                    with PEERS[name].start(provider.port, wiring) as relay:
                        _stall_all(relay, provider, settings, connections, collector)
    return CaseResult(
        "h2_stall",
        f"HTTP/2 clients: one stalled stream beside {settings.paced} paced ones; then {settings.stalled} stalled ones",
        {
            "paced": settings.paced,
            "rate": settings.rate,
            "stalled": settings.stalled,
            "events": settings.events,
            "size": settings.size,
            "window": WINDOW,
        },
        collector.figures(),
        (
            "Over-read is counted beyond the window; less that of direct it is what the relay pulls for nobody.",
            "The memory is the process's own, and has no part in the kernel's socket buffers.",
        ),
    )


def _stall_one(relay: Running, provider: Provider, settings: Settings, collector: Collector) -> None:
    provider.forget()
    with Client[Stalls]() as client:
        connection = client.add(Stalls(relay.port))
        for _ in range(settings.paced):
            connection.request(f"events=0 rate={settings.rate}")
        _pace(client, connection, relay, "before", settings, collector)
        stream = connection.stall(f"id=stall-one rate=0 events={settings.events} size={settings.size}")
        client.run(10, lambda: connection.is_full)
        accepted = when_settled(provider, client.run)
        _pace(client, connection, relay, "beside a stalled one", settings, collector)
        over = accepted["stall-one"] - connection.received_on[stream]
        collector.add(relay.name, "one stalled: over-read beyond its window", "KB", over / 1024)
        connection.go_on()
        client.run(30, lambda: stream not in connection.open)
        broken = settings.paced - len(connection.open)
        collector.add(
            relay.name, "one stalled: not whole and in order after it", "", 1 - connection.whole(settings.events)
        )
        collector.add(relay.name, "one stalled: others that broke meanwhile", "", broken)


def _pace(
    client: Client[Stalls], connection: Stalls, relay: Running, when: str, settings: Settings, collector: Collector
) -> None:
    client.run(0.5)
    connection.events = 0
    connection.gaps.clear()
    started = time.monotonic()
    client.run(settings.window)
    rate = connection.events / (time.monotonic() - started)
    collector.add(relay.name, f"pace {when}", "events/s", rate)
    collector.add(relay.name, f"gap between events {when}, p99", "ms", percentile(connection.gaps, 99) * 1e3)


def _stall_all(relay: Running, provider: Provider, settings: Settings, connections: int, collector: Collector) -> None:
    assert relay.pid is not None
    where = "1 connection" if connections == 1 else f"{connections} connections"
    with Client[Stalls]() as client:
        warm = client.add(Stalls(relay.port))
        for number in range(WARM_UP):
            warm.stall(f"id=warm-{number} rate=0 events=0")
        client.run(10, lambda: warm.is_full)
    before = memory_bytes(relay.pid)
    provider.wait(lambda streams: all(stream["ended"] for stream in streams.values()), 10)
    provider.forget()
    with Client[Stalls]() as client:
        for number, count in enumerate(spread(settings.stalled, connections)):
            connection = client.add(Stalls(relay.port))
            for part in range(count):
                connection.stall(f"id=stall-{number}-{part} rate=0 events={settings.events} size={settings.size}")
        client.run_until_all(lambda connection: connection.is_full, 30)
        accepted = when_settled(provider, client.run)
        grown = memory_bytes(relay.pid) - before
        over = [size - WINDOW for size in accepted.values()]
        collector.add(relay.name, f"over-read per stream, {where}, median", "KB", median(over) / 1024)
        collector.add(relay.name, f"over-read per stream, {where}, largest", "KB", max(over) / 1024)
        collector.add(relay.name, f"memory per stalled stream, {where}", "KB", grown / 1024 / settings.stalled)
        _go_on(client, relay, settings, where, collector)


def _go_on(client: Client[Stalls], relay: Running, settings: Settings, where: str, collector: Collector) -> None:
    started = time.monotonic()
    for connection in client.connections.values():
        connection.go_on()
    client.run_until_all(lambda connection: connection.ended or not connection.open, 90)
    taken = time.monotonic() - started
    whole = sum(connection.whole(settings.events) for connection in client.connections.values())
    read = sum(sum(connection.received_on.values()) for connection in client.connections.values())
    collector.add(relay.name, f"not whole and in order after it, {where}", "", settings.stalled - whole)
    collector.add(relay.name, f"throughput after it, {where}", "MB/s", (read - settings.stalled * WINDOW) / 1e6 / taken)


def _stall_without_h2(relay: Running, provider: Provider, settings: Settings, collector: Collector) -> None:
    """What the kernel's buffers take: beside each figure of over-read."""
    provider.forget()
    with Client[Staller]() as client:
        for number in range(settings.stalled):
            staller = client.add(Staller(relay.port))
            staller.send(request(f"id=stall-{number} rate=0 events={settings.events} size={settings.size}"))
        client.run_until_all(lambda staller: not staller.room(), 30)
        read = {f"stall-{number}": staller.received for number, staller in enumerate(client.connections.values())}
        over = [size - read[name] for name, size in when_settled(provider, client.run).items()]
    collector.add(relay.name, "one stalled: over-read beyond its window", "KB", median(over) / 1024)
    for connections in settings.shapes:
        where = "1 connection" if connections == 1 else f"{connections} connections"
        collector.add(relay.name, f"over-read per stream, {where}, median", "KB", median(over) / 1024)
        collector.add(relay.name, f"over-read per stream, {where}, largest", "KB", max(over) / 1024)
