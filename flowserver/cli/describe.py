"""Shows a configuration, as lines and as JSON, without its secrets."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ..config.entries import GivenSetting, Setting
from ..config.parsers import Auto
from ..config.settings import SETTINGS, Config
from ..config.tenants import limits_table
from ..config.topology import RouteSpec, Topology, UpstreamSpec
from ..quota.tenants import Tenant, is_pattern, may_be_uncounted


def settings_lines(given: tuple[GivenSetting, ...]) -> list[str]:
    """A line for each setting: its value, the origin of the value, and its meaning."""
    width = max(len(each.name) for each in given)
    pairs = zip(SETTINGS, given, strict=True)
    return [
        f"{each.name:<{width}}  {each.shown or '(none)':<22}  {each.origin:<11}  {entry.summary}"
        for entry, each in pairs
    ]


def topology_lines(config: Config, topology: Topology) -> list[str]:
    """Providers, routes, tenants, and what is not limited."""
    lines = [*map(_upstream, topology.upstreams), *map(_route, topology.routes)]
    for tenant in topology.tenants:
        lines += [_tenant(tenant), *_uncounted_paths(tenant)]
    if topology.prices:
        lines.append(f"prices: {len(topology.prices)} tables")
    if config.redis_url is None and not topology.tenants:
        lines.append("no tenants: anyone who can reach the relay may use it")
    if config.redis_url is None and any(_counts(tenant) for tenant in topology.tenants):
        lines.append(
            "limits: this relay, with all its workers, counts for itself and forgets its counts when it ends; "
            "set FLOW_REDIS_URL to share them between relays"
        )
    return lines


def settings_json(given: tuple[GivenSetting, ...]) -> list[dict[str, Any]]:
    return [_setting(entry, each) for entry, each in zip(SETTINGS, given, strict=True)]


def topology_json(topology: Topology) -> dict[str, Any]:
    return {
        "upstreams": [_upstream_json(spec) for spec in topology.upstreams],
        "routes": [_route_json(route) for route in topology.routes],
        "tenants": [_tenant_json(tenant) for tenant in topology.tenants],
        "prices": len(topology.prices),
    }


def _setting(entry: Setting, given: GivenSetting) -> dict[str, Any]:
    return {
        "name": given.name,
        "flag": entry.flag,
        "value": given.shown,
        "origin": given.origin,
        "default": entry.default,
        "group": entry.group.title,
    }


def _upstream_json(spec: UpstreamSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "url": str(spec.url),
        "key": _whose_key(spec),
        "protocol": spec.protocol,
        "dialect": spec.dialect,
        "weight": spec.weight,
        "max_concurrent": "auto" if isinstance(spec.max_concurrent, Auto) else spec.max_concurrent,
        "queue": spec.queue,
        "verify": spec.verify,
    }


def _route_json(route: RouteSpec) -> dict[str, Any]:
    return {
        "path": route.path,
        "models": route.models,
        "upstreams": route.tiers,
        "class": route.traffic_class,
        "affinity": route.affinity,
    }


def _tenant_json(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "disabled": tenant.disabled,
        "keys": len(tenant.keys),
        "models": tenant.models,
        "paths": tenant.paths,
        "limits": limits_table(tenant.limits),
        "user": limits_table(tenant.user),
        "model_limits": [{"models": each.models, **limits_table(each.limits)} for each in tenant.model_limits],
    }


def _upstream(spec: UpstreamSpec) -> str:
    """One provider in a line, without its key."""
    over_tls = spec.url.scheme == "https"
    protocols = {"auto": "HTTP/2 or HTTP/1.1" if over_tls else "HTTP/1.1", "h1": "HTTP/1.1", "h2": "HTTP/2"}
    parts = [_whose_key(spec), protocols[spec.protocol], f"weight {spec.weight}"]
    if isinstance(spec.max_concurrent, Auto):
        parts.append(f"an adaptive limit of concurrent requests, {_as_many(spec.queue)} may wait")
    elif spec.max_concurrent is not None:
        parts.append(f"{spec.max_concurrent} concurrent requests, {spec.queue or 0} may wait")
    if spec.health is not None:
        parts.append(f"checked at {spec.health.path} every {spec.health.interval:g} s")
    if not spec.verify:
        parts.append("ANY CERTIFICATE IS ACCEPTED")
    return f"upstream {spec.name}: {spec.url}, {', '.join(parts)}"


def _as_many(queue: int | None) -> str:
    return "as many" if queue is None else str(queue)


def _whose_key(spec: UpstreamSpec) -> str:
    if spec.signs:
        missing = "" if find_spec("botocore") else " (NOT INSTALLED: pip install botocore)"
        return f"signed with the relay's AWS credentials{missing}"
    return "the client's key" if spec.api_key is None else "the relay's key"


def _route(route: RouteSpec) -> str:
    models = f" for {', '.join(route.models)}" if route.models else ""
    chosen = "" if route.affinity == "none" else f", by {route.affinity}"
    return f"route {route.path}{models} -> {', then '.join(' or '.join(tier) for tier in route.tiers)}{chosen}"


def _counts(tenant: Tenant) -> bool:
    """Whether a limit spans more than one request."""
    each = [tenant.limits, tenant.user, *(kind.limits for kind in tenant.model_limits)]
    return any(limits_table(limits).keys() - {"tokens_per_stream"} for limits in each)


def _tenant(tenant: Tenant) -> str:
    """One tenant of the file in a line, without the hashes of its keys."""
    parts = ["disabled"] if tenant.disabled else []
    parts.append("1 key" if len(tenant.keys) == 1 else f"{len(tenant.keys)} keys")
    parts += [f"models {' '.join(tenant.models)}"] if tenant.models else []
    parts += [f"paths {' '.join(tenant.paths)}"] if tenant.paths else []
    limits = [("", tenant.limits), ("each user ", tenant.user)]
    limits += [(f"{' '.join(each.models)} ", each.limits) for each in tenant.model_limits]
    parts += [f"{whose}{name}={value}" for whose, each in limits for name, value in limits_table(each).items()]
    return f"tenant {tenant.name}: {', '.join(parts)}"


def _uncounted_paths(tenant: Tenant) -> list[str]:
    """A line for each of its `paths` that allows requests whose tokens are not counted."""
    return [
        f"tenant {tenant.name}: path {pattern} "
        + ("may match requests that are not counted" if is_pattern(pattern) else "is not counted")
        for pattern in tenant.paths
        if may_be_uncounted(pattern)
    ]
