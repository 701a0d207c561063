"""The circuit breaker of a provider. No I/O, no clock.

The breaker is closed in normal operation, open for `cooldown` seconds after `failures` failures in a row, then
half-open: one request passes as a probe, and its outcome decides.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class BreakerState(Enum):
    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class BreakerRecord(NamedTuple):
    """The whole state of a breaker, for sharing."""

    failures: int
    open_until: float | None
    probing: bool
    opened: int


class CircuitBreaker:
    """The breaker of one provider. Times are seconds of one monotonic clock."""

    __slots__ = ("_cooldown", "_failures", "_last_cause", "_limit", "_open_until", "_probing", "opened")

    def __init__(self, *, failures: int, cooldown: float) -> None:
        self._limit = failures
        self._cooldown = cooldown
        self._failures = 0
        self._last_cause: object = None
        self._open_until: float | None = None
        self._probing = False
        self.opened = 0
        """How often the breaker opened."""

    def __repr__(self) -> str:
        if self._open_until is None:
            return f"<CircuitBreaker closed: {self._failures} failures>"
        probe = ", probing" if self._probing else ""
        return f"<CircuitBreaker open until {self._open_until:.3f}{probe}: {self._failures} failures>"

    def state(self, now: float) -> BreakerState:
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a request may start now. In half-open state only if no probe is under way."""
        return self._open_until is None or (now >= self._open_until and not self._probing)

    @property
    def is_closed(self) -> bool:
        return self._open_until is None

    @property
    def is_spotless(self) -> bool:
        """Whether a success would change nothing."""
        return self._open_until is None and not self._failures

    @property
    def record(self) -> BreakerRecord:
        return BreakerRecord(self._failures, self._open_until, self._probing, self.opened)

    def adopt(self, record: BreakerRecord) -> None:
        """Adopt the state of another breaker."""
        self._failures, self._open_until, self._probing, self.opened = record

    def admits(self, now: float) -> bool:
        """Whether a request that has a place may begin. For a breaker shared by workers this is stricter than `allows`:
        a place may come without the permission to probe."""
        return self.allows(now)

    def available_in(self, now: float) -> float:
        """Seconds until a request may start, as far as is known; 0 if it may."""
        return max(0.0, (self._open_until or 0.0) - now)

    def started(self, now: float) -> bool:
        """A request permitted by `allows` starts. Returns whether it is the probe."""
        if self._open_until is None or now < self._open_until or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """An answer arrived, with whatever status: the provider is up."""
        self._failures = 0
        self._open_until = None
        self._probing = False

    def failed(self, now: float, *, probe: bool, cause: object = None) -> bool:
        """No connection, no answer in time, or a broken answer. Returns whether it counts as another failure.

        Requests that fail from the same `cause`, such as one lost HTTP/2 connection, count as one failure.

        While the breaker is not closed only the probe counts: late failures of earlier requests are no news, and must
        not delay the next probe.
        """
        if cause is not None and cause is self._last_cause and not probe:
            return False
        self._last_cause = cause
        if self._open_until is not None and not probe:
            return False
        self._failures += 1
        if (probe and self._probing) or (self._open_until is None and self._failures >= self._limit):
            self.opened += 1
            self._open_until = now + self._cooldown
            self._probing = False
        return True

    def abandoned(self, *, probe: bool) -> None:
        """A request ended without a result that concerns the provider: its client left, for example."""
        if probe:
            self._probing = False
