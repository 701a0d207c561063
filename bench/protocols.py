"""HTTP/1.1 and HTTP/2 side by side, towards clients and towards providers: what each way through the relay costs.

One table; what other cases have relays for, this one has ways for, such as "h2 -> h1": clients of HTTP/2, a provider of
HTTP/1.1. `direct` is HTTP/1.1 without a relay. Streams of HTTP/2 clients lie on CONNECTIONS connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import events, h2_events, h2_memory, memory, unary, upstream
from bench.client import Client, Connection, request
from bench.cores import LOAD_CORES
from bench.events import Load
from bench.figures import CaseResult, Collector
from bench.first_byte import time_to_first_byte
from bench.h2_client import H2Connection
from bench.h2_unary import H2Caller
from bench.incident import Slow
from bench.peers import PEERS, Running, Wiring, certificate
from bench.processes import Process, free_port, process_tree, wait_until_quiet
from bench.provider import Provider, simulator
from bench.source import command, whole_command
from bench.stall import Paced, Staller
from bench.stats import percentile

CONNECTIONS = 5

WINDOW = 65535
"""Bytes of a stream that a slow client of HTTP/2 lets come ahead."""

PERCENTS = (50, 90, 99, 99.9)

WARM_UP = 0.8
"""Seconds: after six events a stream of flowserver takes the fast path."""

FLOOD = 3e3
"""Events per second and stream, of 20: more than gets through."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`paced` are (streams, events/s each): all ways take the first, those without TLS the others too. `speeds` are of
    slow clients, in bytes per second; times are seconds."""

    ways: tuple[str, ...] = ("h1 -> h1", "h2 -> h1", "h1 -> h2", "h2 -> h2", "h1 -> h1 with TLS", "h2 -> h2 with TLS")
    paced: tuple[tuple[int, float], ...] = ((500, 40), (100, 50), (2000, 10))
    held: int = 500
    calls: unary.Settings = field(default_factory=lambda: unary.Settings(rounds=1, warm_up=0.5, window=1, rate=600))
    speeds: tuple[int, ...] = (5_000, 50_000, 500_000)
    requests: int = 100
    window: float = 2


QUICK = Settings(ways=("h1 -> h1", "h2 -> h1"), paced=((500, 40),), requests=30, window=1)


class SlowStream(H2Connection):
    """One stream that is credited at a pace."""

    __slots__ = ("_credited", "_pace", "_since", "read", "stream")

    def __init__(self, port: int, pace: int, simulate: str) -> None:
        super().__init__(port, window=WINDOW)
        self.read = 0
        self._pace = pace
        self._credited = 0
        self._since = time.monotonic()
        self.stream = self.request(simulate)

    def on_stream_data(self, stream: int, data: bytes) -> None:
        self.read += len(data)

    def go_on(self) -> None:
        """Credit what the pace has come to."""
        due = int(self._pace * (time.monotonic() - self._since)) - self._credited
        if due > 0:
            self._credited += due
            self.credit(self.stream, due)


class OneStalls(H2Connection):
    """Credits nothing to its first stream, and takes the seconds between events of the others."""

    __slots__ = ("_last", "_owed", "gaps")

    def __init__(self, port: int) -> None:
        super().__init__(port, window=WINDOW)
        self.gaps: list[float] = []
        self._last: dict[int, float] = {}
        self._owed: dict[int, int] = {}

    def on_stream_data(self, stream: int, data: bytes) -> None:
        if stream == 1:
            return
        now = time.monotonic()
        if stream in self._last:
            self.gaps.append(now - self._last[stream])
        self._last[stream] = now
        owed = self._owed[stream] = self._owed.get(stream, 0) + len(data)
        if owed * 2 >= WINDOW:
            self.credit(stream, self._owed.pop(stream))


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver in all `settings.ways`; the other `relays` are not asked."""
    collector = Collector()
    with certificate() as made:
        wirings = {way: wiring for way in settings.ways if (wiring := upstream.wiring_of(way, made)) is not None}
        for number, (streams, rate) in enumerate(settings.paced):
            wait_until_quiet()
            _paced("direct", Wiring(), streams, rate, settings, collector)
            for way, wiring in wirings.items():
                if number == 0 or wiring.certificate is None:
                    _paced(way, wiring, streams, rate, settings, collector)
        wait_until_quiet()
        for way, wiring in wirings.items():
            _flood(way, wiring, settings, collector)
            _whole(way, wiring, settings, collector)
            _held(way, wiring, settings, collector)
    with simulator() as provider:
        for way, wiring in wirings.items():
            if wiring.provider == "h1" and wiring.certificate is None:
                with PEERS["flowserver"].start(provider.port, wiring) as started:
                    relay = replace(started, name=way)
                    _first_token(relay, wiring, settings, collector)
                    _one_stalled(relay, wiring, provider, settings, collector)
                    _slow_readers(relay, wiring, provider, settings, collector)
    return CaseResult(
        "protocols",
        f"HTTP/1.1 and HTTP/2: clients -> provider; HTTP/2 clients on {CONNECTIONS} connections",
        {"connections": CONNECTIONS, "held": settings.held, "window": settings.window},
        collector.figures(),
        (
            "Time of an event less that of direct is what the way adds between tokens.",
            "Over-read is counted beyond what the client read, or beyond the window that it gave.",
        ),
    )


