"""Time that passes when a test says so."""

from __future__ import annotations


class FakeClock:
    """A `relay.interfaces.Clock`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now
