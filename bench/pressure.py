"""The incident of `incident` under a memory budget: ten times the load that fits, most of it clients that stop reading.

Clients of class batch arrive ten times as fast as they could be held; four of five stop reading, for ever or for a
while. Interactive clients would fit by themselves: paced readers, and four times as many that stop. An hour's arrivals
come in five minutes. Meanwhile: the relay's resident memory, how late the readers' events are beside those of readers
that speak to the provider directly at the same time, who is served whole, how soon batch is refused, and after the
load has gone how soon all is as before. Beside it a naive relay, nginx, and Envoy with its overload manager.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import pressure_load
from bench.background import in_background
from bench.cores import LOAD_CORES, RELAY_CORES
from bench.figures import CaseResult, Collector, Series
from bench.peers import PEERS, Running, Wiring
from bench.peers.flowserver import Flowserver
from bench.pressure_load import EVENTS, SIZE, Ask, LoadProcess, Plan, Staller, Tally, classed
from bench.pressure_provider import command, script
from bench.pressure_readers import Pace, Probes, Seen, keep_probing, keep_reading
from bench.processes import Process, free_port, python_module, wait_until_quiet
from bench.resident import Resident, resident_bytes
from bench.stats import percentile
from bench.visitors import Arrivals, Crowd, Outcome

RELAYS = ("naive", "nginx", "envoy", "flowserver")

MB = 1024**2

RECOVERED = 0.7
"""Share of the budget below which memory is normal."""

PATIENCE = 20.0
"""Seconds that are waited until all is as before, and for readers to come to their end."""

PROBES = 20
"""Batch requests a second that see how soon they are refused."""

TRIAL = 1000
"""Stalled clients by which the memory of one is measured."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`memory` bytes are the budget; a relay that has `most` is ended: out of memory. The load is `times` what fits,
    lasts for `seconds`, and stands for an hour. A client that takes nothing is cut after `stall` seconds; one that
    comes back does so after `away`. Arrivals become so many within `ramp` seconds. `direct`: streams that are read without a relay."""

    memory: int = 256 * MB
    most: int = 1024 * MB
    times: float = 10
    seconds: float = 300
    stall: float = 60
    away: float = 10
    ramp: float = 30
    returning: float = 0.2
    pace: Pace = field(default_factory=Pace)
    direct: int = 20
    warm_up: float = 3


QUICK = Settings(seconds=40, ramp=5)


@dataclass(frozen=True, slots=True)
class Fit:
    """Bytes: the relay's memory `before` any client, and what each stalled client adds. How many clients have room in
    `memory` follows."""

    before: float
    each: float
    memory: int

    @property
    def clients(self) -> int:
        return max(1, int((self.memory - self.before) / self.each))


def plan(port: int, fit: Fit, settings: Settings) -> Plan:
    """Arrivals that would keep `times` as many clients there as fit, if all were let in and none were cut before its
    time. A client that reads on counts for the time that it is away, one that reads at once for nothing."""
    held = (1 - settings.returning) * settings.stall + settings.returning * settings.away
    stalled = 0.8
    of_interactive = settings.pace.streams * stalled / (1 - stalled)
    of_batch = settings.times * fit.clients - settings.pace.streams - of_interactive
    return Plan(
        port,
        batch=max(1.0, of_batch / held / stalled),
        interactive=of_interactive / held,
        stalled=stalled,
        returning=settings.returning,
        away=settings.away,
        ramp=settings.ramp,
    )


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Plays it against those of RELAYS that are among `relays`; the naive one is always."""
    collector = Collector()
    series: list[Series] = []
    fit = what_fits(settings)
    collector.add("flowserver", "trial: memory per stalled client", "KB", fit.each / 1024)
    collector.add("flowserver", "trial: clients that fit", "", fit.clients)
    for name in RELAYS:
        if name == "naive" or name in relays:
            wait_until_quiet()
            series.append(_play(name, fit, settings, collector))
    longest = max(points.points[-1][0] for points in series)
    budget = settings.memory / MB
    series.append(Series(series[0].what, "budget", "MB", "seconds", ((0.0, budget), (longest, budget))))
    wanted = plan(0, fit, settings)
    return CaseResult(
        "pressure",
        f"{settings.times:g} x the load that fits into {budget:g} MB, 80 % of it stalled",
        {
            "memory": settings.memory,
            "seconds": settings.seconds,
            "stall": settings.stall,
            "away": settings.away,
            "readers": settings.pace.streams,
            "batch per second": wanted.batch,
            "interactive that stall per second": wanted.interactive,
        },
        collector.figures(),
        (
            f"What fits is by trial: flowserver without a budget grew by {fit.each / 1024:.1f} KB for each of {TRIAL} "
            f"stalled clients, so {fit.clients} fit. {wanted.batch:.0f} batch clients and {wanted.interactive:.0f} "
            "interactive ones that stall come a second, and interactive readers beside them.",
            f"A relay is ended when it has {settings.most / MB:g} MB: out of memory.",
            "Resident memory is the process's own; the kernel's socket buffers are not in it.",
        ),
        tuple(series),
    )


