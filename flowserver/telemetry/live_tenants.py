"""The tenants' usage of their limits, for the live feed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ..quota.limits import Limit, MoneyQuota, Usage
from ..quota.money import usd_number
from ..quota.tenants import Tenant, models_and_name, shared_limits
from .live_census import Share

MOST = 100
"""Most tenants that are shown. Those with open streams come first."""
REFRESH = 2.0
"""Seconds between two queries to the store, which may be on another machine."""

Used = Sequence[Usage]


class TenantSource(Protocol):
    """The source of tenants and their usage."""

    def tenants(self) -> Sequence[Tenant]:
        """Tenants in the configuration, and those in a directory that were used recently."""

    def usage(self, limits: Sequence[Limit], done: Callable[[Used], None]) -> None:
        """The usage of one tenant's limits. `done` is called once, at once or later; with an empty sequence if the
        store does not answer."""


class TenantFigures:
    """Rows of tenants, with the last answers of the store."""

    __slots__ = ("_asked_at", "_clock", "_pending", "_source", "_used", "_wall")

    def __init__(self, source: TenantSource, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """`clock` is monotonic; `wall` returns seconds since the epoch."""
        self._source = source
        self._clock = clock
        self._wall = wall
        self._used: dict[str, Used] = {}
        self._asked_at: float | None = None
        self._pending = 0
        """Queries that the store has not answered yet."""

    def refresh(self, shares: Mapping[str, Share]) -> Iterator[bytes]:
        """Query the store again, if that is due. Yields empty pieces in between."""
        now = self._clock()
        if self._pending or (self._asked_at is not None and now - self._asked_at < REFRESH):
            return
        self._asked_at = now
        shown = self._shown(shares)
        self._used = {tenant.name: self._used[tenant.name] for tenant in shown if tenant.name in self._used}
        for tenant in shown:
            limits = shared_limits(tenant, self._wall())
            if limits:
                self._pending += 1
                self._source.usage(limits, partial(self._answered, tenant.name))
            yield b""

    def rows(self, shares: Mapping[str, Share]) -> list[dict[str, Any]]:
        """`shares`: the current totals of each tenant's streams."""
        nothing = Share()
        return [
            {
                "name": tenant.name,
                "disabled": tenant.disabled,
                **shares.get(tenant.name, nothing).figures(),
                "limits": [_limit_row(usage) for usage in self._used.get(tenant.name, ())],
            }
            for tenant in self._shown(shares)
        ]

    def _answered(self, name: str, used: Used) -> None:
        self._pending -= 1
        if used:
            self._used[name] = used

    def _shown(self, shares: Mapping[str, Share]) -> list[Tenant]:
        return sorted(self._source.tenants(), key=lambda tenant: tenant.name not in shares)[:MOST]


def _limit_row(usage: Usage) -> dict[str, Any]:
    models, name = models_and_name(usage.limit.key)
    shown = usd_number if isinstance(usage.limit, MoneyQuota) else int
    return {
        "name": name,
        "models": models,
        "limit": shown(usage.limit.limit),
        "used": shown(usage.used),
        "reserved": shown(usage.reserved),
        "reset_seconds": usage.reset,
    }
