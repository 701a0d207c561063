"""Which provider of a route may be asked next with one request. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from ..errors import RelayError
from ..http.messages import RequestHead
from ..quota.tenants import digest_of, key_of
from ..relay.failures import busy
from .affinity import Preference
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
    is_welcome: Callable[[UpstreamHost], bool],
    preference: Preference | None = None,
) -> UpstreamHost | None:
    """The next provider in the order of fallback that was not tried, is healthy and has a place or room in its queue;
    None when there is none. `is_welcome`: whether it takes a request like this one. `preference` decides between equal
    ones; None: weight and load."""
    for tier in route.tiers:
        free, queueing = [], []
        for host in tier:
            if host in tried or not host.health.allows(now) or not is_welcome(host):
                continue
            if not host.places.is_full:
                free.append(host)
            elif host.places.has_room:
                queueing.append(host)
        if free or queueing:
            if preference is not None:
                return preference.choose(tier, free or queueing)
            return choose(free or queueing, random)
    return None


def unavailable(route: Route, now: float) -> RelayError:
    """Nobody may be asked: all providers of the route are unhealthy or full."""
    wait = min(host.health.available_in(now) for host in route.hosts)
    return busy("No provider for this request is available now.", after=max(1, math.ceil(wait)))
