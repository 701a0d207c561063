"""Builds providers' hosts, routes and connection pools from the topology."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

from ..config.errors import ConfigError
from ..config.parsers import Auto, pinned
from ..config.settings import Config
from ..config.topology import RouteSpec, Topology, UpstreamSpec
from ..dialects.base import Auth
from ..dialects.profiles import quirks_for
from ..flow.bounded_buffer import Watermarks
from ..flow.memory_budget import UNLIMITED, MemoryBudget
from ..names import MODEL_BYTES, bounded
from ..relay.interfaces import Connector
from ..relay.provider import Deadlines, ProviderSettings
from ..routing.adaptive_places import LocalAdaptation
from ..routing.affinity import Affinity
from ..routing.checked_health import CheckedHealth
from ..routing.circuit_breaker import CircuitBreaker
from ..routing.cooldowns import Cooldowns
from ..routing.hedge_budget import HedgeBudget
from ..routing.outliers import OutlierPolicy, Outliers
from ..routing.places import LocalPlaces, Places
from ..routing.routes import FirstTokenPolicy, Route, RouteTable
from ..routing.upstream_host import Adaptation, UpstreamHost
from ..stores.shared_state import SharedState
from ..upstream.aws import SigningUnavailable, aws_signer
from ..upstream.connect import ConnectAttempts
from ..upstream.dialer import Dialer, tls_context
from ..upstream.h1 import UpstreamH1
from ..upstream.h2 import UpstreamH2
from ..upstream.pool import Cancellable, Connected, Failed, Pool, PoolSettings
from ..upstream.receive_window import (
    NARROW,
    STREAM_WINDOW,
    UNSENT_UPLOAD,
    AdaptiveFlow,
    KernelBuffers,
    StreamWindows,
)
from ..upstream.resolver import NameFigures, Resolver, fixed_address
from ..upstream.signing import SigningConnector
from ..upstream.tunnels import TunnelConnector
from .tls_files import read_pem, without_certificate


@dataclass(frozen=True, slots=True)
class Providers:
    """The providers and routes of one configuration."""

    hosts: tuple[UpstreamHost, ...]
    pools: tuple[Pool, ...]
    routes: RouteTable
    specs: tuple[UpstreamSpec, ...] = ()
    """The specs that the pools were built from, in the same order."""
    names: tuple[tuple[str, NameFigures], ...] = ()
    """Providers whose host is a name, not an address, with the figures of its look-ups."""

    def without(self, later: Providers) -> Providers:
        """The hosts and pools that `later` does not use."""
        hosts = tuple(host for host in self.hosts if host not in later.hosts)
        return Providers(hosts, tuple(pool for pool in self.pools if pool not in later.pools), RouteTable(()))

    @property
    def is_unused(self) -> bool:
        """Whether no request is under way at any provider."""
        busy = any(host.open or host.waiting for host in self.hosts)
        return not busy and all(pool.is_unused for pool in self.pools)


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """What bounds the bytes that are in flight."""

    watermarks: Watermarks
    memory: MemoryBudget = UNLIMITED


def build(
    config: Config,
    topology: Topology,
    limits: FlowLimits,
    resolver: Resolver,
    before: Providers | None = None,
    shared: SharedState | None = None,
) -> Providers:
    """Build the providers. Needs a running event loop. Raises ConfigError before anything is changed. `shared`: places,
    breakers and cooldowns are shared by all workers; None: they are this process's own.

    Providers with the same name and URL are kept from `before` with their places, queues, health and figures, and with
    their connections if no setting of these has changed.
    """
    dials, problems = [], []
    websockets = {name for route in topology.routes if route.websocket for tier in route.tiers for name in tier}
    for spec in topology.upstreams:
        try:
            dial = _Dial(config, spec, limits, resolver)
            if spec.name in websockets:
                dial.open_tunnels()
            dials.append(dial)
        except OSError as error:
            where = "FLOW_UPSTREAM_CA" if spec.ca is None else f"{spec.place}.ca"
            problems.append(f"{where}: {_wrong_authorities(spec.ca or config.upstream_ca, error)}")
        except SigningUnavailable as error:
            problems.append(f"{spec.place}: {error}")
    if problems:
        raise ConfigError(problems)
    pools = [_pool(dial, limits.watermarks, before) for dial in dials]
    hosts = {
        dial.spec.name: _host(config, dial.spec, dial.connector(pool), before, shared)
        for dial, pool in zip(dials, pools, strict=True)
    }
    for dial in dials:
        if dial.tunnels is not None:
            hosts[dial.spec.name].tunnels = dial.tunnels
    routes = [_route(config, route, hosts, before) for route in topology.routes]
    names = [
        (spec.name, resolver.figures(spec.url.host)) for spec in topology.upstreams if fixed_address(spec.url) is None
    ]
    return Providers(tuple(hosts.values()), tuple(pools), RouteTable(routes), topology.upstreams, tuple(names))


def _wrong_authorities(path: str | None, error: OSError) -> str:
    """Why the file of authorities can't be used; `path` None: the system's."""
    if path is None:
        return f"the system's authorities can't be used: {error}"
    text, problem = read_pem(path)
    return problem or without_certificate(path, text) or f"{path} can't be used: {error}"


def _affinity(config: Config, route: RouteSpec) -> Affinity | None:
    if route.affinity == "none":
        return None
    workers = 1 if isinstance(config.workers, Auto) else config.workers
    return Affinity(by_session=route.affinity == "session", workers=workers)


def _route(config: Config, spec: RouteSpec, hosts: dict[str, UpstreamHost], before: Providers | None) -> Route:
    tiers = tuple(tuple(hosts[name] for name in tier) for tier in spec.tiers)
    outliers = None
    if spec.outliers is not None:
        outliers = Outliers(OutlierPolicy(**asdict(spec.outliers)), tiers, time.monotonic())
        for route in before.routes.routes if before else ():
            if route.outliers is not None and (route.path, route.models) == (spec.path, spec.models):
                outliers.continue_from(route.outliers)
    return Route(
        spec.path,
        spec.models,
        tiers,
        max_tokens=min(filter(None, (spec.max_tokens, config.max_tokens)), default=None),
        drain_on_disconnect=spec.disconnect == "drain",
        traffic_class=spec.traffic_class,
        outliers=outliers,
        affinity=_affinity(config, spec),
        first_token=_first_token(spec),
        websocket=spec.websocket,
    )


def _first_token(route: RouteSpec) -> FirstTokenPolicy | None:
    if route.first_token_timeout is None and not route.hedge_share:
        return None
    return FirstTokenPolicy(route.first_token_timeout, HedgeBudget(route.hedge_share) if route.hedge_share else None)


def _host(
    config: Config, spec: UpstreamSpec, connector: Connector, before: Providers | None, shared: SharedState | None
) -> UpstreamHost:
    settings, deadlines = _settings(spec), _deadlines(config, spec)
    for host in before.hosts if before else ():
        if (host.name, host.settings.url) == (spec.name, spec.url):
            host.reconfigure(settings, connector, deadlines)
            return host
    state = _state(config, settings, shared)
    host = UpstreamHost(
        settings,
        connector,
        health=state.health,
        cooldowns=state.cooldowns,
        deadlines=deadlines,
        places=state.places,
    )
    host.checks = state.checks
    host.adapt_by(state.adaptation)
    return host


class _State(NamedTuple):
    """How a provider is doing, and who has its places."""

    health: CircuitBreaker
    checks: CheckedHealth
    cooldowns: Cooldowns
    places: Places
    adaptation: Adaptation


def _state(config: Config, settings: ProviderSettings, shared: SharedState | None) -> _State:
    failures, cooldown = config.breaker_failures, config.breaker_cooldown
    if shared is None:
        later = asyncio.get_running_loop().call_soon
        places = LocalPlaces(settings.max_concurrent, settings.queue or 0, later, time.monotonic)
        return _State(
            CircuitBreaker(failures=failures, cooldown=cooldown),
            CheckedHealth(),
            Cooldowns(failures=failures, cooldown=cooldown),
            places,
            LocalAdaptation(places),
        )
    share = shared.provider(shared_key(settings), failures=failures, cooldown=cooldown)
    if not settings.adapts:
        share.places.limit(settings.max_concurrent, settings.queue or 0)
    return _State(share.health, share.checks, share.cooldowns, share.places, share.adaptation)


def shared_key(provider: UpstreamSpec | ProviderSettings) -> str:
    """The key by which workers and their parent identify a provider."""
    return f"{provider.name} {provider.url}"


def _pool(dial: _Dial, watermarks: Watermarks, before: Providers | None) -> Pool:
    """The pool from `before` if its connections suit the new configuration, else a new one."""
    spec = dial.spec
    earlier = zip(before.pools, before.specs, strict=True) if before else ()
    found = next((pair for pair in earlier if pair[1].name == spec.name), None)
    if found is not None and _connecting(found[1]) == _connecting(spec):
        pool = found[0]
        pool.dial_by(dial)  # the file of its authorities may have changed
    else:
        pool = Pool(spec.name, dial, watermarks, dial.pool_settings, time.monotonic)
        if found is not None:
            pool.connects, pool.reuses = found[0].connects, found[0].reuses
    dial.pool = pool
    return pool


def _connecting(spec: UpstreamSpec) -> tuple[object, ...]:
    """The part of a spec that connections depend on."""
    return (
        spec.url,
        spec.protocol,
        spec.ca,
        spec.verify,
        spec.connect_timeout,
        spec.keepalive,
        spec.max_age,
        spec.max_connections,
    )


def _unsent(config: Config) -> int | None:
    """Bytes of an upload that may wait in the kernel."""
    return UNSENT_UPLOAD if isinstance(config.notsent_lowat, Auto) else config.notsent_lowat


class _Dial:
    """A `pool.Dial`. Raises OSError if the authorities can't be read, and SigningUnavailable."""

    pool: Pool
    tunnels: TunnelConnector | None = None
    """Makes connections for WebSockets; None: no route sends any here."""

    def __init__(self, config: Config, spec: UpstreamSpec, limits: FlowLimits, resolver: Resolver) -> None:
        self.spec = spec
        self._config = config
        self._watermarks = limits.watermarks
        self._signer = aws_signer(spec.url.host, time.monotonic) if spec.signs else None
        timeout = spec.connect_timeout
        if spec.protocol == "h2":
            multiplexed: bool | None = True
        else:
            multiplexed = None if spec.protocol == "auto" and spec.url.scheme == "https" else False
        self.pool_settings = PoolSettings(
            keepalive=spec.keepalive,
            timeout=timeout,
            max_connections=spec.max_connections,
            multiplexed=multiplexed,
            max_age=spec.max_age,
        )
        self._flow = AdaptiveFlow(config.drain_target, time.monotonic, memory=limits.memory)
        buffer = config.upstream_rcvbuf
        if isinstance(buffer, Auto):
            buffer = 0 if spec.url.scheme == "http" else NARROW
            self._h1_flow: AdaptiveFlow | None = self._flow
        else:
            self._h1_flow = None
        buffers = KernelBuffers(buffer, self._h1_flow, _unsent(config))
        self._resolver, self._buffers = resolver, buffers
        dialer = Dialer(
            spec.url,
            resolver,
            timeout=timeout,
            tls=_tls(config, spec, spec.protocol),
        )
        self._attempts = ConnectAttempts(dialer, self._make, multiplexed=multiplexed, buffers=buffers)

    def connector(self, pool: Pool) -> Connector:
        """`pool`, or a connector over it that signs requests if the provider needs that."""
        return pool if self._signer is None else SigningConnector(pool, self._signer)

    def open_tunnels(self) -> None:
        """Accept WebSockets, too. Raises OSError like the constructor."""
        spec, limits = self.spec, self._watermarks
        self.tunnels = connector = TunnelConnector(spec.name, limits, most=spec.max_connections)

        def make(multiplexed: bool) -> UpstreamH1:
            return UpstreamH1(connector, limits, self._h1_flow)

        tls = _tls(self._config, spec, "h1")
        dialer = Dialer(spec.url, self._resolver, timeout=spec.connect_timeout, tls=tls)
        connector.dial_by(ConnectAttempts(dialer, make, multiplexed=False, buffers=self._buffers))

    def __call__(self, connected: Connected, failed: Failed, whole: bool) -> Cancellable:
        return self._attempts(connected, failed, whole)

    def _make(self, multiplexed: bool) -> UpstreamH1 | UpstreamH2:
        if not multiplexed:
            return UpstreamH1(self.pool, self._watermarks, self._h1_flow)
        window = self._config.upstream_h2_stream_window
        windows = StreamWindows(STREAM_WINDOW, self._flow) if isinstance(window, Auto) else StreamWindows(window)
        return UpstreamH2(
            self.pool,
            self._watermarks,
            stream_windows=windows,
            ping_interval=self._config.upstream_ping_interval,
            clock=time.monotonic,
        )


