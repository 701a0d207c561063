"""Which provider of a route may be asked next with one request. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable

from ..errors import RelayError
from ..http.messages import RequestHead
from ..quota.tenants import digest_of, key_of
from ..relay.failures import busy
from .routes import Route, choose
from .upstream_host import UpstreamHost

NOBODY: frozenset[UpstreamHost] = frozenset()
NAMED = 4
"""Providers that an error names."""


def subjects(
    host: UpstreamHost, request: RequestHead, model: str | None
) -> tuple[tuple[str, bytes], tuple[str, str | None]]:
    """The key and the model that a refusal of `host` is about (see `cooldowns`)."""
    key = b"" if host.settings.holds_key else digest_of(key_of(request) or b"")
    return ("key", key), ("model", model)


def next_candidate(
    route: Route,
    tried: Collection[UpstreamHost],
    *,
    now: float,
    random: Callable[[], float],
    is_welcome: Callable[[UpstreamHost], bool],
    at_worst: bool = False,
) -> UpstreamHost | None:
    """The next provider in the order of fallback that was not tried, is healthy and has a place or room in its queue;
    None when there is none. `is_welcome`: whether it takes a request like this one.

    Where no provider of the route is healthy, those are asked that fail their checks or are ejected (`at_worst`): what
    checks and statistics say may be wrong, and is not worth an outage. Circuit breakers saw requests fail.
    """
    ejected = NOBODY if route.outliers is None else route.outliers.ejected
    for tier in route.tiers:
        free, queueing = [], []
        for host in tier:
            if host in tried or not host.health.allows(now) or not is_welcome(host):
                continue
            if (host.checks.cause is not None or host in ejected) and not at_worst:
                continue
            if not host.places.is_full:
                free.append(host)
            elif host.places.has_room:
                queueing.append(host)
        if free or queueing:
            return choose(free or queueing, random)
    if at_worst or not any(map(route.avoids, route.hosts)) or _has_healthy(route, now):
        return None
    return next_candidate(route, tried, now=now, random=random, is_welcome=is_welcome, at_worst=True)


def _has_healthy(route: Route, now: float, *, beside: UpstreamHost | None = None) -> bool:
    return any(host is not beside and host.health.allows(now) and not route.avoids(host) for host in route.hosts)


def is_dispensable(host: UpstreamHost, routes: Iterable[Route], now: float) -> bool:
    """Whether each route of `host` has another healthy provider, to which those may go who wait for a place."""
    return all(_has_healthy(route, now, beside=host) for route in routes if host in route.hosts)


def unavailable(route: Route, now: float) -> RelayError:
    """Nobody may be asked: all providers of the route are unhealthy or full."""
    wait = min(host.health.available_in(now) for host in route.hosts)
    found = {host.name: trouble for host in route.hosts if (trouble := host.trouble(now)) is not None}
    why = "; ".join(f"{name} {trouble}" for name, trouble in list(found.items())[:NAMED])
    text = "No provider for this request is available now" + (f": {why}." if why else ".")
    return busy(text, after=max(1, math.ceil(wait)))
