"""The checked content of the file of FLOW_CONFIG: providers, routes and tenants. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..dialects.base import Auth
from ..dialects.profiles import quirks_for
from ..names import MODEL_BYTES, bounded
from ..quota.prices import PriceRow
from ..quota.tenants import Tenant, is_pattern
from ..quota.traffic_class import INTERACTIVE, TrafficClass
from .addresses import Url
from .file_keys import UPSTREAM_KEYS
from .parsers import Auto


@dataclass(frozen=True, slots=True)
class HealthSpec:
    """The `health` table of a provider. Times in seconds."""

    path: str
    """Including any query; the URL's own path is not prepended."""
    interval: float = 5.0
    timeout: float = 2.0
    failures: int = 3
    successes: int = 2
    expect: int = 200
    """Expected status."""


@dataclass(frozen=True, slots=True)
class OutlierSpec:
    """The `outliers` table of a route. Times in seconds; None is off."""

    interval: float = 10.0
    min_requests: int = 10
    max_errors: float | None = 0.2
    max_slowness: float | None = 3.0
    slow_intervals: int = 3
    ejection: float = 30.0
    max_ejected: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSpec:
    """One `[[upstreams]]` table, with the environment's values for missing keys. Times in seconds; None is off, or no
    limit."""

    place: str = field(compare=False)
    """Its place, for messages: `flowserver.toml: upstreams[1]`, or `FLOW_UPSTREAM`."""
    name: str
    url: Url
    api_key: str | None = field(default=None, repr=False)
    """None: the client's own credentials pass."""
    protocol: str = "auto"
    """"auto": by ALPN over TLS, HTTP/1.1 else; "h2" on a plain port: with prior knowledge."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Added to each request; they replace the client's of the same name."""
    models: tuple[tuple[str, str], ...] = ()
    """The client's model names to the provider's."""
    weight: int = 1
    slow_start: float | None = None
    health: HealthSpec | None = None
    """None: no active checks."""
    max_connections: int = 10_000
    max_concurrent: int | Auto | None = None
    queue: int | None = None
    """None: as many as there are places if `max_concurrent` is AUTO, else 0."""
    queue_timeout: float = 5.0
    ca: str | None = None
    """Authorities; None: the environment's, or the system's."""
    verify: bool = True
    connect_timeout: float
    first_byte_timeout: float | None
    idle_timeout: float | None
    keepalive: float | None
    """None: connections are not reused."""
    max_age: float | None
    dialect: str | None = None
    """Provider profile; None: detected from the host name."""
    auth: Auth | None = None
    """How the provider takes its key; None: detected from `dialect`, the host name or, failing both, each request."""
    ask_usage: bool

    @property
    def own_auth(self) -> Auth | None:
        """How the provider takes its key: as configured, else as known for this provider."""
        return self.auth if self.auth is not None else quirks_for(self.dialect, self.url.host).auth

    @property
    def signs(self) -> bool:
        """Whether the relay signs the requests. A provider that takes signatures also takes an API key instead."""
        return self.own_auth is Auth.AWS_SIGV4 and self.api_key is None


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One `[[routes]]` table: names of upstreams in the order of fallback, those of one tier share the load."""

    path: str
    models: tuple[str, ...]
    tiers: tuple[tuple[str, ...], ...]
    disconnect: str
    """`cancel` or `drain`."""
    max_tokens: int | None = None
    """None: only the environment's bound applies."""
    traffic_class: TrafficClass = INTERACTIVE
    """The highest class that its requests may have."""
    affinity: str = "none"
    """`session`, `prefix` or `none`."""
    outliers: OutlierSpec | None = None
    """None: no outlier detection."""
    first_token_timeout: float | None = None
    """Seconds; None: no limit."""
    hedge_share: float = 0.0
    """Share of requests and of their input tokens; 0: no hedges."""
    websocket: bool = False
    """Whether WebSockets pass."""


@dataclass(frozen=True, slots=True)
class Topology:
    upstreams: tuple[UpstreamSpec, ...]
    routes: tuple[RouteSpec, ...]
    tenants: tuple[Tenant, ...] = ()
    """The tenants in the file; Redis may have more."""
    open: bool = False
    """Whether the file says that it has no tenants on purpose."""
    prices: tuple[PriceRow, ...] = ()
    """In their order; empty: no model has a price."""
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """The keys that the file sets for providers and routes, such as `upstreams[1].weight`."""

    @property
    def models(self) -> frozenset[str]:
        """The names of models in the file, without patterns."""
        names: set[str] = set()
        for upstream in self.upstreams:
            names.update(name for pair in upstream.models for name in pair)
        patterns = [pattern for route in self.routes for pattern in route.models]
        for tenant in self.tenants:
            patterns += tenant.models
            patterns += [pattern for limits in tenant.model_limits for pattern in limits.models]
        names.update(pattern for pattern in patterns if not is_pattern(pattern))
        return frozenset(bounded(name, MODEL_BYTES) for name in names)

    @property
    def swept_times(self) -> list[float | None]:
        """The times that determine how often the periodic sweep must run."""
        swept = [key.name for key in UPSTREAM_KEYS if key.swept]
        times: list[float | None] = [getattr(spec, name) for spec in self.upstreams for name in swept]
        times += [spec.health.interval for spec in self.upstreams if spec.health is not None]
        for route in self.routes:
            if route.outliers is not None:
                times += (route.outliers.interval, route.outliers.ejection)
        return times
