"""Shares the event loop between running streams and new requests. No I/O: loop and clock are passed in.

Starting a request takes as long as 20 events. If all that arrive at once started in one iteration, every running stream
would wait for them. So new requests take a slice of an iteration, and those that do not fit into it wait for the next
ones, in order. There is one slice for reading requests, which refuses those that may not start, and one for sending
them to providers: refusals do not wait behind requests that are served.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

READING, STARTING = 0.002, 0.003
"""Seconds of an iteration in which requests are read, and in which they are sent to providers."""


class Turn(Protocol):
    """A connection with requests to read, or a request to send."""

    def take_turn(self) -> bool:
        """Do some of it. Returns whether there is more. Harmless if the connection or the request is over."""

    def abort(self) -> None:
        """Close at once."""


class Turns:
    """Those who wait for a slice, the longest waiting first."""

    __slots__ = (
        "_clock",
        "_elsewhere",
        "_is_due",
        "_later",
        "_slice",
        "_spent",
        "_waiting",
        "_within",
        "longest_wait",
        "waited_at",
    )

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float],
        later: Callable[[Callable[[], None]], object],
        within: Turns | None = None,
    ) -> None:
        """`seconds` of an iteration are theirs; `later` is the loop's `call_soon`. `within`: the turns in the middle of
        which these may be taken, and whose time this is not."""
        self._slice = seconds
        self._clock = clock
        self._later = later
        self._within = within
        self._waiting: deque[tuple[Turn, float]] = deque()
        """Each with the time at which it began to wait."""
        self._is_due = False
        """Whether `_take_turns` runs or is about to."""
        self._spent = 0.0
        """Seconds of the slice that are used, perhaps in several iterations: at its end a request waits for the next
        one, and a new slice begins. That costs less than to notice each iteration."""
        self._elsewhere = 0.0
        """Seconds of the time under way that belong to other turns."""
        self.longest_wait = 0.0
        """Longest time, in seconds, that somebody waited for a turn, since this was last taken."""
        self.waited_at = -math.inf
        """When somebody last had to wait, here or for turns within these."""

    def __repr__(self) -> str:
        return f"<Turns waiting={len(self._waiting)}>"

    @property
    def is_free(self) -> bool:
        """Whether one may go on without a turn; otherwise it must `wait`."""
        return self._spent < self._slice and not self._waiting

    def spend(self, seconds: float) -> None:
        """One that did not wait took so long."""
        self._spent += max(0.0, seconds - self._elsewhere)
        self._elsewhere = 0.0
        if self._within is not None:
            self._within.spend_elsewhere(seconds)

    def spend_elsewhere(self, seconds: float) -> None:
        """So much of the time under way belongs to other turns."""
        self._elsewhere += seconds

    def wait(self, turn: Turn) -> None:
        """Call `take_turn` from the next iteration on, until nothing is left. It must not wait already."""
        now = self._clock()
        self._waiting.append((turn, now))
        self.note_wait(now)
        self._schedule()

    def note_wait(self, now: float) -> None:
        self.waited_at = now
        if self._within is not None:
            self._within.note_wait(now)

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
        self._elsewhere = 0.0
        try:
            while waiting and now - began - self._elsewhere < self._slice:
                turn, since = waiting.popleft()
                if _take(turn):
                    waiting.append((turn, since))
                now = self._clock()
                self.longest_wait = max(self.longest_wait, now - since)
        finally:
            self._spent = 0.0 if waiting else now - began - self._elsewhere
            self._elsewhere = 0.0
            self._is_due = False
            if waiting:
                self._schedule()


def _take(turn: Turn) -> bool:
    try:
        return turn.take_turn()
    except Exception:
        turn.abort()
        raise
