"""A provider's places in one of several workers: it asks the parent, which grants them. No I/O.

Without a limit the parent is not asked, unless the breaker is half-open: then the parent's permission to probe comes
with the place. A request that has asked is a waiter like any other.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import count
from typing import Any

from ..relay.interfaces import Later
from .claim import AnswerLengths, Claim, Refusal
from .places import AT_ONCE, Claimant, Waiter
from .shared_health import SharedBreaker, Tell


class SharedPlaces:
    """A worker's `Places`. Without the parent there are no limited places, since nobody could count them."""

    __slots__ = (
        "_counted",
        "_due",
        "_health",
        "_is_charging",
        "_is_emptying",
        "_is_lost",
        "_is_told_batch_full",
        "_is_told_full",
        "_later",
        "_lengths",
        "_most",
        "_numbers",
        "_plain",
        "_queue",
        "_tell",
        "_told",
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
        """How many of them the parent counts."""
        self._plain = 0
        """How many of `_counted` were taken without a limit: the parent knows only their number."""
        self._numbers = count(1)
        self._waiting: OrderedDict[Waiter, int] = OrderedDict()
        """Requests that have asked for a place, with their numbers."""
        self._waiters: dict[int, Waiter] = {}
        self._lengths = AnswerLengths()
        self._due: Counter[tuple[bool, str]] = Counter()
        """Tokens not yet reported to the parent, by class and tenant."""
        self._is_charging = False
        self._told = Refusal(0, None, is_own=False)
        """The last report of the parent about the shared queue."""
        self._is_told_full = False
        self._is_told_batch_full = False
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
        """Adopt the parent's settings."""
        self._most, self._queue = most, queue
        if most is not None and self.open > self._counted:
            self._tell("hold", self.open - self._counted)
            self._plain += self.open - self._counted
            self._counted = self.open

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def waiting_of(self, *, is_batch: bool) -> int:
        if self._most is None:
            return 0 if is_batch else len(self._waiting)
        return sum(waiter.claim.is_batch is is_batch for waiter in self._waiting)

    def is_full(self, waiter: Waiter) -> bool:
        if self._most is None:
            return False
        if self._is_lost or self._is_told_full or self.open + len(self._waiting) >= self._most:
            return True
        return self._is_told_batch_full and waiter.claim.is_batch

    def has_room(self, waiter: Waiter) -> bool:
        """True: the parent decides, since even in a full queue a tenant gets its share."""
        return not self._is_lost and self._queue > 0

    def reserve(self, claimant: Claimant) -> bool:
        if self._most is not None or not (self._health.is_closed or self._is_lost):
            return False
        self.open += 1
        return True

    def charge(self, claim: Claim) -> None:
        """All charges of one event are reported to the parent together, even if empty while requests wait, since the
        report also marks the passing of time."""
        tokens = claim.advance()
        if tokens:
            self._due[claim.is_batch, claim.tenant] += tokens
        if not self._is_charging and (tokens or self._waiting):
            self._is_charging = True
            self._later(self._tell_charges)

    def release(self, claim: Claim | None) -> None:
        self.open -= 1
        if claim is not None and claim.charged is not None:
            self._lengths.learn(claim)
            self._counted -= 1
            self._tell("release", claim.number, claim.settle())
        elif self._plain:
            self._counted -= 1
            self._plain -= 1
            self._tell("release")

    def wait(self, waiter: Waiter) -> Refusal | None:
        """Ask for a place. If one seems free, the request says so: if others were faster, it can go elsewhere rather
        than wait here."""
        if self._is_lost:
            return self._told
        number = next(self._numbers)
        if self._most is None:
            self._tell("want", number, False)
        else:
            claim = waiter.claim
            expected = self._lengths.expected_cost(claim)
            self._tell("want", number, self.is_full(waiter), claim.tenant, claim.weight, claim.is_batch, expected)
        self._waiting[waiter] = number
        self._waiters[number] = waiter
        return None

    def leave(self, waiter: Waiter) -> None:
        number = self._waiting.pop(waiter, None)
        if number is not None:
            del self._waiters[number]
            self._tell("forgo", number)

    def refusal(self, waiter: Waiter) -> Refusal:
        return self._told

    def send_waiting_away(self) -> None:
        if self._waiting and not self._is_emptying:
            self._is_emptying = True
            self._later(self._empty)

    # --- what the parent tells --------------------------------------------------------------------------------------

    def on_granted(self, number: int, probe: bool, charged: int | None) -> None:
        """`charged` None: no limit was known when the place was requested."""
        waiter = self._remove(number)
        if probe:
            self._health.permit_probe()
        if waiter is None:  # it has left in the meantime
            self._give_back(number, charged)
        else:
            self.open += 1
            self._counted += 1
            if charged is None:
                self._plain += 1
            else:
                waiter.claim.charged, waiter.claim.number = charged, number
            waiter.on_place()
        self._health.return_permit()

    def on_refused(self, number: int, *why: Any) -> None:
        """Without `why`: the provider gets no requests now."""
        waiter = self._remove(number)
        refusal = Refusal(*why) if why else None
        if refusal is not None:
            self._told = refusal._replace(is_own=False)
        if waiter is not None:
            waiter.on_no_place(refusal)

    def on_busy(self, number: int) -> None:
        waiter = self._remove(number)
        if waiter is not None:
            waiter.on_busy()

    def on_queue(self, waiting: int, wait: float | None) -> None:
        """The number of waiting requests, and the expected wait of the next one."""
        self._told = Refusal(waiting, wait, is_own=False)

    def on_full(self, full: bool, batch_full: bool) -> None:
        """`batch_full`: no place is free for requests of that class."""
        self._is_told_full = full
        self._is_told_batch_full = batch_full

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

    def _give_back(self, number: int, charged: int | None) -> None:
        if charged is None:
            self._tell("release")
        else:
            self._tell("release", number, -charged)

    def _tell_charges(self) -> None:
        self._is_charging = False
        due = [[tenant, tokens, is_batch] for (is_batch, tenant), tokens in self._due.items()]
        self._due.clear()
        for first in range(0, max(1, len(due)), _CHARGES):
            self._tell("charge", due[first : first + _CHARGES])

    def _empty(self) -> None:
        for _ in range(AT_ONCE):
            if not self._waiting:
                self._is_emptying = False
                return
            waiter = next(iter(self._waiting))
            self.leave(waiter)
            waiter.on_no_place(None)
        self._later(self._empty)


_CHARGES = 1000
"""Most tenants in one message, whose size is bounded."""
