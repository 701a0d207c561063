"""A queue in which tenants take turns by the tokens that they were served: virtual token counters (VTC, "Fairness in
Serving Large Language Models", OSDI 2024). No I/O.

Each tenant has a counter: the tokens it was served, divided by its weight. The waiting tenant with the lowest counter
is next; within a tenant, requests go in order of arrival. A tenant that starts to wait is raised to the lowest counter
of those already waiting, so that idleness earns no credit. Joining, leaving and taking cost at most O(log n) in the
number of waiting tenants.

The paper's batches change with every token, but places here only when an answer is over: evening out the counters could
leave a tenant without any place for seconds. So a waiting tenant keeps most of its share of the places, unless its
counter is ahead by more than a share of the places costs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

W = TypeVar("W")
"""A waiter; must be hashable."""

KEPT = 0.75
"""The part of its share of the places that a waiting tenant keeps."""
MOST_RESTING = 1024
"""Most idle tenants whose counters are kept. Only counters above a newcomer's are worth keeping."""


class Share(Generic[W]):
    """What one tenant holds, waits for and was served."""

    __slots__ = ("counter", "held", "name", "waiting", "weight")

    def __init__(self, name: str, weight: int) -> None:
        self.name = name
        self.weight = weight
        self.counter = 0.0
        """Tokens per unit of weight."""
        self.held = 0
        """Places."""
        self.waiting: OrderedDict[W, int] = OrderedDict()
        """In order of arrival, with the expected tokens of each. An OrderedDict, because a plain dict scans the holes
        left at its beginning."""

    def __repr__(self) -> str:
        return f"<Share of {self.name or 'all'}: {self.held} held, {len(self.waiting)} waiting, at {self.counter:.0f}>"


class Least(Generic[W]):
    """Finds the share with the least of a changing figure among those with waiters.

    The recorded figure may be lower than the true one: it is corrected when its turn comes. Only if the true one falls
    must it be recorded again. Ties are broken by the order of recording.
    """

    __slots__ = ("_enough", "_figure", "_noted", "_order")

    def __init__(self, figure: Callable[[Share[W]], float]) -> None:
        self._figure = figure
        self._noted: list[tuple[float, int, Share[W]]] = []
        self._order = count()
        self._enough = _FEW

    def note(self, share: Share[W]) -> None:
        """Record a share that has begun to wait, or whose figure has fallen."""
        if len(self._noted) >= self._enough:
            self._tidy()
        heappush(self._noted, (self._figure(share), next(self._order), share))

    def find(self) -> Share[W] | None:
        noted = self._noted
        while noted:
            figure, _, share = noted[0]
            if not share.waiting:
                heappop(noted)
                continue
            true = self._figure(share)
            if figure >= true:
                return share
            heapreplace(noted, (true, next(self._order), share))
        return None

    def clear(self) -> None:
        self._noted.clear()

    def _tidy(self) -> None:
        """Rebuild the heap with each share once."""
        first: dict[Share[W], tuple[float, int, Share[W]]] = {}
        for entry in sorted(self._noted, key=_place):
            if entry[2].waiting:
                first.setdefault(entry[2], entry)
        self._noted = list(first.values())
        heapify(self._noted)
        self._enough = max(_FEW, 2 * len(self._noted))


_FEW = 64


def _place(entry: tuple[float, int, object]) -> tuple[float, int]:
    return entry[:2]


