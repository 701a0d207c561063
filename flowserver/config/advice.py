"""Warns of what is valid in a configuration but probably unintended. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..dialects.profiles import GENERIC, quirks_for
from .settings import Config
from .topology import RouteSpec, Topology, UpstreamSpec

_API_PATHS = re.compile(
    r"/(chat/completions|completions|embeddings|responses|messages|models|audio/\w+|images/\w+|api/chat|api/generate)$"
)


def advice(config: Config, topology: Topology) -> list[str]:
    """A line for each warning, with the setting or the place in the file, and the remedy."""
    return [
        *(line for spec in topology.upstreams for line in _of_upstream(config, spec)),
        *_of_times(config, topology.upstreams),
        *_of_routes(config, topology),
    ]


def _of_upstream(config: Config, spec: UpstreamSpec) -> Iterator[str]:
    place = spec.place if config.config is None else f"{spec.place}.url"
    if spec.url.scheme == "http" and quirks_for(None, spec.url.host) is not GENERIC:
        secure = str(spec.url).replace("http:", "https:", 1)
        yield f"{place}: {spec.url} sends keys and prompts unencrypted; write {secure}"
    match = _API_PATHS.search(spec.url.path)
    if match is not None:
        base = str(spec.url).removesuffix(match[0])
        yield f"{place}: {spec.url} ends with one API's path, so others can't be reached; give the base URL, {base}"
    if not spec.verify and spec.api_key is not None:
        yield f"{spec.place}.verify: false lets anyone in between read the key of {spec.url.host}; set `ca` instead"


def _of_times(config: Config, upstreams: Iterable[UpstreamSpec]) -> Iterator[str]:
    for spec in upstreams:
        idle = spec.idle_timeout
        if config.heartbeat is not None and idle is not None and config.heartbeat >= idle:
            yield (
                f"FLOW_HEARTBEAT: none is ever sent, as {config.heartbeat:g} s is not below the idle timeout of "
                f"{spec.name}, {idle:g} s; shorten it"
            )
        if config.total_timeout is not None and spec.connect_timeout >= config.total_timeout:
            yield (
                f"FLOW_TOTAL_TIMEOUT: {config.total_timeout:g} s is below the connect timeout of {spec.name}, "
                f"{spec.connect_timeout:g} s; raise the one or lower the other"
            )


def _of_routes(config: Config, topology: Topology) -> Iterator[str]:
    if config.config is None:
        return
    whole = next((number for number, route in enumerate(topology.routes) if _takes_all(route)), len(topology.routes))
    for number, route in enumerate(topology.routes):
        place = f"{config.config}: routes[{number}]"
        if number > whole:
            yield f"{place}: is never used, as routes[{whole}] matches all requests; put that one last"
        for pattern in route.models:
            if pattern.startswith("^") or pattern.endswith("$") or ".*" in pattern:
                yield f"{place}.models: {pattern!r} looks like a regular expression; use * for any text, as in 'gpt-*'"
    used = {name for route in topology.routes for tier in route.tiers for name in tier}
    for spec in topology.upstreams:
        if spec.name not in used:
            yield f"{spec.place}: gets no requests, as {spec.name!r} is in no route; add it to a route, or remove it"


def _takes_all(route: RouteSpec) -> bool:
    return route.path in ("*", "/*") and route.models in ((), ("*",))
