"""The incident of `incident` under a memory budget: ten times the load that fits, most of it clients that stop reading.

Clients of class batch arrive ten times as fast as they could be held; four of five stop reading, for ever or for a
while. Interactive clients would fit by themselves: paced readers, and four times as many that stop. An hour's arrivals
come in five minutes. Meanwhile: the relay's resident memory, how late the readers' events are beside those of readers
that speak to the provider directly at the same time, who is served whole, how soon batch is refused, and after the
load has gone how soon all is as before. Beside it a naive relay, nginx, and Envoy with its overload manager.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import pressure_load
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, Series
from bench.peers import Wiring
from bench.peers.flowserver import Flowserver
from bench.pressure_load import EVENTS, READ_BEFORE_STALL, SIZE, Ask, Plan, Staller, Tally, classed
from bench.pressure_provider import command, script
from bench.pressure_stage import (
    MB,
    Honest,
    collect_memory,
    collect_probes,
    collect_readers,
    of_outcome,
    recover,
    stage,
    told,
    with_budget,
)
from bench.processes import Process, free_port, wait_until_quiet
from bench.resident import kernel_bytes, resident_bytes
from bench.visitors import Arrivals, Crowd, Outcome

RELAYS = ("naive", "nginx", "envoy", "flowserver")

STALLED = 0.8
"""Share of the clients that stop reading."""

TRIAL = 1000
"""Stalled clients by which the memory of one is measured."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`memory` bytes are the budget; a relay that has `most` is ended: out of memory. The load is `times` what fits,
    comes to that within `ramp`, lasts for `seconds`, and stands for an hour. A client that takes nothing is cut after
    `stall` seconds; the share `returning` comes back after `away`."""

    memory: int = 256 * MB
    most: int = 1024 * MB
    times: float = 10
    seconds: float = 300
    ramp: float = 30
    stall: float = 60
    away: float = 10
    returning: float = 0.2
    honest: Honest = field(default_factory=Honest)


QUICK = Settings(seconds=40, ramp=5)


@dataclass(frozen=True, slots=True)
class Fit:
    """Bytes: the relay's memory `before` any client, what each stalled client adds, and what its two sockets take
    `in_kernel`. How many clients have room in `memory` follows: a budget is for both, as a cgroup's is."""

    before: float
    each: float
    in_kernel: float
    memory: int

    @property
    def clients(self) -> int:
        return max(1, int((self.memory - self.before) / (self.each + self.in_kernel)))


def plan(port: int, fit: Fit, settings: Settings) -> Plan:
    """Arrivals that would keep `times` as many clients there as fit, if all were let in and none were cut before its
    time. A client that reads on counts for the time that it is away, one that reads at once for nothing."""
    held = (1 - settings.returning) * settings.stall + settings.returning * settings.away
    readers = settings.honest.pace.streams
    of_interactive = readers * STALLED / (1 - STALLED)
    of_batch = settings.times * fit.clients - readers - of_interactive
    return Plan(
        port,
        batch=max(1.0, of_batch / held / STALLED),
        interactive=of_interactive / held,
        stalled=STALLED,
        returning=settings.returning,
        away=settings.away,
        ramp=settings.ramp,
    )


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Plays it against those of RELAYS that are among `relays`; the naive one is always."""
    collector = Collector()
    series: list[Series] = []
    notes: list[str] = []
    fit = what_fits(settings)
    collector.add("flowserver", "trial: memory per stalled client", "KB", fit.each / 1024)
    collector.add("flowserver", "trial: the kernel's memory per stalled client", "KB", fit.in_kernel / 1024)
    collector.add("flowserver", "trial: clients that fit", "", fit.clients)
    for name in RELAYS:
        if name == "naive" or name in relays:
            wait_until_quiet()
            points, note = _play(name, fit, settings, collector)
            series.append(points)
            notes.append(note)
    wanted = plan(0, fit, settings)
    return CaseResult(
        "pressure",
        f"{settings.times:g} x the load that fits into {settings.memory / MB:g} MB, 80 % of it stalled",
        {
            "memory": settings.memory,
            "seconds": settings.seconds,
            "stall": settings.stall,
            "away": settings.away,
            "readers": settings.honest.pace.streams,
            "batch per second": wanted.batch,
            "interactive that stall per second": wanted.interactive,
        },
        collector.figures(),
        (
            f"What fits is by trial: flowserver without a budget grew by {fit.each / 1024:.1f} KB for each of {TRIAL} "
            f"stalled clients, and its sockets by {fit.in_kernel / 1024:.1f} KB, so {fit.clients} fit.",
            f"{wanted.batch:.0f} batch clients and {wanted.interactive:.0f} interactive ones that stall come a second, "
            "and interactive readers beside them.",
            f"A relay is ended when it has {settings.most / MB:g} MB: out of memory.",
            "Resident memory is the process's own; the kernel's socket buffers are not in it.",
            *notes,
        ),
        with_budget(series, settings.memory),
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
            in_kernel = kernel_bytes(relay.port, port) / TRIAL
    return Fit(before, each, in_kernel, settings.memory)


def _stall(crowd: Crowd, port: int, ask: Ask, clients: int) -> None:
    """So many come, and stop. Raises RuntimeError if they do not within a minute."""
    tally = Tally()
    coming = [Staller(ask, tally) for _ in range(clients)]
    waiting = list(coming)

    def come() -> None:
        if waiting:
            crowd.add(waiting.pop(), port)

    arrivals = Arrivals(crowd, 300, come)
    crowd.run(60, lambda: not waiting)
    arrivals.is_stopped = True
    if not crowd.run(60, lambda: all(guest.received >= READ_BEFORE_STALL for guest in coming)):
        raise RuntimeError(f"not all of {clients} clients got the beginning of their answer: {tally.outcomes}")
    crowd.run(1)


def _play(name: str, fit: Fit, settings: Settings, collector: Collector) -> tuple[Series, str]:
    with stage(name, Wiring(stall=settings.stall, memory=settings.memory), settings.most) as scene:
        scene.begin(settings.honest)
        with pressure_load.start(plan(scene.relay.port, fit, settings)) as load:
            scene.play(settings.seconds)
            normal = recover(scene, load)
            summary = load.summary()
        scene.end()
        series = collect_memory(scene, collector)
    collect_readers(scene, collector)
    collect_probes(scene, collector)
    for outcome in (Outcome.WHOLE, Outcome.REFUSED, Outcome.CUT, Outcome.FAILED, Outcome.UNANSWERED):
        collector.add(name, f"load: clients {outcome}", "", of_outcome(summary["outcomes"], outcome))
    collector.add(name, "load: clients that came", "", summary["arrived"])
    collector.add(name, "load: clients that there was no room for in the bench", "", summary["too_many"])
    collector.add(name, "load: clients at a time, most", "", summary["most"])
    collector.add(name, "load: a client came too late by, most", "s", summary["late"])
    for what, seconds in normal.items():
        collector.add(name, f"after the load: {what}", "s", seconds)
    return series, told(name, summary["outcomes"])
