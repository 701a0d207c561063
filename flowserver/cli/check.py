"""`flowserver check`: shows the configuration and every mistake in it; with --connect it also tests connections."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import orjson

from .. import __version__
from ..app.clients import tls_context, watermarks
from ..app.providers import FlowLimits, build
from ..config.environment import given_settings, unknown_settings
from ..config.errors import ConfigError
from ..config.settings import Config
from ..config.topology import Topology
from ..upstream.resolver import Resolver
from .connect import Finding, findings
from .describe import settings_json, settings_lines, topology_json, topology_lines
from .exit_status import FAILURE, MISCONFIGURED, refused
from .flags import ABOUT, add_flags, flags_of
from .loading import doubts, loaded, warn
from .usage import Parser


def parser() -> Parser:
    parser = Parser(
        prog="flowserver check",
        usage="flowserver check [--connect] [--json] [--SETTING VALUE ...]",
        description=f"Show the settings, the content of the file of --config, and every mistake. {ABOUT}",
        epilog="Status 0: nothing is wrong; 1: a connection failed; 78: a setting is wrong.",
    )
    parser.add_argument(
        "--connect",
        action="store_true",
        help="also test addresses, providers (DNS, TCP, TLS) and Redis, within 5 s",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    add_flags(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    reader = parser()
    options = reader.read(arguments)
    flags = flags_of(options, reader)
    if options.json:
        return _check_as_json(flags, options.connect)
    try:
        config, topology = _checked(flags)
    except ConfigError as error:
        return refused(error)
    for line in settings_lines(config.given):
        print(line)
    print()
    for line in topology_lines(config, topology):
        print(line)
    warn(doubts(config, topology))
    found = asyncio.run(findings(config, topology)) if options.connect else []
    if found:
        print()
    for finding in found:
        print(finding)
    return _status(found)


def _checked(flags: Mapping[str, str]) -> tuple[Config, Topology]:
    """Read everything that `serve` would read. Raises ConfigError."""
    config, topology = loaded(flags)
    tls_context(config)
    asyncio.run(_build(config, topology))
    return config, topology


async def _build(config: Config, topology: Topology) -> None:
    """Build the providers as a relay does, which reads authorities and AWS credentials. Raises ConfigError."""
    resolver = Resolver()
    build(config, topology, FlowLimits(watermarks(config)), resolver)
    resolver.close()


def _check_as_json(flags: Mapping[str, str], connects: bool) -> int:
    problems: list[str] = []
    config: Config | None = None
    found: list[Finding] = []
    told: dict[str, Any] = {"upstreams": [], "routes": [], "tenants": [], "prices": 0}
    doubtful: list[str] = []
    try:
        config, topology = _checked(flags)
        told = topology_json(topology)
        doubtful = doubts(config, topology)
        found = asyncio.run(findings(config, topology)) if connects else []
    except ConfigError as error:
        problems = error.problems
    status = MISCONFIGURED if problems else _status(found)
    page = {
        "ok": status == 0,
        "version": __version__,
        "problems": problems,
        "warnings": [*unknown_settings(os.environ), *doubtful],
        "settings": settings_json(given_settings(os.environ, flags)),
        **told,
    }
    if connects:
        page["connections"] = found
    print(orjson.dumps(page, option=orjson.OPT_INDENT_2).decode())
    return status


def _status(found: list[Finding]) -> int:
    return 0 if all(finding.ok for finding in found) else FAILURE
