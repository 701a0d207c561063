"""An event loop that has as much to do as a test says: a model without sockets, where work takes time of its own."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from flowserver.errors import RelayError
from flowserver.flow.loop_delay import LoopDelay
from flowserver.flow.memory_budget import UNLIMITED
from flowserver.flow.turns import READING, STARTING
from flowserver.quota.tenants import Tenant
from flowserver.quota.traffic_class import BATCH, INTERACTIVE, TrafficClass
from flowserver.routing.overload import OverloadChange, OverloadGate, OverloadSettings

from .clock import FakeClock

TARGET, INTERVAL = 0.02, 0.2
SERVED, READ, REFUSED, TURN = 250e-6, 50e-6, 70e-6, 30e-6
"""Seconds that a request takes, the part of it until it waits for its turn to start, a refusal, and an iteration by
itself."""


@dataclass(eq=False)
class Source:
    """Requests that come at `rate` per second, of clients that have at most `clients` of them waiting."""

    rate: float
    traffic_class: TrafficClass = INTERACTIVE
    tenant: Tenant | None = None
    clients: int = 400
    waiting: deque[float] = field(default_factory=deque)
    """When they came that have not been read."""
    admitted: int = 0
    """Those that were read, and wait to start."""
    served: int = 0
    refused: int = 0
    times: list[float] = field(default_factory=list)
    """Seconds that refusals took."""
    _due: float | None = None

    def arrive(self, now: float, chance: Callable[[float], float]) -> float:
        """Returns when the next one comes."""
        if self._due is None:
            self._due = now + chance(self.rate)
        while self._due <= now:
            if len(self.waiting) + self.admitted < self.clients:
                self.waiting.append(self._due)
            self._due += chance(self.rate)
        return self._due


class BusyLoop:
    """Its clock goes on with the work that it does."""

    def __init__(self, *, target: float = TARGET, interval: float = INTERVAL, seed: int = 1) -> None:
        self.clock = FakeClock()
        self._random = random.Random(seed)
        self._soon: deque[Callable[[], None]] = deque()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._admitted: deque[tuple[float, float, Source]] = deque()
        """Those that wait to start: since when, and when they came."""
        self.changes: list[OverloadChange] = []
        self.errors: Counter[RelayError] = Counter()
        self.longest = 0.0
        """Seconds of the longest turn since it was set to 0."""
        self.wait = 0.0
        """Longest time in seconds that a request has waited for its turn, since the gate asked last."""
        self.longest_wait = 0.0
        """The same, since the beginning."""
        self.gate = OverloadGate(
            OverloadSettings(target, interval),
            LoopDelay(self.clock, self._soon.append, self.call_later),
            self._waited,
            UNLIMITED,
            random=self._random.random,
            changed=self.changes.append,
        )

    def _waited(self) -> float:
        wait, self.wait = self.wait, 0.0
        return wait

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.clock.now + seconds, len(self._later), call))

    def run(self, seconds: float, *sources: Source) -> None:
        until = self.clock.now + seconds
        for source in sources:
            source.served = source.refused = 0
            source.times.clear()
        while self.clock.now < until:
            due = min((source.arrive(self.clock.now, self._random.expovariate) for source in sources), default=until)
            if not (self._soon or self._admitted or any(source.waiting for source in sources)):
                timer = self._later[0][0] if self._later else until
                self.clock.now = max(self.clock.now, min(until, due, timer))
            self._turn(sources)

    def _turn(self, sources: tuple[Source, ...]) -> None:
        began = self.clock.now
        while self._later and self._later[0][0] <= began:
            heapq.heappop(self._later)[2]()
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        ready = sorted(
            ((came, number) for number, source in enumerate(sources) for came in source.waiting if came <= began)
        )
        self.clock.advance(TURN)
        self._read(ready, sources)
        self._start()
        self.longest = max(self.longest, self.clock.now - began)

    def _read(self, ready: list[tuple[float, int]], sources: tuple[Source, ...]) -> None:
        """As `flow.turns` has it: for so long, and then others for so long."""
        began = self.clock.now
        for came, number in ready:
            if self.clock.now - began >= READING:
                break
            self._note_wait(came)
            source = sources[number]
            source.waiting.popleft()
            self.clock.advance(READ)
            if source.traffic_class is not BATCH or not self._is_refused(source, came):
                source.admitted += 1
                self._admitted.append((self.clock.now, came, source))

    def _start(self) -> None:
        began = self.clock.now
        while self._admitted and self.clock.now - began < STARTING:
            since, came, source = self._admitted.popleft()
            self._note_wait(since)
            source.admitted -= 1
            if not self._is_refused(source, came, is_again=True):
                self.clock.advance(SERVED - READ)
                source.served += 1

    def _note_wait(self, since: float) -> None:
        self.wait = max(self.wait, self.clock.now - since)
        self.longest_wait = max(self.longest_wait, self.wait)

    def _is_refused(self, source: Source, came: float, *, is_again: bool = False) -> bool:
        error = self.gate.refusal(source.traffic_class, source.tenant, self.clock.now, is_again=is_again)
        if error is not None:
            self.clock.advance(REFUSED - READ)
            source.refused += 1
            source.times.append(self.clock.now - came)
            self.errors[error] += 1
        return error is not None
