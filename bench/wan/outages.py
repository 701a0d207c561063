"""A client's link that drops out, and one that loses packets: when the client has everything again, beside the same
without a relay.

All relays run at once, beside the provider, and their clients are behind one link: each meets the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from bench.chunks import EventChecker
from bench.client import Client, Connection, request
from bench.peers import Running
from bench.stats import percentile
from bench.wan.findings import Findings
from bench.wan.stage import Stage, simulator_stage
from bench.wan_rig import Link

AFTER = 60.0
"""Seconds that are waited for the streams' ends, after the provider's."""

CALM = 2.0
"""Seconds of a stream before anything happens to its link: they show how long an event takes on it."""

LATE = 0.03
"""Seconds that an event may be later than the median of those in `CALM` and is in time nevertheless."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`clients` of each relay read `rate` events/s of `size` bytes. The link is gone for `gone` at the end of each
    `every`, `outages` times. On other streams `loss` of all packets are lost for `lossy`. Times are seconds."""

    round_trip: float = 0.02
    clients: int = 30
    rate: float = 50
    size: int = 250
    every: float = 10
    gone: float = 3
    outages: int = 3
    loss: float = 0.2
    lossy: float = 20
    rounds: int = 2


QUICK = Settings(clients=10, every=6, outages=1, lossy=6, rounds=1)


@dataclass(frozen=True, slots=True)
class Timetable:
    """When the events of a stream of `rate` events/s are there if nothing happens: the first one at `first`."""

    first: float
    rate: float

    @staticmethod
    def of(arrivals: Sequence[float], rate: float) -> Timetable:
        """As the events of the first `CALM` seconds came. `arrivals` must not be empty."""
        calm = arrivals[: max(1, int(CALM * rate))]
        return Timetable(median(moment - number / rate for number, moment in enumerate(calm)), rate)

    def late(self, arrivals: Sequence[float]) -> list[float]:
        """Seconds that each event was late."""
        return [moment - self.first - number / self.rate for number, moment in enumerate(arrivals)]

    def caught_up(self, arrivals: Sequence[float], since: float) -> float:
        """Seconds from `since` until the first event that is in time; `AFTER` if there is none."""
        for moment, late in zip(arrivals, self.late(arrivals), strict=True):
            if moment >= since and late <= LATE:
                return moment - since
        return AFTER


class Numbered(Connection):
    """Checks that each event comes once and in order, and keeps when it came."""

    __slots__ = ("_rate", "arrivals", "checker")

    def __init__(self, port: int, *, host: str, rate: float) -> None:
        super().__init__(port, host=host)
        self._rate = rate
        self.checker = EventChecker()
        self.arrivals: list[float] = []
        """Event -> CLOCK_MONOTONIC."""

    def on_data(self, data: bytes) -> None:
        self.checker.feed(data)
        self.arrivals += [time.monotonic()] * (self.checker.events - len(self.arrivals))

    def timetable(self) -> Timetable:
        return Timetable.of(self.arrivals, self._rate)

    def late(self, begin: float, end: float) -> list[float]:
        """Seconds that each event was late of those that were due between the two times."""
        late = self.timetable().late(self.arrivals)
        return [
            seconds for moment, seconds in zip(self.arrivals, late, strict=True) if begin <= moment - seconds <= end
        ]


@dataclass(slots=True)
class Play:
    """Streams through all relays, from their requests to their ends, for `seconds`. A context manager."""

    stage: Stage
    relays: Sequence[Running]
    settings: Settings
    seconds: float
    streams: dict[str, list[Numbered]] = field(default_factory=dict)
    """Relay -> its clients."""
    _client: Client[Numbered] = field(default_factory=Client)

    def __enter__(self) -> Play:
        settings = self.settings
        message = request(f"rate={settings.rate:g} events={self.events} size={settings.size}")
        make = partial(Numbered, rate=settings.rate)
        for relay in self.relays:
            self.streams[relay.name] = [self.stage.connect(relay, make) for _ in range(settings.clients)]
        for stream in self._every():
            self._client.add(stream).send(message)
        if self._client.run_until_all(lambda stream: stream.checker.events > 0, AFTER):
            raise RuntimeError("a relay passed no event")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    @property
    def events(self) -> int:
        return int(self.seconds * self.settings.rate)

    def run(self, seconds: float) -> None:
        """Read for so long."""
        self._client.run(seconds)

    def finish(self) -> None:
        """Read to the end."""
        self._client.run_until_all(lambda stream: stream.checker.done or stream.ended, AFTER)

    def caught_up(self, end: float) -> dict[str, float]:
        """Seconds after `end` until the client in the middle had everything, of each relay."""
        return {
            name: median(stream.timetable().caught_up(stream.arrivals, end) for stream in streams)
            for name, streams in self.streams.items()
        }

    def late(self, begin: float, end: float, percent: float) -> dict[str, float]:
        """Seconds that an event was late among those that were due between the two times, of each relay."""
        return {
            name: percentile([late for stream in streams for late in stream.late(begin, end)], percent)
            for name, streams in self.streams.items()
        }

    def tell_broken(self, what: str, findings: Findings) -> None:
        """How many streams of each relay lost an event, or had one twice or in another order."""
        for name, streams in self.streams.items():
            broken = sum(not stream.checker.is_whole(self.events) for stream in streams)
            findings.figures.add(name, f"streams not whole and in order, {what}", "", broken)

    def _every(self) -> list[Numbered]:
        return [stream for streams in self.streams.values() for stream in streams]


def measure(relays: Sequence[str], settings: Settings, findings: Findings) -> None:
    """Outages, then losses, for all of `relays` at once."""
    for _ in range(settings.rounds):
        with simulator_stage(settings.round_trip, relays_are_near=False) as (stage, _), ExitStack() as stack:
            running = [stack.enter_context(stage.start(name)) for name in relays]
            _outages(stage, running, settings, findings)
            _losses(stage, running, settings, findings)


def _outages(stage: Stage, relays: Sequence[Running], settings: Settings, findings: Findings) -> None:
    ends = []
    with Play(stage, relays, settings, settings.every * (settings.outages + 0.5)) as play:
        for _ in range(settings.outages):
            play.run(settings.every - settings.gone)
            ends.append(stage.joint.outage(settings.gone))
            play.run(settings.gone)
        play.finish()
    what = f"an outage of {settings.gone:g} s"
    for end in ends:
        _compare(f"caught up after {what}", play.caught_up(end), findings)
    play.tell_broken(what, findings)


def _losses(stage: Stage, relays: Sequence[Running], settings: Settings, findings: Findings) -> None:
    clean = Link(settings.round_trip / 2)
    with Play(stage, relays, settings, CALM + settings.lossy + settings.every / 2) as play:
        play.run(CALM)
        begin = time.monotonic()
        stage.joint.change(Link(clean.delay, loss=settings.loss))
        play.run(settings.lossy)
        stage.joint.change(clean)
        end = time.monotonic()
        play.finish()
    what = f"{100 * settings.loss:g} % of packets lost"
    for percent in (50, 90):
        _compare(f"events late, {what}, p{percent}", play.late(begin, end, percent), findings)
    for name, seconds in play.caught_up(end).items():
        findings.figures.add(name, f"caught up after {settings.lossy:g} s, {what}", "s", seconds)
    play.tell_broken(what, findings)


def _compare(what: str, seconds: dict[str, float], findings: Findings) -> None:
    """Of each relay, and beside direct."""
    for name, value in seconds.items():
        findings.figures.add(name, what, "s", value)
    if "direct" not in seconds:
        return
    for name in [name for name in seconds if name != "direct"]:
        findings.figures.add(name, f"beside direct: {what}", "x", seconds[name] / seconds["direct"])
