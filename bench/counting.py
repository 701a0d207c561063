"""What counting the tokens of passing streams costs: chat streams beside the same bytes at a path that means nothing.

Both kinds of stream take turns, many times, at one relay process: what two processes differ by, from one start to the
next, is as much as what is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import events
from bench.client import request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, rotated
from bench.peers import PEERS
from bench.processes import Process, free_port, wait_until_quiet
from bench.source import command

KINDS = {"counted": request(), "unread": request(path="/v1/unknown")}


@dataclass(frozen=True, slots=True)
class Settings:
    """`load` is as in `events`, its first tick is used."""

    load: events.Settings = field(default_factory=lambda: events.Settings(rounds=15, warm_up=1, window=3))


QUICK = Settings(events.Settings(rounds=7, warm_up=1, window=2))


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver, which alone counts; the other `relays` are not asked."""
    collector = Collector()
    load = settings.load
    port = free_port()
    source = command(port, rate=load.rate, size=load.size, tick=load.ticks[0])
    if "flowserver" not in relays:
        return _result(load, collector)
    with Process(source, port, cpus=LOAD_CORES), PEERS["flowserver"].start(port) as relay:
        wait_until_quiet()
        for number in range(load.rounds):
            costs: dict[str, float] = {}
            for kind in rotated(KINDS, number):
                cost = events.h1_measure(relay, load, kind, collector, KINDS[kind])
                assert cost is not None
                costs[kind] = cost
            collector.add("flowserver", "CPU per event for counting", "us", costs["counted"] - costs["unread"])
    return _result(load, collector)


def _result(load: events.Settings, collector: Collector) -> CaseResult:
    return CaseResult(
        "counting",
        f"counting: {load.streams} streams x {load.rate:g} events/s x {load.size} B",
        {"streams": load.streams, "rate": load.rate, "size": load.size, "window": load.window},
        collector.figures(),
        (),
    )
