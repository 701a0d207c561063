"""CPU per stream that begins and ends, over connections that stay open: the request, its head, the events, the end.

Each client asks for the next stream as soon as one is over. The relays run side by side and take turns, round after
round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Client, request
from bench.cores import LOAD_CORES
from bench.events import Reader, measure
from bench.figures import CaseResult, Collector
from bench.peers import Running, side_by_side
from bench.processes import Process, free_port
from bench.source import command

LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Settings:
    """`clients` read streams of `events`, of which `rate` come in a second and each has `size` bytes. `others` is as in
    `in_round`; times are seconds."""

    clients: int = 200
    events: int = 150
    rate: float = 100
    size: int = 250
    rounds: int = 11
    others: int | None = 2
    warm_up: float = 2
    window: float = 4.5


QUICK = Settings(rounds=3, others=1, warm_up=1, window=3)


class Repeater(Reader):
    """Asks for stream after stream."""

    __slots__ = ("_end", "_message", "streams")

    def __init__(self, port: int, message: bytes) -> None:
        super().__init__(port)
        self.streams = 0
        """That are over."""
        self._message = message
        self._end = b""

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        self._end = (self._end + data)[-len(LAST_CHUNK) :]
        if self._end == LAST_CHUNK:
            self.streams += 1
            self._end = b""
            self.socket.send(self._message)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    port = free_port()
    source = command(port, rate=settings.rate, size=settings.size, events=settings.events)
    with Process(source, port, cpus=LOAD_CORES), side_by_side(relays, port) as started:
        for number in range(settings.rounds):
            for relay in started.round(number, settings.others):
                _measure(relay, settings, collector)
    return CaseResult(
        "short_streams",
        f"{settings.clients} clients read streams of {settings.events} events, one after the other",
        {name: getattr(settings, name) for name in ("clients", "events", "rate", "size", "window")},
        collector.figures(),
        ("A stream's cost is that of as many events as it has, with their share of begins and ends.",),
    )


def _measure(relay: Running, settings: Settings, collector: Collector) -> None:
    with Client[Repeater]() as client:
        for number in range(max(1, round(settings.clients * relay.share))):
            repeater = client.add(Repeater(relay.port, request()))
            repeater.send(request())
            if number % 10 == 9:
                client.run(settings.warm_up * 10 / settings.clients)  # so that not all begin and end at once
        client.run(settings.warm_up)
        times: list[int] = []
        for repeater in client.connections.values():
            repeater.times = times
            repeater.streams = 0
        clocks = measure(client, relay, settings.window)
        begun = sum(repeater.streams for repeater in client.connections.values())
        broken = sum(repeater.ended for repeater in client.connections.values())
    if relay.pid is not None:
        collector.add(relay.name, "CPU per stream", "us", clocks.relay / 1e3 * settings.events / len(times))
    collector.add(relay.name, "streams", "1/s", begun / (clocks.wall / 1e9))
    expected = settings.clients * relay.share * settings.rate * clocks.wall / 1e9
    collector.add(relay.name, "events that came", "%", 100 * len(times) / expected)
    collector.add(relay.name, "streams broken", "", broken)
