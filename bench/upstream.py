"""What a relay speaks to the provider, and what that costs per event: TLS or not, HTTP/1.1 or HTTP/2.

Over HTTP/1.1 each stream has a connection to the provider, over HTTP/2 all share one; the certificate is verified. The
ways take turns within a round, so that each can be held against plain HTTP/1.1 on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import events, h2_events
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector
from bench.peers import PEERS, Certificate, Wiring, certificate, in_round, those_that
from bench.processes import Process, free_port, wait_until_quiet
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
    with certificate() as made:
        ways = {way: wiring for way in settings.ways if (wiring := wiring_of(way, made)) is not None}
        for number in range(load.rounds):
            plain: dict[str, float] = {}
            for way, wiring in ways.items():
                for name in in_round(those_that(relays, wiring), number, load.others):
                    if name == "direct":
                        continue
                    cost = _measure(name, way, wiring, load, collector)
                    first = plain.setdefault(name, cost)
                    if first is not cost:
                        collector.add(name, f"CPU per event, {way}, to that of {settings.ways[0]}", "x", cost / first)
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


def _measure(name: str, way: str, wiring: Wiring, load: events.Settings, collector: Collector) -> float:
    port = free_port()
    tls = (wiring.certificate.file, wiring.certificate.key) if wiring.certificate is not None else None
    source = command(port, rate=load.rate, size=load.size, tls=tls)
    with Process(source, port, cpus=LOAD_CORES):
        wait_until_quiet()
        with PEERS[name].start(port, wiring) as relay:
            if wiring.client == "h1":
                cost = events.h1_measure(relay, load, way, collector)
            else:
                same = h2_events.Settings(
                    streams=load.streams, rate=load.rate, size=load.size, warm_up=load.warm_up, window=load.window
                )
                cost = h2_events.h2_measure(relay, same, way, CONNECTIONS, collector)
    assert cost is not None
    return cost
