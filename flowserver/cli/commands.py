"""The command line: `flowserver serve | check | tenants | prices | demo | simulate | version`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import uvloop

from .. import __version__
from ..config.environment import load, unknown_settings
from ..config.file import load_topology
from ..config.parsers import Auto
from ..config.settings import SETTINGS, Config, ConfigError
from ..config.tenants import limits_table
from ..config.topology import UpstreamSpec
from ..http import messages
from ..quota.tenants import Tenant, is_pattern, may_be_uncounted
from .exit_status import refused

if TYPE_CHECKING:
    from ..app.inherited import Inherited
    from ..telemetry.sink import Sink


def run(arguments: list[str]) -> int:
    """Run a command. Returns the exit status."""
    if arguments[:1] == ["simulate"]:
        from .simulate import main as simulate

        return simulate(arguments[1:])
    if arguments[:1] == ["demo"]:
        from .demo import main as demo

        return demo(arguments[1:])
    if arguments[:1] == ["prices"]:
        from .prices import main as prices

        return prices(arguments[1:])
    if arguments[:1] == ["tenants"]:
        from .tenants import main as tenants

        return tenants(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="flowserver",
        description="An edge relay for LLM token streams with backpressure that reaches the provider.",
        epilog="Settings come from the environment (FLOW_...); `flowserver check` shows and explains them.",
    )
    parser.add_argument("--version", action="version", version=f"flowserver {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the relay")
    commands.add_parser("check", help="validate and explain the settings")
    commands.add_parser("tenants", help="manage tenants, their keys and limits")
    commands.add_parser("prices", help="turn a list of prices into the tables of the file")
    commands.add_parser("demo", help="run a simulated provider, a relay and four clients")
    commands.add_parser("simulate", help="run a simulated provider")
    commands.add_parser("version", help="print the version")
    command = parser.parse_args(arguments).command
    if command == "version":
        print(f"flowserver {_version()}")
        return 0
    try:
        return _check() if command == "check" else _serve()
    except ConfigError as error:
        return refused(error)


def _version() -> str:
    """The version and which build of it this is (see setup.py)."""
    build = "pure Python" if messages.__file__.endswith(".py") else "compiled"
    return f"{__version__} ({build})"


def _load() -> Config:
    """The configuration, after printing warnings. Raises ConfigError if it is invalid."""
    for line in unknown_settings(os.environ):
        print(f"flowserver: warning: {line}", file=sys.stderr)
    return load(os.environ)


def _serve() -> int:
    """Raises ConfigError."""
    from ..app.inherited import Inherited, inherited
    from ..app.parent import serve_with_workers
    from ..telemetry.sink import standard_output
    from ..workers.cores import usable_cores

    sink = standard_output()
    given = Inherited()
    try:
        given = inherited(os.environ)
        config = _load()
        workers = usable_cores() if isinstance(config.workers, Auto) else config.workers
        config = replace(config, workers=workers)
        if workers > 1:
            serve_with_workers(config, workers, given)
        else:
            _serve_alone(config, sink, given)
    except ConfigError as error:
        given.failed(error.problems)
        raise
    return 0


def _serve_alone(config: Config, sink: Sink, given: Inherited) -> None:
    from ..app.open_log import open_log
    from ..app.serve import serve

    log = open_log(config, sink=sink)
    try:
        uvloop.run(serve(config, log, given=given))
    finally:
        log.close()


def _check() -> int:
    """Raises ConfigError."""
    config = _load()
    width = max(len(entry.env) for entry in SETTINGS)
    for entry in SETTINGS:
        value = os.environ.get(entry.env, entry.default)
        shown = "(set)" if entry.secret and value else value or "(none)"
        print(f"{entry.env:<{width}}  {shown:<22}  {entry.summary}")
    topology = load_topology(config, os.environ)
    print()
    for spec in topology.upstreams:
        print(_describe(spec))
    for route in topology.routes:
        models = f" for {', '.join(route.models)}" if route.models else ""
        chosen = "" if route.affinity == "none" else f", by {route.affinity}"
        print(f"route {route.path}{models} -> {', then '.join(' or '.join(tier) for tier in route.tiers)}{chosen}")
    for tenant in topology.tenants:
        print(_describe_tenant(tenant))
        for line in _uncounted_paths(tenant):
            print(line)
    if topology.prices:
        print(f"prices: {len(topology.prices)} tables")
    if config.redis_url is None and not topology.tenants:
        print("no tenants: whoever reaches the relay may use it")
    if config.redis_url is None and any(_counts(tenant) for tenant in topology.tenants):
        print(
            "limits: this relay, with all its workers, counts for itself and forgets its counts when it ends; "
            "set FLOW_REDIS_URL to share them between relays"
        )
    return 0


def _counts(tenant: Tenant) -> bool:
    """Whether a limit counts more than one request."""
    each = [tenant.limits, tenant.user, *(kind.limits for kind in tenant.model_limits)]
    return any(limits_table(limits).keys() - {"tokens_per_stream"} for limits in each)


def _describe_tenant(tenant: Tenant) -> str:
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


def _describe(spec: UpstreamSpec) -> str:
    """One provider in a line, without its key."""
    over_tls = spec.url.scheme == "https"
    protocols = {"auto": "HTTP/2 or HTTP/1.1" if over_tls else "HTTP/1.1", "h1": "HTTP/1.1", "h2": "HTTP/2"}
    parts = [_whose_key(spec), protocols[spec.protocol], f"weight {spec.weight}"]
    if isinstance(spec.max_concurrent, Auto):
        parts.append(f"as many requests at once as it serves well, {_as_many(spec.queue)} may wait")
    elif spec.max_concurrent is not None:
        parts.append(f"{spec.max_concurrent} requests at once, {spec.queue or 0} may wait")
    if spec.health is not None:
        parts.append(f"checked by {spec.health.path} every {spec.health.interval:g} s")
    if not spec.verify:
        parts.append("ANY CERTIFICATE IS ACCEPTED")
    return f"upstream {spec.name}: {spec.url}, {', '.join(parts)}"


def _as_many(queue: int | None) -> str:
    return "as many" if queue is None else str(queue)


def _whose_key(spec: UpstreamSpec) -> str:
    if spec.signs:
        missing = "" if find_spec("botocore") else " (NOT INSTALLED: pip install 'flowserver[bedrock]')"
        return f"signed with the relay's AWS credentials{missing}"
    if spec.api_key is None:
        return "the client's key"
    return "its own key"
