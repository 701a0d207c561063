"""`python -m bench [case ...]`: runs cases, shows their tables, and keeps the results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import (
    ablation,
    abort,
    adaptive,
    affinity,
    comebacks,
    counting,
    events,
    fairness,
    first_byte,
    first_token,
    h2_attack,
    h2_events,
    h2_memory,
    h2_stall,
    h2_unary,
    hostile,
    idle,
    incident,
    kills,
    large_request,
    limits,
    memory,
    overload,
    page,
    pressure,
    protocols,
    restarts,
    scale,
    shared_store,
    short_streams,
    stall,
    suite,
    sweep,
    unary,
    upstream,
    upstream_unary,
    wan,
    workers,
)
from bench.cores import LOAD_CORES
from bench.figures import CaseResult
from bench.peers import PEERS
from bench.peers.flowserver import Flowserver
from bench.processes import allow_many_files, repository
from bench.report import machine, save, show, show_summary

Case = Callable[[Sequence[str], bool], CaseResult]
"""Takes the relays' names, and whether to be quick."""


def _part_of_wan(part: str, relays: Sequence[str], quick: bool) -> CaseResult:
    return wan.run(relays, wan.QUICK if quick else wan.Settings(), (part,))


CASES: dict[str, Case] = {
    "ablation": lambda relays, quick: ablation.run(relays, ablation.QUICK if quick else ablation.Settings()),
    "adaptive": lambda relays, quick: adaptive.run(relays, adaptive.QUICK if quick else adaptive.Settings()),
    "events": lambda relays, quick: events.run(relays, events.QUICK if quick else events.Settings()),
    "comebacks": lambda relays, quick: comebacks.run(relays, comebacks.QUICK if quick else comebacks.Settings()),
    "counting": lambda relays, quick: counting.run(relays, counting.QUICK if quick else counting.Settings()),
    "stall": lambda relays, quick: stall.run(relays, stall.QUICK if quick else stall.Settings()),
    "abort": lambda relays, quick: abort.run(relays, abort.QUICK if quick else abort.Settings()),
    "memory": lambda relays, quick: memory.run(relays, memory.QUICK if quick else memory.Settings()),
    "flood": lambda relays, quick: events.flood(relays, events.QUICK_FLOOD if quick else events.FLOOD),
    "fairness": lambda relays, quick: fairness.run(relays, fairness.QUICK if quick else fairness.Settings()),
    "first_byte": lambda relays, quick: first_byte.run(relays, first_byte.QUICK if quick else first_byte.Settings()),
    "first_token": lambda relays, quick: first_token.run(
        relays, first_token.QUICK if quick else first_token.Settings()
    ),
    "unary": lambda relays, quick: unary.run(relays, unary.QUICK if quick else unary.Settings()),
    "h2_events": lambda relays, quick: h2_events.run(relays, h2_events.QUICK if quick else h2_events.Settings()),
    "h2_stall": lambda relays, quick: h2_stall.run(relays, h2_stall.QUICK if quick else h2_stall.Settings()),
    "h2_attack": lambda relays, quick: h2_attack.run(relays, h2_attack.QUICK if quick else h2_attack.Settings()),
    "h2_memory": lambda relays, quick: h2_memory.run(relays, h2_memory.QUICK if quick else h2_memory.Settings()),
    "h2_unary": lambda relays, quick: h2_unary.run(relays, h2_unary.QUICK if quick else h2_unary.Settings()),
    "hostile": lambda relays, quick: hostile.run(relays, hostile.QUICK if quick else hostile.Settings()),
    "idle": lambda relays, quick: idle.run(relays, idle.QUICK if quick else idle.Settings()),
    "incident": lambda relays, quick: incident.run(relays, incident.QUICK if quick else incident.Settings()),
    "affinity": lambda relays, quick: affinity.run(relays, affinity.QUICK if quick else affinity.Settings()),
    "kills": lambda relays, quick: kills.run(relays, kills.QUICK if quick else kills.Settings()),
    "large_request": lambda relays, quick: large_request.run(
        relays, large_request.QUICK if quick else large_request.Settings()
    ),
    "limits": lambda relays, quick: limits.run(relays, limits.QUICK if quick else limits.FULL),
    "overload": lambda relays, quick: overload.run(relays, overload.QUICK if quick else overload.Settings()),
    "page": lambda relays, quick: page.run(relays, page.QUICK if quick else page.Settings()),
    "pressure": lambda relays, quick: pressure.run(relays, pressure.QUICK if quick else pressure.Settings()),
    "protocols": lambda relays, quick: protocols.run(relays, protocols.QUICK if quick else protocols.Settings()),
    "restarts": lambda relays, quick: restarts.run(relays, restarts.QUICK if quick else restarts.Settings()),
    "sweep": lambda relays, quick: sweep.run(relays, sweep.QUICK if quick else sweep.Settings()),
    "short_streams": lambda relays, quick: short_streams.run(
        relays, short_streams.QUICK if quick else short_streams.Settings()
    ),
    "scale": lambda relays, quick: scale.run(relays, scale.QUICK if quick else scale.Settings()),
    "shared_store": lambda relays, quick: shared_store.run(
        relays, shared_store.QUICK if quick else shared_store.Settings()
    ),
    "upstream": lambda relays, quick: upstream.run(relays, upstream.QUICK if quick else upstream.Settings()),
    "upstream_unary": lambda relays, quick: upstream_unary.run(
        relays, upstream_unary.QUICK if quick else upstream_unary.Settings()
    ),
    "workers": lambda relays, quick: workers.run(relays, workers.QUICK if quick else workers.Settings()),
    "wan": lambda relays, quick: wan.run(relays, wan.QUICK if quick else wan.Settings()),
}
CASES |= {f"wan_{part}": partial(_part_of_wan, part) for part in wan.PARTS}


