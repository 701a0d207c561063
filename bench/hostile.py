"""Hostile clients under a memory budget: large bodies at every pace, uploads without an end, idle HTTP/2 connections.

1,000 requests with bodies of 32 MB are there at any time: a third is sent as fast as it is taken, a third drips, a
third stops in the middle. Who is refused comes again. Meanwhile: the relay's resident memory, and what honest clients
get, who read paced streams or send prompts of an honest size; afterwards whether anything is left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bench import hostile_load
from bench.figures import CaseResult, Collector, Series
from bench.hostile_load import Plan
from bench.peers import Wiring
from bench.pressure_readers import Pace, Seen, keep_sending
from bench.pressure_stage import (
    MB,
    Honest,
    Scene,
    collect_memory,
    collect_readers,
    figures,
    recover,
    stage,
    told,
    with_budget,
)
from bench.processes import process_tree, wait_until_quiet

RELAYS = ("envoy", "flowserver")
"""Those that speak HTTP/1.1 and HTTP/2 on one plain port."""

LATER = 2.0
"""Seconds after everybody has left until what is left is counted."""


LEFT_CONNECTIONS = f"{LATER:g} s after all have left: client connections"


@dataclass(frozen=True, slots=True)
class Settings:
    """The crowd of `plan` is there for `seconds`. `prompts` honest requests a second have bodies of `prompt` bytes."""

    memory: int = 256 * MB
    most: int = 2048 * MB
    seconds: float = 60
    plan: Plan = field(default_factory=lambda: Plan(0))
    honest: Honest = field(default_factory=lambda: Honest(Pace(streams=100)))
    prompts: float = 5
    prompt: int = 200_000


QUICK = Settings(seconds=15, plan=Plan(0, ramp=5))


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Plays it against those of RELAYS that are among `relays`."""
    collector = Collector()
    series: list[Series] = []
    notes: list[str] = []
    for name in RELAYS:
        if name in relays:
            wait_until_quiet()
            curve, note = _play(name, settings, collector)
            series.append(curve)
            notes.append(note)
    plan = settings.plan
    return CaseResult(
        "hostile",
        f"{plan.uploads} hostile requests of {plan.size / 1e6:g} MB, {plan.endless} without an end, {plan.idle} idle "
        f"HTTP/2 connections, with {settings.memory / MB:g} MB",
        {
            "memory": settings.memory,
            "seconds": settings.seconds,
            "uploads": plan.uploads,
            "size": plan.size,
            "endless": plan.endless,
            "idle": plan.idle,
            "prompts": settings.prompts,
            "prompt": settings.prompt,
        },
        collector.figures(),
        ("Resident memory is the process's own; the kernel's socket buffers are not in it.", *notes),
        with_budget(series, settings.memory) if series else (),
    )


def _play(name: str, settings: Settings, collector: Collector) -> tuple[Series, str]:
    prompts = Seen()
    with stage(name, Wiring(memory=settings.memory, uploads=True), settings.most) as scene:
        before = _files(scene)
        scene.begin(settings.honest)
        scene.arrivals.append(keep_sending(scene.crowd, scene.relay.port, settings.prompts, settings.prompt, prompts))
        with hostile_load.start(replace(settings.plan, port=scene.relay.port)) as load:
            scene.play(settings.seconds)
            normal = recover(scene, load)
            summary = load.summary()
        scene.end()
        time.sleep(LATER)
        left = figures(scene.relay)
        files = _files(scene) - before
        series = collect_memory(scene, collector)
    collect_readers(scene, collector)
    collector.add(name, f"honest prompts of {settings.prompt / 1e3:g} KB", "", prompts.outcomes.total())
    collector.add(name, f"honest prompts of {settings.prompt / 1e3:g} KB not served whole", "%", prompts.missed)
    collector.add(name, "taken from hostile clients", "MB/s", summary["sent"] / 1e6 / settings.seconds)
    for what, moment in normal.items():
        if what.startswith("memory"):
            collector.add(name, f"after the load: {what}", "s", moment)
    collector.add(name, f"{LATER:g} s after all have left: files open beyond those before", "", files)
    if left:
        collector.add(name, LEFT_CONNECTIONS, "", left["flow_connections_open"])
        collector.add(name, f"{LATER:g} s after all have left: streams", "", left["flow_streams_open"])
    return series, told(name, summary["outcomes"])


def _files(scene: Scene) -> int:
    """Descriptors that the relay has open."""
    assert scene.relay.pid is not None
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in process_tree(scene.relay.pid))
