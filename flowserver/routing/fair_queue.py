"""A queue in which tenants take turns by the tokens that they were served: virtual token counters (VTC, "Fairness in
Serving Large Language Models", OSDI 2024). No I/O.

Each tenant has a counter: the tokens it was served, divided by its weight. Whoever waits and has the lowest is next,
within a tenant in order of arrival. A tenant that comes to wait is lifted to the lowest counter of those that wait
already, so that idleness earns no credit. Joining, leaving and taking are O(log n) at most, of the tenants that wait.

The paper's batches change with every token, places here only when an answer is over: counters that have to be evened
out could leave a tenant without any for seconds. So one that waits keeps most of its share of the places, as long as
its counter is not ahead by more than what a share of the places costs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

W = TypeVar("W")
"""One that waits; it is hashed."""

KEPT = 0.75
"""Of a tenant's share of the places, what it has while it waits for more."""
MOST_RESTING = 1024
"""Tenants whose counters are kept though they wait for nothing. Only a counter above what a newcomer gets is worth
keeping."""


class Share(Generic[W]):
    """What one tenant has, waits for and was served."""

    __slots__ = ("counter", "held", "name", "waiting", "weight")

    def __init__(self, name: str, weight: int) -> None:
        self.name = name
        self.weight = weight
        self.counter = 0.0
        """Tokens for each unit of weight."""
        self.held = 0
        """Places."""
        self.waiting: OrderedDict[W, int] = OrderedDict()
        """In order of arrival, and the tokens that each is expected to take. Ordered: a plain dict walks over the holes
        that are left at its beginning."""

    def __repr__(self) -> str:
        return f"<Share of {self.name or 'all'}: {self.held} held, {len(self.waiting)} waiting, at {self.counter:.0f}>"


class Least(Generic[W]):
    """Of the shares that have somebody waiting, the one with the least of a figure that changes.

    The figure that is noted may be lower than the true one: it is corrected when its turn comes. Only where the true
    one falls it has to be noted again. Equals go by when they were noted.
    """

    __slots__ = ("_enough", "_figure", "_noted", "_order")

    def __init__(self, figure: Callable[[Share[W]], float]) -> None:
        self._figure = figure
        self._noted: list[tuple[float, int, Share[W]]] = []
        self._order = count()
        self._enough = _FEW

    def note(self, share: Share[W]) -> None:
        """It has begun to wait, or its figure has fallen."""
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
        """Note each share once."""
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
    """Those of one class that wait at one provider, and what was served to whom."""

    __slots__ = ("_fewest", "_fullest", "_last", "_next", "_resting", "_shares", "_where", "held", "weights")

    def __init__(self) -> None:
        self._shares: dict[str, Share[W]] = {}
        self._where: dict[W, Share[W]] = {}
        self._resting: OrderedDict[str, Share[W]] = OrderedDict()
        """Those of `_shares` that hold nothing and wait for nothing."""
        self._next: Least[W] = Least(_counter)
        self._fewest: Least[W] = Least(_places)
        self._fullest: Least[W] = Least(_emptiness)
        self._last: Share[W] | None = None
        """Who got the last place: while nobody waits, a newcomer starts where that one is."""
        self.held = 0
        """Places that its tenants have."""
        self.weights = 0
        """Of the tenants that wait."""

    def __repr__(self) -> str:
        return f"<FairQueue: {len(self)} waiting, {len(self._shares)} tenants known, {self.held} places held>"

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, waiter: W) -> bool:
        return waiter in self._where

    @property
    def known(self) -> int:
        """Tenants of which something is kept."""
        return len(self._shares)

    def waiting_of(self, tenant: str) -> int:
        share = self._shares.get(tenant)
        return len(share.waiting) if share is not None else 0

    def counter_of(self, tenant: str) -> float:
        share = self._shares.get(tenant)
        return share.counter if share is not None else 0.0

    # --- waiting ----------------------------------------------------------------------------------------------------

    def join(self, waiter: W, tenant: str, weight: int, expected: int) -> None:
        """`expected`: the tokens that it will probably take."""
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
        """False: it does not wait here."""
        share = self._where.pop(waiter, None)
        if share is None:
            return False
        del share.waiting[waiter]
        self._on_fewer(share)
        return True

    def take(self, places: int = 0) -> tuple[W, str, int] | None:
        """The next one, its tenant, and the tokens that are charged for it by expectation; it has a place from now on.
        None: nobody waits. `places`: how many there are in all."""
        share = self._find(places)
        if share is None:
            return None
        waiter, expected = share.waiting.popitem(last=False)
        del self._where[waiter]
        self._grant(share, expected)
        self._on_fewer(share)
        return waiter, share.name, expected

    def remove_next(self) -> W | None:
        """Whoever would be next, who gets no place."""
        share = self._next.find()
        if share is None:
            return None
        waiter, _ = share.waiting.popitem(last=False)
        del self._where[waiter]
        self._on_fewer(share)
        return waiter

    @property
    def fullest(self) -> Share[W] | None:
        """The tenant with the most waiting for its weight; None: nobody waits."""
        return self._fullest.find()

    def remove_youngest(self, share: Share[W]) -> W:
        """The last that came of a tenant that has somebody waiting; it gets no place."""
        waiter, _ = share.waiting.popitem()
        del self._where[waiter]
        self._on_fewer(share)
        return waiter

    # --- places and tokens ------------------------------------------------------------------------------------------

    def grant(self, tenant: str, weight: int, expected: int) -> None:
        """One that did not wait has a place from now on."""
        share = self._share(tenant, weight)
        if not share.waiting:
            self._lift(share)
        self._grant(share, expected)

    def charge(self, tenant: str, tokens: int) -> None:
        """Tokens beyond those that were charged before; negative: fewer than expected."""
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
        if share.weight != weight:  # the configuration was read again
            if share.waiting:
                self.weights += weight - share.weight
            share.weight = weight
        return share

    def _lift(self, share: Share[W]) -> None:
        share.counter = max(share.counter, self._floor())

    def _floor(self) -> float:
        """Where a newcomer begins."""
        least = self._next.find()
        if least is not None:
            return least.counter
        return self._last.counter if self._last is not None else 0.0

    def _find(self, places: int) -> Share[W] | None:
        """Whose turn it is."""
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
        """Keep of a tenant that is idle what it was served beyond others, and nothing at all when all are idle: then
        nobody competes."""
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