def _source(port: int, wiring: Wiring, *, rate: float = 1, whole: int | None = None) -> Process:
    tls = (wiring.certificate.file, wiring.certificate.key) if wiring.certificate is not None else None
    source = command(port, rate=rate, tls=tls) if whole is None else whole_command(port, whole, tls)
    return Process(source, port, cpus=LOAD_CORES)


def _paced(way: str, wiring: Wiring, streams: int, rate: float, settings: Settings, collector: Collector) -> None:
    peer = "direct" if way == "direct" else "flowserver"
    port = free_port()
    with _source(port, wiring, rate=rate), PEERS[peer].start(port, wiring) as relay:
        load = _load(relay, wiring, streams, rate, settings)
    shape = f"{streams} streams x {rate:g}/s"
    if relay.pid is not None:
        collector.add(way, f"CPU per event, {shape}", "us", load.clocks.relay / 1e3 / len(load.times))
    for percent in PERCENTS:
        collector.add(way, f"time of an event, {shape}, p{percent:g}", "ms", percentile(load.times, percent) / 1e6)
    came = len(load.times) / (streams * rate * load.clocks.wall / 1e9)
    collector.add(way, f"events that came, {shape}", "%", 100 * came)


def _load(relay: Running, wiring: Wiring, streams: int, rate: float, settings: Settings) -> Load:
    if wiring.client == "h1":
        paced = events.Settings(streams=streams, rate=rate, warm_up=WARM_UP, window=settings.window)
        return events.h1_load(relay, paced)
    same = h2_events.Settings(streams=streams, rate=rate, warm_up=WARM_UP, window=settings.window)
    return h2_events.h2_load(relay, same, CONNECTIONS)


def _flood(way: str, wiring: Wiring, settings: Settings, collector: Collector) -> None:
    port = free_port()
    with _source(port, wiring, rate=FLOOD), PEERS["flowserver"].start(port, wiring) as relay:
        load = _load(relay, wiring, 20, FLOOD, replace(settings, window=1))
    collector.add(way, "flood: events", "1/s", len(load.times) / (load.clocks.wall / 1e9))
    collector.add(way, "flood: CPU per event", "us", load.clocks.relay / 1e3 / len(load.times))


def _whole(way: str, wiring: Wiring, settings: Settings, collector: Collector) -> None:
    port = free_port()
    calls = settings.calls
    with _source(port, wiring, whole=calls.size), PEERS["flowserver"].start(port, wiring) as started:
        relay = replace(started, name=way)
        if wiring.client == "h1":
            with Client[unary.Caller]() as client:
                message = request(stream=False)
                callers = [client.add(unary.Caller(relay.port, message)) for _ in range(calls.connections)]
                unary.measure(client, callers, relay, calls, ", whole", collector)
        else:
            with Client[H2Caller]() as client:
                h2_callers = [client.add(H2Caller(relay.port)) for _ in range(CONNECTIONS)]
                unary.measure(client, h2_callers, relay, replace(calls, connections=CONNECTIONS), ", whole", collector)


def _held(way: str, wiring: Wiring, settings: Settings, collector: Collector) -> None:
    port = free_port()
    with _source(port, wiring, rate=2), PEERS["flowserver"].start(port, wiring) as relay:
        assert relay.pid is not None
        idle = _sockets(relay.pid)
        before = _hold(relay, wiring, 50)
        sockets: list[int] = []
        during = _hold(relay, wiring, settings.held, lambda: sockets.append(_sockets(relay.pid or 0)))
    collector.add(way, "memory per open stream", "KB", (during - before) / 1024 / settings.held)
    collector.add(way, f"sockets for {settings.held} streams", "", sockets[0] - idle)


