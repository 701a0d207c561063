"""What the exchanges of a process share. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ..flow.memory_budget import UNLIMITED, MemoryBudget
from ..flow.read_gate import PauseTotals
from .interfaces import Clock, Observer
from .provider import Deadlines


class Swept(Protocol):
    """An exchange, as the sweep sees it."""

    def sweep(self, now: float) -> None: ...

    def on_drain_timeout(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Exchanges whose clients have left, but whose answers are read to their end to learn the provider's own count: for
    at most `time` seconds and `size` bytes after the client left."""

    time: float
    size: int
    exchanges: dict[Swept, tuple[float, int]] = field(default_factory=dict)
    """When each client left, and how many bytes had arrived by then."""

    def add(self, exchange: Swept, now: float, size: int) -> None:
        self.exchanges[exchange] = (now, size)

    def discard(self, exchange: Swept) -> None:
        self.exchanges.pop(exchange, None)

    def is_enough(self, exchange: Swept, now: float, size: int) -> bool:
        """Whether to stop reading the answer, of which `size` bytes have arrived."""
        since, before = self.exchanges[exchange]
        return now - since >= self.time or size - before >= self.size

    def sweep(self, clock: Clock) -> Iterator[None]:
        """Check one exchange in each step."""
        for exchange in list(self.exchanges):
            if exchange in self.exchanges:
                exchange.sweep(clock())
                yield

    def close(self) -> None:
        for exchange in list(self.exchanges):
            exchange.on_drain_timeout()


Trace = Callable[[bytes, str, str], None]
"""Called at each change of state, with the exchange's id, the old state and the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeContext:
    """What all exchanges of a process share."""

    clock: Clock
    observer: Observer
    deadlines: Deadlines
    pauses: PauseTotals
    max_body: int
    drain_target: float = 0.25
    """Seconds that bytes may be in flight to a client, at its pace: see `flow.drain_rate`."""
    memory: MemoryBudget = field(default=UNLIMITED)
    heartbeat: float | None = None
    """Seconds of silence after which a stream's client gets a heartbeat; None: never."""
    abandoned: Abandoned = field(default_factory=lambda: Abandoned(60.0, 1 << 20))
    fast_path: bool = True
    """Whether template events may take the fast path."""
    trace: Trace | None = None
    """None: state changes are not traced."""
