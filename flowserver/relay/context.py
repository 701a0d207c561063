"""What the exchanges of a process share. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..flow.read_gate import PauseTotals
from .interfaces import Clock, Observer
from .provider import Deadlines


class Swept(Protocol):
    """An exchange, as far as time concerns it."""

    def sweep(self, now: float) -> None: ...

    def on_drain_timeout(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Exchanges whose clients have left and whose answers are read to their end all the same, so that the provider's
    own count is known: `time` seconds and `size` bytes at most from then on."""

    time: float
    size: int
    exchanges: set[Swept] = field(default_factory=set)

    def sweep(self, now: float) -> None:
        for exchange in list(self.exchanges):
            exchange.sweep(now)

    def close(self) -> None:
        for exchange in list(self.exchanges):
            exchange.on_drain_timeout()


@dataclass(frozen=True, slots=True)
class ExchangeContext:
    """What all exchanges of a process share."""

    clock: Clock
    observer: Observer
    deadlines: Deadlines
    pauses: PauseTotals
    max_body: int
    heartbeat: float | None = None
    """Seconds of silence after which a stream's client is shown that the connection lives; None: never."""
    abandoned: Abandoned = field(default_factory=lambda: Abandoned(60.0, 1 << 20))
