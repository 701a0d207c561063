"""The providers in the live feed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..routing.upstream_host import UpstreamHost
from .live_census import Share
from .metrics import Metrics

SUMS = (
    "open",
    "waiting",
    "requests",
    "answers",
    "failed",
    "retries",
    "fallbacks",
    "head_seconds",
    "first_tokens",
    "first_token_seconds",
    "hedges",
    "queue_seconds",
    "breaker_opened",
    "connections_busy",
    "connections_idle",
    "streams",
    "paused",
    "held_bytes",
    "tokens_per_second",
)
"""Fields that are summed over workers."""
_SEVERITY = {"closed": 0, "half_open": 1, "open": 2}


def rows(metrics: Metrics, shares: Mapping[str, Share], now: float) -> list[dict[str, Any]]:
    """A row for each provider in the configuration. `shares`: the current totals of each provider's streams."""
    pools = {pool.name: pool for pool in metrics.pools}
    first = metrics.tokens.first_tokens()
    nothing = Share()
    found = []
    for host in metrics.upstreams:
        row = _row(host, now)
        row["first_tokens"], row["first_token_seconds"] = first.get(host.name, (0, 0.0))
        pool = pools.get(host.name)
        if pool is not None:
            idle = pool.idle_connections
            row["connections_busy"], row["connections_idle"] = pool.open_connections - idle, idle
        row.update(shares.get(host.name, nothing).figures())
        found.append(row)
    return found


def _row(host: UpstreamHost, now: float) -> dict[str, Any]:
    settings = host.settings
    return {
        "name": host.name,
        "url": f"{settings.url.scheme}://{settings.url.authority}",
        "health": host.health.state(now).name.lower(),
        "out": host.is_out,
        "available_in_seconds": round(host.health.available_in(now), 1),
        "open": host.open,
        "waiting": host.waiting,
        "places": settings.max_concurrent if host.adaptive is None else host.adaptive.limit,
        "adaptive": host.adaptive is not None,
        "unhealthy": host.checks.cause,
        "ejected": host.ejected,
        "ramp": round(host.ramp, 2),
        "requests": host.started,
        "answers": host.answers,
        "failed": host.failures.total(),
        "failures": dict(host.failures),
        "retries": host.retries,
        "fallbacks": host.fallbacks,
        "hedges": host.hedges,
        "head_seconds": round(host.head_seconds, 3),
        "queue_seconds": round(host.queued_seconds, 3),
        "breaker_opened": host.health.opened,
        "remaining": dict(host.remaining),
    }


def merged(told: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Merge the workers' rows into one row for each provider."""
    found: dict[str, dict[str, Any]] = {}
    for row in (row for rows_of_one in told for row in rows_of_one):
        known = found.get(row["name"])
        if known is None:
            found[row["name"]] = row
        else:
            _add(known, row)
    return list(found.values())


def _add(known: dict[str, Any], row: dict[str, Any]) -> None:
    for name in SUMS:
        known[name] = _rounded(known.get(name, 0) + row.get(name, 0))
    for name, count in row["failures"].items():
        known["failures"][name] = known["failures"].get(name, 0) + count
    for name, left in row["remaining"].items():
        known["remaining"][name] = min(left, known["remaining"].get(name, left))
    known["out"] = known["out"] or row["out"]
    known["unhealthy"] = known["unhealthy"] or row["unhealthy"]
    known["ejected"] = max(known["ejected"], row["ejected"])
    known["ramp"] = min(known["ramp"], row["ramp"])
    if _SEVERITY[row["health"]] > _SEVERITY[known["health"]]:
        known["health"], known["available_in_seconds"] = row["health"], row["available_in_seconds"]


def _rounded(figure: float) -> float:
    return round(figure, 3) if isinstance(figure, float) else figure