def main() -> int:
    """Exit status: 0, 2 for usage, 130 when interrupted."""
    arguments = _parser().parse_args()
    names = arguments.relays.split(",")
    if arguments.other is not None:
        PEERS["other"] = Flowserver("other", str(arguments.other))
        names.insert(1, "other")
    relays = _chosen(names)
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        raise SystemExit(f"unknown case: {', '.join(unknown)}; expected {', '.join(CASES)}")
    entries = [_named(name, arguments.quick) for name in arguments.cases]
    if not entries:
        entries = list(suite.QUICK if arguments.quick else suite.FULL)
    _prepare()
    print(machine())
    results: list[CaseResult] = []
    try:
        for number, entry in enumerate(entries):
            rest = sum(later.seconds for later in entries[number:])
            left = f", about {rest // 60}:{rest % 60:02} to go" if rest else ""
            print(f"{number + 1} of {len(entries)}: {entry.name}{left}", file=sys.stderr)
            result = entry.run_with(relays)
            show(result)
            results.append(result)
    except KeyboardInterrupt:
        return 130
    finally:
        if results:
            print()
            show_summary(results)
            print(f"\nsaved as {os.path.relpath(save(results, arguments.save))}, with .json and plots beside it")
    return 0


def _named(name: str, quick: bool) -> suite.Entry:
    """A case that was asked for, with its own settings; how long it takes is not known."""
    return suite.Entry(name, lambda relays: CASES[name](relays, quick), 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures relays side by side.")
    parser.add_argument("cases", nargs="*", metavar="case", help=f"{', '.join(CASES)}; the suite when none is named")
    parser.add_argument("--quick", action="store_true", help="short rounds: a look, no result to quote")
    parser.add_argument("--relays", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument(
        "--other", type=Path, metavar="PROGRAM", help="a second flowserver to compare with: another build or version"
    )
    parser.add_argument("--save", type=Path, default=repository() / "bench" / "results", metavar="DIR")
    return parser


def _chosen(names: Sequence[str]) -> list[str]:
    """The relays that are there; one that is not is said and left out. Exits for a name that means nothing."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise SystemExit(f"unknown relay: {', '.join(unknown)}; expected {', '.join(PEERS)}")
    for name in names:
        if not PEERS[name].available():
            print(f"{name} is not installed, skipped ({PEERS[name].install})", file=sys.stderr)
    return [name for name in names if PEERS[name].available()]


def _prepare() -> None:
    """Thousands of sockets, cores for load and relay apart, and an end on SIGTERM as on Ctrl-C."""
    allow_many_files()
    os.sched_setaffinity(0, LOAD_CORES)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
