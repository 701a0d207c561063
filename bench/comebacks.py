"""Many streams, of which some stop for a while and come back: what is held meanwhile, who notices, what is lost.

All streams are paced. Those that stop have a small receive buffer, so that their providers are held up behind the
relay. When they read on, what was held up must come at once, and every stream must end whole and in order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.chunks import EventChecker
from bench.client import READ_SIZE, Client, Connection, request
from bench.figures import CaseResult, Collector, rotated
from bench.peers import PEERS, Running
from bench.processes import memory_bytes, wait_until_quiet
from bench.provider import simulator
from bench.stats import percentile

RECEIVE_BUFFER = 4096
"""SO_RCVBUF of a client that stops."""

LONGEST = 30.0
"""Seconds that are waited for streams to begin, to catch up and to end."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`streams` of `rate` events/s of `size` bytes run for `length`. The `share` of them that stop do so after
    `before`, for `away`. Times are seconds."""

    streams: int = 5000
    share: float = 0.2
    rate: float = 2
    size: int = 2000
    length: float = 50
    before: float = 3
    away: float = 20
    rounds: int = 1


QUICK = Settings(streams=1000, rate=5, length=25, before=2, away=8)


class Reader(Connection):
    """Checks what it reads, and takes the seconds between reads into `gaps`."""

    __slots__ = ("_last", "checker", "gaps", "is_away")

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        super().__init__(port, receive_buffer=receive_buffer)
        self.checker = EventChecker()
        self.gaps: list[float] | None = None
        """None: they are not taken."""
        self.is_away = False
        self._last = 0.0

    def room(self) -> int:
        return 0 if self.is_away else READ_SIZE

    def on_data(self, data: bytes) -> None:
        now = time.monotonic()
        if self.gaps is not None and self._last:
            self.gaps.append(now - self._last)
        self._last = now
        self.checker.feed(data)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    for number in range(settings.rounds):
        for name in rotated(relays, number):
            wait_until_quiet()
            with simulator() as provider, PEERS[name].start(provider.port) as relay:
                _play(relay, settings, collector)
    share = f"{settings.share:.0%}"
    return CaseResult(
        "comebacks",
        f"{settings.streams} streams, of which {share} stop for {settings.away:g} s and come back",
        {name: getattr(settings, name) for name in ("streams", "share", "rate", "size", "length", "before", "away")},
        collector.figures(),
        (
            "Caught up: all that stopped have had as many events as the others.",
            "Memory is the process's own; the kernel's socket buffers are not in it.",
        ),
    )


def _play(relay: Running, settings: Settings, collector: Collector) -> None:
    events = round(settings.rate * settings.length)
    message = request(f"events={events} rate={settings.rate:g} size={settings.size}")
    with Client[Reader]() as client:
        leaving = [Reader(relay.port, RECEIVE_BUFFER) for _ in range(round(settings.streams * settings.share))]
        staying = [Reader(relay.port) for _ in range(settings.streams - len(leaving))]
        for reader in (*leaving, *staying):
            client.add(reader).send(message)
        silent = client.run_until_all(lambda reader: reader.checker.events > 0, LONGEST)
        if silent:
            raise RuntimeError(f"{relay.name}: {len(silent)} streams did not begin")
        client.run(settings.before)
        _be_away(client, leaving, staying, relay, settings, collector)
        client.run_until_all(lambda reader: reader.checker.done or reader.ended, settings.length + LONGEST)
        broken = sum(not reader.checker.is_whole(events) for reader in client.connections.values())
    collector.add(relay.name, "streams not whole and in order", "", broken)


def _be_away(
    client: Client[Reader],
    leaving: Sequence[Reader],
    staying: Sequence[Reader],
    relay: Running,
    settings: Settings,
    collector: Collector,
) -> None:
    """Those who leave stop, and come back."""
    gaps: list[float] = []
    for reader in staying:
        reader.gaps = gaps
    before = _memory(relay)
    for reader in leaving:
        reader.is_away = True
    client.run(settings.away)
    if before is not None:
        collector.add(relay.name, "memory for a stream that stopped", "KB", (_grown(relay, before)) / len(leaving))
    for reader in leaving:
        reader.is_away = False
        client.watch(reader)
    returned = time.monotonic()
    others = min(reader.checker.events for reader in staying)
    client.run(LONGEST, lambda: all(reader.checker.events >= others for reader in leaving))
    collector.add(relay.name, "caught up after", "s", time.monotonic() - returned)
    late = percentile(gaps, 99) - 1 / settings.rate
    collector.add(relay.name, "lateness of the others' events meanwhile, p99", "ms", 1e3 * late)
    if before is not None:
        collector.add(relay.name, "memory beyond that before, after it", "MB", _grown(relay, before) / 1024)


def _memory(relay: Running) -> int | None:
    """Bytes; None without a relay."""
    return memory_bytes(relay.pid) if relay.pid is not None else None


def _grown(relay: Running, before: int) -> float:
    """KB since then."""
    return ((_memory(relay) or before) - before) / 1024
