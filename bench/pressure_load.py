"""The crowd of `pressure`: clients of both classes that ask, and mostly stop reading. A process of its own.

Run as `python -m bench.pressure_load JSON`, with the fields of `Plan`. It says "gone" on its standard output when it
was told to leave by a line on its standard input and all its sockets are closed, then its tally as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.client import request
from bench.cores import LOAD_CORES
from bench.pressure_provider import script
from bench.processes import allow_many_files, python_module, repository
from bench.stats import percentile
from bench.visitors import Arrivals, Crowd, Outcome, Visitor

READ_BEFORE_STALL = 2048
"""Bytes that a client reads before it stops."""

RECEIVE_BUFFER = 4096
"""SO_RCVBUF of a client that stops, so that its answer does not fit into its kernel."""

EVENTS, SIZE = 1200, 250
"""Of an answer: 300 KB, more than a client that stops and a relay with bounded buffers take."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`batch` and `interactive` are arrivals per second on `port`. Of those of class batch the share `stalled` stops
    reading, of interactive ones all do: the others are the bench's own readers. Of who stops the share `returning`
    reads on after `away` seconds; the rest never does. Arrivals
    become so many within `ramp` seconds. An answer has `events` of `size` bytes, and no pace."""

    port: int
    batch: float
    interactive: float
    stalled: float = 0.8
    returning: float = 0.25
    away: float = 10
    ramp: float = 30
    events: int = EVENTS
    size: int = SIZE
    seed: int = 1


@dataclass(slots=True)
class Tally:
    """What came of the arrivals, by "class kind outcome"; with the status of one that failed, 0 where there was no
    answer."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)
    """Milliseconds until requests of class batch were refused."""

    def add(self, visitor: Guest) -> None:
        assert visitor.outcome is not None
        why = f" ({visitor.status})" if visitor.outcome is Outcome.FAILED else ""
        self.outcomes[f"{visitor.ask.traffic_class} {visitor.kind} {visitor.outcome}{why}"] += 1
        if visitor.ask.traffic_class == "batch" and visitor.outcome is Outcome.REFUSED:
            self.refusals.append(1e3 * (time.monotonic() - visitor.began))


@dataclass(frozen=True, slots=True)
class Ask:
    """What guests of a class want: `request`, and an answer of `least` bytes or more. Who comes back does so after
    `away` seconds."""

    traffic_class: str
    request: bytes
    least: int
    away: float


class Guest(Visitor):
    """One arrival."""

    __slots__ = ("_tally", "ask")

    kind = "reader"

    def __init__(self, ask: Ask, tally: Tally) -> None:
        super().__init__(ask.request)
        self.ask = ask
        self._tally = tally

    def is_whole(self) -> bool:
        return super().is_whole() and self.received >= self.ask.least

    def on_outcome(self) -> None:
        self._tally.add(self)


class Staller(Guest):
    """Reads a little, and stops."""

    __slots__ = ()

    kind = "staller"
    receive_buffer = RECEIVE_BUFFER

    def on_data(self, data: bytes) -> None:
        if self.received >= READ_BEFORE_STALL:
            self.stall()


class Returner(Guest):
    """Stops for a while, and reads on."""

    __slots__ = ("_is_back",)

    kind = "returner"
    receive_buffer = RECEIVE_BUFFER

    def __init__(self, ask: Ask, tally: Tally) -> None:
        super().__init__(ask, tally)
        self._is_back = False

    def on_data(self, data: bytes) -> None:
        if not self._is_back and self.received >= READ_BEFORE_STALL:
            self._is_back = True
            self.stall()
            self.crowd.at(time.monotonic() + self.ask.away, self.read_on)


class Load:
    """Keeps guests coming."""

    def __init__(self, crowd: Crowd, plan: Plan) -> None:
        self.tally = Tally()
        self._crowd = crowd
        self._plan = plan
        self._random = random.Random(plan.seed)
        asked, least = script(plan.events, 0, plan.size), plan.events * plan.size
        self._asks = {name: Ask(name, classed(name, asked), least, plan.away) for name in ("batch", "interactive")}
        rates = {"batch": plan.batch, "interactive": plan.interactive}
        self.arrivals = [
            Arrivals(crowd, rate, self._arriving(name), ramp=plan.ramp) for name, rate in rates.items() if rate
        ]

    def _arriving(self, traffic_class: str) -> Any:
        return lambda: self._crowd.add(self.guest(traffic_class), self._plan.port)

    def guest(self, traffic_class: str) -> Guest:
        """The next one to arrive."""
        ask, plan = self._asks[traffic_class], self._plan
        if traffic_class == "batch" and self._random.random() >= plan.stalled:
            return Guest(ask, self.tally)
        return (Returner if self._random.random() < plan.returning else Staller)(ask, self.tally)

    def summary(self) -> dict[str, Any]:
        """For `LoadProcess.leave`."""
        refusals = self.tally.refusals
        return {
            "outcomes": dict(self.tally.outcomes),
            "arrived": sum(arrivals.number for arrivals in self.arrivals),
            "too_many": self._crowd.too_many,
            "most": self._crowd.most,
            "late": max((arrivals.late for arrivals in self.arrivals), default=0.0),
            "refused_p50": percentile(refusals, 50) if refusals else None,
            "refused_p99": percentile(refusals, 99) if refusals else None,
        }


def classed(traffic_class: str, asked: str) -> bytes:
    """A request of this class for `asked` of the provider."""
    return request(asked).replace(b"\r\nhost:", b"\r\nx-flow-class: %b\r\nhost:" % traffic_class.encode(), 1)


class LoadProcess:
    """A load in a process of its own, started on creation. A context manager that ends it."""

    def __init__(self, module: str, plan: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            python_module(module, json.dumps(plan)),
            cwd=repository(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        os.sched_setaffinity(self._process.pid, LOAD_CORES)
        # Where it shares a core with the provider and those who measure, it waits, not they.
        os.setpriority(os.PRIO_PROCESS, self._process.pid, 10)

    def __enter__(self) -> LoadProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def leave(self) -> None:
        """Returns when all its sockets are closed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("leave\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "gone\n":
            raise RuntimeError("the load has ended early")

    def summary(self) -> dict[str, Any]:
        """After `leave`."""
        assert self._process.stdout is not None
        summary: dict[str, Any] = json.loads(self._process.stdout.readline())
        return summary


def start(plan: Plan) -> LoadProcess:
    return LoadProcess("bench.pressure_load", asdict(plan))


def prepare() -> dict[str, Any]:
    """Of the process of a load. Returns its plan."""
    allow_many_files()
    gc.disable()
    os.set_blocking(sys.stdin.fileno(), False)
    plan: dict[str, Any] = json.loads(sys.argv[1])
    return plan


def is_told_to_leave() -> bool:
    """Whether a line, or the end, has come on standard input."""
    try:
        os.read(sys.stdin.fileno(), 100)
    except BlockingIOError:
        return False
    return True


def main() -> None:
    plan = Plan(**prepare())
    with Crowd() as crowd:
        load = Load(crowd, plan)
        crowd.run(86400, is_told_to_leave)
        for arrivals in load.arrivals:
            arrivals.is_stopped = True
        crowd.leave()
        print("gone", flush=True)
        print(json.dumps(load.summary()), flush=True)


if __name__ == "__main__":
    main()
