"""What `pressure` and `hostile` share: a relay with a memory budget, a crowd, honest readers, and what they see."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

from bench.background import in_background
from bench.cores import LOAD_CORES, RELAY_CORES
from bench.figures import Collector, Series
from bench.peers import PEERS, Running, Wiring
from bench.pressure_load import LoadProcess
from bench.pressure_provider import command
from bench.pressure_readers import Pace, Probes, Seen, keep_probing, keep_reading
from bench.processes import Process, free_port, python_module
from bench.resident import Resident, resident_bytes
from bench.stats import percentile
from bench.visitors import Arrivals, Crowd, Outcome

MB = 1024**2

RECOVERED = 0.7
"""Share of the budget below which memory is normal."""

PATIENCE = 20.0
"""Seconds that are waited until all is as before, and for readers to come to their end."""

PROBES = 20
"""Batch requests a second that see how soon they are refused."""

LOOK = 0.02
"""Seconds between two looks at a relay that recovers."""

LEVEL, COUNTED, CUTS = "flow_memory_level", "flow_memory_counted_bytes", "flow_memory_cuts_total"

MISSED = tuple(outcome for outcome in Outcome if outcome is not Outcome.WHOLE)

_FIGURE = re.compile(rb"^(flow_\w+)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Honest:
    """Who is there beside the crowd: readers at a `pace`, of whom so many are `direct`, without a relay. They are alone
    for `warm_up` seconds."""

    pace: Pace = field(default_factory=Pace)
    direct: int = 20
    warm_up: float = 3


@dataclass(slots=True)
class Scene:
    """One relay's turn: its `memory` in bytes, and what the honest see."""

    relay: Running
    memory: int
    resident: Resident
    crowd: Crowd
    port: int
    """The provider's."""
    seen: Seen = field(default_factory=Seen)
    direct: Seen = field(default_factory=Seen)
    probes: Probes = field(default_factory=Probes)
    arrivals: list[Arrivals] = field(default_factory=list)
    times: tuple[list[int], list[int]] = ([], [])
    """Nanoseconds that events took while the load was there, through the relay and directly."""
    refused: list[float] = field(default_factory=list)
    """Seconds that it took to refuse a probe while the load was there."""
    figures: dict[str, float] = field(default_factory=dict)
    """The relay's own at the end of the load, see `figures`."""

    def begin(self, honest: Honest) -> None:
        """Readers and probes come."""
        pace = honest.pace
        beside = Pace(honest.direct, pace.events, pace.interval, pace.size)
        self.arrivals = [
            keep_reading(self.crowd, self.relay.port, pace, self.seen),
            keep_reading(self.crowd, self.port, beside, self.direct),
            keep_probing(self.crowd, self.relay.port, PROBES, self.probes),
        ]
        self.crowd.run(honest.warm_up)

    def play(self, seconds: float) -> None:
        """The load is there; what was seen before it does not count."""
        for forgotten in (self.seen.times, self.direct.times, self.probes.refused):
            forgotten.clear()
        self.crowd.run(seconds, lambda: self.resident.is_over)
        self.times = list(self.seen.times), list(self.direct.times)
        self.refused = list(self.probes.refused)
        self.figures = figures(self.relay)

    def end(self) -> None:
        """Nobody comes any more; who is there may stay to the end."""
        for arriving in self.arrivals:
            arriving.is_stopped = True
        if not self.resident.is_over:
            self.crowd.run(PATIENCE, lambda: not len(self.crowd))
        self.crowd.leave()


@contextmanager
def stage(name: str, wiring: Wiring, most: int) -> Iterator[Scene]:
    """A provider, a relay, and a look at its memory. A relay that has `most` bytes is over."""
    assert wiring.memory is not None
    port = free_port()
    with Process(command(port), port, cpus=LOAD_CORES), start(name, port, wiring) as relay, Crowd() as crowd:
        assert relay.pid is not None
        scene = Scene(relay, wiring.memory, Resident(relay.pid, most), crowd, port)
        gc.disable()
        with in_background(scene.resident.run):
            yield scene
        gc.enable()


@contextmanager
def start(name: str, upstream: int, wiring: Wiring) -> Iterator[Running]:
    """A peer, or one of `incident_relays`."""
    if name in PEERS:
        with PEERS[name].start(upstream, wiring) as relay:
            yield relay
        return
    port = free_port()
    relay_command = python_module("bench.incident_relays", name, "--port", str(port), "--upstream", str(upstream))
    with Process(relay_command, port, cpus=RELAY_CORES) as process:
        yield Running(name, port, process.pid)


