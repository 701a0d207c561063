"""Places at one provider, and the queue for them. No I/O."""

from __future__ import annotations

import math
from collections import OrderedDict
from enum import Enum
from typing import Protocol

from ..relay.interfaces import Later


class Waiter(Protocol):
    """A request that waits for a place."""

    def on_place(self) -> None:
        """A place is reserved for it, and it left the queue."""

    def on_no_place(self) -> None:
        """It left the queue without a place: nobody may ask this provider now."""

    def on_busy(self) -> None:
        """It was not in the queue yet, and others were faster: no place is free. Only where workers share places."""


class Places(Protocol):
    """The places of one process, or this process's part of those that workers share."""

    open: int
    """Requests under way."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""

    @property
    def is_full(self) -> bool:
        """Whether no place is free, as far as is known."""

    @property
    def has_room(self) -> bool:
        """Whether one more may wait, as far as is known."""

    def limit(self, most: int | None, queue: int) -> None:
        """From now on there are `most` places (None: no limit), and `queue` requests may wait."""

    def reserve(self) -> bool:
        """Reserve a place, if one is free at once and nobody waits for it."""

    def release(self) -> None:
        """A request is over: its place goes to whoever has waited longest."""

    def wait(self, waiter: Waiter) -> bool:
        """Join the queue; False when it is full."""

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue; harmless for one that is not in it."""

    def send_waiting_away(self) -> None:
        """The breaker has opened: those who wait look elsewhere, without a place."""


AT_ONCE = 32
"""Requests that leave the queue in one iteration of the event loop."""


class QueueState(Enum):
    RESTING = "resting"
    """Nobody waits, or no place is free."""
    SERVING = "serving"
    """Those who wait get the free places, after the present event."""
    EMPTYING = "emptying"
    """Those who wait are sent away, after the present event."""


class LocalPlaces:
    """`Places` of one process. They are assigned in order of arrival. Releasing one starts nothing in the same call
    stack: one loop serves the queue after the present event. Leaving the queue costs nothing."""

    __slots__ = ("_later", "_most", "_queue", "_queue_state", "_waiting", "open")

    def __init__(self, most: int | None, queue: int, later: Later) -> None:
        self._later = later
        self._queue_state = QueueState.RESTING
        self._most = math.inf if most is None else most
        self._queue = queue
        self.open = 0
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        """Ordered: a plain dict walks over the holes that are left at its beginning."""

    def __repr__(self) -> str:
        places = "unlimited" if self._most == math.inf else self._most
        return f"{self.open} open of {places}, {self.waiting} waiting ({self._queue_state.value})"

    def limit(self, most: int | None, queue: int) -> None:
        self._most = math.inf if most is None else most
        self._queue = queue
        self._serve_queue()  # there may be more places now

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return self.open >= self._most

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < self._queue

    def reserve(self) -> bool:
        if self.open >= self._most or self._waiting:
            return False
        self.open += 1
        return True

    def release(self) -> None:
        self.open -= 1
        self._serve_queue()

    def wait(self, waiter: Waiter) -> bool:
        if len(self._waiting) >= self._queue:
            return False
        self._waiting[waiter] = None
        return True

    def leave(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter, None)

    def send_waiting_away(self) -> None:
        if self._waiting:
            self._serve_queue()
            self._queue_state = QueueState.EMPTYING

    # --- the queue, after the present event -------------------------------------------------------------------------

    def _serve_queue(self) -> None:
        if self._waiting and self._queue_state is QueueState.RESTING:
            self._queue_state = QueueState.SERVING
            self._later(self._serve_waiting)

    def _serve_waiting(self) -> None:
        for _ in range(AT_ONCE):
            if not self._waiting or (self.is_full and self._queue_state is QueueState.SERVING):
                self._queue_state = QueueState.RESTING
                return
            self._serve_next()
        self._later(self._serve_waiting)

    def _serve_next(self) -> None:
        waiter, _ = self._waiting.popitem(last=False)
        if self._queue_state is QueueState.EMPTYING:
            waiter.on_no_place()
        else:
            self.open += 1
            waiter.on_place()
