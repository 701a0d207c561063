"""What the dispatchers of a process share, and the states of a dispatcher. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from ..flow.memory_budget import UNLIMITED, MemoryBudget
from ..flow.turns import Turns
from ..relay.interfaces import Clock
from .candidates import ByLoad
from .first_token import FirstTokenContext
from .overload import OverloadGate
from .routes import RouteTable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts` for one request, begun within `time` seconds of its start; bodies up to `replay` bytes can be
    sent again.

    `unanswered`: whether to try another provider if the first broke off and may have begun with the request."""

    attempts: int
    time: float
    replay: int
    unanswered: bool


@dataclass(frozen=True, slots=True)
class RoutingContext:
    """What the dispatchers of a process share."""

    routes: RouteTable
    policy: RetryPolicy
    clock: Clock
    random: Callable[[], float]
    pseudonym: bytes
    first_token: FirstTokenContext
    turns: Turns
    """Where requests wait before they are sent."""
    wall_clock: Clock = lambda: 0.0
    """Seconds since the epoch."""
    memory: MemoryBudget = UNLIMITED
    overload: OverloadGate | None = None
    """None: requests are never refused for overload."""
    by_load: ByLoad = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_load", ByLoad(self.random))


class DispatchState(Enum):
    PREPARING = "preparing"
    """It is not known yet whose request it is, what it asks for, whether its limits admit it, or which host to ask."""
    QUEUED = "queued"
    """Waits for a place at the last host."""
    BACKING_OFF = "backing off"
    """Waits before it tries the last host again."""
    ASKING = "asking"
    """An attempt is under way, and another one may follow."""
    ANSWERED = "answered"
    """The attempt's answer is passed on."""
    ENDED = "ended"