def what_fits(settings: Settings) -> Fit:
    """By trial, of flowserver without a budget."""
    port = free_port()
    peer = Flowserver(settings={"FLOW_MEMORY": "off", "FLOW_STALL_TIMEOUT": "off"})
    ask = Ask("batch", classed("batch", script(EVENTS, 0, SIZE)), 1, 0)
    with Process(command(port), port, cpus=LOAD_CORES), peer.start(port) as relay:
        assert relay.pid is not None
        with Crowd() as crowd:
            _stall(crowd, relay.port, ask, 50)
        time.sleep(0.5)
        before = resident_bytes(relay.pid)
        with Crowd() as crowd:
            _stall(crowd, relay.port, ask, TRIAL)
            each = (resident_bytes(relay.pid) - before) / TRIAL
    return Fit(before, each, settings.memory)


def _stall(crowd: Crowd, port: int, ask: Ask, clients: int) -> None:
    tally = Tally()
    arrivals = Arrivals(crowd, 500, lambda: crowd.add(Staller(ask, tally), port))
    crowd.run(60, lambda: len(crowd) >= clients)
    arrivals.is_stopped = True
    crowd.run(1.5)


@contextmanager
def start(name: str, upstream: int, wiring: Wiring) -> Iterator[Running]:
    """One of RELAYS."""
    if name in PEERS:
        with PEERS[name].start(upstream, wiring) as relay:
            yield relay
        return
    port = free_port()
    naive = python_module("bench.incident_relays", name, "--port", str(port), "--upstream", str(upstream))
    with Process(naive, port, cpus=RELAY_CORES) as process:
        yield Running(name, port, process.pid)


@dataclass(slots=True)
class Scene:
    """One relay's turn."""

    relay: Running
    settings: Settings
    resident: Resident
    crowd: Crowd
    seen: Seen = field(default_factory=Seen)
    direct: Seen = field(default_factory=Seen)
    probes: Probes = field(default_factory=Probes)


def _play(name: str, fit: Fit, settings: Settings, collector: Collector) -> Series:
    port = free_port()
    wiring = Wiring(stall=settings.stall, memory=settings.memory)
    with Process(command(port), port, cpus=LOAD_CORES), start(name, port, wiring) as relay, Crowd() as crowd:
        assert relay.pid is not None
        scene = Scene(relay, settings, Resident(relay.pid, settings.most), crowd)
        gc.disable()
        with in_background(scene.resident.run):
            arrivals = _readers(scene, port)
            crowd.run(settings.warm_up)
            scene.seen.times.clear()
            scene.direct.times.clear()
            with pressure_load.start(plan(relay.port, fit, settings)) as load:
                probing = keep_probing(crowd, relay.port, PROBES, scene.probes)
                crowd.run(settings.seconds, lambda: scene.resident.is_over)
                times = Seen(times=list(scene.seen.times)), Seen(times=list(scene.direct.times))
                refused = list(scene.probes.refused)
                normal = _recover(scene, load)
                summary = load.summary()
            for arriving in (*arrivals, probing):
                arriving.is_stopped = True
            if not scene.resident.is_over:
                crowd.run(PATIENCE, lambda: not len(crowd))
            crowd.leave()
        gc.enable()
    _collect_memory(scene, collector)
    _collect_readers(scene, times, collector)
    _collect_batch(name, scene.probes, refused, summary, collector)
    for what, seconds in normal.items():
        collector.add(name, what, "s", seconds)
    return Series("resident memory", name, "MB", "seconds", tuple(scene.resident.points))


