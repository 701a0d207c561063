"""Reads the TOML file of FLOW_CONFIG: providers, routes and tenants.

Everything is checked at once; each mistake is reported with its place, such as `flowserver.toml: upstreams[1].url`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..dialects.base import Auth
from ..quota.prices import PriceRow
from ..quota.tenants import Tenant
from ..quota.traffic_class import INTERACTIVE
from .entries import Key, suggestion
from .errors import ConfigError
from .file_keys import FILE_KEYS, HEALTH_KEYS, OUTLIER_KEYS, ROUTE_KEYS, UPSTREAM_KEYS, check_header
from .parsers import parse_secret
from .prices import PRICES_FILE_KEYS, PriceReader
from .secrets import remedy_of, resolve
from .settings import Config
from .tables import TableReader, repeated
from .tenants import TenantError, money_limits, read_tenants
from .toml_errors import described
from .topology import HealthSpec, OutlierSpec, RouteSpec, Topology, UpstreamSpec

SIGNED_AND_KEYED = "aws-sigv4 signs requests and takes no key; use bearer for Amazon Bedrock API keys"

NOT_EQUAL = "it chooses between the providers of an inner list such as [['a', 'b']], but `upstreams` has none"

_ONE_PROVIDER = {
    "upstream": "name the provider",
    "upstream_api_key": "give the provider's `api_key`",
    "upstream_dialect": "give the provider's `dialect`",
    "upstream_auth": "give the provider's `auth`",
}
"""Settings of the only provider, and what to do instead with a file."""


def load_topology(config: Config, environ: Mapping[str, str]) -> Topology:
    """The file of FLOW_CONFIG, or else the one provider of FLOW_UPSTREAM. Raises ConfigError with every problem."""
    if config.config is None:
        topology = _single(config)
        _check_deadlines(topology, "FLOW_FIRST_TOKEN_TIMEOUT", "FLOW_FIRST_BYTE_TIMEOUT")
        _check_loops(config, topology)
        return topology
    path = Path(config.config)
    reader = _FileReader(path, config, environ)
    topology = reader.topology()
    problems = [f"{path}: {problem}" for problem in reader.problems]
    for name, remedy in _ONE_PROVIDER.items():
        if getattr(config, name) is not None:
            problems.append(f"FLOW_{name.upper()}: only allowed without FLOW_CONFIG; {remedy} in {path}")
    if problems:
        raise ConfigError(problems)
    _check_deadlines(topology, f"{path}: first_token_timeout", "first_byte_timeout")
    _check_loops(config, topology)
    return topology


def _check_loops(config: Config, topology: Topology) -> None:
    """Raises ConfigError if the relay would be its own provider."""
    admin = () if config.admin_listen is None else (("FLOW_ADMIN_LISTEN", config.admin_listen),)
    own = (*(("FLOW_LISTEN", address) for address in config.listen), *admin)
    problems = [
        f"{spec.place}: {spec.url} is an address of this relay itself ({setting}); give the provider's own address"
        for spec in topology.upstreams
        for setting, address in own
        if address.leads_here(spec.url)
    ]
    if problems:
        raise ConfigError(problems)


def _check_deadlines(topology: Topology, first_token: str, first_byte: str) -> None:
    """Raises ConfigError if a first-token timeout can never fire, because a shorter first-byte timeout ends the
    request."""
    specs = {spec.name: spec for spec in topology.upstreams}
    problems = [
        f"{first_token}: {route.first_token_timeout:g} s never expires for {name!r}, whose {first_byte} is "
        f"{limit:g} s: lower the former or raise the latter"
        for route in topology.routes
        for tier in route.tiers
        for name in tier
        if route.first_token_timeout is not None
        and (limit := specs[name].first_byte_timeout) is not None
        and limit <= route.first_token_timeout
    ]
    if problems:
        raise ConfigError(problems)


def _parse(path: Path, setting: str = "FLOW_CONFIG") -> dict[str, Any]:
    """The file's tables. A byte order mark is accepted. `setting`: the setting that names the file. Raises
    ConfigError."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: {described(error, text)}"]) from None
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8 in your editor"
        raise ConfigError([f"{setting}: {path} can't be read: it is not UTF-8: {error}; {remedy}"]) from None
    except OSError as error:
        raise ConfigError([f"{setting}: {path} can't be read: {error.strerror}; {remedy_of(error)}"]) from None
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or endlessly nested lists
        raise ConfigError([f"{path}: {error}"]) from None


