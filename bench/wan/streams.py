"""Paced streams from a distant provider: how much of them comes in time, beside the same without a relay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Client, request
from bench.figures import rotated
from bench.peers import Running
from bench.wan.findings import Findings, trip_in_words
from bench.wan.reader import Reader
from bench.wan.stage import Stage, simulator_stage

FIRST_BYTE = 30.0
"""Seconds that are waited for it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """So many events per second, of so many bytes."""

    rate: float
    size: int

    def __str__(self) -> str:
        return f"stream of {self.rate:g} events/s of {self.size} B"


@dataclass(frozen=True, slots=True)
class Settings:
    """`round_trips` and `window` in seconds."""

    round_trips: tuple[float, ...] = (0.01, 0.05, 0.2)
    paces: tuple[Pace, ...] = (Pace(2000, 300), Pace(1250, 4000))
    window: float = 5
    rounds: int = 2


QUICK = Settings(round_trips=(0.05,), window=2, rounds=1)


def measure(relays: Sequence[str], settings: Settings, findings: Findings) -> None:
    """Each pace through each of `relays`, in turn."""
    for round_trip in settings.round_trips:
        with simulator_stage(round_trip) as (stage, _):
            for number in range(settings.rounds):
                for pace in settings.paces:
                    read: dict[str, float] = {}
                    for name in rotated(relays, number):
                        with stage.start(name) as relay:
                            read[name] = _read(stage, relay, pace, settings.window) / settings.window
                    _tell(read, pace, round_trip, findings)


def _read(stage: Stage, relay: Running, pace: Pace, window: float) -> int:
    """Bytes of events that come in the `window` seconds from the first one on."""
    with Client[Reader]() as client:
        reader = client.add(stage.connect(relay, Reader))
        reader.send(request(f"events=0 rate={pace.rate:g} size={pace.size}"))
        if client.run_until_all(lambda one: one.body.size > 0, FIRST_BYTE):
            raise RuntimeError(f"{relay.name}: no event arrived")
        client.run(window)
        return reader.body.size


def _tell(read: dict[str, float], pace: Pace, round_trip: float, findings: Findings) -> None:
    what = f"{pace} {trip_in_words(round_trip)}"
    for name, speed in read.items():
        findings.figures.add(name, what, "MB/s", speed / 1e6)
        findings.point(name, str(pace), "MB/s", "round trip in ms", (round_trip * 1e3, speed / 1e6))
        if "direct" in read and name != "direct":
            findings.figures.add(name, f"{what}, share of direct", "%", 100 * speed / read["direct"])