def _tls(config: Config, spec: UpstreamSpec, protocol: str) -> ssl.SSLContext | None:
    if spec.url.scheme != "https":
        return None
    protocols = {"auto": ["h2", "http/1.1"], "h1": ["http/1.1"], "h2": ["h2"]}[protocol]
    return tls_context(spec.ca or config.upstream_ca, verify=spec.verify, protocols=protocols)


def _settings(spec: UpstreamSpec) -> ProviderSettings:
    return ProviderSettings(
        spec.name,
        spec.url,
        api_key=spec.api_key.encode("ascii") if spec.api_key is not None else None,
        auth=Auth.BEARER if spec.own_auth is Auth.AWS_SIGV4 else spec.auth,
        signs=spec.signs,
        headers=[(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in spec.headers],
        models={bounded(name, MODEL_BYTES): renamed for name, renamed in spec.models},
        weight=spec.weight,
        slow_start=spec.slow_start,
        max_concurrent=pinned(spec.max_concurrent),
        adapts=isinstance(spec.max_concurrent, Auto),
        queue=spec.queue if isinstance(spec.max_concurrent, Auto) else spec.queue or 0,
        queue_timeout=spec.queue_timeout,
        quirks=quirks_for(spec.dialect, spec.url.host),
        asks_usage=spec.ask_usage,
    )


def _deadlines(config: Config, spec: UpstreamSpec) -> Deadlines:
    return Deadlines(
        first_byte=spec.first_byte_timeout,
        idle=spec.idle_timeout,
        body=config.body_timeout,
        total=config.total_timeout,
    )
