"""The suite: what `python -m bench` runs when no case is named, with settings that fit some 16 minutes, or two with
--quick. A case that is named runs alone, with its own and longer settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import (
    events,
    h2_events,
    h2_memory,
    h2_unary,
    incident,
    memory,
    protocols,
    scale,
    stall,
    sweep,
    unary,
    upstream,
    wan,
)
from bench.figures import CaseResult
from bench.wan import custody, outages, stalls, streams

EDGE = ("flowserver", "nginx", "direct")
"""For what takes long and says little of more relays."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`run` takes the relays' names; `relays` are the ones it is for, None: all. `seconds` is about what it takes."""

    name: str
    run: Callable[[Sequence[str]], CaseResult]
    seconds: int
    relays: tuple[str, ...] | None = None

    def run_with(self, relays: Sequence[str]) -> CaseResult:
        return self.run([name for name in relays if self.relays is None or name in (*self.relays, "other")])


_PACED = events.Settings(ticks=(0,), rounds=11, others=2, warm_up=0.8, window=1.2)
_H2_PACED = h2_events.Settings(shapes=((5, 0),), rounds=11, others=2, warm_up=0.8, window=1.2)
_TLS = upstream.Settings(ways=("h1 -> h1 with TLS",), load=_PACED)
_CALLS = unary.Settings(rounds=7, others=2, warm_up=0.5, window=1)
_STALLED = stall.Settings(clients=30, events=10_000, crowd=500, window=2, rounds=1)
_H2_HELD = h2_memory.Settings(shapes=(5,), rest=2, rounds=1)
_FAR = wan.Settings(
    streams=streams.Settings(window=2, rounds=1),
    stalls=stalls.Settings(round_trips=(0.05,), loads=stalls.LOADS[2:], clients=30, reads=2, longest=10),
    custody=custody.Settings(round_trips=(0.05,)),
    outages=outages.Settings(outages=2, lossy=10, rounds=1),
)
_SCALE = scale.Settings(slow=(500, 2000, 5000), fast=(400, 600, 800), warm_up=3.5, window=2)

FULL = (
    Entry("events", lambda relays: events.run(relays, _PACED), 110),
    Entry("h2_events", lambda relays: h2_events.run(relays, _H2_PACED), 85),
    Entry("upstream", lambda relays: upstream.run(relays, _TLS), 90),
    Entry("unary", lambda relays: unary.run(relays, _CALLS), 85),
    Entry(
        "h2_unary",
        lambda relays: h2_unary.run(relays, h2_unary.Settings(shapes=(5,), calls=_CALLS)),
        60,
        ("flowserver", "nginx", "envoy", "caddy"),
    ),
    Entry("stall", lambda relays: stall.run(relays, _STALLED), 40, EDGE),
    Entry("memory", lambda relays: memory.run(relays, memory.Settings(rest=2, rounds=1)), 10, EDGE),
    Entry("h2_memory", lambda relays: h2_memory.run(relays, _H2_HELD), 15, EDGE),
    Entry("protocols", lambda relays: protocols.run(relays, protocols.Settings(window=1)), 120),
    Entry("incident", lambda relays: incident.run(relays, incident.Settings(seconds=10)), 30),
    Entry("sweep", lambda relays: sweep.run(relays, sweep.Settings()), 60),
    Entry("scale", lambda relays: scale.run(relays, _SCALE), 55, EDGE[::2]),
    Entry("wan", lambda relays: wan.run(relays, _FAR, ("streams", "stalls", "custody", "outages")), 210, EDGE),
)

_SHORT = events.Settings(ticks=(0,), rounds=3, others=1, warm_up=0.8, window=1.2)
_H2_SHORT = h2_events.Settings(shapes=((5, 0),), rounds=3, warm_up=0.8, window=1.2)
_FEW_CALLS = unary.Settings(rounds=2, others=1, warm_up=0.5, window=1)
_STEPS = scale.Settings(slow=(5000,), fast=(400, 600), warm_up=3.5, window=2)

QUICK = (
    Entry("events", lambda relays: events.run(relays, _SHORT), 20, EDGE),
    Entry("h2_events", lambda relays: h2_events.run(relays, _H2_SHORT), 15, EDGE),
    Entry("unary", lambda relays: unary.run(relays, _FEW_CALLS), 15, EDGE),
    Entry("memory", lambda relays: memory.run(relays, memory.QUICK), 5, EDGE[:1]),
    Entry("incident", lambda relays: incident.run(relays, incident.QUICK), 20),
    Entry("scale", lambda relays: scale.run(relays, _STEPS), 20, EDGE[:1]),
)
