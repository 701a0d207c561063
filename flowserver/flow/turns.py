"""Shares the event loop between running streams and new requests. No I/O: loop and clock are passed in.

Starting a request takes as long as 20 events. If all that arrive at once started in one iteration, every running stream
would wait for them. So new requests take a slice of an iteration, and those that do not fit into it wait for the next
ones, connection by connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

SLICE = 0.004
"""Seconds of an iteration in which requests start."""


class Turn(Protocol):
    """A connection with requests to start."""

    def take_turn(self) -> bool:
        """Handle some of what was read. Returns whether there is more. Harmless if the connection is over."""

    def abort(self) -> None:
        """Close at once."""


class Turns:
    """The connections whose requests wait, the longest waiting first."""

    __slots__ = ("_clock", "_is_due", "_later", "_spent", "_waiting", "longest_wait")

    def __init__(self, clock: Callable[[], float], later: Callable[[Callable[[], None]], object]) -> None:
        """`later` is the loop's `call_soon`."""
        self._clock = clock
        self._later = later
        self._waiting: deque[tuple[Turn, float]] = deque()
        """Each with the time at which it began to wait."""
        self._is_due = False
        """Whether `_take_turns` runs or is about to."""
        self._spent = 0.0
        """Seconds of the slice that are used, perhaps in several iterations: at its end a request waits for the next
        one, and a new slice begins. That costs less than to notice each iteration."""
        self.longest_wait = 0.0
        """Longest time, in seconds, that a connection waited for a turn, since it was last taken."""

    def __repr__(self) -> str:
        return f"<Turns waiting={len(self._waiting)}>"

    @property
    def is_free(self) -> bool:
        """Whether a request may start now; otherwise its connection must `wait`."""
        return self._spent < SLICE and not self._waiting

    def spend(self, seconds: float) -> None:
        """A request that did not wait took so long to start."""
        self._spent += seconds

    def wait(self, turn: Turn) -> None:
        """Call `take_turn` from the next iteration on, until nothing is left. It must not wait already."""
        self._waiting.append((turn, self._clock()))
        self._schedule()

    def take_longest_wait(self) -> float:
        wait, self.longest_wait = self.longest_wait, 0.0
        return wait

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._later(self._take_turns)

    def _take_turns(self) -> None:
        began = now = self._clock()
        waiting = self._waiting
        try:
            while waiting and now - began < SLICE:
                turn, since = waiting.popleft()
                if _take(turn):
                    waiting.append((turn, since))
                now = self._clock()
                self.longest_wait = max(self.longest_wait, now - since)
        finally:
            self._spent = 0.0 if waiting else now - began
            self._is_due = False
            if waiting:
                self._schedule()


def _take(turn: Turn) -> bool:
    try:
        return turn.take_turn()
    except Exception:
        turn.abort()
        raise
