"""How much of their quotas tenants have used, for the metrics. The limit store is asked when the metrics are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from ..quota.limits import Quota, Usage
from ..quota.tenants import Tenant, models_and_name, shared_limits
from .exposition import Labels

MAX_TENANTS = 1000
"""Most tenants that are shown. Those with open streams come first."""
REFRESH = 2.0
"""Least seconds between two rounds of queries."""
KEPT = 180.0
"""Seconds for which an answer is shown. Longer than the time between two scrapes, since a store outside this process
answers too late for the scrape that asks it."""
AT_ONCE = 2
"""Most queries under way. Admissions use the same store, and must not wait behind queries about all tenants."""

Part = tuple[Labels, float]


class QuotaSource(Protocol):
    """The source of tenants and their usage."""

    def tenants(self) -> Sequence[Tenant]:
        """Tenants in the configuration, and those in a directory that were used recently."""

    def stored_usage(self, limits: Sequence[Quota], done: Callable[[Sequence[Usage]], None]) -> None:
        """The usage of one tenant's limits, as the store has it. `done` is called once, at once or later; with an empty
        sequence if the store does not answer."""


class _Taken(NamedTuple):
    """An answer of the store about one quota."""

    amount: int
    """What is charged, and what is leased."""
    until: float
    """When it is too old, or its period is over."""


class QuotaFigures:
    """The used parts of quotas of tokens and money that last a day or a month; not those of users and sessions."""

    __slots__ = (
        "_asked_at",
        "_clock",
        "_is_asking",
        "_is_closed",
        "_known",
        "_source",
        "_under_way",
        "_waiting",
        "_wall",
    )

    def __init__(self, source: QuotaSource, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """`clock` is monotonic; `wall` returns seconds since the epoch."""
        self._source = source
        self._clock = clock
        self._wall = wall
        self._known: dict[str, _Taken] = {}
        """By the quota's key."""
        self._asked_at: float | None = None
        """When the last round of queries began."""
        self._waiting: deque[list[Quota]] = deque()
        """Queries of this round that were not made yet, each about a tenant."""
        self._under_way = 0
        self._is_asking = self._is_closed = False

    def look(self, busy: Container[str]) -> Generator[bytes, None, list[Part]]:
        """Query the store, if that is due, and return the labels and the used part (1: all) of each quota of which an
        answer is known. `busy`: the tenants with open streams. Yields empty pieces in between."""
        is_due = self._is_due()
        found: list[Part] = []
        keys: set[str] = set()
        shown = 0
        for tenant in self._in_order(busy):
            quotas = [limit for limit in shared_limits(tenant, self._wall()) if isinstance(limit, Quota)]
            if quotas:
                if is_due:
                    self._waiting.append(quotas)
                    self._ask()
                found += self._parts(tenant.name, quotas)
                keys.update([quota.key for quota in quotas])
                shown += 1
            yield b""
            if shown == MAX_TENANTS:
                break
        self._known = {key: taken for key, taken in self._known.items() if key in keys}
        return found

    def close(self) -> None:
        """Make no more queries."""
        self._is_closed = True

    def _in_order(self, busy: Container[str]) -> list[Tenant]:
        return sorted(self._source.tenants(), key=lambda tenant: tenant.name not in busy)

    def _is_due(self) -> bool:
        now = self._clock()
        if self._waiting or self._under_way or (self._asked_at is not None and now - self._asked_at < REFRESH):
            return False
        self._asked_at = now
        return True

    def _ask(self) -> None:
        if self._is_asking or self._is_closed:  # the former: an answer came at once; the loop below goes on
            return
        self._is_asking = True
        try:
            while self._waiting and self._under_way < AT_ONCE:
                quotas = self._waiting.popleft()
                self._under_way += 1
                self._source.stored_usage(quotas, partial(self._answered, quotas))
        finally:
            self._is_asking = False

    def _answered(self, quotas: Sequence[Quota], found: Sequence[Usage]) -> None:
        self._under_way -= 1
        now = self._clock()
        for quota in quotas:
            self._known.pop(quota.key, None)
        for usage in found:
            until = now + (KEPT if usage.reset is None else min(KEPT, usage.reset))
            self._known[usage.limit.key] = _Taken(usage.used + usage.reserved, until)
        self._ask()

    def _parts(self, tenant: str, quotas: Sequence[Quota]) -> Iterator[Part]:
        now = self._clock()
        for quota in quotas:
            taken = self._known.get(quota.key)
            if taken is not None and now < taken.until:
                models, name = models_and_name(quota.key)
                yield {"tenant": tenant, "limit": name, "models": models or ""}, taken.amount / quota.limit
