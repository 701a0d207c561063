"""What a relay speaks to the provider, and what that costs per event: TLS or not, HTTP/1.1 or HTTP/2.

Over HTTP/1.1 each stream has a connection to the provider, over HTTP/2 all share one; the certificate is verified. Each
way has a provider and relays of its own, which run side by side and take turns within a round, so that each way can be
held against plain HTTP/1.1 on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench import events, h2_events
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector
from bench.peers import Certificate, Running, SideBySide, Wiring, certificate, side_by_side
from bench.processes import Process, free_port
from bench.source import command

CONNECTIONS = 5
"""Of HTTP/2 clients."""

WAYS = ("h1 -> h1", "h1 -> h1 with TLS", "h1 -> h2", "h1 -> h2 with TLS", "h2 -> h2", "h2 -> h2 with TLS")
"""What clients speak -> what the provider does, whether over TLS. The first is what others are held against."""

SHORT = ("h1 -> h1", "h1 -> h1 with TLS", "h1 -> h2", "h2 -> h2")


@dataclass(frozen=True, slots=True)
class Settings:
    """`ways` are of WAYS, the first one first; `load` is as in `events`."""

    ways: tuple[str, ...] = WAYS
    load: events.Settings = field(default_factory=lambda: events.Settings(window=6))


QUICK = Settings(ways=SHORT, load=events.Settings(rounds=1, warm_up=1, window=2))


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each way of each of `relays` but `direct`, in turn, as often as `settings.load` says."""
    collector = Collector()
    load = settings.load
    relays = [name for name in relays if name != "direct"]
    with certificate() as made, ExitStack() as stack:
        ways = {way: wiring for way in settings.ways if (wiring := wiring_of(way, made)) is not None}
        started = {way: stack.enter_context(_started(relays, wiring, load)) for way, wiring in ways.items()}
        for number in range(load.rounds):
            plain: dict[str, float] = {}
            for way, wiring in ways.items():
                for relay in started[way].round(number, load.others):
                    cost = _measure(relay, way, wiring, load, collector)
                    first = plain.setdefault(relay.name, cost)
                    if first is not cost:
                        what = f"CPU per event, {way}, to that of {settings.ways[0]}"
                        collector.add(relay.name, what, "x", cost / first)
    return CaseResult(
        "upstream",
        f"towards the provider: {load.streams} streams x {load.rate:g} events/s x {load.size} B",
        {"streams": load.streams, "rate": load.rate, "size": load.size, "window": load.window},
        collector.figures(),
        () if made is not None else ("Without TLS, since openssl is not installed and there is no certificate.",),
    )


def wiring_of(way: str, made: Certificate | None) -> Wiring | None:
    """Of a way in words, as WAYS has them; None where it needs a certificate that could not be made."""
    client, provider, *tls = way.replace("->", "").split()
    if tls and made is None:
        return None
    streams = 1000 if client == "h2" else None
    return Wiring(client=client, provider=provider, certificate=made if tls else None, streams=streams)


@contextmanager
def _started(relays: Sequence[str], wiring: Wiring, load: events.Settings) -> Iterator[SideBySide]:
    """A provider of `wiring` and the relays in front of it."""
    port = free_port()
    tls = (wiring.certificate.file, wiring.certificate.key) if wiring.certificate is not None else None
    source = command(port, rate=load.rate, size=load.size, tls=tls)
    with Process(source, port, cpus=LOAD_CORES), side_by_side(relays, port, wiring) as started:
        yield started


def _measure(relay: Running, way: str, wiring: Wiring, load: events.Settings, collector: Collector) -> float:
    if wiring.client == "h1":
        cost = events.h1_measure(relay, load, way, collector)
    else:
        same = h2_events.Settings(
            streams=load.streams, rate=load.rate, size=load.size, warm_up=load.warm_up, window=load.window
        )
        cost = h2_events.h2_measure(relay, same, way, CONNECTIONS, collector)
    assert cost is not None
    return cost
