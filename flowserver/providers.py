"""Builds targets and routes from the topology: what the relay asks, and the pools behind it."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass

from .config import Config, ConfigError
from .dialects.base import Auth
from .dialects.quirks import quirks_for
from .flow import Marks
from .names import MODEL_BYTES, bounded
from .relay.health import Health
from .relay.ports import Connector
from .relay.routes import Route, RouteTable
from .relay.standing import Standing
from .relay.target import Deadlines, Target, TargetSettings
from .topology import Topology, UpstreamSpec
from .upstream.arrival import Arrivals
from .upstream.aws import SigningUnavailable, aws_signer
from .upstream.dial import Dialer, tls_context
from .upstream.h1 import UpstreamH1
from .upstream.h2 import UpstreamH2
from .upstream.pool import Pool, PoolSettings
from .upstream.signing import SigningConnector


@dataclass(frozen=True, slots=True)
class Providers:
    """What one reading of the configuration gave."""

    targets: tuple[Target, ...]
    pools: tuple[Pool, ...]
    routes: RouteTable


def build(config: Config, topology: Topology, marks: Marks, before: Providers | None = None) -> Providers:
    """Needs a running event loop. Raises ConfigError. How providers of the same name and address fare is taken over
    from `before`."""
    known = {(target.name, target.settings.url): target.health for target in before.targets} if before else {}
    pools, targets, problems = [], {}, []
    later = asyncio.get_running_loop().call_soon
    for spec in topology.upstreams:
        try:
            pool = _pool(config, spec, marks)
        except OSError as error:
            where = f"FLOW_UPSTREAM_CA: {config.upstream_ca!r}" if spec.ca is None else f"{spec.name}.ca: {spec.ca!r}"
            problems.append(f"{where} can't be used: {error}")
            continue
        try:
            connector = _connector(spec, pool)
        except SigningUnavailable as error:
            problems.append(f"{spec.name}: {error}")
            continue
        health = known.get((spec.name, spec.url)) or Health(
            failures=config.breaker_failures, cooldown=config.breaker_cooldown
        )
        pools.append(pool)
        standing = Standing(failures=config.breaker_failures, cooldown=config.breaker_cooldown)
        targets[spec.name] = Target(
            _settings(config, spec), connector, health, _deadlines(config, spec), standing=standing, later=later
        )
    if problems:
        raise ConfigError(problems)
    routes = [
        Route(
            route.path,
            route.models,
            tuple(tuple(targets[name] for name in tier) for tier in route.tiers),
            max_tokens=route.max_tokens or config.max_tokens,
            reads_on=(route.disconnect or config.disconnect) == "drain",
        )
        for route in topology.routes
    ]
    return Providers(tuple(targets.values()), tuple(pools), RouteTable(routes))


def _pool(config: Config, spec: UpstreamSpec, marks: Marks) -> Pool:
    connect_timeout = spec.connect_timeout or config.connect_timeout
    dialer = Dialer(spec.url, timeout=connect_timeout, receive_buffer=config.upstream_rcvbuf, tls=_tls(config, spec))

    def make(multiplexed: bool) -> UpstreamH1 | UpstreamH2:
        if not multiplexed:
            return UpstreamH1(pool, marks)
        return UpstreamH2(
            pool,
            marks,
            stream_window=config.upstream_h2_stream_window,
            ping_interval=config.upstream_ping_interval,
            clock=time.monotonic,
        )

    if spec.protocol == "h2":
        multiplexed: bool | None = True
    else:
        multiplexed = None if spec.protocol == "auto" and spec.url.scheme == "https" else False
    settings = PoolSettings(
        keepalive=spec.keepalive or config.upstream_keepalive,
        timeout=connect_timeout,
        max_connections=spec.max_connections,
        multiplexed=multiplexed,
    )
    pool = Pool(spec.name, Arrivals(dialer, make, multiplexed=multiplexed), marks, settings, time.monotonic)
    return pool


def _connector(spec: UpstreamSpec, pool: Pool) -> Connector:
    """Raises SigningUnavailable."""
    return SigningConnector(pool, aws_signer(spec.url.host, time.monotonic)) if spec.signs else pool


def _tls(config: Config, spec: UpstreamSpec) -> ssl.SSLContext | None:
    if spec.url.scheme != "https":
        return None
    protocols = {"auto": ["h2", "http/1.1"], "h1": ["http/1.1"], "h2": ["h2"]}[spec.protocol]
    return tls_context(spec.ca or config.upstream_ca, verify=spec.verify, protocols=protocols)


def _settings(config: Config, spec: UpstreamSpec) -> TargetSettings:
    return TargetSettings(
        spec.name,
        spec.url,
        api_key=spec.api_key.encode("ascii") if spec.api_key is not None else None,
        auth=Auth.BEARER if spec.own_auth is Auth.AWS_SIGV4 else spec.auth,
        signs=spec.signs,
        headers=[(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in spec.headers],
        models={bounded(name, MODEL_BYTES): renamed for name, renamed in spec.models},
        weight=spec.weight,
        max_concurrent=spec.max_concurrent,
        queue=spec.queue,
        queue_timeout=spec.queue_timeout,
        quirks=quirks_for(spec.dialect, spec.url.host),
        asks_usage=config.ask_usage if spec.ask_usage is None else spec.ask_usage,
    )


def _deadlines(config: Config, spec: UpstreamSpec) -> Deadlines:
    return Deadlines(
        spec.first_byte_timeout or config.first_byte_timeout,
        spec.idle_timeout or config.idle_timeout,
        config.body_timeout,
        config.total_timeout,
    )