def _single(config: Config) -> Topology:
    if config.upstream is None:
        raise ConfigError(
            ["FLOW_UPSTREAM: not set; give the provider's base URL, such as https://api.openai.com, or FLOW_CONFIG"]
        )
    if config.upstream_auth is Auth.AWS_SIGV4 and config.upstream_api_key is not None:
        raise ConfigError([f"FLOW_UPSTREAM_AUTH: {SIGNED_AND_KEYED}"])
    name = config.upstream.place
    spec = UpstreamSpec(
        place="FLOW_UPSTREAM",
        name=name,
        url=config.upstream,
        api_key=config.upstream_api_key,
        dialect=config.upstream_dialect,
        auth=config.upstream_auth,
        **_inherited(UPSTREAM_KEYS, config),
    )
    return Topology((spec,), (_route_to((name,), config),))


def _inherited(keys: tuple[Key, ...], config: Config) -> dict[str, Any]:
    """The environment's values for the keys of a table."""
    return {key.name: getattr(config, key.inherits) for key in keys if key.inherits}


def _route_to(names: tuple[str, ...], config: Config) -> RouteSpec:
    """A route for all requests, with these providers as fallbacks in order."""
    tiers = tuple((name,) for name in names)
    return RouteSpec(path="*", models=(), tiers=tiers, **_inherited(ROUTE_KEYS, config))


