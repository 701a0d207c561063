"""Which tenants use more than their share of the relay. No I/O, no clock."""

from __future__ import annotations

from math import exp

MEMORY = 2.0
"""Seconds after which a request counts for 1/e."""
_REFRESH = 0.1
_FORGOTTEN = 0.05


class TenantShares:
    """The admitted requests of each tenant in the last seconds, relative to its weight. The relay's own work is per
    request; tokens matter for limits, and for the queues for providers' places."""

    __slots__ = ("_counts", "_refreshed_at", "_total", "_weight", "_weights")

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}
        self._weights: dict[str, int] = {}
        self._total = 0.0
        self._weight = 0
        """The sum of the weights of tenants in `_counts`."""
        self._refreshed_at = 0.0

    def __len__(self) -> int:
        """Number of tenants with requests in the last seconds."""
        return len(self._counts)

    def count(self, tenant: str, weight: int) -> None:
        """Count an admitted request."""
        if tenant not in self._counts:
            self._counts[tenant] = 0.0
            self._weights[tenant] = weight
            self._weight += weight
        self._counts[tenant] += 1.0
        self._total += 1.0

    def is_above(self, tenant: str) -> bool:
        """Whether it has more, relative to its weight, than the average tenant."""
        count = self._counts.get(tenant, 0.0)
        return count * self._weight > self._total * self._weights.get(tenant, 1)

    def refresh(self, now: float) -> None:
        """Let old counts decay. Call this now and then."""
        lapse = now - self._refreshed_at
        if lapse < _REFRESH:
            return
        self._refreshed_at = now
        factor = exp(-lapse / MEMORY)
        kept = {tenant: left for tenant, count in self._counts.items() if (left := count * factor) >= _FORGOTTEN}
        self._weights = {tenant: self._weights[tenant] for tenant in kept}
        self._counts = kept
        self._total = sum(kept.values())
        self._weight = sum(self._weights.values())

    def clear(self) -> None:
        self._counts.clear()
        self._weights.clear()
        self._total, self._weight = 0.0, 0