class FairQueue(Generic[W]):
    """The waiters of one class at one provider, and what each tenant was served."""

    __slots__ = ("_fewest", "_fullest", "_last", "_next", "_resting", "_shares", "_where", "held", "weights")

    def __init__(self) -> None:
        self._shares: dict[str, Share[W]] = {}
        self._where: dict[W, Share[W]] = {}
        self._resting: OrderedDict[str, Share[W]] = OrderedDict()
        """The shares that hold nothing and wait for nothing."""
        self._next: Least[W] = Least(_counter)
        self._fewest: Least[W] = Least(_places)
        self._fullest: Least[W] = Least(_emptiness)
        self._last: Share[W] | None = None
        """The tenant that got the last place: while nobody waits, a newcomer starts at its counter."""
        self.held = 0
        """Places that its tenants hold."""
        self.weights = 0
        """Sum of the weights of waiting tenants."""

    def __repr__(self) -> str:
        return f"<FairQueue: {len(self)} waiting, {len(self._shares)} tenants known, {self.held} places held>"

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, waiter: W) -> bool:
        return waiter in self._where

    @property
    def known(self) -> int:
        """Number of tenants with a share."""
        return len(self._shares)

    def waiting_of(self, tenant: str) -> int:
        share = self._shares.get(tenant)
        return len(share.waiting) if share is not None else 0

    def counter_of(self, tenant: str) -> float:
        share = self._shares.get(tenant)
        return share.counter if share is not None else 0.0

    # --- waiting ----------------------------------------------------------------------------------------------------

    def join(self, waiter: W, tenant: str, weight: int, expected: int) -> None:
        """Start to wait. `expected`: the tokens that it will probably use."""
        share = self._share(tenant, weight)
        is_new = not share.waiting
        if is_new:
            self._lift(share)
            self.weights += share.weight
        share.waiting[waiter] = expected
        self._where[waiter] = share
        if is_new:
            self._next.note(share)
            self._fewest.note(share)
        self._fullest.note(share)

    def leave(self, waiter: W) -> bool:
        """Stop waiting. Returns False if it does not wait here."""
        share = self._where.pop(waiter, None)
        if share is None:
            return False
        del share.waiting[waiter]
        self._on_fewer(share)
        return True

    def take(self, places: int = 0) -> tuple[W, str, int] | None:
        """Give a place to the next waiter. Returns it, its tenant, and the expected tokens that are charged; None:
        nobody waits. `places`: the total number of places."""
        share = self._find(places)
        if share is None:
            return None
        waiter, expected = share.waiting.popitem(last=False)
        del self._where[waiter]
        self._grant(share, expected)
        self._on_fewer(share)
        return waiter, share.name, expected

    def remove_next(self) -> W | None:
        """Remove the next waiter without a place."""
        share = self._next.find()
        if share is None:
            return None
        waiter, _ = share.waiting.popitem(last=False)
        del self._where[waiter]
        self._on_fewer(share)
        return waiter

    @property
    def fullest(self) -> Share[W] | None:
        """The tenant with the most waiters relative to its weight; None: nobody waits."""
        return self._fullest.find()

    def remove_youngest(self, share: Share[W]) -> W:
        """Remove the newest waiter of a tenant, without a place."""
        waiter, _ = share.waiting.popitem()
        del self._where[waiter]
        self._on_fewer(share)
        return waiter

    # --- places and tokens ------------------------------------------------------------------------------------------

    def grant(self, tenant: str, weight: int, expected: int) -> None:
        """Give a place to a request that did not wait."""
        share = self._share(tenant, weight)
        if not share.waiting:
            self._lift(share)
        self._grant(share, expected)

    def charge(self, tenant: str, tokens: int) -> None:
        """Charge tokens beyond those charged before; negative: fewer than expected."""
        share = self._shares.get(tenant)
        if share is None:
            return
        share.counter += tokens / share.weight
        if tokens < 0 and share.waiting:
            self._next.note(share)

    def release(self, tenant: str) -> None:
        """A place of `tenant` is free again."""
        share = self._shares.get(tenant)
        if share is not None and share.held:
            share.held -= 1
            self.held -= 1
            if share.waiting:
                self._fewest.note(share)
            self._rest(share)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _share(self, tenant: str, weight: int) -> Share[W]:
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = Share(tenant, weight)
            return share
        if not (share.held or share.waiting):
            self._resting.pop(tenant, None)
        if share.weight != weight:  # changed by a reload
            if share.waiting:
                self.weights += weight - share.weight
            share.weight = weight
        return share

    def _lift(self, share: Share[W]) -> None:
        share.counter = max(share.counter, self._floor())

    def _floor(self) -> float:
        """The counter at which a newcomer starts."""
        least = self._next.find()
        if least is not None:
            return least.counter
        return self._last.counter if self._last is not None else 0.0

    def _find(self, places: int) -> Share[W] | None:
        """The tenant whose turn it is."""
        first, fewest = self._next.find(), self._fewest.find()
        if first is None or fewest is None or fewest is first:
            return first
        share = places / self.weights
        if fewest.held >= int(KEPT * share * fewest.weight):
            return first
        lead = share * next(iter(fewest.waiting.values()))
        return fewest if fewest.counter - first.counter <= lead else first

    def _grant(self, share: Share[W], expected: int) -> None:
        share.counter += expected / share.weight
        share.held += 1
        self.held += 1
        self._last = share

    def _on_fewer(self, share: Share[W]) -> None:
        if not share.waiting:
            self.weights -= share.weight
            self._rest(share)

    def _rest(self, share: Share[W]) -> None:
        """Keep an idle tenant's counter if it is ahead of others', but keep nothing when all are idle: then nobody
        competes."""
        if share.held or share.waiting:
            return
        if not self.held and not self._where:
            self._shares.clear()
            self._resting.clear()
            self._next.clear()
            self._fewest.clear()
            self._fullest.clear()
            self._last = None
            return
        self._resting[share.name] = share
        floor = self._floor()
        while self._resting:
            oldest = next(iter(self._resting.values()))
            if oldest.counter > floor and len(self._resting) <= MOST_RESTING:
                return
            del self._resting[oldest.name], self._shares[oldest.name]


def _counter(share: Share[W]) -> float:
    return share.counter


def _places(share: Share[W]) -> float:
    return share.held / share.weight


def _emptiness(share: Share[W]) -> float:
    return -len(share.waiting) / share.weight
