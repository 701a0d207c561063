"""Clients that stop reading: what has left a distant provider by then and nobody reads.

What the client's own kernel takes is the same behind every relay and without one: its receive buffer does not grow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from bench.client import Client, request
from bench.figures import rotated
from bench.peers import Running
from bench.wan.findings import Findings, size_in_words, trip_in_words
from bench.wan.reader import Reader, read_for
from bench.wan.stage import Simulator, Stage, simulator_stage

AT_ONCE = 40_000_000
"""Bytes/s that the clients of one turn read: more would measure the bench."""

RECEIVE_BUFFER = 64 * 1024
"""SO_RCVBUF of a client."""

SETTLED = 0.5
"""Seconds without a change after which a provider counts as stopped."""

TURN = 0.01
"""Seconds between two reads of one of many clients."""

ALLOWED = 64 * 1024
"""Bytes that a relay may take beyond the kernel of the client, and of an unpaced stream what its reader takes in a
round trip and `REACTION`."""

REACTION = 0.25
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """A stream of `rate` events/s, 0: as fast as it goes, of `size` bytes each. It is read at `pace` bytes/s, None: as
    it comes."""

    rate: float
    size: int
    pace: float | None

    def __str__(self) -> str:
        if self.pace is None:
            return f"{self.rate:g} events/s of {self.size} B read as they come"
        return f"unpaced, read at {size_in_words(self.pace)}/s"

    def allowed(self, round_trip: float) -> float:
        """Bytes of over-read beyond direct that are the aim."""
        return ALLOWED + (self.pace or 0) * (round_trip + REACTION)

    def turns(self, clients: int) -> Iterator[int]:
        """How many of `clients` are to read at once, turn after turn."""
        most = max(1, int(AT_ONCE / (self.pace or self.rate * self.size)))
        for first in range(0, clients, most):
            yield min(most, clients - first)


LOADS = (
    Load(50, 250, None),
    Load(0, 1000, 5_000),
    Load(0, 1000, 50_000),
    Load(0, 4000, 1_000_000),
    Load(0, 4000, 5_000_000),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """`clients` read for `reads` and then no more; `longest` is waited for the provider to stop. Times in seconds."""

    round_trips: tuple[float, ...] = (0, 0.05)
    loads: tuple[Load, ...] = LOADS
    clients: int = 100
    reads: float = 3
    longest: float = 30
    rounds: int = 1


QUICK = Settings(round_trips=(0.05,), loads=(LOADS[0], *LOADS[2:4]), clients=20, reads=2)


def measure(relays: Sequence[str], settings: Settings, findings: Findings) -> None:
    """Each load through each of `relays`, in turn."""
    for round_trip in settings.round_trips:
        with simulator_stage(round_trip) as (stage, simulator):
            for number in range(settings.rounds):
                for load in settings.loads:
                    over: dict[str, float] = {}
                    for name in rotated(relays, number):
                        with stage.start(name) as relay:
                            over[name] = _over_read(stage, simulator, relay, load, settings)
                    _tell(over, load, round_trip, findings)


def _tell(over: dict[str, float], load: Load, round_trip: float, findings: Findings) -> None:
    """All that was read too much, and what of it the relay is to blame for."""
    trip = trip_in_words(round_trip)
    for name, size in over.items():
        findings.figures.add(name, f"over-read, {load}, {trip}", "KB", size / 1024)
    if "direct" not in over:
        return
    for name in [name for name in over if name != "direct"]:
        beyond = over[name] - over["direct"]
        what = f"over-read of the aim, {load}, {trip}"
        findings.figures.add(name, what, "%", 100 * beyond / load.allowed(round_trip))
        if load.pace is not None:
            at = (load.pace / 1000, max(0.0, beyond) / 1024)
            findings.point(name, f"over-read beyond direct {trip}", "KB", "KB/s that the client reads", at)


def _over_read(stage: Stage, simulator: Simulator, relay: Running, load: Load, settings: Settings) -> float:
    """Bytes that have left the provider beyond those that the client read, median of all clients."""
    over: list[float] = []
    for clients in load.turns(settings.clients):
        over += _stall(stage, simulator, relay, load, settings, clients)
    return median(over)


def _stall(
    stage: Stage, simulator: Simulator, relay: Running, load: Load, settings: Settings, clients: int
) -> list[float]:
    """The same of each of `clients`."""
    simulator.forget()
    make = partial(Reader, rate=load.pace, receive_buffer=RECEIVE_BUFFER)
    with Client[Reader]() as client:
        readers: dict[str, Reader] = {}
        for number in range(clients):
            name = f"stall-{number}"
            readers[name] = reader = client.add(stage.connect(relay, make))
            reader.send(request(f"id={name} rate={load.rate:g} events=0 size={load.size}"))
        read_for(client, readers.values(), settings.reads, TURN)
        left = _left_when_settled(simulator, settings.longest)
        return [left[name] - reader.body.size for name, reader in readers.items()]


def _left_when_settled(simulator: Simulator, longest: float) -> dict[str, int]:
    """Bytes that the other side's kernel has of each open stream, once it takes no more, or the time is over."""
    left: dict[str, int] = {}
    deadline = time.monotonic() + longest
    while time.monotonic() < deadline:
        time.sleep(SETTLED)
        before = left
        streams = simulator.streams().items()
        left = {name: stream["bytes_acknowledged"] for name, stream in streams if stream["ended"] is None}
        if left == before:
            break
    return left