def recover(scene: Scene, load: LoadProcess) -> dict[str, float]:
    """The load leaves. Returns by what, and how many seconds from then on until it was so; PATIENCE where it did not
    come to that. Honest clients go on."""
    gone: list[float] = []
    since: dict[str, float] = {}
    wanted: dict[str, Callable[[], bool]] = {"memory below 70 % of the budget": lambda: _is_light(scene)}
    if scene.relay.admin is not None:
        wanted["memory level is normal"] = lambda: figures(scene.relay).get(LEVEL, 0) == 0

    def watch(stop: threading.Event) -> None:
        load.leave()
        scene.probes.accepted_at = None
        gone.append(time.monotonic())
        while not stop.wait(LOOK) and len(since) < len(wanted):
            now = time.monotonic()
            since.update({what: now - gone[0] for what, holds in wanted.items() if what not in since and holds()})

    with in_background(watch):
        scene.crowd.run(PATIENCE, lambda: len(since) == len(wanted) and scene.probes.accepted_at is not None)
    accepted = scene.probes.accepted_at
    found = {what: since.get(what, PATIENCE) for what in wanted}
    found["batch is served again"] = accepted - gone[0] if accepted is not None and gone else PATIENCE
    found["back to normal"] = max(found.values())
    return found


def _is_light(scene: Scene) -> bool:
    assert scene.relay.pid is not None
    return resident_bytes(scene.relay.pid) < RECOVERED * scene.memory


def figures(relay: Running) -> dict[str, float]:
    """flowserver's own metrics, those of a name added up. {} of another relay, or where it does not answer."""
    if relay.admin is None:
        return {}
    connection = HTTPConnection("127.0.0.1", relay.admin, timeout=2)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read()
    except (OSError, HTTPException):
        return {}
    finally:
        connection.close()
    return added_up(text)


def added_up(text: bytes) -> dict[str, float]:
    """Name of a metric -> the sum over its labels."""
    total: dict[str, float] = {}
    for name, value in _FIGURE.findall(text):
        total[name.decode()] = total.get(name.decode(), 0.0) + float(value)
    return total


def collect_memory(scene: Scene, collector: Collector) -> Series:
    """Its curve, too."""
    name, peak = scene.relay.name, scene.resident.peak()
    collector.add(name, "resident memory, peak", "MB", peak / MB)
    collector.add(name, "resident memory, peak, of the budget", "%", 100 * peak / scene.memory)
    ended = scene.resident.points[-1][0] if scene.resident.is_over else 0
    collector.add(name, "out of memory after", "s", ended)
    if LEVEL in scene.figures:
        collector.add(name, "at the end of the load: memory level", "", scene.figures[LEVEL])
        collector.add(name, "at the end of the load: memory counted", "MB", scene.figures[COUNTED] / MB)
        collector.add(name, "at the end of the load: streams open", "", scene.figures["flow_streams_open"])
        collector.add(name, "streams cut for memory", "", scene.figures[CUTS])
    return Series("resident memory", name, "MB", "seconds", tuple(scene.resident.points))


def with_budget(series: Sequence[Series], memory: int) -> tuple[Series, ...]:
    """A line for the budget beside the curves."""
    longest = max(curve.points[-1][0] for curve in series)
    budget = Series(series[0].what, "budget", "MB", "seconds", ((0.0, memory / MB), (longest, memory / MB)))
    return (*series, budget)


def collect_readers(scene: Scene, collector: Collector) -> None:
    """Those who read paced streams."""
    name = scene.relay.name
    through, direct = (percentile(times, 99) / 1e6 if times else float("nan") for times in scene.times)
    collector.add(name, "healthy streams: time of an event, p99", "ms", through)
    collector.add(name, "healthy streams: the same directly, at the same time", "ms", direct)
    collector.add(name, "healthy streams: beyond direct, p99", "ms", through - direct)
    collector.add(name, "interactive requests", "", scene.seen.outcomes.total())
    collector.add(name, "interactive requests not served whole", "%", scene.seen.missed)
    for outcome in MISSED:
        collector.add(name, f"interactive requests {outcome}", "", scene.seen.outcomes[outcome])
    broken = scene.direct.outcomes.total() - scene.direct.outcomes[Outcome.WHOLE] - scene.direct.outcomes[Outcome.LEFT]
    collector.add(name, "requests broken directly", "", broken)


def collect_probes(scene: Scene, collector: Collector) -> None:
    """How soon batch was refused."""
    name = scene.relay.name
    if scene.refused:
        collector.add(name, "batch refused after, p50", "ms", 1e3 * percentile(scene.refused, 50))
        collector.add(name, "batch refused after, p99", "ms", 1e3 * percentile(scene.refused, 99))
        collector.add(name, "batch refused after, longest", "ms", 1e3 * max(scene.refused))


def of_outcome(outcomes: Mapping[str, int], outcome: Outcome) -> int:
    """How many of a load's clients ended so, of all classes and kinds."""
    return sum(number for what, number in outcomes.items() if f" {outcome}" in what)


def told(name: str, outcomes: Mapping[str, int]) -> str:
    """A note of all of them."""
    return f"The load at {name}: {', '.join(f'{what} {number}' for what, number in sorted(outcomes.items()))}."
