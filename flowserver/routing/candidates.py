"""Which provider of a route gets a request next. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Protocol

from ..errors import RelayError
from ..http.messages import RequestHead
from ..quota.tenants import digest_of, key_of
from ..relay.failures import busy
from .claim import Refusal
from .places import Waiter
from .queue_refusal import queue_is_full
from .routes import Route, choose
from .upstream_host import UpstreamHost

NOBODY: Final[frozenset[UpstreamHost]] = frozenset()
OUT_RETRY = 5.0
"""Seconds to suggest for a retry if the operator has taken all providers out."""
NAMED = 4
"""Most providers that an error names."""


class Choice(Protocol):
    """How one of equal providers is chosen."""

    def choose(
        self, tier: Collection[UpstreamHost], candidates: Sequence[UpstreamHost], full: Collection[UpstreamHost]
    ) -> UpstreamHost:
        """One of `candidates`, the available ones of `tier`. `full`: those that only lack a place."""


class ByLoad:
    """A `Choice` by weight and load. `random` returns numbers from 0 to below 1."""

    __slots__ = ("_random",)

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def choose(
        self, tier: Collection[UpstreamHost], candidates: Sequence[UpstreamHost], full: Collection[UpstreamHost]
    ) -> UpstreamHost:
        return choose(candidates, self._random)


def subjects(
    host: UpstreamHost, request: RequestHead, model: str | None
) -> tuple[tuple[str, bytes], tuple[str, str | None]]:
    """The key and the model that a refusal by `host` concerns (see `cooldowns`)."""
    key = b"" if host.settings.holds_key else digest_of(key_of(request) or b"")
    return ("key", key), ("model", model)


class Search:
    """A request that looks for a provider. `waiter` asks for the place; `is_welcome`: whether a provider currently
    accepts such a request."""

    __slots__ = ("choice", "is_welcome", "now", "waiter")

    def __init__(self, now: float, choice: Choice, waiter: Waiter, is_welcome: Callable[[UpstreamHost], bool]) -> None:
        self.now = now
        self.choice = choice
        self.waiter = waiter
        self.is_welcome = is_welcome


def next_candidate(
    route: Route,
    tried: Collection[UpstreamHost],
    search: Search,
) -> UpstreamHost | None:
    """The next provider in the order of fallback that was not tried, is healthy and has a free place or room in its
    queue; None if there is none.

    If no provider of the route is healthy, those that fail their checks or are ejected get requests: checks and
    statistics may be wrong, which is not worth an outage. But an open circuit breaker has seen requests fail, and the
    operator knows why a provider is taken out.
    """
    found = _first(route, tried, search, at_worst=False)
    if found is not None or not any(map(route.avoids, route.hosts)) or _has_healthy(route, search.now):
        return found
    return _first(route, tried, search, at_worst=True)


def _first(route: Route, tried: Collection[UpstreamHost], search: Search, *, at_worst: bool) -> UpstreamHost | None:
    """`at_worst`: including those that the route avoids."""
    now, waiter, is_welcome = search.now, search.waiter, search.is_welcome
    ejected = NOBODY if route.outliers is None else route.outliers.ejected
    for tier in route.tiers:
        free, full, queueing = [], [], []
        for host in tier:
            if host in tried or host.is_out or not host.health.allows(now) or not is_welcome(host):
                continue
            if (host.checks.cause is not None or host in ejected) and not at_worst:
                continue
            if not host.places.is_full(waiter):
                free.append(host)
                continue
            full.append(host)
            if host.places.has_room(waiter):
                queueing.append(host)
        if free or queueing:
            return search.choice.choose(tier, free or queueing, full)
    return None


def _has_healthy(route: Route, now: float, *, beside: UpstreamHost | None = None) -> bool:
    return any(
        host is not beside and not host.is_out and host.health.allows(now) and not route.avoids(host)
        for host in route.hosts
    )


def is_dispensable(host: UpstreamHost, routes: Iterable[Route], now: float) -> bool:
    """Whether each route of `host` has another healthy provider, so that waiting requests can go there."""
    return all(_has_healthy(route, now, beside=host) for route in routes if host in route.hosts)


def unavailable(route: Route, waiter: Waiter, now: float, refusal: Refusal | None) -> RelayError:
    """The error if all providers of the route are unhealthy or full. `refusal`: by the last one that had no place;
    None: none refused."""
    healthy = [host for host in route.hosts if not host.is_out and host.health.allows(now) and not route.avoids(host)]
    if refusal is not None and healthy:
        return queue_is_full(refusal)
    full = [host.places.refusal(waiter) for host in healthy if host.places.is_full(waiter)]
    if full:
        return queue_is_full(min(full, key=_wait))
    wait = min((host.health.available_in(now) for host in route.hosts if not host.is_out), default=OUT_RETRY)
    found = {host.name: trouble for host in route.hosts if (trouble := host.trouble(now)) is not None}
    why = "; ".join(f"{name} {trouble}" for name, trouble in list(found.items())[:NAMED])
    text = "No provider for this request is available now" + (f": {why}." if why else ".")
    return busy(text, after=max(1, math.ceil(wait)))


def _wait(refusal: Refusal) -> float:
    return refusal.wait or 0.0
