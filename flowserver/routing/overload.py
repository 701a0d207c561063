"""Whether a request is refused since the relay has more to do than it can. No I/O; the clock is handed in."""

from __future__ import annotations

from ..errors import OVERLOADED, RelayError
from ..flow.memory_budget import Level
from ..quota.traffic_class import TrafficClass

_BATCH = TrafficClass.BATCH
_NORMAL, _NO_BATCH, _FULL = Level.NORMAL, Level.NO_BATCH, Level.FULL


class OverloadGate:
    """One process'."""

    __slots__ = ("memory_level",)

    def __init__(self) -> None:
        self.memory_level = _NORMAL

    def refusal(self, traffic_class: TrafficClass, tenant_name: str | None, now: float) -> RelayError | None:
        """Why a request is refused; None: it is not."""
        level = self.memory_level
        return OVERLOADED if level >= (_NO_BATCH if traffic_class is _BATCH else _FULL) else None