def _hold(relay: Running, wiring: Wiring, streams: int, look: Callable[[], object] = lambda: None) -> int:
    """Hold so many open and `look`. Returns the relay's memory in bytes."""
    if wiring.client == "h1":
        return memory.hold(relay, streams, 1, look)
    return h2_memory.hold(relay, streams, min(streams, CONNECTIONS), 1, look)


def _sockets(pid: int) -> int:
    """Sockets that the process and its descendants have."""
    found = 0
    for member in process_tree(pid):
        for descriptor in Path(f"/proc/{member}/fd").iterdir():
            try:
                found += descriptor.readlink().name.startswith("socket:")
            except OSError:
                continue
    return found


def _first_token(relay: Running, wiring: Wiring, settings: Settings, collector: Collector) -> None:
    times = _h1_first_tokens(relay, settings) if wiring.client == "h1" else _h2_first_tokens(relay, settings)
    for percent in PERCENTS[:3]:
        collector.add(relay.name, f"time to the first token, p{percent:g}", "ms", 1e3 * percentile(times, percent))


def _h1_first_tokens(relay: Running, settings: Settings) -> list[float]:
    with Client[Connection]() as client:
        connection = client.add(Connection(relay.port))
        connection.socket.setblocking(True)
        return [time_to_first_byte(connection.socket) for _ in range(settings.requests)]


def _h2_first_tokens(relay: Running, settings: Settings) -> list[float]:
    class First(H2Connection):
        at = 0.0

        def on_stream_data(self, stream: int, data: bytes) -> None:
            self.at = self.at or time.monotonic()

    times = []
    with Client[First]() as client:
        connection = client.add(First(relay.port))
        for _ in range(settings.requests):
            connection.at = 0.0
            started = time.monotonic()
            connection.request("events=1 rate=0")
            client.run(5, lambda: not connection.open)
            times.append(connection.at - started)
    return times


def _one_stalled(relay: Running, wiring: Wiring, provider: Provider, settings: Settings, collector: Collector) -> None:
    """49 paced streams beside one that takes nothing."""
    asked = "id=stall-0 rate=0 events=0"
    if wiring.client == "h2":
        with Client[OneStalls]() as client:
            connection = client.add(OneStalls(relay.port))
            connection.request(asked)
            for _ in range(49):
                connection.request("events=0 rate=50")
            client.run(1)
            connection.gaps.clear()
            client.run(settings.window)
            gaps = connection.gaps
    else:
        with Client[Connection]() as many:
            many.add(Staller(relay.port)).send(request(asked))
            paced = [Paced(relay.port) for _ in range(49)]
            for stream in paced:
                many.add(stream).send(request("events=0 rate=50"))
            many.run(1)
            for stream in paced:
                stream.gaps.clear()
            many.run(settings.window)
            gaps = [gap for stream in paced for gap in stream.gaps]
    pace = len(gaps) / settings.window
    collector.add(relay.name, "one stalled: pace of 49 others", "events/s", pace)
    collector.add(relay.name, "one stalled: gap of the others, p99", "ms", 1e3 * percentile(gaps, 99))


def _slow_readers(relay: Running, wiring: Wiring, provider: Provider, settings: Settings, collector: Collector) -> None:
    """One at each speed, of a provider without limits."""
    provider.forget()
    read: dict[int, int] = {}
    with Client[Connection]() as client:
        readers: dict[int, Slow | SlowStream] = {}
        for speed in settings.speeds:
            asked = f"id=stall-{speed} rate=0 events=0"
            if wiring.client == "h2":
                readers[speed] = SlowStream(relay.port, speed, asked)
            else:
                readers[speed] = Slow(relay.port, speed, WINDOW)
                readers[speed].send(request(asked))
            client.add(readers[speed])
        until = time.monotonic() + 2 * settings.window
        while time.monotonic() < until:
            client.run(0.05)
            for reader in readers.values():
                if isinstance(reader, SlowStream):
                    reader.go_on()
                client.watch(reader)
        accepted = {name: stream["bytes_accepted"] for name, stream in provider.streams().items()}
        for speed, reader in readers.items():
            read[speed] = reader.read if isinstance(reader, SlowStream) else reader.received
    for speed in settings.speeds:
        over = accepted[f"stall-{speed}"] - read[speed]
        collector.add(relay.name, f"reader of {speed / 1e3:g} KB/s: over-read", "KB", over / 1024)
        collector.add(
            relay.name, f"reader of {speed / 1e3:g} KB/s: got", "KB/s", read[speed] / 1e3 / (2 * settings.window)
        )
