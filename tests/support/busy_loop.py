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
from flowserver.flow.turns import SLICE
from flowserver.quota.tenants import Tenant
from flowserver.quota.traffic_class import INTERACTIVE, TrafficClass
from flowserver.routing.overload import OverloadChange, OverloadGate, OverloadSettings

from .clock import FakeClock

TARGET, INTERVAL = 0.02, 0.2
SERVED, REFUSED, TURN = 250e-6, 70e-6, 30e-6
"""Seconds that a request takes, a refusal, and a turn by itself."""


@dataclass(eq=False)
class Source:
    """Requests that come at `rate` per second, of clients that have at most `clients` of them waiting."""

    rate: float
    traffic_class: TrafficClass = INTERACTIVE
    tenant: Tenant | None = None
    clients: int = 400
    waiting: deque[float] = field(default_factory=deque)
    """When they came."""
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
            if len(self.waiting) < self.clients:
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
            if not self._soon and not any(source.waiting for source in sources):
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
        for came, number in ready:
            if self.clock.now - began >= SLICE:  # as `flow.turns` has it
                break
            self.wait = max(self.wait, self.clock.now - came)
            self.longest_wait = max(self.longest_wait, self.wait)
            source = sources[number]
            source.waiting.popleft()
            error = self.gate.refusal(source.traffic_class, source.tenant, self.clock.now)
            self.clock.advance(SERVED if error is None else REFUSED)
            if error is None:
                source.served += 1
            else:
                source.refused += 1
                source.times.append(self.clock.now - came)
                self.errors[error] += 1
        self.longest = max(self.longest, self.clock.now - began)