class _FileReader(TableReader):
    """Reads the file once."""

    def __init__(self, path: Path, config: Config, environ: Mapping[str, str]) -> None:
        super().__init__(top_level=("open", "prices_file"))
        self._path = path
        self._config = config
        self._environ = environ

    def topology(self) -> Topology:
        """The content of the file; `problems` lists what is wrong with it."""
        file = self.read(_parse(self._path), "", FILE_KEYS)
        tables = file.get("upstreams", [])
        upstreams = [self._upstream(table, f"upstreams[{number}]") for number, table in enumerate(tables)]
        names = [table["name"] for table in tables if isinstance(table.get("name"), str)]
        for name in repeated(names):
            self.problems.append(f"upstreams: the name {name!r} is used more than once; give each provider its own")
        routes = [self._route(table, f"routes[{number}]", names) for number, table in enumerate(file.get("routes", []))]
        if not upstreams and not self.problems:
            self.problems.append("upstreams: expected at least one [[upstreams]] table")
        if file.get("open") and file.get("tenants"):
            self.problems.append("open: true is only allowed without [[tenants]]")
        prices = self._prices(file, names)
        tenants = self._tenants(file.get("tenants", []))
        if not prices and not self.problems:
            self.problems += _needing_prices(tenants)
        return Topology(
            tuple(spec for spec in upstreams if spec is not None),
            tuple(routes) or (_route_to(tuple(names), self._config),),
            tenants,
            open=file.get("open", False),
            given=frozenset(self.given),
            prices=prices,
        )

    def _upstream(self, table: dict[str, Any], place: str) -> UpstreamSpec | None:
        before = len(self.problems)
        values = _inherited(UPSTREAM_KEYS, self._config) | self.read(table, place, UPSTREAM_KEYS)
        if values.get("auth") is Auth.AWS_SIGV4 and "api_key" in table:
            self.problems.append(f"{place}.auth: {SIGNED_AND_KEYED}")
        if "health" in values:
            values["health"] = self._health(values["health"], f"{place}.health")
        if "ca" in values:
            values["ca"] = str(self._path.parent / values["ca"])
        try:
            where = f"{place}.api_key"
            if "api_key" in values:
                values["api_key"] = parse_secret(self._resolve(values["api_key"]))
            where = f"{place}.headers"
            if "headers" in values:
                values["headers"] = tuple((name, self._header(name, text)) for name, text in values["headers"])
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
        return UpstreamSpec(place=f"{self._path}: {place}", **values) if len(self.problems) == before else None

    def _health(self, table: dict[str, Any], place: str) -> HealthSpec | None:
        """None: there are problems."""
        before = len(self.problems)
        values = self.read(table, place, HEALTH_KEYS)
        if len(self.problems) > before:
            return None
        spec = HealthSpec(**values)
        if spec.timeout >= spec.interval:
            self.problems.append(
                f"{place}.timeout: {spec.timeout:g} s must be below the interval, {spec.interval:g} s, "
                "or checks would overlap"
            )
        return spec

    def _resolve(self, text: str) -> str:
        """The value that `text` refers to; paths of files are relative to this file."""
        return resolve(text, self._environ, self._path.parent)

    def _header(self, name: str, text: str) -> str:
        value = self._resolve(text)
        check_header(name, value)
        return value

    def _route(self, table: dict[str, Any], place: str, names: list[str]) -> RouteSpec:
        values = _inherited(ROUTE_KEYS, self._config) | self.read(table, place, ROUTE_KEYS)
        tiers = values.pop("upstreams", ())
        for name in (name for tier in tiers for name in tier):
            if name not in names:
                hint = suggestion(name, names) or f"; expected one of {', '.join(names)}"
                self.problems.append(f"{place}.upstreams: there is no upstream {name!r}{hint}")
        if values.get("affinity", "none") != "none" and tiers and all(len(tier) == 1 for tier in tiers):
            self.problems.append(f"{place}.affinity: {NOT_EQUAL}")
        return RouteSpec(
            path=values.pop("path", "*"),
            models=values.pop("models", ()),
            tiers=tiers,
            traffic_class=values.pop("class", INTERACTIVE),
            outliers=self._outliers(values.pop("outliers", None), f"{place}.outliers", tiers),
            **values,
        )

    def _outliers(
        self, table: dict[str, Any] | None, place: str, tiers: tuple[tuple[str, ...], ...]
    ) -> OutlierSpec | None:
        if table is None:
            return None
        if tiers and all(len(tier) < 2 for tier in tiers):
            self.problems.append(f"{place}: needs two or more providers to compare, in an inner list of `upstreams`")
        return OutlierSpec(**self.read(table, place, OUTLIER_KEYS))

    def _prices(self, file: dict[str, Any], upstreams: list[str]) -> tuple[PriceRow, ...]:
        """The prices in the file itself, then those of its `prices_file`."""
        own = PriceReader()
        rows = own.prices(file.get("prices", []), upstreams)
        self.problems += own.problems
        if "prices_file" in file:
            path = self._path.parent / file["prices_file"]
            further = PriceReader()
            tables = further.read(_parse(path, "prices_file"), "", PRICES_FILE_KEYS).get("prices", [])
            rows += further.prices(tables, upstreams)
            self.problems += [f"{path}: {problem}" for problem in further.problems]
        return tuple(rows)

    def _tenants(self, tables: list[dict[str, Any]]) -> tuple[Tenant, ...]:
        try:
            return read_tenants(tables)
        except TenantError as error:
            self.problems += error.problems
            return ()


def _needing_prices(tenants: tuple[Tenant, ...]) -> list[str]:
    """A line for each tenant whose limits in money would refuse all of its requests."""
    return [
        f"tenants: {tenant.name} has {', '.join(names)}, but there are no prices: add [[prices]] tables, or name a "
        "file of them in prices_file, above the first table"
        for tenant in tenants
        if (names := money_limits(tenant))
    ]