def _readers(scene: Scene, upstream: int) -> list[Arrivals]:
    """Those who read through the relay, and those who read directly."""
    pace, settings = scene.settings.pace, scene.settings
    beside = Pace(settings.direct, pace.events, pace.interval, pace.size)
    return [
        keep_reading(scene.crowd, scene.relay.port, pace, scene.seen),
        keep_reading(scene.crowd, upstream, beside, scene.direct),
    ]


def _recover(scene: Scene, load: LoadProcess) -> dict[str, float]:
    """The load leaves. Returns the seconds from then on until there was enough memory and batch was served again;
    PATIENCE where it did not come to that."""
    gone: list[float] = []
    light: list[float] = []

    def watch(stop: threading.Event) -> None:
        load.leave()
        scene.probes.accepted_at = None
        gone.append(time.monotonic())
        assert scene.relay.pid is not None
        while not stop.wait(0.01):
            if resident_bytes(scene.relay.pid) < RECOVERED * scene.settings.memory:
                light.append(time.monotonic())
                return

    with in_background(watch):
        scene.crowd.run(PATIENCE, lambda: bool(light) and scene.probes.accepted_at is not None)
    accepted = scene.probes.accepted_at
    by_memory = light[0] - gone[0] if light else PATIENCE
    by_batch = accepted - gone[0] if accepted is not None else PATIENCE
    return {
        "after the load: memory below 70 % of the budget": by_memory,
        "after the load: batch served again": by_batch,
        "after the load: back to normal": max(by_memory, by_batch),
    }


def _collect_memory(scene: Scene, collector: Collector) -> None:
    name, peak = scene.relay.name, scene.resident.peak()
    collector.add(name, "resident memory, peak", "MB", peak / MB)
    collector.add(name, "resident memory, peak, of the budget", "%", 100 * peak / scene.settings.memory)
    ended = scene.resident.points[-1][0] if scene.resident.is_over else 0
    collector.add(name, "out of memory after", "s", ended)


def _collect_readers(scene: Scene, times: tuple[Seen, Seen], collector: Collector) -> None:
    """`times`: what readers saw while the load was there, through the relay and directly."""
    name = scene.relay.name
    through, direct = (percentile(seen.times, 99) / 1e6 if seen.times else float("nan") for seen in times)
    collector.add(name, "healthy streams: time of an event, p99", "ms", through)
    collector.add(name, "healthy streams: the same directly, at the same time", "ms", direct)
    collector.add(name, "healthy streams: beyond direct, p99", "ms", through - direct)
    collector.add(name, "interactive requests not served whole", "%", scene.seen.missed)
    for outcome in (Outcome.REFUSED, Outcome.CUT, Outcome.FAILED, Outcome.LEFT):
        collector.add(name, f"interactive requests {outcome}", "", scene.seen.outcomes[outcome])
    collector.add(name, "interactive requests", "", scene.seen.outcomes.total())
    collector.add(name, "requests not served whole directly", "%", scene.direct.missed)


def _collect_batch(
    name: str, probes: Probes, refused: Sequence[float], summary: dict[str, Any], collector: Collector
) -> None:
    """`refused`: seconds that it took to refuse the probes that were refused while the load was there."""
    if refused:
        collector.add(name, "batch refused after, p50", "ms", 1e3 * percentile(refused, 50))
        collector.add(name, "batch refused after, p99", "ms", 1e3 * percentile(refused, 99))
        collector.add(name, "batch refused after, longest", "ms", 1e3 * max(refused))
    collector.add(name, "batch probes refused, of all", "%", 100 * len(refused) / max(1, probes.outcomes.total()))
    outcomes: dict[str, int] = summary["outcomes"]
    for what, number in sorted(outcomes.items()):
        collector.add(name, f"load: {what}", "", number)
    collector.add(name, "load: arrivals", "", summary["arrived"])
    collector.add(name, "load: clients at a time, most", "", summary["most"])
    collector.add(name, "load: an arrival was late by, most", "s", summary["late"])
