"""Clients that keep up, through a relay or directly: whether they are served whole, and how late their events are."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from bench.client import BODY
from bench.pressure_load import classed
from bench.pressure_provider import script
from bench.stamps import scan
from bench.visitors import Arrivals, Crowd, Outcome, Visitor


@dataclass(frozen=True, slots=True)
class Pace:
    """Streams of `events`, `interval` seconds apart. So many `streams` are open at a time."""

    streams: int = 200
    events: int = 100
    interval: float = 0.05
    size: int = 250

    @property
    def per_second(self) -> float:
        """Streams that begin."""
        return self.streams / (self.events * self.interval)


@dataclass(slots=True)
class Seen:
    """What readers saw: how streams ended, and the nanoseconds that each event took."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    times: list[int] = field(default_factory=list)

    @property
    def missed(self) -> float:
        """Percent of the streams that were not served whole."""
        return 100 * (1 - self.outcomes[Outcome.WHOLE] / self.outcomes.total()) if self.outcomes else 100.0


class Reader(Visitor):
    """Reads a paced stream as it comes."""

    __slots__ = ("_cut", "_events", "_seen", "_wanted")

    def __init__(self, asked: bytes, wanted: int, seen: Seen) -> None:
        """`wanted`: events of a whole stream."""
        super().__init__(asked)
        self._wanted = wanted
        self._seen = seen
        self._events = 0
        self._cut = b""

    def on_data(self, data: bytes) -> None:
        times = self._seen.times
        before = len(times)
        self._cut = scan(self._cut + data if self._cut else data, times)
        self._events += len(times) - before

    def is_whole(self) -> bool:
        return super().is_whole() and self._events == self._wanted

    def on_outcome(self) -> None:
        assert self.outcome is not None
        self._seen.outcomes[self.outcome] += 1


class Probe(Visitor):
    """A request of class batch with a short answer: whether it is accepted, and how soon it is refused."""

    __slots__ = ("_probes",)

    def __init__(self, asked: bytes, probes: Probes) -> None:
        super().__init__(asked)
        self._probes = probes

    def on_outcome(self) -> None:
        assert self.outcome is not None
        self._probes.add(self.outcome, time.monotonic() - self.began)


@dataclass(slots=True)
class Probes:
    """What came of them."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    refused: list[float] = field(default_factory=list)
    """Seconds from the connect() to the answer that refuses."""
    accepted_at: float | None = None
    """When one was served, by time.monotonic(): the first since this was None."""

    def add(self, outcome: Outcome, seconds: float) -> None:
        self.outcomes[outcome] += 1
        if outcome is Outcome.REFUSED:
            self.refused.append(seconds)
        elif outcome is Outcome.WHOLE and self.accepted_at is None:
            self.accepted_at = time.monotonic()


def keep_reading(crowd: Crowd, port: int, pace: Pace, seen: Seen) -> Arrivals:
    """Interactive readers arrive at `port`, as many as have `pace.streams` open."""
    asked = classed("interactive", script(pace.events, 1 / pace.interval, pace.size))
    return Arrivals(crowd, pace.per_second, lambda: crowd.add(Reader(asked, pace.events, seen), port))


def keep_probing(crowd: Crowd, port: int, per_second: float, probes: Probes) -> Arrivals:
    """Batch requests for one event."""
    asked = classed("batch", script(1))
    return Arrivals(crowd, per_second, lambda: crowd.add(Probe(asked, probes), port))


def keep_sending(crowd: Crowd, port: int, per_second: float, size: int, seen: Seen) -> Arrivals:
    """Interactive requests with prompts of `size` bytes, for one event."""
    asked = classed("interactive", script(1))
    long = asked.replace(b"Go on.", b"word " * (size // 5))
    body = len(BODY) - len(b"Go on.") + size // 5 * 5
    long = long.replace(b"content-length: %d" % len(BODY), b"content-length: %d" % body)
    return Arrivals(crowd, per_second, lambda: crowd.add(Reader(long, 1, seen), port))
