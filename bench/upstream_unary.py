"""CPU per small answer by what a relay speaks to the provider, with connections to it used again or made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from bench import unary
from bench.client import Client, request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector
from bench.peers import Running, Wiring, certificate, side_by_side
from bench.processes import Process, free_port
from bench.source import whole_command


@dataclass(frozen=True, slots=True)
class Settings:
    """`calls` are as in `unary`; `anew` is requests per second where each needs a connection: few enough for a
    handshake each."""

    calls: unary.Settings = field(default_factory=unary.Settings)
    anew: float = 200


QUICK = Settings(calls=unary.Settings(rounds=1, warm_up=0.3, window=1))


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each way of each of `relays` but `direct`, in turn, as often as `settings.calls` says."""
    collector = Collector()
    calls = settings.calls
    relays = [name for name in relays if name != "direct"]
    with certificate() as made:
        wirings = [
            Wiring(provider=provider, certificate=certificate, keeps=keeps)
            for provider, certificate, keeps in product(("h1", "h2"), (None, made) if made else (None,), (True, False))
        ]
        for wiring in wirings:
            tls = (wiring.certificate.file, wiring.certificate.key) if wiring.certificate is not None else None
            port = free_port()
            load = calls if wiring.keeps else replace(calls, rate=settings.anew)
            source = Process(whole_command(port, calls.size, tls), port, cpus=LOAD_CORES)
            with source, side_by_side(relays, port, wiring) as started:
                for number in range(calls.rounds):
                    for relay in started.round(number, calls.others):
                        _measure(relay, wiring, load, collector)
    return CaseResult(
        "upstream_unary",
        f"towards the provider: {calls.rate:g} whole answers/s of {calls.size} B, {settings.anew:g} of them anew",
        {"connections": calls.connections, "rate": calls.rate, "size": calls.size, "window": calls.window},
        collector.figures(),
        (
            "Anew: each request has a connection of its own; over HTTP/2 those that meet share one.",
            *(
                ()
                if made is not None
                else ("Without TLS, since openssl is not installed and there is no certificate.",)
            ),
        ),
    )


def _measure(relay: Running, wiring: Wiring, calls: unary.Settings, collector: Collector) -> None:
    shape = f", {wiring.provider}{' with TLS' if wiring.certificate is not None else ''}"
    shape += ", used again" if wiring.keeps else ", anew"
    message = request(stream=False)
    with Client[unary.Caller]() as client:
        callers = [client.add(unary.Caller(relay.port, message)) for _ in range(calls.connections)]
        unary.measure(client, callers, relay, calls, shape, collector)
