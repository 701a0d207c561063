"""Whether a provider may be asked: a circuit breaker. No I/O, no clock.

The breaker is closed while things go well, open for `cooldown` seconds after `failures` failures in a row, then
half-open: one request is let through as a probe, and its outcome decides.
"""

from __future__ import annotations

from enum import Enum


class BreakerState(Enum):
    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


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
        """Whether a request may start now. In half-open state only while no probe is under way."""
        return self._open_until is None or (now >= self._open_until and not self._probing)

    def available_in(self, now: float) -> float:
        """Seconds until a request may start, as far as is known; 0 if it may."""
        return max(0.0, (self._open_until or 0.0) - now)

    def started(self, now: float) -> bool:
        """A request that `allows` let through starts. Returns whether it is the probe."""
        if self._open_until is None or now < self._open_until or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """An answer came, of whatever status: the provider is there."""
        self._failures = 0
        self._open_until = None
        self._probing = False

    def failed(self, now: float, *, probe: bool, cause: object = None) -> None:
        """No connection, no answer in time, or a broken answer.

        Requests that fail by the same `cause`, such as one lost HTTP/2 connection, are one failure.

        While the breaker is not closed only the probe counts: late failures of requests that began earlier tell nothing
        new, and must not delay the next probe.
        """
        if cause is not None and cause is self._last_cause and not probe:
            return
        self._last_cause = cause
        self._failures += 1
        if (probe and self._probing) or (self._open_until is None and self._failures >= self._limit):
            self.opened += 1
            self._open_until = now + self._cooldown
            self._probing = False

    def abandoned(self, *, probe: bool) -> None:
        """A request ended without saying anything about the provider: its client left, for example."""
        if probe:
            self._probing = False
