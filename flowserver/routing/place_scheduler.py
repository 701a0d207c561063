"""Who gets the next place at a provider: by class, then by tenant. No I/O: the time is handed in.

Interactive requests come first, and batch has a floor: a tenth of the grants, up to a tenth of the places, and a tenth
of the queue. Batch never has all places while there is interactive traffic: an interactive request that had to wait
until a batch stream is over would be as late as one without a class. So as many places as interactive requests needed
at once of late are theirs, and twice the root of that more: by so much requests that come at random exceed what they
needed before. Where there were none, batch has all.
"""

from __future__ import annotations

import math
from typing import Generic

from .claim import Claim, Refusal
from .fair_queue import FairQueue, Share, W
from .turnover import RecentPeak, Turnover

FLOOR = 10
"""Batch gets one of so many grants, places and waiting requests, at least."""


class PlaceScheduler(Generic[W]):
    """The places at one provider, all of them limited in number, and those who wait for them."""

    __slots__ = ("_batch", "_interactive", "_passed_over", "_peak", "_turnover", "most", "open", "queue")

    def __init__(self) -> None:
        self.most: int | None = None
        """Places; None: no limit, and nobody has to ask."""
        self.queue = 0
        """Requests that may wait."""
        self.open = 0
        """Places that are taken, those too that were taken when there was no limit."""
        self._interactive: FairQueue[W] = FairQueue()
        self._batch: FairQueue[W] = FairQueue()
        self._passed_over = 0
        """Interactive requests that got a place since batch has waited for one."""
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
        """Whether `claim` may wait."""
        return self.waiting < self.queue or self._victim(claim) is not None

    # --- asking -----------------------------------------------------------------------------------------------------

    def reserve(self, claim: Claim, expected: int, now: float) -> bool:
        """Grant a place if one is free and nobody of its class waits for it. `expected`: the tokens that it will
        probably take."""
        own = self._of(claim.is_batch)
        if len(own) or self.is_full(is_batch=claim.is_batch, now=now):
            return False
        own.grant(claim.tenant, claim.weight, expected)
        self._count(1, now)
        if not claim.is_batch:
            self._peak.note(own.held, now)
        return True

    def join(self, waiter: W, claim: Claim, expected: int, now: float) -> W | None:
        """Wait; to be called where there is room. Returns the one that has lost its place in the queue to it, if there
        is one."""
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
        """False: it does not wait."""
        return self._interactive.leave(waiter) or self._batch.leave(waiter)

    def take(self, now: float) -> tuple[W, int] | None:
        """Grant a free place to whoever is next, who leaves the queue, and is charged so many tokens. None: nobody may
        have one now."""
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
        """Whoever would be next leaves the queue without a place."""
        return (self._interactive if len(self._interactive) else self._batch).remove_next()

    # --- places that are held ---------------------------------------------------------------------------------------

    def charge(self, tenant: str, tokens: int, *, is_batch: bool) -> None:
        """Tokens beyond those that were charged before; negative: fewer than expected."""
        self._of(is_batch).charge(tenant, tokens)

    def release(self, tenant: str, tokens: int, *, is_batch: bool, now: float) -> None:
        """A place that was granted is free. `tokens` as for `charge`."""
        own = self._of(is_batch)
        own.charge(tenant, tokens)
        own.release(tenant)
        self._count(-1, now)

    def hold(self, places: int, now: float) -> None:
        """So many more are taken without having been granted, or free again if negative."""
        self._count(places, now)

    # --- what is told -----------------------------------------------------------------------------------------------

    def refusal(self, claim: Claim, now: float) -> Refusal:
        """What to tell a request that gets no place, whether it has waited or not."""
        own = self._of(claim.is_batch)
        wait = self._turnover.hold_time(now)
        if wait is not None and self.most:
            wait *= self._position(claim, own) / self.most
        mine = own.waiting_of(claim.tenant)
        weights = own.weights + (claim.weight if not mine else 0)
        is_own = bool(claim.tenant) and mine > 0 and mine * weights >= self.queue * claim.weight
        return Refusal(self.waiting, wait, is_own)

    def _position(self, claim: Claim, own: FairQueue[W]) -> float:
        """How many places have to come free, about, until a newcomer has one: its tenant gets one of so many."""
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

    def _choose(self, now: float) -> FairQueue[W] | None:
        """Whose turn it is."""
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
        """Places that batch may have."""
        peak = self._peak.at(now)
        return max(_floor(most), most - peak - math.ceil(2 * math.sqrt(peak)))

    def _victim(self, claim: Claim) -> FairQueue[W] | None:
        """Whose fullest tenant loses its youngest to `claim` while the queue is full. None: nobody's, as its own tenant
        has its share of the queue."""
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
