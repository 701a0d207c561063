"""A provider's places as one of several workers has them: it asks the parent, which grants them. No I/O.

Where there is no limit nobody is asked, unless the breaker is half-open: then the parent's leave to probe comes with
the place. A request that has asked is a waiter like any other.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count

from ..relay.interfaces import Later
from .places import AT_ONCE, Waiter
from .shared_health import SharedBreaker, Tell


class SharedPlaces:
    """A worker's `Places`. When the parent is gone, limited ones are no more: who has them could not be told."""

    __slots__ = (
        "_counted",
        "_health",
        "_is_emptying",
        "_is_lost",
        "_is_told_full",
        "_later",
        "_most",
        "_numbers",
        "_queue",
        "_tell",
        "_waiters",
        "_waiting",
        "open",
    )

    def __init__(self, tell: Tell, health: SharedBreaker, later: Later) -> None:
        self._tell = tell
        self._health = health
        self._later = later
        self._most: int | None = None
        self._queue = 0
        self.open = 0
        self._counted = 0
        """Those of them that the parent counts."""
        self._numbers = count(1)
        self._waiting: OrderedDict[Waiter, int] = OrderedDict()
        """Those that have asked for a place, and by which number."""
        self._waiters: dict[int, Waiter] = {}
        self._is_told_full = False
        self._is_emptying = False
        self._is_lost = False

    def __repr__(self) -> str:
        places = "unlimited" if self._most is None else self._most
        state = "lost" if self._is_lost else "full" if self._is_told_full else "shared"
        return f"{self.open} open of {places}, {self.waiting} waiting ({state})"

    # --- Places -----------------------------------------------------------------------------------------------------

    def limit(self, most: int | None, queue: int) -> None:
        self.adopt(most, queue)
        self._tell("limit", most, queue)

    def adopt(self, most: int | None, queue: int) -> None:
        """Go by what the parent knows already."""
        self._most, self._queue = most, queue
        if most is not None and self.open > self._counted:
            self._tell("hold", self.open - self._counted)
            self._counted = self.open

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        if self._most is None:
            return False
        return self._is_lost or self._is_told_full or self.open + len(self._waiting) >= self._most

    @property
    def has_room(self) -> bool:
        return not self._is_lost and len(self._waiting) < self._queue

    def reserve(self) -> bool:
        if self._most is not None or not (self._health.is_closed or self._is_lost):
            return False
        self.open += 1
        return True

    def release(self) -> None:
        self.open -= 1
        if self._counted:
            self._counted -= 1
            self._tell("release")

    def wait(self, waiter: Waiter) -> bool:
        """Ask for a place. One that seems free is asked for as such: if others were faster, the request may go
        elsewhere rather than wait here."""
        if self._is_lost:
            return False
        number = next(self._numbers)
        self._tell("want", number, self.is_full)
        self._waiting[waiter] = number
        self._waiters[number] = waiter
        return True

    def leave(self, waiter: Waiter) -> None:
        number = self._waiting.pop(waiter, None)
        if number is not None:
            del self._waiters[number]
            self._tell("forgo", number)

    def send_waiting_away(self) -> None:
        if self._waiting and not self._is_emptying:
            self._is_emptying = True
            self._later(self._empty)

    # --- what the parent tells --------------------------------------------------------------------------------------

    def on_granted(self, number: int, probe: bool) -> None:
        waiter = self._remove(number)
        if probe:
            self._health.permit_probe()
        self.open += 1
        self._counted += 1
        if waiter is None:  # it left meanwhile
            self.release()
        else:
            waiter.on_place()
        self._health.return_permit()

    def on_refused(self, number: int) -> None:
        waiter = self._remove(number)
        if waiter is not None:
            waiter.on_no_place()

    def on_busy(self, number: int) -> None:
        waiter = self._remove(number)
        if waiter is not None:
            waiter.on_busy()

    def on_full(self, full: bool) -> None:
        self._is_told_full = full

    def on_lost(self) -> None:
        """The parent is gone."""
        self._is_lost = True
        self.send_waiting_away()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _remove(self, number: int) -> Waiter | None:
        waiter = self._waiters.pop(number, None)
        if waiter is not None:
            del self._waiting[waiter]
        return waiter

    def _empty(self) -> None:
        for _ in range(AT_ONCE):
            if not self._waiting:
                self._is_emptying = False
                return
            waiter = next(iter(self._waiting))
            self.leave(waiter)
            waiter.on_no_place()
        self._later(self._empty)
