"""What the water marks do: each setting of the flow on its own, the others at their defaults.

For each: bytes that the relay pulls beyond what a stalled client reads, the jitter that this absorbs, throughput when
the client reads on, and CPU per event of paced streams. `direct` has the kernel's own share, at both ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median

from bench import events, stall
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, Figure
from bench.peers import PEERS
from bench.processes import Process, free_port, wait_until_quiet
from bench.provider import simulator
from bench.source import command

DEFAULTS: Mapping[str, str] = {}

VARIANTS: tuple[Mapping[str, str], ...] = (
    DEFAULTS,
    {"FLOW_HIGH_WATER": "4k", "FLOW_LOW_WATER": "2k"},
    {"FLOW_HIGH_WATER": "64k"},
    {"FLOW_HIGH_WATER": "256k", "FLOW_PREFETCH_CHUNKS": "256"},
    {"FLOW_PREFETCH_CHUNKS": "2"},
    {"FLOW_UPSTREAM_RCVBUF": "16k"},
    {"FLOW_UPSTREAM_RCVBUF": "0"},
    {"FLOW_NOTSENT_LOWAT": "4k"},
    {"FLOW_NOTSENT_LOWAT": "0"},
)

RATE = 50 * 250
"""Bytes per second of a stream that is paced as in `events`: what jitter is told for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`stalled` and `paced` are as in `stall` and `events`."""

    variants: tuple[Mapping[str, str], ...] = VARIANTS
    stalled: stall.Settings = field(default_factory=lambda: stall.Settings(clients=20, events=8000))
    paced: events.Settings = field(default_factory=lambda: events.Settings(warm_up=0.8, window=1.5))
    rounds: int = 1


QUICK = Settings(
    variants=(DEFAULTS, {"FLOW_HIGH_WATER": "64k"}),
    stalled=stall.Settings(clients=10, events=8000),
    paced=events.Settings(warm_up=0.8, window=1),
)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver; the other `relays` are not asked."""
    collector = Collector()
    port = free_port()
    paced = command(port, rate=settings.paced.rate, size=settings.paced.size)
    with Process(paced, port, cpus=LOAD_CORES), simulator() as provider:
        for _ in range(settings.rounds):
            wait_until_quiet()
            with PEERS["direct"].start(provider.port) as none:
                stall.stall_and_resume(none, provider, settings.stalled, collector)
            for variant in settings.variants:
                with _environment(variant):
                    with PEERS["flowserver"].start(provider.port) as relay:
                        stall.stall_and_resume(
                            replace(relay, name=_name(variant)), provider, settings.stalled, collector
                        )
                    with PEERS["flowserver"].start(port) as relay:
                        events.h1_measure(replace(relay, name=_name(variant)), settings.paced, "evenly", collector)
    figures = collector.figures()
    return CaseResult(
        "sweep",
        f"water marks: {settings.stalled.clients} stalled clients; {settings.paced.streams} paced streams",
        {"clients": settings.stalled.clients, "streams": settings.paced.streams, "rate": settings.paced.rate},
        (*_kept(figures), *_derived(figures)),
        ("Jitter absorbed: how long a client may pause unnoticed by a provider of 50 events of 250 B a second.",),
    )


@contextmanager
def _environment(variant: Mapping[str, str]) -> Iterator[None]:
    """`variant` over the defaults, for the relays that are started within."""
    before = dict(os.environ)
    os.environ.update(variant)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _name(variant: Mapping[str, str]) -> str:
    return " ".join(f"{name.removeprefix('FLOW_')}={value}" for name, value in variant.items()) or "defaults"


def _kept(figures: Sequence[Figure]) -> list[Figure]:
    wanted = ("over-read per stream, largest", "throughput after it", "CPU per event, evenly")
    return [figure for what in wanted for figure in figures if figure.what == what]


def _derived(figures: Sequence[Figure]) -> list[Figure]:
    """What the relay holds beyond the kernels of both ends, in bytes and as time."""
    over = {figure.relay: figure for figure in figures if figure.what == "over-read per stream, median"}
    none = median(over["direct"].values)
    held = {name: tuple(value - none for value in figure.values) for name, figure in over.items() if name != "direct"}
    return [
        *(Figure("over-read beyond direct, median", name, "KB", values) for name, values in held.items()),
        *(
            Figure("jitter absorbed", name, "ms", tuple(1e3 * max(0.0, value) * 1024 / RATE for value in values))
            for name, values in held.items()
        ),
    ]
