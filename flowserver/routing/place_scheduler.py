"""Decides who gets the next place at a provider: by class, then by tenant. No I/O: the time is passed in.

Interactive requests come first, but batch has a floor: a tenth of the grants, up to a tenth of the places, and a tenth
of the queue. Batch never gets all places while there is interactive traffic: an interactive request that had to wait
for the end of a batch stream would gain nothing from its class. So interactive requests have reserved places: as many
as they recently needed at once, plus twice the square root of that, since random arrivals exceed their recent peak by
about as much. Without interactive traffic, batch may use all places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic

from .claim import Claim, Refusal
from .fair_queue import FairQueue, Share, W
from .turnover import RecentPeak, Turnover

FLOOR = 10
"""Batch gets at least one in this many grants, places and waiting requests."""


class PlaceScheduler(Generic[W]):
    """The places at one provider, and the requests that wait for them."""

    __slots__ = ("_batch", "_interactive", "_passed_over", "_peak", "_turnover", "most", "on_change", "open", "queue")

    def __init__(self) -> None:
        self.most: int | None = None
        """Number of places; None: no limit, and nobody has to ask."""
        self.queue = 0
        """Requests that may wait."""
        self.open = 0
        """Places that are taken, including those taken while there was no limit."""
        self.on_change: Callable[[float, int, int], None] | None = None
        """Told the time, the places that are taken from now on, and how many have just become free."""
        self._interactive: FairQueue[W] = FairQueue()
        self._batch: FairQueue[W] = FairQueue()
        self._passed_over = 0
        """Interactive requests that got a place since batch began to wait for one."""
        self._peak = RecentPeak()
        self._turnover = Turnover()

    def __repr__(self) -> str:
        places = "unlimited" if self.most is None else self.most
        return f"{self.open} open of {places}, {self.waiting} waiting"

    @property
    def waiting(self) -> int:
        return len(self._interactive) + len(self._batch)

    def waiting_of(self, *, is_batch: bool) -> int:
        return len(self._of(is_batch))

    def is_full(self, *, is_batch: bool, now: float) -> bool:
        """Whether no place is free for a request of this class."""
        if self.most is None:
            return False
        return self.open >= self.most or (is_batch and self._batch.held >= self._most_of_batch(self.most, now))

    def has_room(self, claim: Claim) -> bool:
        """Whether `claim` may join the queue."""
        return self.waiting < self.queue or self._victim(claim) is not None

    # --- asking -----------------------------------------------------------------------------------------------------

    def reserve(self, claim: Claim, expected: int, now: float) -> bool:
        """Grant a place if one is free and nobody of its class waits. `expected`: the tokens that it will probably
        use."""
        own = self._of(claim.is_batch)
        if len(own) or self.is_full(is_batch=claim.is_batch, now=now):
            return False
        own.grant(claim.tenant, claim.weight, expected)
        self._count(1, now)
        if not claim.is_batch:
            self._peak.note(own.held, now)
        return True

    def join(self, waiter: W, claim: Claim, expected: int, now: float) -> W | None:
        """Join the queue; call this only if there is room. Returns the waiter that loses its place in the queue to it,
        if any."""
        lost = None
        if self.waiting >= self.queue:
            victim = self._victim(claim)
            assert victim is not None
            lost = victim.remove_youngest(_fullest(victim))
        own = self._of(claim.is_batch)
        if claim.is_batch and not len(own):
            self._passed_over = 0
        own.join(waiter, claim.tenant, claim.weight, expected)
        if not claim.is_batch:
            self._peak.note(own.held + len(own), now)
        return lost

    def leave(self, waiter: W) -> bool:
        """Leave the queue. Returns False if it does not wait."""
        return self._interactive.leave(waiter) or self._batch.leave(waiter)

    def take(self, now: float) -> tuple[W, int] | None:
        """Grant a free place to the next waiter. Returns it, and the tokens charged; None: nobody may have one now."""
        chosen = self._choose(now)
        taken = chosen.take(self.most or 0) if chosen is not None else None
        if taken is None:
            return None
        if chosen is self._batch:
            self._passed_over = 0
        elif len(self._batch):
            self._passed_over += 1
        self._count(1, now)
        return taken[0], taken[2]

    def remove_next(self) -> W | None:
        """Remove the next waiter from the queue, without a place."""
        return (self._interactive if len(self._interactive) else self._batch).remove_next()

    # --- places that are held ---------------------------------------------------------------------------------------

    def charge(self, tenant: str, tokens: int, *, is_batch: bool) -> None:
        """Charge tokens beyond those charged before; negative: fewer than expected."""
        self._of(is_batch).charge(tenant, tokens)

    def release(self, tenant: str, tokens: int, *, is_batch: bool, now: float) -> None:
        """A granted place is free again. For `tokens` see `charge`."""
        own = self._of(is_batch)
        own.charge(tenant, tokens)
        own.release(tenant)
        self._count(-1, now)

    def hold(self, places: int, now: float) -> None:
        """This many more places are taken without a grant, or free again if negative."""
        self._count(places, now)

    # --- what is told -----------------------------------------------------------------------------------------------

    def refusal(self, claim: Claim, now: float) -> Refusal:
        """The refusal of a request that gets no place, whether it has waited or not."""
        own = self._of(claim.is_batch)
        wait = self._turnover.hold_time(now)
        if wait is not None and self.most:
            wait *= self._position(claim, own) / self.most
        mine = own.waiting_of(claim.tenant)
        weights = own.weights + (claim.weight if not mine else 0)
        is_own = bool(claim.tenant) and mine > 0 and mine * weights >= self.queue * claim.weight
        return Refusal(self.waiting, wait, is_own)

    def _position(self, claim: Claim, own: FairQueue[W]) -> float:
        """About how many places must become free until a newcomer gets one."""
        mine = own.waiting_of(claim.tenant)
        weights = own.weights + (claim.weight if not mine else 0)
        ahead = min(len(own) + 1.0, (mine + 1) * weights / claim.weight)
        return ahead + (len(self._interactive) if claim.is_batch else 0)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _of(self, is_batch: bool) -> FairQueue[W]:
        return self._batch if is_batch else self._interactive

    def _count(self, places: int, now: float) -> None:
        self.open += places
        self._turnover.changed(self.open, now)
        if self.on_change is not None:
            self.on_change(now, self.open, max(0, -places))

    def _choose(self, now: float) -> FairQueue[W] | None:
        """The queue whose turn it is."""
        most, interactive, batch = self.most, self._interactive, self._batch
        if most is None:
            return interactive if len(interactive) else batch
        if self.open >= most:
            return None
        if not len(interactive):
            return batch if batch.held < self._most_of_batch(most, now) else None
        is_owed = self._passed_over >= FLOOR - 1 and batch.held < _floor(most)
        return batch if is_owed and len(batch) else interactive

    def _most_of_batch(self, most: int, now: float) -> int:
        """Most places that batch may have."""
        peak = self._peak.at(now)
        return max(_floor(most), most - peak - math.ceil(2 * math.sqrt(peak)))

    def _victim(self, claim: Claim) -> FairQueue[W] | None:
        """The queue whose fullest tenant loses its newest request to `claim` while all room is taken. None: `claim`
        gets no room, as its own tenant has its share of the queue."""
        if not self.queue:
            return None
        if not claim.is_batch and len(self._batch) > self.queue // FLOOR:
            return self._batch
        own = self._of(claim.is_batch)
        fullest = own.fullest
        if fullest is None:
            return None
        more = (own.waiting_of(claim.tenant) + 1) / claim.weight
        return own if len(fullest.waiting) / fullest.weight > more else None


def _floor(most: int) -> int:
    return math.ceil(most / FLOOR)


def _fullest(queue: FairQueue[W]) -> Share[W]:
    fullest = queue.fullest
    assert fullest is not None
    return fullest
