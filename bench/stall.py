"""Clients that stop reading: how much is pulled from the provider beyond what they read, and what that takes.

The provider sends as fast as it can and never gets to its end while the clients stall. Over-read is what its
socket accepted less what the client read; `direct` shows what the kernel's buffers at the two ends take without any
relay. Then the clients read on, and every event must come once and in order. A second part stalls many more clients
at once beside paced streams, and looks at the relay's memory and at the pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.chunks import EventChecker
from bench.client import READ_SIZE, Client, Connection, request
from bench.figures import CaseResult, Collector, rotated
from bench.peers import PEERS, Running
from bench.processes import memory_bytes, wait_until_quiet
from bench.provider import Provider, simulator
from bench.stats import percentile

READ_BEFORE_STALL = 32 * 1024
"""Bytes that a client reads before it stops."""

WARM_UP = 20
"""Clients that stall and leave before the relay's memory is taken."""

SETTLED = 0.5
"""Seconds without any change after which a provider counts as stopped."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`events` of `size` bytes are more than all buffers take. `crowd` clients stall beside `paced` streams of `rate`
    events/s; times are seconds."""

    clients: int = 100
    events: int = 12_000
    size: int = 1000
    crowd: int = 1000
    paced: int = 50
    rate: float = 20
    window: float = 5
    rounds: int = 3


QUICK = Settings(clients=30, crowd=300, window=3, rounds=1)


class Staller(Connection):
    """Reads up to `limit` bytes, and checks what it reads."""

    __slots__ = ("checker", "limit")

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.limit = READ_BEFORE_STALL
        self.checker = EventChecker()

    def room(self) -> int:
        return min(READ_SIZE, self.limit - self.received)

    def on_data(self, data: bytes) -> None:
        self.checker.feed(data)


class Paced(Connection):
    """Counts events and takes the seconds between reads."""

    __slots__ = ("_last", "events", "gaps")

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.events = 0
        self.gaps: list[float] = []
        self._last = 0.0

    def on_data(self, data: bytes) -> None:
        now = time.monotonic()
        self.events += data.count(b"\n\n")
        self.gaps.append(now - self._last)
        self._last = now


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Both parts for each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    with simulator() as provider:
        for number in range(settings.rounds):
            for name in rotated(relays, number):
                wait_until_quiet()
                with PEERS[name].start(provider.port) as relay:
                    stall_and_resume(relay, provider, settings, collector)
                with PEERS[name].start(provider.port) as relay:
                    _stall_a_crowd(relay, provider, settings, collector)
    return CaseResult(
        "stall",
        f"{settings.clients} clients stop reading an unlimited provider; then {settings.crowd} beside paced streams",
        {
            "clients": settings.clients,
            "events": settings.events,
            "size": settings.size,
            "crowd": settings.crowd,
            "paced": settings.paced,
            "rate": settings.rate,
        },
        collector.figures(),
        (
            "Over-read less that of direct is what the relay pulls for nobody.",
            "Memory is the process's own; the kernel's socket buffers are not in it.",
        ),
    )


def stall_and_resume(relay: Running, provider: Provider, settings: Settings, collector: Collector) -> None:
    provider.forget()
    with Client[Staller]() as client:
        stallers = {}
        for number in range(settings.clients):
            name = f"stall-{number}"
            stallers[name] = client.add(Staller(relay.port))
            stallers[name].send(request(f"id={name} rate=0 events={settings.events} size={settings.size}"))
        client.run_until_all(lambda staller: not staller.room(), 30)
        accepted = when_settled(provider, client.run)
        over = [accepted[name] - staller.received for name, staller in stallers.items()]
        collector.add(relay.name, "over-read per stream, median", "KB", median(over) / 1024)
        collector.add(relay.name, "over-read per stream, largest", "KB", max(over) / 1024)
        started = time.monotonic()
        for staller in stallers.values():
            staller.limit = 1 << 60
            client.watch(staller)
        client.run_until_all(lambda staller: staller.checker.done or staller.ended, 60)
        taken = time.monotonic() - started
        whole = sum(staller.checker.is_whole(settings.events) for staller in stallers.values())
        read = sum(staller.received - READ_BEFORE_STALL for staller in stallers.values())
    collector.add(relay.name, "streams not whole and in order after it", "", settings.clients - whole)
    collector.add(relay.name, "throughput after it", "MB/s", read / 1e6 / taken)


def _stall_a_crowd(relay: Running, provider: Provider, settings: Settings, collector: Collector) -> None:
    provider.forget()
    with Client[Connection]() as client:
        paced = [Paced(relay.port) for _ in range(settings.paced)]
        for connection in paced:
            client.add(connection).send(request(f"events=0 rate={settings.rate}"))
        for first in _crowd(client, relay, provider, WARM_UP):
            client.forget(first)
            first.leave(reset=True)
        _pace(client, paced, relay, "before the crowd", settings.window, collector)
        before = memory_bytes(relay.pid) if relay.pid is not None else 0
        _crowd(client, relay, provider, settings.crowd)
        _pace(client, paced, relay, "beside the crowd", settings.window, collector)
        if relay.pid is not None:
            grown = memory_bytes(relay.pid) - before
            collector.add(relay.name, "memory per stalled client", "KB", grown / 1024 / settings.crowd)
        broken = sum(connection.ended for connection in client.connections.values())
        collector.add(relay.name, "streams broken meanwhile", "", broken)


def _crowd(client: Client[Connection], relay: Running, provider: Provider, size: int) -> list[Staller]:
    """So many clients that have stopped reading, and whose provider has stopped."""
    crowd = [Staller(relay.port) for _ in range(size)]
    for number, staller in enumerate(crowd):
        client.add(staller).send(request(f"id=stall-{number} rate=0 events=0"))
    client.run(30, lambda: all(not staller.room() for staller in crowd))
    when_settled(provider, client.run)
    return crowd


def _pace(
    client: Client[Connection], paced: list[Paced], relay: Running, when: str, seconds: float, collector: Collector
) -> None:
    """Events per second of all paced streams together, and how long one waits for the next."""
    client.run(seconds / 5)
    for connection in paced:
        connection.events = 0
        connection.gaps.clear()
    started = time.monotonic()
    client.run(seconds)
    rate = sum(connection.events for connection in paced) / (time.monotonic() - started)
    gaps = [gap for connection in paced for gap in connection.gaps]
    collector.add(relay.name, f"pace {when}", "events/s", rate)
    collector.add(relay.name, f"gap between events {when}, p99", "ms", percentile(gaps, 99) * 1e3)


def when_settled(provider: Provider, wait: Callable[[float], object]) -> dict[str, int]:
    """Bytes that the provider's sockets accepted, by stalled stream, once they accept no more."""
    accepted: dict[str, int] = {}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        wait(SETTLED)
        before = accepted
        accepted = {name: stream["bytes_accepted"] for name, stream in provider.streams().items() if "stall-" in name}
        if accepted == before:
            break
    return accepted
