"""What holds an answer up: the gate to its provider, who closed it, and the client's pace. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..flow.drain_rate import DrainRate
from ..flow.memory_budget import MemoryBudget
from ..flow.read_gate import PauseLog, PauseTotals, Readable, ReadGate, Reason
from .limited_time import ClientSide, LimitedTime, WaitObserver


class PacedClient(ClientSide, Protocol):
    """The client's side of an answer: the part that concerns the client's pace."""

    def unacknowledged(self) -> int: ...

    def keep_pace(self, pace: DrainRate) -> None: ...


class PacedProvider(Readable, Protocol):
    """The provider's side: the part that concerns the client's pace."""

    def keep_pace(self, pace: DrainRate) -> None: ...


class HoldContext(Protocol):
    """The part of an exchange's context that this needs."""

    @property
    def clock(self) -> Callable[[], float]: ...

    @property
    def pauses(self) -> PauseTotals: ...

    @property
    def observer(self) -> WaitObserver: ...

    @property
    def drain_target(self) -> float: ...

    @property
    def memory(self) -> MemoryBudget: ...


class AnswerHold:
    """The hold of one answer. Created when something other than the provider first holds the answer up, which is
    rare."""

    __slots__ = ("_clock", "_down", "_pace", "_up", "gate", "time")

    def __init__(
        self,
        up: PacedProvider,
        down: PacedClient,
        context: HoldContext,
        first_byte_at: float | None,
        log: PauseLog | None = None,
    ) -> None:
        """`first_byte_at`: when the first byte of the answer's body came; None: not yet. `log`: see `ReadGate`."""
        self._clock = context.clock
        self._up = up
        self._down = down
        began_at = context.clock() if first_byte_at is None else first_byte_at
        self._pace = DrainRate(context.drain_target, began_at, context.memory)
        self.gate = ReadGate(up, context.clock, context.pauses, log)
        self.time = LimitedTime(down, context.observer, first_byte_at)

    def __repr__(self) -> str:
        return f"<AnswerHold {self.gate} {self.time} {self._pace}>"

    def shut(self, reason: Reason) -> None:
        self.gate.shut(reason)
        self.time.hold(reason, self._clock())

    def open(self, reason: Reason) -> None:
        self.gate.open(reason)
        self.time.release(reason, self._clock())

    def drained(self, passed: int) -> None:
        """The client had blocked and reads again: it is the bottleneck. `passed`: bytes of the answer so far."""
        self._pace.measure(self._clock(), passed - self._down.unacknowledged())
        self._up.keep_pace(self._pace)
        self._down.keep_pace(self._pace)
        self.open(Reason.DOWNSTREAM)

    def wait_for_end(self) -> None:
        """The answer is complete, and the rest of it waits for the client's side."""
        self.time.hold_to_end(self._clock())
