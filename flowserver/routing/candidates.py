"""Which provider of a route may be asked next with one request. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from ..errors import RelayError
from ..http.messages import RequestHead
from ..quota.tenants import digest_of, key_of
from ..relay.failures import busy
from .claim import Refusal
from .places import Waiter
from .queue_refusal import queue_is_full
from .routes import Route, choose
from .upstream_host import UpstreamHost


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
    waiter: Waiter,
    is_welcome: Callable[[UpstreamHost], bool],
) -> UpstreamHost | None:
    """The next provider in the order of fallback that was not tried, is healthy and has a place or room in its queue;
    None when there is none. `waiter` asks for the place; `is_welcome`: whether a provider takes a request like it."""
    for tier in route.tiers:
        free, queueing = [], []
        for host in tier:
            if host in tried or not host.health.allows(now) or not is_welcome(host):
                continue
            if not host.places.is_full(waiter):
                free.append(host)
            elif host.places.has_room(waiter):
                queueing.append(host)
        if free or queueing:
            return choose(free or queueing, random)
    return None


def unavailable(route: Route, waiter: Waiter, now: float, refusal: Refusal | None) -> RelayError:
    """Nobody may be asked: all providers of the route are unhealthy or full. `refusal`: what the last one that the
    request asked in vain for a place has told; None: none has."""
    healthy = [host for host in route.hosts if host.health.allows(now)]
    if refusal is not None and healthy:
        return queue_is_full(refusal)
    full = [host.places.refusal(waiter) for host in healthy if host.places.is_full(waiter)]
    if full:
        return queue_is_full(min(full, key=_wait))
    wait = min(host.health.available_in(now) for host in route.hosts)
    return busy("No provider for this request is available now.", after=max(1, math.ceil(wait)))


def _wait(refusal: Refusal) -> float:
    return refusal.wait or 0.0
