"""Which providers serve a request, in which order, and with which request target. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Final

from ..dialects.api_paths import without_parameters
from ..http.messages import SESSION, RequestHead
from ..quota.traffic_class import INTERACTIVE, TrafficClass
from .affinity import Affinity
from .hedge_budget import HedgeBudget
from .outliers import Outliers
from .upstream_host import UpstreamHost

_SEMICOLON: Final = ord(";")


@dataclass(frozen=True, slots=True)
class FirstTokenPolicy:
    """How long a route's attempts may take to their first content."""

    timeout: float | None
    """Seconds after which an attempt without content is cancelled and the next provider tried; None: never."""
    hedge: HedgeBudget | None = None
    """The budget for hedges; None: there are none."""


@dataclass(frozen=True, slots=True)
class Route:
    """One `[[routes]]` table. `path` and `models` are shell patterns; no models: any model, named or not.

    `tiers` in the order of fallback; among the hosts of one tier weight and load decide. `max_tokens` bounds each
    answer (None: no bound); `drain_on_disconnect`: an answer whose client leaves is read to its end; `traffic_class`:
    the highest class of its requests; `affinity`: which host of a tier a request prefers (None: any); `outliers`
    compares the hosts of each tier (None: no detection); `first_token` None: no deadline and no hedges; `websocket`:
    WebSockets pass.
    """

    path: str
    models: tuple[str, ...]
    tiers: tuple[tuple[UpstreamHost, ...], ...]
    max_tokens: int | None = None
    drain_on_disconnect: bool = False
    traffic_class: TrafficClass = INTERACTIVE
    first_token: FirstTokenPolicy | None = None
    affinity: Affinity | None = None
    outliers: Outliers | None = None
    websocket: bool = False

    def avoids(self, host: UpstreamHost) -> bool:
        """Whether `host` is a last resort: it fails its health checks, or is ejected."""
        return host.checks.cause is not None or (self.outliers is not None and host in self.outliers.ejected)

    @property
    def hosts(self) -> Iterator[UpstreamHost]:
        """All hosts, in the order of fallback."""
        return (host for tier in self.tiers for host in tier)


class RouteTable:
    """The routes in their order: the first match serves the request."""

    __slots__ = ("_by_session", "_routes", "base_paths", "has_affinity", "needs_body", "routes")

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._routes: list[tuple[re.Pattern[bytes] | None, list[re.Pattern[str]], Route]] = [
            (
                re.compile(translate(route.path).encode(), re.IGNORECASE) if route.path != "*" else None,
                [re.compile(translate(model)) for model in route.models],
                route,
            )
            for route in routes
        ]
        hosts = [host for route in routes for host in route.hosts]
        paths = {host.settings.url.path for host in hosts}
        self.base_paths = tuple(sorted(path for path in paths if path.strip("/")))
        """Paths of providers' URLs, which are prepended to request paths."""
        renames = any(host.settings.models for host in hosts)
        affinities = [route.affinity for route in routes if route.affinity is not None]
        self.has_affinity = bool(affinities)
        self._by_session = all(affinity.by_session for affinity in affinities)
        self.needs_body = renames or self.has_affinity or any(route.models for route in routes)
        """Whether a request's model or conversation must be known before it is sent, so that its body must be read
        first."""

    def finds_conversation(self, request: RequestHead) -> bool:
        """Whether the body may be needed to find the conversation of the request, for a route with affinity."""
        return not (self._by_session and request.find(SESSION))

    def find(self, path: bytes, model: str | None, *, any_model: bool = False) -> Route | None:
        """The first route for `path`, in ASCII, and `model`; None if there is none.

        An unknown model (None) matches only routes that name no models, unless `any_model`: the request needs none.
        Case, trailing slashes and `;parameters` matter to some providers only, so none of them bypasses a route.
        """
        plain = path
        if path[-1:] == b"/" or _SEMICOLON in path:
            plain = without_parameters(path.decode("ascii")).rstrip("/").encode()
        for pattern, model_patterns, route in self._routes:
            if pattern is not None and not pattern.match(path) and (plain is path or not pattern.match(plain)):
                continue
            if not model_patterns or any_model or _matches(model_patterns, model):
                return route
        return None


def _matches(patterns: list[re.Pattern[str]], model: str | None) -> bool:
    return model is not None and any(pattern.match(model) for pattern in patterns)


def choose(hosts: Sequence[UpstreamHost], random: Callable[[], float]) -> UpstreamHost:
    """The less loaded one of two drawn by weight. `random` returns numbers from 0 to below 1."""
    if len(hosts) == 1:
        return hosts[0]
    first, second = _draw(hosts, random), _draw(hosts, random)
    return first if first.load <= second.load else second


def _draw(hosts: Sequence[UpstreamHost], random: Callable[[], float]) -> UpstreamHost:
    point = random() * sum(host.weight for host in hosts)
    for host in hosts:
        point -= host.weight
        if point < 0:
            return host
    return hosts[-1]


def join_target(base: str, target: bytes) -> bytes:
    """The request target under the base URL's path.

    Client libraries and providers both tend to have the version in their base URL, so an overlap counts once:
    `/openai/v1` and `/v1/chat/completions` give `/openai/v1/chat/completions`.
    """
    if not base:
        return target
    prefix = base.encode("ascii").split(b"/")[1:]
    path, question, query = target.partition(b"?")
    segments = path.split(b"/")[1:]
    for overlap in range(min(len(prefix), len(segments)), 0, -1):
        if prefix[-overlap:] == segments[:overlap]:
            segments = segments[overlap:]
            break
    return b"/" + b"/".join([*prefix, *segments]) + question + query
