"""Timers that go off when a test lets time pass."""

from __future__ import annotations

from collections.abc import Callable

from .clock import FakeClock


class FakeTimer:
    """A `relay.interfaces.Timer`."""

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class FakeTimers:
    """`relay.interfaces.Timers` of a clock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._set: list[FakeTimer] = []

    def __call__(self, seconds: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self._clock() + seconds, call)
        self._set.append(timer)
        return timer

    @property
    def waiting(self) -> int:
        """Those that are to go off yet."""
        return sum(timer.call is not None for timer in self._set)

    def advance(self, seconds: float) -> None:
        """Let time pass: what is due goes off in order, each at its own time."""
        end = self._clock() + seconds
        while due := [timer for timer in self._set if timer.call is not None and timer.due <= end + 1e-9]:
            first = min(due, key=lambda timer: timer.due)
            self._clock.now = max(self._clock.now, first.due)
            call, first.call = first.call, None
            assert call is not None
            call()
        self._clock.now = end
